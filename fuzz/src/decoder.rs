//! The fuzzing binary: the decoder that the environment names, driven by libFuzzer.

#![no_main]

mod decoders;

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

use decoders::Decoder;

/// Which decoder: a name of the table.
const DECODER_VARIABLE: &str = "CORELOG_FUZZ_DECODER";
/// Folder that gets its samples before the engine reads its corpora.
const SAMPLES_VARIABLE: &str = "CORELOG_FUZZ_SAMPLES";

#[global_allocator]
static ALLOCATOR: decoders::watch::Watching = decoders::watch::Watching;

static DECODER: OnceLock<&'static Decoder> = OnceLock::new();

fn named() -> &'static Decoder {
    let name = std::env::var(DECODER_VARIABLE).unwrap_or_default();
    let decoder = decoders::find(&name);
    decoder.unwrap_or_else(|| panic!("{DECODER_VARIABLE}={name} is no decoder"))
}

fn write_samples() {
    let Some(folder) = std::env::var_os(SAMPLES_VARIABLE).map(PathBuf::from) else {
        return;
    };
    for (number, sample) in (named().samples)().iter().enumerate() {
        let path = folder.join(format!("sample-{number:03}"));
        std::fs::write(path, sample).expect("a folder that is there");
    }
}

fuzz_target!(
    init: write_samples(),
    |bytes: &[u8]| {
        (DECODER.get_or_init(named).check)(bytes);
    }
);

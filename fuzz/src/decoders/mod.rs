//! One function per decoder: any bytes go in, and what must hold of the answer is asserted.
//!
//! Shared by `fuzz/src/decoder.rs` (libFuzzer, along the coverage, for minutes) and `tests/fuzz.rs`
//! (random mutations of the samples, on stable, with every `cargo test`).
//! What is asserted everywhere: no panic; no allocation beyond what the bytes can fill; what was
//! decoded can be encoded, and reads back the same. Where a format has checksums, the bytes are
//! tried as they are and once more with the checksums put right, or no mutation would pass them.

pub(crate) mod config;
#[macro_use]
mod generated;
pub(crate) mod group;
pub(crate) mod journal;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod records;
pub(crate) mod requests;
pub(crate) mod watch;

use std::path::PathBuf;

/// One decoder with what must hold of it.
pub(crate) struct Decoder {
    /// Of its corpus, and on the command line.
    pub(crate) name: &'static str,
    /// Says whether the bytes were accepted; panics where something does not hold.
    pub(crate) check: fn(&[u8]) -> bool,
    /// Bytes that are accepted, to start from.
    pub(crate) samples: fn() -> Vec<Vec<u8>>,
}

macro_rules! decoders {
    ($($name:ident: $room:ident,)*) => {
        /// Every decoder.
        pub(crate) const DECODERS: &[Decoder] = &[$(Decoder {
            name: stringify!($name),
            check: $room::$name::check,
            samples: $room::$name::samples,
        },)*];
    };
}

decoders! {
    frame: requests,
    request: requests,
    produce: requests,
    fetch: requests,
    record_batches: records,
    compression: records,
    segment: records,
    journal_block: journal,
    journal_file: journal,
    journal_checkpoint: journal,
    held_entries: journal,
    offset_index: log,
    time_index: log,
    leader_epochs: log,
    producer_snapshot: log,
    partition_metadata: log,
    log_checkpoint: log,
    partition_state: log,
    file_names: log,
    offsets_record: group,
    offsets_log: group,
    subscription: group,
    metadata_log: metadata,
    identity: metadata,
    settings_file: config,
    topic_settings: config,
}

/// The decoder of that name.
pub(crate) fn find(name: &str) -> Option<&'static Decoder> {
    DECODERS.iter().find(|decoder| decoder.name == name)
}

/// The repository, from whichever of its packages this is built.
pub(crate) fn repository() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let above = package
        .ancestors()
        .find(|dir| dir.join("tests/data/wire").is_dir());
    above.expect("the captures of real clients").to_owned()
}

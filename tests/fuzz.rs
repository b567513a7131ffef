//! Every decoder against random mutations of what it accepts; `fuzz/run` does the same along the
//! coverage, for as long as one likes.
//!
//! `FUZZ_SEED=N` repeats a run that failed, `FUZZ_SECONDS=N` mutates so long for each decoder
//! instead of a fixed number of times, `FUZZ_INPUT=FILE` gives all of them one file instead.

#[path = "../fuzz/src/decoders/mod.rs"]
mod decoders;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use decoders::{DECODERS, Decoder};

#[global_allocator]
static ALLOCATOR: decoders::watch::Watching = decoders::watch::Watching;

const ROUNDS: usize = 3_000;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Mutations make an input no longer than this.
const BYTES_MAX: usize = 8 * 1024;

/// Numbers at which decoders change their minds.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("64 bits");
        usize::try_from(self.next() % end).expect("64 bits")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below((len - start).min(16) + 1)
    }

    /// One change of `bytes`; `other` is something that the decoder accepts.
    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        match self.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.byte(),
            2 => self.put_edge(bytes, at),
            3 => drop(bytes.drain(self.range(bytes.len()))),
            4 => {
                let part = bytes[self.range(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let part = other[self.range(other.len())].to_vec();
                let end = at + part.len().min(bytes.len() - at);
                bytes.splice(at..end, part);
            }
            6 if self.below(4) == 0 => bytes.truncate(at),
            _ => bytes.insert(at, self.byte()),
        }
        bytes.truncate(BYTES_MAX);
    }

    fn put_edge(&mut self, bytes: &mut [u8], at: usize) {
        let edge = EDGES[self.below(EDGES.len())];
        let width = 1 << self.below(4);
        let number = if self.below(2) == 0 {
            edge.to_le_bytes()[..width].to_vec()
        } else {
            edge.to_be_bytes()[8 - width..].to_vec()
        };
        let room = bytes.iter_mut().skip(at);
        room.zip(number).for_each(|(to, from)| *to = from);
    }
}

/// Runs one input; a failure says how to repeat it.
fn try_one(decoder: &Decoder, bytes: &[u8], seed: u64) -> bool {
    let check = AssertUnwindSafe(|| (decoder.check)(bytes));
    catch_unwind(check).unwrap_or_else(|_| {
        panic!(
            "{}: FUZZ_SEED={seed} failed at {}",
            decoder.name,
            bytes.escape_ascii()
        )
    })
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

fn fuzz(name: &str) {
    let decoder = decoders::find(name).expect("in the table");
    if let Some(path) = std::env::var_os("FUZZ_INPUT") {
        let bytes = std::fs::read(path).expect("FUZZ_INPUT is a file");
        let is_accepted = (decoder.check)(&bytes);
        return eprintln!("{name}: accepted: {is_accepted}");
    }
    let samples = (decoder.samples)();
    let seed = number_from("FUZZ_SEED").unwrap_or(SEED).max(1);
    for sample in &samples {
        let text = sample.escape_ascii();
        assert!(
            try_one(decoder, sample, seed),
            "{name} refuses its sample {text}"
        );
    }
    let until = number_from("FUZZ_SECONDS").map(|n| Instant::now() + Duration::from_secs(n));
    let mut random = Random(seed);
    let (mut round, mut accepted) = (0, 0);
    while until.map_or(round < ROUNDS, |until| Instant::now() < until) {
        let mut bytes = samples[random.below(samples.len())].clone();
        let other = &samples[random.below(samples.len())];
        for _ in 0..=random.below(4) {
            random.mutate(&mut bytes, other);
        }
        accepted += usize::from(try_one(decoder, &bytes, seed));
        round += 1;
    }
    eprintln!(
        "{name}: {round} inputs, {accepted} accepted, {} samples",
        samples.len()
    );
}

macro_rules! fuzzed {
    ($($test:ident: $decoder:ident,)*) => {
        $(
            #[test]
            fn $test() {
                fuzz(stringify!($decoder));
            }
        )*

        #[test]
        fn every_decoder_of_the_table_has_a_test() {
            let tested = BTreeSet::from([$(stringify!($decoder)),*]);
            let listed: BTreeSet<&str> = DECODERS.iter().map(|decoder| decoder.name).collect();
            assert_eq!(tested, listed);
        }
    };
}

fuzzed! {
    any_frame_is_survived: frame,
    any_request_body_is_survived: request,
    any_produce_is_read_as_kafka_protocol_reads_it: produce,
    any_fetch_is_read_as_kafka_protocol_reads_it: fetch,
    any_record_batches_are_survived: record_batches,
    any_compressed_bytes_are_survived: compression,
    any_segment_is_survived: segment,
    any_journal_block_is_survived: journal_block,
    any_journal_file_head_is_survived: journal_file,
    any_journal_checkpoint_is_survived: journal_checkpoint,
    any_held_entries_are_survived: held_entries,
    any_offset_index_is_survived: offset_index,
    any_time_index_is_survived: time_index,
    any_leader_epochs_are_survived: leader_epochs,
    any_producer_snapshot_is_survived: producer_snapshot,
    any_partition_metadata_is_survived: partition_metadata,
    any_log_checkpoint_is_survived: log_checkpoint,
    any_partition_state_is_survived: partition_state,
    any_file_name_is_survived: file_names,
    any_record_of_the_offsets_topic_is_survived: offsets_record,
    any_offsets_log_is_survived: offsets_log,
    any_subscription_is_survived: subscription,
    any_metadata_log_is_survived: metadata_log,
    any_identity_is_survived: identity,
    any_settings_file_is_survived: settings_file,
    any_topic_settings_are_survived: topic_settings,
}

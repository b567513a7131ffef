//! The small files of a partition's directory.

use corelog::log::checkpoint::LogCheckpoint;
use corelog::log::file_names::{FileKind, file_name, parse_file_name};
use corelog::log::indexer::MaxTimestamp;
use corelog::log::leader_epochs::{EpochStart, LeaderEpochs};
use corelog::log::offset_index::{OffsetEntry, OffsetIndex};
use corelog::log::producer_state::{CachedBatch, ProducerEntry, ProducerStates};
use corelog::log::time_index::{TimeEntry, TimeIndex};
use corelog::model::ids::{LeaderEpoch, ProducerEpoch, ProducerId, TopicId};
use corelog::model::offset::Offset;

use super::watch::frugal;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn sample_epochs() -> LeaderEpochs {
    let entry = |(epoch, start)| EpochStart {
        epoch: LeaderEpoch(epoch),
        start_offset: Offset::new(start),
    };
    let entries = [(0, 0), (3, 120), (5, 9_000)].map(entry);
    LeaderEpochs::from_entries(entries.to_vec()).expect("they rise")
}

fn sample_producers() -> ProducerStates {
    let batch = |sequence: i32| CachedBatch {
        last_sequence: sequence,
        last_offset: Offset::new(i64::from(sequence) + 100),
        offset_delta: 2,
        timestamp: 1_000,
    };
    let mut states = ProducerStates::default();
    let mut idempotent = ProducerEntry::new(ProducerEpoch(3));
    idempotent.batches = (5..10).map(batch).collect();
    states.restore(ProducerId(9), idempotent);
    let mut marked = ProducerEntry::new(ProducerEpoch(1));
    marked.coordinator_epoch = 7;
    marked.last_timestamp = 99;
    marked.transaction_start = Some(Offset::new(12));
    states.restore(ProducerId(2), marked);
    states
}

fn sample_checkpoint() -> LogCheckpoint {
    LogCheckpoint {
        log_start: Offset::new(10),
        segment_base: Offset::new(100),
        destaged_position: 8192,
        end_position: 9000,
        next_offset: Offset::new(150),
        max_timestamp: MaxTimestamp {
            timestamp: 1_000,
            offset: Offset::new(140),
        },
        first_timestamp: Some(900),
        is_dense: true,
        truncations: 2,
        offset_index_entries: 1,
        time_index_entries: 1,
        epochs: sample_epochs(),
        producers: sample_producers(),
    }
}

/// An index is written as it was read, but for zeros at the end, which Kafka leaves there.
fn check_encoded(encoded: &[u8], file: &[u8]) {
    assert!(file.starts_with(encoded), "the same bytes");
    assert!(
        file[encoded.len()..].iter().all(|byte| *byte == 0),
        "but Kafka's zeros"
    );
}

/// A segment's `.index`; its first four bytes are the segment's size here.
pub(crate) mod offset_index {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Some((size, file)) = bytes.split_first_chunk::<4>() else {
            return false;
        };
        let size = u64::from(u32::from_be_bytes(*size));
        let Ok(mut index) = frugal(file.len(), || OffsetIndex::decode(file, size)) else {
            return false;
        };
        check_encoded(&index.encode_from(0), file);
        for number in 0..index.count() {
            let entry = index.get(number).expect("within the count");
            let position = u64::from(entry.position);
            let offset = Offset::new(i64::from(entry.relative_offset) + 50);
            assert_eq!(index.floor(Offset::new(50), offset), position);
            assert_eq!(index.boundary_at_or_below(position), Some(position));
            assert_eq!(index.first_from(position), Some(entry));
        }
        let half = index.count() / 2;
        assert!(index.keep(half));
        true
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let mut index = OffsetIndex::default();
        for (relative_offset, position) in [(9, 4_200), (300, 70_000), (301, 80_000)] {
            index.push(OffsetEntry {
                relative_offset,
                position,
            });
        }
        let size = 100_000_u32.to_be_bytes();
        let file = [&size[..], &index.encode_from(0)].concat();
        vec![[&file[..], &[0; 16]].concat(), file, size.to_vec()]
    }
}

/// A segment's `.timeindex`.
pub(crate) mod time_index {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Ok(mut index) = frugal(bytes.len(), || TimeIndex::decode(bytes)) else {
            return false;
        };
        check_encoded(&index.encode_from(0), bytes);
        for number in 0..index.count() {
            let entry = index.get(number).expect("within the count");
            let before = number.checked_sub(1).and_then(|before| index.get(before));
            assert_eq!(index.last_below(entry.timestamp), before);
        }
        let half = index.count() / 2;
        assert!(index.keep(half));
        true
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let mut index = TimeIndex::default();
        for (timestamp, relative_offset) in [(1_000, 7), (1_001, 7), (70_000, 300)] {
            assert!(index.push_if_later(TimeEntry {
                timestamp,
                relative_offset,
            }));
        }
        let file = index.encode_from(0);
        vec![[&file[..], &[0; 24]].concat(), file]
    }
}

/// `leader-epoch-checkpoint`.
pub(crate) mod leader_epochs {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Some(text) = text(bytes) else {
            return false;
        };
        let Ok(epochs) = frugal(text.len(), || LeaderEpochs::decode(text)) else {
            return false;
        };
        assert_eq!(LeaderEpochs::decode(&epochs.encode()).as_ref(), Ok(&epochs));
        for entry in epochs.entries() {
            assert_eq!(epochs.epoch_of(entry.start_offset), Some(entry.epoch));
            let _ = epochs.end_offset_for(entry.epoch, Offset::MAX);
        }
        true
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![sample_epochs().encode().into_bytes(), b"0\n0\n".to_vec()]
    }
}

/// `<offset>.snapshot`.
pub(crate) mod producer_snapshot {
    use super::*;
    use corelog::log::producer_snapshot::{decode, encode};

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if bytes.len() >= 6 {
            let crc = crc32c::crc32c(&bytes[6..]).to_be_bytes();
            check_bytes(&[&[0, 1], &crc[..], &bytes[6..]].concat());
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![
            encode(&sample_producers()),
            encode(&ProducerStates::default()),
        ]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let Ok(states) = frugal(bytes.len(), || decode(bytes)) else {
            return false;
        };
        assert_eq!(decode(&encode(&states)).as_ref(), Ok(&states));
        let _ = states.first_open_transaction();
        true
    }
}

/// `partition.metadata`.
pub(crate) mod partition_metadata {
    use super::*;
    use corelog::log::partition_metadata::{decode, encode};

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let topic = text(bytes).and_then(|text| frugal(text.len(), || decode(text)).ok());
        if let Some(topic) = topic {
            assert_eq!(decode(&encode(topic)), Ok(topic));
        }
        topic.is_some()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![encode(TopicId::from_bytes(*b"0123456789abcdef")).into_bytes()]
    }
}

/// Where a log stands, as the journal's checkpoint keeps it: its carrier has the checksum.
pub(crate) mod log_checkpoint {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Ok(checkpoint) = frugal(bytes.len(), || LogCheckpoint::decode(bytes)) else {
            return false;
        };
        let again = LogCheckpoint::decode(&checkpoint.encode());
        assert_eq!(again.as_ref(), Ok(&checkpoint));
        let file = LogCheckpoint::decode_file(&checkpoint.encode_file());
        assert_eq!(file.as_ref(), Ok(&checkpoint));
        true
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![
            sample_checkpoint().encode(),
            LogCheckpoint::default().encode(),
        ]
    }
}

/// `partition.state`.
pub(crate) mod partition_state {
    use super::*;

    const HEADER_BYTES: usize = 16;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if let Some((_, record)) = bytes.split_at_checked(HEADER_BYTES) {
            let length = u32::try_from(record.len()).expect("a small input");
            let crc = crc32c::crc32c(record);
            let (length, crc) = (length.to_le_bytes(), crc.to_le_bytes());
            check_bytes(&[b"CLPS\x01\0\0\0", &length[..], &crc[..], record].concat());
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![
            sample_checkpoint().encode_file(),
            LogCheckpoint::default().encode_file(),
        ]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let decoded = frugal(bytes.len(), || LogCheckpoint::decode_file(bytes));
        let Ok(checkpoint) = decoded else {
            return false;
        };
        let again = LogCheckpoint::decode_file(&checkpoint.encode_file());
        assert_eq!(again, Ok(checkpoint));
        true
    }
}

/// Names of segments, indexes and snapshots.
pub(crate) mod file_names {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let parsed = text(bytes).and_then(parse_file_name);
        if let Some((offset, kind)) = parsed {
            assert_eq!(text(bytes), Some(&*file_name(offset, kind)));
        }
        parsed.is_some()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let name = |kind| file_name(Offset::new(51_200), kind).into_bytes();
        FileKind::ALL.into_iter().map(name).collect()
    }
}

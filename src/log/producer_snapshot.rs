//! Kafka's producer snapshot file (`<offset>.snapshot`, version 1): who wrote below an offset.
//!
//! Pure: no async, no clock, no IO.
//! Promises: Kafka reads what this writes and the other way round; damaged bytes are refused.
//!
//! | bytes | field (big-endian) |
//! |---|---|
//! | 0..2 | version, i16 = 1 |
//! | 2..6 | CRC-32C of everything behind it |
//! | 6..10 | number of producers, i32 |
//! | 46 each | producer id i64, epoch i16, last sequence i32, last offset i64, offset delta i32, |
//! |  | timestamp i64, coordinator epoch i32, first offset of the open transaction i64 or -1 |
//!
//! The format keeps one batch of a producer, not five. What the five are stands in
//! `partition.state`; a directory without it gets them back by reading the log above the last
//! snapshot.

use super::producer_state::{CachedBatch, ProducerEntry, ProducerStates};
use crate::model::ids::{ProducerEpoch, ProducerId};
use crate::model::offset::Offset;

const VERSION: i16 = 1;
const HEADER_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;

/// The bytes are not a snapshot. A torn write causes any of these; the state is then read from the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Shorter or longer than the number of producers says.
    #[error("producer snapshot has {got} bytes, {expected} expected")]
    Length {
        /// Bytes there are.
        got: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// Not version 1.
    #[error("producer snapshot has version {got}, expected 1")]
    Version {
        /// The version field.
        got: i16,
    },
    /// The checksum does not fit.
    #[error("producer snapshot has CRC {got:#010x}, its header says {expected:#010x}")]
    Crc {
        /// Header field.
        expected: u32,
        /// Computed.
        got: u32,
    },
}

/// The file content for a state.
pub fn encode(states: &ProducerStates) -> Vec<u8> {
    let count = i32::try_from(states.count()).expect("[producers-max] fewer than 2^31 producers");
    let mut body = Vec::with_capacity(4 + states.count() * ENTRY_BYTES);
    body.extend_from_slice(&count.to_be_bytes());
    for (id, entry) in states.sorted() {
        let last = entry.batches.last().copied().unwrap_or(CachedBatch {
            last_sequence: -1,
            last_offset: Offset::NONE,
            offset_delta: 0,
            timestamp: entry.last_timestamp,
        });
        body.extend_from_slice(&id.get().to_be_bytes());
        body.extend_from_slice(&entry.epoch.get().to_be_bytes());
        body.extend_from_slice(&last.last_sequence.to_be_bytes());
        body.extend_from_slice(&last.last_offset.get().to_be_bytes());
        body.extend_from_slice(&last.offset_delta.to_be_bytes());
        body.extend_from_slice(&entry.last_timestamp.to_be_bytes());
        body.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        let transaction = entry.transaction_start.unwrap_or(Offset::NONE);
        body.extend_from_slice(&transaction.get().to_be_bytes());
    }
    let mut file = Vec::with_capacity(6 + body.len());
    file.extend_from_slice(&VERSION.to_be_bytes());
    file.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    file.extend_from_slice(&body);
    file
}

/// Reads a whole snapshot file.
pub fn decode(bytes: &[u8]) -> Result<ProducerStates, SnapshotError> {
    let got = bytes.len();
    let short = SnapshotError::Length {
        got,
        expected: HEADER_BYTES,
    };
    let mut rest = bytes;
    let version = i16::from_be_bytes(take(&mut rest).ok_or(short)?);
    if version != VERSION {
        return Err(SnapshotError::Version { got: version });
    }
    let expected = u32::from_be_bytes(take(&mut rest).ok_or(short)?);
    let crc = crc32c::crc32c(rest);
    if crc != expected {
        return Err(SnapshotError::Crc { expected, got: crc });
    }
    let count = i32::from_be_bytes(take(&mut rest).ok_or(short)?);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let expected = count
        .saturating_mul(ENTRY_BYTES)
        .saturating_add(HEADER_BYTES);
    let (entries, behind) = rest.as_chunks::<ENTRY_BYTES>();
    if entries.len() != count || !behind.is_empty() {
        return Err(SnapshotError::Length { got, expected });
    }
    let mut states = ProducerStates::default();
    for raw in entries {
        let (id, entry) = decode_entry(raw).ok_or(SnapshotError::Length { got, expected })?;
        states.restore(id, entry);
    }
    Ok(states)
}

fn decode_entry(raw: &[u8; ENTRY_BYTES]) -> Option<(ProducerId, ProducerEntry)> {
    let mut rest = raw.as_slice();
    let id = ProducerId(i64::from_be_bytes(take(&mut rest)?));
    let epoch = ProducerEpoch(i16::from_be_bytes(take(&mut rest)?));
    let last_sequence = i32::from_be_bytes(take(&mut rest)?);
    let last_offset = Offset::new(i64::from_be_bytes(take(&mut rest)?));
    let offset_delta = i32::from_be_bytes(take(&mut rest)?);
    let timestamp = i64::from_be_bytes(take(&mut rest)?);
    let coordinator_epoch = i32::from_be_bytes(take(&mut rest)?);
    let transaction = Offset::new(i64::from_be_bytes(take(&mut rest)?));
    let batch = CachedBatch {
        last_sequence,
        last_offset,
        offset_delta,
        timestamp,
    };
    let is_sound = offset_delta >= 0 && last_offset.get() >= i64::from(offset_delta);
    let entry = ProducerEntry {
        epoch,
        batches: if is_sound { vec![batch] } else { Vec::new() },
        coordinator_epoch,
        transaction_start: transaction.is_valid().then_some(transaction),
        last_timestamp: timestamp,
        ..ProducerEntry::new(epoch)
    };
    Some((id, entry))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::producer_state::tests::batch;

    fn sample() -> ProducerStates {
        let mut states = ProducerStates::default();
        states.update(&batch(3, 5, 2, 40));
        let mut marked = ProducerEntry::new(ProducerEpoch(1));
        marked.coordinator_epoch = 7;
        marked.last_timestamp = 99;
        marked.transaction_start = Some(Offset::new(12));
        states.restore(ProducerId(2), marked);
        states
    }

    #[test]
    fn golden_bytes_are_kafkas() {
        let bytes = encode(&sample());
        let golden_body = [
            0, 0, 0, 2, // two producers
            0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0xff, 0xff, 0xff,
            0xff, // id 2, epoch 1, sequence -1
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, // offset -1, delta 0
            0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 7, // timestamp, coordinator epoch
            0, 0, 0, 0, 0, 0, 0, 12, // transaction from 12
            0, 0, 0, 0, 0, 0, 0, 9, 0, 3, 0, 0, 0, 6, // id 9, epoch 3, sequence 6
            0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 1, // offset 41, delta 1
            0, 0, 0, 0, 0, 0, 4, 0x10, 0xff, 0xff, 0xff,
            0xff, // timestamp 1040, no coordinator
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // no transaction
        ];
        assert_eq!(bytes[..2], [0, 1]);
        assert_eq!(bytes[2..6], crc32c::crc32c(&golden_body).to_be_bytes());
        assert_eq!(bytes[6..], golden_body);
        assert_eq!(decode(&bytes), Ok(sample()));
    }

    #[test]
    fn empty_state_is_ten_bytes() {
        let bytes = encode(&ProducerStates::default());
        assert_eq!(bytes, [0, 1, 0x48, 0x67, 0x4b, 0xc7, 0, 0, 0, 0]);
        assert_eq!(decode(&bytes), Ok(ProducerStates::default()));
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_refused() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 0x10;
            assert!(decode(&bent).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}

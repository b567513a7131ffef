//! Where a log stands at a batch boundary, in one record: what a start needs without reading a log.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `decode` is total; what it accepts is as it was written (both carriers have a
//! checksum).
//! Invariants: [producer-prefix] the producers are exactly those of the batches below
//! `next_offset`.
//!
//! The record lives in the journal's checkpoint while the broker runs, and in the partition's own
//! `partition.state` after a clean stop or a recovery. Little-endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 2 | record version, 1 |
//! | 2 | 2 | zero |
//! | 4 | 4 | number of epochs |
//! | 8 | 4 | number of producers |
//! | 12 | 4 | entries of the offset index |
//! | 16 | 4 | entries of the time index |
//! | 20 | 4 | 1 if every offset from the log start on is there, 0 if that is not known |
//! | 24 | 8 | log start offset |
//! | 32 | 8 | base offset of the open segment |
//! | 40 | 8 | destaged position: what is below is flushed, never written again |
//! | 48 | 8 | end position: of the last whole batch that this record covers |
//! | 56 | 8 | next offset, at the end position |
//! | 64 | 8 | largest timestamp of the segment, or -1 |
//! | 72 | 8 | last offset of its batch |
//! | 80 | 8 | timestamp of the segment's first batch, or -1 |
//! | 88 | 8 | truncations that this log has gone through |
//! | 96 | 12 each | leader epoch (4), start offset (8) |
//! |  | 32 each | producer id (8), epoch (2), cached batches (2), coordinator epoch (4), |
//! |  |  | transaction start or -1 (8), last timestamp (8); behind each its batches, |
//! |  |  | 24 bytes: last sequence (4), |
//! |  |  | offset delta (4), last offset (8), timestamp (8) |
//!
//! `partition.state` is `CLPS`, version (2), zero (2), record length (4), CRC-32C of the record
//! (4), record.

use super::indexer::MaxTimestamp;
use super::leader_epochs::{EpochStart, LeaderEpochs};
use super::producer_state::{CachedBatch, ProducerEntry, ProducerStates};
use crate::model::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::model::limits::{ALIGNMENT_BYTES, PRODUCER_BATCHES_CACHED};
use crate::model::offset::{FilePosition, Offset};

/// Name of the file in the partition's directory.
pub const FILE_NAME: &str = "partition.state";
/// The record version that is written; a higher one is refused.
pub const VERSION: u16 = 1;

const FILE_MAGIC: [u8; 4] = *b"CLPS";

/// Where a log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCheckpoint {
    /// First readable offset.
    pub log_start: Offset,
    /// Base offset of the open segment.
    pub segment_base: Offset,
    /// Bytes of the segment below are flushed; aligned, unless the segment is rolled and complete.
    /// May be below `end_position` (the last block is written again) or above it (a batch is cut by
    /// a block's end).
    pub destaged_position: FilePosition,
    /// End of the last whole batch that is covered, exclusive.
    pub end_position: FilePosition,
    /// Offset after that batch.
    pub next_offset: Offset,
    /// Largest timestamp of the segment's batches below `end_position`.
    pub max_timestamp: MaxTimestamp,
    /// Timestamp of the segment's first batch: `segment.ms` counts from it.
    pub first_timestamp: Option<i64>,
    /// Every offset from the log start on has its record. Not known of logs that were copied from
    /// Kafka, which may have compacted them.
    pub is_dense: bool,
    /// How often this log was truncated: tells replay which truncations are in this record.
    pub truncations: u64,
    /// Entries of the offset index below `end_position`.
    pub offset_index_entries: u32,
    /// Entries of the time index below `end_position`.
    pub time_index_entries: u32,
    /// Leader epochs below `next_offset`.
    pub epochs: LeaderEpochs,
    /// Producers of exactly the batches below `next_offset`.
    pub producers: ProducerStates,
}

/// Bytes that are not a checkpoint of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Cut off, or too long.
    #[error("the log checkpoint has another length than its counts say")]
    Length,
    /// Not `partition.state`.
    #[error("not a partition.state file")]
    Magic,
    /// The checksum does not fit.
    #[error("the log checkpoint does not fit its checksum")]
    Crc,
    /// Written by a later version of this program.
    #[error("the log checkpoint has version {found}, this program knows {VERSION}")]
    Version {
        /// The version field.
        found: u16,
    },
    /// Numbers that contradict each other.
    #[error("the log checkpoint contradicts itself")]
    Form,
}

impl Default for LogCheckpoint {
    /// Of a new log.
    fn default() -> Self {
        Self::empty_at(Offset::ZERO)
    }
}

impl LogCheckpoint {
    /// The segment, if its flushed bytes end inside a batch.
    pub(super) fn cut_batch(&self) -> Option<Offset> {
        let is_cut = align_down(self.destaged_position) > self.end_position;
        is_cut.then_some(self.segment_base)
    }

    /// Of a log without batches that starts at `start`.
    pub fn empty_at(start: Offset) -> Self {
        Self {
            log_start: start,
            segment_base: start,
            destaged_position: 0,
            end_position: 0,
            next_offset: start,
            max_timestamp: MaxTimestamp::NONE,
            first_timestamp: None,
            is_dense: true,
            truncations: 0,
            offset_index_entries: 0,
            time_index_entries: 0,
            epochs: LeaderEpochs::default(),
            producers: ProducerStates::default(),
        }
    }

    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.producers.count() * 64);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&count(self.epochs.entries().len()));
        out.extend_from_slice(&count(self.producers.count()));
        out.extend_from_slice(&self.offset_index_entries.to_le_bytes());
        out.extend_from_slice(&self.time_index_entries.to_le_bytes());
        out.extend_from_slice(&u32::from(self.is_dense).to_le_bytes());
        out.extend_from_slice(&self.log_start.get().to_le_bytes());
        out.extend_from_slice(&self.segment_base.get().to_le_bytes());
        out.extend_from_slice(&self.destaged_position.to_le_bytes());
        out.extend_from_slice(&self.end_position.to_le_bytes());
        out.extend_from_slice(&self.next_offset.get().to_le_bytes());
        out.extend_from_slice(&self.max_timestamp.timestamp.to_le_bytes());
        out.extend_from_slice(&self.max_timestamp.offset.get().to_le_bytes());
        out.extend_from_slice(&self.first_timestamp.unwrap_or(-1).to_le_bytes());
        out.extend_from_slice(&self.truncations.to_le_bytes());
        for entry in self.epochs.entries() {
            out.extend_from_slice(&entry.epoch.get().to_le_bytes());
            out.extend_from_slice(&entry.start_offset.get().to_le_bytes());
        }
        for (id, entry) in self.producers.sorted() {
            encode_producer(&mut out, id, entry);
        }
        out
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut rest = Reader { rest: bytes };
        let found = rest.u16()?;
        if found > VERSION {
            return Err(CheckpointError::Version { found });
        }
        rest.u16()?;
        let (epoch_count, producer_count) = (rest.u32()?, rest.u32()?);
        let (offset_index_entries, time_index_entries) = (rest.u32()?, rest.u32()?);
        let is_dense = rest.u32()? == 1;
        let mut checkpoint = Self {
            log_start: rest.offset()?,
            segment_base: rest.offset()?,
            destaged_position: rest.u64()?,
            end_position: rest.u64()?,
            next_offset: rest.offset()?,
            max_timestamp: MaxTimestamp {
                timestamp: rest.i64()?,
                offset: rest.offset()?,
            },
            first_timestamp: Some(rest.i64()?).filter(|timestamp| *timestamp >= 0),
            truncations: rest.u64()?,
            is_dense,
            offset_index_entries,
            time_index_entries,
            epochs: LeaderEpochs::default(),
            producers: ProducerStates::default(),
        };
        let mut epochs = Vec::new();
        for _ in 0..epoch_count {
            let epoch = LeaderEpoch(rest.i32()?);
            epochs.push(EpochStart {
                epoch,
                start_offset: rest.offset()?,
            });
        }
        checkpoint.epochs = LeaderEpochs::from_entries(epochs).ok_or(CheckpointError::Form)?;
        for _ in 0..producer_count {
            let (id, entry) = decode_producer(&mut rest)?;
            checkpoint.producers.restore(id, entry);
        }
        if !rest.rest.is_empty() {
            return Err(CheckpointError::Length);
        }
        if checkpoint.is_sound() {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::Form)
        }
    }

    fn is_sound(&self) -> bool {
        self.log_start.is_valid()
            && self.segment_base.is_valid()
            && self.segment_base <= self.next_offset
            && (self.end_position > 0 || self.segment_base == self.next_offset)
    }

    /// The content of `partition.state`.
    pub fn encode_file(&self) -> Vec<u8> {
        let record = self.encode();
        let mut file = Vec::with_capacity(16 + record.len());
        file.extend_from_slice(&FILE_MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&[0; 2]);
        file.extend_from_slice(&count(record.len()));
        file.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
        file.extend_from_slice(&record);
        file
    }

    /// Reads the content of `partition.state`.
    pub fn decode_file(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut rest = Reader { rest: bytes };
        if rest.take::<4>()? != FILE_MAGIC {
            return Err(CheckpointError::Magic);
        }
        rest.take::<4>()?; // the record, which has a checksum, says its version itself
        let (length, crc) = (rest.u32()?, rest.u32()?);
        if usize::try_from(length).ok() != Some(rest.rest.len()) {
            return Err(CheckpointError::Length);
        }
        if crc32c::crc32c(rest.rest) != crc {
            return Err(CheckpointError::Crc);
        }
        Self::decode(rest.rest)
    }
}

/// Rounds a position down to the grain of direct I/O.
pub const fn align_down(position: FilePosition) -> FilePosition {
    position & !(ALIGNMENT - 1)
}

/// Rounds a position up to the grain of direct I/O.
pub const fn align_up(position: FilePosition) -> FilePosition {
    align_down(position + ALIGNMENT - 1)
}

const ALIGNMENT: u64 = ALIGNMENT_BYTES as u64;

fn count(items: usize) -> [u8; 4] {
    u32::try_from(items)
        .expect("[checkpoint-size] counts are below 2^32")
        .to_le_bytes()
}

fn encode_producer(out: &mut Vec<u8>, id: ProducerId, entry: &ProducerEntry) {
    out.extend_from_slice(&id.get().to_le_bytes());
    out.extend_from_slice(&entry.epoch.get().to_le_bytes());
    let batches = u16::try_from(entry.batches.len()).expect("[producer-window]");
    out.extend_from_slice(&batches.to_le_bytes());
    out.extend_from_slice(&entry.coordinator_epoch.to_le_bytes());
    let transaction = entry.transaction_start.unwrap_or(Offset::NONE);
    out.extend_from_slice(&transaction.get().to_le_bytes());
    out.extend_from_slice(&entry.last_timestamp.to_le_bytes());
    for batch in &entry.batches {
        out.extend_from_slice(&batch.last_sequence.to_le_bytes());
        out.extend_from_slice(&batch.offset_delta.to_le_bytes());
        out.extend_from_slice(&batch.last_offset.get().to_le_bytes());
        out.extend_from_slice(&batch.timestamp.to_le_bytes());
    }
}

fn decode_producer(rest: &mut Reader<'_>) -> Result<(ProducerId, ProducerEntry), CheckpointError> {
    let id = ProducerId(rest.i64()?);
    let mut entry = ProducerEntry::new(ProducerEpoch(rest.u16()?.cast_signed()));
    let batches = usize::from(rest.u16()?);
    entry.coordinator_epoch = rest.i32()?;
    entry.transaction_start = Some(rest.offset()?).filter(|offset| offset.is_valid());
    entry.last_timestamp = rest.i64()?;
    if batches > PRODUCER_BATCHES_CACHED {
        return Err(CheckpointError::Form);
    }
    for _ in 0..batches {
        let (last_sequence, offset_delta) = (rest.i32()?, rest.i32()?);
        let (last_offset, timestamp) = (rest.offset()?, rest.i64()?);
        if offset_delta < 0 || last_offset.get() < i64::from(offset_delta) || last_sequence < 0 {
            return Err(CheckpointError::Form);
        }
        entry.batches.push(CachedBatch {
            last_sequence,
            last_offset,
            offset_delta,
            timestamp,
        });
    }
    Ok((id, entry))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let (head, tail) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(CheckpointError::Length)?;
        self.rest = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, CheckpointError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.take().map(u64::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, CheckpointError> {
        self.take().map(i32::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, CheckpointError> {
        self.take().map(i64::from_le_bytes)
    }

    fn offset(&mut self) -> Result<Offset, CheckpointError> {
        self.i64().map(Offset::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::producer_state::tests::batch;

    fn sample() -> LogCheckpoint {
        let mut checkpoint = LogCheckpoint {
            log_start: Offset::new(3),
            segment_base: Offset::new(0x10),
            destaged_position: 0x1000,
            end_position: 0x0ff0,
            next_offset: Offset::new(0x20),
            max_timestamp: MaxTimestamp {
                timestamp: 0x55,
                offset: Offset::new(0x1f),
            },
            first_timestamp: Some(0x44),
            truncations: 2,
            offset_index_entries: 7,
            time_index_entries: 6,
            ..LogCheckpoint::empty_at(Offset::ZERO)
        };
        checkpoint.epochs.assign(LeaderEpoch(4), Offset::new(8));
        checkpoint.producers.update(&batch(1, 0, 2, 0x1c));
        checkpoint.producers.update(&batch(1, 2, 2, 0x1e));
        checkpoint
    }

    #[test]
    fn golden_bytes_are_the_documented_ones() {
        let record = sample().encode();
        let mut golden = vec![
            1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0,
        ];
        for number in [3_u64, 0x10, 0x1000, 0x0ff0, 0x20, 0x55, 0x1f, 0x44, 2] {
            golden.extend_from_slice(&number.to_le_bytes());
        }
        golden.extend_from_slice(&[4, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0xff, 0xff, 0xff, 0xff]);
        golden.extend_from_slice(&(-1_i64).to_le_bytes());
        golden.extend_from_slice(&1030_u64.to_le_bytes());
        for (sequence, offset, timestamp) in [(1_u8, 0x1d_u64, 1028_u64), (3, 0x1f, 1030)] {
            golden.extend_from_slice(&[sequence, 0, 0, 0, 1, 0, 0, 0]);
            golden.extend_from_slice(&offset.to_le_bytes());
            golden.extend_from_slice(&timestamp.to_le_bytes());
        }
        assert_eq!(record, golden);
        assert_eq!(LogCheckpoint::decode(&record), Ok(sample()));
        let file = sample().encode_file();
        assert_eq!(file[..8], *b"CLPS\x01\0\0\0");
        assert_eq!(file[8..12], [188, 0, 0, 0]);
        assert_eq!(file[12..16], crc32c::crc32c(&golden).to_le_bytes());
        assert_eq!(file[16..], golden);
        assert_eq!(LogCheckpoint::decode_file(&file), Ok(sample()));
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_of_the_file_is_refused() {
        let file = sample().encode_file();
        for end in 0..file.len() {
            assert!(LogCheckpoint::decode_file(&file[..end]).is_err(), "{end}");
        }
        // the version and the zeros of the file's head say nothing that the record does not
        for at in (0..file.len()).filter(|at| !(4..8).contains(at)) {
            let mut bent = file.clone();
            bent[at] ^= 0x40;
            assert!(LogCheckpoint::decode_file(&bent).is_err(), "{at}");
        }
    }

    #[test]
    fn record_of_a_later_version_is_refused_by_number() {
        let mut record = sample().encode();
        record[0] = 2;
        assert_eq!(
            LogCheckpoint::decode(&record),
            Err(CheckpointError::Version { found: 2 })
        );
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = LogCheckpoint::decode(&bytes);
            let _ = LogCheckpoint::decode_file(&bytes);
        }
    }
}

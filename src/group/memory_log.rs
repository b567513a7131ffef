//! A log of an offsets partition in memory, for tests: real batches, real offsets, no disk.

use std::collections::VecDeque;

use bytes::Bytes;

use super::offsets_log::{OffsetsLogError, ReadChunk};
use crate::model::ids::LeaderEpoch;
use crate::model::offset::Offset;
use crate::model::record_batch::{self, BatchHeader};

/// Bytes of a read.
const READ_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct MemoryLog {
    batches: VecDeque<(BatchHeader, Bytes)>,
    pub(super) end: i64,
    pub(super) start: i64,
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
    pub(super) appends: usize,
    pub(super) batch_bytes_max: usize,
    pub(super) starts_moved: usize,
    /// The next appends and new starts fail.
    pub(super) is_failing: bool,
}

impl MemoryLog {
    pub(super) fn append(&mut self, batch: &Bytes) -> Result<Offset, OffsetsLogError> {
        if self.is_failing {
            return Err(OffsetsLogError::Unavailable);
        }
        let base = Offset::new(self.end);
        let mut batch = batch.to_vec();
        record_batch::set_base_offset_and_epoch(&mut batch, base, LeaderEpoch(0));
        let header = record_batch::check_produced(&batch).expect("a proper batch");
        self.end = header.next_offset().get();
        self.bytes += batch.len();
        self.bytes_max = self.bytes_max.max(self.bytes);
        self.batch_bytes_max = self.batch_bytes_max.max(batch.len());
        self.appends += 1;
        self.batches.push_back((header, Bytes::from(batch)));
        Ok(base)
    }

    pub(super) fn advance_log_start(&mut self, start: Offset) -> Result<(), OffsetsLogError> {
        if self.is_failing {
            return Err(OffsetsLogError::Unavailable);
        }
        assert!(
            start.get() >= self.start && start.get() <= self.end,
            "a start inside the log"
        );
        self.start = start.get();
        self.starts_moved += 1;
        while let Some((header, batch)) = self.batches.front() {
            if header.next_offset() > start {
                break;
            }
            self.bytes -= batch.len();
            self.batches.pop_front();
        }
        Ok(())
    }

    /// Records in the log.
    pub(super) fn record_count(&self) -> i64 {
        self.batches
            .iter()
            .map(|(header, _)| i64::from(header.record_count))
            .sum()
    }

    pub(super) fn read(&self, from: Option<Offset>) -> ReadChunk {
        let from = from.unwrap_or(Offset::new(self.start));
        let mut batches = Vec::new();
        for (header, batch) in &self.batches {
            if header.next_offset() > from {
                batches.extend_from_slice(batch);
            }
            if batches.len() >= READ_BYTES {
                break;
            }
        }
        ReadChunk {
            batches: Bytes::from(batches),
            end_offset: Offset::new(self.end),
        }
    }
}

//! Cutting the end off a log: what a follower does whose leader has other batches there.
//!
//! Runs on: the home shard.        Owner: `Log`.
//! Promises: the log ends at a batch boundary at or below the offset asked for; producers, epochs
//! and indexes are those of the batches that are left.
//!
//! In this order: `plan_truncation`, the entry of `begin_truncation` goes to the journal, once it
//! is durable `truncate`, then `prepare`, whose entry goes to the journal, and only then the next
//! append. The caller lets no append in between. Every truncation has a number, so that replay
//! knows which ones a checkpoint contains; until one contains it, no segment is deleted.

use super::checkpoint::{LogCheckpoint, align_down};
use super::error::Error;
use super::file_names::FileKind;
use super::log::{Log, OpenSegment, State, include_producer};
use super::open::{Listing, index_segment, rebuild_producers, write_indexes};
use super::read::find;
use super::replay::remove_above;
use super::scan::SegmentFile;
use crate::journal::entry::{Entry, EntryKind, Payload};
use crate::model::ids::LeaderEpoch;
use crate::model::offset::{FilePosition, Offset};
use crate::model::record_batch::BatchHeader;
use crate::rt::{self, SharedFile, fs};

/// Where a log is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The new log end.
    pub next_offset: Offset,
    segment_base: Offset,
    position: FilePosition,
    number: u64,
}

impl Log {
    /// Finds where the log has to be cut so that nothing at or above `offset` is left; none when it
    /// ends at or below it already.
    ///
    /// Cancel: safe.
    pub async fn plan_truncation(&self, offset: Offset) -> Result<Option<Truncation>, Error> {
        self.check_failed()?;
        self.check_range(offset)?;
        let offsets = self.offsets();
        if offset >= offsets.log_end {
            return Ok(None);
        }
        let number = self.state.borrow().destaged.truncations + 1;
        let in_memory = {
            let tail = self.tail.borrow();
            let batch = tail.from_offset(offset).next();
            batch.map(|batch| (batch.base_offset, batch.segment_base, batch.position))
        };
        if let Some((next_offset, segment_base, position)) = in_memory {
            return Ok(Some(Truncation {
                next_offset,
                segment_base,
                position,
                number,
            }));
        }
        let sealed = self.state.borrow().sealed.floor(offset);
        let (file, segment_base, near, end) = if let Some(segment) = sealed {
            let (file, indexes) = self.sealed_segment(&segment).await?;
            let near = indexes.offsets.floor(segment.base_offset, offset);
            let file = SegmentFile::Shared(file);
            (file, segment.base_offset, near, segment.size_bytes)
        } else {
            let (base, end) = {
                let state = self.state.borrow();
                (state.oldest_open().base, state.destaged.end_position)
            };
            (self.open_segment_file(base).await?, base, 0, end)
        };
        let found = find(&file, near, end, offset).await?;
        Ok(found.map(|batch| Truncation {
            next_offset: batch.header.base_offset.min(offset),
            segment_base,
            position: batch.position,
            number,
        }))
    }

    /// What the journal has to make durable before `truncate`. From here on nothing is destaged or
    /// carried: it might be of what goes.
    pub fn begin_truncation(&self, truncation: &Truncation) -> Entry {
        self.state.borrow_mut().is_truncating = true;
        Entry {
            kind: EntryKind::Truncate,
            topic_partition: self.topic_partition(),
            segment_base: truncation.segment_base,
            file_position: truncation.position,
            base_offset: Offset::new(i64::try_from(truncation.number).unwrap_or(i64::MAX)),
            next_offset: truncation.next_offset,
            leader_epoch: self.latest_epoch().unwrap_or(LeaderEpoch::UNKNOWN),
            payload: Payload::empty(),
        }
    }

    /// Cuts the log. Batches at or above the cut were never shown to consumers.
    ///
    /// Cancel: not safe; the log is failed then, and recovery cuts it.
    pub async fn truncate(&self, truncation: &Truncation) -> Result<(), Error> {
        let _files = self.io.acquire(1).await;
        self.check_failed()?;
        let is_in_memory = {
            let state = self.state.borrow();
            let destaged = &state.destaged;
            truncation.next_offset >= destaged.next_offset
                && (truncation.segment_base > destaged.segment_base
                    || truncation.position >= destaged.destaged_position)
        };
        let result = if is_in_memory {
            self.truncate_memory(truncation);
            Ok(())
        } else {
            self.truncate_files(truncation).await
        };
        if let Err(error) = &result {
            self.fail(error.clone());
        }
        result
    }

    /// Nothing of what goes is in a file.
    fn truncate_memory(&self, truncation: &Truncation) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        self.tail.borrow_mut().truncate_to(truncation.next_offset);
        while state.open.len() > 1 && state.active().base > truncation.segment_base {
            state.open.pop_back();
        }
        state.producers = state.destaged.producers.clone();
        state.epochs.truncate_end(truncation.next_offset);
        let is_oldest = state.active().base == state.destaged.segment_base;
        let active_base = state.active().base;
        let mut max_timestamp = super::indexer::MaxTimestamp::NONE;
        if is_oldest {
            max_timestamp = state.destaged.max_timestamp;
        }
        let tail = self.tail.borrow();
        for batch in tail.undestaged() {
            let header = BatchHeader::parse(&batch.bytes).expect("parsed when it was appended");
            include_producer(&mut state.producers, &header, &batch.bytes);
            if batch.segment_base == active_base {
                max_timestamp.include(&header);
            }
        }
        state.producers.on_loaded(rt::unix_ms());
        self.count_producers(state.producers.count());
        let segment = state.active_mut();
        segment.end_position = truncation.position;
        segment.max_timestamp = max_timestamp;
        state.finish_truncation(truncation);
    }

    /// Part of what goes is in files: the segment of the cut is opened again, as after a start.
    async fn truncate_files(&self, truncation: &Truncation) -> Result<(), Error> {
        let (base, end) = (truncation.segment_base, truncation.position);
        self.release_preallocation();
        let bases: Vec<Offset> = {
            let state = self.state.borrow();
            let sealed = state.sealed.iter().map(|segment| segment.base_offset);
            sealed
                .chain(state.open.iter().map(|segment| segment.base))
                .collect()
        };
        for open in bases.into_iter().filter(|open| *open >= base) {
            self.context.close(self.key(open)).await?;
            self.context.forget_indexes(self.key(open));
        }
        let path = self.path(base, FileKind::Log);
        let file = self
            .context
            .open_direct(self.key(base), &path, true)
            .await?;
        file.truncate(end).await?;
        file.fdatasync().await?;
        drop(file);
        self.context.close(self.key(base)).await?;
        remove_above(&self.dir, base, truncation.next_offset).await?;
        let mut destaged = {
            let state = self.state.borrow();
            LogCheckpoint {
                log_start: state.offsets.log_start,
                destaged_position: align_down(end),
                end_position: end,
                next_offset: truncation.next_offset,
                epochs: state.epochs.clone(),
                truncations: state.destaged.truncations,
                is_dense: state.destaged.is_dense,
                ..LogCheckpoint::empty_at(base)
            }
        };
        destaged.epochs.truncate_end(truncation.next_offset);
        if end > 0 {
            let file = SegmentFile::Shared(SharedFile::open(&path).await?);
            let interval = self.settings().index_interval_bytes;
            let indexer = index_segment(file, base, end, interval).await?;
            write_indexes(&self.dir, base, &indexer).await?;
            destaged.max_timestamp = indexer.max_timestamp();
            destaged.first_timestamp =
                Some(indexer.max_timestamp().timestamp).filter(|timestamp| *timestamp >= 0);
            let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
            destaged.offset_index_entries = count(indexer.offsets().count());
            destaged.time_index_entries = count(indexer.times().count());
        }
        let listing = Listing::read(&self.dir).await?;
        destaged.producers = rebuild_producers(&self.dir, &listing, &destaged).await?;
        fs::sync_dir(&self.dir).await?;
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.sealed.split_off(base);
        state.open.clear();
        state
            .open
            .push_back(OpenSegment::resume(&destaged, true, rt::unix_ms()));
        state.producers = destaged.producers.clone();
        state.producers.on_loaded(rt::unix_ms());
        self.count_producers(state.producers.count());
        state.epochs = destaged.epochs.clone();
        state.destaged = destaged;
        state.is_prepared = false;
        self.tail.borrow_mut().truncate_to(truncation.next_offset);
        self.tail.borrow_mut().clear_fragment();
        state.finish_truncation(truncation);
        Ok(())
    }
}

impl State {
    /// Whether replay would repeat a truncation.
    pub(super) fn is_truncation_unkept(&self) -> bool {
        self.is_truncating || self.destaged.truncations > self.truncations_kept
    }

    /// Whether replay may need the segment's file to read a batch that carried bytes go on with.
    pub(super) fn is_stood_in(&self, base: Offset) -> bool {
        [self.stand_told, self.stand_kept].contains(&Some(base))
    }

    fn finish_truncation(&mut self, truncation: &Truncation) {
        let end = truncation.next_offset;
        let offsets = &mut self.offsets;
        offsets.log_end = end;
        offsets.durable_end = offsets.durable_end.min(end);
        offsets.high_watermark = offsets.high_watermark.min(end);
        offsets.last_stable = offsets.last_stable.min(end);
        self.destaged.truncations = truncation.number;
        self.is_truncating = false;
        self.refresh_destaged_end();
        self.offsets.assert_ordered();
        self.is_changed = true;
    }
}

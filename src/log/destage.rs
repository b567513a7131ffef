//! From memory to segments: large aligned writes of durable data, sealing, and the clean stop.
//!
//! Runs on: the home shard, background lane.        Owner: `Log`, one at a time (`io`).
//! Promises: only durable bytes are written, in whole blocks at aligned positions. What is written
//! may leave memory; it is flushed, with its index entries, by `checkpoint`, and until then the
//! journal entries that hold it stay pinned: one flush a checkpoint, not one a write.
//! Invariants: [whole-blocks] [sealed-closed] [producer-prefix]; [destage-durable] nothing above
//! the durable end reaches a segment; [flush-pinned] no journal entry is given up whose bytes are
//! written and not flushed.
//!
//! Sealing a rolled segment, in this order: (1) its last bytes, the last block padded with zeros;
//! (2) truncate to the exact length; (3) fdatasync, and side by side with it what the index files
//! lack, their exact length, and the producer snapshot of the next segment's base; (4) close. Only
//! then may a buffered descriptor on it exist. A crash between any two of them leaves what the
//! journal brings again, because the checkpoint still names the segment.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::future::{FutureExt as _, join, try_join_all, try_join3};
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::checkpoint::{LogCheckpoint, align_down, align_up};
use super::error::Error;
use super::file_names::FileKind;
use super::leader_epochs;
use super::log::{Log, include_producer};
use super::offset_index;
use super::producer_snapshot;
use super::reclaim::cut_end;
use super::segments::SealedSegment;
use super::tail::Tail;
use super::time_index;
use super::writes::{PendingWrites, name_states};
use crate::breaks::{self, Break};
use crate::journal::journal::Position;
use crate::model::limits::ALIGNMENT_BYTES;
use crate::model::offset::{FilePosition, Offset};
use crate::model::record_batch::BatchHeader;
use crate::rt::{File, IoBuf, OpenOptions, fs};

/// Disk space reserved ahead of a segment: as much as it has, between these.
const PREALLOCATION_BYTES_MIN: u64 = 256 << 10;
const PREALLOCATION_BYTES_MAX: u64 = 16 << 20;

/// What one call of `destage` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destaged {
    /// Bytes written to segments.
    pub written_bytes: u64,
    /// Segments sealed.
    pub sealed_count: u32,
}

/// One run of bytes that goes to a segment.
struct Run {
    base: Offset,
    start: FilePosition,
    /// Aligned, unless it is the segment's end.
    end: FilePosition,
    seals: bool,
}

impl Run {
    /// The beginning of the run, in whole blocks, if it is longer than `bytes_max`.
    fn at_most(self, bytes_max: u64) -> Self {
        let limit = align_down(bytes_max).max(align_up(1));
        if self.end - self.start <= limit {
            return self;
        }
        Self {
            end: align_down(self.start + limit),
            seals: false,
            ..self
        }
    }
}

/// What of a log is written to its segment and not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unflushed {
    Nothing,
    /// Bytes that the journal holds from this entry on.
    From(Option<Position>),
}

impl Log {
    /// Bytes that `destage` would write now.
    pub fn destageable_bytes(&self) -> u64 {
        self.next_run(false).map_or(0, |run| run.end - run.start)
    }

    /// Whether somebody is changing the log's files now: a flush, most of the time.
    pub fn is_busy(&self) -> bool {
        self.io.available() == 0
    }

    /// Writes everything durable that fills whole blocks, and seals what was rolled.
    ///
    /// After an error the log is failed, unless the disk was full: then calling again goes on.
    /// Cancel: not safe; a dropped call leaves a half-destaged run, which the next call writes
    /// again.
    pub async fn destage(&self) -> Result<Destaged, Error> {
        self.destage_some(u64::MAX).await
    }

    /// As [`destage`](Self::destage), but about `bytes_max` bytes at most, so that the logs of a
    /// shard take turns.
    ///
    /// Cancel: as `destage`.
    pub async fn destage_some(&self, bytes_max: u64) -> Result<Destaged, Error> {
        let _files = self.io.acquire(1).await;
        self.check_failed()?;
        let result = self.destage_runs(bytes_max).await;
        self.fail_unless_full(&result);
        result
    }

    fn fail_unless_full<T>(&self, result: &Result<T, Error>) {
        if let Err(error) = result
            && !error.is_disk_full()
        {
            self.fail(error.clone());
        }
    }

    async fn destage_runs(&self, bytes_max: u64) -> Result<Destaged, Error> {
        let mut done = Destaged::default();
        // what a block's end cuts stays in memory whole, unless memory is short
        while done.written_bytes < bytes_max
            && let Some(run) = self.next_run(!self.context.tail_budget().has_room())
        {
            let run = run.at_most(bytes_max - done.written_bytes);
            self.load_indexer().await?;
            self.write_run(&run).await?;
            done.written_bytes += run.end - run.start;
            if run.seals {
                self.seal(run.base).await?;
                done.sealed_count += 1;
            }
        }
        Ok(done)
    }

    /// Where the log stands in its files, for the journal's checkpoint, after everything that was
    /// written has been flushed. None while a start would find the same in the directory, and for a
    /// failed log, whose journal entries stay pinned. Waits for a destaging that is under way.
    ///
    /// What [`pinned_entry`](Self::pinned_entry) says before the next await belongs to it.
    /// Cancel: safe.
    pub async fn checkpoint(&self) -> Result<Option<LogCheckpoint>, Error> {
        let _files = self.io.acquire(1).await;
        if self.failure().is_some() {
            return Ok(None);
        }
        let flushed = self.flush_written().await;
        self.fail_unless_full(&flushed);
        flushed?;
        let mut state = self.state.borrow_mut();
        state.truncations_told = state.destaged.truncations;
        state.stand_told = state.destaged.cut_batch();
        Ok(state.is_changed.then(|| {
            let mut found = LogCheckpoint {
                log_start: state.offsets.log_start,
                ..state.destaged.clone()
            };
            if breaks::is_on(Break::ProducerSnapshotAhead) {
                found.producers = state.producers.clone();
            }
            if breaks::is_on(Break::LogStartForgotten) {
                let first = state.sealed.iter().next();
                found.log_start = first.map_or(found.segment_base, |first| first.base_offset);
            }
            found
        }))
    }

    /// What the last `checkpoint` returned is durable.
    pub fn on_checkpointed(&self) {
        let mut state = self.state.borrow_mut();
        state.truncations_kept = state.truncations_told;
        state.stand_kept = state.stand_told;
    }

    /// The oldest journal entry with bytes that are in no segment: destaging or carrying frees it.
    pub fn undestaged_entry(&self) -> Option<Position> {
        self.tail.borrow().pinned_entry()
    }

    /// The oldest journal entry that recovery would need for this log.
    pub fn pinned_entry(&self) -> Option<Position> {
        match self.unflushed.get() {
            Unflushed::Nothing => self.tail.borrow().pinned_entry(),
            Unflushed::From(pin) => pin,
        }
    }

    /// With `settles`, the last partial block is written as well, padded: its batches may leave
    /// memory then. It will be written again, and the journal keeps its bytes until it was.
    fn next_run(&self, settles: bool) -> Option<Run> {
        let state = self.state.borrow();
        let segment = state.oldest_open();
        let start = state.destaged.destaged_position;
        if state.is_truncating {
            return None;
        }
        let is_rolled = state.open.len() > 1;
        if is_rolled && state.oldest_open_end() <= state.offsets.durable_end {
            return Some(Run {
                base: segment.base,
                start,
                end: segment.end_position,
                seals: true,
            });
        }
        let durable = self
            .tail
            .borrow()
            .end_position_at(segment.base, state.offsets.durable_end)?;
        let aligned = align_down(durable);
        let end = if settles { durable } else { aligned };
        (end > start).then_some(Run {
            base: segment.base,
            start,
            end,
            seals: false,
        })
    }

    async fn write_run(&self, run: &Run) -> Result<(), Error> {
        if run.start < run.end {
            let file = self.file_for_writing(run.base, run.end).await?;
            if self.unflushed.get() == Unflushed::Nothing {
                let pin = self.tail.borrow().pinned_entry();
                self.unflushed.set(Unflushed::From(pin));
            }
            match self.write_blocks(&file, run).await {
                Err(error) if error.is_disk_full() && breaks::is_on(Break::EnospcSwallowed) => {}
                written => written?,
            }
            self.include_destaged(run.base, run.end);
        }
        self.publish(run);
        Ok(())
    }

    /// Flushes what was written since the last time, data and index entries.
    async fn flush_written(&self) -> Result<(), Error> {
        if self.unflushed.get() == Unflushed::Nothing {
            return Ok(());
        }
        self.load_indexer().await?;
        let base = self.state.borrow().oldest_open().base;
        let path = self.path(base, FileKind::Log);
        let file = self
            .context
            .open_direct(self.key(base), &path, true)
            .await?;
        self.flush(&file, base, IndexEnd::Open).await?;
        self.unflushed.set(Unflushed::Nothing);
        Ok(())
    }

    /// The segment's file, made if necessary, with space reserved up to `end`.
    async fn file_for_writing(&self, base: Offset, end: FilePosition) -> Result<File, Error> {
        let path = self.path(base, FileKind::Log);
        let spare_dir = self.put_spare(&path).await;
        let file = self
            .context
            .open_direct(self.key(base), &path, true)
            .await?;
        let (is_created, allocated_end) = {
            let state = self.state.borrow();
            let segment = state.oldest_open();
            (segment.is_created, segment.allocated_end)
        };
        if !is_created {
            let mut dirs = Vec::from_iter(spare_dir); // it has one name from here on
            if !self.is_closing.get() && !breaks::is_on(Break::DirectoryNotSynced) {
                dirs.extend(
                    [Some(self.dir.as_path()), self.dir.parent()]
                        .into_iter()
                        .flatten()
                        .map(PathBuf::from),
                );
            }
            try_join_all(dirs.iter().map(fs::sync_dir)).await?;
            self.state.borrow_mut().oldest_open_mut().is_created = true;
        }
        if end > allocated_end {
            self.release_preallocation();
            let wanted = end.clamp(PREALLOCATION_BYTES_MIN, PREALLOCATION_BYTES_MAX);
            let limit = self.settings().segment_bytes.saturating_sub(end); // more would go back
            let ahead = self.context.take_preallocation(wanted.min(limit));
            let until = align_up(end + ahead);
            let reserved = file.allocate(allocated_end, until - allocated_end).await;
            let mut state = self.state.borrow_mut();
            let segment = state.oldest_open_mut();
            // without room for more than the data itself, the write says so
            if reserved.is_ok() {
                segment.preallocated_bytes = ahead;
                segment.allocated_end = until;
            } else {
                self.context.give_preallocation(ahead);
            }
        }
        Ok(file)
    }

    /// Gives the shard's budget back what the oldest open segment had reserved.
    pub(super) fn release_preallocation(&self) {
        let mut state = self.state.borrow_mut();
        let bytes = std::mem::take(&mut state.oldest_open_mut().preallocated_bytes);
        self.context.give_preallocation(bytes);
    }

    /// Copies the run step by step and writes it; the next step is copied while the one before is
    /// being written. One write is in flight at a time: a stream of them that never pauses keeps
    /// the device from ever being idle, and journal flushes of some devices wait for that.
    async fn write_blocks(&self, file: &File, run: &Run) -> Result<(), Error> {
        let step = u64::try_from(self.context.limits().destage_bytes).unwrap_or(u64::MAX / 2);
        let mut writing = FuturesUnordered::new();
        let mut position = run.start;
        while position < run.end {
            let end = run.end.min(position + align_down(step).max(align_up(1)));
            let len = usize::try_from(align_up(end) - position).unwrap_or(usize::MAX);
            let mut buffer = IoBuf::alloc(len).await;
            let parts = self.tail.borrow().parts(run.base, position, end);
            fill(
                &mut buffer,
                &parts,
                usize::try_from(end - position).unwrap_or(usize::MAX),
            );
            if let Some(before) = writing.next().await {
                before?;
            }
            writing.push(file.write_at(buffer, len, position));
            if let Some(Some(written)) = writing.next().now_or_never() {
                written?; // the first poll starts it; its end is waited for above and below
            }
            position = end;
        }
        if let Some(last) = writing.next().await {
            last?;
        }
        Ok(())
    }

    /// Takes the batches that end at or below `end` into the destaged state.
    fn include_destaged(&self, base: Offset, end: FilePosition) {
        let tail = self.tail.borrow();
        let mut state = self.state.borrow_mut();
        let mut indexer = state
            .oldest_open_mut()
            .indexer
            .take()
            .expect("load_indexer came first");
        let destaged = &mut state.destaged;
        for batch in tail.undestaged() {
            if batch.segment_base != base || batch.end_position() > end {
                break;
            }
            if batch.base_offset < destaged.next_offset {
                continue; // taken in by a call that failed or was dropped before it could publish
            }
            let header = BatchHeader::parse(&batch.bytes).expect("parsed when it was appended");
            indexer.push(&header, batch.position);
            include_producer(&mut destaged.producers, &header, &batch.bytes);
            destaged
                .epochs
                .assign(header.leader_epoch, header.base_offset);
            let first = Some(header.max_timestamp).filter(|timestamp| *timestamp >= 0);
            destaged.first_timestamp = destaged.first_timestamp.or(first);
            destaged.max_timestamp = indexer.max_timestamp();
            destaged.next_offset = header.next_offset();
            destaged.end_position = batch.end_position();
        }
        state.oldest_open_mut().indexer = Some(indexer);
    }

    /// Flushes the segment, and appends the entries that are not in the index files yet, flushed
    /// too.
    async fn flush(&self, file: &File, base: Offset, end: IndexEnd) -> Result<(), Error> {
        let (offsets, times, counts) = {
            let state = self.state.borrow();
            let indexer = state
                .oldest_open()
                .indexer
                .as_ref()
                .expect("load_indexer came first");
            let counts = (indexer.offsets().count(), indexer.times().count());
            let (offsets_from, times_from) = state.index_counts();
            let encode = |first| indexer.offsets().encode_from(first);
            let offsets =
                IndexTail::new((offsets_from, counts.0), offset_index::ENTRY_BYTES, encode);
            let encode = |first| indexer.times().encode_from(first);
            let times = IndexTail::new((times_from, counts.1), time_index::ENTRY_BYTES, encode);
            (offsets, times, counts)
        };
        let data = async {
            if breaks::is_on(Break::CheckpointBeforeDestageFlush) {
                return Ok(());
            }
            file.fdatasync().await.map_err(Error::from)
        };
        let offsets = self.write_index(base, FileKind::OffsetIndex, offsets, end);
        let times = self.write_index(base, FileKind::TimeIndex, times, end);
        try_join3(data, offsets, times).await?;
        self.state.borrow_mut().set_index_counts(counts);
        Ok(())
    }

    async fn write_index(
        &self,
        base: Offset,
        kind: FileKind,
        tail: IndexTail,
        end: IndexEnd,
    ) -> Result<(), Error> {
        if tail.bytes.is_empty() && end == IndexEnd::Open {
            return Ok(());
        }
        let file = File::open(self.path(base, kind), &OpenOptions::direct().create()).await?;
        if !tail.bytes.is_empty() {
            let mut buffer = IoBuf::alloc(tail.bytes.len()).await;
            let len = buffer.len();
            fill(&mut buffer, &[Bytes::from(tail.bytes)], len);
            file.write_at(buffer, len, tail.position).await?;
        }
        if end == IndexEnd::Exact {
            file.truncate(tail.end).await?;
        }
        file.fdatasync().await?;
        file.close().await?;
        if tail.position == 0 {
            fs::sync_dir(&self.dir).await?;
        }
        Ok(())
    }

    /// Everything of the run is in the file: it may leave memory.
    fn publish(&self, run: &Run) {
        {
            let mut state = self.state.borrow_mut();
            assert!(
                state.destaged.next_offset <= state.offsets.durable_end,
                "[destage-durable] {} of {}",
                state.destaged.next_offset,
                state.offsets.durable_end
            );
            state.destaged.destaged_position = if run.seals {
                run.end
            } else {
                align_down(run.end)
            };
            state.refresh_destaged_end();
            state.offsets.assert_ordered();
            state.is_changed = true;
            // what is written is no space ahead of the data any more
            let segment = state.oldest_open_mut();
            let ahead = segment.allocated_end.saturating_sub(run.end);
            let written = segment.preallocated_bytes.saturating_sub(ahead);
            segment.preallocated_bytes -= written;
            self.context.give_preallocation(written);
        }
        Tail::on_destaged(&self.tail, run.base, run.end, !run.seals);
    }

    /// Closes the oldest open segment, all of whose bytes are in its file, for good.
    async fn seal(&self, base: Offset) -> Result<(), Error> {
        let (max_timestamp, snapshot, size_bytes, next_base) = {
            let mut state = self.state.borrow_mut();
            let next_base = state.oldest_open_end();
            assert!(
                state.destaged.next_offset == next_base,
                "[producer-prefix] a segment is sealed when its last batch is destaged"
            );
            let snapshot = producer_snapshot::encode(&state.destaged.producers);
            let segment = state.oldest_open_mut();
            let indexer = segment.indexer.as_mut().expect("load_indexer came first");
            indexer.finish();
            let max_timestamp = indexer.max_timestamp();
            (max_timestamp, snapshot, segment.end_position, next_base)
        };
        let snapshot_path = self.path(next_base, FileKind::Snapshot);
        let snapshot = fs::write_atomic(snapshot_path, snapshot);
        // both to their ends: what a dropped call has begun would go on behind the next try
        let (finished, kept) = join(self.finish_files(base, size_bytes), snapshot).await;
        finished?;
        kept?;
        self.context.close(self.key(base)).await?;
        let mut state = self.state.borrow_mut();
        state.open.pop_front();
        state.sealed.push(SealedSegment {
            base_offset: base,
            next_offset: next_base,
            size_bytes,
            max_timestamp: Some(max_timestamp),
        });
        state.destaged = LogCheckpoint {
            producers: std::mem::take(&mut state.destaged.producers),
            epochs: std::mem::take(&mut state.destaged.epochs),
            truncations: state.destaged.truncations,
            is_dense: state.destaged.is_dense,
            ..LogCheckpoint::empty_at(next_base)
        };
        let log_start = state.offsets.log_start;
        let retired = state.sealed.retire_below(log_start);
        state.retired.extend(retired);
        // nothing has been written to the next segment, and this one was flushed before it closed
        self.unflushed.set(Unflushed::Nothing);
        Ok(())
    }

    /// Exact length, exact indexes, durably.
    async fn finish_files(&self, base: Offset, size: u64) -> Result<(), Error> {
        let path = self.path(base, FileKind::Log);
        let file = self
            .context
            .open_direct(self.key(base), &path, true)
            .await?;
        let end = self.state.borrow().oldest_open().allocated_end;
        cut_end(&file, end, size, self.context.reclaim().step_bytes()).await?;
        self.state.borrow_mut().oldest_open_mut().allocated_end = align_up(size);
        self.flush(&file, base, IndexEnd::Exact).await?;
        self.release_preallocation();
        Ok(())
    }

    /// The clean stop of one log: everything goes to the files, durably, and the directory is a
    /// plain Kafka one whose `partition.state` spares the next start from reading it. No append may
    /// follow.
    ///
    /// Cancel: not safe; what is missing then, recovery brings.
    pub async fn close(&self) -> Result<(), Error> {
        let state = self.close_unflushed().await?;
        Ok(name_states(&self.dir, state.into_iter().collect(), 1).await?)
    }

    /// The same without a flush, for many logs at once: `partition.state` has the temporary name
    /// that is returned, and gets its own when the filesystem was flushed. Before, it would promise
    /// what a power cut can still take back.
    ///
    /// Cancel: not safe; what is missing then, recovery brings.
    pub async fn close_unflushed(&self) -> Result<Option<PathBuf>, Error> {
        self.is_closing.set(true);
        self.destage().await?;
        let _files = self.io.acquire(1).await;
        self.check_failed()?;
        let mut writes = PendingWrites::default();
        if self.state.borrow().is_prepared {
            let result = self.close_active(&mut writes).await;
            if let Err(error) = &result {
                self.fail(error.clone());
            }
            result?;
        }
        let base = self.state.borrow().oldest_open().base;
        self.context.close(self.key(base)).await?;
        let (is_changed, state, epochs) = {
            let mut state = self.state.borrow_mut();
            state.is_prepared = false;
            state.destaged.destaged_position = align_down(state.destaged.end_position);
            let found = LogCheckpoint {
                log_start: state.offsets.log_start,
                ..state.destaged.clone()
            };
            (state.is_changed, found.encode_file(), state.epochs.encode())
        };
        if !is_changed {
            writes.commit().await?;
            return Ok(None);
        }
        writes.put_end(self.dir.join(leader_epochs::FILE_NAME), 0, epochs);
        let temporary = writes.put_state(&self.dir, state);
        writes.commit().await?;
        self.state.borrow_mut().is_changed = false;
        Ok(Some(temporary))
    }

    /// Writes the unaligned end of the active segment and cuts the file there.
    async fn close_active(&self, writes: &mut PendingWrites) -> Result<(), Error> {
        self.load_indexer().await?;
        let run = {
            let state = self.state.borrow();
            let segment = state.active();
            assert!(
                state.open.len() == 1 && state.offsets.durable_end == state.offsets.log_end,
                "[destage-durable] a log is closed when everything in it is durable"
            );
            let start = state.destaged.destaged_position;
            Run {
                base: segment.base,
                start,
                end: segment.end_position,
                seals: false,
            }
        };
        self.write_run(&run).await?;
        if run.end == 0 {
            return Ok(());
        }
        let (indexer, snapshot, next_offset) = {
            let mut state = self.state.borrow_mut();
            let segment = state.oldest_open_mut();
            let indexer = segment.indexer.as_mut().expect("load_indexer came first");
            indexer.finish();
            let indexer = indexer.clone();
            state.set_index_counts((indexer.offsets().count(), indexer.times().count()));
            let snapshot = producer_snapshot::encode(&state.destaged.producers);
            (indexer, snapshot, state.destaged.next_offset)
        };
        let path = self.path(run.base, FileKind::Log);
        let key = self.key(run.base);
        let file = self.context.open_direct(key, &path, true).await?;
        let end = self.state.borrow().oldest_open().allocated_end;
        cut_end(&file, end, run.end, self.context.reclaim().step_bytes()).await?;
        drop(file);
        self.release_preallocation();
        let offsets = indexer.offsets().encode_from(0);
        writes.put_end(self.path(run.base, FileKind::OffsetIndex), 0, offsets);
        let times = indexer.times().encode_from(0);
        writes.put_end(self.path(run.base, FileKind::TimeIndex), 0, times);
        writes.put_end(self.path(next_offset, FileKind::Snapshot), 0, snapshot);
        self.unflushed.set(Unflushed::Nothing);
        Ok(())
    }
}

/// How long an index file is after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IndexEnd {
    /// Whole blocks, zeros behind the last entry: more entries follow.
    Open,
    /// Nothing behind the last entry.
    Exact,
}

/// The blocks of an index file that new entries change.
#[derive(Debug, PartialEq, Eq)]
struct IndexTail {
    /// From the block that holds the first new entry's beginning.
    position: FilePosition,
    /// To the last entry; empty when there is no new one. The entries before the first new one in
    /// its block are written again, as they are.
    bytes: Vec<u8>,
    /// Where the last entry ends.
    end: FilePosition,
}

impl IndexTail {
    /// Of an index with `count` entries, the first `written` of which are in the file.
    fn new(
        (written, count): (usize, usize),
        entry_bytes: usize,
        encode_from: impl Fn(usize) -> Vec<u8>,
    ) -> Self {
        let start = written * entry_bytes;
        let aligned = start - start % ALIGNMENT_BYTES;
        let first = aligned / entry_bytes;
        let mut bytes = Vec::new();
        if written < count {
            bytes = encode_from(first);
            bytes.drain(..aligned - first * entry_bytes);
        }
        let to_u64 = |bytes| u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            position: to_u64(aligned),
            bytes,
            end: to_u64(count * entry_bytes),
        }
    }
}

/// Copies `parts` to the start of `buffer`, which is zeroed behind them.
fn fill(buffer: &mut [u8], parts: &[Bytes], expected: usize) {
    let mut rest = buffer;
    let mut copied = 0;
    for part in parts {
        let (head, tail) = rest.split_at_mut(part.len());
        head.copy_from_slice(part);
        rest = tail;
        copied += part.len();
    }
    debug_assert!(copied <= expected, "parts fit into what was asked for");
    rest.fill(0);
}

/// What the choice needs to know of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestageFacts {
    /// Bytes that `destage` would write.
    pub destageable_bytes: u64,
    /// Bytes in memory that are in no segment.
    pub undestaged_bytes: u64,
    /// Oldest journal entry with bytes that are in no segment.
    pub undestaged_entry: Option<Position>,
}

/// How hard the shard is pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Part of the journal's ring that is in use, 0 to 1 in thousandths.
    pub ring_fill_permille: u32,
    /// Whether appends wait for tail memory.
    pub is_tail_full: bool,
    /// `destage.size`: what is worth a write of its own.
    pub destage_bytes: u64,
}

/// What a log should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestageAction {
    /// Write whole blocks to the segment.
    Destage,
    /// Journal the few bytes that pin old ring space again.
    Carry,
}

/// Up to which size undestaged bytes are journaled again instead of written to the segment.
pub const CARRY_BYTES_MAX: u64 = 64 << 10;

/// Chooses which logs to destage: those with enough for a large write; with the ring more than half
/// full, the quarter of them that pins its oldest entries; with the tail memory used up, those that
/// hold most of it. Pure.
pub fn choose(facts: &[DestageFacts], pressure: Pressure) -> Vec<(usize, DestageAction)> {
    let mut chosen: Vec<Option<DestageAction>> = facts
        .iter()
        .map(|log| {
            let is_large = log.destageable_bytes >= pressure.destage_bytes;
            is_large.then_some(DestageAction::Destage)
        })
        .collect();
    if pressure.ring_fill_permille > 500 {
        let mut pinning: Vec<(Position, usize)> = facts
            .iter()
            .enumerate()
            .filter_map(|(index, log)| Some((log.undestaged_entry?, index)))
            .collect();
        pinning.sort_unstable();
        let urgent = if pressure.ring_fill_permille > 750 {
            2
        } else {
            4
        };
        let count = pinning.len().div_ceil(urgent);
        for (_, index) in pinning.into_iter().take(count) {
            let (Some(log), Some(choice)) = (facts.get(index), chosen.get_mut(index)) else {
                continue;
            };
            let is_small = log.undestaged_bytes <= CARRY_BYTES_MAX;
            let action = if log.destageable_bytes > 0 && !is_small {
                DestageAction::Destage
            } else {
                DestageAction::Carry
            };
            choice.get_or_insert(action);
        }
    }
    if pressure.is_tail_full {
        let largest = facts.iter().map(|log| log.undestaged_bytes).max();
        for (log, choice) in facts.iter().zip(&mut chosen) {
            if log.undestaged_bytes > 0 && log.undestaged_bytes >= largest.unwrap_or(0) / 2 {
                *choice = Some(DestageAction::Destage);
            }
        }
    }
    chosen
        .into_iter()
        .enumerate()
        .filter_map(|(index, action)| Some((index, action?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(destageable_bytes: u64, undestaged_bytes: u64, pinned: Option<u64>) -> DestageFacts {
        let undestaged_entry = pinned.map(Position);
        DestageFacts {
            destageable_bytes,
            undestaged_bytes,
            undestaged_entry,
        }
    }

    fn pressure(ring_fill_permille: u32, is_tail_full: bool) -> Pressure {
        Pressure {
            ring_fill_permille,
            is_tail_full,
            destage_bytes: 1 << 20,
        }
    }

    #[test]
    fn without_pressure_only_large_writes_are_worth_it() {
        let logs = [facts(1 << 20, 2 << 20, Some(5)), facts(4096, 5000, Some(1))];
        assert_eq!(
            choose(&logs, pressure(0, false)),
            [(0, DestageAction::Destage)]
        );
    }

    #[test]
    fn a_filling_ring_frees_its_oldest_entries_and_carries_what_is_small() {
        let mut logs: Vec<_> = (0..8).map(|n| facts(0, 100, Some(100 + n))).collect();
        logs.push(facts(100 << 10, 100 << 10, Some(3)));
        logs.push(facts(0, 0, None));
        let expected = [
            (0, DestageAction::Carry),
            (1, DestageAction::Carry),
            (8, DestageAction::Destage),
        ];
        assert_eq!(choose(&logs, pressure(600, false)), expected);
        assert_eq!(choose(&logs, pressure(800, false)).len(), 5);
        assert_eq!(choose(&logs, pressure(500, false)), []);
    }

    #[test]
    fn full_memory_takes_the_logs_that_hold_most_even_below_a_block() {
        let logs = [
            facts(0, 900, Some(1)),
            facts(0, 300, Some(2)),
            facts(0, 500, Some(3)),
        ];
        let expected = [(0, DestageAction::Destage), (2, DestageAction::Destage)];
        assert_eq!(choose(&logs, pressure(0, true)), expected);
    }

    #[test]
    fn index_blocks_start_where_the_new_entries_lie() {
        let entries = |count: usize| {
            move |first: usize| {
                (first..count)
                    .flat_map(|n| [u8::try_from(n % 251).unwrap(); 12])
                    .collect()
            }
        };
        let tail = IndexTail::new((2, 2), 12, entries(2));
        assert_eq!((tail.bytes.len(), tail.end), (0, 24), "nothing new");
        let tail = IndexTail::new((2, 3), 12, entries(3));
        assert_eq!((tail.position, tail.bytes.len(), tail.end), (0, 36, 36));
        // 4096 is within entry 341: its first 4 bytes are in the block before
        let tail = IndexTail::new((342, 400), 12, entries(400));
        assert_eq!((tail.position, tail.bytes.len()), (4096, 400 * 12 - 4096));
        assert_eq!((tail.end, &tail.bytes[..8]), (4800, &[90; 8][..]));
        let all: Vec<u8> = entries(400)(0);
        assert_eq!(tail.bytes, all[4096..]);
    }
}

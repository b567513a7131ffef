//! Straight to the segment: what a busy partition has waiting is written there and flushed first,
//! and the journal gets a note of it and the bytes behind the last whole block. Every byte is then
//! written once, not twice.
//!
//! Runs on: the home shard.        Owner: `Log`, one at a time (`io`).
//! Promises: who holds a `Bypassed` may queue its entry: everything that the entry counts on is
//! durable. Nothing is visible or acknowledged before that entry is durable too.
//! Invariants: [bypass-blocks] only whole blocks are written. A block whose beginning is
//! acknowledged has that beginning in the journal until it is written whole, so that a torn write
//! loses nothing. [bypass-order] while batches wait, whatever is appended waits behind them: a
//! log's entries are queued in the order of offsets.
//!
//! In this order: `start_bypass`, appends whose entries are dropped, `bypass`, its entry goes to
//! the journal, `on_bypass_queued`, once it is durable `on_durable` and `publish`. What is too
//! little for that goes to the journal by `waiting_entry` and `on_waiting_queued`, and `end_bypass`
//! follows when nothing waits. A crash between flush and entry leaves bytes behind the log's end,
//! which recovery cuts off; a segment that has none before them is then cut to nothing.

use super::checkpoint::align_down;
use super::destage::Run;
use super::error::Error;
use super::log::Log;
use super::tail::TailBatch;
use crate::journal::entry::{Entry, EntryKind, Payload};
use crate::journal::journal::Position;
use crate::model::ids::LeaderEpoch;
use crate::model::limits::{ALIGNMENT_BYTES, BATCH_PREFIX_BYTES};
use crate::model::offset::Offset;
use crate::rt::sync::semaphore::Permit;

/// The longest payload of an entry: what lies behind the last whole block.
pub const BYPASS_PAYLOAD_BYTES_MAX: usize = ALIGNMENT_BYTES;

/// Batches that are durable in the segment, and of which the journal knows nothing yet.
#[derive(Debug)]
pub struct Bypassed {
    run: Run,
    next_offset: Offset,
    /// Nobody else changes the log's files until these batches are published.
    files: Permit,
}

impl Bypassed {
    /// Offset after the last batch.
    pub const fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Bytes that were written to the segment.
    pub const fn written_bytes(&self) -> u64 {
        self.run.end - self.run.start
    }
}

impl Log {
    /// Whether what is appended waits, behind what does already.
    pub fn is_bypassing(&self) -> bool {
        self.is_bypassing.get()
    }

    /// Whether batches may begin to wait: the segment they go to is the one that is being written,
    /// and the journal has no truncation of this log. Replay repeats truncations in the files, and
    /// what followed them has to come from the journal.
    pub fn may_bypass(&self) -> bool {
        let state = self.state.borrow();
        let is_cut = state.is_truncating || state.destaged.truncations != state.truncations_found;
        let is_writable = state.is_prepared && state.open.len() == 1 && !is_cut;
        is_writable && !self.is_closing.get() && self.failure().is_none()
    }

    /// From here on the caller drops the entries of `append`.
    pub fn start_bypass(&self) {
        self.is_bypassing.set(true);
    }

    /// Bytes of the batches that are not durable.
    pub fn undurable_bytes(&self) -> u64 {
        let durable_end = self.offsets().durable_end;
        let bytes = self.tail.borrow().size_between(durable_end, Offset::MAX);
        bytes.unwrap_or(0)
    }

    /// Bytes of the batches that wait.
    pub fn waiting_bytes(&self) -> u64 {
        let tail = self.tail.borrow();
        tail.waiting().map(TailBatch::size_bytes).sum()
    }

    /// Writes what waits to the segment and flushes it: from `bytes_min` to about `bytes_max`
    /// bytes. None when there is less, or when the segment is rolled.
    ///
    /// After an error the log is failed, unless the disk was full: then nothing has changed.
    /// Cancel: safe, as far as the log is concerned; the bytes are written again.
    pub async fn bypass(
        &self,
        bytes_min: u64,
        bytes_max: u64,
    ) -> Result<Option<(Bypassed, Entry)>, Error> {
        let files = self.io.acquire(1).await;
        self.check_failed()?;
        let Some((run, entry)) = self.plan_bypass(bytes_min, bytes_max) else {
            return Ok(None);
        };
        let written = self.write_bypass(&run).await;
        self.fail_unless_full(&written);
        written?;
        let next_offset = entry.next_offset;
        let bypassed = Bypassed {
            run,
            next_offset,
            files,
        };
        Ok(Some((bypassed, entry)))
    }

    fn plan_bypass(&self, bytes_min: u64, bytes_max: u64) -> Option<(Run, Entry)> {
        if !self.may_bypass() {
            return None;
        }
        let state = self.state.borrow();
        let tail = self.tail.borrow();
        let first = tail.waiting().next()?;
        let (base, start) = (first.segment_base, first.position);
        assert!(
            base == state.oldest_open().base,
            "[segments-ordered] one open segment has all that is in no file"
        );
        let (mut end, mut next_offset) = (start, first.base_offset);
        let mut crc = 0;
        for batch in tail
            .waiting()
            .take_while(|b| b.position < start + bytes_max)
        {
            let prefix = batch.bytes.get(..BATCH_PREFIX_BYTES).unwrap_or_default();
            crc = crc32c::crc32c_append(crc, prefix);
            end = batch.end_position();
            next_offset = batch.next_offset;
        }
        let blocks_end = align_down(end);
        let length = blocks_end
            .checked_sub(start)
            .filter(|length| *length >= bytes_min)?;
        let mut payload = Payload::empty();
        for part in tail.parts(base, blocks_end, end) {
            payload.push(part);
        }
        let entry = Entry {
            kind: EntryKind::Bypass {
                length: u32::try_from(length).ok()?,
                crc,
            },
            topic_partition: self.topic_partition(),
            segment_base: base,
            file_position: start,
            base_offset: first.base_offset,
            next_offset,
            leader_epoch: state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN),
            payload,
        };
        let run = Run {
            base,
            start: state.destaged.destaged_position,
            end: blocks_end,
            seals: false,
        };
        Some((run, entry))
    }

    async fn write_bypass(&self, run: &Run) -> Result<(), Error> {
        self.load_indexer().await?; // publishing takes it
        let file = self.file_for_writing(run.base, run.end).await?;
        self.note_unflushed();
        self.write_blocks(&file, run).await?;
        file.fdatasync().await?;
        self.state.borrow_mut().bypassed_segment = Some(run.base);
        Ok(())
    }

    /// Notes the number of the entry that `bypass` returned.
    pub fn on_bypass_queued(&self, bypassed: &Bypassed, journal_entry: Position) {
        self.on_waiting_queued(bypassed.next_offset, journal_entry);
    }

    /// The entry is durable and told: the batches may leave memory.
    pub fn publish_bypass(&self, bypassed: Bypassed) {
        let Bypassed { run, files, .. } = bypassed;
        if self.check_failed().is_ok() {
            self.include_destaged(run.base, run.end);
            self.publish(&run);
        }
        drop(files);
    }

    /// Bytes of the next entry of batches that wait, for its reservation; none when none waits.
    pub fn next_waiting_bytes(&self, bytes_max: usize) -> Option<usize> {
        let tail = self.tail.borrow();
        let first = tail.waiting().next()?;
        let batches = tail.waiting();
        let mut bytes = first.bytes.len();
        for batch in batches.skip(1) {
            let is_same = batch.segment_base == first.segment_base;
            if !is_same || bytes + batch.bytes.len() > bytes_max {
                break;
            }
            bytes += batch.bytes.len();
        }
        Some(bytes)
    }

    /// The first batches that wait, as one entry of `bytes` bytes, as `next_waiting_bytes` told:
    /// batches only ever come behind them.
    pub fn waiting_entry(&self, bytes: usize) -> Option<Entry> {
        let tail = self.tail.borrow();
        let first = tail.waiting().next()?;
        let mut payload = Payload::empty();
        let mut last = first;
        for batch in tail.waiting() {
            if payload.len() + batch.bytes.len() > bytes {
                break;
            }
            payload.push(batch.bytes.clone());
            last = batch;
        }
        Some(Entry {
            kind: EntryKind::Append,
            topic_partition: self.topic_partition(),
            segment_base: first.segment_base,
            file_position: first.position,
            base_offset: first.base_offset,
            next_offset: last.next_offset,
            leader_epoch: self.latest_epoch().unwrap_or(LeaderEpoch::UNKNOWN),
            payload,
        })
    }

    /// Notes the number of the entry with the batches that waited, up to `next_offset`.
    pub fn on_waiting_queued(&self, next_offset: Offset, journal_entry: Position) {
        let mut tail = self.tail.borrow_mut();
        tail.set_waiting_entry(next_offset, journal_entry);
        self.state.borrow_mut().is_changed = true;
    }

    /// Nothing waits: entries go to the journal again. A log for which that is not called goes on
    /// as before with the next append.
    pub fn end_bypass(&self) {
        assert!(
            self.tail.borrow().waiting().next().is_none(),
            "[bypass-order] nothing waits when entries are queued again"
        );
        self.is_bypassing.set(false);
    }
}

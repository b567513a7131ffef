//! One partition's log: what it consists of, and the append.
//!
//! Runs on: the partition's home shard.        Owner: the partition; shared by `Rc` with background
//! work.
//! Promises: an appended batch has its offset at once and is in memory; it is in a segment only
//! once it is durable in the journal. `append` is synchronous: between the producer check and the
//! journal queue nothing else can run.
//! Invariants: [offset-chain] see `model::log_offsets`. [segments-ordered] sealed segments, then
//! the open ones, each beginning where the one before ends; the last open one is active.
//! [producer-prefix] the producers in `State` are those at the log end, the ones in
//! `State::destaged` those at the destaged end. State is never borrowed across an await; what
//! changes files holds `io`, so it never overlaps.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::checkpoint::{LogCheckpoint, align_down};
use super::context::{LogContext, LogNumber, SegmentKey};
use super::destage::Unflushed;
use super::error::Error;
use super::file_names::{FileKind, file_name};
use super::indexer::{Indexer, MaxTimestamp};
use super::leader_epochs::LeaderEpochs;
use super::pins::{Pin, Pins};
use super::producer_state::{ProducerError, ProducerStates, Verdict};
use super::segments::{SealedSegment, Segments};
use super::settings::{LogSettings, SEGMENT_BYTES_MAX};
use super::tail::{Tail, TailBatch};
use crate::journal::entry::{Entry, EntryKind, Payload};
use crate::journal::journal::Position;
use crate::model::ids::{LeaderEpoch, TopicPartition};
use crate::model::limits::PRODUCER_KEPT_MS;
use crate::model::log_offsets::LogOffsets;
use crate::model::offset::{FilePosition, Offset};
use crate::model::record;
use crate::model::record_batch::{BatchHeader, set_base_offset_and_epoch};
use crate::rt::{self, sync::Semaphore};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;

/// Decompressed size up to which the record of a transaction marker is read.
const MARKER_BYTES_MAX: usize = 4096;

/// A batch that a producer sent, checked by the caller.
#[derive(Debug)]
pub struct NewBatch {
    /// The one whole batch.
    pub bytes: BytesMut,
    /// Its header.
    pub header: BatchHeader,
    /// Bytes of memory that `bytes` keeps alive: the frame that it was cut from.
    pub held_bytes: usize,
}

impl NewBatch {
    /// A batch in memory of its own.
    pub fn own(bytes: BytesMut) -> Result<Self, Error> {
        let header = BatchHeader::parse(&bytes)?;
        let held_bytes = bytes.len();
        Ok(Self {
            bytes,
            header,
            held_bytes,
        })
    }
}

/// Where a batch went, and what the journal has to write.
#[derive(Debug)]
pub struct Appended {
    /// Its first offset.
    pub base_offset: Offset,
    /// Its exclusive end: durable once `on_durable` has reached it.
    pub next_offset: Offset,
    /// For the journal, which must take it before anything else of this log.
    pub entry: Entry,
}

/// One segment that still gets bytes: the active one, or one that was rolled and is not sealed yet.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) base: Offset,
    /// Where the next batch goes, at the log end.
    pub(super) end_position: FilePosition,
    /// Largest timestamp at the log end.
    pub(super) max_timestamp: MaxTimestamp,
    /// Timestamp of its first batch.
    pub(super) first_timestamp: Option<i64>,
    /// When it was opened or rolled, ms: counts for `segment.ms` when batches have no timestamps.
    created_ms: i64,
    /// Index entries at the log end, and bytes since the last one: tells when the index is full.
    index_entries: u64,
    bytes_since_entry: u64,
    /// Indexes of the destaged batches; none while nobody needed them since the start.
    pub(super) indexer: Option<Indexer>,
    /// Whether the file has a durable name.
    pub(super) is_created: bool,
    /// Whether the file may be a spare: nobody has opened or made it yet.
    pub(super) may_be_spare: bool,
    /// Disk space is reserved up to here.
    pub(super) allocated_end: FilePosition,
    /// What of it was taken from the shard's budget for space ahead of the data.
    pub(super) preallocated_bytes: u64,
}

impl OpenSegment {
    pub(super) fn new(base: Offset, settings: &LogSettings, now_ms: i64) -> Self {
        Self {
            base,
            end_position: 0,
            max_timestamp: MaxTimestamp::NONE,
            first_timestamp: None,
            created_ms: now_ms,
            index_entries: 0,
            bytes_since_entry: 0,
            indexer: Some(Indexer::new(base, settings.index_interval_bytes)),
            is_created: false,
            may_be_spare: true,
            allocated_end: 0,
            preallocated_bytes: 0,
        }
    }

    /// The segment that a start found, ending where `checkpoint` says.
    pub(super) fn resume(checkpoint: &LogCheckpoint, is_created: bool, now_ms: i64) -> Self {
        Self {
            base: checkpoint.segment_base,
            end_position: checkpoint.end_position,
            max_timestamp: checkpoint.max_timestamp,
            first_timestamp: checkpoint.first_timestamp,
            created_ms: now_ms,
            index_entries: u64::from(checkpoint.offset_index_entries),
            bytes_since_entry: 0,
            indexer: None,
            is_created,
            may_be_spare: false,
            allocated_end: checkpoint.end_position,
            preallocated_bytes: 0,
        }
    }

    fn push(&mut self, header: &BatchHeader, settings: &LogSettings) {
        self.max_timestamp.include(header);
        self.first_timestamp = self
            .first_timestamp
            .or(Some(header.max_timestamp).filter(|timestamp| *timestamp >= 0));
        if self.bytes_since_entry > settings.index_interval_bytes {
            self.index_entries += 1;
            self.bytes_since_entry = 0;
        }
        let size = size_of_batch(header);
        self.bytes_since_entry += size;
        self.end_position += size;
    }

    fn must_roll_for(&self, header: &BatchHeader, settings: &LogSettings, now_ms: i64) -> bool {
        if self.end_position == 0 {
            return false;
        }
        let waited_ms = match self.first_timestamp {
            Some(first) if header.max_timestamp >= 0 => header.max_timestamp.saturating_sub(first),
            _ => now_ms.saturating_sub(self.created_ms),
        };
        let limit = settings.segment_bytes.min(SEGMENT_BYTES_MAX);
        let last = header.last_offset().distance_from(self.base);
        self.end_position + size_of_batch(header) > limit
            || waited_ms > settings.segment_ms
            // a time entry is the larger one, and there is one more of them when the segment is
            // sealed
            || (self.index_entries + 2) * 12 > settings.segment_index_bytes.max(24)
            || last > i64::from(i32::MAX)
    }
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) offsets: LogOffsets,
    pub(super) sealed: Segments,
    /// Oldest first, never empty; the last one is active.
    pub(super) open: VecDeque<OpenSegment>,
    /// At the log end.
    pub(super) producers: ProducerStates,
    /// At the log end.
    pub(super) epochs: LeaderEpochs,
    /// The first open segment and everything below, as far as it is in files.
    pub(super) destaged: LogCheckpoint,
    /// Whether the log may append: the last partial block is in memory and in the journal's hands.
    pub(super) is_prepared: bool,
    /// Whether the end is about to be cut off: nothing of it may be written or journaled again.
    pub(super) is_truncating: bool,
    /// The last truncation that a checkpoint was told of, and the last that a durable one has.
    pub(super) truncations_told: u64,
    pub(super) truncations_kept: u64,
    /// The segment inside a batch of which a checkpoint stands: what the last one was told, and
    /// what the last durable one has. Carried bytes go on inside that batch, whose header is in the
    /// file alone.
    pub(super) stand_told: Option<Offset>,
    pub(super) stand_kept: Option<Offset>,
    /// Whether a start would not find `destaged` in `partition.state`.
    pub(super) is_changed: bool,
    /// Sealed segments below the log start that are to be unlinked.
    pub(super) retired: Vec<SealedSegment>,
}

impl State {
    pub(super) fn active(&self) -> &OpenSegment {
        self.open
            .back()
            .expect("[segments-ordered] there is always an active segment")
    }

    pub(super) fn active_mut(&mut self) -> &mut OpenSegment {
        self.open
            .back_mut()
            .expect("[segments-ordered] there is always an active segment")
    }

    pub(super) fn oldest_open(&self) -> &OpenSegment {
        self.open
            .front()
            .expect("[segments-ordered] there is always an active segment")
    }

    pub(super) fn oldest_open_mut(&mut self) -> &mut OpenSegment {
        self.open
            .front_mut()
            .expect("[segments-ordered] there is always an active segment")
    }

    /// Exclusive end of the oldest open segment.
    pub(super) fn oldest_open_end(&self) -> Offset {
        self.open
            .get(1)
            .map_or(self.offsets.log_end, |next| next.base)
    }

    pub(super) fn roll(&mut self, settings: &LogSettings, now_ms: i64) {
        let base = self.offsets.log_end;
        assert!(
            self.active().base < base,
            "[segments-ordered] an empty segment is not rolled"
        );
        self.open
            .push_back(OpenSegment::new(base, settings, now_ms));
        metrics::local().increment(Counter::SegmentsRolled);
    }

    /// Entries of the oldest open segment that are in its index files.
    pub(super) fn index_counts(&self) -> (usize, usize) {
        let count = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        (
            count(self.destaged.offset_index_entries),
            count(self.destaged.time_index_entries),
        )
    }

    pub(super) fn set_index_counts(&mut self, (offsets, times): (usize, usize)) {
        self.destaged.offset_index_entries = u32::try_from(offsets).unwrap_or(u32::MAX);
        self.destaged.time_index_entries = u32::try_from(times).unwrap_or(u32::MAX);
    }

    /// Sets the destaged end as the chain wants it: what lies below the log start need not be
    /// there.
    pub(super) fn refresh_destaged_end(&mut self) {
        self.offsets.destaged_end = self.destaged.next_offset.max(self.offsets.log_start);
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct Log {
    pub(super) context: Rc<LogContext>,
    pub(super) number: LogNumber,
    pub(super) dir: PathBuf,
    topic_partition: TopicPartition,
    settings: Cell<LogSettings>,
    pub(super) state: RefCell<State>,
    pub(super) tail: Rc<RefCell<Tail>>,
    pub(super) pins: Pins,
    /// Held by whoever changes the log's files.
    pub(super) io: Semaphore,
    /// What destaging has written since the last flush.
    pub(super) unflushed: Cell<Unflushed>,
    /// The log is being closed: what is written is flushed at the end, with its directory.
    pub(super) is_closing: Cell<bool>,
    /// Producers that the shard counts for this log.
    counted_producers: Cell<usize>,
    failed: RefCell<Option<Arc<Error>>>,
}

impl Log {
    /// Puts a log together from what its directory held; `open.rs` knows how.
    pub(super) fn assemble(
        context: &Rc<LogContext>,
        dir: PathBuf,
        topic_partition: TopicPartition,
        settings: LogSettings,
        (sealed, open, destaged): (Segments, OpenSegment, LogCheckpoint),
    ) -> Rc<Self> {
        let offsets = LogOffsets {
            log_start: destaged.log_start,
            last_stable: destaged.next_offset,
            high_watermark: destaged.next_offset,
            durable_end: destaged.next_offset,
            destaged_end: destaged.next_offset,
            log_end: destaged.next_offset,
        };
        offsets.assert_ordered();
        let truncations = destaged.truncations;
        let mut producers = destaged.producers.clone();
        producers.on_loaded(rt::unix_ms());
        let state = State {
            offsets,
            sealed,
            open: VecDeque::from([open]),
            producers,
            epochs: destaged.epochs.clone(),
            destaged,
            is_prepared: false,
            is_truncating: false,
            truncations_told: truncations,
            truncations_kept: truncations,
            stand_told: None,
            stand_kept: None,
            is_changed: false,
            retired: Vec::new(),
        };
        let log = Self {
            context: Rc::clone(context),
            number: context.next_log(),
            dir,
            topic_partition,
            settings: Cell::new(settings),
            state: RefCell::new(state),
            tail: Tail::new(Rc::clone(context.tail_budget())),
            pins: Pins::default(),
            io: Semaphore::new(1),
            unflushed: Cell::new(Unflushed::Nothing),
            is_closing: Cell::new(false),
            counted_producers: Cell::new(0),
            failed: RefCell::new(None),
        };
        log.count_producers(log.state.borrow().producers.count());
        Rc::new(log)
    }

    /// Whose log it is.
    pub const fn topic_partition(&self) -> TopicPartition {
        self.topic_partition
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The chain of offsets.
    pub fn offsets(&self) -> LogOffsets {
        self.state.borrow().offsets
    }

    /// The settings in force.
    pub fn settings(&self) -> LogSettings {
        self.settings.get()
    }

    /// Replaces the settings; they hold from the next append on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.settings.set(settings);
    }

    /// The newest leader epoch with records.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.latest()
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.epoch_of(offset)
    }

    /// Largest known epoch at or below `requested` and where it ends; see `LeaderEpochs`.
    pub fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.borrow();
        state
            .epochs
            .end_offset_for(requested, state.offsets.log_end)
    }

    /// Bytes of all segments together, at the log end.
    pub fn size_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let open: u64 = state.open.iter().map(|segment| segment.end_position).sum();
        state.sealed.size_bytes() + open
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        let state = self.state.borrow();
        state.sealed.count() + state.open.len()
    }

    /// Base offsets of all segments, oldest first.
    pub fn segment_bases(&self) -> Vec<i64> {
        let state = self.state.borrow();
        let sealed = state.sealed.iter().map(|segment| segment.base_offset.get());
        sealed
            .chain(state.open.iter().map(|segment| segment.base.get()))
            .collect()
    }

    /// Decides over a producer's batch: append it, answer as before, or refuse it.
    pub fn check_producer(&self, header: &BatchHeader) -> Result<Verdict, ProducerError> {
        let producers = self.producers();
        let (producer, known) = (header.producer_id, producers.count());
        if producers.is_new(header) && !self.context.has_room_for_producer(known) {
            return Err(ProducerError::TooMany { producer, known });
        }
        producers.check(header)
    }

    /// Decides over a transaction marker.
    pub fn check_marker(
        &self,
        header: &BatchHeader,
        coordinator_epoch: i32,
    ) -> Result<(), ProducerError> {
        let (producer, epoch) = (header.producer_id, header.producer_epoch);
        self.state
            .borrow()
            .producers
            .check_marker(producer, epoch, coordinator_epoch)
    }

    /// The producers at the log end.
    pub fn producers(&self) -> Ref<'_, ProducerStates> {
        Ref::map(self.state.borrow(), |state| &state.producers)
    }

    /// Forgets producers that were idle for `expiration_ms`, or for `PRODUCER_KEPT_MS` when room
    /// for new ones becomes short.
    pub fn expire_producers(&self, now_ms: i64, expiration_ms: i64) {
        let mut state = self.state.borrow_mut();
        let State {
            producers,
            destaged,
            ..
        } = &mut *state;
        let expiration_ms = match self.context.is_short_of_producers(producers.count()) {
            true => expiration_ms.min(PRODUCER_KEPT_MS),
            false => expiration_ms,
        };
        producers.expire(now_ms, expiration_ms);
        destaged.producers.forget_as(producers);
        self.count_producers(producers.count());
    }

    pub(super) fn count_producers(&self, count: usize) {
        let before = self.counted_producers.replace(count);
        self.context.count_producers(before, count);
    }

    /// Why the log takes no more batches, if it does not.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.failed.borrow().clone()
    }

    /// Takes no more batches and changes no more files: a write or flush failed, or data is
    /// damaged.
    pub fn fail(&self, error: Error) {
        self.failed
            .borrow_mut()
            .get_or_insert_with(|| Arc::new(error));
    }

    pub(super) fn check_failed(&self) -> Result<(), Error> {
        match self.failed.borrow().as_ref() {
            Some(error) => Err(Error::Offline(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// Whether `append` may be called; otherwise `prepare` comes first.
    pub fn is_prepared(&self) -> bool {
        self.state.borrow().is_prepared
    }

    /// Gives a batch the next offsets and keeps it in memory. The returned entry goes into the
    /// journal at once; then `on_enqueued` tells where it went.
    ///
    /// The caller has checked the batch and the producer, and has called `prepare` before.
    pub fn append(
        &self,
        batch: NewBatch,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, Error> {
        self.check_failed()?;
        let NewBatch {
            mut bytes,
            mut header,
            held_bytes,
        } = batch;
        assert!(
            bytes.len() == header.total_size(),
            "[batch-whole] one whole batch is appended"
        );
        let settings = self.settings.get();
        let segment_bytes = settings.segment_bytes.min(SEGMENT_BYTES_MAX);
        if size_of_batch(&header) > segment_bytes {
            return Err(Error::BatchTooLarge {
                size_bytes: bytes.len(),
                segment_bytes,
            });
        }
        let mut state = self.state.borrow_mut();
        assert!(
            state.is_prepared && !state.is_truncating,
            "[prepared] the last block is in the journal before an append"
        );
        header.base_offset = state.offsets.log_end;
        header.leader_epoch = epoch;
        set_base_offset_and_epoch(&mut bytes, header.base_offset, epoch);
        if state.active().must_roll_for(&header, &settings, now_ms) {
            state.roll(&settings, now_ms);
        }
        let (bytes, held_bytes) = own(bytes, held_bytes);
        let entry = self.add(&mut state, &header, bytes, held_bytes, &settings);
        state.producers.on_heard(header.producer_id, now_ms);
        self.count_producers(state.producers.count());
        drop(state);
        self.context.tail_budget().evict();
        Ok(Appended {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            entry,
        })
    }

    /// The single effect of an append.
    fn add(
        &self,
        state: &mut RefMut<'_, State>,
        header: &BatchHeader,
        bytes: Bytes,
        held_bytes: usize,
        settings: &LogSettings,
    ) -> Entry {
        include_producer(&mut state.producers, header, &bytes);
        state.epochs.assign(header.leader_epoch, header.base_offset);
        let segment = state.active_mut();
        let (segment_base, position) = (segment.base, segment.end_position);
        segment.push(header, settings);
        state.offsets.log_end = header.next_offset();
        state.offsets.assert_ordered();
        state.is_changed = true;
        self.tail.borrow_mut().push(TailBatch {
            bytes: bytes.clone(),
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            max_timestamp: header.max_timestamp,
            segment_base,
            position,
            held_bytes,
            journal_entry: None,
        });
        Entry {
            kind: EntryKind::Append,
            topic_partition: self.topic_partition,
            segment_base,
            file_position: position,
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            leader_epoch: header.leader_epoch,
            payload: Payload::from(bytes),
        }
    }

    /// Notes the number of the journal entry that `append` or `prepare` returned last.
    pub fn on_enqueued(&self, journal_entry: Position) {
        self.tail.borrow_mut().set_journal_entry(journal_entry);
        let mut state = self.state.borrow_mut();
        state.is_prepared = true;
        state.is_changed = true;
    }

    /// The journal made everything below `next_offset` durable. Completions of entries before a
    /// truncation are told before `truncate` is called.
    pub fn on_durable(&self, next_offset: Offset) {
        let mut state = self.state.borrow_mut();
        state.offsets.durable_end = state.offsets.durable_end.max(next_offset);
        state.offsets.assert_ordered();
    }

    /// Everything below `high_watermark` may be read; never goes back. The last stable offset
    /// follows.
    pub fn advance_high_watermark(&self, high_watermark: Offset) {
        let mut state = self.state.borrow_mut();
        state.offsets.high_watermark = state.offsets.high_watermark.max(high_watermark);
        let open = state
            .producers
            .first_open_transaction()
            .unwrap_or(Offset::MAX);
        let stable = state.offsets.high_watermark.min(open);
        state.offsets.last_stable = state.offsets.last_stable.max(stable);
        state.offsets.assert_ordered();
    }

    /// Starts a new segment, unless the active one is empty.
    pub fn roll(&self, now_ms: i64) {
        let mut state = self.state.borrow_mut();
        if state.active().end_position > 0 {
            if !state.is_prepared {
                // nothing was appended since the start: the segment is in its file to the last byte
                state.destaged.destaged_position = state.active().end_position;
            }
            state.roll(&self.settings.get(), now_ms);
            state.is_changed = true;
        }
    }

    /// One journal entry with everything that is in no segment, so that older entries of this log
    /// are not needed any more; none when there is nothing, when it is above `bytes_max`, or when a
    /// rolled segment waits for its destaging. After it was queued: `on_carried`.
    pub fn carry(&self, bytes_max: usize) -> Option<Entry> {
        let fits = self.carry_bytes() <= bytes_max;
        let state = self.state.borrow();
        let start = align_down(state.destaged.destaged_position);
        let is_idle = self.tail.borrow().pinned_entry().is_none();
        if state.open.len() > 1 || state.is_truncating || !fits || is_idle {
            return None;
        }
        Some(self.carry_entry(&state, start))
    }

    /// How long the payload of that entry would be.
    pub fn carry_bytes(&self) -> usize {
        let state = self.state.borrow();
        let start = align_down(state.destaged.destaged_position);
        let bytes = state.active().end_position.saturating_sub(start);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub(super) fn carry_entry(&self, state: &State, start: FilePosition) -> Entry {
        let segment = state.active();
        let mut payload = Payload::empty();
        for part in self
            .tail
            .borrow()
            .parts(segment.base, start, segment.end_position)
        {
            payload.push(part);
        }
        assert!(
            u64::try_from(payload.len()) == Ok(segment.end_position - start),
            "[tail-pinned] the tail holds every byte that is not in a segment"
        );
        Entry {
            kind: EntryKind::Carry,
            topic_partition: self.topic_partition,
            segment_base: segment.base,
            file_position: start,
            base_offset: state.destaged.next_offset,
            next_offset: state.offsets.log_end,
            leader_epoch: state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN),
            payload,
        }
    }

    /// Notes the number of the entry that `carry` returned. The ring before it may be reused once
    /// that entry is durable and a checkpoint made after this call is durable.
    pub fn on_carried(&self, journal_entry: Position) {
        self.tail.borrow_mut().set_carried(journal_entry);
    }

    /// Bytes in memory that are in no segment.
    pub fn undestaged_bytes(&self) -> u64 {
        self.tail.borrow().undestaged_bytes()
    }

    /// Keeps the bytes of a segment for whoever is about to look up its file.
    pub(super) fn pin(&self, base: Offset) -> Result<Pin, Error> {
        if let Some(pin) = self.pins.take(base) {
            return Ok(pin);
        }
        self.check_failed()?; // of a deleted log nothing is read
        let offsets = self.offsets();
        Err(Error::OffsetOutOfRange {
            requested: base,
            log_start: offsets.log_start,
            log_end: offsets.log_end,
        })
    }

    pub(super) fn key(&self, base: Offset) -> SegmentKey {
        (self.number, base)
    }

    pub(super) fn path(&self, base: Offset, kind: FileKind) -> PathBuf {
        self.dir.join(file_name(base, kind))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.release_preallocation();
        self.count_producers(0);
    }
}

/// Takes a batch into a producer state.
pub(super) fn include_producer(producers: &mut ProducerStates, header: &BatchHeader, batch: &[u8]) {
    if !header.is_control() {
        producers.update(header);
    } else if header.has_producer_id() {
        producers.update_marker(header, coordinator_epoch(header, batch).unwrap_or(-1));
    }
}

/// The coordinator epoch in the one record of a transaction marker.
fn coordinator_epoch(header: &BatchHeader, batch: &[u8]) -> Option<i32> {
    let payload = record::payload(header, batch, MARKER_BYTES_MAX).ok()?;
    let record = record::iter_records(&payload, header.record_count)
        .next()?
        .ok()?;
    let (_version, epoch) = record.value?.split_first_chunk::<2>()?;
    epoch
        .first_chunk::<4>()
        .map(|bytes| i32::from_be_bytes(*bytes))
}

/// The batch in memory that it fills: a small batch must not keep a large frame alive.
fn own(bytes: BytesMut, held_bytes: usize) -> (Bytes, usize) {
    let length = bytes.len();
    if length.saturating_mul(2) < held_bytes {
        (Bytes::copy_from_slice(&bytes), length)
    } else {
        (bytes.freeze(), held_bytes.max(length))
    }
}

pub(super) fn size_of_batch(header: &BatchHeader) -> u64 {
    u64::try_from(header.total_size()).unwrap_or(u64::MAX / 2)
}

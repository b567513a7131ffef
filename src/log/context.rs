//! What the logs of one shard share: tail memory, open descriptors, index memory, preallocation.
//!
//! Runs on: one shard.        Owner: the shard; every `Log` holds a reference.
//! Promises: descriptors and index memory stay within their limits, whatever the number of
//! partitions; what is used right now stays usable (handles are reference-counted), it is only no
//! longer cached. Producers are let in up to a limit, and those that are known stay.
//! Invariants: [sealed-closed] a segment is in the cache as `Direct` while it is open and as
//! `Shared` once it is sealed, never as both.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use super::checkpoint::align_down;
use super::error::Error;
use super::lru::Lru;
use super::offset_index::OffsetIndex;
use super::pins::{Pin, Pins};
use super::reclaim::Reclaim;
use super::tail::TailBudget;
use super::time_index::TimeIndex;
use crate::model::offset::Offset;
use crate::rt::{File, OpenOptions, SharedFile};

/// Space ahead of the data up to which deleted segments are kept for new ones. What of it is not
/// filled by then, a stop has to give back.
const SPARE_BYTES_MAX: u64 = 4 << 30;

/// Number of a log within its shard, never used twice.
pub type LogNumber = u64;

/// A segment of a log of this shard.
pub type SegmentKey = (LogNumber, Offset);

/// Limits of what the logs of one shard may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLimits {
    /// Memory for recent batches.
    pub tail_bytes: usize,
    /// Segment files open at a time, as far as nobody is using more.
    pub open_files: usize,
    /// Memory for indexes of sealed segments.
    pub index_bytes: usize,
    /// Disk space reserved ahead of what is written; see [`LogContext::limit_preallocation`].
    pub preallocation_bytes: u64,
    /// Bytes of one destaging write; a multiple of 4096.
    pub destage_bytes: usize,
    /// Bytes of a deleted file that are given back at a time; a power of two.
    pub reclaim_bytes: u64,
    /// Idempotent producers of all logs; one log has half of them at most.
    pub producers: usize,
}

impl Default for ContextLimits {
    fn default() -> Self {
        Self {
            tail_bytes: 64 << 20,
            open_files: 4096,
            index_bytes: 16 << 20,
            preallocation_bytes: 256 << 20,
            destage_bytes: 1 << 20,
            reclaim_bytes: 16 << 20,
            producers: 100_000,
        }
    }
}

/// Both indexes of a sealed segment.
#[derive(Debug)]
pub struct SegmentIndexes {
    /// Offsets to positions.
    pub offsets: OffsetIndex,
    /// Timestamps to offsets.
    pub times: TimeIndex,
}

#[derive(Clone, Debug)]
enum Handle {
    Direct(File),
    Shared(SharedFile),
}

/// See the file's head.
#[derive(Debug)]
pub struct LogContext {
    limits: ContextLimits,
    tail_budget: Rc<TailBudget>,
    files: RefCell<Lru<SegmentKey, Handle>>,
    indexes: RefCell<Lru<SegmentKey, Rc<SegmentIndexes>>>,
    preallocated_bytes: Cell<u64>,
    preallocation_limit: Cell<u64>,
    next_log: Cell<LogNumber>,
    reclaim: Reclaim,
    producers: Cell<usize>,
}

impl LogContext {
    /// For the logs of one shard.
    pub fn new(limits: ContextLimits) -> Rc<Self> {
        Rc::new(Self {
            limits,
            tail_budget: TailBudget::new(limits.tail_bytes),
            files: RefCell::new(Lru::new(limits.open_files)),
            indexes: RefCell::new(Lru::new(limits.index_bytes)),
            preallocated_bytes: Cell::new(0),
            preallocation_limit: Cell::new(limits.preallocation_bytes),
            next_log: Cell::new(0),
            reclaim: Reclaim::new(limits.reclaim_bytes),
            producers: Cell::new(0),
        })
    }

    /// The limits.
    pub const fn limits(&self) -> &ContextLimits {
        &self.limits
    }

    /// Memory of the tails: appends wait for its room.
    pub const fn tail_budget(&self) -> &Rc<TailBudget> {
        &self.tail_budget
    }

    /// Deleted files, whose space is given back in steps.
    pub const fn reclaim(&self) -> &Reclaim {
        &self.reclaim
    }

    /// Segment files that are open because of the cache.
    pub fn open_file_count(&self) -> usize {
        self.files.borrow().count()
    }

    /// Disk space that is reserved ahead of what is written.
    pub const fn preallocated_bytes(&self) -> u64 {
        self.preallocated_bytes.get()
    }

    /// Idempotent producers that the logs remember.
    pub const fn producer_count(&self) -> usize {
        self.producers.get()
    }

    /// A log that remembered `before` producers has `now`.
    pub(super) fn count_producers(&self, before: usize, now: usize) {
        self.producers.set(self.producers.get() - before + now);
    }

    /// Whether a log that remembers `known` producers may have one more.
    pub(super) fn has_room_for_producer(&self, known: usize) -> bool {
        let limit = self.limits.producers;
        self.producers.get() < limit && known < limit / 2
    }

    /// Whether there will soon be no room for a producer of such a log.
    pub(super) fn is_short_of_producers(&self, known: usize) -> bool {
        let most = self.limits.producers / 4 * 3;
        self.producers.get() >= most || known >= most / 2
    }

    pub(super) fn next_log(&self) -> LogNumber {
        let number = self.next_log.get();
        self.next_log.set(number + 1);
        number
    }

    /// The open segment at `path`, for direct reads and writes. Makes the file if it is not there
    /// and `creates`.
    ///
    /// Cancel: safe.
    pub(super) async fn open_direct(
        &self,
        key: SegmentKey,
        path: &Path,
        creates: bool,
    ) -> Result<File, Error> {
        let cached = self.files.borrow_mut().get(key);
        match cached {
            Some(Handle::Direct(file)) => return Ok(file),
            Some(Handle::Shared(_)) => self.close(key).await?,
            None => {}
        }
        let options = OpenOptions::direct();
        let options = if creates { options.create() } else { options };
        let file = File::open(path, &options).await?;
        let gone = self
            .files
            .borrow_mut()
            .insert(key, Handle::Direct(file.clone()), 1);
        close_all(gone).await?;
        Ok(file)
    }

    /// The sealed segment at `path`, for reads through the page cache; `pin` is one of it.
    ///
    /// Cancel: safe.
    pub(super) async fn open_shared(
        &self,
        key: SegmentKey,
        path: &Path,
        (pins, pin): (&Pins, Pin),
    ) -> Result<SharedFile, Error> {
        let cached = self.files.borrow_mut().get(key);
        match cached {
            Some(Handle::Shared(file)) => return Ok(file),
            Some(Handle::Direct(_)) => self.close(key).await?,
            None => {}
        }
        let file = SharedFile::open_pinned(path, pin).await?;
        if !pins.has(key.1) {
            return Ok(file); // released meanwhile: nobody would take it out of the cache again
        }
        let gone = self
            .files
            .borrow_mut()
            .insert(key, Handle::Shared(file.clone()), 1);
        close_all(gone).await?;
        Ok(file)
    }

    /// Forgets a segment's descriptor and closes it, unless somebody else still uses it.
    ///
    /// Cancel: safe.
    pub(super) async fn close(&self, key: SegmentKey) -> Result<(), Error> {
        let handle = self.files.borrow_mut().remove(key);
        close_all(handle).await
    }

    /// Indexes of a sealed segment, if they are in memory.
    pub(super) fn cached_indexes(&self, key: SegmentKey) -> Option<Rc<SegmentIndexes>> {
        self.indexes.borrow_mut().get(key)
    }

    /// Keeps the indexes of a sealed segment for a while.
    pub(super) fn keep_indexes(&self, key: SegmentKey, indexes: &Rc<SegmentIndexes>) {
        let weight = 256 + indexes.offsets.count() * 8 + indexes.times.count() * 16;
        self.indexes
            .borrow_mut()
            .insert(key, Rc::clone(indexes), weight);
    }

    /// Forgets the indexes of a segment.
    pub(super) fn forget_indexes(&self, key: SegmentKey) {
        self.indexes.borrow_mut().remove(key);
    }

    /// From now on this much may be reserved, because more or less of the disk is free. What is
    /// reserved above it stays, and nothing is added.
    pub fn limit_preallocation(&self, bytes: u64) {
        self.preallocation_limit.set(bytes);
    }

    /// Takes up to `wanted` bytes of the preallocation budget, in whole blocks.
    pub(super) fn take_preallocation(&self, wanted: u64) -> u64 {
        let used = self.preallocated_bytes.get();
        let left = self.preallocation_limit.get().saturating_sub(used);
        let granted = align_down(wanted.min(left));
        self.preallocated_bytes.set(used + granted);
        granted
    }

    /// Takes `bytes` of the preallocation budget for a spare; a quarter of it is left to others.
    pub(super) fn take_spare_room(&self, bytes: u64) -> bool {
        let used = self.preallocated_bytes.get() + bytes;
        let has_room = used <= (self.preallocation_limit.get() / 4 * 3).min(SPARE_BYTES_MAX);
        if has_room {
            self.preallocated_bytes.set(used);
        }
        has_room
    }

    /// Whether more is reserved than may be: the disk has filled up.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.preallocated_bytes.get() > self.preallocation_limit.get()
    }

    /// Gives preallocation back: it was written, or released.
    pub(super) fn give_preallocation(&self, bytes: u64) {
        self.preallocated_bytes
            .set(self.preallocated_bytes.get().saturating_sub(bytes));
    }
}

async fn close_all(handles: impl IntoIterator<Item = Handle>) -> Result<(), Error> {
    for handle in handles {
        match handle {
            Handle::Direct(file) => file.close().await?,
            Handle::Shared(file) => drop(file),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preallocation_is_granted_in_whole_blocks_until_the_limit() {
        let context = LogContext::new(ContextLimits {
            preallocation_bytes: 100_000,
            ..ContextLimits::default()
        });
        assert_eq!(context.take_preallocation(50_000), 49_152);
        assert_eq!(context.take_preallocation(50_000), 49_152);
        assert_eq!(context.take_preallocation(50_000), 0, "less than a block");
        context.give_preallocation(49_152);
        context.limit_preallocation(60_000);
        assert_eq!(context.take_preallocation(50_000), 8_192);
        context.limit_preallocation(10_000);
        assert_eq!(context.take_preallocation(50_000), 0, "above the limit");
        assert_eq!(
            context.preallocated_bytes(),
            57_344,
            "what is reserved stays"
        );
    }
}

//! Recent batches of one log in memory, and the shard-wide budget that bounds them.
//!
//! Runs on: the partition's home shard.        Owner: `Log`; the budget is shared by all logs of a
//! shard.
//! Promises: what is not in a segment yet stays here, whatever the budget says; what is in a
//! segment goes oldest first, over all logs of the shard, once the budget is used up.
//! Invariants: [tail-dense] batches follow each other without a hole in offsets and, within a
//! segment, in positions. [tail-pinned] only destaged batches are evicted. [tail-charge] every
//! batch is charged for the memory that it keeps alive until it leaves.
//!
//! Besides whole batches the tail may hold one *fragment*: the bytes of the last, partial block
//! that a start found in the segment, or that was written because memory was short. The block will
//! be written again, so the journal holds them too. Fragments are not charged: less than a block
//! for each log.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use bytes::Bytes;

use super::checkpoint::align_down;
use crate::journal::journal::Position;
use crate::model::offset::{FilePosition, Offset};
use crate::rt::sync::Notify;

/// Memory that a batch costs besides its bytes.
const OVERHEAD_BYTES: usize = size_of::<TailBatch>();

/// One batch, as it will be or is in its segment.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// The whole batch, with its final base offset.
    pub bytes: Bytes,
    /// First offset.
    pub base_offset: Offset,
    /// Exclusive end.
    pub next_offset: Offset,
    /// Largest timestamp, ms.
    pub max_timestamp: i64,
    /// Base offset of its segment.
    pub segment_base: Offset,
    /// Where it starts in its segment.
    pub position: FilePosition,
    /// Bytes of memory that it keeps alive.
    pub held_bytes: usize,
    /// Number of the journal entry that holds it; none until the journal has taken it.
    pub journal_entry: Option<Position>,
}

impl TailBatch {
    /// Exclusive end in its segment.
    pub fn end_position(&self) -> FilePosition {
        self.position + u64::try_from(self.bytes.len()).unwrap_or(u64::MAX / 2)
    }

    fn charge(&self) -> usize {
        self.held_bytes + OVERHEAD_BYTES
    }
}

/// The bytes between a block boundary and the first batch that is in memory only.
#[derive(Clone, Debug)]
struct Fragment {
    position: FilePosition,
    bytes: Bytes,
    journal_entry: Option<Position>,
}

impl Fragment {
    fn end_position(&self) -> FilePosition {
        self.position + u64::try_from(self.bytes.len()).unwrap_or(u64::MAX / 2)
    }
}

/// The recent batches of one log.
#[derive(Debug)]
pub struct Tail {
    batches: VecDeque<TailBatch>,
    /// How many of `batches`, from the front, are in their segments.
    destaged: usize,
    undestaged_bytes: u64,
    fragment: Option<Fragment>,
    budget: Rc<TailBudget>,
}

impl Tail {
    /// An empty tail that is charged to `budget`.
    pub fn new(budget: Rc<TailBudget>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            batches: VecDeque::new(),
            destaged: 0,
            undestaged_bytes: 0,
            fragment: None,
            budget,
        }))
    }

    /// Keeps the partial last block of what the segment's file has. The journal holds it from entry
    /// `journal_entry` on; none until it has been told.
    pub fn set_fragment(
        &mut self,
        position: FilePosition,
        bytes: Bytes,
        journal_entry: Option<Position>,
    ) {
        self.fragment = Some(Fragment {
            position,
            bytes,
            journal_entry,
        });
    }

    /// Adds a batch behind the last one.
    pub fn push(&mut self, batch: TailBatch) {
        if let Some(last) = self.batches.back() {
            let is_next = last.next_offset == batch.base_offset
                && (last.segment_base != batch.segment_base
                    || last.end_position() == batch.position);
            assert!(
                is_next,
                "[tail-dense] {} behind {}",
                batch.base_offset, last.next_offset
            );
        }
        self.undestaged_bytes += u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX / 2);
        self.budget.charge(batch.charge());
        self.batches.push_back(batch);
    }

    /// Notes which journal entry holds what was handed to the journal last.
    pub fn set_journal_entry(&mut self, number: Position) {
        if let Some(batch) = self.batches.back_mut()
            && batch.journal_entry.is_none()
        {
            batch.journal_entry = Some(number);
        } else if let Some(fragment) = &mut self.fragment
            && fragment.journal_entry.is_none()
        {
            fragment.journal_entry = Some(number);
        }
    }

    /// Notes that one journal entry now holds everything that is not in a segment.
    pub fn set_carried(&mut self, number: Position) {
        if let Some(fragment) = &mut self.fragment {
            fragment.journal_entry = Some(number);
        }
        for batch in self.batches.iter_mut().skip(self.destaged) {
            batch.journal_entry = Some(number);
        }
    }

    /// The oldest journal entry that is still needed.
    pub fn pinned_entry(&self) -> Option<Position> {
        let fragment = self
            .fragment
            .as_ref()
            .and_then(|fragment| fragment.journal_entry);
        fragment.or_else(|| {
            self.batches
                .get(self.destaged)
                .and_then(|batch| batch.journal_entry)
        })
    }

    /// First offset in memory.
    pub fn first_offset(&self) -> Option<Offset> {
        self.batches.front().map(|batch| batch.base_offset)
    }

    /// The batches from the one that holds `offset` on; none when that one is not in memory.
    pub fn from_offset(&self, offset: Offset) -> impl Iterator<Item = &TailBatch> {
        let holds = self.first_offset().is_some_and(|first| first <= offset);
        let skip = self
            .batches
            .partition_point(|batch| batch.next_offset <= offset);
        let skip = if holds { skip } else { self.batches.len() };
        self.batches.range(skip..)
    }

    /// Bytes of the batches from the one that holds `offset` on that end at or below `upper_bound`,
    /// counted by their positions; none when the first one is not in memory.
    pub fn size_between(&self, offset: Offset, upper_bound: Offset) -> Option<u64> {
        self.first_offset().filter(|first| *first <= offset)?;
        let mut start = self
            .batches
            .partition_point(|batch| batch.next_offset <= offset);
        let end = self
            .batches
            .partition_point(|batch| batch.next_offset <= upper_bound);
        let mut bytes = 0;
        while start < end {
            let first = self.batches.get(start)?;
            // positions rise within a segment
            let behind = self
                .batches
                .partition_point(|b| b.segment_base <= first.segment_base);
            let stop = behind.min(end);
            let last = self.batches.get(stop.checked_sub(1)?)?;
            bytes += last.end_position() - first.position;
            start = stop;
        }
        Some(bytes)
    }

    /// The batches that are not in a segment yet.
    pub fn undestaged(&self) -> impl DoubleEndedIterator<Item = &TailBatch> {
        self.batches.range(self.destaged..)
    }

    /// Bytes of the batches that are not in a segment yet.
    pub const fn undestaged_bytes(&self) -> u64 {
        self.undestaged_bytes
    }

    /// Position after the last batch that ends at or below `end_offset`, if that batch is not
    /// destaged and lies in segment `base`.
    pub fn end_position_at(&self, base: Offset, end_offset: Offset) -> Option<FilePosition> {
        let end = self
            .batches
            .partition_point(|batch| batch.next_offset <= end_offset);
        let batch = self
            .batches
            .range(self.destaged.min(end)..end)
            .next_back()?;
        (batch.segment_base == base).then(|| batch.end_position())
    }

    /// The undestaged bytes of segment `base` in `start..end`, in the parts in which they are held.
    pub fn parts(&self, base: Offset, start: FilePosition, end: FilePosition) -> Vec<Bytes> {
        let mut parts = Vec::new();
        if let Some(fragment) = &self.fragment {
            push_part(&mut parts, &fragment.bytes, fragment.position, start, end);
        }
        for batch in self.undestaged().filter(|batch| batch.segment_base == base) {
            if batch.position >= end {
                break;
            }
            push_part(&mut parts, &batch.bytes, batch.position, start, end);
        }
        parts
    }

    /// The segment's bytes below `position` are in its file: batches that end there may be evicted.
    /// Where `position` cuts a block that will be written again, `keeps_block` keeps its beginning.
    pub fn on_destaged(
        this: &Rc<RefCell<Self>>,
        base: Offset,
        position: FilePosition,
        keeps_block: bool,
    ) {
        let (budget, newest) = {
            let mut tail = this.borrow_mut();
            let pinned = tail.pinned_entry();
            let block = align_down(position);
            let rest = tail.parts(base, block, position).concat();
            let fragment_end = tail.fragment.as_ref().map(Fragment::end_position);
            if fragment_end.is_some_and(|end| end <= position) {
                tail.fragment = None;
            }
            let mut newest = None;
            while let Some(batch) = tail.batches.get(tail.destaged)
                && batch.segment_base == base
                && batch.end_position() <= position
            {
                newest = Some(batch.next_offset);
                tail.undestaged_bytes -= u64::try_from(batch.bytes.len()).unwrap_or(0);
                tail.destaged += 1;
            }
            if keeps_block && !rest.is_empty() {
                tail.set_fragment(block, Bytes::from(rest), pinned);
            }
            (Rc::clone(&tail.budget), newest)
        };
        if let Some(next_offset) = newest {
            budget.offer(Rc::downgrade(this), next_offset);
        }
    }

    /// Forgets the partial block: the segment's end has to be read again.
    pub fn clear_fragment(&mut self) {
        self.fragment = None;
    }

    /// Drops the batches that end above `end_offset`: the log was cut there.
    pub fn truncate_to(&mut self, end_offset: Offset) {
        while self
            .batches
            .back()
            .is_some_and(|batch| batch.next_offset > end_offset)
        {
            let Some(batch) = self.batches.pop_back() else {
                return;
            };
            self.budget.release(batch.charge());
            if self.batches.len() >= self.destaged {
                self.undestaged_bytes -= u64::try_from(batch.bytes.len()).unwrap_or(0);
            }
        }
        self.destaged = self.destaged.min(self.batches.len());
    }

    /// Drops destaged batches that end at or below `end_offset`.
    fn evict_to(&mut self, end_offset: Offset) {
        while self.destaged > 0
            && self
                .batches
                .front()
                .is_some_and(|batch| batch.next_offset <= end_offset)
        {
            let Some(batch) = self.batches.pop_front() else {
                return;
            };
            self.destaged -= 1;
            self.budget.release(batch.charge());
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let held: usize = self.batches.iter().map(TailBatch::charge).sum();
        self.budget.release(held);
    }
}

/// Adds what of `bytes`, which lie at `at`, falls into `start..end`.
fn push_part(
    parts: &mut Vec<Bytes>,
    bytes: &Bytes,
    at: FilePosition,
    start: FilePosition,
    end: FilePosition,
) {
    let from = usize::try_from(start.saturating_sub(at))
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let to = usize::try_from(end.saturating_sub(at))
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    if from < to {
        parts.push(bytes.slice(from..to));
    }
}

/// Memory for the tails of all logs of one shard.
#[derive(Debug)]
pub struct TailBudget {
    limit_bytes: usize,
    used_bytes: Cell<usize>,
    /// Destaged runs of batches, oldest first: a tail, and the offset up to which it may be
    /// evicted.
    evictable: RefCell<VecDeque<(Weak<RefCell<Tail>>, Offset)>>,
    room: Notify,
}

impl TailBudget {
    /// A budget of `limit_bytes` for all tails together.
    pub fn new(limit_bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            limit_bytes,
            used_bytes: Cell::new(0),
            evictable: RefCell::new(VecDeque::new()),
            room: Notify::new(),
        })
    }

    /// Bytes that all tails hold.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    /// Bytes that all tails may hold.
    pub const fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Whether appends may go on; otherwise destaging has to come first.
    pub fn has_room(&self) -> bool {
        self.used_bytes.get() < self.limit_bytes
    }

    /// Waits until appends may go on.
    ///
    /// Cancel: safe.
    pub async fn wait_for_room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }

    /// Evicts destaged batches, oldest first, until the budget is kept or nothing more can go.
    /// Called while no tail is borrowed.
    pub fn evict(&self) {
        while self.used_bytes.get() >= self.limit_bytes {
            let Some((tail, end_offset)) = self.evictable.borrow_mut().pop_front() else {
                return;
            };
            if let Some(tail) = tail.upgrade() {
                tail.borrow_mut().evict_to(end_offset);
            }
        }
    }

    fn charge(&self, bytes: usize) {
        self.used_bytes.set(self.used_bytes.get() + bytes);
    }

    fn release(&self, bytes: usize) {
        let used = self.used_bytes.get();
        assert!(bytes <= used, "[tail-charge] {bytes} released of {used}");
        self.used_bytes.set(used - bytes);
        if self.has_room() {
            self.room.notify_all();
        }
    }

    fn offer(&self, tail: Weak<RefCell<Tail>>, end_offset: Offset) {
        self.evictable.borrow_mut().push_back((tail, end_offset));
        self.evict();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(offset: i64, segment: i64, position: u64, size: usize) -> TailBatch {
        TailBatch {
            bytes: Bytes::from(vec![u8::try_from(offset).unwrap(); size]),
            base_offset: Offset::new(offset),
            next_offset: Offset::new(offset + 1),
            max_timestamp: offset,
            segment_base: Offset::new(segment),
            position,
            held_bytes: size,
            journal_entry: None,
        }
    }

    fn offsets<'a>(batches: impl Iterator<Item = &'a TailBatch>) -> Vec<i64> {
        batches.map(|batch| batch.base_offset.get()).collect()
    }

    #[test]
    fn batches_are_found_by_any_offset_they_hold() {
        let tail = Tail::new(TailBudget::new(1 << 20));
        let mut tail = tail.borrow_mut();
        let mut first = batch(10, 0, 0, 5);
        first.next_offset = Offset::new(15);
        tail.push(first);
        tail.push(batch(15, 0, 5, 5));
        assert_eq!(offsets(tail.from_offset(Offset::new(9))), [0; 0]);
        assert_eq!(offsets(tail.from_offset(Offset::new(12))), [10, 15]);
        assert_eq!(offsets(tail.from_offset(Offset::new(15))), [15]);
        assert_eq!(offsets(tail.from_offset(Offset::new(16))), [0; 0]);
    }

    #[test]
    fn only_destaged_batches_are_evicted_oldest_first_over_all_tails() {
        let budget = TailBudget::new(3 * (OVERHEAD_BYTES + 100));
        let (a, b) = (Tail::new(Rc::clone(&budget)), Tail::new(Rc::clone(&budget)));
        a.borrow_mut().push(batch(1, 0, 0, 100));
        b.borrow_mut().push(batch(2, 0, 0, 100));
        a.borrow_mut().push(batch(2, 0, 100, 100));
        assert!(!budget.has_room());
        budget.evict();
        assert_eq!(budget.used_bytes(), budget.limit_bytes());
        Tail::on_destaged(&b, Offset::ZERO, 100, false);
        assert_eq!(b.borrow().first_offset(), None);
        assert!(budget.has_room());
        Tail::on_destaged(&a, Offset::ZERO, 100, false);
        b.borrow_mut().push(batch(3, 0, 100, 100));
        budget.evict();
        assert_eq!(a.borrow().first_offset(), Some(Offset::new(2)));
        drop((a, b));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn parts_cover_a_block_range_with_fragment_and_batches() {
        let tail = Tail::new(TailBudget::new(1 << 20));
        let mut tail = tail.borrow_mut();
        tail.set_fragment(4096, Bytes::from_static(b"fragment"), None);
        tail.push(batch(1, 0, 4104, 10));
        tail.push(batch(2, 0, 4114, 10));
        tail.push(batch(3, 9, 0, 10));
        let joined = |start, end| tail.parts(Offset::ZERO, start, end).concat();
        let all = [&b"fragment"[..], &[1; 10], &[2; 10]].concat();
        assert_eq!(joined(4096, 8192), all);
        assert_eq!(joined(4100, 4106), b"ment\x01\x01");
        assert_eq!(
            tail.end_position_at(Offset::ZERO, Offset::new(3)),
            Some(4124)
        );
        assert_eq!(tail.end_position_at(Offset::ZERO, Offset::new(4)), None);
        assert_eq!(
            tail.end_position_at(Offset::new(9), Offset::new(4)),
            Some(10)
        );
        assert_eq!(tail.end_position_at(Offset::new(9), Offset::new(3)), None);
        assert_eq!(tail.end_position_at(Offset::ZERO, Offset::new(1)), None);
    }

    #[test]
    fn oldest_needed_journal_entry_is_the_fragments_then_the_first_batchs() {
        let tail = Tail::new(TailBudget::new(1 << 20));
        tail.borrow_mut()
            .set_fragment(0, Bytes::from_static(b"12345"), None);
        tail.borrow_mut().set_journal_entry(Position(7));
        tail.borrow_mut().push(batch(1, 0, 5, 5));
        tail.borrow_mut().set_journal_entry(Position(8));
        assert_eq!(tail.borrow().pinned_entry(), Some(Position(7)));
        Tail::on_destaged(&tail, Offset::ZERO, 5, false);
        assert_eq!(tail.borrow().pinned_entry(), Some(Position(8)));
        tail.borrow_mut().set_carried(Position(20));
        assert_eq!(tail.borrow().pinned_entry(), Some(Position(20)));
        Tail::on_destaged(&tail, Offset::ZERO, 10, false);
        assert_eq!(tail.borrow().pinned_entry(), None);
    }

    #[test]
    fn a_block_that_is_written_again_stays_and_pins_what_held_it() {
        let tail = Tail::new(TailBudget::new(1 << 20));
        tail.borrow_mut().push(batch(1, 0, 0, 4000));
        tail.borrow_mut().set_journal_entry(Position(7));
        tail.borrow_mut().push(batch(2, 0, 4000, 200));
        tail.borrow_mut().set_journal_entry(Position(8));
        Tail::on_destaged(&tail, Offset::ZERO, 4200, true);
        assert_eq!(tail.borrow().undestaged_bytes(), 0);
        assert_eq!(tail.borrow().pinned_entry(), Some(Position(7)));
        assert_eq!(
            tail.borrow().parts(Offset::ZERO, 4096, 9999).concat(),
            [2; 104]
        );
        tail.borrow_mut().push(batch(3, 0, 4200, 4000));
        assert_eq!(
            tail.borrow().parts(Offset::ZERO, 4096, 4202).concat(),
            [&[2; 104][..], &[3; 2]].concat()
        );
        Tail::on_destaged(&tail, Offset::ZERO, 8192, true);
        assert_eq!(
            tail.borrow().parts(Offset::ZERO, 0, 9999).concat(),
            [3; 4000]
        );
    }

    #[test]
    fn truncation_drops_from_the_end_and_gives_the_memory_back() {
        let budget = TailBudget::new(1 << 20);
        let tail = Tail::new(Rc::clone(&budget));
        for offset in 1..5 {
            tail.borrow_mut()
                .push(batch(offset, 0, u64::try_from(offset).unwrap() * 10, 10));
        }
        Tail::on_destaged(&tail, Offset::ZERO, 30, false);
        tail.borrow_mut().truncate_to(Offset::new(4));
        assert_eq!(
            offsets(tail.borrow().from_offset(Offset::new(1))),
            [1, 2, 3]
        );
        assert_eq!(tail.borrow().undestaged_bytes(), 10);
        tail.borrow_mut().truncate_to(Offset::new(2));
        assert_eq!(tail.borrow().undestaged_bytes(), 0);
        assert_eq!(budget.used_bytes(), OVERHEAD_BYTES + 10);
    }
}

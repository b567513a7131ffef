//! Which bytes of the ring are free, what pins the others, and where the next block goes.
//!
//! Pure: no async, no clock, no IO.        Owner: `Journal`.
//! Promises: what `grant` promised, `place` finds, in whatever order and packing it is asked for.
//! Invariants:
//! [ring-room] room is granted before an entry is queued, so the committer never waits for room, so
//! an entry that frees space never stands behind one that waits for it.
//! [ring-live] no byte from the oldest needed block to the newest is handed out again.
//! [ring-reserve] data leaves an eighth of the ring to control entries, which free space.
//!
//! The ring is a list of files that may grow while it runs. Blocks go into one file until the next
//! block does not fit, then into the next file that has room: `head` moves on, `tail` follows:
//!
//! ```text
//!   file 0 [h|......tail=====]   file 1 [h|==========]   file 2 [h|===head.......]
//!               oldest span            span                    newest span
//! ```
//! Every span lies in one file; only the newest one may share its file with the oldest one.
//! Freeing goes by marks, not by blocks: one mark per `mark_spacing` bytes bounds the memory.

use std::collections::VecDeque;

use crate::journal::block::{FILE_HEADER_BYTES, Link};
use crate::model::limits::ALIGNMENT_BYTES;

/// Grain of all sizes here.
const PAGE: u64 = ALIGNMENT_BYTES as u64;
/// Where blocks begin in a file.
pub const FILE_START: u64 = FILE_HEADER_BYTES as u64;
/// Data leaves this part of the ring to control entries, ...
const CONTROL_SHARE: u64 = 8;
/// ... and at least this much.
const CONTROL_RESERVE_MIN: u64 = 4 * PAGE;

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomClass {
    /// Batches of producers.
    Data,
    /// Carried bytes, truncations, log starts, deletions: they free space, so they have a reserve.
    Control,
}

/// A place in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Number of the file.
    pub file: u32,
    /// Byte in the file.
    pub offset: u64,
}

/// Where replay starts: the next block of the chain, and where it is looked for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its place, unless it did not fit there: then it is at the start of some file.
    pub slot: Slot,
    /// What its header says.
    pub link: Link,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Entries before this number are in blocks before the mark.
    first_entry: u64,
    span: u64,
    anchor: Anchor,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    id: u64,
    file: u32,
    /// Oldest needed byte.
    start: u64,
    /// Where the next block would go.
    end: u64,
}

impl Span {
    const fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// A free stretch of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Free {
    slot: Slot,
    len: u64,
}

/// Accounting of one ring.
#[derive(Debug)]
pub struct Ring {
    /// Size of each file, its first page included.
    files: Vec<u64>,
    /// Oldest first; the last one is the head. Never empty.
    spans: VecDeque<Span>,
    /// Oldest first. Never empty.
    marks: VecDeque<Mark>,
    mark_spacing: u64,
    /// Room granted and not yet placed or given back.
    outstanding: u64,
    /// The largest single grant of those.
    outstanding_largest: u64,
}

impl Ring {
    /// A ring of one empty file; `link` is what the first block will say.
    ///
    /// # Panics
    /// When the file has no room for a block.
    pub fn new(first_file_bytes: u64, mark_spacing: u64, link: Link) -> Self {
        assert!(
            first_file_bytes > FILE_START && first_file_bytes.is_multiple_of(PAGE),
            "[ring-files] a file holds its header and at least one block"
        );
        let slot = Slot {
            file: 0,
            offset: FILE_START,
        };
        Self {
            files: vec![first_file_bytes],
            spans: VecDeque::from([Span {
                id: 0,
                file: 0,
                start: FILE_START,
                end: FILE_START,
            }]),
            marks: VecDeque::from([Mark {
                first_entry: 0,
                span: 0,
                anchor: Anchor { slot, link },
            }]),
            mark_spacing,
            outstanding: 0,
            outstanding_largest: 0,
        }
    }

    /// Adds a file behind the others.
    pub fn add_file(&mut self, size_bytes: u64) {
        assert!(
            size_bytes > FILE_START && size_bytes.is_multiple_of(PAGE),
            "[ring-files] a file holds its header and at least one block"
        );
        self.files.push(size_bytes);
    }

    /// Files that blocks may go to.
    pub const fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Bytes for blocks in all files.
    pub fn capacity(&self) -> u64 {
        self.files.iter().map(|size| size - FILE_START).sum()
    }

    /// Part of the ring that is used or promised, 0 to 1.
    pub fn fill(&self) -> f64 {
        let free: u64 = self.free().map(|free| free.len).sum();
        let used = (self.capacity() - free.min(self.capacity())) + self.outstanding;
        // pages, so that the numbers are small enough to be exact
        let pages = |bytes: u64| f64::from(u32::try_from(bytes / PAGE).unwrap_or(u32::MAX));
        (pages(used) / pages(self.capacity())).min(1.0)
    }

    /// What data never takes.
    pub fn control_reserve(&self) -> u64 {
        (self.capacity() / CONTROL_SHARE).max(CONTROL_RESERVE_MIN)
    }

    /// Whether nothing at all is needed and nothing is promised.
    pub fn is_empty(&self) -> bool {
        self.spans.len() == 1 && self.head().is_empty() && self.outstanding == 0
    }

    /// Whether `charge` bytes (a block of its own) could be granted if the ring were empty.
    pub fn could_ever_fit(&self, charge: u64, class: RoomClass) -> bool {
        self.fits_into_empty(charge, self.reserve_of(class))
    }

    /// Whether [`Self::grant`] may be called now.
    pub fn has_room(&self, charge: u64, class: RoomClass) -> bool {
        let reserve = self.reserve_of(class);
        if self.outstanding == 0 {
            return self.fits_alone(charge, reserve)
                || (self.is_empty() && self.fits_into_empty(charge, reserve));
        }
        let largest = self.outstanding_largest.max(charge);
        self.room_for_any_order(largest) >= self.outstanding + charge + reserve
    }

    /// Promises room for a block of `charge` bytes; [`Self::has_room`] said yes.
    pub fn grant(&mut self, charge: u64, class: RoomClass) {
        if self.is_empty() && !self.fits_alone(charge, self.reserve_of(class)) {
            self.rewind();
        }
        self.outstanding += charge;
        self.outstanding_largest = self.outstanding_largest.max(charge);
    }

    /// Goes back to the start of the head's file: nothing is needed, so all of it is free. Replay
    /// looks for a block that is not at its anchor at the start of every file.
    fn rewind(&mut self) {
        let head = *self.head();
        let mut mark = self.marks.pop_back().expect("[ring-live] there is a mark");
        self.spans.clear();
        self.marks.clear();
        let id = head.id + 1;
        self.spans.push_back(Span {
            id,
            file: head.file,
            start: FILE_START,
            end: FILE_START,
        });
        mark.span = id;
        mark.anchor.slot = Slot {
            file: head.file,
            offset: FILE_START,
        };
        self.marks.push_back(mark);
    }

    /// Takes a promise back: the entry was not queued, or is about to be placed.
    pub fn release(&mut self, charge: u64) {
        self.outstanding = self
            .outstanding
            .checked_sub(charge)
            .expect("[ring-room] released what was granted");
        if self.outstanding == 0 {
            self.outstanding_largest = 0;
        }
    }

    /// Whether an empty block may be written: only where the reserve stays half whole.
    pub fn has_room_for_empty_block(&self) -> bool {
        self.outstanding == 0 && self.fits_alone(PAGE, self.control_reserve() / 2)
    }

    /// Length of the free stretch that a block of `len` bytes would go to.
    pub fn stretch_for(&self, len: u64) -> Option<u64> {
        self.free()
            .find(|free| free.len >= len)
            .map(|free| free.len)
    }

    /// Takes the place of the next block, `len` bytes long, or `None` when no stretch is long
    /// enough (never for what was granted).
    pub fn place(&mut self, len: u64, first_entry: u64, link: Link) -> Option<Slot> {
        let at = self.free().find(|free| free.len >= len)?.slot;
        let head = *self.head();
        if at.file == head.file && at.offset == head.end {
            let head = self.spans.back_mut().expect("[ring-live] there is a head");
            head.end += len;
        } else {
            if head.is_empty() && self.spans.len() == 1 {
                self.spans.clear();
            }
            let (start, end) = (at.offset, at.offset + len);
            self.spans.push_back(Span {
                id: head.id + 1,
                file: at.file,
                start,
                end,
            });
        }
        self.mark(at, first_entry, link);
        Some(at)
    }

    fn mark(&mut self, at: Slot, first_entry: u64, link: Link) {
        let span = self.head().id;
        let newest = self.marks.back().expect("[ring-live] there is a mark");
        let is_near =
            newest.span == span && at.offset - newest.anchor.slot.offset < self.mark_spacing;
        if !is_near {
            self.marks.push_back(Mark {
                first_entry,
                span,
                anchor: Anchor { slot: at, link },
            });
        }
    }

    /// Marks the place behind the newest block: everything before can be freed exactly.
    /// `next_entry` and `link` are what the next block will begin with.
    pub fn mark_head(&mut self, next_entry: u64, link: Link) {
        let head = *self.head();
        let slot = Slot {
            file: head.file,
            offset: head.end,
        };
        let anchor = Anchor { slot, link };
        let newest = self.marks.back().expect("[ring-live] there is a mark");
        if newest.anchor != anchor {
            self.marks.push_back(Mark {
                first_entry: next_entry,
                span: head.id,
                anchor,
            });
        }
    }

    /// Where replay must start so that it meets every entry from number `entry` on.
    pub fn anchor_for(&self, entry: u64) -> Anchor {
        let after = self.marks.partition_point(|mark| mark.first_entry <= entry);
        self.marks[after.saturating_sub(1)].anchor
    }

    /// Frees what lies before `anchor`, which a durable checkpoint names. It is not looked up
    /// again by its entry: blocks that were placed since would move it.
    pub fn free_to(&mut self, anchor: Anchor) {
        // by its block: an empty ring that went back to its start has moved the place
        let is_before = |mark: &Mark| mark.anchor.link.sequence < anchor.link.sequence;
        while self.marks.front().is_some_and(is_before) {
            self.marks.pop_front();
        }
        let mark = *self.marks.front().expect("[ring-live] there is a mark");
        assert!(
            mark.anchor.link == anchor.link,
            "[checkpoint-first] the mark that a checkpoint names stays until it is freed to"
        );
        while self.spans.front().is_some_and(|span| span.id < mark.span) {
            self.spans.pop_front();
        }
        let is_single = self.spans.len() == 1;
        let front = self.spans.front_mut().expect("[ring-live] the head stays");
        if front.id == mark.span {
            front.start = mark.anchor.slot.offset;
            if front.is_empty() && !is_single {
                self.spans.pop_front();
            }
        }
    }

    fn head(&self) -> &Span {
        self.spans.back().expect("[ring-live] there is a head")
    }

    fn reserve_of(&self, class: RoomClass) -> u64 {
        match class {
            RoomClass::Data => self.control_reserve(),
            RoomClass::Control => 0,
        }
    }

    fn file_size(&self, file: u32) -> u64 {
        usize::try_from(file)
            .ok()
            .and_then(|file| self.files.get(file))
            .copied()
            .unwrap_or(0)
    }

    fn free_in_head(&self) -> Free {
        let head = self.head();
        let oldest = &self.spans[0];
        let end = if oldest.file == head.file && oldest.id != head.id {
            oldest.start
        } else {
            self.file_size(head.file)
        };
        Free {
            slot: Slot {
                file: head.file,
                offset: head.end,
            },
            len: end - head.end,
        }
    }

    /// Free stretches in the order in which the head will come to them.
    fn free(&self) -> impl Iterator<Item = Free> {
        let head = *self.head();
        let oldest = self.spans[0];
        let file_count = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let behind = (1..=file_count).map(move |step| (head.file + step) % file_count);
        let mut is_past_tail = false;
        let others = behind.map_while(move |file| {
            if is_past_tail {
                return None;
            }
            let slot = Slot {
                file,
                offset: FILE_START,
            };
            if self.spans.iter().any(|span| span.file == file) {
                is_past_tail = true;
                let is_only_oldest = self
                    .spans
                    .iter()
                    .all(|span| span.file != file || span.id == oldest.id);
                let len = if is_only_oldest {
                    oldest.start - FILE_START
                } else {
                    0
                };
                return Some(Free { slot, len });
            }
            Some(Free {
                slot,
                len: self.file_size(file) - FILE_START,
            })
        });
        std::iter::once(self.free_in_head())
            .chain(others)
            .filter(|free| free.len > 0)
    }

    /// Whether one block of `charge` bytes fits, with `reserve` left for small ones behind it.
    fn fits_alone(&self, charge: u64, reserve: u64) -> bool {
        let mut is_placed = false;
        let mut left = 0;
        for free in self.free() {
            if is_placed {
                left += free.len.saturating_sub(PAGE);
            } else if free.len >= charge {
                is_placed = true;
                left += (free.len - charge).saturating_sub(PAGE);
            }
        }
        is_placed && left >= reserve
    }

    fn fits_into_empty(&self, charge: u64, reserve: u64) -> bool {
        let rooms = || self.files.iter().map(|size| size - FILE_START);
        let left: u64 = rooms().map(|room| room.saturating_sub(PAGE)).sum();
        rooms().any(|room| room >= charge) && left >= charge.saturating_add(reserve)
    }

    /// Bytes that blocks of at most `largest` bytes each are sure to find, in any order: each
    /// stretch but the last may be left when a block one page too long for its rest comes.
    fn room_for_any_order(&self, largest: u64) -> u64 {
        let mut sum = 0;
        let mut last = 0;
        for free in self.free() {
            sum += u64::saturating_sub(last, largest - PAGE);
            last = free.len;
        }
        sum + last
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;

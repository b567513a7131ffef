//! The ring against a model that remembers which block owns every page.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::journal::block::RunId;

const FIRST: Link = Link::first(RunId(1));

/// A written block: where, how long, and the entries that were written before it and up to it.
struct Written {
    slot: Slot,
    len: u64,
    sequence: u64,
}

/// Drives a ring as the journal does.
struct Model {
    ring: Ring,
    link: Link,
    granted: Vec<u64>,
    queued: Vec<u64>,
    next_entry: u64,
    /// Entry number at which each block begins, by sequence.
    first_entries: Vec<u64>,
    live: Vec<Written>,
    owner: HashMap<(u32, u64), u64>,
    /// Entries before this one were given up; a pin never goes back.
    given_up: u64,
    /// What a checkpoint names that is being written.
    named: Option<Anchor>,
}

impl Model {
    fn new(first_file: u64, spacing: u64) -> Self {
        Self {
            ring: Ring::new(first_file, spacing, FIRST),
            link: FIRST,
            granted: Vec::new(),
            queued: Vec::new(),
            next_entry: 0,
            first_entries: vec![0],
            live: Vec::new(),
            owner: HashMap::new(),
            given_up: 0,
            named: None,
        }
    }

    fn try_grant(&mut self, charge: u64, class: RoomClass) -> bool {
        if !self.ring.has_room(charge, class) {
            return false;
        }
        self.ring.grant(charge, class);
        self.granted.push(charge);
        true
    }

    /// Places the first `count` queued entries as one block that packs away `saved` bytes.
    fn place(&mut self, count: usize, saved: u64) {
        let count = count.min(self.queued.len());
        if count == 0 {
            return;
        }
        // as the committer does: as many as fit where the first one goes
        let stretch = self.ring.stretch_for(self.queued[0]).expect("[ring-room]");
        let (mut taken, mut total, mut largest, mut len) = (0, 0, 0, 0);
        for charge in &self.queued[..count] {
            total += charge;
            largest = largest.max(*charge);
            let longer = total.saturating_sub(saved * PAGE).max(largest);
            if longer > stretch {
                break;
            }
            len = longer;
            taken += 1;
        }
        let charges: Vec<u64> = self.queued.drain(..taken).collect();
        for charge in &charges {
            self.ring.release(*charge);
        }
        let count = u64::try_from(charges.len()).expect("few");
        self.write(len, count);
    }

    fn write(&mut self, len: u64, count: u64) {
        let slot = self
            .ring
            .place(len, self.next_entry, self.link)
            .expect("[ring-room]");
        let sequence = self.link.sequence;
        for page in slot.offset / PAGE..(slot.offset + len) / PAGE {
            if let Some(owner) = self.owner.insert((slot.file, page), sequence) {
                let is_live = self.live.iter().any(|block| block.sequence == owner);
                assert!(
                    !is_live,
                    "[ring-live] block {sequence} overwrites needed block {owner}"
                );
            }
        }
        self.live.push(Written {
            slot,
            len,
            sequence,
        });
        self.first_entries.push(self.next_entry + count);
        self.next_entry += count;
        self.link = self.link.next(u32::try_from(sequence).expect("few"));
    }

    /// A checkpoint begins to be written: one at a time.
    fn name(&mut self, entry: u64) {
        if self.named.is_some() {
            return;
        }
        let entry = entry.max(self.given_up);
        self.given_up = entry;
        let anchor = self.ring.anchor_for(entry);
        let first = self.first_entries[usize::try_from(anchor.link.sequence).expect("few") - 1];
        assert!(first <= entry, "the anchor skips entry {entry}");
        self.named = Some(anchor);
    }

    fn name_head(&mut self) {
        self.ring.mark_head(self.next_entry, self.link);
        self.name(self.next_entry);
    }

    /// The checkpoint is durable.
    fn free_named(&mut self) {
        let Some(anchor) = self.named.take() else {
            return;
        };
        self.ring.free_to(anchor);
        self.live
            .retain(|block| block.sequence >= anchor.link.sequence);
        if let Some(oldest) = self.live.first() {
            assert_eq!(
                oldest.sequence, anchor.link.sequence,
                "the anchor names a needed block"
            );
            assert!(oldest.slot == anchor.slot || oldest.slot.offset == FILE_START);
        }
        self.check_needed();
    }

    fn check_needed(&self) {
        let frees: Vec<Free> = self.ring.free().collect();
        for block in &self.live {
            let is_free = frees.iter().any(|free| {
                free.slot.file == block.slot.file
                    && free.slot.offset < block.slot.offset + block.len
                    && block.slot.offset < free.slot.offset + free.len
            });
            let sequence = block.sequence;
            assert!(!is_free, "[ring-live] needed block {sequence} is free");
        }
    }

    fn free(&mut self, entry: u64) {
        self.free_named();
        self.name(entry);
        self.free_named();
    }

    fn free_all(&mut self) {
        self.free_named();
        self.name_head();
        self.free_named();
        assert!(self.live.is_empty(), "everything can be freed exactly");
    }

    fn live_bytes(&self) -> u64 {
        self.live.iter().map(|block| block.len).sum()
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Reserve { pages: u64, is_control: bool },
    Queue { which: usize },
    GiveBack { which: usize },
    Place { count: usize, saved: u64 },
    PlaceEmpty,
    Name { back: u64 },
    NameHead,
    FreeNamed,
    Free { back: u64 },
    FreeAll,
    AddFile { pages: u64 },
}

fn any_op(largest: u64) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..=largest, any::<bool>())
            .prop_map(|(pages, is_control)| Op::Reserve { pages, is_control }),
        6 => any::<usize>().prop_map(|which| Op::Queue { which }),
        1 => any::<usize>().prop_map(|which| Op::GiveBack { which }),
        4 => (1_usize..6, 0_u64..8).prop_map(|(count, saved)| Op::Place { count, saved }),
        1 => Just(Op::PlaceEmpty),
        1 => (0_u64..4).prop_map(|back| Op::Name { back }),
        1 => Just(Op::NameHead),
        1 => Just(Op::FreeNamed),
        2 => (0_u64..40).prop_map(|back| Op::Free { back }),
        1 => Just(Op::FreeAll),
        1 => (17_u64..40).prop_map(|pages| Op::AddFile { pages }),
    ]
}

fn apply(model: &mut Model, op: Op) {
    match op {
        Op::Reserve { pages, is_control } => {
            // a control entry is small: a carried block and its headers
            let pages = if is_control { pages.min(2) } else { pages };
            let class = if is_control {
                RoomClass::Control
            } else {
                RoomClass::Data
            };
            model.try_grant(pages * PAGE, class);
        }
        Op::Queue { which } if !model.granted.is_empty() => {
            let charge = model.granted.swap_remove(which % model.granted.len());
            model.queued.push(charge);
        }
        Op::GiveBack { which } if !model.granted.is_empty() => {
            let charge = model.granted.swap_remove(which % model.granted.len());
            model.ring.release(charge);
        }
        Op::Place { count, saved } => model.place(count, saved),
        Op::PlaceEmpty if model.ring.has_room_for_empty_block() => model.write(PAGE, 0),
        Op::Name { back } => model.name(model.next_entry.saturating_sub(back)),
        Op::NameHead => model.name_head(),
        Op::FreeNamed => model.free_named(),
        Op::Free { back } => model.free(model.next_entry.saturating_sub(back)),
        Op::FreeAll => model.free_all(),
        Op::AddFile { pages } if model.ring.file_count() < 5 => model.ring.add_file(pages * PAGE),
        Op::Queue { .. } | Op::GiveBack { .. } | Op::PlaceEmpty | Op::AddFile { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn granted_room_is_always_found_and_needed_bytes_are_never_given_out(
        first_pages in 17_u64..40,
        spacing in 1_u64..4,
        largest in 1_u64..16,
        ops in proptest::collection::vec(any_op(16), 1..400),
    ) {
        let mut model = Model::new(first_pages * PAGE, spacing * PAGE);
        for op in ops {
            let op = match op {
                Op::Reserve { pages, is_control } =>
                    Op::Reserve { pages: pages.min(largest), is_control },
                other => other,
            };
            apply(&mut model, op);
            prop_assert!(model.live_bytes() <= model.ring.capacity());
        }
        // whatever happened: what was granted is placed, and then all of the ring comes back
        while let Some(charge) = model.granted.pop() {
            model.queued.push(charge);
        }
        while !model.queued.is_empty() {
            model.place(1, 0);
        }
        model.free_all();
        prop_assert!(model.ring.is_empty());
        let is_granted = model.try_grant(largest.min(8) * PAGE, RoomClass::Data);
        prop_assert!(is_granted, "an empty ring has room");
    }

    #[test]
    fn a_full_ring_still_takes_control_entries(
        pages in proptest::collection::vec(17_u64..40, 1..4),
        charges in proptest::collection::vec(1_u64..8, 1..50),
    ) {
        let mut model = Model::new(pages[0] * PAGE, PAGE);
        for size in &pages[1..] {
            model.ring.add_file(size * PAGE);
        }
        for charge in charges.iter().cycle() {
            if !model.try_grant(charge * PAGE, RoomClass::Data) {
                break;
            }
            model.queued.append(&mut model.granted);
            model.place(1, 0);
        }
        // a page and its headers are two pages; the reserve holds at least two of those
        for _ in 0..2 {
            prop_assert!(model.try_grant(2 * PAGE, RoomClass::Control));
            model.queued.append(&mut model.granted);
            model.place(1, 0);
        }
    }
}

#[test]
fn ring_wraps_into_what_was_freed_of_the_oldest_file() {
    let mut model = Model::new(FILE_START + 16 * PAGE, PAGE);
    let write = |model: &mut Model| {
        let is_granted = model.try_grant(PAGE, RoomClass::Data);
        model.queued.append(&mut model.granted);
        model.place(1, 0);
        is_granted
    };
    let mut count = 0;
    while write(&mut model) {
        count += 1;
    }
    assert_eq!(
        count, 11,
        "four pages are reserve, and a control block may leave one at the end"
    );
    model.free(8);
    for _ in 0..5 {
        assert!(write(&mut model));
    }
    assert_eq!(
        model.ring.stretch_for(PAGE),
        Some(8 * PAGE),
        "the file is full"
    );
    assert!(write(&mut model));
    assert_eq!(
        model.live.last().map(|block| block.slot.offset),
        Some(FILE_START)
    );
    assert_eq!(
        model.ring.stretch_for(PAGE),
        Some(7 * PAGE),
        "up to the oldest needed block"
    );
}

#[test]
fn empty_ring_may_go_back_to_its_start_while_a_checkpoint_is_written() {
    let mut model = Model::new(FILE_START + 16 * PAGE, PAGE);
    let write = |model: &mut Model, pages| {
        assert!(model.try_grant(pages * PAGE, RoomClass::Data));
        model.queued.append(&mut model.granted);
        model.place(1, 0);
    };
    write(&mut model, 8);
    model.free_all();
    model.name_head();
    // eight pages are free on either side of the head
    write(&mut model, 9);
    assert_eq!(model.live[0].slot.offset, FILE_START);
    model.free_named();
    assert_eq!(model.live_bytes(), 9 * PAGE, "it is still needed");
    assert!(!model.ring.is_empty());
    model.free_all();
    assert!(model.ring.is_empty());
}

#[test]
fn block_that_no_file_holds_never_fits() {
    let mut ring = Ring::new(FILE_START + 16 * PAGE, PAGE, FIRST);
    assert!(ring.could_ever_fit(8 * PAGE, RoomClass::Data));
    assert!(
        !ring.could_ever_fit(16 * PAGE, RoomClass::Data),
        "nothing is left for control"
    );
    assert!(!ring.could_ever_fit(17 * PAGE, RoomClass::Control));
    ring.add_file(FILE_START + 32 * PAGE);
    assert!(ring.could_ever_fit(32 * PAGE, RoomClass::Data));
}

#[test]
fn fill_counts_what_is_written_and_what_is_promised() {
    let mut ring = Ring::new(FILE_START + 16 * PAGE, PAGE, FIRST);
    assert!(ring.fill() < f64::EPSILON);
    ring.grant(4 * PAGE, RoomClass::Data);
    assert!((ring.fill() - 0.25).abs() < f64::EPSILON);
    ring.release(4 * PAGE);
    ring.place(4 * PAGE, 0, FIRST).expect("room");
    assert!((ring.fill() - 0.25).abs() < f64::EPSILON);
}

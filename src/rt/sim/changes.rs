//! One simulated file: its live bytes, its durable bytes, and the changes between them.
//!
//! Pure: no async, no clock, no IO. A change is in flight (issued), done (visible, not flushed) or
//! durable (its own write was `O_DSYNC`). A flush makes every done change that was issued before it
//! durable. A crash keeps what is durable and does with the rest what its mode says, in 512-byte
//! sectors.
//! Invariant: [sim-order] changes reach the durable bytes in the order they were issued.

use std::rc::Rc;

use super::rng::Rng;

/// What a crash writes or loses as a whole.
const SECTOR: usize = 512;

/// What becomes of unflushed changes when the power fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashMode {
    /// All of them are lost.
    Lose,
    /// All of them happened to reach the disk.
    Keep,
    /// Each by itself, drawn by the seed: kept, lost, cut off, or torn sector by sector.
    Torn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    InFlight,
    Done,
    Durable,
}

#[derive(Clone, Debug)]
enum What {
    Write { pos: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug)]
struct Change {
    id: u64,
    what: What,
    stage: Stage,
}

/// The bytes of one file. A copy shares them until either is changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    live: Rc<Vec<u8>>,
    durable: Rc<Vec<u8>>,
    changes: Vec<Change>,
}

impl Content {
    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    /// Issues a write; nobody sees it before it is completed, but a crash may keep some of it.
    pub(super) fn begin_write(&mut self, id: u64, pos: usize, bytes: Vec<u8>) {
        let what = What::Write { pos, bytes };
        self.changes.push(Change {
            id,
            what,
            stage: Stage::InFlight,
        });
    }

    /// Completes a write: visible now, and durable if it was issued as `O_DSYNC`.
    pub(super) fn complete_write(&mut self, id: u64, durable: bool) {
        if let Some(change) = self.changes.iter_mut().find(|change| change.id == id) {
            apply(Rc::make_mut(&mut self.live), &change.what);
            change.stage = if durable { Stage::Durable } else { Stage::Done };
        }
        self.settle();
    }

    /// Sets the length; durable after the next flush.
    pub(super) fn set_len(&mut self, id: u64, len: usize) {
        let what = What::SetLen(len);
        apply(Rc::make_mut(&mut self.live), &what);
        self.changes.push(Change {
            id,
            what,
            stage: Stage::Done,
        });
    }

    /// Makes what was done before change `before` durable.
    pub(super) fn flush(&mut self, before: u64) {
        for change in &mut self.changes {
            if change.id < before && change.stage == Stage::Done {
                change.stage = Stage::Durable;
            }
        }
        self.settle();
    }

    /// Applies the durable changes at the front: nothing older can be kept or lost any more.
    fn settle(&mut self) {
        let settled = self
            .changes
            .iter()
            .take_while(|change| change.stage == Stage::Durable)
            .count();
        for change in self.changes.drain(..settled) {
            apply(Rc::make_mut(&mut self.durable), &change.what);
        }
    }

    /// Loses power: what is durable is all there is.
    pub(super) fn crash(&mut self, mode: CrashMode, rng: &mut Rng) {
        for change in std::mem::take(&mut self.changes) {
            if change.stage == Stage::Durable || mode == CrashMode::Keep {
                apply(Rc::make_mut(&mut self.durable), &change.what);
            } else if mode == CrashMode::Torn {
                tear(Rc::make_mut(&mut self.durable), &change.what, rng);
            }
        }
        self.live = Rc::clone(&self.durable);
    }

    /// Changes bytes behind everybody's back, live and durable.
    pub(super) fn damage(&mut self, pos: usize, bytes: &[u8]) {
        let what = What::Write {
            pos,
            bytes: bytes.to_vec(),
        };
        apply(Rc::make_mut(&mut self.live), &what);
        apply(Rc::make_mut(&mut self.durable), &what);
    }
}

fn apply(bytes: &mut Vec<u8>, what: &What) {
    match what {
        What::Write { pos, bytes: new } => put(bytes, *pos, new),
        What::SetLen(len) if *len > bytes.len() => grow(bytes, *len),
        What::SetLen(len) => bytes.truncate(*len),
    }
}

/// Fills up with zeros, which a new file gets from the allocator without touching them.
fn grow(bytes: &mut Vec<u8>, len: usize) {
    if bytes.is_empty() {
        *bytes = vec![0; len];
    } else {
        bytes.extend_from_slice(&vec![0; len - bytes.len()]);
    }
}

fn put(bytes: &mut Vec<u8>, pos: usize, new: &[u8]) {
    let end = pos + new.len();
    if bytes.len() < end {
        grow(bytes, end);
    }
    bytes[pos..end].copy_from_slice(new);
}

fn tear(bytes: &mut Vec<u8>, what: &What, rng: &mut Rng) {
    let What::Write { pos, bytes: new } = what else {
        if rng.chance(2) {
            apply(bytes, what);
        }
        return;
    };
    let sectors = new.len().div_ceil(SECTOR).max(1);
    let keep: Box<dyn FnMut(usize) -> bool> = match rng.below(4) {
        0 => return,
        1 => Box::new(|_| true),
        2 => {
            let cut = rng.index(sectors);
            Box::new(move |sector| sector < cut)
        }
        _ => Box::new(|_| rng.chance(2)),
    };
    let mut keep = keep;
    for (sector, part) in new.chunks(SECTOR).enumerate() {
        if keep(sector) {
            put(bytes, pos + sector * SECTOR, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &mut Content, id: u64, pos: usize, bytes: &[u8], durable: bool) {
        content.begin_write(id, pos, bytes.to_vec());
        content.complete_write(id, durable);
    }

    #[test]
    fn an_unflushed_write_is_visible_and_lost_in_a_crash() {
        let mut content = Content::default();
        written(&mut content, 1, 0, b"abc", false);
        assert_eq!(content.live(), b"abc");
        content.crash(CrashMode::Lose, &mut Rng::new(1));
        assert_eq!(content.live(), b"");
    }

    #[test]
    fn a_flushed_write_survives_and_one_issued_after_the_flush_does_not() {
        let mut content = Content::default();
        written(&mut content, 1, 0, b"abc", false);
        written(&mut content, 5, 3, b"def", false);
        content.flush(5);
        content.crash(CrashMode::Lose, &mut Rng::new(1));
        assert_eq!(content.live(), b"abc");
    }

    #[test]
    fn a_write_in_flight_at_the_flush_is_not_covered_by_it() {
        let mut content = Content::default();
        content.begin_write(1, 0, b"abc".to_vec());
        content.flush(2);
        content.complete_write(1, false);
        content.crash(CrashMode::Lose, &mut Rng::new(1));
        assert_eq!(content.live(), b"");
    }

    #[test]
    fn a_durable_write_is_not_undone_by_an_older_unflushed_one() {
        let mut content = Content::default();
        written(&mut content, 1, 0, b"old", false);
        written(&mut content, 2, 0, b"new", true);
        content.crash(CrashMode::Keep, &mut Rng::new(1));
        assert_eq!(content.live(), b"new");
    }

    #[test]
    fn a_torn_write_is_torn_at_sectors_and_some_seed_shows_every_outcome() {
        let old = vec![0_u8; 4 * SECTOR];
        let new = vec![1_u8; 4 * SECTOR];
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut content = Content::default();
            written(&mut content, 1, 0, &old, true);
            content.begin_write(2, 0, new.clone());
            content.crash(CrashMode::Torn, &mut Rng::new(seed));
            let sectors: Vec<u8> = content
                .live()
                .chunks(SECTOR)
                .map(|sector| sector[0])
                .collect();
            for (index, sector) in content.live().chunks(SECTOR).enumerate() {
                assert!(
                    sector.iter().all(|byte| *byte == sectors[index]),
                    "seed {seed}"
                );
            }
            outcomes.insert(sectors);
        }
        assert!(outcomes.contains(&vec![0, 0, 0, 0]));
        assert!(outcomes.contains(&vec![1, 1, 1, 1]));
        assert!(outcomes.contains(&vec![1, 1, 0, 0]));
        assert!(outcomes.contains(&vec![0, 1, 0, 1]));
    }
}

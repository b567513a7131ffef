//! Who uses the file of a segment: nothing is cut off a file that somebody may still read.
//!
//! Runs on: the home shard; a pin may be dropped on any.        Owner: `Log`.
//! Promises: a pin is taken before the file is looked up, so whoever could have found the file
//! holds one; once a segment or the whole log is released, nobody gets a pin of it any more.
//! Invariants: [reader-pinned] a descriptor of a segment lives within a pin of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::model::offset::Offset;

/// Keeps the bytes of a file; goes with the descriptor that it was taken for.
pub type Pin = Arc<()>;

/// Tells whether a pin of a released file is left.
#[derive(Clone, Debug, Default)]
pub struct Users(Vec<Weak<()>>);

impl Users {
    /// Whether somebody may still read the file.
    pub fn any(&self) -> bool {
        self.0.iter().any(|user| user.strong_count() > 0)
    }
}

/// The pins of one log.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_base: RefCell<BTreeMap<Offset, Weak<()>>>,
    /// Of released segments, as long as somebody has them.
    released: RefCell<Vec<(Offset, Weak<()>)>>,
    /// Segments that start below are released.
    released_below: Cell<Offset>,
    is_closed: Cell<bool>,
}

impl Pins {
    /// A pin of the segment at `base`; none when it has been released.
    pub(super) fn take(&self, base: Offset) -> Option<Pin> {
        if !self.has(base) {
            return None;
        }
        let mut pins = self.by_base.borrow_mut();
        let known = pins.get(&base).and_then(Weak::upgrade);
        Some(known.unwrap_or_else(|| {
            let pin = Pin::default();
            pins.insert(base, Arc::downgrade(&pin));
            pin
        }))
    }

    /// Whether the segment at `base` has not been released.
    pub(super) fn has(&self, base: Offset) -> bool {
        !self.is_closed.get() && base >= self.released_below.get()
    }

    /// Releases the segment at `base` and those below it; the users of that at `base`, also when it
    /// has been released before, and of those below that had not been.
    pub(super) fn release(&self, base: Offset) -> Users {
        let newly_from = self.released_below.get();
        self.released_below.set(newly_from.max(base.next()));
        let mut pins = self.by_base.borrow_mut();
        let above = pins.split_off(&base.next());
        self.remember(std::mem::replace(&mut *pins, above));
        self.users(|released| released == base || (newly_from..base).contains(&released))
    }

    /// Releases every segment for good; the users of all, also of those released before.
    pub(super) fn close(&self) -> Users {
        self.is_closed.set(true);
        self.remember(self.by_base.take());
        self.users(|_| true)
    }

    fn remember(&self, pins: BTreeMap<Offset, Weak<()>>) {
        let mut released = self.released.borrow_mut();
        released.extend(pins);
        released.retain(|(_, pin)| pin.strong_count() > 0);
    }

    fn users(&self, is_meant: impl Fn(Offset) -> bool) -> Users {
        let released = self.released.borrow();
        let meant = released.iter().filter(|(base, _)| is_meant(*base));
        Users(meant.map(|(_, pin)| pin.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_segment_has_users_until_the_last_pin_is_dropped() {
        let pins = Pins::default();
        let (first, second) = (Offset::new(10), Offset::new(20));
        let one = pins.take(first).unwrap();
        let same = pins.take(first).unwrap();
        let other = pins.take(second).unwrap();
        let users = pins.release(first);
        assert!(users.any() && pins.take(first).is_none());
        drop(one);
        assert!(users.any() && pins.release(first).any(), "released again");
        drop(same);
        assert!(!users.any());
        let users = pins.close();
        assert!(users.any() && pins.take(second).is_none());
        drop(other);
        assert!(!users.any());
    }

    #[test]
    fn a_closed_log_knows_the_users_of_segments_released_before() {
        let pins = Pins::default();
        let reader = pins.take(Offset::ZERO).unwrap();
        pins.release(Offset::ZERO);
        let users = pins.close();
        assert!(users.any());
        drop(reader);
        assert!(!users.any());
    }
}

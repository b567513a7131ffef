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

    /// Releases the segment at `base` and those below it.
    pub(super) fn release(&self, base: Offset) -> Users {
        self.released_below
            .set(self.released_below.get().max(base.next()));
        let mut pins = self.by_base.borrow_mut();
        let above = pins.split_off(&base.next());
        Users(std::mem::replace(&mut *pins, above).into_values().collect())
    }

    /// Releases every segment for good.
    pub(super) fn close(&self) -> Users {
        self.is_closed.set(true);
        Users(self.by_base.take().into_values().collect())
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
        assert!(users.any());
        drop(same);
        assert!(!users.any());
        let users = pins.close();
        assert!(users.any() && pins.take(second).is_none());
        drop(other);
        assert!(!users.any());
    }
}

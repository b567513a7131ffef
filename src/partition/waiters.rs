//! Who waits for a partition: appends for durability, fetches for new data.
//!
//! Runs on: the partition's home shard.      Owner: `Partition`.
//! Promises: ack waiters are released in offset order, each once; a fetch waiter is woken at the
//! first advance after it registered.
//! Limits: ack waiters are bounded by the request memory that their batches hold; fetch waiters by
//! the connections, one registration for each partition a connection polls.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use crate::model::offset::Offset;
use crate::rt::sync::Notify;

/// Waiters for "everything below this offset is durable", released in offset order.
#[derive(Debug)]
pub struct AckWaiters<T> {
    waiting: BTreeMap<(Offset, u64), T>,
    next_ticket: u64,
}

impl<T> Default for AckWaiters<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_ticket: 0,
        }
    }
}

impl<T> AckWaiters<T> {
    /// Adds a waiter for the exclusive end `next_offset`.
    pub fn insert(&mut self, next_offset: Offset, waiter: T) {
        self.waiting.insert((next_offset, self.next_ticket), waiter);
        self.next_ticket += 1;
    }

    /// Removes every waiter whose end is at or below `durable_end`, in order.
    pub fn take_up_to(&mut self, durable_end: Offset) -> Vec<T> {
        let rest = self.waiting.split_off(&(durable_end, u64::MAX));
        std::mem::replace(&mut self.waiting, rest)
            .into_values()
            .collect()
    }

    /// Removes every waiter: the partition failed or went away.
    pub fn take_all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }
}

/// Fetches that wait for any change of the partition.
#[derive(Debug, Default)]
pub struct FetchWaiters {
    waiting: Vec<Weak<Notify>>,
    sweep_at: usize,
}

impl FetchWaiters {
    /// Wakes `waiter` at the next change. Registrations of fetches that ended are swept out as the
    /// list doubles, so the list stays proportional to the fetches that wait.
    pub fn register(&mut self, waiter: &Rc<Notify>) {
        if self.waiting.len() >= self.sweep_at.max(64) {
            self.waiting.retain(|waiter| waiter.strong_count() > 0);
            self.sweep_at = self.waiting.len() * 2;
        }
        self.waiting.push(Rc::downgrade(waiter));
    }

    /// Wakes and forgets everyone.
    pub fn wake_all(&mut self) {
        for waiter in self.waiting.drain(..) {
            if let Some(waiter) = waiter.upgrade() {
                waiter.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_waiters_leave_in_offset_order_up_to_the_durable_end() {
        let mut waiters = AckWaiters::default();
        for (end, name) in [(5, "b"), (3, "a"), (5, "c"), (9, "d")] {
            waiters.insert(Offset::new(end), name);
        }
        assert_eq!(waiters.take_up_to(Offset::new(2)), Vec::<&str>::new());
        assert_eq!(waiters.take_up_to(Offset::new(5)), ["a", "b", "c"]);
        assert_eq!(waiters.take_all(), ["d"]);
    }

    #[test]
    fn fetch_waiters_that_ended_do_not_pile_up() {
        let mut waiters = FetchWaiters::default();
        for _ in 0..10_000 {
            waiters.register(&Rc::new(Notify::new()));
        }
        assert!(waiters.waiting.len() < 200);
    }
}

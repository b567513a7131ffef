//! What one producer has sent and what was acknowledged to it, lane by lane.
//!
//! Owner: shared by a producer's thread (writes) and the main thread (reads).
//! Promises: an acknowledgement is entered only if it is the next of its lane; anything else is a
//! violation, kept as a sentence.
//! Invariants: [acked-prefix] the acknowledged sequences of a lane are `0..acked.len()`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The books of one producer.
#[derive(Debug)]
pub(crate) struct Ledger {
    lanes: Mutex<Vec<Lane>>,
    sent: AtomicU64,
    acked: AtomicU64,
    violations: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Next sequence to send.
    next_sequence: u64,
    /// Offset of each acknowledged sequence; negative when the broker gave none.
    acked: Vec<i64>,
}

/// What the lock guards. Nobody panics under one.
pub(crate) fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().expect("no panic under the lock")
}

impl Ledger {
    pub(crate) fn new(lane_count: usize) -> Self {
        let lanes = (0..lane_count).map(|_| Lane::default()).collect();
        Self {
            lanes: Mutex::new(lanes),
            sent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            violations: Mutex::new(Vec::new()),
        }
    }

    /// The sequence that the next record of `lane` carries.
    pub(crate) fn next_sequence(&self, lane: usize) -> u64 {
        locked(&self.lanes)[lane].next_sequence
    }

    /// The record with that sequence was handed to the client library.
    pub(crate) fn on_sent(&self, lane: usize) {
        locked(&self.lanes)[lane].next_sequence += 1;
        self.sent.fetch_add(1, Ordering::SeqCst);
    }

    /// The broker acknowledged `sequence` of `lane` at `offset`.
    pub(crate) fn on_acked(&self, lane: usize, sequence: u64, offset: i64) {
        let mut lanes = locked(&self.lanes);
        let acked = &mut lanes[lane].acked;
        let expected = u64::try_from(acked.len()).expect("usize fits u64");
        if sequence == expected {
            acked.push(offset);
            self.acked.fetch_add(1, Ordering::SeqCst);
        } else {
            drop(lanes);
            self.on_violation(format!(
                "lane {lane}: acknowledged sequence {sequence}, the next is {expected}"
            ));
        }
    }

    pub(crate) fn on_violation(&self, sentence: String) {
        locked(&self.violations).push(sentence);
    }

    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.violations))
    }

    pub(crate) fn sent_count(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn acked_count(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Records sent and not yet acknowledged.
    pub(crate) fn in_flight(&self) -> u64 {
        // acked is read first: the difference can only err upwards by what is sent meanwhile
        let acked = self.acked_count();
        self.sent_count().saturating_sub(acked)
    }

    /// How many sequences of `lane` are acknowledged.
    pub(crate) fn acked_of(&self, lane: usize) -> usize {
        locked(&self.lanes)[lane].acked.len()
    }

    /// How many sequences of `lane` were sent.
    pub(crate) fn sent_of(&self, lane: usize) -> u64 {
        self.next_sequence(lane)
    }

    /// Offset that the acknowledgement of `sequence` named, if it is acknowledged and named one.
    pub(crate) fn acked_offset(&self, lane: usize, sequence: u64) -> Option<i64> {
        let lanes = locked(&self.lanes);
        let index = usize::try_from(sequence).ok()?;
        lanes[lane]
            .acked
            .get(index)
            .copied()
            .filter(|&offset| offset >= 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_out_of_order_is_a_violation() {
        let ledger = Ledger::new(2);
        for _ in 0..3 {
            ledger.on_sent(1);
        }
        ledger.on_acked(1, 0, 10);
        ledger.on_acked(1, 2, 12);
        assert_eq!(ledger.acked_count(), 1);
        assert_eq!(ledger.in_flight(), 2);
        assert_eq!(ledger.acked_offset(1, 0), Some(10));
        assert_eq!(ledger.acked_offset(1, 1), None);
        let violations = ledger.take_violations();
        assert_eq!(
            violations,
            ["lane 1: acknowledged sequence 2, the next is 1"]
        );
    }
}

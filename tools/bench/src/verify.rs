//! Nothing lost, nothing twice, nothing out of order, nothing damaged: who checks it and how.
//!
//! A stream is what one producer sent to one partition, numbered from 0. The ledger knows what was
//! acknowledged; each consumer notes what it saw.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a record that was sent and not acknowledged may be there or not. A record that comes
//! after a later one of its stream counts as reordered, not as lost.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Serialize;

/// Producer and partition (its place in the cluster's targets).
pub(crate) type Stream = (u32, usize);

/// What was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    acked: HashMap<Stream, Vec<Range<u64>>>,
}

impl Ledger {
    /// These sequences were acknowledged.
    pub(crate) fn acked(&mut self, stream: Stream, sequences: Range<u64>) {
        let ranges = self.acked.entry(stream).or_default();
        match ranges.last_mut() {
            Some(last) if last.end == sequences.start => last.end = sequences.end,
            _ => ranges.push(sequences),
        }
    }

    fn count(&self) -> u64 {
        let ranges = self.acked.values().flatten();
        ranges.map(|range| range.end - range.start).sum()
    }
}

/// One stream as a consumer saw it.
#[derive(Debug, Default)]
struct Received {
    next: u64,
    /// Start and end of what is missing below `next`.
    missing: BTreeMap<u64, u64>,
}

enum Order {
    Next,
    Late,
    Twice,
}

impl Received {
    fn receive(&mut self, sequence: u64) -> Order {
        if sequence >= self.next {
            if sequence > self.next {
                self.missing.insert(self.next, sequence);
            }
            self.next = sequence + 1;
            return Order::Next;
        }
        let gap = self.missing.range(..=sequence).next_back();
        let Some((start, end)) = gap.map(|(start, end)| (*start, *end)) else {
            return Order::Twice;
        };
        if sequence >= end {
            return Order::Twice;
        }
        self.missing.remove(&start);
        if start < sequence {
            self.missing.insert(start, sequence);
        }
        if sequence + 1 < end {
            self.missing.insert(sequence + 1, end);
        }
        Order::Late
    }

    fn missing_in(&self, range: &Range<u64>) -> u64 {
        let beyond = range.end.saturating_sub(self.next.max(range.start));
        let gaps = self.missing.iter().map(|(start, end)| {
            (*end)
                .min(range.end)
                .saturating_sub((*start).max(range.start))
        });
        beyond + gaps.sum::<u64>()
    }
}

/// What one consumer saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    streams: HashMap<Stream, Received>,
    pub(crate) consumed: u64,
    pub(crate) corrupt: u64,
    duplicated: u64,
    reordered: u64,
}

impl Seen {
    /// Notes a whole record. `from_start` is false where the beginning of a stream may be out of
    /// sight.
    pub(crate) fn receive(&mut self, stream: Stream, sequence: u64, from_start: bool) {
        self.consumed += 1;
        let received = self.streams.entry(stream).or_insert_with(|| Received {
            next: if from_start { 0 } else { sequence },
            missing: BTreeMap::new(),
        });
        match received.receive(sequence) {
            Order::Next => {}
            Order::Late => self.reordered += 1,
            Order::Twice => self.duplicated += 1,
        }
    }

    fn lost(&self, ledger: Option<&Ledger>) -> u64 {
        let Some(ledger) = ledger else {
            let gaps = self.streams.values().flat_map(|stream| &stream.missing);
            return gaps.map(|(start, end)| end - start).sum();
        };
        let nothing = Received::default();
        let lost = ledger.acked.iter().map(|(stream, ranges)| {
            let received = self.streams.get(stream).unwrap_or(&nothing);
            ranges
                .iter()
                .map(|range| received.missing_in(range))
                .sum::<u64>()
        });
        lost.sum()
    }
}

/// The result, over all consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Acknowledged.
    pub(crate) produced: u64,
    /// Whole records received, repeated ones included.
    pub(crate) consumed: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
}

impl Verdict {
    /// Compares what the consumers saw with what was acknowledged; without a ledger, with what the
    /// sequences say.
    pub(crate) fn new(ledger: Option<&Ledger>, consumers: &[Seen]) -> Self {
        let sum = |of: fn(&Seen) -> u64| consumers.iter().map(of).sum();
        Self {
            produced: ledger.map_or(0, Ledger::count),
            consumed: sum(|seen| seen.consumed),
            lost: consumers.iter().map(|seen| seen.lost(ledger)).sum(),
            duplicated: sum(|seen| seen.duplicated),
            reordered: sum(|seen| seen.reordered),
            corrupt: sum(|seen| seen.corrupt),
        }
    }

    /// Whether anything is wrong.
    pub(crate) const fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0 && self.corrupt == 0
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "verified: {} produced, {} consumed; {} lost, {} duplicated, {} reordered, \
             {} corrupt\n",
            self.produced, self.consumed, self.lost, self.duplicated, self.reordered, self.corrupt
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(acked: &[(u64, u64)], received: &[u64]) -> (u64, u64, u64) {
        let mut ledger = Ledger::default();
        for (start, end) in acked {
            ledger.acked((1, 2), *start..*end);
        }
        let mut seen = Seen::default();
        for sequence in received {
            seen.receive((1, 2), *sequence, true);
        }
        let verdict = Verdict::new(Some(&ledger), &[seen]);
        (verdict.lost, verdict.duplicated, verdict.reordered)
    }

    #[test]
    fn each_kind_of_damage_is_told_apart() {
        assert_eq!(verdict(&[(0, 4)], &[0, 1, 2, 3]), (0, 0, 0));
        assert_eq!(verdict(&[(0, 4)], &[0, 3]), (2, 0, 0));
        assert_eq!(verdict(&[(0, 2), (2, 4)], &[]), (4, 0, 0));
        assert_eq!(verdict(&[(0, 4)], &[0, 1, 2]), (1, 0, 0));
        assert_eq!(verdict(&[(0, 4)], &[0, 1, 0, 1, 2, 3, 3]), (0, 3, 0));
        assert_eq!(verdict(&[(0, 6)], &[0, 3, 4, 1, 2, 5]), (0, 0, 2));
        assert_eq!(verdict(&[(0, 6)], &[0, 5, 3, 3, 1]), (2, 1, 2));
    }

    #[test]
    fn what_was_not_acknowledged_may_be_missing_or_there() {
        assert_eq!(verdict(&[(0, 2), (4, 6)], &[0, 1, 4, 5]), (0, 0, 0));
        assert_eq!(
            verdict(&[(0, 2), (4, 6)], &[0, 1, 2, 3, 4, 5, 6]),
            (0, 0, 0)
        );
        assert_eq!(verdict(&[(0, 2), (4, 6)], &[0, 1, 5]), (1, 0, 0));
    }

    #[test]
    fn without_a_ledger_gaps_are_lost() {
        let mut seen = Seen::default();
        for sequence in [5, 6, 9] {
            seen.receive((0, 0), sequence, false);
        }
        assert_eq!(Verdict::new(None, &[seen]).lost, 2);
    }
}

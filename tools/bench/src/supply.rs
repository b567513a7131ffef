//! Which records are due, and when enough of them are there for a batch.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a record's due time depends on the rate alone, never on what the broker does.

use crate::clock::Nanos;
use crate::numbers::{float, whole};

/// The records of one connection: due at equal distances from `start` to `end` (exclusive).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    /// When the first record is due.
    first: f64,
    step: f64,
    end: Nanos,
}

impl Lane {
    /// Lane `number` of `count` that share `rate` records per second.
    pub(crate) fn new(start: Nanos, end: Nanos, rate: f64, number: usize, count: usize) -> Self {
        let between = 1e9 / rate;
        Self {
            first: float(start) + between * crate::numbers::float_len(number),
            step: between * crate::numbers::float_len(count),
            end,
        }
    }

    /// When record `index` is due.
    pub(crate) fn due(&self, index: u64) -> Nanos {
        whole(self.first + self.step * float(index))
    }

    /// Records due until now.
    pub(crate) fn due_count(&self, now: Nanos) -> u64 {
        let now = float(now.min(self.end.saturating_sub(1)));
        if now < self.first {
            return 0;
        }
        let mut count = whole((now - self.first) / self.step) + 1;
        // rounding must not call a record due that `due` says is not, nor the other way round
        while count > 0 && float(self.due(count - 1)) > now {
            count -= 1;
        }
        while float(self.due(count)) <= now {
            count += 1;
        }
        count
    }

    fn has_ended(&self, index: u64) -> bool {
        self.due(index) >= self.end
    }
}

/// When each record of a batch was due.
#[derive(Clone, Debug)]
pub(crate) enum Dues {
    /// `--rate max`: when it was sent.
    AtSend,
    /// Consecutive records of a lane.
    Line { lane: Lane, first: u64 },
}

impl Dues {
    /// When record `number` of the batch was due.
    pub(crate) fn due(&self, number: usize, sent_at: Nanos) -> Nanos {
        match self {
            Self::AtSend => sent_at,
            Self::Line { lane, first } => lane.due(first + number as u64),
        }
    }
}

/// A batch that may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// Place in the connection's list of targets.
    pub(crate) target: usize,
    pub(crate) count: usize,
    pub(crate) dues: Dues,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Batches were given.
    Send,
    /// Nothing until then.
    At(Nanos),
    /// Nothing any more.
    Never,
}

/// How records become batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batching {
    pub(crate) count_max: usize,
    pub(crate) linger: Nanos,
    pub(crate) batches_max: usize,
    pub(crate) targets: usize,
}

/// The supply of one connection without keys: one batch fills at a time, partition after
/// partition.
#[derive(Clone, Debug)]
pub(crate) struct Supply {
    batching: Batching,
    /// None: as fast as it goes, until `end`.
    lane: Option<Lane>,
    end: Nanos,
    taken: u64,
    rotation: usize,
}

impl Supply {
    pub(crate) fn new(batching: Batching, lane: Option<Lane>, end: Nanos, first: usize) -> Self {
        Self {
            batching,
            lane,
            end,
            taken: 0,
            rotation: first % batching.targets,
        }
    }

    /// Fills `ready` with the batches of one request, if it is time for one.
    pub(crate) fn take(&mut self, now: Nanos, ready: &mut Vec<Ready>) -> Next {
        let Batching {
            count_max,
            linger,
            batches_max,
            targets,
        } = self.batching;
        let batches_max = batches_max.min(targets);
        let Some(lane) = self.lane else {
            if now >= self.end {
                return Next::Never;
            }
            for _ in 0..batches_max {
                let target = self.next_target();
                ready.push(Ready {
                    target,
                    count: count_max,
                    dues: Dues::AtSend,
                });
            }
            return Next::Send;
        };
        let full = (count_max * batches_max) as u64;
        let waiting = lane.due_count(now) - self.taken;
        if waiting == 0 && lane.has_ended(self.taken) {
            return Next::Never;
        }
        let lingered = lane.due(self.taken) + linger;
        let filled = lane.due(self.taken + full - 1);
        if waiting < full && (waiting == 0 || now < lingered) {
            return Next::At(lingered.min(filled).max(now + 1));
        }
        let mut left = usize::try_from(waiting.min(full)).unwrap_or(usize::MAX);
        let share = left.div_ceil(batches_max);
        while left > 0 {
            let count = share.min(left);
            ready.push(Ready {
                target: self.next_target(),
                count,
                dues: Dues::Line {
                    lane,
                    first: self.taken,
                },
            });
            self.taken += count as u64;
            left -= count;
        }
        Next::Send
    }

    /// Calls `each` with the due times of records that were due and never taken.
    pub(crate) fn leftover(&self, now: Nanos, mut each: impl FnMut(Nanos)) {
        if let Some(lane) = self.lane {
            for index in self.taken..lane.due_count(now) {
                each(lane.due(index));
            }
        }
    }

    fn next_target(&mut self) -> usize {
        let target = self.rotation;
        self.rotation = (target + 1) % self.batching.targets;
        target
    }
}

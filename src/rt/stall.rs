//! Who held the shard's loop, and for how long.
//!
//! Every poll of every spawned task is timed with two readings of the monotonic clock. A poll that
//! takes 50 ms or more is a stall: counted, added up, and warned about with the task's name.
//!
//! Runs on: a shard (plain cells, no locks). Not measured under the simulator, where polls take no
//! time.

use std::cell::Cell;
use std::time::Duration;

use super::clock;

/// A poll that takes this long is a stall.
pub const STALL: Duration = Duration::from_millis(50);

/// What one shard's loop has seen since it started, or since [`StallStats`] were last taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StallStats {
    /// Polls of [`STALL`] or more.
    pub stalls: u64,
    /// Time spent in such polls.
    pub stalled: Duration,
    /// The longest time that one task held the loop in one poll.
    pub longest: Duration,
    /// The task that did.
    pub longest_task: &'static str,
    /// Time spent in polls of all tasks: the shard's busy time.
    pub busy: Duration,
    /// Polls of all tasks.
    pub polls: u64,
}

/// The cells behind [`StallStats`].
#[derive(Default)]
pub(super) struct StallMeter {
    stats: Cell<StallStats>,
}

impl StallMeter {
    /// Times one poll of the task `name`.
    pub(super) fn time<R>(&self, shard: usize, name: &'static str, poll: impl FnOnce() -> R) -> R {
        let start = clock::machine_now();
        let result = poll();
        self.record(shard, name, clock::machine_now().saturating_since(start));
        result
    }

    fn record(&self, shard: usize, name: &'static str, held: Duration) {
        let mut stats = self.stats.get();
        stats.busy += held;
        stats.polls += 1;
        if held > stats.longest {
            stats.longest = held;
            stats.longest_task = name;
        }
        if held >= STALL {
            stats.stalls += 1;
            stats.stalled += held;
            let held_ms = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(shard, task = name, held_ms, "a task held the shard's loop");
        }
        self.stats.set(stats);
    }

    pub(super) fn stats(&self) -> StallStats {
        self.stats.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_at_the_threshold_counts_as_a_stall_and_keeps_the_longest_name() {
        let meter = StallMeter::default();
        meter.record(0, "quick", Duration::from_micros(10));
        meter.record(0, "slow", STALL);
        meter.record(0, "slower", STALL * 2);
        meter.record(0, "quick", Duration::from_micros(20));
        let stats = meter.stats();
        assert_eq!(stats.stalls, 2);
        assert_eq!(stats.stalled, STALL * 3);
        assert_eq!(stats.longest, STALL * 2);
        assert_eq!(stats.longest_task, "slower");
        assert_eq!(stats.polls, 4);
        assert_eq!(stats.busy, STALL * 3 + Duration::from_micros(30));
    }
}

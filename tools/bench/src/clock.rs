//! The one clock of a run: nanoseconds since its start, and the wall clock beside it.
//!
//! Promises: never goes back; the wall clock is read once, so that both run at the same speed.

use std::time::{Instant, SystemTime};

/// Nanoseconds since the start of the program.
pub(crate) type Nanos = u64;

/// A clock that was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_unix_ns: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let unix_ns = unix.map_or(0, |since| since.as_nanos());
        Self {
            started: Instant::now(),
            started_unix_ns: u64::try_from(unix_ns).unwrap_or(0),
        }
    }

    pub(crate) fn now(&self) -> Nanos {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Nanoseconds since 1970.
    pub(crate) const fn unix_ns(&self, now: Nanos) -> u64 {
        self.started_unix_ns + now
    }

    /// What `unix_ns` was made from; 0 for times before the start.
    pub(crate) const fn since_start(&self, unix_ns: u64) -> Nanos {
        unix_ns.saturating_sub(self.started_unix_ns)
    }

    /// Milliseconds since 1970, as records carry them.
    pub(crate) fn unix_ms(&self, now: Nanos) -> i64 {
        i64::try_from((self.started_unix_ns + now) / 1_000_000).unwrap_or(i64::MAX)
    }
}

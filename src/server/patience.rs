//! How long a client may keep memory without giving or taking a byte.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a client that makes progress is served however slow it is, as long as nobody waits for
//! the memory it holds; once somebody does, it has to hurry.

use std::time::Duration;

/// Without a byte for this long, a connection ends in any case.
const STALL: Duration = Duration::from_secs(60);
/// Without a byte for this long, it ends when others wait for the memory it holds.
const STALL_WHILE_OTHERS_WAIT: Duration = Duration::from_secs(5);
/// While others wait, a body may take this long, and a second more for every `BODY_BYTES_A_SECOND`
/// that it has brought.
const BODY_TIME: Duration = Duration::from_secs(10);
const BODY_BYTES_A_SECOND: u64 = 256 << 10;
/// How often a waiting connection is looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether a client that has not given or taken a byte for `idle` is given up.
pub(crate) fn is_stalled(idle: Duration, others_wait: bool) -> bool {
    idle >= STALL || others_wait && idle >= STALL_WHILE_OTHERS_WAIT
}

/// Whether a body of which `received_bytes` are here has been under way for too long for those who
/// wait. What its head promises counts for nothing.
pub(crate) fn is_late(under_way: Duration, received_bytes: usize, others_wait: bool) -> bool {
    let received_bytes = u64::try_from(received_bytes).unwrap_or(u64::MAX);
    let earned = Duration::from_secs(received_bytes / BODY_BYTES_A_SECOND);
    others_wait && under_way >= BODY_TIME + earned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_byte_a_minute_is_the_end_and_five_seconds_when_others_wait() {
        assert!(!is_stalled(Duration::from_secs(59), false));
        assert!(is_stalled(Duration::from_secs(60), false));
        assert!(!is_stalled(Duration::from_secs(4), true));
        assert!(is_stalled(Duration::from_secs(5), true));
    }

    #[test]
    fn a_slow_body_is_late_only_when_others_wait_and_by_what_is_here() {
        let hour = Duration::from_hours(1);
        assert!(!is_late(hour, 1, false));
        assert!(is_late(Duration::from_secs(10), 1000, true));
        assert!(!is_late(Duration::from_secs(13), 1 << 20, true));
        assert!(is_late(Duration::from_secs(14), 1 << 20, true));
        assert!(!is_late(hour, usize::MAX, true));
    }
}

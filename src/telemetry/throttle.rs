//! Lines that clients cause: a few a second, then a count of those left out.
//!
//! Pure: no async, no clock, no IO.
//! A client that is refused in a loop must not fill the disk with log lines.

use std::cell::Cell;

/// Lines of one kind within a second, on one shard.
const LINES_A_SECOND: u32 = 10;

/// Counts the lines of one kind.
#[derive(Debug, Default)]
pub struct Throttle {
    second: Cell<u64>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl Throttle {
    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub fn admit(&self, now_seconds: u64) -> Option<u64> {
        if self.second.replace(now_seconds) != now_seconds {
            self.written.set(0);
        }
        if self.written.get() >= LINES_A_SECOND {
            self.left_out.set(self.left_out.get().saturating_add(1));
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_ten_lines_and_the_next_one_says_how_many_were_left_out() {
        let throttle = Throttle::default();
        for _ in 0..LINES_A_SECOND {
            assert_eq!(throttle.admit(7), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(throttle.admit(7), None);
        }
        assert_eq!(throttle.admit(8), Some(5));
        assert_eq!(throttle.admit(8), Some(0));
    }
}

//! Latencies and sizes with quantiles over a recent window.
//!
//! Pure: no async, no clock, no IO.        Owner: one shard; snapshots travel.
//! A histogram since the start would hide the last minute behind the last month, so there are two:
//! the one being filled and the one before. `rotate` is called once a minute; quantiles come from
//! both.
//! Count and sum never go back.

use hdrhistogram::Histogram;

/// Largest value told apart: in microseconds 10 minutes; larger ones count as this.
const VALUE_MAX: u64 = 600_000_000;
/// Two decimal digits: 1 % precision at about 20 KiB a histogram.
const DIGITS: u8 = 2;

/// Values of one kind.
#[derive(Clone, Debug)]
pub struct Distribution {
    current: Histogram<u32>,
    previous: Histogram<u32>,
    count: u64,
    sum: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

impl Distribution {
    /// Without values.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram takes.
    pub fn new() -> Self {
        let empty = Histogram::new_with_bounds(1, VALUE_MAX, DIGITS)
            .expect("[histogram-bounds] the bounds are constants that the histogram takes");
        Self {
            current: empty.clone(),
            previous: empty,
            count: 0,
            sum: 0,
        }
    }

    /// Adds a value.
    pub fn record(&mut self, value: u64) {
        self.current.saturating_record(value);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Starts the next window; called once a minute.
    pub fn rotate(&mut self) {
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.reset();
    }

    /// Values since the start.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// The value below which `quantile` (0 to 1) of the recent values lie; 0 without any.
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.recent().value_at_quantile(quantile)
    }

    /// The values of both windows.
    pub fn recent(&self) -> Histogram<u32> {
        let mut recent = self.current.clone();
        // both have the same bounds, so nothing can be lost
        let _ = recent.add(&self.previous);
        recent
    }

    /// Takes in another shard's values.
    pub fn merge(&mut self, other: &Self) {
        let _ = self.current.add(&other.current);
        let _ = self.previous.add(&other.previous);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_forget_after_two_windows_but_count_and_sum_do_not() {
        let mut values = Distribution::new();
        for value in 1..=100 {
            values.record(value * 1000);
        }
        let near = |got: u64, want: u64| got.abs_diff(want) <= want / 50;
        assert!(
            near(values.quantile(0.5), 50_000),
            "{}",
            values.quantile(0.5)
        );
        assert!(near(values.quantile(0.99), 99_000));
        values.rotate();
        assert!(near(values.quantile(0.99), 99_000));
        values.record(7);
        values.rotate();
        assert_eq!(values.quantile(0.99), 7);
        values.rotate();
        assert_eq!(values.quantile(0.99), 0);
        assert_eq!((values.count(), values.sum()), (101, 5_050_007));
    }

    #[test]
    fn huge_values_count_as_the_largest() {
        let mut values = Distribution::new();
        values.record(u64::MAX);
        assert_eq!(values.count(), 1);
        assert!(values.quantile(1.0) >= VALUE_MAX);
    }

    #[test]
    fn merging_is_the_same_as_recording_in_one() {
        let (mut left, mut right, mut both) = (
            Distribution::new(),
            Distribution::new(),
            Distribution::new(),
        );
        for value in 1..1000 {
            if value % 3 == 0 {
                &mut left
            } else {
                &mut right
            }
            .record(value);
            both.record(value);
        }
        left.merge(&right);
        for quantile in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(left.quantile(quantile), both.quantile(quantile));
        }
        assert_eq!((left.count(), left.sum()), (both.count(), both.sum()));
    }
}

//! Offsets of records: a number that is never mixed with positions, counts or timestamps.
//!
//! Pure: no async, no clock, no IO.
//! Invariants: arithmetic is checked; an offset that would leave the `i64` range is a bug and
//! stops.

use std::fmt;

/// Byte position in a file.
pub type FilePosition = u64;

/// Number of a record in its partition. Kafka's wire type is signed, and -1 says "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(i64);

impl Offset {
    /// Where every log starts.
    pub const ZERO: Self = Self(0);
    /// Kafka's "no offset" (-1).
    pub const NONE: Self = Self(-1);
    /// Larger than every offset that a record can have.
    pub const MAX: Self = Self(i64::MAX);

    /// From the wire or the disk.
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    /// The plain number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Whether it can be the offset of a record at all.
    pub const fn is_valid(self) -> bool {
        self.0 >= 0
    }

    /// `self + delta`, or `None` outside the range.
    pub const fn checked_add(self, delta: i64) -> Option<Self> {
        match self.0.checked_add(delta) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// `self + delta` where the caller knows that it fits.
    ///
    /// # Panics
    /// When it does not: offsets of a log never come near the end of the range.
    #[must_use]
    pub const fn plus(self, delta: i64) -> Self {
        match self.0.checked_add(delta) {
            Some(value) => Self(value),
            None => panic!("[offset-range] an offset left the 64-bit range"),
        }
    }

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// How many offsets lie from `earlier` (inclusive) to here (exclusive); negative when behind.
    pub const fn distance_from(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The distance from a segment's base as the index files hold it, when it fits.
    pub fn delta_from(self, base: Self) -> Option<u32> {
        self.0
            .checked_sub(base.0)
            .and_then(|delta| u32::try_from(delta).ok())
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<i64> for Offset {
    fn from(value: i64) -> Self {
        Self(value)
    }
}

impl From<Offset> for i64 {
    fn from(value: Offset) -> Self {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addition_beyond_the_range_is_refused() {
        assert_eq!(Offset::new(5).checked_add(2), Some(Offset::new(7)));
        assert_eq!(Offset::MAX.checked_add(1), None);
    }

    #[test]
    fn delta_from_a_later_base_is_none() {
        assert_eq!(Offset::new(7).delta_from(Offset::new(5)), Some(2));
        assert_eq!(Offset::new(5).delta_from(Offset::new(7)), None);
        assert_eq!(Offset::MAX.delta_from(Offset::ZERO), None);
    }
}

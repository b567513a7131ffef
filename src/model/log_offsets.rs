//! The chain of offsets of one partition, and the one place where it is asserted.
//!
//! Pure: no async, no clock, no IO.        Owner: the partition's home shard.
//! Invariants: [offset-chain] log start <= last stable <= high watermark <= durable end <= log end,
//! and log start <= destaged end <= durable end.
//! All ends are exclusive: the offset of the first record that is not included.

use super::offset::Offset;

/// What of a partition's log exists, is durable, replicated, and readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOffsets {
    /// First offset that can be read; raised by retention and by `DeleteRecords`.
    pub log_start: Offset,
    /// End of what `read_committed` consumers see; below the high watermark while a transaction is
    /// open.
    pub last_stable: Offset,
    /// End of what consumers see; may lag the durable end while followers catch up.
    pub high_watermark: Offset,
    /// End of what a power cut here cannot take back; lags the log end while commits are in flight.
    pub durable_end: Offset,
    /// End of what is written to segment files, flushed or not; lags because destaging is lazy.
    pub destaged_end: Offset,
    /// Where the next record goes.
    pub log_end: Offset,
}

impl LogOffsets {
    /// An empty log that starts at `start`.
    pub const fn empty_at(start: Offset) -> Self {
        Self {
            log_start: start,
            last_stable: start,
            high_watermark: start,
            durable_end: start,
            destaged_end: start,
            log_end: start,
        }
    }

    /// Whether the chain holds.
    pub fn is_ordered(&self) -> bool {
        self.log_start <= self.last_stable
            && self.last_stable <= self.high_watermark
            && self.high_watermark <= self.durable_end
            && self.durable_end <= self.log_end
            && self.log_start <= self.destaged_end
            && self.destaged_end <= self.durable_end
    }

    /// Stops the process when the chain does not hold.
    ///
    /// # Panics
    /// On a broken chain: something would be acknowledged or shown that can be lost.
    #[track_caller]
    pub fn assert_ordered(&self) {
        assert!(self.is_ordered(), "[offset-chain] broken: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_high_watermark_beyond_the_durable_end_breaks_the_chain() {
        let mut offsets = LogOffsets::empty_at(Offset::new(10));
        assert!(offsets.is_ordered());
        offsets.log_end = Offset::new(20);
        offsets.high_watermark = Offset::new(11);
        assert!(!offsets.is_ordered());
        offsets.durable_end = Offset::new(11);
        assert!(offsets.is_ordered());
        offsets.destaged_end = Offset::new(12);
        assert!(!offsets.is_ordered());
    }
}

//! Which leader epoch wrote from which offset on, and Kafka's `leader-epoch-checkpoint` text file.
//!
//! Pure: no async, no clock, no IO.        Owner: `Log`.
//! Promises: answers `OffsetForLeaderEpoch` as Kafka does, so that clients find where logs diverge.
//! Invariants: [epochs-rise] epochs and start offsets both rise strictly from entry to entry.
//!
//! The file, one item a line: version `0`, number of entries, then `epoch start_offset` for each.

use std::fmt::Write as _;

use crate::model::ids::LeaderEpoch;
use crate::model::offset::Offset;

/// Name of the file in the partition's directory.
pub const FILE_NAME: &str = "leader-epoch-checkpoint";

/// The first offset that a leader epoch wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset, inclusive.
    pub start_offset: Offset,
}

/// The text is not a leader epoch checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the leader epoch checkpoint is not as expected")]
pub struct EpochsError {
    /// Line number, from 1.
    pub line: usize,
}

/// All epochs that still have records in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
    /// From entries of a checkpoint; refused unless they rise.
    pub fn from_entries(entries: Vec<EpochStart>) -> Option<Self> {
        let rising =
            entries.is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset);
        rising.then_some(Self { entries })
    }

    /// Every entry, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The newest epoch with records.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// Notes that `epoch` writes from `start_offset` on; says whether that is news. An epoch at or
    /// below the newest one changes nothing.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.get() < 0 || self.latest().is_some_and(|latest| epoch <= latest) {
            return false;
        }
        // an epoch that wrote nothing leaves no trace
        self.entries
            .retain(|entry| entry.start_offset < start_offset);
        self.entries.push(EpochStart {
            epoch,
            start_offset,
        });
        true
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self
            .entries
            .partition_point(|entry| entry.start_offset <= offset);
        above
            .checked_sub(1)
            .and_then(|index| self.entries.get(index))
            .map(|entry| entry.epoch)
    }

    /// The largest known epoch at or below `requested` and its exclusive end offset; `None` when
    /// `requested` is above all known epochs or none is known. Below all known epochs the answer is
    /// `requested` itself with the start of the oldest one.
    pub fn end_offset_for(
        &self,
        requested: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.latest()?;
        if requested.get() < 0 || requested > latest {
            return None;
        }
        if requested == latest {
            return Some((latest, log_end));
        }
        let above = self
            .entries
            .partition_point(|entry| entry.epoch <= requested);
        let end = self.entries.get(above)?.start_offset;
        let floor = above
            .checked_sub(1)
            .and_then(|index| self.entries.get(index));
        Some((floor.map_or(requested, |entry| entry.epoch), end))
    }

    /// Forgets what starts at or above `end_offset`: the log now ends there. Says whether that
    /// changed anything.
    pub fn truncate_end(&mut self, end_offset: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start_offset < end_offset);
        self.entries.len() != before
    }

    /// Forgets what ends at or below `log_start`; the epoch that wrote `log_start` now starts
    /// there. Says whether that changed anything.
    pub fn truncate_start(&mut self, log_start: Offset) -> bool {
        let above = self
            .entries
            .partition_point(|entry| entry.start_offset <= log_start);
        let Some(first) = above.checked_sub(1) else {
            return false;
        };
        let moved = self
            .entries
            .get(first)
            .is_some_and(|entry| entry.start_offset < log_start);
        self.entries.drain(..first);
        if let Some(entry) = self.entries.first_mut() {
            entry.start_offset = log_start;
        }
        first > 0 || moved
    }

    /// The text of the checkpoint file.
    pub fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for entry in &self.entries {
            writeln!(text, "{} {}", entry.epoch, entry.start_offset)
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// Reads the text of a checkpoint file.
    pub fn decode(text: &str) -> Result<Self, EpochsError> {
        let mut lines = text.lines();
        if lines.next() != Some("0") {
            return Err(EpochsError { line: 1 });
        }
        let count = lines.next().and_then(|line| line.parse::<usize>().ok());
        let count = count.ok_or(EpochsError { line: 2 })?;
        let mut entries = Vec::new();
        for (number, line) in lines.enumerate() {
            let entry = line.split_once(' ').and_then(|(epoch, offset)| {
                Some(EpochStart {
                    epoch: LeaderEpoch(epoch.parse().ok()?),
                    start_offset: Offset::new(offset.parse().ok()?),
                })
            });
            entries.push(entry.ok_or(EpochsError { line: number + 3 })?);
        }
        if entries.len() != count {
            return Err(EpochsError { line: 2 });
        }
        Self::from_entries(entries).ok_or(EpochsError { line: 3 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in entries {
            assert!(epochs.assign(LeaderEpoch(*epoch), Offset::new(*start)));
        }
        epochs
    }

    fn end(epochs: &LeaderEpochs, requested: i32) -> Option<(i32, i64)> {
        let answer = epochs.end_offset_for(LeaderEpoch(requested), Offset::new(100));
        answer.map(|(epoch, offset)| (epoch.get(), offset.get()))
    }

    #[test]
    fn golden_text_is_kafkas() {
        let epochs = epochs(&[(0, 0), (3, 120)]);
        assert_eq!(epochs.encode(), "0\n2\n0 0\n3 120\n");
        assert_eq!(LeaderEpochs::decode("0\n2\n0 0\n3 120\n"), Ok(epochs));
        assert_eq!(LeaderEpochs::decode("0\n0\n"), Ok(LeaderEpochs::default()));
    }

    #[test]
    fn damaged_text_is_refused_with_its_line() {
        for (text, line) in [
            ("", 1),
            ("1\n0\n", 1),
            ("0\nx\n", 2),
            ("0\n2\n0 0\n", 2),
            ("0\n1\n0\n", 3),
            ("0\n2\n1 0\n0 9\n", 3),
        ] {
            assert_eq!(
                LeaderEpochs::decode(text),
                Err(EpochsError { line }),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next() {
        let epochs = epochs(&[(2, 10), (4, 40), (7, 60)]);
        assert_eq!(end(&epochs, 2), Some((2, 40)));
        assert_eq!(end(&epochs, 3), Some((2, 40)));
        assert_eq!(end(&epochs, 6), Some((4, 60)));
        assert_eq!(end(&epochs, 7), Some((7, 100)));
        assert_eq!(end(&epochs, 8), None);
        assert_eq!(end(&epochs, -1), None);
        assert_eq!(end(&epochs, 1), Some((1, 10)));
        assert_eq!(end(&LeaderEpochs::default(), 0), None);
        assert_eq!(epochs.epoch_of(Offset::new(45)), Some(LeaderEpoch(4)));
        assert_eq!(epochs.epoch_of(Offset::new(9)), None);
    }

    #[test]
    fn an_epoch_without_records_disappears() {
        let mut epochs = epochs(&[(1, 0), (2, 10)]);
        assert!(epochs.assign(LeaderEpoch(3), Offset::new(10)));
        assert_eq!(epochs.encode(), "0\n2\n1 0\n3 10\n");
        assert!(!epochs.assign(LeaderEpoch(3), Offset::new(20)));
    }

    #[test]
    fn truncation_at_both_ends_keeps_the_epoch_that_wrote_the_rest() {
        let mut epochs = epochs(&[(0, 0), (1, 10), (2, 20), (3, 30)]);
        assert!(epochs.truncate_start(Offset::new(15)));
        assert!(epochs.truncate_end(Offset::new(30)));
        assert_eq!(epochs.encode(), "0\n2\n1 15\n2 20\n");
        assert!(!epochs.truncate_end(Offset::new(30)));
        assert!(!epochs.truncate_start(Offset::new(15)));
    }

    proptest! {
        #[test]
        fn text_round_trips(steps in proptest::collection::vec((1..9_i32, 1..999_i64), 0..20)) {
            let mut log = LeaderEpochs::default();
            let (mut epoch, mut offset) = (0, 0);
            for (more_epochs, more_offsets) in steps {
                epoch += more_epochs;
                offset += more_offsets;
                log.assign(LeaderEpoch(epoch), Offset::new(offset));
            }
            prop_assert_eq!(LeaderEpochs::decode(&log.encode()), Ok(log));
        }

        #[test]
        fn decoding_any_text_never_panics(text: String) {
            let _ = LeaderEpochs::decode(&text);
        }
    }
}

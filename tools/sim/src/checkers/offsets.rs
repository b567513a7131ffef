//! What a group has committed.
//!
//! Pure: no async, no clock, no IO.
//! Invariant: [committed-stays] a group's offset is the last one whose commit was answered, or one
//! whose commit was sent after that and never answered.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Committed {
    /// `None` before the first commit was answered.
    answered: Option<i64>,
    /// Sent and not answered, with the life of the broker that they were sent to.
    in_doubt: Vec<(u32, i64)>,
}

/// Offsets of one group.
#[derive(Debug, Default)]
pub(crate) struct GroupOffsets {
    partitions: BTreeMap<i32, Committed>,
}

impl GroupOffsets {
    pub(crate) fn on_send(&mut self, partition: i32, offset: i64, life: u32) {
        let committed = self.partitions.entry(partition).or_default();
        committed.in_doubt.push((life, offset));
    }

    pub(crate) fn on_answered(&mut self, partition: i32, offset: i64) {
        let committed = self.partitions.entry(partition).or_default();
        // members commit higher numbers the later they are sent, and answers overtake each other
        committed.answered = committed.answered.max(Some(offset));
        committed.in_doubt.retain(|(_, other)| *other != offset);
    }

    /// It is told that the commit is not in force, and never will be.
    pub(crate) fn on_refused(&mut self, partition: i32, offset: i64) {
        let committed = self.partitions.entry(partition).or_default();
        committed.in_doubt.retain(|(_, other)| *other != offset);
    }

    /// `got` is -1 where nothing is committed.
    pub(crate) fn on_fetched(&mut self, group: &str, partition: i32, got: i64, life: u32) {
        let committed = self.partitions.entry(partition).or_default();
        let is_answered = committed.answered.unwrap_or(-1) == got;
        let is_in_doubt = committed.in_doubt.iter().any(|(_, sent)| *sent == got);
        assert!(
            is_answered || is_in_doubt,
            "[committed-stays] {group}, partition {partition}: {got}, and {:?} was answered, {:?} \
             are in doubt",
            committed.answered,
            committed.in_doubt
        );
        // what an earlier broker had not done yet will not happen any more
        committed.in_doubt.retain(|(sent_in, _)| *sent_in == life);
        if got >= 0 {
            committed.answered = Some(got);
        }
    }
}

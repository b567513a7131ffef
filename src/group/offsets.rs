//! The committed offsets of one group, and which of them are past their time.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `len` is the number of offsets held; iteration is in order of topic and partition, so
//! that a walk can be resumed behind any key.

use std::collections::BTreeMap;
use std::ops::Bound;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// Whatever the client wants back.
    pub metadata: Box<str>,
    /// When it was committed.
    pub commit_timestamp_ms: i64,
    /// When it goes, if the client said so (versions 2 to 4 of OffsetCommit).
    pub expire_timestamp_ms: Option<i64>,
}

/// From when on the offsets of a group grow old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aging {
    /// The group is in use and may read any topic: none grows old.
    Never,
    /// The group has been empty since then: from then, or from a later commit.
    SinceEmpty {
        /// Wall clock.
        unix_ms: i64,
    },
    /// Nobody manages the group: each offset from its commit.
    SinceCommit,
}

/// Offsets by topic and partition.
#[derive(Clone, Debug, Default)]
pub struct OffsetTable {
    topics: BTreeMap<String, BTreeMap<i32, CommittedOffset>>,
    len: usize,
}

impl OffsetTable {
    /// How many offsets it holds.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The offset of a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Puts an offset in place; returns the one before it.
    pub fn set(
        &mut self,
        topic: &str,
        partition: i32,
        offset: CommittedOffset,
    ) -> Option<CommittedOffset> {
        // The name is copied for the topic's first partition only.
        let before = if let Some(partitions) = self.topics.get_mut(topic) {
            partitions.insert(partition, offset)
        } else {
            let partitions = BTreeMap::from([(partition, offset)]);
            self.topics.insert(topic.to_owned(), partitions);
            None
        };
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes an offset out.
    pub fn remove(&mut self, topic: &str, partition: i32) -> Option<CommittedOffset> {
        let partitions = self.topics.get_mut(topic)?;
        let removed = partitions.remove(&partition)?;
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
        self.len -= 1;
        Some(removed)
    }

    /// Topics and their partitions, in order.
    pub fn topics(&self) -> impl Iterator<Item = (&str, &BTreeMap<i32, CommittedOffset>)> {
        self.topics
            .iter()
            .map(|(topic, partitions)| (topic.as_str(), partitions))
    }

    /// Everything, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, &CommittedOffset)> {
        self.topics().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(move |(partition, offset)| (topic, *partition, offset))
        })
    }

    /// Everything behind a key, in order.
    pub fn iter_after<'a>(
        &'a self,
        topic: &'a str,
        partition: i32,
    ) -> impl Iterator<Item = (&'a str, i32, &'a CommittedOffset)> {
        let same = self
            .topics
            .get_key_value(topic)
            .into_iter()
            .flat_map(move |(topic, rest)| {
                rest.range((Bound::Excluded(partition), Bound::Unbounded))
                    .map(move |(partition, offset)| (topic.as_str(), *partition, offset))
            });
        let later = self
            .topics
            .range::<str, _>((Bound::Excluded(topic), Bound::Unbounded))
            .flat_map(|(topic, partitions)| {
                partitions
                    .iter()
                    .map(move |(partition, offset)| (topic.as_str(), *partition, offset))
            });
        same.chain(later)
    }

    /// The offsets whose time is over. Topics that `is_subscribed` knows are spared.
    pub fn expired(
        &self,
        now_unix_ms: i64,
        retention_ms: i64,
        aging: Aging,
        is_subscribed: impl Fn(&str) -> bool,
    ) -> Vec<(String, i32)> {
        if aging == Aging::Never {
            return Vec::new();
        }
        self.iter()
            .filter(|(_, _, offset)| {
                let since = match aging {
                    Aging::SinceEmpty { unix_ms } => unix_ms.max(offset.commit_timestamp_ms),
                    Aging::Never | Aging::SinceCommit => offset.commit_timestamp_ms,
                };
                match offset.expire_timestamp_ms {
                    Some(expires) => now_unix_ms >= expires,
                    None => now_unix_ms.saturating_sub(since) >= retention_ms,
                }
            })
            .filter(|(topic, _, _)| !is_subscribed(topic))
            .map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(commit_timestamp_ms: i64) -> CommittedOffset {
        CommittedOffset {
            offset: 7,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp_ms,
            expire_timestamp_ms: None,
        }
    }

    fn table() -> OffsetTable {
        let mut table = OffsetTable::default();
        for (topic, partition, time) in [("b", 0, 100), ("a", 3, 200), ("a", 1, 300), ("c", 9, 400)]
        {
            assert_eq!(table.set(topic, partition, offset(time)), None);
        }
        table
    }

    fn keys<'a>(iter: impl Iterator<Item = (&'a str, i32, &'a CommittedOffset)>) -> Vec<String> {
        iter.map(|(topic, partition, _)| format!("{topic}{partition}"))
            .collect()
    }

    #[test]
    fn counts_follow_sets_and_removals() {
        let mut table = table();
        assert_eq!(table.len(), 4);
        assert_eq!(table.set("a", 1, offset(1)), Some(offset(300)));
        assert_eq!(table.len(), 4);
        assert_eq!(table.remove("a", 1), Some(offset(1)));
        assert_eq!(table.remove("a", 1), None);
        assert_eq!(table.remove("nowhere", 1), None);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn a_topic_without_offsets_is_forgotten() {
        let mut table = table();
        table.remove("b", 0);
        assert_eq!(
            table.topics().map(|(topic, _)| topic).collect::<Vec<_>>(),
            ["a", "c"]
        );
    }

    #[test]
    fn a_walk_resumes_behind_any_key() {
        let table = table();
        let all = keys(table.iter());
        assert_eq!(all, ["a1", "a3", "b0", "c9"]);
        for (index, key) in all.iter().enumerate() {
            let (topic, partition) = key.split_at(1);
            let after = keys(table.iter_after(topic, partition.parse().expect("a number")));
            assert_eq!(after, all[index + 1..]);
        }
        assert_eq!(keys(table.iter_after("aa", 5)), ["b0", "c9"]);
        assert_eq!(keys(table.iter_after("a", 2)), ["a3", "b0", "c9"]);
    }

    #[test]
    fn offsets_of_a_simple_consumer_age_from_their_commit() {
        let expired = table().expired(1_200, 1_000, Aging::SinceCommit, |_| false);
        assert_eq!(expired, [("a".to_owned(), 3), ("b".to_owned(), 0)]);
    }

    #[test]
    fn offsets_of_an_empty_group_age_from_when_it_became_empty() {
        let aging = Aging::SinceEmpty { unix_ms: 250 };
        assert_eq!(table().expired(1_249, 1_000, aging, |_| false), []);
        assert_eq!(table().expired(1_250, 1_000, aging, |_| false).len(), 2);
    }

    #[test]
    fn a_commit_after_the_group_became_empty_counts_from_the_commit() {
        let aging = Aging::SinceEmpty { unix_ms: 150 };
        let expired = table().expired(1_399, 1_000, aging, |_| false);
        assert!(!expired.contains(&("c".to_owned(), 9)));
        assert_eq!(expired.len(), 3);
    }

    #[test]
    fn subscribed_topics_and_groups_in_use_do_not_expire() {
        assert_eq!(table().expired(i64::MAX, 1, Aging::Never, |_| false), []);
        let expired = table().expired(i64::MAX, 1, Aging::SinceCommit, |topic| topic == "a");
        assert_eq!(expired, [("b".to_owned(), 0), ("c".to_owned(), 9)]);
    }

    #[test]
    fn an_expiry_of_its_own_overrules_the_retention() {
        let mut table = OffsetTable::default();
        let own = CommittedOffset {
            expire_timestamp_ms: Some(500),
            ..offset(0)
        };
        table.set("t", 0, own);
        assert_eq!(table.expired(499, 1, Aging::SinceCommit, |_| false), []);
        assert_eq!(
            table
                .expired(500, i64::MAX, Aging::SinceCommit, |_| false)
                .len(),
            1
        );
    }
}

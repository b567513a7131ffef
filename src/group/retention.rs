//! What goes by itself: expired offsets, empty groups without offsets, offsets of deleted topics.
//!
//! Pure: no async, no clock, no IO.
//! The driver walks over the groups in steps, so that no step holds the shard for long. Nothing
//! waits for these writes. What a crash leaves of expired offsets is found again by the next walk.

use std::collections::BTreeSet;

use super::groups::Entry;
use super::offsets_partition::Status;
use super::record::{Change, GroupRecord};
use super::roster::Roster;
use super::turn::Now;

/// Where a walk over all groups stands: behind this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCursor {
    partition: i32,
    group: String,
}

impl Roster {
    /// Looks at the next `groups_max` groups for offsets whose time is over. Where to go on.
    pub fn expire_offsets(
        &mut self,
        now: Now,
        after: Option<&GroupCursor>,
        groups_max: usize,
    ) -> Option<GroupCursor> {
        let walked = self.groups_after(after, groups_max);
        for GroupCursor { partition, group } in &walked {
            let Some(entry) = self.entry(*partition, group) else {
                continue;
            };
            let records = self.expired(now, group, entry);
            self.write_unasked(*partition, group, records);
        }
        walked.into_iter().last()
    }

    fn expired(&self, now: Now, group: &str, entry: &Entry) -> Vec<GroupRecord> {
        if entry.queued > 0 {
            // A commit may be among what is queued: it would be lost behind a tombstone.
            return Vec::new();
        }
        let expired = entry.offsets.expired(
            now.unix_ms,
            self.settings.offsets_retention_ms,
            entry.group.aging(),
            |topic| entry.group.is_subscribed(topic),
        );
        let loses_all = expired.len() == entry.offsets.len();
        let mut records: Vec<GroupRecord> = expired
            .into_iter()
            .map(|(topic, partition)| GroupRecord::offset(group, topic, partition, None))
            .collect();
        if loses_all && entry.stored.is_some() && entry.group.is_vacant() {
            records.push(GroupRecord::tombstone(group));
        }
        records
    }

    /// Looks at the next `groups_max` groups for offsets of topics that are gone. Where to go on.
    pub fn forget_topics(
        &mut self,
        is_gone: &dyn Fn(&str) -> bool,
        after: Option<&GroupCursor>,
        groups_max: usize,
    ) -> Option<GroupCursor> {
        let walked = self.groups_after(after, groups_max);
        for GroupCursor { partition, group } in &walked {
            let keys = self.offsets_of_topics(*partition, group, is_gone);
            let records = keys
                .into_iter()
                .map(|(topic, index)| GroupRecord::offset(group.as_str(), topic, index, None))
                .collect();
            self.write_unasked(*partition, group, records);
        }
        walked.into_iter().last()
    }

    /// Offsets of the group, durable or about to be.
    fn offsets_of_topics(
        &self,
        partition: i32,
        group: &str,
        wanted: &dyn Fn(&str) -> bool,
    ) -> BTreeSet<(String, i32)> {
        let mut keys = BTreeSet::new();
        let Some(partition) = self.partitions.get(&partition) else {
            return keys;
        };
        let Some(entry) = partition.groups.get(group) else {
            return keys;
        };
        for (topic, partitions) in entry.offsets.topics().filter(|(topic, _)| wanted(topic)) {
            keys.extend(partitions.keys().map(|index| (topic.to_owned(), *index)));
        }
        if entry.queued == 0 {
            return keys;
        }
        for write in partition
            .pending_writes()
            .filter(|write| write.group == group)
        {
            for (record, _) in &write.records {
                if let Change::Offset {
                    topic,
                    partition,
                    value: Some(_),
                } = &record.change
                    && wanted(topic)
                {
                    keys.insert((topic.clone(), *partition));
                }
            }
        }
        keys
    }

    fn groups_after(&self, after: Option<&GroupCursor>, groups_max: usize) -> Vec<GroupCursor> {
        let mut found = Vec::new();
        let first = after.map_or(i32::MIN, |cursor| cursor.partition);
        for (index, partition) in self.partitions.range(first..) {
            if partition.status != Status::Ready {
                continue;
            }
            let behind = after.filter(|cursor| cursor.partition == *index);
            let ids = partition
                .groups
                .ids_after(behind.map(|cursor| cursor.group.as_str()));
            let room = groups_max - found.len();
            found.extend(ids.take(room).map(|id| GroupCursor {
                partition: *index,
                group: id.to_owned(),
            }));
            if found.len() == groups_max {
                break;
            }
        }
        found
    }
}

//! All groups of one partition of `__consumer_offsets`, and the durable part of each.
//!
//! Pure: no async, no clock, no IO.
//! A group has a living half (the state machine) and a durable half: its committed offsets and its
//! metadata as last stored. Only `apply` changes the durable half, record by record, in the order
//! of the log: when an append is durable, and when the log is read at a start.
//! Invariants: [image-is-log] the durable halves are what replaying the log gives.
//! [live-bytes] `live_bytes` is the size of their records.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::codec::{self, CodecError};
use super::offsets::{CommittedOffset, OffsetTable};
use super::record::{Change, GroupRecord, metadata_size_bytes, offset_size_bytes};
use super::requests::{FetchOffsetsRequest, FetchOffsetsResponse, FetchedOffset};
use super::state::Group;
use super::turn::{Moment, Now};
use crate::model::error_code::ErrorCode;

/// One group.
#[derive(Debug)]
pub struct Entry {
    /// The living half.
    pub group: Group,
    /// Committed offsets, all durable.
    pub offsets: OffsetTable,
    /// The group's metadata as it is in the log.
    pub stored: Option<Bytes>,
    /// Records of the group that are queued or being appended.
    pub queued: usize,
    /// The deadline under which the group is filed.
    pub filed_under: Option<Moment>,
}

impl Entry {
    fn new(group: Group) -> Self {
        Self {
            group,
            offsets: OffsetTable::default(),
            stored: None,
            queued: 0,
            filed_under: None,
        }
    }

    /// Whether nothing of it is in the log.
    pub fn is_unrecorded(&self) -> bool {
        self.stored.is_none() && self.offsets.is_empty()
    }

    /// Whether forgetting it loses nothing.
    pub fn is_forgettable(&self) -> bool {
        self.group.is_vacant() && self.is_unrecorded() && self.queued == 0
    }
}

/// Where a walk over all live records stands: behind this key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    group: String,
    /// `None`: at the group's metadata.
    offset: Option<(String, i32)>,
}

/// All groups of one offsets partition.
#[derive(Debug, Default)]
pub struct Groups {
    entries: BTreeMap<String, Entry>,
    live_bytes: u64,
    offset_count: usize,
}

impl Groups {
    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Committed offsets of all groups.
    pub const fn offset_count(&self) -> usize {
        self.offset_count
    }

    /// Bytes of all live records.
    pub const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// A group.
    pub fn get(&self, group: &str) -> Option<&Entry> {
        self.entries.get(group)
    }

    /// A group, to change its living half or its marks.
    pub fn get_mut(&mut self, group: &str) -> Option<&mut Entry> {
        self.entries.get_mut(group)
    }

    /// A group, created if there is none.
    pub fn entry(&mut self, group: &str) -> &mut Entry {
        // The name is copied for new groups only.
        if !self.entries.contains_key(group) {
            self.entries
                .insert(group.to_owned(), Entry::new(Group::new(group)));
        }
        self.entries
            .get_mut(group)
            .expect("it was there or has just been put there")
    }

    /// All groups, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(id, entry)| (id.as_str(), entry))
    }

    /// All groups, by id.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Entry)> {
        self.entries
            .iter_mut()
            .map(|(id, entry)| (id.as_str(), entry))
    }

    /// Ids of the groups behind one, in order; `None`: of all.
    pub fn ids_after<'a>(&'a self, after: Option<&'a str>) -> impl Iterator<Item = &'a str> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(id, _)| id.as_str())
    }

    /// Forgets a group if that loses nothing, and gives back what was forgotten.
    pub fn forget_if_idle(&mut self, group: &str) -> Option<Entry> {
        let is_idle = self.entries.get(group).is_some_and(Entry::is_forgettable);
        is_idle.then(|| self.entries.remove(group)).flatten()
    }

    /// The record is durable: it changes the group's durable half.
    pub fn apply(&mut self, record: GroupRecord) {
        let GroupRecord { group, change } = record;
        let entry = self.entry(&group);
        let (before, after) = match change {
            Change::Offset {
                topic,
                partition,
                value,
            } => {
                let count = entry.offsets.len();
                let after = value
                    .as_ref()
                    .map(|value| offset_size_bytes(&group, &topic, value));
                let before = match value {
                    Some(value) => entry.offsets.set(&topic, partition, value),
                    None => entry.offsets.remove(&topic, partition),
                };
                let before = before.map(|value| offset_size_bytes(&group, &topic, &value));
                let now = entry.offsets.len();
                self.offset_count = self.offset_count + now - count;
                (before, after)
            }
            Change::Group { value } => {
                let after = value
                    .as_ref()
                    .map(|value| metadata_size_bytes(&group, value));
                let before = std::mem::replace(&mut entry.stored, value);
                (
                    before.map(|value| metadata_size_bytes(&group, &value)),
                    after,
                )
            }
        };
        let grown = self.live_bytes + after.unwrap_or(0);
        self.live_bytes = grown
            .checked_sub(before.unwrap_or(0))
            .expect("[live-bytes] what goes was counted when it came");
    }

    /// After the log has been read: wakes the living halves as they were stored.
    pub fn revive(&mut self, now: Now) -> Result<(), CodecError> {
        for (id, entry) in &mut self.entries {
            if let Some(stored) = &entry.stored {
                let value = codec::decode_group_value(stored)?;
                entry.group = Group::restored(id.as_str(), value, now);
            }
        }
        self.entries.retain(|_, entry| !entry.is_forgettable());
        Ok(())
    }

    /// The next live records behind `cursor` (`None`: from the first), about `target_bytes` of them
    /// but at least one, and where they end. Nothing: the walk is over.
    pub fn records_after(
        &self,
        cursor: Option<&Cursor>,
        target_bytes: u64,
    ) -> (Vec<GroupRecord>, Option<Cursor>) {
        let mut walk = Walk {
            records: Vec::new(),
            room: target_bytes.max(1),
            last: None,
        };
        let mut from: Bound<&str> = Bound::Unbounded;
        if let Some(cursor) = cursor {
            from = Bound::Excluded(&cursor.group);
            if let Some(entry) = self.entries.get(&cursor.group) {
                // In the middle of a group: its other offsets.
                match &cursor.offset {
                    Some((topic, partition)) => {
                        walk.offsets(&cursor.group, entry.offsets.iter_after(topic, *partition));
                    }
                    None => walk.offsets(&cursor.group, entry.offsets.iter()),
                }
            }
        }
        for (id, entry) in self.entries.range::<str, _>((from, Bound::Unbounded)) {
            if walk.room == 0 {
                break;
            }
            walk.metadata(id, entry);
            walk.offsets(id, entry.offsets.iter());
        }
        (walk.records, walk.last)
    }

    /// OffsetFetch. Offsets of transactions are not served, so what is there is stable.
    pub fn fetch_offsets(&self, request: FetchOffsetsRequest) -> FetchOffsetsResponse {
        let entry = self.entries.get(&request.group_id);
        let fetched = |topic: &str, partition: i32| {
            let offset = entry.and_then(|entry| entry.offsets.get(topic, partition));
            FetchedOffset {
                partition,
                offset: offset.map_or(-1, |offset| offset.offset),
                leader_epoch: offset.map_or(-1, |offset| offset.leader_epoch),
                metadata: offset
                    .map(|offset| offset.metadata.to_string())
                    .unwrap_or_default(),
                error: ErrorCode::None,
            }
        };
        let topics = match request.topics {
            Some(topics) => topics
                .into_iter()
                .map(|(topic, partitions)| {
                    let all = partitions
                        .into_iter()
                        .map(|index| fetched(&topic, index))
                        .collect();
                    (topic, all)
                })
                .collect(),
            None => entry
                .into_iter()
                .flat_map(|entry| entry.offsets.topics())
                .map(|(topic, partitions)| {
                    let all = partitions
                        .keys()
                        .map(|index| fetched(topic, *index))
                        .collect();
                    (topic.to_owned(), all)
                })
                .collect(),
        };
        FetchOffsetsResponse {
            error: ErrorCode::None,
            topics,
        }
    }
}

/// Takes live records while there is room.
struct Walk {
    records: Vec<GroupRecord>,
    room: u64,
    last: Option<Cursor>,
}

impl Walk {
    fn metadata(&mut self, group: &str, entry: &Entry) {
        if let Some(stored) = &entry.stored {
            let change = Change::Group {
                value: Some(stored.clone()),
            };
            self.records.push(GroupRecord {
                group: group.to_owned(),
                change,
            });
            self.room = self.room.saturating_sub(metadata_size_bytes(group, stored));
            self.last = Some(Cursor {
                group: group.to_owned(),
                offset: None,
            });
        }
    }

    fn offsets<'a>(
        &mut self,
        group: &str,
        offsets: impl Iterator<Item = (&'a str, i32, &'a CommittedOffset)>,
    ) {
        for (topic, partition, value) in offsets {
            if self.room == 0 {
                return;
            }
            let record = GroupRecord::offset(group, topic, partition, Some(value.clone()));
            self.records.push(record);
            self.room = self
                .room
                .saturating_sub(offset_size_bytes(group, topic, value));
            let offset = Some((topic.to_owned(), partition));
            self.last = Some(Cursor {
                group: group.to_owned(),
                offset,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::codec::GroupValue;
    use proptest::prelude::*;

    fn value(offset: i64) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
        }
    }

    fn metadata(generation_id: i32) -> GroupValue {
        GroupValue {
            protocol_type: "consumer".to_owned(),
            generation_id,
            protocol: None,
            leader: None,
            state_timestamp_ms: 0,
            members: Vec::new(),
        }
    }

    fn any_record() -> impl Strategy<Value = GroupRecord> {
        let group = prop::sample::select(vec!["", "a", "ab", "b"]);
        let offset = (
            group.clone(),
            prop::sample::select(vec!["t", "u"]),
            0..3_i32,
            any::<bool>(),
        )
            .prop_map(|(group, topic, partition, is_set)| {
                GroupRecord::offset(group, topic, partition, is_set.then(|| value(7)))
            });
        let metadata = (group, prop::option::of(0..9_i32)).prop_map(|(group, generation)| {
            match generation.map(metadata) {
                Some(value) => GroupRecord::metadata(group, &value).expect("short strings"),
                None => GroupRecord::tombstone(group),
            }
        });
        prop_oneof![3 => offset, 1 => metadata]
    }

    fn live(groups: &Groups) -> Vec<GroupRecord> {
        groups.records_after(None, u64::MAX).0
    }

    proptest! {
        #[test]
        fn a_walk_in_steps_of_any_size_meets_every_live_record_once(
            records in prop::collection::vec(any_record(), 0..40),
            step in 1..400_u64,
        ) {
            let mut groups = Groups::default();
            for record in records {
                groups.apply(record);
            }
            let mut cursor = None;
            let mut walked = Vec::new();
            loop {
                let (records, last) = groups.records_after(cursor.as_ref(), step);
                if records.is_empty() { break; }
                walked.extend(records);
                cursor = last;
            }
            prop_assert_eq!(walked, live(&groups));
        }

        #[test]
        fn live_bytes_are_the_size_of_the_live_records(
            records in prop::collection::vec(any_record(), 0..60),
        ) {
            let mut groups = Groups::default();
            for record in records {
                groups.apply(record);
            }
            let live = live(&groups);
            let bytes: usize = live
                .iter()
                .map(|record| record.encode().expect("short strings").size_bytes())
                .sum();
            prop_assert_eq!(groups.live_bytes(), u64::try_from(bytes).expect("small"));
            let offsets = live
                .iter()
                .filter(|record| matches!(record.change, Change::Offset { .. }))
                .count();
            prop_assert_eq!(groups.offset_count(), offsets);
        }
    }

    #[test]
    fn a_group_without_records_is_forgotten_only_when_nothing_is_queued() {
        let mut groups = Groups::default();
        groups.entry("g").queued = 1;
        assert!(groups.forget_if_idle("g").is_none());
        groups.entry("g").queued = 0;
        assert!(groups.forget_if_idle("g").is_some());
        assert!(groups.is_empty());
    }

    #[test]
    fn unknown_groups_and_partitions_have_offset_minus_one() {
        let mut groups = Groups::default();
        groups.apply(GroupRecord::offset("g", "t", 0, Some(value(9))));
        let fetch = |group: &str, topics| {
            let group_id = group.to_owned();
            let request = FetchOffsetsRequest {
                group_id,
                topics,
                require_stable: true,
            };
            groups.fetch_offsets(request).topics
        };
        let some = fetch("g", Some(vec![("t".to_owned(), vec![1, 0])]));
        assert_eq!(
            some[0].1.iter().map(|part| part.offset).collect::<Vec<_>>(),
            [-1, 9]
        );
        assert_eq!(fetch("h", None), []);
        assert_eq!(fetch("g", None).len(), 1);
        assert_eq!(
            fetch("h", Some(vec![("t".to_owned(), vec![0])]))[0].1[0].offset,
            -1
        );
    }
}

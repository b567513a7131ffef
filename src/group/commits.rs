//! OffsetCommit, OffsetFetch, OffsetDelete and DeleteGroups of one shard.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a commit is visible, and answered, when it is durable. What is refused is refused
//! partition by partition where Kafka does so. Requests too large for one batch are written in
//! several; each offset stands for itself.

use super::offsets::CommittedOffset;
use super::offsets_partition::Then;
use super::record::GroupRecord;
use super::requests::{
    CommitRequest, CommitResponse, DeleteOffsetsRequest, DeleteOffsetsResponse,
    FetchOffsetsRequest, FetchOffsetsResponse, OffsetToCommit, PartitionOutcomes,
};
use super::roster::Roster;
use super::settings::{
    APPEND_BYTES_TARGET, GROUPS_PER_SHARD_MAX, OFFSET_BYTES, OFFSETS_PER_SHARD_MAX,
    QUEUED_BYTES_PER_SHARD_MAX,
};
use super::turn::Now;
use crate::model::error_code::ErrorCode;
use crate::model::limits::{STRING_BYTES_MAX, TOPIC_NAME_BYTES_MAX};

/// A request that is done when these writes are.
#[derive(Debug)]
pub struct Writing<R> {
    /// The answer if all of them succeed.
    pub response: R,
    /// The writes' numbers; none: there was nothing to write.
    pub writes: Vec<u64>,
}

/// What a new offset adds beside the texts of its record: it, the record, and maybe its group.
const NEW_OFFSET_BYTES: usize = 2 * OFFSET_BYTES;

impl Roster {
    /// OffsetCommit.
    pub fn commit(&mut self, now: Now, request: CommitRequest) -> Writing<CommitResponse> {
        let index = match self.check_commit(now, &request) {
            Ok(index) => index,
            Err(error) => {
                return Writing {
                    response: refuse_all(&request, error),
                    writes: vec![],
                };
            }
        };
        let mut room = OFFSETS_PER_SHARD_MAX.saturating_sub(self.stats().offsets);
        let mut room_bytes = self.room_bytes();
        let expires = request
            .retention_time_ms
            .filter(|retention_ms| *retention_ms >= 0);
        let expire_timestamp_ms = expires.map(|ms| now.unix_ms.saturating_add(ms));
        let mut records = Vec::new();
        let mut topics = PartitionOutcomes::with_capacity(request.topics.len());
        for (topic, partitions) in request.topics {
            let mut outcomes = Vec::with_capacity(partitions.len());
            for asked in partitions {
                let known = self
                    .entry(index, &request.group_id)
                    .and_then(|entry| entry.offsets.get(&topic, asked.partition));
                let is_new = known.is_none();
                // what is there already is moved on, however little room is left
                let growth = match known {
                    None => NEW_OFFSET_BYTES + request.group_id.len() + topic.len(),
                    Some(_) => 0,
                };
                let text_before = known.map_or(0, |known| known.metadata.len());
                let growth = growth + asked.metadata.len().saturating_sub(text_before);
                let partition = asked.partition;
                let error = match self.check_offset(&topic, &asked) {
                    Err(error) => error,
                    Ok(()) if is_new && room == 0 => ErrorCode::PolicyViolation,
                    Ok(()) if growth > room_bytes => ErrorCode::CoordinatorNotAvailable,
                    Ok(()) => {
                        room_bytes -= growth;
                        room -= usize::from(is_new);
                        let value = CommittedOffset {
                            offset: asked.offset,
                            leader_epoch: asked.leader_epoch,
                            metadata: asked.metadata.into(),
                            commit_timestamp_ms: now.unix_ms,
                            expire_timestamp_ms,
                        };
                        let group = request.group_id.as_str();
                        let record =
                            GroupRecord::offset(group, topic.as_str(), partition, Some(value));
                        records.push(record);
                        ErrorCode::None
                    }
                };
                outcomes.push((partition, error));
            }
            topics.push((topic, outcomes));
        }
        let writes = self.write_split(index, &request.group_id, records);
        Writing {
            response: CommitResponse { topics },
            writes,
        }
    }

    fn check_commit(&mut self, now: Now, request: &CommitRequest) -> Result<i32, ErrorCode> {
        let index = self.ready(&request.group_id)?;
        let stats = self.stats();
        if self.entry(index, &request.group_id).is_some() {
            self.light_turn(now, index, &request.group_id, |group, turn| {
                group.check_commit(turn, request)
            })?;
        } else if request.generation_id >= 0 {
            // From a generation that nobody remembers.
            return Err(ErrorCode::IllegalGeneration);
        } else if stats.groups >= GROUPS_PER_SHARD_MAX {
            return Err(ErrorCode::PolicyViolation);
        }
        let queued_max = QUEUED_BYTES_PER_SHARD_MAX.min(self.settings.state_bytes_max);
        if stats.queued_bytes > queued_max {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        Ok(index)
    }

    fn check_offset(&self, topic: &str, asked: &OffsetToCommit) -> Result<(), ErrorCode> {
        if topic.len() > TOPIC_NAME_BYTES_MAX {
            return Err(ErrorCode::InvalidTopicException);
        }
        let metadata_max = self
            .settings
            .offset_metadata_bytes_max
            .min(STRING_BYTES_MAX);
        if asked.metadata.len() > metadata_max {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        Ok(())
    }

    /// OffsetFetch of one group.
    pub fn fetch_offsets(&self, request: FetchOffsetsRequest) -> FetchOffsetsResponse {
        let index = match self.ready(&request.group_id) {
            Ok(index) => index,
            Err(error) => return FetchOffsetsResponse::refused(request.topics, error),
        };
        match self.partitions.get(&index) {
            Some(partition) => partition.groups.fetch_offsets(request),
            None => FetchOffsetsResponse::refused(request.topics, ErrorCode::NotCoordinator),
        }
    }

    /// DeleteGroups of one group.
    pub fn delete(&mut self, group_id: &str) -> Result<Writing<()>, ErrorCode> {
        let index = self.ready(group_id)?;
        let entry = self
            .entry(index, group_id)
            .ok_or(ErrorCode::GroupIdNotFound)?;
        entry.group.check_delete()?;
        let mut records: Vec<GroupRecord> = entry
            .offsets
            .iter()
            .map(|(topic, partition, _)| GroupRecord::offset(group_id, topic, partition, None))
            .collect();
        // Last: as long as an offset is left, so is the group. Also when only a store is queued.
        records.push(GroupRecord::tombstone(group_id));
        Ok(Writing {
            response: (),
            writes: self.write_split(index, group_id, records),
        })
    }

    /// OffsetDelete.
    pub fn delete_offsets(
        &mut self,
        request: DeleteOffsetsRequest,
    ) -> Writing<DeleteOffsetsResponse> {
        let refuse = |error| {
            let response = DeleteOffsetsResponse {
                error,
                topics: Vec::new(),
            };
            Writing {
                response,
                writes: Vec::new(),
            }
        };
        let index = match self.ready(&request.group_id) {
            Ok(index) => index,
            Err(error) => return refuse(error),
        };
        let Some(entry) = self.entry(index, &request.group_id) else {
            return refuse(ErrorCode::GroupIdNotFound);
        };
        if let Err(error) = entry.group.check_delete_offsets() {
            return refuse(error);
        }
        let mut records = Vec::new();
        let mut topics = PartitionOutcomes::with_capacity(request.topics.len());
        for (topic, partitions) in request.topics {
            let is_subscribed = entry.group.is_subscribed(&topic);
            let mut outcomes = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let error = if is_subscribed {
                    ErrorCode::GroupSubscribedToTopic
                } else {
                    if entry.offsets.get(&topic, partition).is_some() {
                        let group = request.group_id.as_str();
                        records.push(GroupRecord::offset(group, topic.as_str(), partition, None));
                    }
                    ErrorCode::None
                };
                outcomes.push((partition, error));
            }
            topics.push((topic, outcomes));
        }
        let writes = self.write_split(index, &request.group_id, records);
        let response = DeleteOffsetsResponse {
            error: ErrorCode::None,
            topics,
        };
        Writing { response, writes }
    }

    /// Queues records as writes of bounded size; their numbers.
    fn write_split(&mut self, index: i32, group: &str, records: Vec<GroupRecord>) -> Vec<u64> {
        let mut numbers = Vec::new();
        for part in split(records) {
            let number = self.next_number();
            self.write(index, group, part, Then::Asker(number));
            numbers.push(number);
        }
        numbers
    }

    /// Queues records as writes of bounded size that nobody waits for.
    pub(super) fn write_unasked(&mut self, index: i32, group: &str, records: Vec<GroupRecord>) {
        for part in split(records) {
            self.write(index, group, part, Then::Nobody);
        }
    }
}

/// Runs of records that make a batch of the usual size each.
fn split(records: Vec<GroupRecord>) -> Vec<Vec<GroupRecord>> {
    let mut parts: Vec<Vec<GroupRecord>> = Vec::new();
    let mut size = 0;
    for record in records {
        let record_size = record.size_bytes_max();
        match parts.last_mut() {
            Some(part) if size + record_size <= APPEND_BYTES_TARGET => {
                size += record_size;
                part.push(record);
            }
            _ => {
                size = record_size;
                parts.push(vec![record]);
            }
        }
    }
    parts
}

fn refuse_all(request: &CommitRequest, error: ErrorCode) -> CommitResponse {
    let refuse = |partitions: &Vec<OffsetToCommit>| {
        partitions
            .iter()
            .map(|asked| (asked.partition, error))
            .collect()
    };
    let topics = request
        .topics
        .iter()
        .map(|(topic, partitions)| (topic.clone(), refuse(partitions)))
        .collect();
    CommitResponse { topics }
}

//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords, DescribeLogDirs: questions that the
//! partitions' home shards answer, put together again in the order asked.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::metadata::Image;
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicPartition;
use crate::partition::reads::{EpochQuestion, OffsetQuestion};
use crate::server::context::RequestContext;
use crate::server::errors;

fn find(image: &Image, topic: &str, partition: i32) -> Option<TopicPartition> {
    image.topic(topic)?.partition(partition)
}

/// ListOffsets: latest, earliest, by timestamp, of the largest timestamp. A partition listed
/// twice gets INVALID_REQUEST.
pub(crate) async fn list(ctx: &RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let image = ctx.shard.image();
    let mut seen = BTreeSet::new();
    let mut repeated = BTreeSet::new();
    for topic in &request.topics {
        for p in &topic.partitions {
            let key = (topic.name.clone(), p.partition_index);
            if !seen.insert(key.clone()) {
                repeated.insert(key);
            }
        }
    }
    let mut questions = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for p in topic.partitions {
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(p.partition_index);
            let is_repeated = repeated.contains(&(topic.name.clone(), p.partition_index));
            let refused = match find(&image, &topic.name, p.partition_index) {
                _ if is_repeated => Some(ErrorCode::InvalidRequest),
                None => Some(ErrorCode::UnknownTopicOrPartition),
                Some(_) if !is_timestamp_served(ctx.version, p.timestamp) => {
                    Some(ErrorCode::UnsupportedVersion)
                }
                Some(partition) => {
                    questions.push(OffsetQuestion {
                        partition,
                        current_leader_epoch: p.current_leader_epoch,
                        timestamp: p.timestamp,
                    });
                    None
                }
            };
            let code = refused.unwrap_or(ErrorCode::None);
            partitions.push(response.with_error_code(code.code()));
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    let mut answers = ctx.shard.offsets(questions).await.into_iter();
    let open = topics
        .iter_mut()
        .flat_map(|t| &mut t.partitions)
        .filter(|p| p.error_code == 0);
    for response in open {
        match answers.next().expect("one answer a question") {
            Ok(answer) => {
                response.offset = answer.offset;
                response.timestamp = answer.timestamp;
                if ctx.version >= 4 {
                    response.leader_epoch = answer.leader_epoch;
                }
            }
            Err(error) => response.error_code = errors::code(&error).code(),
        }
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// Kafka's special timestamps and the versions that know them.
fn is_timestamp_served(version: i16, timestamp: i64) -> bool {
    match timestamp {
        -2.. => true,
        -3 => version >= 7,
        -4 => version >= 8,
        -5 => version >= 9,
        -6 => version >= 11,
        _ => false,
    }
}

/// OffsetForLeaderEpoch: where the records of an epoch end (KIP-101, KIP-320).
pub(crate) async fn epoch_ends(
    ctx: &RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let image = ctx.shard.image();
    let mut questions = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for p in topic.partitions {
            let found = find(&image, &topic.topic, p.partition);
            if let Some(partition) = found {
                questions.push(EpochQuestion {
                    partition,
                    current_leader_epoch: p.current_leader_epoch,
                    leader_epoch: p.leader_epoch,
                });
            }
            let code = found.map_or(ErrorCode::UnknownTopicOrPartition, |_| ErrorCode::None);
            partitions.push(
                EpochEndOffset::default()
                    .with_partition(p.partition)
                    .with_leader_epoch(-1)
                    .with_end_offset(-1)
                    .with_error_code(code.code()),
            );
        }
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic)
                .with_partitions(partitions),
        );
    }
    let mut answers = ctx.shard.epoch_ends(questions).await.into_iter();
    let open = topics
        .iter_mut()
        .flat_map(|t| &mut t.partitions)
        .filter(|p| p.error_code == 0);
    for response in open {
        match answers.next().expect("one answer a question") {
            Ok((epoch, end)) => {
                response.leader_epoch = epoch;
                response.end_offset = end;
            }
            Err(error) => response.error_code = errors::code(&error).code(),
        }
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

/// DeleteRecords: moves the log start (KIP-107); durable before the answer.
pub(crate) async fn delete_records(
    ctx: &RequestContext,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let image = ctx.shard.image();
    let mut asked = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for p in topic.partitions {
            let code = match find(&image, &topic.name, p.partition_index) {
                None => ErrorCode::UnknownTopicOrPartition,
                Some(_) if image.topic(&topic.name).is_some_and(|t| t.is_internal()) => {
                    ErrorCode::InvalidTopicException
                }
                Some(partition) => {
                    asked.push((partition, p.offset));
                    ErrorCode::None
                }
            };
            partitions.push(
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(p.partition_index)
                    .with_low_watermark(-1)
                    .with_error_code(code.code()),
            );
        }
        topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    let mut answers = ctx.shard.delete_records(asked).await.into_iter();
    let open = topics
        .iter_mut()
        .flat_map(|t| &mut t.partitions)
        .filter(|p| p.error_code == 0);
    for response in open {
        match answers.next().expect("one answer a question") {
            Ok(log_start) => response.low_watermark = log_start.get(),
            Err(error) => response.error_code = errors::code(&error).code(),
        }
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

/// DescribeLogDirs: the one data directory (KIP-113; sizes of the file system: KIP-827).
pub(crate) async fn describe_log_dirs(
    ctx: &RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let wanted: Option<BTreeSet<(String, i32)>> = request.topics.map(|topics| {
        topics
            .into_iter()
            .flat_map(|t| {
                t.partitions
                    .into_iter()
                    .map(move |p| (t.topic.to_string(), p))
            })
            .collect()
    });
    let image = ctx.shard.image();
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for size in ctx.shard.sizes().await {
        let Some(topic) = image.topic_by_id(size.partition.topic) else {
            continue;
        };
        let key = (topic.name.to_string(), size.partition.partition.0);
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&key)) {
            continue;
        }
        let partition = DescribeLogDirsPartition::default()
            .with_partition_index(key.1)
            .with_partition_size(i64::try_from(size.size_bytes).unwrap_or(i64::MAX));
        topics.entry(key.0).or_default().push(partition);
    }
    let topics = topics
        .into_iter()
        .map(|(name, mut partitions)| {
            partitions.sort_by_key(|p| p.partition_index);
            DescribeLogDirsTopic::default()
                .with_name(TopicName(StrBytes::from_string(name)))
                .with_partitions(partitions)
        })
        .collect();
    let (total, usable) = ctx.shard.disk_space().await;
    let mut result = DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_string(
            ctx.shard.data_dir().display().to_string(),
        ))
        .with_topics(topics);
    if ctx.version >= 4 {
        result.total_bytes = total;
        result.usable_bytes = usable;
    }
    DescribeLogDirsResponse::default().with_results(vec![result])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_timestamps_belong_to_the_versions_that_brought_them() {
        assert!(is_timestamp_served(1, -1) && is_timestamp_served(1, -2));
        assert!(!is_timestamp_served(6, -3) && is_timestamp_served(7, -3));
        assert!(!is_timestamp_served(7, -4) && is_timestamp_served(8, -4));
        assert!(!is_timestamp_served(10, -6) && is_timestamp_served(11, -6));
        assert!(!is_timestamp_served(11, -7));
    }
}

//! OffsetCommit, OffsetFetch, OffsetDelete: committed positions of groups.
//!
//! Topics are named, or from version 10 on identified (KIP-848 clients); the coordinator knows
//! names only, so the handler translates with the image and answers what does not exist itself.

use std::collections::HashSet;

use kafka_protocol::messages as kafka;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};

use crate::cluster::metadata::{Image, Topic};
use crate::group::requests::{
    CommitRequest, DeleteOffsetsRequest, FetchOffsetsRequest, FetchOffsetsResponse, GroupReply,
    GroupRequest, OffsetToCommit,
};
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicId;
use crate::server::context::RequestContext;
use crate::server::handlers::groups::{ask, text};

/// From this version on topics are identified, not named.
const IDS_FROM_VERSION: i16 = 10;

/// OffsetCommit: unknown topics and partitions are refused here, the rest goes to the coordinator.
pub(crate) async fn commit(
    ctx: &RequestContext,
    request: kafka::OffsetCommitRequest,
) -> kafka::OffsetCommitResponse {
    let image = ctx.shard.image();
    let mut topics: Vec<OffsetCommitResponseTopic> = Vec::with_capacity(request.topics.len());
    let mut asked: Vec<(String, Vec<OffsetToCommit>)> = Vec::new();
    for topic in request.topics {
        let (response, commits) = resolve_commit(ctx, &image, topic);
        if let Some(commits) = commits {
            asked.push(commits);
        }
        topics.push(response);
    }
    let commit = CommitRequest {
        group_id: request.group_id.to_string(),
        generation_id: request.generation_id_or_member_epoch,
        member_id: request.member_id.to_string(),
        group_instance_id: request.group_instance_id.map(|id| id.to_string()),
        retention_time_ms: (ctx.version <= 4 && request.retention_time_ms >= 0)
            .then_some(request.retention_time_ms),
        topics: asked,
    };
    let committed = match ask(ctx, GroupRequest::Commit(commit)).await {
        Some(GroupReply::Commit(committed)) => Some(committed),
        _ => None,
    };
    let mut codes = committed
        .into_iter()
        .flat_map(|c| c.topics)
        .flat_map(|(_, p)| p);
    for p in topics
        .iter_mut()
        .flat_map(|t| &mut t.partitions)
        .filter(|p| p.error_code == 0)
    {
        p.error_code = codes
            .next()
            .map_or(ErrorCode::NotCoordinator, |(_, code)| code)
            .code();
    }
    kafka::OffsetCommitResponse::default().with_topics(topics)
}

/// The answer for one topic with its refusals filled in, and what is left to commit.
fn resolve_commit(
    ctx: &RequestContext,
    image: &Image,
    topic: OffsetCommitRequestTopic,
) -> (
    OffsetCommitResponseTopic,
    Option<(String, Vec<OffsetToCommit>)>,
) {
    let by_id = ctx.version >= IDS_FROM_VERSION;
    let found: Option<&Topic> = if by_id {
        image
            .topic_by_id(TopicId::from(topic.topic_id))
            .map(AsRef::as_ref)
    } else {
        image.topic(&topic.name).map(AsRef::as_ref)
    };
    let mut commits = Vec::with_capacity(topic.partitions.len());
    let partitions = topic
        .partitions
        .into_iter()
        .map(|p| {
            let code = match found {
                None if by_id => ErrorCode::UnknownTopicId,
                Some(t) if t.partition(p.partition_index).is_some() => {
                    commits.push(OffsetToCommit {
                        partition: p.partition_index,
                        offset: p.committed_offset,
                        leader_epoch: p.committed_leader_epoch,
                        metadata: p
                            .committed_metadata
                            .map(|m| m.to_string())
                            .unwrap_or_default(),
                    });
                    ErrorCode::None
                }
                _ => ErrorCode::UnknownTopicOrPartition,
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_error_code(code.code())
        })
        .collect();
    let response = OffsetCommitResponseTopic::default()
        .with_name(topic.name)
        .with_topic_id(topic.topic_id)
        .with_partitions(partitions);
    let commits = found
        .filter(|_| !commits.is_empty())
        .map(|t| (t.name.to_string(), commits));
    (response, commits)
}

/// OffsetFetch.
pub(crate) async fn fetch(
    ctx: &RequestContext,
    request: kafka::OffsetFetchRequest,
) -> kafka::OffsetFetchResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    let mut seen = HashSet::new();
    for group in request.groups {
        if !seen.insert(group.group_id.clone()) {
            let code = ErrorCode::InvalidRequest.code(); // it may have much: once is enough
            let refused = OffsetFetchResponseGroup::default().with_group_id(group.group_id);
            groups.push(refused.with_error_code(code));
            continue;
        }
        groups.push(fetch_group(ctx, group, request.require_stable).await);
    }
    kafka::OffsetFetchResponse::default().with_groups(groups)
}

async fn ask_offsets(ctx: &RequestContext, asked: FetchOffsetsRequest) -> FetchOffsetsResponse {
    match ask(ctx, GroupRequest::FetchOffsets(asked)).await {
        Some(GroupReply::FetchOffsets(fetched)) => fetched,
        _ => FetchOffsetsResponse {
            error: ErrorCode::NotCoordinator,
            topics: Vec::new(),
        },
    }
}

/// Leaves out partitions that were named before: an offset may have a long text beside it.
fn keep_first(
    topic: &mut OffsetFetchRequestTopics,
    seen: &mut HashSet<(TopicName, uuid::Uuid, i32)>,
) {
    let (name, id) = (topic.name.clone(), topic.topic_id);
    let partitions = &mut topic.partition_indexes;
    partitions.retain(|index| seen.insert((name.clone(), id, *index)));
}

async fn fetch_group(
    ctx: &RequestContext,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let image = ctx.shard.image();
    let by_id = ctx.version >= IDS_FROM_VERSION;
    let mut unknown = Vec::new();
    let topics = group.topics.map(|all| {
        let mut named = Vec::with_capacity(all.len());
        let mut seen = HashSet::new();
        for mut topic in all {
            keep_first(&mut topic, &mut seen);
            if !by_id {
                named.push((topic.name.to_string(), topic.partition_indexes));
            } else if let Some(found) = image.topic_by_id(TopicId::from(topic.topic_id)) {
                named.push((found.name.to_string(), topic.partition_indexes));
            } else {
                unknown.push(topic);
            }
        }
        named
    });
    let group_id = group.group_id.to_string();
    let fetched = ask_offsets(
        ctx,
        FetchOffsetsRequest {
            group_id,
            topics,
            require_stable,
        },
    )
    .await;
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for (name, partitions) in fetched.topics {
        let id = image.topic(&name).map(|t| t.id);
        if by_id && id.is_none() {
            continue; // a committed offset of a topic that has gone meanwhile
        }
        let partitions = partitions
            .into_iter()
            .map(|p| {
                OffsetFetchResponsePartitions::default()
                    .with_partition_index(p.partition)
                    .with_committed_offset(p.offset)
                    .with_committed_leader_epoch(p.leader_epoch)
                    .with_metadata(Some(text(p.metadata)))
                    .with_error_code(p.error.code())
            })
            .collect();
        let topic = OffsetFetchResponseTopics::default().with_partitions(partitions);
        topics.push(match id {
            Some(id) if by_id => topic.with_topic_id(id.into()),
            _ => topic.with_name(TopicName(text(name))),
        });
    }
    for topic in unknown {
        let partitions = topic
            .partition_indexes
            .into_iter()
            .map(|p| {
                OffsetFetchResponsePartitions::default()
                    .with_partition_index(p)
                    .with_committed_offset(-1)
                    .with_error_code(ErrorCode::UnknownTopicId.code())
            })
            .collect();
        topics.push(
            OffsetFetchResponseTopics::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions),
        );
    }
    OffsetFetchResponseGroup::default()
        .with_group_id(group.group_id)
        .with_topics(topics)
        .with_error_code(fetched.error.code())
}

/// OffsetDelete.
pub(crate) async fn delete(
    ctx: &RequestContext,
    request: kafka::OffsetDeleteRequest,
) -> kafka::OffsetDeleteResponse {
    let image = ctx.shard.image();
    let mut topics: Vec<OffsetDeleteResponseTopic> = Vec::with_capacity(request.topics.len());
    let mut asked = Vec::new();
    for topic in request.topics {
        let found = image.topic(&topic.name);
        let mut known = Vec::new();
        let partitions = topic
            .partitions
            .into_iter()
            .map(|p| {
                let exists = found.is_some_and(|t| t.partition(p.partition_index).is_some());
                let code = if exists {
                    known.push(p.partition_index);
                    ErrorCode::None
                } else {
                    ErrorCode::UnknownTopicOrPartition
                };
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(p.partition_index)
                    .with_error_code(code.code())
            })
            .collect();
        if !known.is_empty() {
            asked.push((topic.name.to_string(), known));
        }
        topics.push(
            OffsetDeleteResponseTopic::default()
                .with_name(topic.name)
                .with_partitions(partitions),
        );
    }
    let group_id = request.group_id.to_string();
    let asked = DeleteOffsetsRequest {
        group_id,
        topics: asked,
    };
    let response = kafka::OffsetDeleteResponse::default();
    match ask(ctx, GroupRequest::DeleteOffsets(asked)).await {
        Some(GroupReply::DeleteOffsets(deleted)) if deleted.error == ErrorCode::None => {
            let mut codes = deleted.topics.into_iter().flat_map(|(_, p)| p);
            for p in topics
                .iter_mut()
                .flat_map(|t| &mut t.partitions)
                .filter(|p| p.error_code == 0)
            {
                p.error_code = codes
                    .next()
                    .map_or(ErrorCode::None, |(_, code)| code)
                    .code();
            }
            response.with_topics(topics)
        }
        Some(GroupReply::DeleteOffsets(deleted)) => response.with_error_code(deleted.error.code()),
        _ => response.with_error_code(ErrorCode::NotCoordinator.code()),
    }
}

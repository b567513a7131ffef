//! Metadata: topics, partitions, leaders; creates topics on request (KIP-204, KIP-516).

use std::collections::HashSet;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::controller::NewTopic;
use crate::cluster::metadata::Topic;
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicId;
use crate::model::limits;
use crate::model::topic_name::OFFSETS_TOPIC;
use crate::server::context::RequestContext;
use crate::server::operations;

/// Answers for all topics, or for those named.
///
/// Below v4 a named topic is always created when the broker allows it.
pub(crate) async fn handle(ctx: &RequestContext, request: MetadataRequest) -> MetadataResponse {
    let (host, port) = ctx.advertised();
    let node = BrokerId(ctx.node_id().0);
    let broker = MetadataResponseBroker::default()
        .with_node_id(node)
        .with_host(StrBytes::from_string(host))
        .with_port(port);
    let may_create = ctx.config().auto_create_topics_enable
        && (ctx.version < 4 || request.allow_auto_topic_creation);
    let mut topics = match request.topics {
        None => all_topics(ctx),
        Some(topics) => named_topics(ctx, topics, may_create).await,
    };
    if request.include_topic_authorized_operations {
        let known = |topic: &&mut MetadataResponseTopic| topic.error_code == 0;
        for topic in topics.iter_mut().filter(known) {
            topic.topic_authorized_operations = operations::TOPIC;
        }
    }
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(StrBytes::from_string(
            ctx.shard.cluster_id().to_owned(),
        )))
        .with_controller_id(node)
        .with_topics(topics)
        .with_cluster_authorized_operations(operations::if_asked(
            request.include_cluster_authorized_operations,
            operations::CLUSTER,
        ))
}

fn all_topics(ctx: &RequestContext) -> Vec<MetadataResponseTopic> {
    ctx.shard
        .image()
        .topics()
        .map(|topic| describe(ctx, topic))
        .collect()
}

async fn named_topics(
    ctx: &RequestContext,
    mut topics: Vec<MetadataRequestTopic>,
    may_create: bool,
) -> Vec<MetadataResponseTopic> {
    // As in Kafka, a topic that is named twice is described once.
    let mut seen = HashSet::new();
    topics.retain(|asked| seen.insert((asked.name.clone(), asked.topic_id)));
    drop(seen);
    if may_create {
        create_missing(ctx, &topics).await;
    }
    let image = ctx.shard.image();
    topics
        .into_iter()
        .map(|asked| match asked.name {
            Some(name) => match image.topic(&name) {
                Some(topic) => describe(ctx, topic),
                None => unknown_name(name),
            },
            None => {
                let id = TopicId::from(asked.topic_id);
                match image.topic_by_id(id) {
                    Some(topic) => describe(ctx, topic),
                    None => MetadataResponseTopic::default()
                        .with_error_code(ErrorCode::UnknownTopicId.code())
                        .with_topic_id(asked.topic_id),
                }
            }
        })
        .collect()
}

/// Creates every valid name that does not exist; a refusal shows as the topic still missing.
async fn create_missing(ctx: &RequestContext, topics: &[MetadataRequestTopic]) {
    let image = ctx.shard.image();
    let mut missing: Vec<NewTopic> = topics
        .iter()
        .filter_map(|asked| asked.name.as_ref())
        .filter(|name| image.topic(name).is_none() && is_valid(name))
        .map(|name| NewTopic {
            name: name.to_string(),
            partition_count: -1,
            replication_factor: -1,
            ..NewTopic::default()
        })
        .collect();
    if missing.iter().any(|topic| topic.name == OFFSETS_TOPIC) {
        // It has settings of its own.
        missing.retain(|topic| topic.name != OFFSETS_TOPIC);
        ctx.shard.offsets_topic().await;
    }
    missing.sort_by(|a, b| a.name.cmp(&b.name));
    missing.dedup_by(|a, b| a.name == b.name);
    let each = usize::try_from(ctx.config().num_partitions).unwrap_or(1);
    missing.truncate(limits::PARTITIONS_PER_REQUEST_MAX / each.max(1)); // others when asked again
    if !missing.is_empty() {
        ctx.shard.create_topics(missing, false).await;
    }
}

fn is_valid(name: &TopicName) -> bool {
    crate::model::topic_name::check_topic_name(name).is_ok()
}

fn unknown_name(name: TopicName) -> MetadataResponseTopic {
    let code = if is_valid(&name) {
        ErrorCode::UnknownTopicOrPartition
    } else {
        ErrorCode::InvalidTopicException
    };
    MetadataResponseTopic::default()
        .with_error_code(code.code())
        .with_name(Some(name))
}

fn describe(ctx: &RequestContext, topic: &Topic) -> MetadataResponseTopic {
    let node = BrokerId(ctx.node_id().0);
    let partitions = topic
        .partitions()
        .map(|p| {
            MetadataResponsePartition::default()
                .with_partition_index(p.partition.0)
                .with_leader_id(node)
                .with_leader_epoch(topic.leader_epoch)
                .with_replica_nodes(vec![node])
                .with_isr_nodes(vec![node])
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(
            topic.name.to_string(),
        ))))
        .with_topic_id(topic.id.into())
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions)
}

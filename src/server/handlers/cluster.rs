//! DescribeCluster, DescribeTopicPartitions, FindCoordinator, ListConfigResources, ApiVersions:
//! answers from the image and the configuration alone.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeClusterRequest,
    DescribeClusterResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, ListConfigResourcesRequest,
    ListConfigResourcesResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::metadata::Topic;
use crate::model::error_code::ErrorCode;
use crate::server::context::RequestContext;
use crate::server::operations;
use crate::wire::api_versions::{self as wire_api_versions, Feature};

/// `max.request.partition.size.limit` of Kafka: partitions in one DescribeTopicPartitions answer.
const DESCRIBED_PARTITIONS_MAX: i32 = 2000;

/// ApiVersions: the table of `wire::api`. Client name and version follow KIP-511.
pub(crate) fn api_versions(
    ctx: &RequestContext,
    request: &ApiVersionsRequest,
) -> ApiVersionsResponse {
    let is_named = ctx.version < 3
        || (is_software_name(&request.client_software_name)
            && is_software_name(&request.client_software_version));
    if !is_named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    wire_api_versions::response(ctx.version, FEATURES)
}

/// Features in force (KIP-584): record formats and group protocol of this version.
const FEATURES: &[Feature] = &[];

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?` (KIP-511).
fn is_software_name(name: &str) -> bool {
    let is_edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = name.as_bytes();
    is_edge(bytes.first().copied())
        && is_edge(bytes.last().copied())
        && bytes
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'))
}

/// DescribeCluster: the one broker (KIP-700; KIP-919: only broker endpoints are here).
pub(crate) fn describe_cluster(
    ctx: &RequestContext,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default()
        .with_cluster_id(StrBytes::from_string(ctx.shard.cluster_id().to_owned()));
    if ctx.version >= 1 && request.endpoint_type != 1 {
        let (code, message) = match request.endpoint_type {
            2 => (
                ErrorCode::MismatchedEndpointType,
                "The request was sent to a broker endpoint.",
            ),
            _ => (
                ErrorCode::UnsupportedEndpointType,
                "Unsupported endpoint type.",
            ),
        };
        return response
            .with_error_code(code.code())
            .with_error_message(Some(StrBytes::from_static_str(message)));
    }
    let (host, port) = ctx.advertised();
    let broker = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(ctx.node_id().0))
        .with_host(StrBytes::from_string(host))
        .with_port(port);
    response
        .with_controller_id(BrokerId(ctx.node_id().0))
        .with_brokers(vec![broker])
        .with_cluster_authorized_operations(operations::if_asked(
            request.include_cluster_authorized_operations,
            operations::CLUSTER,
        ))
}

/// FindCoordinator: this broker coordinates every group; there are no transactions here yet.
pub(crate) fn find_coordinator(
    ctx: &RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let (host, port) = ctx.advertised();
    let refused = coordinator_refusal(request.key_type);
    let coordinators = request
        .coordinator_keys
        .into_iter()
        .map(|key| {
            let coordinator = Coordinator::default().with_key(key);
            match refused {
                Some((code, message)) => coordinator
                    .with_error_code(code.code())
                    .with_error_message(Some(StrBytes::from_static_str(message)))
                    .with_node_id(BrokerId(-1))
                    .with_port(-1),
                None => coordinator
                    .with_node_id(BrokerId(ctx.node_id().0))
                    .with_host(StrBytes::from_string(host.clone()))
                    .with_port(port),
            }
        })
        .collect();
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

fn coordinator_refusal(key_type: i8) -> Option<(ErrorCode, &'static str)> {
    match key_type {
        0 => None,
        // Not retriable for Java and librdkafka, unlike COORDINATOR_NOT_AVAILABLE.
        1 => Some((
            ErrorCode::TransactionalIdAuthorizationFailed,
            "Corelog does not serve transactions yet",
        )),
        _ => Some((ErrorCode::InvalidRequest, "unknown coordinator key type")),
    }
}

/// DescribeTopicPartitions: pages through the partitions of the named topics (KIP-966).
pub(crate) fn describe_topic_partitions(
    ctx: &RequestContext,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = ctx.shard.image();
    let mut names: Vec<String> = if request.topics.is_empty() {
        image.topics().map(|t| t.name.to_string()).collect()
    } else {
        request.topics.iter().map(|t| t.name.to_string()).collect()
    };
    names.sort_unstable();
    names.dedup();
    let mut first = 0;
    if request
        .cursor
        .as_ref()
        .is_some_and(|cursor| cursor.partition_index < 0)
    {
        let refused = names.into_iter().map(|name| {
            DescribeTopicPartitionsResponseTopic::default()
                .with_error_code(ErrorCode::InvalidRequest.code())
                .with_name(Some(TopicName(StrBytes::from_string(name))))
        });
        return DescribeTopicPartitionsResponse::default().with_topics(refused.collect());
    }
    if let Some(cursor) = &request.cursor {
        names.retain(|name| name.as_str() >= cursor.topic_name.as_str());
        if names
            .first()
            .is_some_and(|name| *name == *cursor.topic_name.as_str())
        {
            first = cursor.partition_index;
        }
    }
    let mut room = request
        .response_partition_limit
        .clamp(1, DESCRIBED_PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if room == 0 {
            response.next_cursor = Some(cursor(&name, 0));
            break;
        }
        let Some(topic) = image.topic(&name) else {
            response.topics.push(
                DescribeTopicPartitionsResponseTopic::default()
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                    .with_name(Some(TopicName(StrBytes::from_string(name)))),
            );
            continue;
        };
        let end = topic.partition_count.min(first.saturating_add(room));
        response
            .topics
            .push(described_topic(ctx, topic, first, end));
        room -= (end - first).max(0);
        if end < topic.partition_count {
            response.next_cursor = Some(cursor(&name, end));
            break;
        }
        first = 0;
    }
    response
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default()
        .with_topic_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_partition_index(partition)
}

fn described_topic(
    ctx: &RequestContext,
    topic: &Topic,
    first: i32,
    end: i32,
) -> DescribeTopicPartitionsResponseTopic {
    let node = BrokerId(ctx.node_id().0);
    let partitions = (first..end)
        .map(|partition| {
            DescribeTopicPartitionsResponsePartition::default()
                .with_partition_index(partition)
                .with_leader_id(node)
                .with_leader_epoch(topic.leader_epoch)
                .with_replica_nodes(vec![node])
                .with_isr_nodes(vec![node])
                .with_eligible_leader_replicas(Some(Vec::new()))
                .with_last_known_elr(Some(Vec::new()))
        })
        .collect();
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(
            topic.name.to_string(),
        ))))
        .with_topic_id(topic.id.into())
        .with_is_internal(topic.is_internal())
        .with_topic_authorized_operations(operations::TOPIC)
        .with_partitions(partitions)
}

/// Kafka's numbers for what can be configured.
pub(crate) const RESOURCE_TOPIC: i8 = 2;
/// See [`RESOURCE_TOPIC`].
pub(crate) const RESOURCE_BROKER: i8 = 4;
/// Resource type of a group (KIP-848).
pub(crate) const RESOURCE_GROUP: i8 = 32;

/// ListConfigResources (KIP-1142): topics and the broker; v0 asks for client metrics, of which
/// there are none.
pub(crate) fn list_config_resources(
    ctx: &RequestContext,
    request: &ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    const CLIENT_METRICS: i8 = 16;
    const KNOWN: [i8; 5] = [
        RESOURCE_TOPIC,
        RESOURCE_BROKER,
        8,
        CLIENT_METRICS,
        RESOURCE_GROUP,
    ];
    let asked: Vec<i8> = match (ctx.version, request.resource_types.as_slice()) {
        (0, _) => vec![CLIENT_METRICS],
        (_, []) => KNOWN.to_vec(),
        (_, types) => types.to_vec(),
    };
    if asked.iter().any(|kind| !KNOWN.contains(kind)) {
        return ListConfigResourcesResponse::default()
            .with_error_code(ErrorCode::UnsupportedVersion.code());
    }
    let resource = |name: String, kind: i8| {
        ConfigResource::default()
            .with_resource_name(StrBytes::from_string(name))
            .with_resource_type(kind)
    };
    let mut resources = Vec::new();
    if asked.contains(&RESOURCE_TOPIC) {
        let image = ctx.shard.image();
        resources.extend(
            image
                .topics()
                .map(|t| resource(t.name.to_string(), RESOURCE_TOPIC)),
        );
    }
    if asked.contains(&RESOURCE_GROUP) {
        let image = ctx.shard.image();
        let groups = image.group_overrides().keys();
        resources.extend(groups.map(|group| resource(group.clone(), RESOURCE_GROUP)));
    }
    if asked.contains(&RESOURCE_BROKER) {
        resources.push(resource(ctx.node_id().0.to_string(), RESOURCE_BROKER));
    }
    ListConfigResourcesResponse::default().with_config_resources(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["librdkafka", "a", "apache-kafka-java", "2.0.2"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "a_b", "\u{e9}"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}

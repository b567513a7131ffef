//! Administration of topics: create, delete, more partitions, settings, offsets.
//!
//! Runs on: the calling thread.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListOffsetsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::cluster::{Client, topic_name};
use super::error::Error;

/// How long the broker may take for an admin request.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
const ADMIN_TIMEOUT_MS: i32 = 30_000;
const TOPIC_RESOURCE: i8 = 2;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

/// A wire string.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name on the wire.
pub(super) fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A point in a partition that `ListOffsets` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first record that is still there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// The first record of this time (milliseconds) or later; the end when there is none.
    Timestamp(i64),
}

impl OffsetAt {
    fn wire(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::Timestamp(at) => at,
        }
    }
}

/// Creates a topic; `None` leaves a number to the broker.
pub fn create(
    client: &mut Client,
    name: &str,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    settings: &[(String, String)],
) -> Result<(), Error> {
    let configs = settings
        .iter()
        .map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value)))
        })
        .collect();
    let creatable = CreatableTopic::default()
        .with_name(topic(name))
        .with_num_partitions(partitions.unwrap_or(-1))
        .with_replication_factor(replication_factor.unwrap_or(-1))
        .with_configs(configs);
    let request = CreateTopicsRequest::default()
        .with_topics(vec![creatable])
        .with_timeout_ms(ADMIN_TIMEOUT_MS);
    client.retry_at_controller(|connection| {
        let response = connection.call_waiting(&request, 6, ADMIN_TIMEOUT)?;
        for result in &response.topics {
            let message = result.error_message.as_deref();
            Error::check(|| format!("topic `{name}`"), result.error_code, message)?;
        }
        Ok(())
    })
}

/// Deletes a topic.
pub fn delete(client: &mut Client, name: &str) -> Result<(), Error> {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![topic(name)])
        .with_timeout_ms(ADMIN_TIMEOUT_MS);
    // UNKNOWN_TOPIC_OR_PARTITION counts as retriable; here it is an answer
    let outcome = client.retry_at_controller(|connection| {
        let response = connection.call_waiting(&request, 5, ADMIN_TIMEOUT)?;
        Ok(response.responses.first().map(|result| {
            (
                result.error_code,
                result.error_message.as_ref().map(ToString::to_string),
            )
        }))
    })?;
    let (code, message) = outcome.unwrap_or_default();
    Error::check(|| format!("topic `{name}`"), code, message.as_deref())
}

/// Raises the number of partitions.
pub fn add_partitions(client: &mut Client, name: &str, count: i32) -> Result<(), Error> {
    let wanted = CreatePartitionsTopic::default()
        .with_name(topic(name))
        .with_count(count)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![wanted])
        .with_timeout_ms(ADMIN_TIMEOUT_MS);
    client.retry_at_controller(|connection| {
        let response = connection.call_waiting(&request, 3, ADMIN_TIMEOUT)?;
        for result in &response.results {
            let message = result.error_message.as_deref();
            Error::check(|| format!("topic `{name}`"), result.error_code, message)?;
        }
        Ok(())
    })
}

/// Sets (`Some`) and resets (`None`) settings of a topic.
pub fn alter_settings(
    client: &mut Client,
    name: &str,
    changes: &[(String, Option<String>)],
) -> Result<(), Error> {
    let configs = changes
        .iter()
        .map(|(key, value)| {
            let operation = if value.is_some() {
                OPERATION_SET
            } else {
                OPERATION_DELETE
            };
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(operation)
                .with_value(value.as_deref().map(text))
        })
        .collect();
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(name))
        .with_configs(configs);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    client.retry_at_controller(|connection| {
        let response = connection.call(&request, 1)?;
        for result in &response.responses {
            let message = result.error_message.as_deref();
            Error::check(|| format!("topic `{name}`"), result.error_code, message)?;
        }
        Ok(())
    })
}

/// All settings of a topic.
pub fn settings(
    client: &mut Client,
    name: &str,
) -> Result<Vec<DescribeConfigsResourceResult>, Error> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = client.any()?.call(&request, 4)?;
    let mut configs = Vec::new();
    for result in response.results {
        let message = result.error_message.as_deref();
        Error::check(|| format!("topic `{name}`"), result.error_code, message)?;
        configs.extend(result.configs);
    }
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(configs)
}

/// The offset of a point in each of these partitions (all when `wanted` is empty).
pub fn offsets(
    client: &mut Client,
    described: &MetadataResponseTopic,
    wanted: &[i32],
    at: OffsetAt,
) -> Result<BTreeMap<i32, i64>, Error> {
    let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for partition in &described.partitions {
        if wanted.is_empty() || wanted.contains(&partition.partition_index) {
            let list = by_leader.entry(partition.leader_id.0).or_default();
            list.push(partition.partition_index);
        }
    }
    let mut found = BTreeMap::new();
    for (leader, partitions) in by_leader {
        offsets_at_leader(
            client,
            topic_name(described),
            leader,
            &partitions,
            at,
            &mut found,
        )?;
    }
    let ends_missing = matches!(at, OffsetAt::Timestamp(_)) && found.values().any(|at| *at < 0);
    if ends_missing {
        let ends = offsets(client, described, wanted, OffsetAt::Latest)?;
        for (partition, offset) in &mut found {
            if *offset < 0 {
                *offset = ends.get(partition).copied().unwrap_or(0);
            }
        }
    }
    Ok(found)
}

fn offsets_at_leader(
    client: &mut Client,
    name: &str,
    leader: i32,
    partitions: &[i32],
    at: OffsetAt,
    found: &mut BTreeMap<i32, i64>,
) -> Result<(), Error> {
    let asked = partitions
        .iter()
        .map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(at.wire())
        })
        .collect();
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![
            ListOffsetsTopic::default()
                .with_name(topic(name))
                .with_partitions(asked),
        ]);
    let response = client.retry(|client| {
        let result = client.node(leader)?.call(&request, 6);
        if result.is_err() {
            client.drop_node(leader);
        }
        let response = result?;
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            let index = partition.partition_index;
            let what = || format!("partition {index} of topic `{name}`");
            Error::check(what, partition.error_code, None)?;
        }
        Ok(response)
    })?;
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        found.insert(partition.partition_index, partition.offset);
    }
    Ok(())
}

//! Administers a broker with the rdkafka crate: `corelog-admin-rust BOOTSTRAP CALL ARGUMENTS`, one
//! line of JSON for a question.

use std::error::Error;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::groups::GroupInfo;
use rdkafka::{Offset, TopicPartitionList};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Admin = AdminClient<DefaultClientContext>;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The first error of the results that a call gives one by one.
fn check<T, N: std::fmt::Debug, E: std::fmt::Debug>(
    results: Vec<std::result::Result<T, (N, E)>>,
) -> Result<()> {
    for result in results {
        result.map_err(|(name, error)| format!("{name:?}: {error:?}"))?;
    }
    Ok(())
}

fn one_partition(topic: &str, partition: &str, offset: Offset) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition.parse()?, offset)?;
    Ok(list)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let topics = metadata.topics().iter();
    Ok(topics
        .flat_map(rdkafka::metadata::MetadataTopic::partitions)
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect())
}

/// The partitions in a member's assignment, as the "consumer" protocol encodes them:
/// i16 version, array of (string topic, array of i32 partition), bytes user data.
fn assigned(assignment: &[u8]) -> Option<Vec<i32>> {
    fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
        let (value, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(i32::from_be_bytes(*value))
    }
    let mut bytes = assignment.get(2..)?;
    let mut partitions = Vec::new();
    for _ in 0..take_i32(&mut bytes)? {
        let (size, rest) = bytes.split_first_chunk()?;
        bytes = rest.get(usize::from(u16::from_be_bytes(*size))..)?;
        for _ in 0..take_i32(&mut bytes)? {
            partitions.push(take_i32(&mut bytes)?);
        }
    }
    Some(partitions)
}

/// Asks one question and answers in JSON.
fn ask(consumer: &BaseConsumer, admin: &Admin, call: &[&str]) -> Result<String> {
    Ok(match call {
        ["list-topics"] => {
            let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
            let names: Vec<&str> = metadata
                .topics()
                .iter()
                .map(rdkafka::metadata::MetadataTopic::name)
                .collect();
            format!("{names:?}")
        }
        ["describe-topic", topic] => format!("{:?}", partitions(consumer, topic)?),
        ["describe-cluster"] => {
            let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
            let nodes: Vec<i32> = metadata
                .brokers()
                .iter()
                .map(rdkafka::metadata::MetadataBroker::id)
                .collect();
            let cluster = admin
                .inner()
                .fetch_cluster_id(TIMEOUT)
                .ok_or("no cluster id")?;
            format!("{{\"cluster\": \"{cluster}\", \"nodes\": {nodes:?}}}")
        }
        ["describe-configs", topic] => {
            let topic = [ResourceSpecifier::Topic(topic)];
            let answer = block_on(admin.describe_configs(&topic, &AdminOptions::new()))?;
            let mut values = Vec::new();
            for resource in answer {
                for entry in resource?.entries {
                    values.push(format!(
                        "{:?}: {:?}",
                        entry.name,
                        entry.value.unwrap_or_default()
                    ));
                }
            }
            format!("{{{}}}", values.join(", "))
        }
        ["list-offsets", topic] => {
            let mut offsets = Vec::new();
            for partition in partitions(consumer, topic)? {
                let (start, end) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
                offsets.push(format!("\"{partition}\": [{start}, {end}]"));
            }
            format!("{{{}}}", offsets.join(", "))
        }
        _ => ask_about_groups(consumer, call)?,
    })
}

/// Asks one question about groups and answers in JSON.
fn ask_about_groups(consumer: &BaseConsumer, call: &[&str]) -> Result<String> {
    Ok(match call {
        ["list-groups"] => {
            let groups = consumer.fetch_group_list(None, TIMEOUT)?;
            let names: Vec<&str> = groups
                .groups()
                .iter()
                .map(rdkafka::groups::GroupInfo::name)
                .collect();
            format!("{names:?}")
        }
        ["describe-group", group] => {
            let groups = consumer.fetch_group_list(Some(group), TIMEOUT)?;
            let mut members = Vec::new();
            for member in groups.groups().iter().flat_map(GroupInfo::members) {
                let assignment = member.assignment().unwrap_or_default();
                let partitions = assigned(assignment).ok_or("an assignment that is none")?;
                let client = member.client_id();
                members.push(format!(
                    "{{\"client\": {client:?}, \"partitions\": {partitions:?}}}"
                ));
            }
            format!("[{}]", members.join(", "))
        }
        ["list-group-offsets", _, topic] => {
            let mut list = TopicPartitionList::new();
            for partition in partitions(consumer, topic)? {
                list.add_partition(topic, partition);
            }
            let mut offsets = Vec::new();
            for element in consumer.committed_offsets(list, TIMEOUT)?.elements() {
                if let Offset::Offset(offset) = element.offset() {
                    offsets.push(format!("\"{}\": {offset}", element.partition()));
                }
            }
            format!("{{{}}}", offsets.join(", "))
        }
        _ => return Err(format!("no such call: {call:?}").into()),
    })
}

/// Makes one change; `None` if the call is a question.
fn change(consumer: &BaseConsumer, admin: &Admin, call: &[&str]) -> Option<Result<()>> {
    let options = AdminOptions::new();
    let change = || -> Result<Option<()>> {
        match call {
            ["create-topic", topic, partitions] => {
                let topic = NewTopic::new(topic, partitions.parse()?, TopicReplication::Fixed(1))
                    .set("retention.ms", "7654321");
                check(block_on(admin.create_topics(&[topic], &options))?)?;
            }
            ["alter-configs", topic, name, value] => {
                let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
                check(block_on(admin.alter_configs(&[change], &options))?)?;
            }
            ["create-partitions", topic, total] => {
                let total = NewPartitions::new(topic, total.parse()?);
                check(block_on(admin.create_partitions(&[total], &options))?)?;
            }
            ["delete-records", topic, partition, offset] => {
                let before = one_partition(topic, partition, Offset::Offset(offset.parse()?))?;
                for element in block_on(admin.delete_records(&before, &options))?.elements() {
                    element.error()?;
                }
            }
            ["alter-group-offsets", _, topic, partition, offset] => {
                let offset = Offset::Offset(offset.parse()?);
                consumer.commit(&one_partition(topic, partition, offset)?, CommitMode::Sync)?;
            }
            ["delete-group", group] => check(block_on(admin.delete_groups(&[group], &options))?)?,
            ["delete-topic", topic] => check(block_on(admin.delete_topics(&[topic], &options))?)?,
            _ => return Ok(None),
        }
        Ok(Some(()))
    };
    change().transpose()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (bootstrap, call) = arguments.split_first().ok_or("no bootstrap address")?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", *bootstrap);
    let admin: Admin = config.create()?;
    // A group's offsets are read and written by a consumer of that group that never joins it.
    let group = if call.len() > 2 { call[1] } else { "unused" };
    let consumer: BaseConsumer = config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()?;
    if let Some(outcome) = change(&consumer, &admin, call) {
        return outcome;
    }
    println!("{}", ask(&consumer, &admin, call)?);
    Ok(())
}

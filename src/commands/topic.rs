//! `corelog topic`: create, list, describe, alter, delete.
//!
//! Runs on: the main thread.

use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};
use serde_json::{Value, json};

use super::arguments::{AlterArguments, Assignment, CreateArguments, TopicCommand};
use super::output::Output;
use super::run::Failure;
use crate::client::cluster::topic_name;
use crate::client::topics::{self, OffsetAt};
use crate::client::{Client, Error};
use crate::model::error_code::ErrorCode;

const DEFAULT_CONFIG: i8 = 5;
const TOPIC_CONFIG: i8 = 1;

/// Runs the command.
pub(super) fn run(command: TopicCommand) -> Result<(), Failure> {
    match command {
        TopicCommand::Create(arguments) => create(arguments),
        TopicCommand::List {
            internal,
            json,
            bootstrap,
        } => {
            let mut client = Client::connect(&bootstrap.bootstrap.0)?;
            let mut all = client.all_topics()?;
            all.retain(|topic| internal || !topic.is_internal);
            list(&all, json)
        }
        TopicCommand::Describe {
            topics,
            all_configs,
            json,
            bootstrap,
        } => {
            let mut client = Client::connect(&bootstrap.bootstrap.0)?;
            let described = describe_all(&mut client, &topics, all_configs)?;
            print_described(&described, json)
        }
        TopicCommand::Alter(arguments) => alter(arguments),
        TopicCommand::Delete {
            topics,
            if_exists,
            bootstrap,
        } => {
            let mut client = Client::connect(&bootstrap.bootstrap.0)?;
            let expected = if_exists.then_some(ErrorCode::UnknownTopicOrPartition);
            for topic in topics {
                unless(topics::delete(&mut client, &topic), expected)?;
            }
            Ok(())
        }
    }
}

fn create(arguments: CreateArguments) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.bootstrap.bootstrap.0)?;
    let topic = &arguments.topic;
    let settings: Vec<(String, String)> = arguments
        .config
        .into_iter()
        .map(|Assignment(name, value)| (name, value))
        .collect();
    let (partitions, replicas) = (arguments.partitions, arguments.replication_factor);
    let created = topics::create(&mut client, topic, partitions, replicas, &settings);
    let expected = arguments
        .if_not_exists
        .then_some(ErrorCode::TopicAlreadyExists);
    unless(created, expected)?;
    client.await_topic(topic)?;
    Ok(())
}

fn alter(arguments: AlterArguments) -> Result<(), Failure> {
    let set = arguments
        .config
        .into_iter()
        .map(|Assignment(name, value)| (name, Some(value)));
    let reset = arguments.reset_config.into_iter().map(|name| (name, None));
    let changes: Vec<(String, Option<String>)> = set.chain(reset).collect();
    if arguments.partitions.is_none() && changes.is_empty() {
        let text = "nothing to alter: give --partitions, --config or --reset-config";
        return Err(Failure::Usage(text.to_owned()));
    }
    let topic = &arguments.topic;
    let mut client = Client::connect(&arguments.bootstrap.bootstrap.0)?;
    client.topic(topic)?;
    if !changes.is_empty() {
        topics::alter_settings(&mut client, topic, &changes)?;
    }
    if let Some(count) = arguments.partitions {
        topics::add_partitions(&mut client, topic, count)?;
    }
    Ok(())
}

/// Success, or the one refusal that is fine.
fn unless(result: Result<(), Error>, expected: Option<ErrorCode>) -> Result<(), Error> {
    match result {
        Err(error) if expected.is_some() && error.code() == expected => Ok(()),
        other => other,
    }
}

fn list(all: &[MetadataResponseTopic], as_json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if as_json {
        let document: Vec<Value> = all
            .iter()
            .map(|topic| {
                json!({
                    "topic": topic_name(topic),
                    "partitions": topic.partitions.len(),
                    "internal": topic.is_internal,
                })
            })
            .collect();
        return output.json(&Value::Array(document));
    }
    for topic in all {
        output.line(topic_name(topic))?;
    }
    output.flush()
}

/// One topic with all that is known about it.
struct Described {
    topic: MetadataResponseTopic,
    partitions: Vec<DescribedPartition>,
    settings: Vec<DescribeConfigsResourceResult>,
}

struct DescribedPartition {
    metadata: MetadataResponsePartition,
    start: i64,
    end: i64,
}

fn describe_all(
    client: &mut Client,
    names: &[String],
    all_configs: bool,
) -> Result<Vec<Described>, Error> {
    let names: Vec<String> = if names.is_empty() {
        let all = client.all_topics()?;
        all.iter()
            .map(|topic| topic_name(topic).to_owned())
            .collect()
    } else {
        names.to_vec()
    };
    let mut described = Vec::new();
    for name in names {
        let topic = client.topic(&name)?;
        let starts = topics::offsets(client, &topic, &[], OffsetAt::Earliest)?;
        let ends = topics::offsets(client, &topic, &[], OffsetAt::Latest)?;
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| DescribedPartition {
                metadata: partition.clone(),
                start: starts
                    .get(&partition.partition_index)
                    .copied()
                    .unwrap_or(-1),
                end: ends.get(&partition.partition_index).copied().unwrap_or(-1),
            })
            .collect();
        let mut settings = topics::settings(client, &name)?;
        settings.retain(|setting| all_configs || setting.config_source == TOPIC_CONFIG);
        described.push(Described {
            topic,
            partitions,
            settings,
        });
    }
    Ok(described)
}

fn print_described(described: &[Described], as_json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if as_json {
        let document: Vec<Value> = described.iter().map(described_json).collect();
        return output.json(&Value::Array(document));
    }
    for (at, one) in described.iter().enumerate() {
        if at > 0 {
            output.line("")?;
        }
        let replicas = one
            .partitions
            .first()
            .map_or(0, |p| p.metadata.replica_nodes.len());
        output.line(format!(
            "topic {}  id {}  partitions {}  replicas {replicas}",
            topic_name(&one.topic),
            crate::model::ids::TopicId::from_bytes(one.topic.topic_id.into_bytes()),
            one.partitions.len(),
        ))?;
        for setting in &one.settings {
            let value = setting.value.as_deref().unwrap_or("(not set)");
            let source = if setting.config_source == DEFAULT_CONFIG {
                "  (default)"
            } else {
                ""
            };
            output.line(format!("  {} = {value}{source}", &*setting.name))?;
        }
        let rows: Vec<Vec<String>> = one.partitions.iter().map(partition_row).collect();
        let head = [
            "  PARTITION",
            "LEADER",
            "REPLICAS",
            "IN SYNC",
            "START",
            "END",
        ];
        output.table(&head, &rows)?;
    }
    output.flush()
}

fn partition_row(partition: &DescribedPartition) -> Vec<String> {
    let metadata = &partition.metadata;
    vec![
        format!("  {}", metadata.partition_index),
        metadata.leader_id.0.to_string(),
        nodes_text(&metadata.replica_nodes),
        nodes_text(&metadata.isr_nodes),
        partition.start.to_string(),
        partition.end.to_string(),
    ]
}

fn nodes_text(nodes: &[kafka_protocol::messages::BrokerId]) -> String {
    let texts: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
    texts.join(",")
}

fn nodes_json(nodes: &[kafka_protocol::messages::BrokerId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

fn described_json(one: &Described) -> Value {
    let partitions: Vec<Value> = one
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.metadata.partition_index,
                "leader": partition.metadata.leader_id.0,
                "replicas": nodes_json(&partition.metadata.replica_nodes),
                "in_sync": nodes_json(&partition.metadata.isr_nodes),
                "start": partition.start,
                "end": partition.end,
            })
        })
        .collect();
    let configs: Vec<Value> = one
        .settings
        .iter()
        .map(|setting| {
            json!({
                "name": &*setting.name,
                "value": setting.value.as_deref(),
                "default": setting.config_source == DEFAULT_CONFIG,
            })
        })
        .collect();
    json!({
        "topic": topic_name(&one.topic),
        "id": crate::model::ids::TopicId::from_bytes(one.topic.topic_id.into_bytes()).to_string(),
        "internal": one.topic.is_internal,
        "partitions": partitions,
        "configs": configs,
    })
}

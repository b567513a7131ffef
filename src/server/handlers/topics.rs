//! CreateTopics, DeleteTopics, CreatePartitions: changes that the controller decides.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::controller::{NewTopic, Refusal};
use crate::cluster::metadata::Topic;
use crate::config::describe::describe_topic;
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicId;
use crate::model::limits;
use crate::server::answer_weight::SHOWN_TOPICS_MAX;
use crate::server::context::RequestContext;
use crate::shard::calls::PartitionsChange;

/// CreateTopics. A name listed twice is refused each time (INVALID_REQUEST), the others go on.
pub(crate) async fn create(
    ctx: &RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let repeated = repeated_names(request.topics.iter().map(|t| t.name.as_str()));
    let (refused, asked): (Vec<_>, Vec<_>) = request
        .topics
        .into_iter()
        .partition(|t| repeated.contains(t.name.as_str()));
    let mut results: Vec<CreatableTopicResult> = Vec::new();
    for topic in refused {
        if results.iter().all(|r| r.name != topic.name) {
            let message = "Duplicate topic name.";
            results.push(refusal(
                topic.name,
                &Refusal::new(ErrorCode::InvalidRequest, message),
            ));
        }
    }
    let names: Vec<TopicName> = asked.iter().map(|t| t.name.clone()).collect();
    if is_excessive(asked.iter().map(|topic| partitions_of(ctx, topic))) {
        results.extend(names.into_iter().map(|name| refusal(name, &excessive())));
        return CreateTopicsResponse::default().with_topics(results);
    }
    let shows_settings = asked.len() <= SHOWN_TOPICS_MAX;
    let new = asked.into_iter().map(new_topic).collect();
    let created = ctx.shard.create_topics(new, request.validate_only).await;
    for (name, outcome) in names.into_iter().zip(created) {
        results.push(match outcome {
            // As in Kafka, a caller that does not wait is told so, though the topic is there.
            Ok(_) if request.timeout_ms <= 0 && !request.validate_only => refusal(
                name,
                &Refusal::new(ErrorCode::RequestTimedOut, "The request timed out."),
            ),
            Ok(topic) => created_result(ctx, name, &topic, shows_settings),
            Err(why) => refusal(name, &why),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

fn repeated_names<'a>(names: impl Iterator<Item = &'a str>) -> std::collections::BTreeSet<String> {
    let mut seen = std::collections::BTreeSet::new();
    names
        .filter(|name| !seen.insert(*name))
        .map(str::to_owned)
        .collect()
}

fn new_topic(topic: CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partition_count: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .into_iter()
            .map(|a| {
                (
                    a.partition_index,
                    a.broker_ids.into_iter().map(|b| b.0).collect(),
                )
            })
            .collect(),
        configs: topic
            .configs
            .into_iter()
            .map(|c| (c.name.to_string(), c.value.map(|v| v.to_string())))
            .collect(),
    }
}

fn refusal(name: TopicName, why: &Refusal) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(why.code.code())
        .with_error_message(Some(StrBytes::from_string(why.message.clone())))
        .with_configs(Some(Vec::new()))
}

/// As Kafka calls it.
fn excessive() -> Refusal {
    let message = "Unable to perform excessively large batch operation.";
    Refusal::new(ErrorCode::PolicyViolation, message)
}

/// Whether so many partitions are more than one request creates.
fn is_excessive(counts: impl Iterator<Item = usize>) -> bool {
    counts.fold(0, usize::saturating_add) > limits::PARTITIONS_PER_REQUEST_MAX
}

/// Partitions that a topic would get.
fn partitions_of(ctx: &RequestContext, topic: &CreatableTopic) -> usize {
    let count = match topic.num_partitions {
        -1 if topic.assignments.is_empty() => ctx.config().num_partitions,
        count => count,
    };
    topic
        .assignments
        .len()
        .max(usize::try_from(count).unwrap_or(0))
}

/// Partitions that a topic would get beside those that it has.
fn partitions_added(ctx: &RequestContext, change: &PartitionsChange) -> usize {
    let image = ctx.shard.image();
    let there = image
        .topic(&change.topic)
        .map_or(0, |topic| topic.partition_count);
    usize::try_from(change.count.saturating_sub(there)).unwrap_or(0)
}

fn created_result(
    ctx: &RequestContext,
    name: TopicName,
    topic: &Topic,
    shows_settings: bool,
) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(name);
    if ctx.version < 5 {
        return result;
    }
    if !shows_settings {
        let code = ErrorCode::PolicyViolation.code();
        return result.with_topic_config_error_code(code).with_configs(None);
    }
    let configs = describe_topic(&ctx.config(), &topic.overrides)
        .into_iter()
        .map(|row| {
            CreatableTopicConfigs::default()
                .with_name(StrBytes::from_static_str(row.name))
                .with_value(row.value.map(StrBytes::from_string))
                .with_read_only(row.read_only)
                .with_config_source(row.source.wire_code())
                .with_is_sensitive(row.sensitive)
        })
        .collect();
    let id = if ctx.version >= 7 {
        topic.id.into()
    } else {
        uuid::Uuid::nil()
    };
    result
        .with_topic_id(id)
        .with_num_partitions(topic.partition_count)
        .with_replication_factor(1)
        .with_configs(Some(configs))
}

/// DeleteTopics by name (all versions) or by id (v6).
pub(crate) async fn delete(
    ctx: &RequestContext,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let image = ctx.shard.image();
    let mut results = Vec::with_capacity(request.topics.len());
    let mut doomed: Vec<(usize, TopicId)> = Vec::new();
    let topic_of = |state: &DeleteTopicState| match &state.name {
        Some(name) => image.topic(name),
        None => image.topic_by_id(TopicId::from(state.topic_id)),
    };
    let mut asked: BTreeMap<TopicId, usize> = BTreeMap::new();
    for topic in request.topics.iter().filter_map(topic_of) {
        *asked.entry(topic.id).or_default() += 1;
    }
    for state in request.topics {
        let found = topic_of(&state);
        let code = match (found, &state.name) {
            (_, Some(_)) if !state.topic_id.is_nil() => ErrorCode::InvalidRequest,
            _ if !ctx.config().delete_topic_enable => ErrorCode::TopicDeletionDisabled,
            // The coordinators keep their state there.
            (Some(topic), _) if topic.is_internal() => ErrorCode::InvalidTopicException,
            (Some(topic), _) if asked[&topic.id] > 1 => ErrorCode::InvalidRequest,
            (Some(topic), _) => {
                doomed.push((results.len(), topic.id));
                ErrorCode::None
            }
            (None, Some(_)) => ErrorCode::UnknownTopicOrPartition,
            (None, None) => ErrorCode::UnknownTopicId,
        };
        let name = found
            .map(|t| TopicName(StrBytes::from_string(t.name.to_string())))
            .or(state.name);
        let id = found.map_or(state.topic_id, |t| t.id.into());
        results.push(
            DeletableTopicResult::default()
                .with_name(name)
                .with_topic_id(if ctx.version >= 6 {
                    id
                } else {
                    uuid::Uuid::nil()
                })
                .with_error_code(code.code()),
        );
    }
    let ids = doomed.iter().map(|(_, id)| *id).collect();
    let outcomes = ctx.shard.delete_topics(ids).await;
    for ((index, _), outcome) in doomed.into_iter().zip(outcomes) {
        let code = match outcome {
            Ok(()) if request.timeout_ms <= 0 => ErrorCode::RequestTimedOut,
            Ok(()) => ErrorCode::None,
            Err(why) => why.code,
        };
        results[index].error_code = code.code();
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// CreatePartitions: a result for every topic asked for.
pub(crate) async fn create_partitions(
    ctx: &RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let repeated = repeated_names(request.topics.iter().map(|t| t.name.as_str()));
    let mut results = Vec::with_capacity(request.topics.len());
    let mut changes = Vec::new();
    for topic in request.topics {
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        if repeated.contains(topic.name.as_str()) {
            if !results
                .iter()
                .any(|r: &CreatePartitionsTopicResult| r.name == topic.name)
            {
                let message = StrBytes::from_static_str("Duplicate topic in request.");
                let code = ErrorCode::InvalidRequest.code();
                results.push(
                    result
                        .with_error_code(code)
                        .with_error_message(Some(message)),
                );
            }
            continue;
        }
        if crate::model::topic_name::is_internal_topic(&topic.name) {
            // Every group would move to another partition than the one that knows it.
            let message = "The partitions of an internal topic cannot be changed.";
            let code = ErrorCode::InvalidTopicException.code();
            let message = Some(StrBytes::from_static_str(message));
            results.push(result.with_error_code(code).with_error_message(message));
            continue;
        }
        changes.push(PartitionsChange {
            topic: topic.name.to_string(),
            count: topic.count,
            assignments: topic.assignments.map(|all| {
                all.into_iter()
                    .map(|a| a.broker_ids.into_iter().map(|b| b.0).collect())
                    .collect()
            }),
        });
    }
    let names: Vec<String> = changes.iter().map(|c| c.topic.clone()).collect();
    let added = changes.iter().map(|change| partitions_added(ctx, change));
    let outcomes = match is_excessive(added) {
        true => vec![Err(excessive()); names.len()],
        false => {
            let change = ctx.shard.create_partitions(changes, request.validate_only);
            change.await
        }
    };
    for (name, outcome) in names.into_iter().zip(outcomes) {
        let result = CreatePartitionsTopicResult::default()
            .with_name(TopicName(StrBytes::from_string(name)));
        results.push(match outcome {
            Ok(()) => result,
            Err(why) => result
                .with_error_code(why.code.code())
                .with_error_message(Some(StrBytes::from_string(why.message))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

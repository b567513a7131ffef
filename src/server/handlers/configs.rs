//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs for topics and the broker (KIP-133,
//! KIP-226, KIP-339).

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response as incremental;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::controller::{ConfigChange, ConfigUpdate, Refusal};
use crate::config::describe::{Described, describe_broker, describe_group, describe_topic};
use crate::model::error_code::ErrorCode;
use crate::server::answer_weight;
use crate::server::context::RequestContext;
use crate::server::handlers::cluster::{RESOURCE_BROKER, RESOURCE_GROUP, RESOURCE_TOPIC};

/// DescribeConfigs: every setting with its value and where that comes from.
pub(crate) fn describe(
    ctx: &RequestContext,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (with_synonyms, with_docs) = (request.include_synonyms, request.include_documentation);
    let mut room = answer_weight::described_settings_max(&ctx.shard, with_synonyms || with_docs);
    let results = request
        .resources
        .into_iter()
        .map(|resource| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match described_rows(ctx, &resource, &mut room) {
                Ok(rows) => result.with_configs(
                    rows.into_iter()
                        .map(|row| described(row, with_synonyms, with_docs && ctx.version >= 3))
                        .collect(),
                ),
                Err(why) => result
                    .with_error_code(why.code.code())
                    .with_error_message(Some(StrBytes::from_string(why.message))),
            }
        })
        .collect();
    DescribeConfigsResponse::default().with_results(results)
}

fn described_rows(
    ctx: &RequestContext,
    resource: &DescribeConfigsResource,
    room: &mut usize,
) -> Result<Vec<Described>, Refusal> {
    if *room == 0 {
        let message = "The answer is full: ask for fewer resources at a time.";
        return Err(Refusal::new(ErrorCode::PolicyViolation, message));
    }
    let image = ctx.shard.image();
    let mut rows = match resource.resource_type {
        RESOURCE_TOPIC => {
            let name = resource.resource_name.as_str();
            crate::model::topic_name::check_topic_name(name)
                .map_err(|e| Refusal::new(ErrorCode::InvalidTopicException, e.to_string()))?;
            let topic = image.topic(name).ok_or_else(|| {
                Refusal::new(
                    ErrorCode::UnknownTopicOrPartition,
                    format!("no topic {name}"),
                )
            })?;
            describe_topic(&ctx.config(), &topic.overrides)
        }
        RESOURCE_BROKER => {
            check_broker(ctx, &resource.resource_name, true)?;
            describe_broker(&ctx.config(), &ctx.shard.settings().in_force())
        }
        RESOURCE_GROUP => {
            let stored = image.group_overrides().get(resource.resource_name.as_str());
            describe_group(|name| stored.and_then(|all| all.get(name)).map(String::as_str))
        }
        other => return Err(unsupported(other)),
    };
    if let Some(keys) = &resource.configuration_keys {
        rows.retain(|row| keys.iter().any(|key| key.as_str() == row.name));
    }
    *room = room.saturating_sub(rows.len().max(1));
    Ok(rows)
}

fn unsupported(resource_type: i8) -> Refusal {
    let message = format!("Unsupported resource type: {resource_type}");
    Refusal::new(ErrorCode::InvalidRequest, message)
}

/// The empty name stands for the settings of the whole cluster, which here are the broker's.
fn check_broker(ctx: &RequestContext, name: &str, empty_is_fine: bool) -> Result<(), Refusal> {
    if (name.is_empty() && empty_is_fine) || name.parse() == Ok(ctx.node_id().0) {
        return Ok(());
    }
    let message = format!(
        "Unexpected broker id, expected {} but received {name}",
        ctx.node_id().0
    );
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

fn described(
    row: Described,
    with_synonyms: bool,
    with_docs: bool,
) -> DescribeConfigsResourceResult {
    let synonyms = if with_synonyms {
        row.synonyms
    } else {
        Vec::new()
    };
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(row.name))
        .with_value(row.value.map(StrBytes::from_string))
        .with_read_only(row.read_only)
        .with_config_source(row.source.wire_code())
        .with_is_sensitive(row.sensitive)
        .with_synonyms(
            synonyms
                .into_iter()
                .map(|synonym| {
                    DescribeConfigsSynonym::default()
                        .with_name(StrBytes::from_static_str(synonym.name))
                        .with_value(synonym.value.map(StrBytes::from_string))
                        .with_source(synonym.source.wire_code())
                })
                .collect(),
        )
        .with_config_type(row.wire_type)
        .with_documentation(with_docs.then(|| StrBytes::from_string(row.doc)))
}

/// One resource of an alter request, whichever API it came by.
struct Alteration {
    resource_type: i8,
    name: StrBytes,
    update: Result<ConfigUpdate, Refusal>,
}

/// AlterConfigs: what is not listed goes back to its default.
pub(crate) async fn alter(
    ctx: &RequestContext,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let alterations: Vec<Alteration> = request
        .resources
        .into_iter()
        .map(|resource| Alteration {
            resource_type: resource.resource_type,
            name: resource.resource_name,
            update: Ok(ConfigUpdate::Replace(
                resource
                    .configs
                    .into_iter()
                    .map(|c| (c.name.to_string(), c.value.map(|v| v.to_string())))
                    .collect(),
            )),
        })
        .collect();
    let mut responses = Vec::new();
    for (alteration, outcome) in apply(ctx, alterations, request.validate_only).await {
        let (code, message) = outcome_fields(outcome);
        responses.push(
            AlterConfigsResourceResponse::default()
                .with_resource_type(alteration.resource_type)
                .with_resource_name(alteration.name)
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    AlterConfigsResponse::default().with_responses(responses)
}

/// IncrementalAlterConfigs: set, delete, append, subtract.
pub(crate) async fn incremental_alter(
    ctx: &RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let alterations: Vec<Alteration> = request
        .resources
        .into_iter()
        .map(|resource| Alteration {
            resource_type: resource.resource_type,
            name: resource.resource_name,
            update: resource
                .configs
                .into_iter()
                .map(config_change)
                .collect::<Result<_, _>>()
                .map(ConfigUpdate::Change),
        })
        .collect();
    let mut responses = Vec::new();
    for (alteration, outcome) in apply(ctx, alterations, request.validate_only).await {
        let (code, message) = outcome_fields(outcome);
        responses.push(
            incremental::AlterConfigsResourceResponse::default()
                .with_resource_type(alteration.resource_type)
                .with_resource_name(alteration.name)
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

fn config_change(config: AlterableConfig) -> Result<ConfigChange, Refusal> {
    let name = config.name.to_string();
    let value = config.value.map(|v| v.to_string());
    match config.config_operation {
        0 => Ok(ConfigChange::Set(name, value)),
        1 => Ok(ConfigChange::Delete(name)),
        2 => Ok(ConfigChange::Append(name, value)),
        3 => Ok(ConfigChange::Subtract(name, value)),
        other => {
            let message = format!("Unknown operation type {other} for config {name}");
            Err(Refusal::new(ErrorCode::InvalidRequest, message))
        }
    }
}

fn outcome_fields(outcome: Result<(), Refusal>) -> (i16, Option<StrBytes>) {
    match outcome {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(why) => (why.code.code(), Some(StrBytes::from_string(why.message))),
    }
}

async fn apply(
    ctx: &RequestContext,
    alterations: Vec<Alteration>,
    validate_only: bool,
) -> Vec<(Alteration, Result<(), Refusal>)> {
    let mut outcomes = Vec::with_capacity(alterations.len());
    for alteration in alterations {
        let outcome = apply_one(ctx, &alteration, validate_only).await;
        outcomes.push((alteration, outcome));
    }
    outcomes
}

async fn apply_one(
    ctx: &RequestContext,
    alteration: &Alteration,
    validate_only: bool,
) -> Result<(), Refusal> {
    let update = alteration.update.clone()?;
    match alteration.resource_type {
        RESOURCE_TOPIC => {
            ctx.shard
                .configure_topic(alteration.name.to_string(), update, validate_only)
                .await
        }
        RESOURCE_BROKER => {
            check_broker(ctx, &alteration.name, true)?;
            ctx.shard.configure_broker(update, validate_only).await
        }
        RESOURCE_GROUP => {
            let group = alteration.name.to_string();
            ctx.shard
                .configure_group(group, update, validate_only)
                .await
        }
        other => Err(unsupported(other)),
    }
}

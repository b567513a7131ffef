//! The controller's turn: one change of the metadata at a time, on shard 0.
//!
//! Runs on: shard 0; the other shards reach it by `ShardCall::Control`.
//! Promises: a change is durable, and known to every shard, before it is answered; a change that
//! could not be written is announced to nobody.
//! Order: plan against the newest image -> append and sync the records -> publish the image to
//! every shard and await each -> answer. A crash between two steps leaves either no trace or a
//! change that the next start completes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::controller::{self, ConfigUpdate, Defaults, NewTopic, Refusal};
use crate::cluster::metadata::{Image, Record, Topic};
use crate::cluster::metadata_log::MetadataLog;
use crate::config::table::{Effect, Row};
use crate::config::{self, TopicOverrides, layers};
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicId;
use crate::model::topic_name::is_internal_topic;
use crate::rt;
use crate::rt::sync::Semaphore;
use crate::shard::calls::{ControlCall, ControlReply, PartitionsChange};
use crate::shard::recovery;
use crate::shard::shard::Shard;

/// Producer ids handed to a shard at once, as in Kafka.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// What shard 0 has beyond the others.
pub(crate) struct Controller {
    turn: Semaphore,
    log: RefCell<Option<MetadataLog>>,
}

impl Controller {
    pub(crate) fn new(log: MetadataLog) -> Self {
        Self {
            turn: Semaphore::new(1),
            log: RefCell::new(Some(log)),
        }
    }
}

/// Carries out one change. Runs to its end even if the asker is gone.
pub(crate) async fn carry_out(shard: &Rc<Shard>, call: ControlCall) -> ControlReply {
    let controller = shard
        .controller()
        .expect("control calls go to shard 0 only");
    let _turn = controller.turn.acquire(1).await;
    match call {
        ControlCall::CreateTopics {
            topics,
            validate_only,
        } => ControlReply::Topics(create_topics(shard, controller, &topics, validate_only).await),
        ControlCall::DeleteTopics(ids) => {
            ControlReply::Outcomes(delete_topics(shard, controller, &ids).await)
        }
        ControlCall::CreatePartitions {
            changes,
            validate_only,
        } => ControlReply::Outcomes(
            create_partitions(shard, controller, &changes, validate_only).await,
        ),
        ControlCall::ConfigureTopics {
            changes,
            validate_only,
        } => ControlReply::Outcomes(
            configure_topics(shard, controller, &changes, validate_only).await,
        ),
        ControlCall::ConfigureBroker {
            update,
            validate_only,
        } => ControlReply::Outcomes(vec![
            configure_broker(shard, controller, &update, validate_only).await,
        ]),
        ControlCall::ConfigureGroup {
            group,
            update,
            validate_only,
        } => {
            let plan = controller::plan_group_config(&shard.image(), &group, &update);
            let outcomes = commit_planned(shard, controller, vec![plan], validate_only).await;
            ControlReply::Outcomes(outcomes)
        }
        ControlCall::ReserveProducerIds => {
            ControlReply::ProducerIds(reserve_producer_ids(shard, controller).await)
        }
    }
}

async fn create_topics(
    shard: &Rc<Shard>,
    controller: &Controller,
    topics: &[NewTopic],
    validate_only: bool,
) -> Vec<Result<Arc<Topic>, Refusal>> {
    let defaults = defaults(shard);
    let mut planned = (*shard.image()).clone(); // each topic is checked against those before it
    let mut records = Vec::new();
    let mut outcomes = Vec::with_capacity(topics.len());
    for new in topics {
        let id = recovery::fresh_topic_id();
        let plan = controller::plan_topic(&planned, &defaults, new, id);
        outcomes.push(plan.map(|topic| {
            let record = controller::creation(&topic);
            planned = planned
                .apply(std::slice::from_ref(&record))
                .expect("a planned topic fits the image it was planned against");
            records.push(record);
            Arc::new(topic)
        }));
        rt::yield_if_needed().await;
    }
    if !validate_only && let Err(why) = commit(shard, controller, &records).await {
        for outcome in outcomes.iter_mut().filter(|o| o.is_ok()) {
            *outcome = Err(why.clone());
        }
    }
    outcomes
}

async fn delete_topics(
    shard: &Rc<Shard>,
    controller: &Controller,
    ids: &[TopicId],
) -> Vec<Result<(), Refusal>> {
    let image = shard.image();
    let plans = ids
        .iter()
        .map(|id| match image.topic_by_id(*id) {
            Some(_) => Ok(Record::TopicDeleted { id: id.to_string() }),
            None => Err(Refusal::new(
                ErrorCode::UnknownTopicId,
                "This topic does not exist.",
            )),
        })
        .collect();
    commit_planned(shard, controller, plans, false).await
}

async fn create_partitions(
    shard: &Rc<Shard>,
    controller: &Controller,
    changes: &[PartitionsChange],
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    let (image, defaults) = (shard.image(), defaults(shard));
    let plans = changes
        .iter()
        .map(|change| {
            let assignments = change.assignments.as_deref();
            controller::plan_partitions(&image, &defaults, &change.topic, change.count, assignments)
        })
        .collect();
    commit_planned(shard, controller, plans, validate_only).await
}

async fn configure_topics(
    shard: &Rc<Shard>,
    controller: &Controller,
    changes: &[(String, ConfigUpdate)],
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    let (image, config) = (shard.image(), shard.config());
    let plans = changes
        .iter()
        .map(|(topic, update)| controller::plan_topic_config(&image, &config, topic, update))
        .collect();
    commit_planned(shard, controller, plans, validate_only).await
}

async fn configure_broker(
    shard: &Rc<Shard>,
    controller: &Controller,
    update: &ConfigUpdate,
    validate_only: bool,
) -> Result<(), Refusal> {
    let plan = controller::plan_broker_config(&shard.image(), &shard.config(), update);
    let mut outcomes = commit_planned(shard, controller, vec![plan], validate_only).await;
    outcomes.pop().expect("one plan, one outcome")
}

async fn reserve_producer_ids(shard: &Rc<Shard>, controller: &Controller) -> Result<i64, Refusal> {
    let first = shard.image().next_producer_id();
    let next = first.checked_add(PRODUCER_ID_BLOCK).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownServerError,
            "all producer ids have been given out",
        )
    })?;
    commit(shard, controller, &[Record::ProducerIdsReserved { next }]).await?;
    Ok(first)
}

/// Commits the plans that are allowed, together; the refused ones keep their refusal.
async fn commit_planned(
    shard: &Rc<Shard>,
    controller: &Controller,
    plans: Vec<Result<Record, Refusal>>,
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    let records: Vec<Record> = plans
        .iter()
        .filter_map(|p| p.as_ref().ok().cloned())
        .collect();
    let committed = if validate_only {
        Ok(())
    } else {
        commit(shard, controller, &records).await
    };
    plans
        .into_iter()
        .map(|plan| plan.and_then(|_| committed.clone()))
        .collect()
}

/// Makes `records` durable and the image they lead to known everywhere.
async fn commit(
    shard: &Rc<Shard>,
    controller: &Controller,
    records: &[Record],
) -> Result<(), Refusal> {
    if records.is_empty() {
        return Ok(());
    }
    let image = shard
        .image()
        .apply(records)
        .map_err(|e| Refusal::new(ErrorCode::UnknownServerError, e.to_string()))?;
    append(shard, controller, records, &image).await?;
    warn_of(records, &image);
    shard.publish(Arc::new(image)).await;
    Ok(())
}

/// Settings that do not do what whoever set them may expect.
fn warn_of(records: &[Record], image: &Image) {
    for record in records {
        match record {
            // the coordinator itself keeps its topic small
            Record::TopicCreated { name, .. } if is_internal_topic(name) => {}
            Record::TopicCreated { name, configs, .. } => warn_of_topic(name, configs),
            Record::TopicConfigured { id, configs } => {
                if let Some(topic) = id.parse().ok().and_then(|id| image.topic_by_id(id)) {
                    warn_of_topic(&topic.name, configs);
                }
            }
            Record::BrokerConfigured { configs } => {
                for (setting, reason) in without_effect(configs, layers::find_row) {
                    tracing::warn!(setting, reason, "this setting has no effect in Corelog");
                }
            }
            Record::GroupConfigured { group, configs } => {
                for (setting, reason) in without_effect(configs, config::group::find_row) {
                    tracing::warn!(
                        group,
                        setting,
                        reason,
                        "this setting has no effect in Corelog"
                    );
                }
            }
            _ => {}
        }
    }
}

fn warn_of_topic(topic: &str, configs: &BTreeMap<String, String>) {
    let known = configs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for warning in TopicOverrides::new(known)
        .iter()
        .flat_map(TopicOverrides::warnings)
    {
        tracing::warn!(%topic, "{warning}");
    }
}

/// The settings among `configs` that do nothing, with the reason.
fn without_effect(
    configs: &BTreeMap<String, String>,
    find_row: fn(&str) -> Option<&'static Row>,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    configs.keys().filter_map(move |name| {
        let row = find_row(name)?;
        match row.effect {
            Effect::None(reason) => Some((row.key, reason)),
            Effect::In(_) => None,
        }
    })
}

async fn append(
    shard: &Shard,
    controller: &Controller,
    records: &[Record],
    image: &Image,
) -> Result<(), Refusal> {
    let appended = shard.write(async || {
        let mut log = controller
            .log
            .borrow_mut()
            .take()
            .expect("the turn gives the log to one");
        let appended = log.append(records, image).await;
        *controller.log.borrow_mut() = Some(log);
        appended
    });
    appended.await.map_err(|error| {
        tracing::error!(%error, "a metadata change could not be made durable");
        Refusal::new(ErrorCode::KafkaStorageError, error.to_string())
    })
}

fn defaults(shard: &Shard) -> Defaults {
    let config = shard.config();
    Defaults {
        partition_count: config.num_partitions,
        replication_factor: config.default_replication_factor,
        node_id: crate::model::ids::NodeId(config.node_id),
    }
}

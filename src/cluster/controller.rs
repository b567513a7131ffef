//! What a change of the metadata takes: validation and the records that make it.
//!
//! Pure: no async, no clock, no IO.
//! Owner: shard 0 runs one change at a time: plan against the newest image, append the records,
//! publish the new image to every shard, answer. Rules and error codes are Kafka's
//! (CreateTopics: KIP-464 defaults, KIP-525 configs in the answer; CreatePartitions: KIP-195).

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::metadata::{Image, Record, Topic, texts_of};
use crate::config::broker::changed_list;
use crate::config::layers::Source;
use crate::config::table::ListChange;
use crate::config::{self, BrokerConfig, TopicOverrides};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{NodeId, TopicId};
use crate::model::limits;
use crate::model::topic_name;

/// A refusal: Kafka's code and a sentence for the `error_message` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's error code.
    pub code: ErrorCode,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Refusal {
    /// A refusal with that sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// A topic as a client asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// The name.
    pub name: String,
    /// -1: the broker's `num.partitions`.
    pub partition_count: i32,
    /// -1: the broker's `default.replication.factor`.
    pub replication_factor: i16,
    /// Explicit placement: partition number and its brokers.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Overrides; `None` means the default.
    pub configs: Vec<(String, Option<String>)>,
}

/// How one setting is to change (KIP-339).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Set to this value.
    Set(String, Option<String>),
    /// Back to the default.
    Delete(String),
    /// Add to a list.
    Append(String, Option<String>),
    /// Take from a list.
    Subtract(String, Option<String>),
}

/// Whether the listed settings are all there will be, or changes to what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigUpdate {
    /// AlterConfigs: everything not listed goes back to its default.
    Replace(Vec<(String, Option<String>)>),
    /// IncrementalAlterConfigs.
    Change(Vec<ConfigChange>),
}

/// What the controller needs to know of the broker's settings.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `num.partitions`.
    pub partition_count: i32,
    /// `default.replication.factor`.
    pub replication_factor: i16,
    /// The only broker there is.
    pub node_id: NodeId,
}

/// Checks one new topic and gives the topic it would become.
pub fn plan_topic(
    image: &Image,
    defaults: &Defaults,
    new: &NewTopic,
    id: TopicId,
) -> Result<Topic, Refusal> {
    topic_name::check_topic_name(&new.name)
        .map_err(|e| Refusal::new(ErrorCode::InvalidTopicException, e.to_string()))?;
    if image.topic(&new.name).is_some() {
        let message = format!("Topic '{}' already exists.", new.name);
        return Err(Refusal::new(ErrorCode::TopicAlreadyExists, message));
    }
    if let Some(other) = image
        .topics()
        .find(|t| topic_name::topic_names_collide(&t.name, &new.name))
    {
        let message = format!(
            "Topic '{}' collides with existing topic: {}",
            new.name, other.name
        );
        return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
    }
    let partition_count = if new.assignments.is_empty() {
        plain_partition_count(defaults, new)?
    } else {
        assigned_partition_count(defaults, new)?
    };
    check_room(image, i64::from(partition_count))?;
    let mut overrides = TopicOverrides::default();
    for (name, value) in &new.configs {
        let Some(value) = value else {
            let message = format!("Null value not supported for topic configs: {name}");
            return Err(Refusal::new(ErrorCode::InvalidConfig, message));
        };
        overrides.set(name, value).map_err(invalid_config)?;
    }
    keep_coordinators_state(&new.name, &mut overrides)?;
    let name = new.name.as_str().into();
    Ok(Topic {
        id,
        name,
        partition_count,
        leader_epoch: 0,
        overrides,
    })
}

fn plain_partition_count(defaults: &Defaults, new: &NewTopic) -> Result<i32, Refusal> {
    let count = match new.partition_count {
        -1 => defaults.partition_count,
        count => count,
    };
    if count < 1 {
        let message = "Number of partitions was set to an invalid non-positive value.";
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    let factor = match new.replication_factor {
        -1 => defaults.replication_factor,
        factor => factor,
    };
    if factor < 1 {
        let message = "Replication factor must be larger than 0.";
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, message));
    }
    if factor > 1 {
        let message = format!(
            "Unable to replicate the partition {factor} time(s): The target replication factor of \
             {factor} cannot be reached because only 1 broker(s) are registered."
        );
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, message));
    }
    Ok(count)
}

fn assigned_partition_count(defaults: &Defaults, new: &NewTopic) -> Result<i32, Refusal> {
    if new.partition_count != -1 || new.replication_factor != -1 {
        let message = "A manual partition assignment was specified, but numPartitions or \
                       replicationFactor was not set to -1.";
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut seen = BTreeSet::new();
    for (partition, brokers) in &new.assignments {
        check_brokers(defaults.node_id, *partition, brokers)?;
        if !seen.insert(*partition) {
            return Err(invalid(format!(
                "Found multiple manual partition assignments for {partition}"
            )));
        }
    }
    let count = i32::try_from(seen.len())
        .map_err(|_| invalid("too many manual partition assignments".to_owned()))?;
    if seen.first() != Some(&0) || seen.last() != Some(&(count - 1)) {
        let message = "partitions should be a consecutive 0-based integer sequence".to_owned();
        return Err(invalid(message));
    }
    Ok(count)
}

fn check_brokers(node: NodeId, partition: i32, brokers: &[i32]) -> Result<(), Refusal> {
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidReplicaAssignment, message);
    match brokers {
        [] => Err(invalid(format!(
            "The manual partition assignment of {partition} is empty."
        ))),
        [only] if *only == node.0 => Ok(()),
        [only] => Err(invalid(format!(
            "The manual partition assignment includes broker {only}, but no such broker is \
             registered."
        ))),
        many => {
            let repeated = many.iter().collect::<BTreeSet<_>>().len() < many.len();
            let what = if repeated {
                "a broker twice"
            } else {
                "brokers that are not registered"
            };
            Err(invalid(format!(
                "The manual partition assignment of {partition} includes {what}."
            )))
        }
    }
}

fn check_room(image: &Image, added: i64) -> Result<(), Refusal> {
    let there = i64::try_from(image.partition_count()).unwrap_or(i64::MAX);
    if there.saturating_add(added) > limits::PARTITIONS_PER_BROKER_MAX {
        let message = format!(
            "Corelog keeps at most {} partitions; {there} exist and {added} more were asked for.",
            limits::PARTITIONS_PER_BROKER_MAX
        );
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err as it is")]
fn invalid_config(error: crate::config::Error) -> Refusal {
    Refusal::new(ErrorCode::InvalidConfig, error.to_string())
}

/// The record that creates `topic`.
pub fn creation(topic: &Topic) -> Record {
    Record::TopicCreated {
        id: topic.id.to_string(),
        name: topic.name.to_string(),
        partitions: topic.partition_count,
        leader_epoch: topic.leader_epoch,
        configs: texts_of(&topic.overrides),
    }
}

/// More partitions for a topic. `assignments` is `None` or one entry for each new partition.
pub fn plan_partitions(
    image: &Image,
    defaults: &Defaults,
    name: &str,
    count: i32,
    assignments: Option<&[Vec<i32>]>,
) -> Result<Record, Refusal> {
    let topic = known_topic(image, name)?;
    let there = topic.partition_count;
    if count < there {
        let message = format!(
            "The topic {name} currently has {there} partition(s); {count} would not be an increase."
        );
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    if count == there {
        let message = format!("Topic already has {there} partition(s).");
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    if let Some(assignments) = assignments {
        let added = usize::try_from(count - there).unwrap_or(0);
        if assignments.len() != added {
            let message = format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were \
                 specified.",
                assignments.len()
            );
            return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
        }
        for (partition, brokers) in (there..).zip(assignments) {
            check_brokers(defaults.node_id, partition, brokers)?;
        }
    }
    check_room(image, i64::from(count) - i64::from(there))?;
    Ok(Record::PartitionsAdded {
        id: topic.id.to_string(),
        partitions: count,
    })
}

/// New overrides for a topic.
pub fn plan_topic_config(
    image: &Image,
    broker: &BrokerConfig,
    name: &str,
    update: &ConfigUpdate,
) -> Result<Record, Refusal> {
    let topic = known_topic(image, name)?;
    let mut overrides = match update {
        ConfigUpdate::Replace(_) => TopicOverrides::default(),
        ConfigUpdate::Change(_) => topic.overrides.clone(),
    };
    for change in changes(update)? {
        match &change {
            ConfigChange::Set(name, value) => overrides.set(name, required(name, value.as_ref())?),
            ConfigChange::Delete(name) => overrides.remove(name),
            ConfigChange::Append(name, value) => {
                overrides.append(name, required(name, value.as_ref())?, broker)
            }
            ConfigChange::Subtract(name, value) => {
                overrides.subtract(name, required(name, value.as_ref())?, broker)
            }
        }
        .map_err(invalid_config)?;
    }
    keep_coordinators_state(name, &mut overrides)?;
    Ok(Record::TopicConfigured {
        id: topic.id.to_string(),
        configs: texts_of(&overrides),
    })
}

/// Segments of the coordinators' topics. Only whole segments below the log start are deleted, so
/// small ones let the bound of the coordinator (a few MiB, or a few times the live state) bound the
/// disk; below the smallest, its own appends would not fit.
const INTERNAL_SEGMENT_BYTES: u32 = 4 << 20;
const INTERNAL_SEGMENT_BYTES_MIN: u32 = 1 << 20;

/// The coordinators alone shorten their topics, because what they keep there is acknowledged:
/// without a value of its own such a topic is compacted, and it cannot be told otherwise.
fn keep_coordinators_state(topic: &str, overrides: &mut TopicOverrides) -> Result<(), Refusal> {
    if !topic_name::is_internal_topic(topic) {
        return Ok(());
    }
    let segment_bytes = INTERNAL_SEGMENT_BYTES.to_string();
    for (name, value) in [
        ("cleanup.policy", "compact"),
        ("segment.bytes", &segment_bytes),
    ] {
        if overrides.get(name).is_none() {
            overrides.set(name, value).map_err(invalid_config)?;
        }
    }
    let refused = |reason: String| {
        let message = format!("Internal topic '{topic}': {reason}");
        Err(Refusal::new(ErrorCode::InvalidConfig, message))
    };
    let policy = overrides.get("cleanup.policy").unwrap_or_default();
    if !policy.split(',').any(|word| word.trim() == "compact") {
        return refused(format!(
            "`cleanup.policy` = `{policy}` would delete committed offsets by time or size; it must \
             contain `compact`."
        ));
    }
    let segment_bytes = overrides.get("segment.bytes").unwrap_or_default();
    if segment_bytes
        .parse::<u32>()
        .is_ok_and(|bytes| bytes < INTERNAL_SEGMENT_BYTES_MIN)
    {
        return refused(format!(
            "`segment.bytes` = `{segment_bytes}` is too small for what its coordinator appends; \
             at least {INTERNAL_SEGMENT_BYTES_MIN}."
        ));
    }
    Ok(())
}

/// New dynamic settings for the broker (KIP-226).
pub fn plan_broker_config(
    image: &Image,
    broker: &BrokerConfig,
    update: &ConfigUpdate,
) -> Result<Record, Refusal> {
    let mut configs = match update {
        ConfigUpdate::Replace(_) => BTreeMap::new(),
        ConfigUpdate::Change(_) => image.broker_overrides().clone(),
    };
    for change in changes(update)? {
        match change {
            ConfigChange::Set(name, value) => {
                let value = required(&name, value.as_ref())?.to_owned();
                configs.insert(name, value);
            }
            ConfigChange::Delete(name) => drop(configs.remove(&name)),
            ConfigChange::Append(name, words) => {
                let words = required(&name, words.as_ref())?;
                let list = list_of(broker, &configs, &name, words, ListChange::Append)?;
                configs.insert(name, list);
            }
            ConfigChange::Subtract(name, words) => {
                let words = required(&name, words.as_ref())?;
                let list = list_of(broker, &configs, &name, words, ListChange::Subtract)?;
                configs.insert(name, list);
            }
        }
    }
    altered(broker, &configs).map_err(invalid_config)?;
    Ok(Record::BrokerConfigured { configs })
}

fn list_of(
    broker: &BrokerConfig,
    configs: &BTreeMap<String, String>,
    name: &str,
    words: &str,
    change: ListChange,
) -> Result<String, Refusal> {
    let altered = configs.get(name).map(String::as_str);
    changed_list(broker, name, altered, words, change).map_err(invalid_config)
}

/// New settings for a group (KIP-848). It need not exist; none of its settings is a list.
pub fn plan_group_config(
    image: &Image,
    group: &str,
    update: &ConfigUpdate,
) -> Result<Record, Refusal> {
    if group.is_empty() {
        let message = "Default group resources are not allowed.";
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    let mut configs = match update {
        ConfigUpdate::Replace(_) => BTreeMap::new(),
        ConfigUpdate::Change(_) => image
            .group_overrides()
            .get(group)
            .cloned()
            .unwrap_or_default(),
    };
    for change in changes(update)? {
        match change {
            ConfigChange::Set(name, value) => {
                let value = required(&name, value.as_ref())?.to_owned();
                config::group::check(&name, &value).map_err(invalid_config)?;
                configs.insert(name, value);
            }
            ConfigChange::Delete(name) => drop(configs.remove(&name)),
            ConfigChange::Append(name, _) | ConfigChange::Subtract(name, _) => {
                let message = format!("Config value append is not allowed for config key: {name}");
                return Err(Refusal::new(ErrorCode::InvalidConfig, message));
            }
        }
    }
    let group = group.to_owned();
    Ok(Record::GroupConfigured { group, configs })
}

/// The broker's settings with these dynamic ones in force.
pub fn altered(
    broker: &BrokerConfig,
    configs: &BTreeMap<String, String>,
) -> Result<BrokerConfig, crate::config::Error> {
    let altered = configs
        .iter()
        .map(|(name, value)| (Source::Altered, name.as_str(), value.as_str()));
    broker.with_altered(altered)
}

fn changes(update: &ConfigUpdate) -> Result<Vec<ConfigChange>, Refusal> {
    let changes = match update {
        ConfigUpdate::Replace(all) => all
            .iter()
            .map(|(name, value)| ConfigChange::Set(name.clone(), value.clone()))
            .collect(),
        ConfigUpdate::Change(changes) => changes.clone(),
    };
    let mut seen = BTreeSet::new();
    for ConfigChange::Set(name, _)
    | ConfigChange::Delete(name)
    | ConfigChange::Append(name, _)
    | ConfigChange::Subtract(name, _) in &changes
    {
        if !seen.insert(name) {
            let message = format!("Error due to duplicate config keys: {name}");
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
    }
    Ok(changes)
}

fn required<'a>(name: &str, value: Option<&'a String>) -> Result<&'a str, Refusal> {
    value.map(String::as_str).ok_or_else(|| {
        let message = format!("Null value not supported for : {name}");
        Refusal::new(ErrorCode::InvalidConfig, message)
    })
}

fn known_topic<'a>(image: &'a Image, name: &str) -> Result<&'a Topic, Refusal> {
    image.topic(name).map(AsRef::as_ref).ok_or_else(|| {
        let message = format!("The topic '{name}' does not exist.");
        Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults {
            partition_count: 4,
            replication_factor: 1,
            node_id: NodeId(7),
        }
    }

    fn plan(new: &NewTopic) -> Result<Topic, ErrorCode> {
        plan_topic(
            &Image::default(),
            &defaults(),
            new,
            TopicId::from_bytes([1; 16]),
        )
        .map_err(|r| r.code)
    }

    fn new_topic(partition_count: i32, replication_factor: i16) -> NewTopic {
        NewTopic {
            name: "t".into(),
            partition_count,
            replication_factor,
            ..NewTopic::default()
        }
    }

    #[test]
    fn minus_one_takes_the_brokers_defaults() {
        assert_eq!(plan(&new_topic(-1, -1)).unwrap().partition_count, 4);
        assert_eq!(plan(&new_topic(0, 1)), Err(ErrorCode::InvalidPartitions));
        assert_eq!(
            plan(&new_topic(1, 0)),
            Err(ErrorCode::InvalidReplicationFactor)
        );
        assert_eq!(
            plan(&new_topic(1, 2)),
            Err(ErrorCode::InvalidReplicationFactor)
        );
    }

    #[test]
    fn a_manual_assignment_names_this_broker_for_consecutive_partitions() {
        let mut new = new_topic(-1, -1);
        new.assignments = vec![(1, vec![7]), (0, vec![7])];
        assert_eq!(plan(&new).unwrap().partition_count, 2);
        for bad in [
            vec![(1, vec![7])],
            vec![(0, vec![8])],
            vec![(0, vec![])],
            vec![(0, vec![7, 7])],
        ] {
            new.assignments = bad;
            assert_eq!(plan(&new), Err(ErrorCode::InvalidReplicaAssignment));
        }
        new.assignments = vec![(0, vec![7])];
        new.partition_count = 1;
        assert_eq!(plan(&new), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn partitions_only_grow() {
        let topic = plan(&new_topic(2, 1)).unwrap();
        let image = Image::default().apply(&[creation(&topic)]).unwrap();
        let codes = |count, assignments: Option<&[Vec<i32>]>| {
            plan_partitions(&image, &defaults(), "t", count, assignments).map_err(|r| r.code)
        };
        assert!(codes(3, None).is_ok());
        assert!(codes(3, Some(&[vec![7]])).is_ok());
        assert_eq!(codes(2, None), Err(ErrorCode::InvalidPartitions));
        assert_eq!(codes(1, None), Err(ErrorCode::InvalidPartitions));
        assert_eq!(
            codes(3, Some(&[])),
            Err(ErrorCode::InvalidReplicaAssignment)
        );
        let unknown = plan_partitions(&image, &defaults(), "u", 3, None);
        assert_eq!(
            unknown.map_err(|r| r.code),
            Err(ErrorCode::UnknownTopicOrPartition)
        );
    }

    fn configured(update: &ConfigUpdate) -> Result<BTreeMap<String, String>, ErrorCode> {
        let mut new = new_topic(1, 1);
        new.configs = vec![("retention.ms".into(), Some("5".into()))];
        let topic = plan(&new).unwrap();
        let image = Image::default().apply(&[creation(&topic)]).unwrap();
        match plan_topic_config(&image, &BrokerConfig::default(), "t", update) {
            Ok(Record::TopicConfigured { configs, .. }) => Ok(configs),
            Ok(other) => panic!("{other:?}"),
            Err(why) => Err(why.code),
        }
    }

    #[test]
    fn list_settings_are_appended_to_and_subtracted_from() {
        let append = ConfigChange::Append("cleanup.policy".into(), Some("compact".into()));
        let configs = configured(&ConfigUpdate::Change(vec![append])).unwrap();
        assert_eq!(configs["cleanup.policy"], "delete,compact");
        assert_eq!(configs["retention.ms"], "5");
        let append = ConfigChange::Append("retention.ms".into(), Some("6".into()));
        let refused = configured(&ConfigUpdate::Change(vec![append]));
        assert_eq!(refused, Err(ErrorCode::InvalidConfig));
    }

    #[test]
    fn replacing_drops_what_is_not_listed() {
        let update = ConfigUpdate::Replace(vec![("segment.bytes".into(), Some("1048576".into()))]);
        let names: Vec<String> = configured(&update).unwrap().into_keys().collect();
        assert_eq!(names, ["segment.bytes"]);
    }

    #[test]
    fn nothing_makes_retention_delete_what_coordinators_keep() {
        let offsets = |configs: &[(&str, &str)]| {
            let configs = configs
                .iter()
                .map(|(k, v)| ((*k).into(), Some((*v).into())));
            plan(&NewTopic {
                name: topic_name::OFFSETS_TOPIC.into(),
                configs: configs.collect(),
                ..new_topic(1, 1)
            })
        };
        for bad in [
            &[("cleanup.policy", "delete")][..],
            &[("retention.ms", "1"), ("cleanup.policy", "delete")],
            &[("segment.bytes", "4096")],
        ] {
            assert_eq!(offsets(bad), Err(ErrorCode::InvalidConfig), "{bad:?}");
        }
        assert!(offsets(&[("cleanup.policy", "compact,delete")]).is_ok());
        let topic = offsets(&[("retention.ms", "1")]).unwrap();
        assert_eq!(topic.overrides.get("cleanup.policy"), Some("compact"));
        assert_eq!(topic.overrides.get("segment.bytes"), Some("4194304"));
        let image = Image::default().apply(&[creation(&topic)]).unwrap();
        let change = |update: &ConfigUpdate| {
            let broker = BrokerConfig::default();
            match plan_topic_config(&image, &broker, topic_name::OFFSETS_TOPIC, update) {
                Ok(Record::TopicConfigured { configs, .. }) => Ok(configs),
                Ok(other) => panic!("{other:?}"),
                Err(why) => Err(why.code),
            }
        };
        let policy = || "cleanup.policy".to_owned();
        for bad in [
            ConfigUpdate::Replace(vec![(policy(), Some("delete".into()))]),
            ConfigUpdate::Change(vec![ConfigChange::Set(policy(), Some("delete".into()))]),
            ConfigUpdate::Change(vec![ConfigChange::Subtract(
                policy(),
                Some("compact".into()),
            )]),
            ConfigUpdate::Replace(vec![("segment.bytes".into(), Some("100".into()))]),
        ] {
            assert_eq!(change(&bad), Err(ErrorCode::InvalidConfig), "{bad:?}");
        }
        for back in [
            ConfigUpdate::Replace(Vec::new()),
            ConfigUpdate::Change(vec![ConfigChange::Delete(policy())]),
        ] {
            let configs = change(&back).unwrap();
            assert_eq!(configs["cleanup.policy"], "compact");
            assert_eq!(configs["segment.bytes"], "4194304");
        }
    }

    #[test]
    fn a_setting_named_twice_is_refused() {
        let delete = ConfigChange::Delete("retention.ms".into());
        let refused = configured(&ConfigUpdate::Change(vec![delete.clone(), delete]));
        assert_eq!(refused, Err(ErrorCode::InvalidRequest));
    }
}

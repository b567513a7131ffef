//! The topics of a run: created, found, deleted; who leads each partition.
//!
//! Runs on: the calling thread, before and after a run.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, MetadataResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::args::{From, Load, Mode};
use crate::cold::{ColdConnection, check};

const TOPIC_EXISTS: i16 = 36;
const SETTLE_TIME: Duration = Duration::from_secs(60);
const TIMEOUT_MS: i32 = 30_000;
/// Topics named in one request.
const TOPICS_PER_REQUEST: usize = 200;

/// A topic of the run.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// All zero where the broker has no topic ids.
    pub(crate) id: [u8; 16],
}

impl Topic {
    /// Whether a response means this topic, by id or by name.
    pub(crate) fn is_named(&self, name_or_id: &[u8]) -> bool {
        name_or_id == self.id || name_or_id == self.name.as_bytes()
    }
}

/// A partition that records go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Place in `Cluster::targets`.
    pub(crate) number: usize,
    /// Place in `Cluster::topics`.
    pub(crate) topic: usize,
    pub(crate) partition: i32,
    pub(crate) leader: i32,
}

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) topics: Vec<Topic>,
    /// Topic by topic, in order of partitions.
    pub(crate) targets: Vec<Target>,
    /// Addresses of the brokers that lead a partition.
    pub(crate) brokers: BTreeMap<i32, String>,
    created: Vec<String>,
    cold: ColdConnection,
}

impl Cluster {
    /// Creates what the flags ask for, where the mode writes, and waits until every partition has a
    /// leader.
    pub(crate) fn prepare(mode: Mode, load: &Load) -> Result<Self, String> {
        let mut cold = ColdConnection::open(&load.bootstrap)?;
        let names = match mode {
            Mode::Idle => Vec::new(),
            _ => topic_names(load),
        };
        let created = match mode.produces() {
            true => create(&mut cold, load, &names)?,
            false => Vec::new(),
        };
        let mut cluster = Self {
            topics: Vec::new(),
            targets: Vec::new(),
            brokers: BTreeMap::new(),
            created,
            cold,
        };
        match cluster.find(&names) {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.delete_created()?;
                Err(error)
            }
        }
    }

    /// A connection for what is not measured.
    pub(crate) fn cold(&mut self) -> &mut ColdConnection {
        &mut self.cold
    }

    fn find(&mut self, names: &[String]) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_TIME;
        for names in names.chunks(TOPICS_PER_REQUEST) {
            loop {
                let found = metadata(&mut self.cold, names)?;
                match self.take(names, &found) {
                    Ok(()) => break,
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => thread::sleep(Duration::from_millis(50)),
                }
            }
        }
        Ok(())
    }

    /// Adds these topics, all or none.
    fn take(&mut self, names: &[String], found: &MetadataResponse) -> Result<(), String> {
        let (mut topics, mut targets) = (Vec::new(), Vec::new());
        for name in names {
            let topic = found.topics.iter().find(|topic| {
                topic
                    .name
                    .as_ref()
                    .is_some_and(|found| found.0.as_str() == name)
            });
            let topic = topic.ok_or_else(|| format!("topic `{name}` is not there"))?;
            check(&format!("topic `{name}`"), topic.error_code)?;
            let mut partitions: Vec<_> = topic.partitions.iter().collect();
            partitions.sort_by_key(|partition| partition.partition_index);
            for partition in partitions {
                let (index, leader) = (partition.partition_index, partition.leader_id.0);
                if leader < 0 {
                    return Err(format!("partition {index} of `{name}` has no leader"));
                }
                targets.push(Target {
                    number: self.targets.len() + targets.len(),
                    topic: self.topics.len() + topics.len(),
                    partition: index,
                    leader,
                });
            }
            topics.push(Topic {
                name: name.clone(),
                id: *topic.topic_id.as_bytes(),
            });
        }
        for broker in &found.brokers {
            let address = format!("{}:{}", broker.host.as_str(), broker.port);
            self.brokers.insert(broker.node_id.0, address);
        }
        self.topics.append(&mut topics);
        self.targets.append(&mut targets);
        let leads = |id: &i32| self.targets.iter().any(|target| target.leader == *id);
        let leaders: Vec<i32> = self.brokers.keys().copied().filter(leads).collect();
        self.brokers.retain(|id, _| leaders.contains(id));
        Ok(())
    }

    /// First offset, or the one after the last record, of every target.
    pub(crate) fn offsets(&self, from: From) -> Result<Vec<i64>, String> {
        let mut offsets = vec![-1; self.targets.len()];
        for (leader, address) in &self.brokers {
            let mut cold = ColdConnection::open(address)?;
            let led = |target: &&Target| target.leader == *leader;
            let targets: Vec<Target> = self.targets.iter().filter(led).copied().collect();
            let asked = targets.chunk_by(|a, b| a.topic == b.topic).map(|targets| {
                let partitions = targets.iter().map(|target| {
                    ListOffsetsPartition::default()
                        .with_partition_index(target.partition)
                        .with_current_leader_epoch(-1)
                        .with_timestamp(match from {
                            From::Beginning => -2,
                            From::End => -1,
                        })
                });
                ListOffsetsTopic::default()
                    .with_name(TopicName(text(&self.topics[targets[0].topic].name)))
                    .with_partitions(partitions.collect())
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(asked.collect());
            let response = cold.call(&request, 6)?;
            for topic in &response.topics {
                for partition in &topic.partitions {
                    let name = topic.name.0.as_str();
                    let index = partition.partition_index;
                    check(
                        &format!("offsets of `{name}` {index}"),
                        partition.error_code,
                    )?;
                    let is_it = |target: &&Target| {
                        target.partition == index && self.topics[target.topic].name == name
                    };
                    if let Some(target) = targets.iter().find(is_it) {
                        offsets[target.number] = partition.offset;
                    }
                }
            }
        }
        match offsets.iter().position(|offset| *offset < 0) {
            None => Ok(offsets),
            Some(at) => Err(format!(
                "no offset for partition {}",
                self.targets[at].partition
            )),
        }
    }

    /// The id of a new idempotent producer.
    pub(crate) fn producer_identity(&mut self) -> Result<(i64, i16), String> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let response = self.cold.call(&request, 4)?;
        check("InitProducerId", response.error_code)?;
        Ok((response.producer_id.0, response.producer_epoch))
    }

    /// The partitions that each broker leads.
    pub(crate) fn led(&self) -> Vec<(String, Vec<Target>)> {
        let led = self.brokers.iter().map(|(leader, address)| {
            let targets = self
                .targets
                .iter()
                .filter(|target| target.leader == *leader);
            (address.clone(), targets.copied().collect())
        });
        led.collect()
    }

    /// Deletes the topics that this run created.
    pub(crate) fn delete_created(&mut self) -> Result<(), String> {
        let created = std::mem::take(&mut self.created);
        for names in created.chunks(TOPICS_PER_REQUEST) {
            // version 6 says the same in other fields; the broker reads those of its version
            let states = names
                .iter()
                .map(|name| DeleteTopicState::default().with_name(Some(TopicName(text(name)))));
            let request = DeleteTopicsRequest::default()
                .with_topics(states.collect())
                .with_topic_names(Vec::new())
                .with_timeout_ms(TIMEOUT_MS);
            let older = DeleteTopicsRequest::default()
                .with_topic_names(names.iter().map(|name| TopicName(text(name))).collect())
                .with_timeout_ms(TIMEOUT_MS);
            let is_new = self
                .cold
                .versions()
                .agree(corelog::wire::api::ApiKey::DeleteTopics, 6)
                == Ok(6);
            let response = match is_new {
                true => self.cold.call(&request, 6)?,
                false => self.cold.call(&older, 5)?,
            };
            for topic in &response.responses {
                let name = topic.name.as_ref().map_or("", |name| name.0.as_str());
                check(&format!("deleting topic `{name}`"), topic.error_code)?;
            }
        }
        Ok(())
    }
}

fn topic_names(load: &Load) -> Vec<String> {
    let base = load.topic.clone().unwrap_or_else(|| {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = unix.map_or(0, |since| since.as_millis());
        format!("bench-{millis}-{}", std::process::id())
    });
    match load.topics {
        1 => vec![base],
        count => (0..count)
            .map(|number| format!("{base}-{number}"))
            .collect(),
    }
}

fn create(cold: &mut ColdConnection, load: &Load, names: &[String]) -> Result<Vec<String>, String> {
    let mut settings = Vec::new();
    for setting in &load.topic_config {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--topic-config {setting}: KEY=VALUE is expected"))?;
        settings.push(
            CreatableTopicConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value))),
        );
    }
    let partitions = i32::try_from(load.partitions).map_err(|error| error.to_string())?;
    let mut created = Vec::new();
    for names in names.chunks(TOPICS_PER_REQUEST) {
        let topics = names.iter().map(|name| {
            CreatableTopic::default()
                .with_name(TopicName(text(name)))
                .with_num_partitions(partitions)
                .with_replication_factor(load.replication)
                .with_configs(settings.clone())
        });
        let request = CreateTopicsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(TIMEOUT_MS);
        let response = cold.call(&request, 7)?;
        for topic in &response.topics {
            let name = topic.name.0.as_str();
            match topic.error_code {
                TOPIC_EXISTS if load.topic.is_some() => {}
                0 => created.push(name.to_owned()),
                code => {
                    let reason = topic.error_message.as_deref().unwrap_or_default();
                    return check(&format!("creating topic `{name}`: {reason}"), code)
                        .map(|()| created);
                }
            }
        }
    }
    if load.keep_topics {
        created.clear();
    }
    Ok(created)
}

fn metadata(cold: &mut ColdConnection, names: &[String]) -> Result<MetadataResponse, String> {
    let topics = names
        .iter()
        .map(|name| MetadataRequestTopic::default().with_name(Some(TopicName(text(name)))));
    let request = MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(false);
    cold.call(&request, 12)
}

/// A string of the protocol.
pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

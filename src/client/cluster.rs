//! Which broker to ask: bootstrap, metadata, leaders, coordinators; one connection per broker.
//!
//! Runs on: the calling thread.
//! Promises: what may be gone in a moment (elections, a topic just created) is asked again until
//! `RETRY_TIME` is over; what is refused for good is not.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::Connection;
use super::error::Error;
use crate::config::address::HostPort;

/// How long something that may succeed soon is tried again.
pub const RETRY_TIME: Duration = Duration::from_secs(30);
/// Pause between two tries.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long an unknown topic may take to be created on demand.
const CREATE_TIME: Duration = Duration::from_secs(5);

const METADATA_VERSION_MAX: i16 = 12;
/// The first version that can say "do not create".
const AUTO_CREATE_VERSION: i16 = 4;
const FIND_COORDINATOR_VERSION_MAX: i16 = 3;

/// A broker's number.
pub type NodeId = i32;

/// The cluster as the client sees it.
#[derive(Debug)]
pub struct Client {
    bootstrap: Vec<HostPort>,
    addresses: HashMap<NodeId, HostPort>,
    connections: HashMap<NodeId, Connection>,
    first: Option<Connection>,
    /// Whether any bootstrap address ever answered.
    has_answered: bool,
    /// Brokers that were connected to before.
    reached: HashSet<NodeId>,
    metadata: MetadataResponse,
}

impl Client {
    /// Connects to the first bootstrap address that answers and reads the cluster's brokers.
    pub fn connect(bootstrap: &[HostPort]) -> Result<Self, Error> {
        let mut client = Self {
            bootstrap: bootstrap.to_vec(),
            addresses: HashMap::new(),
            connections: HashMap::new(),
            first: None,
            has_answered: false,
            reached: HashSet::new(),
            metadata: MetadataResponse::default(),
        };
        client.refresh(Some(&[]), false)?;
        Ok(client)
    }

    /// A connection to any broker.
    pub fn any(&mut self) -> Result<&mut Connection, Error> {
        if self.first.is_none() {
            let mut result = Err(Error::Unreachable {
                address: "(none)".to_owned(),
                reason: "no bootstrap address was given".to_owned(),
            });
            for address in &self.bootstrap {
                result = Connection::open(address);
                if result.is_ok() {
                    break;
                }
            }
            self.first = Some(result.map_err(|error| gone(error, self.has_answered))?);
        }
        self.has_answered = true;
        Ok(self.first.as_mut().expect("just opened"))
    }

    /// A connection to this broker.
    pub fn node(&mut self, node: NodeId) -> Result<&mut Connection, Error> {
        if !self.connections.contains_key(&node) {
            if !self.addresses.contains_key(&node) {
                self.refresh(Some(&[]), false)?;
            }
            let address = self.addresses.get(&node).ok_or_else(|| Error::NoLeader {
                what: format!("broker {node}"),
            })?;
            let was_reached = self.reached.contains(&node);
            let opened = Connection::open(address).map_err(|error| gone(error, was_reached));
            self.connections.insert(node, opened?);
            self.reached.insert(node);
        }
        Ok(self.connections.get_mut(&node).expect("just inserted"))
    }

    /// All brokers.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.metadata.brokers.iter().map(|b| b.node_id.0).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Forgets a connection after an error on it.
    pub fn drop_node(&mut self, node: NodeId) {
        self.connections.remove(&node);
    }

    /// The broker that takes admin requests.
    pub fn controller(&mut self) -> Result<&mut Connection, Error> {
        let node = self.metadata.controller_id.0;
        if self.addresses.contains_key(&node) {
            self.node(node)
        } else {
            self.any()
        }
    }

    /// Asks for metadata: of all topics (`None`) or of these. Nothing is created.
    fn refresh(&mut self, topics: Option<&[&str]>, may_create: bool) -> Result<(), Error> {
        let names = topics.map(|topics| {
            topics
                .iter()
                .map(|name| {
                    let name = TopicName(StrBytes::from_string((*name).to_owned()));
                    MetadataRequestTopic::default().with_name(Some(name))
                })
                .collect()
        });
        let connection = self.any()?;
        // before version 4 every request creates what is missing, if the broker does that at all
        let version = connection.version::<MetadataRequest>(METADATA_VERSION_MAX);
        let is_old = version.is_some_and(|version| version < AUTO_CREATE_VERSION);
        let request = MetadataRequest::default()
            .with_topics(names)
            .with_allow_auto_topic_creation(is_old || may_create);
        let response = connection.call(&request, METADATA_VERSION_MAX);
        let response = response.inspect_err(|_| self.first = None)?;
        for broker in &response.brokers {
            let port = u16::try_from(broker.port).unwrap_or(0);
            let address = HostPort {
                host: broker.host.to_string(),
                port,
            };
            let earlier = self.addresses.insert(broker.node_id.0, address.clone());
            if earlier.is_some_and(|earlier| earlier != address) {
                self.connections.remove(&broker.node_id.0);
            }
        }
        self.metadata = response;
        Ok(())
    }

    /// All topics, by name.
    pub fn all_topics(&mut self) -> Result<Vec<MetadataResponseTopic>, Error> {
        self.refresh(None, false)?;
        let mut topics = self.metadata.topics.clone();
        topics.sort_by(|a, b| topic_name(a).cmp(topic_name(b)));
        Ok(topics)
    }

    /// One topic with all its leaders; waits for elections, not for a topic that does not exist.
    pub fn topic(&mut self, name: &str) -> Result<MetadataResponseTopic, Error> {
        let deadline = Instant::now() + RETRY_TIME;
        loop {
            let found = self.topic_once(name);
            match found {
                Err(error)
                    if error.is_retriable()
                        && error.code() != Some(UNKNOWN_TOPIC)
                        && Instant::now() < deadline =>
                {
                    thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// As `topic`, but also waits until the topic is known: after creating it.
    pub fn await_topic(&mut self, name: &str) -> Result<MetadataResponseTopic, Error> {
        self.retry(|client| client.topic_once(name))
    }

    /// As `topic`, and a broker that creates topics on demand is asked to: for producing. The
    /// first answers may still say that it is unknown, so those are not believed for a while.
    pub fn topic_or_create(&mut self, name: &str) -> Result<MetadataResponseTopic, Error> {
        let deadline = Instant::now() + CREATE_TIME;
        loop {
            self.refresh(Some(&[name]), true)?;
            match self.topic(name) {
                Err(error) if error.code() == Some(UNKNOWN_TOPIC) && Instant::now() < deadline => {
                    thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    fn topic_once(&mut self, name: &str) -> Result<MetadataResponseTopic, Error> {
        self.refresh(Some(&[name]), false)?;
        let what = || format!("topic `{name}`");
        let topic = self
            .metadata
            .topics
            .iter()
            .find(|topic| topic_name(topic) == name)
            .ok_or_else(|| Error::NoLeader { what: what() })?;
        Error::check(what, topic.error_code, None)?;
        if let Some(partition) = topic
            .partitions
            .iter()
            .find(|partition| partition.leader_id.0 < 0)
        {
            let index = partition.partition_index;
            return Err(Error::NoLeader {
                what: format!("partition {index} of topic `{name}`"),
            });
        }
        let mut topic = topic.clone();
        topic
            .partitions
            .sort_by_key(|partition| partition.partition_index);
        Ok(topic)
    }

    /// The coordinator of a group; waits for one to be chosen.
    pub fn coordinator(&mut self, group: &str) -> Result<NodeId, Error> {
        let request = FindCoordinatorRequest::default()
            .with_key(StrBytes::from_string(group.to_owned()))
            .with_key_type(0);
        self.retry(|client| {
            let response = client.any()?.call(&request, FIND_COORDINATOR_VERSION_MAX);
            let response = response.inspect_err(|_| client.first = None)?;
            let message = response.error_message.as_deref();
            Error::check(
                || format!("coordinator of group `{group}`"),
                response.error_code,
                message,
            )?;
            let port = u16::try_from(response.port).unwrap_or(0);
            let address = HostPort {
                host: response.host.to_string(),
                port,
            };
            client.addresses.insert(response.node_id.0, address);
            Ok(response.node_id.0)
        })
    }

    /// Runs `action` until it succeeds, fails for good or `RETRY_TIME` is over.
    pub fn retry<T>(
        &mut self,
        mut action: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + RETRY_TIME;
        loop {
            match action(self) {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    thread::sleep(RETRY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// As `retry`, at the group's coordinator, which is looked up again after every failure.
    pub fn retry_at_coordinator<T>(
        &mut self,
        group: &str,
        mut action: impl FnMut(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.retry(|client| {
            let node = client.coordinator(group)?;
            let result = client.node(node).and_then(&mut action);
            if result.as_ref().is_err_and(|error| error.code().is_none()) {
                client.drop_node(node);
            }
            result
        })
    }

    /// As `retry`, at the controller.
    pub fn retry_at_controller<T>(
        &mut self,
        mut action: impl FnMut(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.retry(|client| {
            let result = client.controller().and_then(&mut action);
            if result.as_ref().is_err_and(Error::is_retriable) {
                client.drop_node(client.metadata.controller_id.0);
                client.first = None;
                client.refresh(Some(&[]), false)?;
            }
            result
        })
    }
}

/// A broker that answered before and does not now is restarting: that is worth another try, a wrong
/// address is not.
fn gone(error: Error, was_reached: bool) -> Error {
    match error {
        Error::Unreachable { address, reason } if was_reached => {
            Error::Disconnected { address, reason }
        }
        other => other,
    }
}

const UNKNOWN_TOPIC: crate::model::error_code::ErrorCode =
    crate::model::error_code::ErrorCode::UnknownTopicOrPartition;

/// The name of a topic in a metadata response.
pub fn topic_name(topic: &MetadataResponseTopic) -> &str {
    topic.name.as_ref().map_or("", |name| name.0.as_str())
}

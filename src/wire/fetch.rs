//! Fetch, version 4 to 18: parsed in place; the response as parts, so that records go out from
//! where they are.
//!
//! ```text
//! request : i32 replica (to 14) | i32 max wait ms | i32 min bytes | i32 max bytes | i8 isolation
//!           | i32 session id (7+) | i32 session epoch (7+) | array of topics
//!           | array of forgotten { name or uuid, array of i32 } (7+) | string rack (11+)
//!           | tags { 0: cluster id, 1: replica state (15+) }
//!   topic : string name (to 12) or uuid (13+) | array of
//!     { i32 partition, i32 leader epoch (9+), i64 offset, i32 last fetched epoch (12+),
//!       i64 log start (5+), i32 max bytes,
//!       tags { 0: directory uuid (17+), 1: high watermark (18) } }
//! response: i32 throttle ms | i16 error (7+) | i32 session id (7+) | array of topics
//!           | tags { 0: node endpoints (16+) }
//!   topic : name or uuid | array of
//!     { i32 partition, i16 error, i64 high watermark, i64 last stable, i64 log start (5+),
//!       nullable array aborted { i64 producer id, i64 first offset }, i32 preferred replica (11+),
//!       bytes records, tags { 0: diverging epoch, 1: current leader, (2: snapshot id) } (12+) }
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: total; the response's frame length counts the records that the caller promises to
//! send, so exactly that many bytes must follow each [`Part::Records`].

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::model::error_code::ErrorCode;
use crate::model::ids::{CorrelationId, LeaderEpoch, NodeId, PartitionIndex, ProducerId};
use crate::wire::api::ApiKey;
use crate::wire::produce::{CurrentLeader, NodeEndpoint};
use crate::wire::reader::Reader;
use crate::wire::topic_ref::TopicRef;
use crate::wire::writer::Writer;
use crate::wire::{DecodeError, EncodeError};

/// First version that names topics by id.
pub const TOPIC_ID_VERSION: i16 = 13;
/// First version with sessions (KIP-227).
const SESSION_VERSION: i16 = 7;
/// First version with racks (KIP-392).
const RACK_VERSION: i16 = 11;
/// First version that says where the leader is (KIP-951).
const NODE_ENDPOINTS_VERSION: i16 = 16;
/// First version with the replica's state as a tagged field.
const REPLICA_STATE_VERSION: i16 = 15;
/// A partition takes at least index, offset and max bytes.
const PARTITION_BYTES_MIN: usize = 16;

/// What a consumer (or a follower) wants to read.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchRequest {
    /// The follower that asks; -1 for consumers.
    pub replica_id: NodeId,
    /// Incarnation of the follower (15+); -1 when unknown.
    pub replica_epoch: i64,
    /// Longest wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// Answer at once when so many bytes are there.
    pub min_bytes: i32,
    /// Most bytes of records in the answer, except that the first batch always comes (KIP-74).
    pub max_bytes: i32,
    /// 0: up to the high watermark, 1: only committed transactions.
    pub isolation_level: i8,
    /// 0: none yet.
    pub session_id: i32,
    /// -1: no session or close it, 0: create one, else: continue.
    pub session_epoch: i32,
    /// In request order; in a session only what changed.
    pub topics: Vec<FetchTopic>,
    /// What leaves the session.
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// Where the consumer is.
    pub rack_id: StrBytes,
    /// Which cluster the client means (12+).
    pub cluster_id: Option<StrBytes>,
}

impl FetchRequest {
    /// Makes its texts bytes of their own: nothing keeps the frame alive.
    pub fn own_texts(&mut self) {
        let texts = [Some(&mut self.rack_id), self.cluster_id.as_mut()];
        for text in texts.into_iter().flatten() {
            *text = StrBytes::from_string(text.to_string());
        }
        let named = self.topics.iter_mut().map(|topic| &mut topic.topic);
        let forgotten = self
            .forgotten_topics
            .iter_mut()
            .map(|topic| &mut topic.topic);
        for topic in named.chain(forgotten) {
            *topic = topic.clone().into_own();
        }
    }
}

/// One topic's part of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopic {
    /// Which topic.
    pub topic: TopicRef,
    /// In request order.
    pub partitions: Vec<FetchPartition>,
}

/// One partition's part of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// Which partition.
    pub index: PartitionIndex,
    /// The leadership that the client knows of; -1 when it does not say.
    pub current_leader_epoch: LeaderEpoch,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last record the client has; -1 when it does not say.
    pub last_fetched_epoch: LeaderEpoch,
    /// A follower's log start offset; -1 for consumers.
    pub log_start_offset: i64,
    /// Most bytes of this partition.
    pub partition_max_bytes: i32,
    /// A follower's directory (17+).
    pub replica_directory_id: Uuid,
    /// The high watermark a follower knows (18); the largest number when it does not say.
    pub high_watermark: i64,
}

/// What leaves a fetch session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// Which topic.
    pub topic: TopicRef,
    /// Which of its partitions.
    pub partitions: Vec<PartitionIndex>,
}

impl FetchRequest {
    /// Reads the body of a request whose version is served.
    pub fn parse(version: i16, body: &Bytes) -> Result<Self, DecodeError> {
        let api = ApiKey::Fetch;
        if !api.serves(version) {
            return Err(DecodeError::UnsupportedVersion { api, version });
        }
        let mut reader = Reader::new(body, api.is_flexible(version));
        let has_replica = version < REPLICA_STATE_VERSION;
        let has_session = version >= SESSION_VERSION;
        let mut request = Self {
            replica_id: NodeId(if has_replica { reader.i32()? } else { -1 }),
            replica_epoch: -1,
            max_wait_ms: reader.i32()?,
            min_bytes: reader.i32()?,
            max_bytes: reader.i32()?,
            isolation_level: reader.i8()?,
            session_id: if has_session { reader.i32()? } else { 0 },
            session_epoch: if has_session { reader.i32()? } else { -1 },
            topics: read_topics(&mut reader, version)?,
            forgotten_topics: Vec::new(),
            rack_id: StrBytes::from_static_str(""),
            cluster_id: None,
        };
        if has_session {
            request.forgotten_topics = read_forgotten(&mut reader, version)?;
        }
        if version >= RACK_VERSION {
            request.rack_id = reader.string()?;
        }
        reader.tags(|tag, reader| {
            match tag {
                0 => request.cluster_id = reader.nullable_string()?,
                1 if version >= REPLICA_STATE_VERSION => {
                    request.replica_id = NodeId(reader.i32()?);
                    request.replica_epoch = reader.i64()?;
                    reader.skip_tags()?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(request)
    }

    /// Partitions in all topics.
    pub fn partition_count(&self) -> usize {
        self.topics.iter().map(|topic| topic.partitions.len()).sum()
    }

    /// Whether the client neither has a session nor wants one.
    pub const fn is_without_session(&self) -> bool {
        self.session_id == 0 && self.session_epoch == -1
    }

    /// Whether a follower asks.
    pub const fn is_from_follower(&self) -> bool {
        self.replica_id.get() >= 0
    }
}

fn read_topics(reader: &mut Reader<'_>, version: i16) -> Result<Vec<FetchTopic>, DecodeError> {
    let count = reader.array(TopicRef::BYTES_MIN)?;
    let mut topics = Vec::new();
    for _ in 0..count {
        let topic = TopicRef::read(reader, version >= TOPIC_ID_VERSION)?;
        let count = reader.array(PARTITION_BYTES_MIN)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(FetchPartition::read(reader, version)?);
        }
        reader.skip_tags()?;
        topics.push(FetchTopic { topic, partitions });
    }
    Ok(topics)
}

fn read_forgotten(
    reader: &mut Reader<'_>,
    version: i16,
) -> Result<Vec<ForgottenTopic>, DecodeError> {
    let count = reader.array(TopicRef::BYTES_MIN)?;
    let mut forgotten = Vec::new();
    for _ in 0..count {
        let topic = TopicRef::read(reader, version >= TOPIC_ID_VERSION)?;
        let count = reader.array(4)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(PartitionIndex(reader.i32()?));
        }
        reader.skip_tags()?;
        forgotten.push(ForgottenTopic { topic, partitions });
    }
    Ok(forgotten)
}

impl FetchPartition {
    fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut partition = Self {
            index: PartitionIndex(reader.i32()?),
            current_leader_epoch: LeaderEpoch(if version >= 9 { reader.i32()? } else { -1 }),
            fetch_offset: reader.i64()?,
            last_fetched_epoch: LeaderEpoch(if version >= 12 { reader.i32()? } else { -1 }),
            log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
            partition_max_bytes: reader.i32()?,
            replica_directory_id: Uuid::nil(),
            high_watermark: i64::MAX,
        };
        reader.tags(|tag, reader| {
            match tag {
                0 if version >= 17 => partition.replica_directory_id = reader.topic_id()?.into(),
                1 if version >= 18 => partition.high_watermark = reader.i64()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(partition)
    }
}

/// The answer to a Fetch request; its records are named by length only.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchResponse {
    /// How long the client should hold back.
    pub throttle_time_ms: i32,
    /// Error of the session (7+).
    pub error: ErrorCode,
    /// 0: no session.
    pub session_id: i32,
    /// In request order.
    pub topics: Vec<FetchTopicResponse>,
    /// Where the leaders named in the partitions are (16+).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// One topic's part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopicResponse {
    /// As the request named it.
    pub topic: TopicRef,
    /// In request order.
    pub partitions: Vec<FetchPartitionResponse>,
}

/// One partition's part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchPartitionResponse {
    /// Which partition.
    pub index: PartitionIndex,
    /// What became of it.
    pub error: ErrorCode,
    /// End of what consumers may see; -1 when unknown.
    pub high_watermark: i64,
    /// End of what `read_committed` consumers may see; -1 when unknown.
    pub last_stable_offset: i64,
    /// First offset of the log; -1 when unknown.
    pub log_start_offset: i64,
    /// Where the client's log leaves ours: epoch and end offset (12+).
    pub diverging_epoch: Option<(LeaderEpoch, i64)>,
    /// Who leads instead (12+).
    pub current_leader: Option<CurrentLeader>,
    /// Aborted transactions that overlap the records; none unless the client reads committed only.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// A nearer replica to read from (11+); -1 for none.
    pub preferred_read_replica: NodeId,
    /// Bytes of records that follow; they are sent by the caller.
    pub records_len: usize,
}

/// An aborted transaction that overlaps the records of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: ProducerId,
    /// Its first offset.
    pub first_offset: i64,
}

impl FetchPartitionResponse {
    /// No records, for a reason.
    pub const fn refused(index: PartitionIndex, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: NodeId(-1),
            records_len: 0,
        }
    }
}

/// A piece of the response's frame, to be sent in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes to send as they are.
    Bytes(Bytes),
    /// The records of one partition go here.
    Records {
        /// Counts the partitions of the response over all topics, from 0.
        partition: usize,
        /// How many bytes must be sent.
        len: usize,
    },
}

/// A response ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFrame {
    /// In order; records of length 0 have no part.
    pub parts: Vec<Part>,
    /// Bytes of all parts, the length prefix included.
    pub total_len: usize,
}

impl FetchResponse {
    /// An answer without partitions: an error of the session, or nothing new in it.
    pub const fn empty(error: ErrorCode, session_id: i32) -> Self {
        Self {
            throttle_time_ms: 0,
            error,
            session_id,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }

    /// Bytes of records in all partitions.
    pub fn records_len(&self) -> usize {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions
            .map(|partition| partition.records_len)
            .fold(0, usize::saturating_add)
    }

    /// Encodes everything but the records.
    pub fn encode(
        &self,
        version: i16,
        correlation_id: CorrelationId,
    ) -> Result<FetchFrame, EncodeError> {
        let api = ApiKey::Fetch;
        let is_flexible = api.is_flexible(version);
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let capacity = 64 + 64 * self.topics.len() + 64 * partitions;
        let has_header_tags = api.response_header_version(version) >= 1;
        let mut writer =
            Writer::response(capacity, correlation_id.get(), has_header_tags, is_flexible);
        writer.i32(self.throttle_time_ms);
        if version >= SESSION_VERSION {
            writer.i16(self.error.code());
            writer.i32(self.session_id);
        }
        // where records go: (bytes written before them, partition, length)
        let mut cuts: Vec<(usize, usize, usize)> = Vec::new();
        let mut number = 0;
        writer.array(self.topics.len());
        for topic in &self.topics {
            topic.topic.write(&mut writer, version >= TOPIC_ID_VERSION);
            writer.array(topic.partitions.len());
            for partition in &topic.partitions {
                partition.write_before_records(&mut writer, version);
                if partition.records_len > 0 {
                    cuts.push((writer.len(), number, partition.records_len));
                }
                partition.write_after_records(&mut writer);
                number += 1;
            }
            writer.no_tags();
        }
        if version >= NODE_ENDPOINTS_VERSION && !self.node_endpoints.is_empty() {
            writer.tags(&[(0, NodeEndpoint::nested(&self.node_endpoints, is_flexible))]);
        } else {
            writer.no_tags();
        }
        let records_len = self.records_len();
        let bytes = writer.finish(records_len)?;
        Ok(split_into_parts(&bytes, &cuts, records_len))
    }
}

fn split_into_parts(
    bytes: &Bytes,
    cuts: &[(usize, usize, usize)],
    records_len: usize,
) -> FetchFrame {
    let mut parts = Vec::with_capacity(2 * cuts.len() + 1);
    let mut rest = bytes.clone();
    let mut done = 0;
    for (position, partition, len) in cuts {
        parts.push(Part::Bytes(rest.split_to(position - done)));
        parts.push(Part::Records {
            partition: *partition,
            len: *len,
        });
        done = *position;
    }
    if !rest.is_empty() {
        parts.push(Part::Bytes(rest));
    }
    FetchFrame {
        parts,
        total_len: bytes.len() + records_len,
    }
}

impl FetchPartitionResponse {
    fn write_before_records(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.index.get());
        writer.i16(self.error.code());
        writer.i64(self.high_watermark);
        writer.i64(self.last_stable_offset);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        match &self.aborted_transactions {
            None => writer.null_array(),
            Some(aborted) => {
                writer.array(aborted.len());
                for transaction in aborted {
                    writer.i64(transaction.producer_id.get());
                    writer.i64(transaction.first_offset);
                    writer.no_tags();
                }
            }
        }
        if version >= RACK_VERSION {
            writer.i32(self.preferred_read_replica.get());
        }
        writer.bytes_length(self.records_len);
    }

    /// Tagged fields exist exactly where the version is flexible (12+); the writer knows.
    fn write_after_records(&self, writer: &mut Writer) {
        if self.diverging_epoch.is_none() && self.current_leader.is_none() {
            return writer.no_tags();
        }
        let mut tags = Vec::with_capacity(2);
        if let Some((epoch, end_offset)) = self.diverging_epoch {
            let mut value = Writer::nested(true);
            value.i32(epoch.get());
            value.i64(end_offset);
            value.no_tags();
            tags.push((0, value));
        }
        if let Some(leader) = self.current_leader {
            tags.push((1, leader.nested(true)));
        }
        writer.tags(&tags);
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;

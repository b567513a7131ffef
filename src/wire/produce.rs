//! Produce, version 3 to 13: parsed in place, its records sliced from the frame without a copy.
//!
//! ```text
//! request : nullable string transactional id | i16 acks | i32 timeout ms | array of topics
//!   topic : string name (to 12) or uuid (13) | array of { i32 partition, nullable bytes records }
//! response: array of topics | i32 throttle ms | tags { 0: node endpoints (10+) }
//!   topic : string name or uuid | array of
//!     { i32 partition, i16 error, i64 base offset, i64 append time, i64 log start (5+),
//!       array record errors { i32 index, nullable string } (8+), nullable string message (8+),
//!       tags { 0: current leader (10+) } }
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: total; what is reserved is bounded by the bytes of the request. Records of a partition
//! keep the frame's memory alive: who keeps them for long copies them out.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::model::error_code::ErrorCode;
use crate::model::ids::{CorrelationId, LeaderEpoch, NodeId, PartitionIndex};
use crate::wire::api::ApiKey;
use crate::wire::reader::Reader;
use crate::wire::topic_ref::TopicRef;
use crate::wire::writer::Writer;
use crate::wire::{DecodeError, EncodeError};

/// First version that names topics by id.
const TOPIC_ID_VERSION: i16 = 13;
/// First version with the reason per record.
const RECORD_ERRORS_VERSION: i16 = 8;
/// First version with the log start offset.
const LOG_START_VERSION: i16 = 5;
/// First version that says where the leader is (KIP-951).
const LEADER_HINT_VERSION: i16 = 10;
/// A partition takes at least its index and the length of its records.
const PARTITION_BYTES_MIN: usize = 5;

/// What a producer wants appended.
#[derive(Clone, Debug, PartialEq)]
pub struct ProduceRequest {
    /// Set by transactional producers.
    pub transactional_id: Option<StrBytes>,
    /// -1: all in-sync replicas, 0: no answer, 1: the leader; anything else is refused.
    pub acks: i16,
    /// How long the client waits.
    pub timeout_ms: i32,
    /// In request order.
    pub topics: Vec<ProduceTopic>,
}

/// One topic's part of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct ProduceTopic {
    /// Which topic.
    pub topic: TopicRef,
    /// In request order.
    pub partitions: Vec<ProducePartition>,
}

/// One partition's part of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducePartition {
    /// Which partition.
    pub index: PartitionIndex,
    /// The record batch: a slice of the frame.
    pub records: Option<Bytes>,
}

impl ProduceRequest {
    /// Reads the body of a request whose version is served.
    pub fn parse(version: i16, body: &Bytes) -> Result<Self, DecodeError> {
        let api = ApiKey::Produce;
        if !api.serves(version) {
            return Err(DecodeError::UnsupportedVersion { api, version });
        }
        let mut reader = Reader::new(body, api.is_flexible(version));
        let transactional_id = reader.nullable_string()?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let count = reader.array(TopicRef::BYTES_MIN)?;
        let mut topics = Vec::new();
        for _ in 0..count {
            topics.push(ProduceTopic::read(&mut reader, version)?);
        }
        reader.skip_tags()?;
        Ok(Self {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        })
    }

    /// Partitions in all topics.
    pub fn partition_count(&self) -> usize {
        self.topics.iter().map(|topic| topic.partitions.len()).sum()
    }
}

impl ProduceTopic {
    fn read(reader: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError> {
        let topic = TopicRef::read(reader, version >= TOPIC_ID_VERSION)?;
        let count = reader.array(PARTITION_BYTES_MIN)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let index = PartitionIndex(reader.i32()?);
            let records = reader.nullable_bytes()?;
            reader.skip_tags()?;
            partitions.push(ProducePartition { index, records });
        }
        reader.skip_tags()?;
        Ok(Self { topic, partitions })
    }
}

/// The answer to a Produce request; none is sent for `acks=0`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProduceResponse {
    /// In request order.
    pub topics: Vec<ProduceTopicResponse>,
    /// How long the client should hold back.
    pub throttle_time_ms: i32,
    /// Where the leaders named in the partitions are (10+).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// One topic's part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProduceTopicResponse {
    /// As the request named it.
    pub topic: TopicRef,
    /// In request order.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// One partition's part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducePartitionResponse {
    /// Which partition.
    pub index: PartitionIndex,
    /// What became of it.
    pub error: ErrorCode,
    /// Offset of the first record; -1 on an error.
    pub base_offset: i64,
    /// The broker's timestamp when the topic uses it, else -1.
    pub log_append_time_ms: i64,
    /// First offset of the log; -1 on an error.
    pub log_start_offset: i64,
    /// Which records made the batch invalid (8+).
    pub record_errors: Vec<RecordIssue>,
    /// Why, for humans (8+).
    pub error_message: Option<StrBytes>,
    /// Who leads instead, with `NOT_LEADER_OR_FOLLOWER` (10+).
    pub current_leader: Option<CurrentLeader>,
}

/// One record that made its batch invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordIssue {
    /// Number of the record in the batch, from 0.
    pub batch_index: i32,
    /// Why, for humans.
    pub message: Option<StrBytes>,
}

/// Who leads a partition (KIP-951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLeader {
    /// The broker.
    pub leader_id: NodeId,
    /// Its leadership.
    pub leader_epoch: LeaderEpoch,
}

/// Where a broker listens (KIP-951).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The broker.
    pub node_id: NodeId,
    /// Host to connect to.
    pub host: StrBytes,
    /// Port to connect to.
    pub port: i32,
    /// Its rack.
    pub rack: Option<StrBytes>,
}

impl CurrentLeader {
    pub(super) fn nested(self, is_flexible: bool) -> Writer {
        let mut value = Writer::nested(is_flexible);
        value.i32(self.leader_id.get());
        value.i32(self.leader_epoch.get());
        value.no_tags();
        value
    }
}

impl NodeEndpoint {
    /// The tagged field of both hot responses.
    pub(super) fn nested(endpoints: &[Self], is_flexible: bool) -> Writer {
        let mut value = Writer::nested(is_flexible);
        value.array(endpoints.len());
        for endpoint in endpoints {
            value.i32(endpoint.node_id.get());
            value.string(&endpoint.host);
            value.i32(endpoint.port);
            value.nullable_string(endpoint.rack.as_deref());
            value.no_tags();
        }
        value
    }
}

impl ProducePartitionResponse {
    /// The records are in the log.
    pub const fn appended(index: PartitionIndex, base_offset: i64, log_start_offset: i64) -> Self {
        Self {
            index,
            error: ErrorCode::None,
            base_offset,
            log_append_time_ms: -1,
            log_start_offset,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }

    /// The records are not in the log.
    pub const fn refused(index: PartitionIndex, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }

    fn write(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.index.get());
        writer.i16(self.error.code());
        writer.i64(self.base_offset);
        writer.i64(self.log_append_time_ms);
        if version >= LOG_START_VERSION {
            writer.i64(self.log_start_offset);
        }
        if version >= RECORD_ERRORS_VERSION {
            writer.array(self.record_errors.len());
            for issue in &self.record_errors {
                writer.i32(issue.batch_index);
                writer.nullable_string(issue.message.as_deref());
                writer.no_tags();
            }
            writer.nullable_string(self.error_message.as_deref());
        }
        match self.current_leader {
            Some(leader) if version >= LEADER_HINT_VERSION => {
                writer.tags(&[(0, leader.nested(true))]);
            }
            _ => writer.no_tags(),
        }
    }
}

impl ProduceResponse {
    /// Encodes the whole frame, length and header included.
    pub fn encode(
        &self,
        version: i16,
        correlation_id: CorrelationId,
    ) -> Result<Bytes, EncodeError> {
        let api = ApiKey::Produce;
        let is_flexible = api.is_flexible(version);
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let capacity = 64 + 64 * self.topics.len() + 48 * partitions;
        let has_header_tags = api.response_header_version(version) >= 1;
        let mut writer =
            Writer::response(capacity, correlation_id.get(), has_header_tags, is_flexible);
        writer.array(self.topics.len());
        for topic in &self.topics {
            topic.topic.write(&mut writer, version >= TOPIC_ID_VERSION);
            writer.array(topic.partitions.len());
            for partition in &topic.partitions {
                partition.write(&mut writer, version);
            }
            writer.no_tags();
        }
        writer.i32(self.throttle_time_ms);
        if version >= LEADER_HINT_VERSION && !self.node_endpoints.is_empty() {
            writer.tags(&[(0, NodeEndpoint::nested(&self.node_endpoints, is_flexible))]);
        } else {
            writer.no_tags();
        }
        writer.finish(0)
    }
}

#[cfg(test)]
#[path = "produce_tests.rs"]
mod tests;

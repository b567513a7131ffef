//! Producing to one topic: batches per partition, idempotent where acks=all allows it.
//!
//! Runs on: the calling thread. One request per leader at a time.
//! Promises: with acks=all, a batch that was sent again after an error is stored once (the broker
//! recognises its sequence number); records of one partition keep their order.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};

use super::cluster::{Client, RETRY_PAUSE, RETRY_TIME};
use super::error::Error;
use super::partitioner::partition_of_key;
use super::topics::{self, topic};
use crate::model::batch_builder::BatchBuilder;
use crate::model::compression::Codec;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{ProducerEpoch, ProducerId};
use crate::model::record_batch::sequence_plus;

const PRODUCE_VERSION_MAX: i16 = 8;
const PRODUCE_TIMEOUT_MS: i32 = 30_000;
const PRODUCE_TIMEOUT: Duration = Duration::from_secs(30);
/// A batch is sent when it has this size before compression, or what the topic takes at most.
const BATCH_BYTES: usize = 512 << 10;
/// Lengths, deltas and attributes of one record, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;
const BATCH_RECORDS: i32 = 16_384;

/// Which acknowledgement is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// None at all.
    None,
    /// The leader's.
    Leader,
    /// All replicas' in sync.
    All,
}

impl Acks {
    fn wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// A topic being written to.
#[derive(Debug)]
pub struct Producer<'a> {
    client: &'a mut Client,
    name: String,
    described: MetadataResponseTopic,
    acks: Acks,
    codec: Codec,
    /// Only this partition, whatever the key.
    partition: Option<i32>,
    identity: Option<(ProducerId, ProducerEpoch)>,
    /// The next sequence number by partition.
    sequences: BTreeMap<i32, i32>,
    batches: BTreeMap<i32, BatchBuilder>,
    /// A batch that would become larger is sent before.
    batch_bytes: usize,
    /// Where keyless records go until the next flush.
    sticky: usize,
    sent: u64,
}

/// A batch on its way.
#[derive(Debug)]
struct Built {
    bytes: Bytes,
    records: i32,
}

impl<'a> Producer<'a> {
    /// Looks the topic up (waiting until it is known) and asks for a producer id.
    pub fn new(
        client: &'a mut Client,
        name: &str,
        acks: Acks,
        codec: Codec,
        partition: Option<i32>,
    ) -> Result<Self, Error> {
        let described = client.topic_or_create(name)?;
        if let Some(wanted) = partition
            && !described
                .partitions
                .iter()
                .any(|known| known.partition_index == wanted)
        {
            let code = ErrorCode::UnknownTopicOrPartition.code();
            let what = format!("partition {wanted} of topic `{name}`");
            return Err(Error::Refused {
                what,
                code,
                message: None,
            });
        }
        let batch_bytes = batch_bytes(client, name, codec);
        let identity = if acks == Acks::All {
            identity(client)?
        } else {
            None
        };
        Ok(Self {
            client,
            name: name.to_owned(),
            described,
            acks,
            codec,
            partition,
            identity,
            sequences: BTreeMap::new(),
            batches: BTreeMap::new(),
            batch_bytes,
            sticky: 0,
            sent: 0,
        })
    }

    /// Records acknowledged so far (with acks=0: sent).
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes one record; sends what is there when a batch is full.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), Error> {
        let count = self.described.partitions.len();
        let partition = match (self.partition, key) {
            (Some(fixed), _) => fixed,
            (None, key) => {
                let at = key.map_or(self.sticky % count, |key| partition_of_key(key, count));
                self.described.partitions[at].partition_index
            }
        };
        let added = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let present = self
            .batches
            .get(&partition)
            .map_or(0, BatchBuilder::size_uncompressed);
        if present > 0 && present + added + RECORD_OVERHEAD_BYTES > self.batch_bytes {
            self.flush()?;
        }
        let batch = self.batches.entry(partition).or_insert_with(|| {
            let batch = BatchBuilder::new().codec(self.codec);
            match self.identity {
                Some((id, epoch)) => {
                    let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
                    batch.producer(id, epoch, sequence)
                }
                None => batch,
            }
        });
        batch.push(timestamp_ms, key, value);
        if batch.record_count() >= BATCH_RECORDS {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends everything and waits for the acknowledgements.
    pub fn flush(&mut self) -> Result<(), Error> {
        let mut waiting = BTreeMap::new();
        for (partition, batch) in std::mem::take(&mut self.batches) {
            let built = batch.try_build().map_err(|error| Error::Unsendable {
                address: "a broker".to_owned(),
                api: "Produce".to_owned(),
                reason: error.to_string(),
            })?;
            let records = batch.record_count();
            waiting.insert(
                partition,
                Built {
                    bytes: Bytes::from(built),
                    records,
                },
            );
        }
        self.sticky += 1;
        let deadline = Instant::now() + RETRY_TIME;
        while !waiting.is_empty() {
            match self.send_once(&mut waiting) {
                Ok(()) => {}
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    thread::sleep(RETRY_PAUSE);
                    self.described = self.client.topic(&self.name)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One round: every waiting batch goes to its leader; what is acknowledged leaves `waiting`.
    fn send_once(&mut self, waiting: &mut BTreeMap<i32, Built>) -> Result<(), Error> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in &self.described.partitions {
            if waiting.contains_key(&partition.partition_index) {
                let list = by_leader.entry(partition.leader_id.0).or_default();
                list.push(partition.partition_index);
            }
        }
        let mut first_error = None;
        for (leader, partitions) in by_leader {
            if let Err(error) = self.send_to_leader(leader, &partitions, waiting) {
                if error.code().is_none() {
                    self.client.drop_node(leader);
                }
                let keep_earlier = first_error
                    .as_ref()
                    .is_some_and(|e: &Error| !e.is_retriable());
                if !keep_earlier {
                    first_error = Some(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn send_to_leader(
        &mut self,
        leader: i32,
        partitions: &[i32],
        waiting: &mut BTreeMap<i32, Built>,
    ) -> Result<(), Error> {
        let data = partitions
            .iter()
            .filter_map(|partition| {
                let records = waiting.get(partition)?.bytes.clone();
                let data = PartitionProduceData::default().with_index(*partition);
                Some(data.with_records(Some(records)))
            })
            .collect();
        let topic_data = TopicProduceData::default()
            .with_name(topic(&self.name))
            .with_partition_data(data);
        let request = ProduceRequest::default()
            .with_acks(self.acks.wire())
            .with_timeout_ms(PRODUCE_TIMEOUT_MS)
            .with_topic_data(vec![topic_data]);
        let connection = self.client.node(leader)?;
        if self.acks == Acks::None {
            connection.send(&request, PRODUCE_VERSION_MAX)?;
            for partition in partitions {
                self.acknowledged(*partition, waiting);
            }
            return Ok(());
        }
        let response = connection.call_waiting(&request, PRODUCE_VERSION_MAX, PRODUCE_TIMEOUT)?;
        let mut outcome = Ok(());
        for answer in response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses)
        {
            match self.check(answer) {
                Ok(()) => self.acknowledged(answer.index, waiting),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn check(&self, answer: &PartitionProduceResponse) -> Result<(), Error> {
        // the first sending was stored, its answer lost
        if answer.error_code == ErrorCode::DuplicateSequenceNumber.code() {
            return Ok(());
        }
        let what = || format!("partition {} of topic `{}`", answer.index, self.name);
        let message = answer
            .record_errors
            .iter()
            .find_map(|record| record.batch_index_error_message.as_deref())
            .or(answer.error_message.as_deref());
        Error::check(what, answer.error_code, message)
    }

    fn acknowledged(&mut self, partition: i32, waiting: &mut BTreeMap<i32, Built>) {
        if let Some(built) = waiting.remove(&partition) {
            let next = self.sequences.entry(partition).or_insert(0);
            *next = sequence_plus(*next, built.records);
            self.sent += u64::from(built.records.unsigned_abs());
        }
    }
}

/// How large batches may become: what the topic's settings allow, with room for a codec that makes
/// the bytes more. A broker that does not tell gets batches of the usual size.
fn batch_bytes(client: &mut Client, topic: &str, codec: Codec) -> usize {
    let settings = topics::settings(client, topic).unwrap_or_default();
    let allowed = settings
        .iter()
        .filter(|row| ["max.message.bytes", "segment.bytes"].contains(&row.name.as_str()))
        .filter_map(|row| row.value.as_deref()?.parse::<usize>().ok())
        .min();
    let allowed = allowed.unwrap_or(usize::MAX);
    let room = if codec == Codec::None {
        0
    } else {
        allowed / 16
    };
    (allowed - room).min(BATCH_BYTES)
}

/// A producer id, or none from a broker that has no such thing.
fn identity(client: &mut Client) -> Result<Option<(ProducerId, ProducerEpoch)>, Error> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(PRODUCE_TIMEOUT_MS);
    if client.any()?.version::<InitProducerIdRequest>(4).is_none() {
        return Ok(None);
    }
    client.retry(|client| {
        let response = client.any()?.call(&request, 4)?;
        Error::check(|| "producer id".to_owned(), response.error_code, None)?;
        Ok(Some((
            ProducerId(response.producer_id.0),
            ProducerEpoch(response.producer_epoch),
        )))
    })
}

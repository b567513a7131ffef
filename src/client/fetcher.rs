//! Reading records: positions, fetches from the leaders, batches taken apart.
//!
//! Runs on: the calling thread. One request per leader at a time.
//! Promises: a record below the position is never delivered again; a batch with a wrong CRC is an
//! error, never skipped.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest};

use super::cluster::{Client, RETRY_PAUSE};
use super::error::Error;
use super::topics::topic;
use crate::model::error_code::ErrorCode;
use crate::model::limits;
use crate::model::record::{Record, iter_records, payload};
use crate::model::record_batch::{BatchHeader, check_crc, iter_batches};

const FETCH_VERSION_MAX: i16 = 11;
const FETCH_BYTES_MAX: i32 = 50 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
const SESSIONLESS_EPOCH: i32 = -1;

/// A partition by its topic's name.
pub type PartitionKey = (String, i32);

/// What one fetch brought for one partition.
#[derive(Debug)]
pub struct Fetched {
    /// The partition.
    pub key: PartitionKey,
    /// The position that was asked for.
    pub position: i64,
    /// Behind the last readable record.
    pub high_watermark: i64,
    /// Whole batches; a cut one may follow.
    records: Bytes,
}

/// The outcome of one round.
#[derive(Debug, Default)]
pub struct Round {
    /// What the leaders had.
    pub fetched: Vec<Fetched>,
    /// Positions that the partition does not have (any more).
    pub out_of_range: Vec<PartitionKey>,
}

/// Positions of the partitions that are read.
#[derive(Debug, Default)]
pub struct Fetcher {
    positions: BTreeMap<PartitionKey, i64>,
    leaders: BTreeMap<PartitionKey, i32>,
    /// Partitions that are not asked for any more.
    finished: Vec<PartitionKey>,
}

impl Fetcher {
    /// Reads from these positions on.
    pub fn new(positions: BTreeMap<PartitionKey, i64>) -> Self {
        Self {
            positions,
            ..Self::default()
        }
    }

    /// The next offset to read of every partition.
    pub fn positions(&self) -> &BTreeMap<PartitionKey, i64> {
        &self.positions
    }

    /// Goes on from another offset.
    pub fn seek(&mut self, key: &PartitionKey, offset: i64) {
        if let Some(position) = self.positions.get_mut(key) {
            *position = offset;
        }
    }

    /// Asks no more for this partition.
    pub fn finish(&mut self, key: &PartitionKey) {
        if !self.finished.contains(key) {
            self.finished.push(key.clone());
        }
    }

    /// Whether nothing is left to be asked for.
    pub fn is_finished(&self) -> bool {
        self.finished.len() == self.positions.len()
    }

    /// One request to every leader. `wait` is how long they may wait for records, together.
    pub fn poll(&mut self, client: &mut Client, wait: Duration) -> Result<Round, Error> {
        let by_leader = self.by_leader(client)?;
        let mut round = Round::default();
        let leaders = u32::try_from(by_leader.len()).unwrap_or(u32::MAX).max(1);
        for (leader, keys) in by_leader {
            match self.fetch(client, leader, &keys, wait / leaders, &mut round) {
                Ok(()) => {}
                Err(error) if error.is_retriable() => {
                    client.drop_node(leader);
                    self.leaders.clear();
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(round)
    }

    fn by_leader(
        &mut self,
        client: &mut Client,
    ) -> Result<BTreeMap<i32, Vec<PartitionKey>>, Error> {
        let topics: Vec<String> = self
            .positions
            .keys()
            .filter(|key| !self.leaders.contains_key(*key))
            .map(|(topic, _)| topic.clone())
            .collect();
        for name in topics {
            if self.leaders.keys().any(|(known, _)| *known == name) {
                continue;
            }
            for partition in client.topic(&name)?.partitions {
                let key = (name.clone(), partition.partition_index);
                self.leaders.insert(key, partition.leader_id.0);
            }
        }
        let mut by_leader: BTreeMap<i32, Vec<PartitionKey>> = BTreeMap::new();
        for key in self
            .positions
            .keys()
            .filter(|key| !self.finished.contains(key))
        {
            let leader = self
                .leaders
                .get(key)
                .copied()
                .ok_or_else(|| Error::NoLeader {
                    what: format!("partition {} of topic `{}`", key.1, key.0),
                })?;
            by_leader.entry(leader).or_default().push(key.clone());
        }
        Ok(by_leader)
    }

    fn fetch(
        &mut self,
        client: &mut Client,
        leader: i32,
        keys: &[PartitionKey],
        wait: Duration,
        round: &mut Round,
    ) -> Result<(), Error> {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for key in keys {
            let partition = FetchPartition::default()
                .with_partition(key.1)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(self.positions[key])
                .with_log_start_offset(-1)
                .with_partition_max_bytes(PARTITION_BYTES_MAX);
            topics.entry(&key.0).or_default().push(partition);
        }
        let topics = topics
            .into_iter()
            .map(|(name, partitions)| {
                FetchTopic::default()
                    .with_topic(topic(name))
                    .with_partitions(partitions)
            })
            .collect();
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_session_epoch(SESSIONLESS_EPOCH)
            .with_topics(topics);
        let response = client
            .node(leader)?
            .call_waiting(&request, FETCH_VERSION_MAX, wait)?;
        Error::check(|| "fetch".to_owned(), response.error_code, None)?;
        for found in response.responses {
            for partition in found.partitions {
                let key = (found.topic.0.to_string(), partition.partition_index);
                let Some(position) = self.positions.get(&key).copied() else {
                    continue;
                };
                if partition.error_code == ErrorCode::OffsetOutOfRange.code() {
                    round.out_of_range.push(key);
                    continue;
                }
                if partition.error_code == ErrorCode::CorruptMessage.code() {
                    let (topic, partition) = key;
                    return Err(Error::Damaged {
                        topic,
                        partition,
                        offset: position,
                    });
                }
                let what = || format!("partition {} of topic `{}`", key.1, key.0);
                Error::check(what, partition.error_code, None)?;
                let records = partition.records.unwrap_or_default();
                let high_watermark = partition.high_watermark;
                round.fetched.push(Fetched {
                    key,
                    position,
                    high_watermark,
                    records,
                });
            }
        }
        Ok(())
    }
}

/// Why fetched bytes could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError<E> {
    /// The bytes are damaged.
    #[error("partition {partition} of topic `{topic}`, batch at offset {offset}: {reason}")]
    Damaged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The batch's base offset.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// The receiver wants no more.
    #[error(transparent)]
    Receiver(E),
}

/// Whether the receiver wants the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    More,
    /// Stop behind this record.
    Enough,
}

impl Fetched {
    /// The batches as they came; the last one may be cut off.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// Delivers the records from the position on; answers the next position.
    pub fn deliver<E>(
        &self,
        mut receive: impl FnMut(i64, i64, &Record<'_>) -> Result<Flow, E>,
    ) -> Result<i64, DeliveryError<E>> {
        let mut position = self.position;
        for found in iter_batches(&self.records) {
            let Ok((header, batch)) = found else {
                break; // the last batch was cut off by the fetch's size limit
            };
            if header.next_offset().get() <= position {
                continue;
            }
            if !check_crc(batch) {
                return Err(self.damaged(&header, &"its CRC is wrong"));
            }
            if !header.is_control() {
                let limit = limits::DECOMPRESSED_BATCH_BYTES_MAX;
                let bytes = payload(&header, batch, limit)
                    .map_err(|error| self.damaged(&header, &error))?;
                for record in iter_records(&bytes, header.record_count) {
                    let record = record.map_err(|error| self.damaged(&header, &error))?;
                    let offset = header.base_offset.get() + i64::from(record.offset_delta);
                    if offset < position {
                        continue;
                    }
                    let timestamp = record.timestamp(&header);
                    position = offset + 1;
                    let flow =
                        receive(offset, timestamp, &record).map_err(DeliveryError::Receiver)?;
                    if flow == Flow::Enough {
                        return Ok(position);
                    }
                }
            }
            position = position.max(header.next_offset().get());
        }
        Ok(position)
    }

    fn damaged<E>(&self, header: &BatchHeader, reason: &impl ToString) -> DeliveryError<E> {
        DeliveryError::Damaged {
            topic: self.key.0.clone(),
            partition: self.key.1,
            offset: header.base_offset.get(),
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch_builder::BatchBuilder;
    use crate::model::compression::Codec;
    use crate::model::offset::Offset;

    fn batch(base: i64, values: &[&str], codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset::new(base))
            .codec(codec);
        for value in values {
            builder.push(1_000, None, Some(value.as_bytes()));
        }
        builder.build()
    }

    fn fetched(position: i64, batches: &[Vec<u8>]) -> Fetched {
        Fetched {
            key: ("t".into(), 0),
            position,
            high_watermark: 100,
            records: Bytes::from(batches.concat()),
        }
    }

    fn delivered(fetched: &Fetched, most: usize) -> (Vec<(i64, String)>, i64) {
        let mut got = Vec::new();
        let next = fetched.deliver(|offset, _, record| {
            let value = String::from_utf8(record.value.unwrap_or_default().to_vec());
            got.push((offset, value.expect("text")));
            Ok::<_, ()>(if got.len() == most {
                Flow::Enough
            } else {
                Flow::More
            })
        });
        (got, next.expect("sound"))
    }

    #[test]
    fn delivery_begins_in_the_middle_of_a_batch() {
        let fetched = fetched(
            6,
            &[
                batch(5, &["a", "b"], Codec::Lz4),
                batch(7, &["c"], Codec::None),
            ],
        );
        let (got, next) = delivered(&fetched, 10);
        assert_eq!(got, [(6, "b".to_owned()), (7, "c".to_owned())]);
        assert_eq!(next, 8);
    }

    #[test]
    fn delivery_stops_behind_the_last_record_that_was_wanted() {
        let fetched = fetched(0, &[batch(0, &["a", "b", "c"], Codec::Zstd)]);
        assert_eq!(delivered(&fetched, 2).1, 2);
    }

    #[test]
    fn a_cut_last_batch_is_left_for_the_next_fetch() {
        let mut cut = batch(1, &["b"], Codec::None);
        cut.truncate(65);
        let fetched = fetched(0, &[batch(0, &["a"], Codec::None), cut]);
        assert_eq!(delivered(&fetched, 10).1, 1);
    }

    #[test]
    fn a_batch_with_a_wrong_crc_is_an_error() {
        let mut bad = batch(0, &["a"], Codec::None);
        *bad.last_mut().expect("not empty") ^= 1;
        let error = fetched(0, &[bad]).deliver(|_, _, _| Ok::<_, std::io::Error>(Flow::More));
        let error = error.expect_err("damaged").to_string();
        assert_eq!(
            error,
            "partition 0 of topic `t`, batch at offset 0: its CRC is wrong"
        );
    }

    #[test]
    fn control_batches_move_the_position_without_a_record() {
        let mut builder = BatchBuilder::new().control().transactional();
        builder.push(1, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 0]));
        let fetched = fetched(0, &[builder.build()]);
        assert_eq!(delivered(&fetched, 10), (vec![], 1));
    }
}

//! What the sink stores, and what it does to it on purpose.
//!
//! Runs on: the sink's connection threads, one lock for all.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use corelog::model::error_code::ErrorCode;
use corelog::wire::fetch::FetchRequest;
use corelog::wire::topic_ref::TopicRef;
use uuid::Uuid;

use crate::sink::Fault;
use crate::template::{HEADER_BYTES, refresh_crc};

const TOPIC_EXISTS: i16 = 36;
/// Where a header says the offset of its last record.
const LAST_OFFSET_DELTA_AT: std::ops::Range<usize> = 23..27;

/// A topic of the sink.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) partitions: i32,
    logs: Vec<Log>,
}

/// Batches in the order in which they can be read.
#[derive(Clone, Debug, Default)]
struct Log {
    /// Base offset, end offset, bytes.
    batches: Vec<(i64, i64, Vec<u8>)>,
    end: i64,
    /// Acknowledged, to be stored behind the next batch.
    held_back: Option<Vec<u8>>,
    appended: u64,
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Store {
    fault: Fault,
    every: u64,
    topics: Mutex<BTreeMap<String, Topic>>,
    grown: Condvar,
}

impl Store {
    pub(crate) fn new(fault: Fault, every: u64) -> Self {
        Self {
            fault,
            every: every.max(1),
            topics: Mutex::new(BTreeMap::new()),
            grown: Condvar::new(),
        }
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Topic> {
        let topics = self.topics();
        let topic = topics.get(name)?;
        Some(Topic {
            logs: Vec::new(),
            ..*topic
        })
    }

    /// Creates a topic; 0 or the error's code.
    pub(crate) fn create(&self, name: &str, partitions: i32) -> i16 {
        let mut topics = self.topics();
        if topics.contains_key(name) {
            return TOPIC_EXISTS;
        }
        let number = topics.len() as u64 + 1;
        let topic = Topic {
            id: Uuid::from_u64_pair(1, number),
            partitions,
            logs: vec![Log::default(); usize::try_from(partitions).unwrap_or(0)],
        };
        topics.insert(name.to_owned(), topic);
        0
    }

    pub(crate) fn delete(&self, name: &str) {
        self.topics().remove(name);
    }

    pub(crate) fn end(&self, name: &str, partition: i32) -> i64 {
        let topics = self.topics();
        let log = topics.get(name).and_then(|topic| topic.log(partition));
        log.map_or(-1, |log| log.end)
    }

    /// Appends a batch, or does to it what the fault says; its base offset.
    pub(crate) fn append(
        &self,
        topic: &TopicRef,
        partition: i32,
        batch: &[u8],
    ) -> Result<i64, ErrorCode> {
        let mut topics = self.topics();
        let log = find(&mut topics, topic).and_then(|topic| topic.log_mut(partition));
        let log = log.ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if batch.len() < HEADER_BYTES {
            return Err(ErrorCode::CorruptMessage);
        }
        log.appended += 1;
        let is_hit = log.appended.is_multiple_of(self.every);
        match self.fault {
            Fault::Discard => return Ok(log.skip(batch)),
            Fault::Refuse if is_hit => return Err(ErrorCode::NotLeaderOrFollower),
            Fault::Lose if is_hit => return Ok(log.skip(batch)),
            Fault::Duplicate if is_hit => {
                log.store(batch.to_vec());
                log.store(batch.to_vec());
            }
            Fault::Reorder if is_hit => log.held_back = Some(batch.to_vec()),
            Fault::Corrupt | Fault::CorruptQuietly if is_hit => {
                let mut damaged = batch.to_vec();
                // the byte before the last is the end of the last value
                let at = damaged.len() - 2;
                damaged[at] ^= 0x20;
                if self.fault == Fault::CorruptQuietly {
                    refresh_crc(&mut damaged);
                }
                log.store(damaged);
            }
            _ => log.store(batch.to_vec()),
        }
        if !(self.fault == Fault::Reorder && is_hit)
            && let Some(earlier) = log.held_back.take()
        {
            log.store(earlier);
        }
        let base = log.end - records_of(batch);
        self.grown.notify_all();
        Ok(base)
    }

    /// For every partition of the request in order: the end of its log and whole batches. Waits
    /// for the first byte.
    pub(crate) fn read(&self, request: &FetchRequest, wait: Duration) -> Vec<(i64, Vec<u8>)> {
        let deadline = Instant::now() + wait;
        let mut topics = self.topics();
        loop {
            let read = read_all(&mut topics, request);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || read.iter().any(|(_, bytes)| !bytes.is_empty()) {
                return read;
            }
            let waited = self.grown.wait_timeout(topics, left);
            topics = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn read_all(topics: &mut BTreeMap<String, Topic>, request: &FetchRequest) -> Vec<(i64, Vec<u8>)> {
    let mut found = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let log =
                find(topics, &topic.topic).and_then(|topic| topic.log_mut(partition.index.get()));
            let bytes_max = usize::try_from(partition.partition_max_bytes).unwrap_or(0);
            found.push(log.map_or((-1, Vec::new()), |log| {
                (log.end, log.read(partition.fetch_offset, bytes_max))
            }));
        }
    }
    found
}

fn find<'a>(topics: &'a mut BTreeMap<String, Topic>, topic: &TopicRef) -> Option<&'a mut Topic> {
    match topic {
        TopicRef::Name(name) => topics.get_mut(name.as_str()),
        TopicRef::Id(id) => topics
            .values_mut()
            .find(|topic| topic.id == Uuid::from(*id)),
    }
}

fn records_of(batch: &[u8]) -> i64 {
    let delta = batch[LAST_OFFSET_DELTA_AT].try_into().unwrap_or([0; 4]);
    i64::from(i32::from_be_bytes(delta)) + 1
}

impl Topic {
    fn log(&self, partition: i32) -> Option<&Log> {
        self.logs.get(usize::try_from(partition).ok()?)
    }

    fn log_mut(&mut self, partition: i32) -> Option<&mut Log> {
        self.logs.get_mut(usize::try_from(partition).ok()?)
    }
}

impl Log {
    /// Takes the offsets of a batch without keeping it; its base offset.
    fn skip(&mut self, batch: &[u8]) -> i64 {
        let base = self.end;
        self.end += records_of(batch);
        base
    }

    fn store(&mut self, mut batch: Vec<u8>) {
        let base = self.skip(&batch);
        batch[..8].copy_from_slice(&base.to_be_bytes());
        self.batches.push((base, self.end, batch));
    }

    /// Whole batches from this offset on, at least one.
    fn read(&self, offset: i64, bytes_max: usize) -> Vec<u8> {
        let first = self.batches.partition_point(|(_, end, _)| *end <= offset);
        let mut out = Vec::new();
        for (_, _, batch) in &self.batches[first..] {
            if !out.is_empty() && out.len() + batch.len() > bytes_max {
                break;
            }
            out.extend_from_slice(batch);
        }
        out
    }
}

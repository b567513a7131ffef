//! Reads every lane back and compares it with the producers' books.
//!
//! Runs on: the main thread.        Owner: `main`.
//! Promises: each record is whole, in its own lane, and per producer the sequences are 0, 1, 2, ...
//! without a gap or a repetition; every acknowledged one is there, at the offset that its
//! acknowledgement named; what a reader once saw never changes. A lane that expires may begin
//! later each time, never earlier, and what it has from there on is held to the same.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::ledger::Ledger;
use crate::producer::{Lane, index_u32};
use crate::record::{self, RecordId};

/// As long may nothing come at all.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);
/// After this long without a record, a lane may have expired under the reader.
const SILENCE_BEFORE_ASKING: Duration = Duration::from_secs(2);
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// Sentences kept for one check: the first ones tell the story.
const VIOLATIONS_MAX: usize = 20;

/// What has been read so far of one lane.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Next offset to read.
    next_offset: i64,
    /// Lowest offset there was at the last look.
    start_offset: i64,
    /// Next expected sequence of each producer.
    next_sequences: Vec<NextSequence>,
}

/// What a producer's next record is to carry.
#[derive(Clone, Copy, Debug, Default)]
struct NextSequence {
    value: u64,
    /// Records have expired unread since: it may be higher.
    is_least: bool,
}

impl Progress {
    /// Everything below `start` has expired.
    fn expire(&mut self, start: i64) {
        self.start_offset = self.start_offset.max(start);
        if start > self.next_offset {
            self.next_offset = start;
            for next in &mut self.next_sequences {
                next.is_least = true;
            }
        }
    }
}

/// Reader over all lanes; remembers where it is, so that a cycle reads only what is new.
pub(crate) struct Verifier {
    bootstrap: String,
    lanes: Vec<Lane>,
    progress: Vec<Progress>,
}

/// Outcome of one check.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Records read and found right.
    pub(crate) verified: u64,
    /// Records that have expired, over all lanes.
    pub(crate) expired: u64,
    /// What is wrong, as sentences; empty when all is well.
    pub(crate) violations: Vec<String>,
}

impl Verifier {
    pub(crate) fn new(bootstrap: &str, lanes: &[Lane], producer_count: usize) -> Self {
        let start = Progress {
            next_sequences: vec![NextSequence::default(); producer_count],
            ..Progress::default()
        };
        Self {
            bootstrap: bootstrap.to_owned(),
            lanes: lanes.to_vec(),
            progress: vec![start; lanes.len()],
        }
    }

    /// Reads from where the last check ended to the end of every lane.
    pub(crate) fn check_new(&mut self, books: &[&Ledger]) -> Verdict {
        let mut verdict = Verdict::default();
        if let Err(error) = self.read_all(books, &mut verdict) {
            verdict
                .violations
                .push(format!("cannot read back: {error}"));
        }
        for (index, progress) in self.progress.iter().enumerate() {
            for (producer, book) in books.iter().enumerate() {
                let acked = u64::try_from(book.acked_of(index)).expect("usize fits u64");
                let read = progress.next_sequences[producer].value;
                let last = book.acked_offset(index, acked.saturating_sub(1));
                let has_expired = last.is_some_and(|last| last < progress.start_offset);
                if read < acked && !has_expired {
                    verdict.violations.push(format!(
                        "LOST {}: producer {producer} has {acked} acknowledged, {read} are there",
                        name(&self.lanes[index])
                    ));
                }
            }
        }
        let starts = self.progress.iter().map(|progress| progress.start_offset);
        verdict.expired = starts.filter_map(|start| u64::try_from(start).ok()).sum();
        verdict.violations.truncate(VIOLATIONS_MAX);
        verdict
    }

    /// Reads every lane from its very beginning.
    pub(crate) fn check_all(&self, books: &[&Ledger]) -> Verdict {
        Self::new(&self.bootstrap, &self.lanes, books.len()).check_new(books)
    }

    fn read_all(&mut self, books: &[&Ledger], verdict: &mut Verdict) -> Result<(), String> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "corelog-crash")
            .set("enable.auto.commit", "false")
            // a record that is missing elsewhere than in an expiring lane shows by its offset
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "false")
            .set("check.crcs", "true")
            .set("reconnect.backoff.max.ms", "250")
            .create()
            .map_err(|error| error.to_string())?;
        let ends = self.end_offsets(&consumer, verdict)?;
        let mut assignment = TopicPartitionList::new();
        let mut remaining = 0;
        for (index, &end) in ends.iter().enumerate() {
            let from = self.progress[index].next_offset;
            if from < end {
                remaining += 1;
                let lane = &self.lanes[index];
                assignment
                    .add_partition_offset(&lane.topic, lane.partition, Offset::Offset(from))
                    .map_err(|error| error.to_string())?;
            }
        }
        consumer
            .assign(&assignment)
            .map_err(|error| error.to_string())?;
        let mut last_record = Instant::now();
        while remaining > 0 {
            let silence = last_record.elapsed();
            if silence > SILENCE_LIMIT {
                return Err(format!(
                    "{remaining} lanes not read to their end, and nothing in {SILENCE_LIMIT:?}"
                ));
            }
            let message = match consumer.poll(Duration::from_millis(200)) {
                None if silence > SILENCE_BEFORE_ASKING => {
                    remaining -= self.expire_what_went(&consumer, &ends)?;
                    continue;
                }
                None => continue,
                Some(Err(error)) if is_passing(&error) => continue,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(message)) => message,
            };
            last_record = Instant::now();
            let found = self
                .lanes
                .iter()
                .position(|l| l.topic == message.topic() && l.partition == message.partition());
            let Some(index) = found else {
                return Err("a record of an unknown lane".into());
            };
            let was_done = self.progress[index].next_offset >= ends[index];
            self.on_record(index, message.offset(), message.payload(), books, verdict);
            if !was_done && self.progress[index].next_offset >= ends[index] {
                remaining -= 1;
            }
        }
        Ok(())
    }

    fn end_offsets(
        &mut self,
        consumer: &BaseConsumer,
        verdict: &mut Verdict,
    ) -> Result<Vec<i64>, String> {
        let mut ends = Vec::with_capacity(self.lanes.len());
        for (lane, progress) in self.lanes.iter().zip(&mut self.progress) {
            let (start, end) = watermarks(consumer, lane)?;
            if start < progress.start_offset || (start != 0 && !lane.is_expiring) {
                verdict.violations.push(format!(
                    "{}: log start offset is {start}, was {}",
                    name(lane),
                    progress.start_offset
                ));
            }
            if end < progress.next_offset {
                verdict.violations.push(format!(
                    "LOST {}: was read up to {}, ends now at {end}",
                    name(lane),
                    progress.next_offset
                ));
            }
            if lane.is_expiring {
                progress.expire(start);
            }
            ends.push(end);
        }
        Ok(ends)
    }

    /// Looks again where expiring lanes begin; how many of them are read to their end by that.
    fn expire_what_went(&mut self, consumer: &BaseConsumer, ends: &[i64]) -> Result<usize, String> {
        let mut ended = 0;
        for (index, lane) in self.lanes.iter().enumerate() {
            let progress = &mut self.progress[index];
            if lane.is_expiring && progress.next_offset < ends[index] {
                progress.expire(watermarks(consumer, lane)?.0);
                ended += usize::from(progress.next_offset >= ends[index]);
            }
        }
        Ok(ended)
    }

    fn on_record(
        &mut self,
        index: usize,
        offset: i64,
        payload: Option<&[u8]>,
        books: &[&Ledger],
        verdict: &mut Verdict,
    ) {
        let lane = name(&self.lanes[index]);
        let progress = &mut self.progress[index];
        let before = verdict.violations.len();
        if self.lanes[index].is_expiring && offset > progress.next_offset {
            progress.expire(offset);
        }
        if offset != progress.next_offset {
            let expected = progress.next_offset;
            verdict
                .violations
                .push(format!("{lane}: offset {offset} where {expected} is next"));
        }
        progress.next_offset = offset + 1;
        match payload.and_then(record::parse) {
            None => verdict
                .violations
                .push(format!("DAMAGED {lane}: record at {offset}")),
            Some(id) => check_identity(id, index, offset, progress, books, verdict, &lane),
        }
        if verdict.violations.len() == before {
            verdict.verified += 1;
        } else {
            verdict.violations.truncate(VIOLATIONS_MAX);
        }
    }
}

fn check_identity(
    id: RecordId,
    index: usize,
    offset: i64,
    progress: &mut Progress,
    books: &[&Ledger],
    verdict: &mut Verdict,
    lane: &str,
) {
    let RecordId {
        producer, sequence, ..
    } = id;
    let known = usize::try_from(producer)
        .ok()
        .filter(|&number| number < books.len());
    let Some(number) = known else {
        verdict
            .violations
            .push(format!("{lane}: unknown producer {producer} at {offset}"));
        return;
    };
    if id.lane != index_u32(index) {
        verdict
            .violations
            .push(format!("MISPLACED {lane}: {id:?} at {offset}"));
        return;
    }
    if sequence >= books[number].sent_of(index) {
        verdict
            .violations
            .push(format!("NEVER SENT {lane}: {id:?} at {offset}"));
        return;
    }
    let next = progress.next_sequences[number];
    let expected = next.value;
    if sequence < expected {
        verdict.violations.push(format!(
            "TWICE {lane}: {id:?} at {offset}, {expected} is next"
        ));
        return;
    }
    if sequence > expected && !next.is_least {
        verdict.violations.push(format!(
            "GAP {lane}: {id:?} at {offset}, {expected} is next"
        ));
    }
    progress.next_sequences[number] = NextSequence {
        value: sequence + 1,
        is_least: false,
    };
    if let Some(acked) = books[number]
        .acked_offset(index, sequence)
        .filter(|&at| at != offset)
    {
        verdict.violations.push(format!(
            "MOVED {lane}: {id:?} at {offset}, was acked at {acked}"
        ));
    }
}

/// First and next offset of a lane.
fn watermarks(consumer: &BaseConsumer, lane: &Lane) -> Result<(i64, i64), String> {
    consumer
        .fetch_watermarks(&lane.topic, lane.partition, ASK_LIMIT)
        .map_err(|error| format!("watermarks of {}: {error}", name(lane)))
}

fn name(lane: &Lane) -> String {
    format!("{}-{}", lane.topic, lane.partition)
}

/// Errors that the client library reports while it reconnects.
fn is_passing(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut)
    )
}

//! Reads every lane back and compares it with the producers' books.
//!
//! Runs on: the main thread.        Owner: `main`.
//! Promises: each record is whole, in its own lane, and per producer the sequences are 0, 1, 2, ...
//! without a gap or a repetition; every acknowledged one is there, at the offset that its
//! acknowledgement named; what a reader once saw never changes.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::ledger::Ledger;
use crate::producer::{Lane, index_u32};
use crate::record::{self, RecordId};

const READ_DEADLINE: Duration = Duration::from_mins(2);
/// Sentences kept for one check: the first ones tell the story.
const VIOLATIONS_MAX: usize = 20;

/// What has been read so far of one lane.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Next offset to read.
    next_offset: i64,
    /// Next expected sequence of each producer.
    next_sequences: Vec<u64>,
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
    /// What is wrong, as sentences; empty when all is well.
    pub(crate) violations: Vec<String>,
}

impl Verifier {
    pub(crate) fn new(bootstrap: &str, lanes: &[Lane], producer_count: usize) -> Self {
        let start = Progress {
            next_offset: 0,
            next_sequences: vec![0; producer_count],
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
                let read = progress.next_sequences[producer];
                if read < acked {
                    verdict.violations.push(format!(
                        "LOST {}: producer {producer} has {acked} acknowledged, {read} are there",
                        name(&self.lanes[index])
                    ));
                }
            }
        }
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
            .set("auto.offset.reset", "error")
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
        let deadline = Instant::now() + READ_DEADLINE;
        while remaining > 0 {
            if Instant::now() > deadline {
                return Err(format!(
                    "{remaining} lanes not read to their end in {READ_DEADLINE:?}"
                ));
            }
            let message = match consumer.poll(Duration::from_millis(200)) {
                None => continue,
                Some(Err(error)) if is_passing(&error) => continue,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(message)) => message,
            };
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
        &self,
        consumer: &BaseConsumer,
        verdict: &mut Verdict,
    ) -> Result<Vec<i64>, String> {
        let mut ends = Vec::with_capacity(self.lanes.len());
        for (lane, progress) in self.lanes.iter().zip(&self.progress) {
            let (start, end) = consumer
                .fetch_watermarks(&lane.topic, lane.partition, Duration::from_secs(20))
                .map_err(|error| format!("watermarks of {}: {error}", name(lane)))?;
            if start != 0 {
                verdict
                    .violations
                    .push(format!("{}: log start offset is {start}", name(lane)));
            }
            if end < progress.next_offset {
                verdict.violations.push(format!(
                    "LOST {}: was read up to {}, ends now at {end}",
                    name(lane),
                    progress.next_offset
                ));
            }
            ends.push(end);
        }
        Ok(ends)
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
    let expected = progress.next_sequences[number];
    if sequence < expected {
        verdict.violations.push(format!(
            "TWICE {lane}: {id:?} at {offset}, {expected} is next"
        ));
        return;
    }
    if sequence > expected {
        verdict.violations.push(format!(
            "GAP {lane}: {id:?} at {offset}, {expected} is next"
        ));
    }
    progress.next_sequences[number] = sequence + 1;
    if let Some(acked) = books[number]
        .acked_offset(index, sequence)
        .filter(|&at| at != offset)
    {
        verdict.violations.push(format!(
            "MOVED {lane}: {id:?} at {offset}, was acked at {acked}"
        ));
    }
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

//! One idempotent acks=all producer on a thread of its own, alive over all kills.
//!
//! Runs on: a thread of its own.        Owner: `main`.
//! Promises: records of one lane are sent in sequence; the client library retries them over a
//! restart, so that a broker that forgets its producer state shows as duplicates or as an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::ledger::Ledger;
use crate::record::{self, RecordId};

/// Records that one producer keeps unacknowledged.
const IN_FLIGHT_MAX: u64 = 2_000;
const LANE_SHIFT: u32 = 48;

/// A topic-partition of the load.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Its oldest segments are deleted as new records come.
    pub(crate) is_expiring: bool,
}

/// Handle of a running producer.
pub(crate) struct LoadProducer {
    pub(crate) ledger: Arc<Ledger>,
    is_paused: Arc<AtomicBool>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Context {
    ledger: Arc<Ledger>,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {
        // a broker that is killed on purpose is no news
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.ledger
                .on_violation(format!("the idempotent producer gave up: {reason}"));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let lane = opaque >> LANE_SHIFT;
        let sequence = u64::try_from(opaque & ((1 << LANE_SHIFT) - 1)).expect("usize fits u64");
        match result {
            Ok(message) => self.ledger.on_acked(lane, sequence, message.offset()),
            Err((error, _)) => self
                .ledger
                .on_violation(format!("lane {lane}: sequence {sequence} failed: {error}")),
        }
    }
}

impl LoadProducer {
    /// Starts producer `number` over all `lanes`.
    pub(crate) fn start(
        number: u32,
        bootstrap: &str,
        lanes: &[Lane],
        compression: &str,
    ) -> Result<Self, KafkaError> {
        let ledger = Arc::new(Ledger::new(lanes.len()));
        let producer: BaseProducer<Context> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("client.id", format!("crash-{number}"))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", compression)
            .set("linger.ms", "2")
            .set("batch.num.messages", "50")
            .set("message.timeout.ms", "600000")
            .set("request.timeout.ms", "10000")
            .set("reconnect.backoff.max.ms", "250")
            .set("retry.backoff.ms", "20")
            .create_with_context(Context {
                ledger: Arc::clone(&ledger),
            })?;
        let is_paused = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (ledger, lanes) = (Arc::clone(&ledger), lanes.to_vec());
            let (is_paused, is_stopped) = (Arc::clone(&is_paused), Arc::clone(&is_stopped));
            move || run(number, &producer, &ledger, &lanes, &is_paused, &is_stopped)
        });
        Ok(Self {
            ledger,
            is_paused,
            is_stopped,
            thread: Some(thread),
        })
    }

    pub(crate) fn pause(&self) {
        self.is_paused.store(true, Ordering::SeqCst);
    }

    pub(crate) fn resume(&self) {
        self.is_paused.store(false, Ordering::SeqCst);
    }
}

impl Drop for LoadProducer {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // a panic there has been printed; the books show what is missing
            let _ = thread.join();
        }
    }
}

fn run(
    number: u32,
    producer: &BaseProducer<Context>,
    ledger: &Ledger,
    lanes: &[Lane],
    is_paused: &AtomicBool,
    is_stopped: &AtomicBool,
) {
    let mut payload = Vec::new();
    let mut turn = 0;
    while !is_stopped.load(Ordering::SeqCst) {
        if is_paused.load(Ordering::SeqCst) || ledger.in_flight() >= IN_FLIGHT_MAX {
            producer.poll(Duration::from_millis(5));
            continue;
        }
        // a run of 25 records for a lane, then the next one: full and partial batches both occur
        let lane = (turn / 25) % lanes.len();
        turn += 1;
        let sequence = ledger.next_sequence(lane);
        let id = RecordId {
            producer: number,
            lane: index_u32(lane),
            sequence,
        };
        record::encode(id, &mut payload);
        let opaque = (lane << LANE_SHIFT) | usize::try_from(sequence).expect("64-bit machine");
        let record: BaseRecord<'_, (), Vec<u8>, usize> =
            BaseRecord::with_opaque_to(&lanes[lane].topic, opaque)
                .partition(lanes[lane].partition)
                .payload(&payload);
        // entered first: the answer can come before send() returns
        ledger.on_sent(lane);
        if let Err((error, _)) = producer.send(record) {
            ledger.on_violation(format!(
                "lane {lane}: sequence {sequence} not queued: {error}"
            ));
            return;
        }
        if turn % 25 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    // what is in flight at the end of a run is dropped with the client
    producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
}

/// Lanes are few.
pub(crate) fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("few lanes")
}

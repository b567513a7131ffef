//! Topics that come and go all the while, with a few records each.
//!
//! Runs on: a thread of its own; checks on the main thread.        Owner: `main`.
//! Promises: a topic whose creation was acknowledged is there with the records that were
//! acknowledged in it, one whose deletion was acknowledged is gone for good.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::ledger::locked;
use crate::topics::block_on;

const PARTITIONS: i32 = 2;
const RECORDS: u32 = 20;
/// Topics that stand before the oldest goes.
const STANDING: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// What is known of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its creation or deletion was sent and not acknowledged: it may be there or not.
    Open,
    /// Its creation was acknowledged, and so many records of its first partition.
    There { acked: u32 },
    /// Its deletion was acknowledged.
    Gone,
}

type Fates = Arc<Mutex<BTreeMap<String, Fate>>>;

/// The running churn.
pub(crate) struct ChurnLoad {
    bootstrap: String,
    fates: Fates,
    is_paused: Arc<AtomicBool>,
    is_idle: Arc<AtomicBool>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Counts acknowledgements, says nothing.
#[derive(Clone, Default)]
struct Quiet {
    acked: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {
        // a broker that is killed on purpose is no news
    }

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        use rdkafka::message::Message as _;
        if let Ok(message) = result {
            let mut acked = locked(&self.acked);
            *acked.entry(message.topic().to_owned()).or_default() += 1;
        }
    }
}

impl ChurnLoad {
    /// Starts it.
    pub(crate) fn start(bootstrap: &str) -> Result<Self, KafkaError> {
        let base = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("reconnect.backoff.max.ms", "250")
            .clone();
        let counts = Quiet::default();
        let worker = Worker {
            admin: base.create_with_context(counts.clone())?,
            producer: base
                .clone()
                .set("acks", "all")
                .set("message.timeout.ms", "3000")
                .create_with_context(counts.clone())?,
            counts,
            fates: Fates::default(),
        };
        let fates = Arc::clone(&worker.fates);
        let is_paused = Arc::new(AtomicBool::new(true));
        let is_idle = Arc::new(AtomicBool::new(true));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (is_paused, is_idle) = (Arc::clone(&is_paused), Arc::clone(&is_idle));
            let is_stopped = Arc::clone(&is_stopped);
            move || worker.run(&is_paused, &is_idle, &is_stopped)
        });
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            fates,
            is_paused,
            is_idle,
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

    /// Nothing that it sent waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::SeqCst)
    }

    /// How many topics were created, and how many of those deleted, with an acknowledgement.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let fates = locked(&self.fates);
        let gone = fates.values().filter(|fate| **fate == Fate::Gone).count();
        let open = fates.values().filter(|fate| **fate == Fate::Open).count();
        (fates.len() - open, gone)
    }

    /// What is wrong, as sentences. Nothing may wait for an answer.
    pub(crate) fn check(&self) -> Vec<String> {
        match self.try_check() {
            Ok(violations) => violations,
            Err(error) => vec![format!("topics that come and go: {error}")],
        }
    }

    fn try_check(&self) -> Result<Vec<String>, KafkaError> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()?;
        let metadata = client.fetch_metadata(None, ASK_LIMIT)?;
        let mut violations = Vec::new();
        for (name, fate) in locked(&self.fates).iter_mut() {
            let found = metadata.topics().iter().find(|topic| topic.name() == name);
            match (*fate, found) {
                (Fate::Gone, Some(_)) => {
                    violations.push(format!("CAME BACK {name}: its deletion was acknowledged"));
                }
                (Fate::There { .. }, None) => {
                    violations.push(format!("LOST {name}: its creation was acknowledged"));
                }
                (Fate::There { acked }, Some(_)) => {
                    let (_, end) = client.fetch_watermarks(name, 0, ASK_LIMIT)?;
                    if end < i64::from(acked) {
                        violations.push(format!("LOST {name}-0: {acked} acked, {end} are there"));
                    }
                }
                (Fate::Open, Some(_)) => *fate = Fate::There { acked: 0 },
                (Fate::Open, None) => *fate = Fate::Gone,
                (Fate::Gone, None) => {}
            }
        }
        Ok(violations)
    }
}

impl Drop for ChurnLoad {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // a panic there has been printed
            let _ = thread.join();
        }
    }
}

struct Worker {
    admin: AdminClient<Quiet>,
    producer: ThreadedProducer<Quiet>,
    counts: Quiet,
    fates: Fates,
}

impl Worker {
    fn run(&self, is_paused: &AtomicBool, is_idle: &AtomicBool, is_stopped: &AtomicBool) {
        for number in 0.. {
            while is_paused.load(Ordering::SeqCst) && !is_stopped.load(Ordering::SeqCst) {
                is_idle.store(true, Ordering::SeqCst);
                std::thread::sleep(PAUSE);
            }
            is_idle.store(false, Ordering::SeqCst);
            if is_stopped.load(Ordering::SeqCst) {
                return;
            }
            // padded, so that the names' order is their age
            let name = format!("crash-churn-{number:08}");
            self.create(&name);
            let oldest = {
                let fates = locked(&self.fates);
                let mut there = fates
                    .iter()
                    .filter(|(_, fate)| matches!(fate, Fate::There { .. }));
                let oldest = there.next().map(|(name, _)| name.clone());
                oldest.filter(|_| there.count() >= STANDING)
            };
            if let Some(oldest) = oldest {
                self.delete(&oldest);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn create(&self, name: &str) {
        self.enter(name, Fate::Open);
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        let created = block_on(self.admin.create_topics([&topic], &options()));
        if !is_done(created, RDKafkaErrorCode::TopicAlreadyExists) {
            return;
        }
        self.enter(name, Fate::There { acked: 0 });
        for _ in 0..RECORDS {
            let record: BaseRecord<'_, (), [u8]> =
                BaseRecord::to(name).partition(0).payload(b"comes and goes");
            if self.producer.send(record).is_err() {
                break;
            }
        }
        // what is not acknowledged by then is not counted
        let _ = self.producer.flush(ANSWER_LIMIT);
        let acked = locked(&self.counts.acked).remove(name).unwrap_or(0);
        self.enter(name, Fate::There { acked });
    }

    fn delete(&self, name: &str) {
        self.enter(name, Fate::Open);
        let deleted = block_on(self.admin.delete_topics(&[name], &options()));
        if is_done(deleted, RDKafkaErrorCode::UnknownTopicOrPartition) {
            self.enter(name, Fate::Gone);
        }
    }

    fn enter(&self, name: &str, fate: Fate) {
        locked(&self.fates).insert(name.to_owned(), fate);
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_LIMIT))
        .operation_timeout(Some(ANSWER_LIMIT))
}

/// Whether the one topic is as it was asked for, by this request or by an earlier one of which
/// the client library did not get the answer.
fn is_done(
    answer: Result<Vec<rdkafka::admin::TopicResult>, KafkaError>,
    already: RDKafkaErrorCode,
) -> bool {
    answer.is_ok_and(|results| {
        results.iter().all(|result| match result {
            Ok(_) => true,
            Err((_, code)) => *code == already,
        })
    })
}

//! A consumer group that reads and commits all the while, over every kill.
//!
//! Runs on: a thread for each member; checks on the main thread.        Owner: `main`.
//! Promises: what was committed never goes back, and a record that a member has seen is the one
//! that its producer is told of, at the same offset, however the broker ended in between.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use crate::ledger::{Ledger, locked};
use crate::producer::Lane;
use crate::record::{self, RecordId};
use crate::topics::GROUP_TOPICS;

const GROUP: &str = "crash-group";
const MEMBERS: usize = 2;
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
const LEAVE_LIMIT: Duration = Duration::from_secs(10);
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// A record that a member saw before its producer was told of it.
type Sight = (usize, i64, RecordId);

#[derive(Debug)]
struct Books {
    /// Per lane, the highest offset whose commit was acknowledged.
    committed: Mutex<Vec<i64>>,
    unconfirmed: Mutex<Vec<Sight>>,
    seen: AtomicU64,
    commits: AtomicU64,
    violations: Mutex<Vec<String>>,
}

/// The running group.
pub(crate) struct GroupLoad {
    bootstrap: String,
    lanes: Vec<Lane>,
    books: Arc<Books>,
    is_stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {
        // a broker that is killed on purpose is no news
    }

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ConsumerContext for Quiet {}

fn client(bootstrap: &str) -> KafkaResult<BaseConsumer<Quiet>> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        // a member that the crash made lose its id is waited for that long, shorter than a cycle
        .set("session.timeout.ms", "1500")
        .set("heartbeat.interval.ms", "300")
        .set("check.crcs", "true")
        .set("reconnect.backoff.max.ms", "250")
        .create_with_context(Quiet)
}

fn lane(lanes: &[Lane], topic: &str, partition: i32) -> Option<usize> {
    let mut lanes = lanes.iter();
    lanes.position(|lane| lane.topic == topic && lane.partition == partition)
}

impl GroupLoad {
    /// Starts the members; they read the lanes of `GROUP_TOPICS`.
    pub(crate) fn start(
        bootstrap: &str,
        lanes: &[Lane],
        ledgers: &[Arc<Ledger>],
    ) -> KafkaResult<Self> {
        let books = Arc::new(Books {
            committed: Mutex::new(vec![-1; lanes.len()]),
            unconfirmed: Mutex::default(),
            seen: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            violations: Mutex::default(),
        });
        let is_stopped = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..MEMBERS {
            let consumer = client(bootstrap)?;
            consumer.subscribe(&GROUP_TOPICS)?;
            let member = Member {
                consumer,
                lanes: lanes.to_vec(),
                ledgers: ledgers.to_vec(),
                books: Arc::clone(&books),
            };
            let is_stopped = Arc::clone(&is_stopped);
            threads.push(std::thread::spawn(move || member.run(&is_stopped)));
        }
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            lanes: lanes.to_vec(),
            books,
            is_stopped,
            threads,
        })
    }

    /// Records that members were given so far.
    pub(crate) fn seen(&self) -> u64 {
        self.books.seen.load(Ordering::SeqCst)
    }

    /// Commits that were acknowledged so far.
    pub(crate) fn commits(&self) -> u64 {
        self.books.commits.load(Ordering::SeqCst)
    }

    /// What is wrong, as sentences. Every producer has been told of all it sent.
    pub(crate) fn check(&self, ledgers: &[Arc<Ledger>]) -> Vec<String> {
        let mut violations = std::mem::take(&mut *locked(&self.books.violations));
        for sight in std::mem::take(&mut *locked(&self.books.unconfirmed)) {
            violations.extend(contradiction(ledgers, sight));
        }
        match self.committed_now() {
            Ok((acknowledged, now)) => {
                for (lane, (acknowledged, now)) in acknowledged.into_iter().zip(now).enumerate() {
                    if now < acknowledged {
                        let lane = &self.lanes[lane];
                        violations.push(format!(
                            "GROUP WENT BACK {}-{}: {acknowledged} was committed, now it is {now}",
                            lane.topic, lane.partition
                        ));
                    }
                }
            }
            Err(error) => violations.push(format!("committed offsets: {error}")),
        }
        violations
    }

    /// Per lane: what was acknowledged before, and what the broker says after that.
    fn committed_now(&self) -> KafkaResult<(Vec<i64>, Vec<i64>)> {
        let acknowledged = locked(&self.books.committed).clone();
        let mut wanted = TopicPartitionList::new();
        for lane in &self.lanes {
            wanted.add_partition(&lane.topic, lane.partition);
        }
        let found = client(&self.bootstrap)?.committed_offsets(wanted, ASK_LIMIT)?;
        let now = self.lanes.iter().map(|lane| {
            let found = found.find_partition(&lane.topic, lane.partition);
            match found.map(|found| found.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => -1,
            }
        });
        Ok((acknowledged, now.collect()))
    }
}

impl Drop for GroupLoad {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // a member waits for the answer to its commit, for ever where the broker is gone
        let started = Instant::now();
        while started.elapsed() < LEAVE_LIMIT && !self.threads.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Member {
    consumer: BaseConsumer<Quiet>,
    lanes: Vec<Lane>,
    ledgers: Vec<Arc<Ledger>>,
    books: Arc<Books>,
}

impl Member {
    fn run(&self, is_stopped: &AtomicBool) {
        let mut last_commit = Instant::now();
        while !is_stopped.load(Ordering::SeqCst) {
            // errors come while the broker is away; the client library goes on by itself
            if let Some(Ok(message)) = self.consumer.poll(COMMIT_INTERVAL) {
                let lane = lane(&self.lanes, message.topic(), message.partition());
                match (lane, message.payload().and_then(record::parse)) {
                    (Some(lane), Some(id)) => self.on_record(lane, message.offset(), id),
                    _ => self.violation(format!(
                        "DAMAGED {}-{}: a member of the group was given {} so",
                        message.topic(),
                        message.partition(),
                        message.offset()
                    )),
                }
            }
            if last_commit.elapsed() >= COMMIT_INTERVAL {
                self.commit();
                last_commit = Instant::now();
            }
        }
    }

    fn on_record(&self, lane: usize, offset: i64, id: RecordId) {
        self.books.seen.fetch_add(1, Ordering::SeqCst);
        let sight = (lane, offset, id);
        if acked_offset(&self.ledgers, sight).is_none() {
            locked(&self.books.unconfirmed).push(sight);
        } else if let Some(violation) = contradiction(&self.ledgers, sight) {
            self.violation(violation);
        }
    }

    /// Commits how far this member got, and waits for the answer.
    fn commit(&self) {
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        let mut reached = TopicPartitionList::new();
        for element in positions.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let (topic, partition) = (element.topic(), element.partition());
                // an element of the client's own list fits another one
                let _ = reached.add_partition_offset(topic, partition, Offset::Offset(offset));
            }
        }
        // fails while the broker is away; the next one says it all again
        if reached.count() == 0 || self.consumer.commit(&reached, CommitMode::Sync).is_err() {
            return;
        }
        self.books.commits.fetch_add(1, Ordering::SeqCst);
        let mut committed = locked(&self.books.committed);
        for element in reached.elements() {
            let lane = lane(&self.lanes, element.topic(), element.partition());
            if let (Some(lane), Offset::Offset(offset)) = (lane, element.offset()) {
                committed[lane] = committed[lane].max(offset);
            }
        }
    }

    fn violation(&self, sentence: String) {
        locked(&self.books.violations).push(sentence);
    }
}

fn acked_offset(ledgers: &[Arc<Ledger>], (lane, _, id): Sight) -> Option<i64> {
    let producer = usize::try_from(id.producer).ok()?;
    ledgers.get(producer)?.acked_offset(lane, id.sequence)
}

/// That a member saw the record elsewhere than its producer was told, if it did.
fn contradiction(ledgers: &[Arc<Ledger>], sight: Sight) -> Option<String> {
    let (lane, offset, id) = sight;
    let acked = acked_offset(ledgers, sight)?;
    (acked != offset || usize::try_from(id.lane) != Ok(lane)).then(|| {
        format!("TAKEN BACK lane {lane}: {id:?} was seen at {offset}, and acked at {acked}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_comes_again_elsewhere_was_taken_back() {
        let ledger = Arc::new(Ledger::new(1));
        ledger.on_sent(0);
        ledger.on_acked(0, 0, 7);
        let ledgers = [ledger];
        let sight = |offset| {
            let id = RecordId {
                producer: 0,
                lane: 0,
                sequence: 0,
            };
            (0, offset, id)
        };
        assert_eq!(contradiction(&ledgers, sight(7)), None);
        let said = contradiction(&ledgers, sight(6)).unwrap();
        assert!(said.starts_with("TAKEN BACK lane 0"), "{said}");
    }
}

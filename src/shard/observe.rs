//! What this shard shows: gauges kept fresh, metrics and health for the admin port.
//!
//! Runs on: its shard, `Lane::Background`.

use std::rc::Rc;
use std::time::Duration;

use crate::model::ids::TopicPartition;
use crate::partition::reads::OffsetQuestion;
use crate::rt::{self, executor};
use crate::shard::calls::{ShardCall, ShardReply, Unserved};
use crate::shard::shard::Shard;
use crate::telemetry::exposition::{self, BrokerFacts};
use crate::telemetry::metrics::{ConsumerLag, ShardSnapshot};
use crate::telemetry::names::{Counter, Gauge, Pool};

/// How often quantiles move on to a new window.
const ROTATE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the lag of consumers is looked up.
const LAG_INTERVAL: Duration = Duration::from_secs(15);
/// Committed offsets shown at most, of each shard.
const LAGS_MAX: usize = 10_000;

/// Rotates the windows of the summaries and refreshes consumer lags until the task is cancelled.
pub(crate) async fn run(shard: Rc<Shard>) {
    let mut rotated = rt::now();
    loop {
        rt::sleep(LAG_INTERVAL).await;
        if rotated.elapsed() >= ROTATE_INTERVAL {
            shard.metrics.rotate();
            rotated = rt::now();
        }
        let lags = consumer_lags(&shard).await;
        shard.metrics.set_consumer_lags(lags);
    }
}

/// How far each group coordinated here is behind, on whichever shards its partitions are.
async fn consumer_lags(shard: &Rc<Shard>) -> Vec<ConsumerLag> {
    let image = shard.image();
    let (mut lags, mut questions) = (Vec::new(), Vec::new());
    shard.for_each_committed(|group, topic, index, offset| {
        let Some(partition) = image.topic(topic).and_then(|topic| topic.partition(index)) else {
            return;
        };
        if lags.len() < LAGS_MAX {
            questions.push(OffsetQuestion::latest(partition));
            lags.push(ConsumerLag {
                group: group.to_owned(),
                topic: topic.to_owned(),
                partition: index,
                lag: u64::try_from(offset).unwrap_or(0),
            });
        }
    });
    let ends = shard.offsets(questions).await;
    for (lag, end) in lags.iter_mut().zip(ends) {
        let end = end.map_or(0, |end| u64::try_from(end.offset).unwrap_or(0));
        lag.lag = end.saturating_sub(lag.lag);
    }
    lags
}

/// Whether the broker does its work.
#[derive(Debug, Default)]
pub struct Health {
    /// Why it does not, a line for each shard that complains.
    pub complaints: Vec<String>,
    /// Partitions that are not served, or not whole; all others are.
    pub unserved: Unserved,
}

impl Shard {
    /// A partition's name as people know it.
    pub(crate) fn name(&self, id: TopicPartition) -> String {
        let image = self.image();
        let topic = image
            .topic_by_id(id.topic)
            .map_or_else(|| id.topic.to_string(), |topic| topic.name.to_string());
        format!("{topic}-{}", id.partition.0)
    }

    /// This shard's metrics, gauges brought up to date.
    pub(crate) fn metrics_here(&self) -> ShardSnapshot {
        let metrics = &self.metrics;
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        metrics.set(Gauge::Partitions, count(self.partitions.count()));
        let capacity = self.journal.capacity();
        metrics.set(Gauge::JournalCapacityBytes, capacity);
        metrics.set(Gauge::JournalUsedBytes, self.journal_used(capacity));
        metrics.set(Gauge::OpenFiles, count(self.logs.open_file_count()));
        metrics.set(Gauge::Producers, count(self.logs.producer_count()));
        let waiting = self.logs.reclaim().waiting_bytes();
        metrics.set(Gauge::DeletedWaitingBytes, waiting);
        metrics.set(Gauge::DiskFull, u64::from(self.storage.is_full()));
        let offline = self.partitions.offline_count();
        metrics.set(Gauge::OfflinePartitions, count(offline));
        let damaged = self.partitions.damaged_count();
        metrics.set(Gauge::DamagedPartitions, count(damaged));
        let stalls = executor::stalls();
        metrics.set_counter(Counter::LoopStalls, stalls.stalls);
        metrics.set_counter(Counter::LoopStallMicros, micros(stalls.stalled));
        metrics.set(Gauge::LoopLongestMicros, micros(stalls.longest));
        let ((produce, control), pools) = (self.budget.used(), &self.settings().pools);
        metrics.set_pool(Pool::Request, count(produce + control), pools.request_bytes);
        metrics.set_pool(
            Pool::Response,
            count(self.budget.used_by_responses()),
            pools.response_bytes,
        );
        let journal = self.journal.stats();
        metrics.set_counter(Counter::Commits, journal.blocks);
        metrics.set_counter(Counter::JournalBytes, journal.written_bytes);
        let most = count(journal.writes_in_flight_max);
        metrics.set(Gauge::JournalWritesInFlightMax, most);
        let (groups, rebalances) = self.group_counts();
        metrics.set(Gauge::Groups, count(groups));
        metrics.set_counter(Counter::Rebalances, rebalances);
        let (used, limit) = rt::io_buf::usage();
        metrics.set_pool(Pool::Disk, count(used), count(limit));
        let tail = self.logs.tail_budget();
        metrics.set_pool(
            Pool::Tail,
            count(tail.used_bytes()),
            count(tail.limit_bytes()),
        );
        metrics.snapshot()
    }

    fn journal_used(&self, capacity: u64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a size far below 2^52, for people to look at"
        )]
        let used = (self.journal.fill().clamp(0.0, 1.0) * capacity as f64) as u64;
        used
    }

    /// The metrics of all shards as Prometheus text.
    pub async fn metrics_text(self: &Rc<Self>) -> String {
        let mut shards = Vec::new();
        for id in self.shard_ids() {
            if id == self.id() {
                shards.push(self.metrics_here());
            } else if let Some(ShardReply::Metrics(there)) = self.call(id, ShardCall::Metrics).await
            {
                shards.push(*there);
            }
        }
        let facts = BrokerFacts {
            node_id: self.config().node_id,
            cluster_id: self.cluster_id().to_owned(),
            uptime_seconds: self.uptime().as_secs(),
        };
        exposition::render(&facts, &shards)
    }

    /// What keeps the broker from being healthy, and how many partitions are offline.
    pub async fn health(self: &Rc<Self>) -> Health {
        let mut health = Health::default();
        for id in self.shard_ids() {
            let (complaint, unserved) = if id == self.id() {
                self.health_here()
            } else {
                match self.call(id, ShardCall::Health).await {
                    Some(ShardReply::Health(complaint, unserved)) => (complaint, unserved),
                    _ => (Some("does not answer".to_owned()), Unserved::default()),
                }
            };
            health.unserved.offline += unserved.offline;
            health.unserved.damaged += unserved.damaged;
            let complaint = complaint.map(|complaint| format!("shard {id}: {complaint}"));
            health.complaints.extend(complaint);
        }
        health
    }

    /// Why this shard cannot write, if it cannot, and how many of its partitions are not served.
    pub(crate) fn health_here(&self) -> (Option<String>, Unserved) {
        let unserved = Unserved {
            offline: self.partitions.offline_count(),
            damaged: self.partitions.damaged_count(),
        };
        (self.storage.complaint(), unserved)
    }

    /// Bytes of the data directory's file system: all, free.
    pub(crate) async fn disk_space(&self) -> (i64, i64) {
        let directory = self.data_dir().to_owned();
        let space = rt::blocking("disk-space", move || {
            let total = rt::machine::total_disk(&directory).unwrap_or(0);
            (total, rt::machine::free_disk(&directory).unwrap_or(0))
        })
        .await;
        let signed = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        (signed(space.0), signed(space.1))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

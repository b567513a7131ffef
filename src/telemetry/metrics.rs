//! A shard's metrics: cells that its own thread writes, and the snapshot that a scrape takes.
//!
//! Runs on: the shard that owns it.        Owner: the shard's thread.
//! Promises: an update is a few instructions on memory of this core: no lock, no atomic, no
//! allocation once an API has been used. A snapshot is owned and `Send`; it travels to whoever
//! renders.
//!
//! Every executor thread has one instance, reached by [`local`], so that layers below the shard can
//! count without a handle being passed down. A thread that no shard claimed counts for shard 0.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::model::ids::ShardId;
use crate::telemetry::distribution::Distribution;
use crate::telemetry::names::{Counter, Gauge, Pool, Summary};

thread_local! {
    static LOCAL: RefCell<Rc<ShardMetrics>> = RefCell::new(Rc::new(ShardMetrics::new(ShardId(0))));
}

/// The metrics of the shard that this thread runs.
pub fn local() -> Rc<ShardMetrics> {
    LOCAL.with(|local| Rc::clone(&local.borrow()))
}

/// Makes this thread count for `shard`, from zero; called once when a shard starts.
pub fn start_shard(shard: ShardId) -> Rc<ShardMetrics> {
    let metrics = Rc::new(ShardMetrics::new(shard));
    LOCAL.with(|local| local.replace(Rc::clone(&metrics)));
    metrics
}

/// The cells of one shard.
#[derive(Debug)]
pub struct ShardMetrics {
    shard: ShardId,
    counters: [Cell<u64>; Counter::COUNT],
    gauges: [Cell<u64>; Gauge::COUNT],
    pools: [Cell<(u64, u64)>; Pool::COUNT],
    summaries: RefCell<[Distribution; Summary::COUNT]>,
    apis: RefCell<Vec<ApiMetrics>>,
    consumer_lags: RefCell<Vec<ConsumerLag>>,
}

/// What one API has done on one shard.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// Kafka's name of the API.
    pub name: &'static str,
    /// Requests answered with an error on the whole request.
    pub errors: u64,
    /// Microseconds from a request's last byte to its answer; its count is the number of requests.
    pub latency: Distribution,
}

/// How far a group is behind on one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerLag {
    /// The group.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// High watermark minus committed offset.
    pub lag: u64,
}

/// A shard's metrics at one moment.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// Whose.
    pub shard: ShardId,
    /// By `Counter::index`.
    pub counters: [u64; Counter::COUNT],
    /// By `Gauge::index`.
    pub gauges: [u64; Gauge::COUNT],
    /// By `Pool::index`: bytes used, bytes allowed.
    pub pools: [(u64, u64); Pool::COUNT],
    /// By `Summary::index`.
    pub summaries: [Distribution; Summary::COUNT],
    /// In order of first use.
    pub apis: Vec<ApiMetrics>,
    /// Of the groups coordinated on this shard.
    pub consumer_lags: Vec<ConsumerLag>,
}

#[expect(
    clippy::indexing_slicing,
    reason = "the tables are as long as their enums, and index() is the enum's own number"
)]
impl ShardMetrics {
    /// All zero.
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            counters: [const { Cell::new(0) }; Counter::COUNT],
            gauges: [const { Cell::new(0) }; Gauge::COUNT],
            pools: [const { Cell::new((0, 0)) }; Pool::COUNT],
            summaries: RefCell::new(std::array::from_fn(|_| Distribution::new())),
            apis: RefCell::new(Vec::new()),
            consumer_lags: RefCell::new(Vec::new()),
        }
    }

    /// Whose metrics these are.
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// Counts `amount` more.
    pub fn add(&self, counter: Counter, amount: u64) {
        let cell = &self.counters[counter.index()];
        cell.set(cell.get().wrapping_add(amount));
    }

    /// Counts one more.
    pub fn increment(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Takes over a counter that is kept elsewhere.
    pub fn set_counter(&self, counter: Counter, value: u64) {
        self.counters[counter.index()].set(value);
    }

    /// The counter's value.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter.index()].get()
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.gauges[gauge.index()].set(value);
    }

    /// Raises a gauge.
    pub fn raise(&self, gauge: Gauge, amount: u64) {
        let cell = &self.gauges[gauge.index()];
        cell.set(cell.get().saturating_add(amount));
    }

    /// Lowers a gauge, to zero at most.
    pub fn lower(&self, gauge: Gauge, amount: u64) {
        let cell = &self.gauges[gauge.index()];
        cell.set(cell.get().saturating_sub(amount));
    }

    /// Raises a gauge to `value` if it is below.
    pub fn raise_to(&self, gauge: Gauge, value: u64) {
        let cell = &self.gauges[gauge.index()];
        cell.set(cell.get().max(value));
    }

    /// The gauge's value.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge.index()].get()
    }

    /// Sets what a memory pool uses and may use.
    pub fn set_pool(&self, pool: Pool, used_bytes: u64, limit_bytes: u64) {
        self.pools[pool.index()].set((used_bytes, limit_bytes));
    }

    /// Records a size or a count.
    pub fn observe(&self, summary: Summary, value: u64) {
        self.summaries.borrow_mut()[summary.index()].record(value);
    }

    /// Records a time.
    pub fn observe_time(&self, summary: Summary, time: Duration) {
        self.observe(summary, micros(time));
    }

    /// Records a request of an API, from its last byte to its answer.
    pub fn observe_request(&self, api: &'static str, latency: Duration, is_error: bool) {
        let mut apis = self.apis.borrow_mut();
        let place = apis
            .iter()
            .position(|known| known.name == api)
            .unwrap_or_else(|| {
                apis.push(ApiMetrics {
                    name: api,
                    errors: 0,
                    latency: Distribution::new(),
                });
                apis.len() - 1
            });
        let metrics = &mut apis[place];
        metrics.latency.record(micros(latency));
        metrics.errors += u64::from(is_error);
    }

    /// Replaces what is known about the lag of this shard's groups.
    pub fn set_consumer_lags(&self, lags: Vec<ConsumerLag>) {
        self.consumer_lags.replace(lags);
    }

    /// Starts the next window of all quantiles; called once a minute.
    pub fn rotate(&self) {
        self.summaries
            .borrow_mut()
            .iter_mut()
            .for_each(Distribution::rotate);
        self.apis
            .borrow_mut()
            .iter_mut()
            .for_each(|api| api.latency.rotate());
    }

    /// Everything at this moment, to be sent elsewhere.
    pub fn snapshot(&self) -> ShardSnapshot {
        ShardSnapshot {
            shard: self.shard,
            counters: std::array::from_fn(|index| self.counters[index].get()),
            gauges: std::array::from_fn(|index| self.gauges[index].get()),
            pools: std::array::from_fn(|index| self.pools[index].get()),
            summaries: self.summaries.borrow().clone(),
            apis: self.apis.borrow().clone(),
            consumer_lags: self.consumer_lags.borrow().clone(),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl ShardSnapshot {
    /// All shards as one: sums, maxima where a sum says nothing, merged values.
    pub fn total(shards: &[Self]) -> Self {
        let mut total = ShardMetrics::new(ShardId(0)).snapshot();
        for shard in shards {
            total.merge(shard);
        }
        total
    }

    fn merge(&mut self, other: &Self) {
        for (sum, value) in self.counters.iter_mut().zip(other.counters) {
            *sum = sum.wrapping_add(value);
        }
        for ((gauge, sum), value) in Gauge::ALL.iter().zip(&mut self.gauges).zip(other.gauges) {
            *sum = if gauge.is_maximum() {
                value.max(*sum)
            } else {
                sum.saturating_add(value)
            };
        }
        for (sum, value) in self.pools.iter_mut().zip(other.pools) {
            *sum = (sum.0.saturating_add(value.0), sum.1.saturating_add(value.1));
        }
        for (merged, values) in self.summaries.iter_mut().zip(&other.summaries) {
            merged.merge(values);
        }
        for api in &other.apis {
            match self.apis.iter_mut().find(|known| known.name == api.name) {
                Some(known) => {
                    known.errors += api.errors;
                    known.latency.merge(&api.latency);
                }
                None => self.apis.push(api.clone()),
            }
        }
        self.consumer_lags.extend_from_slice(&other.consumer_lags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_except_where_the_maximum_tells() {
        let (one, two) = (ShardMetrics::new(ShardId(0)), ShardMetrics::new(ShardId(1)));
        for (shard, amount) in [(&one, 3), (&two, 4)] {
            shard.add(Counter::Commits, amount);
            shard.set(Gauge::Connections, amount);
            shard.raise_to(Gauge::LoopLongestMicros, amount);
            shard.set_pool(Pool::Tail, amount, 10);
            shard.observe_request("Fetch", Duration::from_micros(amount), amount == 4);
        }
        let total = ShardSnapshot::total(&[one.snapshot(), two.snapshot()]);
        assert_eq!(total.counters.get(Counter::Commits.index()), Some(&7));
        assert_eq!(total.gauges.get(Gauge::Connections.index()), Some(&7));
        assert_eq!(total.gauges.get(Gauge::LoopLongestMicros.index()), Some(&4));
        assert_eq!(total.pools.get(Pool::Tail.index()), Some(&(7, 20)));
        let [api] = total.apis.as_slice() else {
            panic!("one API")
        };
        assert_eq!((api.latency.count(), api.errors), (2, 1));
    }

    #[test]
    fn gauges_do_not_go_below_zero() {
        let metrics = ShardMetrics::new(ShardId(0));
        metrics.raise(Gauge::Connections, 1);
        metrics.lower(Gauge::Connections, 2);
        assert_eq!(metrics.gauge(Gauge::Connections), 0);
    }

    #[test]
    fn a_thread_counts_for_the_shard_it_started() {
        let started = start_shard(ShardId(7));
        local().increment(Counter::Commits);
        assert_eq!(started.counter(Counter::Commits), 1);
        assert_eq!(local().shard(), ShardId(7));
    }
}

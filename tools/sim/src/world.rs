//! What all clients of one seed share, and what outlives the broker: the checkers' knowledge.
//!
//! Runs on: the simulation's thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use corelog::rt;
use corelog::rt::sim::Rng;

use crate::checkers::groups::Generations;
use crate::checkers::offsets::GroupOffsets;
use crate::checkers::records::{Expiry, Known, PartitionRecords};
use crate::wire::Connection;

/// Where the broker listens.
pub(crate) const BROKER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9092);

/// Topics that are there for good, and their partitions.
pub(crate) const TOPICS: [(&str, i32); 3] = [("orders", 3), ("events", 2), (TRAIL, 1)];

/// The topic of which old records expire, by size and by time.
pub(crate) const TRAIL: &str = "trail";

/// Its settings.
pub(crate) const TRAIL_CONFIGS: [(&str, &str); 3] = [
    ("retention.bytes", "131072"),
    ("retention.ms", "3600000"),
    ("segment.bytes", "32768"),
];

/// What stays of it, whatever its size, as long as it is not old.
const TRAIL_BYTES: i64 = 128 << 10;
/// Its records are old from here on.
const TRAIL_AGE_MS: i64 = 3_600_000;

/// The wall clock goes so far from the true time at most: nothing but `TRAIL` gets old by it, not
/// even what is known of a producer, which is kept for a day.
pub(crate) const CLOCK_REACH_MS: i64 = 10 * 3_600_000;

/// The topic that comes and goes.
pub(crate) const CHURN: &str = "churn";

/// Producers below this number are idempotent.
pub(crate) const IDEMPOTENT: u32 = 100;

/// Whether a producer's records have one place each.
pub(crate) fn is_idempotent(producer: u32) -> bool {
    producer < IDEMPOTENT
}

/// A partition that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) topic: &'static str,
    pub(crate) partition: i32,
    /// Which topic of that name.
    pub(crate) incarnation: u32,
}

impl Place {
    /// The partitions of the topics that are there for good.
    pub(crate) fn all() -> Vec<Self> {
        let of = |(topic, count)| {
            (0..count).map(move |partition| Self {
                topic,
                partition,
                incarnation: 0,
            })
        };
        TOPICS.into_iter().flat_map(of).collect()
    }

    /// Those of them of which nothing goes unless it is asked for.
    pub(crate) fn lasting() -> Vec<Self> {
        let mut places = Self::all();
        places.retain(|place| place.topic != TRAIL);
        places
    }
}

/// How often things happened that a run must have seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By name.
    pub counts: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts once more.
    pub fn add(&mut self, what: &str, count: u64) {
        *self.counts.entry(what.to_owned()).or_default() += count;
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            self.add(what, *count);
        }
    }
}

/// What the clients choose by: of the seed, and apart from the machine's own choices.
pub(crate) const fn clients_rng(seed: u64) -> Rng {
    Rng::new(seed ^ 0x5EED_0FC1_1E41_75AA)
}

/// See the top of the file.
pub(crate) struct World {
    pub(crate) rng: RefCell<Rng>,
    records: RefCell<BTreeMap<Place, PartitionRecords>>,
    pub(crate) offsets: RefCell<BTreeMap<&'static str, GroupOffsets>>,
    pub(crate) generations: RefCell<Generations>,
    pub(crate) tally: RefCell<Tally>,
    operations: Cell<u64>,
    producer_ids: RefCell<BTreeSet<i64>>,
    /// Number of the broker that runs.
    pub(crate) life: Cell<u32>,
    /// What the wall clock is ahead of the true time.
    pub(crate) wall_offset_ms: Cell<i64>,
    latest_ms: Cell<i64>,
    number: Cell<i64>,
    is_over: Cell<bool>,
    has_topics: Cell<bool>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: RefCell::new(clients_rng(seed)),
            records: RefCell::default(),
            offsets: RefCell::default(),
            generations: RefCell::default(),
            tally: RefCell::default(),
            operations: Cell::new(0),
            producer_ids: RefCell::default(),
            life: Cell::new(0),
            wall_offset_ms: Cell::new(0),
            latest_ms: Cell::new(0),
            number: Cell::new(0),
            is_over: Cell::new(false),
            has_topics: Cell::new(false),
        }
    }

    /// Client operations that were answered so far.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// One more, of a kind.
    pub(crate) fn count(&self, what: &'static str) {
        self.operations.set(self.operations.get() + 1);
        self.tally.borrow_mut().add(what, 1);
    }

    /// A number higher than those before.
    pub(crate) fn next_number(&self) -> i64 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    /// A producer got its id.
    pub(crate) fn on_producer_id(&self, id: i64) {
        let is_new = self.producer_ids.borrow_mut().insert(id);
        assert!(
            is_new,
            "[producer-id-once] {id} is given to a second producer"
        );
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    pub(crate) fn chance(&self, n: u64) -> bool {
        self.rng.borrow_mut().chance(n)
    }

    pub(crate) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.rng.borrow_mut().index(choices.len())]
    }

    /// Clients end when they see this.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    pub(crate) fn set_over(&self, is_over: bool) {
        self.is_over.set(is_over);
    }

    /// The topics that are there for good were created: from now on they are there.
    pub(crate) fn on_topics(&self) {
        self.has_topics.set(true);
    }

    /// The partition's checker.
    pub(crate) fn with<R>(&self, place: Place, f: impl FnOnce(&mut PartitionRecords) -> R) -> R {
        let mut records = self.records.borrow_mut();
        let Place {
            topic, partition, ..
        } = place;
        f(records.entry(place).or_insert_with(|| {
            let expiry = (topic == TRAIL).then_some(Expiry {
                kept_bytes: TRAIL_BYTES,
                age_ms: TRAIL_AGE_MS,
            });
            PartitionRecords::new(format!("{topic}-{partition}"), expiry)
        }))
    }

    /// A group's committed offsets.
    pub(crate) fn with_offsets<R>(
        &self,
        group: &'static str,
        f: impl FnOnce(&mut GroupOffsets) -> R,
    ) -> R {
        f(self.offsets.borrow_mut().entry(group).or_default())
    }

    /// An answer told of a partition's bounds; `known` is from before its request was sent.
    pub(crate) fn on_bounds(&self, place: Place, known: Known, end: i64, log_start: i64) {
        self.see_clock();
        let latest_ms = self.latest_ms.get();
        self.with(place, |records| {
            records.on_time(latest_ms);
            records.on_bounds(known, end, Some(log_start));
        });
    }

    /// Remembers the latest time that the wall clock has shown.
    pub(crate) fn see_clock(&self) {
        self.latest_ms.set(self.latest_ms.get().max(rt::unix_ms()));
    }

    /// The wall clock was set.
    pub(crate) fn on_clock(&self, by_ms: i64) {
        self.wall_offset_ms.set(self.wall_offset_ms.get() + by_ms);
        self.tally.borrow_mut().add("clock set", 1);
    }

    pub(crate) fn known(&self, place: Place) -> Known {
        self.with(place, |records| records.known())
    }

    /// Records acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        let records = self.records.borrow();
        records.values().map(PartitionRecords::acknowledged).sum()
    }

    /// How often records went by themselves so far.
    pub(crate) fn expired(&self) -> u64 {
        let records = self.records.borrow();
        records.values().map(PartitionRecords::expired).sum()
    }

    /// A connection, as soon as there are topics to use it for; `None` when it is over.
    pub(crate) async fn connect(&self) -> Option<Connection> {
        while !self.has_topics.get() {
            self.pause().await;
        }
        self.connect_anyway().await
    }

    /// A connection, as soon as the broker accepts one; `None` when it is over.
    pub(crate) async fn connect_anyway(&self) -> Option<Connection> {
        while !self.is_over() {
            if let Ok(connection) = Connection::open(BROKER).await {
                return Some(connection);
            }
            self.pause().await;
        }
        None
    }

    /// A little while before something is tried again.
    pub(crate) async fn pause(&self) {
        let millis = 5 + self.below(60);
        rt::sleep(Duration::from_millis(millis)).await;
    }
}

/// An answer says that the request was refused.
pub(crate) fn refused(code: i16) -> io::Error {
    io::Error::other(format!("error code {code}"))
}

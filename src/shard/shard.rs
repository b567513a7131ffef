//! The shard: what one core owns, how it starts and stops, where its calls go.
//!
//! Runs on: its own pinned executor.      Owner: the shard's main task.      Pure: no.
//! Promises: a call for a partition at home here is a plain await; for any other it is one message
//! to the home shard and one back. Nothing here is shared with another thread.
//! Start: partitions open -> mesh connected -> appender, completer, destager, retention run ->
//! ready.
//! Stop: no new appends -> everything accepted is durable -> segments closed as plain Kafka
//! directories -> checkpoint.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::controller::{self, ConfigUpdate, NewTopic, Refusal};
use crate::cluster::metadata::{Image, Topic};
use crate::cluster::metadata_log::MetadataLog;
use crate::config::BrokerConfig;
use crate::config::machine::ShardSettings;
use crate::journal::Journal;
use crate::log::context::LogContext;
use crate::log::error as log;
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicPartition;
use crate::model::ids::{ShardId, TopicId};
use crate::model::offset::Offset;
use crate::partition::error::Error;
use crate::partition::partition::Appended;
use crate::partition::reads::{
    Available, EpochQuestion, FetchPart, Fetched, OffsetAnswer, OffsetQuestion,
};
use crate::rt::sync::{Notify, Semaphore, oneshot};
use crate::rt::{self, Instant, Lane};
use crate::shard::addresses::Addresses;
use crate::shard::appends::{Appends, Source};
use crate::shard::background::Changed;
use crate::shard::budget::Budget;
use crate::shard::calls::{
    AppendPart, ControlCall, ControlReply, PartitionSize, PartitionsChange, ShardCall, ShardReply,
};
use crate::shard::control::{self, Controller, PRODUCER_ID_BLOCK};
use crate::shard::groups::Groups;
use crate::shard::mesh::{Peer, Pending};
use crate::shard::partitions::Partitions;
use crate::shard::reads::Waits;
use crate::shard::reserve::Reserve;
use crate::shard::routing;
use crate::shard::storage::Storage;
use crate::telemetry::metrics::ShardMetrics;
use crate::telemetry::names::Gauge;
use crate::telemetry::throttle::Throttle;

/// What every shard of this process has in common; read only.
#[derive(Debug)]
pub struct Process {
    /// Names the cluster; made at the first start.
    pub cluster_id: String,
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// The settings as started.
    pub config: BrokerConfig,
    /// Sizes of one shard, from settings and machine.
    pub settings: ShardSettings,
    /// Number of shards.
    pub shard_count: u16,
    /// Partitions that the start-up found damaged, and how.
    pub offline: BTreeMap<TopicPartition, log::Error>,
    /// Directories of deleted partitions that the start-up found.
    pub set_aside: Vec<PathBuf>,
}

/// One core's part of the broker.
pub struct Shard {
    id: ShardId,
    process: Arc<Process>,
    image: RefCell<Arc<Image>>,
    config: RefCell<Rc<BrokerConfig>>,
    pub(crate) partitions: Partitions,
    pub(crate) journal: Journal,
    pub(crate) logs: Rc<LogContext>,
    pub(crate) storage: Storage,
    pub(crate) reserve: Reserve,
    pub(crate) changed: Changed,
    pub(crate) appends: Appends,
    pub(crate) groups: Groups,
    /// Memory of requests.
    pub budget: Budget,
    /// Counters of this shard.
    pub metrics: Rc<ShardMetrics>,
    pub(crate) waits: Waits,
    pub(crate) addresses: Addresses,
    /// Lines about connections that were refused or closed.
    pub connection_lines: Throttle,
    /// Told when settings were altered.
    pub(crate) settings_changed: Notify,
    peers: RefCell<Vec<Option<Rc<Peer>>>>,
    controller: Option<Controller>,
    producer_ids: RefCell<Range<i64>>,
    producer_ids_turn: Semaphore,
    is_stopping: Cell<bool>,
    opened: Instant,
}

/// What a shard is made of before its mesh is connected.
pub(crate) struct Parts {
    pub(crate) id: ShardId,
    pub(crate) process: Arc<Process>,
    pub(crate) image: Arc<Image>,
    pub(crate) journal: Journal,
    pub(crate) logs: Rc<LogContext>,
    pub(crate) metrics: Rc<ShardMetrics>,
    /// On shard 0 only.
    pub(crate) metadata_log: Option<MetadataLog>,
}

impl Shard {
    pub(crate) fn new(parts: Parts) -> Rc<Self> {
        let pools = parts.process.settings.pools;
        Rc::new(Self {
            id: parts.id,
            config: RefCell::new(Rc::new(parts.process.config.clone())),
            image: RefCell::new(parts.image),
            partitions: Partitions::new(),
            journal: parts.journal,
            logs: parts.logs,
            storage: Storage::new(),
            reserve: Reserve::new(&parts.process.data_dir),
            changed: Changed::default(),
            appends: Appends::new(),
            groups: Groups::default(),
            budget: Budget::new(&pools),
            metrics: parts.metrics,
            waits: Waits::default(),
            addresses: Addresses::default(),
            connection_lines: Throttle::default(),
            settings_changed: Notify::new(),
            peers: RefCell::new(Vec::new()),
            controller: parts.metadata_log.map(Controller::new),
            producer_ids: RefCell::new(0..0),
            producer_ids_turn: Semaphore::new(1),
            is_stopping: Cell::new(false),
            opened: rt::now(),
            process: parts.process,
        })
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The settings in force, dynamic ones included.
    pub fn config(&self) -> Rc<BrokerConfig> {
        self.config.borrow().clone()
    }

    /// Names the cluster.
    pub fn cluster_id(&self) -> &str {
        &self.process.cluster_id
    }

    /// Where everything lies.
    pub fn data_dir(&self) -> &Path {
        &self.process.data_dir
    }

    /// Sizes of this shard.
    pub fn settings(&self) -> &ShardSettings {
        &self.process.settings
    }

    /// The newest image this shard knows.
    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Whether the broker is going down: nothing new is accepted.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.get()
    }

    pub(crate) fn controller(&self) -> Option<&Controller> {
        self.controller.as_ref()
    }

    /// Requests of clients that were read and are not answered yet.
    pub(crate) fn requests_in_flight(&self) -> u64 {
        self.metrics.gauge(Gauge::InFlightRequests)
    }

    /// Time since the shard was opened.
    pub(crate) fn uptime(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Whether one more line about a connection may be written now; if so, how many were left out
    /// since the last one.
    pub(crate) fn may_tell_of_connection(&self) -> Option<u64> {
        self.connection_lines.admit(self.uptime().as_secs())
    }

    /// Number of shards of this process.
    pub fn shard_count(&self) -> u16 {
        self.process.shard_count
    }

    /// Why the start-up left a partition offline, if it did.
    pub(crate) fn recovered_offline(&self, id: TopicPartition) -> Option<&log::Error> {
        self.process.offline.get(&id)
    }

    /// Directories of deleted partitions that the start-up found.
    pub(crate) fn set_aside(&self) -> &[PathBuf] {
        &self.process.set_aside
    }

    pub(crate) fn home(&self, partition: TopicPartition) -> ShardId {
        routing::home(partition, self.process.shard_count)
    }

    pub(crate) fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.process.shard_count).map(ShardId)
    }

    pub(crate) fn set_peers(&self, peers: Vec<Option<Rc<Peer>>>) {
        *self.peers.borrow_mut() = peers;
    }

    /// Puts an image in force, with the dynamic settings it brings.
    pub(crate) fn set_image(&self, image: Arc<Image>) {
        match controller::altered(&self.process.config, image.broker_overrides()) {
            Ok(config) => {
                *self.config.borrow_mut() = Rc::new(config);
                self.settings_changed.notify_all();
            }
            Err(error) => tracing::error!(%error, "the dynamic settings stay as they were"),
        }
        *self.image.borrow_mut() = image;
    }

    /// Accepts nothing new from now on, and answers the fetches that wait.
    pub fn begin_stop(&self) {
        self.is_stopping.set(true);
        for partition in self.partitions.all() {
            partition.wake_fetches();
        }
    }

    // ------------------------------------------------------------------ calls to other shards

    /// Sends a call to another shard; calls of one task arrive in the order sent.
    pub(crate) async fn send(&self, to: ShardId, call: ShardCall) -> Pending {
        let peer = self.peers.borrow()[usize::from(to.0)].clone();
        peer.expect("calls for this very shard are awaited directly")
            .send(call)
            .await
    }

    pub(crate) async fn call(&self, to: ShardId, call: ShardCall) -> Option<ShardReply> {
        self.send(to, call).await.reply().await
    }

    /// Sends the appends of one request to their home shards, in order, and returns how to wait for
    /// the outcomes. Awaits only room in the mesh: when this returns, every batch has its place in
    /// its home shard's order.
    ///
    /// Cancel: not safe between its first await and its return; the connection never does.
    pub async fn append(self: &Rc<Self>, parts: Vec<AppendPart>) -> PendingAppends {
        let mut sent = Vec::new();
        for (home, indexes, parts) in self.by_home(parts, |part| part.partition) {
            let outcomes = if home == self.id {
                HomeOutcomes::Here(self.appends.submit(parts, Source::Producer))
            } else {
                HomeOutcomes::There(self.send(home, ShardCall::Append(parts)).await)
            };
            sent.push((indexes, outcomes));
        }
        PendingAppends(sent)
    }

    /// What each partition of a fetch has, in the order asked.
    pub async fn fetch_sizes(&self, parts: Vec<FetchPart>) -> Vec<Result<Available, Error>> {
        self.scatter(
            parts,
            |part| part.partition,
            |parts| std::future::ready(self.sizes_here(&parts)),
            ShardCall::FetchSizes,
            |reply| {
                if let ShardReply::FetchSizes(sizes) = reply {
                    Some(sizes)
                } else {
                    None
                }
            },
        )
        .await
    }

    /// Reads, in the order asked.
    pub async fn read(&self, parts: Vec<FetchPart>) -> Vec<Result<Fetched, Error>> {
        self.scatter(
            parts,
            |part| part.partition,
            |parts| self.read_here(parts),
            ShardCall::Read,
            |reply| {
                if let ShardReply::Read(fetched) = reply {
                    Some(fetched)
                } else {
                    None
                }
            },
        )
        .await
    }

    /// ListOffsets, in the order asked.
    pub async fn offsets(&self, asked: Vec<OffsetQuestion>) -> Vec<Result<OffsetAnswer, Error>> {
        self.scatter(
            asked,
            |question| question.partition,
            |asked| self.offsets_here(asked),
            ShardCall::Offsets,
            |reply| {
                if let ShardReply::Offsets(answers) = reply {
                    Some(answers)
                } else {
                    None
                }
            },
        )
        .await
    }

    /// Ends of leader epochs, in the order asked.
    pub async fn epoch_ends(&self, asked: Vec<EpochQuestion>) -> Vec<Result<(i32, i64), Error>> {
        self.scatter(
            asked,
            |question| question.partition,
            |asked| std::future::ready(self.epoch_ends_here(&asked)),
            ShardCall::EpochEnds,
            |reply| {
                if let ShardReply::EpochEnds(ends) = reply {
                    Some(ends)
                } else {
                    None
                }
            },
        )
        .await
    }

    /// Moves log starts; durable when this returns. Outcomes in the order asked.
    pub async fn delete_records(
        self: &Rc<Self>,
        asked: Vec<(TopicPartition, i64)>,
    ) -> Vec<Result<Offset, Error>> {
        self.scatter(
            asked,
            |(partition, _)| *partition,
            |asked| self.delete_records_here(asked),
            ShardCall::DeleteRecords,
            |reply| {
                if let ShardReply::LogStarts(starts) = reply {
                    Some(starts)
                } else {
                    None
                }
            },
        )
        .await
    }

    /// Sizes of all partitions of the broker.
    pub async fn sizes(&self) -> Vec<PartitionSize> {
        let mut sizes = Vec::new();
        for id in self.shard_ids() {
            if id == self.id {
                sizes.extend(self.partition_sizes_here());
            } else if let Some(ShardReply::Sizes(there)) = self.call(id, ShardCall::Sizes).await {
                sizes.extend(there);
            }
        }
        sizes
    }

    /// Makes `image` the one in force on every shard; returns when it is.
    pub(crate) async fn publish(self: &Rc<Self>, image: Arc<Image>) {
        let mut pending = Vec::new();
        for id in self.shard_ids().filter(|id| *id != self.id) {
            pending.push(self.send(id, ShardCall::Publish(image.clone())).await);
        }
        self.apply_image(image).await;
        for reply in pending {
            reply.reply().await;
        }
    }

    // ------------------------------------------------------------------ calls to the controller

    async fn control(self: &Rc<Self>, call: ControlCall) -> Option<ControlReply> {
        if self.id != ShardId(0) {
            return match self.call(ShardId(0), ShardCall::Control(call)).await {
                Some(ShardReply::Control(reply)) => Some(reply),
                _ => None,
            };
        }
        // A task of its own: a change that has begun is carried out though its asker disconnects.
        let (done, outcome) = oneshot::oneshot();
        let shard = self.clone();
        rt::spawn(Lane::Network, "control", async move {
            drop(done.send(control::carry_out(&shard, call).await));
        })
        .detach();
        outcome.await.ok()
    }

    async fn outcomes(
        self: &Rc<Self>,
        call: ControlCall,
        count: usize,
    ) -> Vec<Result<(), Refusal>> {
        match self.control(call).await {
            Some(ControlReply::Outcomes(outcomes)) => outcomes,
            _ => vec![Err(stopping()); count],
        }
    }

    /// Creates topics, each on its own; durable and known to every shard when this returns.
    pub async fn create_topics(
        self: &Rc<Self>,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<Arc<Topic>, Refusal>> {
        let count = topics.len();
        match self
            .control(ControlCall::CreateTopics {
                topics,
                validate_only,
            })
            .await
        {
            Some(ControlReply::Topics(outcomes)) => outcomes,
            _ => vec![Err(stopping()); count],
        }
    }

    /// Deletes topics by id.
    pub async fn delete_topics(self: &Rc<Self>, ids: Vec<TopicId>) -> Vec<Result<(), Refusal>> {
        let count = ids.len();
        self.outcomes(ControlCall::DeleteTopics(ids), count).await
    }

    /// Adds partitions.
    pub async fn create_partitions(
        self: &Rc<Self>,
        changes: Vec<PartitionsChange>,
        validate_only: bool,
    ) -> Vec<Result<(), Refusal>> {
        let count = changes.len();
        self.outcomes(
            ControlCall::CreatePartitions {
                changes,
                validate_only,
            },
            count,
        )
        .await
    }

    /// Changes the overrides of one topic.
    pub async fn configure_topic(
        self: &Rc<Self>,
        topic: String,
        update: ConfigUpdate,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let changes = vec![(topic, update)];
        let call = ControlCall::ConfigureTopics {
            changes,
            validate_only,
        };
        self.outcomes(call, 1)
            .await
            .pop()
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Changes the dynamic settings of the broker.
    pub async fn configure_broker(
        self: &Rc<Self>,
        update: ConfigUpdate,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let call = ControlCall::ConfigureBroker {
            update,
            validate_only,
        };
        self.outcomes(call, 1)
            .await
            .pop()
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Changes the settings of a group.
    pub async fn configure_group(
        self: &Rc<Self>,
        group: String,
        update: ConfigUpdate,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let call = ControlCall::ConfigureGroup {
            group,
            update,
            validate_only,
        };
        self.outcomes(call, 1)
            .await
            .pop()
            .unwrap_or_else(|| Err(stopping()))
    }

    /// A producer id that was never given out and never will be again.
    pub async fn next_producer_id(self: &Rc<Self>) -> Result<i64, ErrorCode> {
        let _turn = self.producer_ids_turn.acquire(1).await;
        if self.producer_ids.borrow().is_empty() {
            let first = match self.control(ControlCall::ReserveProducerIds).await {
                Some(ControlReply::ProducerIds(Ok(first))) => first,
                Some(ControlReply::ProducerIds(Err(why))) => return Err(why.code),
                _ => return Err(ErrorCode::CoordinatorNotAvailable),
            };
            *self.producer_ids.borrow_mut() = first..first + PRODUCER_ID_BLOCK;
        }
        let next = self.producer_ids.borrow_mut().next();
        next.ok_or(ErrorCode::UnknownServerError)
    }

    // ------------------------------------------------------------------ scatter and gather

    /// Splits items by home shard, keeping their order within each; with the indexes they had.
    pub(crate) fn by_home<T>(
        &self,
        items: Vec<T>,
        partition: impl Fn(&T) -> TopicPartition,
    ) -> Vec<(ShardId, Vec<usize>, Vec<T>)> {
        let mut split: Vec<(ShardId, Vec<usize>, Vec<T>)> = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let home = self.home(partition(&item));
            match split.iter_mut().find(|(id, ..)| *id == home) {
                Some((_, indexes, items)) => {
                    indexes.push(index);
                    items.push(item);
                }
                None => split.push((home, vec![index], vec![item])),
            }
        }
        split
    }

    /// Asks every home shard for its items and puts the answers back in the order asked. The other
    /// shards work while this one does.
    async fn scatter<Q, A, F>(
        &self,
        items: Vec<Q>,
        partition: impl Fn(&Q) -> TopicPartition,
        here: impl Fn(Vec<Q>) -> F,
        call: impl Fn(Vec<Q>) -> ShardCall,
        answers: impl Fn(ShardReply) -> Option<Vec<Result<A, Error>>>,
    ) -> Vec<Result<A, Error>>
    where
        F: Future<Output = Vec<Result<A, Error>>>,
    {
        let mut gathered: Vec<Option<Result<A, Error>>> = Vec::new();
        gathered.resize_with(items.len(), || None);
        let mut mine = None;
        let mut theirs = Vec::new();
        for (home, indexes, items) in self.by_home(items, partition) {
            if home == self.id {
                mine = Some((indexes, items));
            } else {
                theirs.push((indexes, self.send(home, call(items)).await));
            }
        }
        if let Some((indexes, items)) = mine {
            for (index, answer) in indexes.into_iter().zip(here(items).await) {
                gathered[index] = Some(answer);
            }
        }
        for (indexes, pending) in theirs {
            let there = pending.reply().await.and_then(&answers).unwrap_or_default();
            for (index, answer) in indexes.into_iter().zip(there) {
                gathered[index] = Some(answer);
            }
        }
        gathered
            .into_iter()
            .map(|answer| answer.unwrap_or(Err(Error::Stopping)))
            .collect()
    }
}

fn stopping() -> Refusal {
    Refusal::new(ErrorCode::NotController, "The broker is stopping.")
}

enum HomeOutcomes {
    Here(Vec<oneshot::Receiver<Result<Appended, Error>>>),
    There(Pending),
}

/// Appends on their way; each has its place in its partition's order already.
pub struct PendingAppends(Vec<(Vec<usize>, HomeOutcomes)>);

impl PendingAppends {
    /// Outcomes in the order of the parts, when all are durable or refused.
    ///
    /// Cancel: safe; what was accepted is appended all the same.
    pub async fn outcomes(self) -> Vec<Result<Appended, Error>> {
        let count = self.0.iter().map(|(indexes, _)| indexes.len()).sum();
        let mut gathered = vec![Err(Error::Stopping); count];
        for (indexes, home) in self.0 {
            match home {
                HomeOutcomes::Here(waiting) => {
                    for (index, outcome) in indexes.into_iter().zip(waiting) {
                        gathered[index] = outcome.await.unwrap_or(Err(Error::Stopping));
                    }
                }
                HomeOutcomes::There(pending) => {
                    if let Some(ShardReply::Appended(outcomes)) = pending.reply().await {
                        for (index, outcome) in indexes.into_iter().zip(outcomes) {
                            gathered[index] = outcome;
                        }
                    }
                }
            }
        }
        gathered
    }
}

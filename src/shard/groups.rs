//! The group coordinator of this shard and the log it keeps: partitions of `__consumer_offsets`.
//!
//! Runs on: the home shard of those partitions.      Owner: `Shard`.
//! Promises: a group is served by the home shard of its offsets partition and by no other; what the
//! coordinator appends goes the way of every append and is told durable by the journal.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::cluster::controller::NewTopic;
use crate::cluster::metadata::{Image, Topic};
use crate::config::BrokerConfig;
use crate::group::coordinator::GroupCoordinator;
use crate::group::input_barrier::InputBarrier;
use crate::group::offsets_log::{LocalFuture, OffsetsLog, OffsetsLogError, ReadChunk};
use crate::group::requests::{GroupReply, GroupRequest};
use crate::group::settings::GroupSettings;
use crate::log::log::NewBatch;
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};
use crate::model::java_hash;
use crate::model::offset::Offset;
use crate::model::topic_name::OFFSETS_TOPIC;
use crate::partition::error::Error;
use crate::partition::partition::Partition;
use crate::rt::{self, Lane};
use crate::shard::appends::Source;
use crate::shard::calls::{AppendPart, ShardCall, ShardReply};
use crate::shard::shard::Shard;

/// Groups may make a shard remember this part of `memory.per.shard`, beside it.
const GROUPS_MEMORY_DIVISOR: u64 = 8;

/// Bytes that a load reads at a time.
const READ_SIZE_BYTES: usize = 1 << 20;

/// The coordinator, once the shard runs, and the partitions it has.
#[derive(Default)]
pub(crate) struct Groups {
    coordinator: OnceCell<GroupCoordinator>,
    loaded: RefCell<Loaded>,
}

/// What the coordinator has loaded, and of which topic: one that is deleted and made anew has
/// nothing to do with the old one.
#[derive(Default)]
struct Loaded {
    topic: Option<TopicId>,
    partitions: BTreeSet<i32>,
}

impl Shard {
    /// Makes the coordinator and lets it load the offsets partitions at home here.
    pub(crate) fn start_groups(self: &Rc<Self>) {
        let state_bytes_max = self.settings().memory_bytes / GROUPS_MEMORY_DIVISOR;
        let log_bytes_min = self.settings().offsets_log_bytes_min;
        let settings = GroupSettings {
            rewrite_log_bytes_min: log_bytes_min,
            ..group_settings(&self.config(), state_bytes_max)
        };
        let log: Rc<dyn OffsetsLog> = Rc::new(ShardOffsets(Rc::downgrade(self)));
        let barrier: Rc<dyn InputBarrier> = Rc::new(ShardBarrier(Rc::downgrade(self)));
        let coordinator = GroupCoordinator::new(settings, log, barrier);
        assert!(
            self.groups.coordinator.set(coordinator).is_ok(),
            "a shard starts once"
        );
        self.load_groups(&self.image());
    }

    /// Loads offsets partitions that have come to this shard with `image`, in tasks of their own:
    /// until then their groups are told that loading is in progress.
    pub(crate) fn load_groups(self: &Rc<Self>, image: &Image) {
        let Some(coordinator) = self.groups.coordinator.get() else {
            return;
        };
        let topic = image.topic(OFFSETS_TOPIC);
        let mut loaded = self.groups.loaded.borrow_mut();
        if loaded.topic != topic.map(|topic| topic.id) {
            for index in std::mem::take(&mut loaded.partitions) {
                coordinator.unload(index);
            }
            loaded.topic = topic.map(|topic| topic.id);
            if let Some(topic) = topic {
                coordinator.set_partition_count(topic.partition_count);
            }
        }
        let Some(topic) = topic else { return };
        for id in topic.partitions().filter(|id| self.home(*id) == self.id()) {
            let index = id.partition.0;
            if loaded.partitions.insert(index) {
                let (loading, shard) = (coordinator.load(index), self.clone());
                let topic = topic.id;
                rt::spawn(Lane::Read, "group-load", async move {
                    // it logs errors; the next image, or the end of a full disk, tries again
                    let is_loaded = loading.await.is_ok();
                    let mut loaded = shard.groups.loaded.borrow_mut();
                    if !is_loaded && loaded.topic == Some(topic) {
                        loaded.partitions.remove(&index);
                    }
                })
                .detach();
            }
        }
    }

    /// Groups coordinated here, and rebalances that they have completed since the start.
    pub(crate) fn group_counts(&self) -> (usize, u64) {
        let stats = self.groups.coordinator.get().map(GroupCoordinator::stats);
        stats.map_or((0, 0), |stats| (stats.groups, stats.rebalances))
    }

    /// Every committed offset of the groups coordinated here: group, topic, partition, offset.
    pub(crate) fn for_each_committed(&self, visit: impl FnMut(&str, &str, i32, i64)) {
        if let Some(coordinator) = self.groups.coordinator.get() {
            coordinator.for_each_committed(visit);
        }
    }

    /// Committed offsets of deleted topics go too, whichever shards had their partitions. A topic
    /// that was made anew under the same name begins without any.
    pub(crate) fn forget_deleted_topics(&self, before: &Image, after: &Image) {
        let gone = |topic: &&Arc<Topic>| after.topic_by_id(topic.id).is_none();
        let names = before.topics().filter(gone).map(|t| t.name.to_string());
        let names: BTreeSet<String> = names.collect();
        if names.is_empty() {
            return;
        }
        let Some(coordinator) = self.groups.coordinator.get().cloned() else {
            return;
        };
        rt::spawn(Lane::Background, "group-forget", async move {
            coordinator.forget_topics(|name| names.contains(name)).await;
        })
        .detach();
    }

    pub(crate) async fn close_groups(&self) {
        if let Some(coordinator) = self.groups.coordinator.get() {
            coordinator.close().await;
        }
    }

    /// A request for a coordinator: its home shard, which is that of the group's partition of
    /// `__consumer_offsets`. The topic is made at the first request. `None`: the shard is going
    /// down.
    pub async fn group(self: &Rc<Self>, request: GroupRequest) -> Option<GroupReply> {
        let topic = self.offsets_topic().await?;
        let home = self.home(offsets_partition(&topic, request.group_id()));
        if home == self.id() {
            return Some(self.group_here(request).await);
        }
        match self.call(home, ShardCall::Group(request)).await {
            Some(ShardReply::Group(reply)) => Some(reply),
            _ => None,
        }
    }

    /// A request for the coordinators of every shard (ListGroups).
    pub async fn group_everywhere(self: &Rc<Self>, request: GroupRequest) -> Vec<GroupReply> {
        let mut replies = Vec::new();
        for id in self.shard_ids() {
            if id == self.id() {
                replies.push(self.group_here(request.clone()).await);
            } else if let Some(ShardReply::Group(reply)) =
                self.call(id, ShardCall::Group(request.clone())).await
            {
                replies.push(reply);
            }
        }
        replies
    }

    pub(crate) async fn group_here(&self, request: GroupRequest) -> GroupReply {
        let coordinator = self
            .groups
            .coordinator
            .get()
            .expect("calls come after the start");
        coordinator.handle(request).await
    }

    /// `__consumer_offsets`, made if it is not there. `None`: the shard is going down.
    pub(crate) async fn offsets_topic(self: &Rc<Self>) -> Option<Arc<Topic>> {
        if let Some(topic) = self.image().topic(OFFSETS_TOPIC) {
            return Some(topic.clone());
        }
        let new = NewTopic {
            name: OFFSETS_TOPIC.to_owned(),
            partition_count: self.config().offsets_topic_num_partitions,
            replication_factor: 1,
            ..NewTopic::default()
        };
        self.create_topics(vec![new], false).await; // somebody else may have been first
        self.image().topic(OFFSETS_TOPIC).cloned()
    }
}

fn offsets_partition(topic: &Topic, group_id: &str) -> TopicPartition {
    let index = java_hash::coordinator_partition(group_id, topic.partition_count);
    TopicPartition::new(topic.id, PartitionIndex(index))
}

fn group_settings(config: &BrokerConfig, state_bytes_max: u64) -> GroupSettings {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let short = |time| i32::try_from(millis(time)).unwrap_or(i32::MAX);
    GroupSettings {
        session_timeout_min_ms: short(config.group_min_session_timeout),
        session_timeout_max_ms: short(config.group_max_session_timeout),
        initial_rebalance_delay_ms: millis(config.group_initial_rebalance_delay),
        group_size_max: usize::try_from(config.group_max_size).unwrap_or(usize::MAX),
        state_bytes_max: usize::try_from(state_bytes_max).unwrap_or(usize::MAX),
        offset_metadata_bytes_max: config.offset_metadata_max_bytes,
        offsets_retention_ms: i64::try_from(millis(config.offsets_retention)).unwrap_or(i64::MAX),
        offsets_retention_check_interval_ms: millis(config.offsets_retention_check_interval),
        offsets_partition_count: config.offsets_topic_num_partitions,
        ..GroupSettings::default()
    }
}

/// The offsets partitions of a shard, as the coordinator sees them. Weak: the shard owns it.
struct ShardOffsets(Weak<Shard>);

impl ShardOffsets {
    fn partition(&self, index: i32) -> Result<(Rc<Shard>, Rc<Partition>), OffsetsLogError> {
        let shard = self.0.upgrade().ok_or(OffsetsLogError::NotHere)?;
        let image = shard.image();
        let id = image
            .topic(OFFSETS_TOPIC)
            .and_then(|topic| topic.partition(index));
        let partition = id.and_then(|id| shard.partitions.get(id));
        Ok((shard, partition.ok_or(OffsetsLogError::NotHere)?))
    }
}

fn log_error(error: &Error) -> OffsetsLogError {
    match error {
        Error::MessageTooLarge { .. } | Error::RecordListTooLarge { .. } => {
            OffsetsLogError::TooLarge
        }
        Error::DiskFull => OffsetsLogError::Unavailable,
        _ => OffsetsLogError::NotHere,
    }
}

impl OffsetsLog for ShardOffsets {
    fn append(
        &self,
        partition: i32,
        batch: Bytes,
    ) -> LocalFuture<'_, Result<Offset, OffsetsLogError>> {
        Box::pin(async move {
            let (shard, found) = self.partition(partition)?;
            let batch = NewBatch::own(BytesMut::from(batch)).map_err(|e| log_error(&e.into()))?;
            let part = AppendPart {
                partition: found.id(),
                batch,
                log_append_time_ms: -1,
            };
            let outcome = shard.appends.submit(vec![part], Source::Coordinator).pop();
            let outcome = outcome.expect("one part, one outcome").await;
            let appended = outcome.map_err(|_| OffsetsLogError::NotHere)?;
            appended
                .map(|a| a.base_offset)
                .map_err(|error| log_error(&error))
        })
    }

    fn read(
        &self,
        partition: i32,
        from: Option<Offset>,
    ) -> LocalFuture<'_, Result<ReadChunk, OffsetsLogError>> {
        Box::pin(async move {
            let (_, found) = self.partition(partition)?;
            let offsets = found.log().offsets();
            let from = from.unwrap_or(offsets.log_start);
            let end_offset = offsets.high_watermark;
            let plan = found
                .log()
                .read(from, READ_SIZE_BYTES, end_offset, true)
                .await;
            let batches = match plan {
                Ok(plan) => plan.into_bytes().await,
                Err(error) => Err(error),
            };
            let batches = batches.map_err(|error| log_error(&error.into()))?;
            Ok(ReadChunk {
                batches,
                end_offset,
            })
        })
    }

    fn advance_log_start(
        &self,
        partition: i32,
        start: Offset,
    ) -> LocalFuture<'_, Result<(), OffsetsLogError>> {
        Box::pin(async move {
            let (shard, found) = self.partition(partition)?;
            shard
                .advance_log_start(&found, start)
                .await
                .map_err(|error| log_error(&error))
        })
    }
}

/// All input of all shards: a heartbeat may come in on any of them.
struct ShardBarrier(Weak<Shard>);

impl InputBarrier for ShardBarrier {
    fn drained(&self) -> LocalFuture<'_, ()> {
        Box::pin(async move {
            if let Some(shard) = self.0.upgrade() {
                shard.drain_everywhere().await;
            }
        })
    }
}

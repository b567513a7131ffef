//! Which partitions are at home on this shard, kept in step with the metadata image.
//!
//! Runs on: its shard.      Owner: `Shard`.
//! Promises: when `apply_image` returns, every new partition of the image that is at home here
//! takes appends, and every deleted one has told its waiters and given up its directory's name.
//! Limits: one entry a partition; `PARTITIONS_PER_BROKER_MAX` for all shards.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use crate::cluster::metadata::{Image, Topic};
use crate::config::TopicConfig;
use crate::config::topic::Durability;
use crate::journal::journal::Owner;
use crate::log::context::LogContext;
use crate::log::delete;
use crate::log::error as log;
use crate::log::log::Log;
use crate::log::reclaim::Waste;
use crate::log::settings::LogSettings;
use crate::model::ids::{LeaderEpoch, TopicId, TopicPartition};
use crate::model::limits::PRODUCER_SIZE_BYTES;
use crate::partition::error::Error;
use crate::partition::partition::Partition;
use crate::rt::sync::Semaphore;
use crate::rt::{self, machine};
use crate::shard::recovery;
use crate::shard::shard::Shard;

/// Partitions whose files are read at a time while a shard comes up.
const OPENED_AT_A_TIME: usize = 32;

/// A topic and the settings in force for it; stale when the image has another `Arc` of the topic.
type Resolved = (Arc<Topic>, Rc<TopicConfig>);

/// Partitions and resolved topic settings of one shard.
pub(crate) struct Partitions {
    /// Held while partitions are opened and dropped: one at a time [one-log].
    turn: Semaphore,
    by_id: RefCell<HashMap<TopicPartition, Rc<Partition>>>,
    /// In the order in which they were opened.
    by_owner: RefCell<BTreeMap<Owner, Rc<Partition>>>,
    next_owner: Cell<u64>,
    /// Partitions that are at home here and could not be opened, and why.
    offline: RefCell<HashMap<TopicPartition, String>>,
    configs: RefCell<HashMap<TopicId, Resolved>>,
}

impl Partitions {
    pub(crate) fn new() -> Self {
        Self {
            turn: Semaphore::new(1),
            by_id: RefCell::default(),
            by_owner: RefCell::default(),
            next_owner: Cell::default(),
            offline: RefCell::default(),
            configs: RefCell::default(),
        }
    }

    pub(crate) fn get(&self, id: TopicPartition) -> Option<Rc<Partition>> {
        self.by_id.borrow().get(&id).cloned()
    }

    /// The partition, or why it is not to be had.
    pub(crate) fn find(&self, id: TopicPartition) -> Result<Rc<Partition>, Error> {
        if let Some(partition) = self.get(id) {
            return Ok(partition);
        }
        match self.offline.borrow().get(&id) {
            Some(reason) => Err(Error::Offline(reason.clone())),
            None => Err(Error::NotFound),
        }
    }

    /// How many are offline: not opened, or failed since.
    pub(crate) fn offline_count(&self) -> usize {
        let failed = |partition: &&Rc<Partition>| partition.log().failure().is_some();
        let failed = self.by_id.borrow().values().filter(failed).count();
        failed + self.offline.borrow().len()
    }

    /// How many have damage in a sealed segment, and are served but for that.
    pub(crate) fn damaged_count(&self) -> usize {
        let partitions = self.by_id.borrow();
        partitions.values().filter(|p| p.log().is_damaged()).count()
    }

    pub(crate) fn by_owner(&self, owner: Owner) -> Option<Rc<Partition>> {
        self.by_owner.borrow().get(&owner).cloned()
    }

    /// All of them, in the order in which they were opened: a simulated run can be repeated.
    pub(crate) fn all(&self) -> Vec<Rc<Partition>> {
        self.by_owner.borrow().values().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.borrow().len() + self.offline.borrow().len()
    }

    /// When writes to the partition are acknowledged.
    pub(crate) fn durability(&self, id: TopicPartition) -> Durability {
        let configs = self.configs.borrow();
        configs
            .get(&id.topic)
            .map_or(Durability::Disk, |(_, config)| config.durability)
    }

    fn add(&self, log: Rc<Log>, leader_epoch: LeaderEpoch) {
        let owner = Owner(self.next_owner.get());
        self.next_owner.set(owner.0 + 1);
        let partition = Partition::new(owner, log, leader_epoch);
        self.by_owner.borrow_mut().insert(owner, partition.clone());
        let other = self.by_id.borrow_mut().insert(partition.id(), partition);
        assert!(other.is_none(), "[one-log] a partition has one log");
    }

    fn remove(&self, id: TopicPartition) -> Option<Rc<Partition>> {
        let partition = self.by_id.borrow_mut().remove(&id)?;
        self.by_owner.borrow_mut().remove(&partition.owner());
        Some(partition)
    }
}

/// What the log takes of a topic's settings.
pub(crate) fn log_settings(config: &TopicConfig) -> LogSettings {
    let millis = |age: std::time::Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    LogSettings {
        segment_bytes: u64::from(config.segment_bytes),
        segment_ms: millis(config.segment_age),
        index_interval_bytes: u64::from(config.index_interval_bytes),
        retention_ms: config.retention.map(millis),
        retention_bytes: config.retention_bytes,
        // Compaction is not there yet: of a compacted topic nothing goes by time or size.
        deletes: config.cleanup_delete && !config.cleanup_compact,
        ..LogSettings::default()
    }
}

impl Shard {
    /// The settings in force for a topic.
    pub fn topic_config(&self, topic: &Arc<Topic>) -> Rc<TopicConfig> {
        let mut configs = self.partitions.configs.borrow_mut();
        match configs.get(&topic.id) {
            Some((known, config)) if Arc::ptr_eq(known, topic) => config.clone(),
            _ => {
                let config = Rc::new(TopicConfig::resolve(&self.config(), &topic.overrides));
                configs.insert(topic.id, (topic.clone(), config.clone()));
                config
            }
        }
    }

    /// Directory of a partition.
    pub(crate) fn partition_dir(&self, topic: &Topic, id: TopicPartition) -> PathBuf {
        recovery::partition_dir(self.data_dir(), topic, id)
    }

    /// Opens every partition of the image that is at home here and not open yet, a few at a time.
    /// A damaged one stays offline; the others are served.
    pub(crate) async fn open_partitions(
        self: &Rc<Self>,
        image: &Arc<Image>,
    ) -> Result<(), log::Error> {
        let mut missing = Vec::new();
        for topic in image.topics() {
            let config = self.topic_config(topic);
            for id in topic.partitions().filter(|id| self.home(*id) == self.id()) {
                if let Some(partition) = self.partitions.get(id) {
                    partition.log().set_settings(log_settings(&config));
                } else if !self.partitions.offline.borrow().contains_key(&id) {
                    missing.push((id, topic, log_settings(&config)));
                }
            }
            rt::yield_if_needed().await;
        }
        let opening = missing.into_iter().map(|(id, topic, settings)| async move {
            let opened = match self.recovered_offline(id) {
                Some(error) => Err(error.clone()),
                None => {
                    let dir = self.partition_dir(topic, id);
                    Log::open(&self.logs, dir, id, settings).await
                }
            };
            (id, topic.leader_epoch, opened)
        });
        let mut opening = stream::iter(opening).buffer_unordered(OPENED_AT_A_TIME);
        while let Some((id, leader_epoch, opened)) = opening.next().await {
            match opened {
                Ok(log) => self.partitions.add(log, LeaderEpoch(leader_epoch)),
                Err(error) if error.is_damage() => {
                    if self.recovered_offline(id).is_none() {
                        recovery::report(image, id, &error);
                    }
                    let mut offline = self.partitions.offline.borrow_mut();
                    offline.insert(id, error.to_string());
                }
                Err(error) => return Err(error),
            }
            rt::yield_if_needed().await;
        }
        Ok(())
    }

    /// Brings this shard in step with `image` and puts it in force.
    pub(crate) async fn apply_image(self: &Rc<Self>, image: Arc<Image>) {
        let _turn = self.partitions.turn.acquire(1).await;
        if image.version() <= self.image().version() {
            return;
        }
        let before = self.image();
        let is_altered = image.broker_overrides() != before.broker_overrides();
        self.set_image(image.clone());
        self.forget_deleted_topics(&before, &image);
        if is_altered {
            self.partitions.configs.borrow_mut().clear();
        }
        self.drop_partitions(&before, &image).await;
        self.open_missing(&image).await;
        self.load_groups(&image);
    }

    /// Opens what a full disk has kept from being opened.
    pub(crate) async fn open_again(self: &Rc<Self>) -> bool {
        let _turn = self.partitions.turn.acquire(1).await;
        let image = self.image();
        let is_open = self.open_missing(&image).await;
        self.load_groups(&image);
        is_open
    }

    /// Opens what is not open yet; on a full disk, that is tried again as it ends.
    async fn open_missing(self: &Rc<Self>, image: &Arc<Image>) -> bool {
        let opened = self.write(async || self.open_partitions(image).await);
        opened.await.is_ok()
    }

    /// Deleted partitions: nothing is accepted, waiters are told, the directory is renamed so that
    /// a topic of the same name can have it, and given back in the background.
    async fn drop_partitions(self: &Rc<Self>, before: &Image, image: &Image) {
        let gone: Vec<Rc<Partition>> = self
            .partitions
            .all()
            .into_iter()
            .filter(|p| image.topic_by_id(p.id().topic).is_none())
            .collect();
        let mut renamed = self.drop_offline(before, image).await;
        for partition in gone {
            self.partitions.remove(partition.id());
            self.changed.remove(partition.owner());
            self.partitions
                .configs
                .borrow_mut()
                .remove(&partition.id().topic);
            partition.set_gone();
            let waste = self.rename(async || partition.log().set_aside().await);
            renamed.extend(waste.await);
        }
        self.reclaim(renamed).await;
    }

    /// The same for deleted partitions that are offline; what is held of them goes at the next
    /// start.
    async fn drop_offline(&self, before: &Image, after: &Image) -> Vec<Waste> {
        let is_gone = |id: &&TopicPartition| after.topic_by_id(id.topic).is_none();
        let offline = &self.partitions.offline;
        let gone: Vec<TopicPartition> = offline.borrow().keys().filter(is_gone).copied().collect();
        let mut renamed = Vec::new();
        for id in gone {
            offline.borrow_mut().remove(&id);
            if let Some(topic) = before.topic_by_id(id.topic) {
                let dir = self.partition_dir(topic, id);
                let waste = self.rename(async || delete::set_aside(&dir).await);
                renamed.extend(waste.await);
            }
        }
        renamed
    }

    /// Lets directories go in the background, once none can come back under its old name: by then
    /// the file may be gone that says of which topic it was, and a start would adopt what is left.
    async fn reclaim(&self, renamed: Vec<Waste>) {
        if renamed.is_empty() {
            return;
        }
        let topics = self.data_dir().join(recovery::TOPICS_DIR);
        if let Err(error) = self.write(async || rt::fs::sync_dir(&topics).await).await {
            tracing::warn!(%error, "deleted partitions keep their space until the next start");
            return;
        }
        for waste in renamed {
            self.logs.reclaim().put(waste);
        }
    }

    /// Renames a directory. A start does it where this fails.
    async fn rename(
        &self,
        set_aside: impl AsyncFn() -> Result<Waste, log::Error>,
    ) -> Option<Waste> {
        let mut renamed = set_aside().await;
        if matches!(&renamed, Err(error) if error.is_disk_full()) {
            renamed = self.write(set_aside).await;
        }
        let warn = |error: &_| tracing::warn!(%error, "a deleted partition keeps its directory");
        renamed.inspect_err(warn).ok()
    }
}

/// Disk space that the logs of one shard may reserve ahead of what they write: all shards together
/// a sixteenth of what is free, so that it stays below a tenth while the disk fills.
pub(crate) fn preallocation_share(free_disk_bytes: u64, shard_count: u16) -> u64 {
    const DIVISOR: u64 = 16;
    free_disk_bytes / DIVISOR / u64::from(shard_count.max(1))
}

/// What the logs of one shard may use together.
pub(crate) fn log_context(
    shard: &crate::shard::shard::Process,
    free_disk_bytes: u64,
) -> Rc<LogContext> {
    /// Descriptors for segments, of all shards together.
    const OPEN_FILES_MAX: u64 = 8_192;
    /// Segments may have this part of the process's descriptors; clients need the rest.
    const OPEN_FILES_DIVISOR: u64 = 4;
    /// Idempotent producers take this part of the shard's memory at most, beside it.
    const PRODUCERS_DIVISOR: u64 = 8;
    let descriptors = machine::nofile_limits().map_or(OPEN_FILES_MAX, |limits| {
        (limits.soft.unwrap_or(u64::MAX) / OPEN_FILES_DIVISOR).min(OPEN_FILES_MAX)
    });
    let pools = &shard.settings.pools;
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    LogContext::new(crate::log::context::ContextLimits {
        tail_bytes: bytes(pools.tail_bytes),
        open_files: bytes(descriptors / u64::from(shard.shard_count.max(1))).max(32),
        index_bytes: bytes(pools.disk_bytes / 4),
        preallocation_bytes: preallocation_share(free_disk_bytes, shard.shard_count),
        destage_bytes: bytes(shard.settings.destage_bytes),
        producers: bytes(shard.settings.memory_bytes / PRODUCERS_DIVISOR / PRODUCER_SIZE_BYTES),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preallocation_of_all_shards_stays_below_ten_percent_of_the_free_disk() {
        for free in [0, 1, 19, 4 << 10, 3 << 30, 999_999_999_999, u64::MAX] {
            for shards in [1, 2, 3, 7, 64, u16::MAX] {
                let together = preallocation_share(free, shards) * u64::from(shards);
                assert!(together <= free / 10, "{shards} shards, {free} bytes free");
            }
        }
        assert_eq!(preallocation_share(128 << 30, 4), 2 << 30);
        assert_eq!(
            preallocation_share(128 << 30, 0),
            8 << 30,
            "as for one shard"
        );
    }
}

//! Brings a data directory to rest before any shard runs: whatever the journals hold is in the
//! segments afterwards, and every journal is empty.
//!
//! Runs on: one executor of its own, at start.
//! Promises: killed anywhere and repeated, it ends the same. It reads the journals of all shards of
//! the last run, so a changed number of shards is the normal path.
//! A partition that cannot take its entries is left offline, with its reason; the entries are kept
//! in `held.rs`, which tells the crash story. So are those of partitions that may have lost entries
//! with a damaged block of their journal.
//! Order: identity checked -> metadata log -> directories of deleted topics removed, foreign ones
//! adopted -> held entries and journals replayed into segments, all of it flushed -> what damaged
//! partitions have in the journals is held -> journals retired -> identity stored with the new
//! shard count -> surplus journals removed -> tombstones cleared. So a shard that the identity
//! counts has a journal, or it is lost; and a deleted topic is known as long as a journal may have
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cluster::controller;
use crate::cluster::identity::{self, FORMAT_VERSION, Identity};
use crate::cluster::metadata::{Image, Record, Topic};
use crate::cluster::metadata_log::{self, MetadataLog};
use crate::config::machine::ShardSettings;
use crate::config::{BrokerConfig, TopicConfig, TopicOverrides};
use crate::journal::block::{RingId, RunId};
use crate::journal::checkpoint_file::Retired;
use crate::journal::replay::{Replay, ReplayError};
use crate::log::LogSettings;
use crate::log::delete::{self, SET_ASIDE_SUFFIX};
use crate::log::error::{self as log, Damage};
use crate::log::open::latest_epoch;
use crate::log::partition_metadata;
use crate::log::recovery::{Recovery, RecoveryLimits};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};
use crate::model::topic_name;
use crate::rt;
use crate::shard::held::{self, ToHold};
use crate::shard::partitions::log_settings;
use crate::shard::reserve;
use crate::shard::routing;

/// Holds the metadata log.
pub const METADATA_DIR: &str = "metadata";
/// Holds a directory a partition, named as Kafka names them.
pub const TOPICS_DIR: &str = "topics";
/// Holds blocks for segments to come; see `log/reclaim.rs`.
pub const SPARE_DIR: &str = "spare";
/// Holds a directory a shard.
pub const JOURNAL_DIR: &str = "journal";

/// A directory at rest.
#[derive(Debug)]
pub struct Recovered {
    /// Whose it is.
    pub identity: Identity,
    /// All topics.
    pub image: Image,
    /// An empty journal for each shard.
    pub journals: Vec<Retired>,
    /// Partitions that must not be opened, and why.
    pub offline: BTreeMap<TopicPartition, log::Error>,
    /// Directories of deleted partitions, whose space is still to be given back.
    pub set_aside: Vec<PathBuf>,
}

/// Why the directory could not be brought to rest; nothing acknowledged is lost by it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not this broker's.
    #[error("{0}")]
    Identity(#[from] identity::Error),
    /// The metadata.
    #[error("{0}")]
    Metadata(#[from] metadata_log::Error),
    /// A journal.
    #[error("{0}")]
    Journal(#[from] ReplayError),
    /// A partition.
    #[error("{error}{}", remedy(.0), error = .0)]
    Log(#[from] log::Error),
    /// The file system.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

fn remedy(error: &log::Error) -> &'static str {
    match error {
        log::Error::UnknownPartition { .. } => {
            ": metadata and journals are of different backups, restore both from the same one"
        }
        log::Error::UnsupportedEntry { .. } => ": start the Corelog that wrote it",
        error if error.is_disk_full() => ": free some space, recovery goes on at the next start",
        _ => "",
    }
}

/// Brings the data directory of `config` to rest for `shard_count` shards.
pub async fn run(
    config: &BrokerConfig,
    settings: &ShardSettings,
    shard_count: u16,
) -> Result<Recovered, Error> {
    let data_dir = &config.data_dir;
    let cluster_id = config.cluster_id.as_deref();
    let known = Identity::load(data_dir, config.node_id, cluster_id).await?;
    let is_new = known.is_none();
    let metadata_dir = data_dir.join(METADATA_DIR);
    // A first start writes the identity before anything else, so this is no interrupted one. A new
    // identity would give clients another cluster, and topics of whoever was here before.
    if is_new && rt::fs::exists(&metadata_dir).await? {
        return Err(Error::Identity(identity::Error::Missing {
            path: data_dir.join(identity::FILE_NAME),
            metadata: metadata_dir,
        }));
    }
    let mut identity = known.unwrap_or_else(|| Identity {
        format_version: FORMAT_VERSION,
        cluster_id: config.cluster_id.clone().unwrap_or_else(fresh_cluster_id),
        node_id: config.node_id,
        shard_count: 0,
    });
    if is_new {
        identity.store(data_dir).await?;
    }
    rt::fs::create_dir_all(data_dir.join(TOPICS_DIR)).await?;
    let (mut metadata, image) = MetadataLog::open(&metadata_dir, identity.shard_count > 0).await?;
    let (image, mut set_aside) = tidy_topics(data_dir, &mut metadata, image).await?;
    set_aside.extend(tidy_spares(data_dir).await?);
    let counts = (identity.shard_count, shard_count);
    let (journals, surplus, offline) = replay(config, settings, &image, counts).await?;
    if identity.shard_count != shard_count {
        identity.shard_count = shard_count;
        identity.store(data_dir).await?;
    }
    for replay in surplus {
        replay.remove().await?;
    }
    let image = clear_tombstones(&mut metadata, image).await?;
    Ok(Recovered {
        identity,
        image,
        journals,
        offline,
        set_aside,
    })
}

fn fresh_cluster_id() -> String {
    let uuid = uuid::Builder::from_random_bytes(rt::random_bytes16()).into_uuid();
    TopicId::from(uuid).to_string()
}

async fn append(
    metadata: &mut MetadataLog,
    image: Image,
    records: &[Record],
) -> Result<Image, Error> {
    if records.is_empty() {
        return Ok(image);
    }
    let path = PathBuf::from(METADATA_DIR);
    let next = image
        .apply(records)
        .map_err(|source| metadata_log::Error::Inconsistent { path, source })?;
    metadata.append(records, &next).await?;
    Ok(next)
}

/// Every journal is empty now, so nothing of a deleted topic can come back.
async fn clear_tombstones(metadata: &mut MetadataLog, image: Image) -> Result<Image, Error> {
    if !image.has_tombstones() {
        return Ok(image);
    }
    append(metadata, image, &[Record::TombstonesCleared]).await
}

// ---------------------------------------------------------------------- directories

/// A directory named like a partition.
struct Found {
    path: PathBuf,
    topic: String,
    partition: i32,
    id: Option<TopicId>,
}

/// Finds what deleted topics left behind, under names that no topic can have, and adopts partitions
/// that were copied here from a Kafka data directory.
async fn tidy_topics(
    data_dir: &Path,
    metadata: &mut MetadataLog,
    image: Image,
) -> Result<(Image, Vec<PathBuf>), Error> {
    let root = data_dir.join(TOPICS_DIR);
    let mut set_aside = Vec::new();
    let mut is_renamed = false;
    let mut found: Vec<(PathBuf, String, i32)> = Vec::new();
    for entry in rt::fs::read_dir(&root)
        .await?
        .into_iter()
        .filter(|entry| entry.is_dir)
    {
        let path = root.join(&entry.name);
        let Some(name) = entry.name.to_str() else {
            continue;
        };
        if name.ends_with(SET_ASIDE_SUFFIX) {
            rt::mark("recovery: directory set aside before");
            set_aside.push(path);
            continue;
        }
        let Some((topic, partition)) = split_name(name) else {
            tracing::warn!(directory = %path.display(), "not a partition: left alone");
            continue;
        };
        found.push((path, topic.to_owned(), partition));
    }
    let files = found
        .iter()
        .map(|(path, ..)| path.join(partition_metadata::FILE_NAME));
    let texts = rt::fs::read_each(files.collect()).await?;
    let mut foreign: Vec<Found> = Vec::new();
    for ((path, topic, partition), text) in found.into_iter().zip(texts) {
        let id = text.and_then(|text| topic_id(&text));
        if id.is_some_and(|id| image.is_tombstoned(id)) {
            rt::mark("recovery: directory of a deleted topic");
            set_aside.push(delete::set_aside(&path).await?.path);
            is_renamed = true;
            continue;
        }
        let is_known = image.topic(&topic).is_some_and(|known| {
            id.is_none_or(|id| id == known.id) && partition < known.partition_count
        });
        if !is_known {
            foreign.push(Found {
                path,
                topic,
                partition,
                id,
            });
        }
    }
    if is_renamed {
        rt::fs::sync_dir(&root).await?; // before the tombstone goes
    }
    Ok((adopt(metadata, image, foreign).await?, set_aside))
}

/// Sets the spares of the last run aside, and makes room for those of this one. What a full disk
/// has in reserve is for recovery now.
async fn tidy_spares(data_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = rt::fs::read_dir(data_dir).await?;
    let mut set_aside: Vec<PathBuf> = entries
        .iter()
        .filter(|entry| {
            let name = entry.name.to_string_lossy();
            name.strip_prefix(SPARE_DIR)
                .is_some_and(|rest| rest.starts_with('.') && rest.ends_with(SET_ASIDE_SUFFIX))
        })
        .map(|entry| data_dir.join(&entry.name))
        .collect();
    let spares = data_dir.join(SPARE_DIR);
    if entries.iter().any(|entry| entry.name == SPARE_DIR)
        && !rt::fs::read_dir(&spares).await?.is_empty()
    {
        set_aside.push(delete::set_aside(&spares).await?.path);
    }
    rt::fs::create_dir_all(&spares).await?;
    if entries.iter().any(|entry| entry.name == reserve::FILE_NAME) {
        rt::mark("recovery: reserve given up");
        rt::fs::remove_file(data_dir.join(reserve::FILE_NAME)).await?;
    }
    rt::fs::sync_dir(data_dir).await?;
    Ok(set_aside)
}

/// `orders-7` is partition 7 of `orders`.
pub(super) fn split_name(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let partition: i32 = partition.parse().ok().filter(|p| *p >= 0)?;
    topic_name::check_topic_name(topic).ok()?;
    Some((topic, partition))
}

/// The topic that a `partition.metadata` names.
pub(super) fn topic_id(text: &[u8]) -> Option<TopicId> {
    let text = std::str::from_utf8(text).ok()?;
    partition_metadata::decode(text).ok()
}

/// Makes topics of directories that no record knows. Partitions that are missing in between will be
/// empty; a directory that contradicts a known topic is left alone.
async fn adopt(
    metadata: &mut MetadataLog,
    image: Image,
    foreign: Vec<Found>,
) -> Result<Image, Error> {
    let mut records = Vec::new();
    let mut names: Vec<&str> = foreign.iter().map(|found| found.topic.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let parts: Vec<&Found> = foreign.iter().filter(|found| found.topic == name).collect();
        if let Some(known) = image.topic(name) {
            for found in parts {
                tracing::warn!(directory = %found.path.display(), topic = %known.name,
                    "of another topic of that name, or beyond its partitions: left alone");
            }
            continue;
        }
        let id = parts
            .iter()
            .find_map(|found| found.id)
            .unwrap_or_else(fresh_topic_id);
        let last = parts.iter().map(|found| found.partition).max().unwrap_or(0);
        let mut leader_epoch = 0;
        for found in &parts {
            match latest_epoch(&found.path, &LogSettings::default()).await {
                Ok(latest) => leader_epoch = leader_epoch.max(latest.map_or(0, |epoch| epoch.0)),
                // opening it takes it offline, and nothing else
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let topic = Topic {
            id,
            name: name.into(),
            partition_count: last.saturating_add(1),
            leader_epoch,
            overrides: TopicOverrides::default(),
        };
        tracing::info!(topic = name, partitions = topic.partition_count, "adopted");
        records.push(controller::creation(&topic));
    }
    append(metadata, image, &records).await
}

/// A random topic id whose text no command line takes for a flag.
pub(crate) fn fresh_topic_id() -> TopicId {
    loop {
        let uuid = uuid::Builder::from_random_bytes(rt::random_bytes16()).into_uuid();
        let id = TopicId::from(uuid);
        if !id.is_reserved() && !id.to_string().starts_with('-') {
            return id;
        }
    }
}

// ---------------------------------------------------------------------- journals

/// What became of the journals: those of this run, retired; those of shards that are no more, still
/// to be removed; and the partitions that could not take their entries.
type Replayed = (
    Vec<Retired>,
    Vec<Replay>,
    BTreeMap<TopicPartition, log::Error>,
);

/// Replays what is held and the journals of all shards of the last run, flushes, and retires the
/// journals. `counts`: shards of the last run, 0 before the first, and of this one.
async fn replay(
    config: &BrokerConfig,
    settings: &ShardSettings,
    image: &Image,
    counts: (u16, u16),
) -> Result<Replayed, Error> {
    let data_dir = &config.data_dir;
    let root = data_dir.join(JOURNAL_DIR);
    let (before, now) = counts;
    let mut input = Input {
        recovery: Recovery::new(data_dir, limits(settings, now)),
        image,
        shard_count: if before == 0 { now } else { before },
        sources: BTreeMap::new(),
        in_journals: BTreeSet::new(),
    };
    for topic in image.topics() {
        let topic_config = TopicConfig::resolve(config, &topic.overrides);
        for id in topic.partitions() {
            let dir = partition_dir(data_dir, topic, id);
            input.recovery.add(id, dir, log_settings(&topic_config));
        }
    }
    let held = input.take_held(data_dir).await?;
    let mut replays = Vec::new();
    for index in 0..now.max(before).max(last_run_shards(&root).await?) {
        let dir = shard_dir(&root, index);
        let mut replay = Replay::open(&dir).await?;
        if index < before && replay.is_absent() {
            input.take_damage(index, &dir, 0);
        }
        input.take_journal(index, &mut replay).await?;
        replays.push(replay);
    }
    let (mut offline, mut recovered) = (BTreeMap::new(), BTreeSet::new());
    for partition in input.recovery.finish().await? {
        match partition.outcome {
            Ok(_) => drop(recovered.insert(partition.topic_partition)),
            Err(error) => drop(offline.insert(partition.topic_partition, error)),
        }
    }
    let to_hold: Vec<ToHold> = offline
        .iter()
        .filter(|(id, _)| !held.contains(*id) || input.in_journals.contains(*id))
        .map(|(id, error)| ToHold::new(*id, error))
        .collect();
    if !to_hold.is_empty() {
        let dirs = (0..)
            .zip(&replays)
            .map(|(index, _)| shard_dir(&root, index));
        held::hold(data_dir, &dirs.collect::<Vec<_>>(), to_hold).await?;
    }
    held::release(data_dir, held.intersection(&recovered).copied()).await?;
    for (id, error) in &offline {
        report(image, *id, error);
    }
    // From here on segments and held files have everything: the journals may be given up.
    let surplus = replays.split_off(usize::from(now).min(replays.len()));
    let mut journals = Vec::new();
    for replay in replays {
        journals.push(replay.retire(Vec::new()).await?);
    }
    Ok((journals, surplus, offline))
}

/// Says once at each start that a partition is offline, and what can be done.
pub(crate) fn report(image: &Image, id: TopicPartition, error: &log::Error) {
    let partition = name_of(image, id);
    let remedy = if error.needs_decision() {
        "what can be served again without the lost records is decided by `corelog repair`"
    } else {
        "restore the file from a backup and start again, or give up what is damaged with \
         `corelog repair`"
    };
    tracing::error!(partition, %error, remedy, "the partition is offline, its records are kept");
}

/// What recovery is fed with.
struct Input<'a> {
    recovery: Recovery,
    image: &'a Image,
    /// Of the run that wrote the journals.
    shard_count: u16,
    /// Runs whose entries of a partition are in its held file already.
    sources: BTreeMap<TopicPartition, (RingId, RunId)>,
    /// Partitions of which the journals have something that is not held yet.
    in_journals: BTreeSet<TopicPartition>,
}

impl Input<'_> {
    /// Takes what is held; tells of which partitions something is.
    async fn take_held(&mut self, data_dir: &Path) -> Result<BTreeSet<TopicPartition>, Error> {
        let mut held = BTreeSet::new();
        for id in held::list(data_dir).await? {
            if self.image.is_tombstoned(id.topic) {
                held::release(data_dir, [id]).await?;
                continue;
            }
            if !self.recovery.knows(id) {
                let topic_partition = id;
                return Err(log::Error::UnknownPartition { topic_partition }.into());
            }
            if let Some(head) = held::replay(data_dir, id, &mut self.recovery).await? {
                self.sources.insert(id, (head.ring, head.run));
            }
            held.insert(id);
        }
        Ok(held)
    }

    async fn take_journal(&mut self, index: u16, replay: &mut Replay) -> Result<(), Error> {
        let source = replay.source();
        for record in replay.partitions() {
            let id = record.topic_partition;
            if !self.image.is_tombstoned(id.topic) && self.sources.get(&id) != Some(&source) {
                self.recovery.set_record(id, &record.record)?;
                self.in_journals.insert(id);
            }
        }
        let has_checkpoint = replay.has_current_checkpoint();
        if !has_checkpoint {
            for id in self.at_home(index) {
                self.recovery.read_segments_of(id);
            }
        }
        let (mut entries, mut unknown) = (0u64, 0u64);
        loop {
            let entry = match replay.next_entry().await {
                Ok(Some(found)) => found.entry,
                Ok(None) => break,
                Err(ReplayError::Damaged { file, position, .. }) => {
                    self.take_damage(index, &file, position);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let id = entry.topic_partition;
            let is_known = self.recovery.knows(id) || has_checkpoint;
            if self.image.is_tombstoned(id.topic) || self.sources.get(&id) == Some(&source) {
                rt::mark("recovery: entry of a deleted topic"); // or held already
            } else if is_known {
                self.in_journals.insert(id);
                self.recovery.apply(entry).await?;
                entries += 1;
            } else {
                unknown += 1;
            }
            rt::yield_if_needed().await;
        }
        if entries > 0 {
            tracing::info!(shard = index, entries, end = ?replay.end(), "journal replayed");
        }
        if unknown > 0 {
            // without a checkpoint the blocks may be of a run before the topics were deleted
            tracing::warn!(
                shard = index,
                entries = unknown,
                "journal entries of topics that do not exist were passed over"
            );
        }
        Ok(())
    }

    /// Durable blocks of a journal are lost: whose entries they had, nobody knows.
    fn take_damage(&mut self, index: u16, file: &Path, position: u64) {
        tracing::error!(shard = index, file = %file.display(), position,
            "a durable block of the journal is damaged");
        for id in self.at_home(index) {
            let error = log::Error::corrupt(file, position, Damage::Journal);
            self.recovery.doubt(id, error);
        }
    }

    /// Partitions that had their entries in a journal.
    fn at_home(&self, index: u16) -> Vec<TopicPartition> {
        let all = self.image.topics().flat_map(|topic| topic.partitions());
        all.filter(|id| routing::home(*id, self.shard_count).0 == index)
            .collect()
    }
}

/// Recovery has the memory of the shards' tails to itself.
fn limits(settings: &ShardSettings, shard_count: u16) -> RecoveryLimits {
    let memory_bytes = settings.pools.tail_bytes * u64::from(shard_count);
    RecoveryLimits {
        memory_bytes: usize::try_from(memory_bytes).unwrap_or(usize::MAX),
        ..RecoveryLimits::default()
    }
}

pub(super) fn name_of(image: &Image, id: TopicPartition) -> String {
    let topic: Option<&Arc<Topic>> = image.topic_by_id(id.topic);
    let name = topic.map_or_else(|| id.topic.to_string(), |topic| topic.name.to_string());
    format!("{name}-{}", id.partition.0)
}

pub(super) fn shard_dir(root: &Path, index: u16) -> PathBuf {
    root.join(format!("shard-{index:03}"))
}

/// One more than the highest shard that has a journal directory.
async fn last_run_shards(root: &Path) -> Result<u16, Error> {
    rt::fs::create_dir_all(root).await?;
    let indexes = rt::fs::read_dir(root)
        .await?
        .into_iter()
        .filter_map(|entry| {
            entry
                .name
                .to_str()?
                .strip_prefix("shard-")?
                .parse::<u16>()
                .ok()
        });
    Ok(indexes.max().map_or(0, |index| index + 1))
}

/// Directory of a partition.
pub(crate) fn partition_dir(data_dir: &Path, topic: &Topic, id: TopicPartition) -> PathBuf {
    let PartitionIndex(index) = id.partition;
    data_dir
        .join(TOPICS_DIR)
        .join(format!("{}-{index}", topic.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_directory_is_a_topic_name_and_a_number() {
        assert_eq!(split_name("orders-7"), Some(("orders", 7)));
        assert_eq!(split_name("a-b-0"), Some(("a-b", 0)));
        assert_eq!(split_name("orders--1"), Some(("orders-", 1)));
        for other in ["orders", "orders-", "-1", "or ders-1", "lost+found"] {
            assert_eq!(split_name(other), None, "{other}");
        }
    }
}

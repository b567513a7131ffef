//! Brings what the journals hold into the partition directories, and leaves plain Kafka
//! directories.
//!
//! Runs on: one shard, at start, before anything is served.        Owner: the start-up.
//! Promises: afterwards every partition that a journal touched has segments of exact length,
//! complete indexes, a producer snapshot, an epoch file and `partition.state`, all durable: the
//! journals may be retired. Killed anywhere and repeated, it ends the same.
//! Invariants: [replay-absolute] bytes go where their entry says, never below what the base state
//! has flushed. [replay-gap] bytes that do not join what is there take that partition offline, no
//! other. Memory and descriptors are bounded by `RecoveryLimits`, whatever the journals hold.
//!
//! Order, because of crashes: (1) data, indexes, snapshots, epochs, and `partition.state` under a
//! temporary name; (2) flush the filesystem; (3) rename; (4) flush again. Before (3) a repetition
//! starts from the old state, after it from the new one; entries that the state covers change
//! nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checkpoint::{self, LogCheckpoint};
use super::error::Error;
use super::file_names::TEMPORARY_SUFFIX;
use super::replay::PartitionReplay;
use super::settings::LogSettings;
use crate::journal::entry::{Entry, EntryKind};
use crate::model::ids::TopicPartition;
use crate::model::offset::Offset;
use crate::rt::fs;

/// What recovery may hold at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryLimits {
    /// Bytes waiting to be written, and indexes, over all partitions.
    pub memory_bytes: usize,
    /// Partitions with open files.
    pub open_partitions: usize,
}

impl Default for RecoveryLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            open_partitions: 256,
        }
    }
}

/// What became of one partition that the journals touched.
#[derive(Debug)]
pub struct Recovered {
    /// Which one.
    pub topic_partition: TopicPartition,
    /// Its log end; or why it must stay offline, its files left as they are.
    pub outcome: Result<Offset, Error>,
}

enum Slot {
    /// Known, not touched so far.
    Idle {
        dir: PathBuf,
        settings: LogSettings,
        record: Option<LogCheckpoint>,
    },
    Replaying(Box<PartitionReplay>),
    /// Its directory is gone or going.
    Deleted,
    Failed(Error),
}

/// See the file's head.
pub struct Recovery {
    root: PathBuf,
    limits: RecoveryLimits,
    partitions: BTreeMap<TopicPartition, Slot>,
    /// Bytes and partitions held since everything was put aside last.
    held_bytes: usize,
    held_partitions: usize,
}

impl Recovery {
    /// For the filesystem that holds `root`, the data directory.
    pub fn new(root: impl Into<PathBuf>, limits: RecoveryLimits) -> Self {
        let partitions = BTreeMap::new();
        Self {
            root: root.into(),
            limits,
            partitions,
            held_bytes: 0,
            held_partitions: 0,
        }
    }

    /// Makes a live partition known.
    pub fn add(
        &mut self,
        topic_partition: TopicPartition,
        dir: impl Into<PathBuf>,
        settings: LogSettings,
    ) {
        let slot = Slot::Idle {
            dir: dir.into(),
            settings,
            record: None,
        };
        self.partitions.insert(topic_partition, slot);
    }

    /// Makes a deleted partition known: its entries mean nothing any more.
    pub fn add_deleted(&mut self, topic_partition: TopicPartition) {
        self.partitions.insert(topic_partition, Slot::Deleted);
    }

    /// The record that the checkpoint of a journal has of a partition; before the journal's
    /// entries.
    pub fn set_record(
        &mut self,
        topic_partition: TopicPartition,
        bytes: &[u8],
    ) -> Result<(), Error> {
        match self.partitions.get_mut(&topic_partition) {
            None => Err(Error::UnknownPartition { topic_partition }),
            Some(Slot::Idle { record, .. }) => {
                *record = Some(LogCheckpoint::decode(bytes)?);
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Obeys one entry, in the order of its journal. An error stops the start-up; damage of a
    /// single partition does not, it shows in `finish`.
    ///
    /// Cancel: not safe; start the recovery again.
    pub async fn apply(&mut self, entry: Entry) -> Result<(), Error> {
        let topic_partition = entry.topic_partition;
        let Some(slot) = self.partitions.get_mut(&topic_partition) else {
            return Err(Error::UnknownPartition { topic_partition });
        };
        if entry.kind == EntryKind::Delete {
            *slot = Slot::Deleted;
            return Ok(());
        }
        let size = entry.payload.len();
        let Some(replay) = begin(topic_partition, slot).await? else {
            return Ok(());
        };
        let was_held = replay.is_held();
        match replay.apply(entry).await {
            Ok(()) if !was_held => {
                self.held_partitions += 1;
                self.held_bytes += replay.index_bytes();
            }
            Ok(()) => {}
            Err(error @ Error::Corrupt { .. }) => *slot = Slot::Failed(error),
            Err(error) => return Err(error),
        }
        self.held_bytes += size;
        if self.held_bytes > self.limits.memory_bytes
            || self.held_partitions > self.limits.open_partitions
        {
            self.put_aside().await?;
        }
        Ok(())
    }

    /// Writes out and closes everything, so that nothing but the state of the logs stays in memory.
    async fn put_aside(&mut self) -> Result<(), Error> {
        for slot in self.partitions.values_mut() {
            if let Slot::Replaying(replay) = slot
                && replay.is_held()
            {
                replay.put_aside().await?;
            }
        }
        self.held_bytes = 0;
        self.held_partitions = 0;
        Ok(())
    }

    /// Completes every touched directory and flushes. Then the journals may be retired, with these
    /// logs' checkpoints or none.
    ///
    /// Cancel: not safe; start the recovery again.
    pub async fn finish(mut self) -> Result<Vec<Recovered>, Error> {
        let mut outcomes = Vec::new();
        let mut renames = Vec::new();
        for (topic_partition, mut slot) in std::mem::take(&mut self.partitions) {
            let is_untouched = matches!(&slot, Slot::Idle { record: None, .. });
            if is_untouched {
                continue;
            }
            let outcome = match begin(topic_partition, &mut slot).await {
                Ok(Some(replay)) => complete(replay, &mut renames).await,
                Ok(None) => match slot {
                    Slot::Failed(error) => Err(error),
                    _ => continue,
                },
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if !matches!(error, Error::Corrupt { .. }) => return Err(error),
                outcome => outcomes.push(Recovered {
                    topic_partition,
                    outcome,
                }),
            }
        }
        fs::sync_filesystem(&self.root).await?;
        for (from, to) in renames {
            fs::rename(from, to).await?;
        }
        fs::sync_filesystem(&self.root).await?;
        Ok(outcomes)
    }
}

/// The replay of a partition, loaded at its first entry; none when it takes no entries.
async fn begin(
    topic_partition: TopicPartition,
    slot: &mut Slot,
) -> Result<Option<&mut PartitionReplay>, Error> {
    if let Slot::Idle {
        dir,
        settings,
        record,
    } = slot
    {
        let (dir, settings, record) = (std::mem::take(dir), *settings, record.take());
        *slot = match PartitionReplay::load(topic_partition, dir, settings, record).await {
            Ok(replay) => Slot::Replaying(Box::new(replay)),
            Err(error @ Error::Corrupt { .. }) => Slot::Failed(error),
            Err(error) => return Err(error),
        };
    }
    match slot {
        Slot::Replaying(replay) => Ok(Some(replay)),
        _ => Ok(None),
    }
}

/// Completes one directory, but for the rename of its state.
async fn complete(
    replay: &mut PartitionReplay,
    renames: &mut Vec<(PathBuf, PathBuf)>,
) -> Result<Offset, Error> {
    let state = replay.complete().await?;
    let path = replay.dir().join(checkpoint::FILE_NAME);
    let mut temporary = path.clone().into_os_string();
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = PathBuf::from(temporary);
    super::replay::write_plain(&temporary, 0, &state.encode_file()).await?;
    renames.push((temporary, path));
    Ok(state.next_offset)
}

//! Brings what the journals hold into the partition directories, and leaves plain Kafka
//! directories.
//!
//! Runs on: one shard, at start, before anything is served.        Owner: the start-up.
//! Promises: afterwards every partition that a journal touched has segments of exact length,
//! complete indexes, a producer snapshot, an epoch file and `partition.state`, all durable: its
//! journaled entries may be given up. Killed anywhere and repeated, it ends the same.
//! Invariants: [replay-absolute] bytes go where their entry says, never below what the base state
//! has flushed. [replay-gap] a partition with damage is told in the outcome and takes no part in
//! anything further; the others are complete all the same.
//!
//! Entries are gathered, as the journal mixes the partitions, until `memory_bytes` wait; then each
//! partition takes its run of them in one go, a few partitions at a time. So the number of file
//! operations goes with partitions times (journal / memory), whatever the mixture.
//!
//! Order, because of crashes: (1) data, indexes, snapshots, epochs, and `partition.state` under a
//! temporary name; (2) flush the filesystem; (3) rename; (4) flush again. Before (3) a repetition
//! starts from the old state, after it from the new one; entries that the state covers change
//! nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};

use super::checkpoint::LogCheckpoint;
use super::error::Error;
use super::replay::PartitionReplay;
use super::settings::LogSettings;
use super::writes::name_states;
use crate::journal::entry::{Entry, EntryKind};
use crate::model::ids::TopicPartition;
use crate::model::offset::Offset;
use crate::rt;

/// What recovery may hold at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryLimits {
    /// Bytes of entries that wait, over all partitions.
    pub memory_bytes: usize,
    /// Partitions whose files are read and written at a time.
    pub open_partitions: usize,
}

impl Default for RecoveryLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            open_partitions: 32,
        }
    }
}

/// What became of one partition that the journals touched.
#[derive(Debug)]
pub struct Recovered {
    /// Which one.
    pub topic_partition: TopicPartition,
    /// Its log end; or why it must stay offline, its journaled entries kept.
    pub outcome: Result<Offset, Error>,
}

/// What tells where the segments of a partition stood before its journal entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BaseFrom {
    /// The journal checkpoint's record of it, else its `partition.state`.
    #[default]
    Record,
    /// The segments themselves: there is no checkpoint any more.
    Segments,
    /// What of the segments is intact, whatever was there once: the loss is accepted.
    Intact,
}

/// A partition that was not touched so far.
pub(super) struct Idle {
    pub(super) dir: PathBuf,
    pub(super) settings: LogSettings,
    pub(super) record: Option<LogCheckpoint>,
    pub(super) base_from: BaseFrom,
}

impl Idle {
    /// What its base will be, as a simulation counts it.
    pub(super) fn base_name(&self) -> &'static str {
        match self.base_from {
            BaseFrom::Record if self.record.is_some() => "replay: base from the checkpoint",
            BaseFrom::Record => "replay: base from the partition",
            BaseFrom::Segments | BaseFrom::Intact => "replay: base from segments",
        }
    }
}

enum Slot {
    Idle(Box<Idle>),
    Replaying(Box<PartitionReplay>),
    /// Its directory is gone or going.
    Deleted,
    Failed(Error),
}

/// What happens to a partition, in the order of its journal.
enum Step {
    Entry(Entry),
    /// Durable blocks are missing from here on, and entries of the partition may be among them.
    Doubt(Error),
}

/// See the file's head.
pub struct Recovery {
    root: PathBuf,
    limits: RecoveryLimits,
    partitions: BTreeMap<TopicPartition, Slot>,
    waiting: BTreeMap<TopicPartition, Vec<Step>>,
    waiting_bytes: usize,
}

impl Recovery {
    /// For the filesystem that holds `root`, the data directory.
    pub fn new(root: impl Into<PathBuf>, limits: RecoveryLimits) -> Self {
        Self {
            root: root.into(),
            limits,
            partitions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
        }
    }

    /// Makes a live partition known.
    pub fn add(
        &mut self,
        topic_partition: TopicPartition,
        dir: impl Into<PathBuf>,
        settings: LogSettings,
    ) {
        let idle = Idle {
            dir: dir.into(),
            settings,
            record: None,
            base_from: BaseFrom::Record,
        };
        let slot = Slot::Idle(Box::new(idle));
        self.partitions.insert(topic_partition, slot);
    }

    /// Makes a deleted partition known: its entries mean nothing any more.
    pub fn add_deleted(&mut self, topic_partition: TopicPartition) {
        self.partitions.insert(topic_partition, Slot::Deleted);
    }

    /// Whether the partition was made known.
    pub fn knows(&self, topic_partition: TopicPartition) -> bool {
        self.partitions.contains_key(&topic_partition)
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
            Some(Slot::Idle(idle)) => {
                idle.record = Some(LogCheckpoint::decode(bytes)?);
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// The journal of this partition has lost its checkpoint: the segments say where they stand.
    pub fn read_segments_of(&mut self, topic_partition: TopicPartition) {
        if let Some(Slot::Idle(idle)) = self.partitions.get_mut(&topic_partition)
            && idle.base_from == BaseFrom::Record
            && idle.record.is_none()
        {
            idle.base_from = BaseFrom::Segments;
        }
    }

    /// Somebody has decided that what is damaged is given up: the log ends before it.
    pub fn accept_loss_of(&mut self, topic_partition: TopicPartition) {
        if let Some(Slot::Idle(idle)) = self.partitions.get_mut(&topic_partition) {
            idle.base_from = BaseFrom::Intact;
        }
    }

    /// Leaves a partition as it is, with `error` as its outcome.
    pub fn keep_offline(&mut self, topic_partition: TopicPartition, error: Error) {
        if let Some(slot) = self.partitions.get_mut(&topic_partition) {
            *slot = Slot::Failed(error);
        }
    }

    /// Durable blocks of the journal are missing at this point, and entries of the partition may
    /// have been in them. A later entry that joins what is there shows that none was; otherwise
    /// `error` is the outcome.
    pub fn doubt(&mut self, topic_partition: TopicPartition, error: Error) {
        if self.is_waited_for(topic_partition) {
            let steps = self.waiting.entry(topic_partition).or_default();
            steps.push(Step::Doubt(error));
        }
    }

    fn is_waited_for(&self, topic_partition: TopicPartition) -> bool {
        let slot = self.partitions.get(&topic_partition);
        matches!(slot, Some(Slot::Idle(_) | Slot::Replaying(_)))
    }

    /// Obeys one entry, in the order of its journal. An error stops the start-up; damage of a
    /// single partition does not, it shows in `finish`.
    ///
    /// Cancel: not safe; start the recovery again.
    pub async fn apply(&mut self, entry: Entry) -> Result<(), Error> {
        let topic_partition = entry.topic_partition;
        if !self.knows(topic_partition) {
            return Err(Error::UnknownPartition { topic_partition });
        }
        if entry.kind == EntryKind::Delete {
            self.add_deleted(topic_partition);
            self.waiting.remove(&topic_partition);
        }
        if !self.is_waited_for(topic_partition) {
            return Ok(());
        }
        self.waiting_bytes += entry.encoded_len();
        let steps = self.waiting.entry(topic_partition).or_default();
        steps.push(Step::Entry(entry));
        if self.waiting_bytes > self.limits.memory_bytes {
            self.take_waiting().await?;
        }
        Ok(())
    }

    /// Lets every partition take what waits for it, and put aside what it holds.
    async fn take_waiting(&mut self) -> Result<(), Error> {
        self.waiting_bytes = 0;
        let mut runs = Vec::new();
        for (topic_partition, steps) in std::mem::take(&mut self.waiting) {
            if let Some(slot) = self.partitions.remove(&topic_partition) {
                runs.push(async move {
                    let mut slot = slot;
                    let done = slot.take(topic_partition, steps, false).await;
                    done.map(|_| (topic_partition, slot))
                });
            }
        }
        let mut runs = stream::iter(runs).buffer_unordered(self.limits.open_partitions.max(1));
        while let Some(done) = runs.next().await {
            let (topic_partition, slot) = done?;
            self.partitions.insert(topic_partition, slot);
        }
        Ok(())
    }

    /// Completes every touched directory and flushes. What the journals hold of the partitions that
    /// have no error may be given up then.
    ///
    /// Cancel: not safe; start the recovery again.
    pub async fn finish(mut self) -> Result<Vec<Recovered>, Error> {
        let started = rt::now();
        let mut runs = Vec::new();
        for (topic_partition, slot) in std::mem::take(&mut self.partitions) {
            let steps = self.waiting.remove(&topic_partition).unwrap_or_default();
            if slot.is_untouched() && steps.is_empty() {
                continue;
            }
            runs.push(async move {
                let mut slot = slot;
                let done = slot.take(topic_partition, steps, true).await;
                done.map(|temporary| (topic_partition, slot, temporary))
            });
        }
        let at_a_time = self.limits.open_partitions.max(1);
        let mut runs = stream::iter(runs).buffer_unordered(at_a_time);
        let (mut recovered, mut states) = (Vec::new(), Vec::new());
        while let Some(done) = runs.next().await {
            let (topic_partition, slot, temporary) = done?;
            let outcome = match slot {
                Slot::Replaying(replay) => Ok(replay.next_offset()),
                Slot::Failed(error) => Err(error),
                Slot::Idle(_) | Slot::Deleted => continue,
            };
            states.extend(temporary);
            recovered.push(Recovered {
                topic_partition,
                outcome,
            });
        }
        drop(runs);
        let written = started.elapsed();
        name_states(&self.root, states, at_a_time).await?;
        if !recovered.is_empty() {
            let flushed = started.elapsed().saturating_sub(written);
            tracing::info!(
                partitions = recovered.len(),
                written_ms = written.as_millis(),
                flushed_ms = flushed.as_millis(),
                "partitions are recovered"
            );
        }
        recovered.sort_by_key(|one| one.topic_partition);
        Ok(recovered)
    }
}

impl Slot {
    fn is_untouched(&self) -> bool {
        match self {
            Self::Idle(idle) => idle.record.is_none() && idle.base_from != BaseFrom::Intact,
            Self::Deleted => true,
            Self::Replaying(_) | Self::Failed(_) => false,
        }
    }

    /// Takes `steps`; completes the directory if they are the last. Damage turns the slot into a
    /// failed one; then, and while more is to come, there is no state file to be renamed.
    async fn take(
        &mut self,
        topic_partition: TopicPartition,
        steps: Vec<Step>,
        is_last: bool,
    ) -> Result<Option<PathBuf>, Error> {
        match self.try_take(topic_partition, steps, is_last).await {
            Err(error) if error.is_damage() => {
                *self = Self::Failed(error);
                Ok(None)
            }
            done => done,
        }
    }

    async fn try_take(
        &mut self,
        topic_partition: TopicPartition,
        steps: Vec<Step>,
        is_last: bool,
    ) -> Result<Option<PathBuf>, Error> {
        if let Self::Idle(idle) = self {
            let first = steps.iter().find_map(|step| match step {
                Step::Entry(entry) => Some(entry),
                Step::Doubt(_) => None,
            });
            let replay = PartitionReplay::load(topic_partition, idle, first).await?;
            *self = Self::Replaying(Box::new(replay));
        }
        let Self::Replaying(replay) = self else {
            return Ok(None);
        };
        for step in steps {
            match step {
                Step::Entry(entry) => replay.apply(entry).await?,
                Step::Doubt(error) => replay.doubt(error),
            }
        }
        if is_last {
            return Ok(Some(replay.complete().await?));
        }
        replay.put_aside().await?;
        Ok(None)
    }
}

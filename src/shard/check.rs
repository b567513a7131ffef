//! Checks a whole data directory that no broker runs on, and changes nothing in it.
//!
//! Runs on: one executor of its own.
//! Promises: everything that a start reads is read with the same code, and every segment besides;
//! what is wrong comes out with its file and with who mends it.
//! Order: identity, metadata log, journals and held entries, and with what those say the
//! partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::cluster::identity::{self, Identity};
use crate::cluster::metadata::Image;
use crate::cluster::metadata_log;
use crate::journal::checkpoint_file::{self, Stored};
use crate::journal::entry::Entry;
use crate::journal::held::Head;
use crate::journal::replay::{Replay, ReplayError};
use crate::log::check::{self as log, Checked, Cure, Finding, Journaled};
use crate::log::checkpoint::LogCheckpoint;
use crate::log::delete::SET_ASIDE_SUFFIX;
use crate::log::partition_metadata;
use crate::model::ids::{PartitionIndex, TopicPartition};
use crate::rt::fs;
use crate::shard::held;
use crate::shard::recovery::{
    JOURNAL_DIR, METADATA_DIR, TOPICS_DIR, name_of, partition_dir, shard_dir, split_name, topic_id,
};
use crate::shard::routing;

/// What was read, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Report {
    /// Partitions with a directory.
    pub partitions: u64,
    /// Segments.
    pub segments: u64,
    /// Intact batches.
    pub batches: u64,
    /// Bytes of segments.
    pub size_bytes: u64,
    /// What is wrong: the partition, where it is one's, and the rest.
    pub findings: Vec<(Option<String>, Finding)>,
}

/// A check under way.
struct Check<'a> {
    data_dir: &'a Path,
    image: Image,
    journaled: BTreeMap<TopicPartition, Journaled>,
    report: Report,
}

/// Checks the data directory. A file that the system does not give is a finding as well.
pub async fn run(data_dir: &Path) -> Report {
    let mut check = Check {
        data_dir,
        image: Image::default(),
        journaled: BTreeMap::new(),
        report: Report::default(),
    };
    let shard_count = check.identity().await;
    let done = check.metadata(shard_count > 0).await;
    check.note(&data_dir.join(METADATA_DIR), done);
    let done = check.held().await;
    check.note(data_dir, done);
    check.journals(shard_count).await;
    let done = check.partitions().await;
    check.note(&data_dir.join(TOPICS_DIR), done);
    check.report
}

impl Check<'_> {
    fn find(&mut self, finding: Finding) {
        self.report.findings.push((None, finding));
    }

    /// What the system did not give.
    fn note(&mut self, path: &Path, done: io::Result<()>) {
        if let Err(error) = done {
            self.find(Finding::whole(path, &error, Cure::Access));
        }
    }

    /// The number of shards of the last run.
    async fn identity(&mut self) -> u16 {
        let path = self.data_dir.join(identity::FILE_NAME);
        let bytes = match fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.find(Finding::whole(path, &"the file is missing", Cure::Restore));
                return 0;
            }
            Err(error) => {
                self.note(&path, Err(error));
                return 0;
            }
        };
        match Identity::decode(&bytes, &path) {
            Ok(identity) => identity.shard_count,
            Err(error) => {
                self.find(Finding::whole(path, &error, Cure::Restore));
                0
            }
        }
    }

    async fn metadata(&mut self, has_run: bool) -> io::Result<()> {
        let directory = self.data_dir.join(METADATA_DIR);
        let Some(path) = metadata_log::newest(&directory).await? else {
            if has_run {
                let what = "the metadata log is missing";
                self.find(Finding::whole(directory, &what, Cure::Restore));
            }
            return Ok(());
        };
        let bytes = fs::read(&path).await?;
        let (records, valid_size) = match metadata_log::decode(&bytes) {
            Ok(decoded) => decoded,
            Err(position) => {
                self.find(Finding {
                    position: Some(position),
                    ..Finding::whole(path, &"a metadata record is damaged", Cure::Restore)
                });
                return Ok(());
            }
        };
        if valid_size < bytes.len() {
            let what = "the last record is unfinished, and was never announced";
            self.find(Finding {
                position: u64::try_from(valid_size).ok(),
                ..Finding::whole(&path, &what, Cure::Broker)
            });
        }
        match Image::default().apply(&records) {
            Ok(image) => self.image = image,
            Err(error) => self.find(Finding::whole(path, &error, Cure::Restore)),
        }
        Ok(())
    }

    /// What partitions wait for a decision, or for their files.
    async fn held(&mut self) -> io::Result<()> {
        for (id, path) in held::files(self.data_dir).await? {
            let name = name_of(&self.image, id);
            let file = match fs::read(&path).await {
                Ok(file) => Bytes::from(file),
                Err(error) => {
                    self.note(&path, Err(error));
                    continue;
                }
            };
            let finding = match Head::decode(&file) {
                Ok((head, entries)) => {
                    self.take_record(id, head.record.as_deref(), &path);
                    self.take_held(id, entries);
                    let (what, cure) = match head.is_loss_accepted {
                        true => (
                            "the loss of what is damaged is accepted".to_owned(),
                            Cure::Broker,
                        ),
                        false => (
                            format!("the partition is offline: {}", head.reason),
                            Cure::Repair,
                        ),
                    };
                    Finding::whole(path, &what, cure)
                }
                Err(error) => Finding::whole(path, &error, Cure::Repair),
            };
            self.report.findings.push((Some(name), finding));
        }
        Ok(())
    }

    fn take_held(&mut self, id: TopicPartition, mut entries: Bytes) {
        while let Ok((entry, length)) = Entry::decode(&entries) {
            entries = entries.slice(length..);
            self.journaled.entry(id).or_default().include(&entry);
        }
    }

    /// What a checkpoint says; an earlier one, of held entries, counts.
    fn take_record(&mut self, id: TopicPartition, record: Option<&[u8]>, path: &Path) {
        match record.map(LogCheckpoint::decode) {
            Some(Ok(record)) => {
                let journaled = self.journaled.entry(id).or_default();
                journaled.record.get_or_insert(record);
            }
            Some(Err(error)) => {
                let what = format!("the record of {}: {error}", name_of(&self.image, id));
                self.find(Finding::whole(path, &what, Cure::Restore));
            }
            None => {}
        }
    }

    async fn journals(&mut self, shard_count: u16) {
        let root = self.data_dir.join(JOURNAL_DIR);
        for index in 0..shard_count {
            let dir = shard_dir(&root, index);
            let path = checkpoint_file::path_in(&dir);
            match checkpoint_file::read(&dir).await {
                Ok(Stored::Unusable(error)) => {
                    self.find(Finding::whole(path, &error, Cure::Broker));
                }
                Ok(_) => {}
                Err(error) => self.note(&path, Err(error)),
            }
            match self.journal(index, shard_count, &dir).await {
                Ok(()) => {}
                Err(ReplayError::Io(error)) => self.note(&dir, Err(error)),
                Err(error) => self.find(Finding::whole(dir, &error, Cure::Restore)),
            }
        }
    }

    async fn journal(
        &mut self,
        index: u16,
        shard_count: u16,
        dir: &Path,
    ) -> Result<(), ReplayError> {
        let mut replay = Replay::open(dir).await?;
        if replay.is_absent() {
            self.find(Finding::whole(dir, &"the journal is missing", Cure::Repair));
        }
        let checkpoint = checkpoint_file::path_in(dir);
        for record in replay.partitions().to_vec() {
            if !self.image.is_tombstoned(record.topic_partition.topic) {
                self.take_record(record.topic_partition, Some(&record.record), &checkpoint);
            }
        }
        let lacks_checkpoint = !replay.has_current_checkpoint();
        if lacks_checkpoint {
            let all = self.image.topics().flat_map(|topic| topic.partitions());
            for id in all.filter(|id| routing::home(*id, shard_count).0 == index) {
                self.journaled.entry(id).or_default().lacks_checkpoint = true;
            }
        }
        loop {
            match replay.next_entry().await {
                Ok(Some(found)) => {
                    let id = found.entry.topic_partition;
                    let journaled = self.journaled.entry(id).or_default();
                    journaled.include(&found.entry);
                    journaled.lacks_checkpoint |= lacks_checkpoint;
                }
                Ok(None) => return Ok(()),
                Err(ReplayError::Damaged { file, position, .. }) => self.find(Finding {
                    position: Some(position),
                    ..Finding::whole(file, &"a durable block is damaged", Cure::Repair)
                }),
                Err(error) => return Err(error),
            }
            crate::rt::yield_if_needed().await;
        }
    }

    /// Those that are known, and directories that a start would adopt.
    async fn partitions(&mut self) -> io::Result<()> {
        let root = self.data_dir.join(TOPICS_DIR);
        let mut left = directories(&root).await?;
        let mut known = Vec::new();
        for topic in self.image.topics() {
            for id in topic.partitions() {
                known.push((id, partition_dir(self.data_dir, topic, id)));
            }
        }
        for (id, dir) in known {
            let journaled = self.journaled.remove(&id).unwrap_or_default();
            // a power failure may take a directory while all of it is in the journal
            if !left.remove(&dir) && !journaled.is_whole() {
                let what = "the partition has no directory: a start makes it empty";
                let finding = Finding::whole(&dir, &what, Cure::Restore);
                self.report
                    .findings
                    .push((Some(name_of(&self.image, id)), finding));
                continue;
            }
            self.partition(&dir, Some(id), &journaled).await;
        }
        for dir in left {
            let id = id_of(&dir).await;
            if id.is_none_or(|id| !self.image.is_tombstoned(id.topic)) {
                let journaled = id.and_then(|id| self.journaled.remove(&id));
                self.partition(&dir, None, &journaled.unwrap_or_default())
                    .await;
            }
        }
        for (id, journaled) in std::mem::take(&mut self.journaled) {
            // without a checkpoint the blocks may be of a run before the topic was deleted
            if !self.image.is_tombstoned(id.topic) && !journaled.lacks_checkpoint {
                let what = format!("data of partition {id}, which nobody knows");
                let path = self.data_dir.join(JOURNAL_DIR);
                self.find(Finding::whole(path, &what, Cure::Restore));
            }
        }
        Ok(())
    }

    async fn partition(&mut self, dir: &Path, id: Option<TopicPartition>, journaled: &Journaled) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let topic = id.map(|id| id.topic);
        let checked = log::check(dir, topic, journaled).await;
        let checked = checked.unwrap_or_else(|error| Checked {
            findings: vec![Finding::whole(dir, &error, Cure::Access)],
            ..Checked::default()
        });
        self.report.partitions += 1;
        self.report.segments += checked.segments;
        self.report.batches += checked.batches;
        self.report.size_bytes += checked.size_bytes;
        let findings = checked.findings.into_iter();
        let findings = findings.map(|finding| (Some(name.clone().into_owned()), finding));
        self.report.findings.extend(findings);
    }
}

/// The partition that a directory says it is of.
async fn id_of(dir: &Path) -> Option<TopicPartition> {
    let text = fs::read(dir.join(partition_metadata::FILE_NAME))
        .await
        .ok()?;
    let (_, partition) = split_name(dir.file_name()?.to_str()?)?;
    Some(TopicPartition::new(
        topic_id(&text)?,
        PartitionIndex(partition),
    ))
}

/// Directories that are named like partitions.
async fn directories(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let entries = match fs::read_dir(root).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let is_partition = |name: &str| !name.ends_with(SET_ASIDE_SUFFIX) && split_name(name).is_some();
    let found = entries.into_iter().filter(|entry| entry.is_dir);
    let found = found.filter(|entry| entry.name.to_str().is_some_and(is_partition));
    Ok(found.map(|entry| root.join(&entry.name)).collect())
}

//! Journal entries that a partition could not take at a start, kept in files until it can.
//!
//! Runs on: the executor of the start-up.
//! Promises: when `hold` returns, what the journals have of the partitions is durable in files of
//! their own, so that the journals may be given up; a file goes only when its partition has taken
//! everything, durably. Memory is bounded by `HOLD_BYTES_MAX` and one file.
//! Limits: together the files are no larger than the journals were.
//!
//! `<data>/held/<topic id, 32 hex digits>-<partition>`; the bytes are in `journal/held.rs`.
//!
//! Crash story of a start that finds a partition damaged:
//! 1. All journals are read; the partitions that take everything are complete and flushed.
//! 2. The journals are read again; what belongs to damaged partitions goes to `.tmp` files.
//! 3. Flush, rename, flush. 4. The journals are retired. 5. The shards run, without those
//!    partitions.
//!
//! Killed before 3, the next start finds all journals as they were and repeats it. Killed between 3
//! and 4 it finds the entries twice: a file names ring and run that its entries are from, and what
//! the journals have of that run is passed over. From 4 on the files alone have them; a partition
//! that is offline gets no new entries. At every later start a file's record and entries are
//! applied first, as if its journal were still there. If the partition takes them: 1. its directory
//! is flushed, 2. the file is removed, durably, 3. the partition is served. Killed between 1 and 2,
//! the entries come again and change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::journal::block::{RingId, RunId};
use crate::journal::entry::Entry;
use crate::journal::held::{HELD_DIR, Head, file_name, parse_file_name};
use crate::journal::replay::{Replay, ReplayError};
use crate::log::error::{self as log, Damage};
use crate::log::recovery::Recovery;
use crate::model::ids::TopicPartition;
use crate::rt::fs::{self, FileWrite};
use crate::shard::recovery::Error;

const TEMPORARY_SUFFIX: &str = ".tmp";
/// Bytes that wait to be written.
const HOLD_BYTES_MAX: usize = 32 << 20;

fn path_of(data_dir: &Path, id: TopicPartition) -> PathBuf {
    data_dir.join(HELD_DIR).join(file_name(id))
}

/// What lies where the files are; nothing where none was ever made.
async fn entries(root: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(root).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries,
    }
}

/// The partitions that have a file.
pub(super) async fn list(data_dir: &Path) -> io::Result<BTreeSet<TopicPartition>> {
    let root = data_dir.join(HELD_DIR);
    let mut found = BTreeSet::new();
    for entry in entries(&root).await? {
        let name = entry.name.to_string_lossy();
        if let Some(id) = parse_file_name(&name) {
            found.insert(id);
        } else if name.ends_with(TEMPORARY_SUFFIX) {
            fs::remove_file(root.join(&entry.name)).await?;
        } else {
            tracing::warn!(file = %root.join(&entry.name).display(), "left alone");
        }
    }
    Ok(found)
}

/// The files that are there; changes nothing.
pub(super) async fn files(data_dir: &Path) -> io::Result<BTreeMap<TopicPartition, PathBuf>> {
    let root = data_dir.join(HELD_DIR);
    let entries = entries(&root).await?;
    let named = entries.iter().filter_map(|entry| {
        let id = parse_file_name(&entry.name.to_string_lossy())?;
        Some((id, root.join(&entry.name)))
    });
    Ok(named.collect())
}

/// Hands what is kept of a partition to `recovery`. Returns the file's head, if it can be read: a
/// file that cannot be keeps its partition offline.
pub(super) async fn replay(
    data_dir: &Path,
    id: TopicPartition,
    recovery: &mut Recovery,
) -> Result<Option<Head>, Error> {
    let path = path_of(data_dir, id);
    let file = Bytes::from(fs::read(&path).await?);
    let (head, mut entries) = match Head::decode(&file) {
        Ok((head, entries)) if head.topic_partition == id => (head, entries),
        refused => {
            tracing::error!(file = %path.display(), refused = ?refused.err(),
                "held journal entries cannot be read");
            recovery.keep_offline(id, log::Error::corrupt(path, 0, Damage::Journal));
            return Ok(None);
        }
    };
    if head.needs_decision && !head.is_loss_accepted {
        recovery.keep_offline(id, log::Error::Held(head.reason.as_str().into()));
        return Ok(Some(head));
    }
    if let Some(record) = &head.record {
        recovery.set_record(id, record)?;
    }
    if head.is_loss_accepted {
        recovery.accept_loss_of(id);
    }
    while !entries.is_empty() {
        let Ok((entry, length)) = Entry::decode(&entries) else {
            let position = u64::try_from(file.len() - entries.len()).unwrap_or(u64::MAX);
            recovery.doubt(id, log::Error::corrupt(path, position, Damage::Journal));
            break;
        };
        entries = entries.slice(length..);
        recovery.apply(entry).await?;
    }
    Ok(Some(head))
}

/// A partition whose entries are to be kept, and why.
pub(super) struct ToHold {
    id: TopicPartition,
    reason: String,
    needs_decision: bool,
}

impl ToHold {
    pub(super) fn new(id: TopicPartition, error: &log::Error) -> Self {
        Self {
            id,
            reason: error.to_string(),
            needs_decision: error.needs_decision(),
        }
    }

    fn head(&self, (ring, run): (RingId, RunId), record: Option<Bytes>) -> Head {
        Head {
            topic_partition: self.id,
            is_loss_accepted: false,
            needs_decision: self.needs_decision,
            reason: self.reason.clone(),
            ring,
            run,
            record,
            entry_bytes: 0,
        }
    }
}

/// Keeps what the journals in `shard_dirs` have of some partitions.
pub(super) async fn hold(
    data_dir: &Path,
    shard_dirs: &[PathBuf],
    partitions: Vec<ToHold>,
) -> Result<(), Error> {
    let mut holder = Holder {
        data_dir: data_dir.to_owned(),
        files: BTreeMap::new(),
        writes: Vec::new(),
        waiting_bytes: 0,
    };
    fs::create_dir_all(data_dir.join(HELD_DIR)).await?;
    let wanted = partitions.into_iter().map(|one| (one.id, one));
    let wanted: BTreeMap<TopicPartition, ToHold> = wanted.collect();
    for dir in shard_dirs {
        let mut replay = Replay::open(dir).await?;
        let source = replay.source();
        for found in replay.partitions() {
            let id = found.topic_partition;
            if let Some(partition) = wanted.get(&id) {
                let head = partition.head(source, Some(found.record.clone()));
                holder.begin(head).await?;
            }
        }
        loop {
            let entry = match replay.next_entry().await {
                Ok(Some(found)) => found.entry,
                Ok(None) => break,
                Err(ReplayError::Damaged { .. }) => continue, // told before
                Err(error) => return Err(error.into()),
            };
            let id = entry.topic_partition;
            if let Some(partition) = wanted.get(&id) {
                if !holder.files.contains_key(&id) {
                    holder.begin(partition.head(source, None)).await?;
                }
                holder.put(&entry).await?;
            }
        }
    }
    // without entries there is a file only so that the need for a decision is not forgotten
    for (id, partition) in wanted {
        if partition.needs_decision && !holder.files.contains_key(&id) {
            holder
                .begin(partition.head((RingId(0), RunId(0)), None))
                .await?;
        }
    }
    holder.finish().await
}

/// One file under way.
struct Growing {
    head: Head,
    path: PathBuf,
    entries_at: u64,
}

struct Holder {
    data_dir: PathBuf,
    files: BTreeMap<TopicPartition, Growing>,
    writes: Vec<FileWrite>,
    waiting_bytes: usize,
}

impl Holder {
    /// Begins a file; what an earlier one of the partition has comes first.
    async fn begin(&mut self, mut head: Head) -> Result<(), Error> {
        let id = head.topic_partition;
        let path = path_of(&self.data_dir, id);
        let before = fs::read_each(vec![path.clone()]).await?.pop().flatten();
        let mut entries = Bytes::new();
        if let Some((before, kept)) = before.and_then(|file| Head::decode(&file.into()).ok()) {
            entries = kept;
            head = Head {
                ring: head.ring,
                run: head.run,
                record: before.record.clone().or(head.record),
                ..before
            };
        }
        head.entry_bytes = to_u64(entries.len());
        let bytes = head.encode();
        let mut name = path.into_os_string();
        name.push(TEMPORARY_SUFFIX);
        let growing = Growing {
            entries_at: to_u64(bytes.len()),
            path: PathBuf::from(name),
            head,
        };
        self.write(growing.path.clone(), 0, bytes, true);
        self.write(growing.path.clone(), growing.entries_at, entries, true);
        self.files.insert(id, growing);
        Ok(())
    }

    async fn put(&mut self, entry: &Entry) -> Result<(), Error> {
        let Some(file) = self.files.get_mut(&entry.topic_partition) else {
            return Ok(());
        };
        let mut bytes = vec![0; entry.encoded_len()];
        entry.encode(&mut bytes);
        let position = file.entries_at + file.head.entry_bytes;
        file.head.entry_bytes += to_u64(bytes.len());
        let path = file.path.clone();
        self.write(path, position, bytes, false);
        if self.waiting_bytes > HOLD_BYTES_MAX {
            self.waiting_bytes = 0;
            fs::write_parts(std::mem::take(&mut self.writes)).await?;
        }
        Ok(())
    }

    fn write(&mut self, path: PathBuf, position: u64, bytes: impl Into<Bytes>, is_end: bool) {
        let bytes = bytes.into();
        self.waiting_bytes += bytes.len();
        let parts = vec![bytes];
        self.writes.push(FileWrite {
            path,
            position,
            parts,
            is_end,
        });
    }

    async fn finish(mut self) -> Result<(), Error> {
        for (_, file) in std::mem::take(&mut self.files) {
            // the head again, now that it knows how much follows; it is as long as before
            self.write(file.path.clone(), 0, file.head.encode(), false);
            self.files.insert(file.head.topic_partition, file);
        }
        fs::write_parts(std::mem::take(&mut self.writes)).await?;
        fs::sync_filesystem(&self.data_dir).await?;
        for (id, file) in &self.files {
            fs::rename(&file.path, path_of(&self.data_dir, *id)).await?;
        }
        fs::sync_filesystem(&self.data_dir).await?;
        Ok(())
    }
}

/// Removes the files of partitions that have taken everything, or that are deleted.
pub(super) async fn release(
    data_dir: &Path,
    partitions: impl IntoIterator<Item = TopicPartition>,
) -> Result<(), Error> {
    let mut is_changed = false;
    for id in partitions {
        fs::remove_file(path_of(data_dir, id)).await?;
        is_changed = true;
    }
    if is_changed {
        fs::sync_dir(data_dir.join(HELD_DIR)).await?;
    }
    Ok(())
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX / 2)
}

//! Checks the files of one partition of a stopped broker, and changes nothing.
//!
//! Runs on: one executor of its own.
//! Promises: what a start would take from the files, and what readers would get, is read in full;
//! what is wrong comes out with its place and with who mends it. What the journal brings again is
//! not looked at: after a crash, the end of a log is there and not yet in its files.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, LogCheckpoint};
use super::error::{Damage, Error};
use super::file_names::{FileKind, file_name};
use super::leader_epochs::{self, LeaderEpochs};
use super::offset_index::OffsetIndex;
use super::open::{Listing, read_if_there, read_indexes};
use super::scrub::read_through;
use super::settings::LogSettings;
use super::verify::{DamagedStretch, Expected, IndexFault, Verified, Verifier};
use super::{partition_metadata, producer_snapshot};
use crate::journal::entry::{Entry, EntryKind};
use crate::model::ids::TopicId;
use crate::model::offset::{FilePosition, Offset};
use crate::rt::{self, File, OpenOptions};

/// Bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;

/// Who mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// The next start, or the running broker, as far as it needs it: nothing is lost by it.
    Broker,
    /// Whoever puts the file back from a backup.
    Restore,
    /// A decision: `corelog repair`.
    Repair,
    /// Whoever sees to it that the system gives the file.
    Access,
}

impl Cure {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Broker => "nothing is lost: the broker mends it or does without",
            Self::Restore => "restore it from a backup",
            Self::Access => "not checked: see why the system does not give it, and check again",
            Self::Repair => "decided by `corelog repair` after the next start",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The file or directory.
    pub path: PathBuf,
    /// Where in the file, if that is known.
    pub position: Option<FilePosition>,
    /// What is wrong.
    pub what: String,
    /// Who mends it.
    pub cure: Cure,
}

impl Finding {
    /// About a whole file.
    pub fn whole(path: impl Into<PathBuf>, what: &dyn Display, cure: Cure) -> Self {
        Self {
            path: path.into(),
            position: None,
            what: what.to_string(),
            cure,
        }
    }
}

/// What was read, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Checked {
    /// Segments.
    pub segments: u64,
    /// Intact batches.
    pub batches: u64,
    /// Bytes of segments.
    pub size_bytes: u64,
    /// In the order of the directory.
    pub findings: Vec<Finding>,
}

/// What the journals have of a partition.
#[derive(Debug, Default)]
pub struct Journaled {
    /// The record of a checkpoint.
    pub record: Option<LogCheckpoint>,
    /// Whether there may have been a record that is lost.
    pub lacks_checkpoint: bool,
    /// The first entry's segment.
    first_segment: Option<Offset>,
    /// Segment and position of the first bytes.
    begins_at: Option<(Offset, FilePosition)>,
    /// The next segment of which there are entries.
    next_segment: Option<Offset>,
    log_start: Offset,
}

impl Journaled {
    /// Whether the journals have all of it, from its first record on: nothing was in files.
    pub fn is_whole(&self) -> bool {
        let in_files = |record: &LogCheckpoint| {
            record.segment_base > Offset::ZERO || record.destaged_position > 0
        };
        !self.record.as_ref().is_some_and(in_files) && self.begins_at == Some((Offset::ZERO, 0))
    }

    /// Takes one entry in, in the order of the journal.
    pub fn include(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::LogStart {
            self.log_start = self.log_start.max(entry.base_offset);
        }
        if matches!(entry.kind, EntryKind::Append | EntryKind::Carry) {
            let place = (entry.segment_base, entry.file_position);
            self.begins_at.get_or_insert(place);
        }
        let first = *self.first_segment.get_or_insert(entry.segment_base);
        if entry.segment_base > first {
            self.next_segment.get_or_insert(entry.segment_base);
        }
    }
}

/// How far the files are said to be whole.
struct Extent {
    /// The last segment that counts, and the end of its batches.
    base: Offset,
    end: FilePosition,
    /// What is known of the log there.
    state: LogCheckpoint,
    /// What the end is.
    kind: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Of the log: the file has nothing more.
    Exact,
    /// Of what is flushed, maybe in the middle of a batch: the journal has the rest.
    Flushed,
    /// Of the file: a crash of whoever wrote it may have torn its last batch.
    OfFile,
}

/// Checks the partition in `dir`, which is to belong to `topic` where that is known.
pub async fn check(
    dir: &Path,
    topic: Option<TopicId>,
    journaled: &Journaled,
) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    let listing = Listing::read(dir).await?;
    check_small_files(dir, &listing, topic, &mut checked.findings).await?;
    let extent = extent(dir, &listing, journaled, &mut checked.findings).await;
    let log_start = extent.state.log_start.max(journaled.log_start);
    if let Err(Error::Corrupt { path, damage, .. }) = listing.check_start(dir, log_start)
        && extent.kind != End::OfFile
    {
        let finding = Finding::whole(path, &damage, Cure::Restore);
        checked.findings.push(finding);
    }
    let bases: Vec<(Offset, u64)> = listing
        .logs
        .iter()
        .map(|(base, len)| (*base, *len))
        .collect();
    for (index, (base, len)) in bases.iter().enumerate() {
        let next = bases.get(index + 1).map(|(next, _)| *next);
        if *base > extent.base || next.is_some_and(|next| next <= log_start) {
            continue; // written anew from the journal, or to be deleted
        }
        let done = check_segment(dir, (*base, *len, next), &extent, &mut checked).await;
        if let Err(error) = done {
            let path = dir.join(file_name(*base, FileKind::Log));
            let finding = Finding::whole(path, &error, Cure::Access);
            checked.findings.push(finding);
        }
    }
    let is_hollow = !listing.logs.contains_key(&extent.base) && extent.end > 0;
    if is_hollow && journaled.next_segment.is_none_or(|next| next > log_start) {
        let path = dir.join(file_name(extent.base, FileKind::Log));
        let missing = extent.end;
        let finding = Finding::whole(path, &Damage::Short { missing }, Cure::Restore);
        checked.findings.push(finding);
    }
    Ok(checked)
}

/// What is read whole.
async fn check_small_files(
    dir: &Path,
    listing: &Listing,
    topic: Option<TopicId>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let path = dir.join(partition_metadata::FILE_NAME);
    match (listing.topic(), topic) {
        (Some(found), Some(expected)) if found != expected => {
            let what = format!("it belongs to topic id {found}, expected {expected}");
            findings.push(Finding::whole(dir, &what, Cure::Restore));
        }
        (None, _) if rt::fs::exists(&path).await? => {
            findings.push(Finding::whole(path, &"unreadable topic id", Cure::Broker));
        }
        _ => {}
    }
    let path = dir.join(leader_epochs::FILE_NAME);
    let bytes = read_small(&path, findings).await;
    if let Some(Err(what)) = bytes.map(|bytes| epochs_in(&bytes)) {
        findings.push(Finding::whole(path, &what, Cure::Broker));
    }
    for offset in &listing.snapshots {
        let path = dir.join(file_name(*offset, FileKind::Snapshot));
        let bytes = read_small(&path, findings).await;
        if let Some(Err(what)) = bytes.map(|bytes| producer_snapshot::decode(&bytes)) {
            findings.push(Finding::whole(path, &what, Cure::Broker));
        }
    }
    Ok(())
}

async fn read_small(path: &Path, findings: &mut Vec<Finding>) -> Option<Vec<u8>> {
    match read_if_there(path).await {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.push(Finding::whole(path, &error, Cure::Access));
            None
        }
    }
}

fn epochs_in(bytes: &[u8]) -> Result<LeaderEpochs, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    LeaderEpochs::decode(text).map_err(|error| error.to_string())
}

async fn epochs_of(dir: &Path) -> LeaderEpochs {
    let bytes = read_if_there(&dir.join(leader_epochs::FILE_NAME)).await;
    let bytes = bytes.unwrap_or_default(); // told by now
    bytes
        .and_then(|bytes| epochs_in(&bytes).ok())
        .unwrap_or_default()
}

/// Finds what recovery would begin with.
async fn extent(
    dir: &Path,
    listing: &Listing,
    journaled: &Journaled,
    findings: &mut Vec<Finding>,
) -> Extent {
    if let Some(record) = &journaled.record {
        return Extent {
            base: record.segment_base,
            end: record.end_position.min(record.destaged_position),
            state: record.clone(),
            kind: End::Flushed,
        };
    }
    let state = state_in(dir, findings).await;
    if journaled.first_segment.is_some() && !journaled.lacks_checkpoint {
        let state = state.unwrap_or_default();
        return Extent {
            base: state.segment_base,
            end: state.end_position,
            state,
            kind: End::Flushed,
        };
    }
    if let Some(state) = state {
        match listing.agrees_with(dir, &state) {
            Ok(true) => {
                return Extent {
                    base: state.segment_base,
                    end: state.end_position,
                    state,
                    kind: End::Exact,
                };
            }
            Err(Error::Corrupt {
                path,
                position,
                damage,
            }) if !journaled.lacks_checkpoint => findings.push(Finding {
                path,
                position: Some(position),
                what: damage.to_string(),
                cure: Cure::Restore,
            }),
            Ok(false) | Err(_) => {}
        }
    }
    let state = LogCheckpoint {
        is_dense: false,
        epochs: epochs_of(dir).await,
        ..LogCheckpoint::default()
    };
    let last = listing
        .logs
        .last_key_value()
        .map(|(base, len)| (*base, *len));
    let (base, end) = match (journaled.first_segment, last) {
        // from here on everything comes again
        (Some(base), _) => (base, 0),
        (None, Some(last)) => last,
        (None, None) => (Offset::ZERO, 0),
    };
    Extent {
        base,
        end,
        state,
        kind: End::OfFile,
    }
}

async fn state_in(dir: &Path, findings: &mut Vec<Finding>) -> Option<LogCheckpoint> {
    let path = dir.join(checkpoint::FILE_NAME);
    let bytes = read_small(&path, findings).await?;
    match LogCheckpoint::decode_file(&bytes) {
        Ok(state) => Some(state),
        Err(error) => {
            let cure = match error {
                checkpoint::CheckpointError::Version { .. } => Cure::Restore,
                _ => Cure::Broker,
            };
            findings.push(Finding::whole(path, &error, cure));
            None
        }
    }
}

async fn check_segment(
    dir: &Path,
    (base, len, next): (Offset, u64, Option<Offset>),
    extent: &Extent,
    checked: &mut Checked,
) -> Result<(), Error> {
    let is_last = base == extent.base;
    let is_exact = !is_last || extent.kind == End::Exact;
    let expected = Expected {
        base_offset: base,
        next_offset: match (is_last, extent.kind) {
            (true, End::Exact) => Some(extent.state.next_offset),
            (true, End::Flushed | End::OfFile) => None,
            (false, _) => next.or(Some(extent.base)),
        },
        size_bytes: if is_last { extent.end } else { len },
        is_dense: extent.state.is_dense,
        epochs: extent.state.epochs.clone(),
        index_interval_bytes: LogSettings::default().index_interval_bytes,
    };
    let size_bytes = expected.size_bytes;
    let indexes = read_indexes(dir, base, len, None).await;
    let indexes = indexes.unwrap_or_default(); // told as no index
    let path = dir.join(file_name(base, FileKind::Log));
    let mut found = verify(&path, Verifier::new(expected, indexes), size_bytes).await?;
    checked.segments += 1;
    checked.batches += found.batches;
    checked.size_bytes += size_bytes;
    if is_last && extent.kind == End::Flushed {
        let is_cut = |stretch: &mut DamagedStretch| {
            stretch.end == size_bytes && matches!(stretch.damage, Damage::Short { .. }) && {
                len >= size_bytes
            }
        };
        found.damaged.pop_if(is_cut);
    }
    for stretch in &found.damaged {
        let is_torn = is_last
            && extent.kind == End::OfFile
            && stretch.end == size_bytes
            && !matches!(stretch.damage, Damage::OffsetOrder { .. });
        checked.findings.push(Finding {
            path: path.clone(),
            position: Some(stretch.position),
            what: told(stretch),
            cure: if is_torn { Cure::Broker } else { Cure::Restore },
        });
    }
    if let Some(fault) = found.index_fault
        && found.damaged.is_empty()
        && is_exact
    {
        let kind = match fault {
            IndexFault::Time { .. } => FileKind::TimeIndex,
            IndexFault::Offset { .. } => FileKind::OffsetIndex,
            IndexFault::Unreadable => unreadable_of(dir, base, len).await,
        };
        let path = dir.join(file_name(base, kind));
        checked
            .findings
            .push(Finding::whole(path, &fault, Cure::Broker));
    }
    Ok(())
}

/// Which of the two indexes it is.
async fn unreadable_of(dir: &Path, base: Offset, len: u64) -> FileKind {
    let path = dir.join(file_name(base, FileKind::OffsetIndex));
    let bytes = read_if_there(&path).await.unwrap_or_default();
    let decoded = bytes.map(|bytes| OffsetIndex::decode(&bytes, len));
    match decoded {
        Some(Ok(_)) => FileKind::TimeIndex,
        _ => FileKind::OffsetIndex,
    }
}

fn told(stretch: &DamagedStretch) -> String {
    let (damage, from, next) = (stretch.damage, stretch.from, stretch.next);
    match next {
        Offset::MAX => format!("{damage}; concerns the records from offset {from} on"),
        _ => format!("{damage}; concerns the records from offset {from} to before {next}"),
    }
}

/// Reads the segment up to `size_bytes`.
async fn verify(path: &Path, mut verifier: Verifier, size_bytes: u64) -> Result<Verified, Error> {
    let file = File::open(path, &OpenOptions::direct_read()).await?;
    let go_on = async |_| true;
    let read = read_through(&file, size_bytes, CHUNK_BYTES, &mut verifier, &go_on).await;
    file.close().await?;
    read?;
    Ok(verifier.finish())
}

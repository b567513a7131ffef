//! Opening a partition directory: ours, or one that Kafka wrote.
//!
//! Runs on: the home shard; every file is read off it.
//! Promises: a directory that a clean stop or a recovery left costs one listing and two small
//! reads, whatever its size. Anything else is a plain Kafka directory: what is missing or does not
//! fit is derived again from the batches, and the result is durable before the log takes an append.
//! A torn end is cut off with a warning; damage before the end is an error that names file and
//! position.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::checkpoint::{self, CheckpointError, LogCheckpoint, align_down};
use super::context::LogContext;
use super::error::{Damage, Error};
use super::file_names::{DELETED_SUFFIX, FileKind, TEMPORARY_SUFFIX, file_name, parse_file_name};
use super::indexer::Indexer;
use super::leader_epochs::{self, LeaderEpochs};
use super::log::{Log, OpenSegment, include_producer};
use super::offset_index::OffsetIndex;
use super::partition_metadata;
use super::pins::Users;
use super::producer_snapshot;
use super::producer_state::ProducerStates;
use super::reclaim::{Waste, WasteKind};
use super::scan::{CHUNK_BYTES_LARGE, Scan, SegmentFile};
use super::segments::{SealedSegment, Segments};
use super::settings::LogSettings;
use super::time_index::TimeIndex;
use crate::journal::entry::Entry;
use crate::model::ids::{LeaderEpoch, TopicId, TopicPartition};
use crate::model::offset::{FilePosition, Offset};
use crate::rt::{self, SharedFile, fs};

/// What lies in a partition directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Segment lengths by base offset.
    pub(super) logs: BTreeMap<Offset, u64>,
    /// Offsets of producer snapshots.
    pub(super) snapshots: BTreeSet<Offset>,
    /// Names and lengths of what an interrupted deletion or replacement left behind.
    leftovers: Vec<(String, u64)>,
    /// Content of `partition.metadata` and of `partition.state`.
    metadata: Option<Vec<u8>>,
    state: Option<Vec<u8>>,
}

/// Small files that are read with the listing.
const READ_WITH: &[&str] = &[partition_metadata::FILE_NAME, checkpoint::FILE_NAME];

impl Listing {
    /// Lists `dir`; an absent directory is an empty one.
    pub(super) async fn read(dir: &Path) -> Result<Self, Error> {
        let mut listing = Self::default();
        let (entries, contents) = match fs::read_dir_with(dir, READ_WITH).await {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            Err(error) => return Err(error.into()),
        };
        let mut contents = contents.into_iter();
        listing.metadata = contents.next().flatten();
        listing.state = contents.next().flatten();
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            let Some(name) = entry.name.to_str() else {
                continue;
            };
            match parse_file_name(name) {
                Some((base, FileKind::Log)) => drop(listing.logs.insert(base, entry.len)),
                Some((offset, FileKind::Snapshot)) => drop(listing.snapshots.insert(offset)),
                None if name.ends_with(DELETED_SUFFIX) || name.ends_with(TEMPORARY_SUFFIX) => {
                    listing.leftovers.push((name.to_owned(), entry.len));
                }
                Some(_) | None => {}
            }
        }
        Ok(listing)
    }

    /// The content of `partition.state`; none when there is none or it is damaged.
    pub(super) fn state(&self, dir: &Path) -> Result<Option<LogCheckpoint>, Error> {
        let Some(bytes) = &self.state else {
            return Ok(None);
        };
        let path = dir.join(checkpoint::FILE_NAME);
        match LogCheckpoint::decode_file(bytes) {
            Ok(state) => Ok(Some(state)),
            Err(CheckpointError::Version { found }) => Err(Error::NewerFormat {
                path,
                found,
                known: checkpoint::VERSION,
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error,
                    "log state is derived from the batches");
                Ok(None)
            }
        }
    }

    /// Whether there are segments above the one at `base`, or snapshots above `next_offset`.
    pub(super) fn reaches_above(&self, base: Offset, next_offset: Offset) -> bool {
        self.logs.range(base.next()..).next().is_some()
            || self.snapshots.range(next_offset.next()..).next().is_some()
    }

    /// The topic that the directory says it belongs to.
    pub(super) fn topic(&self) -> Option<TopicId> {
        let text = std::str::from_utf8(self.metadata.as_deref()?).ok()?;
        partition_metadata::decode(text).ok()
    }

    /// Whether the files end where `state` says.
    pub(super) fn agrees_with(&self, dir: &Path, state: &LogCheckpoint) -> Result<bool, Error> {
        let len = self.logs.get(&state.segment_base).copied().unwrap_or(0);
        if len < state.end_position {
            let missing = state.end_position - len;
            let path = dir.join(file_name(state.segment_base, FileKind::Log));
            return Err(Error::corrupt(path, len, Damage::Short { missing }));
        }
        let last = self.logs.last_key_value().map(|(base, len)| (*base, *len));
        let Some((base, len)) = last else {
            return Ok(true);
        };
        let is_new_and_empty = base < state.segment_base && state.end_position == 0;
        Ok((base, len) == (state.segment_base, state.end_position) || is_new_and_empty)
    }

    /// Whether the segments begin where the log does, or before: they are removed only after the
    /// log start has moved, durably.
    pub(super) fn check_start(&self, dir: &Path, log_start: Offset) -> Result<(), Error> {
        match self.logs.first_key_value() {
            Some((first, _)) if *first > log_start => {
                let path = dir.join(file_name(log_start, FileKind::Log));
                let damage = Damage::MissingSegment { first: *first };
                Err(Error::corrupt(path, 0, damage))
            }
            _ => Ok(()),
        }
    }

    /// The sealed segments below the open one.
    fn sealed(&self, open_base: Offset) -> Segments {
        let mut segments = Segments::default();
        let mut below = self.logs.range(..open_base).peekable();
        while let Some((base, len)) = below.next() {
            segments.push(SealedSegment {
                base_offset: *base,
                next_offset: below.peek().map_or(open_base, |(next, _)| **next),
                size_bytes: *len,
                max_timestamp: None,
            });
        }
        segments
    }
}

impl Log {
    /// Opens the log in `dir`, which is made if it is not there.
    ///
    /// Cancel: safe.
    pub async fn open(
        context: &Rc<LogContext>,
        dir: impl Into<PathBuf>,
        topic_partition: TopicPartition,
        settings: LogSettings,
    ) -> Result<Rc<Self>, Error> {
        let dir = dir.into();
        let listing = Listing::read(&dir).await?;
        let mut leftovers = Vec::new();
        check_topic(&dir, &listing, topic_partition.topic).await?;
        for (name, len) in &listing.leftovers {
            if name.ends_with(TEMPORARY_SUFFIX) {
                match fs::remove_file(dir.join(name)).await {
                    // that of the topic's id, which has just been written again under this name
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            } else {
                leftovers.push(Waste {
                    path: dir.join(name),
                    kind: WasteKind::Segment,
                    size_bytes: *len,
                    users: Users::default(),
                });
            }
        }
        let state = listing.state(&dir)?;
        let last = listing.logs.last_key_value();
        let mut found = match (state, last) {
            (Some(state), _) if listing.agrees_with(&dir, &state)? => {
                rt::mark("open: state agrees with the files");
                listing.check_start(&dir, state.log_start)?;
                state
            }
            (_, Some((base, len))) => {
                rt::mark("open: state made anew");
                rebuild(&dir, &listing, &settings, (*base, *len)).await?
            }
            (_, None) => {
                rt::mark("open: empty");
                LogCheckpoint::default()
            }
        };
        found.destaged_position = align_down(found.end_position);
        if let Some((first, _)) = listing.logs.first_key_value() {
            found.log_start = found.log_start.max(*first).min(found.next_offset);
        }
        let mut sealed = listing.sealed(found.segment_base);
        let retired = sealed.retire_below(found.log_start);
        let is_created = listing.logs.contains_key(&found.segment_base);
        let open = OpenSegment::resume(&found, is_created, rt::unix_ms());
        let log = Self::assemble(
            context,
            dir,
            topic_partition,
            settings,
            (sealed, open, found),
        );
        log.state.borrow_mut().retired = retired;
        for waste in leftovers {
            context.reclaim().put(waste);
        }
        Ok(log)
    }

    /// Makes the log ready for appends after a start: brings the indexes and the last partial block
    /// of the active segment into memory. That block will be written again, so its bytes have to be
    /// in the journal first: the returned entry goes there, then `on_enqueued`; until then the log
    /// is not prepared, and calling again returns the entry again.
    ///
    /// Cancel: safe.
    pub async fn prepare(&self) -> Result<Option<Entry>, Error> {
        let _files = self.io.acquire(1).await;
        self.check_failed()?;
        if self.is_prepared() {
            return Ok(None);
        }
        self.load_indexer().await?;
        let (base, start, end) = {
            let state = self.state.borrow();
            let segment = state.oldest_open();
            (
                segment.base,
                state.destaged.destaged_position,
                segment.end_position,
            )
        };
        if start == end {
            rt::mark("open: nothing to carry");
            self.state.borrow_mut().is_prepared = true;
            return Ok(None);
        }
        rt::mark("open: last block carried");
        let file = self.open_segment_file(base).await?;
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        let bytes = file.read_exact(start, len).await?;
        self.tail.borrow_mut().set_fragment(start, bytes, None);
        Ok(Some(self.carry_entry(&self.state.borrow(), start)))
    }

    /// The oldest open segment's file, for reading.
    pub(super) async fn open_segment_file(&self, base: Offset) -> Result<SegmentFile, Error> {
        let pin = self.pin(base)?;
        let path = self.path(base, FileKind::Log);
        let file = self
            .context
            .open_direct(self.key(base), &path, false)
            .await?;
        Ok(SegmentFile::Direct(file, pin))
    }

    /// Brings the indexes of the oldest open segment into memory, as far as its batches are in the
    /// file.
    ///
    /// Cancel: safe.
    pub(super) async fn load_indexer(&self) -> Result<(), Error> {
        let (base, end, counts, max_timestamp) = {
            let state = self.state.borrow();
            if state.oldest_open().indexer.is_some() {
                return Ok(());
            }
            let found = &state.destaged;
            let counts = (found.offset_index_entries, found.time_index_entries);
            (
                state.oldest_open().base,
                found.end_position,
                counts,
                found.max_timestamp,
            )
        };
        let interval = self.settings().index_interval_bytes;
        let indexer =
            if let Some(indexes) = read_indexes(&self.dir, base, end, Some(counts)).await? {
                Indexer::resume(base, interval, end, max_timestamp, indexes)
            } else {
                let file = self.open_segment_file(base).await?;
                let indexer = index_segment(file, base, end, interval).await?;
                write_indexes(&self.dir, base, &indexer).await?;
                indexer
            };
        let counts = (indexer.offsets().count(), indexer.times().count());
        let mut state = self.state.borrow_mut();
        let segment = state.oldest_open_mut();
        if segment.base == base && segment.indexer.is_none() {
            segment.indexer = Some(indexer);
            state.set_index_counts(counts);
        }
        Ok(())
    }
}

/// Makes sure that the directory belongs to `topic`, and says so in it.
async fn check_topic(dir: &Path, listing: &Listing, topic: TopicId) -> Result<(), Error> {
    let path = dir.join(partition_metadata::FILE_NAME);
    match listing.topic() {
        Some(found) if found == topic => return Ok(()),
        Some(found) => {
            return Err(Error::ForeignTopic {
                path: dir.to_owned(),
                found,
                expected: topic,
            });
        }
        None if listing.metadata.is_some() => {
            tracing::warn!(path = %path.display(), "unreadable topic id, written again");
            return Ok(fs::write_atomic(&path, partition_metadata::encode(topic)).await?);
        }
        None => {}
    }
    fs::create_dir_all(dir).await?;
    fs::write_new(&path, partition_metadata::encode(topic)).await?;
    // A start adopts a directory that does not say whose it is: it must not be found like that once
    // the topic is deleted.
    Ok(fs::sync_dir(dir).await?)
}

pub(super) async fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Both indexes of a segment from their files, cut to `counts` where given; none when they are not
/// usable. Without `counts` both files have to be there.
pub(super) async fn read_indexes(
    dir: &Path,
    base: Offset,
    segment_bytes: u64,
    counts: Option<(u32, u32)>,
) -> Result<Option<(OffsetIndex, TimeIndex)>, Error> {
    let kinds = [FileKind::OffsetIndex, FileKind::TimeIndex];
    let paths = kinds.map(|kind| dir.join(file_name(base, kind)));
    let mut files = fs::read_each(paths.into()).await?.into_iter();
    let (offsets, times) = (files.next().flatten(), files.next().flatten());
    if counts.is_none() && (offsets.is_none() || times.is_none()) {
        return Ok(None);
    }
    // an open segment without entries has no index files yet
    let offsets = OffsetIndex::decode(&offsets.unwrap_or_default(), segment_bytes);
    let times = TimeIndex::decode(&times.unwrap_or_default());
    let (Ok(mut offsets), Ok(mut times)) = (offsets, times) else {
        return Ok(None);
    };
    if let Some((offset_entries, time_entries)) = counts {
        let count = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        let is_whole = offsets.keep(count(offset_entries)) && times.keep(count(time_entries));
        return Ok(is_whole.then_some((offsets, times)));
    }
    Ok(Some((offsets, times)))
}

/// Builds the indexes of a segment from its batches.
pub(super) async fn index_segment(
    file: SegmentFile,
    base: Offset,
    end: FilePosition,
    interval_bytes: u64,
) -> Result<Indexer, Error> {
    let mut indexer = Indexer::new(base, interval_bytes);
    let mut scan = Scan::new(file, 0, end, CHUNK_BYTES_LARGE);
    while let Some(scanned) = scan.next().await? {
        indexer.push(&scanned.header, scanned.position);
        rt::yield_if_needed().await;
    }
    indexer.finish();
    Ok(indexer)
}

/// Writes both indexes of a segment, exactly.
pub(super) async fn write_indexes(
    dir: &Path,
    base: Offset,
    indexer: &Indexer,
) -> Result<(), Error> {
    let offsets = indexer.offsets().encode_from(0);
    fs::write_atomic(dir.join(file_name(base, FileKind::OffsetIndex)), offsets).await?;
    let times = indexer.times().encode_from(0);
    Ok(fs::write_atomic(dir.join(file_name(base, FileKind::TimeIndex)), times).await?)
}

/// Derives where the log stands from the batches of its last segment, cuts off a torn end, and
/// writes the result down.
async fn rebuild(
    dir: &Path,
    listing: &Listing,
    settings: &LogSettings,
    (base, len): (Offset, u64),
) -> Result<LogCheckpoint, Error> {
    tracing::info!(dir = %dir.display(), "reading the last segment: no usable log state");
    let scanned = scan_segment(dir, listing, settings, base, len).await?;
    let (mut found, mut indexer) = (scanned.found, scanned.indexer);
    if let Some(error) = scanned.stopped {
        let path = dir.join(file_name(base, FileKind::Log));
        let file = SegmentFile::Shared(SharedFile::open(&path).await?);
        check_torn(&file, found.end_position, len, error).await?;
        drop(file);
        cut(&path, len, found.end_position).await?;
    }
    indexer.finish();
    let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
    found.offset_index_entries = count(indexer.offsets().count());
    found.time_index_entries = count(indexer.times().count());
    write_indexes(dir, base, &indexer).await?;
    fs::write_atomic(dir.join(checkpoint::FILE_NAME), found.encode_file()).await?;
    Ok(found)
}

/// What the batches of a segment say.
pub(super) struct Scanned {
    /// Where the log stands behind the last intact one. Its index counts are zero.
    pub(super) found: LogCheckpoint,
    /// Their indexes.
    pub(super) indexer: Indexer,
    /// The damage behind which nothing was looked at.
    pub(super) stopped: Option<Error>,
}

/// Reads and checks the batches of the segment at `base`, of `len` bytes.
pub(super) async fn scan_segment(
    dir: &Path,
    listing: &Listing,
    settings: &LogSettings,
    base: Offset,
    len: u64,
) -> Result<Scanned, Error> {
    let mut found = LogCheckpoint::empty_at(base);
    found.is_dense = false;
    let first = listing.logs.first_key_value();
    found.log_start = first.map_or(base, |(first, _)| *first);
    found.epochs = read_epochs(dir).await?;
    let path = dir.join(file_name(base, FileKind::Log));
    let file = SegmentFile::Shared(SharedFile::open(&path).await?);
    let mut indexer = Indexer::new(base, settings.index_interval_bytes);
    let mut scan = Scan::new(file, 0, len, CHUNK_BYTES_LARGE);
    let stopped = loop {
        let (scanned, _) = match scan.next_checked().await {
            Ok(Some(next)) => next,
            Ok(None) => break None,
            Err(error @ Error::Corrupt { .. }) => break Some(error),
            Err(error) => return Err(error),
        };
        let header = scanned.header;
        if header.base_offset < found.next_offset {
            let damage = Damage::OffsetOrder {
                expected: found.next_offset,
                got: header.base_offset,
            };
            break Some(Error::corrupt(path, scanned.position, damage));
        }
        indexer.push(&header, scanned.position);
        found.epochs.assign(header.leader_epoch, header.base_offset);
        found.first_timestamp = found
            .first_timestamp
            .or(Some(header.max_timestamp).filter(|time| *time >= 0));
        found.end_position = scanned.end_position();
        found.next_offset = header.next_offset();
    };
    found.epochs.truncate_end(found.next_offset);
    found.max_timestamp = indexer.max_timestamp();
    found.producers = rebuild_producers(dir, listing, &found).await?;
    Ok(Scanned {
        found,
        indexer,
        stopped,
    })
}

/// The newest leader epoch of a directory that a Kafka broker wrote.
pub async fn latest_epoch(
    dir: &Path,
    settings: &LogSettings,
) -> Result<Option<LeaderEpoch>, Error> {
    let listing = Listing::read(dir).await?;
    let Some((base, len)) = listing.logs.last_key_value() else {
        return Ok(read_epochs(dir).await?.latest());
    };
    let scanned = scan_segment(dir, &listing, settings, *base, *len).await?;
    Ok(scanned.found.epochs.latest())
}

/// Decides whether damage at `position` is a torn end, which is cut off, or lies before intact
/// batches.
async fn check_torn(
    file: &SegmentFile,
    position: FilePosition,
    len: u64,
    error: Error,
) -> Result<(), Error> {
    if let Error::Corrupt {
        damage: Damage::OffsetOrder { .. },
        ..
    } = error
    {
        return Err(error); // the batch itself is intact
    }
    let mut behind = Scan::new(file.clone(), position, len, CHUNK_BYTES_LARGE);
    if let Ok(Some(_)) = behind.next().await
        && let Ok(Some(_)) = behind.next_checked().await
    {
        return Err(error); // an intact batch follows: this was not the end of a write
    }
    tracing::warn!(
        path = %file.path().display(), position, lost_bytes = len - position, %error,
        "cutting off the torn end of the log"
    );
    Ok(())
}

/// Cuts a segment to its whole batches, durably.
async fn cut(path: &Path, len: u64, end: FilePosition) -> Result<(), Error> {
    if end < len {
        rt::mark("open: torn end cut");
        let options = rt::OpenOptions::direct();
        let file = rt::File::open(path, &options).await?;
        file.truncate(end).await?;
        file.fdatasync().await?;
        file.close().await?;
    }
    Ok(())
}

async fn read_epochs(dir: &Path) -> Result<LeaderEpochs, Error> {
    let path = dir.join(leader_epochs::FILE_NAME);
    let Some(bytes) = read_if_there(&path).await? else {
        return Ok(LeaderEpochs::default());
    };
    let decoded = std::str::from_utf8(&bytes).ok().map(LeaderEpochs::decode);
    if let Some(Ok(epochs)) = decoded {
        Ok(epochs)
    } else {
        tracing::warn!(path = %path.display(), "unreadable, epochs are taken from the batches");
        Ok(LeaderEpochs::default())
    }
}

/// The producers of the batches below `found.next_offset`: the last usable snapshot and the batches
/// above it.
pub(super) async fn rebuild_producers(
    dir: &Path,
    listing: &Listing,
    found: &LogCheckpoint,
) -> Result<ProducerStates, Error> {
    let (mut states, mut from) = (ProducerStates::default(), Offset::ZERO);
    for offset in listing.snapshots.range(..=found.next_offset).rev() {
        let path = dir.join(file_name(*offset, FileKind::Snapshot));
        match producer_snapshot::decode(&fs::read(&path).await?) {
            Ok(snapshot) => {
                (states, from) = (snapshot, *offset);
                break;
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "snapshot not used"),
        }
    }
    // the snapshot may be that of the segment behind
    let first = listing
        .logs
        .range(..=from.min(found.segment_base))
        .next_back()
        .map_or(Offset::ZERO, |(base, _)| *base);
    for (base, len) in listing.logs.range(first..=found.segment_base) {
        let is_last = *base == found.segment_base;
        let end = if is_last { found.end_position } else { *len };
        let path = dir.join(file_name(*base, FileKind::Log));
        let file = SegmentFile::Shared(SharedFile::open(path).await?);
        let mut scan = Scan::new(file, 0, end, CHUNK_BYTES_LARGE);
        while let Some(scanned) = scan.next().await? {
            if scanned.header.base_offset < from {
                continue;
            }
            let bytes = if scanned.header.is_control() {
                scan.batch(&scanned).await?
            } else {
                Bytes::new()
            };
            include_producer(&mut states, &scanned.header, &bytes);
            rt::yield_if_needed().await;
        }
    }
    Ok(states)
}

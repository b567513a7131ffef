//! Recovery of one partition: its journal entries applied to its directory.
//!
//! Runs on: one shard, at start.        Owner: `Recovery`.
//! Promises: see `recovery.rs`. Nothing here flushes; the caller does, once for all partitions.
//! Invariants: [replay-absolute] [replay-gap].
//!
//! The *base* is where the log was known to stand: the journal checkpoint's record, else
//! `partition.state`, else empty. An entry may be older than the base: bytes below the base's
//! destaged position are skipped, and so are batches below its end. A truncation that is in the
//! base already takes everything back to its cut, or to the base if that is above: entries before
//! it may have been of the cut-off end; what followed it comes again behind it. The journal frees
//! its ring by coarse marks, so that entries from before the base may come with holes between them:
//! only what joins counts, and a hole is an error only if nothing that follows makes good for it.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::checkpoint::{LogCheckpoint, align_down};
use super::error::{Damage, Error};
use super::file_names::{FileKind, file_name};
use super::indexer::{Indexer, MaxTimestamp};
use super::leader_epochs;
use super::log::include_producer;
use super::open::{Listing, index_segment, read_indexes, read_state, rebuild_producers};
use super::producer_snapshot;
use super::scan::{CHUNK_BYTES_LARGE, Scan, SegmentFile};
use super::settings::LogSettings;
use super::{offset_index, partition_metadata, time_index};
use crate::journal::entry::{Entry, EntryKind};
use crate::model::ids::TopicPartition;
use crate::model::offset::{FilePosition, Offset};
use crate::model::record_batch::{BatchHeader, iter_batches};
use crate::rt::{File, IoBuf, OpenOptions, SharedFile, fs};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// One partition under recovery.
pub(super) struct PartitionReplay {
    topic_partition: TopicPartition,
    dir: PathBuf,
    settings: LogSettings,
    base: LogCheckpoint,
    /// Where the log stands now.
    at: LogCheckpoint,
    /// Bytes of the current segment exist up to here, without a hole; may be above
    /// `at.end_position`.
    written_end: FilePosition,
    /// Bytes not written yet, and where they belong.
    buffer: Vec<u8>,
    buffer_position: FilePosition,
    file: Option<File>,
    indexer: Option<Indexer>,
    /// Why entries do not join what is there; forgiven by carried bytes, and by a truncation that
    /// is in the base.
    gap: Option<Error>,
    /// Why a truncation could not be repeated; forgiven by a later one.
    broken: Option<Error>,
    /// The base's segment lacks bytes that the base has: fine only if retention had removed it, so
    /// if its end, known once the log rolled, is at or below the log start.
    hollow: Option<Hollow>,
}

/// A segment with missing bytes.
struct Hollow {
    error: Error,
    next_offset: Option<Offset>,
}

impl PartitionReplay {
    pub(super) async fn load(
        topic_partition: TopicPartition,
        dir: PathBuf,
        settings: LogSettings,
        record: Option<LogCheckpoint>,
    ) -> Result<Self, Error> {
        fs::create_dir_all(&dir).await?;
        let metadata = dir.join(partition_metadata::FILE_NAME);
        if !fs::exists(&metadata).await? {
            let text = partition_metadata::encode(topic_partition.topic);
            write_plain(&metadata, 0, text.as_bytes()).await?;
        }
        let mut base = if let Some(record) = record {
            record
        } else {
            let state = read_state(&dir).await?;
            state.unwrap_or_else(|| LogCheckpoint::empty_at(Offset::ZERO))
        };
        base.destaged_position = align_down(base.destaged_position);
        let listing = Listing::read(&dir).await?;
        let len = listing.logs.get(&base.segment_base).copied().unwrap_or(0);
        let known = base.destaged_position.max(base.end_position);
        let hollow = (len < base.destaged_position).then(|| {
            let path = dir.join(file_name(base.segment_base, FileKind::Log));
            let damage = Damage::Short {
                missing: base.destaged_position - len,
            };
            Hollow {
                error: Error::corrupt(path, len, damage),
                next_offset: None,
            }
        });
        Ok(Self {
            topic_partition,
            dir,
            settings,
            at: base.clone(),
            written_end: known,
            base,
            buffer: Vec::new(),
            buffer_position: 0,
            file: None,
            indexer: None,
            gap: None,
            broken: None,
            hollow,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it holds buffers, indexes or files.
    pub(super) const fn is_held(&self) -> bool {
        self.file.is_some() || self.indexer.is_some() || !self.buffer.is_empty()
    }

    /// Memory that it holds for indexes.
    pub(super) fn index_bytes(&self) -> usize {
        self.indexer.as_ref().map_or(0, |indexer| {
            indexer.offsets().count() * 8 + indexer.times().count() * 16
        })
    }

    pub(super) async fn apply(&mut self, entry: Entry) -> Result<(), Error> {
        match entry.kind {
            EntryKind::LogStart => {
                self.at.log_start = self.at.log_start.max(entry.base_offset);
                self.base.log_start = self.base.log_start.max(entry.base_offset);
                Ok(())
            }
            EntryKind::Truncate => self.truncate(&entry).await,
            EntryKind::Append | EntryKind::Carry if self.is_cut_off(&entry) => Ok(()),
            EntryKind::Append | EntryKind::Carry => match self.write(entry).await {
                Err(error @ Error::Corrupt { .. }) => {
                    self.gap = Some(error);
                    Ok(())
                }
                other => other,
            },
            EntryKind::Bypass { .. } => Err(Error::UnsupportedEntry {
                topic_partition: self.topic_partition,
            }),
            EntryKind::Delete => Ok(()),
        }
    }

    /// Whether entries are missing before this one. Carried bytes are everything that is in no
    /// segment, so where they join, it does not matter what was missing: the ring before them had
    /// been freed.
    fn is_cut_off(&mut self, entry: &Entry) -> bool {
        let joins = entry.kind == EntryKind::Carry
            && entry.segment_base == self.at.segment_base
            && entry.file_position <= self.written_end;
        if joins {
            self.gap = None;
        }
        self.gap.is_some() || self.broken.is_some()
    }

    async fn write(&mut self, entry: Entry) -> Result<(), Error> {
        if entry.segment_base < self.at.segment_base {
            return Ok(()); // sealed before the base
        }
        if entry.segment_base > self.at.segment_base {
            self.roll_to(&entry).await?;
        }
        let start = entry.file_position;
        let payload = entry.payload.into_bytes();
        let end = start + to_u64(payload.len());
        if start > self.written_end {
            let path = self.path(FileKind::Log);
            return Err(Error::corrupt(
                path,
                self.written_end,
                Damage::Gap { next: start },
            ));
        }
        let flushed = self.flushed_position();
        let skip = usize::try_from(flushed.saturating_sub(start)).unwrap_or(usize::MAX);
        if let Some(bytes) = payload.get(skip..).filter(|bytes| !bytes.is_empty()) {
            self.put(start.max(flushed), bytes).await?;
        }
        self.written_end = self.written_end.max(end);
        if end <= self.at.end_position {
            return Ok(());
        }
        self.load_indexer().await?;
        if start == self.at.end_position {
            return self.include_all(&payload);
        }
        // a carried stretch that begins inside a batch: its header is in the file
        self.flush().await?;
        self.include_from_file().await
    }

    /// Bytes below are flushed and must not be written again.
    fn flushed_position(&self) -> FilePosition {
        if self.at.segment_base != self.base.segment_base {
            return 0;
        }
        let flushed = self.base.destaged_position;
        // of a segment that retention removed, the batch at the base's end is written whole again
        if self.hollow.is_some() {
            flushed.min(self.base.end_position)
        } else {
            flushed
        }
    }

    async fn put(&mut self, position: FilePosition, bytes: &[u8]) -> Result<(), Error> {
        if self.buffer_position + to_u64(self.buffer.len()) != position {
            self.flush().await?;
        }
        if self.buffer.is_empty() {
            self.buffer_position = position;
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        let position = self.buffer_position;
        let file = self.file().await?;
        Ok(write_at(&file, position, &bytes).await?)
    }

    /// The current segment's file, through the page cache: nothing is written directly beside it,
    /// and all of it is flushed before anything is.
    async fn file(&mut self) -> Result<File, Error> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let file = File::open(self.path(FileKind::Log), &PLAIN).await?;
        self.file = Some(file.clone());
        Ok(file)
    }

    fn include_all(&mut self, batches: &[u8]) -> Result<(), Error> {
        for next in iter_batches(batches) {
            let position = self.at.end_position;
            let (header, batch) = next.map_err(|error| self.corrupt(position, error))?;
            self.include(&header, batch)?;
        }
        Ok(())
    }

    async fn include_from_file(&mut self) -> Result<(), Error> {
        let file = SegmentFile::Shared(SharedFile::open(self.path(FileKind::Log)).await?);
        let mut scan = Scan::new(
            file,
            self.at.end_position,
            self.written_end,
            CHUNK_BYTES_LARGE,
        );
        while let Some(scanned) = scan.next().await? {
            let is_control = scanned.header.is_control();
            let batch = if is_control {
                scan.batch(&scanned).await?
            } else {
                Bytes::new()
            };
            self.include(&scanned.header, &batch)?;
        }
        Ok(())
    }

    fn include(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), Error> {
        let position = self.at.end_position;
        if header.base_offset != self.at.next_offset {
            let damage = Damage::OffsetOrder {
                expected: self.at.next_offset,
                got: header.base_offset,
            };
            return Err(self.corrupt(position, damage));
        }
        self.at.max_timestamp.include(header);
        let first = Some(header.max_timestamp).filter(|timestamp| *timestamp >= 0);
        self.at.first_timestamp = self.at.first_timestamp.or(first);
        self.at
            .epochs
            .assign(header.leader_epoch, header.base_offset);
        include_producer(&mut self.at.producers, header, batch);
        if let Some(indexer) = &mut self.indexer {
            indexer.push(header, position);
        }
        self.at.end_position = position + to_u64(header.total_size());
        self.at.next_offset = header.next_offset();
        Ok(())
    }

    /// Brings the indexes of the current segment into memory, up to `at`.
    async fn load_indexer(&mut self) -> Result<(), Error> {
        if self.indexer.is_some() {
            return Ok(());
        }
        let (base, end) = (self.at.segment_base, self.at.end_position);
        let interval = self.settings.index_interval_bytes;
        let counts = (self.at.offset_index_entries, self.at.time_index_entries);
        let found = read_indexes(&self.dir, base, end, Some(counts)).await?;
        let is_hollow = self.hollow.is_some() && base == self.base.segment_base;
        let found = found.or_else(|| is_hollow.then(Default::default));
        let indexer = if let Some(indexes) = found {
            Indexer::resume(base, interval, end, self.at.max_timestamp, indexes)
        } else {
            self.at.offset_index_entries = 0;
            self.at.time_index_entries = 0;
            self.flush().await?;
            let file = SharedFile::open(self.path(FileKind::Log)).await?;
            index_segment(SegmentFile::Shared(file), base, end, interval).await?
        };
        self.indexer = Some(indexer);
        Ok(())
    }

    /// Completes the current segment and goes on with the one that `entry` belongs to.
    async fn roll_to(&mut self, entry: &Entry) -> Result<(), Error> {
        let is_whole = self.at.end_position >= self.flushed_position();
        if entry.segment_base != self.at.next_offset || entry.file_position != 0 || !is_whole {
            let next = entry.file_position;
            return Err(self.corrupt(self.at.end_position, Damage::Gap { next }));
        }
        self.complete_segment().await?;
        self.start_segment(entry.segment_base);
        Ok(())
    }

    fn start_segment(&mut self, base: Offset) {
        if let Some(hollow) = &mut self.hollow {
            hollow.next_offset.get_or_insert(base);
        }
        let at = &mut self.at;
        *at = LogCheckpoint {
            log_start: at.log_start,
            truncations: at.truncations,
            epochs: std::mem::take(&mut at.epochs),
            producers: std::mem::take(&mut at.producers),
            ..LogCheckpoint::empty_at(base)
        };
        self.written_end = 0;
        self.indexer = Some(Indexer::new(base, self.settings.index_interval_bytes));
    }

    /// Exact length, exact indexes, and the producer snapshot at the end of the current segment.
    async fn complete_segment(&mut self) -> Result<(), Error> {
        if self.at.end_position == 0 {
            return Ok(());
        }
        self.load_indexer().await?;
        self.flush().await?;
        let end = self.at.end_position;
        let file = self.file().await?;
        let len = file.len().await?;
        if len < end {
            return Err(self.corrupt(len, Damage::Short { missing: end - len }));
        }
        file.truncate(end).await?;
        if let Some(indexer) = &mut self.indexer {
            indexer.finish();
        }
        self.write_indexes().await?;
        let path = self
            .dir
            .join(file_name(self.at.next_offset, FileKind::Snapshot));
        write_plain(&path, 0, &producer_snapshot::encode(&self.at.producers)).await?;
        self.file = None;
        file.close().await?;
        Ok(())
    }

    /// Appends the index entries that are not in the index files yet; cuts the files behind them.
    async fn write_indexes(&mut self) -> Result<(), Error> {
        let Some(indexer) = &self.indexer else {
            return Ok(());
        };
        let count = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        let first = count(self.at.offset_index_entries);
        let position = first * offset_index::ENTRY_BYTES;
        let bytes = indexer.offsets().encode_from(first);
        write_plain(&self.path(FileKind::OffsetIndex), to_u64(position), &bytes).await?;
        let first = count(self.at.time_index_entries);
        let position = first * time_index::ENTRY_BYTES;
        let bytes = indexer.times().encode_from(first);
        write_plain(&self.path(FileKind::TimeIndex), to_u64(position), &bytes).await?;
        let entries = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.at.offset_index_entries = entries(indexer.offsets().count());
        self.at.time_index_entries = entries(indexer.times().count());
        Ok(())
    }

    /// Writes out and closes what it holds.
    pub(super) async fn put_aside(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.write_indexes().await?;
        self.indexer = None;
        if let Some(file) = self.file.take() {
            file.close().await?;
        }
        Ok(())
    }

    async fn truncate(&mut self, entry: &Entry) -> Result<(), Error> {
        let number = u64::try_from(entry.base_offset.get()).unwrap_or(0);
        self.flush().await?;
        self.indexer = None;
        if let Some(file) = self.file.take() {
            file.close().await?;
        }
        let cut = (entry.segment_base, entry.file_position);
        let base_end = (self.base.segment_base, self.base.end_position);
        let at_end = (self.at.segment_base, self.at.end_position);
        let is_new = number > self.base.truncations;
        if self.gap.is_none() && cut > base_end && cut <= at_end {
            // the base is below the cut: what lies between came before it
            self.rewind_to(entry).await?;
        } else if is_new {
            match self.cut(entry).await {
                Ok(()) => {
                    self.hollow = None;
                    self.broken = None;
                }
                Err(error @ Error::Corrupt { .. }) => {
                    // a later truncation may have removed what this one needs; it repeats it all
                    self.broken = Some(error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        } else {
            self.at = self.base.clone();
            self.written_end = self.at.destaged_position.max(self.at.end_position);
            if let Some(hollow) = &mut self.hollow {
                hollow.next_offset = None;
            }
            remove_above(&self.dir, self.at.segment_base, self.at.next_offset).await?;
        }
        self.gap = None;
        if is_new {
            self.at.truncations = number;
            self.base = self.at.clone();
        }
        Ok(())
    }

    /// Goes back to the base and from there to the cut, by what the files hold by now.
    async fn rewind_to(&mut self, entry: &Entry) -> Result<(), Error> {
        self.at = self.base.clone();
        if let Some(hollow) = &mut self.hollow {
            hollow.next_offset = None;
        }
        loop {
            let is_last = self.at.segment_base == entry.segment_base;
            self.written_end = match is_last {
                true => entry.file_position,
                false => fs::file_len(self.path(FileKind::Log)).await?,
            };
            self.load_indexer().await?;
            if self.written_end > self.at.end_position {
                self.include_from_file().await?;
            }
            if is_last {
                break;
            }
            self.complete_segment().await?;
            self.start_segment(self.at.next_offset);
        }
        let file = self.file().await?;
        file.truncate(entry.file_position).await?;
        self.at.destaged_position = align_down(entry.file_position);
        remove_above(&self.dir, entry.segment_base, entry.next_offset).await
    }

    /// Cuts off part of the base. The segment is read again: truncations are rare.
    async fn cut(&mut self, entry: &Entry) -> Result<(), Error> {
        let (base, end) = (entry.segment_base, entry.file_position);
        let path = self.dir.join(file_name(base, FileKind::Log));
        if end > 0 || fs::exists(&path).await? {
            let file = File::open(&path, &PLAIN).await?;
            if file.len().await? < end {
                let missing = end - file.len().await?;
                return Err(Error::corrupt(
                    path,
                    end - missing,
                    Damage::Short { missing },
                ));
            }
            file.truncate(end).await?;
            file.close().await?;
        }
        remove_above(&self.dir, base, entry.next_offset).await?;
        let mut at = LogCheckpoint {
            log_start: self.at.log_start.min(entry.next_offset),
            destaged_position: align_down(end),
            end_position: end,
            next_offset: entry.next_offset,
            truncations: self.at.truncations,
            epochs: self.at.epochs.clone(),
            ..LogCheckpoint::empty_at(base)
        };
        at.epochs.truncate_end(entry.next_offset);
        if end > 0 {
            let file = SegmentFile::Shared(SharedFile::open(&path).await?);
            let interval = self.settings.index_interval_bytes;
            let indexer = index_segment(file, base, end, interval).await?;
            at.max_timestamp = indexer.max_timestamp();
            at.first_timestamp =
                Some(at.max_timestamp.timestamp).filter(|timestamp| *timestamp >= 0);
            self.indexer = Some(indexer);
        } else {
            at.max_timestamp = MaxTimestamp::NONE;
        }
        at.producers = rebuild_producers(&self.dir, &Listing::read(&self.dir).await?, &at).await?;
        self.at = at;
        self.written_end = end;
        Ok(())
    }

    /// Completes the directory, but for `partition.state`, whose content it returns.
    pub(super) async fn complete(&mut self) -> Result<LogCheckpoint, Error> {
        if let Some(gap) = self.broken.take().or(self.gap.take()) {
            return Err(gap);
        }
        let at = &mut self.at;
        at.log_start = at.log_start.min(at.next_offset);
        at.epochs.truncate_start(at.log_start);
        let log_start = at.log_start;
        if let Some(Hollow { error, next_offset }) = self.hollow.take()
            && next_offset.is_none_or(|end| end > log_start)
        {
            return Err(error);
        }
        self.complete_segment().await?;
        let (base, next_offset) = (self.at.segment_base, self.at.next_offset);
        remove_above(&self.dir, base, next_offset).await?;
        let epochs = self.dir.join(leader_epochs::FILE_NAME);
        write_plain(&epochs, 0, self.at.epochs.encode().as_bytes()).await?;
        self.indexer = None;
        self.at.destaged_position = align_down(self.at.end_position);
        Ok(self.at.clone())
    }

    fn path(&self, kind: FileKind) -> PathBuf {
        self.dir.join(file_name(self.at.segment_base, kind))
    }

    fn corrupt(&self, position: FilePosition, damage: impl Into<Damage>) -> Error {
        Error::corrupt(self.path(FileKind::Log), position, damage)
    }
}

const PLAIN: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: true,
    create_new: false,
    direct: false,
    dsync: false,
};

/// Removes the segments above the one at `base` and the snapshots above `next_offset`: the log ends
/// before.
pub(super) async fn remove_above(
    dir: &Path,
    base: Offset,
    next_offset: Offset,
) -> Result<(), Error> {
    let listing = Listing::read(dir).await?;
    for (above, _) in listing.logs.range(base.next()..) {
        for kind in FileKind::ALL {
            let path = dir.join(file_name(*above, kind));
            if kind != FileKind::Snapshot && fs::exists(&path).await? {
                fs::remove_file(&path).await?;
            }
        }
    }
    for offset in listing.snapshots.range(next_offset.next()..) {
        fs::remove_file(dir.join(file_name(*offset, FileKind::Snapshot))).await?;
    }
    Ok(())
}

/// Writes `bytes` at `position` and cuts the file behind them; nothing is flushed.
pub(super) async fn write_plain(path: &Path, position: u64, bytes: &[u8]) -> Result<(), Error> {
    let file = File::open(path, &PLAIN).await?;
    write_at(&file, position, bytes).await?;
    file.truncate(position + to_u64(bytes.len())).await?;
    Ok(file.close().await?)
}

async fn write_at(file: &File, position: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut position = position;
    for chunk in bytes.chunks(BUFFER_BYTES) {
        let mut buffer = IoBuf::alloc(chunk.len()).await;
        if let Some(room) = buffer.get_mut(..chunk.len()) {
            room.copy_from_slice(chunk);
        }
        file.write_at(buffer, chunk.len(), position).await?;
        position += to_u64(chunk.len());
    }
    Ok(())
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

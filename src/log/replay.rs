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
use super::file_names::{FileKind, TEMPORARY_SUFFIX, file_name};
use super::indexer::{Indexer, MaxTimestamp};
use super::leader_epochs;
use super::log::include_producer;
use super::open::{Listing, index_segment, read_indexes, rebuild_producers, scan_segment};
use super::producer_snapshot;
use super::recovery::{BaseFrom, Idle};
use super::scan::{CHUNK_BYTES_LARGE, Scan, SegmentFile};
use super::settings::LogSettings;
use super::writes::PendingWrites;
use super::{offset_index, partition_metadata, time_index};
use crate::breaks::{self, Break};
use crate::journal::entry::{Entry, EntryKind};
use crate::model::ids::TopicPartition;
use crate::model::offset::{FilePosition, Offset};
use crate::model::record_batch::{BatchHeader, iter_batches};
use crate::rt::{SharedFile, fs, mark};

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
    /// The directory as it was found.
    listing: Listing,
    /// Length of the current segment's file, once `writes` are carried out.
    file_len: u64,
    writes: PendingWrites,
    indexer: Option<Indexer>,
    /// Why entries do not join what is there; forgiven by carried bytes, and by a truncation that
    /// is in the base.
    gap: Option<Error>,
    /// Why a truncation could not be repeated; forgiven by a later one.
    broken: Option<Error>,
    /// Durable blocks of the journal are missing, and nothing has shown so far that this log had no
    /// entries in them.
    doubt: Option<Error>,
    /// Whatever does not join is given up.
    accepts_loss: bool,
    /// The base tells where the log starts, as opposed to the segments.
    knows_start: bool,
    /// There was something to take as the base: nothing means a log without segments.
    has_base: bool,
    /// The base's segment, as it was found.
    first_segment: Offset,
    /// The base's segment lacks bytes that the base has: fine only if retention had removed it, so
    /// if its end, known once the log rolled, is at or below the log start.
    hollow: Option<Hollow>,
}

/// A segment with missing bytes.
struct Hollow {
    segment_base: Offset,
    error: Error,
    next_offset: Option<Offset>,
}

impl PartitionReplay {
    /// Begins with a partition; `first` is its first entry.
    pub(super) async fn load(
        topic_partition: TopicPartition,
        idle: &mut Idle,
        first: Option<&Entry>,
    ) -> Result<Self, Error> {
        let (dir, settings) = (std::mem::take(&mut idle.dir), idle.settings);
        let mut writes = PendingWrites::default();
        let listing = Listing::read(&dir).await?;
        match listing.topic() {
            Some(found) if found == topic_partition.topic => {}
            Some(found) => {
                return Err(Error::ForeignTopic {
                    path: dir,
                    found,
                    expected: topic_partition.topic,
                });
            }
            None => {
                fs::create_dir_all(&dir).await?;
                let text = partition_metadata::encode(topic_partition.topic);
                writes.put_end(dir.join(partition_metadata::FILE_NAME), 0, text);
            }
        }
        // a record counts on the journal for what is above its destaged position; the others do not
        let is_record = idle.base_from == BaseFrom::Record && idle.record.is_some();
        mark(idle.base_name());
        let (found, indexer) = match idle.base_from {
            BaseFrom::Record => match idle.record.take() {
                Some(record) => (Some(record), None),
                None => (listing.state(&dir)?, None),
            },
            from => {
                let (base, indexer) = base_in_segments(&dir, &listing, idle, from, first).await?;
                (Some(base), indexer)
            }
        };
        let has_base = found.is_some();
        let mut base = found.unwrap_or_default();
        let len = listing.logs.get(&base.segment_base).copied().unwrap_or(0);
        let flushed = match is_record {
            true => base.destaged_position,
            false => base.destaged_position.max(base.end_position),
        };
        base.destaged_position = align_down(base.destaged_position);
        let first_segment = base.segment_base;
        let hollow = (len < flushed).then(|| {
            let path = dir.join(file_name(base.segment_base, FileKind::Log));
            let missing = flushed - len;
            Hollow {
                segment_base: base.segment_base,
                error: Error::corrupt(path, len, Damage::Short { missing }),
                next_offset: None,
            }
        });
        Ok(Self {
            topic_partition,
            dir,
            settings,
            at: base.clone(),
            written_end: base.destaged_position.max(base.end_position),
            base,
            listing,
            file_len: len,
            writes,
            indexer,
            gap: None,
            broken: None,
            doubt: None,
            accepts_loss: idle.base_from == BaseFrom::Intact,
            knows_start: idle.base_from == BaseFrom::Record,
            has_base,
            first_segment,
            hollow,
        })
    }

    /// Where the log ends by now.
    pub(super) const fn next_offset(&self) -> Offset {
        self.at.next_offset
    }

    /// Entries may be missing from here on.
    pub(super) fn doubt(&mut self, error: Error) {
        self.doubt.get_or_insert(error);
    }

    pub(super) async fn apply(&mut self, entry: Entry) -> Result<(), Error> {
        match entry.kind {
            EntryKind::LogStart if breaks::is_on(Break::ControlEntrySkipped) => Ok(()),
            EntryKind::Truncate if breaks::is_on(Break::TruncationSkipped) => Ok(()),
            EntryKind::LogStart => {
                mark("replay: log start moved");
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
                Ok(()) => {
                    // it joins what is there, so nothing before it is missing
                    self.doubt = None;
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
            mark(match self.gap {
                Some(_) => "replay: hole closed by carried bytes",
                None => "replay: carried bytes join",
            });
            self.gap = None;
        }
        self.gap.is_some() || self.broken.is_some()
    }

    async fn write(&mut self, entry: Entry) -> Result<(), Error> {
        if entry.segment_base < self.at.segment_base {
            mark("replay: entry of a segment before the base");
            return Ok(()); // sealed before the base
        }
        if entry.segment_base > self.at.segment_base {
            self.roll_to(&entry).await?;
        }
        let start = entry.file_position;
        let payload = entry.payload.into_bytes();
        let end = start + to_u64(payload.len());
        if start > self.written_end {
            mark("replay: hole before an entry");
            let path = self.path(FileKind::Log);
            return Err(Error::corrupt(
                path,
                self.written_end,
                Damage::Gap { next: start },
            ));
        }
        let flushed = self.flushed_position();
        let skip = usize::try_from(flushed.saturating_sub(start)).unwrap_or(usize::MAX);
        mark(match skip {
            0 => "replay: entry written",
            skip if skip < payload.len() => "replay: entry written in part",
            _ => "replay: entry flushed before",
        });
        if skip < payload.len() {
            self.put(start.max(flushed), payload.slice(skip..)).await?;
        }
        self.written_end = self.written_end.max(end);
        if end <= self.at.end_position {
            mark("replay: batches known to the base");
            return Ok(());
        }
        self.load_indexer().await?;
        if start == self.at.end_position {
            return self.include_all(&payload);
        }
        mark("replay: carried bytes inside a batch");
        // a carried stretch that begins inside a batch: its header is in the file
        self.writes.commit().await?;
        self.include_from_file().await
    }

    /// Bytes below are flushed and must not be written again.
    fn flushed_position(&self) -> FilePosition {
        if self.at.segment_base != self.base.segment_base {
            return 0;
        }
        let flushed = self.base.destaged_position;
        // of a segment that retention removed, the batch at the base's end is written whole again
        if self.is_hollow() {
            flushed.min(self.base.end_position)
        } else {
            flushed
        }
    }

    async fn put(&mut self, position: FilePosition, bytes: Bytes) -> Result<(), Error> {
        self.file_len = self.file_len.max(position + to_u64(bytes.len()));
        self.writes.put(self.log_path(), position, bytes);
        if self.writes.is_full() {
            self.writes.commit().await?;
        }
        Ok(())
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
        let file = SegmentFile::Shared(SharedFile::open(self.log_path()).await?);
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
        // a segment that was cut later, and filled again, has an index of other batches
        let next = self.at.next_offset;
        let is_before = |relative: Option<u32>| {
            relative.is_none_or(|relative| base.plus(i64::from(relative)) < next)
        };
        let found = found.filter(|(offsets, times)| {
            is_before(offsets.last().map(|entry| entry.relative_offset))
                && is_before(times.last().map(|entry| entry.relative_offset))
        });
        let found = found.or_else(|| self.is_hollow().then(Default::default));
        let indexer = if let Some(indexes) = found {
            mark("replay: index resumed");
            Indexer::resume(base, interval, end, self.at.max_timestamp, indexes)
        } else {
            mark("replay: index made anew");
            self.at.offset_index_entries = 0;
            self.at.time_index_entries = 0;
            self.writes.commit().await?;
            let file = SharedFile::open(self.log_path()).await?;
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
        mark("replay: segment begun");
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
            is_dense: at.is_dense,
            epochs: std::mem::take(&mut at.epochs),
            producers: std::mem::take(&mut at.producers),
            ..LogCheckpoint::empty_at(base)
        };
        self.written_end = 0;
        self.file_len = 0;
        self.indexer = Some(Indexer::new(base, self.settings.index_interval_bytes));
    }

    /// Exact length, exact indexes, and the producer snapshot at the end of the current segment.
    async fn complete_segment(&mut self) -> Result<(), Error> {
        if self.at.end_position == 0 {
            if self.accepts_loss && self.file_len > 0 {
                self.writes.cut(&self.log_path(), 0);
            }
            return Ok(());
        }
        self.load_indexer().await?;
        let end = self.at.end_position;
        if !self.is_hollow() {
            if self.file_len < end {
                let missing = end - self.file_len;
                return Err(self.corrupt(self.file_len, Damage::Short { missing }));
            }
            if self.file_len > end {
                mark("replay: segment cut to its batches");
            }
            self.writes.cut(&self.log_path(), end);
            self.file_len = end;
            if let Some(indexer) = &mut self.indexer {
                indexer.finish();
            }
            self.write_indexes();
        }
        let snapshot = file_name(self.at.next_offset, FileKind::Snapshot);
        let bytes = producer_snapshot::encode(&self.at.producers);
        self.writes.put_end(self.dir.join(snapshot), 0, bytes);
        Ok(())
    }

    /// Appends the index entries that are not in the index files yet; cuts the files behind them.
    fn write_indexes(&mut self) {
        let Some(indexer) = &self.indexer else {
            return;
        };
        let count = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        let first = count(self.at.offset_index_entries);
        let position = to_u64(first * offset_index::ENTRY_BYTES);
        let bytes = indexer.offsets().encode_from(first);
        let path = self.path(FileKind::OffsetIndex);
        self.writes.put_end(path, position, bytes);
        let first = count(self.at.time_index_entries);
        let position = to_u64(first * time_index::ENTRY_BYTES);
        let bytes = indexer.times().encode_from(first);
        let path = self.path(FileKind::TimeIndex);
        self.writes.put_end(path, position, bytes);
        let entries = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.at.offset_index_entries = entries(indexer.offsets().count());
        self.at.time_index_entries = entries(indexer.times().count());
    }

    /// Writes out what it holds, so that nothing but the state of the log stays in memory.
    pub(super) async fn put_aside(&mut self) -> Result<(), Error> {
        if !self.is_hollow() {
            self.write_indexes();
        }
        self.writes.commit().await?;
        self.indexer = None;
        Ok(())
    }

    async fn truncate(&mut self, entry: &Entry) -> Result<(), Error> {
        let number = u64::try_from(entry.base_offset.get()).unwrap_or(0);
        self.writes.commit().await?;
        self.indexer = None;
        let cut = (entry.segment_base, entry.file_position);
        let base_end = (self.base.segment_base, self.base.end_position);
        let at_end = (self.at.segment_base, self.at.end_position);
        let is_new = number > self.base.truncations;
        if self.gap.is_none() && cut > base_end && cut <= at_end {
            // the base is below the cut: what lies between came before it
            let repeated = self.rewind_to(entry).await;
            if !self.is_repeated(repeated)? {
                return Ok(());
            }
        } else if is_new {
            let repeated = self.cut(entry).await;
            if !self.is_repeated(repeated)? {
                return Ok(());
            }
            self.hollow = None;
        } else {
            self.return_to_base();
            self.written_end = self.at.destaged_position.max(self.at.end_position);
            self.file_len = self.measure().await?;
            if self.file_len > self.written_end {
                // a segment that is empty now would be found with what was cut off
                self.file_len = self.written_end;
                self.writes.cut(&self.log_path(), self.file_len);
            }
            remove_above(&self.dir, self.at.segment_base, self.at.next_offset).await?;
            self.broken = None;
        }
        self.gap = None;
        if is_new {
            self.at.truncations = number;
            self.base = self.at.clone();
        }
        Ok(())
    }

    /// Whether a truncation could be repeated. A later one may have removed, and what followed it
    /// overwritten, what this one needs: it will repeat it all.
    fn is_repeated(&mut self, repeated: Result<(), Error>) -> Result<bool, Error> {
        self.broken = match repeated {
            Ok(()) => None,
            Err(error @ Error::Corrupt { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        Ok(self.broken.is_none())
    }

    /// The base may be behind the hollow segment by now, whose end stays known then.
    fn return_to_base(&mut self) {
        self.at = self.base.clone();
        if self.is_hollow()
            && let Some(hollow) = &mut self.hollow
        {
            hollow.next_offset = None;
        }
    }

    /// Goes back to the base and from there to the cut, by what the files hold by now.
    async fn rewind_to(&mut self, entry: &Entry) -> Result<(), Error> {
        self.return_to_base();
        self.file_len = self.measure().await?;
        loop {
            let is_last = self.at.segment_base == entry.segment_base;
            self.written_end = match is_last {
                true => entry.file_position,
                false => self.measure().await?,
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
            self.file_len = self.measure().await?;
        }
        self.writes.cut(&self.log_path(), entry.file_position);
        self.file_len = entry.file_position;
        self.at.destaged_position = align_down(entry.file_position);
        remove_above(&self.dir, entry.segment_base, entry.next_offset).await
    }

    /// Cuts off part of the base. The segment is read again: truncations are rare.
    async fn cut(&mut self, entry: &Entry) -> Result<(), Error> {
        let (base, end) = (entry.segment_base, entry.file_position);
        let path = self.dir.join(file_name(base, FileKind::Log));
        let len = length_of(&path).await?;
        if len < end {
            let missing = end - len;
            return Err(Error::corrupt(path, len, Damage::Short { missing }));
        }
        if len > end {
            self.writes.cut(&path, end);
            self.writes.commit().await?;
        }
        remove_above(&self.dir, base, entry.next_offset).await?;
        let mut at = LogCheckpoint {
            log_start: self.at.log_start.min(entry.next_offset),
            destaged_position: align_down(end),
            end_position: end,
            next_offset: entry.next_offset,
            truncations: self.at.truncations,
            is_dense: self.at.is_dense,
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
        self.file_len = end;
        Ok(())
    }

    /// Completes the directory, but for the rename of `partition.state`, which is written under
    /// the name that it returns.
    pub(super) async fn complete(&mut self) -> Result<PathBuf, Error> {
        let doubt = self.doubt.take().or(self.broken.take());
        if let Some(error) = doubt.or(self.gap.take()) {
            if !self.accepts_loss {
                return Err(error);
            }
            tracing::warn!(%error, end = %self.at.next_offset, "the log ends here: loss accepted");
        }
        let at = &mut self.at;
        at.log_start = at.log_start.min(at.next_offset);
        at.epochs.truncate_start(at.log_start);
        let log_start = at.log_start;
        if let Some(Hollow {
            error, next_offset, ..
        }) = self.hollow.take()
        {
            if next_offset.is_none_or(|end| end > log_start) {
                return Err(error);
            }
            mark("replay: segment was removed by retention");
        }
        // what entries wrote from the start on may have had a name that a crash took back, while
        // it left that of a later segment
        let is_rewritten = self.has_all() && self.first_segment <= log_start;
        if self.knows_start && !is_rewritten {
            self.listing.check_start(&self.dir, log_start)?;
        }
        self.complete_segment().await?;
        let (base, next_offset) = (self.at.segment_base, self.at.next_offset);
        if self.has_all() && self.listing.reaches_above(base, next_offset) {
            mark("replay: files above the end removed");
            remove_above(&self.dir, base, next_offset).await?;
        }
        let epochs = self.at.epochs.encode();
        let path = self.dir.join(leader_epochs::FILE_NAME);
        self.writes.put_end(path, 0, epochs);
        self.indexer = None;
        self.at.destaged_position = align_down(self.at.end_position);
        let temporary = self.writes.put_state(&self.dir, self.at.encode_file());
        self.writes.commit().await?;
        Ok(temporary)
    }

    /// Whether the current segment is the one that lacks bytes. What comes for it goes to a file of
    /// another name: its own would look whole afterwards, with a hole in it.
    fn is_hollow(&self) -> bool {
        let hollow = self.hollow.as_ref();
        hollow.is_some_and(|hollow| hollow.segment_base == self.at.segment_base)
    }

    /// Where the current segment's batches go: through the page cache, and all of it is flushed
    /// before anything is written beside it.
    fn log_path(&self) -> PathBuf {
        let path = self.path(FileKind::Log);
        if !self.is_hollow() {
            return path;
        }
        let mut name = path.into_os_string();
        name.push(TEMPORARY_SUFFIX);
        PathBuf::from(name)
    }

    /// Whether base and entries together are the whole log. Without a base and without a batch from
    /// the entries, the segments know more, and opening the log reads them.
    fn has_all(&self) -> bool {
        self.has_base || self.at.end_position > 0 || self.at.segment_base > self.first_segment
    }

    async fn measure(&self) -> Result<u64, Error> {
        length_of(&self.log_path()).await
    }

    fn path(&self, kind: FileKind) -> PathBuf {
        self.dir.join(file_name(self.at.segment_base, kind))
    }

    fn corrupt(&self, position: FilePosition, damage: impl Into<Damage>) -> Error {
        Error::corrupt(self.path(FileKind::Log), position, damage)
    }
}

/// The base of a partition whose records are lost or given up, and its segment's indexes. Entries
/// of earlier segments than the first entry's are not in the journal any more, so those segments
/// are complete; from there on everything comes again.
async fn base_in_segments(
    dir: &Path,
    listing: &Listing,
    idle: &mut Idle,
    from: BaseFrom,
    first: Option<&Entry>,
) -> Result<(LogCheckpoint, Option<Indexer>), Error> {
    let state = listing.state(dir)?;
    if from == BaseFrom::Segments
        && let Some(state) = &state
        && listing.agrees_with(dir, state)?
    {
        return Ok((state.clone(), None));
    }
    let known = idle.record.take().or(state);
    let floor = first.and_then(|entry| listing.logs.range(..=entry.segment_base).next_back());
    let lowest = first.and_then(|_| listing.logs.first_key_value());
    let segment = floor.or(lowest).or(listing.logs.last_key_value());
    let Some((base, len)) = segment else {
        let start = known.map_or(Offset::ZERO, |known| known.next_offset);
        return Ok((LogCheckpoint::empty_at(start), None));
    };
    let mut scanned = scan_segment(dir, listing, &idle.settings, *base, *len).await?;
    if let Some(error) = scanned.stopped {
        let path = dir.join(file_name(*base, FileKind::Log));
        tracing::info!(path = %path.display(), %error, end = scanned.found.end_position,
            "the segment is intact up to here");
    }
    if let Some(known) = known {
        let found = &mut scanned.found;
        found.log_start = found.log_start.max(known.log_start).min(found.next_offset);
        found.truncations = known.truncations;
        found.is_dense = known.is_dense;
    }
    scanned.found.destaged_position = align_down(scanned.found.end_position);
    Ok((scanned.found, Some(scanned.indexer)))
}

/// Length of the file; none is as good as an empty one.
async fn length_of(path: &Path) -> Result<u64, Error> {
    match fs::file_len(path).await {
        Ok(len) => Ok(len),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

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

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

//! What a fetch gets: whole batches from memory, from the open segment, or as ranges of sealed
//! files.
//!
//! Runs on: the home shard; the plan is owned and `Send`, so another shard can send it.
//! Promises: the first batch is the one that holds the requested offset and is complete, whatever
//! its size (KIP-74); nothing at or above the bound is in the plan; every part ends at a batch
//! boundary.
//! A log that is known to have every offset is never read past a hole: that is an error. Nothing
//! that is known to be damaged is in a plan: what is before and behind it is read, it is not.
//! Invariants: [plan-pinned] a plan holds its memory and its descriptors: retention and eviction
//! cannot take away what was promised: [reader-pinned]. No disk read runs on the shard's thread.

use std::rc::Rc;

use bytes::Bytes;

use super::context::SegmentIndexes;
use super::error::{Damage, Error};
use super::file_names::FileKind;
use super::log::Log;
use super::open::{index_segment, read_indexes, write_indexes};
use super::scan::{CHUNK_BYTES_SMALL, Scan, Scanned, SegmentFile};
use super::segments::{SealedSegment, SoundPart};
use super::verify::DamagedStretch;
use crate::model::offset::{FilePosition, Offset};
use crate::rt::{Instant, SharedFile, now};
use crate::telemetry::metrics;
use crate::telemetry::names::Summary;

/// Bytes of the open segment that one plan reads into memory at most, unless one batch is larger.
const DIRECT_BYTES_MAX: usize = 1 << 20;

/// One stretch of batches.
#[derive(Clone, Debug)]
pub enum ReadPart {
    /// In memory.
    Memory(Bytes),
    /// In a sealed segment, to be sent from the page cache.
    File {
        /// The segment.
        file: SharedFile,
        /// Where the stretch starts.
        position: FilePosition,
        /// Its length.
        len: u64,
    },
}

impl ReadPart {
    /// Bytes of the stretch.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::File { len, .. } => *len,
        }
    }
}

/// What to send.
#[derive(Clone, Debug, Default)]
pub struct ReadPlan {
    /// The stretches, in offset order.
    pub parts: Vec<ReadPart>,
    /// Bytes of all of them.
    pub size_bytes: u64,
    /// Whether they come out of a segment file, and not out of the tail in memory.
    pub is_cold: bool,
}

impl ReadPlan {
    fn push(&mut self, part: ReadPart) {
        self.size_bytes += part.size_bytes();
        self.parts.push(part);
    }

    /// A plan out of a file, looked for since `started`.
    fn cold(mut self, started: Instant) -> Self {
        self.is_cold = true;
        metrics::local().observe_time(Summary::ColdReadLatency, started.elapsed());
        self
    }

    /// Whether there is nothing to send.
    pub const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All bytes in one piece, read from the files where needed.
    ///
    /// Cancel: safe.
    pub async fn into_bytes(self) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        for part in self.parts {
            match part {
                ReadPart::Memory(bytes) => all.extend_from_slice(&bytes),
                ReadPart::File {
                    file,
                    position,
                    len,
                } => {
                    let len = usize::try_from(len).unwrap_or(usize::MAX);
                    let bytes = SegmentFile::Shared(file).read_exact(position, len).await?;
                    all.extend_from_slice(&bytes);
                }
            }
        }
        Ok(Bytes::from(all))
    }
}

/// Where a read finds its offset.
enum Place {
    Memory(ReadPlan),
    Open {
        base: Offset,
        end: FilePosition,
    },
    Sealed(SealedSegment, SoundPart),
    /// Known to be damaged.
    Damaged(Offset, DamagedStretch),
    /// Nothing at or above the offset.
    End,
}

impl Log {
    /// Plans a read of whole batches from the one that holds `start` on, below `upper_bound`, of at
    /// most `max_bytes`; the first batch is in the plan even if it is larger, when `min_one_batch`.
    ///
    /// Cancel: safe.
    pub async fn read(
        &self,
        start: Offset,
        max_bytes: usize,
        upper_bound: Offset,
        min_one_batch: bool,
    ) -> Result<ReadPlan, Error> {
        let mut from = start;
        // each turn goes on in a later place, or finds that a segment was sealed meanwhile
        loop {
            self.check_range(start)?;
            if from >= upper_bound {
                return Ok(ReadPlan::default());
            }
            let bounds = Bounds {
                from,
                max_bytes,
                upper_bound,
                min_one_batch,
            };
            let place = match self.place_of(&bounds) {
                Place::Memory(plan) => return Ok(plan),
                Place::End => return Ok(ReadPlan::default()),
                Place::Damaged(base, stretch) => {
                    let path = self.path(base, FileKind::Log);
                    return Err(Error::corrupt(path, stretch.position, stretch.damage));
                }
                cold => cold,
            };
            let started = now();
            match place {
                Place::Memory(_) | Place::End | Place::Damaged(..) => {
                    unreachable!("returned above")
                }
                Place::Open { base, end } => match self.read_open(base, end, &bounds).await {
                    Ok(Some(plan)) => return Ok(plan.cold(started)),
                    _ if self.was_sealed(base) => {}
                    Ok(None) => from = self.offset_behind_open(from),
                    Err(error) => return Err(error),
                },
                Place::Sealed(segment, part) => {
                    match self.read_sealed(&segment, &part, &bounds).await {
                        Ok(Some(plan)) => return Ok(plan.cold(started)),
                        Ok(None) => {
                            let (end, next) = (part.end, part.next_offset);
                            self.check_no_hole(segment.base_offset, end, from, next)?;
                            from = next;
                        }
                        Err(error) => {
                            self.check_range(start)?; // retention may have taken it meanwhile
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn check_range(&self, requested: Offset) -> Result<(), Error> {
        let offsets = self.offsets();
        let (log_start, log_end) = (offsets.log_start, offsets.log_end);
        if requested < log_start || requested > log_end {
            return Err(Error::OffsetOutOfRange {
                requested,
                log_start,
                log_end,
            });
        }
        Ok(())
    }

    fn place_of(&self, bounds: &Bounds) -> Place {
        let state = self.state.borrow();
        if bounds.from >= state.offsets.log_end {
            return Place::End;
        }
        let tail = self.tail.borrow();
        let mut plan = ReadPlan::default();
        for batch in tail.from_offset(bounds.from) {
            let is_first = plan.is_empty() && bounds.min_one_batch;
            let size = plan.size_bytes + u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX / 2);
            let fits = usize::try_from(size).is_ok_and(|size| size <= bounds.max_bytes);
            if batch.next_offset > bounds.upper_bound || !(fits || is_first) {
                return Place::Memory(plan);
            }
            plan.push(ReadPart::Memory(batch.bytes.clone()));
        }
        if !plan.is_empty() {
            return Place::Memory(plan);
        }
        if let Some(segment) = state.sealed.floor(bounds.from) {
            return match state.sealed.sound_part(&segment, bounds.from) {
                Ok(part) => Place::Sealed(segment, part),
                Err(stretch) => Place::Damaged(segment.base_offset, stretch),
            };
        }
        Place::Open {
            base: state.oldest_open().base,
            end: state.destaged.end_position,
        }
    }

    /// `from` was looked for; what lies at `position` of the segment at `base` begins at `next`.
    fn check_no_hole(
        &self,
        base: Offset,
        position: FilePosition,
        from: Offset,
        next: Offset,
    ) -> Result<(), Error> {
        if next <= from || !self.state.borrow().destaged.is_dense {
            return Ok(());
        }
        self.check_range(from)?; // retention may have taken it meanwhile
        let path = self.path(base, FileKind::Log);
        let damage = Damage::MissingRecords { from, next };
        Err(Error::corrupt(path, position, damage))
    }

    /// A batch that says to end behind `end` would never come below the bound of a read: whoever
    /// asked would wait for ever.
    fn check_end(&self, base: Offset, batch: &Scanned, end: Offset) -> Result<(), Error> {
        if batch.header.next_offset() <= end {
            return Ok(());
        }
        let last = batch.header.last_offset();
        let damage = Damage::BeyondSegment { last, end };
        let path = self.path(base, FileKind::Log);
        Err(Error::corrupt(path, batch.position, damage))
    }

    fn offset_behind_open(&self, from: Offset) -> Offset {
        // what is not in the open segment's file is in memory, unless the log has a gap here
        let next = self.tail.borrow().first_offset().unwrap_or(Offset::MAX);
        next.max(from.next())
    }

    fn was_sealed(&self, base: Offset) -> bool {
        self.state.borrow().oldest_open().base != base
    }

    /// Reads from the part of the oldest open segment that is in its file.
    async fn read_open(
        &self,
        base: Offset,
        end: FilePosition,
        bounds: &Bounds,
    ) -> Result<Option<ReadPlan>, Error> {
        self.load_indexer().await?;
        let near = {
            let state = self.state.borrow();
            let Some(indexer) = &state.oldest_open().indexer else {
                return Ok(None);
            };
            indexer.offsets().floor(base, bounds.from)
        };
        let file = self.open_segment_file(base).await?;
        let Some(first) = find(&file, near, end, bounds.from).await? else {
            return Ok(None);
        };
        self.check_no_hole(base, first.position, bounds.from, first.header.base_offset)?;
        let ends_at = self.state.borrow().destaged.next_offset;
        self.check_end(base, &first, ends_at)?;
        let Some(mut stretch) = bounds.start(&first) else {
            return Ok(Some(ReadPlan::default()));
        };
        stretch.limit = stretch.limit.min(first.position + to_u64(DIRECT_BYTES_MAX));
        let length = stretch.limit.max(stretch.end).min(end) - first.position;
        let bytes = file
            .read_exact(first.position, usize::try_from(length).unwrap_or(0))
            .await?;
        let mut scan = Scan::over(file, first.position, bytes.clone());
        let path = scan.path();
        while let Some(next) = scan.next_whole() {
            let next = next.map_err(|error| Error::corrupt(&path, scan.position(), error))?;
            if !stretch.extend(&next, bounds) {
                break;
            }
        }
        let len = usize::try_from(stretch.end - first.position).unwrap_or(usize::MAX);
        let mut plan = ReadPlan::default();
        plan.push(ReadPart::Memory(bytes.slice(..len.min(bytes.len()))));
        Ok(Some(plan))
    }

    /// Plans a range of the part of a sealed segment; none when that has nothing at or above the
    /// offset.
    async fn read_sealed(
        &self,
        segment: &SealedSegment,
        part: &SoundPart,
        bounds: &Bounds,
    ) -> Result<Option<ReadPlan>, Error> {
        let (file, indexes) = self.sealed_segment(segment).await?;
        let source = SegmentFile::Shared(file.clone());
        let base = segment.base_offset;
        let near = indexes.offsets.floor(base, bounds.from).max(part.start);
        let first = find(&source, near, part.end, bounds.from).await?;
        let Some(first) = first else { return Ok(None) };
        self.check_no_hole(base, first.position, bounds.from, first.header.base_offset)?;
        self.check_end(base, &first, part.next_offset)?;
        let Some(mut stretch) = bounds.start(&first) else {
            return Ok(Some(ReadPlan::default()));
        };
        // jump to the last indexed boundary within both limits, then walk on from there
        if bounds.upper_bound >= part.next_offset {
            if part.end <= stretch.limit {
                stretch.end = part.end;
            } else if let Some(boundary) = indexes.offsets.boundary_at_or_below(stretch.limit) {
                stretch.end = stretch.end.max(boundary);
            }
        } else {
            let bounded = indexes.offsets.floor(base, bounds.upper_bound);
            if let Some(boundary) = indexes
                .offsets
                .boundary_at_or_below(bounded.min(stretch.limit))
            {
                stretch.end = stretch.end.max(boundary);
            }
        }
        let mut scan = Scan::new(source, stretch.end, part.end, CHUNK_BYTES_SMALL);
        while stretch.end < stretch.limit
            && let Some(next) = scan.next().await?
        {
            if !stretch.extend(&next, bounds) {
                break;
            }
        }
        let mut plan = ReadPlan::default();
        let (position, len) = (first.position, stretch.end - first.position);
        plan.push(ReadPart::File {
            file,
            position,
            len,
        });
        Ok(Some(plan))
    }

    /// A sealed segment's descriptor and indexes; indexes that are missing or damaged are built
    /// again.
    pub(super) async fn sealed_segment(
        &self,
        segment: &SealedSegment,
    ) -> Result<(SharedFile, Rc<SegmentIndexes>), Error> {
        let base = segment.base_offset;
        let key = self.key(base);
        let pin = self.pin(base)?;
        let file = self
            .context
            .open_shared(key, &self.path(base, FileKind::Log), (&self.pins, pin))
            .await?;
        if let Some(indexes) = self.context.cached_indexes(key) {
            return Ok((file, indexes));
        }
        let found = read_indexes(&self.dir, base, segment.size_bytes, None).await?;
        let (offsets, times) = if let Some(indexes) = found {
            indexes
        } else {
            let (source, end) = (SegmentFile::Shared(file.clone()), segment.size_bytes);
            let interval = self.settings().index_interval_bytes;
            let indexer = index_segment(source, base, end, interval).await?;
            write_indexes(&self.dir, base, &indexer).await?;
            indexer.into_indexes()
        };
        let indexes = Rc::new(SegmentIndexes { offsets, times });
        self.context.keep_indexes(key, &indexes);
        Ok((file, indexes))
    }
}

/// What a read may return.
struct Bounds {
    from: Offset,
    max_bytes: usize,
    upper_bound: Offset,
    min_one_batch: bool,
}

/// The stretch of a file that a read returns, as it grows batch by batch.
struct Stretch {
    end: FilePosition,
    limit: FilePosition,
}

impl Bounds {
    /// A stretch with the first batch, if that may be returned.
    fn start(&self, first: &Scanned) -> Option<Stretch> {
        let limit = first.position.saturating_add(to_u64(self.max_bytes));
        let fits = first.end_position() <= limit || self.min_one_batch;
        let is_below = first.header.next_offset() <= self.upper_bound;
        (fits && is_below).then(|| Stretch {
            end: first.end_position(),
            limit,
        })
    }
}

impl Stretch {
    /// Adds the batch, if it is the next one and may be returned.
    fn extend(&mut self, batch: &Scanned, bounds: &Bounds) -> bool {
        if batch.end_position() <= self.end {
            return true; // the first one, already in
        }
        let is_in =
            batch.end_position() <= self.limit && batch.header.next_offset() <= bounds.upper_bound;
        if is_in {
            self.end = batch.end_position();
        }
        is_in
    }
}

/// The first batch from `near` on that ends above `offset`.
pub(super) async fn find(
    file: &SegmentFile,
    near: FilePosition,
    end: FilePosition,
    offset: Offset,
) -> Result<Option<Scanned>, Error> {
    let mut scan = Scan::new(file.clone(), near, end, CHUNK_BYTES_SMALL);
    let mut last = Offset::NONE;
    while let Some(scanned) = scan.next().await? {
        if scanned.header.base_offset < last {
            let damage = Damage::OffsetOrder {
                expected: last,
                got: scanned.header.base_offset,
            };
            return Err(Error::corrupt(file.path(), scanned.position, damage));
        }
        if scanned.header.next_offset() > offset {
            return Ok(Some(scanned));
        }
        last = scanned.header.next_offset();
    }
    Ok(None)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

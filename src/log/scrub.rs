//! Looks for damage in sealed segments that nobody reads.
//!
//! Runs on: the home shard, background lane.        Owner: `Log`.
//! Promises: a segment is read once, in chunks, past the page cache, with one descriptor of its
//! own; what is wrong with it is known to reads from then on: they end before a damaged stretch,
//! are refused within it, and go on behind it. Nothing else of the log changes. A segment that is
//! deleted meanwhile is left within one chunk [reader-pinned].
//! An index that does not fit is derived again.

use std::path::PathBuf;

use super::checkpoint::align_up;
use super::error::Error;
use super::file_names::FileKind;
use super::log::Log;
use super::open::{index_segment, read_indexes, write_indexes};
use super::pins::Pin;
use super::scan::SegmentFile;
use super::segments::SealedSegment;
use super::verify::{DamagedStretch, Expected, Verified, Verifier};
use crate::model::offset::Offset;
use crate::rt::{File, OpenOptions};

/// What became of one segment.
#[derive(Debug)]
pub struct Scrubbed {
    /// Its `.log` file.
    pub path: PathBuf,
    /// What is damaged in it.
    pub damaged: Vec<DamagedStretch>,
}

impl Log {
    /// Base offsets of the sealed segments, oldest first.
    pub fn sealed_bases(&self) -> Vec<Offset> {
        let state = self.state.borrow();
        let sealed = state.sealed.iter().map(|segment| segment.base_offset);
        sealed.collect()
    }

    /// Number of sealed segments.
    pub fn sealed_count(&self) -> usize {
        self.state.borrow().sealed.count()
    }

    /// Whether damage was found in a segment that is still there.
    pub fn is_damaged(&self) -> bool {
        self.state.borrow().sealed.is_damaged()
    }

    /// Reads the sealed segment at `base`, `chunk_bytes` at a time, and checks everything in it.
    /// After each chunk `pace` waits, and says whether to go on. None when the segment is not there
    /// any more, or `pace` ended it.
    ///
    /// Cancel: safe.
    pub async fn scrub(
        &self,
        base: Offset,
        chunk_bytes: usize,
        pace: &impl AsyncFn(u64) -> bool,
    ) -> Result<Option<Scrubbed>, Error> {
        let segment = self.state.borrow().sealed.get(base);
        let (Some(segment), Some(pin)) = (segment, self.pins.take(base)) else {
            return Ok(None);
        };
        let path = self.path(base, FileKind::Log);
        let file = match File::open(&path, &OpenOptions::direct_read()).await {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let damaged = self
            .scrub_file(&segment, (file.as_ref(), pin), (chunk_bytes, pace))
            .await;
        if let Some(file) = file {
            file.close().await?;
        }
        Ok(damaged?.map(|damaged| Scrubbed { path, damaged }))
    }

    /// A file that is not there has lost everything.
    async fn scrub_file(
        &self,
        segment: &SealedSegment,
        (file, pin): (Option<&File>, Pin),
        pace: (usize, &impl AsyncFn(u64) -> bool),
    ) -> Result<Option<Vec<DamagedStretch>>, Error> {
        let base = segment.base_offset;
        let indexes = read_indexes(&self.dir, base, segment.size_bytes, None).await?;
        let mut verifier = Verifier::new(self.expected(segment), indexes);
        if let Some(file) = file
            && !self.read_through(file, segment, &mut verifier, pace).await
        {
            return Ok(None);
        }
        if !self.is_still(segment) {
            return Ok(None);
        }
        let found = verifier.finish();
        self.note_damage(segment, &found).await?;
        if let (Some(file), Some(fault)) = (file, found.index_fault)
            && found.damaged.is_empty()
        {
            tracing::warn!(path = %file.path().display(), %fault, "the segment is indexed again");
            let source = SegmentFile::Direct(file.clone(), pin);
            self.index_again(segment, source).await?;
        }
        Ok(Some(found.damaged))
    }

    /// Whether the segment is there as it was.
    fn is_still(&self, segment: &SealedSegment) -> bool {
        let now = self.state.borrow().sealed.get(segment.base_offset);
        let bounds = |segment: &SealedSegment| (segment.next_offset, segment.size_bytes);
        self.pins.has(segment.base_offset) && now.as_ref().map(bounds) == Some(bounds(segment))
    }

    fn expected(&self, segment: &SealedSegment) -> Expected {
        let state = self.state.borrow();
        Expected {
            base_offset: segment.base_offset,
            next_offset: Some(segment.next_offset),
            size_bytes: segment.size_bytes,
            is_dense: state.destaged.is_dense,
            epochs: state.epochs.clone(),
        }
    }

    /// Whether it came to the end.
    async fn read_through(
        &self,
        file: &File,
        segment: &SealedSegment,
        verifier: &mut Verifier,
        (chunk_bytes, pace): (usize, &impl AsyncFn(u64) -> bool),
    ) -> bool {
        let (size, mut position) = (segment.size_bytes, 0);
        while position < size {
            let wanted = to_u64(chunk_bytes).min(size - position);
            let span = usize::try_from(align_up(wanted)).unwrap_or(usize::MAX);
            let is_end = match file.read_at(position, span).await {
                Ok(bytes) => {
                    let len = usize::try_from(wanted).unwrap_or(usize::MAX);
                    verifier.take(bytes.get(..len).unwrap_or(&bytes));
                    bytes.len() < len
                }
                Err(error) => {
                    tracing::warn!(%error, "a sealed segment cannot be read");
                    verifier.skip(wanted);
                    false
                }
            };
            position += wanted;
            if !pace(wanted).await || !self.pins.has(segment.base_offset) {
                return false;
            }
            if is_end {
                break;
            }
        }
        true
    }

    /// From now on reads know. A file that was put in the place of a damaged one is looked up anew.
    async fn note_damage(&self, segment: &SealedSegment, found: &Verified) -> Result<(), Error> {
        let base = segment.base_offset;
        let damaged = found.damaged.clone();
        let before = self.state.borrow_mut().sealed.set_damaged(base, damaged);
        if !before.is_empty() && found.damaged.is_empty() {
            self.context.close(self.key(base)).await?;
            self.context.forget_indexes(self.key(base));
        }
        Ok(())
    }

    async fn index_again(&self, segment: &SealedSegment, source: SegmentFile) -> Result<(), Error> {
        let base = segment.base_offset;
        let interval = self.settings().index_interval_bytes;
        let indexer = index_segment(source, base, segment.size_bytes, interval).await?;
        let _files = self.io.acquire(1).await;
        if self.is_still(segment) {
            // not of a segment that is gone: nobody would remove them
            write_indexes(&self.dir, base, &indexer).await?;
            self.context.forget_indexes(self.key(base));
            let max_timestamp = indexer.max_timestamp();
            let mut state = self.state.borrow_mut();
            state.sealed.set_max_timestamp(base, max_timestamp);
        }
        Ok(())
    }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

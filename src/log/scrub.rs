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
        let indexes = read_indexes(&self.dir, base, segment.size_bytes, None).await?;
        let mut verifier = Verifier::new(self.expected(&segment), indexes);
        let path = self.path(base, FileKind::Log);
        let file = match File::open(&path, &OpenOptions::direct_read()).await {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(file) = &file
            && !self
                .read_through(file, &segment, &mut verifier, (chunk_bytes, pace))
                .await
        {
            return Ok(None);
        }
        if !self.pins.has(base) || self.state.borrow().sealed.get(base) != Some(segment) {
            return Ok(None);
        }
        let found = verifier.finish();
        self.note_damage(&segment, &found).await?;
        if let (Some(file), Some(fault)) = (file, found.index_fault)
            && found.damaged.is_empty()
        {
            tracing::warn!(path = %path.display(), %fault, "the segment is indexed again");
            self.index_again(&segment, file, pin).await?;
        }
        Ok(Some(Scrubbed {
            path,
            damaged: found.damaged,
        }))
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

    async fn index_again(
        &self,
        segment: &SealedSegment,
        file: File,
        pin: Pin,
    ) -> Result<(), Error> {
        let base = segment.base_offset;
        let interval = self.settings().index_interval_bytes;
        let source = SegmentFile::Direct(file, pin);
        let indexer = index_segment(source, base, segment.size_bytes, interval).await?;
        let _files = self.io.acquire(1).await;
        if self.pins.has(base) {
            // not of a segment that is gone: nobody would remove them
            write_indexes(&self.dir, base, &indexer).await?;
            self.context.forget_indexes(self.key(base));
        }
        Ok(())
    }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

//! Looks for damage in sealed segments that nobody reads.
//!
//! Runs on: the home shard, background lane.        Owner: `Log`.
//! Promises: a segment is read once, twice where damage is new, in chunks, past the page cache,
//! with one descriptor of its own; what is wrong with it is known to reads from then on: they end
//! before a damaged stretch, are refused within it, and go on behind it. Nothing else of the log
//! changes. A segment that is deleted meanwhile is left within one chunk [reader-pinned].
//! An index that does not fit is made anew of the batches that are intact.

use std::path::PathBuf;

use super::checkpoint::align_up;
use super::error::Error;
use super::file_names::FileKind;
use super::log::Log;
use super::open::{read_indexes, write_indexes};
use super::segments::SealedSegment;
use super::verify::{DamagedStretch, Expected, Verified, Verifier};
use crate::model::offset::Offset;
use crate::rt::{File, OpenOptions, is_medium_error};

/// The least that is read at a time.
const BLOCK_BYTES: u64 = 4096;

/// What became of one segment.
#[derive(Debug)]
pub struct Scrubbed {
    /// Its `.log` file.
    pub path: PathBuf,
    /// What is damaged in it.
    pub damaged: Vec<DamagedStretch>,
    /// Those of them that were not known, and have records.
    pub news: Vec<DamagedStretch>,
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

    /// Whether the sealed segment at `base` is there.
    pub fn has_sealed(&self, base: Offset) -> bool {
        self.state.borrow().sealed.get(base).is_some()
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
        // the pin goes behind the descriptor
        let (Some(segment), Some(_pin)) = (segment, self.pins.take(base)) else {
            return Ok(None);
        };
        let path = self.path(base, FileKind::Log);
        let file = match File::open(&path, &OpenOptions::direct_read()).await {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let found = self
            .look_twice(&segment, file.as_ref(), chunk_bytes, pace)
            .await;
        let is_there = file.is_some();
        if let Some(file) = file {
            file.close().await?;
        }
        let Some(found) = found?.filter(|_| self.is_still(&segment)) else {
            return Ok(None);
        };
        let known = self.note_damage(base, &found).await?;
        let is_restored = !known.is_empty() && found.damaged.is_empty();
        if is_there && (found.index_fault.is_some() || is_restored) {
            self.index_again(&segment, &found).await;
        }
        let is_news = |one: &&DamagedStretch| one.has_records() && !known.contains(one);
        let news = found.damaged.iter().filter(is_news).copied().collect();
        Ok(Some(Scrubbed {
            path,
            damaged: found.damaged,
            news,
        }))
    }

    /// Memory, bus or disk may fail for a moment: damage that was not known has to be found twice.
    async fn look_twice(
        &self,
        segment: &SealedSegment,
        file: Option<&File>,
        chunk_bytes: usize,
        pace: &impl AsyncFn(u64) -> bool,
    ) -> Result<Option<Verified>, Error> {
        let first = self.look(segment, file, chunk_bytes, pace).await?;
        let Some(first) = first else {
            return Ok(None);
        };
        let is_known = {
            let state = self.state.borrow();
            let known = state.sealed.damaged(segment.base_offset);
            first.damaged.iter().all(|one| known.contains(one))
        };
        if is_known {
            return Ok(Some(first));
        }
        let mut again = self.look(segment, file, chunk_bytes, pace).await?;
        if let Some(again) = &mut again {
            let found = again.damaged.len();
            again.damaged.retain(|one| first.damaged.contains(one));
            if again.damaged.len() < found {
                again.index_fault = None; // intact batches may lack
            }
        }
        Ok(again)
    }

    /// A file that is not there has lost everything.
    async fn look(
        &self,
        segment: &SealedSegment,
        file: Option<&File>,
        chunk_bytes: usize,
        pace: &impl AsyncFn(u64) -> bool,
    ) -> Result<Option<Verified>, Error> {
        let (base, size) = (segment.base_offset, segment.size_bytes);
        let indexes = match read_indexes(&self.dir, base, size, None).await {
            Err(Error::Io(error)) if is_medium_error(&error) => None,
            indexes => indexes?,
        };
        let mut verifier = Verifier::new(self.expected(segment), indexes);
        let pace = async |bytes| pace(bytes).await && self.pins.has(base);
        if let Some(file) = file
            && !read_through(file, size, chunk_bytes, &mut verifier, &pace).await?
        {
            return Ok(None);
        }
        Ok(Some(verifier.finish()))
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
            index_interval_bytes: self.settings().index_interval_bytes,
        }
    }

    /// From now on reads know; what they knew before. A file that was put in the place of a damaged
    /// one is looked up anew.
    async fn note_damage(
        &self,
        base: Offset,
        found: &Verified,
    ) -> Result<Vec<DamagedStretch>, Error> {
        let damaged = found.damaged.clone();
        let known = self.state.borrow_mut().sealed.set_damaged(base, damaged);
        if !known.is_empty() && known != found.damaged {
            self.context.close(self.key(base)).await?;
            self.context.forget_indexes(self.key(base));
        }
        Ok(known)
    }

    /// Nothing depends on it but time: where it fails, the next pass tries again.
    async fn index_again(&self, segment: &SealedSegment, found: &Verified) {
        let base = segment.base_offset;
        let path = self.path(base, FileKind::Log).display().to_string();
        let _files = self.io.acquire(1).await;
        if !self.is_still(segment) {
            return; // nobody would remove the indexes
        }
        if let Err(error) = write_indexes(&self.dir, base, &found.indexer).await {
            return tracing::warn!(path, %error, "the segment cannot be indexed again");
        }
        let fault = found.index_fault.map(|fault| fault.to_string());
        tracing::warn!(path, fault, "the segment is indexed again");
        self.context.forget_indexes(self.key(base));
        let max_timestamp = found.indexer.max_timestamp();
        let mut state = self.state.borrow_mut();
        state.sealed.set_max_timestamp(base, max_timestamp);
    }
}

/// Reads a segment up to `size`; a chunk that the disk does not read once more, block by block.
/// Whether `pace` let it come to the end.
pub(super) async fn read_through(
    file: &File,
    size: u64,
    chunk_bytes: usize,
    verifier: &mut Verifier,
    pace: &impl AsyncFn(u64) -> bool,
) -> Result<bool, Error> {
    let (mut position, mut blocks_until) = (0, 0);
    while position < size {
        let is_in_blocks = position < blocks_until;
        let most = if is_in_blocks {
            BLOCK_BYTES
        } else {
            to_u64(chunk_bytes)
        };
        let wanted = most.min(size - position);
        let span = usize::try_from(align_up(wanted)).unwrap_or(usize::MAX);
        let is_end = match file.read_at(position, span).await {
            Ok(bytes) => {
                let len = usize::try_from(wanted).unwrap_or(usize::MAX);
                verifier.take(bytes.get(..len).unwrap_or(&bytes));
                bytes.len() < len
            }
            Err(error) if !is_medium_error(&error) => return Err(error.into()),
            Err(error) => {
                if blocks_until == 0 {
                    tracing::warn!(%error, "a segment cannot be read");
                }
                if !is_in_blocks {
                    blocks_until = position + wanted;
                    continue;
                }
                verifier.skip(wanted);
                false
            }
        };
        position += wanted;
        if !pace(wanted).await {
            return Ok(false);
        }
        if is_end {
            break;
        }
    }
    Ok(true)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

//! Walks the batches of a segment file by their headers, in bounded reads.
//!
//! Runs on: the home shard (open segments, direct I/O) or off it (sealed segments, page cache).
//! Promises: reads no more than it needs by a chunk; damage is an error that names file and
//! position; memory is bounded by one chunk, or by one batch where whole batches are asked for.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::checkpoint::{align_down, align_up};
use super::error::{Damage, Error};
use super::pins::Pin;
use crate::breaks::{self, Break};
use crate::model::limits::BATCH_HEADER_BYTES;
use crate::model::offset::FilePosition;
use crate::model::record_batch::{BatchError, BatchHeader, check_crc};
use crate::rt::{File, SharedFile};

/// Bytes of one read while walking headers close to a place.
pub const CHUNK_BYTES_SMALL: usize = 16 << 10;
/// Bytes of one read while walking a whole segment.
pub const CHUNK_BYTES_LARGE: usize = 512 << 10;

/// A segment file, open one way or the other.
#[derive(Clone, Debug)]
pub enum SegmentFile {
    /// An open segment, pinned.
    Direct(File, Pin),
    /// A sealed segment.
    Shared(SharedFile),
}

impl SegmentFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Direct(file, _) => file.path(),
            Self::Shared(file) => file.path(),
        }
    }

    /// Reads `len` bytes at `position`; fewer at the end of the file.
    ///
    /// Cancel: safe.
    pub async fn read(&self, position: FilePosition, len: usize) -> Result<Bytes, Error> {
        match self {
            Self::Shared(file) => Ok(file.read_at(position, len).await?),
            Self::Direct(file, _) => {
                let start = align_down(position);
                let skip = usize::try_from(position - start).unwrap_or(0);
                let end = align_up(position + u64::try_from(len).unwrap_or(0));
                let span = usize::try_from(end - start).unwrap_or(usize::MAX);
                let buffer = file.read_at(start, span).await?;
                let bytes = buffer.get(skip..).unwrap_or_default();
                // one copy: the buffer belongs to this shard's ring, the answer may leave the shard
                Ok(Bytes::copy_from_slice(bytes.get(..len).unwrap_or(bytes)))
            }
        }
    }

    /// Reads exactly `len` bytes at `position`; less is damage.
    ///
    /// Cancel: safe.
    pub async fn read_exact(&self, position: FilePosition, len: usize) -> Result<Bytes, Error> {
        let bytes = self.read(position, len).await?;
        if bytes.len() < len {
            let missing = u64::try_from(len - bytes.len()).unwrap_or(u64::MAX);
            let end = position + u64::try_from(bytes.len()).unwrap_or(0);
            return Err(Error::corrupt(self.path(), end, Damage::Short { missing }));
        }
        Ok(bytes)
    }
}

/// One step of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Scanned {
    /// The batch's header.
    pub header: BatchHeader,
    /// Where the batch starts.
    pub position: FilePosition,
}

impl Scanned {
    /// Where the batch ends, exclusive.
    pub fn end_position(&self) -> FilePosition {
        self.position + u64::try_from(self.header.total_size()).unwrap_or(u64::MAX / 2)
    }
}

/// A walk over the batches between two positions.
#[derive(Debug)]
pub struct Scan {
    file: SegmentFile,
    position: FilePosition,
    end: FilePosition,
    chunk_bytes: usize,
    chunk: Bytes,
    chunk_position: FilePosition,
}

impl Scan {
    /// From a batch boundary to `end` (exclusive), `chunk_bytes` a read.
    pub fn new(
        file: SegmentFile,
        position: FilePosition,
        end: FilePosition,
        chunk_bytes: usize,
    ) -> Self {
        Self {
            file,
            position,
            end,
            chunk_bytes,
            chunk: Bytes::new(),
            chunk_position: position,
        }
    }

    /// Over bytes at `position` that were read already; `next_whole` walks them.
    pub fn over(file: SegmentFile, position: FilePosition, bytes: Bytes) -> Self {
        let end = position + u64::try_from(bytes.len()).unwrap_or(0);
        Self {
            file,
            position,
            end,
            chunk_bytes: 0,
            chunk: bytes,
            chunk_position: position,
        }
    }

    /// The next batch that lies wholly in the bytes in memory; reads nothing.
    pub fn next_whole(&mut self) -> Option<Result<Scanned, BatchError>> {
        let bytes = self.cached(self.position, BATCH_HEADER_BYTES)?;
        let header = match BatchHeader::parse(&bytes) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let scanned = Scanned {
            header,
            position: self.position,
        };
        if scanned.end_position() > self.end {
            return None;
        }
        self.position = scanned.end_position();
        Some(Ok(scanned))
    }

    /// Where the next batch starts.
    pub const fn position(&self) -> FilePosition {
        self.position
    }

    /// The next batch's header; none at the end. A batch that goes beyond the end is damage.
    ///
    /// Cancel: safe.
    pub async fn next(&mut self) -> Result<Option<Scanned>, Error> {
        if self.position >= self.end {
            return Ok(None);
        }
        let position = self.position;
        let bytes = self.bytes(position, BATCH_HEADER_BYTES).await?;
        let header = BatchHeader::parse(&bytes)
            .map_err(|error| Error::corrupt(self.file.path(), position, error))?;
        let scanned = Scanned { header, position };
        if scanned.end_position() > self.end {
            let missing = scanned.end_position() - self.end;
            return Err(Error::corrupt(
                self.file.path(),
                position,
                Damage::Short { missing },
            ));
        }
        self.position = scanned.end_position();
        Ok(Some(scanned))
    }

    /// The bytes of a batch that `next` returned.
    ///
    /// Cancel: safe.
    pub async fn batch(&mut self, scanned: &Scanned) -> Result<Bytes, Error> {
        self.bytes(scanned.position, scanned.header.total_size())
            .await
    }

    /// Like `next`, with the batch's bytes, and with its checksum checked.
    ///
    /// Cancel: safe.
    pub async fn next_checked(&mut self) -> Result<Option<(Scanned, Bytes)>, Error> {
        let Some(scanned) = self.next().await? else {
            return Ok(None);
        };
        let bytes = self.batch(&scanned).await?;
        if !check_crc(&bytes) && !breaks::is_on(Break::CrcUnchecked) {
            return Err(Error::corrupt(
                self.path(),
                scanned.position,
                Damage::Checksum,
            ));
        }
        crate::rt::yield_if_needed().await;
        Ok(Some((scanned, bytes)))
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    async fn bytes(&mut self, position: FilePosition, len: usize) -> Result<Bytes, Error> {
        if let Some(bytes) = self.cached(position, len) {
            return Ok(bytes);
        }
        let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
        self.chunk = self
            .file
            .read(position, self.chunk_bytes.max(len).min(left))
            .await?;
        self.chunk_position = position;
        self.cached(position, len).ok_or_else(|| {
            let missing = u64::try_from(len - self.chunk.len().min(len)).unwrap_or(u64::MAX);
            Error::corrupt(self.file.path(), position, Damage::Short { missing })
        })
    }

    fn cached(&self, position: FilePosition, len: usize) -> Option<Bytes> {
        let from = usize::try_from(position.checked_sub(self.chunk_position)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.chunk.len()).then(|| self.chunk.slice(from..to))
    }
}

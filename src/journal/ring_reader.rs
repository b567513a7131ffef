//! Reads blocks back from a ring's files, whatever state they are in.
//!
//! Runs on: a shard, at start.        Owner: `Replay`.
//! Promises: memory is bounded by one block and one read-ahead; a page that cannot be read is a
//! damaged page, not the end of the program, and so are those of a file that is gone or cut. A read
//! that fails for want of memory or permission is an error: it says nothing about the page.
//! A file is the one that its header says, whatever its name.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::breaks::{self, Break};
use crate::journal::block::{self, BlockError, BlockHeader, FILE_HEADER_BYTES, FileHeader, RingId};
use crate::journal::replay::ReplayError;
use crate::journal::ring::{FILE_START, Slot};
use crate::journal::ring_files::{self, Found as FoundFile};
use crate::model::limits::ALIGNMENT_BYTES;
use crate::rt::{File, OpenOptions, yield_if_needed};

/// How far a sequential reader reads ahead.
const READ_AHEAD_BYTES: usize = 1024 * 1024;
/// One read of the device.
const READ_BYTES: usize = 256 * 1024;
const PAGE: u64 = ALIGNMENT_BYTES as u64;

/// A valid block and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockRef {
    pub(super) slot: Slot,
    pub(super) header: BlockHeader,
}

impl BlockRef {
    pub(super) fn end(&self) -> Slot {
        let len = u64::try_from(self.header.block_len()).unwrap_or(u64::MAX / 2);
        Slot {
            file: self.slot.file,
            offset: self.slot.offset.saturating_add(len),
        }
    }
}

/// What is found at a place.
pub(super) enum Found {
    /// No block's header, or behind the end of the file.
    Nothing,
    /// The page cannot be read, or is not there any more.
    Unreadable,
    /// A header, as it says.
    Header(BlockHeader),
}

struct ReaderFile {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// What it had when it was made.
    whole_bytes: u64,
}

/// Bytes of one file that were read.
struct Window {
    slot: Slot,
    bytes: Bytes,
    /// Offsets in `bytes` of pages that could not be read.
    unreadable: Vec<usize>,
}

/// The files of one ring, open for reading.
pub(super) struct RingReader {
    dir: PathBuf,
    /// Files that the ring had, numbered from 0, as the checkpoint has them. Some may be gone.
    known_count: u32,
    /// Those and all that are there.
    file_count: u32,
    files: BTreeMap<u32, ReaderFile>,
    ring: Option<RingId>,
    window: Option<Window>,
}

impl RingReader {
    /// Opens the files of the ring; `ring` is its id and `file_count` what it had at least, if the
    /// checkpoint tells.
    pub(super) async fn open(
        dir: &Path,
        ring: Option<RingId>,
        file_count: u32,
    ) -> Result<Self, ReplayError> {
        let mut reader = Self {
            dir: dir.to_owned(),
            known_count: file_count,
            file_count: file_count.min(ring_files::FILES_MAX),
            files: BTreeMap::new(),
            ring,
            window: None,
        };
        for found in ring_files::list(dir).await? {
            let path = ring_files::path_of(dir, found.index);
            let file = File::open(&path, &OpenOptions::direct_read()).await?;
            let mut page = Vec::with_capacity(FILE_HEADER_BYTES);
            match file.read_at(0, FILE_HEADER_BYTES).await {
                Ok(bytes) => page.extend_from_slice(&bytes),
                Err(error) if is_of_the_device(&error) => page.resize(FILE_HEADER_BYTES, 0),
                Err(error) => return Err(error.into()),
            }
            let (index, whole_bytes) = reader.identify(&path, found, &page)?;
            let opened = ReaderFile {
                path: path.clone(),
                file,
                // whole pages only: nothing else can be read past the page cache
                size_bytes: found.size_bytes - found.size_bytes % PAGE,
                whole_bytes,
            };
            reader.file_count = reader.file_count.max(index.saturating_add(1));
            if reader.files.insert(index, opened).is_some() {
                return Err(ReplayError::Foreign { file: path });
            }
        }
        Ok(reader)
    }

    /// The id that the files agree on.
    pub(super) const fn ring(&self) -> Option<RingId> {
        self.ring
    }

    pub(super) fn has_no_files(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn path(&self, file: u32) -> PathBuf {
        let found = self.files.get(&file).map(|file| file.path.clone());
        found.unwrap_or_else(|| ring_files::path_of(&self.dir, file))
    }

    /// Where the first block of each file would begin: the files behind `file` first, itself last.
    pub(super) fn starts_behind(&self, file: u32) -> Vec<Slot> {
        let behind = file.saturating_add(1)..self.file_count;
        let before = 0..self.file_count.min(file.saturating_add(1));
        behind
            .chain(before)
            .map(|file| Slot {
                file,
                offset: FILE_START,
            })
            .collect()
    }

    pub(super) async fn close(self) -> io::Result<()> {
        for (_, file) in self.files {
            file.file.close().await?;
        }
        Ok(())
    }

    /// Number and whole length of a file, by its header; by its name where that is damaged.
    fn identify(
        &mut self,
        path: &Path,
        found: FoundFile,
        page: &[u8],
    ) -> Result<(u32, u64), ReplayError> {
        let file = path.to_owned();
        match FileHeader::decode(page) {
            Ok(header) if *self.ring.get_or_insert(header.ring) == header.ring => {
                if header.index != found.index {
                    tracing::warn!(file = %file.display(), index = header.index,
                        "journal file has another one's name");
                }
                Ok((header.index, header.size_bytes))
            }
            Ok(_) => Err(ReplayError::Foreign { file }),
            Err(BlockError::Version { found }) => Err(ReplayError::Version { file, found }),
            Err(error) => {
                // the blocks say themselves what they are
                tracing::warn!(file = %file.display(), %error, "journal file header is damaged");
                let is_cut = matches!(error, BlockError::Short { .. });
                Ok((
                    found.index,
                    if is_cut { u64::MAX } else { found.size_bytes },
                ))
            }
        }
    }

    /// The header at a place, read ahead as if its block came next.
    pub(super) async fn peek_next(&mut self, slot: Slot) -> Result<Found, ReplayError> {
        self.peek_with(slot, READ_AHEAD_BYTES).await
    }

    /// The header at a place.
    pub(super) async fn peek(&mut self, slot: Slot) -> Result<Found, ReplayError> {
        self.peek_with(slot, ALIGNMENT_BYTES).await
    }

    async fn peek_with(&mut self, slot: Slot, ahead: usize) -> Result<Found, ReplayError> {
        let is_there = match self.files.get(&slot.file) {
            Some(file) => slot.offset < file.size_bytes || slot.offset >= file.whole_bytes,
            // a hole below files that a larger ring has left behind is none
            None => slot.file >= self.known_count,
        };
        if !is_there {
            return Ok(Found::Unreadable);
        }
        let window = self.window_at(slot, ALIGNMENT_BYTES, ahead).await?;
        let at = usize::try_from(slot.offset - window.slot.offset).unwrap_or(usize::MAX);
        if window.unreadable.contains(&at) {
            return Ok(Found::Unreadable);
        }
        let page = window.bytes.get(at..).unwrap_or_default();
        Ok(match BlockHeader::peek(page) {
            Ok(header) if Some(header.ring) == self.ring => Found::Header(header),
            Ok(_) | Err(_) => Found::Nothing,
        })
    }

    /// The block at a place, if all of it is as it was written.
    pub(super) async fn block(
        &mut self,
        slot: Slot,
        header: &BlockHeader,
    ) -> Result<Option<Bytes>, ReplayError> {
        let room = self.files.get(&slot.file).map_or(0, |file| file.size_bytes);
        let len = header.block_len();
        if u64::try_from(len).unwrap_or(u64::MAX) > room.saturating_sub(slot.offset) {
            return Ok(None);
        }
        let window = self.window_at(slot, len, READ_AHEAD_BYTES).await?;
        let at = usize::try_from(slot.offset - window.slot.offset).unwrap_or(usize::MAX);
        let end = at.saturating_add(len);
        if end > window.bytes.len() {
            return Ok(None);
        }
        let bytes = window.bytes.slice(at..end);
        let is_whole = block::check(&bytes).as_ref() == Ok(header);
        Ok((is_whole || breaks::is_on(Break::TornBlockAccepted)).then_some(bytes))
    }

    /// The valid block at a place.
    pub(super) async fn valid_at(&mut self, slot: Slot) -> Result<Option<BlockRef>, ReplayError> {
        let Found::Header(header) = self.peek(slot).await? else {
            return Ok(None);
        };
        let block = self.block(slot, &header).await?;
        Ok(block.map(|_| BlockRef { slot, header }))
    }

    /// Valid blocks from a place to `end` in the same file, wherever they begin; at most `at_most`.
    pub(super) async fn scan(
        &mut self,
        from: Slot,
        end: u64,
        at_most: usize,
    ) -> Result<Vec<BlockRef>, ReplayError> {
        let mut found = Vec::new();
        let mut slot = from;
        let end = end.min(self.files.get(&from.file).map_or(0, |file| file.size_bytes));
        while slot.offset < end && found.len() < at_most {
            let mut next = Slot {
                offset: slot.offset + PAGE,
                ..slot
            };
            if let Found::Header(header) = self.peek_next(slot).await?
                && self.block(slot, &header).await?.is_some()
            {
                let block = BlockRef { slot, header };
                next = block.end();
                found.push(block);
            }
            slot = next;
            yield_if_needed().await;
        }
        Ok(found)
    }

    /// Every valid block of the ring.
    pub(super) async fn scan_all(&mut self) -> Result<Vec<BlockRef>, ReplayError> {
        let mut all = Vec::new();
        for start in self.starts_behind(u32::MAX) {
            all.append(&mut self.scan(start, u64::MAX, usize::MAX).await?);
        }
        Ok(all)
    }

    /// A window that holds `len` bytes from `slot`, as far as the file goes; a new one reads
    /// `ahead`.
    async fn window_at(
        &mut self,
        slot: Slot,
        len: usize,
        ahead: usize,
    ) -> Result<&Window, ReplayError> {
        let has_it = self.window.as_ref().is_some_and(|window| {
            let at = slot.offset.checked_sub(window.slot.offset);
            let at = at.and_then(|at| usize::try_from(at).ok());
            window.slot.file == slot.file
                && at.is_some_and(|at| at.saturating_add(len) <= window.bytes.len())
        });
        if !has_it {
            self.window = Some(self.read(slot, len.max(ahead)).await?);
        }
        Ok(self.window.as_ref().expect("it was read above"))
    }

    /// Reads up to `len` bytes, less at the end of the file; unreadable pages are zeros.
    async fn read(&self, slot: Slot, len: usize) -> Result<Window, ReplayError> {
        let mut window = Window {
            slot,
            bytes: Bytes::new(),
            unreadable: Vec::new(),
        };
        let Some(file) = self.files.get(&slot.file) else {
            return Ok(window);
        };
        let left = usize::try_from(file.size_bytes.saturating_sub(slot.offset));
        let len = len.min(left.unwrap_or(usize::MAX));
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let step = READ_BYTES.min(len - bytes.len());
            let at = slot.offset + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            match file.file.read_at(at, step).await {
                Ok(buf) if buf.len() == step => bytes.extend_from_slice(&buf),
                Ok(buf) => {
                    // shorter than it was when it was listed
                    bytes.extend_from_slice(&buf);
                    break;
                }
                Err(error) if is_of_the_device(&error) => {
                    read_pages(file, at, step, &mut bytes, &mut window.unreadable).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        window.bytes = Bytes::from(bytes);
        Ok(window)
    }
}

/// Reads page by page what could not be read at once.
async fn read_pages(
    file: &ReaderFile,
    from: u64,
    len: usize,
    bytes: &mut Vec<u8>,
    unreadable: &mut Vec<usize>,
) -> Result<(), ReplayError> {
    let mut at = from;
    for _ in 0..len / ALIGNMENT_BYTES {
        match file.file.read_at(at, ALIGNMENT_BYTES).await {
            Ok(buf) => bytes.extend_from_slice(&buf),
            Err(error) if is_of_the_device(&error) => {
                tracing::warn!(%error, "journal page cannot be read");
                unreadable.push(bytes.len());
                bytes.resize(bytes.len() + ALIGNMENT_BYTES, 0);
            }
            Err(error) => return Err(error.into()),
        }
        at += PAGE;
    }
    Ok(())
}

/// Whether the device refused to read, as opposed to the system being out of something.
fn is_of_the_device(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported
    )
}

//! The ring's files: their names, making them, opening them.
//!
//! Runs on: the home shard.        Owner: `Journal`.
//! Promises: a file with a ring file's name was written in full and flushed before it got the name,
//! so an overwrite in it never changes metadata and costs one device flush.
//! Crash order: 1. `.tmp` file, allocated and written with its header and zeros; 2. flushed;
//! 3. renamed; 4. directory flushed. A `.tmp` file found at start is garbage.

use std::io;
use std::path::{Path, PathBuf};

use crate::journal::block::{FILE_HEADER_BYTES, FileHeader, RingId};
use crate::rt::{File, IoBuf, OpenOptions, fs, yield_if_needed};

/// One write while a file is made.
const PREWRITE_BYTES: u64 = 1024 * 1024;
const SUFFIX: &str = ".wal";
/// More than any ring has; a file with a higher number is not of ours.
pub(super) const FILES_MAX: u32 = 1 << 16;
const TEMPORARY_SUFFIX: &str = ".wal.tmp";

/// Name of a ring's file.
pub(super) fn path_of(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("{index:08}{SUFFIX}"))
}

/// A file that was found in a ring's directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) index: u32,
    pub(super) size_bytes: u64,
}

/// What lies in a ring's directory, by number; nothing when there is no directory.
pub(super) async fn list(dir: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(dir).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        let stem = entry
            .name
            .to_str()
            .and_then(|name| name.strip_suffix(SUFFIX));
        let index = stem
            .filter(|stem| stem.len() == 8)
            .and_then(|stem| stem.parse().ok())
            .filter(|index| *index < FILES_MAX);
        if let Some(index) = index {
            found.push(Found {
                index,
                size_bytes: entry.len,
            });
        }
    }
    found.sort_by_key(|file| file.index);
    Ok(found)
}

/// Removes files that were being made when the process ended.
pub(super) async fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).await? {
        if entry
            .name
            .to_str()
            .is_some_and(|name| name.ends_with(TEMPORARY_SUFFIX))
        {
            fs::remove_file(dir.join(&entry.name)).await?;
        }
    }
    Ok(())
}

/// Opens a file for blocks, if it is whole and belongs to the ring.
pub(super) async fn open(dir: &Path, header: FileHeader) -> io::Result<Option<File>> {
    let path = path_of(dir, header.index);
    let file = match File::open(&path, &OpenOptions::direct().dsync()).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let page = file.read_at(0, FILE_HEADER_BYTES).await?;
    let is_ours = FileHeader::decode(&page) == Ok(header);
    if is_ours && file.len().await? == header.size_bytes {
        return Ok(Some(file));
    }
    file.close().await?;
    Ok(None)
}

/// Makes a file: header and zeros, really written, so that its blocks are overwrites.
///
/// Cancel: safe; a `.tmp` file is left, which the next start removes.
pub(super) async fn make(dir: &Path, header: FileHeader) -> io::Result<()> {
    let path = path_of(dir, header.index);
    let temporary = dir.join(format!("{:08}{TEMPORARY_SUFFIX}", header.index));
    let mut made = fill(&temporary, header).await;
    if made.is_ok() {
        made = fs::rename(&temporary, &path).await;
    }
    if let Err(error) = made {
        drop(fs::remove_file(&temporary).await); // on a full disk, its space is needed
        return Err(error);
    }
    fs::sync_dir(dir).await
}

async fn fill(path: &Path, header: FileHeader) -> io::Result<()> {
    let file = File::open(path, &OpenOptions::direct().create()).await?;
    file.allocate(0, header.size_bytes).await?;
    let mut at = 0;
    while at < header.size_bytes {
        let step = PREWRITE_BYTES.min(header.size_bytes - at);
        let len = usize::try_from(step).expect("[prewrite-step] one MiB at most");
        let mut buf = IoBuf::alloc_zeroed(len).await;
        if at == 0 {
            header.encode(&mut buf);
        }
        file.write_at(buf, len, at).await?;
        at += step;
        yield_if_needed().await;
    }
    file.fdatasync().await?;
    file.close().await
}

/// The header that file `index` of `ring` has.
pub(super) const fn header(ring: RingId, index: u32, size_bytes: u64) -> FileHeader {
    FileHeader {
        ring,
        index,
        size_bytes,
    }
}

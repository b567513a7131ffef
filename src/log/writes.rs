//! Writes of a recovery or a stop that wait to be carried out together, and are flushed together.
//!
//! Runs on: one shard, at start and stop.        Owner: `PartitionReplay`; `Log`, as it closes.
//! Promises: they are carried out in the order in which they came; nothing is flushed, the caller
//! does that once for all partitions, with [`name_states`]. Bytes are shared with the journal's
//! blocks, never copied.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};

use super::checkpoint;
use super::error::Error;
use super::file_names::TEMPORARY_SUFFIX;
use crate::rt::fs::{self, FileWrite};

/// Bytes that are collected at most, but for the last write.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// Writes that are collected at most.
const PENDING_COUNT_MAX: usize = 256;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    writes: Vec<FileWrite>,
    /// Where the last write ends.
    end: u64,
    bytes: usize,
}

impl PendingWrites {
    /// Adds bytes at a place of a file.
    pub(super) fn put(&mut self, path: PathBuf, position: u64, part: Bytes) {
        let is_next = self.end == position;
        self.end = position + to_u64(part.len());
        self.bytes += part.len();
        match self.writes.last_mut() {
            Some(last) if is_next && !last.is_end && last.path == path => last.parts.push(part),
            _ => self.writes.push(FileWrite {
                path,
                position,
                parts: vec![part],
                is_end: false,
            }),
        }
    }

    /// Adds bytes behind which the file ends.
    pub(super) fn put_end(&mut self, path: PathBuf, position: u64, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.bytes += bytes.len();
        self.writes.push(FileWrite {
            path,
            position,
            parts: vec![bytes],
            is_end: true,
        });
    }

    /// Adds the `partition.state` of a directory, under the temporary name that is returned, for
    /// [`name_states`].
    pub(super) fn put_state(&mut self, dir: &Path, state: Vec<u8>) -> PathBuf {
        let temporary = dir.join(format!("{}{TEMPORARY_SUFFIX}", checkpoint::FILE_NAME));
        self.put_end(temporary.clone(), 0, state);
        temporary
    }

    /// Lets the file end at `position`.
    pub(super) fn cut(&mut self, path: &Path, position: u64) {
        self.put_end(path.to_owned(), position, Bytes::new());
    }

    /// Whether enough is waiting to carry it out.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= PENDING_BYTES_MAX || self.writes.len() >= PENDING_COUNT_MAX
    }

    /// Carries out what waits.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let writes = std::mem::take(&mut self.writes);
        self.bytes = 0;
        if writes.is_empty() {
            return Ok(());
        }
        Ok(fs::write_parts(writes).await?)
    }
}

/// Makes all that was written below `root` durable, then gives the state files their names,
/// `at_a_time` of them together, durably: before, they would promise what a power cut can still
/// take back.
///
/// Cancel: not safe; what is missing then, recovery brings.
pub async fn name_states(root: &Path, states: Vec<PathBuf>, at_a_time: usize) -> io::Result<()> {
    fs::sync_filesystem(root).await?;
    if states.is_empty() {
        return Ok(());
    }
    let renaming = states.into_iter().map(|temporary| async move {
        let path = temporary.with_file_name(checkpoint::FILE_NAME);
        fs::rename(temporary, path).await
    });
    let mut renaming = stream::iter(renaming).buffer_unordered(at_a_time);
    while let Some(renamed) = renaming.next().await {
        renamed?;
    }
    fs::sync_filesystem(root).await
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX / 2)
}

/// Writes `bytes` at `position` and cuts the file behind them; nothing is flushed.
#[cfg(test)]
pub(super) async fn write_end(path: &Path, position: u64, bytes: Vec<u8>) -> Result<(), Error> {
    let mut writes = PendingWrites::default();
    writes.put_end(path.to_owned(), position, bytes);
    writes.commit().await
}

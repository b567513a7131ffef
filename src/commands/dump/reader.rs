//! A file read piecewise at positions.
//!
//! Runs on: the main thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Larger small files are refused: nothing that is read whole is this large.
const WHOLE_BYTES_MAX: u64 = 1 << 30;
const ZERO_CHUNK_BYTES: usize = 64 << 10;

/// An open file and its length.
pub(super) struct FileReader {
    file: File,
    length: u64,
}

impl FileReader {
    /// Opens a file for reading.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a file"));
        }
        Ok(Self {
            file,
            length: metadata.len(),
        })
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Up to `count` bytes from `position` on; fewer at the end of the file.
    pub(super) fn read(&self, position: u64, count: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.length.saturating_sub(position)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(left)];
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    /// The whole file.
    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        if self.length > WHOLE_BYTES_MAX {
            return Err(io::Error::other("too large for a file of its kind"));
        }
        self.read(0, usize::MAX)
    }

    /// Whether only zeros follow from `position` on: space that was reserved and not written.
    pub(super) fn is_zero_from(&self, mut position: u64) -> io::Result<bool> {
        while position < self.length {
            let chunk = self.read(position, ZERO_CHUNK_BYTES)?;
            if chunk.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            position += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        }
        Ok(true)
    }
}

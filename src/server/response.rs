//! An answer as it leaves: pieces of memory and ranges of files, in order.

use bytes::Bytes;

use crate::rt::SharedFile;
use crate::shard::budget::Charge;

/// One piece.
#[derive(Debug)]
pub(crate) enum Part {
    /// Bytes in memory; batches of the tail are here without a copy.
    Memory(Bytes),
    /// A range of a sealed segment that leaves by sendfile; the handle pins the segment.
    File {
        /// The segment.
        file: SharedFile,
        /// Where the range starts.
        position: u64,
        /// How long it is.
        size_bytes: u64,
    },
}

/// A whole answer, length prefix included.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) parts: Vec<Part>,
    /// Memory that the parts hold until they are written.
    pub(crate) charge: Option<Charge>,
}

impl Response {
    /// Bytes of all parts.
    pub(crate) fn size_bytes(&self) -> u64 {
        let size = |part: &Part| match part {
            Part::Memory(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Part::File { size_bytes, .. } => *size_bytes,
        };
        self.parts.iter().map(size).sum()
    }
}

/// Bytes of memory in `parts`; file ranges hold none.
pub(crate) fn memory_bytes(parts: &[Part]) -> usize {
    let size = |part: &Part| match part {
        Part::Memory(bytes) => bytes.len(),
        Part::File { .. } => 0,
    };
    parts.iter().map(size).sum()
}

impl From<Bytes> for Response {
    fn from(bytes: Bytes) -> Self {
        Self {
            parts: vec![Part::Memory(bytes)],
            charge: None,
        }
    }
}

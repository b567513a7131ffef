//! What can go wrong while a journal is written. (Reading one back: `replay.rs`.)
//!
//! Every variant is `Clone` and `Send`: one failure is told to everyone who waits, on any shard.

use std::io;
use std::sync::Arc;

use crate::rt::fs;

/// The journal cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A block write failed. Nothing after it is acknowledged, whatever its own write says.
    #[error("the journal failed, nothing is acknowledged until a restart: {0}")]
    Failed(Arc<io::Error>),
    /// A file of the journal could not be made, opened or replaced; nothing is lost.
    #[error("journal: {0}")]
    Io(Arc<io::Error>),
    /// The journal is being closed.
    #[error("the journal is closed")]
    Closed,
    /// No file of the ring can ever hold the entry.
    #[error("an entry of {len} bytes is beyond what the journal's files hold, {max}")]
    TooLarge {
        /// Payload that was asked for.
        len: usize,
        /// The longest payload that fits.
        max: usize,
    },
    /// A setting that cannot work.
    #[error("journal setting {name} is {value}, expected {why}")]
    Config {
        /// Which setting.
        name: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        why: &'static str,
    },
}

impl JournalError {
    /// Whether room on the disk would cure it. A block write that failed is never cured.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io(error) if fs::is_disk_full(error))
    }
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

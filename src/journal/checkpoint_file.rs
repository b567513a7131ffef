//! The checkpoint file of a ring: reading it, replacing it.
//!
//! Runs on: the home shard.
//! Promises: `write` leaves the old checkpoint or the new one, and the new one is durable when it
//! returns.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::journal::block::RunId;
use crate::journal::checkpoint::{Checkpoint, CheckpointError};
use crate::rt::fs;

const NAME: &str = "checkpoint";

/// What lies where a checkpoint should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A checkpoint.
    Found(Checkpoint),
    /// No file of that name.
    Missing,
    /// A file that is damaged, or of a later version.
    Unusable(CheckpointError),
}

/// A ring whose content is no longer needed, and the run id under which it may be written: the only
/// way to open a journal. [run-raised] the run id is durable.
#[derive(Debug)]
pub struct Retired {
    pub(super) dir: PathBuf,
    pub(super) checkpoint: Checkpoint,
}

impl Retired {
    /// The run id of the blocks to come.
    pub const fn run(&self) -> RunId {
        self.checkpoint.run()
    }
}

/// Name of the checkpoint in a ring's directory.
pub fn path_in(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Reads the checkpoint of a ring.
///
/// Cancel: safe.
pub async fn read(dir: &Path) -> io::Result<Stored> {
    match fs::read(path_in(dir)).await {
        Ok(bytes) => Ok(match Checkpoint::decode(&Bytes::from(bytes)) {
            Ok(checkpoint) => Stored::Found(checkpoint),
            Err(error) => Stored::Unusable(error),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stored::Missing),
        Err(error) => Err(error),
    }
}

/// Replaces the checkpoint of a ring.
///
/// Cancel: safe; the old one or the new one stays.
pub(super) async fn write(dir: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    fs::write_atomic(path_in(dir), checkpoint.encode()).await
}

/// Starts a new run: from here on nothing of the earlier ones is read.
pub(super) async fn retire(dir: &Path, checkpoint: Checkpoint) -> io::Result<Retired> {
    fs::create_dir_all(dir).await?;
    for above in dir.ancestors().skip(1).take(2) {
        if !above.as_os_str().is_empty() {
            fs::sync_dir(above).await?;
        }
    }
    write(dir, &checkpoint).await?;
    Ok(Retired {
        dir: dir.to_owned(),
        checkpoint,
    })
}

//! Space that is set aside for what must be possible on a full disk: one file of the data
//! directory.
//!
//! Runs on: every shard; the file is one for all.      Owner: `Shard`.
//! Promises: a file of its whole length has all its blocks. Giving up and taking are repeatable,
//! on any shard, in any order.
//! Crash story: nothing is ever read from it. A start removes it before it recovers, so that
//! recovery has the space too, and the first shard takes it again; a start that finds no room for
//! it begins with a full disk.

use std::path::{Path, PathBuf};

use crate::rt::{File, OpenOptions, fs};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "reserve";
/// Its length: many times a metadata change, and the checkpoint of about ten thousand partitions.
pub const RESERVE_BYTES: u64 = 8 << 20;
/// Space beyond it that must be free as well when it is taken: else the disk is full again at once.
pub const MARGIN_BYTES: u64 = 8 << 20;

/// See the file's head.
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(FILE_NAME),
        }
    }

    /// Takes the reserve, if it is not there, and makes sure that there is a margin beside it.
    ///
    /// Cancel: safe; what is left of it the next try puts right.
    pub(crate) async fn take(&self) -> std::io::Result<()> {
        let options = OpenOptions {
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let file = File::open(&self.path, &options).await?;
        let before = file.len().await?;
        let allocated = file.allocate(0, RESERVE_BYTES + MARGIN_BYTES).await;
        let is_kept = match &allocated {
            Ok(()) => true,
            // nothing can be set aside here, and a file of zeros may take no space
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                file.close().await?;
                return fs::remove_file(&self.path).await;
            }
            Err(_) => before == RESERVE_BYTES,
        };
        // gives the margin back, or the part of it that was allocated before space ran out
        file.truncate(if is_kept { RESERVE_BYTES } else { 0 })
            .await?;
        if allocated.is_ok() && before != RESERVE_BYTES {
            file.fdatasync().await?;
        }
        file.close().await?;
        if !is_kept {
            self.give_up().await;
        } else if before != RESERVE_BYTES
            && let Some(data_dir) = self.path.parent()
        {
            fs::sync_dir(data_dir).await?;
        }
        allocated
    }

    /// Gives the space to others. Whether there was any.
    ///
    /// Cancel: safe.
    pub(crate) async fn give_up(&self) -> bool {
        match fs::remove_file(&self.path).await {
            Ok(()) => {
                if let Some(data_dir) = self.path.parent() {
                    // before, a file system with a journal does not give the blocks to others
                    drop(fs::sync_dir(data_dir).await);
                }
                true
            }
            Err(_) => false, // gone already
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::sim::{Sim, SimDisk};

    #[test]
    fn the_reserve_is_taken_only_with_a_margin_and_given_up_once() {
        let disk = SimDisk::new(1);
        Sim::with_disk(1, disk.clone()).run(async {
            let reserve = Reserve::new(Path::new("/"));
            let all = RESERVE_BYTES + MARGIN_BYTES;
            disk.set_capacity(Some(all - 1));
            let error = reserve.take().await.unwrap_err();
            assert!(fs::is_disk_full(&error), "{error}");
            assert_eq!(fs::free_space("/").await.unwrap(), all - 1, "nothing stays");
            disk.set_capacity(Some(all));
            reserve.take().await.unwrap();
            assert_eq!(fs::free_space("/").await.unwrap(), MARGIN_BYTES);
            reserve.take().await.unwrap();
            assert_eq!(fs::free_space("/").await.unwrap(), MARGIN_BYTES);
            disk.set_capacity(Some(RESERVE_BYTES));
            reserve.take().await.unwrap_err();
            assert_eq!(fs::free_space("/").await.unwrap(), 0, "the reserve stays");
            assert!(reserve.give_up().await);
            assert_eq!(fs::free_space("/").await.unwrap(), RESERVE_BYTES);
            assert!(!reserve.give_up().await);
        });
    }
}

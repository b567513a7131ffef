//! The end of a log: its directory gets a name that no topic can have, and its space is given back.
//!
//! Runs on: the home shard, background lane.
//! Promises: when `set_aside` returns, the old name is free for a topic of the same name; the
//! rename needs no flush for that, because the deletion is in the metadata log and a start repeats
//! it.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::log::Log;
use super::pins::Users;
use super::reclaim::{Waste, WasteKind};
use crate::model::offset::Offset;
use crate::rt;

/// Ends the name of a directory that waits to be removed; topic names end in a number.
pub const SET_ASIDE_SUFFIX: &str = "-delete";

impl Log {
    /// Stops the log and renames its directory; whoever reads from open files goes on.
    ///
    /// Cancel: safe; a start removes the directory under either name.
    pub async fn set_aside(&self) -> Result<Waste, Error> {
        let topic_partition = self.topic_partition();
        self.fail(Error::UnknownPartition { topic_partition });
        let _files = self.io.acquire(1).await;
        let users = self.pins.close();
        for base in self.segment_bases() {
            let key = self.key(Offset::new(base));
            self.context.close(key).await?;
            self.context.forget_indexes(key);
        }
        Ok(Waste {
            size_bytes: self.size_bytes(),
            users,
            ..set_aside(&self.dir).await?
        })
    }
}

/// Renames the directory of a partition that has no open log.
///
/// Cancel: safe; a start removes the directory under either name.
pub async fn set_aside(dir: &Path) -> Result<Waste, Error> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}{SET_ASIDE_SUFFIX}", rt::random_u64()));
    let to = dir.with_file_name(name);
    rt::fs::rename(dir, &to).await?;
    Ok(leftover(to))
}

/// A directory that was set aside before the last stop.
pub fn leftover(path: PathBuf) -> Waste {
    Waste {
        path,
        kind: WasteKind::Directory,
        size_bytes: 0,
        users: Users::default(),
    }
}

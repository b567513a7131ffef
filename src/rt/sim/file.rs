//! Open files on the simulated disk, with virtual latency.
//!
//! Runs on: a simulated shard. `Send + Sync` because it is only a number: the disk is found through
//! the runtime.
//! Promises: writes take as long as the seed says and complete in any order; a dropped write
//! completes all the same.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::disk::SimDisk;
use super::executor::SimShard;
use crate::rt::file::OpenOptions;
use crate::rt::runtime::{self, Runtime};

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(in crate::rt) struct SimFile {
    inode: u64,
    options: OpenOptions,
}

fn shard() -> Rc<SimShard> {
    match runtime::current() {
        Runtime::Sim(shard) => shard,
        Runtime::Uring(_) => panic!("[one-runtime] a simulated file is used on a real shard"),
    }
}

impl SimFile {
    pub(in crate::rt) async fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        let shard = shard();
        shard.disk_delay().await;
        let inode = shard.disk().open(path, options);
        shard.halt_if_crashed().await;
        Ok(Self {
            inode: inode?,
            options,
        })
    }

    pub(in crate::rt) async fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        check(self.options.read)?;
        let shard = shard();
        shard.delay(20, 200).await;
        shard.disk().read_open(self.inode, pos, buf)
    }

    pub(in crate::rt) async fn write_at(&self, pos: u64, bytes: &[u8]) -> io::Result<()> {
        check(self.options.write)?;
        let shard = shard();
        let id = shard.disk().begin_write(self.inode, pos, bytes);
        shard.halt_if_crashed().await;
        let write = InFlight {
            disk: shard.disk().clone(),
            inode: self.inode,
            id: id?,
            durable: self.options.dsync,
        };
        // A gigabyte a second, and what the device makes of it.
        let transfer = u64::try_from(bytes.len() / 1000).unwrap_or(u64::MAX);
        shard.delay(20 + transfer, 400 + transfer).await;
        if self.options.dsync {
            let stall = shard.disk().flush_stall_micros();
            shard.delay(stall, stall).await;
        }
        drop(write);
        Ok(())
    }

    pub(in crate::rt) async fn fdatasync(&self) -> io::Result<()> {
        let shard = shard();
        let before = shard.disk().begin_flush(self.inode);
        shard.halt_if_crashed().await;
        let before = before?;
        let stall = shard.disk().flush_stall_micros();
        shard.delay(50 + stall, 1000 + stall).await;
        shard.disk().complete_flush(self.inode, before);
        Ok(())
    }

    pub(in crate::rt) async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        check(self.options.write)?;
        let shard = shard();
        shard.disk_delay().await;
        let allocated = shard.disk().allocate(self.inode, pos + len);
        shard.halt_if_crashed().await;
        allocated
    }

    pub(in crate::rt) async fn zero(&self, pos: u64, len: u64) -> io::Result<()> {
        check(self.options.write)?;
        let shard = shard();
        shard.disk_delay().await;
        let zeroed = shard.disk().zero(self.inode, pos, len);
        shard.halt_if_crashed().await;
        zeroed
    }

    pub(in crate::rt) async fn truncate(&self, len: u64) -> io::Result<()> {
        check(self.options.write)?;
        let shard = shard();
        shard.disk_delay().await;
        let resized = shard.disk().set_len(self.inode, len);
        shard.halt_if_crashed().await;
        resized
    }

    pub(in crate::rt) fn len(&self) -> io::Result<u64> {
        shard().disk().len_open(self.inode)
    }
}

fn check(allowed: bool) -> io::Result<()> {
    if allowed {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// A write on its way: it completes when it is dropped, unless the power has failed.
struct InFlight {
    disk: SimDisk,
    inode: u64,
    id: u64,
    durable: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.disk.complete_write(self.inode, self.id, self.durable);
    }
}

impl SimDisk {
    /// Writes and flushes a whole small file.
    pub(in crate::rt) async fn write_file(
        &self,
        shard: &SimShard,
        path: &Path,
        bytes: &[u8],
        new: bool,
    ) -> io::Result<()> {
        let options = OpenOptions {
            write: true,
            create: true,
            create_new: new,
            ..OpenOptions::default()
        };
        let file = SimFile::open(path, options).await?;
        if file.len()? > 0 {
            file.truncate(0).await?;
        }
        shard.disk_delay().await;
        file.write_at(0, bytes).await?;
        file.fdatasync().await
    }
}

//! A sealed file, open for reading through the page cache, shared by all shards.
//!
//! Runs on: any shard; every read happens on the blocking pool. `Send + Sync`, cheap to clone.
//! Promises: the file stays readable while any clone lives, even if its name is gone.
//! Only for files that nobody writes any more: direct writes beside page-cache readers can fail
//! each other's flush.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::blocking::{self, Kind};
use super::file::{OpenOptions, named};
use super::runtime::{self, Runtime};
use super::sim::SimFile;

/// A read-only descriptor of a sealed file.
#[derive(Clone)]
pub struct SharedFile {
    inner: Arc<Inner>,
}

struct Inner {
    path: Box<Path>,
    handle: Handle,
    /// Dropped with the last clone.
    _pin: Arc<()>,
}

enum Handle {
    Machine(Arc<std::fs::File>),
    Sim(SimFile),
}

impl std::fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedFile")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl SharedFile {
    /// Opens the file for reading.
    ///
    /// Cancel: safe.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_pinned(path, Arc::default()).await
    }

    /// As [`open`](Self::open); `pin` is held until the last clone is dropped.
    ///
    /// Cancel: safe.
    pub async fn open_pinned(path: impl AsRef<Path>, pin: Arc<()>) -> io::Result<Self> {
        let path: Box<Path> = Box::from(path.as_ref());
        let handle = match runtime::current() {
            Runtime::Uring(_) => {
                let owned = path.clone();
                blocking::run(Kind::Files, "open", move || std::fs::File::open(owned))
                    .await
                    .map(|file| Handle::Machine(Arc::new(file)))
            }
            Runtime::Sim(_) => {
                let options = OpenOptions {
                    read: true,
                    ..OpenOptions::default()
                };
                SimFile::open(&path, options).await.map(Handle::Sim)
            }
        };
        let handle = handle.map_err(|error| named(&error, "open", &path))?;
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                handle,
                _pin: pin,
            }),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Reads `len` bytes from `pos`; fewer at the end of the file.
    ///
    /// Cancel: safe.
    pub async fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        let read = match &self.inner.handle {
            Handle::Machine(file) => {
                let file = Arc::clone(file);
                blocking::run(Kind::Transfer, "read", move || read_at(&file, pos, len)).await
            }
            Handle::Sim(file) => read_in_sim(file, pos, len).await,
        };
        read.map(Bytes::from)
            .map_err(|error| named(&error, &format!("read {len} bytes at {pos}"), self.path()))
    }

    /// The descriptor; `None` under the simulator.
    pub(super) fn machine(&self) -> Option<&Arc<std::fs::File>> {
        match &self.inner.handle {
            Handle::Machine(file) => Some(file),
            Handle::Sim(_) => None,
        }
    }
}

async fn read_in_sim(file: &SimFile, pos: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = pos + u64::try_from(done).unwrap_or(u64::MAX);
        match file.read_at(at, rest).await? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

fn read_at(file: &std::fs::File, pos: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = pos + u64::try_from(done).unwrap_or(u64::MAX);
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

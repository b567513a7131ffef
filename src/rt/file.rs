//! Files that are read and written in place, by position: direct I/O for journals and segments.
//!
//! Opening costs the shard nothing that waits: the descriptor is opened on the blocking pool with
//! all its flags and handed to glommio. For direct I/O glommio insists on opening by name itself;
//! it is given `/proc/self/fd/N`, so that no other name is looked up, and a file renamed or removed
//! meanwhile cannot fail the statfs that glommio does on the shard (about a microsecond, of an
//! inode that is in memory; the device's sysfs entries are read once per device and shard).
//! Truncating, allocating and duplicating go to the blocking pool as well.
//!
//! Runs on: a shard. Cheap to clone (one reference count), not `Send`.
//! Promises: `write_at` writes everything or fails; any number of reads and writes may be in flight
//! on one file; a dropped future never takes a buffer from the kernel.
//! Every error names the file and what was tried.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaBuffer, DmaFile, ReadResult};

use super::blocking::{self, Kind};
use super::io_buf::{self, Budget, IoBuf};
use super::runtime::{self, Runtime};
use super::sim::SimFile;
use super::sync::semaphore::Permit;
use super::sys;

/// Positions, lengths and addresses of direct I/O are multiples of this.
pub const ALIGNMENT: usize = 4096;

/// How to open a [`File`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent flag of open(2)"
)]
pub struct OpenOptions {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Make the file if it does not exist.
    pub create: bool,
    /// Make the file; fail if it exists.
    pub create_new: bool,
    /// Past the page cache: positions, lengths and buffers are aligned.
    pub direct: bool,
    /// A write is durable when it completes.
    pub dsync: bool,
}

impl OpenOptions {
    /// For reading past the page cache.
    pub const fn direct_read() -> Self {
        Self {
            read: true,
            write: false,
            create: false,
            create_new: false,
            direct: true,
            dsync: false,
        }
    }

    /// For reading and writing past the page cache.
    pub const fn direct() -> Self {
        Self {
            write: true,
            ..Self::direct_read()
        }
    }

    /// Also make the file if it does not exist.
    #[must_use]
    pub const fn create(self) -> Self {
        Self {
            create: true,
            ..self
        }
    }

    /// Also make the file, and fail if it exists.
    #[must_use]
    pub const fn create_new(self) -> Self {
        Self {
            create_new: true,
            ..self
        }
    }

    /// Also make every write durable when it completes.
    #[must_use]
    pub const fn dsync(self) -> Self {
        Self {
            dsync: true,
            ..self
        }
    }
}

/// An open file.
#[derive(Clone)]
pub struct File {
    inner: Rc<Inner>,
}

struct Inner {
    path: Rc<Path>,
    direct: bool,
    handle: Handle,
}

enum Handle {
    Direct(DmaFile),
    Buffered(BufferedFile),
    Sim(SimFile),
}

/// What one call has read.
enum ReadBytes {
    Ring(ReadResult),
    Owned(DmaBuffer),
}

impl ReadBytes {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Ring(read) => read,
            Self::Owned(memory) => memory.as_bytes(),
        }
    }

    fn with(self, permit: Permit) -> IoBuf {
        match self {
            Self::Ring(read) => IoBuf::from_read(read, permit),
            Self::Owned(memory) => IoBuf::from_parts(memory, permit),
        }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl File {
    /// Opens or makes the file.
    ///
    /// Cancel: safe; the file may have been made.
    pub async fn open(path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<Self> {
        let path: Rc<Path> = Rc::from(path.as_ref());
        let handle = match runtime::current() {
            Runtime::Uring(_) => open(&path, *options).await,
            Runtime::Sim(_) => SimFile::open(&path, *options).await.map(Handle::Sim),
        };
        let handle = handle.map_err(|error| named(&error, "open", &path))?;
        Ok(Self {
            inner: Rc::new(Inner {
                path,
                direct: options.direct,
                handle,
            }),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Reads `len` bytes from `pos`; fewer at the end of the file, none behind it.
    ///
    /// Waits for buffer budget. Direct: both are multiples of [`ALIGNMENT`].
    /// Cancel: safe.
    pub async fn read_at(&self, pos: u64, len: usize) -> io::Result<IoBuf> {
        self.check_aligned("read", pos, len)?;
        let permit = Budget::current().acquire(io_buf::round_up(len)).await;
        let read = match self.read_once(pos, len).await {
            Ok(read) if read.bytes().len() < len => self.read_on(pos, len, read).await,
            read => read,
        };
        read.map(|read| read.with(permit))
            .map_err(|error| self.named(&error, &format!("read {len} bytes at {pos}")))
    }

    /// One call of the machine, which may return less than there is.
    async fn read_once(&self, pos: u64, len: usize) -> io::Result<ReadBytes> {
        let read = match &self.inner.handle {
            Handle::Direct(file) => {
                let read = file.read_at_aligned(pos, len).await;
                read.map(ReadBytes::Ring).map_err(plain)
            }
            Handle::Buffered(file) => {
                let read = file.read_at(pos, len).await;
                read.map(ReadBytes::Ring).map_err(plain)
            }
            Handle::Sim(file) => {
                let mut memory = io_buf::memory(io_buf::round_up(len));
                let count = file.read_at(pos, &mut memory.as_bytes_mut()[..len]).await;
                count.map(|count| {
                    memory.trim_to_size(count);
                    ReadBytes::Owned(memory)
                })
            }
        };
        runtime::note_reactor_ran();
        read
    }

    /// Goes on behind a short read, unless the file ends there. A device that cannot read a page
    /// returns what lies before it first: taken for the end of the file, that would hide the rest.
    /// Where it goes no further, though there is more, it cannot read the rest.
    async fn read_on(&self, pos: u64, len: usize, first: ReadBytes) -> io::Result<ReadBytes> {
        let file_len = self.len().await?;
        let left = usize::try_from(file_len.saturating_sub(pos)).unwrap_or(usize::MAX);
        let wanted = len.min(left);
        let mut done = first.bytes().len();
        if done >= wanted {
            return Ok(first);
        }
        let mut whole = io_buf::memory(io_buf::round_up(len));
        whole.as_bytes_mut()[..done].copy_from_slice(first.bytes());
        drop(first);
        while done < wanted {
            let from = match self.inner.direct {
                true => done - done % ALIGNMENT,
                false => done,
            };
            let at = pos + u64::try_from(from).unwrap_or(u64::MAX);
            let more = self.read_once(at, len - from).await?;
            let end = from + more.bytes().len();
            if end <= done {
                if self.len().await? < pos + u64::try_from(wanted).unwrap_or(u64::MAX) {
                    break; // cut meanwhile
                }
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            whole.as_bytes_mut()[from..end].copy_from_slice(more.bytes());
            done = end;
        }
        whole.trim_to_size(done);
        Ok(ReadBytes::Owned(whole))
    }

    /// Writes the first `len` bytes of `buf` at `pos`, all of them, and gives the buffer back, cut
    /// to `len`.
    ///
    /// Direct: both are multiples of [`ALIGNMENT`].
    /// Cancel: the write happens, in part, or not; the buffer stays with the kernel until then.
    pub async fn write_at(&self, buf: IoBuf, len: usize, pos: u64) -> io::Result<IoBuf> {
        self.check_aligned("write", pos, len)?;
        assert!(len <= buf.len(), "the buffer holds what is to be written");
        let (memory, permit) = buf.into_parts(len);
        let written = match &self.inner.handle {
            Handle::Direct(file) => write_direct(file, memory, pos).await,
            Handle::Buffered(file) => write_buffered(file, memory, pos).await,
            Handle::Sim(file) => {
                let result = file.write_at(pos, memory.as_bytes()).await;
                result.map(|()| memory)
            }
        };
        runtime::note_reactor_ran();
        written
            .map(|memory| IoBuf::from_parts(memory, permit))
            .map_err(|error| self.named(&error, &format!("write {len} bytes at {pos}")))
    }

    /// Makes every write that has completed durable, and the length with it.
    ///
    /// Cancel: safe.
    pub async fn fdatasync(&self) -> io::Result<()> {
        let synced = match &self.inner.handle {
            Handle::Direct(file) => file.fdatasync().await.map_err(plain),
            Handle::Buffered(file) => file.fdatasync().await.map_err(plain),
            Handle::Sim(file) => file.fdatasync().await,
        };
        synced.map_err(|error| self.named(&error, "flush"))
    }

    /// Reserves disk space for `len` bytes from `pos`; the file's length stays.
    ///
    /// Cancel: safe.
    pub async fn allocate(&self, pos: u64, len: u64) -> io::Result<()> {
        let allocated = self.off_shard(
            "allocate",
            move |file| sys::fallocate_keep_size(file.as_fd(), pos, len),
            async |file| file.allocate(pos, len).await,
        );
        allocated
            .await
            .map_err(|error| self.named(&error, &format!("allocate {len} bytes at {pos}")))
    }

    /// Makes `len` bytes from `pos` read as zeros, without writing them: the file system keeps the
    /// blocks and forgets what is in them. The file's length stays. Durable after the next flush.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot.
    /// Cancel: safe.
    pub async fn zero(&self, pos: u64, len: u64) -> io::Result<()> {
        let zeroed = self.off_shard(
            "zero",
            move |file| sys::fallocate_zero(file.as_fd(), pos, len),
            async |file| file.zero(pos, len).await,
        );
        zeroed
            .await
            .map_err(|error| self.named(&error, &format!("zero {len} bytes at {pos}")))
    }

    /// Sets the file's length. Durable after the next flush.
    ///
    /// Cancel: safe.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        let truncated = self.off_shard(
            "truncate",
            move |file| std::fs::File::from(file).set_len(len),
            async |file| file.truncate(len).await,
        );
        truncated
            .await
            .map_err(|error| self.named(&error, &format!("truncate to {len} bytes")))
    }

    /// The file's length.
    ///
    /// Cancel: safe.
    pub async fn len(&self) -> io::Result<u64> {
        let len = match &self.inner.handle {
            Handle::Direct(file) => file.file_size().await.map_err(plain),
            Handle::Buffered(file) => file.file_size().await.map_err(plain),
            Handle::Sim(file) => file.len(),
        };
        len.map_err(|error| self.named(&error, "measure"))
    }

    /// Closes the file, unless clones of it are left: then the last of them does.
    ///
    /// Cancel: safe; it is closed all the same.
    pub async fn close(self) -> io::Result<()> {
        let Ok(inner) = Rc::try_unwrap(self.inner) else {
            return Ok(());
        };
        let closed = match inner.handle {
            Handle::Direct(file) => file.close().await.map_err(plain).map(drop),
            Handle::Buffered(file) => file.close().await.map_err(plain),
            Handle::Sim(_) => Ok(()),
        };
        closed.map_err(|error| named(&error, "close", &inner.path))
    }

    /// Does what the ring has no operation for, off the shard and on a copy of the descriptor,
    /// which stays good if this file is closed meanwhile. Or in the simulation.
    async fn off_shard(
        &self,
        name: &'static str,
        on_disk: impl FnOnce(OwnedFd) -> io::Result<()> + Send + 'static,
        in_sim: impl AsyncFnOnce(&SimFile) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = match &self.inner.handle {
            Handle::Direct(file) => sys::duplicate(file)?,
            Handle::Buffered(file) => sys::duplicate(file)?,
            Handle::Sim(file) => return in_sim(file).await,
        };
        blocking::run(Kind::Files, name, move || on_disk(file)).await
    }

    fn check_aligned(&self, what: &str, pos: u64, len: usize) -> io::Result<()> {
        let alignment = u64::try_from(ALIGNMENT).unwrap_or(u64::MAX);
        if !self.inner.direct || (pos.is_multiple_of(alignment) && len.is_multiple_of(ALIGNMENT)) {
            return Ok(());
        }
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not aligned for direct I/O");
        Err(self.named(&error, &format!("{what} {len} bytes at {pos}")))
    }

    fn named(&self, error: &io::Error, what: &str) -> io::Error {
        named(error, what, &self.inner.path)
    }
}

async fn open(path: &Path, options: OpenOptions) -> io::Result<Handle> {
    use std::os::fd::AsRawFd;
    let owned = path.to_owned();
    let fd = blocking::run(Kind::Files, "open", move || {
        let flags = if options.dsync { libc::O_DSYNC } else { 0 };
        std::fs::OpenOptions::new()
            .read(options.read)
            .write(options.write)
            .create(options.create)
            .create_new(options.create_new)
            .custom_flags(flags)
            .open(owned)
    })
    .await?;
    if !options.direct {
        return Ok(Handle::Buffered(sys::buffered_file(fd.into())));
    }
    let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = glommio::io::OpenOptions::new()
        .read(options.read)
        .write(options.write)
        .custom_flags(if options.dsync { libc::O_DSYNC } else { 0 })
        .dma_open(again)
        .await;
    drop(fd);
    file.map(Handle::Direct).map_err(plain)
}

async fn write_direct(file: &DmaFile, memory: DmaBuffer, pos: u64) -> io::Result<DmaBuffer> {
    let len = memory.len();
    let memory = Rc::new(memory);
    let mut done = file
        .write_rc_at(Rc::clone(&memory), pos)
        .await
        .map_err(plain)?;
    while done < len {
        // Short writes are rare (a signal, the last free blocks): the rest goes from a copy.
        let aligned = done - done % ALIGNMENT;
        let rest = memory.as_bytes().get(aligned..).unwrap_or_default();
        let mut copy = io_buf::memory(rest.len());
        copy.as_bytes_mut().copy_from_slice(rest);
        let at = pos + u64::try_from(aligned).unwrap_or(u64::MAX);
        let more = file.write_at(copy, at).await.map_err(plain)?;
        if more == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if aligned + more <= done {
            // a file system of small blocks has taken the last of them
            return Err(io::ErrorKind::StorageFull.into());
        }
        done = aligned + more;
    }
    Ok(Rc::try_unwrap(memory).unwrap_or_else(|shared| {
        // The ring gives its reference back before it wakes us, so this is never taken.
        let mut copy = io_buf::memory(shared.len());
        copy.as_bytes_mut().copy_from_slice(shared.as_bytes());
        copy
    }))
}

async fn write_buffered(file: &BufferedFile, memory: DmaBuffer, pos: u64) -> io::Result<DmaBuffer> {
    let mut done = 0;
    while done < memory.len() {
        let rest = memory.as_bytes().get(done..).unwrap_or_default().to_vec();
        let at = pos + u64::try_from(done).unwrap_or(u64::MAX);
        let more = file.write_at(rest, at).await.map_err(plain)?;
        if more == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += more;
    }
    Ok(memory)
}

/// The operating system's error inside glommio's.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

/// What was tried on which file, and the system's number of the error: its kind does not tell all.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Named {
    text: String,
    number: Option<i32>,
}

/// `error`, saying what was tried on which file. Keeps its kind.
pub(super) fn named(error: &io::Error, what: &str, path: &Path) -> io::Error {
    let named = Named {
        text: format!("cannot {what}: {}: {error}", path.display()),
        number: number_of(error),
    };
    io::Error::new(error.kind(), named)
}

fn number_of(error: &io::Error) -> Option<i32> {
    let named = error.get_ref().and_then(|error| error.downcast_ref());
    error
        .raw_os_error()
        .or_else(|| named.and_then(|named: &Named| named.number))
}

/// Whether the disk cannot read what is there, and not something else went wrong.
pub fn is_medium_error(error: &io::Error) -> bool {
    let number = number_of(error);
    number.is_some_and(|number| [libc::EIO, libc::EILSEQ, libc::ENODATA].contains(&number))
}

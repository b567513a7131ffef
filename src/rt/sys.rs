//! The system calls that std and socket2 do not wrap, each behind a safe function.
//!
//! Runs on: pool threads and start-up code, where a call may block; the few that never block say
//! so. Unsafe is allowed here and nowhere else in this folder.

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::{BufMut, BytesMut};
use socket2::Socket;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Receives what is there into `buf`'s spare room, at most `limit` bytes. Never blocks.
pub(super) fn recv_spare(socket: &Socket, buf: &mut BytesMut, limit: usize) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    let room = spare.len().min(limit);
    let received = socket.recv_with_flags(&mut spare[..room], libc::MSG_DONTWAIT)?;
    // SAFETY: the kernel has filled the first `received` bytes of the spare room.
    unsafe { buf.advance_mut(received) };
    Ok(received)
}

/// sendfile(2): at most `len` bytes of `file` from `pos` to `socket`. May wait for the disk.
pub(super) fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    pos: u64,
    len: usize,
) -> io::Result<usize> {
    let mut offset = signed(pos)?;
    // SAFETY: both descriptors are borrowed and so open; `offset` lives across the call.
    let sent =
        unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, len) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// posix_fadvise(2): brings these bytes into the page cache, and nothing beyond them. Only advice.
pub(super) fn read_ahead_only(file: BorrowedFd<'_>, pos: u64, len: usize) {
    let (Ok(pos), Ok(len)) = (signed(pos), libc::off_t::try_from(len)) else {
        return;
    };
    let fd = file.as_raw_fd();
    // SAFETY: plain integers and an open descriptor.
    unsafe {
        libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_RANDOM);
        libc::posix_fadvise(fd, pos, len, libc::POSIX_FADV_WILLNEED);
    }
}

/// fallocate(2) that keeps the file's length. May wait for the disk.
pub(super) fn fallocate_keep_size(file: BorrowedFd<'_>, pos: u64, len: u64) -> io::Result<()> {
    let (pos, len) = (signed(pos)?, signed(len)?);
    // SAFETY: plain integers and an open descriptor.
    check(unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, pos, len) })
}

/// fallocate(2) that makes a range read as zeros and keeps its blocks and the file's length. May
/// wait for the disk.
pub(super) fn fallocate_zero(file: BorrowedFd<'_>, pos: u64, len: u64) -> io::Result<()> {
    let (pos, len) = (signed(pos)?, signed(len)?);
    let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain integers and an open descriptor.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, pos, len) })
}

/// renameat2(2) that replaces nothing.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    let (cwd, flags) = (libc::AT_FDCWD, libc::RENAME_NOREPLACE);
    // SAFETY: two terminated strings that live across the call.
    check(unsafe { libc::renameat2(cwd, from.as_ptr(), cwd, to.as_ptr(), flags) })
}

/// syncfs(2): everything of the filesystem that `file` is on. Waits for the disk.
pub(super) fn syncfs(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor.
    check(unsafe { libc::syncfs(file.as_raw_fd()) })
}

/// What a filesystem says about itself.
pub(super) struct FilesystemStat {
    pub(super) magic: i64,
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
}

/// statfs(2).
pub(super) fn statfs(path: &Path) -> io::Result<FilesystemStat> {
    let path = c_path(path)?;
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a terminated string and room for the answer.
    check(unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: statfs succeeded and has filled it.
    let stat = unsafe { stat.assume_init() };
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    Ok(FilesystemStat {
        magic: stat.f_type,
        free_bytes: block.saturating_mul(stat.f_bavail),
        total_bytes: block.saturating_mul(stat.f_blocks),
    })
}

/// Cores that the calling thread may run on. Never blocks.
pub(super) fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: the set is as large as it is said to be.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    let cores = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every index lies below CPU_SETSIZE.
    Ok((0..cores)
        .filter(|core| unsafe { libc::CPU_ISSET(*core, &set) })
        .collect())
}

/// Lets the calling thread run on `cores` only. Never blocks.
pub(super) fn set_affinity(cores: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    for core in cores.iter().filter(|core| **core < limit) {
        // SAFETY: the index lies below CPU_SETSIZE.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    // SAFETY: the set is as large as it is said to be.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
}

/// Limits that the machine checks or raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limit {
    LockedMemory,
    OpenFiles,
}

impl Limit {
    fn resource(self) -> libc::__rlimit_resource_t {
        match self {
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
            Self::OpenFiles => libc::RLIMIT_NOFILE,
        }
    }
}

/// Soft and hard limit. Never blocks.
pub(super) fn limit(which: Limit) -> io::Result<(u64, u64)> {
    let mut value = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: room for the answer.
    check(unsafe { libc::getrlimit(which.resource(), &raw mut value) })?;
    Ok((value.rlim_cur, value.rlim_max))
}

/// Sets the soft limit. Never blocks.
pub(super) fn set_soft_limit(which: Limit, soft: u64, hard: u64) -> io::Result<()> {
    let value = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a complete value.
    check(unsafe { libc::setrlimit(which.resource(), &raw const value) })
}

/// `io_uring_setup(2)` of a ring with one entry: whether this process may use io_uring at all, and
/// the kernel's feature bits.
pub(super) fn io_uring_setup() -> io::Result<u32> {
    /// Where the kernel's io_uring_params hold the features, in words of four bytes.
    const FEATURES: usize = 5;
    // The kernel's io_uring_params: 120 bytes, all zero for "nothing special".
    let mut params = [0_u32; 30];
    // SAFETY: the kernel copies exactly the 120 bytes of the parameters in and out.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let fd = i32::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(params[FEATURES])
}

/// flock(2), exclusive, without waiting.
pub(super) fn try_lock_exclusive(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
}

/// Clock ticks per second of the times in /proc. Never blocks.
pub(super) fn clock_ticks_per_second() -> u64 {
    // SAFETY: no arguments that could be wrong.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) })
        .unwrap_or(100)
        .max(1)
}

/// Bytes of a memory page. Never blocks.
pub(super) fn page_size() -> u64 {
    // SAFETY: no arguments that could be wrong.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
        .unwrap_or(4096)
        .max(1)
}

/// Hands a descriptor over to glommio's buffered file.
pub(super) fn buffered_file(fd: OwnedFd) -> glommio::io::BufferedFile {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is open and from here on owned by the file alone.
    unsafe { glommio::io::BufferedFile::from_raw_fd(fd.into_raw_fd()) }
}

/// A descriptor of the same open file, owned by the caller. Never blocks.
pub(super) fn duplicate(file: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open as long as `file` is borrowed.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }.try_clone_to_owned()
}

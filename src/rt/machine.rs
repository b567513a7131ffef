//! What the machine offers: cores, memory, limits, io_uring, direct I/O, filesystems.
//!
//! Runs on: start-up code; everything here may block for a moment.
//! Promises: nothing is changed except where the name says so (`raise_limits`); probes clean up.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::sys::{self, Limit};

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const EXT_MAGIC: i64 = 0xef53;
const XFS_MAGIC: i64 = 0x5846_5342;
const BTRFS_MAGIC: i64 = 0x9123_683e;
const OVERLAY_MAGIC: i64 = 0x794c_7630;
const NFS_MAGIC: i64 = 0x6969;

/// Cores that this thread may run on, in order.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    sys::affinity()
}

/// Lets the calling thread run on `cores` only.
pub(super) fn set_affinity(cores: &[usize]) -> io::Result<()> {
    sys::set_affinity(cores)
}

/// CPUs that the cgroup grants, as a fraction of one CPU's time; `None` when it sets no quota.
pub fn cgroup_cpu_quota() -> Option<f64> {
    cgroup_files("cpu.max")
        .filter_map(|text| parse_cpu_max(&text))
        .chain(cgroup1_cpu_quota())
        .reduce(f64::min)
}

/// Memory that may be used: free memory of the machine, or what the cgroup's limit leaves.
pub fn available_memory() -> io::Result<u64> {
    let machine = parse_meminfo(&fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| io::Error::other("no MemAvailable in /proc/meminfo"))?;
    Ok(cgroup_memory_limit().map_or(machine, |limit| limit.min(machine)))
}

/// The cgroup's memory limit; `None` when there is none.
pub fn cgroup_memory_limit() -> Option<u64> {
    let unified = cgroup_files("memory.max").filter_map(|text| text.trim().parse::<u64>().ok());
    let legacy = fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes").ok();
    let legacy = legacy.and_then(|text| text.trim().parse::<u64>().ok());
    // The legacy hierarchy says "no limit" by an absurdly large one.
    unified.chain(legacy.filter(|limit| *limit < 1 << 60)).min()
}

/// Contents of the file `name` in this process's cgroup and in every one above it.
fn cgroup_files(name: &str) -> impl Iterator<Item = String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .map(PathBuf::from);
    let name = name.to_owned();
    path.into_iter().flat_map(move |path| {
        let name = name.clone();
        let above: Vec<PathBuf> = path.ancestors().map(Path::to_owned).collect();
        above.into_iter().filter_map(move |cgroup| {
            fs::read_to_string(Path::new("/sys/fs/cgroup").join(cgroup).join(&name)).ok()
        })
    })
}

fn cgroup1_cpu_quota() -> Option<f64> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok()?;
        text.trim().parse::<f64>().ok()
    };
    let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (period > 0.0).then_some(quota / period)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kilobytes.checked_mul(1024)
}

/// A soft and a hard limit; `None` is "unlimited".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// What counts.
    pub soft: Option<u64>,
    /// What the soft limit may be raised to.
    pub hard: Option<u64>,
}

fn limits(which: Limit) -> io::Result<Limits> {
    let (soft, hard) = sys::limit(which)?;
    let finite = |value| (value != libc::RLIM_INFINITY).then_some(value);
    Ok(Limits {
        soft: finite(soft),
        hard: finite(hard),
    })
}

/// Limits of locked memory, in bytes.
pub fn memlock_limits() -> io::Result<Limits> {
    limits(Limit::LockedMemory)
}

/// Limits of open files.
pub fn nofile_limits() -> io::Result<Limits> {
    limits(Limit::OpenFiles)
}

/// The soft limit of locked memory; `None` when unlimited.
pub(super) fn memlock_limit() -> io::Result<Option<u64>> {
    memlock_limits().map(|limits| limits.soft)
}

/// Raises the soft limits of open files and locked memory to the hard ones; the limits then.
pub fn raise_limits() -> io::Result<(Limits, Limits)> {
    for which in [Limit::OpenFiles, Limit::LockedMemory] {
        let (soft, hard) = sys::limit(which)?;
        if soft != hard {
            sys::set_soft_limit(which, hard, hard)?;
        }
    }
    Ok((nofile_limits()?, memlock_limits()?))
}

/// Descriptors of a broker without clients and topics.
const OPEN_FILES_BASE: u64 = 64;
/// Descriptors that each shard takes for its rings, listeners and journal.
const OPEN_FILES_PER_SHARD: u64 = 32;
/// Below this, an ordinary load runs out of descriptors.
const OPEN_FILES_WANTED: u64 = 1024;

/// Fewer descriptors than the broker itself takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and {shards} shards need {needed} before the first client \
     connects: raise it with `ulimit -Hn` or LimitNOFILE=, 65536 is plenty"
)]
pub struct TooFewFiles {
    limit: u64,
    shards: u64,
    needed: u64,
}

/// Whether `shards` can run within `limits` of open files; `Ok(Some(limit))` when they can, but
/// few clients and partitions beside them.
pub fn check_open_files(limits: Limits, shards: u64) -> Result<Option<u64>, TooFewFiles> {
    let Some(limit) = limits.soft else {
        return Ok(None);
    };
    let needed = OPEN_FILES_BASE + OPEN_FILES_PER_SHARD * shards;
    if limit < needed {
        return Err(TooFewFiles {
            limit,
            shards,
            needed,
        });
    }
    Ok((limit < OPEN_FILES_WANTED.max(2 * needed)).then_some(limit))
}

/// Why io_uring cannot be used; each says in one line what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// Switched off for everybody.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled is {0}): run \
         `sysctl -w kernel.io_uring_disabled=0` as root"
    )]
    Disabled(u8),
    /// Forbidden for this process.
    #[error(
        "this process may not use io_uring: a container runtime's seccomp profile usually forbids \
         it; allow io_uring_setup, io_uring_enter and io_uring_register (with docker: \
         --security-opt seccomp=unconfined, or a profile that lists them)"
    )]
    Forbidden,
    /// Too old a kernel.
    #[error("this kernel has no io_uring: Linux 5.11 or newer is needed")]
    Missing,
    /// No memory may be locked.
    #[error(
        "io_uring needs at least 512 KiB of lockable memory, the limit is {0} bytes: raise it with \
         `ulimit -l` or LimitMEMLOCK="
    )]
    LockedMemory(u64),
    /// The rings could not be made.
    #[error(
        "io_uring does not work here: {0}: it takes Linux 5.11 or newer, open files (`ulimit -n`) \
         and lockable memory (`ulimit -l`)"
    )]
    Broken(io::Error),
}

/// Checks that a shard's executor can be made and can run.
pub fn probe_io_uring() -> Result<(), UringError> {
    if let Err(error) = sys::io_uring_setup() {
        return Err(match error.raw_os_error() {
            Some(libc::ENOMEM) => match memlock_limit() {
                Ok(Some(limit)) => UringError::LockedMemory(limit),
                _ => UringError::Broken(error),
            },
            Some(libc::ENOSYS) => UringError::Missing,
            Some(libc::EPERM | libc::EACCES) => match io_uring_disabled() {
                Some(level) if level > 0 => UringError::Disabled(level),
                _ => UringError::Forbidden,
            },
            _ => UringError::Broken(error),
        });
    }
    if let Ok(Some(limit)) = memlock_limit()
        && limit < 512 << 10
    {
        return Err(UringError::LockedMemory(limit));
    }
    // The executor checks every operation that it will submit.
    let executor = std::thread::spawn(|| {
        glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
            .ring_depth(8)
            .io_memory(0)
            .make()
            .map(|executor| executor.run(async {}))
            .map_err(io::Error::from)
    });
    match executor.join() {
        Ok(made) => made.map_err(UringError::Broken),
        Err(_) => Err(UringError::Broken(io::Error::other("the probe panicked"))),
    }
}

fn io_uring_disabled() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// What kind of filesystem a path is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filesystem {
    /// In memory: gone with the machine.
    Tmpfs,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// A container's layers.
    Overlay,
    /// NFS.
    Nfs,
    /// Another, by its magic number.
    Other(i64),
}

impl Filesystem {
    /// Whether it loses everything with the machine.
    pub fn is_volatile(self) -> bool {
        self == Self::Tmpfs
    }
}

/// The filesystem of `path`.
pub fn filesystem(path: &Path) -> io::Result<Filesystem> {
    Ok(match sys::statfs(path)?.magic {
        TMPFS_MAGIC | RAMFS_MAGIC => Filesystem::Tmpfs,
        EXT_MAGIC => Filesystem::Ext,
        XFS_MAGIC => Filesystem::Xfs,
        BTRFS_MAGIC => Filesystem::Btrfs,
        OVERLAY_MAGIC => Filesystem::Overlay,
        NFS_MAGIC => Filesystem::Nfs,
        other => Filesystem::Other(other),
    })
}

/// Bytes that an ordinary user may still write to the filesystem of `path`.
pub fn free_disk(path: &Path) -> io::Result<u64> {
    sys::statfs(path).map(|stat| stat.free_bytes)
}

/// Bytes of the filesystem of `path`.
pub fn total_disk(path: &Path) -> io::Result<u64> {
    sys::statfs(path).map(|stat| stat.total_bytes)
}

/// Bytes of the files in `dir` and one level below; 0 when there is none. For start-up only.
pub fn directory_size(dir: &Path) -> u64 {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    entries(dir)
        .flat_map(|entry| {
            entries(&entry.path())
                .chain(std::iter::once(entry))
                .collect::<Vec<_>>()
        })
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum()
}

/// Why a directory does not take direct I/O.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// The filesystem refuses it.
    #[error(
        "{path} does not take direct I/O ({source}): put the data directory on ext4 or XFS on a \
         local disk"
    )]
    Refused {
        /// The directory.
        path: PathBuf,
        /// What the filesystem said.
        source: io::Error,
    },
    /// It wants larger blocks than the on-disk format has.
    #[error(
        "{path} takes direct I/O only in blocks of more than 4096 bytes: use a disk with 512 or \
         4096-byte sectors"
    )]
    Alignment {
        /// The directory.
        path: PathBuf,
    },
    /// The probe's file could not be made.
    #[error("cannot write to {path}: {source}")]
    Write {
        /// The directory.
        path: PathBuf,
        /// What the filesystem said.
        source: io::Error,
    },
}

/// The smallest aligned block that the directory reads by direct I/O: 512, 1024, 2048 or 4096.
/// Makes a small file there and removes it.
pub fn probe_direct_io(dir: &Path) -> Result<usize, DirectError> {
    let path = dir.join(format!(".direct-io-probe-{}", std::process::id()));
    let probed = probe_direct_file(dir, &path);
    let removed = fs::remove_file(&path);
    let alignment = probed?;
    removed.map_err(|source| DirectError::Write {
        path: dir.to_owned(),
        source,
    })?;
    Ok(alignment)
}

fn probe_direct_file(dir: &Path, path: &Path) -> Result<usize, DirectError> {
    let write = |source| DirectError::Write {
        path: dir.to_owned(),
        source,
    };
    fs::write(path, [0; 8192]).map_err(write)?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(write)?;
    // Room to find a 4096-aligned block in, whatever the allocator gives.
    let mut room = vec![0_u8; 3 * 4096];
    let lead = room.as_ptr().align_offset(4096);
    for alignment in [512, 1024, 2048, 4096] {
        let refused = |source| DirectError::Refused {
            path: dir.to_owned(),
            source,
        };
        let mut file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(refused)?;
        let block = room.get_mut(lead..lead + alignment).unwrap_or_default();
        match file.read(block) {
            Ok(_) => return Ok(alignment),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Err(DirectError::Alignment {
        path: dir.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_open_files_are_refused_and_few_are_told() {
        let limits = |limit| Limits {
            soft: limit,
            hard: limit,
        };
        let error = check_open_files(limits(Some(64)), 2).unwrap_err();
        assert!(
            error.to_string().contains("is 64, and 2 shards need 128"),
            "{error}"
        );
        assert_eq!(check_open_files(limits(Some(1023)), 2), Ok(Some(1023)));
        assert_eq!(check_open_files(limits(Some(1024)), 2), Ok(None));
        assert_eq!(check_open_files(limits(None), 100), Ok(None));
    }

    #[test]
    fn cpu_quota_is_read_from_cpu_max() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   23456 kB\n";
        assert_eq!(parse_meminfo(text), Some(23456 * 1024));
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_cores_memory_and_limits() {
        assert!(!allowed_cores().unwrap().is_empty());
        assert!(available_memory().unwrap() > 1 << 20);
        let (files, _) = raise_limits().unwrap();
        assert_eq!(files.soft, files.hard);
    }

    #[test]
    fn a_disk_takes_direct_io_and_memory_filesystems_are_recognised() {
        let dir = crate::rt::testing::dir();
        let alignment = probe_direct_io(dir.path()).unwrap();
        assert!((512..=4096).contains(&alignment));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the probe cleans up"
        );
        assert!(free_disk(dir.path()).unwrap() <= total_disk(dir.path()).unwrap());
        assert!(!filesystem(dir.path()).unwrap().is_volatile());
        if Path::new("/dev/shm").is_dir() {
            assert_eq!(
                filesystem(Path::new("/dev/shm")).unwrap(),
                Filesystem::Tmpfs
            );
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = crate::rt::testing::dir();
        let missing = dir.path().join("missing");
        let error = probe_direct_io(&missing).unwrap_err();
        assert!(
            error.to_string().contains(missing.to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    fn io_uring_works_here() {
        if let Err(error) = probe_io_uring() {
            panic!("{error}");
        }
    }
}

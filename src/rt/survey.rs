//! What decides how fast a broker is on this machine: disk, flushes, clock, cores, interrupts.
//!
//! Runs on: the main thread of `corelog check`; everything here blocks, for seconds where it
//! measures.
//! Promises: what this machine does not tell is `None`, never an error; nothing is changed but by
//! `write_system_setting`, and the measuring file is removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clock::now;
use super::sys;

/// The file that durable writes are measured on: large enough for four writers to wrap rarely.
const MEASURED_BYTES: usize = 64 << 20;
/// A commit that holds little, and a full one.
const SMALL_WRITE_BYTES: usize = 4 << 10;
const LARGE_WRITE_BYTES: usize = 1 << 20;
/// As many as the journal keeps in flight by default.
const LARGE_WRITERS: usize = 4;
/// How long each of the two kinds of write is measured.
const MEASURED_TIME: Duration = Duration::from_secs(2);

/// The kernel's release, as `uname -r` says it.
pub fn kernel_release() -> Option<String> {
    read_line(Path::new("/proc/sys/kernel/osrelease"))
}

/// Names of io_uring's features here, as in io_uring_setup(2) without their prefix; `None` where
/// it may not be used.
pub fn io_uring_features() -> Option<Vec<&'static str>> {
    /// In the order of their bits.
    const NAMES: [&str; 15] = [
        "SINGLE_MMAP",
        "NODROP",
        "SUBMIT_STABLE",
        "RW_CUR_POS",
        "CUR_PERSONALITY",
        "FAST_POLL",
        "POLL_32BITS",
        "SQPOLL_NONFIXED",
        "EXT_ARG",
        "NATIVE_WORKERS",
        "RSRC_TAGS",
        "CQE_SKIP",
        "LINKED_FILE",
        "REG_REG_RING",
        "RECVSEND_BUNDLE",
    ];
    let bits = sys::io_uring_setup().ok()?;
    let has = |(bit, name): (usize, &'static str)| (bits >> bit & 1 == 1).then_some(name);
    Some(NAMES.into_iter().enumerate().filter_map(has).collect())
}

/// Where a path is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount point.
    pub point: PathBuf,
    /// Options of mount and file system, one after the other.
    pub options: Vec<String>,
}

/// The mount that `path` is on.
pub fn mount(path: &Path) -> Option<Mount> {
    let path = path.canonicalize().ok()?;
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// The deepest mount above `path`; of two on one point the later, which covers the other.
fn parse_mounts(text: &str, path: &Path) -> Option<Mount> {
    let mounts = text.lines().filter_map(|line| {
        let (own, of_file_system) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(4);
        let point = PathBuf::from(own.next()?.replace("\\040", " "));
        let options = format!("{},{}", own.next()?, of_file_system.split(' ').nth(2)?);
        let options = options.split(',').map(str::to_owned).collect();
        path.starts_with(&point).then_some(Mount { point, options })
    });
    mounts.max_by_key(|mount| mount.point.components().count())
}

/// The disk below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name of the whole disk: `nvme0n1`.
    pub name: String,
    /// `write back`: the disk has a cache that loses its content with the power, and the kernel
    /// empties it with every durable write. `write through`: a write that ended is safe.
    pub write_cache: Option<String>,
}

/// The disk that `path` is on; `None` on a file system without one of its own.
pub fn block_device(path: &Path) -> Option<BlockDevice> {
    let device = fs::metadata(path).ok()?.st_dev();
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let entry = Path::new("/sys/dev/block").join(number);
    let entry = entry.canonicalize().ok()?;
    // A partition has no queue of its own: its disk is the folder above.
    let disk = if entry.join("queue").is_dir() {
        entry.as_path()
    } else {
        entry.parent().filter(|disk| disk.join("queue").is_dir())?
    };
    Some(BlockDevice {
        name: disk.file_name()?.to_string_lossy().into_owned(),
        write_cache: read_line(&disk.join("queue/write_cache")),
    })
}

/// Times of writes that ended, shortest first, and how long they took together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteTimes {
    /// Of each write.
    pub sorted: Vec<Duration>,
    /// From the first one's begin to the last one's end.
    pub total: Duration,
}

impl WriteTimes {
    /// The time that `percent` of the writes did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        let at = last * percent / 100;
        self.sorted.get(at).copied().unwrap_or_default()
    }

    /// Writes per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn per_second(&self) -> f64 {
        self.sorted.len() as f64 / self.total.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// What durable writes take here: overwrites of a file that was written before, past the page
/// cache and safe when they end, as the journal does them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurableWrites {
    /// One write of 4 KiB after the other.
    pub small: WriteTimes,
    /// Writes of 1 MiB, four at a time.
    pub large: WriteTimes,
}

impl DurableWrites {
    /// Bytes per second of the large writes.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn bytes_per_second(&self) -> f64 {
        self.large.per_second() * LARGE_WRITE_BYTES as f64
    }
}

/// Measures durable writes in `dir`, for about four seconds, on a file of 64 MiB that is removed.
pub fn measure_durable_writes(dir: &Path) -> io::Result<DurableWrites> {
    let path = dir.join(format!(".durable-write-probe-{}", std::process::id()));
    let measured = measure_on(&path);
    let removed = fs::remove_file(&path);
    let measured = measured?;
    removed?;
    Ok(measured)
}

fn measure_on(path: &Path) -> io::Result<DurableWrites> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path)?;
    let region = MEASURED_BYTES / LARGE_WRITERS;
    let whole = 0..MEASURED_BYTES;
    write_around(&file, &whole, LARGE_WRITE_BYTES, |writes| {
        writes < MEASURED_BYTES / LARGE_WRITE_BYTES
    })?;
    file.sync_all()?;
    let begin = now();
    let small = write_around(&file, &whole, SMALL_WRITE_BYTES, |_| {
        begin.elapsed() < MEASURED_TIME
    })?;
    let small = write_times(small, begin.elapsed());
    let begin = now();
    let large = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..LARGE_WRITERS)
            .map(|writer| {
                let (file, begin) = (&file, &begin);
                scope.spawn(move || {
                    let own = writer * region..(writer + 1) * region;
                    write_around(file, &own, LARGE_WRITE_BYTES, |_| {
                        begin.elapsed() < MEASURED_TIME
                    })
                })
            })
            .collect();
        let mut times = Vec::new();
        for writer in writers {
            let ended = writer.join();
            times.extend(ended.map_err(|_| io::Error::other("a measuring thread panicked"))??);
        }
        io::Result::Ok(times)
    })?;
    let large = write_times(large, begin.elapsed());
    Ok(DurableWrites { small, large })
}

fn write_times(mut sorted: Vec<Duration>, total: Duration) -> WriteTimes {
    sorted.sort_unstable();
    WriteTimes { sorted, total }
}

/// Writes blocks of `size` one after the other, around and around within `region`, as long as
/// `goes_on` says so of the number of writes that ended.
fn write_around(
    file: &File,
    region: &std::ops::Range<usize>,
    size: usize,
    goes_on: impl Fn(usize) -> bool,
) -> io::Result<Vec<Duration>> {
    // Room to find an aligned block in, whatever the allocator gives. No zeros: a disk may take
    // those for nothing.
    let room = vec![0xa5_u8; size + 4096];
    let lead = room.as_ptr().align_offset(4096);
    let block = room.get(lead..lead + size).unwrap_or_default();
    let mut times = Vec::new();
    let mut at = region.start;
    while goes_on(times.len()) {
        let begin = now();
        file.write_all_at(block, at as u64)?;
        times.push(begin.elapsed());
        at += size;
        if at + size > region.end {
            at = region.start;
        }
    }
    Ok(times)
}

const CLOCK_SOURCES: &str = "/sys/devices/system/clocksource/clocksource0";

/// The kernel's clock sources, the one at work first.
pub fn clock_sources() -> Option<Vec<String>> {
    let current = read_line(&Path::new(CLOCK_SOURCES).join("current_clocksource"))?;
    let all = read_line(&Path::new(CLOCK_SOURCES).join("available_clocksource"))?;
    let others = all.split_whitespace().filter(|name| *name != current);
    let others: Vec<String> = others.map(str::to_owned).collect();
    Some([vec![current], others].concat())
}

/// Where the clock source is chosen.
pub fn clock_source_file() -> PathBuf {
    Path::new(CLOCK_SOURCES).join("current_clocksource")
}

/// The frequency governor of a core, and where it is chosen.
pub fn governor(core: usize) -> Option<(String, PathBuf)> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
    let path = PathBuf::from(path);
    Some((read_line(&path)?, path))
}

/// The cores that share a physical one with `core`, itself among them, as the kernel lists them.
pub fn siblings(core: usize) -> Option<String> {
    let topology = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    read_line(Path::new(&topology))
}

/// How many interrupts of devices each core has taken since the machine was started.
pub fn device_interrupts() -> Option<Vec<u64>> {
    Some(parse_interrupts(
        &fs::read_to_string("/proc/interrupts").ok()?,
    ))
}

/// Sums the numbered rows, which are the devices', by core.
fn parse_interrupts(text: &str) -> Vec<u64> {
    let mut lines = text.lines();
    let cores = lines.next().unwrap_or_default().split_whitespace().count();
    let mut sums = vec![0_u64; cores];
    for line in lines {
        let mut words = line.split_whitespace();
        let number = words.next().and_then(|word| word.strip_suffix(':'));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            continue;
        }
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.saturating_add(word.parse().unwrap_or(0));
        }
    }
    sums
}

/// Writes a value to a file below /proc or /sys. It holds until the machine is started anew.
pub fn write_system_setting(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value)
}

fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts_and_the_later_of_two() {
        let text = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                    28 27 254:1 / /data rw - tmpfs none rw,size=4k\n\
                    29 27 254:1 / /data rw,noatime shared:3 - xfs /dev/vdb rw,logbufs=8\n\
                    30 27 254:2 / /data\\040two rw - ext4 /dev/vdc rw\n";
        let at = |path: &str| parse_mounts(text, Path::new(path)).unwrap();
        assert_eq!(at("/data/x").options, ["rw", "noatime", "rw", "logbufs=8"]);
        assert_eq!(at("/database").point, Path::new("/"));
        assert_eq!(at("/data two/x").point, Path::new("/data two"));
        assert!(at("/").options.contains(&"discard".to_owned()));
    }

    #[test]
    fn interrupts_of_devices_are_summed_by_core() {
        let text = "           CPU0       CPU1\n\
                    \u{20}24:          1          2  IO-APIC   5-edge      ACPI:Ged\n\
                    \u{20}36:         10   20702345 PCI-MSIX-0000:00:02.0   1-edge  virtio1-req.0\n\
                    NMI:          7          7   Non-maskable interrupts\n\
                    ERR:          0\n";
        assert_eq!(parse_interrupts(text), [11, 20_702_347]);
        assert_eq!(parse_interrupts(""), Vec::<u64>::new());
    }

    #[test]
    fn percentiles_and_rates_are_of_the_writes_that_ended() {
        let milliseconds = |range: std::ops::RangeInclusive<u64>| {
            range.rev().map(Duration::from_millis).collect::<Vec<_>>()
        };
        let times = write_times(milliseconds(1..=100), Duration::from_secs(2));
        assert_eq!(times.percentile(50), Duration::from_millis(50));
        assert_eq!(times.percentile(99), Duration::from_millis(99));
        assert_eq!(times.percentile(100), Duration::from_millis(100));
        assert!((times.per_second() - 50.0).abs() < 1e-9);
        assert_eq!(WriteTimes::default().percentile(99), Duration::ZERO);
    }

    #[test]
    fn durable_writes_are_measured_and_leave_nothing() {
        let dir = crate::rt::testing::dir();
        let measured = measure_durable_writes(dir.path()).unwrap();
        assert!(!measured.small.sorted.is_empty() && !measured.large.sorted.is_empty());
        assert!(measured.bytes_per_second() > 0.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = dir.path().join("missing");
        assert!(measure_durable_writes(&missing).is_err());
    }
}

//! What is made of the things that were looked at: good, worth changing, or in the way.
//!
//! Runs on: the main thread. Decisions only; `machine` looks.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::machine::{MachineError, ShardSettings};
use crate::config::units::{format_about, format_size};
use crate::rt::machine::{DirectError, Filesystem, Limits, UringError};
use crate::rt::survey::{BlockDevice, DurableWrites, Mount};

/// Slower than this, most of the time that a producer waits is the disk's.
const SMALL_WRITE_WANTED: Duration = Duration::from_millis(2);
/// Connections and partitions in use take descriptors; fewer than this are soon taken.
const OPEN_FILES_WANTED: u64 = 65_536;
/// Below this, the interrupts since the start say nothing.
const INTERRUPTS_MIN: u64 = 1_000_000;
/// One core with more of the interrupts than this is ahead of all others.
const INTERRUPTS_PERCENT_MAX: u64 = 80;
/// Clock sources that are read without entering the kernel.
const QUICK_CLOCKS: [&str; 4] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
];

/// How serious it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Good,
    /// A broker runs, less well than it could.
    Advice,
    /// No broker starts, or none that keeps what it acknowledged.
    Problem,
}

impl Verdict {
    /// The word for people and for JSON.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Advice => "advice",
            Self::Problem => "problem",
        }
    }
}

/// A file of /proc or /sys and what it should hold. All of them hold until the next boot only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fix {
    pub(super) path: PathBuf,
    pub(super) value: String,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) subject: &'static str,
    pub(super) verdict: Verdict,
    /// What is, and what to do about it.
    pub(super) text: String,
    /// What `--fix` changes.
    pub(super) fixes: Vec<Fix>,
}

impl Finding {
    fn new(subject: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            subject,
            verdict,
            text: text.into(),
            fixes: Vec::new(),
        }
    }

    fn with_fix(mut self, path: impl Into<PathBuf>, value: impl Into<String>) -> Self {
        self.fixes.push(Fix {
            path: path.into(),
            value: value.into(),
        });
        self
    }
}

/// Whether a shard's executor runs.
pub(super) fn io_uring(
    probed: &Result<(), UringError>,
    kernel: Option<&str>,
    features: Option<&[&str]>,
) -> Finding {
    let subject = "io_uring";
    match probed {
        Err(error) => {
            let finding = Finding::new(subject, Verdict::Problem, error.to_string());
            match error {
                UringError::Disabled(_) => {
                    finding.with_fix("/proc/sys/kernel/io_uring_disabled", "0")
                }
                _ => finding,
            }
        }
        Ok(()) => {
            let kernel = kernel.unwrap_or("of unknown release");
            let features = features.unwrap_or_default().join(" ");
            let text = format!("works: Linux {kernel}, {features}");
            Finding::new(subject, Verdict::Good, text)
        }
    }
}

/// Whether the file system keeps what it is given, and lets space go without stopping writes.
pub(super) fn file_system(kind: Filesystem, mount: Option<&Mount>) -> Finding {
    let subject = "file system";
    let point = mount.map_or_else(String::new, |mount| {
        format!(" mounted at {}", mount.point.display())
    });
    if kind.is_volatile() {
        let text = format!(
            "in memory{point}: everything is gone with the machine; put the data directory on a \
             disk, or try Corelog out with --allow-volatile"
        );
        return Finding::new(subject, Verdict::Problem, text);
    }
    if !matches!(kind, Filesystem::Ext | Filesystem::Xfs) {
        let text = format!("{kind:?}{point}: use ext4 or XFS on a local disk");
        return Finding::new(subject, Verdict::Advice, text);
    }
    let discards = mount.is_some_and(|mount| mount.options.iter().any(|one| one == "discard"));
    if discards {
        let text = format!(
            "{kind:?}{point} with `discard`: flushes wait for the disk to discard what was \
             deleted; mount it without, and run fstrim from time to time"
        );
        return Finding::new(subject, Verdict::Advice, text);
    }
    Finding::new(subject, Verdict::Good, format!("{kind:?}{point}"))
}

/// Whether files can be read and written past the page cache.
pub(super) fn direct_io(probed: &Result<usize, DirectError>) -> Finding {
    let subject = "direct I/O";
    match probed {
        Ok(alignment) => {
            let text = format!("in blocks of {alignment} bytes");
            Finding::new(subject, Verdict::Good, text)
        }
        Err(error) => Finding::new(subject, Verdict::Problem, error.to_string()),
    }
}

/// How long an acknowledgement waits for the disk, and how much a second it takes.
pub(super) fn durable_writes(measured: &std::io::Result<DurableWrites>) -> Finding {
    let subject = "durable writes";
    let measured = match measured {
        Ok(measured) => measured,
        Err(error) => {
            let text = format!("could not be measured: {error}");
            return Finding::new(subject, Verdict::Advice, text);
        }
    };
    let small = &measured.small;
    let text = format!(
        "4 KiB one by one: {:.0} a second, half within {}, 99 % within {}, the longest {}; 1 MiB \
         four at a time: {:.0} MB/s, 99 % within {}",
        small.per_second(),
        milliseconds(small.percentile(50)),
        milliseconds(small.percentile(99)),
        milliseconds(small.percentile(100)),
        measured.bytes_per_second() / 1e6,
        milliseconds(measured.large.percentile(99)),
    );
    if small.percentile(50) <= SMALL_WRITE_WANTED {
        return Finding::new(subject, Verdict::Good, text);
    }
    let text = format!(
        "{text}; an acknowledgement waits at least that long: a disk with power-loss protection \
         answers within 0.1 ms"
    );
    Finding::new(subject, Verdict::Advice, text)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// What the disk's own cache means for durable writes. It is told and not changed: a kernel that
/// is told that there is no cache flushes none, and loses data with the power.
pub(super) fn write_cache(disk: &BlockDevice) -> Option<Finding> {
    let cache = disk.write_cache.as_deref()?;
    let meaning = match cache {
        "write through" => "a write that ended is safe",
        _ => "the kernel empties it with every durable write, which is part of the times above",
    };
    let text = format!("{}: {cache}: {meaning}", disk.name);
    Some(Finding::new("write cache", Verdict::Good, text))
}

/// Whether the shards may lock the memory of their rings.
pub(super) fn locked_memory(limits: Limits) -> Finding {
    let text = match limits.hard {
        None => "unlimited".to_owned(),
        Some(bytes) => format!("at most {}", format_size(bytes)),
    };
    // What is too little is what io_uring's own probe finds.
    Finding::new("locked memory", Verdict::Good, text)
}

/// Whether connections and partitions will find descriptors.
pub(super) fn open_files(limits: Limits) -> Finding {
    let subject = "open files";
    match limits.hard {
        Some(limit) if limit < OPEN_FILES_WANTED => {
            let text = format!(
                "at most {limit}: each connection takes one and each partition in use two; raise \
                 it to {OPEN_FILES_WANTED} with LimitNOFILE= or `ulimit -Hn`"
            );
            Finding::new(subject, Verdict::Advice, text)
        }
        Some(limit) => Finding::new(subject, Verdict::Good, format!("at most {limit}")),
        None => Finding::new(subject, Verdict::Good, "unlimited"),
    }
}

/// What a broker without settings of its own would take here.
pub(super) fn sizes(resolved: &Result<ShardSettings, MachineError>) -> Finding {
    let subject = "sizes";
    match resolved {
        Ok(settings) => {
            let cores: Vec<String> = settings.cores.iter().map(ToString::to_string).collect();
            let text = format!(
                "a shard on each of the cores {}, each with {} of memory and a journal of {}",
                cores.join(","),
                format_about(settings.memory_bytes),
                format_about(settings.journal_bytes),
            );
            Finding::new(subject, Verdict::Good, text)
        }
        Err(error) => Finding::new(subject, Verdict::Problem, error.to_string()),
    }
}

/// Whether reading the time is cheap: each request and each commit does.
pub(super) fn clock(sources: &[String], file: PathBuf) -> Option<Finding> {
    let subject = "clock source";
    let current = sources.first()?;
    if QUICK_CLOCKS.contains(&current.as_str()) {
        return Some(Finding::new(subject, Verdict::Good, current.clone()));
    }
    let Some(quick) = sources
        .iter()
        .find(|name| QUICK_CLOCKS.contains(&name.as_str()))
    else {
        let text = format!("{current}: each look at the time enters the kernel; there is no other");
        return Some(Finding::new(subject, Verdict::Advice, text));
    };
    let text = format!("{current}: each look at the time enters the kernel; use {quick}");
    Some(Finding::new(subject, Verdict::Advice, text).with_fix(file, quick))
}

/// Whether the cores run at full speed: (core, governor, where it is chosen) for each that says.
pub(super) fn governors(found: Vec<(usize, String, PathBuf)>) -> Option<Finding> {
    let subject = "core frequency";
    if found.is_empty() {
        return None;
    }
    let slow: Vec<_> = found
        .into_iter()
        .filter(|(_, governor, _)| governor != "performance")
        .collect();
    let Some((_, governor, _)) = slow.first() else {
        return Some(Finding::new(subject, Verdict::Good, "performance"));
    };
    let cores: Vec<String> = slow.iter().map(|(core, _, _)| core.to_string()).collect();
    let text = format!(
        "governor {governor} on the cores {}: they are slow to wake up; use performance",
        cores.join(",")
    );
    let finding = Finding::new(subject, Verdict::Advice, text);
    Some(slow.into_iter().fold(finding, |finding, (_, _, path)| {
        finding.with_fix(path, "performance")
    }))
}

/// Cores that share a physical one, among those that a broker may use.
pub(super) fn threads_of_cores(cores: &[usize], siblings: &[String]) -> Option<Finding> {
    let mut groups: Vec<&String> = siblings.iter().collect();
    groups.sort();
    groups.dedup();
    if groups.is_empty() {
        return None;
    }
    let (threads, physical) = (cores.len(), groups.len());
    let text = if threads > physical {
        format!(
            "{threads} threads of {physical} cores: two shards on the threads of one core share \
             its speed; --cores may name one of each and leave the others to clients and kernel"
        )
    } else {
        format!("{physical}, one thread each")
    };
    Some(Finding::new("cores", Verdict::Good, text))
}

/// Whether one core takes the interrupts of all devices.
pub(super) fn interrupts(by_core: &[u64]) -> Option<Finding> {
    let subject = "interrupts";
    let total: u64 = by_core.iter().fold(0, |sum, one| sum.saturating_add(*one));
    let (core, most) = by_core
        .iter()
        .enumerate()
        .max_by_key(|(_, count)| **count)?;
    if by_core.len() < 2 || total < INTERRUPTS_MIN {
        return Some(Finding::new(
            subject,
            Verdict::Good,
            format!("{total} of devices since the start"),
        ));
    }
    let percent = u128::from(*most) * 100 / u128::from(total);
    if percent <= u128::from(INTERRUPTS_PERCENT_MAX) {
        let text = format!("of {total}, core {core} took the most: {percent} %");
        return Some(Finding::new(subject, Verdict::Good, text));
    }
    let text = format!(
        "core {core} took {percent} % of {total}: spread them (irqbalance, \
         /proc/irq/N/smp_affinity), or leave that core out with --cores where there are enough"
    );
    Some(Finding::new(subject, Verdict::Advice, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::survey::WriteTimes;

    fn mounted(options: &[&str]) -> Mount {
        Mount {
            point: "/data".into(),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_loses_data_is_a_problem_and_what_slows_is_advice() {
        let verdict = |kind, options: &[&str]| file_system(kind, Some(&mounted(options))).verdict;
        assert_eq!(verdict(Filesystem::Tmpfs, &["rw"]), Verdict::Problem);
        assert_eq!(verdict(Filesystem::Overlay, &["rw"]), Verdict::Advice);
        assert_eq!(
            verdict(Filesystem::Ext, &["rw", "discard"]),
            Verdict::Advice
        );
        assert_eq!(
            verdict(Filesystem::Ext, &["rw", "nodiscard"]),
            Verdict::Good
        );
        assert_eq!(file_system(Filesystem::Xfs, None).verdict, Verdict::Good);
    }

    #[test]
    fn io_uring_that_is_switched_off_can_be_switched_on_and_nothing_else_can() {
        let off = io_uring(&Err(UringError::Disabled(2)), None, None);
        assert_eq!(off.verdict, Verdict::Problem);
        assert_eq!(off.fixes.len(), 1);
        let forbidden = io_uring(&Err(UringError::Forbidden), None, None);
        assert_eq!(
            (forbidden.verdict, forbidden.fixes.len()),
            (Verdict::Problem, 0)
        );
        let works = io_uring(&Ok(()), Some("6.1"), Some(&["NODROP", "EXT_ARG"]));
        assert_eq!(works.text, "works: Linux 6.1, NODROP EXT_ARG");
    }

    #[test]
    fn a_slow_disk_is_told_with_what_would_help() {
        let writes = |time| {
            let times = WriteTimes {
                sorted: vec![time; 100],
                total: time * 100,
            };
            Ok(DurableWrites {
                small: times.clone(),
                large: times,
            })
        };
        let quick = durable_writes(&writes(Duration::from_micros(250)));
        assert_eq!(quick.verdict, Verdict::Good);
        assert!(
            quick.text.contains("4000 a second, half within 0.25 ms"),
            "{}",
            quick.text
        );
        let slow = durable_writes(&writes(Duration::from_millis(8)));
        assert_eq!(slow.verdict, Verdict::Advice);
        assert!(slow.text.contains("power-loss protection"), "{}", slow.text);
        let unknown = durable_writes(&Err(std::io::Error::other("no")));
        assert_eq!(unknown.verdict, Verdict::Advice);
    }

    #[test]
    fn the_disks_cache_is_told_and_never_changed() {
        let disk = |cache: Option<&str>| BlockDevice {
            name: "nvme0n1".into(),
            write_cache: cache.map(str::to_owned),
        };
        for cache in ["write back", "write through"] {
            let finding = write_cache(&disk(Some(cache))).unwrap();
            assert_eq!((finding.verdict, finding.fixes.len()), (Verdict::Good, 0));
        }
        assert_eq!(write_cache(&disk(None)), None);
    }

    #[test]
    fn a_clock_in_the_kernel_is_changed_for_one_outside() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let clock = |sources: &[&str]| clock(&names(sources), "/c".into());
        assert_eq!(clock(&["tsc", "hpet"]).unwrap().verdict, Verdict::Good);
        let fix = Fix {
            path: "/c".into(),
            value: "tsc".into(),
        };
        assert_eq!(clock(&["hpet", "tsc"]).unwrap().fixes, [fix]);
        let only = clock(&["hpet"]).unwrap();
        assert_eq!((only.verdict, only.fixes.len()), (Verdict::Advice, 0));
        assert_eq!(clock(&[]), None);
    }

    #[test]
    fn every_slow_core_is_fixed_and_no_other() {
        let core =
            |core: usize, governor: &str| (core, governor.to_owned(), core.to_string().into());
        let finding = governors(vec![
            core(0, "powersave"),
            core(1, "performance"),
            core(2, "powersave"),
        ]);
        let finding = finding.unwrap();
        assert!(finding.text.contains("cores 0,2"), "{}", finding.text);
        let paths: Vec<_> = finding.fixes.iter().map(|fix| fix.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("0"), PathBuf::from("2")]);
        let good = governors(vec![core(0, "performance")]).unwrap();
        assert_eq!(good.verdict, Verdict::Good);
        assert_eq!(governors(Vec::new()), None);
    }

    #[test]
    fn one_core_with_all_interrupts_is_told_once_there_are_enough() {
        assert_eq!(interrupts(&[10, 0]).unwrap().verdict, Verdict::Good);
        assert_eq!(
            interrupts(&[0, 9_000_000]).unwrap().verdict,
            Verdict::Advice
        );
        assert_eq!(
            interrupts(&[4_000_000, 6_000_000]).unwrap().verdict,
            Verdict::Good
        );
        assert_eq!(interrupts(&[9_000_000]).unwrap().verdict, Verdict::Good);
        assert_eq!(interrupts(&[]), None);
    }

    #[test]
    fn threads_of_one_core_are_counted_once() {
        let lists = ["0-1".to_owned(), "0-1".to_owned(), "2".to_owned()];
        let finding = threads_of_cores(&[0, 1, 2], &lists).unwrap();
        assert!(
            finding.text.starts_with("3 threads of 2 cores"),
            "{}",
            finding.text
        );
        let own = threads_of_cores(&[0, 1], &["0".to_owned(), "1".to_owned()]).unwrap();
        assert_eq!(own.text, "2, one thread each");
    }

    #[test]
    fn few_open_files_are_advice() {
        let limits = |hard| Limits { soft: hard, hard };
        assert_eq!(open_files(limits(Some(4096))).verdict, Verdict::Advice);
        assert_eq!(open_files(limits(Some(65_536))).verdict, Verdict::Good);
        assert_eq!(open_files(limits(None)).verdict, Verdict::Good);
    }
}

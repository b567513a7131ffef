//! The power fails at every write, every flush, every change of a length and of a name that a short
//! life of a shard makes, and again at those that the recovery makes; what was answered is there.
//!
//! `crash_script.rs` is the life, `crash_model.rs` what must be true. Every case is: the script up
//! to change `k` of the disk; the power fails, in one of three ways; what is left is checked; the
//! shard starts, has everything, goes on, and after another power failure has all of that, too. In
//! the second test the start itself ends at its change `j`, and the next one has to do.
//!
//! `cargo test --lib shard::crash_tests` takes a sample of the cases, every kind of change among
//! them, `CRASH_POINTS=all` all of them; `CRASH_POINT=k:mode` or `CRASH_POINT=k:mode:j:mode` the
//! one that failed, with its `CRASH_SEED`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::journal::replay::Replay;
use crate::log::check::{Cure, Finding};
use crate::rt::sim::{CrashMode, CrashPoint, DiskOp, Fault, Sim, SimDisk};
use crate::rt::testing::say;
use crate::rt::{fs, sleep};
use crate::shard::check;
use crate::shard::crash_model::{Shared, World, id_of, verify, verify_stopped};
use crate::shard::crash_script::{append, create, delete, go_on, play, start, stop};
use crate::shard::recovery;

const MODES: [(CrashMode, &str); 3] = [
    (CrashMode::Lose, "lose"),
    (CrashMode::Keep, "keep"),
    (CrashMode::Torn, "torn"),
];

/// Without `CRASH_POINTS=all`, the recovery after every so many changes of the script is visited.
const SAMPLE: u64 = 211;

/// Changes that the script must make, by what they are done to: none of them may go unvisited.
const WANTED: &[(DiskOp, &str)] = &[
    (DiskOp::Write, ".wal"),
    (DiskOp::Write, "/checkpoint.tmp"),
    (DiskOp::Write, ".log"),
    (DiskOp::Write, ".index.tmp"),
    (DiskOp::Write, ".timeindex.tmp"),
    (DiskOp::Write, ".snapshot.tmp"),
    (DiskOp::Flush, ".log"),
    (DiskOp::Flush, ".index.tmp"),
    (DiskOp::Flush, "/checkpoint.tmp"),
    (DiskOp::Flush, "/journal/shard-000"),
    (DiskOp::Flush, "/plain-0"),
    (DiskOp::Flush, "/spare"),
    (DiskOp::Flush, "/topics"),
    (DiskOp::Flush, "/metadata"),
    (DiskOp::Flush, "/"),
    (DiskOp::Resize, ".log"),
    (DiskOp::Resize, ".deleted"),
    (DiskOp::Names, ".log"),
    (DiskOp::Names, ".deleted"),
    (DiskOp::Names, ".wal"),
    (DiskOp::Names, "/checkpoint"),
    (DiskOp::Names, "/gone-0"),
    (DiskOp::Names, "/partition.state"),
];

/// One case: where the script ends and how, and where the start after it.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    at: u64,
    mode: CrashMode,
    again: Option<(u64, CrashMode)>,
}

impl Case {
    /// Seed of the case's `number`-th machine: each has its own order of things.
    fn seed_of(&self, number: u64) -> u64 {
        let again = self.again.map_or(0, |(at, _)| at);
        self.seed * 1_000_000 + self.at * 1_000 + again * 10 + number
    }

    /// What repeats it.
    fn told(&self) -> String {
        let again = self.again.map(|(at, mode)| format!(":{at}:{}", name(mode)));
        format!(
            "CRASH_SEED={} CRASH_POINT={}:{}{} cargo test --lib shard::crash_tests",
            self.seed,
            self.at,
            name(self.mode),
            again.unwrap_or_default()
        )
    }
}

fn name(mode: CrashMode) -> &'static str {
    let found = MODES.iter().find(|(known, _)| *known == mode);
    found.expect("all are listed").1
}

fn mode_of(number: u64) -> CrashMode {
    MODES[usize::try_from(number % 3).expect("small")].0
}

/// What the environment asks for.
struct Asked {
    seed: u64,
    is_all: bool,
    only: Option<Case>,
}

impl Asked {
    fn read() -> Self {
        let text = |name| std::env::var(name).ok();
        let seed = text("CRASH_SEED").map_or(1, |seed| seed.parse().expect("a number"));
        let only = text("CRASH_POINT").map(|point| {
            let parts: Vec<&str> = point.split(':').collect();
            let number = |index: usize| parts[index].parse::<u64>().expect("a number");
            let mode = |index: usize| {
                let found = MODES.iter().find(|(_, name)| *name == parts[index]);
                found.expect("lose, keep or torn").0
            };
            Case {
                seed,
                at: number(0),
                mode: mode(1),
                again: (parts.len() > 2).then(|| (number(2), mode(3))),
            }
        });
        Self {
            seed,
            is_all: text("CRASH_POINTS").is_some_and(|asked| asked == "all"),
            only,
        }
    }

    /// Whether the script's change `at` is to be visited this way.
    fn includes(&self, at: u64, mode: CrashMode) -> bool {
        match self.only {
            Some(only) => only.mode == mode,
            None => self.is_all || mode_of(at) == mode,
        }
    }

    /// Whether the power fails once more after the recovery.
    fn is_thorough(&self, at: u64) -> bool {
        self.is_all || self.only.is_some() || (at / 3).is_multiple_of(5)
    }

    /// The changes of the script whose recovery is visited.
    fn sample(&self, last: u64) -> Vec<(u64, CrashMode)> {
        if self.is_all {
            let all = (1..=last).flat_map(|at| MODES.map(|(mode, _)| (at, mode)));
            return all.collect();
        }
        let from = self.seed % SAMPLE;
        let some = (from..=last).step_by(usize::try_from(SAMPLE).expect("small"));
        (0..)
            .zip(some)
            .map(|(number, at)| (at.max(1), mode_of(number)))
            .collect()
    }

    /// In which ways the power fails at change `at` of a start.
    fn modes_again(&self, at: u64) -> Vec<(CrashMode, &'static str)> {
        let is_asked = |mode| match self.only.and_then(|only| only.again) {
            Some((_, only)) => only == mode,
            None => self.is_all || mode_of(at) == mode,
        };
        MODES
            .into_iter()
            .filter(|(mode, _)| is_asked(*mode))
            .collect()
    }
}

/// What was visited.
#[derive(Default)]
struct Visited {
    cases: usize,
    /// How many changes of each kind the power failed at.
    kinds: BTreeMap<&'static str, usize>,
    /// Which changes they were.
    points: BTreeSet<(&'static str, String)>,
    /// Kinds of entries in the journals that were left.
    entries: BTreeSet<String>,
    acknowledged: usize,
}

fn kind(op: DiskOp) -> &'static str {
    match op {
        DiskOp::Write => "write",
        DiskOp::Flush => "flush",
        DiskOp::Resize => "resize",
        DiskOp::Names => "names",
        DiskOp::Open | DiskOp::Read => unreachable!("changes nothing"),
    }
}

impl Visited {
    fn note(&mut self, world: &World, point: Option<&CrashPoint>) {
        self.cases += 1;
        self.acknowledged = self.acknowledged.max(world.acknowledged);
        if let Some(CrashPoint { op, path }) = point {
            *self.kinds.entry(kind(*op)).or_default() += 1;
            self.points.insert((kind(*op), path.clone()));
        }
    }

    fn and(mut self, other: Self) -> Self {
        self.cases += other.cases;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.points.extend(other.points);
        self.entries.extend(other.entries);
        self.acknowledged = self.acknowledged.max(other.acknowledged);
        self
    }

    fn told(&self) -> String {
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} at {kind}"))
            .collect();
        let (cases, kinds) = (self.cases, kinds.join(", "));
        format!("{cases} power failures, at changes of these kinds: {kinds}")
    }

    /// The script has made every kind of change that it is there for.
    fn check(&self) {
        say(&self.told());
        for (op, end) in WANTED {
            let is_it = |(of, path): &(&str, String)| *of == kind(*op) && path.ends_with(end);
            assert!(
                self.points.iter().any(is_it),
                "no {op:?} of {end}: {:?}",
                self.points
            );
        }
        let entries: Vec<&str> = self.entries.iter().map(String::as_str).collect();
        assert_eq!(entries, ["Append", "Carry", "LogStart", "Truncate"]);
        assert!(self.acknowledged > 80, "{} answers", self.acknowledged);
    }
}

/// A disk on which the script has ended at its change `at`, not settled yet; and where that was,
/// unless the script came to its end before.
fn broken_off(seed: u64, at: u64) -> (SimDisk, World, Option<CrashPoint>) {
    let disk = SimDisk::new(seed);
    Sim::with_disk(seed, disk.clone()).run(async {
        fs::create_dir_all("/data").await.expect("makes");
        fs::sync_filesystem("/").await.expect("flushes");
    });
    let world = Shared::default();
    disk.crash_after(at);
    play(&disk, seed, &world);
    let point = disk.crash_point();
    let world = world.borrow().clone();
    (disk, world, point)
}

/// What lies there may be unfinished, and is never damaged.
async fn look(visited: &mut Visited, world: &World) {
    if !fs::exists("/data/corelog.json").await.expect("looks") {
        return; // the first start has not come as far as to make it ours
    }
    let report = check::run(Path::new("/data")).await;
    // the directory of a partition without records may not be durable yet
    let may_lack = |name: &str| {
        let (topic, index) = name.rsplit_once('-').expect("a topic and a number");
        let index: usize = index.parse().expect("a number");
        let topic = world.topics.get(topic);
        topic.is_none_or(|topic| topic.partitions[index].durable_end == 0)
    };
    let is_fine = |(name, found): &&(Option<String>, Finding)| {
        found.cure == Cure::Broker
            || found.what.contains("has no directory") && name.as_deref().is_some_and(may_lack)
    };
    let worse: Vec<_> = report.findings.iter().filter(|f| !is_fine(f)).collect();
    assert!(worse.is_empty(), "{worse:?}");
    let dir = Path::new("/data/journal/shard-000");
    if fs::exists(dir).await.expect("looks") {
        let mut replay = Replay::open(dir).await.expect("opens");
        while let Some(found) = replay.next_entry().await.expect("whole") {
            visited.entries.insert(format!("{:?}", found.entry.kind));
        }
    }
}

fn shared(world: &World) -> Shared {
    Rc::new(RefCell::new(world.clone()))
}

/// Recovers, goes on, and after another power failure has that, too.
fn recover_twice(case: Case, disk: &SimDisk, world: &Shared) {
    Sim::with_disk(case.seed_of(1), disk.clone()).run(async {
        let (shard, _running) = start().await;
        verify(world, &shard).await;
        go_on(world, &shard).await;
    });
    disk.crash(CrashMode::Lose);
    recover_and_stop(case, disk, world, false);
}

/// Recovers, goes on, and leaves plain directories.
fn recover_and_stop(case: Case, disk: &SimDisk, world: &Shared, goes_on: bool) {
    Sim::with_disk(case.seed_of(2), disk.clone()).run(async {
        let started = start().await;
        verify(world, &started.0).await;
        if goes_on {
            go_on(world, &started.0).await;
        }
        stop(started).await;
        verify_stopped(world, disk).await;
    });
}

/// Starts up to change `at` of the disk: where that was, unless the start came to its end before.
fn start_until(case: Case, disk: &SimDisk, at: u64) -> Option<CrashPoint> {
    disk.crash_after(at);
    let sim = Sim::with_disk(case.seed_of(3), disk.clone());
    let ended = sim.run_until_crash(async { drop(start().await) });
    let point = disk.crash_point();
    assert_eq!(ended.is_none(), point.is_some());
    point
}

/// Says how to repeat a case that fails.
fn attempt<T>(case: Case, point: Option<&CrashPoint>, work: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(panic) => {
            say(&format!("{point:?}\n{}", case.told()));
            resume_unwind(panic)
        }
    }
}

/// Number of changes that the script makes; it does all that it is meant to do.
fn length_of_script(seed: u64) -> u64 {
    let run = || {
        let disk = SimDisk::new(seed);
        Sim::with_disk(seed, disk.clone())
            .run(fs::create_dir_all("/data"))
            .expect("makes");
        let before = disk.ops();
        let world = Shared::default();
        let done = play(&disk, seed, &world).expect("nothing fails");
        let topics = format!("{:?}", world.borrow().topics);
        (disk.ops() - before, done, topics)
    };
    let ((ops, done, topics), (again, _, topics_again)) = (run(), run());
    assert_eq!(ops, again, "[sim] the same seed makes the same changes");
    assert!(topics == topics_again, "[sim] and gives the same answers");
    assert!(done.rolled > 5 && done.deleted > 3, "{done:?}");
    assert!(done.reused > 0 && done.duplicates > 1, "{done:?}");
    assert!(done.destaged_bytes > 50_000 && done.wraps > 0, "{done:?}");
    say(&format!("the script makes {ops} changes: {done:?}"));
    ops
}

/// Every change of the script, and its end; on two threads.
#[test]
fn the_power_may_fail_at_every_change_of_a_life() {
    let asked = Asked::read();
    let last = match asked.only {
        Some(case) if case.again.is_some() => return,
        Some(case) => return drop(visit(&asked, [case.at])),
        None => length_of_script(asked.seed) + 1,
    };
    let visited = on_two_threads(|half| visit(&asked, (1..=last).skip(half).step_by(2)));
    visited.check();
}

fn visit(asked: &Asked, changes: impl IntoIterator<Item = u64>) -> Visited {
    let mut visited = Visited::default();
    for at in changes {
        let (disk, world, point) = broken_off(asked.seed, at);
        for (mode, _) in MODES {
            if !asked.includes(at, mode) {
                continue;
            }
            let case = Case {
                seed: asked.seed,
                at,
                mode,
                again: None,
            };
            let disk = disk.copy();
            attempt(case, point.as_ref(), || {
                disk.crash(mode);
                life(&disk, case.seed_of(0), look(&mut visited, &world));
                let world = shared(&world);
                if asked.is_thorough(at) {
                    recover_twice(case, &disk, &world);
                } else {
                    recover_and_stop(case, &disk, &world, true);
                }
            });
            visited.note(&world, point.as_ref());
        }
    }
    visited
}

/// Every change of the start after it; on two threads.
#[test]
fn the_power_may_fail_at_every_change_of_the_start_after_it() {
    let asked = Asked::read();
    let points: Vec<(u64, CrashMode)> = match asked.only {
        Some(case) if case.again.is_none() => return,
        Some(case) => return drop(visit_starts(&asked, [(case.at, case.mode)])),
        None => asked.sample(length_of_script(asked.seed) + 1),
    };
    let visited = on_two_threads(|half| {
        let points = points.iter().skip(half).step_by(2);
        visit_starts(&asked, points.copied())
    });
    say(&visited.told());
    assert!(visited.kinds.len() == 4 && visited.acknowledged > 80);
}

fn visit_starts(asked: &Asked, points: impl IntoIterator<Item = (u64, CrashMode)>) -> Visited {
    let mut visited = Visited::default();
    for (at, mode) in points {
        let (disk, world, _) = broken_off(asked.seed, at);
        disk.crash(mode);
        let only = asked.only.and_then(|only| only.again);
        let mut again = only.map_or(1, |(at, _)| at);
        while visit_start(asked, (at, mode, again), (&disk, &world), &mut visited) {
            again += 1;
        }
    }
    visited
}

/// Lets a start end at its change `again`; whether there is one to go on with.
fn visit_start(
    asked: &Asked,
    (at, mode, again): (u64, CrashMode, u64),
    (disk, world): (&SimDisk, &World),
    visited: &mut Visited,
) -> bool {
    for (mode_again, _) in asked.modes_again(at + again) {
        let case = Case {
            seed: asked.seed,
            at,
            mode,
            again: Some((again, mode_again)),
        };
        let disk = disk.copy();
        let point = attempt(case, None, || start_until(case, &disk, again));
        let Some(point) = point else {
            return false;
        };
        visited.note(world, Some(&point));
        attempt(case, Some(&point), || {
            disk.crash(mode_again);
            recover_and_stop(case, &disk, &shared(world), true);
        });
    }
    asked.only.is_none()
}

/// Both halves of what is visited.
fn on_two_threads(half: impl Fn(usize) -> Visited + Sync) -> Visited {
    let halves = std::thread::scope(|scope| {
        let half = &half;
        let halves = [0, 1].map(|number| scope.spawn(move || half(number)));
        halves.map(|half| half.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    halves.into_iter().fold(Visited::default(), Visited::and)
}

// ---------------------------------------------------------------------- what was found so

/// A disk with a topic of one partition that has these batches.
fn with_topic(seed: u64, sizes: &'static [usize]) -> (SimDisk, Shared) {
    let (disk, world) = (SimDisk::new(seed), Shared::default());
    life(&disk, seed, async {
        fs::create_dir_all("/data").await.expect("makes");
        fs::sync_filesystem("/").await.expect("flushes");
        let (shard, _running) = start().await;
        create(&world, &shard, "gone", 1, &[]).await;
        append(&world, &shard, ("gone", 0), sizes).await;
    });
    (disk, world)
}

fn life<F: Future>(disk: &SimDisk, seed: u64, future: F) -> F::Output {
    Sim::with_disk(seed, disk.clone()).run(future)
}

#[test]
fn a_deleted_topic_is_not_adopted_again_though_the_file_with_its_id_is_gone() {
    for seed in 0..30 {
        let (disk, world) = with_topic(seed, &[100]);
        life(&disk, seed + 100, async {
            let (shard, _running) = start().await;
            delete(&world, &shard, "gone").await;
            sleep(Duration::from_millis(100)).await; // its files go
        });
        disk.crash(CrashMode::Torn);
        life(&disk, seed + 200, async {
            let (shard, _running) = start().await;
            verify(&world, &shard).await;
        });
    }
}

#[test]
fn a_partitions_directory_says_durably_whose_it_is_before_its_topic_is_answered() {
    let (disk, world) = with_topic(1, &[]);
    life(&disk, 2, async {
        fs::sync_dir("/data/topics").await.expect("flushes");
    });
    disk.crash(CrashMode::Lose);
    let text = disk.peek("/data/topics/gone-0/partition.metadata");
    let id = recovery::topic_id(&text.expect("there"));
    assert_eq!(id, world.borrow().topics["gone"].id);
}

#[test]
fn segments_that_a_crash_kept_below_the_log_start_go_after_the_next_start() {
    let (disk, world) = with_topic(1, &[9000; 9]);
    let segments = || {
        let paths = disk.paths();
        let is_log = |path: &&PathBuf| {
            path.starts_with("/data/topics") && path.extension().is_some_and(|end| end == "log")
        };
        paths.iter().filter(is_log).count()
    };
    life(&disk, 2, async {
        let (shard, _running) = start().await;
        disk.inject(Fault {
            op: DiskOp::Names,
            path: ".log".to_owned(),
            error: std::io::ErrorKind::Other,
            skip: 0,
            times: u64::MAX,
        });
        world.borrow_mut().partition(("gone", 0)).log_start_asked = 9;
        let id = id_of(&world, ("gone", 0));
        let moved = shard.delete_records(vec![(id, 9)]).await.remove(0);
        moved.expect_err("the log start has moved, and no file has gone");
    });
    disk.clear_faults();
    disk.crash(CrashMode::Keep);
    assert_eq!(segments(), 3);
    life(&disk, 3, async {
        let started = start().await;
        verify(&world, &started.0).await;
        assert_eq!(world.borrow_mut().partition(("gone", 0)).log_start, 9);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(segments(), 1);
    });
}

#[test]
fn a_directory_that_the_power_failure_took_is_no_finding_where_the_journal_has_its_records() {
    let (disk, world) = with_topic(1, &[100, 200]);
    disk.crash(CrashMode::Lose);
    life(&disk, 2, async {
        assert!(!fs::exists("/data/topics/gone-0").await.expect("looks"));
        let report = check::run(Path::new("/data")).await;
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        let (shard, _running) = start().await;
        verify(&world, &shard).await;
    });
}

//! Every byte of a small data directory flipped, every file cut at every length, deleted, or
//! swapped with another: a start mends what is derived, or says what is damaged and where, and
//! takes only that partition offline. Nothing acknowledged is given up silently, nothing panics.
//! What a start does not mend, or a reader would meet, `corelog check --data` has found before.
//!
//! Plain `cargo test` takes a sample of the cases, spread over all of them. All of them:
//! `TAMPER_EVERY=1 cargo test --release --test recovery_tampering`.

mod sim_shard;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use corelog::log::LogSettings;
use corelog::log::check::Cure;
use corelog::log::log::Log;
use corelog::model::ids::TopicPartition;
use corelog::model::offset::Offset;
use corelog::model::record_batch::{check_crc, iter_batches};
use corelog::rt::sim::{CrashMode, SimDisk};
use corelog::rt::{fs, sleep};
use corelog::shard::recovery::Recovered;
use sim_shard::{
    PARTITIONS, Shard, context, dir, ids, life, offline, small_ring, try_recover, value,
};

/// Records of each partition: those of the run that was killed, and of one before.
const RECORDS: i64 = 44;
/// Of how many cases plain `cargo test` takes one. A prime: it meets every field in time.
const SAMPLE: usize = 499;

/// What is done to the files.
#[derive(Clone, Debug)]
enum Tampering {
    Flip { path: PathBuf, at: usize },
    Cut { path: PathBuf, to: usize },
    Delete { path: PathBuf },
    Swap { path: PathBuf, with: PathBuf },
    DeleteDir { path: PathBuf },
}

/// What a start made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there.
    Mended,
    /// A partition is offline, or refuses to be read, and says where; the others are whole.
    Offline,
    /// A batch that is read back does not fit its checksum: the consumer sees it.
    SeenByReader,
    /// The start is refused, and says which file.
    Refused,
    /// The records of another partition, or a batch with another base offset: Kafka's checksum
    /// covers neither, and whoever reads behind it cannot know.
    Undetectable,
}

/// A directory with sealed and open segments, indexes, snapshots, epochs and a wrapped journal,
/// whose broker was killed.
fn killed() -> SimDisk {
    let disk = SimDisk::new(1);
    let settings = LogSettings {
        segment_bytes: 4096,
        index_interval_bytes: 1024,
        ..LogSettings::default()
    };
    let open = async || {
        let recovered = try_recover().await.expect("recovers");
        let shard = Shard::open_with(recovered, settings, small_ring(32 * 1024)).await;
        while shard.journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        shard
    };
    life(&disk, 1, async {
        for partition in 0..PARTITIONS {
            fs::create_dir_all(dir(partition)).await.expect("makes");
        }
        fs::sync_filesystem("/").await.expect("flushes");
        let shard = open().await;
        shard.append_round(12).await;
    });
    disk.crash(CrashMode::Lose);
    life(&disk, 2, async {
        let shard = open().await;
        shard.append_round(20).await;
        shard.checkpoint().await;
        shard.append_round(12).await;
        // what was acknowledged this long ago is claimed by a block behind it
        sleep(Duration::from_millis(100)).await;
    });
    disk.crash(CrashMode::Lose);
    disk
}

fn cases(disk: &SimDisk) -> Vec<Tampering> {
    let mut cases = Vec::new();
    let paths = disk.paths();
    for path in &paths {
        let len = disk.peek(path).expect("there").len();
        let path = path.clone();
        cases.extend((0..len).map(|at| Tampering::Flip {
            path: path.clone(),
            at,
        }));
        cases.extend((0..len).map(|to| Tampering::Cut {
            path: path.clone(),
            to,
        }));
        cases.push(Tampering::Delete { path });
    }
    for path in &paths {
        for with in paths.iter().filter(|with| path < *with) {
            if path.extension() == with.extension() {
                cases.push(Tampering::Swap {
                    path: path.clone(),
                    with: with.clone(),
                });
            }
        }
    }
    for path in ["metadata", "journal", "journal/shard-000", "topics/t-1"] {
        let path = Path::new("/data").join(path);
        cases.push(Tampering::DeleteDir { path });
    }
    cases
}

impl Tampering {
    async fn apply(&self, disk: &SimDisk) {
        let write = async |path: &Path, bytes: Vec<u8>| {
            fs::write_atomic(path, bytes).await.expect("writes");
        };
        match self {
            Self::Flip { path, at } => {
                let byte = disk.peek(path).expect("there")[*at] ^ (1 << (at % 8));
                let at = u64::try_from(*at).expect("small");
                disk.poke(path, at, &[byte]).expect("pokes");
            }
            Self::Cut { path, to } => {
                let mut bytes = disk.peek(path).expect("there");
                bytes.truncate(*to);
                write(path, bytes).await;
            }
            Self::Delete { path } => fs::remove_file(path).await.expect("there"),
            Self::DeleteDir { path } => fs::remove_dir_all(path).await.expect("there"),
            Self::Swap { path, with } => {
                let (one, other) = (disk.peek(path).expect("one"), disk.peek(with).expect("two"));
                write(path, other).await;
                write(with, one).await;
            }
        }
        fs::sync_filesystem("/").await.expect("flushes");
    }

    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Flip { path, .. }
            | Self::Cut { path, .. }
            | Self::Delete { path }
            | Self::DeleteDir { path } => vec![path],
            Self::Swap { path, with } => vec![path, with],
        }
    }

    fn flips_a_segment(&self) -> bool {
        matches!(self, Self::Flip { path, .. }
            if path.extension().is_some_and(|kind| kind == "log"))
    }

    /// Of two partitions, at the same offsets.
    fn swaps_sealed_segments(&self) -> bool {
        matches!(self, Self::Swap { path, with }
            if path.extension().is_some_and(|kind| kind == "log")
                && path.file_name() == with.file_name())
    }

    fn touches(&self, partition: usize) -> bool {
        let paths = self.paths();
        paths.iter().any(|path| path.starts_with(dir(partition)))
    }

    /// Whether the files are such that no single partition can be blamed.
    fn is_of_the_directory(&self) -> bool {
        let paths = self.paths();
        let is_one =
            |path: &&Path| path.starts_with("/data/metadata") || path.ends_with("corelog.json");
        paths.iter().any(is_one)
    }
}

/// Reads a partition to its end, and tells what a consumer would see.
async fn read(case: &Tampering, id: TopicPartition, partition: usize) -> Result<Outcome, String> {
    let opened = Log::open(&context(), dir(partition), id, LogSettings::default()).await;
    let log = match opened {
        Ok(log) => log,
        Err(error) if names_a_file(&error.to_string()) => return Ok(Outcome::Offline),
        Err(error) => return Err(format!("opening partition {partition}: {error}")),
    };
    let offsets = log.offsets();
    if (offsets.log_start.get(), offsets.log_end.get()) != (0, RECORDS) {
        return Err(format!("partition {partition} has become {offsets:?}"));
    }
    let mut next = 0;
    while next < RECORDS {
        let plan = log.read(Offset::new(next), 1 << 20, offsets.log_end, true);
        let bytes = match plan.await {
            Ok(plan) => plan.into_bytes().await,
            Err(error) if names_a_file(&error.to_string()) => return Ok(Outcome::Offline),
            Err(error) => return Err(format!("reading partition {partition}: {error}")),
        };
        let bytes = bytes.map_err(|error| format!("reading partition {partition}: {error}"))?;
        let before = next;
        for batch in iter_batches(&bytes) {
            let Ok((header, batch)) = batch else {
                return Ok(Outcome::SeenByReader);
            };
            if !check_crc(batch) {
                return Ok(Outcome::SeenByReader);
            }
            if header.base_offset.get() != next {
                let (got, flipped) = (header.base_offset.get(), case.flips_a_segment());
                let what = format!("partition {partition} goes on at {got} instead of {next}");
                return if flipped {
                    Ok(Outcome::Undetectable)
                } else {
                    Err(what)
                };
            }
            let expected = value(partition, next);
            if !batch
                .windows(expected.len())
                .any(|window| window == expected)
            {
                let what = format!("partition {partition} at {next} is another record");
                return if case.swaps_sealed_segments() {
                    Ok(Outcome::Undetectable)
                } else {
                    Err(what)
                };
            }
            next += 1;
        }
        if next == before {
            return Err(format!(
                "a consumer of partition {partition} waits at {next}"
            ));
        }
    }
    Ok(Outcome::Mended)
}

/// Whether somebody who reads it knows where to look.
fn names_a_file(message: &str) -> bool {
    message.contains("/data/")
}

async fn check(case: &Tampering, recovered: &Recovered) -> Result<Outcome, String> {
    if recovered.image.topic("t").is_none() {
        return Err("the topic is gone".to_owned());
    }
    let offline = offline(recovered);
    let is_shared = case
        .paths()
        .iter()
        .all(|path| !path.starts_with("/data/topics"));
    let mut worst = Outcome::Mended;
    for (partition, id) in ids(recovered).into_iter().enumerate() {
        let outcome = match offline.get(&partition) {
            Some(error) if !names_a_file(error) => return Err(format!("no place: {error}")),
            Some(_) => Outcome::Offline,
            None => read(case, id, partition).await?,
        };
        if outcome != Outcome::Mended && !is_shared && !case.touches(partition) {
            return Err(format!("partition {partition} is {outcome:?} too"));
        }
        worst = worst.max(outcome);
    }
    Ok(worst)
}

fn verdict(disk: &SimDisk, case: &Tampering) -> Result<Outcome, String> {
    let disk = disk.copy();
    life(&disk, 3, case.apply(&disk));
    let found = life(
        &disk.copy(),
        4,
        corelog::shard::check::run(Path::new("/data")),
    );
    let outcome = life(&disk, 4, async {
        match try_recover().await {
            Ok(recovered) => check(case, &recovered).await,
            Err(error) if !case.is_of_the_directory() => Err(format!("no start: {error}")),
            Err(error) if !names_a_file(&error.to_string()) => Err(format!("no place: {error}")),
            Err(_) => Ok(Outcome::Refused),
        }
    })?;
    let is_found = found
        .findings
        .iter()
        .any(|(_, one)| one.cure != Cure::Broker);
    match outcome {
        // a flipped leader epoch is seen by nobody else
        Outcome::Mended if is_found && !case.flips_a_segment() => {
            Err(format!("mended, and yet {:?}", found.findings))
        }
        Outcome::Mended => Ok(outcome),
        _ if is_found || case.swaps_sealed_segments() => Ok(outcome),
        _ => Err(format!(
            "{outcome:?}, and the check found {:?}",
            found.findings
        )),
    }
}

#[test]
fn a_check_of_what_a_kill_has_left_finds_nothing() {
    let disk = killed();
    let report = life(&disk, 3, corelog::shard::check::run(Path::new("/data")));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.partitions, u64::try_from(PARTITIONS).expect("small"));
    assert!(report.batches > 60, "{report:?}");
}

#[test]
fn no_damage_is_silent_and_none_stops_more_than_its_partition() {
    let disk = killed();
    let all = cases(&disk);
    let step = match std::env::var("TAMPER_EVERY") {
        Ok(step) => step.parse().expect("TAMPER_EVERY is a number"),
        Err(_) => SAMPLE,
    };
    let few = |case: &Tampering| !matches!(case, Tampering::Flip { .. } | Tampering::Cut { .. });
    let chosen = all
        .iter()
        .enumerate()
        .filter(|(n, case)| n % step == 0 || few(case));
    let (mut outcomes, mut failures) = (BTreeMap::new(), Vec::new());
    for (_, case) in chosen {
        let outcome = catch_unwind(AssertUnwindSafe(|| verdict(&disk, case)));
        match outcome {
            Ok(Ok(outcome)) => *outcomes.entry(outcome).or_insert(0) += 1,
            Ok(Err(problem)) => failures.push(format!("{case:?}: {problem}")),
            Err(_) => failures.push(format!("{case:?}: panicked")),
        }
    }
    let taken: usize = outcomes.values().sum();
    let line = format!("{taken} of {} cases of damage: {outcomes:?}\n", all.len());
    // a passing test's own prints are not shown
    std::io::stderr().write_all(line.as_bytes()).expect("said");
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures[..failures.len().min(200)].join("\n")
    );
}

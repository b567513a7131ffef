//! The commit journal on real files through io_uring: flags, contents, restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use corelog::journal::Journal;
use corelog::journal::checkpoint::PartitionCheckpoint;
use corelog::journal::config::JournalConfig;
use corelog::journal::entry::{Entry, EntryKind, Payload};
use corelog::journal::journal::Owner;
use corelog::journal::replay::{Replay, ReplayEnd};
use corelog::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use corelog::model::offset::Offset;
use corelog::rt::executor::{ShardSpec, run_on_cores};
use corelog::rt::{Lane, sleep, spawn};
use corelog::telemetry::names::Summary;

const O_DIRECT: u32 = 0o40000;
const O_DSYNC: u32 = 0o10000;

fn config() -> JournalConfig {
    JournalConfig {
        ring_bytes: 4 << 20,
        file_bytes: 1 << 20,
        first_file_bytes: 512 << 10,
        commit_bytes: 128 << 10,
        parallel_bytes_min: 32 << 10,
        ..JournalConfig::default()
    }
}

/// A directory on the disk that the build is on: a temporary directory may be in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn on_shard<F>(work: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    run_on_cores(vec![ShardSpec::default()], move |_| work()).expect("the shard ran");
}

fn entry(number: u64) -> Entry {
    let length = usize::try_from(number * 7919 % 30_000).expect("small");
    let byte = u8::try_from(number % 251).expect("below 251");
    let mut payload = Payload::empty();
    payload.push(Bytes::from(vec![byte; length / 2]));
    payload.push(Bytes::from(vec![byte ^ 0xff; length - length / 2]));
    let number = i64::try_from(number).expect("small");
    Entry {
        kind: EntryKind::Append,
        topic_partition: TopicPartition::new(TopicId::from_bytes([9; 16]), PartitionIndex(1)),
        segment_base: Offset::new(0),
        file_position: 0,
        base_offset: Offset::new(number),
        next_offset: Offset::new(number + 1),
        leader_epoch: LeaderEpoch(0),
        payload,
    }
}

async fn open(dir: &Path) -> (Journal, Vec<Entry>, Option<ReplayEnd>) {
    let mut replay = Replay::open(dir).await.expect("opens");
    let mut found = Vec::new();
    while let Some(entry) = replay.next_entry().await.expect("no damage") {
        found.push(entry.entry);
    }
    let end = replay.end().cloned();
    let retired = replay.retire(Vec::new()).await.expect("retires");
    (
        Journal::open(retired, config()).await.expect("opens"),
        found,
        end,
    )
}

async fn append(journal: &Journal, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let entry = entry(number);
        let reservation = journal.reserve(entry.payload.len()).await.expect("works");
        journal
            .enqueue(reservation, Owner(7), entry)
            .expect("works");
    }
}

/// Takes completions until `count` entries are durable.
async fn acknowledge(journal: &Journal, count: u64) {
    let mut last = 0;
    while last < count {
        for completed in journal.next_completed().await.expect("works") {
            assert_eq!(completed.owner, Owner(7));
            assert!(completed.position.0 >= last);
            last = completed.position.0 + 1;
        }
    }
}

/// Flags of every descriptor of this process whose name is a journal file of `dir`.
fn flags_of_journal_files(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut flags = Vec::new();
    for descriptor in std::fs::read_dir("/proc/self/fd").expect("lists") {
        let descriptor = descriptor.expect("an entry");
        let Ok(path) = std::fs::read_link(descriptor.path()) else {
            continue;
        };
        let is_journal = path.extension().is_some_and(|extension| extension == "wal");
        if !is_journal || !path.starts_with(dir) {
            continue;
        }
        let info = Path::new("/proc/self/fdinfo").join(descriptor.file_name());
        let info = std::fs::read_to_string(info).expect("reads");
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .expect("flags");
        flags.push((path, u32::from_str_radix(line.trim(), 8).expect("octal")));
    }
    flags.sort();
    flags
}

#[test]
fn every_journal_file_is_open_with_direct_and_dsync() {
    let directory = directory();
    let dir = directory.path().join("journal/shard-000");
    on_shard(move || {
        let dir = dir.clone();
        async move {
            let (journal, ..) = open(&dir).await;
            while journal.is_growing() {
                append(&journal, 0..1).await;
                sleep(Duration::from_millis(5)).await;
            }
            let flags = flags_of_journal_files(&dir);
            let files = config().file_sizes().len();
            assert_eq!(flags.len(), files, "{flags:?}");
            for (path, flags) in flags {
                assert_eq!(
                    flags & (O_DIRECT | O_DSYNC),
                    O_DIRECT | O_DSYNC,
                    "{}",
                    path.display()
                );
            }
            journal.close().await.expect("closes");
            assert!(flags_of_journal_files(&dir).is_empty(), "closed");
        }
    });
}

#[test]
fn entries_survive_on_real_files_over_several_laps_and_restarts() {
    let directory = directory();
    let dir = directory.path().join("journal/shard-000");
    on_shard(move || {
        let dir = dir.clone();
        async move {
            let mut expected: Vec<Entry> = Vec::new();
            for start in [0, 1000, 2000] {
                let (journal, found, end) = open(&dir).await;
                assert!(
                    found.ends_with(&expected),
                    "what was not freed before the stop"
                );
                assert!(end == Some(ReplayEnd::Clean), "{end:?}");
                // about 9 MB through a ring of 4 MiB, freed behind what is durable
                let freeing = journal.clone();
                let freer = spawn(Lane::Background, "free", async move {
                    loop {
                        sleep(Duration::from_millis(2)).await;
                        if freeing.fill() > 0.4 {
                            let pin = freeing.durable_position();
                            let partitions = vec![PartitionCheckpoint {
                                topic_partition: entry(0).topic_partition,
                                record: Bytes::from_static(b"log"),
                            }];
                            freeing
                                .write_checkpoint(pin, partitions)
                                .await
                                .expect("writes");
                        }
                    }
                });
                let appending = journal.clone();
                let appender = spawn(Lane::Network, "append", async move {
                    append(&appending, start..start + 600).await;
                });
                acknowledge(&journal, 600).await;
                appender.await;
                drop(freer);
                let pin = journal.durable_position();
                journal
                    .write_checkpoint(pin, Vec::new())
                    .await
                    .expect("writes");
                append(&journal, start + 600..start + 630).await;
                journal.close().await.expect("closes");
                let stats = journal.stats();
                assert_eq!(stats.entries, 630);
                let metrics = corelog::telemetry::metrics::local().snapshot();
                let flushes = metrics.summaries[Summary::FlushLatency.index()].count();
                assert!(stats.written_bytes > stats.payload_bytes && flushes > 1);
                expected = (start + 600..start + 630).map(entry).collect();
            }
        }
    });
}

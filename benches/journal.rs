//! The commit journal: building a block, and committing to real files.
//!
//! `CORELOG_BENCH_DIR` chooses the disk (default: the build directory). The commit figures are
//! printed as MB/s, entries/s and commits/s; an operation counts when its entry is durable.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelog::journal::Journal;
use corelog::journal::block::{self, Link, RingId, RunId};
use corelog::journal::config::JournalConfig;
use corelog::journal::entry::{Entry, EntryKind};
use corelog::journal::journal::Owner;
use corelog::journal::replay::Replay;
use corelog::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use corelog::model::offset::Offset;
use corelog::rt::executor::{ShardSpec, run_on_cores};
use corelog::rt::{Lane, sleep, spawn};
use corelog::telemetry::metrics;
use corelog::telemetry::names::Summary;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn entry(payload: &Bytes) -> Entry {
    Entry {
        kind: EntryKind::Append,
        topic_partition: TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0)),
        segment_base: Offset::new(0),
        file_position: 0,
        base_offset: Offset::new(0),
        next_offset: Offset::new(1),
        leader_epoch: LeaderEpoch(0),
        payload: payload.clone().into(),
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal block encode");
    for (name, size, count) in [("16 x 64 KiB", 64 << 10, 16), ("1000 x 200 B", 200, 1000)] {
        let payload = Bytes::from(vec![7_u8; size]);
        let entries: Vec<Entry> = (0..count).map(|_| entry(&payload)).collect();
        let total: usize = entries.iter().map(Entry::encoded_len).sum();
        let mut out = vec![0_u8; block::block_len(total)];
        group.throughput(Throughput::Bytes(u64::try_from(total).expect("small")));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let link = Link::first(RunId(1));
                black_box(block::encode(&mut out, RingId(1), link, 0, entries.iter()))
            });
        });
    }
    group.finish();
}

/// What one run of commits came to.
#[derive(Clone, Copy)]
struct Figures {
    took: Duration,
    entries: u64,
    payload_bytes: u64,
    blocks: u64,
    flush_p50_us: u64,
    flush_p99_us: u64,
}

fn bench_dir() -> PathBuf {
    std::env::var_os("CORELOG_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// `outstanding` clients, each with one entry of `size` bytes on its way at a time.
fn commit(dir: &Path, size: usize, outstanding: u64, entries: u64) -> Figures {
    let dir = dir.to_owned();
    let spec = ShardSpec {
        io_memory: 32 << 20,
        ..ShardSpec::default()
    };
    let mut all = run_on_cores(vec![spec], move |_| {
        let dir = dir.clone();
        async move {
            let mut replay = Replay::open(&dir).await.expect("opens");
            while replay.next_entry().await.expect("no damage").is_some() {}
            let retired = replay.retire(Vec::new()).await.expect("retires");
            let config = JournalConfig::for_ring(512 << 20, 1 << 20);
            let journal = Journal::open(retired, config).await.expect("opens");
            while journal.is_growing() {
                sleep(Duration::from_millis(10)).await;
            }
            let freeing = journal.clone();
            let freer = spawn(Lane::Background, "free", async move {
                loop {
                    sleep(Duration::from_millis(5)).await;
                    if freeing.fill() > 0.3 {
                        let pin = freeing.durable_position();
                        freeing
                            .write_checkpoint(pin, Vec::new())
                            .await
                            .expect("writes");
                    }
                }
            });
            let payload = Bytes::from(vec![7_u8; size]);
            let start = Instant::now();
            let clients: Vec<_> = (0..outstanding)
                .map(|client| {
                    let (journal, payload) = (journal.clone(), payload.clone());
                    spawn(Lane::Network, "client", async move {
                        for _ in 0..entries / outstanding {
                            let room = journal.reserve(payload.len()).await.expect("works");
                            let position = journal.enqueue(room, Owner(client), entry(&payload));
                            journal
                                .durable(position.expect("works"))
                                .await
                                .expect("works");
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await;
            }
            let took = start.elapsed();
            drop(freer);
            let stats = journal.stats();
            let metrics = metrics::local().snapshot();
            let flushes = &metrics.summaries[Summary::FlushLatency.index()];
            journal.close().await.expect("closes");
            Figures {
                took,
                entries: stats.entries,
                payload_bytes: stats.payload_bytes,
                blocks: stats.blocks,
                flush_p50_us: flushes.quantile(0.5),
                flush_p99_us: flushes.quantile(0.99),
            }
        }
    })
    .expect("the shard ran");
    all.pop().expect("one shard")
}

fn per_second(count: u64, took: Duration) -> f64 {
    f64::from(u32::try_from(count).expect("small")) / took.as_secs_f64()
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal commit");
    group.sample_size(10);
    for (name, size, outstanding) in [("64 KiB x 64", 64 << 10, 64), ("200 B x 100", 200, 100)] {
        let dir = tempfile::tempdir_in(bench_dir()).expect("a directory");
        let ring = dir.path().join("journal/shard-000");
        let entries = if size > 1000 { 16_000 } else { 100_000 };
        let figures = commit(&ring, size, outstanding, entries);
        println!(
            "{name}: {:.0} MB/s, {:.0} entries/s, {:.0} commits/s of {} KiB, \
             write p50 {} us p99 {} us",
            per_second(figures.payload_bytes / 1_000_000, figures.took),
            per_second(figures.entries, figures.took),
            per_second(figures.blocks, figures.took),
            figures.payload_bytes / figures.blocks / 1024,
            figures.flush_p50_us,
            figures.flush_p99_us,
        );
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let entries = (iterations * outstanding).clamp(10 * outstanding, 20_000);
                let figures = commit(&ring, size, outstanding, entries);
                let each = figures.took.as_secs_f64()
                    / f64::from(u32::try_from(figures.entries).expect("small"));
                Duration::from_secs_f64(each * f64::from(u32::try_from(iterations).unwrap_or(1)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encode, commits);
criterion_main!(benches);

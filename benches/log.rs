//! The log: index lookup, append into memory, and planning a read.
//!
//! No disk is involved: the append is what runs on the shard for each batch (offsets, producer
//! state, tail), the rest is the journal's.

use std::hint::black_box;
use std::rc::Rc;

use bytes::BytesMut;
use corelog::journal::journal::Position;
use corelog::log::LogSettings;
use corelog::log::context::{ContextLimits, LogContext};
use corelog::log::log::{Log, NewBatch};
use corelog::log::offset_index::{OffsetEntry, OffsetIndex};
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use corelog::model::offset::Offset;
use corelog::rt::sim::Sim;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// As many entries as a segment of 1 GiB has.
const INDEX_ENTRIES: u32 = 262_144;

fn index(criterion: &mut Criterion) {
    let mut index = OffsetIndex::default();
    for number in 1..=INDEX_ENTRIES {
        index.push(OffsetEntry {
            relative_offset: number * 40,
            position: number * 4096,
        });
    }
    let bytes = index.encode_from(0);
    let mut group = criterion.benchmark_group("offset index of 1 GiB");
    group.bench_function("lookup", |bencher| {
        let mut probe = 0;
        bencher.iter(|| {
            probe = (probe + 7_368_787) % i64::from(INDEX_ENTRIES * 40);
            black_box(index.floor(Offset::ZERO, Offset::new(probe)))
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| black_box(OffsetIndex::decode(&bytes, 1 << 31)));
    });
    group.finish();
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    for (name, size, is_idempotent) in [
        ("200 B", 130, false),
        ("200 B, idempotent", 130, true),
        ("64 KiB", 65_000, false),
    ] {
        let value = vec![7_u8; size];
        let mut builder = BatchBuilder::new();
        if is_idempotent {
            builder = builder.producer(ProducerId(1), ProducerEpoch(0), 0);
        }
        builder.push(1, None, Some(&value));
        let batch = builder.build();
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| Sim::new(1).run(appends(&batch, count)));
        });
    }
    group.finish();
}

/// Appends `count` times to logs that are replaced before they fill the memory.
async fn appends(batch: &[u8], count: u64) -> std::time::Duration {
    let mut total = std::time::Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let round = left.min(1000);
        left -= round;
        let context = LogContext::new(ContextLimits::default());
        let log = open(&context, left).await;
        let batches: Vec<NewBatch> = (0..round)
            .map(|_| NewBatch::own(BytesMut::from(batch)).expect("a batch"))
            .collect();
        let started = std::time::Instant::now();
        for (number, batch) in (0..).zip(batches) {
            black_box(log.check_producer(&batch.header).is_ok());
            let appended = log.append(batch, LeaderEpoch(0), 1).expect("appends");
            log.on_enqueued(Position(number));
            black_box(appended.entry);
        }
        total += started.elapsed();
    }
    total
}

async fn open(context: &Rc<LogContext>, number: u64) -> Rc<Log> {
    let id = TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0));
    let dir = format!("/bench/{number}");
    let log = Log::open(context, dir, id, LogSettings::default())
        .await
        .expect("opens");
    log.prepare().await.expect("prepares");
    log
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log read");
    group.bench_function("plan 1 MiB of 16 KiB batches from memory", |bencher| {
        Sim::new(1).run(async {
            let context = LogContext::new(ContextLimits::default());
            let log = open(&context, 0).await;
            let mut builder = BatchBuilder::new();
            builder.push(1, None, Some(&vec![7; 16_000]));
            for number in 0..1000 {
                let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch");
                let appended = log.append(batch, LeaderEpoch(0), 1).expect("appends");
                log.on_enqueued(Position(number));
                log.on_durable(appended.next_offset);
            }
            bencher.iter(|| {
                let plan = log.read(Offset::new(500), 1 << 20, Offset::MAX, true);
                let mut plan = std::pin::pin!(plan);
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                black_box(plan.as_mut().poll(&mut context).is_ready())
            });
        });
    });
    group.finish();
}

criterion_group!(benches, index, append, read);
criterion_main!(benches);

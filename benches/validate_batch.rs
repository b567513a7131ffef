//! What the receiving shard does with every produced batch: header view, rules, CRC-32C; then the
//! offset patch at home. Beside it what the fast path avoids: a walk over all records.
//!
//! Run: `cargo bench --bench validate_batch`.

use std::hint::black_box;

use corelog::model::batch_builder::BatchBuilder;
use corelog::model::compression::Codec;
use corelog::model::ids::LeaderEpoch;
use corelog::model::offset::Offset;
use corelog::model::record::{iter_records, payload};
use corelog::model::record_batch::{BatchHeader, check_produced, set_base_offset_and_epoch};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn batch(records: usize, codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new().codec(codec);
    for number in 0..records {
        let value = format!("{number:0>100}");
        builder.push(1_700_000_000_000, None, Some(value.as_bytes()));
    }
    builder.build()
}

fn validate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for records in [1, 150, 10_000] {
        let mut batch = batch(records, Codec::None);
        let bytes = u64::try_from(batch.len()).expect("a length");
        group.throughput(Throughput::Bytes(bytes));
        group.bench_with_input(
            BenchmarkId::new("check", bytes),
            &batch,
            |bencher, batch| {
                bencher.iter(|| check_produced(black_box(batch)).expect("a legal batch"));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("header", bytes),
            &batch,
            |bencher, batch| {
                bencher.iter(|| BatchHeader::parse(black_box(batch)).expect("a header"));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("records", bytes),
            &batch,
            |bencher, batch| {
                let header = BatchHeader::parse(batch).expect("a header");
                bencher.iter(|| {
                    let payload = payload(&header, black_box(batch), 1 << 30).expect("records");
                    iter_records(&payload, header.record_count)
                        .flatten()
                        .count()
                });
            },
        );
        group.bench_function(BenchmarkId::new("patch", bytes), |bencher| {
            bencher.iter(|| {
                set_base_offset_and_epoch(black_box(&mut batch), Offset::new(7), LeaderEpoch(1));
            });
        });
    }
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batch = batch(10_000, codec);
        group.throughput(Throughput::Bytes(1_100_000));
        group.bench_with_input(
            BenchmarkId::new("decompress", codec),
            &batch,
            |bencher, batch| {
                let header = BatchHeader::parse(batch).expect("a header");
                bencher.iter(|| {
                    payload(&header, black_box(batch), 1 << 30)
                        .expect("records")
                        .len()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, validate);
criterion_main!(benches);

//! What the runtime facade costs: a value to another shard and back, a durable 64 KiB write with
//! one and with four in flight, one pass of the reactor.
//!
//! Runs on: two floating shards over io_uring; the file lies in `target`.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelog::rt::executor::{ShardSpec, run_on_cores};
use corelog::rt::{
    ALIGNMENT, File, IoBuf, Lane, OpenOptions, cross, now, spawn, yield_if_needed, yield_now,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of one journal write.
const WRITE: u32 = 64 << 10;

/// Writes that the pre-written file has room for.
const FILE_WRITES: u64 = 1024;

/// Sends `iterations` values to another shard and waits for each to come back.
fn round_trips(iterations: u64) -> Duration {
    let (there, arrives) = cross::channel::<u64>(64);
    let (back, returns) = cross::channel::<u64>(64);
    let near = Arc::new(Mutex::new(Some((there, returns))));
    let far = Arc::new(Mutex::new(Some((back, arrives))));
    let ended = run_on_cores(vec![ShardSpec::default(); 2], move |index| {
        let (near, far) = (Arc::clone(&near), Arc::clone(&far));
        async move {
            let start = now();
            if index == 0 {
                let (mut there, mut returns) = near
                    .lock()
                    .expect("the bench machine does what it is asked")
                    .take()
                    .expect("the bench machine does what it is asked");
                for value in 0..iterations {
                    there
                        .send(value)
                        .await
                        .expect("the bench machine does what it is asked");
                    assert_eq!(returns.recv().await, Some(value));
                }
            } else {
                let (mut back, mut arrives) = far
                    .lock()
                    .expect("the bench machine does what it is asked")
                    .take()
                    .expect("the bench machine does what it is asked");
                while let Some(value) = arrives.recv().await {
                    back.send(value)
                        .await
                        .expect("the bench machine does what it is asked");
                }
            }
            start.elapsed()
        }
    });
    ended.expect("the bench machine does what it is asked")[0]
}

/// Writes `iterations` blocks to a pre-written `O_DSYNC` file, `in_flight` at a time.
fn durable_writes(iterations: u64, in_flight: u32) -> Duration {
    let ended = run_on_cores(vec![ShardSpec::default()], move |_| async move {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let path = format!("{target}/bench-rt.wal");
        let size = usize::try_from(WRITE).expect("the bench machine does what it is asked");
        assert!(size.is_multiple_of(ALIGNMENT));
        let plain = File::open(&path, &OpenOptions::direct().create())
            .await
            .expect("the bench machine does what it is asked");
        for index in 0..FILE_WRITES {
            let buf = IoBuf::alloc_zeroed(size).await;
            plain
                .write_at(buf, size, index * u64::from(WRITE))
                .await
                .expect("the bench machine does what it is asked");
        }
        plain
            .fdatasync()
            .await
            .expect("the bench machine does what it is asked");
        let file = File::open(&path, &OpenOptions::direct().dsync())
            .await
            .expect("the bench machine does what it is asked");
        let next = Rc::new(Cell::new(0));
        let start = now();
        let writers: Vec<_> = (0..in_flight)
            .map(|_| {
                let (file, next) = (file.clone(), Rc::clone(&next));
                spawn(Lane::Commit, "writer", async move {
                    while next.get() < iterations {
                        let index = next.replace(next.get() + 1);
                        let buf = IoBuf::alloc_zeroed(size).await;
                        let pos = (index % FILE_WRITES) * u64::from(WRITE);
                        file.write_at(buf, size, pos)
                            .await
                            .expect("the bench machine does what it is asked");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await;
        }
        start.elapsed()
    });
    ended.expect("the bench machine does what it is asked")[0]
}

/// Runs a future on one shard `iterations` times.
fn on_shard<F, Fut>(iterations: u64, step: F) -> Duration
where
    F: Fn() -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let ended = run_on_cores(vec![ShardSpec::default()], move |_| async move {
        let start = now();
        for _ in 0..iterations {
            step().await;
        }
        start.elapsed()
    });
    ended.expect("the bench machine does what it is asked")[0]
}

fn benches(criterion: &mut Criterion) {
    criterion.bench_function("rt/cross_round_trip", |bencher| {
        bencher.iter_custom(round_trips);
    });
    let mut writes = criterion.benchmark_group("rt/durable_write_64k");
    writes
        .throughput(Throughput::Bytes(u64::from(WRITE)))
        .sample_size(10);
    for in_flight in [1, 4] {
        writes.bench_function(format!("{in_flight}_in_flight"), |bencher| {
            bencher.iter_custom(|iterations| durable_writes(iterations, in_flight));
        });
    }
    writes.finish();
    let mut tasks = criterion.benchmark_group("rt/task");
    tasks.bench_function("spawn", |bencher| {
        bencher.iter_custom(|n| on_shard(n, || spawn(Lane::Commit, "nothing", async {})));
    });
    tasks.bench_function("yield_if_needed", |bencher| {
        bencher.iter_custom(|n| on_shard(n, yield_if_needed));
    });
    tasks.bench_function("reactor_pass", |bencher| {
        bencher.iter_custom(|n| on_shard(n, yield_now));
    });
    tasks.bench_function("now", |bencher| bencher.iter(|| black_box(now())));
    tasks.finish();
}

criterion_group!(rt, benches);
criterion_main!(rt);

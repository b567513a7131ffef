//! The simulator itself: the same seed, deadlocks, power failures at every change, faults.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{CrashMode, DiskOp, Fault, NetFaults, Sim, SimDisk};
use crate::rt::file::{ALIGNMENT, File, OpenOptions};
use crate::rt::net::{PortClaim, TcpStream};
use crate::rt::sync::{Queue, oneshot};
use crate::rt::{IoBuf, Lane, SharedFile, fs, now, random_u64, sleep, spawn, unix_ms, yield_now};

const BLOCK: u64 = 4096;

/// Tasks that race over a queue, a disk and the clock; the order in which they got through.
async fn race() -> Vec<u64> {
    let queue = Queue::new(100);
    fs::create_dir_all("/race").await.unwrap();
    for index in 0..10_u64 {
        let queue = queue.clone();
        spawn(Lane::Network, "racer", async move {
            yield_now().await;
            sleep(Duration::from_micros(random_u64() % 3)).await;
            fs::write_new(format!("/race/{index}"), vec![0; 10])
                .await
                .unwrap();
            queue.push(index).await.unwrap();
        })
        .detach();
    }
    let mut order = Vec::new();
    while order.len() < 10 {
        order.push(queue.pop().await.unwrap());
    }
    order
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut traces = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let (first, second) = (Sim::new(seed), Sim::new(seed));
        let order = first.run(race());
        assert_eq!(order, second.run(race()), "seed {seed}");
        assert_eq!(first.trace(), second.trace(), "seed {seed}");
        assert_eq!(first.now(), second.now(), "seed {seed}");
        traces.insert(first.trace());
        orders.insert(order);
    }
    assert_eq!(traces.len(), 50);
    assert!(orders.len() > 40, "the seed decides the order");
}

#[test]
fn time_passes_without_waiting() {
    let started = std::time::Instant::now();
    Sim::new(1).run(async {
        let (start, wall) = (now(), unix_ms());
        sleep(Duration::from_hours(24)).await;
        assert_eq!(start.elapsed(), Duration::from_hours(24));
        assert_eq!(unix_ms() - wall, 86_400_000);
    });
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
#[should_panic(
    expected = "seed 42: deadlock: nothing is ready and no timer is set: the main future \
                           and 1 tasks: stuck"
)]
fn a_deadlock_names_the_seed_and_the_tasks() {
    Sim::new(42).run(async {
        let (_sender, receiver) = oneshot::oneshot::<()>();
        let stuck = spawn(Lane::Commit, "stuck", receiver);
        let _never = stuck.await;
    });
}

#[test]
#[should_panic(expected = "as expected by this test")]
fn a_panic_in_a_task_fails_the_run() {
    Sim::new(1).run(async {
        spawn(Lane::Commit, "bad", async {
            panic!("as expected by this test")
        })
        .detach();
        sleep(Duration::from_millis(1)).await;
    });
}

/// Replaces a small file over and over; how many replacements were answered.
async fn replace(answered: &std::cell::Cell<u64>) {
    fs::create_dir_all("/data").await.unwrap();
    fs::sync_dir("/").await.unwrap();
    for version in 1..=5_u64 {
        fs::write_atomic("/data/state", version.to_le_bytes().repeat(300))
            .await
            .unwrap();
        answered.set(version);
    }
}

#[test]
fn an_atomic_replacement_survives_a_power_failure_at_every_change() {
    let all = {
        let sim = Sim::new(0);
        sim.run(replace(&std::cell::Cell::new(0)));
        sim.disk().ops()
    };
    assert!(all > 20);
    for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Torn] {
        for at in 1..=all {
            let disk = SimDisk::new(at);
            disk.crash_after(at);
            let answered = std::cell::Cell::new(0);
            let ended = Sim::with_disk(at, disk.clone()).run_until_crash(replace(&answered));
            assert!(ended.is_none() && disk.is_crashed());
            disk.crash(mode);
            let found = Sim::with_disk(at, disk).run(async { fs::read("/data/state").await });
            let version = match found {
                Ok(bytes) => {
                    assert_eq!(bytes, bytes[..8].repeat(300), "a mixture, {mode:?} at {at}");
                    u64::from_le_bytes(bytes[..8].try_into().unwrap())
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::NotFound);
                    0
                }
            };
            assert!(
                version >= answered.get(),
                "lost {} for {version}",
                answered.get()
            );
            assert!(version <= answered.get() + 1);
        }
    }
}

/// A log of one-block records, with or without `O_DSYNC` and flushes; how many were answered.
async fn append(dsync: bool, flush: bool, answered: &std::cell::Cell<u64>) {
    let mut options = OpenOptions::direct().create();
    options.dsync = dsync;
    let file = File::open("/log", &options).await.unwrap();
    fs::sync_dir("/").await.unwrap();
    for number in 1..=8_u64 {
        let mut buf = IoBuf::alloc(ALIGNMENT).await;
        buf.fill(u8::try_from(number).unwrap());
        file.write_at(buf, ALIGNMENT, (number - 1) * BLOCK)
            .await
            .unwrap();
        if flush {
            file.fdatasync().await.unwrap();
        }
        answered.set(number);
    }
}

/// Fails the power at every change under many seeds; how often an answered record was lost.
fn lost_answers(dsync: bool, flush: bool) -> u64 {
    let mut lost = 0;
    for seed in 0..30 {
        for at in 1..=20 {
            let disk = SimDisk::new(seed);
            disk.crash_after(at);
            let answered = std::cell::Cell::new(0);
            let sim = Sim::with_disk(seed, disk.clone());
            sim.run_until_crash(append(dsync, flush, &answered));
            disk.crash(CrashMode::Torn);
            let bytes = disk.peek("/log").unwrap_or_default();
            let whole = |number: u64| {
                let start = usize::try_from((number - 1) * BLOCK).unwrap();
                bytes
                    .get(start..start + ALIGNMENT)
                    .is_some_and(|block| block.iter().all(|byte| u64::from(*byte) == number))
            };
            lost += u64::from(!(1..=answered.get()).all(whole));
        }
    }
    lost
}

#[test]
fn only_flushed_or_dsync_writes_are_safe() {
    assert_eq!(lost_answers(true, false), 0);
    assert_eq!(lost_answers(false, true), 0);
    assert!(lost_answers(false, false) > 100);
}

#[test]
fn writes_in_flight_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let order = Sim::new(seed).run(async {
            let options = OpenOptions::direct().create().dsync();
            let file = File::open("/wal", &options).await.unwrap();
            let done = Queue::new(4);
            for index in 0..4_u64 {
                let (file, done) = (file.clone(), done.clone());
                spawn(Lane::Commit, "write", async move {
                    let buf = IoBuf::alloc(ALIGNMENT).await;
                    file.write_at(buf, ALIGNMENT, index * BLOCK).await.unwrap();
                    done.push(index).await.unwrap();
                })
                .detach();
            }
            let mut order = Vec::new();
            for _ in 0..4 {
                order.push(done.pop().await.unwrap());
            }
            order
        });
        orders.insert(order);
    }
    assert!(orders.len() > 10, "{orders:?}");
}

#[test]
fn faults_hit_the_calls_they_name() {
    let sim = Sim::new(3);
    let disk = sim.disk();
    disk.inject(Fault {
        op: DiskOp::Write,
        path: "wal".to_owned(),
        error: io::ErrorKind::StorageFull,
        skip: 1,
        times: 1,
    });
    sim.run(async {
        let file = File::open("/wal", &OpenOptions::direct().create())
            .await
            .unwrap();
        for expected in [None, Some(io::ErrorKind::StorageFull), None] {
            let buf = IoBuf::alloc(ALIGNMENT).await;
            let written = file.write_at(buf, ALIGNMENT, 0).await;
            assert_eq!(written.err().map(|error| error.kind()), expected);
        }
        fs::write_new("/other", vec![1]).await.unwrap();
    });
    disk.set_capacity(Some(3 * BLOCK));
    sim.run(async {
        let file = File::open("/wal", &OpenOptions::direct().create())
            .await
            .unwrap();
        let buf = IoBuf::alloc(4 * ALIGNMENT).await;
        let error = file.write_at(buf, 4 * ALIGNMENT, 0).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(fs::free_space("/").await.unwrap() < 3 * BLOCK);
    });
}

#[test]
fn damage_is_seen_at_once() {
    let sim = Sim::new(3);
    sim.run(async { fs::write_new("/f", vec![1; 10]).await.unwrap() });
    sim.disk().poke("/f", 4, &[9]).unwrap();
    assert_eq!(
        sim.disk().peek("/f").unwrap(),
        [1, 1, 1, 1, 9, 1, 1, 1, 1, 1]
    );
}

/// Sends numbers over one connection after the other; how many arrived, in their order.
async fn talk() -> Vec<u8> {
    let listener = PortClaim::new("127.0.0.1:9092".parse().unwrap()).unwrap();
    let listener = listener.into_listener().unwrap();
    let address = listener.local_addr();
    let taken = spawn(Lane::Network, "taken", async move {
        let mut taken = Vec::new();
        for _ in 0..20 {
            let stream = listener.accept().await.unwrap();
            let mut bytes = BytesMut::new();
            while matches!(stream.read_some(&mut bytes).await, Ok(count) if count > 0) {}
            assert!(
                bytes
                    .iter()
                    .copied()
                    .eq(0..u8::try_from(bytes.len()).unwrap())
            );
            taken.push(u8::try_from(bytes.len()).unwrap());
        }
        taken
    });
    for _ in 0..20 {
        let stream = TcpStream::connect(address).await.unwrap();
        for number in 0..50_u8 {
            let mut part = [Bytes::from(vec![number])];
            if stream.write_all_vectored(&mut part).await.is_err() {
                break;
            }
        }
    }
    taken.await
}

#[test]
fn a_cut_connection_loses_its_end_and_a_stalled_one_nothing() {
    let sim = Sim::new(5);
    sim.set_net_faults(NetFaults {
        cut: Some(100),
        stall: Some(30),
    });
    let arrived = sim.run(talk());
    assert!(arrived.contains(&50), "{arrived:?}");
    assert!(arrived.iter().any(|count| *count < 50), "{arrived:?}");
    let fired = sim.net_fired();
    assert!(fired.cuts > 0 && fired.stalls > 0, "{fired:?}");
    let again = Sim::new(6);
    again.set_net_faults(NetFaults {
        cut: None,
        stall: Some(30),
    });
    assert_eq!(again.run(talk()), [50; 20]);
}

#[test]
fn a_flush_may_take_seconds() {
    let sim = Sim::new(5);
    sim.disk().set_slow_flushes(Some(1));
    let took = sim.run(async {
        let start = now();
        fs::write_new("/slow", b"x".to_vec()).await.unwrap();
        start.elapsed()
    });
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert_eq!(sim.disk().take_fired()["slow flush"], 1);
}

/// A device that cannot read a page returns what lies before it. Taken for the end of the file,
/// that hid the blocks of the journal behind it.
#[test]
fn a_short_read_is_not_taken_for_the_end_of_the_file() {
    let sim = Sim::new(5);
    let len = 40 * usize::try_from(BLOCK).unwrap() + 700;
    let content: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[n % 3]).collect();
    sim.run(async {
        fs::write_new("/long", content.clone()).await.unwrap();
        sim.disk().set_short_reads(Some(1));
        let file = File::open("/long", &OpenOptions::direct_read())
            .await
            .unwrap();
        let whole = file.read_at(0, 40 * ALIGNMENT).await.unwrap();
        assert_eq!(&whole[..], &content[..40 * ALIGNMENT]);
        let end = file.read_at(39 * BLOCK, 4 * ALIGNMENT).await.unwrap();
        assert_eq!(&end[..], &content[39 * ALIGNMENT..], "less at its end");
        assert!(
            file.read_at(44 * BLOCK, ALIGNMENT)
                .await
                .unwrap()
                .is_empty()
        );
        let shared = SharedFile::open("/long").await.unwrap();
        let read = shared.read_at(5, len).await.unwrap();
        assert_eq!(&read[..], &content[5..]);
    });
    assert!(sim.disk().take_fired()["short read"] > 3);
}

#[test]
fn the_wall_clock_is_set_and_the_other_goes_on() {
    let sim = Sim::new(5);
    let (wall, passed) = sim.run(async {
        let (start, wall) = (now(), unix_ms());
        sim.step_wall_clock(-3_600_000);
        (unix_ms() - wall, start.elapsed())
    });
    assert_eq!((wall, passed), (-3_600_000, Duration::ZERO));
}

//! Tests of deletion in steps on the simulated disk: crashes between them, and readers meanwhile.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::context::{ContextLimits, LogContext};
use super::delete::{self, SET_ASIDE_SUFFIX};
use super::error::Error;
use super::file_names::{DELETED_SUFFIX, FileKind, file_name, parse_file_name};
use super::log::{Log, NewBatch};
use super::read::ReadPlan;
use super::reclaim::Idle;
use super::recovery::{Recovery, RecoveryLimits};
use super::settings::LogSettings;
use crate::journal::entry::Entry;
use crate::journal::journal::Position;
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::offset::Offset;
use crate::model::record_batch::iter_batches;
use crate::rt::sim::{CrashMode, DiskOp, Fault, Sim, SimDisk};
use crate::rt::{self, Lane, fs};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;

const TOPICS: &str = "/data/topics";
const DIR: &str = "/data/topics/orders-0";
const SPARES: &str = "/data/spare";
const BATCHES: i64 = 100;
/// What the values of `filled` are full of, and those that come after.
const OLD: u8 = 0xAA;
const NEW: u8 = 0xBB;
/// Far behind the last step.
const LONG: Duration = Duration::from_secs(60);

fn context() -> Rc<LogContext> {
    LogContext::new(ContextLimits {
        destage_bytes: 16 << 10,
        reclaim_bytes: 4096,
        ..ContextLimits::default()
    })
}

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 40_000,
        ..LogSettings::default()
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0))
}

async fn open(context: &Rc<LogContext>) -> Rc<Log> {
    Log::open(context, DIR, partition(), settings())
        .await
        .unwrap()
}

/// Appends one record whose value is full of `fill`, and declares it durable.
fn append(log: &Log, number: i64, fill: u8) {
    let mut builder = BatchBuilder::new();
    builder.push(1_000 + number, None, Some(&[fill; 1_200]));
    let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).unwrap();
    let appended = log.append(batch, LeaderEpoch(3), 1000).unwrap();
    log.on_enqueued(Position(appended.next_offset.get().unsigned_abs()));
    log.on_durable(appended.next_offset);
    log.advance_high_watermark(appended.next_offset);
}

/// A log of some sealed segments, opened again after a clean stop.
async fn filled(context: &Rc<LogContext>) -> Rc<Log> {
    let log = open(context).await;
    log.prepare().await.unwrap();
    for number in 0..BATCHES {
        append(&log, number, OLD);
    }
    log.close().await.unwrap();
    fs::sync_filesystem("/data").await.unwrap();
    open(context).await
}

async fn read(log: &Log, from: i64) -> Result<ReadPlan, Error> {
    log.read(Offset::new(from), 1 << 20, Offset::MAX, true)
        .await
}

fn bases(bytes: &Bytes) -> Vec<i64> {
    iter_batches(bytes)
        .map(|batch| batch.unwrap().0.base_offset.get())
        .collect()
}

fn reclaim(context: &Rc<LogContext>) {
    let context = Rc::clone(context);
    rt::spawn(Lane::Background, "reclaim", async move {
        context.reclaim().run(&context, &Idle).await;
    })
    .detach();
}

/// Lengths of the segments by base offset, and of what waits to be removed by name.
async fn files() -> (BTreeMap<i64, u64>, BTreeMap<String, u64>) {
    let (mut logs, mut deleted) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir(DIR).await.unwrap() {
        let name = entry.name.into_string().unwrap();
        match parse_file_name(&name) {
            Some((base, FileKind::Log)) => drop(logs.insert(base.get(), entry.len)),
            None if has_deleted_name(&name) => drop(deleted.insert(name, entry.len)),
            _ => {}
        }
    }
    (logs, deleted)
}

fn has_deleted_name(name: &str) -> bool {
    name.ends_with(DELETED_SUFFIX)
}

/// Whatever a crash left: segments are whole, the log is readable to its end, and the rest goes.
/// Returns how many leftovers had been cut already.
async fn check_after_crash(whole: &BTreeMap<i64, u64>, log_start: Entry) -> usize {
    let (logs, deleted) = files().await;
    for (base, len) in logs {
        assert_eq!(len, whole[&base], "segment {base}");
    }
    let is_whole = |len: &u64| whole.values().any(|known| known == len);
    let cut_count = deleted.values().filter(|len| !is_whole(len)).count();
    let mut recovery = Recovery::new("/data", RecoveryLimits::default());
    recovery.add(partition(), DIR, settings());
    recovery.apply(log_start).await.unwrap();
    for recovered in recovery.finish().await.unwrap() {
        recovered.outcome.unwrap();
    }
    let context = context();
    let log = open(&context).await;
    let mut from = log.offsets().log_start.get();
    while from < BATCHES {
        let plan = read(&log, from).await.unwrap();
        from = bases(&plan.into_bytes().await.unwrap()).pop().unwrap() + 1;
    }
    reclaim(&context);
    rt::sleep(LONG).await;
    assert_eq!(files().await.1.len(), 0);
    cut_count
}

#[test]
fn a_crash_between_two_steps_leaves_a_leftover_and_never_a_short_segment() {
    let mut cut_count = 0;
    for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Torn] {
        for crash_after in 1.. {
            let disk = SimDisk::new(crash_after);
            // the journal has the entry before the log start moves
            let (whole, entry) = Sim::with_disk(1, disk.clone()).run(async {
                let log = filled(&context()).await;
                let entry = log.log_start_entry(Offset::new(BATCHES - 10)).unwrap();
                (files().await.0, entry.unwrap())
            });
            assert!(whole.len() > 3, "{whole:?}");
            disk.crash_after(crash_after);
            let ended = Sim::with_disk(2, disk.clone()).run_until_crash(async {
                let context = context();
                let log = open(&context).await;
                log.advance_log_start(Offset::new(BATCHES - 10));
                log.delete_retired().await.unwrap();
                reclaim(&context);
                rt::sleep(LONG).await;
                assert_eq!(context.reclaim().waiting_bytes(), 0);
            });
            disk.crash(mode);
            println!("{mode:?} at change {crash_after}");
            cut_count += Sim::with_disk(3, disk).run(check_after_crash(&whole, entry));
            if ended.is_some() {
                break;
            }
        }
    }
    assert!(cut_count > 10, "crashes came between steps: {cut_count}");
}

#[test]
fn a_reader_of_a_deleted_segment_gets_every_byte_before_the_first_is_cut() {
    Sim::new(4).run(async {
        let context = context();
        let log = filled(&context).await;
        let plan = read(&log, 0).await.unwrap();
        let same = plan.clone();
        let expected = plan.clone().into_bytes().await.unwrap();
        assert!(bases(&expected).len() > 10);
        log.advance_log_start(Offset::new(BATCHES));
        log.delete_retired().await.unwrap();
        reclaim(&context);
        rt::sleep(LONG).await;
        // the others went, the one that is read is whole
        let (logs, deleted) = files().await;
        assert_eq!((logs.len(), deleted.len()), (1, 1));
        let late = read(&log, 0).await.unwrap_err();
        assert!(matches!(late, Error::OffsetOutOfRange { .. }), "{late}");
        assert_eq!(plan.into_bytes().await.unwrap(), expected);
        rt::sleep(LONG).await;
        assert_eq!(files().await.1.len(), 1);
        drop(same);
        rt::sleep(LONG).await;
        assert_eq!(files().await.1.len(), 0);
    });
}

#[test]
fn a_reader_that_looks_a_segment_up_while_it_is_deleted_gets_it_whole_or_is_refused() {
    let (mut read_count, mut refused_count) = (0, 0);
    for seed in 0..100 {
        let refused = Sim::new(seed).run(async {
            let context = context();
            let log = filled(&context).await;
            reclaim(&context);
            let reader = Rc::clone(&log);
            let reading = rt::spawn(Lane::Read, "read", async move {
                rt::sleep(Duration::from_micros(seed * 7)).await;
                let plan = read(&reader, 0).await?;
                rt::sleep(LONG).await;
                plan.into_bytes().await
            });
            rt::sleep(Duration::from_micros(350)).await;
            log.advance_log_start(Offset::new(BATCHES));
            log.delete_retired().await.unwrap();
            let found = reading.await;
            let refused = matches!(found, Err(Error::OffsetOutOfRange { .. }));
            assert!(refused || bases(&found.unwrap()).len() > 10);
            rt::sleep(LONG).await;
            assert_eq!(files().await.1.len(), 0, "no descriptor is kept");
            refused
        });
        read_count += usize::from(!refused);
        refused_count += usize::from(refused);
    }
    assert!(read_count > 10 && refused_count > 10);
}

#[test]
fn a_deleted_partition_goes_when_its_readers_have_gone() {
    Sim::new(5).run(async {
        let context = context();
        let log = filled(&context).await;
        let plan = read(&log, 0).await.unwrap();
        let expected = plan.clone().into_bytes().await.unwrap();
        let waste = log.set_aside().await.unwrap();
        assert!(waste.size_bytes > 100_000);
        context.reclaim().put(waste);
        reclaim(&context);
        rt::sleep(LONG).await;
        assert!(!fs::exists(DIR).await.unwrap());
        assert!(read(&log, 0).await.is_err());
        assert_eq!(plan.into_bytes().await.unwrap(), expected);
        rt::sleep(LONG).await;
        assert!(fs::read_dir(TOPICS).await.unwrap().is_empty());
        assert_eq!(context.reclaim().waiting_bytes(), 0);
    });
}

#[test]
fn a_partition_that_is_deleted_while_a_segment_of_it_goes_is_removed_whole() {
    for pause in [0, 1, 100, 500, 1000] {
        Sim::new(6).run(async {
            let context = context();
            let log = filled(&context).await;
            log.advance_log_start(Offset::new(BATCHES / 2));
            log.delete_retired().await.unwrap();
            reclaim(&context);
            rt::sleep(Duration::from_micros(pause)).await;
            context.reclaim().put(log.set_aside().await.unwrap());
            rt::sleep(LONG).await;
            assert!(fs::read_dir(TOPICS).await.unwrap().is_empty());
        });
    }
}

#[test]
fn what_an_earlier_run_set_aside_is_removed() {
    Sim::new(7).run(async {
        let log = filled(&context()).await;
        let path = log.set_aside().await.unwrap().path;
        assert!(path.to_string_lossy().ends_with(SET_ASIDE_SUFFIX));
        let context = context();
        context.reclaim().put(delete::leftover(path));
        reclaim(&context);
        rt::sleep(LONG).await;
        assert!(fs::read_dir(TOPICS).await.unwrap().is_empty());
    });
}

/// Segments at or above `first` hold nothing of what was deleted. Returns how many of them end in
/// zeros.
async fn check_nothing_old(disk: &SimDisk, first: i64) -> usize {
    let (logs, _) = files().await;
    let mut zeros_count = 0;
    for (base, _) in logs.range(first..) {
        let path = format!("{DIR}/{}", file_name(Offset::new(*base), FileKind::Log));
        let bytes = disk.peek(path).unwrap();
        let is_old = |part: &[u8]| part.iter().all(|byte| *byte == OLD);
        assert!(!bytes.windows(32).any(is_old), "segment {base}");
        zeros_count += usize::from(bytes.ends_with(&[0; 4096]));
    }
    zeros_count
}

/// Deletes all of a log, and appends again as much to segments that take the blocks of the old.
async fn delete_and_append_again(context: &Rc<LogContext>) -> Rc<Log> {
    fs::create_dir_all(SPARES).await.unwrap();
    context.reclaim().keep_spares(SPARES.into());
    let log = open(context).await;
    if log.prepare().await.unwrap().is_some() {
        log.on_enqueued(Position(0));
    }
    log.roll(1);
    log.destage().await.unwrap();
    log.advance_log_start(Offset::new(BATCHES));
    log.delete_retired().await.unwrap();
    reclaim(context);
    rt::sleep(Duration::from_secs(3)).await;
    for number in 0..BATCHES {
        append(&log, BATCHES + number, NEW);
        if number % 10 == 9 {
            log.destage().await.unwrap();
            log.checkpoint().await.unwrap();
        }
    }
    log
}

fn reused() -> u64 {
    metrics::local().counter(Counter::SegmentsReused)
}

#[test]
fn a_segment_in_the_blocks_of_a_deleted_one_holds_its_own_records_and_nothing_else() {
    let (sim, before) = (Sim::new(8), reused());
    let disk = sim.disk();
    sim.run(async {
        let context = context();
        filled(&context).await;
        let log = delete_and_append_again(&context).await;
        assert!(reused() >= before + 2);
        assert_eq!(check_nothing_old(&disk, BATCHES).await, 1, "the active one");
        let mut from = BATCHES;
        while from < 2 * BATCHES {
            let found = read(&log, from).await.unwrap().into_bytes().await.unwrap();
            assert_eq!(bases(&found)[0], from);
            from = bases(&found).pop().unwrap() + 1;
        }
        let sealed = log.state.borrow().sealed.clone();
        let (logs, _) = files().await;
        for segment in sealed.iter() {
            assert_eq!(logs[&segment.base_offset.get()], segment.size_bytes);
        }
        log.close().await.unwrap();
        assert_eq!(check_nothing_old(&disk, BATCHES).await, 0, "exact lengths");
        // what no segment wants is given back
        rt::sleep(LONG * 5).await;
        assert!(fs::read_dir(SPARES).await.unwrap().is_empty());
        assert_eq!(context.preallocated_bytes(), 0);
    });
}

#[test]
fn whenever_the_power_fails_no_segment_shows_what_its_blocks_held_before() {
    let mut reused_count = 0;
    for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Torn] {
        for crash_after in 1.. {
            let (disk, before) = (SimDisk::new(crash_after), reused());
            Sim::with_disk(1, disk.clone()).run(async { drop(filled(&context()).await) });
            disk.crash_after(crash_after);
            let ended = Sim::with_disk(2, disk.clone()).run_until_crash(async {
                delete_and_append_again(&context())
                    .await
                    .close()
                    .await
                    .unwrap();
            });
            disk.crash(mode);
            reused_count += usize::from(reused() > before);
            println!("{mode:?} at change {crash_after}");
            let after = disk.clone();
            Sim::with_disk(3, disk).run(async { check_nothing_old(&after, BATCHES).await });
            if ended.is_some() {
                break;
            }
        }
    }
    assert!(reused_count > 100, "{reused_count}");
}

#[test]
fn spares_are_given_up_for_a_full_disk_and_not_made_where_the_file_system_cannot() {
    let sim = Sim::new(9);
    let disk = sim.disk();
    sim.run(async {
        let context = context();
        filled(&context).await;
        let log = delete_and_append_again(&context).await;
        log.advance_log_start(Offset::new(2 * BATCHES - 20));
        log.delete_retired().await.unwrap();
        rt::sleep(Duration::from_secs(3)).await;
        assert!(!fs::read_dir(SPARES).await.unwrap().is_empty());
        context.reclaim().give_up_spares(&context);
        rt::sleep(Duration::from_secs(3)).await;
        assert!(fs::read_dir(SPARES).await.unwrap().is_empty());
        disk.inject(Fault {
            op: DiskOp::Resize,
            path: ".deleted".into(),
            error: std::io::ErrorKind::Unsupported,
            skip: 0,
            times: 1,
        });
        append(&log, 0, NEW);
        log.roll(1);
        log.destage().await.unwrap();
        log.advance_log_start(log.offsets().log_end);
        log.delete_retired().await.unwrap();
        rt::sleep(Duration::from_secs(3)).await;
        assert!(fs::read_dir(SPARES).await.unwrap().is_empty());
        assert_eq!(files().await.1.len(), 0);
    });
}

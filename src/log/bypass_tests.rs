//! Tests of the way past the journal on the simulated disk, the journal being a list of entries.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::context::{ContextLimits, LogContext};
use super::error::{Damage, Error};
use super::file_names::{FileKind, file_name};
use super::log::{Log, NewBatch};
use super::recovery::{Recovered, Recovery, RecoveryLimits};
use super::settings::LogSettings;
use crate::journal::entry::{Entry, EntryKind};
use crate::journal::journal::Position;
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::limits::ALIGNMENT_BYTES;
use crate::model::offset::Offset;
use crate::rt::fs;
use crate::rt::sim::{CrashMode, Sim, SimDisk};

const DIR: &str = "/data/topics/orders-0";

fn partition() -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0))
}

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 60_000,
        ..LogSettings::default()
    }
}

async fn open() -> Rc<Log> {
    let context = LogContext::new(ContextLimits {
        destage_bytes: 16 << 10,
        ..ContextLimits::default()
    });
    Log::open(&context, DIR, partition(), settings())
        .await
        .expect("the directory opens")
}

/// Appends ten records of 100 bytes.
async fn append(log: &Log) -> Option<Entry> {
    if log.prepare().await.expect("reads").is_some() {
        log.on_enqueued(Position(0));
    }
    let mut builder = BatchBuilder::new();
    for number in 0..10 {
        let value = [u8::try_from(log.offsets().log_end.get() % 251).expect("small"); 100];
        builder.push(number, None, Some(&value));
    }
    let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch");
    let entry = log.append(batch, LeaderEpoch(3), 1).expect("room").entry;
    if log.is_bypassing() {
        return None;
    }
    log.on_enqueued(position_of(&entry));
    make_durable(log, entry.next_offset);
    Some(entry)
}

fn make_durable(log: &Log, end: Offset) {
    log.on_durable(end);
    log.advance_high_watermark(end);
}

/// `count` batches past the journal; the entry.
async fn bypass(log: &Log, count: usize) -> Entry {
    let mut entries = bypass_or_queue(log, count).await;
    assert!(entries.len() == 1 && matches!(entries[0].kind, EntryKind::Bypass { .. }));
    entries.remove(0)
}

/// The same, by the journal if the segment was rolled meanwhile.
async fn bypass_or_queue(log: &Log, count: usize) -> Vec<Entry> {
    log.start_bypass();
    for _ in 0..count {
        assert!(append(log).await.is_none());
    }
    let mut entries = Vec::new();
    if let Some((bypassed, entry)) = log.bypass(4096, 1 << 20).await.expect("room") {
        assert!(log.offsets().durable_end < bypassed.next_offset());
        log.on_bypass_queued(&bypassed, position_of(&entry));
        make_durable(log, bypassed.next_offset());
        log.publish_bypass(bypassed);
        entries.push(entry);
    }
    while let Some(bytes) = log.next_waiting_bytes(5000) {
        let entry = log.waiting_entry(bytes).expect("it waits");
        log.on_waiting_queued(entry.next_offset, position_of(&entry));
        make_durable(log, entry.next_offset);
        entries.push(entry);
    }
    log.end_bypass();
    entries
}

fn position_of(entry: &Entry) -> Position {
    Position(entry.next_offset.get().unsigned_abs())
}

async fn read_all(log: &Log) -> Bytes {
    let mut all = BytesMut::new();
    let mut next = log.offsets().log_start;
    while next < log.offsets().log_end {
        let plan = log
            .read(next, 10_000, Offset::MAX, true)
            .await
            .expect("reads");
        let bytes = plan.into_bytes().await.expect("reads");
        for batch in crate::model::record_batch::iter_batches(&bytes) {
            next = batch.expect("whole").0.next_offset();
        }
        all.extend_from_slice(&bytes);
    }
    all.freeze()
}

async fn recover(entries: &[Entry], record: Option<Vec<u8>>) -> Recovered {
    let mut recovery = Recovery::new("/data", RecoveryLimits::default());
    recovery.add(partition(), DIR, settings());
    if let Some(record) = record {
        recovery.set_record(partition(), &record).expect("a record");
    }
    for entry in entries {
        recovery
            .apply(entry.clone())
            .await
            .expect("the disk takes it");
    }
    let mut all = recovery.finish().await.expect("the disk takes it");
    all.pop().expect("one partition")
}

fn log_path(base: i64) -> PathBuf {
    PathBuf::from(DIR).join(file_name(Offset::new(base), FileKind::Log))
}

#[test]
fn what_went_past_the_journal_is_whole_blocks_and_a_payload_of_less_than_one() {
    Sim::new(1).run(async {
        let log = open().await;
        append(&log).await;
        let entry = bypass(&log, 9).await;
        let EntryKind::Bypass { length, .. } = entry.kind else {
            panic!("{entry:?}");
        };
        let end = entry.file_position + u64::from(length);
        assert!(end.is_multiple_of(4096) && entry.payload.len() < ALIGNMENT_BYTES);
        assert_eq!(
            end + u64::try_from(entry.payload.len()).unwrap(),
            log.size_bytes()
        );
        assert_eq!(entry.base_offset, Offset::new(10));
        assert_eq!(entry.next_offset, Offset::new(100));
        assert_eq!(
            log.undestaged_entry(),
            Some(Position(100)),
            "it has the last block"
        );
        assert_eq!(log.offsets().log_end, log.offsets().durable_end);
    });
}

#[test]
fn recovery_finds_it_with_and_without_a_checkpoint_and_twice() {
    for checkpoint_at in 0..6 {
        Sim::new(2).run(async {
            let log = open().await;
            let mut entries = Vec::new();
            let mut record = None;
            for number in 0..6 {
                if number == checkpoint_at {
                    record = log.checkpoint().await.unwrap().map(|found| found.encode());
                }
                for _ in 0..number {
                    entries.extend(append(&log).await);
                }
                entries.extend(bypass_or_queue(&log, 8 + number).await);
                if number == 4 {
                    log.destage().await.unwrap();
                }
            }
            let (end, bytes) = (log.offsets().log_end, read_all(&log).await);
            let is_bypass = |entry: &Entry| matches!(entry.kind, EntryKind::Bypass { .. });
            let bypassed = entries.iter().filter(|entry| is_bypass(entry)).count();
            assert!((3..6).contains(&bypassed), "{bypassed} of 6");
            drop(log);
            for _ in 0..2 {
                let recovered = recover(&entries, record.clone()).await;
                assert_eq!(recovered.outcome.unwrap(), end);
                let log = open().await;
                assert_eq!(read_all(&log).await, bytes);
            }
        });
    }
}

#[test]
fn bytes_without_an_entry_are_cut_off() {
    for before in [0, 3] {
        let disk = SimDisk::new(3);
        let entries = Sim::with_disk(3, disk.clone()).run(async {
            let log = open().await;
            let mut entries = Vec::new();
            for _ in 0..before {
                entries.extend(append(&log).await);
            }
            log.start_bypass();
            for _ in 0..9 {
                append(&log).await;
            }
            log.bypass(4096, 1 << 20).await.unwrap().unwrap();
            entries
        });
        disk.crash(CrashMode::Lose);
        Sim::with_disk(4, disk).run(async {
            let recovered = recover(
                &entries,
                Some(super::checkpoint::LogCheckpoint::default().encode()),
            );
            let end = recovered.await.outcome.unwrap();
            assert_eq!(end, Offset::new(before * 10));
            let log = open().await;
            assert_eq!(log.offsets().log_end, end);
            assert_eq!(
                fs::file_len(log_path(0)).await.unwrap_or(0),
                log.size_bytes()
            );
        });
    }
}

#[test]
fn a_flipped_byte_takes_the_partition_offline_with_its_position() {
    for position in [0, 20, 5000, 8000] {
        Sim::new(5).run(async {
            let log = open().await;
            let entries = [bypass(&log, 9).await];
            drop(log);
            let mut bytes = fs::read(log_path(0)).await.unwrap();
            bytes[position] ^= 1;
            fs::write_atomic(log_path(0), bytes).await.unwrap();
            let error = recover(&entries, None).await.outcome.unwrap_err();
            let Error::Corrupt { path, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*path, log_path(0));
        });
    }
}

#[test]
fn a_missing_end_takes_the_partition_offline() {
    Sim::new(6).run(async {
        let log = open().await;
        let entries = [bypass(&log, 9).await];
        drop(log);
        fs::remove_file(log_path(0)).await.unwrap();
        let error = recover(&entries, None).await.outcome.unwrap_err();
        let is_short = matches!(
            error,
            Error::Corrupt {
                damage: Damage::Short { missing: 8192 },
                ..
            }
        );
        assert!(is_short, "{error}");
    });
}

#[test]
fn the_segment_stays_until_a_checkpoint_covers_it() {
    Sim::new(7).run(async {
        let log = open().await;
        let mut entries = vec![bypass(&log, 40).await];
        for _ in 0..40 {
            entries.extend(append(&log).await);
        }
        log.destage().await.unwrap();
        let start = Offset::new(600);
        entries.push(log.log_start_entry(start).unwrap().unwrap());
        log.advance_log_start(start);
        assert_eq!(log.delete_retired().await.unwrap(), 0);
        let end = log.offsets().log_end;
        let recovered = recover(&entries, None).await;
        assert_eq!(recovered.outcome.unwrap(), end);
        log.checkpoint().await.unwrap().unwrap();
        assert_eq!(log.delete_retired().await.unwrap(), 0, "it may be lost");
        log.on_checkpointed();
        assert!(log.delete_retired().await.unwrap() > 40_000);
    });
}

#[test]
fn a_log_start_says_nothing_about_batches_that_wait() {
    Sim::new(8).run(async {
        let log = open().await;
        append(&log).await;
        log.start_bypass();
        append(&log).await;
        let entry = log.log_start_entry(Offset::new(5)).unwrap().unwrap();
        assert_eq!(
            entry.next_offset,
            Offset::new(10),
            "whoever completes it goes by that"
        );
    });
}

#[test]
fn a_log_that_was_truncated_takes_the_journal() {
    Sim::new(9).run(async {
        let log = open().await;
        append(&log).await;
        append(&log).await;
        assert!(log.may_bypass());
        let plan = log.plan_truncation(Offset::new(10)).await.unwrap().unwrap();
        log.begin_truncation(&plan);
        log.truncate(&plan).await.unwrap();
        append(&log).await;
        assert!(!log.may_bypass());
    });
}

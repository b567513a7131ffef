//! Damage in sealed segments on the simulated disk: the scrub finds it, reads pass around it.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::BytesMut;

use super::context::{ContextLimits, LogContext};
use super::error::{Damage, Error};
use super::file_names::{FileKind, file_name};
use super::log::{Log, NewBatch};
use super::settings::LogSettings;
use super::verify::DamagedStretch;
use crate::journal::journal::Position;
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::offset::Offset;
use crate::model::record_batch::{check_crc, iter_batches};
use crate::rt::fs;
use crate::rt::sim::{DiskOp, Fault, Sim, SimDisk};

const DIR: &str = "/data/topics/orders-0";
const CHUNK_BYTES: usize = 4096;
/// Of how many bytes one is flipped. A prime: it meets every field in time.
const SAMPLE: usize = 29;

async fn open() -> Rc<Log> {
    let id = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0));
    let settings = LogSettings {
        segment_bytes: 20_000,
        index_interval_bytes: 1024,
        ..LogSettings::default()
    };
    let context = LogContext::new(ContextLimits {
        tail_bytes: 0,
        ..ContextLimits::default()
    });
    Log::open(&context, DIR, id, settings).await.unwrap()
}

/// Batches of three records in two epochs: several sealed segments and an open one.
async fn filled() -> Rc<Log> {
    let log = open().await;
    for number in 0..100 {
        if log.prepare().await.unwrap().is_some() {
            log.on_enqueued(Position(0));
        }
        let mut builder = BatchBuilder::new();
        for record in 0..3 {
            builder.push(1_000_000 + number * 3 + record, None, Some(&[b'v'; 200]));
        }
        let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).unwrap();
        let epoch = LeaderEpoch(if number < 40 { 2 } else { 5 });
        let appended = log.append(batch, epoch, 1000).unwrap();
        log.on_enqueued(Position(number.unsigned_abs()));
        log.on_durable(appended.next_offset);
        log.advance_high_watermark(appended.next_offset);
    }
    log.destage().await.unwrap();
    assert!(log.sealed_count() > 2, "{}", log.sealed_count());
    log
}

async fn go_on(_: u64) -> bool {
    true
}

async fn scrub(log: &Log) -> Vec<DamagedStretch> {
    let mut damaged = Vec::new();
    for base in log.sealed_bases() {
        let scrubbed = log.scrub(base, CHUNK_BYTES, &go_on).await.unwrap();
        damaged.extend(scrubbed.expect("nothing is deleted").damaged);
    }
    damaged
}

fn path(base: Offset, kind: FileKind) -> PathBuf {
    PathBuf::from(DIR).join(file_name(base, kind))
}

/// Reads to the end as a consumer does that passes over what it is refused. Offsets that came.
async fn read(log: &Log) -> Vec<i64> {
    let (mut offsets, mut next) = (Vec::new(), log.offsets().log_start);
    while next < log.offsets().high_watermark {
        let plan = match log.read(next, 3000, Offset::MAX, true).await {
            Ok(plan) => plan,
            Err(Error::Corrupt { .. }) => {
                next = next.next();
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let bytes = plan.into_bytes().await.unwrap();
        for batch in iter_batches(&bytes) {
            let (header, batch) = batch.unwrap();
            assert!(check_crc(batch), "a damaged batch is served");
            offsets.extend(header.base_offset.get()..header.next_offset().get());
            next = header.next_offset();
        }
    }
    offsets
}

fn life<T>(disk: &SimDisk, test: impl AsyncFnOnce() -> T) -> T {
    Sim::with_disk(1, disk.clone()).run(test())
}

/// A disk with a closed log, and the base of its second segment.
fn filled_and_closed() -> (SimDisk, Offset) {
    let disk = SimDisk::new(1);
    let base = life(&disk, async || {
        let log = filled().await;
        log.close().await.unwrap();
        log.sealed_bases()[1]
    });
    (disk, base)
}

#[test]
fn every_flipped_byte_of_a_sealed_segment_is_found_and_only_its_batch_is_not_served() {
    let disk = SimDisk::new(1);
    let base = life(&disk, async || {
        let log = filled().await;
        assert_eq!(scrub(&log).await, []);
        log.close().await.unwrap();
        log.sealed_bases()[1]
    });
    let whole = disk.peek(path(base, FileKind::Log)).unwrap();
    for at in (0..whole.len()).filter(|at| *at % SAMPLE == 0 || *at < 2 * 61) {
        let disk = disk.copy();
        let byte = whole[at] ^ (1 << (at % 8));
        let position = u64::try_from(at).unwrap();
        disk.poke(path(base, FileKind::Log), position, &[byte])
            .unwrap();
        life(&disk, async || {
            let log = open().await;
            let damaged = scrub(&log).await;
            let [one] = &damaged[..] else {
                panic!("byte {at}: {damaged:?}")
            };
            assert!(
                (one.position..one.end).contains(&position),
                "byte {at}: {one:?}"
            );
            assert!(log.is_damaged());
            let missing = i64::try_from(300 - read(&log).await.len()).unwrap();
            assert_eq!(missing, one.next.distance_from(one.from), "byte {at}");
            let first = base_timestamp(&whole, at);
            let found = log
                .offset_for_timestamp(first, Offset::MAX)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(found.offset, one.next, "byte {at}: the first that is left");
            let is_length = (8..12).contains(&(batch_position(&whole, at)));
            assert!(missing == 3 || is_length, "byte {at}: {missing} records");
        });
    }
}

/// Timestamp of the first record of the batch that a byte lies in.
fn base_timestamp(segment: &[u8], at: usize) -> i64 {
    let mut end = 0;
    for batch in iter_batches(segment) {
        let (header, batch) = batch.unwrap();
        end += batch.len();
        if at < end {
            return header.base_timestamp;
        }
    }
    panic!("byte {at} is behind the segment");
}

/// Place of a byte within its batch.
fn batch_position(segment: &[u8], at: usize) -> usize {
    let mut from = 0;
    for batch in iter_batches(segment) {
        let len = batch.unwrap().1.len();
        if at < from + len {
            break;
        }
        from += len;
    }
    at - from
}

#[test]
fn a_segment_that_is_cut_gone_or_has_holes_is_found() {
    Sim::new(1).run(async {
        let log = filled().await;
        let base = log.sealed_bases()[1];
        let next = log.sealed_bases()[2];
        let path = path(base, FileKind::Log);
        let whole = fs::read(&path).await.unwrap();
        let batch_bytes = iter_batches(&whole).next().unwrap().unwrap().1.len();
        fs::write_atomic(&path, &whole[..whole.len() - 10])
            .await
            .unwrap();
        let cut = scrub(&log).await;
        assert!(matches!(
            cut[..],
            [DamagedStretch {
                damage: Damage::Short { missing: 10 },
                ..
            }]
        ));
        let spliced = [&whole[..batch_bytes], &whole[2 * batch_bytes..]].concat();
        fs::write_atomic(&path, spliced).await.unwrap();
        let holed = scrub(&log).await;
        assert!(
            matches!(holed[0].damage, Damage::MissingRecords { .. }),
            "{holed:?}"
        );
        fs::remove_file(&path).await.unwrap();
        let gone = scrub(&log).await;
        assert_eq!((gone[0].from, gone[0].next), (base, next));
        assert_eq!(gone.len(), 1);
        fs::write_atomic(&path, whole).await.unwrap();
        assert_eq!(scrub(&log).await, []);
        assert!(!log.is_damaged());
        assert_eq!(read(&log).await.len(), 300, "a restored file is read again");
    });
}

#[test]
fn an_index_that_does_not_fit_is_derived_again() {
    Sim::new(1).run(async {
        let log = filled().await;
        let base = log.sealed_bases()[1];
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            let path = path(base, kind);
            let whole = fs::read(&path).await.unwrap();
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                fs::write_atomic(&path, flipped).await.unwrap();
                assert_eq!(scrub(&log).await, []);
                assert_eq!(fs::read(&path).await.unwrap(), whole, "{kind:?} byte {at}");
            }
            fs::remove_file(&path).await.unwrap();
            assert_eq!(scrub(&log).await, []);
            assert_eq!(fs::read(&path).await.unwrap(), whole, "{kind:?}");
        }
    });
}

#[test]
fn a_missing_index_of_a_damaged_segment_is_made_of_what_is_intact() {
    let (disk, base) = filled_and_closed();
    disk.poke(path(base, FileKind::Log), 5000, &[7]).unwrap();
    life(&disk, async || {
        let index = path(base, FileKind::OffsetIndex);
        fs::remove_file(&index).await.unwrap();
        let log = open().await;
        let damaged = scrub(&log).await;
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        assert!(!fs::read(&index).await.unwrap().is_empty());
        let left = i64::try_from(read(&log).await.len()).unwrap();
        assert_eq!(left, 300 - damaged[0].next.distance_from(damaged[0].from));
        assert_eq!(scrub(&log).await, damaged);
    });
}

#[test]
fn a_segment_deleted_meanwhile_is_left_and_its_damage_forgotten() {
    Sim::new(1).run(async {
        let log = filled().await;
        let [base, next, ..] = log.sealed_bases()[..] else {
            panic!("sealed segments")
        };
        let path = path(base, FileKind::Log);
        fs::remove_file(&path).await.unwrap();
        assert!(!scrub(&log).await.is_empty() && log.is_damaged());
        log.advance_log_start(next);
        assert!(!log.is_damaged());
        log.delete_retired().await.unwrap();
        assert!(
            log.scrub(base, CHUNK_BYTES, &go_on)
                .await
                .unwrap()
                .is_none()
        );
        let after = log.sealed_bases()[1];
        let chunks = std::cell::Cell::new(0);
        let delete = async |_| {
            chunks.set(chunks.get() + 1);
            log.advance_log_start(after);
            log.delete_retired().await.unwrap();
            true
        };
        assert!(
            log.scrub(next, CHUNK_BYTES, &delete)
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(chunks.get(), 1, "nothing is read behind the deletion");
    });
}

/// A stopped log, and a segment of it of which the disk does not read the second block `times`
/// times in each of so many passes.
fn unreadable(times: u64, passes: u64, error: std::io::ErrorKind) -> (SimDisk, Offset) {
    let (disk, base) = filled_and_closed();
    let path = path(base, FileKind::Log);
    let blocks = disk.peek(&path).unwrap().len().div_ceil(CHUNK_BYTES);
    for pass in 0..passes {
        disk.inject(Fault {
            path: path.display().to_string(),
            op: DiskOp::Read,
            // the block that fails is no read that succeeds
            skip: 1 + pass * u64::try_from(blocks - 1).unwrap(),
            times,
            error,
        });
    }
    (disk, base)
}

#[test]
fn what_the_disk_does_not_read_is_damage_and_is_read_around() {
    let (disk, _) = unreadable(2, 2, std::io::ErrorKind::Other);
    life(&disk, async || {
        let log = open().await;
        let damaged = scrub(&log).await;
        let [one] = damaged[..] else {
            panic!("{damaged:?}")
        };
        assert_eq!(one.damage, Damage::Unreadable);
        assert!(one.position <= 4096 && one.end >= 8192, "{one:?}");
        let missing = i64::try_from(300 - read(&log).await.len()).unwrap();
        assert_eq!(missing, one.next.distance_from(one.from));
        assert_eq!(scrub(&log).await, [], "the next pass could read it");
        assert_eq!(read(&log).await.len(), 300);
    });
}

#[test]
fn what_the_disk_reads_at_another_try_is_no_damage() {
    for times in [1, 2] {
        let (disk, _) = unreadable(times, 1, std::io::ErrorKind::Other);
        life(&disk, async || {
            let log = open().await;
            assert_eq!(scrub(&log).await, [], "{times} times");
            assert_eq!(read(&log).await.len(), 300);
        });
    }
}

#[test]
fn an_error_that_is_not_the_disks_is_no_damage_and_tried_again() {
    let (disk, base) = unreadable(1, 1, std::io::ErrorKind::OutOfMemory);
    life(&disk, async || {
        let log = open().await;
        let error = log.scrub(base, CHUNK_BYTES, &go_on).await.unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
        assert!(!log.is_damaged());
        assert_eq!(scrub(&log).await, []);
    });
}

#[test]
fn a_batch_that_claims_to_end_behind_its_segment_is_told_to_whoever_comes_first() {
    let (disk, base) = filled_and_closed();
    let path = path(base, FileKind::Log);
    let byte = disk.peek(&path).unwrap()[24];
    disk.poke(&path, 24, &[byte ^ 1]).unwrap();
    life(&disk, async || {
        let log = open().await;
        let end = log.offsets().log_end;
        let error = log.read(base, 3000, end, true).await.unwrap_err();
        let damage = match error {
            Error::Corrupt { damage, .. } => damage,
            error => panic!("{error}"),
        };
        assert!(matches!(damage, Damage::BeyondSegment { .. }), "{damage}");
    });
}

/// A batch as Kafka may have left it: its records, of which compaction took some or all, and the
/// offsets up to `last`.
fn kafka_batch(base: i64, last: i64, records: i32, epoch: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset::new(base))
        .leader_epoch(LeaderEpoch(epoch));
    for record in 0..i64::from(records.max(1)) {
        builder.push(5000 + base + record, Some(&[0, 0, 0, 1]), Some(&[0; 6]));
    }
    let mut batch = builder.build();
    if records == 0 {
        batch.truncate(61);
        batch[8..12].copy_from_slice(&49_i32.to_be_bytes());
        batch[57..61].copy_from_slice(&0_i32.to_be_bytes());
    }
    let delta = i32::try_from(last - base).unwrap();
    batch[23..27].copy_from_slice(&delta.to_be_bytes());
    signed(batch)
}

fn signed(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

#[test]
fn nothing_of_a_sound_log_of_kafka_is_damage() {
    Sim::new(1).run(async {
        let mut control = kafka_batch(30, 30, 1, 3);
        control[22] |= 0x20;
        let first = [
            kafka_batch(4, 9, 2, -1),
            kafka_batch(15, 20, 0, 3),
            signed(control),
            kafka_batch(40, 40, 1, -1),
        ];
        let second = [kafka_batch(120, 122, 3, 4), kafka_batch(130, 139, 1, 2)];
        fs::create_dir_all(DIR).await.unwrap();
        for (base, batches) in [(0, first.concat()), (100, second.concat())] {
            let path = path(Offset::new(base), FileKind::Log);
            fs::write_atomic(path, batches).await.unwrap();
        }
        fs::write_atomic(
            path(Offset::new(200), FileKind::Log),
            kafka_batch(200, 200, 1, 4),
        )
        .await
        .unwrap();
        let epochs = PathBuf::from(DIR).join("leader-epoch-checkpoint");
        fs::write_atomic(epochs, "0\n2\n1 0\n4 35\n").await.unwrap();
        let log = open().await;
        assert_eq!(log.sealed_count(), 2);
        for _ in 0..2 {
            assert_eq!(scrub(&log).await, []);
            let expected = [
                4..=9,
                15..=20,
                30..=30,
                40..=40,
                120..=122,
                130..=139,
                200..=200,
            ];
            let expected: Vec<i64> = expected.into_iter().flatten().collect();
            assert_eq!(read(&log).await, expected);
        }
    });
}

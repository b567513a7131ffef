//! Tests of the whole log on the simulated disk, without a journal: every append is declared
//! durable.

use std::path::Path;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::checkpoint;
use super::context::{ContextLimits, LogContext};
use super::error::{Damage, Error};
use super::file_names::{FileKind, file_name};
use super::log::{Log, NewBatch};
use super::producer_state::Verdict;
use super::read::ReadPart;
use super::recovery::{Recovery, RecoveryLimits};
use super::settings::LogSettings;
use crate::journal::entry::Entry;
use crate::journal::journal::Position;
use crate::model::batch_builder::BatchBuilder;
use crate::model::compression::Codec;
use crate::model::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use crate::model::offset::Offset;
use crate::model::record_batch::{BatchHeader, iter_batches};
use crate::rt::fs;
use crate::rt::sim::{Sim, SimDisk};

const DIR: &str = "/data/topics/orders-0";

fn partition() -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0))
}

fn context() -> Rc<LogContext> {
    LogContext::new(ContextLimits {
        destage_bytes: 16 << 10,
        ..ContextLimits::default()
    })
}

fn small_segments() -> LogSettings {
    LogSettings {
        segment_bytes: 40_000,
        ..LogSettings::default()
    }
}

async fn open(settings: LogSettings) -> Rc<Log> {
    Log::open(&context(), DIR, partition(), settings)
        .await
        .unwrap()
}

/// A batch of `count` records with timestamps from `timestamp` on and values of `size` bytes.
fn batch(count: i64, timestamp: i64, size: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for number in 0..count {
        builder.push(timestamp + number, None, Some(&vec![b'v'; size]));
    }
    builder
}

fn new_batch(builder: &BatchBuilder) -> NewBatch {
    NewBatch::own(BytesMut::from(&builder.build()[..])).unwrap()
}

/// Appends and declares it durable; returns the entries that the journal would hold.
async fn append(log: &Log, builder: &BatchBuilder) -> Vec<Entry> {
    let mut entries: Vec<Entry> = log.prepare().await.unwrap().into_iter().collect();
    if !entries.is_empty() {
        assert!(!log.is_prepared(), "until the journal has it");
        log.on_enqueued(Position(0));
    }
    let appended = log
        .append(new_batch(builder), LeaderEpoch(3), 1000)
        .unwrap();
    log.on_enqueued(Position(appended.next_offset.get().unsigned_abs()));
    log.on_durable(appended.next_offset);
    log.advance_high_watermark(appended.next_offset);
    entries.push(appended.entry);
    entries
}

/// Appends `count` batches of ten records, about 1.1 kB each.
async fn fill(log: &Log, count: i64) -> Vec<Entry> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let timestamp = 1_000_000 + log.offsets().log_end.get();
        entries.extend(append(log, &batch(10, timestamp, 100)).await);
    }
    entries
}

async fn read_all(log: &Log, from: i64) -> Bytes {
    let mut all = BytesMut::new();
    let mut next = Offset::new(from);
    loop {
        let plan = log.read(next, 10_000, Offset::MAX, true).await.unwrap();
        let bytes = plan.into_bytes().await.unwrap();
        let Some(last) = iter_batches(&bytes).last() else {
            return all.freeze();
        };
        next = last.unwrap().0.next_offset();
        all.extend_from_slice(&bytes);
    }
}

fn bases(bytes: &[u8]) -> Vec<i64> {
    iter_batches(bytes)
        .map(|next| next.unwrap().0.base_offset.get())
        .collect()
}

async fn names() -> Vec<String> {
    let entries = fs::read_dir(DIR).await.unwrap();
    entries
        .into_iter()
        .map(|entry| entry.name.into_string().unwrap())
        .collect()
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|found| found == extension)
}

fn log_path(base: i64) -> std::path::PathBuf {
    Path::new(DIR).join(file_name(Offset::new(base), FileKind::Log))
}

#[test]
fn appended_batches_are_read_from_memory_with_their_offsets_and_epoch() {
    Sim::new(1).run(async {
        let log = open(LogSettings::default()).await;
        fill(&log, 3).await;
        let plan = log
            .read(Offset::new(15), 1 << 20, Offset::MAX, true)
            .await
            .unwrap();
        assert!(
            plan.parts
                .iter()
                .all(|part| matches!(part, ReadPart::Memory(_)))
        );
        let bytes = plan.into_bytes().await.unwrap();
        assert_eq!(bases(&bytes), [10, 20]);
        let (header, _) = iter_batches(&bytes).next().unwrap().unwrap();
        assert_eq!(header.leader_epoch, LeaderEpoch(3));
        assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)));
        // the bound excludes a batch that crosses it; the end is empty; beyond is an error
        let plan = log
            .read(Offset::ZERO, 1 << 20, Offset::new(25), true)
            .await
            .unwrap();
        assert_eq!(bases(&plan.into_bytes().await.unwrap()), [0, 10]);
        assert!(
            log.read(Offset::new(30), 1 << 20, Offset::MAX, true)
                .await
                .unwrap()
                .is_empty()
        );
        let beyond = log.read(Offset::new(31), 1 << 20, Offset::MAX, true).await;
        assert!(matches!(beyond, Err(Error::OffsetOutOfRange { .. })));
        // KIP-74: one whole batch even if it is too large, unless the caller has something already
        assert_eq!(
            log.read(Offset::ZERO, 1, Offset::MAX, true)
                .await
                .unwrap()
                .parts
                .len(),
            1
        );
        assert!(
            log.read(Offset::ZERO, 1, Offset::MAX, false)
                .await
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn destaging_writes_whole_durable_blocks_only() {
    let sim = Sim::new(2);
    let disk = sim.disk();
    sim.run(async {
        let log = open(LogSettings::default()).await;
        fill(&log, 20).await;
        // appended but not durable
        let appended = log
            .append(new_batch(&batch(10, 1, 5000)), LeaderEpoch(3), 1000)
            .unwrap();
        log.on_enqueued(Position(99));
        let size = log.size_bytes();
        let done = log.destage().await.unwrap();
        let file = disk.peek(log_path(0)).unwrap();
        assert_eq!(done.written_bytes, file.len() as u64);
        assert_eq!(file.len() % 4096, 0);
        assert!(
            file.len() < 20 * 1200 && size > 50_000,
            "{} of {size}",
            file.len()
        );
        let offsets = log.offsets();
        assert!(offsets.destaged_end <= offsets.durable_end);
        assert_eq!(log.destage().await.unwrap().written_bytes, 0);
        log.on_durable(appended.next_offset);
        assert!(log.destageable_bytes() > 40_000);
        log.destage().await.unwrap();
        assert_eq!(
            bases(&read_all(&log, 0).await),
            (0..21).map(|n| n * 10).collect::<Vec<_>>()
        );
    });
}

#[test]
fn evicted_batches_are_read_from_the_open_segment_byte_for_byte() {
    Sim::new(3).run(async {
        let limits = ContextLimits {
            tail_bytes: 10_000,
            ..ContextLimits::default()
        };
        let context = LogContext::new(limits);
        let log = Log::open(&context, DIR, partition(), LogSettings::default())
            .await
            .unwrap();
        let entries = fill(&log, 60).await;
        log.destage().await.unwrap();
        assert!(
            log.tail
                .borrow()
                .first_offset()
                .is_none_or(|first| first > Offset::new(400))
        );
        assert!(context.tail_budget().used_bytes() < 10_000);
        let all: Vec<u8> = entries
            .into_iter()
            .flat_map(|entry| entry.payload.into_bytes().to_vec())
            .collect();
        assert_eq!(read_all(&log, 0).await, all);
        for offset in [0, 9, 10, 333, 595] {
            let plan = log
                .read(Offset::new(offset), 1, Offset::MAX, true)
                .await
                .unwrap();
            assert_eq!(
                bases(&plan.into_bytes().await.unwrap()),
                [offset / 10 * 10],
                "{offset}"
            );
        }
    });
}

#[test]
fn rolled_segments_are_sealed_to_exact_kafka_files() {
    let sim = Sim::new(4);
    let disk = sim.disk();
    sim.run(async {
        let log = open(small_segments()).await;
        let entries = fill(&log, 100).await;
        let done = log.destage().await.unwrap();
        assert_eq!((done.sealed_count, log.segment_count()), (2, 3));
        let second = entries
            .iter()
            .map(|entry| entry.segment_base)
            .max()
            .unwrap();
        let expected: Vec<u8> = entries
            .iter()
            .filter(|entry| entry.segment_base == Offset::ZERO)
            .flat_map(|entry| entry.payload.clone().into_bytes().to_vec())
            .collect();
        assert_eq!(disk.peek(log_path(0)).unwrap(), expected);
        let names = names().await;
        for kind in [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex] {
            assert!(names.contains(&file_name(Offset::ZERO, kind)), "{names:?}");
        }
        assert!(
            names.contains(&file_name(second, FileKind::Snapshot)),
            "{names:?}"
        );
        // sealed segments leave as file ranges that end at batch boundaries
        let plan = log
            .read(Offset::new(50), 20_000, Offset::MAX, true)
            .await
            .unwrap();
        assert!(matches!(plan.parts.as_slice(), [ReadPart::Memory(_), ..]));
        drop(log);
        let log = open(small_segments()).await;
        assert!(matches!(
            log.read(Offset::new(50), 20_000, Offset::MAX, true).await.unwrap().parts.as_slice(),
            [ReadPart::File { len, .. }] if *len <= 20_000 && *len > 15_000
        ));
    });
}

#[test]
fn sealed_segments_are_read_within_every_bound() {
    Sim::new(5).run(async {
        let log = open(small_segments()).await;
        fill(&log, 100).await;
        log.close().await.unwrap();
        let log = open(small_segments()).await;
        for (from, max, upper) in [
            (0, 5000, 1000),
            (123, 9000, 200),
            (340, 1 << 20, 1000),
            (5, 1, 1000),
            (77, 3000, 85),
        ] {
            let upper_bound = Offset::new(upper);
            let plan = log
                .read(Offset::new(from), max, upper_bound, true)
                .await
                .unwrap();
            let bytes = plan.into_bytes().await.unwrap();
            let found = bases(&bytes);
            if from / 10 * 10 + 10 > upper {
                assert_eq!(found, [0; 0]);
                continue;
            }
            assert_eq!(
                found.first(),
                Some(&(from / 10 * 10)),
                "{from} {max} {upper}"
            );
            assert!(
                found.len() == 1 || bytes.len() <= max,
                "{from} {max} {upper}"
            );
            assert!(
                found.iter().all(|base| base + 10 <= upper),
                "{from} {max} {upper}"
            );
            // nothing that fits is left out but what the index grain costs
            let is_full = bytes.len() + 4096 + 1200 + 1200 > max;
            let last = found.last().unwrap() + 10;
            let at_end = last + 10 > upper || log.segment_bases().contains(&last);
            assert!(is_full || at_end, "{from} {max} {upper}: {found:?}");
        }
        assert_eq!(bases(&read_all(&log, 0).await).len(), 100);
    });
}

#[test]
fn a_closed_log_opens_again_with_everything_it_knew() {
    Sim::new(6).run(async {
        let idempotent = |sequence| {
            let (id, epoch) = (ProducerId(5), ProducerEpoch(0));
            let mut builder = BatchBuilder::new().producer(id, epoch, sequence);
            builder.push(1000, Some(b"key"), Some(b"value"));
            builder
        };
        let log = open(small_segments()).await;
        fill(&log, 50).await;
        for sequence in 0..7 {
            append(&log, &idempotent(sequence)).await;
        }
        let offsets = log.offsets();
        let size = log.size_bytes();
        log.close().await.unwrap();
        let names_at_stop = names().await;
        let log = open(small_segments()).await;
        assert_eq!(log.offsets().log_end, offsets.log_end);
        assert_eq!((log.size_bytes(), log.segment_count()), (size, 2));
        assert_eq!(log.latest_epoch(), Some(LeaderEpoch(3)));
        let header = |sequence| BatchHeader::parse(&idempotent(sequence).build()).unwrap();
        for sequence in 2..7 {
            let verdict = log.check_producer(&header(sequence)).unwrap();
            let Verdict::Duplicate(found) = verdict else {
                panic!("{sequence}: {verdict:?}")
            };
            assert_eq!(found.last_offset, Offset::new(500 + i64::from(sequence)));
        }
        assert_eq!(log.check_producer(&header(7)), Ok(Verdict::Append));
        assert_eq!(log.checkpoint().await.unwrap(), None);
        // the last partial block goes into the journal before anything else
        let entries = append(&log, &idempotent(7)).await;
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].file_position % 4096, 0);
        assert_eq!(
            entries[0].file_position + entries[0].payload.len() as u64,
            entries[1].file_position
        );
        assert_eq!(bases(&read_all(&log, 0).await).len(), 58);
        log.close().await.unwrap();
        assert_eq!(
            names().await.len(),
            names_at_stop.len() + 1,
            "one more snapshot"
        );
        let log = open(small_segments()).await;
        assert_eq!(bases(&read_all(&log, 0).await).len(), 58);
    });
}

#[test]
fn a_directory_without_our_files_is_read_as_kafkas() {
    let sim = Sim::new(7);
    let disk = sim.disk();
    sim.run(async {
        let log = open(small_segments()).await;
        fill(&log, 100).await;
        let mut builder = BatchBuilder::new().producer(ProducerId(5), ProducerEpoch(0), 0);
        builder.push(1000, None, Some(b"value"));
        append(&log, &builder).await;
        let bytes = read_all(&log, 0).await;
        log.close().await.unwrap();
        let indexes = disk.peek(index_path(0)).unwrap();
        for name in names().await {
            let is_index = name.ends_with("index") || has_extension(&name, "snapshot");
            if is_index || name == checkpoint::FILE_NAME {
                fs::remove_file(Path::new(DIR).join(name)).await.unwrap();
            }
        }
        let log = open(small_segments()).await;
        assert_eq!(read_all(&log, 0).await, bytes);
        assert_eq!(
            disk.peek(index_path(0)).unwrap(),
            indexes,
            "built again, the same"
        );
        let header = BatchHeader::parse(&builder.build()).unwrap();
        assert!(matches!(
            log.check_producer(&header),
            Ok(Verdict::Duplicate(_))
        ));
        append(&log, &batch(1, 5, 5)).await;
        log.close().await.unwrap();
        assert_eq!(
            bases(&read_all(&*open(small_segments()).await, 0).await).len(),
            102
        );
    });
}

fn index_path(base: i64) -> std::path::PathBuf {
    Path::new(DIR).join(file_name(Offset::new(base), FileKind::OffsetIndex))
}

#[test]
fn a_torn_end_is_cut_off_and_damage_before_it_is_an_error() {
    let sim = Sim::new(8);
    let disk = sim.disk();
    sim.run(async {
        let log = open(LogSettings::default()).await;
        fill(&log, 30).await;
        log.close().await.unwrap();
        fs::remove_file(Path::new(DIR).join(checkpoint::FILE_NAME))
            .await
            .unwrap();
        let len = fs::file_len(log_path(0)).await.unwrap();
        disk.poke(log_path(0), len - 3, b"?").unwrap();
        let log = open(LogSettings::default()).await;
        assert_eq!(log.offsets().log_end, Offset::new(290));
        drop(log);
        fs::remove_file(Path::new(DIR).join(checkpoint::FILE_NAME))
            .await
            .unwrap();
        disk.poke(log_path(0), 5000, b"?").unwrap();
        let error = Log::open(&context(), DIR, partition(), LogSettings::default())
            .await
            .unwrap_err();
        let Error::Corrupt {
            path,
            position,
            damage,
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (path.as_path(), *damage),
            (log_path(0).as_path(), Damage::Checksum)
        );
        assert!((3700..5000).contains(position), "{error}");
    });
}

#[test]
fn a_directory_of_another_topic_and_a_shortened_file_are_refused() {
    let sim = Sim::new(9);
    sim.run(async {
        let log = open(LogSettings::default()).await;
        fill(&log, 5).await;
        log.close().await.unwrap();
        let other = TopicPartition::new(TopicId::from_bytes([8; 16]), PartitionIndex(0));
        let error = Log::open(&context(), DIR, other, LogSettings::default())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::ForeignTopic { .. }), "{error}");
        super::writes::write_end(&log_path(0), 0, b"short".to_vec())
            .await
            .unwrap();
        let error = Log::open(&context(), DIR, partition(), LogSettings::default())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Corrupt {
                    damage: Damage::Short { .. },
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn offsets_by_time_are_exact_to_the_record_wherever_it_is() {
    Sim::new(10).run(async {
        let log = open(small_segments()).await;
        for number in 0..120_i64 {
            let codec = if number % 2 == 0 {
                Codec::None
            } else {
                Codec::Lz4
            };
            append(&log, &batch(10, number * 100, 100).codec(codec)).await;
        }
        let check = async |log: &Log| {
            for wanted in [-5, 0, 1, 105, 110, 3009, 3010, 5550, 11_905, 11_909] {
                let found = log
                    .offset_for_timestamp(wanted, Offset::MAX)
                    .await
                    .unwrap()
                    .unwrap();
                let expected = (0..1200).map(|offset| (offset / 10 * 100 + offset % 10, offset));
                let expected = expected
                    .into_iter()
                    .find(|(timestamp, _)| *timestamp >= wanted);
                assert_eq!(
                    Some((found.timestamp, found.offset.get())),
                    expected,
                    "{wanted}"
                );
            }
            assert_eq!(
                log.offset_for_timestamp(11_910, Offset::MAX).await.unwrap(),
                None
            );
            let max = log.max_timestamp(Offset::MAX).await.unwrap().unwrap();
            assert_eq!((max.timestamp, max.offset), (11_909, Offset::new(1199)));
        };
        check(&log).await;
        log.destage().await.unwrap();
        check(&log).await;
        log.close().await.unwrap();
        check(&*open(small_segments()).await).await;
    });
}

#[test]
fn the_log_start_advances_and_whole_segments_are_unlinked() {
    Sim::new(11).run(async {
        let log = open(small_segments()).await;
        fill(&log, 100).await;
        log.destage().await.unwrap();
        let pinned = log
            .read(Offset::ZERO, 1 << 20, Offset::MAX, true)
            .await
            .unwrap();
        assert!(log.log_start_entry(Offset::new(1001)).is_err());
        let entry = log.log_start_entry(Offset::new(405)).unwrap().unwrap();
        assert_eq!(entry.base_offset, Offset::new(405));
        log.advance_log_start(Offset::new(405));
        assert!(log.has_retired());
        assert!(log.delete_retired().await.unwrap() > 30_000);
        assert!(
            !names()
                .await
                .contains(&file_name(Offset::ZERO, FileKind::Log))
        );
        let error = log
            .read(Offset::new(404), 100, Offset::MAX, true)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::OffsetOutOfRange { .. }));
        assert_eq!(bases(&read_all(&log, 405).await)[0], 400);
        assert!(!bases(&pinned.into_bytes().await.unwrap()).is_empty());
        log.close().await.unwrap();
        let log = open(small_segments()).await;
        assert_eq!(log.offsets().log_start, Offset::new(405));
        assert!(log.log_start_entry(Offset::new(405)).unwrap().is_none());
    });
}

#[test]
fn retention_rolls_and_removes_what_is_old() {
    Sim::new(12).run(async {
        let settings = LogSettings {
            retention_ms: Some(1000),
            ..small_segments()
        };
        let log = open(settings).await;
        fill(&log, 100).await;
        log.close().await.unwrap();
        let log = open(settings).await;
        // record n has timestamp 1,000,000 + n
        assert_eq!(log.retention_start(1_001_000).await.unwrap(), None);
        let start = log.retention_start(1_001_900).await.unwrap().unwrap();
        assert!(log.segment_bases().contains(&start.get()) && start < Offset::new(1000));
        let all = log.retention_start(1_003_000).await.unwrap();
        assert_eq!(all, Some(Offset::new(1000)));
        log.prepare().await.unwrap();
        log.advance_log_start(Offset::new(1000));
        log.destage().await.unwrap();
        log.delete_retired().await.unwrap();
        assert_eq!((log.segment_count(), log.size_bytes()), (1, 0));
        append(&log, &batch(1, 1, 1)).await;
        log.close().await.unwrap();
        assert_eq!(bases(&read_all(&*open(settings).await, 1000).await), [1000]);
    });
}

#[test]
fn truncation_in_memory_and_in_files_leaves_a_log_that_goes_on() {
    Sim::new(13).run(async {
        for (destages, cut) in [(false, 955), (true, 955), (true, 333), (true, 20)] {
            fs::remove_dir_all(DIR).await.ok();
            let log = open(small_segments()).await;
            fill(&log, 100).await;
            if destages {
                log.destage().await.unwrap();
            }
            let plan = log
                .plan_truncation(Offset::new(cut))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(plan.next_offset.get(), cut / 10 * 10);
            log.begin_truncation(&plan);
            log.truncate(&plan).await.unwrap();
            assert_eq!(log.offsets().log_end, plan.next_offset);
            append(&log, &batch(7, 1, 300)).await;
            let expected: Vec<i64> = (0..=cut / 10).map(|number| number * 10).collect();
            assert_eq!(bases(&read_all(&log, 0).await), expected);
            log.close().await.unwrap();
            let log = open(small_segments()).await;
            assert_eq!(bases(&read_all(&log, 0).await), expected);
            assert_eq!(log.offsets().log_end.get(), cut / 10 * 10 + 7);
        }
    });
}

/// Replays entries into the directory and opens the log.
async fn recover(entries: &[Entry], record: Option<Vec<u8>>) -> Rc<Log> {
    let mut recovery = Recovery::new(
        "/data",
        RecoveryLimits {
            memory_bytes: 5000,
            open_partitions: 1,
        },
    );
    recovery.add(partition(), DIR, small_segments());
    if let Some(record) = record {
        recovery.set_record(partition(), &record).unwrap();
    }
    for entry in entries {
        recovery.apply(entry.clone()).await.unwrap();
    }
    for recovered in recovery.finish().await.unwrap() {
        recovered.outcome.unwrap();
    }
    open(small_segments()).await
}

#[test]
fn recovery_brings_back_everything_from_any_checkpoint_and_twice() {
    for destage_at in [0, 10, 35, 60, 99] {
        let sim = Sim::new(14);
        sim.run(async {
            let log = open(small_segments()).await;
            let mut entries = fill(&log, 5).await;
            log.close().await.unwrap();
            entries.clear();
            let log = open(small_segments()).await;
            let mut record = None;
            for number in 0..100 {
                entries.extend(fill(&log, 1).await);
                if number == destage_at {
                    log.destage().await.unwrap();
                    record = Some(log.checkpoint().await.unwrap().unwrap().encode());
                }
            }
            log.destage().await.unwrap();
            let bytes = read_all(&log, 0).await;
            let entry = log.log_start_entry(Offset::new(15)).unwrap().unwrap();
            entries.push(entry);
            drop(log);
            for _ in 0..2 {
                let log = recover(&entries, record.clone()).await;
                assert_eq!(log.offsets().log_start, Offset::new(15));
                assert_eq!(log.offsets().log_end, Offset::new(1050));
                assert_eq!(read_all(&log, 15).await, bytes.slice(bytes.len() / 105..));
                assert!(!names().await.iter().any(|name| has_extension(name, "tmp")));
            }
        });
    }
}

/// Cuts the log; the entry that the journal would hold.
async fn truncate(log: &Log, to: i64) -> Entry {
    let plan = log.plan_truncation(Offset::new(to)).await.unwrap().unwrap();
    let entry = log.begin_truncation(&plan);
    log.truncate(&plan).await.unwrap();
    entry
}

#[test]
fn recovery_repeats_a_truncation_that_removed_the_segment_it_starts_from() {
    for has_record in [false, true] {
        Sim::new(18).run(async {
            let log = open(small_segments()).await;
            fill(&log, 3).await;
            log.roll(1);
            fill(&log, 1).await;
            log.close().await.unwrap();
            let log = open(small_segments()).await;
            log.roll(1); // the segment at 30, smaller than a block, is complete
            let mut entries = fill(&log, 1).await;
            let mut record = None;
            if has_record {
                record = Some(log.checkpoint().await.unwrap().unwrap().encode());
            }
            entries.push(truncate(&log, 20).await);
            drop(log);
            let log = recover(&entries, record).await;
            assert_eq!(log.offsets().log_end, Offset::new(20));
            assert_eq!(bases(&read_all(&log, 0).await), [0, 10]);
        });
    }
}

#[test]
fn a_segment_that_was_truncated_to_nothing_stays_empty_in_recovery() {
    Sim::new(19).run(async {
        let log = open(small_segments()).await;
        fill(&log, 3).await;
        log.roll(1);
        log.destage().await.unwrap();
        let mut entries = fill(&log, 2).await;
        entries.push(truncate(&log, 30).await);
        let record = log.checkpoint().await.unwrap().unwrap().encode();
        drop(log);
        let log = recover(&entries, Some(record)).await;
        assert_eq!(log.offsets().log_end, Offset::new(30));
        assert_eq!(bases(&read_all(&log, 0).await), [0, 10, 20]);
    });
}

#[test]
fn recovery_repeats_a_truncation_though_a_later_one_made_room_for_other_batches() {
    Sim::new(20).run(async {
        let log = open(small_segments()).await;
        let mut entries = fill(&log, 10).await;
        log.destage().await.unwrap();
        entries.push(truncate(&log, 90).await);
        let record = log.checkpoint().await.unwrap().unwrap();
        entries.push(truncate(&log, record.next_offset.get()).await);
        for number in 0..9 {
            let other = batch(3, 2_000_000 + number, 900);
            entries.extend(append(&log, &other).await);
        }
        log.destage().await.unwrap();
        let (end, bytes) = (log.offsets().log_end, read_all(&log, 0).await);
        drop(log);
        let log = recover(&entries, Some(record.encode())).await;
        assert_eq!(log.offsets().log_end, end);
        assert_eq!(read_all(&log, 0).await, bytes);
    });
}

#[test]
fn a_directory_opens_whose_creation_and_the_start_behind_it_were_cut_off() {
    Sim::new(23).run(async {
        fs::create_dir_all(DIR).await.unwrap();
        for name in ["partition.metadata", "partition.metadata.tmp"] {
            let cut_off = std::path::Path::new(DIR).join(name);
            fs::write_new(&cut_off, Vec::new()).await.unwrap();
        }
        let log = open(small_segments()).await;
        fill(&log, 1).await;
        assert!(!names().await.iter().any(|name| has_extension(name, "tmp")));
    });
}

#[test]
fn the_segment_of_a_truncation_stays_until_a_checkpoint_has_it() {
    Sim::new(21).run(async {
        let log = open(small_segments()).await;
        fill(&log, 3).await;
        log.close().await.unwrap();
        let log = open(small_segments()).await;
        let mut entries = vec![truncate(&log, 20).await];
        entries.extend(fill(&log, 60).await);
        log.destage().await.unwrap();
        let start = Offset::new(600);
        entries.push(log.log_start_entry(start).unwrap().unwrap());
        log.advance_log_start(start);
        assert_eq!(log.delete_retired().await.unwrap(), 0);
        let (end, bytes) = (log.offsets().log_end, read_all(&log, 600).await);
        drop(log);
        let log = recover(&entries, None).await;
        assert_eq!(log.offsets().log_end, end);
        assert_eq!(read_all(&log, 600).await, bytes);

        truncate(&log, 610).await;
        log.advance_log_start(Offset::new(605));
        log.checkpoint().await.unwrap().unwrap();
        assert_eq!(log.delete_retired().await.unwrap(), 0, "it may be lost");
        log.on_checkpointed();
        assert!(log.delete_retired().await.unwrap() > 30_000);
    });
}

/// The checkpoint stands inside a batch, and what was carried goes on behind its header: without
/// the file nothing could join it, and the partition stayed offline.
#[test]
fn the_segment_inside_a_batch_of_which_the_checkpoint_stands_stays_until_the_next() {
    Sim::new(28).run(async {
        let log = open(small_segments()).await;
        fill(&log, 5).await;
        log.destage().await.unwrap();
        let found = log.checkpoint().await.unwrap().unwrap();
        assert!(found.destaged_position > found.end_position, "{found:?}");
        log.on_checkpointed();
        let mut entries = vec![log.carry(64 << 10).unwrap()];
        log.on_carried(Position(6));
        entries.extend(fill(&log, 80).await);
        log.destage().await.unwrap();
        let start = Offset::new(700);
        entries.push(log.log_start_entry(start).unwrap().unwrap());
        log.advance_log_start(start);
        assert_eq!(log.delete_retired().await.unwrap(), 0);
        let (end, bytes) = (log.offsets().log_end, read_all(&log, 700).await);
        log.checkpoint().await.unwrap().unwrap();
        assert_eq!(log.delete_retired().await.unwrap(), 0, "it may be lost");
        drop(log);
        let log = recover(&entries, Some(found.encode())).await;
        assert_eq!(log.offsets().log_end, end);
        assert_eq!(read_all(&log, 700).await, bytes);
    });
}

#[test]
fn a_truncation_is_repeated_though_the_segment_that_recovery_begins_with_is_gone() {
    Sim::new(22).run(async {
        let log = open(small_segments()).await;
        fill(&log, 3).await;
        log.close().await.unwrap();
        let log = open(small_segments()).await;
        let mut entries = fill(&log, 100).await;
        log.destage().await.unwrap();
        let start = Offset::new(600);
        entries.push(log.log_start_entry(start).unwrap().unwrap());
        log.advance_log_start(start);
        assert!(log.delete_retired().await.unwrap() > 0);
        for to in [1010, 1020] {
            entries.push(truncate(&log, to).await);
            entries.extend(fill(&log, 2).await);
        }
        let (end, bytes) = (log.offsets().log_end, read_all(&log, 600).await);
        drop(log);
        let log = recover(&entries, None).await;
        assert_eq!(log.offsets().log_end, end);
        assert_eq!(read_all(&log, 600).await, bytes);
    });
}

#[test]
fn a_recovery_is_repeated_that_left_the_name_of_its_second_segment_only() {
    Sim::new(23).run(async {
        let log = open(small_segments()).await;
        let entries = fill(&log, 50).await;
        let (bytes, second) = (read_all(&log, 0).await, log.segment_bases()[1]);
        drop(log);
        fs::write_new(log_path(second), vec![]).await.unwrap();
        let record = checkpoint::LogCheckpoint::default().encode();
        let log = recover(&entries, Some(record)).await;
        assert_eq!(read_all(&log, 0).await, bytes);
    });
}

#[test]
fn a_log_start_removes_no_segment_of_a_log_whose_state_is_gone() {
    Sim::new(24).run(async {
        let log = open(small_segments()).await;
        fill(&log, 100).await;
        let bytes = read_all(&log, 0).await;
        log.close().await.unwrap();
        let entry = log.log_start_entry(Offset::new(5)).unwrap().unwrap();
        drop(log);
        fs::remove_file(Path::new(DIR).join(checkpoint::FILE_NAME))
            .await
            .unwrap();
        let log = recover(&[entry], None).await;
        assert_eq!(log.offsets().log_end, Offset::new(1000));
        assert_eq!(read_all(&log, 0).await, bytes);
    });
}

#[test]
fn entries_that_do_not_join_take_only_their_partition_offline() {
    Sim::new(15).run(async {
        let log = open(small_segments()).await;
        let entries = fill(&log, 10).await;
        drop(log);
        let mut recovery = Recovery::new("/data", RecoveryLimits::default());
        recovery.add(partition(), DIR, small_segments());
        let other = TopicPartition::new(TopicId::from_bytes([9; 16]), PartitionIndex(0));
        recovery.add(other, "/data/topics/other-0", small_segments());
        for (number, entry) in entries.iter().enumerate() {
            let mut copy = entry.clone();
            copy.topic_partition = other;
            recovery.apply(copy).await.unwrap();
            if number != 4 {
                recovery.apply(entry.clone()).await.unwrap();
            }
        }
        let mut stranger = entries[0].clone();
        stranger.topic_partition.partition = PartitionIndex(77);
        let error = recovery.apply(stranger).await.unwrap_err();
        assert!(matches!(error, Error::UnknownPartition { .. }));
        for recovered in recovery.finish().await.unwrap() {
            if recovered.topic_partition == other {
                assert_eq!(recovered.outcome.unwrap(), Offset::new(100));
            } else {
                let error = recovered.outcome.unwrap_err();
                let is_gap = matches!(
                    error,
                    Error::Corrupt {
                        damage: Damage::Gap { .. },
                        ..
                    }
                );
                assert!(is_gap, "{error}");
            }
        }
    });
}

#[test]
fn a_full_disk_stops_destaging_until_there_is_room() {
    let disk = SimDisk::new(16);
    Sim::with_disk(16, disk.clone()).run(async {
        let log = open(LogSettings::default()).await;
        fill(&log, 60).await;
        disk.set_capacity(Some(20_000));
        let error = log.destage().await.unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        fill(&log, 1).await;
        disk.set_capacity(None);
        log.destage().await.unwrap();
        assert_eq!(bases(&read_all(&log, 0).await).len(), 61);
        assert!(log.failure().is_none());
        log.close().await.unwrap();
        assert_eq!(
            bases(&read_all(&*open(LogSettings::default()).await, 0).await).len(),
            61
        );
    });
}

#[test]
fn small_batches_do_not_keep_large_frames_in_memory() {
    Sim::new(17).run(async {
        let context = context();
        let log = Log::open(&context, DIR, partition(), LogSettings::default())
            .await
            .unwrap();
        log.prepare().await.unwrap();
        let bytes = batch(1, 1, 100).build();
        let mut frame = BytesMut::zeroed(1 << 20);
        frame[..bytes.len()].copy_from_slice(&bytes);
        let small = frame.split_to(bytes.len());
        let header = BatchHeader::parse(&small).unwrap();
        let new = NewBatch {
            bytes: small,
            header,
            held_bytes: 1 << 20,
        };
        log.append(new, LeaderEpoch(0), 1).unwrap();
        assert!(context.tail_budget().used_bytes() < 1000);
    });
}

/// What these stories see of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_story_notices;

    #[test]
    fn a_batch_whose_checksum_is_not_looked_at_is_noticed() {
        assert_story_notices(
            Break::CrcUnchecked,
            a_torn_end_is_cut_off_and_damage_before_it_is_an_error,
        );
    }

    #[test]
    fn a_segment_write_that_lacked_space_and_counts_is_noticed() {
        assert_story_notices(
            Break::EnospcSwallowed,
            a_full_disk_stops_destaging_until_there_is_room,
        );
    }
}

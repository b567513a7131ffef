//! A whole shard on a simulated disk that is full, or fails: what is refused, what goes on, and
//! what ends it.

mod sim_shard;

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use corelog::cluster::controller::NewTopic;
use corelog::cluster::metadata_log::MetadataLog;
use corelog::config::BrokerConfig;
use corelog::config::layers::{Settings, Source};
use corelog::config::machine::resolve;
use corelog::group::requests::{CommitRequest, GroupReply, GroupRequest, OffsetToCommit};
use corelog::log::log::NewBatch;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::error_code::ErrorCode;
use corelog::model::ids::{ShardId, TopicPartition};
use corelog::model::offset::Offset;
use corelog::model::record_batch::iter_batches;
use corelog::partition::error::Error;
use corelog::partition::reads::FetchPart;
use corelog::rt::fs;
use corelog::rt::sim::{CrashMode, DiskOp, Fault, SimDisk};
use corelog::rt::{now, sleep, timeout};
use corelog::shard::calls::AppendPart;
use corelog::shard::lifecycle::Running;
use corelog::shard::recovery;
use corelog::shard::reserve::{MARGIN_BYTES, RESERVE_BYTES};
use corelog::shard::shard::{Process, Shard};
use sim_shard::{facts, life};

const BATCH_BYTES: usize = 100_000;
/// An answer that comes later than this was not given at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// A full disk ends within this of the return of space.
const END_LIMIT: Duration = Duration::from_secs(5);

fn config() -> BrokerConfig {
    let mut settings = Settings::default();
    for (name, value) in [
        ("data.dir", "/data"),
        ("log.segment.bytes", "4194304"),
        ("journal.size", "32MiB"),
        ("memory.per.shard", "64MiB"),
        ("offsets.topic.num.partitions", "1"),
    ] {
        settings
            .set(name, value, Source::Flag, "test")
            .expect("a setting");
    }
    BrokerConfig::new(settings).expect("valid")
}

/// Brings the directory to rest and starts the one shard.
async fn start() -> (Rc<Shard>, Running) {
    fs::create_dir_all("/data").await.expect("makes");
    fs::sync_dir("/").await.expect("flushes");
    let settings = resolve(&config(), &facts()).expect("enough of everything");
    let mut recovered = recovery::run(&config(), &settings, 1).await.expect("rests");
    assert!(recovered.offline.is_empty(), "{:?}", recovered.offline);
    let process = Arc::new(Process {
        cluster_id: recovered.identity.cluster_id,
        data_dir: "/data".into(),
        config: config(),
        settings,
        shard_count: 1,
        offline: recovered.offline,
        set_aside: recovered.set_aside,
    });
    let metadata = MetadataLog::open(&process.data_dir.join("metadata"), true).await;
    let (log, image) = metadata.expect("opens");
    let retired = recovered.journals.remove(0);
    let shard = Shard::open(ShardId(0), &process, &Arc::new(image), retired, Some(log)).await;
    let shard = shard.expect("opens");
    let running = shard.start(Vec::new());
    (shard, running)
}

async fn create(shard: &Rc<Shard>, name: &str) -> Result<TopicPartition, ErrorCode> {
    let new = NewTopic {
        name: name.to_owned(),
        partition_count: 1,
        replication_factor: 1,
        ..NewTopic::default()
    };
    let mut created = shard.create_topics(vec![new], false).await;
    let topic = created.pop().expect("one outcome");
    let topic = topic.map_err(|refusal| refusal.code)?;
    Ok(topic.partition(0).expect("one partition"))
}

/// Appends one batch of one record that says which it is; its offset.
async fn produce(shard: &Rc<Shard>, to: TopicPartition, number: i64) -> Result<Offset, Error> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(BATCH_BYTES, 0);
    let mut builder = BatchBuilder::new();
    builder.push(1_000, None, Some(&value));
    let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch");
    let part = AppendPart {
        partition: to,
        batch,
        log_append_time_ms: -1,
    };
    let appended = shard.append(vec![part]).await.outcomes();
    let outcome = timeout(AT_ONCE, appended).await.expect("answered at once");
    Ok(outcome[0].clone()?.base_offset)
}

/// Appends until it is refused: how many were acknowledged, and how the next was refused.
async fn produce_until_refused(
    shard: &Rc<Shard>,
    to: TopicPartition,
    from: i64,
    count: i64,
) -> (i64, Option<Error>) {
    for number in from..from + count {
        match produce(shard, to, number).await {
            Ok(offset) => assert_eq!(offset.get(), number),
            Err(error) => return (number, Some(error)),
        }
    }
    (from + count, None)
}

/// The batch at an offset is the one that was appended there.
async fn check_batch(shard: &Rc<Shard>, from: TopicPartition, offset: i64) {
    let part = FetchPart {
        partition: from,
        fetch_offset: Offset::new(offset),
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        size_bytes_max: 1,
        must_progress: true,
    };
    let fetched = shard.read(vec![part]).await.remove(0).expect("reads");
    let bytes = fetched.plan.into_bytes().await.expect("reads");
    let (header, batch) = iter_batches(&bytes).next().expect("one").expect("whole");
    assert_eq!(header.base_offset.get(), offset);
    let expected = offset.to_be_bytes();
    assert!(
        batch.windows(8).any(|window| window == expected),
        "{offset}"
    );
}

async fn commit(shard: &Rc<Shard>, topic: &str, offset: i64) -> ErrorCode {
    let request = CommitRequest {
        group_id: "readers".to_owned(),
        generation_id: -1,
        member_id: String::new(),
        group_instance_id: None,
        retention_time_ms: None,
        topics: vec![(
            topic.to_owned(),
            vec![OffsetToCommit {
                partition: 0,
                offset,
                leader_epoch: -1,
                metadata: String::new(),
            }],
        )],
    };
    let reply = timeout(AT_ONCE, shard.group(GroupRequest::Commit(request))).await;
    match reply.expect("answered at once") {
        Some(GroupReply::Commit(response)) => response.topics[0].1[0].1,
        other => panic!("{other:?}"),
    }
}

/// The first commit makes the topic of the coordinator, which is loaded then.
async fn commit_first(shard: &Rc<Shard>) {
    while commit(shard, "orders", 0).await == ErrorCode::CoordinatorLoadInProgress {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(commit(shard, "orders", 0).await, ErrorCode::None);
}

async fn complaint(shard: &Rc<Shard>) -> String {
    shard.health().await.complaints.join("\n")
}

async fn is_shown_full(shard: &Rc<Shard>) -> bool {
    let text = shard.metrics_text().await;
    text.contains("corelog_disk_full{shard=\"total\"} 1")
        || text.contains("corelog_disk_full{shard=\"0\"} 1")
}

async fn wait_until_healthy(shard: &Rc<Shard>) {
    let deadline = now() + END_LIMIT;
    while !complaint(shard).await.is_empty() {
        assert!(now() < deadline, "{}", complaint(shard).await);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!is_shown_full(shard).await);
}

/// Leaves `bytes` of the disk free.
async fn fill_disk(disk: &SimDisk, bytes: u64) {
    disk.set_capacity(Some(1 << 40));
    let used = (1 << 40) - fs::free_space("/data").await.expect("known");
    disk.set_capacity(Some(used + bytes));
}

fn fault(op: DiskOp, path: &str, error: ErrorKind) -> Fault {
    Fault {
        op,
        path: path.to_owned(),
        error,
        skip: 0,
        times: u64::MAX,
    }
}

/// Everything that a full disk does not keep from being done.
async fn check_what_goes_on(shard: &Rc<Shard>, orders: TopicPartition, last: i64) {
    assert!(
        complaint(shard)
            .await
            .starts_with("shard 0: the disk is full: ")
    );
    assert!(is_shown_full(shard).await);
    check_batch(shard, orders, 0).await;
    check_batch(shard, orders, last).await;
    for offset in 1..20 {
        assert_eq!(commit(shard, "orders", offset).await, ErrorCode::None);
    }
    let moved = shard.delete_records(vec![(orders, 2)]).await.remove(0);
    assert_eq!(moved.expect("moves").get(), 2);
    let made = create(shard, "made-meanwhile").await.expect("creates");
    let deleted = shard.delete_topics(vec![made.topic]).await.remove(0);
    deleted.expect("deletes");
}

#[test]
fn a_full_disk_refuses_produce_at_once_and_ends_by_itself() {
    for seed in 1..4 {
        let disk = SimDisk::new(seed);
        let (orders, acknowledged) = life(&disk, seed, async {
            let (shard, _running) = start().await;
            let orders = create(&shard, "orders").await.expect("creates");
            commit_first(&shard).await;
            fill_disk(&disk, 3 << 20).await;
            // more than the ring and the free disk hold together: it is refused long before
            let (next, refusal) = produce_until_refused(&shard, orders, 0, 500).await;
            assert_eq!(refusal, Some(Error::DiskFull), "seed {seed}");
            assert!(next > 0, "seed {seed}");
            sleep(Duration::from_secs(30)).await;
            assert_eq!(produce(&shard, orders, next).await, Err(Error::DiskFull));
            check_what_goes_on(&shard, orders, next - 1).await;
            disk.set_capacity(None);
            wait_until_healthy(&shard).await;
            // more than a ring: it is freed again
            let (next, refusal) = produce_until_refused(&shard, orders, next, 500).await;
            assert_eq!(refusal, None, "seed {seed}");
            (orders, next)
        });
        disk.crash(CrashMode::Lose);
        life(&disk, seed + 10, async {
            let (shard, _running) = start().await;
            for offset in 2..acknowledged {
                check_batch(&shard, orders, offset).await;
            }
            assert_eq!(
                produce(&shard, orders, acknowledged).await.unwrap().get(),
                acknowledged
            );
        });
    }
}

#[test]
fn a_checkpoint_without_space_refuses_produce_though_segments_have_theirs() {
    let disk = SimDisk::new(1);
    life(&disk, 1, async {
        let (shard, _running) = start().await;
        let orders = create(&shard, "orders").await.expect("creates");
        commit_first(&shard).await;
        let full = ErrorKind::StorageFull;
        disk.inject(fault(DiskOp::Write, "checkpoint.tmp", full));
        let (next, refusal) = produce_until_refused(&shard, orders, 0, 1_000).await;
        assert_eq!(refusal, Some(Error::DiskFull));
        sleep(Duration::from_secs(30)).await;
        assert!(
            is_shown_full(&shard).await,
            "segments take writes, which is not enough"
        );
        check_what_goes_on(&shard, orders, next - 1).await;
        disk.clear_faults();
        wait_until_healthy(&shard).await;
        let (_, refusal) = produce_until_refused(&shard, orders, next, 1_000).await;
        assert_eq!(refusal, None);
    });
}

#[test]
fn who_waits_for_room_in_the_ring_is_refused_as_the_disk_is_found_full() {
    let disk = SimDisk::new(1);
    life(&disk, 1, async {
        let (shard, _running) = start().await;
        let orders = create(&shard, "orders").await.expect("creates");
        fill_disk(&disk, 1 << 20).await;
        let mut waiting = Vec::new();
        for number in 0..600_i64 {
            let mut builder = BatchBuilder::new();
            builder.push(number, None, Some(&vec![0; BATCH_BYTES]));
            let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch");
            let part = AppendPart {
                partition: orders,
                batch,
                log_append_time_ms: -1,
            };
            waiting.push(shard.append(vec![part]).await);
        }
        let mut refused = 0;
        for appended in waiting {
            let outcome = timeout(Duration::from_secs(15), appended.outcomes()).await;
            match &outcome.expect("answered")[0] {
                Ok(_) => assert_eq!(refused, 0, "in order"),
                Err(error) => {
                    assert_eq!(*error, Error::DiskFull);
                    refused += 1;
                }
            }
        }
        assert!(refused > 100, "{refused}");
    });
}

#[test]
fn the_reserve_lets_checkpoints_and_deletions_through_on_a_disk_without_a_free_byte() {
    // others may be about to give the reserve up, or to write, at the same time
    for seed in 1..=8 {
        life_without_a_free_byte(seed);
    }
}

/// Ends with space again, and the reserve taken.
fn life_without_a_free_byte(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    life(&disk, seed, async {
        let (shard, _running) = start().await;
        let orders = create(&shard, "orders").await.expect("creates");
        commit_first(&shard).await;
        let (next, refusal) = produce_until_refused(&shard, orders, 0, 100).await;
        assert_eq!(refusal, None);
        fill_disk(&disk, 0).await;
        let made = create(&shard, "made-first").await.expect("creates");
        assert!(disk.peek("/data/reserve").is_err(), "given up");
        assert_eq!(produce(&shard, orders, next).await, Err(Error::DiskFull));
        check_what_goes_on(&shard, orders, next - 1).await;
        let deleted = shard.delete_topics(vec![made.topic]).await.remove(0);
        deleted.expect("deletes");
        // as much as the reserve took: that is no space yet
        fill_disk(&disk, RESERVE_BYTES).await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(produce(&shard, orders, next).await, Err(Error::DiskFull));
        fill_disk(&disk, RESERVE_BYTES + MARGIN_BYTES + (16 << 20)).await;
        wait_until_healthy(&shard).await;
        assert_eq!(
            disk.peek("/data/reserve").expect("taken").len() as u64,
            RESERVE_BYTES
        );
        assert_eq!(
            produce(&shard, orders, next).await.expect("appends").get(),
            next
        );
    });
    disk
}

#[test]
fn a_start_has_the_reserve_for_recovery_and_begins_full_where_there_is_no_room_for_another() {
    let disk = life_without_a_free_byte(1);
    disk.crash(CrashMode::Lose);
    life(&disk, 2, async {
        fill_disk(&disk, 0).await;
        let (shard, running) = start().await;
        let orders = shard.image().topic("orders").unwrap().partition(0).unwrap();
        assert_eq!(produce(&shard, orders, 101).await, Err(Error::DiskFull));
        check_batch(&shard, orders, 100).await;
        shard
            .stop(running)
            .await
            .expect("a full disk does not fail a stop");
    });
}

#[test]
fn any_other_failure_takes_the_data_directory_offline_until_a_restart() {
    let other = ErrorKind::Other;
    for (op, path, what) in [
        (DiskOp::Write, ".wal", "a block of the journal"),
        (DiskOp::Write, "checkpoint.tmp", "a checkpoint"),
        (DiskOp::Flush, "checkpoint.tmp", "the flush of a checkpoint"),
        (DiskOp::Names, "checkpoint.tmp", "the name of a checkpoint"),
        (DiskOp::Write, "orders-0/", "a segment"),
        (
            DiskOp::Flush,
            "orders-0/00000000000000000000.log",
            "the flush of a segment",
        ),
        (
            DiskOp::Flush,
            "orders-0/00000000000000000000.index",
            "the flush of an index",
        ),
        (DiskOp::Write, "metadata/", "a metadata record"),
    ] {
        let disk = SimDisk::new(1);
        let (orders, acknowledged) = life(&disk, 1, async {
            let (shard, _running) = start().await;
            let orders = create(&shard, "orders").await.expect("creates");
            disk.inject(fault(op, path, other));
            if path == "metadata/" {
                let refusal = create(&shard, "another").await;
                assert_eq!(refusal, Err(ErrorCode::KafkaStorageError));
            }
            let (next, refusal) = produce_until_refused(&shard, orders, 0, 1_000).await;
            assert!(
                matches!(refusal, Some(Error::Storage(_) | Error::Offline(_))),
                "{what}: {refusal:?}"
            );
            disk.clear_faults();
            sleep(Duration::from_secs(30)).await;
            let found = complaint(&shard).await;
            assert!(
                found.contains("the data directory failed: "),
                "{what}: {found}"
            );
            let refusal = produce(&shard, orders, next).await;
            assert!(
                matches!(refusal, Err(Error::Storage(_) | Error::Offline(_))),
                "{what}: {refusal:?}"
            );
            assert!(!is_shown_full(&shard).await, "{what}");
            if next > 0 && !path.starts_with("orders-0/") {
                check_batch(&shard, orders, next - 1).await;
            }
            (orders, next)
        });
        disk.crash(CrashMode::Lose);
        life(&disk, 2, async {
            let (shard, _running) = start().await;
            for offset in 0..acknowledged {
                check_batch(&shard, orders, offset).await;
            }
            let sizes = shard.sizes().await;
            assert!(!sizes.is_empty());
            assert!(complaint(&shard).await.is_empty(), "{what}");
        });
    }
}

#[test]
fn nothing_is_confirmed_whose_block_of_the_journal_cannot_be_written() {
    for what in ["a batch", "a log start", "a committed offset"] {
        let disk = SimDisk::new(1);
        life(&disk, 1, async {
            let (shard, _running) = start().await;
            let orders = create(&shard, "orders").await.expect("creates");
            commit_first(&shard).await;
            let (_, refusal) = produce_until_refused(&shard, orders, 0, 4).await;
            assert_eq!(refusal, None);
            disk.inject(fault(DiskOp::Write, ".wal", ErrorKind::Other));
            let is_confirmed = match what {
                "a batch" => produce(&shard, orders, 4).await.is_ok(),
                "a log start" => {
                    let moved = shard.delete_records(vec![(orders, 2)]).await.remove(0);
                    moved.is_ok()
                }
                _ => commit(&shard, "orders", 3).await == ErrorCode::None,
            };
            assert!(!is_confirmed, "{what}");
        });
    }
}

/// What this story sees of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use corelog::breaks::{self, Break};

    #[test]
    fn what_is_confirmed_too_early_is_noticed() {
        for which in [
            Break::ProduceAnsweredEarly,
            Break::LogStartAnsweredEarly,
            Break::OffsetCommitAnsweredEarly,
        ] {
            breaks::switch_on(Some(which));
            let story = nothing_is_confirmed_whose_block_of_the_journal_cannot_be_written;
            let outcome = std::panic::catch_unwind(story);
            breaks::switch_on(None);
            assert!(outcome.is_err(), "{which} was not noticed");
        }
    }
}

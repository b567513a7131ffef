//! The commit journal on a simulated disk that fails, lies or was tampered with: one story a test.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::journal::Journal;
use crate::journal::checkpoint_file::{self, Stored};
use crate::journal::config::JournalConfig;
use crate::journal::entry::{Entry, EntryKind};
use crate::journal::error::JournalError;
use crate::journal::journal::{Owner, Position};
use crate::journal::replay::{Replay, ReplayEnd, ReplayError, ReplayedEntry};
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::offset::Offset;
use crate::rt::sim::{CrashMode, DiskOp, Fault, Sim, SimDisk};
use crate::rt::{Lane, fs, sleep, spawn, timeout};
use bytes::Bytes;

const DIR: &str = "/data/journal/shard-000";
const CHECKPOINT: &str = "/data/journal/shard-000/checkpoint";
const FIRST_FILE: &str = "/data/journal/shard-000/00000000.wal";
const PAGE: u64 = 4096;

fn config() -> JournalConfig {
    JournalConfig {
        ring_bytes: 4 * 64 * 1024,
        file_bytes: 64 * 1024,
        first_file_bytes: 64 * 1024,
        commit_bytes: 16 * 1024,
        parallel_bytes_min: 4 * 1024,
        queue_bytes_max: 256 * 1024,
        ..JournalConfig::default()
    }
}

fn entry(number: u64, length: usize) -> Entry {
    let number = i64::try_from(number).expect("small");
    Entry {
        kind: EntryKind::Append,
        topic_partition: TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0)),
        segment_base: Offset::new(0),
        file_position: 0,
        base_offset: Offset::new(number),
        next_offset: Offset::new(number + 1),
        leader_epoch: LeaderEpoch(0),
        payload: Bytes::from(vec![0x5a; length]).into(),
    }
}

/// Runs one life of a machine on a disk.
fn life<F: Future>(disk: &SimDisk, future: F) -> F::Output {
    Sim::with_disk(1, disk.clone()).run(future)
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    life(&disk, async {
        fs::create_dir_all("/data").await.expect("makes");
        fs::sync_dir("/").await.expect("flushes");
    });
    disk
}

async fn open_with(config: JournalConfig) -> Journal {
    let mut replay = Replay::open(Path::new(DIR)).await.expect("opens");
    while replay.next_entry().await.expect("no damage").is_some() {}
    let retired = replay.retire(Vec::new()).await.expect("retires");
    Journal::open(retired, config).await.expect("opens")
}

async fn open() -> Journal {
    open_with(config()).await
}

async fn append(journal: &Journal, number: u64, length: usize) -> Result<Position, JournalError> {
    let reservation = journal.reserve(length).await?;
    journal.enqueue(reservation, Owner(0), entry(number, length))
}

/// Appends entries one by one, each in a block of its own, durable.
async fn append_blocks(journal: &Journal, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let position = append(journal, number, 100)
            .await
            .expect("the journal works");
        journal.durable(position).await.expect("the journal works");
    }
}

/// Offsets of what is replayed, the damage met on the way, and the end.
async fn replay() -> (Vec<i64>, Vec<String>, Option<ReplayEnd>) {
    let mut replay = Replay::open(Path::new(DIR)).await.expect("opens");
    let (mut found, mut damage) = (Vec::new(), Vec::new());
    loop {
        match replay.next_entry().await {
            Ok(Some(ReplayedEntry { entry, .. })) => found.push(entry.base_offset.get()),
            Ok(None) => return (found, damage, replay.end().cloned()),
            Err(error @ ReplayError::Damaged { .. }) => damage.push(error.to_string()),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_any_more() {
    for skip in 0..30 {
        let disk = new_disk();
        let acknowledged = life(&disk, async {
            let journal = open().await;
            while journal.is_growing() {
                sleep(Duration::from_millis(1)).await;
            }
            disk.inject(Fault {
                op: DiskOp::Write,
                path: ".wal".to_owned(),
                error: std::io::ErrorKind::Other,
                skip,
                times: 1,
            });
            let producer = journal.clone();
            let producer = spawn(Lane::Network, "producer", async move {
                let mut number = 0;
                loop {
                    // several blocks are in flight, so others complete after the one that fails
                    if append(&producer, number, 3000).await.is_err() {
                        return;
                    }
                    number += 1;
                    if number % 7 == 0 {
                        sleep(Duration::from_micros(300)).await;
                    }
                    if number % 20 == 0 {
                        let durable = producer.durable_position();
                        let _ = producer.write_checkpoint(durable, Vec::new()).await;
                    }
                }
            });
            let mut acknowledged = 0;
            let error = loop {
                match journal.next_completed().await {
                    Ok(all) => {
                        acknowledged = all.last().map_or(acknowledged, |last| last.position.0 + 1);
                    }
                    Err(error) => break error,
                }
            };
            let text = error.to_string();
            assert!(text.contains(DIR) && text.contains(" at "), "{text}");
            let durable = journal.durable_position();
            assert!(durable.0 >= acknowledged);
            sleep(Duration::from_millis(500)).await;
            assert_eq!(
                journal.durable_position(),
                durable,
                "later writes are not reported"
            );
            assert!(journal.next_completed().await.is_err());
            assert!(journal.reserve(10).await.is_err());
            assert!(journal.reserve_control(0).await.is_err());
            assert!(journal.durable(durable).await.is_err());
            assert!(journal.write_checkpoint(durable, Vec::new()).await.is_err());
            assert!(journal.failed().is_some());
            producer.await;
            assert!(journal.close().await.is_err());
            acknowledged
        });
        disk.clear_faults();
        disk.crash(CrashMode::Torn);
        let (found, damage, _) = life(&disk, replay());
        let last = found
            .last()
            .map_or(0, |last| u64::try_from(last + 1).expect("small"));
        assert!(damage.is_empty(), "skip {skip}: {damage:?}");
        assert!(
            last >= acknowledged || found.is_empty(),
            "skip {skip}: acknowledged and lost"
        );
    }
}

/// Ten blocks at pages 1 to 10 of the first file and, after a pause, the empty one at page 11.
fn disk_with_ten_blocks(pause: Duration) -> SimDisk {
    let disk = new_disk();
    life(&disk, async {
        let journal = open().await;
        append_blocks(&journal, 0..10).await;
        sleep(pause).await;
    });
    disk
}

#[test]
fn damaged_block_that_was_durable_is_an_error_that_names_file_and_position() {
    for damaged in 0..10_u64 {
        let disk = disk_with_ten_blocks(Duration::from_millis(100));
        let position = (damaged + 1) * PAGE;
        disk.poke(FIRST_FILE, position + 130, b"oops")
            .expect("pokes");
        let (found, damage, end) = life(&disk, replay());
        let damaged = i64::try_from(damaged).expect("small");
        let expected: Vec<i64> = (0..10).filter(|number| *number != damaged).collect();
        assert_eq!(found, expected, "what lies before and behind the damage");
        assert_eq!(damage.len(), 1);
        let sequence = damaged + 1;
        let text = format!("{FIRST_FILE}: journal block {sequence} at byte {position} was durable");
        assert!(damage[0].starts_with(&text), "{}", damage[0]);
        assert_eq!(end, Some(ReplayEnd::Clean));
    }
}

#[test]
fn damaged_last_block_is_a_torn_end_when_no_later_block_vouches_for_it() {
    let disk = disk_with_ten_blocks(Duration::ZERO);
    disk.poke(FIRST_FILE, 10 * PAGE + 130, b"oops")
        .expect("pokes");
    let (found, damage, end) = life(&disk, replay());
    assert_eq!(found, (0..9).collect::<Vec<i64>>());
    assert!(damage.is_empty());
    let torn = ReplayEnd::Torn {
        file: FIRST_FILE.into(),
        position: 10 * PAGE,
    };
    assert_eq!(end, Some(torn));
}

#[test]
fn several_damaged_blocks_and_lost_file_heads_are_found() {
    let disk = disk_with_ten_blocks(Duration::from_millis(100));
    disk.poke(FIRST_FILE, 0, &[0; 4096]).expect("pokes");
    disk.poke(FIRST_FILE, 2 * PAGE, &[0; 3 * 4096])
        .expect("pokes");
    disk.poke(FIRST_FILE, 7 * PAGE, &[0; 4096]).expect("pokes");
    let (found, damage, _) = life(&disk, replay());
    assert_eq!(found, vec![0, 4, 5, 7, 8, 9]);
    assert_eq!(damage.len(), 2);
}

#[test]
fn block_that_the_device_cannot_read_is_an_error_and_the_others_come() {
    let disk = disk_with_ten_blocks(Duration::from_millis(100));
    let read = |skip, times| {
        disk.inject(Fault {
            op: DiskOp::Read,
            path: "00000000.wal".to_owned(),
            error: std::io::ErrorKind::Other,
            skip,
            times,
        });
    };
    // the file's header and its first block are read to find the newest run; then the chunk with
    // all blocks fails, its fifteen pages, and the first one twice more, tried as a file's start
    read(2, 18);
    let (found, damage, _) = life(&disk, replay());
    disk.clear_faults();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].contains("at byte 4096"), "{}", damage[0]);
    assert_eq!(found, (1..10).collect::<Vec<i64>>());
    // an error that passes is none
    read(2, 2);
    let (found, damage, _) = life(&disk, replay());
    assert_eq!((found.len(), damage.len()), (10, 0));
}

#[test]
fn without_a_checkpoint_the_oldest_linked_block_is_found() {
    for is_damaged in [false, true] {
        let disk = new_disk();
        let next = life(&disk, async {
            let journal = open().await;
            while journal.is_growing() {
                sleep(Duration::from_millis(1)).await;
            }
            let mut next = 0;
            for _ in 0..5 {
                append_blocks(&journal, next..next + 15).await;
                next += 15;
                let pin = journal.durable_position();
                journal
                    .write_checkpoint(pin, Vec::new())
                    .await
                    .expect("writes");
            }
            append_blocks(&journal, next..next + 3).await;
            if is_damaged {
                let garbage = vec![0x11; 300];
                fs::write_atomic(CHECKPOINT, garbage).await.expect("writes");
            } else {
                fs::remove_file(CHECKPOINT).await.expect("removes");
            }
            next + 3
        });
        let (found, damage, _) = life(&disk, replay());
        assert!(damage.is_empty());
        let next = i64::try_from(next).expect("small");
        let first = *found.first().expect("entries");
        assert!(first <= next - 3, "all that was not freed");
        assert_eq!(found, (first..next).collect::<Vec<i64>>());
        // and the run after it is a new one
        life(&disk, async {
            let journal = open().await;
            append_blocks(&journal, 1000..1002).await;
        });
        assert_eq!(life(&disk, replay()).0, vec![1000, 1001]);
    }
}

#[test]
fn checkpoint_of_an_earlier_run_is_not_believed() {
    let disk = new_disk();
    let old = life(&disk, async {
        let journal = open().await;
        append_blocks(&journal, 0..5).await;
        fs::read(CHECKPOINT).await.expect("reads")
    });
    life(&disk, async {
        let journal = open().await;
        append_blocks(&journal, 100..103).await;
        fs::write_atomic(CHECKPOINT, old).await.expect("writes");
        let replay = Replay::open(Path::new(DIR)).await.expect("opens");
        assert!(!replay.has_current_checkpoint());
    });
    assert_eq!(life(&disk, replay()).0, vec![100, 101, 102]);
}

#[test]
fn files_of_a_newer_format_or_of_another_ring_are_refused() {
    let disk = disk_with_ten_blocks(Duration::ZERO);
    let refused = || {
        life(&disk, async {
            match Replay::open(Path::new(DIR)).await {
                Ok(_) => panic!("accepted"),
                Err(error) => error.to_string(),
            }
        })
    };
    for path in [FIRST_FILE, CHECKPOINT] {
        // without the checksum that goes with it, it is damage
        let before = disk.peek(path).expect("there");
        disk.poke(path, 4, &[9]).expect("pokes");
        assert_eq!(life(&disk, replay()).0.len(), 10, "{path}");
        let bytes = disk.peek(path).expect("there");
        let mut summed = bytes[..60].to_vec();
        if path == CHECKPOINT {
            summed.extend_from_slice(&bytes[64..]);
        }
        let crc = crc32c::crc32c(&summed).to_le_bytes();
        disk.poke(path, 60, &crc).expect("pokes");
        let text = refused();
        assert!(
            text.contains(path) && text.contains("version 9 is newer"),
            "{text}"
        );
        disk.poke(path, 0, &before).expect("pokes");
    }
    life(&disk, async {
        let bytes = fs::read(FIRST_FILE).await.expect("reads");
        fs::write_new("/data/journal/shard-000/00000009.wal", bytes)
            .await
            .expect("writes");
    });
    let text = refused();
    assert!(
        text.contains("00000009.wal") && text.contains("does not belong"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_gone_or_cut_is_damage_where_blocks_may_have_been_in_it() {
    for cut_to in [None, Some(0), Some(4096), Some(8192)] {
        let disk = disk_with_ten_blocks(Duration::ZERO);
        life(&disk, async {
            match cut_to {
                None => fs::remove_file(FIRST_FILE).await.expect("removes"),
                Some(len) => {
                    let mut bytes = disk.peek(FIRST_FILE).expect("there");
                    bytes.truncate(len);
                    fs::write_atomic(FIRST_FILE, bytes).await.expect("writes");
                }
            }
        });
        let (found, damage, _) = life(&disk, replay());
        assert!(found.len() < 10, "{found:?}");
        assert_eq!(damage.len(), 1, "{cut_to:?}: {damage:?}");
        assert!(damage[0].contains(FIRST_FILE), "{damage:?}");
    }
}

#[test]
fn files_under_each_others_names_are_read_as_what_they_are() {
    let disk = disk_with_ten_blocks(Duration::ZERO);
    let expected = life(&disk, replay());
    life(&disk, async {
        let second = Path::new(FIRST_FILE).with_file_name("00000001.wal");
        let (one, two) = (disk.peek(FIRST_FILE), disk.peek(&second));
        fs::write_atomic(FIRST_FILE, two.expect("there"))
            .await
            .expect("writes");
        fs::write_atomic(&second, one.expect("there"))
            .await
            .expect("writes");
    });
    let (found, damage, _) = life(&disk, replay());
    assert_eq!((found, damage), (expected.0, Vec::new()));
}

#[test]
fn stopped_journal_has_nothing_to_replay_and_idle_journal_writes_nothing() {
    let disk = new_disk();
    life(&disk, async {
        let journal = open().await;
        append_blocks(&journal, 0..5).await;
        sleep(Duration::from_millis(200)).await;
        let changes = disk.ops();
        assert_eq!(journal.stats().empty_blocks, 1);
        sleep(Duration::from_hours(1)).await;
        assert_eq!(disk.ops(), changes, "one empty block, then silence");
        assert_eq!(journal.stats().empty_blocks, 1);
        journal.close().await.expect("closes");
        assert!(matches!(
            journal.reserve(1).await,
            Err(JournalError::Closed)
        ));
        journal.write_stopped().await.expect("writes");
    });
    let (found, damage, end) = life(&disk, replay());
    assert_eq!(
        (found.len(), damage.len(), end),
        (0, 0, Some(ReplayEnd::Stopped))
    );
    life(&disk, async {
        let journal = open().await;
        append_blocks(&journal, 5..7).await;
    });
    assert_eq!(life(&disk, replay()).0, vec![5, 6]);
}

#[test]
fn ring_of_another_size_is_replayed_and_then_made_anew() {
    let disk = disk_with_ten_blocks(Duration::ZERO);
    assert_eq!(life(&disk, replay()).0.len(), 10);
    let smaller = JournalConfig {
        ring_bytes: 96 * 1024,
        file_bytes: 48 * 1024,
        first_file_bytes: 40 * 1024,
        ..config()
    };
    life(&disk, async {
        let journal = open_with(smaller.clone()).await;
        while journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(journal.capacity(), (40 + 48 - 8) * 1024);
        append_blocks(&journal, 20..22).await;
        let names = fs::read_dir(DIR)
            .await
            .expect("lists")
            .into_iter()
            .map(|entry| entry.name);
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["00000000.wal", "00000001.wal", "checkpoint"]
        );
    });
    assert_eq!(life(&disk, replay()).0, vec![20, 21]);
}

#[test]
fn removed_ring_is_whole_or_empty_wherever_the_power_fails() {
    let mut changes = 1;
    loop {
        let disk = disk_with_ten_blocks(Duration::ZERO);
        disk.crash_after(changes);
        let ended = Sim::with_disk(changes, disk.clone()).run_until_crash(async {
            let mut replay = Replay::open(Path::new(DIR)).await.expect("opens");
            while replay.next_entry().await.expect("no damage").is_some() {}
            replay.remove().await.expect("removes");
            assert!(!fs::exists(DIR).await.expect("looks"));
        });
        disk.crash(CrashMode::Torn);
        let (found, damage, _) = life(&disk, replay());
        assert!(damage.is_empty(), "change {changes}");
        assert!(
            found.is_empty() || found.len() == 10,
            "change {changes}: {found:?}"
        );
        if ended.is_some() {
            break;
        }
        changes += 1;
    }
    assert!(changes > 5, "the power failed at every change");
}

#[test]
fn full_disk_leaves_a_small_ring_that_works() {
    let disk = new_disk();
    life(&disk, async {
        disk.set_capacity(Some(80 * 1024));
        let journal = open().await;
        while journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(journal.capacity(), 60 * 1024);
        for number in 0..100 {
            append_blocks(&journal, number..number + 1).await;
            if journal.fill() > 0.5 {
                let pin = journal.durable_position();
                journal
                    .write_checkpoint(pin, Vec::new())
                    .await
                    .expect("writes");
            }
        }
        let error = journal
            .reserve(55 * 1024)
            .await
            .expect_err("no file holds it");
        assert!(matches!(error, JournalError::TooLarge { .. }), "{error}");
    });
}

#[test]
fn first_file_serves_while_the_others_are_made() {
    let disk = new_disk();
    life(&disk, async {
        let journal = open().await;
        assert!(journal.is_growing());
        append_blocks(&journal, 0..3).await;
        assert!(
            journal.is_growing(),
            "the first entries were durable before the ring was whole"
        );
        while journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(journal.capacity(), 4 * 60 * 1024);
    });
    // killed while a file was made: the next start makes it again
    let disk = new_disk();
    let ended = Sim::with_disk(3, disk.clone()).run_until_crash(async {
        let journal = open().await;
        disk.crash_after(6);
        append_blocks(&journal, 0..100).await;
    });
    assert!(ended.is_none());
    disk.crash(CrashMode::Torn);
    life(&disk, async {
        let journal = open().await;
        while journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(journal.capacity(), 4 * 60 * 1024);
    });
}

#[test]
fn full_ring_holds_data_back_in_order_and_lets_control_entries_through() {
    let disk = new_disk();
    life(&disk, async {
        let journal = open().await;
        while journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        let mut number = 0;
        while let Some(position) =
            timeout(Duration::from_millis(20), append(&journal, number, 3000)).await
        {
            journal
                .durable(position.expect("works"))
                .await
                .expect("works");
            number += 1;
        }
        assert!(
            number > 30 && journal.fill() > 0.8,
            "{number} blocks, fill {}",
            journal.fill()
        );
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, length) in [(1, 12_000), (2, 10), (3, 10)] {
            let (journal, order) = (journal.clone(), Rc::clone(&order));
            tasks.push(spawn(Lane::Network, "waiter", async move {
                let reservation = journal.reserve(length).await.expect("works");
                order.borrow_mut().push(name);
                drop(reservation);
            }));
            sleep(Duration::from_millis(1)).await;
        }
        let carry = Entry {
            kind: EntryKind::Carry,
            ..entry(0, 4096)
        };
        let reservation = journal.reserve_control(4096).await.expect("works");
        let position = journal
            .enqueue(reservation, Owner(0), carry)
            .expect("works");
        journal.durable(position).await.expect("works");
        assert!(order.borrow().is_empty(), "data still waits");
        // whoever gives up does not hold back the others
        drop(tasks.remove(1));
        let pin = journal.durable_position();
        journal
            .write_checkpoint(pin, Vec::new())
            .await
            .expect("writes");
        for task in tasks {
            task.await;
        }
        assert_eq!(
            *order.borrow(),
            vec![1, 3],
            "first come, first served, whatever the size"
        );
    });
}

#[test]
fn the_block_that_a_checkpoint_starts_with_is_kept_while_others_are_placed() {
    let disk = new_disk();
    life(&disk, async {
        let journal = open().await;
        journal.grown().await.expect("makes the files");
        append_blocks(&journal, 0..3).await;
        // its block is placed while the checkpoint, which starts before it, is being written
        append(&journal, 3, 100).await.expect("works");
        journal
            .write_checkpoint(Position(3), Vec::new())
            .await
            .expect("writes");
        let log_start = || Entry {
            kind: EntryKind::LogStart,
            ..entry(4, 0)
        };
        let wait = Duration::from_millis(20);
        while let Some(reserved) = timeout(wait, journal.reserve_control(0)).await {
            let position = journal
                .enqueue(reserved.expect("works"), Owner(0), log_start())
                .expect("works");
            journal.durable(position).await.expect("works");
        }
        assert!(journal.fill() > 0.9, "the ring went around");
    });
    disk.crash(CrashMode::Keep);
    let (found, damage, _) = life(&disk, replay());
    assert_eq!(damage, Vec::<String>::new());
    assert_eq!(found[..2], [2, 3], "all that the checkpoint needs");
}

#[test]
fn a_power_failure_while_a_ring_is_made_anew_is_no_damage() {
    let whole = disk_with_ten_blocks(Duration::ZERO);
    let mut ends = 0;
    for change in 1.. {
        let disk = whole.copy();
        let larger = JournalConfig {
            first_file_bytes: 2 * config().first_file_bytes,
            ring_bytes: 2 * config().ring_bytes,
            ..config()
        };
        disk.crash_after(change);
        let ended = Sim::with_disk(change, disk.clone()).run_until_crash(open_with(larger));
        disk.crash(CrashMode::Keep);
        let (_, damage, _) = life(&disk, replay());
        assert_eq!(damage, Vec::<String>::new(), "at change {change}");
        ends += 1;
        if ended.is_some() {
            break;
        }
    }
    assert!(ends > 5, "{ends}");
}

#[test]
fn files_that_a_larger_ring_left_behind_are_not_missed() {
    let disk = disk_with_ten_blocks(Duration::ZERO);
    life(&disk, async {
        let gone = Path::new(FIRST_FILE).with_file_name("00000001.wal");
        let left = Path::new(FIRST_FILE).with_file_name("00000007.wal");
        fs::rename(&gone, &left).await.expect("renames");
        // the ring was opened without them, and its blocks end where the hole begins
        let Stored::Found(mut checkpoint) =
            checkpoint_file::read(Path::new(DIR)).await.expect("reads")
        else {
            panic!("a checkpoint");
        };
        checkpoint.file_count = 1;
        fs::write_atomic(CHECKPOINT, checkpoint.encode())
            .await
            .expect("writes");
    });
    let (found, damage, _) = life(&disk, replay());
    assert_eq!((found.len(), damage), (10, Vec::<String>::new()));
}

#[test]
fn a_write_that_lacks_space_is_a_failure_like_any_other() {
    let disk = new_disk();
    let acknowledged = life(&disk, async {
        let journal = open().await;
        while journal.is_growing() {
            sleep(Duration::from_millis(1)).await;
        }
        disk.inject(Fault {
            op: DiskOp::Write,
            path: ".wal".to_owned(),
            error: std::io::ErrorKind::StorageFull,
            skip: 3,
            times: 1,
        });
        for number in 0..10 {
            let Ok(position) = append(&journal, number, 100).await else {
                return number;
            };
            if journal.durable(position).await.is_err() {
                return number;
            }
        }
        10
    });
    disk.clear_faults();
    disk.crash(CrashMode::Lose);
    let (found, damage, _) = life(&disk, replay());
    assert_eq!(damage, Vec::<String>::new());
    let acknowledged = i64::try_from(acknowledged).expect("small");
    assert_eq!(found, (0..acknowledged).collect::<Vec<i64>>());
}

/// What these stories see of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_story_notices;

    #[test]
    fn a_write_that_lacked_space_and_counts_is_noticed() {
        assert_story_notices(
            Break::EnospcSwallowed,
            a_write_that_lacks_space_is_a_failure_like_any_other,
        );
    }

    #[test]
    fn a_block_that_is_taken_in_part_is_noticed() {
        assert_story_notices(
            Break::TornBlockAccepted,
            damaged_last_block_is_a_torn_end_when_no_later_block_vouches_for_it,
        );
    }
}

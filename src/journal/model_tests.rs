//! The commit journal against a plain list, on the simulated disk: power failures at any change,
//! torn, lost and reordered writes, restarts, restarts that fail, wrap-around, failing writes.
//!
//! `SIM_SEED=n cargo test --lib journal::model_tests` repeats one seed; `SIM_SEEDS=n` runs more of
//! them.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::journal::Journal;
use crate::journal::checkpoint::PartitionCheckpoint;
use crate::journal::config::JournalConfig;
use crate::journal::entry::{Entry, EntryKind, Payload};
use crate::journal::error::JournalError;
use crate::journal::journal::{Owner, Position};
use crate::journal::replay::{Replay, ReplayedEntry};
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::offset::Offset;
use crate::rt::sim::{CrashMode, Sim, SimDisk};
use crate::rt::testing::say;
use crate::rt::{Lane, fs, random_u64, sleep, spawn, yield_now};
use bytes::Bytes;

const DIR: &str = "/data/journal/shard-000";

/// Small enough to wrap around many times.
fn config() -> JournalConfig {
    JournalConfig {
        ring_bytes: 4 * 64 * 1024,
        file_bytes: 64 * 1024,
        first_file_bytes: 48 * 1024,
        commit_bytes: 16 * 1024,
        writes_in_flight: 4,
        parallel_bytes_min: 6 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 64 * 1024,
        idle_block_after: Duration::from_millis(50),
    }
}

/// A disk with a data directory, which is the broker's to make.
fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    Sim::with_disk(seed, disk.clone()).run(async {
        fs::create_dir_all("/data").await.expect("makes");
        fs::sync_dir("/").await.expect("flushes");
    });
    disk
}

/// What must be found again.
#[derive(Default)]
struct Model {
    /// Checkpoint generation that the entries belong to: raised by every retirement.
    generation: u64,
    /// Everything queued in this run, in order.
    queued: Vec<Entry>,
    /// As many of them were reported durable.
    durable: usize,
    total_queued: usize,
    restarts: usize,
}

type Shared = Rc<RefCell<Model>>;

fn topic_partition(index: u64) -> TopicPartition {
    let partition = PartitionIndex(i32::try_from(index).expect("small"));
    TopicPartition::new(TopicId::from_bytes([7; 16]), partition)
}

fn entry(number: usize, random: u64) -> Entry {
    let kind = match random % 16 {
        0 => EntryKind::LogStart,
        1 => EntryKind::Truncate,
        2 => EntryKind::Bypass {
            length: 77,
            crc: 99,
        },
        3 | 4 => EntryKind::Carry,
        _ => EntryKind::Append,
    };
    let length = match (random >> 8) % 20 {
        0 => 20_000,
        1 => 50_000,
        2..6 => 4000,
        _ => (random >> 16) % 1500,
    };
    let length = if kind == EntryKind::Carry {
        length.min(4096)
    } else {
        length
    };
    let mut payload = Payload::empty();
    if kind.has_payload() {
        let byte = u8::try_from(number % 251).expect("below 251");
        let part = |length: u64| Bytes::from(vec![byte; usize::try_from(length).expect("small")]);
        payload.push(part(length / 3));
        payload.push(part(length - length / 3));
    }
    let number = i64::try_from(number).expect("small");
    Entry {
        kind,
        topic_partition: topic_partition(random % 5),
        segment_base: Offset::new(0),
        file_position: random,
        base_offset: Offset::new(number),
        next_offset: Offset::new(number + 1),
        leader_epoch: LeaderEpoch(3),
        payload,
    }
}

/// What the log would say: here, which generation, and up to where it needs the journal no more.
fn record(generation: u64, pin: u64) -> Vec<PartitionCheckpoint> {
    let mut bytes = generation.to_le_bytes().to_vec();
    bytes.extend_from_slice(&pin.to_le_bytes());
    vec![PartitionCheckpoint {
        topic_partition: topic_partition(0),
        record: bytes.into(),
    }]
}

fn parse(partitions: &[PartitionCheckpoint]) -> (u64, usize) {
    let Some(one) = partitions.first() else {
        return (0, 0);
    };
    let (generation, pin) = one.record.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    (
        number(generation),
        usize::try_from(number(pin)).expect("small"),
    )
}

async fn read_all(replay: &mut Replay) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(ReplayedEntry { entry, .. }) = replay.next_entry().await.expect("no damage") {
        entries.push(entry);
    }
    entries
}

/// Replays and compares; then starts a new run.
async fn recover(model: &Shared, seed: u64) -> Journal {
    let mut replay = Replay::open(Path::new(DIR)).await.expect("opens");
    let (generation, pin) = parse(replay.partitions());
    let found = read_all(&mut replay).await;
    {
        let mut model = model.borrow_mut();
        if generation == model.generation {
            check(&model, pin, &found, seed);
        } else {
            // the retirement that was cut short had reached the disk
            assert_eq!(generation, model.generation + 1, "seed {seed}");
            assert!(found.is_empty(), "seed {seed}: entries of a retired run");
        }
        if generation != model.generation {
            model.queued.clear();
            model.durable = 0;
        }
        model.generation = generation;
        model.restarts += 1;
    }
    let retired = replay
        .retire(record(generation + 1, 0))
        .await
        .expect("retires");
    {
        let mut model = model.borrow_mut();
        model.generation = generation + 1;
        model.queued.clear();
        model.durable = 0;
    }
    Journal::open(retired, config()).await.expect("opens")
}

fn check(model: &Model, pin: usize, found: &[Entry], seed: u64) {
    let Some(first) = found.first() else {
        assert!(
            model.durable <= pin,
            "seed {seed}: {} were durable, none found",
            model.durable
        );
        return;
    };
    let start = usize::try_from(first.base_offset.get()).expect("an index");
    let end = start + found.len();
    assert!(
        start <= pin,
        "seed {seed}: replay starts at {start}, needed from {pin}"
    );
    assert!(
        end >= model.durable,
        "seed {seed}: {} were durable, {end} found",
        model.durable
    );
    assert!(
        end <= model.queued.len(),
        "seed {seed}: entries that were never queued"
    );
    for (index, (found, queued)) in found.iter().zip(&model.queued[start..]).enumerate() {
        assert!(
            found == queued,
            "seed {seed}: entry {} is another one",
            start + index
        );
    }
}

async fn produce(journal: Journal, model: Shared, count: usize) -> Result<(), JournalError> {
    for _ in 0..count {
        let random = random_u64();
        let payload = entry(0, random).payload.len();
        let is_control = !matches!(entry(0, random).kind, EntryKind::Append);
        let reservation = if is_control {
            journal.reserve_control(payload).await?
        } else {
            journal.reserve(payload).await?
        };
        if random.is_multiple_of(23) {
            continue; // the guards refused the batch
        }
        let number = model.borrow().queued.len();
        let entry = entry(number, random);
        let owner = Owner(random % 5);
        let position = journal.enqueue(reservation, owner, entry.clone())?;
        assert_eq!(position.0, u64::try_from(number).expect("small"));
        {
            let mut model = model.borrow_mut();
            model.queued.push(entry);
            model.total_queued += 1;
        }
        match random % 50 {
            0 => sleep(Duration::from_millis(120)).await,
            1..4 => sleep(Duration::from_micros(random % 3000)).await,
            4..12 => yield_now().await,
            _ => {}
        }
    }
    Ok(())
}

async fn acknowledge(journal: Journal, model: Shared) {
    let mut next = [0_u64; 5];
    while let Ok(all) = journal.next_completed().await {
        assert!(!all.is_empty());
        for completed in all {
            let mut model = model.borrow_mut();
            let position = usize::try_from(completed.position.0).expect("small");
            assert!(position >= model.durable, "reported twice or out of order");
            assert_eq!(completed.next_offset, model.queued[position].next_offset);
            assert_eq!(completed.kind, model.queued[position].kind);
            let owner = usize::try_from(completed.owner.0).expect("small");
            assert!(completed.position.0 >= next[owner]);
            next[owner] = completed.position.0 + 1;
            model.durable = position + 1;
        }
    }
}

/// Frees the ring as a destager does: never beyond what is durable, with carried entries.
async fn destage(journal: Journal, model: Shared) {
    let mut pin = 0;
    loop {
        sleep(Duration::from_micros(500 + random_u64() % 8000)).await;
        let durable = journal.durable_position().0;
        let target = if random_u64().is_multiple_of(3) {
            durable
        } else {
            pin + (durable - pin).min(random_u64() % 40)
        };
        if journal.fill() < 0.3 && !random_u64().is_multiple_of(4) {
            continue;
        }
        let generation = model.borrow().generation;
        let partitions = record(generation, target);
        if journal
            .write_checkpoint(Position(target), partitions)
            .await
            .is_err()
        {
            return;
        }
        pin = target;
    }
}

/// One life of a broker: from recovery to the power failure, or to the end of the work.
async fn live(model: Shared, seed: u64, count: usize) {
    let journal = recover(&model, seed).await;
    let acknowledger = spawn(
        Lane::Commit,
        "ack",
        acknowledge(journal.clone(), model.clone()),
    );
    let destager = spawn(
        Lane::Background,
        "destage",
        destage(journal.clone(), model.clone()),
    );
    let others = spawn(
        Lane::Network,
        "other",
        produce(journal.clone(), model.clone(), count / 2),
    );
    produce(journal.clone(), model.clone(), count / 2)
        .await
        .expect("the journal works");
    others.await.expect("the journal works");
    if seed.is_multiple_of(3) {
        sleep(Duration::from_millis(150)).await;
    }
    let total = model.borrow().queued.len();
    journal.close().await.expect("closes");
    acknowledger.await;
    drop(destager);
    assert_eq!(
        model.borrow().durable,
        total,
        "seed {seed}: close writes everything"
    );
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match (number("SIM_SEED"), number("SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..default,
    }
}

/// Eight lives that the power may end, and one that it does not; tells how many it ended.
fn run_seed(seed: u64, model: &Shared) -> u64 {
    let disk = new_disk(seed);
    let mut crashes = 0;
    for life in 0..8 {
        let random = (seed + 1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(life * 7);
        // sometimes in the middle of the recovery, sometimes after several laps
        let changes = if random.is_multiple_of(4) {
            1 + random % 40
        } else {
            1 + random % 700
        };
        disk.crash_after(changes);
        let sim = Sim::with_disk(seed * 100 + u64::from(life), disk.clone());
        let ended = sim.run_until_crash(live(model.clone(), seed, 500));
        crashes += u64::from(ended.is_none());
        disk.crash(match random >> 60 {
            0..4 => CrashMode::Lose,
            4..8 => CrashMode::Keep,
            _ => CrashMode::Torn,
        });
    }
    let sim = Sim::with_disk(seed, disk.clone());
    sim.run(live(model.clone(), seed, 200));
    crashes
}

#[test]
fn every_completed_entry_is_replayed_in_order_whatever_the_power_does() {
    let (mut crashes, mut entries, mut restarts) = (0, 0, 0);
    let seeds = seeds(150);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let model = Shared::default();
        crashes += run_seed(seed, &model);
        entries += model.borrow().total_queued;
        restarts += model.borrow().restarts;
    }
    say(&format!(
        "{count} seeds, {crashes} power failures, {restarts} recoveries, {entries} entries"
    ));
    assert!(crashes > count, "the power hardly ever failed");
}

#[test]
fn power_failure_at_every_change_of_two_lives_loses_nothing() {
    let mut failures = 0;
    for mode in [CrashMode::Lose, CrashMode::Keep, CrashMode::Torn] {
        let mut changes = 1;
        let seed = 11;
        loop {
            let disk = new_disk(seed);
            let model = Shared::default();
            // one life that is cut somewhere, so that the second one has something to recover
            disk.crash_after(120);
            let first = Sim::with_disk(seed, disk.clone());
            assert!(
                first
                    .run_until_crash(live(model.clone(), seed, 200))
                    .is_none()
            );
            disk.crash(mode);
            disk.crash_after(changes);
            let second = Sim::with_disk(seed + 1, disk.clone());
            let ended = second.run_until_crash(live(model.clone(), seed, 60));
            disk.crash(mode);
            Sim::with_disk(seed + 2, disk.clone()).run(live(model.clone(), seed, 20));
            if ended.is_some() {
                break;
            }
            failures += 1;
            changes += 1;
        }
    }
    println!("{failures} power failures, one at every change");
    assert!(failures > 100, "{failures} changes only");
}

/// What this model sees of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_noticed;

    #[track_caller]
    fn assert_model_notices(which: Break, seeds: u64) {
        assert_noticed(which, 0..seeds, |seed| {
            run_seed(seed, &Shared::default());
        });
    }

    #[test]
    fn a_block_that_is_reported_as_its_write_begins_is_noticed() {
        assert_model_notices(Break::AckBeforeWrite, 50);
    }

    #[test]
    fn a_block_that_is_reported_with_a_later_one_is_noticed() {
        assert_model_notices(Break::AcksReordered, 150);
    }

    #[test]
    fn ring_space_that_is_used_before_its_checkpoint_is_durable_is_noticed() {
        assert_model_notices(Break::RingReusedBeforeCheckpoint, 20);
    }

    #[test]
    fn a_block_of_an_earlier_lap_or_run_is_noticed() {
        assert_model_notices(Break::ChainCheckOff, 20);
    }

    #[test]
    fn a_last_block_that_is_left_out_is_noticed() {
        assert_model_notices(Break::ReplayStopsABlockEarly, 20);
    }

    #[test]
    fn a_block_that_is_taken_as_far_as_it_was_written_is_noticed() {
        assert_model_notices(Break::TornBlockAccepted, 100);
    }

    #[test]
    fn an_entry_whose_checksum_is_not_looked_at_is_noticed() {
        assert_model_notices(Break::CrcUnchecked, 50);
    }
}

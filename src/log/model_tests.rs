//! Logs over their journals against plain vectors, on the simulated disk: appends, duplicates,
//! reads, lookups by time, rolls, destaging, carrying, checkpoints, truncations, log starts, clean
//! stops, kills, power failures at any change (also inside recovery), and another number of shards
//! after each of them.
//!
//! `SIM_SEED=n cargo test --lib log::model_tests` repeats one seed; `SIM_SEEDS=n` runs more of
//! them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::journal::Journal;
use crate::journal::checkpoint::PartitionCheckpoint;
use crate::journal::checkpoint_file::Retired;
use crate::journal::config::JournalConfig;
use crate::journal::entry::{Entry, EntryKind};
use crate::journal::journal::{Owner, Position};
use crate::journal::replay::Replay;
use crate::log::LogSettings;
use crate::log::context::{ContextLimits, LogContext};
use crate::log::destage::{CARRY_BYTES_MAX, DestageAction, DestageFacts, Pressure, choose};
use crate::log::log::{Log, NewBatch};
use crate::log::producer_state::Verdict;
use crate::log::reclaim::Idle;
use crate::log::recovery::{Recovery, RecoveryLimits};
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use crate::model::offset::Offset;
use crate::model::record_batch::{BatchHeader, iter_batches};
use crate::rt::sim::{CrashMode, Sim, SimDisk};
use crate::rt::sync::{Notify, Semaphore};
use crate::rt::testing::say;
use crate::rt::{Lane, fs, random_u64, sleep, spawn};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;
use bytes::{Bytes, BytesMut};

const PARTITIONS: usize = 3;
const LIVES: u64 = 6;

fn journal_config() -> JournalConfig {
    JournalConfig {
        ring_bytes: 3 * 128 * 1024,
        file_bytes: 128 * 1024,
        first_file_bytes: 128 * 1024,
        commit_bytes: 16 * 1024,
        writes_in_flight: 3,
        parallel_bytes_min: 6 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 64 * 1024,
        idle_block_after: Duration::from_millis(50),
    }
}

/// Where the blocks of deleted segments wait.
const SPARES: &str = "/data/spare";

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 30_000,
        ..LogSettings::default()
    }
}

fn limits() -> ContextLimits {
    ContextLimits {
        producers: 1_000,
        reclaim_bytes: 4096,
        tail_bytes: 48 << 10,
        open_files: 2,
        index_bytes: 1 << 10,
        preallocation_bytes: 1 << 20,
        destage_bytes: 8 << 10,
    }
}

fn id(partition: usize) -> TopicPartition {
    let index = PartitionIndex(i32::try_from(partition).expect("small"));
    TopicPartition::new(TopicId::from_bytes([3; 16]), index)
}

fn dir(partition: usize) -> PathBuf {
    PathBuf::from(format!("/data/topics/t-{partition}"))
}

fn below(bound: u64) -> u64 {
    random_u64() % bound
}

/// One appended batch, as it must be found again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    base: i64,
    next: i64,
    bytes: Bytes,
    timestamps: Vec<i64>,
}

/// What must be true of one partition.
#[derive(Debug, Default)]
struct Model {
    /// Everything appended, in order; from `durable_end` on it may be lost.
    batches: Vec<Batch>,
    durable_end: i64,
    log_start: i64,
    /// A log start that was asked for and may be in force.
    log_start_asked: i64,
    /// A truncation that was asked for and may be in force.
    cut_asked: Option<i64>,
    next_sequence: i32,
    /// Batches of the producer that must be recognised: fewer than five after a truncation, because
    /// snapshots hold one for each producer, as Kafka's do.
    window: Option<usize>,
}

impl Model {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.next)
    }

    fn cut(&mut self, end: i64) {
        let is_lost = |batch: &&Batch| {
            let header = BatchHeader::parse(&batch.bytes).expect("a batch");
            batch.next > end && header.has_producer_id()
        };
        let lost = self.batches.iter().filter(is_lost).count();
        self.window = self.window.map(|known| known.saturating_sub(lost).max(1));
        self.batches.retain(|batch| batch.next <= end);
        self.durable_end = self.durable_end.min(end);
        self.log_start_asked = self.log_start_asked.min(end);
        self.refresh_sequence();
    }

    fn recognised(&self) -> usize {
        self.window.unwrap_or(5).min(5)
    }

    fn refresh_sequence(&mut self) {
        let headers = self
            .batches
            .iter()
            .filter_map(|batch| BatchHeader::parse(&batch.bytes).ok());
        let last = headers.filter(BatchHeader::has_producer_id).last();
        self.next_sequence = last.map_or(0, |header| header.last_sequence() + 1);
    }

    /// Whether a log with these bytes may be there after a restart; takes it as the truth.
    fn accept(&mut self, found_end: i64) -> bool {
        let is_end = found_end == 0 || self.batches.iter().any(|batch| batch.next == found_end);
        let was_cut = self.cut_asked == Some(found_end);
        let is_allowed = is_end && (found_end >= self.durable_end || was_cut);
        if was_cut {
            self.window = Some(1);
        }
        self.cut_asked = None;
        self.cut(found_end);
        self.durable_end = found_end;
        is_allowed
    }
}

#[derive(Default)]
struct World {
    models: Vec<Model>,
    appended: usize,
    duplicates: usize,
    truncations: usize,
}

type Shared = Rc<RefCell<World>>;

/// One shard: its journal, its logs, and which control entries have become durable.
struct Shard {
    journal: Journal,
    context: Rc<LogContext>,
    logs: BTreeMap<usize, Rc<Log>>,
    controls: RefCell<BTreeSet<Position>>,
    pending: RefCell<BTreeSet<Position>>,
    progress: Notify,
    /// Pins, records and the file belong together: a checkpoint overtaken by another would free too
    /// much.
    checkpointing: Semaphore,
}

impl Shard {
    async fn enqueue(&self, partition: usize, entry: Entry, is_data: bool) -> Position {
        let len = entry.payload.len();
        let reservation = match is_data {
            true => self.journal.reserve(len).await,
            false => self.journal.reserve_control(len).await,
        };
        let owner = Owner(u64::try_from(partition).expect("small"));
        let reservation = reservation.expect("the journal takes it");
        self.journal
            .enqueue(reservation, owner, entry)
            .expect("the journal takes it")
    }

    /// Waits until a control entry and everything before it is durable and has been told.
    async fn in_force(&self, position: Position) {
        while !self.controls.borrow().contains(&position) {
            self.progress.notified().await;
        }
    }
}

async fn tell_durable(shard: Rc<Shard>, world: Shared) {
    while let Ok(completed) = shard.journal.next_completed().await {
        for done in completed {
            let partition = usize::try_from(done.owner.0).expect("small");
            let log = &shard.logs[&partition];
            log.on_durable(done.next_offset);
            log.advance_high_watermark(log.offsets().durable_end);
            let model = &mut world.borrow_mut().models[partition];
            model.durable_end = model.durable_end.max(done.next_offset.get());
            if matches!(done.kind, EntryKind::LogStart | EntryKind::Truncate) {
                shard.controls.borrow_mut().insert(done.position);
            }
        }
        shard.progress.notify_all();
    }
}

async fn destage(shard: Rc<Shard>) {
    loop {
        sleep(Duration::from_millis(1 + below(20))).await;
        let logs: Vec<(&usize, &Rc<Log>)> = shard.logs.iter().collect();
        let facts: Vec<DestageFacts> = logs
            .iter()
            .map(|(_, log)| DestageFacts {
                destageable_bytes: log.destageable_bytes(),
                undestaged_bytes: log.undestaged_bytes(),
                undestaged_entry: log.undestaged_entry(),
            })
            .collect();
        let fill = if shard.journal.fill() > 0.5 { 900 } else { 0 };
        let pressure = Pressure {
            ring_fill_permille: fill,
            is_tail_full: !shard.context.tail_budget().has_room(),
            destage_bytes: 16 << 10,
        };
        for (index, action) in choose(&facts, pressure) {
            let (partition, log) = logs[index];
            let max = usize::try_from(CARRY_BYTES_MAX).expect("fits");
            if action == DestageAction::Carry {
                let reserved = shard.journal.reserve_control(max).await;
                let Ok(reservation) = reserved else { return }; // the journal is being closed
                if let Some(entry) = log.carry(max) {
                    let owner = Owner(u64::try_from(*partition).expect("small"));
                    let position = shard
                        .journal
                        .enqueue(reservation, owner, entry)
                        .expect("taken");
                    log.on_carried(position);
                    continue;
                }
            }
            log.destage().await.expect("the disk takes it");
        }
        if fill > 0 || below(4) == 0 {
            checkpoint(&shard).await;
        }
    }
}

async fn reclaim(shard: Rc<Shard>) {
    let context = &shard.context;
    context.reclaim().run(context, &Idle).await;
}

async fn checkpoint(shard: &Shard) {
    let _only_one = shard.checkpointing.acquire(1).await;
    let pending = shard.pending.borrow().first().copied();
    let mut pin = shard.journal.next_position();
    pin = pending.map_or(pin, |pending| pin.min(pending));
    let mut records = Vec::new();
    for (partition, log) in &shard.logs {
        let found = log.checkpoint().await.expect("the disk takes it");
        pin = log.pinned_entry().map_or(pin, |pinned| pin.min(pinned));
        if let Some(found) = found {
            let record = Bytes::from(found.encode());
            records.push(PartitionCheckpoint {
                topic_partition: id(*partition),
                record,
            });
        }
    }
    shard
        .journal
        .write_checkpoint(pin, records)
        .await
        .expect("the disk takes it");
    for log in shard.logs.values() {
        log.on_checkpointed();
    }
}

/// Brings the directory to rest, whatever number of shards wrote it.
async fn recover(shard_count: usize) -> Vec<Retired> {
    let limits = RecoveryLimits {
        memory_bytes: 20_000,
        open_partitions: 2,
    };
    let mut recovery = Recovery::new("/data", limits);
    for partition in 0..PARTITIONS {
        recovery.add(id(partition), dir(partition), settings());
    }
    let mut replays = Vec::new();
    for shard in 0..3 {
        let path = PathBuf::from(format!("/data/journal/shard-{shard:03}"));
        if shard >= shard_count && !fs::exists(&path).await.expect("looks") {
            continue;
        }
        let mut replay = Replay::open(&path).await.expect("the journal is whole");
        for found in replay.partitions() {
            recovery
                .set_record(found.topic_partition, &found.record)
                .expect("a record");
        }
        while let Some(found) = replay.next_entry().await.expect("the journal is whole") {
            recovery
                .apply(found.entry)
                .await
                .expect("the disk takes it");
        }
        replays.push(replay);
    }
    for recovered in recovery.finish().await.expect("the disk takes it") {
        recovered.outcome.expect("every partition can be recovered");
    }
    let mut retired = Vec::new();
    for (shard, replay) in replays.into_iter().enumerate() {
        if shard < shard_count {
            retired.push(replay.retire(Vec::new()).await.expect("retires"));
        } else {
            replay.remove().await.expect("removes");
        }
    }
    retired
}

async fn start(world: &Shared, shard_count: usize, salt: usize) -> Vec<Rc<Shard>> {
    let mut shards = Vec::new();
    fs::remove_dir_all(SPARES).await.ok();
    fs::create_dir_all(SPARES).await.expect("the disk takes it");
    for (number, retired) in recover(shard_count).await.into_iter().enumerate() {
        let context = LogContext::new(limits());
        context.reclaim().keep_spares(PathBuf::from(SPARES));
        let mut logs = BTreeMap::new();
        for partition in (0..PARTITIONS).filter(|p| (p + salt) % shard_count == number) {
            let log = Log::open(&context, dir(partition), id(partition), settings()).await;
            let log = log.expect("a recovered directory opens");
            verify(world, partition, &log).await;
            logs.insert(partition, log);
        }
        let journal = Journal::open(retired, journal_config())
            .await
            .expect("opens");
        let (controls, pending) = (RefCell::default(), RefCell::default());
        let (progress, checkpointing) = (Notify::new(), Semaphore::new(1));
        let shard = Rc::new(Shard {
            journal,
            context,
            logs,
            controls,
            pending,
            progress,
            checkpointing,
        });
        spawn(
            Lane::Commit,
            "complete",
            tell_durable(shard.clone(), world.clone()),
        )
        .detach();
        spawn(Lane::Background, "destage", destage(shard.clone())).detach();
        spawn(Lane::Background, "reclaim", reclaim(shard.clone())).detach();
        shards.push(shard);
    }
    shards
}

/// A freshly opened log holds what was durable, at most what was appended, and nothing else.
async fn verify(world: &Shared, partition: usize, log: &Log) {
    let offsets = log.offsets();
    {
        let model = &mut world.borrow_mut().models[partition];
        let (end, start) = (offsets.log_end.get(), offsets.log_start.get());
        let (durable, cut) = (model.durable_end, model.cut_asked);
        assert!(
            model.accept(end),
            "partition {partition}: end {end}, durable {durable}, cut {cut:?}"
        );
        let is_start = start == model.log_start || start == model.log_start_asked.min(end);
        assert!(is_start, "partition {partition}: start {start}: {model:?}");
        (model.log_start, model.log_start_asked) = (start, start);
    }
    let mut total = 0;
    for entry in fs::read_dir(dir(partition)).await.expect("lists") {
        let name = entry.name.to_string_lossy().into_owned();
        assert!(!has_extension(&name, "tmp"), "{name}");
        total += if has_extension(&name, "log") {
            entry.len
        } else {
            0
        };
    }
    log.delete_retired().await.expect("deletes");
    assert!(
        total >= log.size_bytes(),
        "partition {partition}: files have their exact lengths"
    );
    let mut from = offsets.log_start.get();
    while from < offsets.log_end.get() {
        from = read_from(
            world,
            partition,
            log,
            from,
            1 + usize::try_from(below(20_000)).expect("fits"),
        )
        .await;
    }
    let model = &world.borrow().models[partition];
    let newest = model
        .batches
        .iter()
        .rev()
        .map(|b| BatchHeader::parse(&b.bytes).expect("a batch"));
    for header in newest
        .filter(BatchHeader::has_producer_id)
        .take(model.recognised())
    {
        let verdict = log.check_producer(&header);
        assert!(
            matches!(&verdict, Ok(Verdict::Duplicate(b)) if b.base_offset() == header.base_offset),
            "partition {partition}: {verdict:?} for {header:?}"
        );
    }
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|found| found == extension)
}

/// Reads once and compares; returns where the next read goes on.
async fn read_from(world: &Shared, partition: usize, log: &Log, from: i64, max: usize) -> i64 {
    let bound = log.offsets().high_watermark;
    let plan = log
        .read(Offset::new(from), max, bound, true)
        .await
        .expect("reads");
    let bytes = plan.into_bytes().await.expect("reads");
    let model = &world.borrow().models[partition];
    let mut next = from;
    for (number, found) in iter_batches(&bytes).enumerate() {
        let (header, batch) = found.expect("whole batches");
        let expected = model
            .batches
            .iter()
            .find(|batch| batch.next > next)
            .expect("a batch");
        assert_eq!(batch, &expected.bytes, "partition {partition} from {from}");
        assert!(header.next_offset() <= bound && (number > 0 || expected.base <= from));
        next = expected.next;
    }
    assert!(
        next > from || from >= bound.get(),
        "partition {partition}: nothing at {from} of {bound}"
    );
    next
}

async fn append(world: &Shared, shard: &Shard, partition: usize) {
    let log = &shard.logs[&partition];
    shard.context.tail_budget().wait_for_room().await;
    if let Some(entry) = log.prepare().await.expect("the disk gives it") {
        let position = shard.enqueue(partition, entry, false).await;
        log.on_enqueued(position);
    }
    let (end, sequence) = {
        let model = &world.borrow().models[partition];
        (model.end(), model.next_sequence)
    };
    let mut builder = BatchBuilder::new();
    let is_idempotent = below(2) == 0;
    if is_idempotent {
        builder = builder.producer(ProducerId(5), ProducerEpoch(0), sequence);
    }
    let size = if below(10) == 0 {
        below(5_000)
    } else {
        below(600)
    };
    let mut timestamps = Vec::new();
    for _ in 0..=below(4) {
        let timestamp = end * 10 + i64::try_from(below(40)).expect("fits");
        timestamps.push(timestamp);
        let value =
            vec![u8::try_from(below(256)).expect("fits"); usize::try_from(size).expect("fits")];
        builder.push(timestamp, None, Some(&value));
    }
    let new = NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch");
    let reservation = shard.journal.reserve(new.bytes.len()).await.expect("room");
    assert_eq!(
        log.check_producer(&new.header),
        Ok(Verdict::Append),
        "partition {partition}"
    );
    let count = timestamps.len();
    let appended = log.append(new, LeaderEpoch(1), 1).expect("appends");
    let bytes = appended.entry.payload.clone().into_bytes();
    let owner = Owner(u64::try_from(partition).expect("small"));
    let position = shard
        .journal
        .enqueue(reservation, owner, appended.entry)
        .expect("taken");
    log.on_enqueued(position);
    let (base, next) = (appended.base_offset.get(), appended.next_offset.get());
    let mut world = world.borrow_mut();
    world.appended += 1;
    let model = &mut world.models[partition];
    assert_eq!(
        (base, next),
        (end, end + i64::try_from(count).expect("fits")),
        "offsets are dense"
    );
    model.batches.push(Batch {
        base,
        next,
        bytes,
        timestamps,
    });
    if is_idempotent {
        model.window = model.window.map(|known| known + 1);
        model.next_sequence = sequence + i32::try_from(count).expect("fits");
    }
}

fn retry(world: &Shared, shard: &Shard, partition: usize) {
    let mut world = world.borrow_mut();
    let model = &world.models[partition];
    let newest = model
        .batches
        .iter()
        .rev()
        .map(|b| BatchHeader::parse(&b.bytes).expect("a batch"));
    let skip = usize::try_from(below(5)).expect("fits");
    if let Some(header) = newest
        .filter(BatchHeader::has_producer_id)
        .take(model.recognised())
        .nth(skip)
    {
        let verdict = shard.logs[&partition].check_producer(&header);
        assert!(matches!(verdict, Ok(Verdict::Duplicate(_))), "{verdict:?}");
        world.duplicates += 1;
    }
}

async fn look_up(world: &Shared, shard: &Shard, partition: usize) {
    let log = &shard.logs[&partition];
    let (bound, start) = (log.offsets().high_watermark, log.offsets().log_start);
    let wanted = i64::try_from(below(1 + bound.get().unsigned_abs() * 10)).expect("fits");
    let found = log
        .offset_for_timestamp(wanted, bound)
        .await
        .expect("looks up");
    let model = &world.borrow().models[partition];
    let records = model
        .batches
        .iter()
        .filter(|batch| batch.next <= bound.get())
        .flat_map(|batch| (batch.base..).zip(batch.timestamps.iter().copied()));
    let expected = records
        .into_iter()
        .find(|(offset, time)| *time >= wanted && *offset >= start.get());
    let found = found.map(|found| (found.offset.get(), found.timestamp));
    assert_eq!(
        found, expected,
        "partition {partition}: {wanted} below {bound}"
    );
}

async fn advance_log_start(world: &Shared, shard: &Shard, partition: usize) {
    let log = &shard.logs[&partition];
    let offsets = log.offsets();
    let span = offsets
        .high_watermark
        .distance_from(offsets.log_start)
        .unsigned_abs();
    let to = offsets
        .log_start
        .plus(i64::try_from(below(span / 2 + 1)).expect("fits"));
    let Some(entry) = log.log_start_entry(to).expect("below the high watermark") else {
        return;
    };
    world.borrow_mut().models[partition].log_start_asked = to.get();
    let position = shard.enqueue(partition, entry, false).await;
    shard.pending.borrow_mut().insert(position);
    shard.in_force(position).await;
    log.advance_log_start(to);
    shard.pending.borrow_mut().remove(&position);
    world.borrow_mut().models[partition].log_start = to.get();
    log.delete_retired().await.expect("deletes");
}

async fn truncate(world: &Shared, shard: &Shard, partition: usize) {
    let log = &shard.logs[&partition];
    let offsets = log.offsets();
    let span = offsets
        .log_end
        .distance_from(offsets.log_start)
        .unsigned_abs();
    let back = i64::try_from(below(1 + span.min(60))).expect("fits");
    let Some(plan) = log
        .plan_truncation(offsets.log_end.plus(-back))
        .await
        .expect("plans")
    else {
        return;
    };
    if plan.next_offset < offsets.log_start {
        return;
    }
    world.borrow_mut().models[partition].cut_asked = Some(plan.next_offset.get());
    let position = shard
        .enqueue(partition, log.begin_truncation(&plan), false)
        .await;
    shard.pending.borrow_mut().insert(position);
    shard.in_force(position).await;
    log.truncate(&plan).await.expect("truncates");
    shard.pending.borrow_mut().remove(&position);
    let mut world = world.borrow_mut();
    world.truncations += 1;
    let model = &mut world.models[partition];
    model.cut_asked = None;
    model.cut(plan.next_offset.get());
    model.window = Some(1);
}

/// One run of the program: recovery, random work, and perhaps a clean stop.
async fn life(world: Shared, shard_count: usize, salt: usize) {
    let shards = start(&world, shard_count, salt).await;
    for _ in 0..below(250) {
        let partition = usize::try_from(below(3)).expect("fits");
        let shard = shards
            .iter()
            .find(|shard| shard.logs.contains_key(&partition))
            .expect("homed");
        let log = &shard.logs[&partition];
        match below(40) {
            0..22 => append(&world, shard, partition).await,
            22..25 => retry(&world, shard, partition),
            25..31 => {
                let (start, end) = (log.offsets().log_start.get(), log.offsets().log_end.get());
                let from =
                    start + i64::try_from(below((end - start).unsigned_abs() + 1)).expect("fits");
                let max = usize::try_from(below(30_000)).expect("fits");
                if from < log.offsets().high_watermark.get() {
                    read_from(&world, partition, log, from, max).await;
                }
            }
            31..33 => look_up(&world, shard, partition).await,
            33 => log.roll(1),
            34 => drop(log.destage().await.expect("the disk takes it")),
            35 => checkpoint(shard).await,
            36 => advance_log_start(&world, shard, partition).await,
            37 => truncate(&world, shard, partition).await,
            _ => sleep(Duration::from_millis(below(30))).await,
        }
    }
    if below(3) == 0 {
        stop(&shards).await;
    }
}

async fn stop(shards: &[Rc<Shard>]) {
    for shard in shards {
        shard.checkpointing.acquire(1).await.forget();
        shard.journal.close().await.expect("closes");
        let ends: Vec<Offset> = shard
            .logs
            .values()
            .map(|log| log.offsets().log_end)
            .collect();
        while shard
            .logs
            .values()
            .zip(&ends)
            .any(|(log, end)| log.offsets().durable_end < *end)
        {
            sleep(Duration::from_millis(1)).await;
        }
        for log in shard.logs.values() {
            log.close().await.expect("closes");
        }
        shard.journal.write_stopped().await.expect("says so");
    }
}

fn run_seed(seed: u64, totals: &mut (usize, usize, usize, usize)) {
    let disk = SimDisk::new(seed);
    Sim::with_disk(seed, disk.clone()).run(async {
        fs::create_dir_all("/data/journal").await.expect("makes");
        fs::create_dir_all("/data/topics").await.expect("makes");
        fs::sync_filesystem("/").await.expect("flushes");
    });
    let world: Shared = Rc::default();
    world
        .borrow_mut()
        .models
        .resize_with(PARTITIONS, Model::default);
    for number in 0..LIVES {
        let draw = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(number * 977 + 1)
            >> 20;
        let sim = Sim::with_disk(seed * 100 + number, disk.clone());
        let (shard_count, salt) = (1 + index(draw % 3), index(draw / 3 % 3));
        if !(draw / 9).is_multiple_of(4) {
            disk.crash_after(1 + draw / 36 % 900);
        }
        let ended = sim.run_until_crash(life(world.clone(), shard_count, salt));
        if ended.is_none() {
            let mode = [CrashMode::Lose, CrashMode::Keep, CrashMode::Torn][index(draw / 7 % 3)];
            disk.crash(mode);
            totals.3 += 1;
        } else {
            disk.crash_after(u64::MAX / 2);
        }
    }
    // whatever happened, the last start finds everything, and leaves nothing that was deleted
    disk.crash(CrashMode::Lose);
    Sim::with_disk(seed * 100 + 99, disk).run(async {
        let shards = start(&world, 1, 0).await;
        while shards[0].context.reclaim().waiting_count() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
        for partition in 0..PARTITIONS {
            let found = fs::read_dir(dir(partition)).await.unwrap_or_default();
            let mut names = found.iter().map(|entry| entry.name.to_string_lossy());
            assert!(!names.any(|name| has_extension(&name, "deleted")));
        }
    });
    let world = world.borrow();
    totals.0 += world.appended;
    totals.1 += world.duplicates;
    totals.2 += world.truncations;
}

fn segments_reused() -> u64 {
    metrics::local().counter(Counter::SegmentsReused)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("small")
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

#[test]
fn logs_and_journals_keep_what_they_made_durable() {
    let seeds = seeds(60);
    let count = seeds.end - seeds.start;
    let reused_before = segments_reused();
    let mut totals = (0, 0, 0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run_seed(seed, &mut totals);
        }));
        if let Err(panic) = outcome {
            println!("SIM_SEED={seed} cargo test --lib log::model_tests");
            std::panic::resume_unwind(panic);
        }
    }
    let (appended, duplicates, truncations, crashes) = totals;
    let reused = segments_reused() - reused_before;
    say(&format!(
        "{count} seeds, {crashes} power failures, {appended} batches, {duplicates} duplicates, \
         {truncations} truncations, {reused} segments in used blocks"
    ));
    assert!(count < 10 || reused > 0);
}

/// What this model sees of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_noticed;

    #[track_caller]
    fn assert_model_notices(which: Break, seeds: u64) {
        assert_noticed(which, 0..seeds, |seed| run_seed(seed, &mut (0, 0, 0, 0)));
    }

    #[test]
    fn a_checkpoint_of_bytes_that_are_not_flushed_is_noticed() {
        assert_model_notices(Break::CheckpointBeforeDestageFlush, 20);
    }

    #[test]
    fn a_directory_whose_name_is_not_flushed_is_noticed() {
        assert_model_notices(Break::DirectoryNotSynced, 20);
    }

    #[test]
    fn a_checkpoint_with_producers_of_later_batches_is_noticed() {
        assert_model_notices(Break::ProducerSnapshotAhead, 20);
    }

    #[test]
    fn a_checkpoint_without_the_log_start_is_noticed() {
        assert_model_notices(Break::LogStartForgotten, 20);
    }

    #[test]
    fn a_log_start_that_replay_passes_over_is_noticed() {
        assert_model_notices(Break::ControlEntrySkipped, 20);
    }

    #[test]
    fn a_truncation_that_replay_passes_over_is_noticed() {
        assert_model_notices(Break::TruncationSkipped, 20);
    }

    #[test]
    fn a_repetition_that_is_no_duplicate_is_noticed() {
        assert_model_notices(Break::DuplicateAppended, 20);
    }
}

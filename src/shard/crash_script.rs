//! What the shard is made to do while the power fails: a little of everything, in a fixed order.
//!
//! For the tests in `crash_tests.rs`. Sizes are so small that a few kilobytes roll segments, wrap
//! the journal's ring and fill the tail; everything behind `Shard` is production code.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::cluster::controller::NewTopic;
use crate::cluster::metadata_log::MetadataLog;
use crate::config::BrokerConfig;
use crate::config::layers::{Settings, Source};
use crate::config::machine::{MachineFacts, ShardSettings, resolve};
use crate::journal::Journal;
use crate::journal::config::JournalConfig;
use crate::log::context::{ContextLimits, LogContext};
use crate::log::log::NewBatch;
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{LeaderEpoch, ProducerEpoch, ShardId};
use crate::model::offset::Offset;
use crate::model::record_batch::set_base_offset_and_epoch;
use crate::rt::sim::{Sim, SimDisk};
use crate::rt::{sleep, unix_ms};
use crate::shard::calls::AppendPart;
use crate::shard::crash_model::{
    Batch, PartitionModel, Place, Shared, Stage, TopicModel, id_of, verify,
};
use crate::shard::lifecycle::Running;
use crate::shard::recovery;
use crate::shard::shard::{Parts, Process, Shard};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;

/// Longer than the time between two checkpoints.
const CHECKPOINT: Duration = Duration::from_secs(11);
/// The destager looks more often.
const DESTAGE: Duration = Duration::from_millis(100);
/// Retention looks more often.
const RETENTION: Duration = Duration::from_millis(2500);

/// A plain log, and one whose producer is idempotent.
const PLAIN: Place = ("plain", 0);
const IDEMPOTENT: Place = ("plain", 1);
/// Retention takes its front away.
const KEPT: Place = ("kept", 0);
/// Its topic is deleted, made again, and deleted.
const GONE: Place = ("gone", 0);

const KEPT_BYTES: u64 = 15_000;

pub(super) fn config() -> BrokerConfig {
    let mut settings = Settings::default();
    for (name, value) in [
        ("data.dir", "/data"),
        ("log.segment.bytes", "40000"),
        ("log.retention.check.interval.ms", "2000"),
        ("memory.per.shard", "64MiB"),
        ("journal.size", "16MiB"),
    ] {
        settings
            .set(name, value, Source::Flag, "test")
            .expect("a setting");
    }
    BrokerConfig::new(settings).expect("valid")
}

fn settings() -> ShardSettings {
    let facts = MachineFacts {
        cores: vec![0],
        cpu_quota_millis: None,
        memory_available_bytes: 4 << 30,
        disk_free_bytes: 100 << 30,
        journal_present_bytes: 0,
    };
    let mut settings = resolve(&config(), &facts).expect("enough of everything");
    settings.destage_bytes = 8 << 10;
    settings.pools.tail_bytes = 24 << 10; // of which recovery takes its memory
    settings
}

fn ring() -> JournalConfig {
    JournalConfig {
        ring_bytes: 3 * 128 * 1024,
        file_bytes: 128 * 1024,
        first_file_bytes: 128 * 1024,
        commit_bytes: 16 * 1024,
        writes_in_flight: 3,
        parallel_bytes_min: 4 * 1024,
        queue_bytes_max: 64 * 1024,
        ..JournalConfig::default()
    }
}

fn limits() -> ContextLimits {
    ContextLimits {
        producers: 1_000,
        tail_bytes: 48 << 10,
        open_files: 2,
        index_bytes: 1 << 10,
        preallocation_bytes: 1 << 20,
        destage_bytes: 8 << 10,
        reclaim_bytes: 4096,
    }
}

pub(super) type Started = (Rc<Shard>, Running);

/// Brings the directory to rest and starts the one shard, as the broker does.
pub(super) async fn start() -> Started {
    let settings = settings();
    let recovered = recovery::run(&config(), &settings, 1).await;
    let mut recovered = recovered.expect("what a crash left can be recovered");
    assert!(recovered.offline.is_empty(), "{:?}", recovered.offline);
    let retired = recovered.journals.remove(0);
    let process = Arc::new(Process {
        cluster_id: recovered.identity.cluster_id,
        data_dir: "/data".into(),
        config: config(),
        settings,
        shard_count: 1,
        offline: recovered.offline,
        set_aside: recovered.set_aside,
    });
    let opened = MetadataLog::open(Path::new("/data/metadata"), true).await;
    let (metadata_log, image) = opened.expect("what recovery left can be opened");
    let image = Arc::new(image);
    // `Shard::open`, with a ring and limits below those that can be set, and without the reserve
    // for a full disk, which nobody reads
    let shard = Shard::new(Parts {
        id: ShardId(0),
        process,
        image: image.clone(),
        journal: Journal::open(retired, ring()).await.expect("opens"),
        logs: LogContext::new(limits()),
        metrics: metrics::start_shard(ShardId(0)),
        metadata_log: Some(metadata_log),
    });
    shard.logs.reclaim().keep_spares("/data/spare".into());
    shard.set_image(image.clone());
    let opened = shard.open_partitions(&image).await;
    opened.expect("recovered directories open");
    let running = shard.start(Vec::new());
    (shard, running)
}

/// Whatever may be seen from outside must not be taken back by a crash.
fn observe(world: &Shared, shard: &Shard) {
    let places = world.borrow().places();
    for place in places {
        let id = id_of(world, place);
        let offsets = shard.partitions.find(id).expect("open").log().offsets();
        let (start, end) = (offsets.log_start.get(), offsets.high_watermark.get());
        let mut world = world.borrow_mut();
        let model = world.partition(place);
        assert!(
            start <= model.log_start_asked || model.may_retain_from(start),
            "{place:?} starts at {start}"
        );
        model.observe(start, end);
    }
}

async fn pause(world: &Shared, shard: &Shard, time: Duration) {
    sleep(time).await;
    observe(world, shard);
}

pub(super) async fn create(
    world: &Shared,
    shard: &Rc<Shard>,
    name: &'static str,
    partition_count: usize,
    configs: &[(&str, &str)],
) {
    let retention = configs.iter().find(|(name, _)| *name == "retention.bytes");
    let model = PartitionModel {
        retention_bytes: retention.map(|(_, bytes)| bytes.parse().expect("a number")),
        ..PartitionModel::default()
    };
    let topic = TopicModel {
        stage: Stage::Creating,
        id: None,
        partitions: vec![model; partition_count],
    };
    world.borrow_mut().topics.insert(name, topic);
    let new = NewTopic {
        name: name.to_owned(),
        partition_count: i32::try_from(partition_count).expect("small"),
        replication_factor: 1,
        configs: configs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect(),
        ..NewTopic::default()
    };
    let created = shard.create_topics(vec![new], false).await.remove(0);
    let id = created.expect("creates").id;
    let mut world = world.borrow_mut();
    let topic = world.topics.get_mut(name).expect("just inserted");
    (topic.stage, topic.id) = (Stage::There, Some(id));
    world.acknowledged += 1;
}

pub(super) async fn delete(world: &Shared, shard: &Rc<Shard>, name: &'static str) {
    let id = id_of(world, (name, 0)).topic;
    if let Some(topic) = world.borrow_mut().topics.get_mut(name) {
        topic.stage = Stage::Deleting;
    }
    let deleted = shard.delete_topics(vec![id]).await.remove(0);
    deleted.expect("deletes");
    let mut world = world.borrow_mut();
    world.topics.remove(name);
    world.acknowledged += 1;
}

/// A producer id that nobody has had before.
async fn introduce(world: &Shared, shard: &Rc<Shard>) {
    let id = shard.next_producer_id().await.expect("there are some");
    let id = crate::model::ids::ProducerId(id);
    let mut world = world.borrow_mut();
    assert!(world.producer.is_none_or(|before| before < id), "{id:?}");
    world.producer = Some(id);
}

/// The next batch of a partition, submitted: one record of about `size` bytes that says where it
/// belongs.
fn next_batch(world: &Shared, place: Place, size: usize) -> Batch {
    let mut world = world.borrow_mut();
    let producer = world.producer;
    let model = world.partition(place);
    let (base, is_idempotent) = (model.end(), place == IDEMPOTENT);
    let mut builder = BatchBuilder::new();
    if is_idempotent {
        let producer = producer.expect("introduced before");
        builder = builder.producer(producer, ProducerEpoch(0), model.next_sequence());
    }
    let value = format!("{place:?} {base} {}", "v".repeat(size));
    builder.push(unix_ms(), None, Some(value.as_bytes()));
    let mut bytes = builder.build();
    set_base_offset_and_epoch(&mut bytes, Offset::new(base), LeaderEpoch(0));
    let batch = Batch {
        base,
        next: base + 1,
        bytes: Bytes::from(bytes),
        is_idempotent,
    };
    model.push(batch.clone());
    batch
}

fn part(world: &Shared, place: Place, batch: &Batch) -> AppendPart {
    AppendPart {
        partition: id_of(world, place),
        batch: NewBatch::own(BytesMut::from(&batch.bytes[..])).expect("a batch"),
        log_append_time_ms: -1,
    }
}

/// Appends batches of these sizes, all under way at once.
pub(super) async fn append(world: &Shared, shard: &Rc<Shard>, place: Place, sizes: &[usize]) {
    let mut under_way = Vec::new();
    for size in sizes {
        let batch = next_batch(world, place, *size);
        let pending = shard.append(vec![part(world, place, &batch)]).await;
        under_way.push((batch, pending));
    }
    for (batch, pending) in under_way {
        let appended = pending.outcomes().await.remove(0).expect("appends");
        assert_eq!(appended.base_offset.get(), batch.base, "offsets are dense");
        let mut world = world.borrow_mut();
        world.acknowledged += 1;
        let model = world.partition(place);
        model.durable_end = model.durable_end.max(batch.next);
    }
    observe(world, shard);
}

/// Sends the producer's last batch again: it is there already.
async fn retry(world: &Shared, shard: &Rc<Shard>, place: Place) {
    let recognised = world.borrow_mut().partition(place).recognised();
    let Some(batch) = recognised.into_iter().next() else {
        return;
    };
    let pending = shard.append(vec![part(world, place, &batch)]).await;
    let appended = pending.outcomes().await.remove(0).expect("recognised");
    assert_eq!(appended.base_offset.get(), batch.base, "{place:?}");
    let id = id_of(world, place);
    let end = shard.partitions.find(id).expect("open").log().offsets();
    let expected = world.borrow_mut().partition(place).end();
    assert_eq!(end.log_end.get(), expected, "{place:?}: appended twice");
}

async fn delete_records(world: &Shared, shard: &Rc<Shard>, place: Place, to: i64) {
    world.borrow_mut().partition(place).log_start_asked = to;
    let id = id_of(world, place);
    let moved = shard.delete_records(vec![(id, to)]).await.remove(0);
    assert_eq!(moved.expect("moves").get(), to);
    let mut world = world.borrow_mut();
    world.partition(place).log_start = to;
    world.acknowledged += 1;
}

/// Cuts the last `back` records off. Nothing does so yet but a log's own code: the order is that
/// of `Shard::advance_log_start`.
async fn truncate(world: &Shared, shard: &Rc<Shard>, place: Place, back: i64) {
    sleep(Duration::from_millis(1)).await; // the completions before have been told
    let id = id_of(world, place);
    let partition = shard.partitions.find(id).expect("open");
    let log = partition.log();
    let reservation = shard.journal.reserve_control(0).await.expect("room");
    let plan = log.plan_truncation(log.offsets().log_end.plus(-back)).await;
    let plan = plan.expect("plans").expect("something to cut off");
    let end = plan.next_offset.get();
    world.borrow_mut().partition(place).cut_asked = Some(end);
    let entry = log.begin_truncation(&plan);
    let enqueued = shard.journal.enqueue(reservation, partition.owner(), entry);
    let position = enqueued.expect("taken");
    shard.changed.add(&partition);
    shard.changed.pending.borrow_mut().insert(position);
    shard.journal.durable(position).await.expect("durable");
    sleep(Duration::from_millis(1)).await;
    log.truncate(&plan).await.expect("truncates");
    shard.changed.pending.borrow_mut().remove(&position);
    let mut world = world.borrow_mut();
    world.partition(place).truncate(end);
    world.acknowledged += 1;
}

fn end(world: &Shared, place: Place) -> i64 {
    world.borrow_mut().partition(place).end()
}

/// What must have happened in the whole script, or it tests less than it seems to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) rolled: u64,
    pub(super) deleted: u64,
    pub(super) reused: u64,
    pub(super) destaged_bytes: u64,
    pub(super) duplicates: u64,
    /// Times that the ring was written over.
    pub(super) wraps: u64,
}

impl Done {
    fn of(shard: &Shard) -> Self {
        let count = |counter| shard.metrics.counter(counter);
        Self {
            rolled: count(Counter::SegmentsRolled),
            deleted: count(Counter::SegmentsDeleted),
            reused: count(Counter::SegmentsReused),
            destaged_bytes: count(Counter::DestagedBytes),
            duplicates: count(Counter::DuplicateBatches),
            wraps: shard.journal.stats().written_bytes / shard.journal.capacity(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            rolled: self.rolled + other.rolled,
            deleted: self.deleted + other.deleted,
            reused: self.reused + other.reused,
            destaged_bytes: self.destaged_bytes + other.destaged_bytes,
            duplicates: self.duplicates + other.duplicates,
            wraps: self.wraps + other.wraps,
        }
    }
}

/// The first start, with topics, and everything that happens to them; a clean stop.
async fn first_life(world: Shared) -> Done {
    let (shard, running) = start().await;
    create(&world, &shard, "plain", 2, &[]).await;
    let kept = KEPT_BYTES.to_string();
    let configs = [
        ("retention.bytes", kept.as_str()),
        ("segment.bytes", "12000"),
    ];
    create(&world, &shard, "kept", 1, &configs).await;
    create(&world, &shard, "gone", 1, &[]).await;
    introduce(&world, &shard).await;
    for size in [100, 700] {
        for place in [PLAIN, IDEMPOTENT, KEPT, GONE] {
            append(&world, &shard, place, &[size, 300]).await;
        }
    }
    retry(&world, &shard, IDEMPOTENT).await;
    // destaged, not flushed
    append(&world, &shard, PLAIN, &[3000; 4]).await;
    append(&world, &shard, IDEMPOTENT, &[2500; 4]).await;
    pause(&world, &shard, DESTAGE).await;
    // a segment is sealed, another one begun, and all of it checkpointed
    append(&world, &shard, PLAIN, &[3000; 3]).await;
    append(&world, &shard, KEPT, &[3500; 7]).await;
    pause(&world, &shard, DESTAGE).await;
    pause(&world, &shard, CHECKPOINT).await;
    pause(&world, &shard, RETENTION).await;
    // in the blocks of a segment that retention has taken away
    append(&world, &shard, KEPT, &[3500; 4]).await;
    pause(&world, &shard, DESTAGE).await;
    // log starts within the open segment, and behind a sealed one
    delete_records(&world, &shard, IDEMPOTENT, 3).await;
    let to = end(&world, PLAIN) - 1;
    delete_records(&world, &shard, PLAIN, to).await;
    append(&world, &shard, PLAIN, &[500]).await;
    // a topic goes that the ring has entries of, and comes again
    delete(&world, &shard, "gone").await;
    create(&world, &shard, "gone", 1, &[]).await;
    append(&world, &shard, GONE, &[200, 200]).await;
    // what is cut off is in memory, then in files, then in another segment
    append(&world, &shard, IDEMPOTENT, &[150; 3]).await;
    truncate(&world, &shard, IDEMPOTENT, 2).await;
    append(&world, &shard, IDEMPOTENT, &[160, 5000, 5000, 5000]).await;
    pause(&world, &shard, DESTAGE).await;
    truncate(&world, &shard, IDEMPOTENT, 3).await;
    append(&world, &shard, IDEMPOTENT, &[170, 180]).await;
    pause(&world, &shard, CHECKPOINT).await;
    retry(&world, &shard, IDEMPOTENT).await;
    let done = Done::of(&shard);
    shard.stop(running).await.expect("stops");
    done
}

/// A start from plain directories, a full ring with a partition that is carried, and the end
/// without a stop.
async fn second_life(world: Shared) -> Done {
    let (shard, _running) = start().await;
    verify(&world, &shard).await;
    retry(&world, &shard, IDEMPOTENT).await;
    for place in [GONE, IDEMPOTENT] {
        append(&world, &shard, place, &[250]).await;
    }
    for round in 0..12 {
        append(&world, &shard, PLAIN, &[12_000, 12_000, 1000]).await;
        if round % 4 == 0 {
            append(&world, &shard, KEPT, &[4000; 2]).await;
        }
        pause(&world, &shard, DESTAGE).await;
    }
    pause(&world, &shard, RETENTION).await;
    truncate(&world, &shard, PLAIN, 4).await;
    append(&world, &shard, PLAIN, &[300]).await;
    delete(&world, &shard, "gone").await;
    append(&world, &shard, IDEMPOTENT, &[250, 6000, 6000]).await;
    pause(&world, &shard, CHECKPOINT).await;
    append(&world, &shard, KEPT, &[100]).await;
    append(&world, &shard, IDEMPOTENT, &[100]).await;
    Done::of(&shard)
}

/// The whole script on an empty disk, or as far as the power lasts.
pub(super) fn play(disk: &SimDisk, seed: u64, world: &Shared) -> Option<Done> {
    let first = Sim::with_disk(seed, disk.clone()).run_until_crash(first_life(world.clone()))?;
    let second =
        Sim::with_disk(seed + 1, disk.clone()).run_until_crash(second_life(world.clone()))?;
    Some(first.and(second))
}

/// Life goes on after a recovery: everything still works, and is acknowledged.
pub(super) async fn go_on(world: &Shared, shard: &Rc<Shard>) {
    introduce(world, shard).await;
    let places = world.borrow().places();
    for place in places {
        retry(world, shard, place).await;
        append(world, shard, place, &[120, 90]).await;
    }
    if world.borrow().topics.contains_key("plain") {
        let to = end(world, PLAIN) - 1;
        delete_records(world, shard, PLAIN, to).await;
        append(world, shard, PLAIN, &[4000; 3]).await;
    }
    create(world, shard, "after", 1, &[]).await;
    append(world, shard, ("after", 0), &[110]).await;
    if world.borrow().topics.contains_key("gone") {
        delete(world, shard, "gone").await;
    }
    pause(world, shard, DESTAGE).await;
}

/// Stops when everything that was deleted has been given back.
pub(super) async fn stop((shard, running): Started) {
    let is_given_back = || {
        let mut logs = shard.partitions.all().into_iter();
        shard.logs.reclaim().waiting_count() == 0 && !logs.any(|p| p.log().has_retired())
    };
    // seen twice: between its renaming and its waiting a segment is nowhere
    let mut seen = 0;
    for _ in 0..100 {
        sleep(DESTAGE).await;
        seen = if is_given_back() { seen + 1 } else { 0 };
        if seen == 2 {
            break;
        }
    }
    assert!(seen == 2, "it is given back in 10 s");
    shard.stop(running).await.expect("stops");
}

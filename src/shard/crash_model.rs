//! What must be true of a data directory whenever the power failed: topics, batches, log starts,
//! producers, as whoever asked for them was told.
//!
//! For the tests in `crash_tests.rs`. What was asked for and not answered may have happened or not;
//! what was answered has happened, and nothing else has.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use crate::cluster::metadata::Image;
use crate::log::producer_state::Verdict;
use crate::model::ids::{ProducerId, TopicId, TopicPartition};
use crate::model::offset::Offset;
use crate::model::record_batch::{BatchHeader, iter_batches};
use crate::partition::reads::FetchPart;
use crate::rt::fs;
use crate::rt::sim::SimDisk;
use crate::shard::check;
use crate::shard::shard::Shard;

/// Batches of a producer that are recognised when they come again.
const WINDOW: usize = 5;

/// One submitted batch, as it must be found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) base: i64,
    pub(super) next: i64,
    /// With its offset and epoch.
    pub(super) bytes: Bytes,
    pub(super) is_idempotent: bool,
}

/// What must be true of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionModel {
    /// Everything submitted, in order; what ends above `durable_end` may be lost.
    pub(super) batches: Vec<Batch>,
    /// Below is acknowledged or was visible to consumers.
    pub(super) durable_end: i64,
    /// A log start that was told or visible.
    pub(super) log_start: i64,
    /// A log start that was asked for and may be in force.
    pub(super) log_start_asked: i64,
    /// A truncation that was asked for and may be in force.
    pub(super) cut_asked: Option<i64>,
    /// Batches of the producer that must be recognised: fewer after a truncation, because snapshots
    /// hold one for each producer, as Kafka's do.
    pub(super) window: usize,
    /// Retention may move the log start as long as so many bytes are left.
    pub(super) retention_bytes: Option<u64>,
}

impl PartitionModel {
    pub(super) fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.next)
    }

    /// The producer's next sequence number.
    pub(super) fn next_sequence(&self) -> i32 {
        self.newest(1).first().map_or(0, |batch| {
            let header = BatchHeader::parse(&batch.bytes).expect("a batch");
            header.last_sequence() + 1
        })
    }

    /// The producer's last batches, newest first.
    fn newest(&self, count: usize) -> Vec<&Batch> {
        let newest = self.batches.iter().rev();
        newest
            .filter(|batch| batch.is_idempotent)
            .take(count)
            .collect()
    }

    /// Those that must be recognised when they come again, newest first.
    pub(super) fn recognised(&self) -> Vec<Batch> {
        let newest = self.newest(self.window.min(WINDOW));
        newest.into_iter().cloned().collect()
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.window += usize::from(batch.is_idempotent);
        self.batches.push(batch);
    }

    /// The log ends at `end`.
    fn cut(&mut self, end: i64) {
        let is_lost = |batch: &&Batch| batch.next > end && batch.is_idempotent;
        let lost = self.batches.iter().filter(is_lost).count();
        self.window = self.window.saturating_sub(lost);
        self.batches.retain(|batch| batch.next <= end);
        self.durable_end = self.durable_end.min(end);
        self.log_start_asked = self.log_start_asked.min(end);
    }

    /// The log was truncated to `end`.
    pub(super) fn truncate(&mut self, end: i64) {
        self.cut_asked = None;
        self.cut(end);
        self.window = self.window.min(1);
    }

    /// Whether a log from `start` to `end` may be there after a crash; takes it as the truth.
    fn accept(&mut self, start: i64, end: i64) -> Result<(), String> {
        let is_boundary = end == 0 || self.batches.iter().any(|batch| batch.next == end);
        let was_cut = self.cut_asked == Some(end);
        if !is_boundary || !(end >= self.durable_end || was_cut) {
            return Err(format!("it ends at {end}"));
        }
        let is_start = start >= self.log_start && start <= end;
        if !is_start || !(start <= self.log_start_asked || self.may_retain_from(start)) {
            return Err(format!("it starts at {start}"));
        }
        match was_cut {
            true => self.truncate(end),
            false => self.cut(end),
        }
        self.cut_asked = None;
        self.durable_end = end;
        (self.log_start, self.log_start_asked) = (start, start);
        Ok(())
    }

    /// Whether retention may have moved the log start to `start`.
    pub(super) fn may_retain_from(&self, start: i64) -> bool {
        let left = self.batches.iter().filter(|batch| batch.base >= start);
        let left: usize = left.map(|batch| batch.bytes.len()).sum();
        let is_boundary = self.batches.iter().any(|batch| batch.next == start);
        let left = u64::try_from(left).expect("small");
        start == self.log_start
            || is_boundary && self.retention_bytes.is_some_and(|kept| left >= kept)
    }

    /// What a running log shows is no secret any more.
    pub(super) fn observe(&mut self, start: i64, high_watermark: i64) {
        self.durable_end = self.durable_end.max(high_watermark);
        self.log_start = self.log_start.max(start);
        self.log_start_asked = self.log_start_asked.max(start);
    }
}

/// How far the making or deleting of a topic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Creating,
    There,
    Deleting,
}

#[derive(Clone, Debug)]
pub(super) struct TopicModel {
    pub(super) stage: Stage,
    pub(super) id: Option<TopicId>,
    pub(super) partitions: Vec<PartitionModel>,
}

/// What must be true of the whole directory.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) topics: BTreeMap<&'static str, TopicModel>,
    /// Who appends the idempotent batches.
    pub(super) producer: Option<ProducerId>,
    /// Batches that were acknowledged, deletions and truncations that were answered.
    pub(super) acknowledged: usize,
}

pub(super) type Shared = Rc<RefCell<World>>;

/// A partition of a topic.
pub(super) type Place = (&'static str, usize);

impl World {
    pub(super) fn partition(&mut self, (topic, index): Place) -> &mut PartitionModel {
        let topic = self.topics.get_mut(topic).expect("made before");
        &mut topic.partitions[index]
    }

    /// Every partition of the topics that are there.
    pub(super) fn places(&self) -> Vec<Place> {
        let there = self.topics.iter().filter(|(_, t)| t.stage == Stage::There);
        there
            .flat_map(|(name, topic)| (0..topic.partitions.len()).map(|index| (*name, index)))
            .collect()
    }

    /// Takes the topics that are there as the truth, if they may be.
    fn accept_topics(&mut self, image: &Image) {
        let found: BTreeMap<String, TopicId> = image
            .topics()
            .map(|topic| (topic.name.to_string(), topic.id))
            .collect();
        for name in found.keys() {
            assert!(self.topics.contains_key(name.as_str()), "{name} came back");
        }
        self.topics.retain(|name, topic| {
            let id = found.get(*name).copied();
            match topic.stage {
                Stage::Creating => topic.id = id,
                Stage::There => assert_eq!(topic.id, id, "{name}"),
                Stage::Deleting => assert!(id.is_none() || topic.id == id, "{name}"),
            }
            topic.stage = Stage::There;
            id.is_some()
        });
    }
}

pub(super) fn id_of(world: &Shared, (topic, index): Place) -> TopicPartition {
    let id = world.borrow().topics[topic].id.expect("made before");
    let index = i32::try_from(index).expect("small");
    TopicPartition::new(id, crate::model::ids::PartitionIndex(index))
}

pub(super) fn dir_of((topic, index): Place) -> PathBuf {
    PathBuf::from(format!("/data/topics/{topic}-{index}"))
}

/// A shard that has just started has what it must have, and nothing else.
pub(super) async fn verify(world: &Shared, shard: &Rc<Shard>) {
    world.borrow_mut().accept_topics(&shard.image());
    let places = world.borrow().places();
    for place in places {
        let id = id_of(world, place);
        let partition = shard.partitions.find(id).expect("it is online");
        let offsets = partition.log().offsets();
        {
            let mut world = world.borrow_mut();
            let model = world.partition(place);
            let (start, end) = (offsets.log_start.get(), offsets.log_end.get());
            let accepted = model.accept(start, end);
            accepted.unwrap_or_else(|what| panic!("{place:?}: {what}: {}", told(model)));
            assert_eq!(offsets.high_watermark, offsets.log_end, "{place:?}");
        }
        read_all(world, shard, place).await;
        let recognised = world.borrow_mut().partition(place).recognised();
        for batch in recognised {
            let header = BatchHeader::parse(&batch.bytes).expect("a batch");
            let verdict = partition.log().check_producer(&header);
            let is_known = matches!(&verdict, Ok(Verdict::Duplicate(original))
                if original.base_offset().get() == batch.base);
            assert!(is_known, "{place:?}: {verdict:?} for {header:?}");
        }
    }
}

fn told(model: &PartitionModel) -> String {
    format!(
        "submitted to {}, durable to {}, log start {} or {}, cut {:?}",
        model.end(),
        model.durable_end,
        model.log_start,
        model.log_start_asked,
        model.cut_asked
    )
}

/// From the log start to the log end there are the batches that were submitted, once and in order.
async fn read_all(world: &Shared, shard: &Rc<Shard>, place: Place) {
    let partition = id_of(world, place);
    let (mut next, end) = {
        let mut world = world.borrow_mut();
        let model = world.partition(place);
        (model.log_start, model.end())
    };
    while next < end {
        let part = FetchPart {
            partition,
            fetch_offset: Offset::new(next),
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            size_bytes_max: 20_000,
            must_progress: true,
        };
        let fetched = shard.read(vec![part]).await.remove(0).expect("reads");
        let bytes = fetched.plan.into_bytes().await.expect("reads");
        let from = next;
        next = compare(world.borrow_mut().partition(place), place, &bytes, from);
        assert!(next > from, "{place:?}: nothing at {from} of {end}");
    }
    assert_eq!(next, end, "{place:?}");
}

/// Whole batches, the first of which holds `from`; where they end.
fn compare(model: &PartitionModel, place: Place, bytes: &[u8], from: i64) -> i64 {
    let mut next = from;
    for found in iter_batches(bytes) {
        let (header, batch) = found.expect("whole batches");
        let expected = model.batches.iter().find(|batch| batch.next > next);
        let expected = expected.unwrap_or_else(|| panic!("{place:?}: {header:?} was invented"));
        assert_eq!(batch, &expected.bytes, "{place:?} at {next}");
        next = expected.next;
    }
    next
}

/// After a clean stop there are plain Kafka directories, with the batches and nothing beside them.
pub(super) async fn verify_stopped(world: &Shared, disk: &SimDisk) {
    let report = check::run(Path::new("/data")).await;
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let places = world.borrow().places();
    let expected: BTreeSet<PathBuf> = places.iter().map(|place| dir_of(*place)).collect();
    let found = fs::read_dir("/data/topics").await.expect("lists");
    let found = found.iter();
    let found = found.map(|entry| Path::new("/data/topics").join(&entry.name));
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    for place in places {
        let dir = dir_of(place);
        let paths = disk.paths();
        let mut names = paths.iter().filter(|path| path.starts_with(&dir));
        let is_leftover = |path: &Path| {
            let extension = path.extension().unwrap_or_default();
            extension == "deleted" || extension == "tmp"
        };
        assert!(!names.any(|path| is_leftover(path)), "{place:?}: {paths:?}");
        let segments = paths.iter().filter(|path| {
            path.starts_with(&dir) && path.extension().is_some_and(|extension| extension == "log")
        });
        let (mut bytes, mut first) = (Vec::new(), None);
        for path in segments {
            let base = path.file_stem().expect("a name").to_string_lossy();
            first.get_or_insert(base.parse::<i64>().expect("an offset"));
            bytes.extend(disk.peek(path).expect("there"));
        }
        let mut world = world.borrow_mut();
        let model = world.partition(place);
        let first = first.unwrap_or(0);
        assert!(first <= model.log_start, "{place:?} begins at {first}");
        let end = compare(model, place, &bytes, first);
        assert_eq!(end, model.end(), "{place:?}");
    }
}

//! Reads of partitions at home here, and waiting for more.
//!
//! Runs on: the home shard.      Owner: `Shard`.      Pure: no.
//! Promises: a wait ends at the first change of one of its partitions, at its deadline, or when the
//! asker ends it; nothing polls.
//! Limits: one wait for each connection that fetches from here; `EndWait` or the deadline ends it,
//! and `EndWait` comes when the asker's client goes away, too.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::breaks::{self, Break};
use crate::model::ids::{ShardId, TopicPartition};
use crate::model::offset::Offset;
use crate::partition::error::Error;
use crate::partition::partition::Partition;
use crate::partition::reads::{
    Available, EpochQuestion, FetchPart, Fetched, OffsetAnswer, OffsetQuestion,
};
use crate::rt::sync::Notify;
use crate::rt::{self, Instant, Lane};
use crate::shard::calls::{PartitionSize, ShardCall};
use crate::shard::shard::Shard;
use crate::telemetry::metrics::ShardMetrics;
use crate::telemetry::names::{Counter, Gauge};

/// Waits of other shards' fetches on partitions at home here.
#[derive(Default)]
pub(crate) struct Waits {
    open: RefCell<HashMap<(ShardId, u64), Rc<Notify>>>,
    next_id: Cell<u64>,
}

/// The longest wait at another shard.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A fetch that waits, as long as it does.
struct Waiting(Rc<ShardMetrics>);

impl Waiting {
    fn new(metrics: &Rc<ShardMetrics>) -> Self {
        metrics.raise(Gauge::WaitingFetches, 1);
        Self(metrics.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lower(Gauge::WaitingFetches, 1);
    }
}

/// Ends a wait at other shards when it is dropped: it is over, or nobody waits any more.
struct AskedElsewhere {
    shard: Rc<Shard>,
    wait_id: u64,
    homes: Vec<ShardId>,
}

impl Drop for AskedElsewhere {
    fn drop(&mut self) {
        let (shard, wait_id) = (self.shard.clone(), self.wait_id);
        let homes = std::mem::take(&mut self.homes);
        if homes.is_empty() || shard.is_stopping() {
            return;
        }
        rt::spawn(Lane::Network, "end-wait", async move {
            for home in homes {
                drop(shard.send(home, ShardCall::EndWait(wait_id)).await);
            }
        })
        .detach();
    }
}

impl Shard {
    fn partition(&self, partition: TopicPartition) -> Result<Rc<Partition>, Error> {
        self.partitions.find(partition)
    }

    pub(crate) fn sizes_here(&self, parts: &[FetchPart]) -> Vec<Result<Available, Error>> {
        parts
            .iter()
            .map(|part| self.partition(part.partition)?.available(part))
            .collect()
    }

    pub(crate) async fn read_here(&self, parts: Vec<FetchPart>) -> Vec<Result<Fetched, Error>> {
        let mut fetched = Vec::with_capacity(parts.len());
        for part in parts {
            fetched.push(match self.partition(part.partition) {
                Ok(partition) => partition.read(&part).await,
                Err(error) => Err(error),
            });
            if let Some(Ok(read)) = fetched.last() {
                let source = match read.plan.is_cold {
                    true => Counter::FetchedFileBytes,
                    false => Counter::FetchedMemoryBytes,
                };
                self.metrics.add(source, read.plan.size_bytes);
            }
        }
        fetched
    }

    pub(crate) async fn offsets_here(
        &self,
        asked: Vec<OffsetQuestion>,
    ) -> Vec<Result<OffsetAnswer, Error>> {
        let mut answers = Vec::with_capacity(asked.len());
        for question in asked {
            answers.push(match self.partition(question.partition) {
                Ok(partition) => partition.offset_for(&question).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    pub(crate) fn epoch_ends_here(
        &self,
        asked: &[EpochQuestion],
    ) -> Vec<Result<(i32, i64), Error>> {
        asked
            .iter()
            .map(|question| self.partition(question.partition)?.epoch_end(question))
            .collect()
    }

    pub(crate) fn partition_sizes_here(&self) -> Vec<PartitionSize> {
        self.partitions
            .all()
            .iter()
            .map(|p| PartitionSize {
                partition: p.id(),
                size_bytes: p.log().size_bytes(),
            })
            .collect()
    }

    /// DeleteRecords: -1 stands for the high watermark; the new start is durable before the answer.
    pub(crate) async fn delete_records_here(
        self: &Rc<Self>,
        asked: Vec<(TopicPartition, i64)>,
    ) -> Vec<Result<Offset, Error>> {
        let mut starts = Vec::with_capacity(asked.len());
        for (id, offset) in asked {
            starts.push(self.delete_records_of(id, offset).await);
        }
        starts
    }

    async fn delete_records_of(
        self: &Rc<Self>,
        id: TopicPartition,
        offset: i64,
    ) -> Result<Offset, Error> {
        let partition = self.partition(id)?;
        partition.check_open()?;
        let offsets = partition.log().offsets();
        let asked = if offset == -1 {
            offsets.high_watermark
        } else {
            Offset::new(offset)
        };
        if asked > offsets.high_watermark || offset < -1 {
            let (start, end) = (offsets.log_start, offsets.high_watermark);
            return Err(Error::OffsetOutOfRange {
                got: asked,
                start,
                end,
            });
        }
        if asked > offsets.log_start {
            self.advance_log_start(&partition, asked).await?;
        }
        Ok(partition.log().offsets().log_start)
    }

    /// Moves a log start: the journal says so durably, then files below it may go.
    pub(crate) async fn advance_log_start(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        log_start: Offset,
    ) -> Result<(), Error> {
        let reservation = self.journal.reserve_control(0).await?;
        let Some(entry) = partition.log().log_start_entry(log_start)? else {
            return Ok(());
        };
        let position = self
            .journal
            .enqueue(reservation, partition.owner(), entry)?;
        self.changed.add(partition);
        self.changed.pending.borrow_mut().insert(position);
        let durable = match breaks::is_on(Break::LogStartAnsweredEarly) {
            true => Ok(()),
            false => self.journal.durable(position).await,
        };
        if durable.is_ok() {
            partition.log().advance_log_start(log_start);
        }
        self.changed.pending.borrow_mut().remove(&position);
        durable?;
        partition.wake_fetches();
        if partition.is_gone() {
            return Ok(()); // its files go with it
        }
        self.write(async || partition.log().delete_retired().await)
            .await?;
        Ok(())
    }

    /// Returns when one of the partitions has moved on from the high watermark seen, at the
    /// deadline, or after `WAIT_MAX`: whoever wants to wait longer asks again. Asks all home shards
    /// at once and ends the waits that did not answer.
    ///
    /// Cancel: safe; the waits at other shards end then, too.
    pub async fn await_data(
        self: &Rc<Self>,
        seen: Vec<(TopicPartition, Offset)>,
        deadline: Instant,
    ) {
        let wait = deadline.saturating_since(rt::now());
        let _waiting = Waiting::new(&self.metrics);
        let wait_id = self.waits.next_id.get();
        self.waits.next_id.set(wait_id + 1);
        let mut mine = Vec::new();
        let mut asked = AskedElsewhere {
            shard: self.clone(),
            wait_id,
            homes: Vec::new(),
        };
        let replies = FuturesUnordered::new();
        for (home, _, seen) in self.by_home(seen, |(partition, _)| *partition) {
            if home == self.id() {
                mine = seen;
            } else {
                let call = ShardCall::AwaitData {
                    wait_id,
                    seen,
                    wait: wait.min(WAIT_MAX),
                };
                replies.push(self.send(home, call).await.reply());
                asked.homes.push(home);
            }
        }
        let moved = Rc::new(Notify::new());
        if self.has_moved_or_register(&mine, &moved) {
            moved.notify_one();
        }
        let mut replies = replies;
        let first = async {
            futures_util::select_biased! {
                () = futures_util::FutureExt::fuse(moved.notified()) => {}
                _ = replies.select_next_some() => {}
            }
        };
        rt::timeout(wait, first).await;
    }

    /// Whether a partition is gone or beyond what was seen; if none is, `moved` is told of the next
    /// change. Nothing can happen in between: there is no await.
    fn has_moved_or_register(&self, seen: &[(TopicPartition, Offset)], moved: &Rc<Notify>) -> bool {
        for (id, high_watermark) in seen {
            match self.partitions.get(*id) {
                Some(partition) if partition.high_watermark() == *high_watermark => {
                    partition.register_fetch(moved);
                }
                _ => return true,
            }
        }
        false
    }

    /// Notes another shard's wait, so that its end is not missed however soon it comes.
    pub(crate) fn open_wait(&self, asker: ShardId, wait_id: u64) {
        let mut open = self.waits.open.borrow_mut();
        open.insert((asker, wait_id), Rc::new(Notify::new()));
    }

    /// Serves another shard's wait, which `open_wait` has noted.
    pub(crate) async fn await_data_here(
        &self,
        asker: ShardId,
        wait_id: u64,
        seen: Vec<(TopicPartition, Offset)>,
        wait: Duration,
    ) {
        let known = self.waits.open.borrow().get(&(asker, wait_id)).cloned();
        let Some(moved) = known else {
            return;
        };
        if !self.has_moved_or_register(&seen, &moved) {
            rt::timeout(wait, moved.notified()).await;
        }
        self.waits.open.borrow_mut().remove(&(asker, wait_id));
    }

    /// The asker of a wait has its answer.
    pub(crate) fn end_wait(&self, asker: ShardId, wait_id: u64) {
        if let Some(moved) = self.waits.open.borrow().get(&(asker, wait_id)) {
            moved.notify_one();
        }
    }
}

//! The one order of appends on a shard, and the completion of what the journal made durable.
//!
//! Runs on: its shard, two tasks.      Owner: `Shard`.      Pure: no.
//! Promises: batches reach their partitions in the order in which they were submitted here; between
//! a partition's guards and the journal queue nothing else runs. Waiting for tail memory and
//! journal room happens before the guards, so a batch that waits has no offset yet.
//! Limits: the queue holds what the request pools of all shards let in, and no more.
//! Failure: once the journal has failed, every append is refused; what waits is told so.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, FutureExt as _, select};

use crate::breaks::{self, Break};
use crate::config::topic::Durability;
use crate::model::ids::TopicPartition;
use crate::partition::error::Error;
use crate::partition::partition::{Accepted, AckSender, Appended, Partition};
use crate::rt;
use crate::rt::sync::{Notify, oneshot};
use crate::shard::calls::AppendPart;
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;

/// How often a stop looks whether appends still wait.
const DRAIN_POLL: Duration = Duration::from_millis(1);

/// Batches that wait for their turn.
pub(crate) struct Appends {
    waiting: RefCell<VecDeque<(AppendPart, AckSender, Source)>>,
    arrived: Notify,
}

/// Whose append it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Refused on a full disk.
    Producer,
    /// Committed offsets and groups: they go on, as long as the ring has room at once.
    Coordinator,
}

impl Appends {
    pub(crate) fn new() -> Self {
        Self {
            waiting: RefCell::default(),
            arrived: Notify::new(),
        }
    }

    /// Gives each part its place in the order; the receivers tell the outcomes.
    pub(crate) fn submit(
        &self,
        parts: Vec<AppendPart>,
        source: Source,
    ) -> Vec<oneshot::Receiver<Result<Appended, Error>>> {
        let mut waiting = self.waiting.borrow_mut();
        let outcomes = parts
            .into_iter()
            .map(|part| {
                let (ack, outcome) = oneshot::oneshot();
                waiting.push_back((part, ack, source));
                outcome
            })
            .collect();
        drop(waiting);
        self.arrived.notify_one();
        outcomes
    }

    async fn next(&self) -> (AppendPart, AckSender, Source) {
        loop {
            if let Some(next) = self.waiting.borrow_mut().pop_front() {
                return next;
            }
            self.arrived.notified().await;
        }
    }
}

/// Appends what is submitted, one batch after the other, until the task is cancelled.
pub(crate) async fn run(shard: Rc<Shard>) {
    loop {
        let (part, ack, source) = shard.appends.next().await;
        match append(&shard, part, source).await {
            Ok((partition, accepted)) => acknowledge(&shard, &partition, &accepted, ack),
            Err(error) => drop(ack.send(Err(error))),
        }
        rt::yield_if_needed().await;
    }
}

struct Admitted {
    appended: Appended,
    next_offset: crate::model::offset::Offset,
}

async fn append(
    shard: &Rc<Shard>,
    part: AppendPart,
    source: Source,
) -> Result<(Rc<Partition>, Admitted), Error> {
    let AppendPart {
        partition: id,
        batch,
        log_append_time_ms,
    } = part;
    if source == Source::Producer {
        shard.storage.check()?; // before all else: a full disk may have kept it from being opened
    }
    let partition = shard.partitions.find(id)?;
    partition.check_open()?;
    room(shard, source, shard.logs.tail_budget().wait_for_room()).await?;
    prepare(shard, &partition, source).await?;
    let reservation = room(shard, source, shard.journal.reserve(batch.bytes.len())).await??;
    let (records, bytes) = (batch.header.record_count, batch.bytes.len());
    // From here to `enqueue` there is no await: the order of offsets is the order in the journal.
    let accepted = partition.append_as_leader(batch, log_append_time_ms, rt::unix_ms());
    match accepted.inspect_err(|error| tell_of_producers(shard, id, error))? {
        Accepted::Duplicate {
            appended,
            next_offset,
        } => {
            shard.metrics.increment(Counter::DuplicateBatches);
            Ok((
                partition,
                Admitted {
                    appended,
                    next_offset,
                },
            ))
        }
        Accepted::New {
            appended,
            next_offset,
            entry,
        } => {
            let position = shard
                .journal
                .enqueue(reservation, partition.owner(), entry)?;
            partition.log().on_enqueued(position);
            shard.changed.add(&partition);
            shard.metrics.increment(Counter::ProducedBatches);
            let count = |count: Option<u64>| count.unwrap_or(0);
            let records = count(u64::try_from(records).ok());
            shard.metrics.add(Counter::ProducedRecords, records);
            let bytes = count(u64::try_from(bytes).ok());
            shard.metrics.add(Counter::ProducedBytes, bytes);
            Ok((
                partition,
                Admitted {
                    appended,
                    next_offset,
                },
            ))
        }
    }
}

/// That producers are refused is for people to know, not for one client alone.
fn tell_of_producers(shard: &Shard, id: TopicPartition, error: &Error) {
    if let Error::TooManyProducers { known } = error
        && let Some(left_out) = shard.may_tell_of_connection()
    {
        let partition = shard.name(id);
        let on_shard = shard.logs.producer_count();
        let what = "too many idempotent producers: a new one is refused";
        tracing::warn!(partition, known, on_shard, left_out, "{what}");
    }
}

/// The first append after a start: the last partial block of the segment goes into the journal
/// before anything is added to it.
async fn prepare(shard: &Rc<Shard>, partition: &Partition, source: Source) -> Result<(), Error> {
    if partition.log().is_prepared() {
        return Ok(());
    }
    if let Some(entry) = partition.log().prepare().await? {
        let size = entry.payload.len();
        let reservation = room(shard, source, shard.journal.reserve_control(size)).await??;
        let position = shard
            .journal
            .enqueue(reservation, partition.owner(), entry)?;
        partition.log().on_enqueued(position);
    }
    Ok(())
}

/// Waits for room, but not on a full disk: there it may never come.
async fn room<T>(shard: &Shard, source: Source, wait: impl Future<Output = T>) -> Result<T, Error> {
    match shard.storage.check() {
        Err(Error::DiskFull) if source == Source::Coordinator => {
            return wait.now_or_never().ok_or(Error::DiskFull);
        }
        health => health?,
    }
    let wait = std::pin::pin!(wait);
    let trouble = std::pin::pin!(shard.storage.trouble());
    match select(wait, trouble).await {
        Either::Left((room, _)) => Ok(room),
        Either::Right((error, _)) => Err(error),
    }
}

fn acknowledge(shard: &Shard, partition: &Partition, admitted: &Admitted, ack: AckSender) {
    let Admitted {
        appended,
        next_offset,
    } = *admitted;
    let durability = shard.partitions.durability(partition.id());
    if durability == Durability::Memory || breaks::is_on(Break::ProduceAnsweredEarly) {
        // The topic relaxes the answer only: the batch is in the same next commit as any other.
        drop(ack.send(Ok(appended)));
    } else {
        partition.ack_when_durable(next_offset, appended, ack);
    }
}

/// Tells partitions what has become durable, in order, until the journal closes or fails.
pub(crate) async fn complete(shard: Rc<Shard>) {
    loop {
        let completed = match shard.journal.next_completed().await {
            Ok(completed) => completed,
            Err(error) => {
                shard.storage.on_error(&error);
                let refusal = Error::from(error);
                for partition in shard.partitions.all() {
                    partition.fail_waiters(&refusal);
                }
                return;
            }
        };
        for done in completed {
            if let Some(partition) = shard.partitions.by_owner(done.owner) {
                partition.on_durable(done.next_offset);
            }
        }
        rt::yield_if_needed().await;
    }
}

/// Waits until the appends that were submitted before are done.
pub(crate) async fn drained(shard: &Shard) {
    while !shard.appends.waiting.borrow().is_empty() {
        rt::sleep(DRAIN_POLL).await; // they may wait for the disk to free the ring
    }
}

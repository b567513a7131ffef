//! What a shard does beside serving: destaging, checkpoints, retention, expiry of producers.
//!
//! Runs on: its shard, `Lane::Background`.      Owner: `Shard`.
//! Promises: the journal's ring is freed before it is full, as long as the disk takes writes;
//! nothing here makes an append wait except through the limits of ring and tail memory.
//! Order: destage (data flushed) -> checkpoint durable -> ring space free. `journal` and `log` keep
//! it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use crate::journal::checkpoint::PartitionCheckpoint;
use crate::journal::journal::{Owner, Position};
use crate::log::destage::{self, CARRY_BYTES_MAX, DestageAction, DestageFacts, Pressure};
use crate::partition::error::Error;
use crate::partition::partition::Partition;
use crate::rt;
use crate::rt::sync::Notify;
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;

/// How often the destager looks, while there is something to destage.
const DESTAGE_INTERVAL: Duration = Duration::from_millis(20);
/// Pause after a full disk before the next try.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// A checkpoint is written at least this often while the journal moves: what a restart has to
/// replay.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Part of the ring, in thousandths, at which a checkpoint is due at once.
const CHECKPOINT_FILL_PERMILLE: u32 = 300;

/// Partitions that a start would not find as their directories say: all that were appended to.
#[derive(Default)]
pub(crate) struct Changed {
    partitions: RefCell<BTreeMap<Owner, Rc<Partition>>>,
    arrived: Notify,
    checkpointed: Cell<Position>,
    /// Control entries that are queued or durable and not yet in force in their log: a checkpoint
    /// made now would not cover them.
    pub(crate) pending: RefCell<BTreeSet<Position>>,
}

impl Changed {
    pub(crate) fn add(&self, partition: &Rc<Partition>) {
        let mut partitions = self.partitions.borrow_mut();
        if partitions.is_empty() {
            self.arrived.notify_one();
        }
        partitions
            .entry(partition.owner())
            .or_insert_with(|| partition.clone());
    }

    fn all(&self) -> Vec<Rc<Partition>> {
        self.partitions.borrow().values().cloned().collect()
    }

    pub(crate) fn remove(&self, owner: Owner) {
        self.partitions.borrow_mut().remove(&owner);
    }
}

/// Destages and writes checkpoints until the task is cancelled.
pub(crate) async fn destage(shard: Rc<Shard>) {
    let mut checkpoint_due = rt::now() + CHECKPOINT_INTERVAL;
    let mut seen = shard.journal.next_position();
    loop {
        let outcome = destage_once(&shard).await;
        let is_due = permille(shard.journal.fill()) > CHECKPOINT_FILL_PERMILLE
            || rt::now() >= checkpoint_due;
        if outcome.is_ok() && is_due {
            if let Err(error) = checkpoint(&shard).await {
                tracing::error!(%error, "a checkpoint could not be written");
                rt::sleep(DISK_FULL_RETRY).await;
            }
            checkpoint_due = rt::now() + CHECKPOINT_INTERVAL;
        }
        match outcome {
            Ok(_) => shard.storage.on_space(),
            Err(()) => rt::sleep(DISK_FULL_RETRY).await,
        }
        // While nothing is appended there is nothing to do but the checkpoint that is still due.
        let position = shard.journal.next_position();
        let is_pressed = permille(shard.journal.fill()) > CHECKPOINT_FILL_PERMILLE
            || !shard.logs.tail_budget().has_room();
        if position == seen && outcome == Ok(false) && !is_pressed {
            rt::timeout(CHECKPOINT_INTERVAL, shard.changed.arrived.notified()).await;
        }
        seen = position;
        rt::sleep(DESTAGE_INTERVAL).await;
    }
}

/// One round over the changed partitions: whether there was anything to do. `Err` when the disk is
/// full or has failed.
async fn destage_once(shard: &Rc<Shard>) -> Result<bool, ()> {
    let partitions = shard.changed.all();
    let facts: Vec<DestageFacts> = partitions
        .iter()
        .map(|p| DestageFacts {
            destageable_bytes: p.log().destageable_bytes(),
            undestaged_bytes: p.log().undestaged_bytes(),
            pinned_entry: p.log().pinned_entry(),
        })
        .collect();
    let pressure = Pressure {
        ring_fill_permille: permille(shard.journal.fill()),
        is_tail_full: !shard.logs.tail_budget().has_room(),
        destage_bytes: shard.settings().destage_bytes,
    };
    let chosen = destage::choose(&facts, pressure);
    let did_something = !chosen.is_empty();
    for (index, action) in chosen {
        let partition = &partitions[index];
        match action {
            DestageAction::Destage => match partition.log().destage().await {
                Ok(done) => shard
                    .metrics
                    .add(Counter::DestagedBytes, done.written_bytes),
                Err(_) if partition.is_gone() => {} // deleted since it was chosen
                Err(error) => {
                    shard.storage.on_log_error(&error);
                    return Err(());
                }
            },
            DestageAction::Carry => {
                if carry(shard, partition).await.is_err() {
                    return Err(());
                }
            }
        }
    }
    Ok(did_something)
}

/// Journals the few bytes that pin old ring space again. Room is reserved before the bytes are
/// taken, so that nothing comes between them and the queue.
async fn carry(shard: &Rc<Shard>, partition: &Rc<Partition>) -> Result<(), Error> {
    let size_max = usize::try_from(CARRY_BYTES_MAX).unwrap_or(usize::MAX);
    let reservation = shard.journal.reserve_control(size_max).await?;
    match partition.log().carry(size_max) {
        Some(entry) => {
            let position = shard
                .journal
                .enqueue(reservation, partition.owner(), entry)?;
            partition.log().on_carried(position);
        }
        None => {
            drop(reservation);
            match partition.log().destage().await {
                Err(error) if !partition.is_gone() => {
                    shard.storage.on_log_error(&error);
                    return Err(error.into());
                }
                _ => {} // a deleted partition pins nothing
            }
        }
    }
    Ok(())
}

/// Says durably what is in the segments, and frees the ring up to the oldest entry still needed.
pub(crate) async fn checkpoint(shard: &Rc<Shard>) -> Result<(), Error> {
    // Pins before records: what is destaged in between is replayed once more, which changes
    // nothing.
    let durable = shard.journal.durable_position();
    let partitions = shard.changed.all();
    let pinned = partitions.iter().filter_map(|p| p.log().pinned_entry());
    let pending = shard.changed.pending.borrow().first().copied();
    let pin = pinned
        .chain(pending)
        .fold(shard.journal.next_position(), Position::min);
    if pin.min(durable) == shard.changed.checkpointed.get() && pin != Position(0) {
        return Ok(()); // nothing would be freed
    }
    let mut records = Vec::new();
    for partition in partitions {
        if let Some(found) = partition.log().checkpoint().await {
            let record = found.encode().into();
            records.push(PartitionCheckpoint {
                topic_partition: partition.id(),
                record,
            });
        }
    }
    shard.journal.write_checkpoint(pin, records).await?;
    shard.changed.checkpointed.set(pin.min(durable));
    Ok(())
}

/// Deletes what is too old or too much, and forgets idle producers, until the task is cancelled.
pub(crate) async fn retain(shard: Rc<Shard>) {
    loop {
        rt::sleep(shard.config().log_retention_check_interval).await;
        let expiration = shard.config().producer_id_expiration;
        let expiration_ms = i64::try_from(expiration.as_millis()).unwrap_or(i64::MAX);
        for partition in shard.partitions.all() {
            if partition.check_open().is_err() {
                continue;
            }
            partition
                .log()
                .expire_producers(rt::unix_ms(), expiration_ms);
            if let Err(error) = retain_one(&shard, &partition).await {
                tracing::warn!(%error, partition = %shard.name(partition.id()), "retention");
            }
            rt::yield_if_needed().await;
        }
    }
}

/// The new log start is durable before a file goes.
async fn retain_one(shard: &Rc<Shard>, partition: &Rc<Partition>) -> Result<(), Error> {
    let Some(log_start) = partition.log().retention_start(rt::unix_ms()).await? else {
        return Ok(());
    };
    shard.advance_log_start(partition, log_start).await?;
    Ok(())
}

fn permille(fill: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1000 before"
    )]
    let permille = (fill.clamp(0.0, 1.0) * 1000.0) as u32;
    permille
}

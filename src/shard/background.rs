//! What a shard does beside serving: destaging, checkpoints, retention and the giving back of its
//! space, expiry of producers.
//!
//! Runs on: its shard; the destager in `Lane::Commit`, because at full load its part of the core is
//! what appends wait for, the rest in `Lane::Background`.      Owner: `Shard`.
//! Promises: the journal's ring is freed before it is full, as long as the disk takes writes;
//! nothing here makes an append wait except through the limits of ring and tail memory.
//! Order: destage -> flush -> checkpoint durable -> ring space free. `journal` and `log` keep it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{Either, FutureExt, select};

use crate::journal::checkpoint::PartitionCheckpoint;
use crate::journal::error::JournalError;
use crate::journal::journal::{Owner, Position};
use crate::log::delete;
use crate::log::destage::{self, CARRY_BYTES_MAX, DestageAction, DestageFacts, Pressure};
use crate::log::error::Error as LogError;
use crate::log::reclaim::Load;
use crate::model::ids::ShardId;
use crate::partition::error::Error;
use crate::partition::partition::Partition;
use crate::rt;
use crate::rt::sync::Notify;
use crate::shard::partitions;
use crate::shard::shard::Shard;
use crate::shard::storage::{Trouble, WriteError};
use crate::telemetry::names::Counter;

/// How often the destager looks, while there is nothing to destage yet.
const DESTAGE_INTERVAL: Duration = Duration::from_millis(20);
/// Writes of `destage.size` that a partition makes before it is the next one's turn.
const WRITES_A_TURN: u64 = 4;
/// Pause after a full disk before the next try.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);
/// A checkpoint is written at least this often while the journal moves: what a restart has to
/// replay.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Part of the ring, in thousandths, below which nothing needs to be freed yet.
const CHECKPOINT_FILL_PERMILLE: u32 = 300;
/// Part of the ring from which on appends may soon wait: more is freed, in smaller steps.
const PRESSED_FILL_PERMILLE: u32 = 750;
/// A checkpoint is worth its flushes when this part of the ring has been destaged since the last.
const CHECKPOINT_RING_PART: u64 = 8;
/// The same with a pressed ring: less than this is not worth its flushes even then.
const CHECKPOINT_RING_PART_PRESSED: u64 = 32;
/// Logs that are destaged at the same time once the ring fills: one is copied, sealed or rolled
/// while others write. Below that one after the other, so that the journal's flushes find the
/// device idle.
const DESTAGED_AT_ONCE: usize = 3;
/// Logs that are flushed at the same time; destaging goes on with the others.
const FLUSHES_AT_ONCE: usize = 4;
/// Pause of the destager while the logs that it would destage are being flushed.
const FLUSH_WAIT: Duration = Duration::from_millis(1);

/// Partitions that a start would not find as their directories say: all that were appended to.
#[derive(Default)]
pub(crate) struct Changed {
    partitions: RefCell<BTreeMap<Owner, Rc<Partition>>>,
    /// Whether the destager sleeps until something is appended.
    is_idle: Cell<bool>,
    arrived: Notify,
    checkpointed: Cell<Position>,
    /// The first entry that was carried since the last checkpoint: what is pinned from there on
    /// need not be carried again before the next.
    carried: Cell<Option<Position>>,
    /// The last entry that was carried.
    last_carry: Cell<Option<Position>>,
    /// What was destaged since the last checkpoint began.
    since: Cell<Round>,
    checkpoint_due: Notify,
    /// Control entries that are queued or durable and not yet in force in their log: a checkpoint
    /// made now would not cover them.
    pub(crate) pending: RefCell<BTreeSet<Position>>,
}

impl Changed {
    pub(crate) fn add(&self, partition: &Rc<Partition>) {
        if self.is_idle.replace(false) {
            self.arrived.notify_one();
        }
        self.partitions
            .borrow_mut()
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

/// Destages until the task is cancelled, except while a full disk's reserve is in use.
pub(crate) async fn destage(shard: Rc<Shard>) {
    let mut seen = shard.journal.next_position();
    loop {
        shard.storage.may_destage().await;
        let Ok(round) = destage_once(&shard).await else {
            rt::sleep(DISK_FULL_RETRY).await;
            continue;
        };
        shard.storage.on_destaged();
        let since = shard.changed.since.get().and(round);
        shard.changed.since.set(since);
        let fill_permille = permille(shard.journal.fill());
        if since.is_worth_a_checkpoint(fill_permille, shard.journal.capacity()) {
            shard.changed.checkpoint_due.notify_one();
        }
        if round.did_something() {
            rt::yield_now().await;
            continue;
        }
        if round.busy_count > 0 {
            rt::sleep(FLUSH_WAIT).await;
            continue;
        }
        // While nothing is appended there is nothing to destage.
        let position = shard.journal.next_position();
        let is_pressed =
            fill_permille > CHECKPOINT_FILL_PERMILLE || !shard.logs.tail_budget().has_room();
        if position == seen && !is_pressed && !shard.storage.is_full() {
            shard.changed.is_idle.set(true);
            let trouble = shard.storage.trouble();
            let arrived = pin!(shard.changed.arrived.notified());
            rt::timeout(CHECKPOINT_INTERVAL, select(arrived, pin!(trouble))).await;
        }
        seen = position;
        rt::sleep(DESTAGE_INTERVAL).await;
    }
}

/// Writes checkpoints, when destaging asks for one and after every interval, until the task is
/// cancelled. One at a time: an older pin must never follow a newer one. On a full disk it looks
/// for its end instead.
pub(crate) async fn write_checkpoints(shard: Rc<Shard>) {
    loop {
        shard.storage.may_write().await;
        if shard.storage.is_full() {
            try_to_end_full(&shard).await;
            rt::sleep(DISK_FULL_RETRY).await;
            continue;
        }
        let due = pin!(shard.changed.checkpoint_due.notified());
        let trouble = pin!(shard.storage.trouble());
        let waited = rt::timeout(CHECKPOINT_INTERVAL, select(due, trouble)).await;
        if let Some(Either::Right(_)) = waited {
            continue;
        }
        shard.changed.since.set(Round::default());
        let written = shard.write(async || checkpoint(&shard, Wanted::ToFree).await);
        match written.await {
            Ok(()) if !shard.storage.is_full() => limit_preallocation(&shard).await,
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "a checkpoint could not be written");
                rt::sleep(DISK_FULL_RETRY).await;
            }
        }
    }
}

/// One try: the reserve, then what the ring can do with it. See `storage` for the order.
async fn try_to_end_full(shard: &Rc<Shard>) {
    shard.logs.limit_preallocation(0);
    shard.logs.reclaim().give_up_spares(&shard.logs);
    if let Err(error) = shard.reserve.take().await {
        shard.storage.on_error(&error);
        return;
    }
    shard.storage.on_reserve();
    let wanted = if shard.storage.has_destaged() {
        Wanted::AsProof
    } else {
        Wanted::ToFree
    };
    if let Err(error) = checkpoint(shard, wanted).await {
        shard.storage.on_error(&error);
        return;
    }
    if wanted == Wanted::AsProof && shard.open_again().await {
        limit_preallocation(shard).await;
        shard.storage.on_checkpoint();
    }
}

/// Says whether the journal could be made as large as configured.
pub(crate) async fn watch_growth(shard: Rc<Shard>) {
    if let Err(error) = shard.journal.grown().await {
        shard.storage.on_error(&error);
    }
}

/// What rounds over the partitions did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    destaged_bytes: u64,
    carried_count: u64,
    /// Logs that were left out because they are being flushed.
    busy_count: u64,
}

impl Round {
    const fn and(self, round: Self) -> Self {
        Self {
            destaged_bytes: self.destaged_bytes + round.destaged_bytes,
            carried_count: self.carried_count + round.carried_count,
            busy_count: self.busy_count + round.busy_count,
        }
    }

    const fn did_something(self) -> bool {
        self.destaged_bytes > 0 || self.carried_count > 0
    }

    /// Whether what was done frees enough of the ring, as full as it is. Pure.
    fn is_worth_a_checkpoint(self, fill_permille: u32, ring_bytes: u64) -> bool {
        let part = if fill_permille > PRESSED_FILL_PERMILLE {
            CHECKPOINT_RING_PART_PRESSED
        } else {
            CHECKPOINT_RING_PART
        };
        let is_much = self.destaged_bytes >= ring_bytes / part;
        fill_permille > CHECKPOINT_FILL_PERMILLE && (is_much || self.carried_count > 0)
    }
}

/// One round over the changed partitions. `Err` when the disk is full or has failed.
async fn destage_once(shard: &Rc<Shard>) -> Result<Round, ()> {
    let partitions = shard.changed.all();
    let facts: Vec<DestageFacts> = partitions
        .iter()
        .map(|p| DestageFacts {
            destageable_bytes: p.log().destageable_bytes(),
            undestaged_bytes: p.log().undestaged_bytes(),
            undestaged_entry: p.log().undestaged_entry(),
        })
        .collect();
    let destage_bytes = shard.settings().destage_bytes;
    let pressure = Pressure {
        ring_fill_permille: permille(shard.journal.fill()),
        is_tail_full: !shard.logs.tail_budget().has_room(),
        destage_bytes,
    };
    let turn_bytes = destage_bytes.saturating_mul(WRITES_A_TURN);
    let turns = destage::choose(&facts, pressure)
        .into_iter()
        .map(|(index, action)| take_turn(shard, &partitions[index], action, turn_bytes));
    let at_once = destaged_at_once(pressure.ring_fill_permille);
    let mut turns = futures_util::stream::iter(turns).buffer_unordered(at_once);
    let mut round = Ok(Round::default());
    // also after an error to the end: what a dropped turn has begun would go on behind the next
    while let Some(turn) = turns.next().await {
        round = round.and_then(|round| Ok(round.and(turn?)));
    }
    round
}

/// How many logs write at the same time. Pure.
const fn destaged_at_once(ring_fill_permille: u32) -> usize {
    if ring_fill_permille > CHECKPOINT_FILL_PERMILLE {
        DESTAGED_AT_ONCE
    } else {
        1
    }
}

/// One partition's part of a round.
async fn take_turn(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    action: DestageAction,
    bytes_max: u64,
) -> Result<Round, ()> {
    let mut round = Round::default();
    if partition.log().is_busy() {
        round.busy_count = 1;
        return Ok(round);
    }
    match action {
        DestageAction::Destage => match partition.log().destage_some(bytes_max).await {
            Ok(done) => {
                shard
                    .metrics
                    .add(Counter::DestagedBytes, done.written_bytes);
                round.destaged_bytes = done.written_bytes;
            }
            // deleted meanwhile: nothing of it is needed any more
            Err(_) if partition.is_gone() => {}
            Err(error) => {
                shard.storage.on_error(&error);
                return Err(());
            }
        },
        DestageAction::Carry => match carry(shard, partition).await {
            Ok(is_carried) => round.carried_count = u64::from(is_carried),
            Err(_) => return Err(()),
        },
    }
    Ok(round)
}

/// Journals the few bytes that pin old ring space again, if a checkpoint would free any by it; or
/// destages what fills whole blocks, when they are not few or there is no room for them. Room is
/// reserved before the bytes are taken, so that nothing comes between them and the queue.
async fn carry(shard: &Rc<Shard>, partition: &Rc<Partition>) -> Result<bool, Error> {
    let is_carried = |pinned| {
        shard
            .changed
            .carried
            .get()
            .is_some_and(|from| pinned >= from)
    };
    if partition.log().undestaged_entry().is_some_and(is_carried) {
        return Ok(false);
    }
    // No more than it takes, and without waiting: in a full ring the room for control entries is
    // all there is, and what this log pins may be what a checkpoint has to free for it.
    let size = partition.log().carry_bytes();
    let is_small = u64::try_from(size).is_ok_and(|size| size <= CARRY_BYTES_MAX);
    let reserve = is_small.then(|| shard.journal.reserve_control(size));
    match reserve.and_then(FutureExt::now_or_never) {
        Some(reservation) => {
            let reservation = reservation?;
            if let Some(entry) = partition.log().carry(size) {
                let position = shard
                    .journal
                    .enqueue(reservation, partition.owner(), entry)?;
                partition.log().on_carried(position);
                let first = shard.changed.carried.get().unwrap_or(position);
                shard.changed.carried.set(Some(first));
                shard.changed.last_carry.set(Some(position));
                return Ok(true);
            }
        }
        None => shard.changed.checkpoint_due.notify_one(),
    }
    match partition.log().destage().await {
        Ok(done) => Ok(done.written_bytes > 0),
        Err(_) if partition.is_gone() => Ok(false),
        Err(error) => {
            shard.storage.on_error(&error);
            Err(error.into())
        }
    }
}

/// What a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Ring space: left out when there is none to free.
    ToFree,
    /// To see that it can be written.
    AsProof,
}

/// Why a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Journal(#[from] JournalError),
}

impl WriteError for CheckpointError {
    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Log(error) => error.trouble(),
            Self::Journal(error) => error.trouble(),
        }
    }
}

/// Flushes what is in the segments, says so durably, and frees the ring up to the oldest entry that
/// is still needed.
async fn checkpoint(shard: &Rc<Shard>, wanted: Wanted) -> Result<(), CheckpointError> {
    let partitions = shard.changed.all();
    let durable = shard.journal.durable_position();
    // What is queued from here on, and control entries that are not in force yet, stay.
    let pending = shard.changed.pending.borrow().first().copied();
    let next = shard.journal.next_position();
    let mut pin = pending.map_or(next, |pending| pending.min(next));
    let unflushed = partitions.iter().filter_map(|p| p.log().undestaged_entry());
    let reachable = unflushed.fold(pin, Position::min).min(durable);
    let is_done = reachable == shard.changed.checkpointed.get() && reachable != Position(0);
    if is_done && wanted == Wanted::ToFree {
        shard.changed.carried.set(None);
        return Ok(()); // nothing would be freed
    }
    let mut records = Vec::new();
    let mut flushed = futures_util::stream::iter(&partitions)
        .map(|partition| flush_one(partition.clone()))
        .buffer_unordered(FLUSHES_AT_ONCE);
    while let Some(outcome) = flushed.next().await {
        let (record, pinned) = outcome?;
        records.extend(record);
        pin = pinned.map_or(pin, |pinned| pin.min(pinned));
    }
    drop(flushed);
    if shard.storage.has_failed() {
        return Ok(()); // a log that failed meanwhile has told nothing: its record stays
    }
    // A log is pinned from its carry on: what that replaces goes only when the carry is durable.
    if let Some(last) = shard.changed.last_carry.get() {
        shard.journal.durable(last).await?;
    }
    shard.journal.write_checkpoint(pin, records).await?;
    for partition in partitions {
        partition.log().on_checkpointed();
    }
    shard.changed.checkpointed.set(pin.min(durable));
    shard.changed.carried.set(None);
    Ok(())
}

/// Flushes one log: what its files have now, and from which journal entry on they need more.
async fn flush_one(
    partition: Rc<Partition>,
) -> Result<(Option<PartitionCheckpoint>, Option<Position>), LogError> {
    let found = partition.log().checkpoint().await?;
    // no await in between: the pin belongs to the record
    let pinned = partition.log().pinned_entry();
    let record = found.map(|found| PartitionCheckpoint {
        topic_partition: partition.id(),
        record: found.encode().into(),
    });
    Ok((record, pinned))
}

/// Deletes what is too old or too much, and forgets idle producers, until the task is cancelled.
pub(crate) async fn retain(shard: Rc<Shard>) {
    loop {
        wait_for_check(&shard).await;
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

/// What is reserved ahead stays a small part of the disk that is free, also as the disk fills.
async fn limit_preallocation(shard: &Shard) {
    match rt::fs::free_space(shard.data_dir()).await {
        Ok(free) => {
            let share = partitions::preallocation_share(free, shard.shard_count());
            shard.logs.limit_preallocation(share);
        }
        Err(error) => tracing::warn!(%error, "the free disk is not known"),
    }
}

/// Gives the space of what was deleted back, until the task is cancelled. The first shard begins
/// with what the last run left.
pub(crate) async fn reclaim(shard: Rc<Shard>) {
    let reclaim = shard.logs.reclaim();
    if shard.id() == ShardId(0) {
        for path in shard.set_aside() {
            reclaim.put(delete::leftover(path.clone()));
        }
    }
    reclaim.run(&shard.logs, shard.as_ref()).await;
}

impl Load for Shard {
    fn appended_bytes(&self) -> u64 {
        self.metrics.counter(Counter::DestagedBytes)
    }

    fn is_disk_full(&self) -> bool {
        self.storage.is_full()
    }
}

/// Waits for the interval in force, also when that is altered meanwhile.
async fn wait_for_check(shard: &Shard) {
    let since = rt::now();
    loop {
        let interval = shard.config().log_retention_check_interval;
        let left = interval.saturating_sub(since.elapsed());
        if left.is_zero() {
            return;
        }
        rt::timeout(left, shard.settings_changed.notified()).await;
    }
}

/// The new log start is durable before a file goes. What lies below an earlier one, because of a
/// crash or an error, goes too.
async fn retain_one(shard: &Rc<Shard>, partition: &Rc<Partition>) -> Result<(), Error> {
    let log = partition.log();
    let Some(log_start) = log.retention_start(rt::unix_ms()).await? else {
        if log.has_retired() {
            shard.write(async || log.delete_retired().await).await?;
        }
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

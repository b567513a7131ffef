//! The way past the journal for partitions that get more than it is good for: their batches are
//! written once, into their segments, and the journal gets a note.
//!
//! Runs on: its shard, one task in `Lane::Commit`.      Owner: `Shard`.
//! Promises: nothing is acknowledged before both are durable; see `log/bypass.rs` for the order.
//! A partition goes this way once more than `bypass.size` of it waits for being durable, and takes
//! the journal again when less comes together in `LINGER`: a few large writes, or one small one for
//! all partitions.
//! One cycle: the segments of all partitions that wait are written and flushed side by side, then
//! their entries share a block of the journal. What arrives meanwhile is the next cycle's.
//! Failure: a full disk sends what waits to the journal; any other error is the data directory's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use crate::journal::entry::Entry;
use crate::journal::journal::{Owner, Position};
use crate::journal::reservation::Reservation;
use crate::log::bypass::{BYPASS_PAYLOAD_BYTES_MAX, Bypassed};
use crate::partition::error::Error;
use crate::partition::partition::Partition;
use crate::rt::sync::Notify;
use crate::rt::{self, Instant};
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;

/// Partitions that are written side by side. More would not make a device faster.
const PARTITIONS_AT_ONCE: usize = 16;
/// The most of one partition in one cycle: what one entry stands for, and replay reads at a time.
const RUN_BYTES_MAX: u64 = 2 << 20;
/// The same for an entry that brings its batches.
const ENTRY_BYTES_MAX: usize = 512 << 10;

/// How long a batch waits for company before it goes to the journal.
const LINGER: Duration = Duration::from_millis(1);

/// Partitions whose batches wait.
#[derive(Default)]
pub(crate) struct Bypass {
    waiting: RefCell<BTreeMap<Owner, Waiting>>,
    arrived: Notify,
    is_busy: Cell<bool>,
    /// The journal takes no more.
    has_ended: Cell<bool>,
}

struct Waiting {
    partition: Rc<Partition>,
    since: Instant,
}

/// What a partition has written, on its way into the journal.
struct Written {
    partition: Rc<Partition>,
    reservation: Reservation,
    bypassed: Bypassed,
    entry: Entry,
}

impl Bypass {
    /// The batch that was appended last waits, with all that do already.
    pub(crate) fn add(&self, partition: &Rc<Partition>) {
        partition.log().start_bypass();
        let mut waiting = self.waiting.borrow_mut();
        waiting.entry(partition.owner()).or_insert_with(|| Waiting {
            partition: Rc::clone(partition),
            since: rt::now(),
        });
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The partitions whose turn it is: those with enough, and those that have waited for it.
    async fn next(&self, bytes_min: u64) -> Vec<Rc<Partition>> {
        loop {
            let is_ready = |waiting: &Waiting| {
                let is_enough = waiting.partition.log().waiting_bytes() >= bytes_min;
                is_enough || waiting.since.elapsed() >= LINGER
            };
            let ready: Vec<_> = self
                .waiting
                .borrow_mut()
                .extract_if(.., |_, waiting| is_ready(waiting))
                .map(|(_, waiting)| waiting.partition)
                .collect();
            if !ready.is_empty() {
                self.is_busy.set(true);
                return ready;
            }
            self.is_busy.set(false);
            let oldest = self.waiting.borrow().values().map(|w| w.since).min();
            match oldest {
                None => self.arrived.notified().await,
                Some(since) => {
                    let left = LINGER.saturating_sub(since.elapsed());
                    rt::timeout(left, self.arrived.notified()).await;
                }
            }
        }
    }

    /// Waits until nothing waits any more, or never will be written.
    pub(crate) async fn drained(&self) {
        while !self.has_ended.get() && (self.is_busy.get() || !self.waiting.borrow().is_empty()) {
            rt::yield_now().await;
        }
    }
}

/// Whether the next batch of the partition, of `bytes` bytes, is to wait; `bytes_min` is
/// `bypass.size`.
pub(crate) fn is_for(partition: &Partition, bytes: usize, bytes_min: u64) -> bool {
    let log = partition.log();
    if log.is_bypassing() {
        return true;
    }
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX / 2);
    bytes_min > 0 && log.undurable_bytes() + bytes > bytes_min && log.may_bypass()
}

/// Writes what waits, cycle after cycle, until the task is cancelled or the journal takes no more.
pub(crate) async fn run(shard: Rc<Shard>) {
    loop {
        let partitions = shard.bypass.next(shard.settings().bypass_bytes).await;
        if let Err(error) = cycle(&shard, &partitions).await {
            // the journal has failed, or is closed: who waits is told by `appends::complete`
            tracing::debug!(%error, "nothing goes past the journal any more");
            shard.bypass.has_ended.set(true);
            return;
        }
        rt::yield_if_needed().await;
    }
}

async fn cycle(shard: &Rc<Shard>, partitions: &[Rc<Partition>]) -> Result<(), Error> {
    let writes = partitions.iter().map(|partition| write(shard, partition));
    let mut writes = stream::iter(writes).buffer_unordered(PARTITIONS_AT_ONCE);
    let mut all_written = Vec::new();
    while let Some(written) = writes.next().await {
        all_written.extend(written?);
    }
    drop(writes);
    let mut queued: Vec<(Rc<Partition>, Bypassed, Position)> = Vec::new();
    for written in all_written {
        let Written {
            partition,
            reservation,
            bypassed,
            entry,
        } = written;
        let position = shard
            .journal
            .enqueue(reservation, partition.owner(), entry)?;
        partition.log().on_bypass_queued(&bypassed, position);
        queued.push((partition, bypassed, position));
    }
    let written_owners: Vec<Owner> = queued.iter().map(|(p, ..)| p.owner()).collect();
    for (partition, bypassed, position) in queued {
        shard.journal.durable(position).await?;
        partition.on_durable(bypassed.next_offset());
        let bytes = bypassed.written_bytes();
        shard.metrics.add(Counter::DestagedBytes, bytes);
        shard.metrics.add(Counter::BypassedBytes, bytes);
        partition.log().publish_bypass(bypassed);
        shard.changed.on_bypassed(bytes, shard.journal.capacity());
    }
    for partition in partitions {
        let is_written = written_owners.contains(&partition.owner());
        go_on(shard, partition, is_written).await?;
    }
    Ok(())
}

/// Writes what waits to the segment; none when it is too little, or cannot go there now.
async fn write(shard: &Rc<Shard>, partition: &Rc<Partition>) -> Result<Option<Written>, Error> {
    let log = partition.log();
    let bytes_min = shard.settings().bypass_bytes;
    // before the log's files are held: a full ring is freed by whoever holds them
    let reservation = shard
        .journal
        .reserve_control(BYPASS_PAYLOAD_BYTES_MAX)
        .await?;
    match log.bypass(bytes_min, RUN_BYTES_MAX).await {
        Ok(written) => Ok(written.map(|(bypassed, entry)| Written {
            partition: Rc::clone(partition),
            reservation,
            bypassed,
            entry,
        })),
        Err(_) if partition.is_gone() => Ok(None),
        Err(error) => {
            if !shard.storage.on_error(&error) {
                partition.fail_waiters(&Error::from(error));
            }
            Ok(None)
        }
    }
}

/// What arrived during a cycle is the next one's. What could not go past the journal goes there,
/// and so does what follows, until there is too much of it again.
async fn go_on(
    shard: &Rc<Shard>,
    partition: &Rc<Partition>,
    is_written: bool,
) -> Result<(), Error> {
    let log = partition.log();
    if partition.check_open().is_err() {
        return Ok(()); // nothing of it is acknowledged any more
    }
    if is_written && log.may_bypass() && shard.storage.check().is_ok() {
        if log.waiting_bytes() > 0 {
            shard.bypass.add(partition);
        }
        return Ok(());
    }
    let bytes_max = ENTRY_BYTES_MAX.min(shard.journal.payload_bytes_max());
    while let Some(bytes) = log.next_waiting_bytes(bytes_max) {
        let reservation = shard.journal.reserve(bytes).await?;
        let Some(entry) = log.waiting_entry(bytes) else {
            break;
        };
        let next_offset = entry.next_offset;
        let position = shard
            .journal
            .enqueue(reservation, partition.owner(), entry)?;
        log.on_waiting_queued(next_offset, position);
    }
    log.end_bypass();
    Ok(())
}

//! One shard on the io_uring side: its lanes, its buffer budget, its handle on the blocking pool.
//!
//! Runs on: the shard's own thread, inside its glommio executor.        Owner: `executor.rs`.
//! Promises: tasks of a lane share that lane's part of the shard's time; every poll is timed.
//! Invariant: [slice] glommio polls its reactor only when no task is ready. So a task that could go
//! on for ever asks `slice_is_over` and then waits for something that only the reactor can deliver,
//! which makes it not ready. How long a lane may go on between two polls of the reactor is its
//! share of the slice: under load, that is what divides the shard's time.

use std::cell::Cell;
use std::future::Future;
use std::os::unix::net::UnixDatagram;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::io::PollableFd;
use glommio::{Latency, Shares, TaskQueueHandle};

use super::blocking::{BlockingPool, Kind, OUTSTANDING_MAX};
use super::clock::{self, Instant};
use super::executor::{LaneShares, ShardSpec};
use super::io_buf::Budget;
use super::stall::{StallMeter, StallStats};
use super::sync::semaphore::{Permit, Semaphore};
use super::task::Lane;

/// How long tasks may run before one that asks waits for the reactor.
const SLICE: Duration = Duration::from_millis(1);

/// Which lane runs, and since when without a poll of the reactor or of another lane.
struct Turn {
    lane: Cell<usize>,
    start: Cell<Instant>,
}

impl Turn {
    fn new() -> Self {
        Self {
            lane: Cell::new(Lane::Network.index()),
            start: Cell::new(clock::machine_now()),
        }
    }

    fn enter(&self, lane: Lane) {
        if self.lane.replace(lane.index()) != lane.index() {
            self.start.set(clock::machine_now());
        }
    }
}

/// The slice divided by shares: the largest share has the whole slice.
fn slices(shares: &LaneShares) -> [Duration; 4] {
    let parts = Lane::ALL.map(|lane| u32::try_from(shares.of(lane)).unwrap_or(u32::MAX).max(1));
    let largest = parts.into_iter().max().unwrap_or(1);
    parts.map(|part| SLICE * part / largest)
}

/// What a task of this shard reaches through the thread-local runtime.
pub(super) struct UringShard {
    index: usize,
    lanes: [TaskQueueHandle; 4],
    pool: Arc<BlockingPool>,
    turns: [Semaphore; 3],
    budget: Budget,
    stalls: Rc<StallMeter>,
    /// When something was last delivered by the reactor.
    reactor_ran: Cell<Instant>,
    turn: Rc<Turn>,
    /// How long each lane may go on in one turn.
    slices: [Duration; 4],
    /// A descriptor that is always ready: waiting for it takes one pass of the reactor.
    ready: PollableFd<UnixDatagram>,
}

impl UringShard {
    /// Sets up the lanes of the executor that runs on this thread.
    pub(super) fn new(
        index: usize,
        spec: &ShardSpec,
        ready: UnixDatagram,
        pool: Arc<BlockingPool>,
    ) -> Self {
        // Not `Latency::Matters`: for such a queue glommio writes the eventfd on every wake from
        // another thread, even when the shard is awake.
        let lanes = Lane::ALL.map(|lane| {
            glommio::executor().create_task_queue(
                Shares::Static(spec.shares.of(lane)),
                Latency::NotImportant,
                lane.name(),
            )
        });
        Self {
            index,
            lanes,
            pool,
            turns: std::array::from_fn(|_| Semaphore::new(OUTSTANDING_MAX)),
            budget: Budget::new(spec.io_memory),
            stalls: Rc::new(StallMeter::default()),
            reactor_ran: Cell::new(clock::machine_now()),
            turn: Rc::new(Turn::new()),
            slices: slices(&spec.shares),
            ready: PollableFd::new(ready).expect("it only takes the descriptor in"),
        }
    }

    /// Something was delivered by the reactor just now.
    pub(super) fn note_reactor_ran(&self) {
        let now = clock::machine_now();
        self.reactor_ran.set(now);
        self.turn.start.set(now);
    }

    /// Whether completions have been waiting for too long, or this lane has had its share.
    pub(super) fn slice_is_over(&self) -> bool {
        let now = clock::machine_now();
        now.saturating_since(self.reactor_ran.get()) > SLICE
            || now.saturating_since(self.turn.start.get()) > self.slices[self.turn.lane.get()]
    }

    /// Goes on after the reactor has been polled, which is after every ready task has run.
    pub(super) async fn yield_to_reactor(&self) {
        // It can only fail if the descriptor is not one; then there is nothing to wait for.
        let _ready = self.ready.writable().await;
        self.note_reactor_ran();
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn pool(&self) -> &BlockingPool {
        &self.pool
    }

    /// Waits for a place among this shard's outstanding jobs of `kind`.
    pub(super) async fn blocking_turn(&self, kind: Kind) -> Permit {
        self.turns[kind.index()].acquire(1).await
    }

    /// The bytes of I/O buffers that this shard may hold.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn stalls(&self) -> StallStats {
        self.stalls.stats()
    }

    pub(super) fn spawn<T, F>(&self, lane: Lane, name: &'static str, future: F) -> glommio::Task<T>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let timed = self.timed(lane, name, future);
        glommio::spawn_local_into(timed, self.lanes[lane.index()])
            .expect("the lane's queue lives as long as the executor")
    }

    /// `future`, with every poll timed.
    pub(super) fn timed<F: Future>(
        &self,
        lane: Lane,
        name: &'static str,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let meter = Rc::clone(&self.stalls);
        let turn = Rc::clone(&self.turn);
        let index = self.index;
        async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| {
                turn.enter(lane);
                meter.time(index, name, || future.as_mut().poll(cx))
            })
            .await
        }
    }
}

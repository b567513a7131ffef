//! One shard on the io_uring side: its lanes, its buffer budget, its handle on the blocking pool.
//!
//! Runs on: the shard's own thread, inside its glommio executor.        Owner: `executor.rs`.
//! Promises: tasks of a lane share that lane's part of the shard's time; every poll is timed.
//! Invariant: [slice] glommio polls its reactor only when no task is ready. So a task that could go on
//! for ever asks `slice_is_over` and then waits for something that only the reactor can deliver,
//! which makes it not ready.

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
use super::executor::ShardSpec;
use super::io_buf::Budget;
use super::stall::{StallMeter, StallStats};
use super::sync::semaphore::{Permit, Semaphore};
use super::task::Lane;

/// How long tasks may run before one that asks waits for the reactor.
const SLICE: Duration = Duration::from_millis(1);

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
            ready: PollableFd::new(ready).expect("it only takes the descriptor in"),
        }
    }

    /// Something was delivered by the reactor just now.
    pub(super) fn note_reactor_ran(&self) {
        self.reactor_ran.set(clock::machine_now());
    }

    /// Whether completions have been waiting for too long.
    pub(super) fn slice_is_over(&self) -> bool {
        self.reactor_ran.get().elapsed() > SLICE
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
        let timed = self.timed(name, future);
        glommio::spawn_local_into(timed, self.lanes[lane.index()])
            .expect("the lane's queue lives as long as the executor")
    }

    /// `future`, with every poll timed.
    pub(super) fn timed<F: Future>(
        &self,
        name: &'static str,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let meter = Rc::clone(&self.stalls);
        let index = self.index;
        async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| meter.time(index, name, || future.as_mut().poll(cx))).await
        }
    }
}

//! One shard on the io_uring side: its lanes, its buffer budget, its handle on the blocking pool.
//!
//! Runs on: the shard's own thread, inside its glommio executor.        Owner: `executor.rs`.
//! Promises: tasks of a lane share that lane's part of the shard's time; every poll is timed.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use glommio::{Latency, Shares, TaskQueueHandle};

use super::blocking::{BlockingPool, Kind, OUTSTANDING_MAX};
use super::executor::LaneShares;
use super::io_buf::Budget;
use super::stall::{StallMeter, StallStats};
use super::sync::semaphore::{Permit, Semaphore};
use super::task::Lane;

/// What a task of this shard reaches through the thread-local runtime.
pub(super) struct UringShard {
    index: usize,
    lanes: [TaskQueueHandle; 4],
    pool: Arc<BlockingPool>,
    turns: [Semaphore; 3],
    budget: Budget,
    stalls: Rc<StallMeter>,
}

impl UringShard {
    /// Sets up the lanes of the executor that runs on this thread.
    pub(super) fn new(
        index: usize,
        shares: &LaneShares,
        io_memory: usize,
        pool: Arc<BlockingPool>,
    ) -> Self {
        // Not `Latency::Matters`: for such a queue glommio writes the eventfd on every wake from
        // another thread, even when the shard is awake. The preemption timer of the executor
        // bounds how long one queue runs.
        let lanes = Lane::ALL.map(|lane| {
            glommio::executor().create_task_queue(
                Shares::Static(shares.of(lane)),
                Latency::NotImportant,
                lane.name(),
            )
        });
        Self {
            index,
            lanes,
            pool,
            turns: std::array::from_fn(|_| Semaphore::new(OUTSTANDING_MAX)),
            budget: Budget::new(io_memory),
            stalls: Rc::new(StallMeter::default()),
        }
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

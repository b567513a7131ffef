//! Tasks of one shard: spawning into a lane, awaiting, cancelling, yielding.
//!
//! Runs on: a shard.
//! Promises: dropping a `Task` cancels it (its future is dropped, soon and on this shard);
//! `detach` lets it run on. Every poll is timed (see `stall.rs`), so that a task which holds the
//! loop is named.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::runtime::{self, Runtime};
use super::sim;

/// Where a task is queued: each lane has its own share of the shard's time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    /// Connections and the calls between shards.
    Network,
    /// Appending, committing, acknowledging.
    Commit,
    /// Reads of data that is not in memory.
    Read,
    /// Destaging, retention, checkpoints, metrics.
    Background,
}

impl Lane {
    /// Every lane, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Network, Self::Commit, Self::Read, Self::Background];

    /// The lane's name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Commit => "commit",
            Self::Read => "read",
            Self::Background => "background",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Network => 0,
            Self::Commit => 1,
            Self::Read => 2,
            Self::Background => 3,
        }
    }
}

/// A spawned task. Await it for its output; drop it to cancel it; `detach` it to let it run.
#[must_use = "a dropped task is cancelled: await it, keep it, or detach it"]
pub struct Task<T>(Handle<T>);

enum Handle<T> {
    Uring(glommio::Task<T>),
    Sim(sim::SimTask<T>),
}

impl<T> Task<T> {
    /// Lets the task run to its end without anybody waiting for it.
    pub fn detach(self) {
        match self.0 {
            Handle::Uring(task) => drop(task.detach()),
            Handle::Sim(task) => task.detach(),
        }
    }

    /// Cancels the task and waits until its future has been dropped. Its output, if it ended first.
    pub async fn cancel(self) -> Option<T> {
        match self.0 {
            Handle::Uring(task) => task.cancel().await,
            Handle::Sim(task) => task.cancel(),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.get_mut().0 {
            Handle::Uring(task) => Pin::new(task).poll(cx),
            Handle::Sim(task) => Pin::new(task).poll(cx),
        }
    }
}

/// Starts a task in `lane`. `name` appears in stall warnings and in the simulator's trace.
pub fn spawn<T, F>(lane: Lane, name: &'static str, future: F) -> Task<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    Task(match runtime::current() {
        Runtime::Uring(shard) => Handle::Uring(shard.spawn(lane, name, future)),
        Runtime::Sim(shard) => Handle::Sim(shard.spawn(name, future)),
    })
}

/// Lets every other ready task run, and completions be taken in, before going on.
pub async fn yield_now() {
    match runtime::current() {
        Runtime::Uring(shard) => shard.yield_to_reactor().await,
        Runtime::Sim(_) => sim::yield_once().await,
    }
}

/// Yields when completions have not been taken in for a millisecond: one reading of the clock,
/// cheap enough for every step of a long loop.
pub async fn yield_if_needed() {
    match runtime::current() {
        Runtime::Uring(shard) => {
            if shard.slice_is_over() {
                shard.yield_to_reactor().await;
            }
        }
        Runtime::Sim(shard) => {
            if shard.chance(4) {
                sim::yield_once().await;
            }
        }
    }
}

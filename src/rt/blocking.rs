//! Work that may block or burn CPU, run off the shards: a small pool of threads per kind of work.
//!
//! Three kinds, each with its own threads, so that one cannot delay another: file-system calls
//! (open, rename, unlink, fsync of directories), transfers (sendfile and reads of cold pages), and
//! computing (compression). The threads run on the cores that no shard uses when there are such
//! cores, otherwise wherever the process may run.
//!
//! Runs on: called from a shard; the closures run on pool threads, or inline under the simulator.
//! Promises: a panic in the closure resumes at the awaiter; a dropped future abandons the wait, not
//! the work; at most `OUTSTANDING_MAX` jobs of a kind wait per shard, first come first served.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::machine;
use super::runtime::{self, Runtime};

/// Jobs of one kind that one shard may have outstanding.
pub(super) const OUTSTANDING_MAX: usize = 256;

/// An idle pool thread ends after this long.
const IDLE: Duration = Duration::from_secs(10);

/// Kinds of work, each with its own threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// File-system calls: short, but they may wait for the disk.
    Files,
    /// sendfile and reads of cold pages: as slow as the disk.
    Transfer,
    /// Closures that burn CPU.
    Compute,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Files, Self::Transfer, Self::Compute];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Files => 0,
            Self::Transfer => 1,
            Self::Compute => 2,
        }
    }

    const fn thread_name(self) -> &'static str {
        match self {
            Self::Files => "corelog-files",
            Self::Transfer => "corelog-send",
            Self::Compute => "corelog-compute",
        }
    }
}

/// Runs `work` off the shard and waits for what it returns. `name` says what it is, in traces.
///
/// Cancel: safe; the work is still done, its result is dropped.
pub async fn blocking<T, F>(name: &'static str, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    run(Kind::Compute, name, work).await
}

/// As [`blocking`], on the threads of `kind`.
pub(super) async fn run<T, F>(kind: Kind, name: &'static str, work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match runtime::current() {
        Runtime::Uring(shard) => {
            let turn = shard.blocking_turn(kind).await;
            let done = shard.pool().submit(kind, work);
            let result = done.await;
            drop(turn);
            result
        }
        Runtime::Sim(shard) => shard.blocking(name, work).await,
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads of a process, shared by its shards. They end when the last handle is dropped and
/// the work that was handed over is done.
pub(super) struct BlockingPool {
    kinds: [Arc<Workers>; 3],
}

struct Workers {
    kind: Kind,
    threads_max: usize,
    /// Cores that the threads may use; empty for "as inherited".
    cores: Vec<usize>,
    state: Mutex<WorkersState>,
    work: Condvar,
}

struct WorkersState {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl BlockingPool {
    /// A pool whose threads run on `cores`, or anywhere if that is empty. Threads start on demand.
    pub(super) fn new(cores: &[usize]) -> Self {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            kinds: Kind::ALL.map(|kind| {
                let threads_max = match kind {
                    Kind::Files => 4,
                    Kind::Transfer => available.clamp(4, 16),
                    Kind::Compute => cores.len().max(available / 2).clamp(2, 16),
                };
                Arc::new(Workers {
                    kind,
                    threads_max,
                    cores: cores.to_vec(),
                    state: Mutex::new(WorkersState {
                        jobs: VecDeque::new(),
                        threads: 0,
                        idle: 0,
                        closed: false,
                    }),
                    work: Condvar::new(),
                })
            }),
        }
    }

    /// Hands `work` to a thread of `kind`.
    pub(super) fn submit<T, F>(&self, kind: Kind, work: F) -> Completion<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let shared = Arc::new(Mutex::new(Outcome {
            result: None,
            waker: None,
        }));
        let theirs = Arc::clone(&shared);
        let job = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let mut outcome = lock(&theirs);
            outcome.result = Some(result);
            let waker = outcome.waker.take();
            drop(outcome);
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        let workers = &self.kinds[kind.index()];
        let mut state = lock(&workers.state);
        state.jobs.push_back(job);
        let start = state.idle < state.jobs.len() && state.threads < workers.threads_max;
        if start {
            state.threads += 1;
        }
        drop(state);
        if start {
            Workers::start(workers);
        } else {
            workers.work.notify_one();
        }
        Completion { shared }
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        for workers in &self.kinds {
            lock(&workers.state).closed = true;
            workers.work.notify_all();
        }
    }
}

impl Workers {
    fn start(workers: &Arc<Self>) {
        let theirs = Arc::clone(workers);
        let thread = std::thread::Builder::new()
            .name(workers.kind.thread_name().to_owned())
            .spawn(move || theirs.serve());
        if let Err(error) = thread {
            // Without one more thread the work is done by the others, or else here and now.
            tracing::warn!(%error, "cannot start a pool thread");
            let mut state = lock(&workers.state);
            state.threads -= 1;
            let jobs = if state.threads == 0 {
                std::mem::take(&mut state.jobs)
            } else {
                VecDeque::new()
            };
            drop(state);
            for job in jobs {
                job();
            }
        }
    }

    fn serve(&self) {
        if !self.cores.is_empty() {
            // A thread started by a shard inherits that shard's single core: widen it.
            if let Err(error) = machine::set_affinity(&self.cores) {
                tracing::warn!(%error, "cannot move a pool thread off the shards' cores");
            }
        }
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (back, waited) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Outcome<T> {
    result: Option<Result<T, Box<dyn Any + Send>>>,
    waker: Option<Waker>,
}

/// Resolves with what the closure returned, on the shard that waits.
pub(super) struct Completion<T> {
    shared: Arc<Mutex<Outcome<T>>>,
}

impl<T> Future for Completion<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut outcome = lock(&self.shared);
        match outcome.result.take() {
            Some(Ok(value)) => Poll::Ready(value),
            Some(Err(panic)) => {
                drop(outcome);
                resume_unwind(panic)
            }
            None => {
                match &mut outcome.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

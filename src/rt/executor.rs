//! Shards as threads: one glommio executor per chosen core, started together or not at all.
//!
//! Runs on: `run_on_cores` on the main thread (it blocks until every shard has ended); the rest on
//! a shard.
//! Promises: no shard's future runs before every executor stands, so that a shard never waits for
//! one that could not start. A shard with a core is pinned to it; one without (tests) floats.
//! An idle shard parks in the kernel; it spins before only as long as `ShardSpec::spin` says.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};

use super::blocking::BlockingPool;
use super::machine;
use super::runtime::{self, Runtime};
pub use super::stall::StallStats;
use super::task::Lane;
use super::uring::UringShard;

/// glommio's preemption timer, put off for good. When it rings after the reactor was polled and
/// before the first ready task has run (the thread lost its core meanwhile), glommio takes "asked
/// to yield" for "nothing to run" and parks with tasks ready, until something else wakes it. Our
/// own slices (`uring.rs`) do without it.
const PREEMPT: Duration = Duration::from_hours(365 * 24);

/// The least that glommio registers with each of a shard's rings.
const REGISTERED_MIN: usize = 64 << 10;

/// Rings per executor that pin the registered memory, each on its own account.
const RINGS: usize = 3;

/// Settings of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardSpec {
    /// The core to pin to; `None` leaves the thread to the scheduler.
    pub core: Option<usize>,
    /// How long an idle loop spins before it parks. Needs a core.
    pub spin: Duration,
    /// Entries of each ring.
    pub ring_depth: usize,
    /// Bytes of I/O buffers that the shard may hold at a time.
    pub io_memory: usize,
    /// How the lanes share the shard's time.
    pub shares: LaneShares,
}

impl Default for ShardSpec {
    fn default() -> Self {
        Self {
            core: None,
            spin: Duration::ZERO,
            ring_depth: 128,
            io_memory: 16 << 20,
            shares: LaneShares::default(),
        }
    }
}

/// Parts of a shard's time, 1 to 1000 each; only their proportion counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneShares {
    /// Connections and calls between shards.
    pub network: usize,
    /// Appending and committing.
    pub commit: usize,
    /// Reads from disk.
    pub read: usize,
    /// Everything that can wait.
    pub background: usize,
}

impl LaneShares {
    pub(super) fn of(&self, lane: Lane) -> usize {
        match lane {
            Lane::Network => self.network,
            Lane::Commit => self.commit,
            Lane::Read => self.read,
            Lane::Background => self.background,
        }
    }
}

impl Default for LaneShares {
    fn default() -> Self {
        Self {
            network: 1000,
            commit: 1000,
            read: 400,
            background: 100,
        }
    }
}

/// Why the shards did not start, or how one ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An executor could not be made.
    #[error("cannot start shard {shard}: {source}")]
    Start {
        /// The shard.
        shard: usize,
        /// What the machine said.
        source: io::Error,
    },
    /// A shard's thread panicked; the panic itself has been printed.
    #[error("shard {shard} panicked")]
    Panicked {
        /// The shard.
        shard: usize,
    },
}

/// Runs `shard(index)` on one executor per spec and returns what each returned, in order.
///
/// # Errors
/// When an executor cannot be made (nothing has run then), or when a shard panicked.
pub fn run_on_cores<G, F, T>(specs: Vec<ShardSpec>, shard: G) -> Result<Vec<T>, Error>
where
    G: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let pool = Arc::new(BlockingPool::new(&pool_cores(&specs)));
    let registered = registered_memory(&specs);
    let shard = Arc::new(shard);
    let (made, stands) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let mut threads = Vec::with_capacity(specs.len());
    let mut failure = None;
    for (index, spec) in specs.into_iter().enumerate() {
        let (shard, pool, made) = (Arc::clone(&shard), Arc::clone(&pool), made.clone());
        let (go, may_go) = mpsc::channel();
        let notice = EndNotice { ends: end.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("corelog-{index}"))
            .spawn(move || {
                let _notice = notice;
                run_shard(index, &spec, registered, pool, (&made, &may_go), &*shard)
            });
        match thread {
            Ok(thread) => threads.push((thread, go)),
            Err(source) => {
                failure = failure.or(Some(Error::Start {
                    shard: index,
                    source,
                }));
            }
        }
    }
    drop((made, pool, end));
    for _ in &threads {
        // A thread that panicked while it made its executor reports nothing; join finds it.
        if let Ok(Err(error)) = stands.recv() {
            failure = failure.or(Some(error));
        }
    }
    for (_, go) in &threads {
        // Fails only for a thread that panicked: found by join.
        let _panicked = go.send(failure.is_none());
    }
    wait_for_end(&ends);
    let mut ended = Vec::with_capacity(threads.len());
    for (index, (thread, _go)) in threads.into_iter().enumerate() {
        match thread.join() {
            Ok(output) => ended.extend(output),
            Err(_) => failure = failure.or(Some(Error::Panicked { shard: index })),
        }
    }
    failure.map_or(Ok(ended), Err)
}

/// How long the other shards have to end after one panicked.
const PANIC_GRACE: Duration = Duration::from_secs(10);

/// Tells, when a shard's thread ends, whether it panicked.
struct EndNotice {
    ends: mpsc::Sender<bool>,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        // Nobody listens only when the starting thread is gone.
        let _unheard = self.ends.send(std::thread::panicking());
    }
}

/// Returns when every thread has ended. A shard that panicked takes the process with it, as it does
/// where panics abort: the others may wait for it for ever.
fn wait_for_end(ends: &mpsc::Receiver<bool>) {
    loop {
        match ends.recv() {
            Ok(true) => break,
            Ok(false) => {}
            Err(mpsc::RecvError) => return,
        }
    }
    loop {
        match ends.recv_timeout(PANIC_GRACE) {
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::error!("a shard panicked and the others do not end: aborting");
                std::process::abort();
            }
        }
    }
}

fn run_shard<G, F, T>(
    index: usize,
    spec: &ShardSpec,
    registered: usize,
    pool: Arc<BlockingPool>,
    (made, may_go): (&mpsc::Sender<Result<(), Error>>, &mpsc::Receiver<bool>),
    shard: &G,
) -> Option<T>
where
    G: Fn(usize) -> F,
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let (made_here, report) = match make(spec, registered) {
        Ok(made) => (Some(made), Ok(())),
        Err(source) => (
            None,
            Err(Error::Start {
                shard: index,
                source,
            }),
        ),
    };
    // Nobody listens only when the starting thread is gone, and then nobody says go either.
    let _unheard = made.send(report);
    if !may_go.recv().unwrap_or(false) {
        return None;
    }
    let (executor, ready) = made_here?;
    Some(executor.run(async {
        let this = Rc::new(UringShard::new(index, spec, ready, pool));
        let entered = runtime::enter(Runtime::Uring(Rc::clone(&this)));
        let output = this.spawn(Lane::Commit, "shard", shard(index)).await;
        drop(entered);
        output
    }))
}

/// The executor, and the descriptor that its shard keeps ready to wait for.
fn make(spec: &ShardSpec, registered: usize) -> io::Result<(LocalExecutor, UnixDatagram)> {
    let ready = UnixDatagram::unbound()?;
    ready.set_nonblocking(true)?;
    let placement = match spec.core {
        Some(core) => Placement::Fixed(core),
        None => Placement::Unbound,
    };
    let executor = LocalExecutorBuilder::new(placement)
        .name("corelog")
        .ring_depth(spec.ring_depth)
        .io_memory(spec.io_memory.min(registered))
        .spin_before_park(spec.spin)
        .preempt_timer(PREEMPT)
        // glommio keeps one thread for its own blocking calls; none of ours go there.
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()?;
    Ok((executor, ready))
}

/// Cores for the blocking pool: those the process may use and no shard does, else all of them.
fn pool_cores(specs: &[ShardSpec]) -> Vec<usize> {
    let allowed = machine::allowed_cores().unwrap_or_default();
    let free: Vec<usize> = allowed
        .iter()
        .copied()
        .filter(|core| specs.iter().all(|spec| spec.core != Some(*core)))
        .collect();
    if free.is_empty() { allowed } else { free }
}

/// How much of `io_memory` each shard may register with its rings: all of it when the limit on
/// locked memory leaves room for every shard twice over, else the least. What is not registered
/// works as well, it is only pinned anew for every operation.
fn registered_memory(specs: &[ShardSpec]) -> usize {
    let wanted: usize = specs
        .iter()
        .map(|spec| spec.io_memory.saturating_mul(RINGS))
        .sum();
    match machine::memlock_limit() {
        Ok(Some(limit)) if limit / 2 < u64::try_from(wanted).unwrap_or(u64::MAX) => REGISTERED_MIN,
        _ => usize::MAX,
    }
}

/// Index of the shard that runs on this thread.
pub fn shard_index() -> usize {
    match runtime::current() {
        Runtime::Uring(shard) => shard.index(),
        Runtime::Sim(_) => 0,
    }
}

/// Who held this shard's loop, and for how long. All zero under the simulator.
pub fn stalls() -> StallStats {
    match runtime::current() {
        Runtime::Uring(shard) => shard.stalls(),
        Runtime::Sim(_) => StallStats::default(),
    }
}

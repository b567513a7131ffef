//! The simulated machine: which task runs next, and what time it is.
//!
//! Runs on: the test's thread.        Owner: `Sim`.
//! Promises: the next task is drawn from the ready ones by the seed; the clock stands still while
//! anything is ready and then jumps to the next timer.
//! Invariants: [sim-progress] a run in which nothing is ready and no timer is set has deadlocked:
//! it panics with the seed and the names of the tasks that wait. So does one that runs three
//! million steps without the clock moving, or thirty million in all.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::disk::SimDisk;
use super::net::{NetFaults, NetFired, SimNet};
use super::rng::Rng;
use crate::rt::clock::Instant;
use crate::rt::io_buf::Budget;
use crate::rt::runtime::{self, Runtime};

/// Wall-clock time at the start of every run: 2025-01-01 00:00:00 UTC.
const START_UNIX_MS: i64 = 1_735_689_600_000;

/// Steps without the clock moving that count as a livelock.
const STEPS_AT_ONE_TIME_MAX: u64 = 3_000_000;
/// Steps of a whole run that count as one, too: tasks that ask each other for ever take some time.
const STEPS_MAX: u64 = 30_000_000;
/// Of so many more, the tasks are named.
const BUSY_STEPS: u64 = 1000;

/// Bytes of I/O buffers that the shards of a simulated machine may hold together.
const IO_MEMORY: usize = 64 << 20;

/// Number of the future given to `run`; spawned tasks count from one.
const MAIN: u64 = 0;

/// A simulated machine: one thread, on which any number of shards run in turn.
pub struct Sim {
    shard: Rc<SimShard>,
}

impl Sim {
    /// A machine with an empty disk.
    pub fn new(seed: u64) -> Self {
        Self::with_disk(seed, SimDisk::new(seed))
    }

    /// A machine with a disk that other machines may have had before.
    pub fn with_disk(seed: u64, disk: SimDisk) -> Self {
        let shard = SimShard {
            seed,
            rng: RefCell::new(Rng::new(seed)),
            clock: Cell::new(1_000_000_000),
            tasks: RefCell::default(),
            next_task: Cell::new(MAIN + 1),
            running: Cell::new(None),
            ready: Arc::default(),
            timers: RefCell::default(),
            disk,
            net: SimNet::new(seed),
            budget: Budget::new(IO_MEMORY),
            trace: Cell::new(seed),
            wall_offset_ms: Cell::new(0),
            marks: RefCell::default(),
        };
        Self {
            shard: Rc::new(shard),
        }
    }

    /// The machine's disk.
    pub fn disk(&self) -> SimDisk {
        self.shard.disk.clone()
    }

    /// Lets connections fail from now on.
    pub fn set_net_faults(&self, faults: NetFaults) {
        self.shard.net.set_faults(faults);
    }

    /// How often they have failed.
    pub fn net_fired(&self) -> NetFired {
        self.shard.net.fired()
    }

    /// Runs `future` to its end; tasks that it leaves behind are dropped.
    ///
    /// # Panics
    /// On a deadlock, and when the power fails (see `SimDisk::crash_after`).
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let seed = self.shard.seed;
        self.run_until_crash(future).unwrap_or_else(|| {
            panic!("seed {seed}: the power failed; run_until_crash expects that")
        })
    }

    /// As [`run`](Self::run), or `None` when the power fails first.
    pub fn run_until_crash<F: Future>(&self, future: F) -> Option<F::Output> {
        let entered = runtime::enter(Runtime::Sim(Rc::clone(&self.shard)));
        let output = {
            let mut main = pin!(future);
            self.shard.drive(&mut main)
        };
        self.shard.drop_tasks();
        drop(entered);
        output
    }

    /// A number that stands for everything that happened: which task ran when, and the time.
    pub fn trace(&self) -> u64 {
        self.shard.trace.get()
    }

    /// How often the program came by the places that `rt::mark` names.
    pub fn marks(&self) -> BTreeMap<&'static str, u64> {
        self.shard.marks.borrow().clone()
    }

    /// Sets the wall clock, and nothing else, forward or back.
    pub fn step_wall_clock(&self, by_ms: i64) {
        let offset_ms = &self.shard.wall_offset_ms;
        offset_ms.set(offset_ms.get() + by_ms);
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.shard.now()
    }
}

/// What tasks reach through the thread-local runtime.
pub(in crate::rt) struct SimShard {
    seed: u64,
    rng: RefCell<Rng>,
    clock: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, SimTaskSlot>>,
    next_task: Cell<u64>,
    running: Cell<Option<u64>>,
    ready: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<Timers>,
    disk: SimDisk,
    net: SimNet,
    budget: Budget,
    trace: Cell<u64>,
    /// What the wall clock is ahead of the virtual time.
    wall_offset_ms: Cell<i64>,
    /// Places of the program that were passed, by name.
    marks: RefCell<BTreeMap<&'static str, u64>>,
}

struct SimTaskSlot {
    name: &'static str,
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wake: Arc<TaskWake>,
}

#[derive(Default)]
struct Timers {
    next: u64,
    due: BinaryHeap<Reverse<(u64, u64)>>,
    set: BTreeMap<u64, Option<Waker>>,
}

struct TaskWake {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            lock(&self.ready).push(self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimShard {
    fn drive<F: Future>(&self, main: &mut Pin<&mut F>) -> Option<F::Output> {
        let main_wake = self.task_wake(MAIN);
        Waker::from(Arc::clone(&main_wake)).wake();
        let (mut steps, mut all_steps) = (0_u64, 0_u64);
        let mut busy = BTreeSet::new();
        loop {
            if self.disk.is_crashed() {
                return None;
            }
            let Some(id) = self.next_ready() else {
                self.advance();
                steps = 0;
                continue;
            };
            steps += 1;
            all_steps += 1;
            assert!(
                all_steps < STEPS_MAX,
                "[sim-progress] seed {}: {all_steps} steps and no end",
                self.seed
            );
            if steps > STEPS_AT_ONE_TIME_MAX {
                busy.insert(self.name_of(id));
            }
            assert!(
                steps < STEPS_AT_ONE_TIME_MAX + BUSY_STEPS,
                "[sim-progress] seed {}: {steps} steps and the clock stands still; at last ran \
                 {busy:?}",
                self.seed,
            );
            self.note(id);
            if id == MAIN {
                main_wake.queued.store(false, Ordering::Release);
                let waker = Waker::from(Arc::clone(&main_wake));
                let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(output) = polled {
                    return (!self.disk.is_crashed()).then_some(output);
                }
            } else {
                self.poll_task(id);
            }
        }
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = lock(&self.ready);
        if ready.is_empty() {
            return None;
        }
        let index = self.rng.borrow_mut().index(ready.len());
        Some(ready.swap_remove(index))
    }

    /// Moves the clock to the next timer and wakes all that are due.
    fn advance(&self) {
        let mut due = Vec::new();
        {
            let mut timers = self.timers.borrow_mut();
            while let Some(Reverse((at, id))) = timers.due.peek().copied() {
                if !timers.set.contains_key(&id) {
                    timers.due.pop();
                    continue;
                }
                if !due.is_empty() && at > self.clock.get() {
                    break;
                }
                self.clock.set(self.clock.get().max(at));
                timers.due.pop();
                due.push(timers.set.remove(&id).flatten());
            }
        }
        assert!(
            !due.is_empty(),
            "[sim-progress] seed {}: deadlock: nothing is ready and no timer is set: {}",
            self.seed,
            self.waiting()
        );
        for waker in due.into_iter().flatten() {
            waker.wake();
        }
    }

    fn waiting(&self) -> String {
        let names: Vec<_> = self.tasks.borrow().values().map(|task| task.name).collect();
        format!(
            "the main future and {} tasks: {}",
            names.len(),
            names.join(", ")
        )
    }

    fn name_of(&self, id: u64) -> &'static str {
        let tasks = self.tasks.borrow();
        tasks.get(&id).map_or("the main future", |task| task.name)
    }

    fn poll_task(&self, id: u64) {
        let (mut future, wake) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else {
                return;
            };
            task.wake.queued.store(false, Ordering::Release);
            let Some(future) = task.future.take() else {
                return;
            };
            (future, Arc::clone(&task.wake))
        };
        self.running.set(Some(id));
        let waker = Waker::from(wake);
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.running.set(None);
        let done = polled.is_ready() || {
            // Gone from the table: it cancelled itself while it ran.
            let mut tasks = self.tasks.borrow_mut();
            match tasks.get_mut(&id) {
                Some(task) => {
                    task.future = Some(future);
                    return;
                }
                None => true,
            }
        };
        debug_assert!(done);
        self.tasks.borrow_mut().remove(&id);
    }

    /// Folds one step into the trace.
    fn note(&self, what: u64) {
        let mixed = self.trace.get().rotate_left(5) ^ what ^ self.clock.get().rotate_left(32);
        self.trace.set(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }

    fn task_wake(&self, id: u64) -> Arc<TaskWake> {
        Arc::new(TaskWake {
            id,
            queued: AtomicBool::new(false),
            ready: Arc::clone(&self.ready),
        })
    }

    pub(in crate::rt) fn spawn<T, F>(self: &Rc<Self>, name: &'static str, future: F) -> SimTask<T>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        let join = Rc::new(Join {
            output: RefCell::new(None),
            waiter: RefCell::new(None),
        });
        let theirs = Rc::clone(&join);
        let wake = self.task_wake(id);
        let slot = SimTaskSlot {
            name,
            future: Some(Box::pin(async move {
                let output = future.await;
                theirs.output.replace(Some(output));
                let waiter = theirs.waiter.take();
                if let Some(waiter) = waiter {
                    waiter.wake();
                }
            })),
            wake: Arc::clone(&wake),
        };
        self.tasks.borrow_mut().insert(id, slot);
        Waker::from(wake).wake();
        SimTask {
            shard: Rc::clone(self),
            id,
            join,
            detached: false,
        }
    }

    fn cancel(&self, id: u64) {
        let slot = self.tasks.borrow_mut().remove(&id);
        drop(slot);
    }

    /// Drops every task, and those that their drops spawn.
    fn drop_tasks(&self) {
        loop {
            let first = self.tasks.borrow_mut().pop_first();
            if first.is_none() {
                break;
            }
        }
        lock(&self.ready).clear();
    }

    pub(in crate::rt) fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.get())
    }

    pub(in crate::rt) fn unix_ms(&self) -> i64 {
        let since = i64::try_from(self.clock.get() / 1_000_000).unwrap_or(i64::MAX / 2);
        START_UNIX_MS + self.wall_offset_ms.get() + since
    }

    pub(in crate::rt) fn mark(&self, what: &'static str) {
        *self.marks.borrow_mut().entry(what).or_default() += 1;
    }

    pub(in crate::rt) fn random_u64(&self) -> u64 {
        self.rng.borrow_mut().next()
    }

    /// True once in `n` times.
    pub(in crate::rt) fn chance(&self, n: u64) -> bool {
        self.rng.borrow_mut().chance(n)
    }

    pub(in crate::rt) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(in crate::rt) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    pub(super) fn net(&self) -> &SimNet {
        &self.net
    }

    pub(in crate::rt) fn timer(self: &Rc<Self>, deadline: Instant) -> TimerHandle {
        let mut timers = self.timers.borrow_mut();
        let id = timers.next;
        timers.next += 1;
        timers.due.push(Reverse((deadline.as_nanos(), id)));
        timers.set.insert(id, None);
        TimerHandle {
            shard: Rc::clone(self),
            id,
        }
    }

    /// Waits between `least` and `most` microseconds of virtual time.
    pub(super) async fn delay(&self, least: u64, most: u64) {
        let micros = least + self.rng.borrow_mut().below(most - least + 1);
        crate::rt::sleep(Duration::from_micros(micros)).await;
    }

    /// What a call on names or small files takes.
    pub(in crate::rt) async fn disk_delay(&self) {
        self.delay(20, 120).await;
    }

    /// Never returns once the power has failed.
    pub(in crate::rt) async fn halt_if_crashed(&self) {
        if self.disk.is_crashed() {
            std::future::pending::<()>().await;
        }
    }

    pub(in crate::rt) async fn blocking<T>(
        &self,
        _name: &'static str,
        work: impl FnOnce() -> T,
    ) -> T {
        self.delay(5, 100).await;
        work()
    }
}

struct Join<T> {
    output: RefCell<Option<T>>,
    waiter: RefCell<Option<Waker>>,
}

/// A task of the simulated shard.
pub(in crate::rt) struct SimTask<T> {
    shard: Rc<SimShard>,
    id: u64,
    join: Rc<Join<T>>,
    detached: bool,
}

impl<T> SimTask<T> {
    pub(in crate::rt) fn detach(mut self) {
        self.detached = true;
    }

    pub(in crate::rt) fn cancel(self) -> Option<T> {
        let output = self.join.output.take();
        drop(self);
        output
    }
}

impl<T> Future for SimTask<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(output) = self.join.output.take() {
            return Poll::Ready(output);
        }
        self.join.waiter.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<T> Drop for SimTask<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.shard.cancel(self.id);
        }
    }
}

/// A timer that is set; taken back when dropped.
pub(in crate::rt) struct TimerHandle {
    shard: Rc<SimShard>,
    id: u64,
}

impl TimerHandle {
    pub(in crate::rt) fn register(&self, waker: &Waker) {
        if let Some(slot) = self.shard.timers.borrow_mut().set.get_mut(&self.id) {
            *slot = Some(waker.clone());
        }
    }
}

impl Drop for TimerHandle {
    fn drop(&mut self) {
        let waker = self.shard.timers.borrow_mut().set.remove(&self.id);
        drop(waker);
    }
}

/// Lets the other ready tasks be drawn before this one goes on.
pub(in crate::rt) async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

//! Which runtime this thread runs: the closed choice between io_uring and the simulator.
//!
//! Runs on: every shard; the choice is a thread-local set by whoever drives the executor.
//! Invariant: [one-runtime] a thread is inside at most one runtime at a time.

use std::cell::RefCell;
use std::rc::Rc;

use super::sim::SimShard;
use super::uring::UringShard;

/// The runtime that drives the current thread.
#[derive(Clone)]
pub(super) enum Runtime {
    /// A glommio executor over io_uring.
    Uring(Rc<UringShard>),
    /// The seeded simulator.
    Sim(Rc<SimShard>),
}

thread_local! {
    static CURRENT: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// Runs `f` with the current runtime, if any. `f` must not enter another runtime.
pub(super) fn with<R>(f: impl FnOnce(Option<&Runtime>) -> R) -> R {
    CURRENT.with_borrow(|current| f(current.as_ref()))
}

/// The current runtime.
///
/// # Panics
/// Outside of a runtime: the caller is not on a shard, which is a mistake in the program.
pub(super) fn current() -> Runtime {
    CURRENT
        .with_borrow(Clone::clone)
        .expect("[one-runtime] called on a thread that runs no shard")
}

/// Tells a simulation that the program came by a place of this name: whoever runs many seeds sees
/// what none of them reached. Nothing else counts it.
pub fn mark(what: &'static str) {
    with(|runtime| {
        if let Some(Runtime::Sim(shard)) = runtime {
            shard.mark(what);
        }
    });
}

/// Something was delivered by the reactor of this thread just now.
pub(super) fn note_reactor_ran() {
    with(|runtime| {
        if let Some(Runtime::Uring(shard)) = runtime {
            shard.note_reactor_ran();
        }
    });
}

/// Makes `runtime` the current one until the guard is dropped.
pub(super) fn enter(runtime: Runtime) -> Entered {
    CURRENT.with_borrow_mut(|current| {
        assert!(
            current.is_none(),
            "[one-runtime] this thread already runs a shard"
        );
        *current = Some(runtime);
    });
    Entered { _private: () }
}

/// Leaves the runtime when dropped.
pub(super) struct Entered {
    _private: (),
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Taken out before it is dropped: its own drop may ask which runtime is current.
        let left = CURRENT.with_borrow_mut(Option::take);
        drop(left);
    }
}

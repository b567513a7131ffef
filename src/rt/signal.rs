//! Termination: SIGTERM and SIGINT ask for an orderly stop, the second one stops at once.
//!
//! Runs on: a thread of its own that only waits for signals; `Termination::wait` on any shard.
//! Promises: every clone of a `Termination` sees the request; a second signal ends the process with
//! the conventional status (128 + signal).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Default)]
struct Shared {
    requested: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// A request to stop that may come.
#[derive(Clone, Default)]
pub struct Termination {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Termination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Termination")
            .field("requested", &self.is_requested())
            .finish()
    }
}

impl Termination {
    /// One that only [`request`](Self::request) raises.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM and SIGINT raise from now on; the second signal ends the process.
    pub fn on_signals() -> io::Result<Self> {
        let termination = Self::new();
        let theirs = termination.clone();
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        std::thread::Builder::new()
            .name("corelog-signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    if theirs.is_requested() {
                        std::process::exit(128 + signal);
                    }
                    theirs.request();
                }
            })?;
        Ok(termination)
    }

    /// Asks for the stop.
    pub fn request(&self) {
        self.shared.requested.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the stop has been asked for.
    pub fn is_requested(&self) -> bool {
        self.shared.requested.load(Ordering::Acquire)
    }

    /// Waits for the request.
    ///
    /// Cancel: safe.
    pub async fn wait(&self) {
        std::future::poll_fn(|cx| {
            if self.is_requested() {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers();
            // Looked at again under the lock that the request takes the wakers with.
            if self.is_requested() {
                return Poll::Ready(());
            }
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.shared
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::testing::on_uring;

    #[test]
    fn a_signal_wakes_every_shard_that_waits() {
        let termination = Termination::on_signals().unwrap();
        assert!(!termination.is_requested());
        let theirs = termination.clone();
        let sender = std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            signal_hook::low_level::raise(SIGTERM).unwrap();
        });
        on_uring(move || {
            let theirs = theirs.clone();
            async move { theirs.wait().await }
        });
        assert!(termination.is_requested());
        sender.join().unwrap();
    }
}

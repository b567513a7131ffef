//! Termination: SIGTERM and SIGINT ask for an orderly stop, the second one stops at once, and so
//! does the end of the time that an orderly stop may take.
//!
//! Runs on: a thread of its own that only waits for signals; `Termination::wait` on any shard.
//! Promises: every clone of a `Termination` sees the request; a second signal ends the process with
//! the conventional status (128 + signal), the end of the time with 0: what is acknowledged is
//! durable, whenever the process ends.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

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

    /// One that SIGTERM and SIGINT raise from now on; the second signal ends the process, and so
    /// does `limit` after the first.
    pub fn on_signals(limit: Duration) -> io::Result<Self> {
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
                    let end = std::thread::Builder::new().name("corelog-stop-limit".to_owned());
                    let ending = end.spawn(move || end_after(limit));
                    if let Err(error) = ending {
                        tracing::warn!(%error, "the stop may take longer than it should");
                    }
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

fn end_after(limit: Duration) {
    std::thread::sleep(limit);
    tracing::warn!(
        seconds = limit.as_secs(),
        "the stop took too long and is ended here: the next start recovers from the journals"
    );
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::testing::on_uring;

    #[test]
    fn a_signal_wakes_every_shard_that_waits() {
        let termination = Termination::on_signals(Duration::MAX).unwrap();
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

    /// Set in a process of its own, which does not stop by itself.
    const STUCK: &str = "CORELOG_TEST_STUCK";

    #[test]
    fn a_stop_that_takes_too_long_ends_with_0() {
        if std::env::var_os(STUCK).is_some() {
            Termination::on_signals(Duration::from_millis(100)).unwrap();
            signal_hook::low_level::raise(SIGTERM).unwrap();
            std::thread::sleep(Duration::from_secs(60));
            std::process::exit(1);
        }
        let mut stuck = std::process::Command::new(std::env::current_exe().unwrap());
        let test = "rt::signal::tests::a_stop_that_takes_too_long_ends_with_0";
        let status = stuck.args(["--exact", test]).env(STUCK, "1").status();
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

//! "Something changed": wakes one waiter or all of them.
//!
//! Runs on: a shard. Promises: `notify_one` without a waiter is remembered once; waiters are woken
//! in the order they came; a notification given to a waiter that is then dropped goes to the next.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct Waiter {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Waiting,
    /// Woken by `notify_one`: passed on if dropped before it was seen.
    One,
    /// Woken by `notify_all`.
    All,
}

/// Wakes tasks that wait for a change.
#[derive(Default)]
pub struct Notify {
    remembered: Cell<bool>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notify")
            .field("remembered", &self.remembered.get())
            .field("waiters", &self.waiters.borrow().len())
            .finish()
    }
}

impl Notify {
    /// Nobody waits, nothing happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter that came first; without one, the next to come does not wait.
    pub fn notify_one(&self) {
        let first = self.waiters.borrow_mut().pop_front();
        match first {
            Some(waiter) => wake(&waiter, State::One),
            None => self.remembered.set(true),
        }
    }

    /// Wakes everyone who waits now.
    pub fn notify_all(&self) {
        let waiters = self.waiters.take();
        for waiter in waiters {
            wake(&waiter, State::All);
        }
    }

    /// Waits for a notification. It counts from this call on, not from the first poll.
    ///
    /// Cancel: safe.
    pub fn notified(&self) -> Notified<'_> {
        if self.remembered.take() {
            let waiter = Rc::new(Waiter::default());
            waiter.state.set(State::One);
            return Notified {
                notify: self,
                waiter,
                seen: false,
            };
        }
        let waiter = Rc::new(Waiter::default());
        self.waiters.borrow_mut().push_back(Rc::clone(&waiter));
        Notified {
            notify: self,
            waiter,
            seen: false,
        }
    }
}

fn wake(waiter: &Waiter, state: State) {
    waiter.state.set(state);
    let waker = waiter.waker.take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The future of [`Notify::notified`].
#[must_use = "a notification is not waited for unless awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    waiter: Rc<Waiter>,
    seen: bool,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiter.state.get() == State::Waiting {
            self.waiter.waker.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        self.seen = true;
        Poll::Ready(())
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        match self.waiter.state.get() {
            State::Waiting => {
                let mut waiters = self.notify.waiters.borrow_mut();
                waiters.retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
            }
            State::One if !self.seen => self.notify.notify_one(),
            State::One | State::All => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_notification_without_a_waiter_is_remembered_once() {
        let notify = Notify::new();
        notify.notify_one();
        notify.notify_one();
        assert!(notify.notified().now_or_never().is_some());
        assert!(notify.notified().now_or_never().is_none());
    }

    #[test]
    fn a_notification_to_a_dropped_waiter_goes_to_the_next() {
        let notify = Notify::new();
        let first = notify.notified();
        let second = notify.notified();
        notify.notify_one();
        drop(first);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn notify_all_wakes_everyone_and_is_not_remembered() {
        let notify = Notify::new();
        let (first, second) = (notify.notified(), notify.notified());
        notify.notify_all();
        assert!(first.now_or_never().is_some());
        assert!(second.now_or_never().is_some());
        assert!(notify.notified().now_or_never().is_none());
    }
}

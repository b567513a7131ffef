//! Counted permits, first come first served.
//!
//! Runs on: a shard.
//! Invariant: [no-overtaking] nobody takes a permit while somebody else waits, however few are
//! asked for; so a large request is not starved by small ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Waiter {
    count: usize,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

struct Inner {
    available: Cell<usize>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

impl Inner {
    fn release(&self, count: usize) {
        self.available
            .set(self.available.get().saturating_add(count));
        self.grant();
    }

    /// Hands permits to waiters from the front, as far as they reach.
    fn grant(&self) {
        loop {
            let waiter = {
                let mut waiters = self.waiters.borrow_mut();
                match waiters.front() {
                    Some(first) if first.count <= self.available.get() => waiters.pop_front(),
                    _ => None,
                }
            };
            let Some(waiter) = waiter else { return };
            self.available.set(self.available.get() - waiter.count);
            waiter.granted.set(true);
            let waker = waiter.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// A fair counting semaphore; clones share the same permits.
#[derive(Clone)]
pub struct Semaphore {
    inner: Rc<Inner>,
}

impl std::fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available())
            .field("waiting", &self.waiting())
            .finish()
    }
}

impl Semaphore {
    /// A semaphore with `count` permits.
    pub fn new(count: usize) -> Self {
        let inner = Inner {
            available: Cell::new(count),
            waiters: RefCell::default(),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// Permits that nobody holds.
    pub fn available(&self) -> usize {
        self.inner.available.get()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.inner.waiters.borrow().len()
    }

    /// Puts `count` more permits in.
    pub fn add(&self, count: usize) {
        self.inner.release(count);
    }

    /// Waits for `count` permits. Its place in the queue is taken now, not at the first poll.
    /// More than there will ever be are waited for for ever.
    ///
    /// Cancel: safe; the place, or the permits, go to the next.
    pub fn acquire(&self, count: usize) -> Acquire {
        let waiter = Rc::new(Waiter {
            count,
            granted: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.inner
            .waiters
            .borrow_mut()
            .push_back(Rc::clone(&waiter));
        self.inner.grant();
        Acquire {
            inner: Rc::clone(&self.inner),
            waiter: Some(waiter),
        }
    }

    /// Takes `count` permits if they are there and nobody waits.
    pub fn try_acquire(&self, count: usize) -> Option<Permit> {
        if count > self.available() || self.waiting() > 0 {
            return None;
        }
        self.inner.available.set(self.available() - count);
        Some(Permit {
            inner: Rc::clone(&self.inner),
            count,
        })
    }
}

/// The future of [`Semaphore::acquire`].
#[must_use = "permits are not waited for unless awaited"]
pub struct Acquire {
    inner: Rc<Inner>,
    waiter: Option<Rc<Waiter>>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let waiter = self
            .waiter
            .as_ref()
            .expect("an acquire is not polled after it was ready");
        if !waiter.granted.get() {
            waiter.waker.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let count = waiter.count;
        self.waiter = None;
        Poll::Ready(Permit {
            inner: Rc::clone(&self.inner),
            count,
        })
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        if waiter.granted.get() {
            self.inner.release(waiter.count);
            return;
        }
        self.inner
            .waiters
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, &waiter));
        // It may have been the large one that the others stood behind.
        self.inner.grant();
    }
}

/// Permits held; given back when dropped.
#[must_use = "permits are given back when dropped"]
pub struct Permit {
    inner: Rc<Inner>,
    count: usize,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Permit {
    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether somebody waits for permits of the same semaphore.
    pub fn is_wanted(&self) -> bool {
        !self.inner.waiters.borrow().is_empty()
    }

    /// Takes `count` of them out into a permit of their own; `None` when there are fewer.
    pub fn split(&mut self, count: usize) -> Option<Self> {
        self.count = self.count.checked_sub(count)?;
        Some(Self {
            inner: Rc::clone(&self.inner),
            count,
        })
    }

    /// Adds `other`'s permits to these. Both must be of one semaphore.
    pub fn merge(&mut self, mut other: Self) {
        assert!(
            Rc::ptr_eq(&self.inner, &other.inner),
            "permits of one semaphore"
        );
        self.count += std::mem::take(&mut other.count);
    }

    /// Keeps the permits out of the semaphore for good.
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.inner.release(self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn a_small_request_does_not_overtake_a_large_one() {
        let semaphore = Semaphore::new(4);
        let held = semaphore.try_acquire(3).unwrap();
        let mut large = semaphore.acquire(4);
        assert!(semaphore.try_acquire(1).is_none(), "somebody waits");
        let mut small = semaphore.acquire(1);
        assert!((&mut small).now_or_never().is_none());
        drop(held);
        let large = (&mut large).now_or_never().unwrap();
        assert!((&mut small).now_or_never().is_none());
        drop(large);
        assert_eq!(small.now_or_never().unwrap().count(), 1);
        assert_eq!(semaphore.available(), 4);
    }

    #[test]
    fn dropping_a_waiting_request_lets_those_behind_it_through() {
        let semaphore = Semaphore::new(2);
        let held = semaphore.try_acquire(1).unwrap();
        let large = semaphore.acquire(2);
        let small = semaphore.acquire(1);
        drop(large);
        assert!(small.now_or_never().is_some());
        drop(held);
        assert_eq!(semaphore.available(), 2);
    }

    #[test]
    fn dropping_a_granted_request_gives_its_permits_back() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1).unwrap();
        {
            let waker = noop_waker();
            let mut cx = Context::from_waker(&waker);
            let mut waiting = pin!(semaphore.acquire(1));
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            drop(held);
            assert_eq!(semaphore.available(), 0, "granted to the waiter");
        }
        assert_eq!(semaphore.available(), 1);
    }

    #[test]
    fn permits_split_and_merge() {
        let semaphore = Semaphore::new(10);
        let mut all = semaphore.try_acquire(10).unwrap();
        assert!(all.split(11).is_none());
        let part = all.split(4).unwrap();
        assert_eq!((all.count(), part.count()), (6, 4));
        all.merge(part);
        drop(all);
        assert_eq!(semaphore.available(), 10);
    }
}

//! A bounded channel inside one shard, first in first out, for any number of pushers and poppers.
//!
//! Runs on: a shard. Promises: a pusher that waits keeps its turn; after `close` nothing goes in,
//! and `pop` returns `None` once what was in is out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::notify::Notify;
use super::semaphore::{Permit, Semaphore};

struct Inner<T> {
    items: RefCell<VecDeque<(T, Permit)>>,
    slots: Semaphore,
    filled: Notify,
    closed: Cell<bool>,
}

/// A bounded queue; clones are the same queue.
pub struct Queue<T> {
    inner: Rc<Inner<T>>,
}

/// Why [`Queue::try_push`] gave the item back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryPushError<T> {
    /// No room, or somebody waits for it already.
    Full(T),
    /// The queue is closed.
    Closed(T),
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// A queue with room for `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Rc::new(Inner {
                items: RefCell::default(),
                slots: Semaphore::new(capacity),
                filled: Notify::new(),
                closed: Cell::new(false),
            }),
        }
    }

    /// Puts `item` in, waiting for room; gives it back when the queue is or gets closed.
    ///
    /// Cancel: safe; the item is dropped with the future.
    pub async fn push(&self, item: T) -> Result<(), T> {
        let slot = self.inner.slots.acquire(1).await;
        self.put(item, slot)
    }

    /// Puts `item` in if there is room.
    pub fn try_push(&self, item: T) -> Result<(), TryPushError<T>> {
        if self.is_closed() {
            return Err(TryPushError::Closed(item));
        }
        match self.inner.slots.try_acquire(1) {
            Some(slot) => self.put(item, slot).map_err(TryPushError::Closed),
            None => Err(TryPushError::Full(item)),
        }
    }

    fn put(&self, item: T, slot: Permit) -> Result<(), T> {
        if self.is_closed() {
            return Err(item);
        }
        self.inner.items.borrow_mut().push_back((item, slot));
        self.inner.filled.notify_one();
        Ok(())
    }

    /// Takes the oldest item, waiting for one; `None` when the queue is closed and empty.
    ///
    /// Cancel: safe; no item is lost.
    pub async fn pop(&self) -> Option<T> {
        loop {
            if let Some(item) = self.try_pop() {
                return Some(item);
            }
            if self.is_closed() {
                return None;
            }
            self.inner.filled.notified().await;
        }
    }

    /// Takes the oldest item if there is one.
    pub fn try_pop(&self) -> Option<T> {
        let (item, slot) = self.inner.items.borrow_mut().pop_front()?;
        drop(slot);
        Some(item)
    }

    /// Lets nothing more in; what is in can still be popped.
    pub fn close(&self) {
        self.inner.closed.set(true);
        // Waiting pushers get a slot, see that the queue is closed and give up.
        self.inner.slots.add(usize::MAX / 2);
        self.inner.filled.notify_all();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.get()
    }

    /// Items in the queue.
    pub fn len(&self) -> usize {
        self.inner.items.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn items_come_out_in_the_order_they_went_in() {
        let queue = Queue::new(2);
        assert_eq!(queue.try_push(1), Ok(()));
        assert_eq!(queue.try_push(2), Ok(()));
        assert_eq!(queue.try_push(3), Err(TryPushError::Full(3)));
        let mut waiting = Box::pin(queue.push(3));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(queue.try_pop(), Some(1));
        assert_eq!(
            queue.try_push(4),
            Err(TryPushError::Full(4)),
            "3 waits before it"
        );
        assert_eq!(waiting.now_or_never(), Some(Ok(())));
        assert_eq!(queue.pop().now_or_never(), Some(Some(2)));
        assert_eq!(queue.pop().now_or_never(), Some(Some(3)));
        assert!(queue.pop().now_or_never().is_none());
    }

    #[test]
    fn closing_refuses_pushers_and_drains() {
        let queue = Queue::new(1);
        assert_eq!(queue.try_push(1), Ok(()));
        let mut waiting = Box::pin(queue.push(2));
        assert!((&mut waiting).now_or_never().is_none());
        queue.close();
        assert_eq!(waiting.now_or_never(), Some(Err(2)));
        assert_eq!(queue.try_push(3), Err(TryPushError::Closed(3)));
        assert_eq!(queue.pop().now_or_never(), Some(Some(1)));
        assert_eq!(queue.pop().now_or_never(), Some(None));
    }
}

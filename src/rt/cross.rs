//! A bounded queue from one shard to another: one sender, one receiver, order kept, values moved.
//!
//! A lock-free ring with a waker at either end. Nobody is woken unless somebody waits, so a busy
//! pair of shards passes values without a system call; a parked shard is woken through its eventfd.
//!
//! Runs on: either end on any shard, or on plain threads; the same under the simulator.
//! Promises: what was sent before the sender was dropped is received; a dropped receiver fails the
//! sender. Cancelling `recv` loses nothing; cancelling `send` drops the value it has not yet sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;

struct Shared<T> {
    ring: ArrayQueue<T>,
    sender: AtomicWaker,
    receiver: AtomicWaker,
    sender_gone: AtomicBool,
    receiver_gone: AtomicBool,
}

/// Makes a queue with room for `capacity` values.
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        ring: ArrayQueue::new(capacity),
        sender: AtomicWaker::new(),
        receiver: AtomicWaker::new(),
        sender_gone: AtomicBool::new(false),
        receiver_gone: AtomicBool::new(false),
    });
    (
        Sender {
            shared: Arc::clone(&shared),
        },
        Receiver { shared },
    )
}

/// The end that values go in.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The end that values come out.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// Why [`Sender::try_send`] gave the value back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrySendError<T> {
    /// No room.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("len", &self.shared.ring.len())
            .finish()
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("len", &self.shared.ring.len())
            .finish()
    }
}

impl<T: Send> Sender<T> {
    /// Sends if there is room. One sender: it takes `&mut`, so that order is the caller's.
    pub fn try_send(&mut self, value: T) -> Result<(), TrySendError<T>> {
        if self.shared.receiver_gone.load(Ordering::Acquire) {
            return Err(TrySendError::Closed(value));
        }
        self.shared.ring.push(value).map_err(TrySendError::Full)?;
        self.shared.receiver.wake();
        Ok(())
    }

    /// Sends, waiting for room; gives the value back when the receiver is gone.
    ///
    /// Cancel: the value is dropped unless it was sent.
    pub async fn send(&mut self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        poll_fn(|cx| {
            let Some(unsent) = value.take() else {
                return Poll::Ready(Ok(()));
            };
            let unsent = match self.try_send(unsent) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(TrySendError::Closed(unsent)) => return Poll::Ready(Err(unsent)),
                Err(TrySendError::Full(unsent)) => unsent,
            };
            // Registered before the second look: what is freed in between wakes us.
            self.shared.sender.register(cx.waker());
            match self.try_send(unsent) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed(unsent)) => Poll::Ready(Err(unsent)),
                Err(TrySendError::Full(unsent)) => {
                    value = Some(unsent);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_gone.load(Ordering::Acquire)
    }

    /// Values sent and not yet received.
    pub fn len(&self) -> usize {
        self.shared.ring.len()
    }

    /// Whether everything sent was received.
    pub fn is_empty(&self) -> bool {
        self.shared.ring.is_empty()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone.store(true, Ordering::Release);
        self.shared.receiver.wake();
    }
}

impl<T: Send> Receiver<T> {
    /// Takes the oldest value if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        let value = self.shared.ring.pop()?;
        self.shared.sender.wake();
        Some(value)
    }

    /// Takes the oldest value, waiting for one; `None` when the sender is gone and all is taken.
    ///
    /// Cancel: safe.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| {
            if let Some(value) = self.try_recv() {
                return Poll::Ready(Some(value));
            }
            self.shared.receiver.register(cx.waker());
            // Gone is read before the last look: nothing is sent after it.
            let gone = self.shared.sender_gone.load(Ordering::Acquire);
            match self.try_recv() {
                Some(value) => Poll::Ready(Some(value)),
                None if gone => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        self.shared.sender.wake();
    }
}

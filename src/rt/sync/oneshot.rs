//! One value, once, from one task to another on the same shard.
//!
//! Runs on: a shard. Promises: the receiver resolves when the value was sent or the sender is gone;
//! the sender can ask, or wait, whether the receiver is gone.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The sender was dropped without sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the other side is gone")]
pub struct Canceled;

struct Shared<T> {
    value: Option<T>,
    sender_gone: bool,
    receiver_gone: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

/// Makes the two ends.
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(RefCell::new(Shared {
        value: None,
        sender_gone: false,
        receiver_gone: false,
        receiver: None,
        sender: None,
    }));
    (
        Sender {
            shared: Rc::clone(&shared),
        },
        Receiver { shared },
    )
}

/// The end that gives the value.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

/// The end that waits for the value: a future of `Result<T, Canceled>`.
#[derive(Debug)]
#[must_use = "a receiver does nothing unless awaited"]
pub struct Receiver<T> {
    shared: Rc<RefCell<Shared<T>>>,
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("sent", &self.value.is_some())
            .field("sender_gone", &self.sender_gone)
            .field("receiver_gone", &self.receiver_gone)
            .finish_non_exhaustive()
    }
}

impl<T> Sender<T> {
    /// Sends the value, or gives it back when nobody waits for it any more.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut shared = self.shared.borrow_mut();
        if shared.receiver_gone {
            return Err(value);
        }
        shared.value = Some(value);
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_canceled(&self) -> bool {
        self.shared.borrow().receiver_gone
    }

    /// Waits until the receiver is gone.
    ///
    /// Cancel: safe.
    pub async fn canceled(&mut self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.borrow_mut();
            if shared.receiver_gone {
                return Poll::Ready(());
            }
            shared.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut shared = self.shared.borrow_mut();
            shared.sender_gone = true;
            shared.receiver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The value if it has been sent; `Canceled` if it never will be.
    pub fn try_recv(&mut self) -> Result<Option<T>, Canceled> {
        let mut shared = self.shared.borrow_mut();
        match shared.value.take() {
            Some(value) => Ok(Some(value)),
            None if shared.sender_gone => Err(Canceled),
            None => Ok(None),
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.shared.borrow_mut();
        match shared.value.take() {
            Some(value) => Poll::Ready(Ok(value)),
            None if shared.sender_gone => Poll::Ready(Err(Canceled)),
            None => {
                shared.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (waker, unread) = {
            let mut shared = self.shared.borrow_mut();
            shared.receiver_gone = true;
            (shared.sender.take(), shared.value.take())
        };
        drop(unread);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_value_arrives_once() {
        let (sender, mut receiver) = oneshot();
        assert_eq!(receiver.try_recv(), Ok(None));
        assert_eq!(sender.send(7), Ok(()));
        assert_eq!(receiver.now_or_never(), Some(Ok(7)));
    }

    #[test]
    fn a_dropped_sender_cancels_the_receiver() {
        let (sender, receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(receiver.now_or_never(), Some(Err(Canceled)));
    }

    #[test]
    fn a_dropped_receiver_is_seen_by_the_sender() {
        let (mut sender, receiver) = oneshot::<u8>();
        assert!(!sender.is_canceled());
        assert_eq!(sender.canceled().now_or_never(), None);
        drop(receiver);
        assert!(sender.is_canceled());
        assert_eq!(sender.canceled().now_or_never(), Some(()));
        assert_eq!(sender.send(3), Err(3));
    }
}

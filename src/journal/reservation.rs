//! Waiting for room: first come, first served, in one line for data and one for control entries.
//!
//! Runs on: the home shard.        Owner: `Journal`.
//! Promises: a reservation is room in the ring and in the queue for one entry; dropping it, or the
//! wait for it, gives the room to the next in line.
//! Invariants: [reserve-fair] nobody is served before who came earlier to the same line, so a large
//! entry is not starved by small ones.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::journal::block::block_len;
use crate::journal::entry::ENTRY_HEADER_BYTES;
use crate::journal::error::JournalError;
use crate::journal::journal::{Shared, State};
use crate::journal::ring::RoomClass;
use crate::rt::{Instant, now};
use crate::telemetry::metrics;
use crate::telemetry::names::Summary;

/// Who waits, by line.
#[derive(Default)]
pub(super) struct Waiters {
    next_ticket: u64,
    data: VecDeque<(u64, Waker)>,
    control: VecDeque<(u64, Waker)>,
}

impl Waiters {
    fn line(&mut self, class: RoomClass) -> &mut VecDeque<(u64, Waker)> {
        match class {
            RoomClass::Data => &mut self.data,
            RoomClass::Control => &mut self.control,
        }
    }

    fn is_first(&mut self, class: RoomClass, ticket: Option<u64>) -> bool {
        self.line(class).front().map(|(first, _)| *first) == ticket
    }

    fn wait(&mut self, class: RoomClass, ticket: Option<u64>, waker: &Waker) -> u64 {
        if let Some(ticket) = ticket {
            for (other, stored) in self.line(class).iter_mut() {
                if *other == ticket {
                    stored.clone_from(waker);
                }
            }
            return ticket;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.line(class).push_back((ticket, waker.clone()));
        ticket
    }

    fn leave(&mut self, class: RoomClass, ticket: u64) {
        self.line(class).retain(|(other, _)| *other != ticket);
    }

    /// Room may have appeared: who is first in either line looks again.
    pub(super) fn wake_first(&self) {
        for line in [&self.control, &self.data] {
            if let Some((_, waker)) = line.front() {
                waker.wake_by_ref();
            }
        }
    }

    /// Nobody gets anything any more.
    pub(super) fn wake_all(&self) {
        for (_, waker) in self.control.iter().chain(&self.data) {
            waker.wake_by_ref();
        }
    }
}

/// Room for one entry. Give it to `enqueue`, or drop it.
#[must_use = "a dropped reservation is given back"]
pub struct Reservation {
    shared: Rc<Shared>,
    payload_bytes: usize,
    charge: u64,
    is_spent: bool,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation")
            .field("payload_bytes", &self.payload_bytes)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    /// The longest payload that it is good for.
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Moves the charges to the queued entry: for the ring, for the queue.
    pub(super) fn into_charges(mut self) -> (u64, usize) {
        self.is_spent = true;
        (self.charge, self.payload_bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_spent {
            return;
        }
        let mut state = self.shared.state.borrow_mut();
        state.ring.release(self.charge);
        state.queue_bytes -= self.payload_bytes;
        state.waiters.wake_first();
    }
}

/// The wait for a [`Reservation`].
#[must_use = "room is not reserved unless awaited"]
pub struct Reserve {
    shared: Rc<Shared>,
    class: RoomClass,
    payload_bytes: usize,
    /// Place in the line, once it had to wait.
    ticket: Option<u64>,
    /// Since when.
    waiting_since: Option<Instant>,
}

impl Reserve {
    pub(super) const fn new(shared: Rc<Shared>, class: RoomClass, payload_bytes: usize) -> Self {
        Self {
            shared,
            class,
            payload_bytes,
            ticket: None,
            waiting_since: None,
        }
    }

    fn leave(&mut self, state: &mut State) {
        if let Some(ticket) = self.ticket.take() {
            state.waiters.leave(self.class, ticket);
            // the next in line may have room too
            state.waiters.wake_first();
        }
    }
}

impl Future for Reserve {
    type Output = Result<Reservation, JournalError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let shared = Rc::clone(&this.shared);
        let refusal = shared.refusal();
        let mut state = shared.state.borrow_mut();
        if let Some(error) = refusal {
            this.leave(&mut state);
            return Poll::Ready(Err(error));
        }
        let (class, len) = (this.class, this.payload_bytes);
        let max = shared.config.payload_bytes_max();
        let charge = u64::try_from(block_len(ENTRY_HEADER_BYTES.saturating_add(len.min(max))))
            .unwrap_or(u64::MAX);
        let is_hopeless = !state.is_growing && !state.ring.could_ever_fit(charge, class);
        if len > max || is_hopeless {
            this.leave(&mut state);
            return Poll::Ready(Err(JournalError::TooLarge { len, max }));
        }
        let is_turn = state.waiters.is_first(class, this.ticket);
        let has_queue_room =
            state.queue_bytes == 0 || state.queue_bytes + len <= shared.config.queue_bytes_max;
        if !is_turn || !has_queue_room || !state.ring.has_room(charge, class) {
            if this.ticket.is_none() {
                state.stats.waits += 1;
                this.waiting_since = Some(now());
            }
            this.ticket = Some(state.waiters.wait(class, this.ticket, context.waker()));
            return Poll::Pending;
        }
        state.ring.grant(charge, class);
        state.queue_bytes += len;
        this.leave(&mut state);
        drop(state);
        if let Some(since) = this.waiting_since {
            metrics::local().observe_time(Summary::JournalWait, since.elapsed());
        }
        Poll::Ready(Ok(Reservation {
            shared,
            payload_bytes: len,
            charge,
            is_spent: false,
        }))
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let shared = Rc::clone(&self.shared);
            self.leave(&mut shared.state.borrow_mut());
        }
    }
}

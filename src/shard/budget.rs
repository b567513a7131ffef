//! Memory of one shard, as separate pools with a limit each.
//!
//! Runs on: its shard.      Owner: `Shard`.
//! Promises: what a client sends is charged before it is read, whole frames, first come first
//! served; a full produce pool holds back Produce bodies and nothing else, because every other
//! request has a pool of its own.
//! Invariants: [pool-order] request, then response, tail, journal: nobody waits for an earlier pool
//! while holding a later one. The tail is bounded by `log::tail`, journal buffers by the journal.
//! Limits: a Produce frame larger than its pool takes the whole pool, alone; an answer holds at
//! most a part of the response pool, so that clients that do not read cannot take it all at once.

use crate::config::machine::MemoryPools;
use crate::rt::sync::{Permit, Semaphore};

/// The pools that requests are charged to.
#[derive(Debug)]
pub struct Budget {
    produce: Pool,
    control: Pool,
    response: Pool,
}

#[derive(Debug)]
struct Pool {
    room: Semaphore,
    size_bytes: usize,
}

impl Pool {
    fn new(size_bytes: usize) -> Self {
        Self {
            room: Semaphore::new(size_bytes),
            size_bytes,
        }
    }

    async fn charge(&self, size_bytes: usize) -> Charge {
        Charge {
            permit: self.room.acquire(size_bytes.min(self.size_bytes)).await,
        }
    }

    fn used(&self) -> usize {
        self.size_bytes - self.room.available()
    }
}

/// Memory held by one request, from before its body is read until its answer is written.
#[derive(Debug)]
pub struct Charge {
    permit: Permit,
}

impl Charge {
    /// Gives back what is above `size_bytes`.
    pub fn shrink_to(&mut self, size_bytes: usize) {
        let surplus = self.permit.count().saturating_sub(size_bytes);
        drop(self.permit.split(surplus));
    }
}

/// Part of the request pool that all requests but Produce have to themselves.
const CONTROL_DIVISOR: u64 = 4;
/// Answers of the largest size that the response pool holds.
const RESPONSES_AT_ONCE: usize = 8;

impl Budget {
    /// The request pool of the shard, divided: most of it for Produce.
    pub fn new(pools: &MemoryPools) -> Self {
        let control = pools.request_bytes / CONTROL_DIVISOR;
        let pool = |size: u64| Pool::new(usize::try_from(size).unwrap_or(usize::MAX).max(1));
        Self {
            produce: pool(pools.request_bytes - control),
            control: pool(control),
            response: pool(pools.response_bytes),
        }
    }

    /// Waits for room for a Produce frame.
    pub async fn charge_produce(&self, size_bytes: usize) -> Charge {
        self.produce.charge(size_bytes).await
    }

    /// Waits for room for any other frame.
    pub async fn charge_control(&self, size_bytes: usize) -> Charge {
        self.control.charge(size_bytes).await
    }

    /// The largest request other than Produce.
    pub fn control_bytes_max(&self) -> usize {
        self.control.size_bytes
    }

    /// Whether somebody waits for room for a request.
    pub fn is_request_awaited(&self) -> bool {
        self.produce.room.waiting() > 0 || self.control.room.waiting() > 0
    }

    /// The most that one answer may hold, one batch excepted (KIP-74).
    pub fn response_bytes_max(&self) -> usize {
        self.response.size_bytes / RESPONSES_AT_ONCE
    }

    /// Whether somebody waits for room for an answer.
    pub fn is_response_awaited(&self) -> bool {
        self.response.room.waiting() > 0
    }

    /// Waits for room for the records of an answer, which are held until it is written.
    pub async fn charge_response(&self, size_bytes: usize) -> Charge {
        self.response.charge(size_bytes).await
    }

    /// Bytes in use by answers.
    pub fn used_by_responses(&self) -> usize {
        self.response.used()
    }

    /// Bytes in use: produce, other.
    pub fn used(&self) -> (usize, usize) {
        (self.produce.used(), self.control.used())
    }
}

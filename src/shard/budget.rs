//! Memory of one shard, as separate pools with a limit each.
//!
//! Runs on: its shard.      Owner: `Shard`.
//! Promises: what a client sends is charged before it is read, whole frames, first come first
//! served; a full produce pool holds back Produce bodies and nothing else, because every other
//! request has a pool of its own.
//! Invariants: [pool-order] request, elements, then response, tail, journal: nobody waits for an
//! earlier pool while holding a later one. The tail is bounded by `log::tail`, journal buffers by
//! the journal.
//! Limits: a frame larger than its pool takes the whole pool, alone. Part of what Produce has, and
//! of what all others have, is kept for small frames, which use the other part as well while nobody
//! waits for it: large bodies that are promised and hardly sent keep no small ones out. An answer
//! holds at most a part of the response pool, so that clients that do not read cannot take it all
//! at once.
//! A few bytes of a frame may stand for hundreds in memory: what the elements of its arrays take
//! is charged to pools of their own, of which a request that needs more than all is refused. What
//! waits for other clients (a fetch for data, a member for its group) holds nothing of any pool
//! that somebody waits for.

use crate::config::machine::MemoryPools;
use crate::rt::sync::{Permit, Semaphore};

/// The pools that requests are charged to.
#[derive(Debug)]
pub struct Budget {
    produce: FramePool,
    control: FramePool,
    produce_elements: Pool,
    control_elements: Pool,
    waiting_elements: Pool,
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
        self.room
            .acquire(size_bytes.min(self.size_bytes))
            .await
            .into()
    }

    fn used(&self) -> usize {
        self.size_bytes - self.room.available()
    }
}

/// What frames are charged to: a pool for all sizes, and one that only small frames may use.
#[derive(Debug)]
struct FramePool {
    any: Pool,
    small: Pool,
}

impl FramePool {
    fn new(size_bytes: u64) -> Self {
        let small = size_bytes / SMALL_DIVISOR;
        Self {
            any: pool(size_bytes - small),
            small: pool(small),
        }
    }

    async fn charge(&self, size_bytes: usize) -> Charge {
        let charge = if size_bytes > self.small.size_bytes / SMALL_AT_ONCE {
            self.any.charge(size_bytes).await
        } else if let Some(permit) = self.any.room.try_acquire(size_bytes) {
            permit.into()
        } else {
            return self.small.charge(size_bytes).await;
        };
        let also = Some(self.small.room.clone());
        Charge { also, ..charge }
    }

    fn used(&self) -> usize {
        self.any.used() + self.small.used()
    }

    fn size_bytes(&self) -> usize {
        self.any.size_bytes + self.small.size_bytes
    }
}

fn pool(size_bytes: u64) -> Pool {
    Pool::new(usize::try_from(size_bytes).unwrap_or(usize::MAX).max(1))
}

/// Memory held by one request, from before its body is read until its answer is written.
#[derive(Debug)]
pub struct Charge {
    permit: Permit,
    /// Those who wait for this pool wait for the charge too.
    also: Option<Semaphore>,
}

impl From<Permit> for Charge {
    fn from(permit: Permit) -> Self {
        Self { permit, also: None }
    }
}

impl Charge {
    /// How much.
    pub fn size_bytes(&self) -> usize {
        self.permit.count()
    }

    /// Whether somebody waits who could use it.
    pub fn is_wanted(&self) -> bool {
        let is_waited_for = |pool: &Semaphore| pool.waiting() > 0;
        self.permit.is_wanted() || self.also.as_ref().is_some_and(is_waited_for)
    }

    /// Gives back what is above `size_bytes`.
    pub fn shrink_to(&mut self, size_bytes: usize) {
        let surplus = self.permit.count().saturating_sub(size_bytes);
        drop(self.permit.split(surplus));
    }
}

/// Part of the request pool that all requests but Produce have to themselves.
const CONTROL_DIVISOR: u64 = 4;
/// Part of what frames may have that is kept for small ones.
const SMALL_DIVISOR: u64 = 4;
/// Frames of the largest size that counts as small which fit there.
const SMALL_AT_ONCE: usize = 8;
/// Answers of the largest size that the response pool holds.
const RESPONSES_AT_ONCE: usize = 8;
/// What one element of a request's arrays may come to: decoded, handled, answered.
pub const ELEMENT_BYTES: usize = 512;
/// What one partition of a fetch takes that waits for data.
pub const WAITING_ELEMENT_BYTES: usize = 256;
/// What a Produce request takes beside its frame: hundreds of a connection may wait for the disk.
const PRODUCE_BYTES: usize = 2 << 10;

impl Budget {
    /// The request pool of the shard, divided: most of it for Produce.
    pub fn new(pools: &MemoryPools) -> Self {
        let control = pools.request_bytes / CONTROL_DIVISOR;
        Self {
            produce: FramePool::new(pools.request_bytes - control),
            control: FramePool::new(control),
            produce_elements: pool(pools.element_bytes),
            control_elements: pool(pools.element_bytes),
            waiting_elements: pool(pools.element_bytes),
            response: pool(pools.response_bytes),
        }
    }

    /// Waits for room for a Produce frame.
    pub async fn charge_produce(&self, size_bytes: usize) -> Charge {
        self.produce
            .charge(size_bytes.saturating_add(PRODUCE_BYTES))
            .await
    }

    /// Waits for room for any other frame.
    pub async fn charge_control(&self, size_bytes: usize) -> Charge {
        self.control.charge(size_bytes).await
    }

    /// Room for the elements of a request that waits for data, if it is there now: whoever waits
    /// for other clients must not be waited for.
    pub fn try_charge_waiting(&self, size_bytes: usize) -> Option<Charge> {
        let permit = self.waiting_elements.room.try_acquire(size_bytes)?;
        Some(permit.into())
    }

    /// The largest request other than Produce.
    pub fn control_bytes_max(&self) -> usize {
        self.control.size_bytes()
    }

    /// The most that the elements of one request may take.
    pub fn element_bytes_max(&self) -> usize {
        self.control_elements.size_bytes
    }

    /// Waits for room for what a Produce request is decoded into.
    pub async fn charge_produce_elements(&self, size_bytes: usize) -> Charge {
        self.produce_elements.charge(size_bytes).await
    }

    /// Waits for room for what any other request is decoded into.
    pub async fn charge_control_elements(&self, size_bytes: usize) -> Charge {
        self.control_elements.charge(size_bytes).await
    }

    /// The most that one answer may hold, one batch excepted (KIP-74).
    pub fn response_bytes_max(&self) -> usize {
        self.response.size_bytes / RESPONSES_AT_ONCE
    }

    /// Waits for room for an answer, which is held until it is written.
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn small_frames_pass_large_ones_and_keep_them_out_no_longer_than_they_wait() {
        const MIB: usize = 1 << 20;
        let budget = Budget::new(&MemoryPools {
            request_bytes: 32 << 20, // 18 MiB of it for Produce, 6 MiB for small frames of Produce
            tail_bytes: 0,
            journal_bytes: 0,
            disk_bytes: 0,
            response_bytes: 0,
            element_bytes: 0,
        });
        let charge = |size: usize| budget.charge_produce(size).now_or_never();
        let large = charge(64 * MIB).expect("the whole pool, alone");
        let mut waiting = Box::pin(budget.charge_produce(MIB));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(large.is_wanted());
        let small: Vec<Charge> = std::iter::from_fn(|| charge(MIB / 2)).collect();
        assert_eq!(small.len(), 11, "with what each takes beside its frame");
        drop(waiting);
        assert!(!large.is_wanted());
        let mut waiting = Box::pin(budget.charge_produce(MIB / 2));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(large.is_wanted(), "small ones may use that room, too");
        drop((large, waiting, small));
        let small: Vec<Charge> = std::iter::from_fn(|| charge(MIB / 2)).collect();
        assert_eq!(small.len(), 46, "all that Produce has");
        drop(small);
        assert_eq!(budget.used(), (0, 0));
    }
}

//! One turn of a group's state machine: the time it happens at and what it wants done.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a `Waiter` cannot be copied, so an answer cannot be given twice; whoever holds one
//! answers it exactly once, by an `Effect`.

use super::codec::GroupValue;
use super::requests::{JoinResponse, SyncResponse};
use super::settings::GroupSettings;

/// A point of monotonic time, in milliseconds since the coordinator began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Later by `ms`.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// The time on both clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic: deadlines.
    pub moment: Moment,
    /// Wall clock: timestamps that are kept.
    pub unix_ms: i64,
}

/// Somebody who waits for the answer to a join or a sync.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiter(u64);

impl Waiter {
    /// The waiter that the driver knows by `number`.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The driver's number.
    pub fn into_number(self) -> u64 {
        self.0
    }
}

/// Names one store of group metadata until its outcome is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StoreTicket(pub(super) u64);

/// What the driver has to do.
#[derive(Debug)]
pub enum Effect {
    /// Answer a join.
    Join(Waiter, JoinResponse),
    /// Answer a sync.
    Sync(Waiter, SyncResponse),
    /// Make the group's metadata durable, then call `Group::on_stored` with the ticket.
    Store(StoreTicket, GroupValue),
}

/// The surroundings of one event.
#[derive(Debug)]
pub struct Turn<'a> {
    /// When it happens.
    pub now: Now,
    /// The settings in force.
    pub settings: &'a GroupSettings,
    /// What is to be done, in order.
    pub effects: Vec<Effect>,
}

impl<'a> Turn<'a> {
    /// A turn that wants nothing yet.
    pub const fn new(now: Now, settings: &'a GroupSettings) -> Self {
        Self {
            now,
            settings,
            effects: Vec::new(),
        }
    }

    pub(super) fn answer_join(&mut self, waiter: Waiter, response: JoinResponse) {
        self.effects.push(Effect::Join(waiter, response));
    }

    pub(super) fn answer_sync(&mut self, waiter: Waiter, response: SyncResponse) {
        self.effects.push(Effect::Sync(waiter, response));
    }
}

//! What one request holds of the shard's memory, from its frame to the last byte of its answer.
//!
//! Runs on: the shard that accepted the connection.      Owner: the connection, and its handler.
//! Promises: a request is charged for its frame before that is read, for the structures that it is
//! decoded into before it is decoded, and for its answer before anything of it waits for the
//! client. Who does not read holds what answers may hold, and keeps no request out.
//! Limits: `ELEMENTS_FREE` and `ANSWER_FREE_BYTES` are not charged: a connection has one request
//! other than Produce at a time, and each Produce is charged for them with its frame.

use std::cell::RefCell;
use std::rc::Rc;

use crate::server::connection::End;
use crate::server::response::{self, Response};
use crate::shard::budget::{Charge, ELEMENT_BYTES, WAITING_ELEMENT_BYTES};
use crate::shard::shard::Shard;
use crate::telemetry::names::Gauge;
use crate::wire::api::ApiKey;

/// Elements of a request's arrays that are not charged: most requests have no more.
const ELEMENTS_FREE: usize = 4;
/// An answer of this size is not charged, but to its Produce request.
pub(crate) const ANSWER_FREE_BYTES: usize = 4 << 10;

/// A request between its frame and its answer: the memory it holds, and its place in the gauge.
pub(crate) struct InFlight {
    shard: Rc<Shard>,
    is_produce: bool,
    frame: RefCell<Option<Charge>>,
    elements: RefCell<Option<Charge>>,
    waiting: RefCell<Option<Charge>>,
}

impl InFlight {
    pub(crate) fn new(shard: &Rc<Shard>, is_produce: bool, frame: Charge) -> Self {
        shard.metrics.raise(Gauge::InFlightRequests, 1);
        Self {
            shard: shard.clone(),
            is_produce,
            frame: RefCell::new(Some(frame)),
            elements: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    /// Waits for room for what a request with so many elements in its arrays is decoded into.
    ///
    /// Cancel: safe.
    ///
    /// # Errors
    /// There will never be as much room.
    pub(crate) async fn charge_elements(&self, api: ApiKey, count: usize) -> Result<(), End> {
        if count <= ELEMENTS_FREE {
            return Ok(());
        }
        let budget = &self.shard.budget;
        let max = budget.element_bytes_max() / ELEMENT_BYTES;
        if count > max {
            let api = api.name();
            return Err(End::Refused(format!(
                "{api} request with {count} elements in its arrays is above the {max} that there \
                 is room for: raise memory.per.shard"
            )));
        }
        let charge = match self.is_produce {
            true => budget.charge_produce_elements(count * ELEMENT_BYTES).await,
            false => budget.charge_control_elements(count * ELEMENT_BYTES).await,
        };
        self.elements.replace(Some(charge));
        Ok(())
    }

    /// Gives back what others may wait for: the request waits for other clients, or its answer
    /// is charged.
    pub(crate) fn release(&self) {
        self.frame.take();
        self.elements.take();
    }

    /// The request is going to wait for data of so many partitions. Without room for it to wait,
    /// false: it keeps what it holds, and must not wait for long.
    pub(crate) fn begin_wait(&self, partitions: usize) -> bool {
        if partitions > ELEMENTS_FREE && self.waiting.borrow().is_none() {
            let size_bytes = partitions.saturating_mul(WAITING_ELEMENT_BYTES);
            match self.shard.budget.try_charge_waiting(size_bytes) {
                Some(charge) => self.waiting.replace(Some(charge)),
                None => return false,
            };
        }
        self.release();
        true
    }

    /// Charges an answer that is about to be written and gives back what the request held.
    ///
    /// Cancel: safe.
    pub(crate) async fn charge_answer(&self, response: &mut Response) {
        let size_bytes = response::memory_bytes(&response.parts);
        let held = self.frame.borrow().as_ref().map_or(0, Charge::size_bytes);
        if self.is_produce && size_bytes <= held {
            // many of one connection may be waiting to be read
            if let Some(frame) = self.frame.borrow_mut().as_mut() {
                frame.shrink_to(size_bytes.max(ANSWER_FREE_BYTES / 2));
            }
            self.elements.take();
            return;
        }
        if response.charge.is_none() && size_bytes > ANSWER_FREE_BYTES {
            response.charge = Some(self.shard.budget.charge_response(size_bytes).await);
        }
        self.release();
        self.waiting.take();
    }

    /// Whether somebody waits for memory that is held until `response` is written.
    pub(crate) fn is_awaited(&self, response: Option<&Charge>) -> bool {
        let frame = self.frame.borrow();
        response.is_some_and(Charge::is_wanted) || frame.as_ref().is_some_and(Charge::is_wanted)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shard.metrics.lower(Gauge::InFlightRequests, 1);
    }
}

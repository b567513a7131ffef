//! The Kafka listener: bytes of clients in, answers out.
//!
//! Reading order, which is the walk of a request: [`listener`] accepts, [`connection`] keeps order,
//! [`frames`] come off the socket, [`dispatch`] finds the handler, `handlers/` has one file per
//! family of APIs, [`fetch_session`] remembers what clients fetch, [`errors`] names the code for
//! every refusal, [`response`] is what leaves, [`writing`] sends it, [`in_flight`] and
//! [`answer_weight`] are the memory that goes with it, [`patience`] says how long a client may keep
//! others waiting.

pub(crate) mod answer_weight;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod dispatch;
pub(crate) mod errors;
pub(crate) mod fetch_session;
pub(crate) mod frames;
pub(crate) mod handlers;
pub(crate) mod in_flight;
pub(crate) mod listener;
pub(crate) mod operations;
pub(crate) mod patience;
pub(crate) mod response;
pub(crate) mod writing;

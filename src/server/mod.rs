//! The Kafka listener: bytes of clients in, answers out.
//!
//! Reading order, which is the walk of a request: [`listener`] accepts, [`connection`] reads frames
//! and keeps order, [`dispatch`] finds the handler, `handlers/` has one file per family of APIs,
//! [`fetch_session`] remembers what clients fetch, [`errors`] names the code for every refusal,
//! [`response`] is what leaves.

pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod dispatch;
pub(crate) mod errors;
pub(crate) mod fetch_session;
pub(crate) mod handlers;
pub(crate) mod listener;
pub(crate) mod operations;
pub(crate) mod response;

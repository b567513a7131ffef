//! Kafka's bytes on the network <-> structs. No IO, no broker state.
//!
//! Reading order: `api.rs` (what is served, one table), `frame.rs`, `header.rs`, `produce.rs` and
//! `fetch.rs` (the hot path, in place), `messages.rs` (everything else, by the generated structs of
//! kafka-protocol), `bounds.rs` (what makes that safe), `normalize.rs` (old versions in new
//! shapes), `newer.rs` (versions that are not generated yet), `outcome.rs`.
//!
//! Promises: every decoder is total: an error, never a panic. No memory is reserved by a length on
//! the wire before the bytes it speaks of are known to be there.
//! Deliberately absent: records. A partition's records are opaque bytes here, sliced, never copied.

#![deny(clippy::indexing_slicing)]

pub mod api;
pub mod api_versions;
pub mod bounds;
mod decode_error;
pub mod fetch;
pub mod frame;
pub mod header;
pub mod messages;
pub mod newer;
pub mod normalize;
pub mod outcome;
pub mod produce;
mod reader;
pub mod topic_ref;
mod writer;

pub use decode_error::{DecodeError, EncodeError};
pub use kafka_protocol::protocol::StrBytes;

//! A replica of a partition: who may append, what is durable, who waits for it.
//!
//! - [`partition`]: the guards of an append and of a read, in front of the log.
//! - [`waiters`]: appends that wait for durability, fetches that wait for data.
//! - [`reads`]: questions about offsets and batches.
//! - [`error`]: why a partition refuses.

pub mod error;
#[expect(
    clippy::module_inception,
    reason = "the file is named for its main type, as all are"
)]
pub mod partition;
pub mod reads;
pub mod waiters;

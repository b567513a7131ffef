//! Consumer groups: Kafka's classic group protocol and committed offsets.
//!
//! A group lives on the home shard of its partition of `__consumer_offsets`. What it must not
//! forget is a record there; everything else is in memory and is rebuilt by the members.
//!
//! ```text
//! requests -> coordinator (async: waiters, timer, writers) -> roster (pure: one shard's groups)
//!                 |                                             |- state: one group's members
//!                 v                                             |- groups: durable image + offsets
//!             OffsetsLog (the shard's partitions) <- records <- '- offsets_partition: write queue
//! ```
//! - [`requests`], [`offsets_log`], [`input_barrier`], [`settings`]: the room's doors.
//! - [`coordinator`]: the driver.   - [`roster`]: with `commits` and `retention`.
//! - [`state`]: one group; with `join`, `sync`, `membership`, `view`, over [`member`].
//! - [`groups`], [`offsets`]: what is durable.   - [`offsets_partition`]: what is being written.
//! - [`record`], [`codec`], [`replay`], [`subscription`]: bytes.
//!
//! Invariants: nothing is announced before it is durable; what is applied when an append is durable
//! is what a restart reads.

pub mod codec;
mod commits;
pub mod coordinator;
pub mod groups;
pub mod input_barrier;
mod join;
pub mod member;
mod membership;
pub mod offsets;
pub mod offsets_log;
pub mod offsets_partition;
pub mod record;
pub mod replay;
pub mod requests;
mod retention;
pub mod roster;
pub mod settings;
pub mod state;
pub mod subscription;
mod sync;
pub mod turn;
mod view;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod interleaving_tests;
#[cfg(test)]
mod memory_log;

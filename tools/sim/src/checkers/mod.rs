//! What must hold, as small objects that see requests, answers and restarts.
//!
//! - `records.rs`: what a partition holds: acknowledged, seen, in order, once, dense, not invented.
//! - `offsets.rs`: what a group has committed.
//! - `groups.rs`: who has which partition in a generation.
//!
//! Pure: no async, no clock, no IO. A violation panics with `[name-of-the-check]` and what was
//! seen.

pub(crate) mod groups;
pub(crate) mod offsets;
pub(crate) mod records;

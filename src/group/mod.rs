//! Consumer groups: Kafka's classic group protocol and committed offsets.
//!
//! A group lives on the home shard of its partition of `__consumer_offsets`. What it must not
//! forget is a record there; everything else is in memory and is rebuilt by the members.
//!
//! - [`requests`]: what is asked and answered.   - [`offsets_log`]: what the shard provides.

pub mod offsets_log;
pub mod requests;

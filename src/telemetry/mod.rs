//! What the broker says about itself: numbers on `/metrics`, lines on standard error.
//!
//! Reading order: `names.rs` (every metric, one table), `distribution.rs` (latencies and sizes),
//! `metrics.rs` (a shard's cells and its snapshot), `exposition.rs` (snapshots -> text),
//! `logging.rs`, `throttle.rs` (lines that clients cause).
//!
//! Promises: counting costs a few instructions and never waits: each shard has cells of its own,
//! and only a scrape looks at several shards.

pub mod distribution;
pub mod exposition;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod throttle;

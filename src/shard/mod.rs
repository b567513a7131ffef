//! Everything one core owns, and how cores ask each other.
//!
//! - [`shard`]: the shard itself: what it holds, how it starts and stops, where calls go.
//! - [`recovery`]: a data directory at rest, before any shard runs.   - [`lifecycle`]: start, stop.
//! - [`held`]: journal entries of partitions that could not take them.
//! - [`observe`]: what metrics and health say.
//! - [`routing`]: partition to home shard.          - [`mesh`], [`calls`]: one shard asks another.
//! - [`appends`]: the one queue through which every append of this core reaches the journal.
//! - `serve`: the calls of other shards.
//! - [`storage`]: healthy, disk full, failed.   - [`reserve`]: space for what a full disk needs.
//! - [`reads`]: sizes, batches, long polls, offsets of partitions at home here.
//! - [`partitions`]: which partitions are at home here, kept in step with the metadata image.
//! - [`control`]: the controller's turn on shard 0.   - [`groups`]: the coordinator's log.
//! - [`background`]: destaging, checkpoints, retention.   - [`budget`]: memory of requests.
//! - `scrub`: looks for damage in sealed segments.   - [`check`]: all of a stopped directory.
//! - `addresses`: connections of each client address.

pub(crate) mod addresses;
pub mod appends;
pub mod background;
pub mod budget;
pub mod calls;
pub mod check;
pub mod control;
#[cfg(test)]
mod crash_model;
#[cfg(test)]
mod crash_script;
#[cfg(test)]
mod crash_tests;
pub mod groups;
pub mod held;
pub mod lifecycle;
pub mod mesh;
pub mod observe;
pub mod partitions;
pub mod reads;
pub mod recovery;
pub mod reserve;
pub mod routing;
mod scrub;
pub(crate) mod serve;
#[expect(
    clippy::module_inception,
    reason = "the file is named for its main type, as all are"
)]
pub mod shard;
pub mod storage;

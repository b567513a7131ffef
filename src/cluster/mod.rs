//! The cluster as every shard sees it, and the one place that changes it.
//!
//! - [`metadata`]: the immutable image (topics, configuration overrides, tombstones) and the
//!   records that lead from one image to the next. Read by every shard, changed by nobody.
//! - [`metadata_log`]: those records on disk, checksummed and synced before anything is announced.
//! - [`identity`]: whose data directory this is.
//! - [`controller`]: decides whether a change is allowed and which records it takes. Pure.
//!
//! The records are what a metadata quorum will replicate later; nothing else here would change.

pub mod controller;
pub mod identity;
pub mod metadata;
pub mod metadata_log;

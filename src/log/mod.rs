//! One partition's log on one shard: segments on disk, recent batches in memory.
//!
//! Knows files and record batches; not Kafka requests, not replicas. The directory is Kafka's:
//!
//! ```text
//! topics/orders-0/
//!   00000000000000000000.log .index .timeindex      a sealed segment: exact length, read-only
//!   00000000000000051200.log .index .timeindex      the active segment: whole blocks until sealed
//!   00000000000000051200.snapshot                producers of exactly the batches below 51200
//!   leader-epoch-checkpoint  partition.metadata     as Kafka writes them
//!   partition.state                                ours: what a start needs to know
//! ```
//!
//! Invariants (bracketed ids are in the asserts):
//! [offset-chain] log start <= last stable <= high watermark <= durable end <= log end; destaged
//! end <= durable end. [producer-prefix] a producer state holds exactly the batches below the
//! offset beside it.
//! [whole-blocks] an active segment gets whole 4096-byte blocks of durable data, at aligned
//! positions.
//! [sealed-closed] a segment is closed for writing before anybody reads it through the page cache.
//!
//! Reading order: the pure parts (`offset_index`, `time_index`, `producer_state`, `leader_epochs`),
//! then `tail`, `log`, `destage`, `read`, `recovery`; `verify`, `scrub`,
//! `check` look for damage.

pub mod check;
pub mod checkpoint;
pub mod context;
pub mod delete;
pub mod destage;
pub mod error;
pub mod file_names;
pub mod indexer;
pub mod leader_epochs;
#[expect(
    clippy::module_inception,
    reason = "a file is named like its main type, here the room's"
)]
pub mod log;
pub mod log_start;
#[cfg(test)]
mod log_tests;
pub mod lookup;
pub mod lru;
#[cfg(test)]
mod model_tests;
pub mod offset_index;
pub mod open;
pub mod partition_metadata;
pub mod pins;
#[cfg(test)]
mod preallocation_tests;
#[cfg(test)]
mod producer_limit_tests;
pub mod producer_snapshot;
pub mod producer_state;
pub mod read;
mod readable;
pub mod reclaim;
#[cfg(test)]
mod reclaim_tests;
pub mod recovery;
mod replay;
pub mod retention;
pub mod scan;
pub mod scrub;
#[cfg(test)]
mod scrub_tests;
pub mod segments;
pub mod settings;
pub mod tail;
pub mod time_index;
pub mod truncate;
pub mod verify;
pub mod writes;

pub use self::error::{Damage, Error};
pub use self::settings::LogSettings;

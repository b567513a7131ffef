//! One shard's commit journal: the appends of all its partitions, made durable by one write each.
//!
//! Knows bytes and places; what a topic is or which batch is legal is for `log` and `partition`.
//!
//! ```text
//!  reserve -> enqueue -> queue -> committer: one block = one O_DIRECT|O_DSYNC write into the ring
//!                                     |-> next_completed: durable, in order
//!  destaged to segments and flushed -> write_checkpoint -> the ring's oldest bytes are free again
//!  start: Replay::open -> next_entry .. -> segments flushed -> retire -> Journal::open
//! ```
//! | file | what |
//! |---|---|
//! | `entry.rs` | one change of one partition: codec (pure) |
//! | `block.rs` | one write, linked to the one before; head of a file: codec (pure) |
//! | `ring.rs` | which bytes are free, what pins the others (pure) |
//! | `checkpoint.rs` | what is destaged up to where: codec (pure) |
//! | `journal.rs` | what the shard uses |
//! | `reservation.rs` | waiting for room, in order |
//! | `committer.rs` | the task that writes |
//! | `ring_files.rs`, `checkpoint_file.rs` | making, opening, replacing files |
//! | `replay.rs`, `ring_reader.rs` | reading it all back |
//! | `held.rs` | entries that a partition could not take at a start: codec (pure) |
//! | `config.rs`, `error.rs`, `stats.rs` | settings, failures, counters |

pub mod block;
pub mod checkpoint;
pub mod checkpoint_file;
mod committer;
pub mod config;
pub mod entry;
pub mod error;
#[cfg(test)]
mod fault_tests;
pub mod held;
#[expect(
    clippy::module_inception,
    reason = "the file is named after its main type"
)]
pub mod journal;
#[cfg(test)]
mod model_tests;
pub mod replay;
pub mod reservation;
pub mod ring;
mod ring_files;
mod ring_reader;
pub mod stats;

pub use self::journal::Journal;

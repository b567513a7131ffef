//! One shard's commit journal: the appends of all its partitions, made durable by one write each.
//!
//! Knows bytes and places; what a topic is or which batch is legal is for `log` and `partition`.
//!
//! | file | what |
//! |---|---|
//! | `entry.rs` | one change of one partition: codec (pure) |
//! | `block.rs` | one write, linked to the one before; head of a file: codec (pure) |
//! | `ring.rs` | which bytes are free, what pins the others (pure) |
//! | `checkpoint.rs` | what is destaged up to where: codec (pure) |

pub mod block;
pub mod checkpoint;
pub mod entry;
pub mod ring;

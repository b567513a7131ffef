//! Whole brokers with their clients on a simulated machine, seed by seed.
//!
//! The broker is the production code from its sockets to its disk; the machine below it (time, the
//! order of tasks, network, disk) is simulated and fails as the seed says. Clients talk to it in
//! Kafka's protocol, and checkers hold every answer against everything before it, over crashes.
//!
//! - `seed.rs`: one seed from its first life to its last.
//! - `world.rs`: what its clients share.
//! - `clients/`, `checkers/`: who asks, and what must hold.
//! - `rot.rs`: what a disk does to what lies on it.
//! - `wire.rs`: a client's connection.

mod checkers;
mod clients;
mod rot;
pub mod seed;
mod wire;
mod world;

pub use world::Tally;

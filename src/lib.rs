//! Corelog: a durable, thread-per-core log broker that every Apache Kafka client can use.
//!
//! The folders in reading order, lowest layer first (a folder imports only what stands above it;
//! `tests/tidy.rs` checks that). `ARCHITECTURE.md` walks through one Produce and one Fetch.

pub mod breaks;
pub mod model;

pub mod config;
pub mod telemetry;

pub mod rt;
pub mod wire;

pub mod journal;
pub mod log;

pub mod cluster;
pub mod group;
pub mod partition;

pub mod shard;

pub mod admin;
pub mod server;

pub mod client;
pub mod commands;

pub mod broker;

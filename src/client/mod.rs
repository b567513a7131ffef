//! A small blocking Kafka client: what the commands need, over plain sockets.
//!
//! Runs on: the calling thread; no runtime, no background threads.
//! Promises: works against any Kafka broker from 2.1 on (versions are negotiated); every wait has
//! an end; errors are one sentence.
//! Reading order: `connection` (one request, one response), `cluster` (which broker), `topics`,
//! `groups` (admin), `producer`, `fetcher`, `membership` with `assignor` (consumer groups).
//! Deliberately absent: TLS and SASL; transactions.

pub mod assignor;
pub mod cluster;
pub mod connection;
pub mod error;
pub mod fetcher;
pub mod groups;
pub mod membership;
pub mod partitioner;
pub mod producer;
pub mod topics;

pub use cluster::Client;
pub use error::Error;

//! Corelog.

pub mod client;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod group;
pub mod journal;
pub mod log;
pub mod model;
pub mod rt;
pub mod telemetry;
pub mod wire;

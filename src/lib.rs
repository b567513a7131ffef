//! Corelog.

pub mod model;
pub mod config;
pub mod rt;
pub mod wire;
pub mod journal;
pub mod log;
pub mod group;
pub mod commands;

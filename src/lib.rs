//! Corelog.

pub mod group;
pub mod journal;
pub mod log;
pub mod model;

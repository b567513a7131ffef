//! Corelog.

pub mod journal;
pub mod log;
pub mod model;

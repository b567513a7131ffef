//! Corelog.

pub mod log;
pub mod journal;
pub mod model;

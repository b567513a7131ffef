//! Corelog.

pub mod log;
pub mod model;

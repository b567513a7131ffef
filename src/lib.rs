//! Corelog.

pub mod model;

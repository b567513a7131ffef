//! Corelog.

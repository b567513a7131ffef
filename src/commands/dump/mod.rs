//! `corelog dump`: prints a file of a data directory, for people or as JSON, with verdicts on its
//! checksums.
//!
//! Runs on: the main thread. Reads piecewise: a segment or journal of any size.
//! Promises: a damaged file is printed as far as it can be read, then exit code 1; nothing is
//! written. Works on Kafka's own files too.
//! Reading order: `file_kind` (which file it is, and its printer), `line` (what a printer prints),
//! then one file per printer.

mod file_kind;
mod journal;
mod line;
mod reader;
mod segment;
mod small;

pub(in crate::commands) use file_kind::run;

//! The command line: `serve`, the client commands, `dump`, `check`, `repair`, `completions`.
//!
//! Runs on: the main thread, before or instead of the broker; blocking sockets and files.
//! Promises: output on standard output, one line about a failure on standard error; exit 0 done,
//! 1 failed (broker unreachable, refused, file damaged), 2 wrong usage.
//! Reading order: `arguments` (what can be typed), `run` (which command does it), then one file
//! per command.

pub mod arguments;
mod check;
mod completions;
mod config;
mod consume;
mod dump;
mod group;
mod output;
mod produce;
mod repair;
mod run;
mod serve;
mod topic;

pub use run::run;

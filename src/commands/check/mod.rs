//! `corelog check`: looks at the machine, or at a data directory, and says what is wrong with it.
//!
//! Runs on: the main thread, instead of a broker.
//! Reading order: `run` (what is asked for); `machine` (what is looked at), `verdicts` (what is
//! made of it); `data` (a whole data directory).

mod data;
mod machine;
mod run;
mod verdicts;

pub(super) use run::run;

//! `corelog check`: what of the machine is not as a broker needs it.
//!
//! Runs on: the main thread, instead of a broker.
//! Reading order: `machine` (what is looked at), `verdicts` (what is made of it).

mod machine;
mod verdicts;

pub(crate) use machine::run;

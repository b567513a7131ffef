//! `corelog-bench`: loads any Kafka-compatible broker and measures what its clients feel.
//!
//! Reading order: `args.rs` (what can be asked for), `run.rs` (one run), `engine.rs` (the loop),
//! `supply.rs` (what is due when), `producer.rs` (one connection), `recorder.rs` and `report.rs`
//! (what the figures mean).
//!
//! Runs on: one thread.
//! Deliberately absent: everything of the broker except `wire`.

mod args;
mod clock;
mod cluster;
mod cold;
mod cursor;
mod engine;
mod link;
mod numbers;
mod process;
mod producer;
mod recorder;
mod report;
mod requests;
mod run;
mod supply;
mod template;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let Command::Produce(load) = Arguments::parse().command;
    let outcome = run::run(&load).and_then(|result| {
        if let Some(file) = &load.json {
            let text = format!("{result:#}\n");
            std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("corelog-bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

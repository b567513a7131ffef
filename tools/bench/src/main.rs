//! `corelog-bench`: loads any Kafka-compatible broker and measures what its clients feel.
//!
//! Reading order: `args.rs` (what can be asked for), `run.rs` (one run), `engine.rs` (the loop),
//! `supply.rs` (what is due when), `producer.rs` (one connection), `recorder.rs` and `report.rs`
//! (what the figures mean).
//!
//! Runs on: one thread.
//! Deliberately absent: everything of the broker except `wire`.

mod args;
mod batch;
mod clock;
mod cluster;
mod codec;
mod cold;
mod consumer;
mod cursor;
mod engine;
mod link;
mod numbers;
mod plot;
mod process;
mod producer;
mod progress;
mod recorder;
mod records;
mod report;
mod requests;
mod run;
mod setup;
mod sink;
mod sink_store;
mod stamp;
mod supply;
mod template;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command, Mode};

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Produce(load) => run::run(Mode::Produce, &load),
        Command::Consume(load) => run::run(Mode::Consume, &load),
        Command::EndToEnd(load) => run::run(Mode::EndToEnd, &load),
        Command::Mixed(load) => run::run(Mode::Mixed, &load),
        Command::Idle(load) => run::run(Mode::Idle, &load),
        Command::Sink(options) => sink::run(&options).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("corelog-bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

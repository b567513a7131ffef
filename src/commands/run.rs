//! From the typed arguments to the command, and from its result to the exit code.
//!
//! Runs on: the main thread.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use super::arguments::{Arguments, Command};
use super::{check, completions, config, consume, dump, group, produce, repair, serve, topic};
use crate::client;

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The arguments parse but make no sense together: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// What was asked could not be done: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The reader of our output has gone: ends quietly.
    #[error("the output was closed")]
    OutputClosed,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Runs the command that the arguments name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // a closed output is no reason for another message
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match arguments.command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Topic(command) => topic::run(command.command),
        Command::Group(command) => group::run(command.command),
        Command::Produce(command) => produce::run(&command),
        Command::Consume(command) => consume::run(&command),
        Command::Dump(command) => dump::run(&command),
        Command::Check(command) => check::run(&command),
        Command::Repair(command) => repair::run(&command),
        Command::Completions(command) => completions::run(&command),
        Command::Config(command) => config::run(&command),
    };
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("corelog: {}", one_line(&failure.to_string()));
            let usage = matches!(failure, Failure::Usage(_));
            ExitCode::from(if usage { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

/// The text with its control characters escaped: names and values in it may hold any.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_is_in_it() {
        let text = "`a\nb\r\u{1b}[0m` in C:\\x: \u{e4}";
        assert_eq!(one_line(text), "`a\\nb\\r\\u{1b}[0m` in C:\\x: \u{e4}");
    }
}

//! `corelog completions`: completion scripts, generated from the grammar.
//!
//! Runs on: the main thread.

use std::io::Write as _;

use clap::CommandFactory as _;

use super::arguments::{Arguments, CompletionsArguments};
use super::run::Failure;

/// Runs the command.
pub(super) fn run(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "corelog", &mut script);
    let mut output = std::io::stdout().lock();
    output.write_all(&script)?;
    output.flush()?;
    Ok(())
}

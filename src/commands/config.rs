//! `corelog config`: what the settings tables say.
//!
//! Runs on: the main thread.

use std::io::Write as _;

use super::arguments::{ConfigArguments, ConfigCommand};
use super::run::Failure;

/// Runs the command.
pub(super) fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    match arguments.command {
        ConfigCommand::Docs => {
            let mut output = std::io::stdout().lock();
            output.write_all(crate::config::docs::markdown().as_bytes())?;
            output.flush()?;
            Ok(())
        }
    }
}

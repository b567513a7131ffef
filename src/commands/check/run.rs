//! Which check is asked for, and of which broker.
//!
//! Runs on: the main thread.

use super::super::arguments::{CheckArguments, ServeArguments};
use super::super::run::Failure;
use super::super::serve;
use super::{data, machine};

/// Checks what was asked for.
pub(in crate::commands) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let config = serve::configuration(&ServeArguments {
        config: arguments.config.clone(),
        data_dir: arguments.data_dir.clone(),
        ..ServeArguments::default()
    })?;
    if arguments.data {
        data::run(&config, arguments.json)
    } else {
        machine::run(&config, arguments)
    }
}

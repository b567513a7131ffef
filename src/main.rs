//! The `corelog` binary: parses the command line, runs one command, returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    corelog::commands::run(std::env::args_os())
}

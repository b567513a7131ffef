//! The `corelog` binary: parses the command line, runs one command, returns its exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    corelog::commands::run(std::env::args_os())
}

//! Bare loops on one core: the yardstick of `tools/compare`.
//!
//! Each loop does what a log broker cannot avoid, and nothing else: no protocol, no index, no
//! partition. The loop runs in this process, pinned to one core; its peer (who sends or receives)
//! is a second process on another core. Prints one JSON object with bytes, seconds and CPU seconds.
//!
//! Runs on: the main thread, and one child process.
//! Deliberately absent: any code of the broker; a yardstick must not share its mistakes.

mod aligned;
mod durable;
mod machine;
mod peer;
mod reading;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::machine::Usage;
use crate::peer::Peer;

#[derive(Debug, Parser)]
#[command(about = "Measures the bare loops that a log broker is compared with")]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Writes the file that the loops use, once from end to end
    Prepare {
        /// The file
        #[arg(long)]
        file: PathBuf,
        /// Its size
        #[arg(long)]
        bytes: u64,
    },
    /// Receive, CRC-32C, durable write over the file, acknowledge
    Durable(Loop),
    /// The file to a socket by sendfile(2)
    Sendfile(Loop),
    /// The file to a socket by direct reads and send
    Direct(Loop),
    /// Bytes in memory to a socket
    Memory(Loop),
    /// The other side of a loop, started by the loop itself
    #[command(hide = true)]
    Peer {
        /// What it does
        what: Peer,
        /// Where the loop listens
        address: String,
        /// The core that it runs on
        core: usize,
        /// Bytes of the loop's blocks
        block: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Loop {
    /// A file that `prepare` wrote
    #[arg(long)]
    file: PathBuf,
    /// The core of the loop
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// The core of the other side
    #[arg(long, default_value_t = 1)]
    peer_core: usize,
    /// How long; reading loops end earlier at the end of the file
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bytes of one disk write or read
    #[arg(long, default_value_t = 512 << 10)]
    block: usize,
    /// Disk writes or reads in flight
    #[arg(long, default_value_t = 4)]
    depth: usize,
}

/// What one loop did.
pub(crate) struct Done {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) usage: Usage,
}

fn main() -> ExitCode {
    match run(&Options::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corelog-limits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &What) -> io::Result<()> {
    match what {
        What::Prepare { file, bytes } => durable::prepare(file, *bytes),
        What::Durable(options) => print("durable", options, &durable::run(options)?),
        What::Sendfile(options) => print("sendfile", options, &reading::sendfile(options)?),
        What::Direct(options) => print("direct", options, &reading::direct(options)?),
        What::Memory(options) => print("memory", options, &reading::memory(options)?),
        What::Peer {
            what,
            address,
            core,
            block,
        } => peer::run(*what, address, *core, *block),
    }
}

#[expect(clippy::cast_precision_loss, reason = "byte counts are far below 2^52")]
fn print(name: &str, options: &Loop, done: &Done) -> io::Result<()> {
    let bytes = done.bytes as f64;
    if done.seconds <= 0.0 || bytes <= 0.0 {
        return Err(io::Error::other("nothing was moved"));
    }
    let report = json!({
        "loop": name,
        "block": options.block,
        "depth": options.depth,
        "bytes": done.bytes,
        "seconds": done.seconds,
        "bytes_per_second": bytes / done.seconds,
        "cpu_seconds": done.usage.cpu_seconds,
        "cpu_seconds_per_gb": done.usage.cpu_seconds / (bytes / 1e9),
    });
    println!("{report}");
    Ok(())
}

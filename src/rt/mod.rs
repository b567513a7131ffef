//! The one seam to the machine: tasks, time, randomness, files, sockets, cores.
//!
//! Everything above this folder is written against this facade and never names glommio, libc, a
//! clock or a random source. Behind it stand two runtimes, chosen at run time in one build:
//! io_uring (`uring.rs`, one pinned glommio executor per core) and the simulated twin (`sim/`:
//! seeded scheduler, virtual clock, faulty disk).
//!
//! | want | take |
//! |---|---|
//! | a task | `spawn(lane, name, future) -> Task`, `yield_now`, `yield_if_needed` |
//! | time | `now`, `unix_ms`, `sleep`, `timeout`, `Instant` |
//! | work that blocks or burns CPU | `blocking(name, closure).await` |
//! | randomness | `random_u64`, `random_bytes16` |
//! | direct I/O | `File`, `OpenOptions`, `IoBuf` |
//! | a sealed file to send | `SharedFile` |
//! | names and directories | `fs::*` |
//! | sockets | `net::*` |
//! | words between shards | `cross::channel` |
//! | waiting inside a shard | `sync::*` |
//! | shards | `executor::run_on_cores` |
//! | a simulation's tally | `mark`: the program came by here |
//! | the machine | `machine::*`, `survey::*`, `signal`, `data_lock`, `process` |
//!
//! Runs on: every shard; each function finds the runtime of its own thread.
//! Invariant: nothing here blocks the calling shard, except where a function says that it is for
//! start-up only.

pub mod blocking;
pub mod clock;
pub mod cross;
pub mod data_lock;
pub mod executor;
pub mod file;
pub mod fs;
pub mod io_buf;
pub mod machine;
pub mod net;
pub mod process;
pub mod random;
mod runtime;
pub mod shared_file;
pub mod signal;
pub mod sim;
pub mod stall;
pub mod survey;
pub mod sync;
mod sys;
pub mod task;
mod uring;

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod forbidden_tests;
#[cfg(test)]
mod net_tests;
#[cfg(test)]
mod task_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use self::clock::{Instant, now, sleep, timeout, unix_ms};
pub use self::file::{ALIGNMENT, File, OpenOptions, is_medium_error};
pub use self::random::{random_bytes16, random_u64};
pub use self::runtime::mark;
pub use self::task::{Lane, Task, spawn, yield_if_needed, yield_now};
pub use self::{blocking::blocking, io_buf::IoBuf, shared_file::SharedFile};

//! The simulated twin of the machine: seeded scheduler, virtual clock, faulty disk and
//! network, one thread.
//!
//! ```text
//! let disk = SimDisk::new(seed);
//! let sim = Sim::with_disk(seed, disk.clone());
//! disk.crash_after(17);                              // power fails at the 17th change from here
//! let ended = sim.run_until_crash(async { ... });    // None: the power failed
//! disk.crash(CrashMode::Torn);                       // what was not flushed is lost, kept, torn
//! Sim::with_disk(seed + 1, disk).run(async { recover().await });
//! ```
//!
//! - `executor.rs`: picks the next ready task by the seed; time jumps to the next timer when
//!   nothing is ready; nothing ready and no timer is a deadlock and panics with the seed and the
//!   tasks' names.
//! - `disk.rs`: what is live and what is durable of files and directories; crashes, faults.
//! - `changes.rs`: the not yet durable changes of one file, and what a crash makes of them (pure).
//! - `names.rs`: the not yet durable changes of directories, likewise (pure).
//! - `file.rs`: open files over the disk, with virtual latency.
//! - `net.rs`: listeners and connections, late, cut and stalled by the seed.
//!
//! Promises: the same seed and program give the same trace (`Sim::trace`).

mod changes;
mod disk;
mod executor;
mod file;
mod names;
mod net;
mod rng;
#[cfg(test)]
mod sim_tests;

pub use self::disk::{CrashMode, CrashPoint, DiskOp, Fault, SimDisk};
pub use self::executor::Sim;
pub(super) use self::executor::{SimShard, SimTask, TimerHandle, yield_once};
pub(super) use self::file::SimFile;
pub use self::net::{NetFaults, NetFired};
pub(super) use self::net::{SimListener, SimSocket, free_port};
pub use self::rng::Rng;

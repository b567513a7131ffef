//! Waiting inside one shard: single-threaded, of no particular runtime, the same on both sides.
//!
//! - `oneshot`: one value from one task to another; either end learns when the other is gone.
//! - `Notify`: "something changed", remembered once if nobody waits.
//! - `Semaphore`: counted permits, first come first served.
//! - `Queue`: a bounded channel inside the shard.
//!
//! Runs on: a shard. Promises: dropping any of their futures leaves nothing behind, and a permit,
//! notification or item that was on its way to a dropped future goes to the next one.

mod notify;
pub mod oneshot;
mod queue;
pub mod semaphore;

pub use self::notify::Notify;
pub use self::queue::{Queue, TryPushError};
pub use self::semaphore::{Permit, Semaphore};

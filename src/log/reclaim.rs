//! Gives the disk space of deleted segments back, a bounded part at a time.
//!
//! Runs on: the shard, background lane; cutting and unlinking happen off it.  Owner: `LogContext`.
//! Promises: what is given back has no name that a log knows, durably, before its first byte goes,
//! so a crash at any point leaves a leftover and never a short segment; nothing is taken from under
//! a reader [reader-pinned]. What is not given back when the process ends, the next start finds by
//! its name.
//!
//! A file system that is mounted with `discard` tells the device about all freed blocks. Devices
//! take seconds over a gigabyte of that, and no flush ends meanwhile, and so no commit. Therefore
//! files are cut from their ends, one step, a pause, the next step, and are unlinked when they are short.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::pins::Users;
use crate::rt::sync::Notify;
use crate::rt::{self, File, Instant, OpenOptions, fs};

/// How often the queue looks whether the readers of what waits have gone.
const READERS_POLL: Duration = Duration::from_millis(100);
/// Space is given back at least at this rate, bytes a second.
const RATE_MIN: u64 = 64 << 20;
/// Whatever waits is to be gone in this time, about.
const WAIT_SECONDS: u64 = 300;
/// Part of a step's time that the pause behind it lasts at least.
const PAUSE_DIVISOR: u32 = 4;
/// How often the rate of appends is measured.
const MEASURE_INTERVAL: Duration = Duration::from_millis(500);

/// Something that is deleted: a file, or a directory with files.
#[derive(Debug)]
pub struct Waste {
    /// Its name, which no log takes for its own.
    pub path: PathBuf,
    /// What it is.
    pub kind: WasteKind,
    /// How long it is, as far as known.
    pub size_bytes: u64,
    /// Who may still read it.
    pub users: Users,
}

/// What [`Waste`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasteKind {
    /// One file.
    File,
    /// A directory of files.
    Directory,
}

/// What waits to be given back. See the file's head.
#[derive(Debug)]
pub struct Reclaim {
    /// Bytes of one step; a power of two, so that a cut never splits a page of the page cache that
    /// a socket still refers to.
    step_bytes: u64,
    waiting: RefCell<VecDeque<Waste>>,
    waiting_bytes: Cell<u64>,
    is_busy: Cell<bool>,
    arrived: Notify,
}

/// What the pace depends on, beside what waits.
pub trait Load {
    /// Bytes that were appended, since some time.
    fn appended_bytes(&self) -> u64;
    /// Whether appends wait for space.
    fn is_disk_full(&self) -> bool;
}

/// Nothing is appended.
#[cfg(test)]
pub(super) struct Idle;

#[cfg(test)]
impl Load for Idle {
    fn appended_bytes(&self) -> u64 {
        0
    }

    fn is_disk_full(&self) -> bool {
        false
    }
}

impl Reclaim {
    pub(super) fn new(step_bytes: u64) -> Self {
        assert!(
            step_bytes.is_power_of_two(),
            "a cut is at a boundary of pages of every size"
        );
        Self {
            step_bytes,
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            is_busy: Cell::new(false),
            arrived: Notify::new(),
        }
    }

    /// Hands something over. The renaming of files longer than [`step_bytes`](Self::step_bytes) is
    /// durable before.
    pub fn put(&self, waste: Waste) {
        self.waiting_bytes
            .set(self.waiting_bytes.get() + waste.size_bytes);
        self.waiting.borrow_mut().push_back(waste);
        self.arrived.notify_one();
    }

    /// Bytes of one step.
    pub const fn step_bytes(&self) -> u64 {
        self.step_bytes
    }

    /// What waits or is being given back.
    pub fn waiting_count(&self) -> usize {
        self.waiting.borrow().len() + usize::from(self.is_busy.get())
    }

    /// Bytes that wait, as far as known.
    pub const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.get()
    }

    /// Gives back what waits until the task is cancelled.
    ///
    /// Cancel: safe; the next start goes on.
    pub async fn run(&self, load: &dyn Load) {
        let mut pacer = Pacer::new(self, load);
        loop {
            let Some(waste) = self.next() else {
                if self.waiting.borrow().is_empty() {
                    self.arrived.notified().await;
                } else {
                    rt::sleep(READERS_POLL).await;
                }
                continue;
            };
            self.is_busy.set(true);
            pacer.left_bytes = waste.size_bytes;
            match self.give_back(&waste, &mut pacer).await {
                Ok(()) => {}
                // its directory was renamed, and waits itself
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "deleted at the next start"),
            }
            self.lower(pacer.left_bytes);
            self.is_busy.set(false);
        }
    }

    /// The first that nobody reads any more.
    fn next(&self) -> Option<Waste> {
        let mut waiting = self.waiting.borrow_mut();
        let index = waiting.iter().position(|waste| !waste.users.any())?;
        waiting.remove(index)
    }

    fn lower(&self, bytes: u64) {
        self.waiting_bytes
            .set(self.waiting_bytes.get().saturating_sub(bytes));
    }

    async fn give_back(&self, waste: &Waste, pacer: &mut Pacer<'_>) -> io::Result<()> {
        match waste.kind {
            WasteKind::File => {
                let len = self.shorten(&waste.path, waste.size_bytes, pacer).await?;
                let started = rt::now();
                fs::remove_file(&waste.path).await?;
                pacer.pause(len, started).await;
            }
            WasteKind::Directory => {
                let files = fs::read_dir(&waste.path).await?;
                let sizes = files.iter().map(|file| file.len);
                if sizes.clone().any(|len| len > self.step_bytes)
                    && let Some(parent) = waste.path.parent()
                {
                    fs::sync_dir(parent).await?; // it must not come back under its old name
                }
                for file in files.iter().filter(|file| !file.is_dir) {
                    let path = waste.path.join(&file.name);
                    let len = self.shorten(&path, file.len, pacer).await?;
                    let started = rt::now();
                    fs::remove_file(&path).await?;
                    pacer.pause(len, started).await;
                }
                fs::remove_dir_all(&waste.path).await?;
            }
        }
        Ok(())
    }

    /// Cuts the file until no more than one step is left; how long it is then.
    async fn shorten(&self, path: &Path, len: u64, pacer: &mut Pacer<'_>) -> io::Result<u64> {
        if len <= self.step_bytes {
            return Ok(len);
        }
        let options = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let file = File::open(path, &options).await?;
        let mut left = file.len().await?;
        while left > self.step_bytes {
            let cut = (left - 1) / self.step_bytes * self.step_bytes;
            let started = rt::now();
            file.truncate(cut).await?;
            pacer.pause(left - cut, started).await;
            left = cut;
        }
        file.close().await?;
        Ok(left)
    }
}

/// Pauses between the steps.
struct Pacer<'a> {
    reclaim: &'a Reclaim,
    load: &'a dyn Load,
    /// Of what is being given back.
    left_bytes: u64,
    measured: Instant,
    appended_bytes: u64,
    appended_rate: u64,
}

impl<'a> Pacer<'a> {
    fn new(reclaim: &'a Reclaim, load: &'a dyn Load) -> Self {
        Self {
            reclaim,
            load,
            left_bytes: 0,
            measured: rt::now(),
            appended_bytes: load.appended_bytes(),
            appended_rate: 0,
        }
    }

    /// After a step that gave `bytes` back and began at `started`.
    async fn pause(&mut self, bytes: u64, started: Instant) {
        let known = bytes.min(self.left_bytes);
        self.left_bytes -= known;
        self.reclaim.lower(known);
        let elapsed = self.measured.elapsed();
        if elapsed >= MEASURE_INTERVAL {
            let appended = self.load.appended_bytes();
            self.appended_rate = per_second(appended - self.appended_bytes, elapsed);
            self.appended_bytes = appended;
            self.measured = rt::now();
        }
        if !self.load.is_disk_full() {
            let rate = rate(self.appended_rate, self.reclaim.waiting_bytes());
            rt::sleep(pause(bytes, rate, started.elapsed())).await;
        }
    }
}

/// Bytes a second that are given back: somewhat more than what is appended, so that little waits
/// for long, and not much more, so that appends are hardly held up. Pure.
fn rate(appended_rate: u64, waiting_bytes: u64) -> u64 {
    (appended_rate + appended_rate / 2)
        .max(waiting_bytes / WAIT_SECONDS)
        .max(RATE_MIN)
}

/// How long to wait after a step of `bytes` that took `took`. Pure.
fn pause(bytes: u64, rate: u64, took: Duration) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    let turn = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    turn.saturating_sub(took).max(took / PAUSE_DIVISOR)
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_appends_and_what_waits() {
        assert_eq!(rate(0, 0), RATE_MIN);
        assert_eq!(rate(600 << 20, 0), 900 << 20);
        assert_eq!(rate(0, 300 << 30), 1 << 30);
    }

    #[test]
    fn a_slow_step_is_followed_by_a_pause_all_the_same() {
        let millis = Duration::from_millis;
        assert_eq!(pause(64 << 20, 64 << 20, millis(100)), millis(900));
        assert_eq!(pause(64 << 20, 64 << 20, millis(2000)), millis(500));
    }
}

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
//! files are cut from their ends, one step, a pause, the next step, and are unlinked when short.
//!
//! Discarding takes the device longer than the writing of the bytes that come after it, so a
//! segment's blocks are better kept: as a *spare*, they become the next segment of a partition. A
//! file is a spare once all of it reads as zeros, durably, and it has left its directory, in this
//! order: (1) its blocks are marked as unwritten, step by step; (2) flush; (3) rename into the
//! directory of the spares; (4) flush of both directories. What a log then writes is all that can
//! ever be read from it [spare-zero]. Spares are part of the budget for space ahead of the data,
//! and go when nobody wants them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checkpoint::align_up;
use super::context::LogContext;
use super::log::Log;
use super::pins::Users;
use crate::rt::sync::Notify;
use crate::rt::{self, File, Instant, OpenOptions, fs};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;

/// How often the queue looks whether the readers of what waits have gone.
const READERS_POLL: Duration = Duration::from_millis(100);
/// Space is given back at least at this rate, bytes a second.
const RATE_MIN: u64 = 64 << 20;
/// Whatever waits is to be gone in this time, about.
const WAIT_SECONDS: u64 = 300;
/// Part of a step's time that the pause behind it lasts at least.
const PAUSE_DIVISOR: u32 = 4;
/// Spares go when nothing was deleted in this time: segments do not follow each other fast enough.
const SPARE_IDLE: Duration = Duration::from_secs(30);
/// Pages of the page cache are not larger; zeroing never ends within one that a socket refers to.
const PAGE_BYTES_MAX: u64 = 2 << 20;
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
    /// A segment, whose blocks may be used again.
    Segment,
    /// A file whose blocks nobody wants.
    Spare,
    /// A directory of files.
    Directory,
}

/// Blocks for a segment: a file of zeros.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    /// Its length, in whole blocks.
    pub(super) len: u64,
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
    /// Where spares are; none where there are none.
    spare_dir: RefCell<Option<PathBuf>>,
    /// Oldest first.
    spares: RefCell<VecDeque<Spare>>,
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
            spare_dir: RefCell::default(),
            spares: RefCell::default(),
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

    /// Lets deleted segments become spares in `dir`, which is there and empty.
    pub fn keep_spares(&self, dir: PathBuf) {
        *self.spare_dir.borrow_mut() = Some(dir);
    }

    /// A spare for a segment that will have about `segment_bytes`, and the directory that it is in.
    pub(super) fn take_spare(&self, segment_bytes: u64) -> Option<(Spare, PathBuf)> {
        let dir = self.spare_dir.borrow().clone()?;
        let mut spares = self.spares.borrow_mut();
        let longest = self.spare_len(segment_bytes).max(align_up(segment_bytes));
        let fits = |spare: &Spare| spare.len <= longest && spare.len >= segment_bytes / 2;
        let index = spares.iter().position(fits)?;
        Some((spares.remove(index)?, dir))
    }

    /// Length of the spare that a segment of this size makes.
    fn spare_len(&self, size_bytes: u64) -> u64 {
        size_bytes.next_multiple_of(PAGE_BYTES_MAX.min(self.step_bytes))
    }

    /// Gives up all spares: the space is needed, or they are not.
    pub fn give_up_spares(&self, context: &LogContext) {
        for spare in self.spares.take() {
            context.give_preallocation(spare.len);
            self.put(Waste {
                path: spare.path,
                kind: WasteKind::Spare,
                size_bytes: spare.len,
                users: Users::default(),
            });
        }
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
    pub async fn run(&self, context: &LogContext, load: &dyn Load) {
        let mut pacer = Pacer::new(self, load);
        loop {
            let Some(waste) = self.next() else {
                self.wait(context).await;
                continue;
            };
            self.is_busy.set(true);
            pacer.left_bytes = waste.size_bytes;
            match self.give_back(&waste, context, &mut pacer).await {
                Ok(()) => {}
                // its directory was renamed, and waits itself
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "deleted at the next start"),
            }
            self.lower(pacer.left_bytes);
            self.is_busy.set(false);
        }
    }

    async fn wait(&self, context: &LogContext) {
        if context.is_overdrawn() {
            self.give_up_spares(context);
        }
        if !self.waiting.borrow().is_empty() {
            return rt::sleep(READERS_POLL).await;
        }
        let arrived = self.arrived.notified();
        if self.spares.borrow().is_empty() {
            arrived.await;
        } else if rt::timeout(SPARE_IDLE, arrived).await.is_none() {
            self.give_up_spares(context);
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

    async fn give_back(
        &self,
        waste: &Waste,
        context: &LogContext,
        pacer: &mut Pacer<'_>,
    ) -> io::Result<()> {
        if waste.kind == WasteKind::Segment && self.keep(waste, context, pacer).await? {
            return Ok(());
        }
        match waste.kind {
            WasteKind::Segment | WasteKind::Spare => {
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

    /// Makes a spare of a segment; whether it is one now.
    async fn keep(
        &self,
        waste: &Waste,
        context: &LogContext,
        pacer: &mut Pacer<'_>,
    ) -> io::Result<bool> {
        let Some(dir) = self.spare_dir.borrow().clone() else {
            return Ok(false);
        };
        let len = self.spare_len(waste.size_bytes);
        if waste.size_bytes < self.step_bytes
            || pacer.load.is_disk_full()
            || !context.take_spare_room(len)
        {
            return Ok(false);
        }
        let path = dir.join(format!("{:016x}", rt::random_u64()));
        match self.zero(&waste.path, len, pacer).await {
            Ok(()) => {}
            Err(error) => {
                context.give_preallocation(len);
                if error.kind() == io::ErrorKind::NotFound {
                    return Err(error);
                }
                tracing::info!(%error, "blocks of deleted segments are not used again");
                *self.spare_dir.borrow_mut() = None;
                return Ok(false);
            }
        }
        if let Err(error) = fs::rename(&waste.path, &path).await {
            context.give_preallocation(len);
            return Err(error);
        }
        // not even a file system without a journal may find the deleted name after a crash
        for dir in [waste.path.parent(), Some(dir.as_path())] {
            fs::sync_dir(dir.unwrap_or(Path::new("."))).await?;
        }
        self.spares.borrow_mut().push_back(Spare { path, len });
        Ok(true)
    }

    /// Makes the whole file read as zeros, durably.
    async fn zero(&self, path: &Path, len: u64, pacer: &mut Pacer<'_>) -> io::Result<()> {
        let file = open(path).await?;
        if file.len().await? > len {
            file.truncate(len).await?;
        }
        let mut position = 0;
        while position < len {
            let step = self.step_bytes.min(len - position);
            let started = rt::now();
            file.zero(position, step).await?;
            pacer.pause(step, started).await;
            position += step;
        }
        file.fdatasync().await?;
        file.close().await
    }

    /// Cuts the file until no more than one step is left; how long it is then.
    async fn shorten(&self, path: &Path, len: u64, pacer: &mut Pacer<'_>) -> io::Result<u64> {
        if len <= self.step_bytes {
            return Ok(len);
        }
        let file = open(path).await?;
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

impl Log {
    /// Puts a spare in the place of a new segment, if there is one of the right size and segments
    /// of this log are filled; the directory that it came from.
    ///
    /// Cancel: not safe; as destaging.
    pub(super) async fn put_spare(&self, path: &Path) -> Option<PathBuf> {
        let (spare, dir) = {
            let mut state = self.state.borrow_mut();
            if self.is_closing.get() {
                return None;
            }
            let last_bytes = state.sealed.last()?.size_bytes;
            let segment_bytes = self.settings().segment_bytes;
            let may_be = std::mem::take(&mut state.oldest_open_mut().may_be_spare);
            let is_filled = last_bytes >= segment_bytes / 2;
            let spare =
                (may_be && is_filled).then(|| self.context.reclaim().take_spare(segment_bytes));
            spare.flatten()?
        };
        // A destaging that a stop gave up may have left this rename behind: it must not replace the
        // file that the stop made since.
        if let Err(error) = fs::rename_new(&spare.path, path).await {
            tracing::warn!(%error, "a spare segment is not used");
            self.context.give_preallocation(spare.len);
            return None;
        }
        let mut state = self.state.borrow_mut();
        let segment = state.oldest_open_mut();
        metrics::local().increment(Counter::SegmentsReused);
        segment.allocated_end = spare.len;
        segment.preallocated_bytes = spare.len;
        Some(dir)
    }
}

async fn open(path: &Path) -> io::Result<File> {
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    File::open(path, &options).await
}

/// Cuts the unused end of a file that somebody writes, down to `len`, a step at a time.
pub(super) async fn cut_end(
    file: &File,
    mut end: u64,
    len: u64,
    step_bytes: u64,
) -> io::Result<()> {
    while end > len + step_bytes {
        let started = rt::now();
        end -= step_bytes;
        file.truncate(end).await?;
        rt::sleep(started.elapsed()).await;
    }
    file.truncate(len).await
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

//! Whether this shard can write: healthy, disk full, or failed.
//!
//! Runs on: its shard.      Owner: `Shard`.
//! Promises: after a failed write or flush nothing is accepted until a restart; a full disk refuses
//! Produce only, and ends by itself when space returns. Never goes back from failed.
//! What one shard finds holds for the data directory: `spread` tells the others.
//!
//! A full disk: 1. somebody lacks space: Produce is refused from here on, also that which waits for
//! room. 2. Whatever must be possible all the same (checkpoints, metadata, giving space back) gives
//! the reserve up and tries once more: `Shard::write`. From there on nothing is destaged, or it
//! would take that space. 3. Every second the reserve is taken again, with a margin; once that
//! works, destaging goes on. 4. A round of it and a checkpoint behind it succeeded: Produce goes
//! on. `background` does 3 and 4, each shard for itself.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::rc::Rc;

use crate::cluster::metadata_log;
use crate::journal::error::JournalError;
use crate::log::error as log;
use crate::partition::error::Error;
use crate::rt::fs;
use crate::rt::sync::Notify;
use crate::shard::calls::ShardCall;
use crate::shard::shard::Shard;

/// Why nothing can be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Space is missing, and what for.
    DiskFull(String),
    /// A write or flush failed, in these words.
    Failed(String),
}

/// What can go wrong as something of the data directory is written.
pub(crate) trait WriteError: Display {
    /// What it means for the data directory, if anything.
    fn trouble(&self) -> Option<Trouble>;
}

fn trouble(error: &impl Display, is_disk_full: bool) -> Trouble {
    if is_disk_full {
        Trouble::DiskFull(error.to_string())
    } else {
        Trouble::Failed(error.to_string())
    }
}

impl WriteError for std::io::Error {
    fn trouble(&self) -> Option<Trouble> {
        Some(trouble(self, fs::is_disk_full(self)))
    }
}

impl WriteError for log::Error {
    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::UnknownPartition { .. } => None, // deleted meanwhile
            Self::Offline(error) => error.trouble(),
            _ => Some(trouble(self, self.is_disk_full())),
        }
    }
}

impl WriteError for JournalError {
    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Failed(_) | Self::Io(_) => Some(trouble(self, self.is_disk_full())),
            Self::Closed | Self::TooLarge { .. } | Self::Config { .. } => None,
        }
    }
}

impl WriteError for metadata_log::Error {
    fn trouble(&self) -> Option<Trouble> {
        Some(trouble(self, self.is_disk_full()))
    }
}

/// The state and who waits for trouble.
pub(crate) struct Storage {
    trouble: RefCell<Option<Trouble>>,
    changed: Notify,
    /// Whether other shards are still to be told.
    is_news: Cell<bool>,
    /// How far the end of a full disk is.
    end: Cell<End>,
}

/// Steps towards the end of a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The reserve may be in use.
    NotYet,
    /// The reserve is there, and so is more.
    HasReserve,
    /// And a round of destaging lacked nothing.
    HasDestaged,
}

impl Storage {
    pub(crate) fn new() -> Self {
        Self {
            trouble: RefCell::new(None),
            changed: Notify::new(),
            is_news: Cell::new(false),
            end: Cell::new(End::NotYet),
        }
    }

    /// Refuses when nothing can be appended now.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &*self.trouble.borrow() {
            None => Ok(()),
            Some(Trouble::DiskFull(_)) => Err(Error::DiskFull),
            Some(Trouble::Failed(reason)) => Err(Error::Storage(reason.clone())),
        }
    }

    /// Returns the refusal as soon as there is one.
    pub(crate) async fn trouble(&self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            self.changed.notified().await;
        }
    }

    /// Something could not be written or flushed. `true` when only space is missing.
    pub(crate) fn on_error(&self, error: &impl WriteError) -> bool {
        let Some(trouble) = error.trouble() else {
            return false;
        };
        let is_disk_full = matches!(trouble, Trouble::DiskFull(_));
        if self.set(trouble) {
            if is_disk_full {
                tracing::error!(%error, "disk full: produce is refused until there is space again");
            } else {
                tracing::error!(reason = %error, "the data directory failed: restart the broker");
            }
            self.is_news.set(true);
        }
        is_disk_full
    }

    /// What another shard found.
    pub(crate) fn hear(&self, trouble: Trouble) {
        self.set(trouble);
    }

    /// Whether anything changed by it.
    fn set(&self, trouble: Trouble) -> bool {
        self.end.set(End::NotYet);
        let is_worse = match &*self.trouble.borrow() {
            None => true,
            Some(Trouble::DiskFull(_)) => matches!(trouble, Trouble::Failed(_)),
            Some(Trouble::Failed(_)) => false,
        };
        if is_worse {
            *self.trouble.borrow_mut() = Some(trouble);
            self.changed.notify_all();
        }
        is_worse
    }

    /// The reserve is there again.
    pub(crate) fn on_reserve(&self) {
        if self.is_full() && self.end.get() == End::NotYet {
            self.end.set(End::HasReserve);
            self.changed.notify_all();
        }
    }

    /// A round of destaging lacked nothing.
    pub(crate) fn on_destaged(&self) {
        if self.end.get() == End::HasReserve {
            self.end.set(End::HasDestaged);
        }
    }

    /// Whether a checkpoint is all that is left to show.
    pub(crate) fn has_destaged(&self) -> bool {
        self.end.get() == End::HasDestaged
    }

    /// A checkpoint was written, after a round of destaging: the disk is full no more, unless
    /// somebody lacked space meanwhile.
    pub(crate) fn on_checkpoint(&self) {
        if self.is_full() && self.has_destaged() {
            tracing::info!("there is space on the disk again: produce goes on");
            self.end.set(End::NotYet);
            *self.trouble.borrow_mut() = None;
            self.changed.notify_all();
        }
    }

    /// Waits while destaging would be in vain, or take the space that checkpoints need.
    ///
    /// Cancel: safe.
    pub(crate) async fn may_destage(&self) {
        self.until(|| match &*self.trouble.borrow() {
            None => true,
            Some(Trouble::DiskFull(_)) => self.end.get() != End::NotYet,
            Some(Trouble::Failed(_)) => false,
        })
        .await;
    }

    /// Waits while nothing at all shall be written any more: for good.
    ///
    /// Cancel: safe.
    pub(crate) async fn may_write(&self) {
        self.until(|| !self.has_failed()).await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        while !holds() {
            self.changed.notified().await;
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.trouble.borrow(), Some(Trouble::Failed(_)))
    }

    pub(crate) fn is_full(&self) -> bool {
        matches!(*self.trouble.borrow(), Some(Trouble::DiskFull(_)))
    }

    /// Why the broker is not healthy, for `/healthz`.
    pub(crate) fn complaint(&self) -> Option<String> {
        match &*self.trouble.borrow() {
            None => None,
            Some(Trouble::DiskFull(reason)) => Some(format!("the disk is full: {reason}")),
            Some(Trouble::Failed(reason)) => Some(format!("the data directory failed: {reason}")),
        }
    }

    /// The next trouble that was found here.
    async fn news(&self) -> Trouble {
        self.until(|| self.is_news.get()).await;
        self.is_news.set(false);
        let trouble = self.trouble.borrow().clone();
        trouble.unwrap_or_else(|| Trouble::DiskFull("for a moment".to_owned()))
    }
}

/// Tells the other shards what was found here, until the task is cancelled.
pub(crate) async fn spread(shard: Rc<Shard>) {
    loop {
        let trouble = shard.storage.news().await;
        for id in shard.shard_ids().filter(|id| *id != shard.id()) {
            shard.call(id, ShardCall::Storage(trouble.clone())).await;
        }
    }
}

impl Shard {
    /// Writes something that must be possible on a full disk: where only space is missing, once
    /// more with the reserve given up, by this writer or by another that was first. The storage
    /// learns of every error.
    ///
    /// Cancel: as `work`.
    pub(crate) async fn write<T, E: WriteError>(
        &self,
        work: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, E> {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !self.storage.on_error(&error) {
            return Err(error);
        }
        self.reserve.give_up().await;
        let again = work().await;
        if let Err(error) = &again {
            self.storage.on_error(error);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::sim::Sim;
    use std::io;

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    #[test]
    fn a_full_disk_ends_with_the_checkpoint_behind_reserve_and_destaging() {
        let storage = Storage::new();
        assert!(storage.on_error(&full()));
        assert_eq!(storage.check(), Err(Error::DiskFull));
        storage.on_destaged();
        storage.on_checkpoint();
        assert!(storage.is_full(), "the reserve is in use");
        storage.on_reserve();
        storage.on_checkpoint();
        assert!(storage.is_full(), "nothing was destaged");
        storage.on_destaged();
        assert!(storage.on_error(&full()), "space is missing again");
        storage.on_checkpoint();
        assert!(storage.is_full());
        storage.on_reserve();
        storage.on_destaged();
        storage.on_checkpoint();
        assert_eq!(storage.check(), Ok(()));
    }

    #[test]
    fn a_failure_stays_and_is_not_taken_for_a_full_disk() {
        let storage = Storage::new();
        assert!(storage.on_error(&full()));
        let complaint = storage.complaint().unwrap();
        assert!(complaint.starts_with("the disk is full: "), "{complaint}");
        assert!(!storage.on_error(&io::Error::other("EIO")));
        assert!(storage.on_error(&full()));
        storage.on_reserve();
        storage.on_destaged();
        storage.on_checkpoint();
        assert_eq!(storage.check(), Err(Error::Storage("EIO".to_owned())));
        assert!(!storage.is_full());
    }

    #[test]
    fn a_journal_that_is_closed_is_no_trouble_and_one_that_failed_is_no_full_disk() {
        let failed = JournalError::Failed(full().into());
        assert!(matches!(failed.trouble(), Some(Trouble::Failed(_))));
        assert_eq!(JournalError::Closed.trouble(), None);
        let unmade = JournalError::Io(full().into());
        assert!(matches!(unmade.trouble(), Some(Trouble::DiskFull(_))));
    }

    #[test]
    fn destaging_waits_until_the_reserve_is_there_again() {
        Sim::new(1).run(async {
            let storage = Storage::new();
            storage.may_destage().await;
            storage.hear(Trouble::DiskFull("on another shard".to_owned()));
            let soon = std::time::Duration::from_secs(5);
            let waiting = crate::rt::timeout(soon, storage.may_destage()).await;
            assert!(waiting.is_none());
            storage.on_reserve();
            storage.may_destage().await;
            assert!(!storage.is_news.get(), "what was heard is not told again");
        });
    }
}

//! Whether this shard can write: healthy, disk full, or failed.
//!
//! Runs on: its shard.      Owner: `Shard`.
//! Promises: after a failed journal write or flush nothing is acknowledged until a restart; a full
//! disk refuses Produce only, and ends by itself when space returns.
//! Never goes back from failed.

use std::cell::RefCell;

use crate::journal::error::JournalError;
use crate::log::error as log;
use crate::partition::error::Error;
use crate::rt::sync::Notify;

/// The state and who waits for trouble.
pub(crate) struct Storage {
    health: RefCell<Health>,
    changed: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Healthy,
    DiskFull,
    Failed(String),
}

impl Storage {
    pub(crate) fn new() -> Self {
        Self {
            health: RefCell::new(Health::Healthy),
            changed: Notify::new(),
        }
    }

    /// Refuses when nothing can be appended now.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &*self.health.borrow() {
            Health::Healthy => Ok(()),
            Health::DiskFull => Err(Error::DiskFull),
            Health::Failed(reason) => Err(Error::Storage(reason.clone())),
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

    /// The journal has ended: by failure, unless it was closed.
    pub(crate) fn fail_if_broken(&self, error: &JournalError) {
        if !matches!(error, JournalError::Closed) {
            self.fail(error.to_string());
        }
    }

    /// A write or flush of a segment failed. `true` when only space is missing.
    pub(crate) fn on_log_error(&self, error: &log::Error) -> bool {
        if error.is_disk_full() {
            if *self.health.borrow() == Health::Healthy {
                tracing::error!(%error, "disk full: produce is refused until there is space again");
                self.set(Health::DiskFull);
            }
            return true;
        }
        self.fail(error.to_string());
        false
    }

    /// Destaging works again.
    pub(crate) fn on_space(&self) {
        if *self.health.borrow() == Health::DiskFull {
            tracing::info!("there is space on the disk again: produce goes on");
            self.set(Health::Healthy);
        }
    }

    fn fail(&self, reason: String) {
        if !matches!(*self.health.borrow(), Health::Failed(_)) {
            tracing::error!(reason, "the data directory failed: restart the broker");
            self.set(Health::Failed(reason));
        }
    }

    fn set(&self, health: Health) {
        *self.health.borrow_mut() = health;
        self.changed.notify_all();
    }

    pub(crate) fn is_full(&self) -> bool {
        *self.health.borrow() == Health::DiskFull
    }

    /// Why the broker is not healthy, for `/healthz`.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.check().err().map(|error| error.to_string())
    }
}

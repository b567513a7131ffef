//! What can be set about a journal, and what of it is refused.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a configuration that `check` accepts gives a ring that data and control entries of
//! every accepted size can pass.

use std::time::Duration;

use crate::journal::block::{BLOCK_HEADER_BYTES, FILE_HEADER_BYTES};
use crate::journal::entry::ENTRY_HEADER_BYTES;
use crate::journal::error::JournalError;
use crate::model::limits::ALIGNMENT_BYTES;

const MIB: u64 = 1024 * 1024;
/// Files that a ring has at least, so that one can be freed while another one fills.
const FILES_MIN: u64 = 2;
/// A ring is cut into about this many files.
const FILES_WANTED: u64 = 16;
/// Largest file, unless one message needs more.
const FILE_BYTES_MAX: u64 = 64 * MIB;
/// The first file is small: it is pre-written before a first start serves.
const FIRST_FILE_BYTES_MAX: u64 = 16 * MIB;

/// Settings of one shard's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// All files together, about.
    pub ring_bytes: u64,
    /// Every file but the first.
    pub file_bytes: u64,
    /// The first file: what a first start pre-writes before it serves.
    pub first_file_bytes: u64,
    /// A block takes entries up to this size; a larger entry gets a block of its own.
    pub commit_bytes: usize,
    /// Blocks that may be written at the same time.
    pub writes_in_flight: usize,
    /// A second write starts beside a running one only with this much to write.
    pub parallel_bytes_min: usize,
    /// How long the first entry of a block may wait for company while the device is idle.
    pub commit_delay: Duration,
    /// Bytes that may be promised or queued and not yet in a block.
    pub queue_bytes_max: usize,
    /// After this much silence one empty block says that all before it are durable.
    pub idle_block_after: Duration,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            ring_bytes: 1024 * MIB,
            file_bytes: FILE_BYTES_MAX,
            first_file_bytes: FIRST_FILE_BYTES_MAX,
            commit_bytes: 1024 * 1024,
            writes_in_flight: 4,
            parallel_bytes_min: 128 * 1024,
            commit_delay: Duration::ZERO,
            queue_bytes_max: 16 * 1024 * 1024,
            idle_block_after: Duration::from_millis(50),
        }
    }
}

impl JournalConfig {
    /// The defaults, cut to a ring of about `ring_bytes` that takes messages of
    /// `message_bytes_max`.
    pub fn for_ring(ring_bytes: u64, message_bytes_max: usize) -> Self {
        let page = to_u64(ALIGNMENT_BYTES);
        let one_message = to_u64(message_bytes_max) + 4 * page;
        let least = MIB.min(ring_bytes / FILES_MIN); // of a ring that is small for a test
        let wanted = (ring_bytes / FILES_WANTED).clamp(least, FILE_BYTES_MAX);
        let file_bytes = wanted.max(one_message).next_multiple_of(page);
        Self {
            ring_bytes,
            file_bytes,
            first_file_bytes: file_bytes.min(FIRST_FILE_BYTES_MAX),
            ..Self::default()
        }
    }

    /// Sizes of the ring's files, in order.
    pub fn file_sizes(&self) -> Vec<u64> {
        let others = self.ring_bytes.saturating_sub(self.first_file_bytes) / self.file_bytes.max(1);
        let others = usize::try_from(others.max(FILES_MIN - 1)).unwrap_or(usize::MAX);
        let mut sizes = vec![self.first_file_bytes];
        sizes.resize(others.saturating_add(1), self.file_bytes);
        sizes
    }

    /// The longest payload of one entry.
    pub fn payload_bytes_max(&self) -> usize {
        let headers = FILE_HEADER_BYTES + BLOCK_HEADER_BYTES + ENTRY_HEADER_BYTES;
        usize::try_from(self.file_bytes)
            .unwrap_or(usize::MAX)
            .saturating_sub(headers)
    }

    /// Refuses what cannot work, by the name of the setting.
    pub fn check(&self) -> Result<(), JournalError> {
        let page = to_u64(ALIGNMENT_BYTES);
        let refuse = |name, value, why| Err(JournalError::Config { name, value, why });
        for (name, value) in [
            ("file_bytes", self.file_bytes),
            ("first_file_bytes", self.first_file_bytes),
        ] {
            if !value.is_multiple_of(page) || value < 8 * page || value > u64::from(u32::MAX) {
                return refuse(name, value, "a multiple of 4096 from 32 KiB to 4 GiB");
            }
        }
        if self.ring_bytes < self.first_file_bytes + self.file_bytes {
            return refuse(
                "ring_bytes",
                self.ring_bytes,
                "at least one file and the first file",
            );
        }
        let commit = to_u64(self.commit_bytes);
        if commit < page || commit > self.file_bytes {
            return refuse("commit_bytes", commit, "from 4096 to the size of a file");
        }
        if self.writes_in_flight == 0 || self.writes_in_flight > 64 {
            return refuse(
                "writes_in_flight",
                to_u64(self.writes_in_flight),
                "from 1 to 64",
            );
        }
        if self.queue_bytes_max == 0 {
            return refuse("queue_bytes_max", 0, "at least 1");
        }
        Ok(())
    }
}

fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_make_about_the_size_that_was_asked_for() {
        for ring_mib in [64, 128, 1024, 4096] {
            let config = JournalConfig::for_ring(ring_mib * MIB, 1_048_588);
            config.check().expect("accepted");
            let total: u64 = config.file_sizes().iter().sum();
            assert!(
                total <= ring_mib * MIB && total > ring_mib * MIB * 3 / 4,
                "{ring_mib} MiB"
            );
            assert!(config.payload_bytes_max() > 1_048_588);
            JournalConfig::for_ring(ring_mib * MIB, 1000)
                .check()
                .expect("accepted");
        }
        JournalConfig::for_ring(2 * MIB, 1000)
            .check()
            .expect("accepted");
        JournalConfig::default().check().expect("accepted");
    }

    #[test]
    fn ring_for_large_messages_has_files_that_hold_one() {
        let config = JournalConfig::for_ring(1024 * MIB, 100 * 1024 * 1024);
        config.check().expect("accepted");
        assert!(config.payload_bytes_max() > 100 * 1024 * 1024);
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let refused = |config: JournalConfig| config.check().expect_err("refused").to_string();
        let config = JournalConfig {
            file_bytes: 100_000,
            ..JournalConfig::default()
        };
        assert!(refused(config).contains("file_bytes"));
        let config = JournalConfig {
            ring_bytes: MIB,
            ..JournalConfig::default()
        };
        assert!(refused(config).contains("ring_bytes"));
        let config = JournalConfig {
            writes_in_flight: 0,
            ..JournalConfig::default()
        };
        assert!(refused(config).contains("writes_in_flight"));
        let config = JournalConfig {
            commit_bytes: 65 << 20,
            ..JournalConfig::default()
        };
        assert!(refused(config).contains("commit_bytes"));
    }
}

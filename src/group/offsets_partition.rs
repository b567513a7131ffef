//! One partition of `__consumer_offsets` as its coordinator sees it: its groups, the writes that
//! wait for the log, and how large the log has grown.
//!
//! Pure: no async, no clock, no IO.
//! One append is under way at a time; what comes meanwhile goes together in the next. So the
//! durable halves of the groups always equal the log up to its end, and a rewrite can copy from
//! them.
//!
//! **Bounding the log.** When the log is several times its live state, the live state is appended
//! anew in small batches, between which other writes go on, and then the log start moves to where
//! that began:
//! 1. `start` = the log end. 2. Walk over all live records, appending them. 3. Log start = `start`.
//!
//! A key below `start` is either copied by the walk, or written later than `start`, or dead. A
//! crash or failure before 3 leaves copies that replay to the same state.
//! Invariants: [one-append] one append is under way at most. [copy-is-current] a record is copied
//! from the durable half while no append is under way.

use std::collections::VecDeque;

use super::groups::{Cursor, Groups};
use super::record::{EncodedRecord, GroupRecord};
use super::settings::{APPEND_BYTES_TARGET, GroupSettings};
use super::turn::StoreTicket;
use crate::breaks::{self, Break};
use crate::model::limits::BATCH_HEADER_BYTES;
use crate::model::offset::Offset;

/// Who is told about a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nobody.
    Nobody,
    /// Whoever the driver knows by this number.
    Asker(u64),
    /// The group's state machine.
    Group(StoreTicket),
}

/// Records of one group that are appended together.
#[derive(Debug)]
pub struct PendingWrite {
    /// The group.
    pub group: String,
    /// Each with its encoded form.
    pub records: Vec<(GroupRecord, EncodedRecord)>,
    /// Who is told.
    pub then: Then,
}

impl PendingWrite {
    fn size_bytes(&self) -> usize {
        self.records
            .iter()
            .map(|(_, encoded)| encoded.size_bytes())
            .sum()
    }
}

/// What to do next with the log.
#[derive(Debug)]
pub enum Step {
    /// Append these records as one batch.
    Append(Vec<EncodedRecord>),
    /// Move the log start.
    AdvanceLogStart(Offset),
    /// Nothing to do.
    Rest,
}

/// How far a partition can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its log is being read.
    Loading,
    /// In use.
    Ready,
    /// Its log could not be read.
    Failed,
}

/// A rewrite under way.
#[derive(Debug)]
struct Rewrite {
    start: Offset,
    /// Behind the last copied record; `None`: none is copied.
    cursor: Option<Cursor>,
    is_walked: bool,
    /// Bytes of the log behind `start`.
    bytes: u64,
}

/// The append that is under way.
#[derive(Debug)]
enum UnderWay {
    Writes {
        writes: Vec<PendingWrite>,
        bytes: u64,
    },
    Copies {
        cursor: Option<Cursor>,
        bytes: u64,
    },
    LogStart,
}

/// One offsets partition.
#[derive(Debug)]
pub struct OffsetsPartition {
    /// How far it can be used.
    pub status: Status,
    /// Its groups.
    pub groups: Groups,
    /// Whether somebody carries out its steps.
    pub has_writer: bool,
    /// Tells it from the same partition after it has left and come back.
    pub incarnation: u64,
    queue: VecDeque<PendingWrite>,
    queued_bytes: usize,
    under_way: Option<UnderWay>,
    rewrite: Option<Rewrite>,
    log_end: Offset,
    log_bytes: u64,
    /// After a failed rewrite: no other one before the log has this size.
    no_rewrite_below: u64,
    /// Copies and writes take turns.
    copies_next: bool,
}

impl OffsetsPartition {
    /// A partition that has yet to be read.
    pub fn loading(incarnation: u64) -> Self {
        Self {
            status: Status::Loading,
            groups: Groups::default(),
            has_writer: false,
            incarnation,
            queue: VecDeque::new(),
            queued_bytes: 0,
            under_way: None,
            rewrite: None,
            log_end: Offset::ZERO,
            log_bytes: 0,
            no_rewrite_below: 0,
            copies_next: false,
        }
    }

    /// A part of the log was read.
    pub fn on_read(&mut self, bytes: usize, log_end: Offset) {
        self.log_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        self.log_end = log_end;
    }

    /// Bytes of the log, from its start.
    pub const fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Bytes of records that wait, or are being appended.
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether there is a next step with the log.
    pub fn has_work(&self, settings: &GroupSettings) -> bool {
        !self.queue.is_empty() || self.rewrite.is_some() || self.is_rewrite_due(settings)
    }

    /// Queues a write behind all others.
    pub fn push(&mut self, write: PendingWrite) {
        self.queued_bytes += write.size_bytes();
        self.groups.entry(&write.group).queued += 1;
        self.queue.push_back(write);
    }

    /// Writes whose outcome is unknown: under way first, then queued.
    pub fn pending_writes(&self) -> impl Iterator<Item = &PendingWrite> {
        let under_way = match &self.under_way {
            Some(UnderWay::Writes { writes, .. }) => writes.as_slice(),
            _ => &[],
        };
        under_way.iter().chain(&self.queue)
    }

    /// Takes the next step with the log; its outcome goes to `on_appended` or `on_log_start`.
    pub fn next_step(&mut self, settings: &GroupSettings) -> Step {
        assert!(
            self.under_way.is_none(),
            "[one-append] the last step is still under way"
        );
        if self.rewrite.is_none() && self.is_rewrite_due(settings) {
            let start = self.log_end;
            self.rewrite = Some(Rewrite {
                start,
                cursor: None,
                is_walked: false,
                bytes: 0,
            });
        }
        if self.copies_next || self.queue.is_empty() {
            self.copies_next = false;
            if let Some(step) = self.next_copies(settings) {
                return step;
            }
        }
        if self.queue.is_empty() {
            return Step::Rest;
        }
        self.copies_next = true;
        self.next_writes()
    }

    fn is_rewrite_due(&self, settings: &GroupSettings) -> bool {
        let due_at = settings
            .rewrite_log_bytes_min
            .max(
                self.groups
                    .live_bytes()
                    .saturating_mul(settings.rewrite_live_multiple),
            )
            .max(self.no_rewrite_below);
        self.log_bytes >= due_at
    }

    fn next_writes(&mut self) -> Step {
        let mut writes = Vec::new();
        let mut size = 0;
        while let Some(next) = self.queue.front() {
            let with_next = size + next.size_bytes();
            if !writes.is_empty() && with_next > APPEND_BYTES_TARGET {
                break;
            }
            size = with_next;
            writes.extend(self.queue.pop_front());
        }
        let records = writes
            .iter()
            .flat_map(|write| write.records.iter().map(|(_, encoded)| encoded.clone()))
            .collect();
        self.under_way = Some(UnderWay::Writes {
            writes,
            bytes: batch_bytes(size),
        });
        Step::Append(records)
    }

    fn next_copies(&mut self, settings: &GroupSettings) -> Option<Step> {
        let rewrite = self.rewrite.as_mut()?;
        if !rewrite.is_walked && !breaks::is_on(Break::OffsetsCutBeforeCopied) {
            let target = settings.rewrite_batch_bytes;
            let (records, cursor) = self.groups.records_after(rewrite.cursor.as_ref(), target);
            let encoded: Result<Vec<_>, _> = records.iter().map(GroupRecord::encode).collect();
            let Ok(records) = encoded else {
                // What is live has been written before, so it fits; if not, the log stays long.
                self.give_up_rewrite(settings);
                return None;
            };
            if !records.is_empty() {
                let size = records.iter().map(EncodedRecord::size_bytes).sum();
                self.under_way = Some(UnderWay::Copies {
                    cursor,
                    bytes: batch_bytes(size),
                });
                return Some(Step::Append(records));
            }
            rewrite.is_walked = true;
        }
        let start = rewrite.start;
        self.under_way = Some(UnderWay::LogStart);
        Some(Step::AdvanceLogStart(start))
    }

    /// The append is durable (`log_end`: the new end of the log), or has failed. Returns the writes
    /// it consisted of; on success they are applied.
    pub fn on_appended(
        &mut self,
        log_end: Option<Offset>,
        settings: &GroupSettings,
    ) -> Vec<(String, Then)> {
        let under_way = self
            .under_way
            .take()
            .expect("[one-append] an append was under way");
        let (mut writes, cursor, bytes) = match under_way {
            UnderWay::Writes { writes, bytes } => (writes, None, bytes),
            UnderWay::Copies { cursor, bytes } => (Vec::new(), cursor, bytes),
            UnderWay::LogStart => unreachable!("[one-append] a log start is no append"),
        };
        let is_copy = cursor.is_some();
        if let Some(log_end) = log_end {
            self.log_end = log_end;
            self.log_bytes += bytes;
            if let Some(rewrite) = &mut self.rewrite {
                rewrite.bytes += bytes;
                if is_copy {
                    rewrite.cursor = cursor;
                }
            }
        } else if is_copy {
            self.give_up_rewrite(settings);
        }
        writes
            .drain(..)
            .map(|write| self.settle(write, log_end.is_some()))
            .collect()
    }

    fn settle(&mut self, write: PendingWrite, is_durable: bool) -> (String, Then) {
        self.queued_bytes -= write.size_bytes();
        let PendingWrite {
            group,
            records,
            then,
        } = write;
        if is_durable {
            for (record, _) in records {
                self.groups.apply(record);
            }
        }
        self.groups.entry(&group).queued -= 1;
        (group, then)
    }

    /// The log start has moved, or could not be moved.
    pub fn on_log_start(&mut self, has_moved: bool, settings: &GroupSettings) {
        self.under_way = None;
        if !has_moved {
            return self.give_up_rewrite(settings);
        }
        if let Some(rewrite) = self.rewrite.take() {
            self.log_bytes = rewrite.bytes;
            // what it left may be due by itself: the next one waits for something to gain
            self.no_rewrite_below = self.log_bytes + settings.rewrite_log_bytes_min / 4 + 1;
        }
    }

    fn give_up_rewrite(&mut self, settings: &GroupSettings) {
        self.rewrite = None;
        self.no_rewrite_below = self.log_bytes + settings.rewrite_log_bytes_min / 4 + 1;
    }

    /// Gives the partition up: all writes whose outcome nobody will learn.
    pub fn into_pending_writes(self) -> impl Iterator<Item = (String, Then)> {
        let under_way = match self.under_way {
            Some(UnderWay::Writes { writes, .. }) => writes,
            _ => Vec::new(),
        };
        under_way
            .into_iter()
            .chain(self.queue)
            .map(|write| (write.group, write.then))
    }
}

fn batch_bytes(record_bytes: usize) -> u64 {
    u64::try_from(record_bytes + BATCH_HEADER_BYTES).unwrap_or(u64::MAX)
}

//! The front of a log: retention, `DeleteRecords`, and the unlinking of what lies below.
//!
//! Runs on: the home shard; renaming and unlinking happen off it.        Owner: `Log`.
//! Promises: the new log start is durable in the journal before a file is touched; a segment has
//! another name, durably, before its space is given back (`reclaim`).
//!
//! In this order: `retention_start` (or a client) names an offset, `log_start_entry` goes to the
//! journal, once it is durable `advance_log_start`, then `delete_retired`. A crash after the entry
//! leaves files below the log start: a start finds them, and the first look of retention after it
//! removes them.

use super::error::Error;
use super::file_names::{DELETED_SUFFIX, FileKind};
use super::log::Log;
use super::reclaim::{Waste, WasteKind};
use super::retention::{self, SegmentFacts};
use super::segments::SealedSegment;
use crate::journal::entry::{Entry, EntryKind, Payload};
use crate::model::ids::LeaderEpoch;
use crate::model::offset::Offset;
use crate::rt::{self, fs};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;

impl Log {
    /// Where `retention.ms` and `retention.bytes` want the log to start; none when nothing is to
    /// go. Rolls the active segment when all of it is to go.
    ///
    /// Cancel: safe.
    pub async fn retention_start(&self, now_ms: i64) -> Result<Option<Offset>, Error> {
        let settings = self.settings();
        loop {
            let high_watermark = self.offsets().high_watermark;
            let expired =
                retention::choose(&self.segment_facts(), &settings, high_watermark, now_ms);
            let start = expired.map_or(Offset::ZERO, |expired| expired.log_start);
            // age is looked up segment by segment, and only as far as the choice depends on it
            let unknown = {
                let state = self.state.borrow();
                let mut kept = state
                    .sealed
                    .iter()
                    .filter(|segment| segment.next_offset > start);
                kept.next()
                    .filter(|segment| segment.max_timestamp.is_none())
                    .copied()
            };
            if let Some(segment) =
                unknown.filter(|_| settings.deletes && settings.retention_ms.is_some())
            {
                self.max_timestamp_of(&segment).await?;
            } else {
                if expired.is_some_and(|expired| expired.rolls_active) {
                    self.roll(now_ms);
                }
                return Ok(expired.map(|expired| expired.log_start));
            }
        }
    }

    fn segment_facts(&self) -> Vec<SegmentFacts> {
        let state = self.state.borrow();
        let sealed = state.sealed.iter().map(|segment| SegmentFacts {
            next_offset: segment.next_offset,
            size_bytes: segment.size_bytes,
            // unknown counts as young until it was looked up
            max_timestamp: segment.max_timestamp.map_or(i64::MAX, |max| max.timestamp),
            is_active: false,
        });
        let ends = state.open.iter().skip(1).map(|segment| segment.base);
        let ends = ends.chain([state.offsets.log_end]);
        let open = state
            .open
            .iter()
            .zip(ends)
            .map(|(segment, next_offset)| SegmentFacts {
                next_offset,
                size_bytes: segment.end_position,
                max_timestamp: segment.max_timestamp.timestamp,
                is_active: next_offset == state.offsets.log_end,
            });
        sealed.chain(open).collect()
    }

    /// What the journal has to make durable before the log may start at `log_start`; none when it
    /// starts there or later already.
    pub fn log_start_entry(&self, log_start: Offset) -> Result<Option<Entry>, Error> {
        let state = self.state.borrow();
        let offsets = state.offsets;
        if log_start > offsets.high_watermark || !log_start.is_valid() {
            return Err(Error::OffsetOutOfRange {
                requested: log_start,
                log_start: offsets.log_start,
                log_end: offsets.high_watermark,
            });
        }
        Ok((log_start > offsets.log_start).then(|| Entry {
            kind: EntryKind::LogStart,
            topic_partition: self.topic_partition(),
            segment_base: state.active().base,
            file_position: state.active().end_position,
            base_offset: log_start,
            next_offset: offsets.log_end,
            leader_epoch: state.epochs.latest().unwrap_or(LeaderEpoch::UNKNOWN),
            payload: Payload::empty(),
        }))
    }

    /// The entry is durable: nothing below `log_start` is read any more. `delete_retired` follows.
    pub fn advance_log_start(&self, log_start: Offset) {
        let mut state = self.state.borrow_mut();
        if log_start <= state.offsets.log_start {
            return;
        }
        state.offsets.log_start = log_start;
        state.offsets.last_stable = state.offsets.last_stable.max(log_start);
        state.refresh_destaged_end();
        state.offsets.assert_ordered();
        state.epochs.truncate_start(log_start);
        state.destaged.epochs.truncate_start(log_start);
        let retired = state.sealed.retire_below(log_start);
        state.retired.extend(retired);
        state.is_changed = true;
    }

    /// Whether files wait to be unlinked.
    pub fn has_retired(&self) -> bool {
        !self.state.borrow().retired.is_empty()
    }

    /// Gives the segments below the log start names that say so, and hands them over to be given
    /// back to the file system. Readers that have them open go on. Returns their bytes. After a
    /// truncation they stay until a checkpoint has it: replay would repeat it, in its segment. So
    /// does the segment inside a batch of which the last checkpoint stands, and all behind it.
    ///
    /// Cancel: safe; what is left is removed by the next call.
    pub async fn delete_retired(&self) -> Result<u64, Error> {
        let files = self.io.acquire(1).await;
        self.check_failed()?; // set aside: the directory may be another topic's by now
        if self.state.borrow().is_truncation_unkept() {
            return Ok(0);
        }
        let mut deleted = Vec::new();
        let result = self.set_retired_aside(&mut deleted).await;
        drop(files);
        let step_bytes = self.context.reclaim().step_bytes();
        if deleted.iter().any(|waste| waste.size_bytes >= step_bytes) {
            // a segment that was cut must not come back under its old name
            fs::sync_dir(&self.dir).await?;
        }
        let deleted_bytes = deleted.iter().map(|waste| waste.size_bytes).sum();
        for waste in deleted {
            self.context.reclaim().put(waste);
        }
        result.map(|()| deleted_bytes)
    }

    async fn set_retired_aside(&self, deleted: &mut Vec<Waste>) -> Result<(), Error> {
        loop {
            let retired = self.state.borrow().retired.first().copied();
            let Some(segment) = retired else {
                return Ok(());
            };
            if self.state.borrow().is_stood_in(segment.base_offset) {
                return Ok(());
            }
            deleted.extend(self.delete_segment(&segment).await?);
            self.state.borrow_mut().retired.remove(0);
            metrics::local().increment(Counter::SegmentsDeleted);
        }
    }

    /// Removes all of a segment but its batches; what is left to be given back.
    async fn delete_segment(&self, segment: &SealedSegment) -> Result<Option<Waste>, Error> {
        let base = segment.base_offset;
        let users = self.pins.release(base);
        self.context.close(self.key(base)).await?;
        self.context.forget_indexes(self.key(base));
        for kind in FileKind::ALL
            .into_iter()
            .filter(|kind| *kind != FileKind::Log)
        {
            let path = self.path(base, kind);
            if fs::exists(&path).await? {
                fs::remove_file(&path).await?;
            }
        }
        let path = self.path(base, FileKind::Log);
        if !fs::exists(&path).await? {
            return Ok(None);
        }
        let mut deleted = path.clone().into_os_string();
        // a topic of the same name may come to delete a segment of this base while this one waits
        deleted.push(format!(".{:016x}{DELETED_SUFFIX}", rt::random_u64()));
        fs::rename(&path, &deleted).await?;
        Ok(Some(Waste {
            path: deleted.into(),
            kind: WasteKind::Segment,
            size_bytes: segment.size_bytes,
            users,
        }))
    }
}

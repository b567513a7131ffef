//! What one partition holds.
//!
//! Pure: no async, no clock, no IO.
//! Invariants: [acknowledged-stays] what was acknowledged or read at an offset is there until it is
//! deleted; [not-invented] what is read was sent; [once] a record of an idempotent
//! producer has one offset; [in-order] a producer's records follow each other as they were sent;
//! [dense] offsets have no gaps; [watermark-forward] [log-start-forward] neither goes back;
//! [deleted-stays-deleted] the log start is not below what was deleted; [expired-only] what goes by
//! itself is old, or beyond the size that is kept; [damage-told] what the disk has damaged is
//! refused, or reaches the consumer with a checksum that says so, and nothing else does.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::world::clients_rng;

/// Bytes of a record beside its name.
const FILLING_BYTES_MAX: usize = 4 << 10;

/// A record: who sent it, and the how manyth of that producer on this partition it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordId {
    pub(crate) producer: u32,
    pub(crate) number: u32,
}

impl RecordId {
    /// What the record holds: its name, and bytes that follow from it.
    pub(crate) fn value(self) -> Vec<u8> {
        let mut value = format!("{}:{}:", self.producer, self.number).into_bytes();
        value.extend_from_slice(self.filling());
        value
    }

    /// A part of a long row of bytes: its place and its length follow from the record's name.
    fn filling(self) -> &'static [u8] {
        static ROW: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let mut rng = clients_rng(0);
            let mut row = Vec::new();
            row.resize_with(FILLING_BYTES_MAX * 2, || rng.next().to_le_bytes()[0]);
            row
        });
        let name = u64::from(self.producer) << 32 | u64::from(self.number);
        let mut rng = clients_rng(name);
        let (from, length) = (rng.index(FILLING_BYTES_MAX), rng.index(FILLING_BYTES_MAX));
        ROW.get(from..from + length).expect("within the row")
    }

    /// The record that a value names; `None` when its bytes are not those that were sent.
    fn of(value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(3, |byte| *byte == b':');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
        let id = Self {
            producer: number()?,
            number: number()?,
        };
        (parts.next()? == id.filling()).then_some(id)
    }
}

/// When records of a partition go by themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    /// So many bytes stay, unless they are old.
    pub(crate) kept_bytes: i64,
    /// Records older than this may go.
    pub(crate) age_ms: i64,
}

/// More than a record takes in a segment.
const RECORD_BYTES_MAX: i64 = 5 << 10;

/// What is known before a request is sent, for its answer to be held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    end: i64,
    log_start: i64,
}

/// Everything that is known of one partition.
#[derive(Debug, Default)]
pub(crate) struct PartitionRecords {
    name: String,
    /// Numbers below were sent, by producer.
    sent: BTreeMap<u32, u32>,
    at: BTreeMap<i64, RecordId>,
    /// Offsets of idempotent producers' records.
    place: BTreeMap<RecordId, i64>,
    end: i64,
    log_start: i64,
    /// Log starts above this were never asked for.
    log_start_max: i64,
    acknowledged: u64,
    expiry: Option<Expiry>,
    /// When the latest was sent of those below an offset, by that offset, as clients' clocks said.
    sent_ms: BTreeMap<i64, i64>,
    /// How often its log start has moved by itself.
    expired: u64,
    /// The latest time that any clock has shown.
    now_ms: i64,
    /// Offsets of batches that the disk has damaged: first, and behind the last.
    damaged: BTreeMap<i64, i64>,
}

impl PartitionRecords {
    pub(crate) fn new(name: String, expiry: Option<Expiry>) -> Self {
        Self {
            name,
            expiry,
            ..Self::default()
        }
    }

    pub(crate) fn known(&self) -> Known {
        Known {
            end: self.end,
            log_start: self.log_start,
        }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// `count` records of `first` on are on their way.
    pub(crate) fn on_send(&mut self, first: RecordId, count: u32) {
        let sent = self.sent.entry(first.producer).or_default();
        *sent = (*sent).max(first.number + count);
    }

    /// They were acknowledged at `base`.
    pub(crate) fn on_acknowledged(
        &mut self,
        first: RecordId,
        count: u32,
        (base, sent_ms): (i64, i64),
        is_idempotent: bool,
    ) {
        for n in 0..count {
            let id = RecordId {
                number: first.number + n,
                ..first
            };
            self.note(base + i64::from(n), id, is_idempotent, "acknowledged");
        }
        self.end = self.end.max(base + i64::from(count));
        self.sent_ms.insert(base, sent_ms);
        self.acknowledged += u64::from(count);
    }

    /// A record was read.
    pub(crate) fn on_read(
        &mut self,
        offset: i64,
        (value, sent_ms): (&[u8], i64),
        is_idempotent: fn(u32) -> bool,
    ) {
        self.sent_ms.insert(offset, sent_ms);
        let id = RecordId::of(value).unwrap_or_else(|| {
            panic!(
                "[not-invented] {} at {offset}: {:?} was never sent",
                self.name,
                String::from_utf8_lossy(&value[..value.len().min(40)])
            )
        });
        let sent = self.sent.get(&id.producer).copied().unwrap_or(0);
        assert!(
            id.number < sent,
            "[not-invented] {} at {offset}: {id:?}, and only {sent} were sent",
            self.name
        );
        self.note(offset, id, is_idempotent(id.producer), "read");
    }

    fn note(&mut self, offset: i64, id: RecordId, is_idempotent: bool, how: &str) {
        let name = &self.name;
        if let Some(known) = self.at.get(&offset) {
            assert_eq!(
                *known, id,
                "[acknowledged-stays] {name} at {offset}: {how} now, after another"
            );
            return;
        }
        self.at.insert(offset, id);
        if !is_idempotent {
            return;
        }
        if let Some(other) = self.place.insert(id, offset) {
            panic!("[once] {name}: {id:?} is {how} at {offset}, and is at {other} too");
        }
        let before = self.place.range(..id).next_back();
        let after = self
            .place
            .range((std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded))
            .next();
        for (other, at) in before.into_iter().chain(after) {
            let is_in_order = other.producer != id.producer || (other < &id) == (*at < offset);
            assert!(
                is_in_order,
                "[in-order] {name}: {id:?} is {how} at {offset}, {other:?} is at {at}"
            );
        }
    }

    /// An answer told of the partition's bounds; `known` is from before its request was sent.
    pub(crate) fn on_bounds(&mut self, known: Known, high_watermark: i64, log_start: Option<i64>) {
        let name = &self.name;
        assert!(
            high_watermark >= known.end,
            "[watermark-forward] {name}: {high_watermark}, and {} was acknowledged or seen",
            known.end
        );
        self.end = self.end.max(high_watermark);
        let Some(log_start) = log_start else { return };
        self.allow_expiry(log_start, high_watermark);
        let name = &self.name;
        assert!(
            log_start >= known.log_start,
            "[log-start-forward] {name}: {log_start}, and it was {}",
            known.log_start
        );
        assert!(
            log_start <= self.log_start_max,
            "[acknowledged-stays] {name}: the log starts at {log_start}, and nobody asked for more \
             than {}",
            self.log_start_max
        );
        self.log_start = self.log_start.max(log_start);
    }

    /// How often its log start has moved by itself.
    pub(crate) fn expired(&self) -> u64 {
        self.expired
    }

    /// The clock shows this.
    pub(crate) fn on_time(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Takes a log start for good that nobody asked for, if what is before it may have expired.
    fn allow_expiry(&mut self, log_start: i64, high_watermark: i64) {
        let Some(expiry) = self.expiry else { return };
        if log_start <= self.log_start_max {
            return;
        }
        let has_room = (high_watermark - log_start) * RECORD_BYTES_MAX >= expiry.kept_bytes;
        let latest = self.sent_ms.range(..log_start).map(|(_, sent)| *sent).max();
        let is_old = latest.is_none_or(|sent| self.now_ms - sent > expiry.age_ms);
        if has_room || is_old {
            self.log_start_max = log_start;
            self.expired += 1;
        }
    }

    /// The disk has damaged the batch of these offsets.
    pub(crate) fn on_damage(&mut self, first: i64, next: i64) {
        self.damaged.insert(first, next);
    }

    /// Where the damaged batch ends that holds `offset`.
    pub(crate) fn damaged_until(&self, offset: i64) -> Option<i64> {
        let (_, next) = self.damaged.range(..=offset).next_back()?;
        Some(*next).filter(|next| offset < *next)
    }

    /// Records before `offset` are asked to be deleted.
    pub(crate) fn on_delete(&mut self, offset: i64) {
        self.log_start_max = self.log_start_max.max(offset);
    }

    /// They are, it was said.
    pub(crate) fn on_deleted(&mut self, low_watermark: i64) {
        assert!(
            low_watermark <= self.log_start_max,
            "[acknowledged-stays] {}: {low_watermark} is deleted, {} was asked for",
            self.name,
            self.log_start_max
        );
        self.log_start = self.log_start.max(low_watermark);
    }

    /// All of the partition was read, and it ended at `end`: nothing that is known may be missing.
    pub(crate) fn on_read_whole(&self, start: i64, end: i64) {
        let name = &self.name;
        assert!(
            end >= self.end,
            "[acknowledged-stays] {name} ends at {end}, and {} was known",
            self.end
        );
        let damaged = self.damaged.iter().flat_map(|(first, next)| *first..*next);
        let unseen =
            damaged.filter(|offset| (start..end).contains(offset) && !self.at.contains_key(offset));
        let known = self.at.range(start..end).count() + unseen.count();
        let expected = usize::try_from(end - start).expect("start to end");
        assert_eq!(
            known, expected,
            "[dense] {name}: of {start} to {end}, so many were read"
        );
    }
}

/// Offsets that a fetch returned, in order: no gaps, and the first batch holds what was asked for.
pub(crate) fn check_dense(name: &str, asked: i64, batches: &[(i64, i64)]) {
    let mut next = None;
    for (base, last) in batches {
        match next {
            None => assert!(
                *base <= asked && asked <= *last,
                "[dense] {name}: {asked} was asked for, {base} to {last} came"
            ),
            Some(next) => assert_eq!(*base, next, "[dense] {name}: a batch follows another"),
        }
        next = Some(last + 1);
    }
}

//! Verifies the batches of one segment, and its indexes, as the bytes come by.
//!
//! Pure: no async, no clock, no IO.        Owner: the scrub, or `corelog check --data`.
//! Promises: every byte that Kafka's checksum covers is summed; those that it does not cover (base
//! offset, length, leader epoch) have to fit what is before and behind. What is damaged comes out
//! as stretches between two intact batches, so that everything else can still be served. Any bytes
//! give an answer; nothing is allocated but a bounded list.
//! Invariants: [stretches-ordered] stretches are in file order and do not overlap.
//!
//! Behind a batch that is damaged, the next one is looked for where its length says. Where that is
//! no batch that fits, at the next place that the offset index names.

use super::error::Damage;
use super::indexer::Indexer;
use super::leader_epochs::LeaderEpochs;
use super::offset_index::{OffsetEntry, OffsetIndex};
use super::time_index::TimeIndex;
use crate::model::ids::LeaderEpoch;
use crate::model::limits::{BATCH_HEADER_BYTES, BATCH_LOG_OVERHEAD_BYTES};
use crate::model::offset::{FilePosition, Offset};
use crate::model::record_batch::{BatchError, BatchHeader, CRC_START_BYTES};

/// Stretches of one segment that are told apart; the last one goes on to the segment's end.
const STRETCHES_MAX: usize = 64;

/// What has to hold for a segment.
#[derive(Clone, Debug)]
pub struct Expected {
    /// First offset, and its file name.
    pub base_offset: Offset,
    /// Exclusive end: base offset of the segment behind it; none for the last one.
    pub next_offset: Option<Offset>,
    /// Length of its file, as far as batches reach.
    pub size_bytes: u64,
    /// Whether every offset has to be there.
    pub is_dense: bool,
    /// Who wrote which offset, as far as that is known.
    pub epochs: LeaderEpochs,
    /// How far apart the entries of a new index are.
    pub index_interval_bytes: u64,
}

/// Batches that cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    /// First offset that is affected.
    pub from: Offset,
    /// The first one behind that is intact.
    pub next: Offset,
    /// Where the damage begins in the file.
    pub position: FilePosition,
    /// Where the next intact batch begins; the segment's end without one.
    pub end: FilePosition,
    /// What is wrong at `position`.
    pub damage: Damage,
}

impl DamagedStretch {
    /// Whether records are concerned, and not only bytes behind the last one.
    pub fn has_records(&self) -> bool {
        self.from < self.next
    }
}

/// An index that does not fit its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// One of both files is not there, or its bytes are not an index.
    #[error("an index is missing or no index")]
    Unreadable,
    /// An entry of the offset index names a place where no batch with its offset is.
    #[error("entry {entry} of the offset index does not fit the batches")]
    Offset {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// An entry of the time index names another timestamp than the batches up to its offset have.
    #[error("entry {entry} of the time index does not fit the batches")]
    Time {
        /// Number of the entry, from 0.
        entry: usize,
    },
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Intact batches.
    pub batches: u64,
    /// End of the last intact batch, exclusive.
    pub end_position: FilePosition,
    /// What is damaged, in file order.
    pub damaged: Vec<DamagedStretch>,
    /// What is wrong with the indexes; they are not compared behind damage.
    pub index_fault: Option<IndexFault>,
    /// What the indexes should be, of the intact batches.
    pub indexer: Indexer,
}

/// Where the walk is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Gathers the header of the batch at this position.
    Header(FilePosition),
    /// Sums a batch.
    Batch(Batch),
    /// Passes over bytes up to this position: nobody knows what they are.
    Lost(FilePosition),
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    header: BatchHeader,
    position: FilePosition,
    crc: u32,
    left: u64,
    /// What its header has that does not fit.
    misfit: Option<Damage>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Verifier {
    expected: Expected,
    offsets: Option<OffsetIndex>,
    times: Option<TimeIndex>,
    step: Step,
    head: [u8; BATCH_HEADER_BYTES],
    head_len: usize,
    /// Bytes seen.
    taken: FilePosition,
    /// Where the next batch has to begin, or may begin at the earliest.
    next: Offset,
    epoch: LeaderEpoch,
    /// Damage whose end is not found yet; its `next` and `end` mean nothing.
    open: Option<DamagedStretch>,
    /// The index entry that led to where the walk is now.
    led_by: Option<OffsetEntry>,
    /// Entries of the indexes that were passed.
    offsets_seen: usize,
    times_seen: usize,
    found: Verified,
}

impl Verifier {
    /// For a segment, and its indexes where they could be read.
    pub fn new(expected: Expected, indexes: Option<(OffsetIndex, TimeIndex)>) -> Self {
        let index_fault = indexes.is_none().then_some(IndexFault::Unreadable);
        let (offsets, times) = indexes.unzip();
        let indexer = Indexer::new(expected.base_offset, expected.index_interval_bytes);
        Self {
            next: expected.base_offset,
            expected,
            offsets,
            times,
            step: Step::Header(0),
            head: [0; BATCH_HEADER_BYTES],
            head_len: 0,
            taken: 0,
            epoch: LeaderEpoch::UNKNOWN,
            open: None,
            led_by: None,
            offsets_seen: 0,
            times_seen: 0,
            found: Verified {
                batches: 0,
                end_position: 0,
                damaged: Vec::new(),
                index_fault,
                indexer,
            },
        }
    }

    /// Takes the next bytes of the file.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = match &self.step {
                Step::Header(_) => to_u64(BATCH_HEADER_BYTES - self.head_len),
                Step::Batch(batch) => batch.left,
                Step::Lost(until) => until - self.taken,
            };
            let len = usize::try_from(wanted).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(len.min(bytes.len()));
            bytes = rest;
            self.taken += to_u64(part.len());
            let is_whole = part.len() == len;
            match &mut self.step {
                Step::Header(position) => {
                    let position = *position;
                    if let Some(room) = self.head.get_mut(self.head_len..) {
                        room.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
                    }
                    self.head_len += part.len();
                    if is_whole {
                        self.on_header(position);
                    }
                }
                Step::Batch(batch) => {
                    batch.crc = crc32c::crc32c_append(batch.crc, part);
                    batch.left -= to_u64(part.len());
                    let batch = *batch;
                    if is_whole {
                        self.on_batch(&batch);
                    }
                }
                Step::Lost(_) if is_whole => self.begin_header(),
                Step::Lost(_) => {}
            }
        }
    }

    /// The next `len` bytes of the file cannot be read.
    pub fn skip(&mut self, len: u64) {
        let position = match &self.step {
            Step::Header(position) => *position,
            Step::Batch(batch) => batch.position,
            Step::Lost(_) => self.taken,
        };
        self.taken += len;
        if matches!(self.step, Step::Lost(until) if until > self.taken) {
            return;
        }
        self.lose(position, Damage::Unreadable);
    }

    fn begin_header(&mut self) {
        self.head_len = 0;
        self.step = Step::Header(self.taken);
    }

    fn on_header(&mut self, position: FilePosition) {
        let led_by = self.led_by.take();
        let header = match BatchHeader::parse(&self.head) {
            Ok(header) => header,
            Err(error) => match self.end_by_length(position) {
                Some(end) if self.open.is_none() => {
                    self.open(position, error.into());
                    return self.pass_to(end);
                }
                _ => return self.lose(position, error.into()),
            },
        };
        let size = to_u64(header.total_size());
        let room = self.expected.size_bytes.saturating_sub(position);
        if size > room {
            let missing = size - room;
            return self.lose(position, Damage::Short { missing });
        }
        let misfit = self.misfit(&header, led_by);
        if let Some(damage) = misfit
            && self.open.is_some()
        {
            return self.lose(position, damage);
        }
        let summed = self.head.get(CRC_START_BYTES..).unwrap_or_default();
        let batch = Batch {
            header,
            position,
            crc: crc32c::crc32c(summed),
            left: size - to_u64(BATCH_HEADER_BYTES),
            misfit,
        };
        self.step = Step::Batch(batch);
        if batch.left == 0 {
            self.on_batch(&batch);
        }
    }

    /// What the checksum does not cover.
    fn misfit(&self, header: &BatchHeader, led_by: Option<OffsetEntry>) -> Option<Damage> {
        let (got, expected) = (header.base_offset, self.next);
        let is_led = led_by.is_none_or(|entry| self.is_at(entry, header));
        let is_behind = match &self.open {
            Some(open) => got > open.from && is_led,
            None => got >= expected,
        };
        if !is_behind {
            return Some(Damage::OffsetOrder { expected, got });
        }
        if self.open.is_none() && self.expected.is_dense && got > expected {
            let (from, next) = (expected, got);
            return Some(Damage::MissingRecords { from, next });
        }
        if let Some(end) = self.expected.next_offset
            && header.next_offset() > end
        {
            let last = header.last_offset();
            return Some(Damage::BeyondSegment { last, end });
        }
        let got = header.leader_epoch;
        if !self.expected.is_dense || got == LeaderEpoch::UNKNOWN {
            // Kafka's own list of epochs has no checksum, and may be older than the batches
            return None;
        }
        match self.expected.epochs.epoch_of(header.base_offset) {
            Some(expected) if got != expected => Some(Damage::Epoch { expected, got }),
            None if got < self.epoch => {
                let expected = self.epoch;
                Some(Damage::Epoch { expected, got })
            }
            _ => None,
        }
    }

    /// Kafka indexes several batches under the last offset of all, when they came together.
    fn is_at(&self, entry: OffsetEntry, header: &BatchHeader) -> bool {
        let delta = header
            .last_offset()
            .distance_from(self.expected.base_offset);
        let indexed = i64::from(entry.relative_offset);
        indexed == delta || (!self.expected.is_dense && indexed > delta)
    }

    fn on_batch(&mut self, batch: &Batch) {
        let damage = match batch.misfit {
            Some(damage) => Some(damage),
            None if batch.crc != batch.header.crc => Some(Damage::Checksum),
            None => None,
        };
        match damage {
            Some(damage) => self.open(batch.position, damage),
            None => self.accept(&batch.header, batch.position),
        }
        // of an epoch that nobody knows, the later batches decide
        if matches!(damage, Some(Damage::Epoch { .. })) {
            self.epoch = batch.header.leader_epoch;
        }
        self.begin_header();
    }

    fn accept(&mut self, header: &BatchHeader, position: FilePosition) {
        let is_behind_damage = self.open.is_some();
        if self.found.damaged.len() < STRETCHES_MAX {
            self.close(header.base_offset, position);
        }
        self.next = header.next_offset();
        self.epoch = header.leader_epoch;
        self.found.indexer.push(header, position);
        self.found.batches += 1;
        self.found.end_position = self.taken;
        self.compare_offsets(header, position, is_behind_damage);
        self.compare_times(header);
    }

    fn compare_offsets(&mut self, header: &BatchHeader, position: FilePosition, is_behind: bool) {
        while let Some(entry) = self.offset_entry(self.offsets_seen)
            && u64::from(entry.position) <= position
        {
            let is_here = u64::from(entry.position) == position;
            if (is_here && !self.is_at(entry, header)) || !(is_here || is_behind) {
                let entry = self.offsets_seen;
                self.blame(IndexFault::Offset { entry });
            }
            self.offsets_seen += 1;
        }
    }

    /// Only of what this broker wrote: Kafka's entries may name an offset within a batch.
    fn compare_times(&mut self, header: &BatchHeader) {
        if !self.expected.is_dense {
            return;
        }
        let last = header.last_offset();
        while let Some(entry) = self
            .times
            .as_ref()
            .and_then(|times| times.get(self.times_seen))
            && self
                .expected
                .base_offset
                .plus(i64::from(entry.relative_offset))
                <= last
        {
            let max = self.found.indexer.max_timestamp();
            if (entry.timestamp, Some(entry.relative_offset))
                != (
                    max.timestamp,
                    max.offset.delta_from(self.expected.base_offset),
                )
            {
                let entry = self.times_seen;
                self.blame(IndexFault::Time { entry });
            }
            self.times_seen += 1;
        }
    }

    fn blame(&mut self, fault: IndexFault) {
        let is_time = matches!(fault, IndexFault::Time { .. });
        // behind damage nobody knows the largest timestamp
        if !is_time || self.found.damaged.is_empty() {
            self.found.index_fault.get_or_insert(fault);
        }
    }

    fn offset_entry(&self, number: usize) -> Option<OffsetEntry> {
        self.offsets.as_ref()?.get(number)
    }

    /// Nothing from `position` on can be told apart; goes on at the next indexed batch.
    fn lose(&mut self, position: FilePosition, damage: Damage) {
        self.open(position, damage);
        let (offsets, taken) = (self.offsets.as_ref(), self.taken);
        self.led_by = offsets.and_then(|offsets| offsets.first_from(taken));
        let end = self.expected.size_bytes.max(taken);
        let until = self
            .led_by
            .map_or(end, |entry| u64::from(entry.position).min(end));
        self.pass_to(until);
    }

    fn pass_to(&mut self, until: FilePosition) {
        self.step = Step::Lost(until);
        if until == self.taken {
            self.begin_header();
        }
    }

    /// Where the batch at `position` ends, if of its header the length at least is likely.
    fn end_by_length(&self, position: FilePosition) -> Option<FilePosition> {
        let length = self
            .head
            .get(8..BATCH_LOG_OVERHEAD_BYTES)?
            .first_chunk::<4>()?;
        let size = u64::from(u32::from_be_bytes(*length)) + to_u64(BATCH_LOG_OVERHEAD_BYTES);
        let room = self.expected.size_bytes.saturating_sub(position);
        let is_likely = size >= to_u64(BATCH_HEADER_BYTES) && size <= room;
        is_likely.then_some(position + size)
    }

    fn open(&mut self, position: FilePosition, damage: Damage) {
        if self.open.is_some() {
            return;
        }
        let stretch = DamagedStretch {
            from: self.next,
            next: self.next,
            position,
            end: position,
            damage,
        };
        self.open = Some(stretch);
    }

    fn close(&mut self, next: Offset, end: FilePosition) {
        if let Some(open) = self.open.take() {
            self.found
                .damaged
                .push(DamagedStretch { next, end, ..open });
        }
    }

    /// The file has no more bytes.
    pub fn finish(mut self) -> Verified {
        let size = self.expected.size_bytes;
        match &self.step {
            Step::Batch(batch) => {
                let missing = size.saturating_sub(self.taken);
                self.open(batch.position, Damage::Short { missing });
            }
            Step::Header(position) if self.taken < size => {
                let missing = size - self.taken;
                self.open(*position, Damage::Short { missing });
            }
            Step::Header(position) if self.head_len > 0 => {
                let (have, need) = (self.head_len, BATCH_HEADER_BYTES);
                self.open(*position, BatchError::Truncated { have, need }.into());
            }
            Step::Header(_) | Step::Lost(_) => {}
        }
        let next = self.expected.next_offset;
        if let (None, true, Some(next)) = (&self.open, self.expected.is_dense, next)
            && self.next < next
        {
            let from = self.next;
            self.open(size, Damage::MissingRecords { from, next });
        }
        if self.open.is_none() {
            self.compare_ends();
        }
        self.close(next.unwrap_or(Offset::MAX), size);
        self.found.indexer.finish();
        self.found
    }

    /// Nothing is indexed that is not there, and the last time entry has the largest timestamp.
    fn compare_ends(&mut self) {
        let entry = self.offsets_seen;
        if self.offset_entry(entry).is_some() {
            self.blame(IndexFault::Offset { entry });
        }
        let Some(times) = self.times.as_ref().filter(|_| self.expected.is_dense) else {
            return;
        };
        let last = times.last().map_or(-1, |entry| entry.timestamp);
        let entry = times.count().saturating_sub(1);
        if last != self.found.indexer.max_timestamp().timestamp || self.times_seen < times.count() {
            self.blame(IndexFault::Time { entry });
        }
    }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::indexer::Indexer;
    use super::super::leader_epochs::EpochStart;
    use super::*;
    use crate::model::batch_builder::BatchBuilder;

    const BASE: Offset = Offset::new(50);

    /// Batches at these offsets, each with so many records and in this epoch; their indexes.
    fn segment(batches: &[(i64, i64, i32)]) -> (Vec<u8>, (OffsetIndex, TimeIndex)) {
        let (mut bytes, mut indexer) = (Vec::new(), Indexer::new(BASE, 200));
        for (base, records, epoch) in batches {
            let mut builder = BatchBuilder::new()
                .base_offset(Offset::new(*base))
                .leader_epoch(LeaderEpoch(*epoch));
            for record in 0..*records {
                builder.push(1000 + base + record, None, Some(b"some value"));
            }
            let batch = builder.build();
            let header = BatchHeader::parse(&batch).unwrap();
            indexer.push(&header, to_u64(bytes.len()));
            bytes.extend_from_slice(&batch);
        }
        indexer.finish();
        (bytes, indexer.into_indexes())
    }

    fn dense(count: i64) -> Vec<(i64, i64, i32)> {
        let batches = (0..count).map(|number| (50 + 2 * number, 2, 3));
        batches.collect()
    }

    fn expected(next: i64, size: usize, is_dense: bool) -> Expected {
        Expected {
            base_offset: BASE,
            next_offset: Some(Offset::new(next)),
            size_bytes: to_u64(size),
            is_dense,
            epochs: LeaderEpochs::default(),
            index_interval_bytes: 200,
        }
    }

    fn verify(expected: Expected, bytes: &[u8], indexes: (OffsetIndex, TimeIndex)) -> Verified {
        let mut verifier = Verifier::new(expected, Some(indexes));
        verifier.take(bytes);
        verifier.finish()
    }

    #[test]
    fn gaps_are_damage_only_where_every_offset_has_to_be_there() {
        let (bytes, indexes) = segment(&[(50, 2, 3), (60, 2, 3), (62, 2, 4)]);
        let sparse = verify(expected(70, bytes.len(), false), &bytes, indexes.clone());
        assert_eq!((sparse.batches, sparse.damaged.len()), (3, 0));
        let found = verify(expected(70, bytes.len(), true), &bytes, indexes);
        let missing = |from, next| Damage::MissingRecords {
            from: Offset::new(from),
            next: Offset::new(next),
        };
        let damages: Vec<Damage> = found.damaged.iter().map(|one| one.damage).collect();
        assert_eq!(damages, [missing(52, 60), missing(64, 70)]);
    }

    #[test]
    fn an_epoch_that_goes_back_or_is_not_that_of_its_offset_is_damage() {
        let (bytes, indexes) = segment(&[(50, 2, 3), (52, 2, 5), (54, 2, 3), (56, 2, 3)]);
        let found = verify(expected(58, bytes.len(), true), &bytes, indexes.clone());
        let offsets = |found: &Verified| -> Vec<(i64, i64)> {
            let damaged = found.damaged.iter();
            damaged
                .map(|one| (one.from.get(), one.next.get()))
                .collect()
        };
        assert_eq!(
            offsets(&found),
            [(54, 56)],
            "nobody knows whose epoch is wrong"
        );
        let known = EpochStart {
            epoch: LeaderEpoch(3),
            start_offset: BASE,
        };
        let known = Expected {
            epochs: LeaderEpochs::from_entries(vec![known]).unwrap(),
            ..expected(58, bytes.len(), true)
        };
        let found = verify(known.clone(), &bytes, indexes.clone());
        assert_eq!(offsets(&found), [(52, 54)]);
        let copied = Expected {
            is_dense: false,
            ..known
        };
        assert_eq!(offsets(&verify(copied, &bytes, indexes)), []);
    }

    #[test]
    fn bytes_behind_the_last_batch_concern_no_records() {
        let (mut bytes, indexes) = segment(&dense(10));
        bytes.resize(bytes.len() + 5000, 0);
        let found = verify(expected(70, bytes.len(), true), &bytes, indexes);
        let [one] = found.damaged[..] else {
            panic!("{found:?}")
        };
        assert!(!one.has_records(), "{one:?}");
    }

    #[test]
    fn what_cannot_be_read_ends_at_the_next_indexed_batch() {
        let (bytes, indexes) = segment(&dense(40));
        let mut verifier = Verifier::new(expected(130, bytes.len(), true), Some(indexes));
        verifier.take(&bytes[..1000]);
        verifier.skip(100);
        verifier.take(&bytes[1100..]);
        let found = verifier.finish();
        let [one] = found.damaged[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.damage, Damage::Unreadable);
        assert!(
            one.position <= 1000 && (1100..1500).contains(&one.end),
            "{one:?}"
        );
        assert_eq!(found.index_fault, None);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_damage_is_in_order(
            count in 1..30_i64,
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..4),
            piece in 1..300_usize,
            cut in 0..200_usize,
            is_dense: bool,
        ) {
            let (mut bytes, indexes) = segment(&dense(count));
            let expected = expected(50 + 2 * count, bytes.len(), is_dense);
            for (at, mask) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            bytes.truncate(bytes.len() - cut.min(bytes.len()) * usize::from(cut > 100));
            let whole = verify(expected.clone(), &bytes, indexes.clone());
            let mut verifier = Verifier::new(expected.clone(), Some(indexes));
            bytes.chunks(piece).for_each(|piece| verifier.take(piece));
            prop_assert_eq!(&verifier.finish(), &whole);
            let is_intact = flips.is_empty() && cut <= 100;
            prop_assert!(!is_intact || whole.damaged.is_empty() && whole.index_fault.is_none());
            let (mut position, mut offset) = (0, BASE);
            for one in &whole.damaged {
                prop_assert!(one.position >= position && one.end >= one.position, "{:?}", whole);
                // where offsets may be missing, a larger base offset passes, up to the end
                let is_some = one.next > one.from || !is_dense && one.next == one.from;
                prop_assert!(one.from >= offset && is_some, "{:?}", whole);
                (position, offset) = (one.end, one.next);
            }
            prop_assert!(position <= expected.size_bytes && offset <= Offset::new(50 + 2 * count));
        }

        #[test]
        fn any_bytes_are_verified_without_a_panic(bytes: Vec<u8>, size in 0..500_u64) {
            let size = usize::try_from(size).unwrap();
            let indexes = (OffsetIndex::default(), TimeIndex::default());
            verify(expected(60, size, true), &bytes[..bytes.len().min(size)], indexes);
        }
    }
}

//! What idempotent and transactional producers wrote to one partition: duplicates, gaps, fencing.
//!
//! Pure: no async, no clock, no IO.        Owner: `Log` (one at the log end, one at the destaged
//! end).
//! Promises: the cases of Kafka's `ProducerAppendInfo`: a batch that was appended before is
//! recognised while it is among the last five of its producer; a gap or an old incarnation is
//! refused.
//! A producer is forgotten when the broker has not heard of it for long, by the broker's clock:
//! what its records say, which may be of last year, does not matter. How many there may be is for
//! the owner to say, before a new one is let in; what is in the log is always taken in.
//! Invariants: [producer-window] at most `PRODUCER_BATCHES_CACHED` batches are kept for one
//! producer.
//! [producer-prefix] a state holds exactly the batches below the offset that its owner keeps beside
//! it.

use std::collections::HashMap;

use crate::breaks::{self, Break};
use crate::model::ids::{ProducerEpoch, ProducerId};
use crate::model::limits::PRODUCER_BATCHES_CACHED;
use crate::model::offset::Offset;
use crate::model::record_batch::{BatchHeader, next_sequence, sequence_plus};

/// What is kept of an appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedBatch {
    /// Sequence number of its last record.
    pub last_sequence: i32,
    /// Offset of its last record, inclusive.
    pub last_offset: Offset,
    /// Records before the last one.
    pub offset_delta: i32,
    /// Largest timestamp of the batch, ms.
    pub timestamp: i64,
}

impl CachedBatch {
    fn of(header: &BatchHeader) -> Self {
        Self {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        }
    }

    /// Sequence number of its first record.
    pub const fn first_sequence(&self) -> i32 {
        if self.last_sequence >= self.offset_delta {
            self.last_sequence - self.offset_delta
        } else {
            // wrapped: the batch began below 2^31 and ended at or above 0
            i32::MAX - (self.offset_delta - self.last_sequence) + 1
        }
    }

    /// Offset of its first record.
    pub const fn base_offset(&self) -> Offset {
        self.last_offset.plus(-(self.offset_delta as i64))
    }
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Newest incarnation seen.
    pub epoch: ProducerEpoch,
    /// Its last batches, oldest first; none after a marker of a new epoch.
    pub batches: Vec<CachedBatch>,
    /// Epoch of the transaction coordinator that wrote the last marker; -1 without one.
    pub coordinator_epoch: i32,
    /// First offset of the open transaction.
    pub transaction_start: Option<Offset>,
    /// Timestamp of the last batch or marker, ms.
    pub last_timestamp: i64,
    /// When the broker last heard of it, ms of its own clock: idle producers expire by it. In
    /// memory only, and only in the state at the log end.
    pub(super) heard_ms: i64,
}

impl ProducerEntry {
    /// A producer of which only the incarnation is known.
    pub const fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            batches: Vec::new(),
            coordinator_epoch: -1,
            transaction_start: None,
            last_timestamp: -1,
            heard_ms: i64::MIN,
        }
    }

    fn last_sequence(&self) -> i32 {
        self.batches.last().map_or(-1, |batch| batch.last_sequence)
    }

    fn push(&mut self, batch: CachedBatch) {
        if self.batches.len() >= PRODUCER_BATCHES_CACHED {
            self.batches.remove(0);
        }
        self.batches.reserve_exact(1); // most producers of a flood never send a second one
        self.batches.push(batch);
    }
}

/// What to do with a batch of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Append,
    /// It is there already: answer with its first offset and timestamp once `last_offset` is
    /// durable.
    Duplicate(CachedBatch),
}

/// Why a batch must not be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// A newer incarnation of the producer has written.
    #[error("producer {producer} has epoch {got}, its newest one here is {current}")]
    Epoch {
        /// The producer.
        producer: ProducerId,
        /// Of the batch.
        got: ProducerEpoch,
        /// In the state.
        current: ProducerEpoch,
    },
    /// Batches before this one are missing.
    #[error("producer {producer} sent sequence {got}, expected {expected}")]
    Sequence {
        /// The producer.
        producer: ProducerId,
        /// Of the batch.
        got: i32,
        /// The one that would follow.
        expected: i32,
    },
    /// A batch outside a transaction while the producer has one open.
    #[error("producer {producer} has an open transaction and sent a batch outside of it")]
    TransactionOpen {
        /// The producer.
        producer: ProducerId,
    },
    /// One more producer than may be remembered.
    #[error("there is no room for producer {producer} beside the {known} that are known")]
    TooMany {
        /// The new one.
        producer: ProducerId,
        /// Those of the partition.
        known: usize,
    },
    /// A marker of a transaction coordinator that was replaced.
    #[error("coordinator epoch {got} of producer {producer} is below {current}")]
    CoordinatorEpoch {
        /// The producer.
        producer: ProducerId,
        /// Of the marker.
        got: i32,
        /// In the state.
        current: i32,
    },
}

/// All producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerStates {
    entries: HashMap<ProducerId, ProducerEntry>,
}

impl ProducerStates {
    /// Number of producers.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether a batch comes from a producer of which nothing is known.
    pub fn is_new(&self, header: &BatchHeader) -> bool {
        header.has_producer_id() && !self.entries.contains_key(&header.producer_id)
    }

    /// The state of one producer.
    pub fn get(&self, producer: ProducerId) -> Option<&ProducerEntry> {
        self.entries.get(&producer)
    }

    /// Every producer, by ascending id.
    pub fn sorted(&self) -> Vec<(ProducerId, &ProducerEntry)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(id, entry)| (*id, entry))
            .collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Puts a producer back as a snapshot has it.
    pub fn restore(&mut self, producer: ProducerId, entry: ProducerEntry) {
        debug_assert!(
            entry.batches.len() <= PRODUCER_BATCHES_CACHED,
            "[producer-window]"
        );
        self.entries.insert(producer, entry);
    }

    /// Decides over a data batch that a client wants to append; changes nothing.
    pub fn check(&self, header: &BatchHeader) -> Result<Verdict, ProducerError> {
        let producer = header.producer_id;
        let Some(entry) = self.entries.get(&producer).filter(|_| producer.is_some()) else {
            // retention may have removed what an unknown producer wrote before: any sequence will
            // do
            return Ok(Verdict::Append);
        };
        let (got, current) = (header.producer_epoch, entry.epoch);
        if got < current {
            return Err(ProducerError::Epoch {
                producer,
                got,
                current,
            });
        }
        if got == current
            && let Some(duplicate) = entry.batches.iter().find(|batch| {
                batch.first_sequence() == header.base_sequence
                    && batch.last_sequence == header.last_sequence()
            })
        {
            if breaks::is_on(Break::DuplicateAppended) {
                return Ok(Verdict::Append);
            }
            return Ok(Verdict::Duplicate(*duplicate));
        }
        if current != ProducerEpoch::NONE {
            let expected = if got == current {
                next_sequence(entry.last_sequence())
            } else {
                0
            };
            if header.base_sequence != expected && !breaks::is_on(Break::SequenceGapAccepted) {
                let got = header.base_sequence;
                return Err(ProducerError::Sequence {
                    producer,
                    got,
                    expected,
                });
            }
        }
        if entry.transaction_start.is_some() && !header.is_transactional() {
            return Err(ProducerError::TransactionOpen { producer });
        }
        Ok(Verdict::Append)
    }

    /// Decides over a transaction marker; changes nothing.
    pub fn check_marker(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        coordinator_epoch: i32,
    ) -> Result<(), ProducerError> {
        let Some(entry) = self.entries.get(&producer) else {
            return Ok(());
        };
        if epoch < entry.epoch {
            return Err(ProducerError::Epoch {
                producer,
                got: epoch,
                current: entry.epoch,
            });
        }
        if coordinator_epoch < entry.coordinator_epoch {
            return Err(ProducerError::CoordinatorEpoch {
                producer,
                got: coordinator_epoch,
                current: entry.coordinator_epoch,
            });
        }
        Ok(())
    }

    /// Takes in an appended data batch, whatever `check` would have said: what is in the log
    /// counts.
    pub fn update(&mut self, header: &BatchHeader) {
        if !header.has_producer_id() || header.is_control() {
            return;
        }
        let entry = self
            .entries
            .entry(header.producer_id)
            .or_insert_with(|| ProducerEntry::new(header.producer_epoch));
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        entry.push(CachedBatch::of(header));
        entry.last_timestamp = header.max_timestamp;
        if header.is_transactional() && entry.transaction_start.is_none() {
            entry.transaction_start = Some(header.base_offset);
        }
    }

    /// Takes in an appended transaction marker. Returns where the transaction that it ends began.
    pub fn update_marker(
        &mut self,
        header: &BatchHeader,
        coordinator_epoch: i32,
    ) -> Option<Offset> {
        if !header.has_producer_id() {
            return None;
        }
        let entry = self
            .entries
            .entry(header.producer_id)
            .or_insert_with(|| ProducerEntry::new(header.producer_epoch));
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        entry.coordinator_epoch = coordinator_epoch;
        entry.last_timestamp = header.max_timestamp;
        entry.transaction_start.take()
    }

    /// First offset of the oldest open transaction.
    pub fn first_open_transaction(&self) -> Option<Offset> {
        self.entries
            .values()
            .filter_map(|entry| entry.transaction_start)
            .min()
    }

    /// The broker hears of a producer.
    pub fn on_heard(&mut self, producer: ProducerId, now_ms: i64) {
        if let Some(entry) = self.entries.get_mut(&producer) {
            entry.heard_ms = now_ms;
        }
    }

    /// The states were read from files: nobody knows how long ago the producers were heard of.
    pub fn on_loaded(&mut self, now_ms: i64) {
        for entry in self.entries.values_mut() {
            entry.heard_ms = now_ms;
        }
    }

    /// Forgets producers that were not heard of for `expiration_ms` and have no open transaction.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.retain(|_, entry| {
            entry.transaction_start.is_some()
                || now_ms.saturating_sub(entry.heard_ms) < expiration_ms
        });
    }

    /// Forgets the producers that `other`, the state at the log end, has forgotten.
    pub fn forget_as(&mut self, other: &Self) {
        self.retain(|id, _| other.entries.contains_key(id));
    }

    fn retain(&mut self, keep: impl Fn(&ProducerId, &ProducerEntry) -> bool) {
        self.entries.retain(|id, entry| keep(id, entry));
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit(); // after a flood of them
        }
    }
}

/// The last sequence number of a batch of `count` records that starts at `first`.
pub const fn last_sequence_of(first: i32, count: i32) -> i32 {
    sequence_plus(first, count - 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::batch_builder::BatchBuilder;

    /// Header of a batch of `count` records of producer 9 at `offset`.
    pub(crate) fn batch(epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset::new(offset))
            .producer(ProducerId(9), ProducerEpoch(epoch), sequence);
        for _ in 0..count {
            builder.push(1000 + offset, None, Some(b"v"));
        }
        BatchHeader::parse(&builder.build()).unwrap()
    }

    fn states(batches: &[BatchHeader]) -> ProducerStates {
        let mut states = ProducerStates::default();
        for header in batches {
            assert_eq!(states.check(header), Ok(Verdict::Append));
            states.update(header);
        }
        states
    }

    fn sequence_error(got: i32, expected: i32) -> Result<Verdict, ProducerError> {
        Err(ProducerError::Sequence {
            producer: ProducerId(9),
            got,
            expected,
        })
    }

    #[test]
    fn duplicate_of_any_of_the_last_five_is_found_and_older_ones_are_gaps() {
        let all: Vec<_> = (0..7)
            .map(|i| batch(0, i * 3, 3, i64::from(i) * 3))
            .collect();
        let states = states(&all);
        for header in &all[2..] {
            let Ok(Verdict::Duplicate(found)) = states.check(header) else {
                panic!("{header:?}")
            };
            assert_eq!(found.base_offset(), header.base_offset);
            assert_eq!(found.first_sequence(), header.base_sequence);
            assert_eq!(found.timestamp, header.max_timestamp);
        }
        assert_eq!(states.check(&all[1]), sequence_error(3, 21));
        // the same first sequence with another count is not the same batch
        assert_eq!(states.check(&batch(0, 18, 2, 99)), sequence_error(18, 21));
    }

    #[test]
    fn gap_is_refused_and_the_next_sequence_accepted() {
        let states = states(&[batch(0, 0, 3, 0)]);
        assert_eq!(states.check(&batch(0, 4, 1, 3)), sequence_error(4, 3));
        assert_eq!(states.check(&batch(0, 3, 1, 3)), Ok(Verdict::Append));
    }

    #[test]
    fn old_epoch_is_fenced_and_a_new_one_starts_at_zero() {
        let states = states(&[batch(4, 0, 3, 0)]);
        let (producer, got, current) = (ProducerId(9), ProducerEpoch(3), ProducerEpoch(4));
        let fenced = Err(ProducerError::Epoch {
            producer,
            got,
            current,
        });
        assert_eq!(states.check(&batch(3, 0, 3, 0)), fenced);
        assert_eq!(states.check(&batch(5, 3, 1, 3)), sequence_error(3, 0));
        assert_eq!(states.check(&batch(5, 0, 3, 3)), Ok(Verdict::Append));
    }

    #[test]
    fn unknown_producer_may_start_anywhere() {
        assert_eq!(states(&[]).check(&batch(2, 77, 1, 0)), Ok(Verdict::Append));
        let mut restored = ProducerStates::default();
        restored.restore(ProducerId(9), ProducerEntry::new(ProducerEpoch::NONE));
        assert_eq!(restored.check(&batch(2, 77, 1, 0)), Ok(Verdict::Append));
    }

    #[test]
    fn sequences_wrap_from_the_largest_to_zero() {
        let before = batch(0, i32::MAX - 1, 4, 0);
        let states = states(&[before]);
        let Ok(Verdict::Duplicate(found)) = states.check(&before) else {
            panic!("duplicate")
        };
        assert_eq!(
            (found.first_sequence(), found.last_sequence),
            (i32::MAX - 1, 1)
        );
        assert_eq!(states.check(&batch(0, 2, 1, 4)), Ok(Verdict::Append));
    }

    #[test]
    fn marker_ends_the_transaction_and_fences_older_coordinators() {
        let data = transactional(0, 10);
        let mut states = states(&[data]);
        assert_eq!(states.first_open_transaction(), Some(Offset::new(10)));
        let open = ProducerError::TransactionOpen {
            producer: ProducerId(9),
        };
        assert_eq!(states.check(&batch(0, 1, 1, 11)), Err(open));
        assert_eq!(
            states.update_marker(&transactional(0, 11), 3),
            Some(Offset::new(10))
        );
        assert_eq!(states.first_open_transaction(), None);
        let (producer, epoch) = (ProducerId(9), ProducerEpoch(0));
        let old = ProducerError::CoordinatorEpoch {
            producer,
            got: 2,
            current: 3,
        };
        assert_eq!(states.check_marker(producer, epoch, 2), Err(old));
        assert_eq!(states.check_marker(producer, epoch, 3), Ok(()));
    }

    fn transactional(sequence: i32, offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset::new(offset))
            .producer(ProducerId(9), ProducerEpoch(0), sequence)
            .transactional();
        builder.push(1, None, Some(b"v"));
        BatchHeader::parse(&builder.build()).unwrap()
    }

    #[test]
    fn idle_producers_expire_unless_a_transaction_is_open() {
        let mut idle = states(&[batch(0, 0, 1, 0)]);
        idle.on_heard(ProducerId(9), 7_000); // its records are of second 1
        let mut destaged = idle.clone();
        idle.expire(7_000 + 500, 501);
        assert_eq!(idle.count(), 1);
        destaged.forget_as(&idle);
        assert_eq!(destaged.count(), 1);
        idle.expire(7_000 + 501, 501);
        assert_eq!(idle.count(), 0);
        destaged.forget_as(&idle);
        assert_eq!(destaged.count(), 0);
        let mut open = states(&[transactional(0, 0)]);
        open.expire(i64::MAX, 1);
        assert_eq!(open.count(), 1);
        let mut loaded = states(&[batch(0, 0, 1, 0)]);
        loaded.on_loaded(7_000);
        loaded.expire(7_000 + 500, 501);
        assert_eq!(loaded.count(), 1);
    }

    proptest! {
        #[test]
        fn retries_of_a_window_of_five_never_append_twice(
            counts in proptest::collection::vec(1..9_i32, 1..40),
            retries in proptest::collection::vec(0..5_usize, 1..40),
        ) {
            let mut states = ProducerStates::default();
            let mut sent: Vec<BatchHeader> = Vec::new();
            let (mut sequence, mut offset) = (i32::MAX - 20, 0);
            for (count, retry) in counts.into_iter().zip(retries.into_iter().cycle()) {
                let header = batch(0, sequence, count, offset);
                prop_assert_eq!(states.check(&header), Ok(Verdict::Append));
                states.update(&header);
                sent.push(header);
                sequence = next_sequence(last_sequence_of(sequence, count));
                offset += i64::from(count);
                let again = sent[sent.len() - 1 - retry.min(sent.len() - 1)];
                let verdict = states.check(&again);
                let again = again.base_offset;
                let is_again = |b: &CachedBatch| b.base_offset() == again;
                prop_assert!(matches!(verdict, Ok(Verdict::Duplicate(b)) if is_again(&b)));
            }
        }
    }

    /// What these stories see of the program's own mistakes.
    #[cfg(feature = "breaks")]
    mod break_tests {
        use super::*;
        use crate::breaks::Break;
        use crate::breaks::testing::assert_story_notices;

        #[test]
        fn a_gap_that_is_taken_is_noticed() {
            assert_story_notices(
                Break::SequenceGapAccepted,
                gap_is_refused_and_the_next_sequence_accepted,
            );
        }

        #[test]
        fn a_duplicate_that_is_appended_is_noticed() {
            assert_story_notices(
                Break::DuplicateAppended,
                duplicate_of_any_of_the_last_five_is_found_and_older_ones_are_gaps,
            );
        }
    }
}

//! One partition: the guards in front of its log, and who waits for it.
//!
//! Runs on: the home shard.      Owner: `shard::partitions`.      Pure: no.
//! Promises: a batch is refused or has its offset when `append_as_leader` returns; it is visible,
//! and its producer is answered, only when the journal has said that it is durable; a duplicate is
//! answered only when its original is durable.
//! Invariants: [offset-chain] `model::log_offsets`. [visible-durable] the high watermark of a
//! single node is the durable end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::breaks::{self, Break};
use crate::journal::entry::Entry;
use crate::journal::journal::Owner;
use crate::log::log::{Log, NewBatch};
use crate::log::producer_state::Verdict;
use crate::model::ids::{LeaderEpoch, TopicPartition};
use crate::model::log_offsets::LogOffsets;
use crate::model::offset::Offset;
use crate::partition::error::Error;
use crate::partition::reads::{Available, EpochQuestion, FetchPart};
use crate::partition::waiters::{AckWaiters, FetchWaiters};
use crate::rt::sync::{Notify, oneshot};

/// A batch in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Broker time put into the batch, if the topic stamps on append; else -1.
    pub log_append_time_ms: i64,
    /// Log start offset at that moment.
    pub log_start: Offset,
}

/// What became of a batch that was let in.
#[derive(Debug)]
pub enum Accepted {
    /// It has its offsets; the entry has to reach the journal before anything else of this log.
    New {
        /// For the producer.
        appended: Appended,
        /// Its exclusive end.
        next_offset: Offset,
        /// For the journal.
        entry: Entry,
    },
    /// It is there already (KIP-98): the first answer again, once that is durable.
    Duplicate {
        /// For the producer.
        appended: Appended,
        /// Exclusive end of the original.
        next_offset: Offset,
    },
}

/// Where an append's outcome goes.
pub type AckSender = oneshot::Sender<Result<Appended, Error>>;

/// See the file's head.
#[derive(Debug)]
pub struct Partition {
    owner: Owner,
    log: Rc<Log>,
    leader_epoch: Cell<LeaderEpoch>,
    is_gone: Cell<bool>,
    acks: RefCell<AckWaiters<(Appended, AckSender)>>,
    fetches: RefCell<FetchWaiters>,
}

impl Partition {
    /// The partition over its log; `owner` is its number in the journal of its shard.
    pub fn new(owner: Owner, log: Rc<Log>, leader_epoch: LeaderEpoch) -> Rc<Self> {
        let latest = log.latest_epoch().unwrap_or(leader_epoch);
        Rc::new(Self {
            owner,
            log,
            leader_epoch: Cell::new(leader_epoch.max(latest)),
            is_gone: Cell::new(false),
            acks: RefCell::default(),
            fetches: RefCell::default(),
        })
    }

    /// Which partition this is.
    pub fn id(&self) -> TopicPartition {
        self.log.topic_partition()
    }

    /// Its number in the journal of its shard.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The epoch in which new records are written.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch.get()
    }

    /// Its log.
    pub fn log(&self) -> &Rc<Log> {
        &self.log
    }

    /// Consumers read below this.
    pub fn high_watermark(&self) -> Offset {
        self.visible().high_watermark
    }

    /// Its topic is deleted: nobody waits for its bytes any more.
    pub fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// Refuses when the partition is deleted or its log has failed.
    pub fn check_open(&self) -> Result<(), Error> {
        if self.is_gone.get() {
            return Err(Error::NotFound);
        }
        match self.log.failure() {
            Some(error) => Err(Error::Offline(error.to_string())),
            None => Ok(()),
        }
    }

    /// Appends one checked batch as leader. Synchronous: nothing comes between the producer check,
    /// the offset and the journal queue. Guards first, then the single effect.
    pub fn append_as_leader(
        &self,
        batch: NewBatch,
        log_append_time_ms: i64,
        now_ms: i64,
    ) -> Result<Accepted, Error> {
        self.check_open()?;
        let log_start = self.log.offsets().log_start;
        if let Verdict::Duplicate(original) = self.log.check_producer(&batch.header)? {
            let has_append_time = log_append_time_ms >= 0;
            let appended = Appended {
                base_offset: original.base_offset(),
                log_append_time_ms: if has_append_time {
                    original.timestamp
                } else {
                    -1
                },
                log_start,
            };
            let mut next_offset = original.last_offset.next();
            if breaks::is_on(Break::DuplicateAnsweredEarly) {
                next_offset = Offset::ZERO;
            }
            return Ok(Accepted::Duplicate {
                appended,
                next_offset,
            });
        }
        let appended = self.log.append(batch, self.leader_epoch.get(), now_ms)?;
        Ok(Accepted::New {
            appended: Appended {
                base_offset: appended.base_offset,
                log_append_time_ms,
                log_start,
            },
            next_offset: appended.next_offset,
            entry: appended.entry,
        })
    }

    /// Answers `ack` once everything below `next_offset` is durable.
    pub fn ack_when_durable(&self, next_offset: Offset, appended: Appended, ack: AckSender) {
        if self.log.offsets().durable_end >= next_offset {
            drop(ack.send(Ok(appended)));
        } else {
            self.acks.borrow_mut().insert(next_offset, (appended, ack));
        }
    }

    /// The journal made everything below `next_offset` durable: it becomes visible, producers are
    /// answered in offset order, waiting fetches wake.
    pub fn on_durable(&self, next_offset: Offset) {
        self.log.on_durable(next_offset);
        self.log
            .advance_high_watermark(self.log.offsets().durable_end);
        let durable_end = self.log.offsets().durable_end;
        let answered = self.acks.borrow_mut().take_up_to(durable_end);
        for (appended, ack) in answered {
            drop(ack.send(Ok(appended))); // whoever asked may be gone: its client disconnected
        }
        self.fetches.borrow_mut().wake_all();
    }

    /// No append of this partition will be acknowledged any more.
    pub fn fail_waiters(&self, error: &Error) {
        let waiting = self.acks.borrow_mut().take_all();
        for (_, ack) in waiting {
            drop(ack.send(Err(error.clone())));
        }
        self.fetches.borrow_mut().wake_all();
    }

    /// The topic is deleted: everyone who waits is told, nothing is accepted any more.
    pub fn set_gone(&self) {
        self.is_gone.set(true);
        self.fail_waiters(&Error::NotFound);
    }

    /// Wakes `waiter` at the next change.
    pub fn register_fetch(&self, waiter: &Rc<Notify>) {
        self.fetches.borrow_mut().register(waiter);
    }

    /// Wakes the fetches that wait: the log start moved.
    pub fn wake_fetches(&self) {
        self.fetches.borrow_mut().wake_all();
    }

    /// Where readers may go.
    fn visible(&self) -> LogOffsets {
        let mut offsets = self.log.offsets();
        if breaks::is_on(Break::VisibleBeforeDurable) {
            offsets.high_watermark = offsets.log_end;
        }
        offsets
    }

    /// What a fetch would find; or where the log of whoever asks leaves this one (KIP-595).
    pub fn available(&self, part: &FetchPart) -> Result<Available, Error> {
        self.check_open()?;
        self.check_epoch(part.current_leader_epoch)?;
        let offsets = self.visible();
        let mut available = Available {
            size_bytes: 0,
            high_watermark: offsets.high_watermark,
            log_start: offsets.log_start,
            diverging: None,
        };
        let got = part.fetch_offset;
        let (start, end) = (offsets.log_start, offsets.high_watermark);
        let out_of_range = Error::OffsetOutOfRange { got, start, end };
        if part.last_fetched_epoch >= 0 {
            let asked = LeaderEpoch(part.last_fetched_epoch);
            let (epoch, end) = self.end_of_epoch(asked).ok_or(out_of_range.clone())?;
            if epoch < asked || end < got {
                available.diverging = Some((epoch.0, end));
                return Ok(available);
            }
        }
        if got < offsets.log_start || got > offsets.log_end {
            return Err(out_of_range);
        }
        available.size_bytes = self.log.readable_bytes(got, offsets.high_watermark);
        Ok(available)
    }

    /// Largest epoch at or below the one asked for, and where it ends; none above the leader's own.
    fn end_of_epoch(&self, asked: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        if asked == self.leader_epoch.get() {
            return Some((asked, self.log.offsets().log_end));
        }
        self.log.end_offset_for_epoch(asked)
    }

    /// KIP-320: -1 means that the client does not know the epoch.
    pub fn check_epoch(&self, got: i32) -> Result<(), Error> {
        let current = self.leader_epoch.get().0;
        match got {
            -1 => Ok(()),
            _ if got < current => Err(Error::FencedLeaderEpoch { got, current }),
            _ if got > current => Err(Error::UnknownLeaderEpoch { got, current }),
            _ => Ok(()),
        }
    }

    /// Largest epoch at or below the one asked for, and where it ends; (-1, -1): none (KIP-101).
    pub fn epoch_end(&self, question: &EpochQuestion) -> Result<(i32, i64), Error> {
        self.check_open()?;
        self.check_epoch(question.current_leader_epoch)?;
        let found = self.end_of_epoch(LeaderEpoch(question.leader_epoch));
        Ok(found.map_or((-1, -1), |(epoch, end)| (epoch.0, end.get())))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::journal::journal::Position;
    use crate::log::LogSettings;
    use crate::log::context::{ContextLimits, LogContext};
    use crate::model::batch_builder::BatchBuilder;
    use crate::model::ids::{PartitionIndex, ProducerEpoch, ProducerId, TopicId};
    use crate::rt::sim::Sim;

    async fn open() -> Rc<Partition> {
        let id = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(0));
        let context = LogContext::new(ContextLimits::default());
        let log = Log::open(&context, "/data/orders-0", id, LogSettings::default()).await;
        let log = log.expect("a new directory opens");
        let first = log.prepare().await.expect("nothing is read");
        assert!(first.is_none());
        Partition::new(Owner(0), log, LeaderEpoch(0))
    }

    fn batch() -> NewBatch {
        let mut builder = BatchBuilder::new().producer(ProducerId(9), ProducerEpoch(0), 0);
        builder.push(1, None, Some(b"v"));
        NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch")
    }

    fn visible_end(partition: &Partition) -> Offset {
        let part = FetchPart {
            partition: partition.id(),
            fetch_offset: Offset::ZERO,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            size_bytes_max: 1 << 20,
            must_progress: true,
        };
        let available = partition.available(&part);
        available.expect("it is open").high_watermark
    }

    #[test]
    fn a_batch_and_its_repetition_are_answered_and_visible_when_it_is_durable() {
        Sim::new(1).run(async {
            let partition = open().await;
            let mut answers = Vec::new();
            for is_repetition in [false, true] {
                let accepted = partition.append_as_leader(batch(), -1, 1).unwrap();
                let (appended, next_offset) = match accepted {
                    Accepted::New {
                        appended,
                        next_offset,
                        ..
                    } if !is_repetition => (appended, next_offset),
                    Accepted::Duplicate {
                        appended,
                        next_offset,
                    } if is_repetition => (appended, next_offset),
                    other => panic!("{other:?}"),
                };
                partition.log().on_enqueued(Position(0));
                let (ack, answer) = oneshot::oneshot();
                partition.ack_when_durable(next_offset, appended, ack);
                answers.push(answer);
            }
            for answer in &mut answers {
                assert!(answer.now_or_never().is_none(), "answered early");
            }
            assert_eq!(visible_end(&partition), Offset::ZERO, "visible early");
            partition.on_durable(Offset::new(1));
            for answer in answers {
                let appended = answer.await.unwrap().unwrap();
                assert_eq!(appended.base_offset, Offset::ZERO);
            }
            assert_eq!(visible_end(&partition), Offset::new(1));
        });
    }

    /// What this story sees of the program's own mistakes.
    #[cfg(feature = "breaks")]
    mod break_tests {
        use super::*;
        use crate::breaks::testing::assert_story_notices;

        #[test]
        fn a_repetition_that_is_answered_early_is_noticed() {
            assert_story_notices(
                Break::DuplicateAnsweredEarly,
                a_batch_and_its_repetition_are_answered_and_visible_when_it_is_durable,
            );
        }

        #[test]
        fn a_batch_that_is_visible_early_is_noticed() {
            assert_story_notices(
                Break::VisibleBeforeDurable,
                a_batch_and_its_repetition_are_answered_and_visible_when_it_is_durable,
            );
        }
    }
}

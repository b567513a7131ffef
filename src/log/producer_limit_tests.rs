//! Tests of how many producers the logs of a shard remember, and for how long.

use std::rc::Rc;

use bytes::BytesMut;

use super::context::{ContextLimits, LogContext};
use super::log::{Log, NewBatch};
use super::producer_state::{ProducerError, Verdict};
use super::settings::LogSettings;
use crate::journal::journal::Position;
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use crate::rt::sim::Sim;

const HOUR_MS: i64 = 3_600_000;

fn context() -> Rc<LogContext> {
    LogContext::new(ContextLimits {
        producers: 8,
        ..ContextLimits::default()
    })
}

async fn open(context: &Rc<LogContext>, partition: i32) -> Rc<Log> {
    let id = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(partition));
    let dir = format!("/data/topics/orders-{partition}");
    let log = Log::open(context, dir, id, LogSettings::default());
    let log = log.await.unwrap();
    assert!(log.prepare().await.unwrap().is_none());
    log
}

/// Whether a first batch of `producer` is taken; false: there is no room for it.
fn is_taken(log: &Log, producer: i64, now_ms: i64) -> bool {
    let mut builder = BatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), 0);
    builder.push(1, None, Some(b"v"));
    let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).unwrap();
    match log.check_producer(&batch.header) {
        Ok(Verdict::Append) => {
            let appended = log.append(batch, LeaderEpoch(1), now_ms).unwrap();
            log.on_enqueued(Position(appended.next_offset.get().unsigned_abs()));
            true
        }
        Ok(Verdict::Duplicate(_)) => panic!("{producer} is known"),
        Err(ProducerError::TooMany { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn one_log_has_half_of_the_producers_and_all_together_no_more_than_there_may_be() {
    Sim::new(1).run(async {
        let context = context();
        let logs = [
            open(&context, 0).await,
            open(&context, 1).await,
            open(&context, 2).await,
        ];
        let taken = |log: &Log| (0..9).filter(|id| is_taken(log, *id, 0)).count();
        let counts: Vec<usize> = logs[..2].iter().map(|log| taken(log)).collect();
        assert_eq!((counts, context.producer_count()), (vec![4, 4], 8));
        let [first, _, third] = logs;
        assert!(!is_taken(&third, 9, 0), "the others have all there are");
        drop(first);
        assert!(is_taken(&third, 9, 0), "what went with the log");
        assert_eq!(context.producer_count(), 5);
    });
}

#[test]
fn producers_idle_for_an_hour_make_room_and_others_never() {
    Sim::new(1).run(async {
        let context = context();
        let log = open(&context, 0).await;
        assert!(is_taken(&log, 0, 0) && is_taken(&log, 1, 1_000));
        log.expire_producers(20 * HOUR_MS, 24 * HOUR_MS);
        assert_eq!(context.producer_count(), 2, "there are few");
        assert!(is_taken(&log, 2, 2_000) && is_taken(&log, 3, 3_000));
        log.expire_producers(HOUR_MS - 1, 24 * HOUR_MS);
        assert!(!is_taken(&log, 4, HOUR_MS - 1));
        log.expire_producers(HOUR_MS + 1_500, 24 * HOUR_MS);
        assert_eq!(context.producer_count(), 2, "the last two are left");
        assert!(is_taken(&log, 4, HOUR_MS + 1_500) && is_taken(&log, 0, HOUR_MS + 1_500));
        assert!(!is_taken(&log, 1, HOUR_MS + 1_500));
    });
}

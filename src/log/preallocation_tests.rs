//! What real files have beyond their data: reserved space is shared by the logs of a shard.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;

use bytes::BytesMut;

use super::context::{ContextLimits, LogContext};
use super::log::{Log, NewBatch};
use super::settings::LogSettings;
use crate::journal::journal::Position;
use crate::model::batch_builder::BatchBuilder;
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::limits::ALIGNMENT_BYTES;
use crate::rt::testing;

/// What one log reserves ahead of a small segment.
const ONE_LOG_BYTES: u64 = 256 << 10;
const LOGS: i32 = 5;

async fn open(context: &Rc<LogContext>, dir: &Path, partition: i32) -> Rc<Log> {
    let id = TopicPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(partition));
    let dir = dir.join(format!("t-{partition}"));
    let log = Log::open(context, dir, id, LogSettings::default()).await;
    log.unwrap()
}

/// Appends 20 kB and brings what fills blocks to the segment.
async fn write(log: &Log) {
    assert_eq!(log.prepare().await.unwrap(), None);
    let mut builder = BatchBuilder::new();
    builder.push(1_000, None, Some(&vec![b'v'; 20_000]));
    let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).unwrap();
    let appended = log.append(batch, LeaderEpoch(0), 1_000).unwrap();
    log.on_enqueued(Position(appended.next_offset.get().unsigned_abs()));
    log.on_durable(appended.next_offset);
    log.destage().await.unwrap();
}

/// Bytes of the partition's segment on the disk beyond its length.
fn reserved(dir: &Path, partition: i32) -> u64 {
    let path = dir.join(format!("t-{partition}/00000000000000000000.log"));
    let found = std::fs::metadata(path).unwrap();
    let block = u64::try_from(ALIGNMENT_BYTES).unwrap();
    (found.blocks() * 512).saturating_sub(found.len().next_multiple_of(block))
}

#[test]
fn logs_reserve_no_more_disk_together_than_their_share() {
    let place = testing::dir();
    let dir = place.path().to_owned();
    testing::on_uring(move || {
        let dir = dir.clone();
        async move {
            let share = ONE_LOG_BYTES * 5 / 2;
            let context = LogContext::new(ContextLimits {
                preallocation_bytes: share,
                ..ContextLimits::default()
            });
            let mut logs = Vec::new();
            for partition in 0..LOGS {
                let log = open(&context, &dir, partition).await;
                write(&log).await;
                logs.push(log);
            }
            let each: Vec<u64> = (0..LOGS).map(|number| reserved(&dir, number)).collect();
            let (one, half) = (ONE_LOG_BYTES, ONE_LOG_BYTES / 2);
            assert_eq!(each, [one, one, half, 0, 0]);
            assert_eq!(context.preallocated_bytes(), share);

            // a log that closes gives its part back to the next one that grows
            logs.remove(0).close().await.unwrap();
            assert_eq!(reserved(&dir, 0), 0);
            assert_eq!(context.preallocated_bytes(), share - one);
            write(&logs[2]).await;
            assert_eq!(reserved(&dir, 3), one);

            // less of the disk is free: nothing is added
            context.limit_preallocation(one);
            logs.remove(0).close().await.unwrap();
            write(&logs[2]).await;
            assert_eq!(reserved(&dir, 4), 0);
        }
    });
}

//! What shards ask of each other: one enum of calls, one of replies, nothing generic.
//!
//! Everything here is owned and `Send`. A call for this very shard never becomes a message: the
//! methods of `Shard` await the same functions directly.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::controller::{ConfigUpdate, NewTopic, Refusal};
use crate::cluster::metadata::{Image, Topic};
use crate::group::requests::{GroupReply, GroupRequest};
use crate::log::log::NewBatch;
use crate::model::ids::{TopicId, TopicPartition};
use crate::model::offset::Offset;
use crate::partition::error::Error;
use crate::partition::partition::Appended;
use crate::partition::reads::{
    Available, EpochQuestion, FetchPart, Fetched, OffsetAnswer, OffsetQuestion,
};
use crate::shard::storage::Trouble;
use crate::telemetry::metrics::ShardSnapshot;

/// One batch for one partition. Parsed and CRC-checked by the shard that received it.
#[derive(Debug)]
pub struct AppendPart {
    /// Where it goes.
    pub partition: TopicPartition,
    /// The whole batch, alone in its memory, so that offsets are patched in place.
    pub batch: NewBatch,
    /// Broker time already put into it, or -1.
    pub log_append_time_ms: i64,
}

/// Size of one partition on disk (DescribeLogDirs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSize {
    /// Which partition.
    pub partition: TopicPartition,
    /// Bytes of log.
    pub size_bytes: u64,
}

/// CreatePartitions of one topic.
#[derive(Debug, Clone)]
pub struct PartitionsChange {
    /// Topic name.
    pub topic: String,
    /// The new count.
    pub count: i32,
    /// Brokers of each new partition.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// Changes that shard 0, the controller, carries out one at a time.
#[derive(Debug, Clone)]
pub enum ControlCall {
    /// Create topics, each on its own.
    CreateTopics {
        /// What to create.
        topics: Vec<NewTopic>,
        /// Check only.
        validate_only: bool,
    },
    /// Delete topics.
    DeleteTopics(Vec<TopicId>),
    /// Add partitions to topics.
    CreatePartitions {
        /// What to add.
        changes: Vec<PartitionsChange>,
        /// Check only.
        validate_only: bool,
    },
    /// Change the overrides of topics.
    ConfigureTopics {
        /// Topic name and change.
        changes: Vec<(String, ConfigUpdate)>,
        /// Check only.
        validate_only: bool,
    },
    /// Change the dynamic settings of the broker.
    ConfigureBroker {
        /// The change.
        update: ConfigUpdate,
        /// Check only.
        validate_only: bool,
    },
    /// Change the settings of a group.
    ConfigureGroup {
        /// The group's id.
        group: String,
        /// The change.
        update: ConfigUpdate,
        /// Check only.
        validate_only: bool,
    },
    /// The next block of producer ids.
    ReserveProducerIds,
}

/// Answers of the controller, in the order of what was asked.
#[derive(Debug, Clone)]
pub enum ControlReply {
    /// The topics as created.
    Topics(Vec<Result<Arc<Topic>, Refusal>>),
    /// Done or refused.
    Outcomes(Vec<Result<(), Refusal>>),
    /// First id of a block that nobody else gets.
    ProducerIds(Result<i64, Refusal>),
}

/// How many partitions are not served, or not all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unserved {
    /// Not at all.
    pub offline: usize,
    /// But for the damaged stretches of a sealed segment.
    pub damaged: usize,
}

/// A call from one shard to another.
#[derive(Debug)]
pub enum ShardCall {
    /// Append batches; the reply comes when each is durable or refused.
    Append(Vec<AppendPart>),
    /// How much is there to read.
    FetchSizes(Vec<FetchPart>),
    /// Read.
    Read(Vec<FetchPart>),
    /// Tell when any of these partitions reaches beyond the given offset, or changes otherwise.
    AwaitData {
        /// Names this wait, for `EndWait`.
        wait_id: u64,
        /// Partition and the high watermark that the asker has seen.
        seen: Vec<(TopicPartition, Offset)>,
        /// Not longer than this.
        wait: Duration,
    },
    /// The asker no longer waits.
    EndWait(u64),
    /// ListOffsets.
    Offsets(Vec<OffsetQuestion>),
    /// OffsetForLeaderEpoch.
    EpochEnds(Vec<EpochQuestion>),
    /// DeleteRecords: partition and new log start, -1 for the high watermark.
    DeleteRecords(Vec<(TopicPartition, i64)>),
    /// Sizes of all partitions at home there.
    Sizes,
    /// A new image; the reply comes when it is in force there.
    Publish(Arc<Image>),
    /// To the controller.
    Control(ControlCall),
    /// To a group coordinator.
    Group(GroupRequest),
    /// A snapshot of the metrics.
    Metrics,
    /// What keeps that shard from being healthy.
    Health,
    /// What was found about the data directory, which is one for all shards.
    Storage(Trouble),
    /// Answered when all input that has arrived there has been handed to its handlers.
    Drain,
    /// One more connection of this address; refused when so many are there already.
    EnterAddress(IpAddr, u32),
    /// A connection of this address has ended.
    LeaveAddress(IpAddr),
    /// The reply to the call in that slot of the asker, see `mesh` [late-reply].
    Late(usize, ShardReply),
}

impl ShardCall {
    /// Whether its answer may have to wait for other clients.
    pub(crate) fn may_last(&self) -> bool {
        matches!(
            self,
            Self::AwaitData { .. } | Self::Group(GroupRequest::Join(_) | GroupRequest::Sync(_))
        )
    }
}

/// Its reply; the variants match those of [`ShardCall`].
#[derive(Debug)]
pub enum ShardReply {
    /// One outcome a part.
    Appended(Vec<Result<Appended, Error>>),
    /// One a part.
    FetchSizes(Vec<Result<Available, Error>>),
    /// One a part.
    Read(Vec<Result<Fetched, Error>>),
    /// Something may have changed, or the time is over.
    DataOrDeadline,
    /// Done.
    Done,
    /// One a question.
    Offsets(Vec<Result<OffsetAnswer, Error>>),
    /// `(epoch, end offset)`, one a question.
    EpochEnds(Vec<Result<(i32, i64), Error>>),
    /// New log starts.
    LogStarts(Vec<Result<Offset, Error>>),
    /// All partitions at home there.
    Sizes(Vec<PartitionSize>),
    /// Of the controller.
    Control(ControlReply),
    /// Of a coordinator.
    Group(GroupReply),
    /// The snapshot.
    Metrics(Box<ShardSnapshot>),
    /// Whether the connection was counted.
    IsEntered(bool),
    /// Of the storage, if there is one; and partitions at home there.
    Health(Option<String>, Unserved),
}

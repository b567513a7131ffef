//! What the coordinator needs of a partition of `__consumer_offsets`: append, read, move the start.
//!
//! The coordinator does not know partitions; the shard gives it an implementation of this trait
//! over its own. The interface speaks whole record batches, as the rest of the broker does.
//! Runs on: the partition's home shard.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::model::error_code::ErrorCode;
use crate::model::offset::Offset;

/// A future of this shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Why an append, a read or a new log start failed. The outcome of a failed append is unknown:
/// it may be found after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OffsetsLogError {
    /// The partition cannot be written now; later it may be.
    #[error("the offsets partition cannot be written now")]
    Unavailable,
    /// The shard is not, or no longer, the home of the partition, or its storage has failed.
    #[error("the offsets partition has failed or is not here")]
    NotHere,
    /// The batch is above the partition's limit.
    #[error("the batch is larger than the offsets partition takes")]
    TooLarge,
}

impl OffsetsLogError {
    /// What a member is told.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Unavailable => ErrorCode::CoordinatorNotAvailable,
            Self::NotHere => ErrorCode::NotCoordinator,
            Self::TooLarge => ErrorCode::UnknownServerError,
        }
    }

    /// What somebody who commits offsets is told.
    pub const fn commit_code(self) -> ErrorCode {
        match self {
            Self::TooLarge => ErrorCode::InvalidCommitOffsetSize,
            other => other.code(),
        }
    }
}

/// A part of the log.
#[derive(Clone, Debug)]
pub struct ReadChunk {
    /// Whole record batches; the first one may begin below the offset asked for.
    pub batches: Bytes,
    /// Where the log ended when it was read (exclusive). At or above the last batch's end.
    pub end_offset: Offset,
}

/// The log of the offsets partitions that are at home on this shard.
pub trait OffsetsLog {
    /// Appends one record batch (base offset 0, to be assigned) and resolves, with the base offset
    /// it got, when it is durable. The coordinator has one append under way for each partition.
    fn append(
        &self,
        partition: i32,
        batch: Bytes,
    ) -> LocalFuture<'_, Result<Offset, OffsetsLogError>>;

    /// Reads from `from` on, about a megabyte at a time; `None`: from the log start. Without any
    /// batch only at the end of the log.
    fn read(
        &self,
        partition: i32,
        from: Option<Offset>,
    ) -> LocalFuture<'_, Result<ReadChunk, OffsetsLogError>>;

    /// Makes `start` the log start: what is below may be deleted. Resolves when that is durable.
    fn advance_log_start(
        &self,
        partition: i32,
        start: Offset,
    ) -> LocalFuture<'_, Result<(), OffsetsLogError>>;
}

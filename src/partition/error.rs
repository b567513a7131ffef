//! Why a partition refuses an append, a read or a question.
//!
//! Everything here crosses the mesh, so it is owned and small. `server::errors` turns each variant
//! into Kafka's code.

use crate::journal::error::JournalError;
use crate::log::error as log;
use crate::log::producer_state::ProducerError;
use crate::model::offset::Offset;

/// A refusal by one partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The partition is not (or no longer) at home on the shard that was asked.
    #[error("no such partition")]
    NotFound,
    /// The partition was taken offline; the reason was logged when that happened.
    #[error("the partition is offline: {0}")]
    Offline(String),
    /// The journal or a segment could not be written: nothing is acknowledged until a restart.
    #[error("the data directory failed: {0}")]
    Storage(String),
    /// The disk is full: produce is refused, everything else goes on.
    #[error("the disk is full")]
    DiskFull,
    /// The shard is stopping.
    #[error("the broker is stopping")]
    Stopping,
    /// KIP-320: the client's leader epoch is older than ours.
    #[error("leader epoch {got} is older than {current}")]
    FencedLeaderEpoch {
        /// What the client said.
        got: i32,
        /// Ours.
        current: i32,
    },
    /// KIP-320: the client's leader epoch is newer than ours.
    #[error("leader epoch {got} is newer than {current}")]
    UnknownLeaderEpoch {
        /// What the client said.
        got: i32,
        /// Ours.
        current: i32,
    },
    /// Below the log start or beyond the log end.
    #[error("offset {got} is outside {start}..={end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        got: Offset,
        /// First there is.
        start: Offset,
        /// One past the last there is.
        end: Offset,
    },
    /// Larger than `max.message.bytes` of the topic.
    #[error("the batch has {size_bytes} bytes, the topic takes at most {limit_bytes}")]
    MessageTooLarge {
        /// Bytes of the batch.
        size_bytes: u64,
        /// `max.message.bytes`.
        limit_bytes: u64,
    },
    /// Larger than `segment.bytes` of the topic.
    #[error("the batch has {size_bytes} bytes, a segment of the topic {limit_bytes}")]
    RecordListTooLarge {
        /// Bytes of the batch.
        size_bytes: u64,
        /// `segment.bytes`.
        limit_bytes: u64,
    },
    /// Outside `message.timestamp.before.max.ms` / `after.max.ms` (KIP-937).
    #[error("timestamp {timestamp_ms} is outside the range that the topic takes")]
    InvalidTimestamp {
        /// The offending one.
        timestamp_ms: i64,
    },
    /// A record breaks a rule of the topic; numbers of the records within the batch (KIP-467).
    #[error("invalid record: {reason}")]
    InvalidRecord {
        /// For the client.
        reason: String,
        /// Index and reason, a record each.
        records: Vec<(i32, String)>,
    },
    /// The bytes are not a batch or do not match their checksum.
    #[error("corrupt batch: {0}")]
    CorruptBatch(String),
    /// The codec is unknown, or the version of Produce does not know it.
    #[error("unsupported compression type")]
    UnsupportedCompression,
    /// Idempotence: sequence gap.
    #[error("producer {producer_id}: expected sequence {expected}, got {got}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// Next in order.
        expected: i32,
        /// Sent.
        got: i32,
    },
    /// Idempotence: the epoch is older than the newest seen.
    #[error("producer {producer_id}: epoch {got} is older than {current}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// Sent.
        got: i16,
        /// Newest seen.
        current: i16,
    },
    /// Transactional or control batch: not served yet.
    #[error("transactions are not served")]
    TransactionsNotServed,
    /// No more producers are remembered; those that are known go on.
    #[error("no more idempotent producers are taken, the partition has {known}: reuse them")]
    TooManyProducers {
        /// Those of the partition.
        known: usize,
    },
    /// The timestamp form of the question is not served by this partition.
    #[error("unsupported for this partition")]
    Unsupported,
}

impl From<ProducerError> for Error {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::Epoch {
                producer,
                got,
                current,
            } => Self::InvalidProducerEpoch {
                producer_id: producer.get(),
                got: got.get(),
                current: current.get(),
            },
            ProducerError::Sequence {
                producer,
                got,
                expected,
            } => Self::OutOfOrderSequence {
                producer_id: producer.get(),
                expected,
                got,
            },
            ProducerError::TooMany { known, .. } => Self::TooManyProducers { known },
            ProducerError::TransactionOpen { .. } | ProducerError::CoordinatorEpoch { .. } => {
                Self::TransactionsNotServed
            }
        }
    }
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Self {
        match error {
            log::Error::OffsetOutOfRange {
                requested,
                log_start,
                log_end,
            } => Self::OffsetOutOfRange {
                got: requested,
                start: log_start,
                end: log_end,
            },
            log::Error::Producer(error) => error.into(),
            log::Error::BatchTooLarge {
                size_bytes,
                segment_bytes,
            } => Self::RecordListTooLarge {
                size_bytes: u64::try_from(size_bytes).unwrap_or(u64::MAX),
                limit_bytes: segment_bytes,
            },
            log::Error::Batch(error) => Self::CorruptBatch(error.to_string()),
            error if error.is_disk_full() => Self::DiskFull,
            log::Error::Io(error) => Self::Storage(error.to_string()),
            error => Self::Offline(error.to_string()),
        }
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Closed => Self::Stopping,
            JournalError::TooLarge { len, max } => Self::MessageTooLarge {
                size_bytes: u64::try_from(len).unwrap_or(u64::MAX),
                limit_bytes: u64::try_from(max).unwrap_or(u64::MAX),
            },
            error if error.is_disk_full() => Self::DiskFull,
            error @ (JournalError::Failed(_)
            | JournalError::Io(_)
            | JournalError::Config { .. }) => Self::Storage(error.to_string()),
        }
    }
}

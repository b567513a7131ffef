//! What can go wrong with a log, as values that the layers above match on.
//!
//! Pure: no async, no clock, no IO.
//! Promises: every damage error names the file and the position; every variant has one client
//! answer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::CheckpointError;
use super::producer_state::ProducerError;
use crate::model::ids::{LeaderEpoch, TopicId, TopicPartition};
use crate::model::offset::{FilePosition, Offset};
use crate::model::record::RecordError;
use crate::model::record_batch::BatchError;

/// Damage that was found in a file of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The bytes are not a batch.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// The batch's records are not records.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The batch's checksum does not fit its bytes.
    #[error("the record batch has another checksum than its header says")]
    Checksum,
    /// The batch's offset is not the one that belongs here.
    #[error("the record batch starts at offset {got}, expected at least {expected}")]
    OffsetOrder {
        /// Lowest offset that could follow.
        expected: Offset,
        /// The batch's base offset.
        got: Offset,
    },
    /// The batch reaches into the next segment.
    #[error("the record batch ends with offset {last}, its segment before {end}")]
    BeyondSegment {
        /// Of the batch, inclusive.
        last: Offset,
        /// Where the next segment begins.
        end: Offset,
    },
    /// Another leader than that of its time wrote the batch.
    #[error("the record batch has leader epoch {got}, expected {expected}")]
    Epoch {
        /// The epoch that wrote this offset.
        expected: LeaderEpoch,
        /// The batch's own.
        got: LeaderEpoch,
    },
    /// The disk does not give the bytes.
    #[error("the disk cannot read what is here")]
    Unreadable,
    /// The file is shorter than it was known to be.
    #[error("the file ends {missing} bytes early")]
    Short {
        /// Bytes that are missing.
        missing: u64,
    },
    /// Records are not where they have to be.
    #[error("the records from offset {from} on are missing, what is there goes on at {next}")]
    MissingRecords {
        /// The first that is missing.
        from: Offset,
        /// The next that is there.
        next: Offset,
    },
    /// The file, or one of the same partition before it, is not there.
    #[error("the segment is missing: the first one that is there begins at offset {first}")]
    MissingSegment {
        /// Where the segments begin.
        first: Offset,
    },
    /// The file is a block of the journal that was durable, and records of the partition may have
    /// been in it.
    #[error("a durable block of the journal is damaged, and records may have been in it")]
    Journal,
    /// The journal's bytes do not join those in the segment.
    #[error("bytes are missing between here and position {next}, where the journal goes on")]
    Gap {
        /// Position of the next bytes that exist.
        next: FilePosition,
    },
}

/// Why an operation on a log failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no; the message names the path.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// Acknowledged data is damaged; the partition is offline.
    #[error("{path}, position {position}: {damage}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: FilePosition,
        /// What is wrong there.
        damage: Damage,
    },
    /// Found at an earlier start, in these words; a decision is awaited.
    #[error("{0}")]
    Held(Arc<str>),
    /// An earlier failure keeps the log closed to what was asked.
    #[error("the partition is offline: {0}")]
    Offline(Arc<Error>),
    /// The offset is not in the log.
    #[error("offset {requested} is outside of {log_start}..={log_end}")]
    OffsetOutOfRange {
        /// What was asked for.
        requested: Offset,
        /// First readable offset.
        log_start: Offset,
        /// Exclusive end.
        log_end: Offset,
    },
    /// The producer may not append this batch.
    #[error("{0}")]
    Producer(#[from] ProducerError),
    /// The batch does not fit into a segment.
    #[error("a batch of {size_bytes} bytes does not fit into a segment of {segment_bytes}")]
    BatchTooLarge {
        /// Of the batch.
        size_bytes: usize,
        /// `segment.bytes`.
        segment_bytes: u64,
    },
    /// The batch is no batch.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// A record of a batch cannot be read.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// A checkpoint record that is damaged.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The journal has an entry of a partition that is neither live nor deleted.
    #[error("the journal holds data of partition {topic_partition}, which nobody knows")]
    UnknownPartition {
        /// Whose entry it is.
        topic_partition: TopicPartition,
    },
    /// The journal has an entry of a kind that this version does not write.
    #[error("the journal holds an entry of an unsupported kind for partition {topic_partition}")]
    UnsupportedEntry {
        /// Whose entry it is.
        topic_partition: TopicPartition,
    },
    /// The directory belongs to another topic of the same name.
    #[error("{path} belongs to topic id {found}, expected {expected}")]
    ForeignTopic {
        /// The directory.
        path: PathBuf,
        /// In `partition.metadata`.
        found: TopicId,
        /// Of the topic that is to be opened.
        expected: TopicId,
    },
    /// Written by a later version of this program.
    #[error("{path} has format version {found}, this program knows {known}")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest known one.
        known: u16,
    },
}

impl Error {
    /// Damage at a place.
    pub fn corrupt(
        path: impl Into<PathBuf>,
        position: FilePosition,
        damage: impl Into<Damage>,
    ) -> Self {
        Self::Corrupt {
            path: path.into(),
            position,
            damage: damage.into(),
        }
    }

    /// Whether it is about the files of one partition, and no other is affected.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. }
            | Self::ForeignTopic { .. }
            | Self::NewerFormat { .. }
            | Self::Held(_) => true,
            Self::Offline(error) => error.is_damage(),
            _ => false,
        }
    }

    /// Whether no restored file can cure it: blocks of the journal are lost.
    pub fn needs_decision(&self) -> bool {
        let Self::Corrupt { damage, .. } = self else {
            return matches!(self, Self::Held(_));
        };
        *damage == Damage::Journal
    }

    /// Whether room on the disk would cure it.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io(error) => {
                matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            Self::Offline(error) => error.is_disk_full(),
            _ => false,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

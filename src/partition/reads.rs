//! Questions that a partition answers: what there is to fetch, which offset belongs to a time.
//!
//! Plain values that cross the mesh. Kafka's shapes and special numbers (ListOffsets, KIP-74,
//! KIP-320, KIP-595) are named at each field.

use crate::log::error as log;
use crate::log::read::ReadPlan;
use crate::model::ids::TopicPartition;
use crate::model::offset::Offset;
use crate::partition::error::Error;
use crate::partition::partition::Partition;

/// One partition of a fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchPart {
    /// Which one.
    pub partition: TopicPartition,
    /// First offset wanted.
    pub fetch_offset: Offset,
    /// What the client believes the leader epoch to be; -1: it does not know (KIP-320).
    pub current_leader_epoch: i32,
    /// Epoch of the last record the client has; -1: none.
    pub last_fetched_epoch: i32,
    /// At most so much from this partition.
    pub size_bytes_max: usize,
    /// Whether the first batch is due even if it is larger than `size_bytes_max` (KIP-74).
    pub must_progress: bool,
}

/// What a partition has for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Bytes between the fetch offset and the high watermark.
    pub size_bytes: u64,
    /// Consumers read below this.
    pub high_watermark: Offset,
    /// First readable offset.
    pub log_start: Offset,
    /// `(epoch, end offset)` where the client's log leaves ours (KIP-595).
    pub diverging: Option<(i32, Offset)>,
}

/// What a partition gives to a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// State at the time of reading.
    pub available: Available,
    /// The batches.
    pub plan: ReadPlan,
}

/// A question about offsets (ListOffsets).
#[derive(Debug, Clone, Copy)]
pub struct OffsetQuestion {
    /// Which partition.
    pub partition: TopicPartition,
    /// KIP-320 check.
    pub current_leader_epoch: i32,
    /// Milliseconds, or Kafka's negative numbers: -1 latest, -2 earliest, -3 largest timestamp,
    /// -4 earliest local, -5 latest tiered, -6 earliest that waits for an upload.
    pub timestamp: i64,
}

impl OffsetQuestion {
    /// The end of a partition as consumers see it.
    pub const fn latest(partition: TopicPartition) -> Self {
        Self {
            partition,
            current_leader_epoch: -1,
            timestamp: LATEST,
        }
    }
}

/// Its answer; offset and timestamp are -1 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAnswer {
    /// The offset found.
    pub offset: i64,
    /// Timestamp of that record.
    pub timestamp: i64,
    /// Leader epoch of that record.
    pub leader_epoch: i32,
}

impl OffsetAnswer {
    /// No record fits.
    pub const NONE: Self = Self {
        offset: -1,
        timestamp: -1,
        leader_epoch: -1,
    };
}

/// A question about the end of a leader epoch (OffsetForLeaderEpoch).
#[derive(Debug, Clone, Copy)]
pub struct EpochQuestion {
    /// Which partition.
    pub partition: TopicPartition,
    /// KIP-320 check.
    pub current_leader_epoch: i32,
    /// The epoch asked for.
    pub leader_epoch: i32,
}

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

impl Partition {
    /// Reads batches for a fetch: whole ones, the first may begin below the offset asked for.
    pub async fn read(&self, part: &FetchPart) -> Result<Fetched, Error> {
        let available = self.available(part)?;
        let (start, end) = (part.fetch_offset, available.high_watermark);
        let plan = self
            .log()
            .read(start, part.size_bytes_max, end, part.must_progress)
            .await
            .map_err(told)?;
        Ok(Fetched { available, plan })
    }

    /// ListOffsets for one partition.
    pub async fn offset_for(&self, question: &OffsetQuestion) -> Result<OffsetAnswer, Error> {
        self.check_open()?;
        self.check_epoch(question.current_leader_epoch)?;
        let offsets = self.log().offsets();
        let at = |offset: Offset| OffsetAnswer {
            offset: offset.get(),
            timestamp: -1,
            leader_epoch: self.log().epoch_of(offset).map_or(-1, |epoch| epoch.0),
        };
        let end = offsets.high_watermark;
        let found = match question.timestamp {
            LATEST => return Ok(self.latest(end)),
            EARLIEST | EARLIEST_LOCAL => return Ok(at(offsets.log_start)),
            // without tiered storage nothing is uploaded and nothing waits for it
            LATEST_TIERED | EARLIEST_PENDING_UPLOAD => return Ok(OffsetAnswer::NONE),
            MAX_TIMESTAMP => self.log().max_timestamp(end).await.map_err(told)?,
            timestamp => {
                let found = self.log().offset_for_timestamp(timestamp, end).await;
                found.map_err(told)?
            }
        };
        Ok(found.map_or(OffsetAnswer::NONE, |found| OffsetAnswer {
            offset: found.offset.get(),
            timestamp: found.timestamp,
            leader_epoch: found.leader_epoch.0,
        }))
    }

    /// The end, with the epoch that the next record will have, as Kafka answers it.
    fn latest(&self, high_watermark: Offset) -> OffsetAnswer {
        OffsetAnswer {
            offset: high_watermark.get(),
            timestamp: -1,
            leader_epoch: self.leader_epoch().0,
        }
    }
}

/// Damage is told as such, and not as an offline partition: the partition does serve what is around
/// it.
fn told(error: log::Error) -> Error {
    match error {
        log::Error::Corrupt { .. } => Error::CorruptBatch(error.to_string()),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_that_a_read_or_a_search_meets_does_not_make_the_partition_offline() {
        let damaged = log::Error::corrupt("a", 7, log::Damage::Checksum);
        assert!(matches!(told(damaged), Error::CorruptBatch(_)));
        let io = log::Error::from(std::io::Error::from(std::io::ErrorKind::OutOfMemory));
        assert!(!matches!(told(io), Error::CorruptBatch(_)));
    }
}

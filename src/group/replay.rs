//! Reads record batches of `__consumer_offsets` back into changes, in the order of the log.
//!
//! Pure: no async, no clock, no IO.
//! Transactional batches count only once their commit marker is read; what an unfinished or aborted
//! transaction wrote does not count. Corelog writes none here; a directory copied from Kafka may
//! hold them.

use std::collections::BTreeMap;

use super::codec::CodecError;
use super::record::GroupRecord;
use crate::model::ids::ProducerId;
use crate::model::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use crate::model::offset::Offset;
use crate::model::record::{self, RecordError};
use crate::model::record_batch::{self, BatchError, BatchHeader};

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A batch is damaged.
    #[error("a record batch at or behind offset {} is damaged: {source}", at.get())]
    Batch {
        /// End of the last good batch.
        at: Offset,
        /// What is wrong.
        source: BatchError,
    },
    /// Its checksum is wrong.
    #[error("the record batch at offset {} fails its checksum", at.get())]
    Checksum {
        /// Base offset.
        at: Offset,
    },
    /// Its records are damaged.
    #[error("the records of the batch at offset {} are damaged: {source}", at.get())]
    Records {
        /// Base offset.
        at: Offset,
        /// What is wrong.
        source: RecordError,
    },
    /// A record is not one of this topic.
    #[error("a record of the batch at offset {} cannot be read: {source}", at.get())]
    Codec {
        /// Base offset.
        at: Offset,
        /// What is wrong.
        source: CodecError,
    },
}

/// The reader; it remembers unfinished transactions from one part of the log to the next.
#[derive(Debug, Default)]
pub struct Replay {
    next_offset: Option<Offset>,
    unfinished: BTreeMap<ProducerId, Vec<GroupRecord>>,
}

/// Type of a control record: the second half of its key.
const COMMIT_MARKER: [u8; 2] = [0, 1];
const ABORT_MARKER: [u8; 2] = [0, 0];

impl Replay {
    /// End of the last batch read; `None`: none has been read.
    pub const fn next_offset(&self) -> Option<Offset> {
        self.next_offset
    }

    /// Reads whole batches and passes on what they change. Batches already read are passed over.
    pub fn read(
        &mut self,
        bytes: &[u8],
        mut apply: impl FnMut(GroupRecord),
    ) -> Result<(), ReplayError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.next_offset.unwrap_or(Offset::ZERO);
            let (header, batch, after) = BatchHeader::parse_whole(rest)
                .map_err(|source| ReplayError::Batch { at, source })?;
            rest = after;
            if self
                .next_offset
                .is_some_and(|next| header.next_offset() <= next)
            {
                continue;
            }
            self.read_batch(&header, batch, &mut apply)?;
            self.next_offset = Some(header.next_offset());
        }
        Ok(())
    }

    fn read_batch(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        apply: &mut impl FnMut(GroupRecord),
    ) -> Result<(), ReplayError> {
        let at = header.base_offset;
        if !record_batch::check_crc(batch) {
            return Err(ReplayError::Checksum { at });
        }
        let damaged = |source| ReplayError::Records { at, source };
        let payload =
            record::payload(header, batch, DECOMPRESSED_BATCH_BYTES_MAX).map_err(damaged)?;
        for read in record::iter_records(&payload, header.record_count) {
            let read = read.map_err(damaged)?;
            // Without a key it is nothing of ours; Kafka passes over it too.
            let Some(key) = read.key else { continue };
            if header.is_control() {
                self.on_marker(header.producer_id, key, apply);
                continue;
            }
            let change = GroupRecord::decode(key, read.value)
                .map_err(|source| ReplayError::Codec { at, source })?;
            match change {
                Some(change) if header.is_transactional() => {
                    self.unfinished
                        .entry(header.producer_id)
                        .or_default()
                        .push(change);
                }
                Some(change) => apply(change),
                None => {}
            }
        }
        Ok(())
    }

    fn on_marker(&mut self, producer: ProducerId, key: &[u8], apply: &mut impl FnMut(GroupRecord)) {
        let kind = key.get(2..4);
        if kind == Some(&COMMIT_MARKER) {
            self.unfinished
                .remove(&producer)
                .into_iter()
                .flatten()
                .for_each(apply);
        } else if kind == Some(&ABORT_MARKER) {
            self.unfinished.remove(&producer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::offsets::CommittedOffset;
    use crate::model::batch_builder::BatchBuilder;
    use crate::model::compression::Codec;
    use crate::model::ids::ProducerEpoch;

    fn commit(group: &str, offset: i64) -> GroupRecord {
        let value = CommittedOffset {
            offset,
            leader_epoch: 0,
            metadata: "".into(),
            commit_timestamp_ms: 1,
            expire_timestamp_ms: None,
        };
        GroupRecord::offset(group, "t", 0, Some(value))
    }

    fn push(builder: &mut BatchBuilder, record: &GroupRecord) {
        let encoded = record.encode().expect("short strings");
        builder.push(1, Some(&encoded.key), encoded.value.as_deref());
    }

    fn transactional(base: i64, producer: i64, record: &GroupRecord) -> Vec<u8> {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset::new(base))
            .producer(ProducerId(producer), ProducerEpoch(0), 0)
            .transactional();
        push(&mut builder, record);
        builder.build()
    }

    fn marker(base: i64, producer: i64, kind: u8) -> Vec<u8> {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset::new(base))
            .producer(ProducerId(producer), ProducerEpoch(0), -1)
            .transactional()
            .control();
        builder.push(1, Some(&[0, 0, 0, kind]), Some(&[0, 0, 0, 0, 0, 0]));
        builder.build()
    }

    fn read_all(parts: &[Vec<u8>]) -> Vec<GroupRecord> {
        let mut replay = Replay::default();
        let mut read = Vec::new();
        for part in parts {
            replay
                .read(part, |record| read.push(record))
                .expect("good batches");
        }
        read
    }

    #[test]
    fn compressed_batches_are_read_like_others() {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new().codec(codec);
            push(&mut builder, &commit("g", 1));
            push(&mut builder, &commit("h", 2));
            assert_eq!(
                read_all(&[builder.build()]),
                [commit("g", 1), commit("h", 2)]
            );
        }
    }

    #[test]
    fn a_batch_met_twice_counts_once() {
        let mut builder = BatchBuilder::new();
        push(&mut builder, &commit("g", 1));
        let batch = builder.build();
        assert_eq!(read_all(&[batch.clone(), batch]), [commit("g", 1)]);
    }

    #[test]
    fn offsets_of_a_transaction_count_from_its_commit_on() {
        let read = read_all(&[
            transactional(0, 7, &commit("g", 1)),
            transactional(1, 8, &commit("g", 2)),
            marker(2, 8, 1),
            transactional(3, 9, &commit("g", 3)),
            marker(4, 7, 0),
        ]);
        assert_eq!(read, [commit("g", 2)]);
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut builder = BatchBuilder::new();
        push(&mut builder, &commit("g", 1));
        let mut batch = builder.build();
        let last = batch.len() - 1;
        batch[last] ^= 1;
        let outcome = Replay::default().read(&batch, |_| ());
        assert!(matches!(outcome, Err(ReplayError::Checksum { .. })));
        batch.truncate(last);
        let outcome = Replay::default().read(&batch, |_| ());
        assert!(matches!(outcome, Err(ReplayError::Batch { .. })));
    }
}

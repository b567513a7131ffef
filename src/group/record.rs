//! One change of what the coordinator must not forget: a record of `__consumer_offsets`.
//!
//! Pure: no async, no clock, no IO.
//! Promises: what is applied to the groups when an append is durable is what a restart reads.

use bytes::Bytes;

use super::codec::{self, CodecError, GroupValue, Key};
use super::offsets::CommittedOffset;
use crate::model::batch_builder::BatchBuilder;

/// Bytes that a record takes in its batch beside key and value: lengths, deltas, attributes.
const RECORD_OVERHEAD_BYTES: usize = 12;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An offset is committed, or gone.
    Offset {
        /// Topic name.
        topic: String,
        /// Partition of that topic.
        partition: i32,
        /// `None`: gone.
        value: Option<CommittedOffset>,
    },
    /// The group's metadata is stored, or gone.
    Group {
        /// The encoded value; `None`: gone.
        value: Option<Bytes>,
    },
}

/// A change of one group, as its record is keyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group.
    pub group: String,
    /// What changes.
    pub change: Change,
}

/// Key and value as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedRecord {
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl EncodedRecord {
    /// Bytes that it takes in a batch, roughly.
    pub fn size_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl GroupRecord {
    /// The change of an offset.
    pub fn offset(
        group: impl Into<String>,
        topic: impl Into<String>,
        partition: i32,
        value: Option<CommittedOffset>,
    ) -> Self {
        let change = Change::Offset {
            topic: topic.into(),
            partition,
            value,
        };
        Self {
            group: group.into(),
            change,
        }
    }

    /// The group's metadata is stored.
    pub fn metadata(group: impl Into<String>, value: &GroupValue) -> Result<Self, CodecError> {
        let value = Some(Bytes::from(codec::encode_group_value(value)?));
        Ok(Self {
            group: group.into(),
            change: Change::Group { value },
        })
    }

    /// The group's metadata is gone.
    pub fn tombstone(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            change: Change::Group { value: None },
        }
    }

    /// Bytes that it takes in a batch, at most.
    pub fn size_bytes_max(&self) -> usize {
        // Versions, lengths and numbers of key and value together stay below this.
        const FIXED_BYTES_MAX: usize = 64;
        let varying = match &self.change {
            Change::Offset { topic, value, .. } => {
                topic.len() + value.as_ref().map_or(0, |value| value.metadata.len())
            }
            Change::Group { value } => value.as_ref().map_or(0, Bytes::len),
        };
        FIXED_BYTES_MAX + self.group.len() + varying
    }

    /// As it is written.
    pub fn encode(&self) -> Result<EncodedRecord, CodecError> {
        Ok(match &self.change {
            Change::Offset {
                topic,
                partition,
                value,
            } => EncodedRecord {
                key: codec::encode_offset_key(&self.group, topic, *partition)?,
                value: value
                    .as_ref()
                    .map(codec::encode_offset_value)
                    .transpose()?
                    .map(Into::into),
            },
            Change::Group { value } => EncodedRecord {
                key: codec::encode_group_key(&self.group)?,
                value: value.clone(),
            },
        })
    }

    /// As it is read; `None` for records of other protocols.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, CodecError> {
        Ok(match codec::decode_key(key)? {
            Key::Offset {
                group,
                topic,
                partition,
            } => {
                let value = value.map(codec::decode_offset_value).transpose()?;
                Some(Self::offset(group, topic, partition, value))
            }
            Key::Group { group } => {
                if let Some(value) = value {
                    codec::decode_group_value(value)?;
                }
                let value = value.map(Bytes::copy_from_slice);
                Some(Self {
                    group,
                    change: Change::Group { value },
                })
            }
            Key::Other { .. } => None,
        })
    }
}

/// One batch of these records.
pub fn encode_batch(records: &[EncodedRecord], timestamp_ms: i64) -> Bytes {
    let mut builder = BatchBuilder::new();
    for record in records {
        builder.push(timestamp_ms, Some(&record.key), record.value.as_deref());
    }
    Bytes::from(builder.build())
}

/// Bytes that a committed offset takes in the log, roughly.
pub(super) fn offset_size_bytes(group: &str, topic: &str, value: &CommittedOffset) -> u64 {
    // key: version, two counted strings, partition; value: version, offset, epoch, string, time
    let key = 2 + 2 + group.len() + 2 + topic.len() + 4;
    let value = 2 + 8 + 4 + 2 + value.metadata.len() + 8;
    size(key + value)
}

/// Bytes that a group's metadata takes in the log, roughly.
pub(super) fn metadata_size_bytes(group: &str, value: &[u8]) -> u64 {
    size(2 + 2 + group.len() + value.len())
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes + RECORD_OVERHEAD_BYTES).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> CommittedOffset {
        CommittedOffset {
            offset: 42,
            leader_epoch: 3,
            metadata: "note".into(),
            commit_timestamp_ms: 1_000,
            expire_timestamp_ms: None,
        }
    }

    #[test]
    fn records_read_back_as_they_were_written() {
        let metadata = GroupValue {
            protocol_type: "consumer".to_owned(),
            generation_id: 3,
            protocol: None,
            leader: None,
            state_timestamp_ms: 5,
            members: Vec::new(),
        };
        let records = [
            GroupRecord::offset("g", "t", 1, Some(value())),
            GroupRecord::offset("g", "t", 1, None),
            GroupRecord::metadata("g", &metadata).expect("short strings"),
            GroupRecord::tombstone("g"),
        ];
        for record in records {
            let encoded = record.encode().expect("short strings");
            let read = GroupRecord::decode(&encoded.key, encoded.value.as_deref());
            assert_eq!(read, Ok(Some(record)));
        }
    }

    #[test]
    fn a_batch_of_an_offset_and_two_tombstones_has_kafkas_bytes() {
        let records = [
            GroupRecord::offset("grp", "top", 7, Some(value())),
            GroupRecord::offset("grp", "top", 7, None),
            GroupRecord::tombstone("grp"),
        ];
        let encoded = records.map(|record| record.encode().expect("short strings"));
        let batch = encode_batch(&encoded, 0x0102_0304);
        let offset_key = b"\x00\x01\x00\x03grp\x00\x03top\x00\x00\x00\x07";
        let mut body = Vec::new();
        // attributes, last offset delta, both timestamps, no producer, three records
        body.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 2, 3, 4]);
        body.extend_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4]);
        body.extend_from_slice(&[0xff; 14]);
        body.extend_from_slice(&[0, 0, 0, 3]);
        // each: length, attributes, timestamp and offset delta, key, value, headers; zigzag
        body.extend_from_slice(&[100, 0, 0, 0, 32]);
        body.extend_from_slice(offset_key);
        body.extend_from_slice(&[56, 0, 3, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 3, 0, 4]);
        body.extend_from_slice(b"note\0\0\0\0\0\0\x03\xe8\0");
        body.extend_from_slice(&[44, 0, 0, 2, 32]);
        body.extend_from_slice(offset_key);
        body.extend_from_slice(&[1, 0]);
        body.extend_from_slice(&[26, 0, 0, 4, 14]);
        body.extend_from_slice(b"\x00\x02\x00\x03grp");
        body.extend_from_slice(&[1, 0]);
        // base offset, length from the leader epoch on, leader epoch, magic, checksum
        let length = u8::try_from(body.len() + 9).expect("short");
        let mut expected = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length];
        expected.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 2]);
        expected.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        expected.extend_from_slice(&body);
        assert_eq!(batch, expected);
    }

    #[test]
    fn records_of_newer_protocols_are_passed_over() {
        assert_eq!(GroupRecord::decode(&[0, 3, 0, 1, b'g'], None), Ok(None));
    }

    #[test]
    fn sizes_foretell_what_is_written() {
        let record = GroupRecord::offset("group", "topic", 1, Some(value()));
        let written = record.encode().expect("short strings").size_bytes();
        let foretold = offset_size_bytes("group", "topic", &value());
        assert_eq!(u64::try_from(written).expect("small"), foretold);
        assert!(record.size_bytes_max() >= written);
    }
}

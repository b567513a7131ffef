//! What is destaged up to where: the small file that tells replay where to start.
//!
//! Pure: no async, no clock, no IO. (`checkpoint_file.rs` reads and replaces it.)
//! Promises: `decode` is total; a checkpoint is as it was written, or it is refused whole.
//! Invariants: [checkpoint-first] the bytes of the ring before the anchor are overwritten only
//! after the checkpoint that names the anchor is durable.
//! [run-raised] a run id is in a durable checkpoint before the first block that carries it.
//!
//! Little-endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CLJC` |
//! | 4 | 2 | format version, 1 |
//! | 6 | 1 | state: 1 running (replay from the anchor), 2 stopped (nothing to replay) |
//! | 7 | 1 | zero |
//! | 8 | 8 | ring id |
//! | 16 | 8 | run id |
//! | 24 | 8 | anchor: sequence of the block that replay starts with |
//! | 32 | 8 | anchor: its place in the file; if it did not fit there, it begins another file |
//! | 40 | 4 | anchor: number of the file |
//! | 44 | 4 | anchor: checksum of the block before it |
//! | 48 | 4 | number of partition records |
//! | 52 | 4 | bytes of all partition records |
//! | 56 | 4 | files that the ring had then, 0 if that is not known |
//! | 60 | 4 | CRC-32C of everything else |
//! | 64 | | partition records |
//!
//! Partition record: topic id (16), partition (4), length (4), that many bytes that the log wrote
//! and the journal does not look into.

use bytes::Bytes;
use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::journal::block::{Link, RingId, RunId, VERSION};
use crate::journal::ring::{Anchor, Slot};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

const MAGIC: [u8; 4] = *b"CLJC";
const CRC_AT: usize = 60;
const HEADER_BYTES: usize = size_of::<RawHeader>();
const RECORD_HEADER_BYTES: usize = size_of::<RawRecord>();

const _: () = assert!(
    HEADER_BYTES == 64 && RECORD_HEADER_BYTES == 24,
    "the tables above"
);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U16,
    state: u8,
    zero: u8,
    ring: U64,
    run: U64,
    sequence: U64,
    offset: U64,
    file: U32,
    previous_crc: U32,
    record_count: U32,
    records_length: U32,
    file_count: U32,
    crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    topic: [u8; 16],
    partition: I32,
    length: U32,
}

/// Whether the ring holds something that must be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// A broker was writing: replay from the anchor.
    Running,
    /// The broker stopped with everything in its segments: nothing to replay.
    Stopped,
}

/// What the log says about one partition; the journal keeps it without looking into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// Whose.
    pub topic_partition: TopicPartition,
    /// The log's own record.
    pub record: Bytes,
}

/// The content of a checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whether there is anything to replay.
    pub state: CheckpointState,
    /// Which ring.
    pub ring: RingId,
    /// Where replay starts; its link names the run.
    pub anchor: Anchor,
    /// Files of the ring, numbered from 0, that were there when this was written. Those that are
    /// not there any more held blocks. 0 before the first file of a run is opened.
    pub file_count: u32,
    /// One record per partition that the shard had.
    pub partitions: Vec<PartitionCheckpoint>,
}

/// Bytes that are not a checkpoint. The file is replaced atomically, so no torn write causes this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The file ends before what its header says.
    #[error("checkpoint of {needed} bytes in {available}")]
    Short {
        /// Bytes that it should have.
        needed: usize,
        /// Bytes that it has.
        available: usize,
    },
    /// Not a checkpoint at all.
    #[error("not a journal checkpoint")]
    Magic,
    /// A later format.
    #[error("checkpoint of format version {found}, this program reads up to {VERSION}")]
    Version {
        /// The version that is written.
        found: u16,
    },
    /// The checksum is another one.
    #[error("checkpoint checksum is {found:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// The one that is written.
        found: u32,
        /// The one of the bytes.
        computed: u32,
    },
    /// The checksum is right, but the content does not add up.
    #[error("checkpoint content does not have the form of this format")]
    Form,
}

impl Checkpoint {
    /// Between two runs: nothing to replay, whatever files there are, and what the partitions have
    /// in their segments. `run` is the one to come.
    pub const fn retired(ring: RingId, run: RunId, partitions: Vec<PartitionCheckpoint>) -> Self {
        let slot = Slot {
            file: 0,
            offset: super::ring::FILE_START,
        };
        let anchor = Anchor {
            slot,
            link: Link::first(run),
        };
        Self {
            state: CheckpointState::Stopped,
            ring,
            anchor,
            file_count: 0,
            partitions,
        }
    }

    /// The run that wrote it.
    pub const fn run(&self) -> RunId {
        self.anchor.link.run
    }

    /// The bytes of the file.
    ///
    /// # Panics
    /// When the records are beyond 4 GiB.
    pub fn encode(&self) -> Vec<u8> {
        let records_length: usize = self
            .partitions
            .iter()
            .map(|one| RECORD_HEADER_BYTES + one.record.len())
            .sum();
        let mut raw = RawHeader {
            magic: MAGIC,
            version: U16::new(VERSION),
            state: match self.state {
                CheckpointState::Running => 1,
                CheckpointState::Stopped => 2,
            },
            zero: 0,
            ring: U64::new(self.ring.0),
            run: U64::new(self.run().0),
            sequence: U64::new(self.anchor.link.sequence),
            offset: U64::new(self.anchor.slot.offset),
            file: U32::new(self.anchor.slot.file),
            previous_crc: U32::new(self.anchor.link.previous_crc),
            record_count: U32::new(count(self.partitions.len())),
            records_length: U32::new(count(records_length)),
            file_count: U32::new(self.file_count),
            crc: U32::new(0),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + records_length);
        out.extend_from_slice(raw.as_bytes());
        for one in &self.partitions {
            let record = RawRecord {
                topic: *one.topic_partition.topic.as_bytes(),
                partition: I32::new(one.topic_partition.partition.get()),
                length: U32::new(count(one.record.len())),
            };
            out.extend_from_slice(record.as_bytes());
            out.extend_from_slice(&one.record);
        }
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        raw.crc = U32::new(crc32c::crc32c_append(crc, &out[HEADER_BYTES..]));
        out[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
        out
    }

    /// Reads the bytes of a file.
    pub fn decode(bytes: &Bytes) -> Result<Self, CheckpointError> {
        let available = bytes.len();
        let Ok((raw, records)) = RawHeader::ref_from_prefix(bytes) else {
            return Err(CheckpointError::Short {
                needed: HEADER_BYTES,
                available,
            });
        };
        if raw.magic != MAGIC {
            return Err(CheckpointError::Magic);
        }
        let records_length = usize::try_from(raw.records_length.get()).unwrap_or(usize::MAX);
        if records.len() != records_length {
            let needed = records_length.saturating_add(HEADER_BYTES);
            return Err(CheckpointError::Short { needed, available });
        }
        let covered = raw.as_bytes().get(..CRC_AT).unwrap_or_default();
        let computed = crc32c::crc32c_append(crc32c::crc32c(covered), records);
        if computed != raw.crc.get() {
            return Err(CheckpointError::Crc {
                found: raw.crc.get(),
                computed,
            });
        }
        // a version is believed once the checksum fits: every later one has it at the same place
        if raw.version.get() != VERSION {
            return Err(CheckpointError::Version {
                found: raw.version.get(),
            });
        }
        let state = match (raw.state, raw.zero) {
            (1, 0) => CheckpointState::Running,
            (2, 0) => CheckpointState::Stopped,
            _ => return Err(CheckpointError::Form),
        };
        let link = Link {
            run: RunId(raw.run.get()),
            sequence: raw.sequence.get(),
            previous_crc: raw.previous_crc.get(),
        };
        let slot = Slot {
            file: raw.file.get(),
            offset: raw.offset.get(),
        };
        let partitions = decode_records(&bytes.slice(HEADER_BYTES..), raw.record_count.get())?;
        let ring = RingId(raw.ring.get());
        Ok(Self {
            state,
            ring,
            anchor: Anchor { slot, link },
            file_count: raw.file_count.get(),
            partitions,
        })
    }
}

fn decode_records(
    bytes: &Bytes,
    expected: u32,
) -> Result<Vec<PartitionCheckpoint>, CheckpointError> {
    let mut partitions = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let Ok((raw, body)) = RawRecord::ref_from_prefix(&rest) else {
            return Err(CheckpointError::Form);
        };
        let length = usize::try_from(raw.length.get()).unwrap_or(usize::MAX);
        if body.len() < length {
            return Err(CheckpointError::Form);
        }
        let topic_partition = TopicPartition::new(
            TopicId::from_bytes(raw.topic),
            PartitionIndex(raw.partition.get()),
        );
        let end = RECORD_HEADER_BYTES + length;
        let record = rest.slice(RECORD_HEADER_BYTES..end);
        rest = rest.slice(end..);
        partitions.push(PartitionCheckpoint {
            topic_partition,
            record,
        });
    }
    if u32::try_from(partitions.len()) != Ok(expected) {
        return Err(CheckpointError::Form);
    }
    Ok(partitions)
}

fn count(value: usize) -> u32 {
    u32::try_from(value).expect("[checkpoint-size] counts and records are below 4 Gi")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Checkpoint {
        let topic_partition =
            TopicPartition::new(TopicId::from_bytes(*b"0123456789abcdef"), PartitionIndex(2));
        Checkpoint {
            state: CheckpointState::Running,
            ring: RingId(0x0102_0304_0506_0708),
            anchor: Anchor {
                slot: Slot {
                    file: 3,
                    offset: 0x2000,
                },
                link: Link {
                    run: RunId(5),
                    sequence: 77,
                    previous_crc: 0xaabb_ccdd,
                },
            },
            file_count: 16,
            partitions: vec![PartitionCheckpoint {
                topic_partition,
                record: Bytes::from_static(b"log"),
            }],
        }
    }

    #[test]
    fn checkpoint_has_the_documented_bytes() {
        let bytes = sample().encode();
        let mut expected = Vec::new();
        expected.extend_from_slice(b"CLJC");
        expected.extend_from_slice(&[1, 0, 1, 0]);
        expected.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[77, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x20, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[3, 0, 0, 0]);
        expected.extend_from_slice(&[0xdd, 0xcc, 0xbb, 0xaa]);
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&[27, 0, 0, 0, 16, 0, 0, 0]);
        let mut records = Vec::new();
        records.extend_from_slice(b"0123456789abcdef");
        records.extend_from_slice(&[2, 0, 0, 0, 3, 0, 0, 0]);
        records.extend_from_slice(b"log");
        assert_eq!(&bytes[..60], &expected);
        assert_eq!(&bytes[64..], &records);
        expected.extend_from_slice(&records);
        assert_eq!(&bytes[60..64], &crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(&bytes[60..64], &[0xbd, 0x16, 0x25, 0x8b]);
        assert_eq!(Checkpoint::decode(&Bytes::from(bytes)), Ok(sample()));
        let mut stopped = sample();
        stopped.state = CheckpointState::Stopped;
        let bytes = stopped.encode();
        assert_eq!(&bytes[4..8], &[1, 0, 2, 0]);
        assert_eq!(Checkpoint::decode(&Bytes::from(bytes)), Ok(stopped));
    }

    #[test]
    fn checkpoint_cut_at_every_length_is_refused() {
        let bytes = Bytes::from(sample().encode());
        for length in 0..bytes.len() {
            let error = Checkpoint::decode(&bytes.slice(..length)).expect_err("cut");
            assert!(
                matches!(error, CheckpointError::Short { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn checkpoint_with_any_flipped_bit_is_refused() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Checkpoint::decode(&Bytes::from(flipped)).is_err(),
                "bit {bit}"
            );
        }
    }

    proptest! {
        #[test]
        fn checkpoint_round_trips(
            numbers: (u64, u64, u64, u32, u32, u64, u32),
            is_stopped: bool,
            records in proptest::collection::vec(any::<([u8; 16], i32, Vec<u8>)>(), 0..8),
        ) {
            let (ring, run, sequence, previous_crc, file, offset, file_count) = numbers;
            let state =
                if is_stopped { CheckpointState::Stopped } else { CheckpointState::Running };
            let link = Link { run: RunId(run), sequence, previous_crc };
            let partitions = records.into_iter().map(|(topic, partition, record)| {
                let topic = TopicId::from_bytes(topic);
                let topic_partition = TopicPartition::new(topic, PartitionIndex(partition));
                PartitionCheckpoint { topic_partition, record: Bytes::from(record) }
            });
            let checkpoint = Checkpoint {
                state,
                ring: RingId(ring),
                anchor: Anchor { slot: Slot { file, offset }, link },
                file_count,
                partitions: partitions.collect(),
            };
            prop_assert_eq!(Checkpoint::decode(&Bytes::from(checkpoint.encode())), Ok(checkpoint));
        }

        #[test]
        fn decode_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = Checkpoint::decode(&Bytes::from(bytes));
        }
    }
}

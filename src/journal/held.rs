//! Entries of one partition that outlive their ring: the partition could not take them at a start.
//!
//! Pure: no async, no clock, no IO. (`shard/held.rs` writes, reads and removes the files.)
//! Promises: `decode` is total; a head is as it was written, or it is refused whole. Every entry
//! has a checksum of its own, as in a block.
//!
//! The file is `<data>/held/<topic id, 32 hex digits>-<partition>`. Little-endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CLHE` |
//! | 4 | 2 | format version, 1 |
//! | 6 | 1 | 1 when it was decided to give up what does not fit, else 0 |
//! | 7 | 1 | 1 when only that decision can bring the partition back, else 0 |
//! | 8 | 16 | topic id |
//! | 24 | 4 | partition |
//! | 28 | 4 | bytes of the reason |
//! | 32 | 8 | ring id |
//! | 40 | 8 | run id of the blocks that held the entries |
//! | 48 | 8 | bytes of all entries |
//! | 56 | 4 | bytes of the record, 0 for none |
//! | 60 | 4 | CRC-32C of bytes 0..60, reason and record |
//! | 64 | | reason (text), record (of the journal's checkpoint), entries (`entry.rs`) |

use bytes::Bytes;
use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::journal::block::{RingId, RunId};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

/// Holds the files, in the data directory.
pub const HELD_DIR: &str = "held";

const MAGIC: [u8; 4] = *b"CLHE";
const VERSION: u16 = 1;
const CRC_AT: usize = 60;
const HEADER_BYTES: usize = size_of::<RawHead>();
/// A longer reason is cut.
const REASON_BYTES_MAX: usize = 4096;

const _: () = assert!(HEADER_BYTES == 64, "the table above");

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: U16,
    is_loss_accepted: u8,
    needs_decision: u8,
    topic: [u8; 16],
    partition: I32,
    reason_length: U32,
    ring: U64,
    run: U64,
    entry_bytes: U64,
    record_length: U32,
    crc: U32,
}

/// What a file says before its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose entries they are.
    pub topic_partition: TopicPartition,
    /// Somebody has decided to give up what does not fit.
    pub is_loss_accepted: bool,
    /// No file can be restored that brings everything back: blocks of the journal are lost.
    pub needs_decision: bool,
    /// Why the partition could not take them.
    pub reason: String,
    /// The ring they were in.
    pub ring: RingId,
    /// The run that wrote them.
    pub run: RunId,
    /// What the ring's checkpoint said about the partition.
    pub record: Option<Bytes>,
    /// Bytes of all entries.
    pub entry_bytes: u64,
}

/// Bytes that are not a file of held entries. The file is replaced atomically, so no torn write
/// causes this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeldError {
    /// Not such a file at all.
    #[error("not a file of held journal entries")]
    Magic,
    /// Cut off, or too long.
    #[error("held journal entries are of another length than their head says")]
    Length,
    /// A later format.
    #[error("held journal entries of format version {found}, this program reads up to {VERSION}")]
    Version {
        /// The version that is written.
        found: u16,
    },
    /// The checksum is another one.
    #[error("the head of held journal entries does not fit its checksum")]
    Crc,
}

impl Head {
    /// The bytes before the entries.
    ///
    /// # Panics
    /// When the record is beyond 4 GiB.
    pub fn encode(&self) -> Vec<u8> {
        let reason = cut(&self.reason);
        let record = self.record.as_deref().unwrap_or_default();
        let length = |bytes: &[u8]| {
            U32::new(u32::try_from(bytes.len()).expect("[held-size] records are below 4 GiB"))
        };
        let mut raw = RawHead {
            magic: MAGIC,
            version: U16::new(VERSION),
            is_loss_accepted: self.is_loss_accepted.into(),
            needs_decision: self.needs_decision.into(),
            topic: *self.topic_partition.topic.as_bytes(),
            partition: I32::new(self.topic_partition.partition.get()),
            reason_length: length(reason.as_bytes()),
            ring: U64::new(self.ring.0),
            run: U64::new(self.run.0),
            entry_bytes: U64::new(self.entry_bytes),
            record_length: length(record),
            crc: U32::new(0),
        };
        let crc = crc32c::crc32c(&raw.as_bytes()[..CRC_AT]);
        let crc = crc32c::crc32c_append(crc, reason.as_bytes());
        raw.crc = U32::new(crc32c::crc32c_append(crc, record));
        [raw.as_bytes(), reason.as_bytes(), record].concat()
    }

    /// Reads a file: its head and its entries, which are not looked at.
    pub fn decode(file: &Bytes) -> Result<(Self, Bytes), HeldError> {
        let (raw, _) = RawHead::ref_from_prefix(file).map_err(|_| HeldError::Length)?;
        if raw.magic != MAGIC {
            return Err(HeldError::Magic);
        }
        if raw.version.get() != VERSION {
            let found = raw.version.get();
            return Err(HeldError::Version { found });
        }
        let size = |length: U32| usize::try_from(length.get()).unwrap_or(usize::MAX);
        let reason_end = HEADER_BYTES.saturating_add(size(raw.reason_length));
        let record_end = reason_end.saturating_add(size(raw.record_length));
        let reason = file.get(HEADER_BYTES..reason_end);
        let (Some(reason), Some(record)) = (reason, file.get(reason_end..record_end)) else {
            return Err(HeldError::Length);
        };
        let covered = raw.as_bytes().get(..CRC_AT).unwrap_or_default();
        let crc = crc32c::crc32c_append(crc32c::crc32c(covered), reason);
        if crc32c::crc32c_append(crc, record) != raw.crc.get() {
            return Err(HeldError::Crc);
        }
        let entries = file.slice(record_end..);
        if u64::try_from(entries.len()) != Ok(raw.entry_bytes.get()) {
            return Err(HeldError::Length);
        }
        let (topic, partition) = (TopicId::from_bytes(raw.topic), raw.partition.get());
        let head = Self {
            topic_partition: TopicPartition::new(topic, PartitionIndex(partition)),
            is_loss_accepted: raw.is_loss_accepted == 1,
            needs_decision: raw.needs_decision == 1,
            reason: String::from_utf8_lossy(reason).into_owned(),
            ring: RingId(raw.ring.get()),
            run: RunId(raw.run.get()),
            record: (!record.is_empty()).then(|| file.slice(reason_end..record_end)),
            entry_bytes: raw.entry_bytes.get(),
        };
        Ok((head, entries))
    }
}

/// Name of a partition's file.
pub fn file_name(id: TopicPartition) -> String {
    let digits = id.topic.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    let topic: String = digits.collect();
    format!("{topic}-{}", id.partition.get())
}

/// The partition that a file is named after.
pub fn parse_file_name(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.split_once('-')?;
    let pairs = (0..32).step_by(2).map(|at| topic.get(at..at + 2));
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect();
    let topic: [u8; 16] = bytes?.try_into().ok()?;
    let partition = PartitionIndex(partition.parse().ok()?);
    let id = TopicPartition::new(TopicId::from_bytes(topic), partition);
    (file_name(id) == name).then_some(id)
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Head {
        let topic = TopicId::from_bytes(*b"0123456789abcdef");
        Head {
            topic_partition: TopicPartition::new(topic, PartitionIndex(2)),
            is_loss_accepted: false,
            needs_decision: true,
            reason: "why".to_owned(),
            ring: RingId(0x0102_0304_0506_0708),
            run: RunId(9),
            record: Some(Bytes::from_static(b"log")),
            entry_bytes: 7,
        }
    }

    fn file() -> Vec<u8> {
        [&sample().encode()[..], b"entries"].concat()
    }

    #[test]
    fn head_has_the_documented_bytes_and_reads_back() {
        let mut expected = b"CLHE\x01\0\0\x010123456789abcdef".to_vec();
        expected.extend_from_slice(&[2, 0, 0, 0, 3, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        expected.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        let covered = [&expected[..], b"whylog"].concat();
        expected.extend_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
        expected.extend_from_slice(b"whylog");
        assert_eq!(sample().encode(), expected);
        let (head, entries) = Head::decode(&Bytes::from(file())).expect("whole");
        assert_eq!((head, &entries[..]), (sample(), &b"entries"[..]));
    }

    #[test]
    fn head_cut_anywhere_or_with_a_flipped_byte_is_refused() {
        let whole = file();
        for end in 0..whole.len() {
            let error = Head::decode(&Bytes::copy_from_slice(&whole[..end])).expect_err("cut");
            assert_eq!(error, HeldError::Length, "{end}");
        }
        for at in 0..sample().encode().len() {
            let mut bent = whole.clone();
            bent[at] ^= 0x40;
            assert!(Head::decode(&Bytes::from(bent)).is_err(), "{at}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_letters() {
        let mut head = sample();
        head.reason = "\u{e4}".repeat(4000);
        let bytes = [&head.encode()[..], b"entries"].concat();
        let (found, _) = Head::decode(&Bytes::from(bytes)).expect("whole");
        assert_eq!(found.reason, "\u{e4}".repeat(2048));
    }

    #[test]
    fn a_file_is_named_after_its_partition_and_nothing_else_is_one() {
        let topic = TopicId::from_bytes([0xab; 16]);
        let id = TopicPartition::new(topic, PartitionIndex(12));
        let name = format!("{}-12", "ab".repeat(16));
        assert_eq!(file_name(id), name);
        assert_eq!(parse_file_name(&name), Some(id));
        let padded = format!("{}-012", "ab".repeat(16));
        for other in [format!("{name}.tmp"), "orders-1".to_owned(), padded] {
            assert_eq!(parse_file_name(&other), None, "{other}");
        }
    }
}

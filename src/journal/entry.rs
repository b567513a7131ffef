//! One entry of a journal block: what happened to one partition, with the bytes it brought.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `decode` is total: bytes that `encode` did not write are an error, never a panic.
//! Invariants: [entry-absolute] an entry says by itself where its bytes belong (segment, position,
//! offsets); replaying it twice, or after a later one of another partition, does the same.
//!
//! Little-endian, no padding between entries:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of bytes 4..80 and of the payload |
//! | 4 | 1 | kind: 1 append, 2 carry, 3 bypass, 4 log start, 5 truncate, 6 delete |
//! | 5 | 3 | zero |
//! | 8 | 4 | payload length |
//! | 12 | 4 | partition |
//! | 16 | 16 | topic id |
//! | 32 | 8 | base offset of the segment |
//! | 40 | 8 | position of the payload in that segment's `.log` file |
//! | 48 | 8 | base offset |
//! | 56 | 8 | next offset (exclusive) |
//! | 64 | 4 | leader epoch |
//! | 68 | 4 | bypass: length of the batches in the segment, else zero |
//! | 72 | 4 | bypass: CRC-32C of those bytes, else zero |
//! | 76 | 4 | zero |
//! | 80 | | payload |

use bytes::Bytes;
use zerocopy::little_endian::{I32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::breaks::{self, Break};
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::offset::{FilePosition, Offset};

/// Bytes of an entry before its payload.
pub const ENTRY_HEADER_BYTES: usize = size_of::<RawEntry>();

const _: () = assert!(ENTRY_HEADER_BYTES == 80, "the byte table above");
/// Bytes at the start of an entry that its CRC does not cover: the CRC.
const CRC_BYTES: usize = 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    crc: U32,
    kind: u8,
    zero: [u8; 3],
    payload_length: U32,
    partition: I32,
    topic: [u8; 16],
    segment_base: I64,
    file_position: U64,
    base_offset: I64,
    next_offset: I64,
    leader_epoch: I32,
    extent_length: U32,
    extent_crc: U32,
    zero_end: [u8; 4],
}

/// What an entry tells replay to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Record batches from `base_offset` to `next_offset` at the log's end.
    Append,
    /// Bytes of earlier appends, again, so that the ring space that held them is free.
    Carry,
    /// Batches that were flushed to the segment before this entry was written; no payload.
    Bypass {
        /// How many bytes of the segment, from `file_position` on.
        length: u32,
        /// CRC-32C of those bytes.
        crc: u32,
    },
    /// The log starts at `base_offset` from now on.
    LogStart,
    /// The log ends at `next_offset` from now on: at `file_position` of the segment.
    Truncate,
    /// The partition is gone.
    Delete,
}

impl EntryKind {
    const fn code(self) -> u8 {
        match self {
            Self::Append => 1,
            Self::Carry => 2,
            Self::Bypass { .. } => 3,
            Self::LogStart => 4,
            Self::Truncate => 5,
            Self::Delete => 6,
        }
    }

    /// Whether entries of this kind bring bytes.
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Append | Self::Carry)
    }
}

/// The bytes of an entry, in as many reference-counted parts as the owner holds them in.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    first: Bytes,
    rest: Vec<Bytes>,
    length: usize,
}

impl Payload {
    /// No bytes: control entries.
    pub const fn empty() -> Self {
        Self {
            first: Bytes::new(),
            rest: Vec::new(),
            length: 0,
        }
    }

    /// Adds a part behind the others.
    pub fn push(&mut self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        self.length += part.len();
        if self.first.is_empty() {
            self.first = part;
        } else {
            self.rest.push(part);
        }
    }

    /// Bytes of all parts together.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// All parts as one; free when there is one, as after replay.
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut all = Vec::with_capacity(self.length);
        for part in self.parts() {
            all.extend_from_slice(part);
        }
        Bytes::from(all)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(part: Vec<u8>) -> Self {
        Self::from(Bytes::from(part))
    }
}

impl From<Bytes> for Payload {
    fn from(part: Bytes) -> Self {
        let length = part.len();
        Self {
            first: part,
            rest: Vec::new(),
            length,
        }
    }
}

impl PartialEq for Payload {
    /// Equal bytes, however they are cut into parts.
    fn eq(&self, other: &Self) -> bool {
        let mine = self.parts().flat_map(|part| part.iter());
        self.length == other.length && mine.eq(other.parts().flat_map(|part| part.iter()))
    }
}

impl Eq for Payload {}

/// One change of one partition, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What to do.
    pub kind: EntryKind,
    /// Whose log.
    pub topic_partition: TopicPartition,
    /// Base offset of the segment that the bytes belong to (its file name).
    pub segment_base: Offset,
    /// Where in that segment's `.log` file the bytes begin.
    pub file_position: FilePosition,
    /// First offset of the bytes; for `LogStart` the new log start.
    pub base_offset: Offset,
    /// Offset after the last one of the bytes; for `Truncate` the new log end.
    pub next_offset: Offset,
    /// Epoch of the leader that wrote the bytes.
    pub leader_epoch: LeaderEpoch,
    /// The bytes, for `Append` and `Carry`.
    pub payload: Payload,
}

/// Bytes that are not an entry. A torn block write can cause every one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The block ends inside the entry.
    #[error("entry of {needed} bytes in {available}")]
    Short {
        /// Bytes that the entry would take.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// The checksum is another one.
    #[error("entry checksum is {found:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// The one that is written.
        found: u32,
        /// The one of the bytes.
        computed: u32,
    },
    /// The checksum is right, but no entry of this format looks like this.
    #[error("entry of kind {kind} does not have the form of that kind")]
    Form {
        /// The kind's code.
        kind: u8,
    },
}

impl Entry {
    /// Bytes of the entry in a block.
    pub const fn encoded_len(&self) -> usize {
        ENTRY_HEADER_BYTES + self.payload.len()
    }

    /// Writes the entry at the start of `out` and tells its length.
    ///
    /// # Panics
    /// When `out` is shorter than [`Self::encoded_len`], or the payload is beyond 4 GiB.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let (header, body) = out.split_at_mut(ENTRY_HEADER_BYTES);
        let body = &mut body[..self.payload.len()];
        let mut at = 0;
        for part in self.payload.parts() {
            body[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let (extent_length, extent_crc) = match self.kind {
            EntryKind::Bypass { length, crc } => (length, crc),
            _ => (0, 0),
        };
        let mut raw = RawEntry {
            crc: U32::new(0),
            kind: self.kind.code(),
            zero: [0; 3],
            payload_length: U32::new(
                u32::try_from(self.payload.len()).expect("[entry-size] below a journal file"),
            ),
            partition: I32::new(self.topic_partition.partition.get()),
            topic: *self.topic_partition.topic.as_bytes(),
            segment_base: I64::new(self.segment_base.get()),
            file_position: U64::new(self.file_position),
            base_offset: I64::new(self.base_offset.get()),
            next_offset: I64::new(self.next_offset.get()),
            leader_epoch: I32::new(self.leader_epoch.get()),
            extent_length: U32::new(extent_length),
            extent_crc: U32::new(extent_crc),
            zero_end: [0; 4],
        };
        let crc = crc32c::crc32c(&raw.as_bytes()[CRC_BYTES..]);
        raw.crc = U32::new(crc32c::crc32c_append(crc, body));
        header.copy_from_slice(raw.as_bytes());
        ENTRY_HEADER_BYTES + self.payload.len()
    }

    /// Reads the entry at the start of `bytes` and tells its length; the payload stays shared.
    pub fn decode(bytes: &Bytes) -> Result<(Self, usize), EntryError> {
        let (raw, length) = checked(bytes)?;
        let form = EntryError::Form { kind: raw.kind };
        let extent = (raw.extent_length.get(), raw.extent_crc.get());
        let kind = match raw.kind {
            1 => EntryKind::Append,
            2 => EntryKind::Carry,
            3 => EntryKind::Bypass {
                length: extent.0,
                crc: extent.1,
            },
            4 => EntryKind::LogStart,
            5 => EntryKind::Truncate,
            6 => EntryKind::Delete,
            _ => return Err(form),
        };
        let is_bypass = raw.kind == 3;
        let has_unknown = raw.zero != [0; 3] || raw.zero_end != [0; 4];
        let has_payload = length > ENTRY_HEADER_BYTES;
        if has_unknown || (!is_bypass && extent != (0, 0)) || (has_payload && !kind.has_payload()) {
            return Err(form);
        }
        let entry = Self {
            kind,
            topic_partition: TopicPartition::new(
                TopicId::from_bytes(raw.topic),
                PartitionIndex(raw.partition.get()),
            ),
            segment_base: Offset::new(raw.segment_base.get()),
            file_position: raw.file_position.get(),
            base_offset: Offset::new(raw.base_offset.get()),
            next_offset: Offset::new(raw.next_offset.get()),
            leader_epoch: LeaderEpoch(raw.leader_epoch.get()),
            payload: Payload::from(bytes.slice(ENTRY_HEADER_BYTES..length)),
        };
        Ok((entry, length))
    }
}

/// Checks length and checksum of the entry at the start of `bytes`; tells its header and length.
///
/// The block's own checksum covers the headers only, so this is what vouches for a payload.
pub fn check(bytes: &[u8]) -> Result<(&[u8], usize), EntryError> {
    let (raw, length) = checked(bytes)?;
    Ok((raw.as_bytes(), length))
}

fn checked(bytes: &[u8]) -> Result<(&RawEntry, usize), EntryError> {
    let available = bytes.len();
    let Ok((raw, body)) = RawEntry::ref_from_prefix(bytes) else {
        return Err(EntryError::Short {
            needed: ENTRY_HEADER_BYTES,
            available,
        });
    };
    let payload_length = usize::try_from(raw.payload_length.get()).unwrap_or(usize::MAX);
    let needed = payload_length.saturating_add(ENTRY_HEADER_BYTES);
    let Some(payload) = body.get(..payload_length) else {
        return Err(EntryError::Short { needed, available });
    };
    let covered = raw.as_bytes().get(CRC_BYTES..).unwrap_or_default();
    let computed = crc32c::crc32c_append(crc32c::crc32c(covered), payload);
    let found = raw.crc.get();
    if found != computed && !breaks::is_on(Break::CrcUnchecked) {
        return Err(EntryError::Crc { found, computed });
    }
    Ok((raw, needed))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample(kind: EntryKind, payload: &'static [u8]) -> Entry {
        Entry {
            kind,
            topic_partition: TopicPartition::new(
                TopicId::from_bytes(*b"0123456789abcdef"),
                PartitionIndex(7),
            ),
            segment_base: Offset::new(0x1000),
            file_position: 0x2_0000,
            base_offset: Offset::new(0x1234),
            next_offset: Offset::new(0x1240),
            leader_epoch: LeaderEpoch(5),
            payload: Payload::from(Bytes::from_static(payload)),
        }
    }

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            Just(EntryKind::Append),
            Just(EntryKind::Carry),
            any::<(u32, u32)>().prop_map(|(length, crc)| EntryKind::Bypass { length, crc }),
            Just(EntryKind::LogStart),
            Just(EntryKind::Truncate),
            Just(EntryKind::Delete),
        ];
        let numbers = any::<([u8; 16], i32, i64, u64, i64, i64, i32)>();
        let parts = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4);
        (kind, numbers, parts).prop_map(|(kind, numbers, parts)| {
            let (topic, partition, segment, position, base, next, epoch) = numbers;
            let mut payload = Payload::empty();
            for part in parts.into_iter().filter(|_| kind.has_payload()) {
                payload.push(Bytes::from(part));
            }
            Entry {
                kind,
                topic_partition: TopicPartition::new(
                    TopicId::from_bytes(topic),
                    PartitionIndex(partition),
                ),
                segment_base: Offset::new(segment),
                file_position: position,
                base_offset: Offset::new(base),
                next_offset: Offset::new(next),
                leader_epoch: LeaderEpoch(epoch),
                payload,
            }
        })
    }

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut out = vec![0xaa; entry.encoded_len()];
        assert_eq!(entry.encode(&mut out), out.len());
        out
    }

    #[test]
    fn every_kind_of_entry_has_the_documented_bytes() {
        let bypass = EntryKind::Bypass {
            length: 0x0102_0304,
            crc: 0x0a0b_0c0d,
        };
        let extent = [4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a];
        for (kind, code, payload, extent, crc) in [
            (EntryKind::Append, 1, &b"batch"[..], [0; 8], 0x581b_f65a),
            (EntryKind::Carry, 2, b"batch", [0; 8], 0xaf7a_6647),
            (bypass, 3, b"", extent, 0xee04_84e0),
            (EntryKind::LogStart, 4, b"", [0; 8], 0xd5bf_e526),
            (EntryKind::Truncate, 5, b"", [0; 8], 0xb837_db1e),
            (EntryKind::Delete, 6, b"", [0; 8], 0x0eaf_9956),
        ] {
            let entry = sample(kind, payload);
            let length = u8::try_from(payload.len()).expect("five at most");
            let mut expected = u32::to_le_bytes(crc).to_vec();
            expected.extend_from_slice(&[code, 0, 0, 0, length, 0, 0, 0, 7, 0, 0, 0]);
            expected.extend_from_slice(b"0123456789abcdef");
            expected.extend_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0]);
            expected.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0]);
            expected.extend_from_slice(&[0x34, 0x12, 0, 0, 0, 0, 0, 0]);
            expected.extend_from_slice(&[0x40, 0x12, 0, 0, 0, 0, 0, 0]);
            expected.extend_from_slice(&[5, 0, 0, 0]);
            expected.extend_from_slice(&extent);
            expected.extend_from_slice(&[0; 4]);
            expected.extend_from_slice(payload);
            let bytes = encoded(&entry);
            let found = crc32c::crc32c(&bytes[4..]);
            assert_eq!(found, crc, "{kind:?}: {found:#010x}");
            assert_eq!(bytes, expected, "{kind:?}");
            let decoded = Entry::decode(&Bytes::from(expected)).expect("decodes");
            assert_eq!(decoded, (entry, 80 + payload.len()));
        }
    }

    #[test]
    fn entry_cut_at_every_length_is_refused() {
        let bytes = Bytes::from(encoded(&sample(EntryKind::Append, b"some bytes")));
        for length in 0..bytes.len() {
            let error = Entry::decode(&bytes.slice(..length)).expect_err("cut");
            assert!(
                matches!(error, EntryError::Short { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn entry_with_any_flipped_bit_is_refused() {
        let bytes = encoded(&sample(EntryKind::Carry, b"some bytes"));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&Bytes::from(flipped)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn control_entry_with_payload_is_refused() {
        let mut entry = sample(EntryKind::Delete, b"");
        entry.payload = Payload::from(Bytes::from_static(b"x"));
        let error = Entry::decode(&Bytes::from(encoded(&entry))).expect_err("form");
        assert_eq!(error, EntryError::Form { kind: 6 });
    }

    proptest! {
        #[test]
        fn entry_round_trips(entry in any_entry()) {
            let bytes = Bytes::from(encoded(&entry));
            let (decoded, length) = Entry::decode(&bytes).expect("decodes");
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(&decoded, &entry);
            prop_assert_eq!(decoded.payload.into_bytes(), entry.payload.into_bytes());
        }

        #[test]
        fn decode_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = Entry::decode(&Bytes::from(bytes));
        }
    }
}

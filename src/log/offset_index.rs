//! Sparse index of one segment from offsets to file positions: Kafka's `.index` file.
//!
//! Pure: no async, no clock, no IO.        Owner: the segment's `Indexer`, or the cache of sealed
//! segments.
//! Promises: every byte string either decodes to an ordered index or is refused; nothing panics.
//! Invariants: [index-ordered] relative offsets and positions rise strictly from entry to entry.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | last offset of a batch, relative to the segment's base offset, u32 big-endian |
//! | 4..8 | file position at which that batch starts, u32 big-endian |
//!
//! A file may end with all-zero entries (Kafka preallocates it and maps it); they are dropped. The
//! first batch of a segment never has an entry, so an all-zero entry is never a real one.

use crate::model::offset::{FilePosition, Offset};

/// Bytes of one entry in the file.
pub const ENTRY_BYTES: usize = 8;

/// One entry: where the batch that ends with an offset starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of the batch, relative to the segment's base offset.
    pub relative_offset: u32,
    /// File position of the batch's first byte.
    pub position: u32,
}

impl OffsetEntry {
    /// As the file holds it.
    pub fn encode(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let (offset, position) = bytes.split_at_mut(4);
        offset.copy_from_slice(&self.relative_offset.to_be_bytes());
        position.copy_from_slice(&self.position.to_be_bytes());
        bytes
    }

    fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        let [o0, o1, o2, o3, p0, p1, p2, p3] = bytes;
        Self {
            relative_offset: u32::from_be_bytes([o0, o1, o2, o3]),
            position: u32::from_be_bytes([p0, p1, p2, p3]),
        }
    }
}

/// The bytes are not an index of this segment; it has to be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The length is no multiple of the entry size: a torn append, or not an index.
    #[error("index length {len} is no multiple of the entry size")]
    Length {
        /// Bytes in the file.
        len: usize,
    },
    /// An entry is not above the one before it.
    #[error("index entry {entry} is not above the one before it")]
    Order {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// An entry points outside the segment.
    #[error("index entry {entry} points beyond the end of its segment")]
    Beyond {
        /// Number of the entry, from 0.
        entry: usize,
    },
}

/// The entries of one segment, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetIndex {
    entries: Vec<OffsetEntry>,
}

impl OffsetIndex {
    /// Reads a whole `.index` file of a segment of `segment_size_bytes`.
    pub fn decode(bytes: &[u8], segment_size_bytes: u64) -> Result<Self, IndexError> {
        let (raw, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexError::Length { len: bytes.len() });
        }
        let used = raw
            .iter()
            .rposition(|entry| *entry != [0; ENTRY_BYTES])
            .map_or(0, |i| i + 1);
        let mut entries: Vec<OffsetEntry> = Vec::with_capacity(used);
        for (number, bytes) in raw.iter().take(used).enumerate() {
            let entry = OffsetEntry::decode(*bytes);
            if let Some(last) = entries.last()
                && (entry.relative_offset <= last.relative_offset
                    || entry.position <= last.position)
            {
                return Err(IndexError::Order { entry: number });
            }
            if u64::from(entry.position) >= segment_size_bytes {
                return Err(IndexError::Beyond { entry: number });
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The file content of the entries from number `first` on.
    pub fn encode_from(&self, first: usize) -> Vec<u8> {
        let rest = self.entries.get(first..).unwrap_or_default();
        rest.iter().flat_map(|entry| entry.encode()).collect()
    }

    /// Adds an entry behind the last one.
    pub fn push(&mut self, entry: OffsetEntry) {
        if let Some(last) = self.entries.last() {
            assert!(
                last.relative_offset < entry.relative_offset && last.position < entry.position,
                "[index-ordered] {entry:?} behind {last:?}"
            );
        }
        self.entries.push(entry);
    }

    /// Start position of the last indexed batch that ends at or below `offset`; 0 without one.
    /// A scan from there meets the batch that holds `offset`.
    pub fn floor(&self, base: Offset, offset: Offset) -> FilePosition {
        let delta = offset.distance_from(base);
        let above = self
            .entries
            .partition_point(|e| i64::from(e.relative_offset) <= delta);
        self.before(above)
            .map_or(0, |entry| u64::from(entry.position))
    }

    /// Start position of the last indexed batch at or below `position`: a batch boundary.
    pub fn boundary_at_or_below(&self, position: FilePosition) -> Option<FilePosition> {
        let above = self
            .entries
            .partition_point(|e| u64::from(e.position) <= position);
        self.before(above).map(|entry| u64::from(entry.position))
    }

    /// The first entry whose batch starts at or above `position`.
    pub fn first_from(&self, position: FilePosition) -> Option<OffsetEntry> {
        let below = self
            .entries
            .partition_point(|e| u64::from(e.position) < position);
        self.get(below)
    }

    /// Last entry of all.
    pub fn last(&self) -> Option<OffsetEntry> {
        self.entries.last().copied()
    }

    /// One entry, by its number from 0.
    pub fn get(&self, number: usize) -> Option<OffsetEntry> {
        self.entries.get(number).copied()
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Keeps the first `count` entries; says whether there were so many.
    pub fn keep(&mut self, count: usize) -> bool {
        self.entries.truncate(count);
        self.entries.len() == count
    }

    fn before(&self, above: usize) -> Option<OffsetEntry> {
        above
            .checked_sub(1)
            .and_then(|index| self.entries.get(index))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(relative_offset: u32, position: u32) -> OffsetEntry {
        OffsetEntry {
            relative_offset,
            position,
        }
    }

    #[test]
    fn golden_bytes_are_kafkas() {
        let mut index = OffsetIndex::default();
        index.push(entry(9, 4200));
        index.push(entry(300, 70_000));
        let golden = [
            0, 0, 0, 9, 0, 0, 0x10, 0x68, 0, 0, 1, 0x2c, 0, 1, 0x11, 0x70,
        ];
        assert_eq!(index.encode_from(0), golden);
        assert_eq!(index.encode_from(1), golden[8..]);
        assert_eq!(OffsetIndex::decode(&golden, 100_000), Ok(index));
    }

    #[test]
    fn preallocated_zero_entries_are_dropped() {
        let mut bytes = entry(9, 4200).encode().to_vec();
        bytes.resize(1 << 16, 0);
        let index = OffsetIndex::decode(&bytes, 5000).unwrap();
        assert_eq!(index.count(), 1);
        assert_eq!(OffsetIndex::decode(&[0; 80], 0).unwrap().count(), 0);
    }

    #[test]
    fn torn_disordered_and_foreign_files_are_refused() {
        assert_eq!(
            OffsetIndex::decode(&[0; 7], 10),
            Err(IndexError::Length { len: 7 })
        );
        let twice = [entry(5, 50).encode(), entry(5, 60).encode()].concat();
        assert_eq!(
            OffsetIndex::decode(&twice, 100),
            Err(IndexError::Order { entry: 1 })
        );
        let beyond = entry(5, 50).encode();
        assert_eq!(
            OffsetIndex::decode(&beyond, 50),
            Err(IndexError::Beyond { entry: 0 })
        );
    }

    proptest! {
        #[test]
        fn floor_agrees_with_a_linear_search(
            steps in proptest::collection::vec((1..50_u32, 61..5000_u32), 0..60),
            probe in 0..4000_i64,
        ) {
            let base = Offset::new(500);
            let mut index = OffsetIndex::default();
            let (mut offset, mut position) = (0, 0);
            let mut expected = 0;
            for (offsets, bytes) in steps {
                offset += offsets;
                position += bytes;
                index.push(entry(offset, position));
                if i64::from(offset) + 500 <= probe {
                    expected = u64::from(position);
                }
            }
            prop_assert_eq!(index.floor(base, Offset::new(probe)), expected);
            let decoded = OffsetIndex::decode(&index.encode_from(0), u64::from(position) + 1);
            prop_assert_eq!(decoded, Ok(index));
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes: Vec<u8>, size: u64) {
            if let Ok(index) = OffsetIndex::decode(&bytes, size) {
                prop_assert_eq!(&bytes[..index.count() * ENTRY_BYTES], &index.encode_from(0)[..]);
            }
        }
    }
}

//! Sparse index of one segment from timestamps to offsets: Kafka's `.timeindex` file.
//!
//! Pure: no async, no clock, no IO.        Owner: the segment's `Indexer`, or the cache of sealed
//! segments.
//! Promises: every byte string either decodes to an ordered index or is refused; nothing panics.
//! Invariants: [time-index-ordered] timestamps rise strictly, offsets never fall.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | largest timestamp so far in the segment, ms, i64 big-endian |
//! | 8..12 | last offset of the batch that holds it, relative to the base offset, u32 big-endian |
//!
//! Every record before the entry's batch has a smaller timestamp; a sealed segment's last entry
//! holds its largest timestamp. Trailing all-zero entries (Kafka's preallocation) are dropped.

use super::offset_index::IndexError;

/// Bytes of one entry in the file.
pub const ENTRY_BYTES: usize = 12;

/// One entry: the largest timestamp so far, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Last offset of the batch with that timestamp, relative to the segment's base offset.
    pub relative_offset: u32,
}

impl TimeEntry {
    /// As the file holds it.
    pub fn encode(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let (timestamp, offset) = bytes.split_at_mut(8);
        timestamp.copy_from_slice(&self.timestamp.to_be_bytes());
        offset.copy_from_slice(&self.relative_offset.to_be_bytes());
        bytes
    }

    fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        let [t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3] = bytes;
        Self {
            timestamp: i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            relative_offset: u32::from_be_bytes([o0, o1, o2, o3]),
        }
    }
}

/// The entries of one segment, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeIndex {
    entries: Vec<TimeEntry>,
}

impl TimeIndex {
    /// Reads a whole `.timeindex` file.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let (raw, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexError::Length { len: bytes.len() });
        }
        let used = raw
            .iter()
            .rposition(|entry| *entry != [0; ENTRY_BYTES])
            .map_or(0, |i| i + 1);
        let mut entries: Vec<TimeEntry> = Vec::with_capacity(used);
        for (number, bytes) in raw.iter().take(used).enumerate() {
            let entry = TimeEntry::decode(*bytes);
            let follows = entries.last().is_none_or(|last| {
                entry.timestamp > last.timestamp && entry.relative_offset >= last.relative_offset
            });
            if !follows || entry.timestamp < 0 {
                return Err(IndexError::Order { entry: number });
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

    /// Adds an entry when its timestamp is above all earlier ones; says whether it did.
    pub fn push_if_later(&mut self, entry: TimeEntry) -> bool {
        if let Some(last) = self.entries.last() {
            if entry.timestamp <= last.timestamp {
                return false;
            }
            assert!(
                last.relative_offset <= entry.relative_offset,
                "[time-index-ordered] {entry:?} behind {last:?}"
            );
        } else if entry.timestamp < 0 {
            return false; // no batch with a timestamp yet
        }
        self.entries.push(entry);
        true
    }

    /// Last entry with a timestamp below `timestamp`: every record up to its offset is older than
    /// `timestamp`, so a search may start behind it.
    pub fn last_below(&self, timestamp: i64) -> Option<TimeEntry> {
        let above = self
            .entries
            .partition_point(|entry| entry.timestamp < timestamp);
        above
            .checked_sub(1)
            .and_then(|index| self.entries.get(index))
            .copied()
    }

    /// Last entry of all: of a sealed segment the one with its largest timestamp.
    pub fn last(&self) -> Option<TimeEntry> {
        self.entries.last().copied()
    }

    /// One entry, by its number from 0.
    pub fn get(&self, number: usize) -> Option<TimeEntry> {
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(timestamp: i64, relative_offset: u32) -> TimeEntry {
        TimeEntry {
            timestamp,
            relative_offset,
        }
    }

    #[test]
    fn golden_bytes_are_kafkas() {
        let mut index = TimeIndex::default();
        assert!(index.push_if_later(entry(0x0123_4567_89ab, 7)));
        assert!(index.push_if_later(entry(0x0123_4567_89ac, 0x1_0000)));
        let golden = [
            0, 0, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0, 0, 0, 7, //
            0, 0, 1, 0x23, 0x45, 0x67, 0x89, 0xac, 0, 1, 0, 0,
        ];
        assert_eq!(index.encode_from(0), golden);
        assert_eq!(TimeIndex::decode(&golden), Ok(index));
    }

    #[test]
    fn an_entry_that_is_not_later_is_left_out() {
        let mut index = TimeIndex::default();
        assert!(!index.push_if_later(entry(-1, 3)));
        assert!(index.push_if_later(entry(10, 3)));
        assert!(!index.push_if_later(entry(10, 9)));
        assert!(!index.push_if_later(entry(5, 12)));
        assert_eq!(index.count(), 1);
    }

    #[test]
    fn torn_and_disordered_files_are_refused() {
        assert_eq!(
            TimeIndex::decode(&[1; 13]),
            Err(IndexError::Length { len: 13 })
        );
        let falling = [entry(10, 3).encode(), entry(9, 4).encode()].concat();
        assert_eq!(
            TimeIndex::decode(&falling),
            Err(IndexError::Order { entry: 1 })
        );
        let mut preallocated = entry(10, 3).encode().to_vec();
        preallocated.resize(120, 0);
        assert_eq!(
            TimeIndex::decode(&preallocated).map(|index| index.count()),
            Ok(1)
        );
    }

    proptest! {
        #[test]
        fn search_agrees_with_a_linear_one(
            // (0, 0) is what reserved space looks like: such an entry is not kept
            mut times in proptest::collection::btree_set(1..1000_i64, 0..40),
            probe in 0..1001_i64,
        ) {
            let mut index = TimeIndex::default();
            for (offset, timestamp) in (0_u32..).zip(&times) {
                index.push_if_later(entry(*timestamp, offset));
            }
            let above = times.split_off(&probe);
            prop_assert_eq!(index.last_below(probe).map(|e| e.timestamp), times.last().copied());
            prop_assert_eq!(index.count(), times.len() + above.len());
            prop_assert_eq!(TimeIndex::decode(&index.encode_from(0)), Ok(index));
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes: Vec<u8>) {
            if let Ok(index) = TimeIndex::decode(&bytes) {
                prop_assert_eq!(&bytes[..index.count() * ENTRY_BYTES], &index.encode_from(0)[..]);
            }
        }
    }
}

//! Builds the two indexes of a segment from the batches that enter its file.
//!
//! Pure: no async, no clock, no IO.        Owner: an open segment, recovery, or a rebuild scan.
//! Promises: the same batches give the same entries as Kafka's `LogSegment.append`, whether they
//! come in one go, after a restart, or from a scan.

use super::offset_index::{OffsetEntry, OffsetIndex};
use super::time_index::{TimeEntry, TimeIndex};
use crate::model::offset::{FilePosition, Offset};
use crate::model::record_batch::BatchHeader;

/// The largest timestamp of a range of batches, and the last offset of the first batch that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxTimestamp {
    /// Milliseconds; -1 when no batch has a timestamp.
    pub timestamp: i64,
    /// Last offset of the batch, inclusive.
    pub offset: Offset,
}

impl MaxTimestamp {
    /// Of no batch at all.
    pub const NONE: Self = Self {
        timestamp: -1,
        offset: Offset::NONE,
    };

    /// Takes in one more batch.
    pub fn include(&mut self, header: &BatchHeader) {
        if header.max_timestamp > self.timestamp {
            *self = Self {
                timestamp: header.max_timestamp,
                offset: header.last_offset(),
            };
        }
    }
}

/// The indexes of one segment up to some batch boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexer {
    base: Offset,
    interval_bytes: u64,
    bytes_since_entry: u64,
    max_timestamp: MaxTimestamp,
    offsets: OffsetIndex,
    times: TimeIndex,
}

impl Indexer {
    /// For a segment without batches.
    pub fn new(base: Offset, interval_bytes: u64) -> Self {
        Self {
            base,
            interval_bytes,
            bytes_since_entry: 0,
            max_timestamp: MaxTimestamp::NONE,
            offsets: OffsetIndex::default(),
            times: TimeIndex::default(),
        }
    }

    /// Goes on where `end_position` was reached with these indexes and this largest timestamp.
    pub fn resume(
        base: Offset,
        interval_bytes: u64,
        end_position: FilePosition,
        max_timestamp: MaxTimestamp,
        (offsets, times): (OffsetIndex, TimeIndex),
    ) -> Self {
        let last = offsets.last().map_or(0, |entry| u64::from(entry.position));
        let bytes_since_entry = end_position.saturating_sub(last);
        Self {
            base,
            interval_bytes,
            bytes_since_entry,
            max_timestamp,
            offsets,
            times,
        }
    }

    /// Takes in the batch at `position`.
    pub fn push(&mut self, header: &BatchHeader, position: FilePosition) {
        self.max_timestamp.include(header);
        if self.bytes_since_entry > self.interval_bytes {
            let last = header.last_offset();
            if let (Some(relative_offset), Ok(position)) =
                (last.delta_from(self.base), u32::try_from(position))
            {
                self.offsets.push(OffsetEntry {
                    relative_offset,
                    position,
                });
            }
            self.push_time();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += u64::try_from(header.total_size()).unwrap_or(u64::MAX / 2);
    }

    /// The segment gets no more batches for now: its largest timestamp becomes the last time entry.
    pub fn finish(&mut self) {
        self.push_time();
    }

    fn push_time(&mut self) {
        let MaxTimestamp { timestamp, offset } = self.max_timestamp;
        if let Some(relative_offset) = offset.delta_from(self.base) {
            self.times.push_if_later(TimeEntry {
                timestamp,
                relative_offset,
            });
        }
    }

    /// The offset index so far.
    pub const fn offsets(&self) -> &OffsetIndex {
        &self.offsets
    }

    /// The time index so far.
    pub const fn times(&self) -> &TimeIndex {
        &self.times
    }

    /// The largest timestamp so far.
    pub const fn max_timestamp(&self) -> MaxTimestamp {
        self.max_timestamp
    }

    /// Gives the indexes away.
    pub fn into_indexes(self) -> (OffsetIndex, TimeIndex) {
        (self.offsets, self.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch_builder::BatchBuilder;

    fn header(offset: i64, timestamp: i64, size: usize) -> BatchHeader {
        let mut builder = BatchBuilder::new().base_offset(Offset::new(offset));
        builder.push(timestamp, None, Some(&vec![b'v'; size]));
        BatchHeader::parse(&builder.build()).unwrap()
    }

    #[test]
    fn entries_come_where_kafka_makes_them() {
        let mut indexer = Indexer::new(Offset::new(100), 4096);
        let mut position = 0;
        for number in 0..10_i64 {
            // timestamps rise, then fall: 10, 11, 12, 13, 14, 5, 6, ...
            let timestamp = if number < 5 { 10 + number } else { number };
            let header = header(100 + number, timestamp, 2000);
            indexer.push(&header, position);
            position += u64::try_from(header.total_size()).unwrap();
        }
        indexer.finish();
        // batches are a bit over 2000 bytes: more than 4096 bytes have passed before every second
        // one
        let size = u32::try_from(position / 10).unwrap();
        let (offsets, times) = indexer.clone().into_indexes();
        let expected: Vec<u8> = [2, 4, 6, 8]
            .into_iter()
            .flat_map(|n| {
                OffsetEntry {
                    relative_offset: n,
                    position: n * size,
                }
                .encode()
            })
            .collect();
        assert_eq!(offsets.encode_from(0), expected);
        let expected: Vec<u8> = [(12, 2), (14, 4)]
            .into_iter()
            .flat_map(|(timestamp, relative_offset)| {
                TimeEntry {
                    timestamp,
                    relative_offset,
                }
                .encode()
            })
            .collect();
        assert_eq!(times.encode_from(0), expected);
        assert_eq!(
            indexer.max_timestamp(),
            MaxTimestamp {
                timestamp: 14,
                offset: Offset::new(104)
            }
        );
    }

    #[test]
    fn resuming_anywhere_gives_the_same_entries() {
        let headers: Vec<_> = (0..40)
            .map(|n: i64| {
                let size = 500 + 300 * usize::try_from(n % 4).unwrap();
                header(n, n % 7 + n / 3, size)
            })
            .collect();
        let mut whole = Indexer::new(Offset::ZERO, 4096);
        let mut positions = vec![0_u64];
        for header in &headers {
            let position = *positions.last().unwrap();
            whole.push(header, position);
            positions.push(position + u64::try_from(header.total_size()).unwrap());
        }
        for cut in 0..headers.len() {
            let mut first = Indexer::new(Offset::ZERO, 4096);
            for at in 0..cut {
                first.push(&headers[at], positions[at]);
            }
            let max = first.max_timestamp();
            let mut rest = Indexer::resume(
                Offset::ZERO,
                4096,
                positions[cut],
                max,
                first.into_indexes(),
            );
            for at in cut..headers.len() {
                rest.push(&headers[at], positions[at]);
            }
            assert_eq!(rest, whole, "cut at {cut}");
        }
    }
}

//! The sealed segments of a log, ordered by base offset.
//!
//! Pure: no async, no clock, no IO.        Owner: `Log`.
//! Invariants: [segments-ordered] a segment ends where the next one begins; the open segments
//! follow the last sealed one.

use std::collections::BTreeMap;

use super::indexer::MaxTimestamp;
use crate::model::offset::Offset;

/// A segment that gets no more bytes: exact length, read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// First offset, and its file name.
    pub base_offset: Offset,
    /// Exclusive end: base offset of the segment behind it.
    pub next_offset: Offset,
    /// Length of its `.log` file.
    pub size_bytes: u64,
    /// Largest timestamp, once somebody needed it.
    pub max_timestamp: Option<MaxTimestamp>,
}

/// All sealed segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    by_base: BTreeMap<Offset, SealedSegment>,
}

impl Segments {
    /// Adds the segment behind the last one.
    pub fn push(&mut self, segment: SealedSegment) {
        if let Some((_, last)) = self.by_base.last_key_value() {
            assert!(
                last.next_offset == segment.base_offset,
                "[segments-ordered] {segment:?} behind {last:?}"
            );
        }
        assert!(
            segment.base_offset <= segment.next_offset,
            "[segments-ordered] {segment:?}"
        );
        self.by_base.insert(segment.base_offset, segment);
    }

    /// The segment that holds `offset`, or would.
    pub fn floor(&self, offset: Offset) -> Option<SealedSegment> {
        let (_, segment) = self.by_base.range(..=offset).next_back()?;
        (offset < segment.next_offset).then_some(*segment)
    }

    /// The segment with this base offset.
    pub fn get(&self, base: Offset) -> Option<SealedSegment> {
        self.by_base.get(&base).copied()
    }

    /// Notes the largest timestamp of a segment.
    pub fn set_max_timestamp(&mut self, base: Offset, max_timestamp: MaxTimestamp) {
        if let Some(segment) = self.by_base.get_mut(&base) {
            segment.max_timestamp = Some(max_timestamp);
        }
    }

    /// Takes out the segments that lie wholly below `log_start`, oldest first.
    pub fn retire_below(&mut self, log_start: Offset) -> Vec<SealedSegment> {
        let mut retired = Vec::new();
        while let Some(entry) = self.by_base.first_entry()
            && entry.get().next_offset <= log_start
        {
            retired.push(entry.remove());
        }
        retired
    }

    /// Takes out the segments that start at or above `base`, oldest first.
    pub fn split_off(&mut self, base: Offset) -> Vec<SealedSegment> {
        self.by_base.split_off(&base).into_values().collect()
    }

    /// Takes out the last segment: it becomes the active one again.
    pub fn pop(&mut self) -> Option<SealedSegment> {
        self.by_base.pop_last().map(|(_, segment)| segment)
    }

    /// The newest one.
    pub fn last(&self) -> Option<&SealedSegment> {
        self.by_base.last_key_value().map(|(_, segment)| segment)
    }

    /// Every segment, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &SealedSegment> {
        self.by_base.values()
    }

    /// Number of segments.
    pub fn count(&self) -> usize {
        self.by_base.len()
    }

    /// Length of all segments together.
    pub fn size_bytes(&self) -> u64 {
        self.by_base
            .values()
            .map(|segment| segment.size_bytes)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(bounds: &[i64]) -> Segments {
        let mut segments = Segments::default();
        for pair in bounds.windows(2) {
            segments.push(SealedSegment {
                base_offset: Offset::new(pair[0]),
                next_offset: Offset::new(pair[1]),
                size_bytes: 100,
                max_timestamp: None,
            });
        }
        segments
    }

    fn floor(segments: &Segments, offset: i64) -> Option<i64> {
        segments
            .floor(Offset::new(offset))
            .map(|segment| segment.base_offset.get())
    }

    #[test]
    fn floor_finds_the_segment_that_holds_an_offset() {
        let segments = segments(&[10, 20, 35, 40]);
        assert_eq!(floor(&segments, 9), None);
        assert_eq!(floor(&segments, 10), Some(10));
        assert_eq!(floor(&segments, 34), Some(20));
        assert_eq!(floor(&segments, 39), Some(35));
        assert_eq!(floor(&segments, 40), None);
    }

    #[test]
    fn only_whole_segments_retire() {
        let mut segments = segments(&[10, 20, 35, 40]);
        assert_eq!(segments.retire_below(Offset::new(19)), []);
        let retired = segments.retire_below(Offset::new(36));
        assert_eq!(
            retired
                .iter()
                .map(|s| s.base_offset.get())
                .collect::<Vec<_>>(),
            [10, 20]
        );
        assert_eq!((segments.count(), segments.size_bytes()), (1, 100));
    }

    #[test]
    #[should_panic(expected = "[segments-ordered]")]
    fn hole_between_segments_is_a_bug() {
        let mut segments = segments(&[10, 20]);
        segments.push(SealedSegment {
            base_offset: Offset::new(21),
            next_offset: Offset::new(30),
            size_bytes: 1,
            max_timestamp: None,
        });
    }
}

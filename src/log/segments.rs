//! The sealed segments of a log, ordered by base offset.
//!
//! Pure: no async, no clock, no IO.        Owner: `Log`.
//! Invariants: [segments-ordered] a segment ends where the next one begins; the open segments
//! follow the last sealed one.

use std::collections::BTreeMap;

use super::indexer::MaxTimestamp;
use super::verify::DamagedStretch;
use crate::model::offset::{FilePosition, Offset};

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

/// Batches of a sealed segment between two stretches of damage: all of it, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundPart {
    /// Where it begins in the file.
    pub start: FilePosition,
    /// Where it ends, exclusive.
    pub end: FilePosition,
    /// Exclusive end.
    pub next_offset: Offset,
}

/// All sealed segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    by_base: BTreeMap<Offset, SealedSegment>,
    /// What is known to be damaged in them, in file order, by base offset.
    damaged: BTreeMap<Offset, Vec<DamagedStretch>>,
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

    /// Notes what is damaged in a segment; what was known before.
    pub fn set_damaged(&mut self, base: Offset, found: Vec<DamagedStretch>) -> Vec<DamagedStretch> {
        let before = self.damaged.remove(&base).unwrap_or_default();
        if !found.is_empty() && self.by_base.contains_key(&base) {
            self.damaged.insert(base, found);
        }
        before
    }

    /// Whether any segment is known to be damaged.
    pub fn is_damaged(&self) -> bool {
        let mut all = self.damaged.values().flatten();
        all.any(DamagedStretch::has_records)
    }

    /// What is known to be damaged in a segment.
    pub fn damaged(&self, base: Offset) -> &[DamagedStretch] {
        self.damaged.get(&base).map_or(&[], Vec::as_slice)
    }

    /// What is whole of a segment, in file order.
    pub fn sound_parts(&self, segment: &SealedSegment) -> Vec<SoundPart> {
        let count = self.damaged(segment.base_offset).len() + 1;
        (0..count)
            .map(|number| self.part(segment, number))
            .collect()
    }

    /// The part of a segment in which `offset` lies; or the damage there.
    pub fn sound_part(
        &self,
        segment: &SealedSegment,
        offset: Offset,
    ) -> Result<SoundPart, DamagedStretch> {
        let damaged = self.damaged(segment.base_offset);
        let is_in = |stretch: &&DamagedStretch| (stretch.from..stretch.next).contains(&offset);
        if let Some(stretch) = damaged.iter().find(is_in) {
            return Err(*stretch);
        }
        let before = damaged.iter().filter(|stretch| stretch.next <= offset);
        Ok(self.part(segment, before.count()))
    }

    /// What is between the damaged stretch before this number and the one that has it.
    fn part(&self, segment: &SealedSegment, number: usize) -> SoundPart {
        let damaged = self.damaged(segment.base_offset);
        let before = number.checked_sub(1).and_then(|before| damaged.get(before));
        let behind = damaged.get(number);
        SoundPart {
            start: before.map_or(0, |stretch| stretch.end),
            end: behind.map_or(segment.size_bytes, |stretch| stretch.position),
            next_offset: behind.map_or(segment.next_offset, |stretch| stretch.from),
        }
    }

    /// Takes out the segments that lie wholly below `log_start`, oldest first.
    pub fn retire_below(&mut self, log_start: Offset) -> Vec<SealedSegment> {
        let mut retired = Vec::new();
        while let Some(entry) = self.by_base.first_entry()
            && entry.get().next_offset <= log_start
        {
            let segment = entry.remove();
            self.damaged.remove(&segment.base_offset);
            retired.push(segment);
        }
        retired
    }

    /// Takes out the segments that start at or above `base`, oldest first.
    pub fn split_off(&mut self, base: Offset) -> Vec<SealedSegment> {
        self.damaged.split_off(&base);
        self.by_base.split_off(&base).into_values().collect()
    }

    /// Takes out the last segment: it becomes the active one again.
    pub fn pop(&mut self) -> Option<SealedSegment> {
        let (base, segment) = self.by_base.pop_last()?;
        self.damaged.remove(&base);
        Some(segment)
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

//! Which segments may go: the choice of `retention.ms` and `retention.bytes`.
//!
//! Pure: no async, no clock, no IO.
//! Promises: only whole segments below the high watermark go, oldest first, without a hole; a topic
//! that is compacted but not deleted loses nothing.

use super::settings::LogSettings;
use crate::model::offset::Offset;

/// What the choice needs to know of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Exclusive end.
    pub next_offset: Offset,
    /// Bytes of its `.log` file.
    pub size_bytes: u64,
    /// Largest timestamp, ms; negative when its batches have none, then age never removes it.
    pub max_timestamp: i64,
    /// Whether it still gets batches; it has to be rolled before it can go.
    pub is_active: bool,
}

/// What retention wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The log should start here.
    pub log_start: Offset,
    /// The active segment goes as well: roll it first.
    pub rolls_active: bool,
}

/// Chooses over the segments of a log, oldest first, the active one last.
pub fn choose(
    segments: &[SegmentFacts],
    settings: &LogSettings,
    high_watermark: Offset,
    now_ms: i64,
) -> Option<Expired> {
    if !settings.deletes {
        return None;
    }
    let total: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    let mut excess = settings
        .retention_bytes
        .map_or(0, |limit| total.saturating_sub(limit));
    let mut expired = None;
    for segment in segments {
        if segment.size_bytes == 0 || segment.next_offset > high_watermark {
            break;
        }
        let is_old = settings.retention_ms.is_some_and(|limit| {
            segment.max_timestamp >= 0 && now_ms.saturating_sub(segment.max_timestamp) > limit
        });
        let is_excess = excess >= segment.size_bytes;
        if !is_old && !is_excess {
            break;
        }
        excess = excess.saturating_sub(segment.size_bytes);
        let log_start = segment.next_offset;
        expired = Some(Expired {
            log_start,
            rolls_active: segment.is_active,
        });
    }
    expired
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(segments: &[(i64, u64, i64)]) -> Vec<SegmentFacts> {
        let last = segments.len() - 1;
        segments
            .iter()
            .enumerate()
            .map(|(number, (next, size_bytes, max_timestamp))| SegmentFacts {
                next_offset: Offset::new(*next),
                size_bytes: *size_bytes,
                max_timestamp: *max_timestamp,
                is_active: number == last,
            })
            .collect()
    }

    fn settings(retention_ms: Option<i64>, retention_bytes: Option<u64>) -> LogSettings {
        LogSettings {
            retention_ms,
            retention_bytes,
            ..LogSettings::default()
        }
    }

    fn log_start(expired: Option<Expired>) -> Option<i64> {
        expired.map(|expired| expired.log_start.get())
    }

    #[test]
    fn age_removes_from_the_front_up_to_the_first_young_segment() {
        let segments = facts(&[
            (10, 100, 50),
            (20, 100, 200),
            (30, 100, 60),
            (40, 100, 1000),
        ]);
        let by_age = |ms| choose(&segments, &settings(Some(ms), None), Offset::new(40), 1000);
        assert_eq!(log_start(by_age(900)), Some(10));
        assert_eq!(log_start(by_age(799)), Some(30));
        assert_eq!(log_start(by_age(950)), None);
        assert_eq!(
            log_start(choose(
                &segments,
                &settings(None, None),
                Offset::new(40),
                i64::MAX
            )),
            None
        );
    }

    #[test]
    fn size_never_removes_below_the_limit() {
        let segments = facts(&[(10, 100, 1), (20, 100, 1), (30, 100, 1), (40, 50, 1)]);
        let by_size = |limit| choose(&segments, &settings(None, Some(limit)), Offset::new(40), 1);
        assert_eq!(log_start(by_size(351)), None);
        assert_eq!(log_start(by_size(250)), Some(10));
        assert_eq!(log_start(by_size(151)), Some(10));
        assert_eq!(log_start(by_size(50)), Some(30));
        // Kafka's rule: nothing is to be kept, so the active segment goes as well
        assert_eq!(log_start(by_size(0)), Some(40));
    }

    #[test]
    fn an_active_segment_of_old_data_is_rolled_and_goes() {
        let segments = facts(&[(10, 100, 1), (20, 100, 1)]);
        let expired = choose(&segments, &settings(Some(5), None), Offset::new(20), 100);
        assert_eq!(
            expired,
            Some(Expired {
                log_start: Offset::new(20),
                rolls_active: true
            })
        );
        // but not what is not replicated yet, and not an empty one
        let expired = choose(&segments, &settings(Some(5), None), Offset::new(15), 100);
        assert_eq!(log_start(expired), Some(10));
        let empty = facts(&[(20, 0, -1)]);
        assert_eq!(
            choose(&empty, &settings(Some(5), Some(0)), Offset::new(20), 100),
            None
        );
    }

    #[test]
    fn compacted_topics_lose_nothing() {
        let segments = facts(&[(10, 100, 1), (20, 100, 1)]);
        let keep = LogSettings {
            deletes: false,
            ..settings(Some(1), Some(0))
        };
        assert_eq!(choose(&segments, &keep, Offset::new(20), i64::MAX), None);
    }

    proptest! {
        #[test]
        fn what_stays_is_never_below_the_size_limit(
            sizes in proptest::collection::vec(1..100_u64, 1..20),
            limit in 0..1000_u64,
        ) {
            let list: Vec<_> = (1_i64..).zip(&sizes).map(|(next, size)| (next, *size, 0)).collect();
            let total: u64 = sizes.iter().sum();
            let chosen = choose(&facts(&list), &settings(None, Some(limit)), Offset::MAX, 0);
            let start = chosen.map_or(0, |expired| expired.log_start.get());
            let gone = usize::try_from(start).unwrap();
            let kept: u64 = sizes.iter().skip(gone).sum();
            prop_assert!(kept >= limit.min(total));
            // and not one more segment could have gone
            if gone + 1 < sizes.len() {
                prop_assert!(kept - sizes[gone] < limit);
            }
        }
    }
}

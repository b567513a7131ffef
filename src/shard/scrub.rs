//! Looks through the sealed segments of the partitions at home here for damage that nobody has
//! met yet, slowly and all over again.
//!
//! Runs on: its shard, `Lane::Background`.      Owner: `Shard`.
//! Promises: `scrub.bytes.per.second` bounds what it reads; one chunk, one descriptor and one
//! segment's indexes at a time; nothing on disk says how far it is. A pass begins at a segment
//! chosen by chance and goes round, so that a broker which is started again before a pass ends
//! comes by every segment in time, the old ones as often as the new ones.
//! What is damaged is told in one error line a stretch, once, and counted; the partition is served
//! all the same, but for that stretch.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::log::log::Log;
use crate::log::scrub::Scrubbed;
use crate::model::ids::TopicPartition;
use crate::model::offset::Offset;
use crate::partition::partition::Partition;
use crate::rt::{self, Instant};
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;

/// Bytes that are read and summed at a time.
const CHUNK_BYTES_MAX: u64 = 256 << 10;
/// At a low rate a chunk is smaller, so that it comes as often as this, if that is possible.
const CHUNKS_PER_SECOND: u64 = 4;
const CHUNK_BYTES_MIN: u64 = 4096;
/// A segment counts as so many bytes at least: opening it and reading its indexes is work as well.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Within this time another rate counts, and a deleted segment is let go.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// What stands in the way of a segment is rarely over at once.
const ERROR_PAUSE: Duration = Duration::from_secs(60);

/// What people do about it.
const REMEDY: &str = "these records are not served, all others are; stop the broker, restore the \
    file from a backup and start again, or let consumers go on at `next_offset`";

/// Passes until the task is cancelled; between two of them the setting's time.
pub(crate) async fn scrub(shard: Rc<Shard>) {
    loop {
        let began = rt::now();
        pass(&shard).await;
        wait_for_pass(&shard, began).await;
    }
}

/// Waits for the interval in force, also when that is altered meanwhile.
async fn wait_for_pass(shard: &Shard, began: Instant) {
    loop {
        let left = shard
            .config()
            .scrub_interval
            .saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        rt::timeout(left, shard.settings_changed.notified()).await;
    }
}

/// Segments of one partition from a base offset on, below another.
struct Turn {
    id: TopicPartition,
    from: Offset,
    below: Offset,
}

/// Every sealed segment once.
async fn pass(shard: &Rc<Shard>) {
    for turn in turns(shard) {
        let Some(partition) = shard.partitions.get(turn.id) else {
            continue;
        };
        let bases = partition.log().sealed_bases();
        for base in bases
            .into_iter()
            .filter(|base| (turn.from..turn.below).contains(base))
        {
            scrub_segment(shard, &partition, base).await;
        }
        rt::yield_if_needed().await;
    }
}

/// All partitions, beginning with a segment by chance, whose partition comes at the end once more
/// for what is before that segment.
fn turns(shard: &Shard) -> Vec<Turn> {
    let mut partitions = shard.partitions.all();
    partitions.sort_by_key(|partition| partition.id());
    let counts = partitions
        .iter()
        .map(|partition| partition.log().sealed_count());
    let counts: Vec<usize> = counts.collect();
    let Some((first, skipped)) = choose(&counts, rt::random_u64()) else {
        return Vec::new();
    };
    partitions.rotate_left(first);
    let bases = partitions.first().map(|first| first.log().sealed_bases());
    let middle = bases.and_then(|bases| bases.get(skipped).copied());
    let middle = middle.unwrap_or(Offset::ZERO);
    let mut turns: Vec<Turn> = partitions
        .iter()
        .map(|partition| Turn {
            id: partition.id(),
            from: Offset::ZERO,
            below: Offset::MAX,
        })
        .collect();
    if let Some(turn) = turns.first_mut() {
        turn.from = middle;
        let id = turn.id;
        turns.push(Turn {
            id,
            from: Offset::ZERO,
            below: middle,
        });
    }
    turns
}

/// One of the segments: the number of its list, and its number in that list. Pure.
fn choose(counts: &[usize], chance: u64) -> Option<(usize, usize)> {
    let all: usize = counts.iter().sum();
    let all = u64::try_from(all).ok().filter(|all| *all > 0)?;
    let mut number = usize::try_from(chance % all).ok()?;
    for (list, count) in counts.iter().enumerate() {
        if number < *count {
            return Some((list, number));
        }
        number -= count;
    }
    None
}

/// Until the segment has been read, or is gone.
async fn scrub_segment(shard: &Rc<Shard>, partition: &Rc<Partition>, base: Offset) {
    let log: &Log = partition.log();
    loop {
        while shard.config().scrub_bytes_per_second == 0 {
            shard.settings_changed.notified().await;
        }
        while shard.storage.is_full() {
            rt::sleep(ERROR_PAUSE).await; // an index could not be written
        }
        let began = Cell::new(rt::now());
        let read_bytes = Cell::new(0);
        let pace = async |bytes: u64| {
            shard.metrics.add(Counter::ScrubbedBytes, bytes);
            read_bytes.set(read_bytes.get() + bytes);
            let is_going_on = wait(shard, log, base, (bytes, began.get())).await;
            began.set(rt::now());
            is_going_on
        };
        let chunk_bytes = chunk_bytes(shard.config().scrub_bytes_per_second);
        let scrubbed = log.scrub(base, chunk_bytes, &pace).await;
        let is_switched_off = shard.config().scrub_bytes_per_second == 0;
        match scrubbed {
            Ok(Some(scrubbed)) => report(shard, partition.id(), &scrubbed),
            Ok(None) if is_switched_off => continue,
            Ok(None) => {}
            Err(error) => {
                let partition = shard.name(partition.id());
                tracing::warn!(partition, %error, "a sealed segment could not be checked");
                rt::sleep(ERROR_PAUSE).await;
            }
        }
        let left = SEGMENT_BYTES_MIN.saturating_sub(read_bytes.get());
        wait(shard, log, base, (left, began.get())).await;
        return;
    }
}

/// Waits as long as `bytes` take at the rate in force, from `since` on; whether there is more to
/// be read of the segment then.
async fn wait(shard: &Shard, log: &Log, base: Offset, (bytes, since): (u64, Instant)) -> bool {
    rt::yield_now().await;
    loop {
        let rate = shard.config().scrub_bytes_per_second;
        let Some(left) = pause(bytes, rate, since.elapsed()) else {
            return false;
        };
        if !log.has_sealed(base) {
            return false;
        }
        if left.is_zero() {
            return true;
        }
        rt::sleep(left.min(PAUSE_MAX)).await;
    }
}

/// How long to wait after `bytes` that took `took`; none when nothing is to be read any more. Pure.
fn pause(bytes: u64, rate: u64, took: Duration) -> Option<Duration> {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(Some(rate).filter(|r| *r > 0)?);
    let turn = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    Some(turn.saturating_sub(took))
}

/// Pure.
fn chunk_bytes(rate: u64) -> usize {
    let bytes = (rate / CHUNKS_PER_SECOND).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
    usize::try_from(bytes / CHUNK_BYTES_MIN * CHUNK_BYTES_MIN).unwrap_or(usize::MAX)
}

fn report(shard: &Shard, id: TopicPartition, scrubbed: &Scrubbed) {
    shard.metrics.increment(Counter::ScrubbedSegments);
    for stretch in &scrubbed.news {
        shard.metrics.increment(Counter::ScrubDamages);
        tracing::error!(
            partition = shard.name(id),
            file = %scrubbed.path.display(),
            position = stretch.position,
            offset = stretch.from.get(),
            next_offset = stretch.next.get(),
            damage = %stretch.damage,
            remedy = REMEDY,
            "a sealed segment is damaged"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_may_begin_with_any_segment() {
        let counts = [0, 2, 0, 1];
        let chosen: Vec<_> = (0..3).map(|chance| choose(&counts, chance)).collect();
        assert_eq!(chosen, [Some((1, 0)), Some((1, 1)), Some((3, 0))]);
        assert_eq!(choose(&counts, 3), choose(&counts, 0));
        assert_eq!(choose(&[0, 0], 7), None);
    }

    #[test]
    fn the_rate_is_kept_whatever_a_read_takes() {
        let millis = Duration::from_millis;
        assert_eq!(pause(1 << 20, 8 << 20, millis(25)), Some(millis(100)));
        assert_eq!(pause(1 << 20, 8 << 20, millis(200)), Some(millis(0)));
        assert_eq!(pause(1, 0, millis(0)), None, "switched off");
    }

    #[test]
    fn chunks_are_whole_blocks_and_last_a_quarter_of_a_second_at_most() {
        assert_eq!(chunk_bytes(8 << 20), 256 << 10);
        assert_eq!(chunk_bytes(100_000), 24_576);
        assert_eq!(chunk_bytes(1), 4096);
        assert_eq!(chunk_bytes(u64::MAX), 256 << 10);
    }
}

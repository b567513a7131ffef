//! What a disk does to what lies on it: a bit of a sealed segment flips between two lives.
//!
//! Runs on: the simulation's thread, while no broker runs.
//! Limits: one bit, of the records of a batch, in a segment that is neither open nor next to it: no
//! start reads it, so that only its readers and the scrub can notice. What flips elsewhere is the
//! broker's own tests' (`recovery_tampering`, `recovery_damage`).

use std::path::Path;

use corelog::model::limits::BATCH_HEADER_BYTES;
use corelog::model::record_batch::{check_crc, iter_batches};
use corelog::rt::sim::SimDisk;

use crate::world::{Place, World};

/// Segments at the end of a log that stay as they are.
const SPARED: usize = 3;

/// Flips a bit, where there is a segment to flip it in; the partition's checker knows.
pub(crate) fn flip_a_bit(world: &World, disk: &SimDisk) {
    let place = world.pick(&Place::lasting());
    let dir = format!("/data/topics/{}-{}", place.topic, place.partition);
    let mut segments = disk.paths();
    segments.retain(|path| path.starts_with(&dir) && path.extension().is_some_and(|e| e == "log"));
    segments.truncate(segments.len().saturating_sub(SPARED));
    if segments.is_empty() {
        return;
    }
    let count = u64::try_from(segments.len()).expect("few");
    let path = &segments[usize::try_from(world.below(count)).expect("few")];
    flip_in(world, disk, place, path);
}

fn flip_in(world: &World, disk: &SimDisk, place: Place, path: &Path) {
    let bytes = disk.peek(path).expect("it was listed");
    let mut batches = Vec::new();
    let mut position = 0;
    for batch in iter_batches(&bytes) {
        let Ok((header, batch)) = batch else { break };
        if check_crc(batch) {
            let base = header.base_offset.get();
            let next = base + i64::from(header.last_offset_delta) + 1;
            batches.push((position, batch.len(), base, next));
        }
        position += batch.len();
    }
    if batches.is_empty() {
        return;
    }
    let count = u64::try_from(batches.len()).expect("few");
    let chosen = usize::try_from(world.below(count)).expect("few");
    let (position, length, base, next) = batches[chosen];
    let records = u64::try_from(length - BATCH_HEADER_BYTES).expect("records");
    let within = usize::try_from(world.below(records)).expect("small");
    let at = position + BATCH_HEADER_BYTES + within;
    let flipped = bytes[at] ^ (1 << world.below(8));
    let at = u64::try_from(at).expect("small");
    disk.poke(path, at, &[flipped]).expect("it was listed");
    world.with(place, |records| records.on_damage(base, next));
    world.tally.borrow_mut().add("bit flipped", 1);
}

//! What a record of the load carries: who wrote it, where to, which number, and a checksum.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `parse(encode(id))` is `id`; a record that was cut, changed or put into another
//! partition does not parse as what was written there.

const MAGIC: u32 = 0x434c_4352;
const HEADER_SIZE: usize = 24;
const CHECKSUM_SIZE: usize = 4;

/// Identity of one record: unique over the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordId {
    /// Number of the producer.
    pub(crate) producer: u32,
    /// Number of the topic-partition.
    pub(crate) lane: u32,
    /// Counts up from 0 for each producer and lane.
    pub(crate) sequence: u64,
}

/// Encodes `id`, with a filler whose length and bytes follow from it.
pub(crate) fn encode(id: RecordId, out: &mut Vec<u8>) {
    out.clear();
    let mut state = mix(id);
    let filler = filler_size(state);
    let total = HEADER_SIZE + filler + CHECKSUM_SIZE;
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(
        &u32::try_from(total)
            .expect("fillers are small")
            .to_be_bytes(),
    );
    out.extend_from_slice(&id.producer.to_be_bytes());
    out.extend_from_slice(&id.lane.to_be_bytes());
    out.extend_from_slice(&id.sequence.to_be_bytes());
    while out.len() < HEADER_SIZE + filler {
        state = step(state);
        let wanted = (HEADER_SIZE + filler - out.len()).min(8);
        out.extend_from_slice(&state.to_be_bytes()[..wanted]);
    }
    out.extend_from_slice(&crc32c::crc32c(out).to_be_bytes());
}

/// Reads a record back; `None` when it is not whole or not one of ours.
pub(crate) fn parse(payload: &[u8]) -> Option<RecordId> {
    let (body, checksum) = payload.split_last_chunk::<CHECKSUM_SIZE>()?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let mut words = body
        .chunks_exact(4)
        .map(|word| word.try_into().map(u32::from_be_bytes));
    let mut word = || words.next()?.ok();
    let magic = word()?;
    let total = word()?;
    let (producer, lane, high, low) = (word()?, word()?, word()?, word()?);
    let is_ours = magic == MAGIC && usize::try_from(total).ok()? == payload.len();
    let sequence = (u64::from(high) << 32) | u64::from(low);
    is_ours.then_some(RecordId {
        producer,
        lane,
        sequence,
    })
}

/// Mostly about a hundred bytes, sometimes a few kilobytes, seldom 64 KiB: batches of many sizes.
fn filler_size(state: u64) -> usize {
    let spread = usize::try_from(state >> 16 & 0xffff).expect("16 bits");
    match state % 500 {
        0 => 65_536,
        1..=20 => spread % 8_192,
        _ => spread % 160,
    }
}

fn mix(id: RecordId) -> u64 {
    let place = (u64::from(id.producer) << 32) | u64::from(id.lane);
    step(step(
        place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id.sequence.wrapping_add(1),
    ))
}

fn step(state: u64) -> u64 {
    let mut next = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    next = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    next = (next ^ (next >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    next ^ (next >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_reads_back_and_sizes_vary() {
        let mut sizes = std::collections::BTreeSet::new();
        let mut payload = Vec::new();
        for sequence in 0..2_000 {
            let id = RecordId {
                producer: 1,
                lane: 7,
                sequence,
            };
            encode(id, &mut payload);
            assert_eq!(parse(&payload), Some(id));
            sizes.insert(payload.len());
        }
        assert!(sizes.len() > 100, "only {} sizes", sizes.len());
        assert!(sizes.iter().any(|&size| size > 65_536));
    }

    #[test]
    fn a_cut_or_changed_record_does_not_parse() {
        let mut payload = Vec::new();
        encode(
            RecordId {
                producer: 3,
                lane: 2,
                sequence: 9,
            },
            &mut payload,
        );
        for length in 0..payload.len() {
            assert_eq!(parse(&payload[..length]), None, "cut at {length}");
        }
        for index in 0..payload.len() {
            let mut changed = payload.clone();
            changed[index] ^= 0x10;
            assert_eq!(parse(&changed), None, "changed at {index}");
        }
    }
}

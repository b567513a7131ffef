//! What a consumer gets, walked in place: batches, and records where somebody wants to see them.
//!
//! Pure: no async, no clock, no IO.
//! Promises: total over bytes; a batch that is cut off at the end of a response is not there.

use crate::template::HEADER_BYTES;

const LENGTH_OVERHEAD: usize = 12;

/// One whole batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) base_offset: i64,
    pub(crate) next_offset: i64,
    pub(crate) attributes: i16,
    pub(crate) record_count: u64,
}

impl<'a> Batch<'a> {
    /// The records, compressed as they are.
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Whether it is a marker of a transaction.
    pub(crate) const fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// The whole batches of a partition's answer.
pub(crate) fn batches(mut rest: &[u8]) -> impl Iterator<Item = Batch<'_>> {
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER_BYTES>()?;
        let length = usize::try_from(number(header, 8)).ok()? + LENGTH_OVERHEAD;
        let bytes = rest.split_off(..length)?;
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        let base_offset = i64::from_be_bytes(*header.first_chunk()?);
        let last_delta = i64::from(number(header, 23));
        let attributes = i16::from_be_bytes([header[21], header[22]]);
        Some(Batch {
            bytes,
            base_offset,
            next_offset: base_offset.checked_add(last_delta)?.checked_add(1)?,
            attributes,
            record_count: u64::try_from(number(header, 57)).unwrap_or(0),
        })
    })
}

fn number(header: &[u8; HEADER_BYTES], at: usize) -> i32 {
    let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
    i32::from_be_bytes(bytes)
}

/// Offset delta and value of each record, up to the first that is malformed.
pub(crate) fn values(mut rest: &[u8]) -> impl Iterator<Item = (i64, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        let mut record = rest.split_off(..length)?;
        record.split_off_first()?;
        varint(&mut record)?;
        let offset_delta = varint(&mut record)?;
        let key_len = varint(&mut record)?.max(0);
        record.split_off(..usize::try_from(key_len).ok()?)?;
        let value_len = varint(&mut record)?.max(0);
        let value = record.split_off(..usize::try_from(value_len).ok()?)?;
        Some((offset_delta, value))
    })
}

/// A zigzag varint of up to 64 bits.
fn varint(input: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *input.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{BatchHead, RecordShape, Template};

    #[test]
    fn batches_and_records_are_walked_and_a_cut_off_batch_is_left_out() {
        let shape = RecordShape {
            value_len: 200,
            has_key: true,
            random_share: 1.0,
        };
        let template = Template::build(shape, 4_096, 1);
        let mut bytes = Vec::new();
        for base in [0_i64, 7] {
            let start = bytes.len();
            let head = BatchHead {
                codec: 0,
                count: 7,
                timestamp_ms: 1,
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
            };
            let records = &template.records[..template.len(7)];
            head.write(&mut bytes, records);
            bytes.extend_from_slice(records);
            bytes[start..start + 8].copy_from_slice(&base.to_be_bytes());
        }
        let found: Vec<Batch<'_>> = batches(&bytes).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].base_offset, found[1].next_offset), (7, 14));
        assert_eq!(found[1].record_count, 7);
        let values: Vec<_> = values(found[0].payload()).collect();
        assert_eq!(values.len(), 7);
        for (number, (delta, value)) in values.iter().enumerate() {
            assert_eq!(*delta, i64::try_from(number).expect("small"));
            assert_eq!(*value, &template.records[template.value_at(number)]);
        }
        for end in 0..bytes.len() {
            let whole = end / (bytes.len() / 2);
            assert_eq!(batches(&bytes[..end]).count(), whole, "{end}");
        }
    }
}

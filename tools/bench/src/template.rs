//! Batches that are built once: the records of a full batch, of which every beginning is again a
//! valid batch. What changes from batch to batch is the header, and where asked for a stamp and a
//! key in each record.
//!
//! Pure: no async, no clock, no IO.
//! Promises: the CRC-32C of every batch is computed from the bytes that are sent.

use std::rc::Rc;

/// Bytes of a batch's header.
pub(crate) const HEADER_BYTES: usize = 61;
/// Bytes of a key: eight hexadecimal digits.
pub(crate) const KEY_BYTES: usize = 8;
/// What the CRC covers starts here.
const CRC_START: usize = 21;
const CRC_AT: usize = 17;

/// What every record looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordShape {
    pub(crate) value_len: usize,
    pub(crate) has_key: bool,
    /// Part of a value that is random.
    pub(crate) random_share: f64,
}

/// The records of a full batch.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) records: Rc<Vec<u8>>,
    /// Where each record ends.
    ends: Vec<usize>,
    shape: RecordShape,
}

impl Template {
    /// As many records as fit into `batch_size` bytes, at least one.
    pub(crate) fn build(shape: RecordShape, batch_size: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let (mut records, mut ends) = (Vec::new(), Vec::new());
        let mut record = Vec::new();
        loop {
            record.clear();
            push_record(&mut record, &shape, ends.len(), &mut random);
            let is_full = HEADER_BYTES + records.len() + record.len() > batch_size;
            if is_full && !ends.is_empty() {
                break;
            }
            records.extend_from_slice(&record);
            ends.push(records.len());
        }
        Self {
            records: Rc::new(records),
            ends,
            shape,
        }
    }

    /// Whether records have keys.
    pub(crate) const fn has_key(&self) -> bool {
        self.shape.has_key
    }

    /// Records of the full batch.
    pub(crate) fn count_max(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the first `count` records.
    pub(crate) fn len(&self, count: usize) -> usize {
        self.ends[count - 1]
    }

    /// Where the value of a record is.
    pub(crate) fn value_at(&self, record: usize) -> std::ops::Range<usize> {
        let end = self.ends[record] - 1;
        end - self.shape.value_len..end
    }

    /// Where the key of a record is.
    pub(crate) fn key_at(&self, record: usize) -> std::ops::Range<usize> {
        let value = self.value_at(record).start;
        let end = value - signed_varint_len(self.shape.value_len);
        end - KEY_BYTES..end
    }
}

fn push_record(out: &mut Vec<u8>, shape: &RecordShape, number: usize, random: &mut Random) {
    let mut body = vec![0, 0];
    signed_varint(&mut body, number);
    match shape.has_key {
        true => {
            signed_varint(&mut body, KEY_BYTES);
            body.extend_from_slice(b"00000000");
        }
        // -1
        false => body.push(1),
    }
    signed_varint(&mut body, shape.value_len);
    fill_value(&mut body, shape, random);
    // no headers
    body.push(0);
    signed_varint(out, body.len());
    out.extend_from_slice(&body);
}

/// Words of which the compressible part is made.
const TEXT: &[u8] = b"{\"user\":\"0017\",\"event\":\"page_view\",\"path\":\"/products/shoes\"} ";

fn fill_value(out: &mut Vec<u8>, shape: &RecordShape, random: &mut Random) {
    let random_len = crate::numbers::whole_len(
        (crate::numbers::float_len(shape.value_len) * shape.random_share).round(),
    );
    for _ in 0..random_len.min(shape.value_len) {
        out.push(random.byte());
    }
    let text = TEXT.iter().copied().cycle();
    out.extend(text.take(shape.value_len.saturating_sub(random_len)));
}

/// A zigzag varint of a length.
fn signed_varint(out: &mut Vec<u8>, value: usize) {
    let mut value = value << 1;
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

fn signed_varint_len(value: usize) -> usize {
    let mut bytes = Vec::new();
    signed_varint(&mut bytes, value);
    bytes.len()
}

/// Writes the checksum that a batch has now.
pub(crate) fn refresh_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Whether the checksum of a whole batch is that of its bytes.
pub(crate) fn has_its_crc(batch: &[u8]) -> bool {
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_AT..CRC_AT + 4] == crc.to_be_bytes()
}

/// A fast generator (splitmix64) for content that need not be secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// What a batch's header says besides its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchHead {
    pub(crate) codec: u8,
    pub(crate) count: usize,
    pub(crate) timestamp_ms: i64,
    /// -1 without idempotence.
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
}

impl BatchHead {
    /// Appends the header of a batch with these records, checksum included.
    pub(crate) fn write(&self, out: &mut Vec<u8>, records: &[u8]) {
        use crate::numbers::wire_len;
        let start = out.len();
        out.extend_from_slice(&0_i64.to_be_bytes());
        out.extend_from_slice(&wire_len(HEADER_BYTES - 12 + records.len()).to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.push(2);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&i16::from(self.codec).to_be_bytes());
        out.extend_from_slice(&wire_len(self.count - 1).to_be_bytes());
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.base_sequence.to_be_bytes());
        out.extend_from_slice(&wire_len(self.count).to_be_bytes());
        let crc = crc32c::crc32c(&out[start + CRC_START..]);
        let crc = crc32c::crc32c_append(crc, records);
        out[start + CRC_AT..start + CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }
}

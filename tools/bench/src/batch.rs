//! The records of the next batch: as they were built, or stamped, or compressed.
//!
//! Pure: no async, no clock, no IO.
//! Promises: records that need no stamp and no key are never copied. Compressed batches without
//! stamps are compressed once for each number of records and used again; `VARIANTS` different ones
//! take turns.

use std::collections::HashMap;
use std::rc::Rc;

use crate::args::Compression;
use crate::link::{Body, Pool};
use crate::stamp::{Stamp, Stamping};
use crate::template::{KEY_BYTES, RecordShape, Template};

/// Different contents of compressed batches.
const VARIANTS: usize = 8;
/// Compressed batches that are kept; then they are made anew.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// Makes the records of batches.
#[derive(Debug)]
pub(crate) struct BatchMaker {
    templates: Vec<Template>,
    codec: Compression,
    stamping: Stamping,
    turn: usize,
    /// By variant and number of records.
    kept: HashMap<(usize, usize), Rc<Vec<u8>>>,
    kept_bytes: usize,
    scratch: Vec<u8>,
    bytes_before: u64,
    bytes_after: u64,
}

/// What differs from record to record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) key: u32,
    pub(crate) stamp: Stamp,
}

impl BatchMaker {
    pub(crate) fn new(
        shape: RecordShape,
        batch_size: usize,
        codec: Compression,
        stamping: Stamping,
    ) -> Self {
        let variants = match codec {
            Compression::None => 1,
            _ => VARIANTS,
        };
        let templates = (1..=variants as u64).map(|seed| Template::build(shape, batch_size, seed));
        Self {
            templates: templates.collect(),
            codec,
            stamping,
            turn: 0,
            kept: HashMap::new(),
            kept_bytes: 0,
            scratch: Vec::new(),
            bytes_before: 0,
            bytes_after: 0,
        }
    }

    /// Records of a full batch.
    pub(crate) fn count_max(&self) -> usize {
        self.templates[0].count_max()
    }

    /// The codec of the batches.
    pub(crate) const fn codec(&self) -> Compression {
        self.codec
    }

    /// Bytes before compression for each byte after it.
    pub(crate) fn ratio(&self) -> f64 {
        use crate::numbers::float;
        match self.bytes_after {
            0 => 1.0,
            after => float(self.bytes_before) / float(after),
        }
    }

    /// The records of a batch of `count`; `content` is asked for each record that differs.
    pub(crate) fn records(
        &mut self,
        count: usize,
        pool: &mut Pool,
        content: impl FnMut(usize) -> Content,
    ) -> Result<Body, String> {
        self.turn = (self.turn + 1) % self.templates.len();
        let template = &self.templates[self.turn];
        let len = template.len(count);
        let is_plain = !template.has_key() && self.stamping == Stamping::None;
        let body = match (is_plain, self.codec) {
            (true, Compression::None) => Body::Shared(Rc::clone(&template.records), len),
            (true, _) => self.compressed_once(count)?,
            (false, Compression::None) => {
                let mut records = pool.take();
                fill(template, self.stamping, count, &mut records, content);
                Body::Owned(records)
            }
            (false, codec) => {
                fill(template, self.stamping, count, &mut self.scratch, content);
                Body::Owned(codec.compress(&self.scratch)?)
            }
        };
        self.bytes_before += len as u64;
        self.bytes_after += body.bytes().len() as u64;
        Ok(body)
    }

    fn compressed_once(&mut self, count: usize) -> Result<Body, String> {
        let template = &self.templates[self.turn];
        let key = (self.turn, count);
        if !self.kept.contains_key(&key) {
            if self.kept_bytes > KEPT_BYTES_MAX {
                self.kept.clear();
                self.kept_bytes = 0;
            }
            let packed = self
                .codec
                .compress(&template.records[..template.len(count)])?;
            self.kept_bytes += packed.len();
            self.kept.insert(key, Rc::new(packed));
        }
        let packed = &self.kept[&key];
        Ok(Body::Shared(Rc::clone(packed), packed.len()))
    }
}

fn fill(
    template: &Template,
    stamping: Stamping,
    count: usize,
    records: &mut Vec<u8>,
    mut content: impl FnMut(usize) -> Content,
) {
    records.clear();
    records.extend_from_slice(&template.records[..template.len(count)]);
    for number in 0..count {
        let content = content(number);
        if template.has_key() {
            let key = key_text(content.key);
            records[template.key_at(number)].copy_from_slice(&key);
        }
        content
            .stamp
            .write(stamping, &mut records[template.value_at(number)]);
    }
}

/// A key as its record has it: eight hexadecimal digits.
pub(crate) fn key_text(key: u32) -> [u8; KEY_BYTES] {
    let mut text = [0; KEY_BYTES];
    for (place, digit) in text.iter_mut().rev().enumerate() {
        let nibble = usize::try_from((key >> (4 * place)) & 0xf).unwrap_or(0);
        *digit = b"0123456789abcdef"[nibble];
    }
    text
}

/// Murmur2 as Kafka's Java client computes it over the bytes of a key.
fn murmur2(data: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mixed = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        let mixed = (mixed ^ (mixed >> 24)).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR) ^ mixed;
    }
    if !rest.is_empty() {
        for (place, byte) in (0_u32..).zip(rest) {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

/// The partition of a key, as Kafka's clients choose it.
pub(crate) fn partition_of_key(key: &[u8], partitions: usize) -> usize {
    usize::try_from(murmur2(key) & 0x7fff_ffff).unwrap_or(0) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{BatchHead, HEADER_BYTES};
    use bytes::Bytes;
    use kafka_protocol::records::RecordBatchDecoder;

    fn shape(has_key: bool) -> RecordShape {
        RecordShape {
            value_len: 100,
            has_key,
            random_share: 0.5,
        }
    }

    fn content(number: usize) -> Content {
        Content {
            key: 0xbeef,
            stamp: Stamp {
                due_unix_ns: 17,
                run: 3,
                producer: 4,
                sequence: number as u64,
            },
        }
    }

    #[test]
    fn keys_are_hashed_as_java_does() {
        // from the tests of Kafka's Utils.murmur2
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
        assert_eq!(&key_text(0xbeef), b"0000beef");
    }

    #[test]
    fn every_beginning_of_a_template_is_a_batch_that_others_can_read() {
        for has_key in [false, true] {
            for codec in [Compression::None, Compression::Zstd] {
                let mut maker = BatchMaker::new(shape(has_key), 4_096, codec, Stamping::Full);
                for count in [1, 2, maker.count_max()] {
                    let body = maker.records(count, &mut Pool::default(), content);
                    let body = body.expect("made");
                    let head = BatchHead {
                        codec: codec.id(),
                        count,
                        timestamp_ms: 1_000,
                        producer_id: 9,
                        producer_epoch: 0,
                        base_sequence: 5,
                    };
                    let mut batch = Vec::new();
                    head.write(&mut batch, body.bytes());
                    assert_eq!(batch.len(), HEADER_BYTES);
                    batch.extend_from_slice(body.bytes());
                    assert!(crate::template::has_its_crc(&batch));
                    if codec != Compression::None {
                        continue;
                    }
                    let decoded = RecordBatchDecoder::decode(&mut Bytes::from(batch));
                    let records = decoded.expect("a valid batch").records;
                    assert_eq!(records.len(), count);
                    for (number, record) in records.iter().enumerate() {
                        let value = record.value.as_deref().expect("a value");
                        let stamp = Stamp::read(Stamping::Full, value).expect("whole");
                        assert_eq!(stamp, content(number).stamp);
                        let key = has_key.then_some(&b"0000beef"[..]);
                        assert_eq!(record.key.as_deref(), key);
                    }
                }
            }
        }
    }

    #[test]
    fn what_needs_no_change_is_shared_and_fits_the_batch_size() {
        let mut maker = BatchMaker::new(shape(false), 65_536, Compression::None, Stamping::None);
        let count = maker.count_max();
        let body = maker
            .records(count, &mut Pool::default(), content)
            .expect("made");
        assert!(matches!(body, Body::Shared(..)));
        assert!((65_300..=65_536 - HEADER_BYTES).contains(&body.bytes().len()));
        let mut tiny = BatchMaker::new(shape(false), 1, Compression::None, Stamping::None);
        assert_eq!(tiny.count_max(), 1);
        assert!(tiny.records(1, &mut Pool::default(), content).is_ok());
    }
}

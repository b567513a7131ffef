//! Encodes record batches: for the broker's own topics, the command line's producer, and tests.
//!
//! Pure: no async, no clock, no IO.
//! Promises: what is built passes `record_batch::check_produced` (control batches aside) and reads
//! back as what was pushed.

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};

use super::compression::{self, Codec, CompressionError};
use super::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use super::limits::{BATCH_HEADER_BYTES, BATCH_LOG_OVERHEAD_BYTES};
use super::offset::Offset;
use super::record::{self, RecordError};
use super::record_batch::{
    self, BatchError, BatchHeader, MAGIC, RawHeader, TimestampType, attributes_of,
};
use super::varint;

/// Collects records and encodes them as one batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    codec: Codec,
    append_time_ms: Option<i64>,
    is_transactional: bool,
    is_control: bool,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    record_count: i32,
    records: Vec<u8>,
    scratch: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch at offset 0, uncompressed, without producer id.
    pub const fn new() -> Self {
        Self {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::UNKNOWN,
            codec: Codec::None,
            append_time_ms: None,
            is_transactional: false,
            is_control: false,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            base_timestamp: -1,
            max_timestamp: -1,
            record_count: 0,
            records: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Offset of the first record.
    #[must_use]
    pub const fn base_offset(mut self, base_offset: Offset) -> Self {
        self.base_offset = base_offset;
        self
    }

    /// Leadership under which it is appended.
    #[must_use]
    pub const fn leader_epoch(mut self, leader_epoch: LeaderEpoch) -> Self {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Compression of the records.
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Identity and sequence of an idempotent producer.
    #[must_use]
    pub const fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = sequence;
        self
    }

    /// Marks it as part of a transaction.
    #[must_use]
    pub const fn transactional(mut self) -> Self {
        self.is_transactional = true;
        self
    }

    /// Marks it as a control batch.
    #[must_use]
    pub const fn control(mut self) -> Self {
        self.is_control = true;
        self
    }

    /// Stamps the batch with the broker's time.
    #[must_use]
    pub const fn log_append_time(mut self, timestamp_ms: i64) -> Self {
        self.append_time_ms = Some(timestamp_ms);
        self
    }

    /// Adds a record without headers.
    pub fn push(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_with_headers(timestamp_ms, key, value, &[]);
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When a field or the number of records leaves the format's 31-bit range.
    pub fn push_with_headers(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        if self.record_count == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        let body = &mut self.scratch;
        body.clear();
        body.push(0);
        varint::write_signed_long(body, timestamp_ms.wrapping_sub(self.base_timestamp));
        varint::write_signed(body, self.record_count);
        write_nullable(body, key);
        write_nullable(body, value);
        varint::write_signed(body, wire_length(headers.len()));
        for (name, content) in headers {
            write_nullable(body, Some(name));
            write_nullable(body, *content);
        }
        varint::write_signed(&mut self.records, wire_length(body.len()));
        self.records.extend_from_slice(body);
        self.record_count = self
            .record_count
            .checked_add(1)
            .expect("[batch-count] a batch has fewer than 2^31 records");
    }

    /// Records so far.
    pub const fn record_count(&self) -> i32 {
        self.record_count
    }

    /// Whether nothing was pushed.
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of the batch before compression.
    pub fn size_uncompressed(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// Encodes the batch.
    ///
    /// # Panics
    /// When nothing was pushed, or when the batch leaves the format's 31-bit range.
    pub fn try_build(&self) -> Result<Vec<u8>, CompressionError> {
        assert!(
            self.record_count > 0,
            "[batch-not-empty] a batch without records has no offsets"
        );
        let packed = match self.codec {
            Codec::None => None,
            codec => Some(compression::compress(codec, &self.records)?),
        };
        let records = packed.as_deref().unwrap_or(&self.records);
        let timestamp_type = match self.append_time_ms {
            Some(_) => TimestampType::LogAppendTime,
            None => TimestampType::CreateTime,
        };
        let attributes = attributes_of(
            self.codec,
            timestamp_type,
            self.is_transactional,
            self.is_control,
        );
        let header = RawHeader {
            base_offset: I64::new(self.base_offset.get()),
            batch_length: I32::new(batch_length(records.len())),
            leader_epoch: I32::new(self.leader_epoch.get()),
            magic: MAGIC,
            crc: U32::ZERO,
            attributes: I16::new(attributes),
            last_offset_delta: I32::new(self.record_count - 1),
            base_timestamp: I64::new(self.base_timestamp),
            max_timestamp: I64::new(self.append_time_ms.unwrap_or(self.max_timestamp)),
            producer_id: I64::new(self.producer_id.get()),
            producer_epoch: I16::new(self.producer_epoch.get()),
            base_sequence: I32::new(self.base_sequence),
            record_count: I32::new(self.record_count),
        };
        let mut batch = Vec::with_capacity(BATCH_HEADER_BYTES + records.len());
        batch.extend_from_slice(header.as_bytes());
        batch.extend_from_slice(records);
        record_batch::refresh_crc(&mut batch);
        Ok(batch)
    }

    /// Encodes an uncompressed or well-compressible batch where failure is a bug.
    ///
    /// # Panics
    /// As [`BatchBuilder::try_build`], and when the codec's library fails.
    pub fn build(&self) -> Vec<u8> {
        self.try_build()
            .expect("compressing memory to memory with a default level does not fail")
    }
}

/// The same batch with its records compressed otherwise; everything else, timestamps and sequence
/// included, stays. The batch must be whole; its CRC is not checked but computed anew.
/// `limit` bounds the decompressed records.
pub fn recompress(
    batch: &[u8],
    codec: Codec,
    level: Option<i32>,
    limit: usize,
) -> Result<Vec<u8>, RecordError> {
    let (header, batch, _) = BatchHeader::parse_whole(batch)?;
    let payload = record::payload(&header, batch, limit)?;
    let packed = compression::compress_with_level(codec, level, &payload)?;
    let head = batch
        .get(..BATCH_HEADER_BYTES)
        .ok_or(BatchError::Truncated {
            have: batch.len(),
            need: BATCH_HEADER_BYTES,
        })?;
    let mut out = Vec::with_capacity(BATCH_HEADER_BYTES + packed.len());
    out.extend_from_slice(head);
    out.extend_from_slice(&packed);
    if let Ok((raw, _)) = RawHeader::mut_from_prefix(&mut out) {
        let attributes = record_batch::attributes_with_codec(raw.attributes.get(), codec);
        raw.attributes.set(attributes);
        raw.batch_length.set(batch_length(packed.len()));
    }
    record_batch::refresh_crc(&mut out);
    Ok(out)
}

fn batch_length(records_len: usize) -> i32 {
    wire_length(BATCH_HEADER_BYTES - BATCH_LOG_OVERHEAD_BYTES + records_len)
}

fn wire_length(length: usize) -> i32 {
    i32::try_from(length).expect("[batch-size] lengths inside a batch are below 2^31")
}

fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write_signed(out, -1),
        Some(bytes) => {
            varint::write_signed(out, wire_length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::iter_records;
    use crate::model::record_batch::{check_crc, check_produced};
    use proptest::prelude::*;

    type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);
    type OwnedRecord = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<OwnedHeader>);

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
    }

    fn records() -> impl Strategy<Value = Vec<OwnedRecord>> {
        let header = (bytes(), proptest::option::of(bytes()));
        let headers = proptest::collection::vec(header, 0..3);
        let timestamp = 0..4_000_000_000_000_i64;
        let optional = || proptest::option::of(bytes());
        proptest::collection::vec((timestamp, optional(), optional(), headers), 1..20)
    }

    fn codec() -> impl Strategy<Value = Codec> {
        (0..5_u8).prop_map(|id| Codec::from_id(id).unwrap())
    }

    fn fill(builder: &mut BatchBuilder, records: &[OwnedRecord]) {
        for (timestamp, key, value, headers) in records {
            let headers: Vec<(&[u8], Option<&[u8]>)> = headers
                .iter()
                .map(|(k, v)| (k.as_slice(), v.as_deref()))
                .collect();
            builder.push_with_headers(*timestamp, key.as_deref(), value.as_deref(), &headers);
        }
    }

    fn read(batch: &[u8]) -> Vec<OwnedRecord> {
        let header = check_produced(batch).unwrap();
        let payload = record::payload(&header, batch, 1 << 20).unwrap();
        iter_records(&payload, header.record_count)
            .map(|record| {
                let record = record.unwrap();
                let headers = record
                    .headers()
                    .map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)))
                    .collect();
                (
                    record.timestamp(&header),
                    record.key.map(<[u8]>::to_vec),
                    record.value.map(<[u8]>::to_vec),
                    headers,
                )
            })
            .collect()
    }

    #[test]
    fn golden_batch_is_built() {
        let mut builder = BatchBuilder::new();
        builder.push(1000, Some(b"k"), Some(b"v"));
        let batch = builder.build();
        let records = [16, 0, 0, 0, 2, b'k', 2, b'v', 0];
        assert_eq!(batch.get(61..), Some(&records[..]));
        assert_eq!(
            batch.get(8..17),
            Some(&[0, 0, 0, 58, 0xff, 0xff, 0xff, 0xff, 2][..])
        );
        assert!(check_crc(&batch));
    }

    #[test]
    fn control_and_transactional_bits_are_set() {
        let mut builder = BatchBuilder::new().control().transactional();
        builder.push(1, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]));
        let header = BatchHeader::parse(&builder.build()).unwrap();
        assert!(header.is_control() && header.is_transactional());
    }

    #[test]
    fn an_independent_decoder_reads_what_is_built() {
        use kafka_protocol::records::RecordBatchDecoder;
        // its uncompressed path needs none of the crate's codec features
        let mut builder = BatchBuilder::new().base_offset(Offset::new(40)).producer(
            ProducerId(7),
            ProducerEpoch(2),
            11,
        );
        builder.push_with_headers(5, None, Some(b"one"), &[(b"h", Some(b"x"))]);
        builder.push(3, Some(b"key"), None);
        let mut bytes = bytes::Bytes::from(builder.build());
        let set = RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert_eq!(set.records.len(), 2);
        let (one, two) = (set.records.first().unwrap(), set.records.last().unwrap());
        assert_eq!((one.offset, one.timestamp, one.sequence), (40, 5, 11));
        assert_eq!((two.offset, two.timestamp, two.sequence), (41, 3, 12));
        assert_eq!((two.producer_id, two.producer_epoch), (7, 2));
        assert_eq!(one.value.as_deref(), Some(&b"one"[..]));
        assert_eq!(two.key.as_deref(), Some(&b"key"[..]));
        assert_eq!(one.headers.len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read_back(records in records(), codec in codec()) {
            let mut builder = BatchBuilder::new().codec(codec).base_offset(Offset::new(100));
            fill(&mut builder, &records);
            let batch = builder.build();
            prop_assert_eq!(read(&batch), records.clone());
            let header = check_produced(&batch).unwrap();
            prop_assert_eq!(header.max_timestamp, records.iter().map(|r| r.0).max().unwrap());
            prop_assert_eq!(header.codec(), Ok(codec));
        }

        #[test]
        fn recompression_keeps_everything_but_the_codec(
            records in records(), from in codec(), to in codec()
        ) {
            let mut builder = BatchBuilder::new()
                .codec(from)
                .producer(ProducerId(3), ProducerEpoch(1), 5);
            fill(&mut builder, &records);
            let batch = recompress(&builder.build(), to, None, 1 << 20).unwrap();
            prop_assert_eq!(read(&batch), records);
            let header = check_produced(&batch).unwrap();
            prop_assert_eq!(header.codec(), Ok(to));
            prop_assert_eq!(header.base_sequence, 5);
        }
    }
}

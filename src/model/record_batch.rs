//! Record batches (v2, "magic 2") as they are on the wire and in segments: the header, viewed in
//! place.
//!
//! ```text
//! off len field                        off len field
//!   0   8 base offset      (not in CRC)  27   8 base timestamp
//!   8   4 bytes after this field         35   8 max timestamp
//!  12   4 leader epoch     (not in CRC)  43   8 producer id (-1)
//!  16   1 magic = 2                      51   2 producer epoch (-1)
//!  17   4 CRC-32C of [21 .. end)         53   4 base sequence (-1)
//!  21   2 attributes                     57   4 record count
//!  23   4 last offset delta              61     records, compressed as one blob if a codec is set
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: every function is total over bytes. A parsed header's offsets can be added up without
//! leaving the range: `base_offset + last_offset_delta + 1` fits.
//! Invariants: [batch-next-offset] the next offset comes from the last offset delta, never from the
//! record count, which compaction makes smaller.

use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::compression::Codec;
use super::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use super::limits::{BATCH_HEADER_BYTES, BATCH_LOG_OVERHEAD_BYTES, SEQUENCE_MAX};
use super::offset::Offset;

/// The magic of every batch that this broker stores.
pub const MAGIC: i8 = 2;
/// Where the bytes that the CRC covers begin.
pub const CRC_START_BYTES: usize = 21;
const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

/// The bytes of a header, in order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) base_offset: I64,
    pub(super) batch_length: I32,
    pub(super) leader_epoch: I32,
    pub(super) magic: i8,
    pub(super) crc: U32,
    pub(super) attributes: I16,
    pub(super) last_offset_delta: I32,
    pub(super) base_timestamp: I64,
    pub(super) max_timestamp: I64,
    pub(super) producer_id: I64,
    pub(super) producer_epoch: I16,
    pub(super) base_sequence: I32,
    pub(super) record_count: I32,
}

const _: () = assert!(
    size_of::<RawHeader>() == BATCH_HEADER_BYTES,
    "the header is packed"
);

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer; every record has its own.
    #[default]
    CreateTime,
    /// The broker, at append: all records have the batch's max timestamp.
    LogAppendTime,
}

/// Why bytes are not a batch, or not one that a client may append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or than the header says.
    #[error("record batch is cut off: {have} bytes of {need}")]
    Truncated {
        /// Bytes there are.
        have: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// Not the v2 format.
    #[error("record batch has magic {got}, expected 2")]
    Magic {
        /// The magic found.
        got: i8,
    },
    /// A length below that of an empty batch.
    #[error("record batch has the impossible length {got}")]
    Length {
        /// The length field.
        got: i32,
    },
    /// Offsets that are negative or leave the range.
    #[error("record batch has base offset {base_offset} and last offset delta {last_offset_delta}")]
    OffsetRange {
        /// Of the batch.
        base_offset: i64,
        /// Of the batch.
        last_offset_delta: i32,
    },
    /// Record count negative, or of a produced batch not matching the offsets.
    #[error(
        "record batch counts {record_count} records \
         but its last offset delta is {last_offset_delta}"
    )]
    RecordCount {
        /// Of the batch.
        record_count: i32,
        /// Of the batch.
        last_offset_delta: i32,
    },
    /// The bytes are not those that were sent.
    #[error("record batch has CRC {got:#010x}, its header says {expected:#010x}")]
    Crc {
        /// Header field.
        expected: u32,
        /// Computed.
        got: u32,
    },
    /// A codec number that Kafka does not define.
    #[error("record batch has the unknown compression codec {got}")]
    Codec {
        /// The three bits.
        got: u8,
    },
    /// A produced partition without any batch.
    #[error("no record batch where exactly one is expected")]
    Missing,
    /// A produced partition with more than one batch.
    #[error("{extra} bytes follow the record batch where exactly one batch is expected")]
    NotSingle {
        /// Bytes after the first batch.
        extra: usize,
    },
    /// Clients do not write control batches.
    #[error("clients may not write control batches")]
    Control,
    /// An idempotent batch with a negative sequence or epoch.
    #[error("batch of producer {producer_id} has base sequence {base_sequence}")]
    Sequence {
        /// Of the batch.
        producer_id: i64,
        /// Of the batch.
        base_sequence: i32,
    },
}

/// A parsed header; `Copy`, so that it travels beside the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; the broker sets it.
    pub base_offset: Offset,
    /// Bytes after this field.
    pub batch_length: u32,
    /// Leadership under which it was appended; the broker sets it.
    pub leader_epoch: LeaderEpoch,
    /// Format, always 2.
    pub magic: i8,
    /// CRC-32C over everything from the attributes on.
    pub crc: u32,
    /// Codec and flags, see the methods.
    pub attributes: i16,
    /// Offset of the last record minus the base offset; not negative.
    pub last_offset_delta: i32,
    /// Timestamp of the first record (or the delete horizon), milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, milliseconds.
    pub max_timestamp: i64,
    /// Who wrote it, when idempotent or transactional.
    pub producer_id: ProducerId,
    /// Incarnation of the producer.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record; -1 without producer id.
    pub base_sequence: i32,
    /// Records in the batch; not negative, may be 0 after compaction.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads a header. The batch itself may go beyond `bytes`: compare `total_size()`.
    /// The CRC is not checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| BatchError::Truncated {
            have: bytes.len(),
            need: BATCH_HEADER_BYTES,
        })?;
        if raw.magic != MAGIC {
            return Err(BatchError::Magic { got: raw.magic });
        }
        let length_min = BATCH_HEADER_BYTES - BATCH_LOG_OVERHEAD_BYTES;
        let batch_length = u32::try_from(raw.batch_length.get())
            .ok()
            .filter(|length| usize::try_from(*length).is_ok_and(|length| length >= length_min))
            .ok_or(BatchError::Length {
                got: raw.batch_length.get(),
            })?;
        let (base, delta) = (raw.base_offset.get(), raw.last_offset_delta.get());
        if base < 0 || delta < 0 || base.checked_add(i64::from(delta) + 1).is_none() {
            return Err(BatchError::OffsetRange {
                base_offset: base,
                last_offset_delta: delta,
            });
        }
        let record_count = raw.record_count.get();
        if record_count < 0 {
            return Err(BatchError::RecordCount {
                record_count,
                last_offset_delta: delta,
            });
        }
        Ok(Self {
            base_offset: Offset::new(base),
            batch_length,
            leader_epoch: LeaderEpoch(raw.leader_epoch.get()),
            magic: raw.magic,
            crc: raw.crc.get(),
            attributes: raw.attributes.get(),
            last_offset_delta: delta,
            base_timestamp: raw.base_timestamp.get(),
            max_timestamp: raw.max_timestamp.get(),
            producer_id: ProducerId(raw.producer_id.get()),
            producer_epoch: ProducerEpoch(raw.producer_epoch.get()),
            base_sequence: raw.base_sequence.get(),
            record_count,
        })
    }

    /// Reads a header and demands that the whole batch is there. Returns it and the rest.
    /// The CRC is not checked.
    pub fn parse_whole(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), BatchError> {
        let header = Self::parse(bytes)?;
        let need = header.total_size();
        let (batch, rest) = bytes.split_at_checked(need).ok_or(BatchError::Truncated {
            have: bytes.len(),
            need,
        })?;
        Ok((header, batch, rest))
    }

    /// Bytes of the whole batch, header included.
    pub fn total_size(&self) -> usize {
        // a u32 fits: the process runs on 64-bit machines only
        usize::try_from(self.batch_length).unwrap_or(usize::MAX - BATCH_LOG_OVERHEAD_BYTES)
            + BATCH_LOG_OVERHEAD_BYTES
    }

    /// Offset of the last record (inclusive).
    pub const fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta as i64)
    }

    /// Offset after the last record (exclusive end).
    pub const fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// How the records are compressed.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let number = u8::try_from(self.attributes & CODEC_MASK).unwrap_or(u8::MAX);
        Codec::from_id(number).ok_or(BatchError::Codec { got: number })
    }

    /// Whether it belongs to a transaction.
    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether it carries a marker instead of user records.
    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is a delete horizon (KIP-534).
    pub const fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// Whether an idempotent or transactional producer wrote it.
    pub const fn has_producer_id(&self) -> bool {
        self.producer_id.is_some()
    }

    /// Who set the timestamps.
    pub const fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Sequence number of the last record; -1 without a producer id.
    pub const fn last_sequence(&self) -> i32 {
        if self.has_producer_id() {
            sequence_plus(self.base_sequence, self.last_offset_delta)
        } else {
            -1
        }
    }
}

/// `sequence + delta` as producers count: after 2^31-1 comes 0. `delta` is not negative.
pub const fn sequence_plus(sequence: i32, delta: i32) -> i32 {
    if sequence > SEQUENCE_MAX - delta {
        delta - (SEQUENCE_MAX - sequence) - 1
    } else {
        sequence + delta
    }
}

/// The sequence number after `last_sequence`.
pub const fn next_sequence(last_sequence: i32) -> i32 {
    sequence_plus(last_sequence, 1)
}

/// CRC-32C of what the header's CRC covers. Of bytes too short for a header: that of nothing.
pub fn compute_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(CRC_START_BYTES..).unwrap_or_default())
}

/// Whether the bytes of one whole batch are those that were sent.
pub fn check_crc(batch: &[u8]) -> bool {
    RawHeader::ref_from_prefix(batch).is_ok_and(|(raw, _)| raw.crc.get() == compute_crc(batch))
}

/// Checks what a client wants to append to one partition: exactly one v2 batch, intact, with
/// offsets, count and sequence that fit together, and not a control batch. Looks at no record.
///
/// In Kafka's terms `Truncated`, `Length` and `Crc` are `CORRUPT_MESSAGE`, `Codec` is
/// `UNSUPPORTED_COMPRESSION_TYPE`, everything else `INVALID_RECORD`.
pub fn check_produced(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    if bytes.is_empty() {
        return Err(BatchError::Missing);
    }
    let (header, batch, rest) = BatchHeader::parse_whole(bytes)?;
    if !rest.is_empty() {
        return Err(BatchError::NotSingle { extra: rest.len() });
    }
    let got = compute_crc(batch);
    if got != header.crc {
        return Err(BatchError::Crc {
            expected: header.crc,
            got,
        });
    }
    if header.is_control() {
        return Err(BatchError::Control);
    }
    let BatchHeader {
        record_count,
        last_offset_delta,
        base_sequence,
        ..
    } = header;
    if record_count == 0 || record_count - 1 != last_offset_delta {
        return Err(BatchError::RecordCount {
            record_count,
            last_offset_delta,
        });
    }
    if header.has_producer_id() && (base_sequence < 0 || header.producer_epoch.get() < 0) {
        let producer_id = header.producer_id.get();
        return Err(BatchError::Sequence {
            producer_id,
            base_sequence,
        });
    }
    header.codec()?;
    Ok(header)
}

/// Gives a batch its place in the log. The CRC stays valid, because it does not cover these fields.
/// Bytes too short for a header are left alone.
pub fn set_base_offset_and_epoch(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    if let Ok((raw, _)) = RawHeader::mut_from_prefix(batch) {
        raw.base_offset.set(base_offset.get());
        raw.leader_epoch.set(epoch.get());
    }
}

/// Stamps a whole batch with the broker's time: sets the type bit and the max timestamp and
/// computes the CRC anew. Bytes too short for a header are left alone.
pub fn set_log_append_time(batch: &mut [u8], timestamp_ms: i64) {
    if let Ok((raw, _)) = RawHeader::mut_from_prefix(batch) {
        raw.attributes
            .set(raw.attributes.get() | LOG_APPEND_TIME_BIT);
        raw.max_timestamp.set(timestamp_ms);
    }
    refresh_crc(batch);
}

/// Writes the CRC that the bytes have now.
pub(super) fn refresh_crc(batch: &mut [u8]) {
    let crc = compute_crc(batch);
    if let Ok((raw, _)) = RawHeader::mut_from_prefix(batch) {
        raw.crc.set(crc);
    }
}

/// Attributes of a batch with these properties.
pub(super) fn attributes_of(
    codec: Codec,
    timestamp_type: TimestampType,
    is_transactional: bool,
    is_control: bool,
) -> i16 {
    let mut attributes = i16::from(codec.id());
    if timestamp_type == TimestampType::LogAppendTime {
        attributes |= LOG_APPEND_TIME_BIT;
    }
    if is_transactional {
        attributes |= TRANSACTIONAL_BIT;
    }
    if is_control {
        attributes |= CONTROL_BIT;
    }
    attributes
}

/// Attributes with another codec and everything else as it was.
pub(super) fn attributes_with_codec(attributes: i16, codec: Codec) -> i16 {
    (attributes & !CODEC_MASK) | i16::from(codec.id())
}

/// Walks whole batches. A batch that is cut off or broken is the last item, an error.
pub fn iter_batches(bytes: &[u8]) -> BatchIter<'_> {
    BatchIter { rest: bytes }
}

/// See [`iter_batches`].
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match BatchHeader::parse_whole(self.rest) {
            Ok((header, batch, rest)) => {
                self.rest = rest;
                Some(Ok((header, batch)))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One record (key "k", value "v", no headers) at offset 0, timestamp 1000, leader epoch -1.
    fn golden() -> Vec<u8> {
        let mut bytes = vec![
            0, 0, 0, 0, 0, 0, 0, 0, // base offset
            0, 0, 0, 58, // batch length: 49 + 9
            0xff, 0xff, 0xff, 0xff, // leader epoch
            2,    // magic
            0, 0, 0, 0, // CRC, below
            0, 0, // attributes
            0, 0, 0, 0, // last offset delta
            0, 0, 0, 0, 0, 0, 3, 0xe8, // base timestamp
            0, 0, 0, 0, 0, 0, 3, 0xe8, // max timestamp
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id
            0xff, 0xff, // producer epoch
            0xff, 0xff, 0xff, 0xff, // base sequence
            0, 0, 0, 1, // record count
            // record: length 8, attributes, timestamp delta, offset delta, key, value, headers
            16, 0, 0, 0, 2, b'k', 2, b'v', 0,
        ];
        refresh_crc(&mut bytes);
        bytes
    }

    #[test]
    fn golden_batch_parses() {
        let bytes = golden();
        let header = check_produced(&bytes).unwrap();
        assert_eq!(header.base_offset, Offset::ZERO);
        assert_eq!(header.next_offset(), Offset::new(1));
        assert_eq!(header.total_size(), bytes.len());
        assert_eq!(header.base_timestamp, 1000);
        assert_eq!(header.max_timestamp, 1000);
        assert_eq!(header.leader_epoch, LeaderEpoch::UNKNOWN);
        assert_eq!(header.codec(), Ok(Codec::None));
        assert!(!header.has_producer_id());
        assert_eq!(header.last_sequence(), -1);
        // CRC-32C by another implementation (bitwise, reflected polynomial 0x82f63b78)
        let bitwise = !bytes.iter().skip(21).fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                if c & 1 == 1 {
                    (c >> 1) ^ 0x82f6_3b78
                } else {
                    c >> 1
                }
            })
        });
        assert_eq!(header.crc, bitwise);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = golden();
        for end in 0..bytes.len() {
            let cut = bytes.get(..end).unwrap();
            assert!(BatchHeader::parse_whole(cut).is_err(), "{end}");
            assert!(check_produced(cut).is_err(), "{end}");
        }
    }

    #[test]
    fn every_flipped_bit_of_covered_bytes_is_found() {
        let bytes = golden();
        for bit in 16 * 8..bytes.len() * 8 {
            let mut bent = bytes.clone();
            *bent.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            assert!(check_produced(&bent).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn offset_and_epoch_do_not_touch_the_crc() {
        let mut bytes = golden();
        set_base_offset_and_epoch(&mut bytes, Offset::new(1 << 40), LeaderEpoch(7));
        let header = check_produced(&bytes).unwrap();
        assert_eq!(header.base_offset, Offset::new(1 << 40));
        assert_eq!(header.leader_epoch, LeaderEpoch(7));
        assert!(check_crc(&bytes));
    }

    #[test]
    fn log_append_time_sets_type_maximum_and_crc() {
        let mut bytes = golden();
        set_log_append_time(&mut bytes, 5_000_000_000_000);
        let header = check_produced(&bytes).unwrap();
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(header.max_timestamp, 5_000_000_000_000);
        assert_eq!(header.base_timestamp, 1000);
    }

    fn with(change: impl FnOnce(&mut RawHeader)) -> Result<BatchHeader, BatchError> {
        let mut bytes = golden();
        change(RawHeader::mut_from_prefix(&mut bytes).unwrap().0);
        refresh_crc(&mut bytes);
        check_produced(&bytes)
    }

    #[test]
    fn impossible_headers_are_refused_with_their_numbers() {
        assert_eq!(with(|h| h.magic = 1), Err(BatchError::Magic { got: 1 }));
        assert_eq!(
            with(|h| h.batch_length.set(48)),
            Err(BatchError::Length { got: 48 })
        );
        assert_eq!(
            with(|h| h.batch_length.set(-1)),
            Err(BatchError::Length { got: -1 })
        );
        assert_eq!(
            with(|h| h.batch_length.set(i32::MAX)),
            Err(BatchError::Truncated {
                have: 70,
                need: 2_147_483_659
            })
        );
        assert_eq!(
            with(|h| h.batch_length.set(57)),
            Err(BatchError::NotSingle { extra: 1 })
        );
        assert_eq!(
            with(|h| h.base_offset.set(i64::MAX)),
            Err(BatchError::OffsetRange {
                base_offset: i64::MAX,
                last_offset_delta: 0
            })
        );
        assert_eq!(
            with(|h| h.record_count.set(2)),
            Err(BatchError::RecordCount {
                record_count: 2,
                last_offset_delta: 0
            })
        );
        assert_eq!(
            with(|h| h.record_count.set(0)),
            Err(BatchError::RecordCount {
                record_count: 0,
                last_offset_delta: 0
            })
        );
        assert_eq!(with(|h| h.attributes.set(0x20)), Err(BatchError::Control));
        assert_eq!(
            with(|h| h.attributes.set(5)),
            Err(BatchError::Codec { got: 5 })
        );
        assert_eq!(
            with(|h| h.producer_id.set(9)),
            Err(BatchError::Sequence {
                producer_id: 9,
                base_sequence: -1
            })
        );
        assert_eq!(check_produced(&[]), Err(BatchError::Missing));
    }

    #[test]
    fn iteration_ends_at_the_cut_batch() {
        let mut bytes = golden();
        bytes.extend_from_slice(&golden());
        bytes.truncate(bytes.len() - 1);
        let items: Vec<_> = iter_batches(&bytes).collect();
        assert_eq!(items.len(), 2);
        assert!(items.first().unwrap().is_ok());
        assert_eq!(
            items.last().unwrap().as_ref().unwrap_err(),
            &BatchError::Truncated { have: 69, need: 70 }
        );
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(next_sequence(i32::MAX), 0);
        assert_eq!(next_sequence(-1), 0);
        assert_eq!(sequence_plus(i32::MAX - 1, 3), 1);
        assert_eq!(sequence_plus(5, 3), 8);
        assert_eq!(sequence_plus(i32::MAX, i32::MAX), i32::MAX - 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_produced(&bytes);
            let _ = check_crc(&bytes);
            prop_assert!(iter_batches(&bytes).count() <= bytes.len() / 61 + 1);
            let mut bytes = bytes;
            set_base_offset_and_epoch(&mut bytes, Offset::new(1), LeaderEpoch(1));
            set_log_append_time(&mut bytes, 1);
        }
    }
}

//! Single records inside a batch's (decompressed) payload.
//!
//! ```text
//! varint length | i8 attributes | varlong timestamp delta | varint offset delta
//! | varint key length (-1 null) key | varint value length (-1 null) value
//! | varint header count { varint key length, key, varint value length (-1 null), value }
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: total over bytes; nothing is allocated; every claimed length is bounded by the bytes
//! left; a record that does not fill its length exactly, or bytes after the last record, are
//! errors.
//! Needed only where a rule looks at records: validation, time lookup, compaction, tools.

use super::compression::{self, CompressionError};
use super::limits::BATCH_HEADER_BYTES;
use super::record_batch::{BatchError, BatchHeader, TimestampType};
use super::varint;

use std::borrow::Cow;

/// Why the records of a batch cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The records do not follow the format.
    #[error("record {index} of the batch is malformed")]
    Malformed {
        /// Number of the record in its batch, from 0.
        index: i32,
    },
    /// Bytes follow the last record.
    #[error("{extra} bytes follow the last record of the batch")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The records cannot be decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The batch itself is broken.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// One record; its bytes are borrowed from the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// No attribute is in use.
    pub attributes: i8,
    /// Added to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Added to the batch's base offset.
    pub offset_delta: i32,
    /// What the record is about; compaction keeps the last per key.
    pub key: Option<&'a [u8]>,
    /// The payload; none is a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Already checked; iterate with [`Record::headers`].
    header_bytes: &'a [u8],
    header_count: usize,
    /// Bytes of the record, its length field included.
    pub size: usize,
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    /// UTF-8 by agreement; not checked.
    pub key: &'a [u8],
    /// Any bytes.
    pub value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// The headers in order.
    pub const fn headers(&self) -> HeaderIter<'a> {
        HeaderIter {
            rest: self.header_bytes,
            left: self.header_count,
        }
    }

    /// When it was written: the producer's time or the broker's, by the batch.
    pub const fn timestamp(&self, batch: &BatchHeader) -> i64 {
        match batch.timestamp_type() {
            TimestampType::CreateTime => batch.base_timestamp.saturating_add(self.timestamp_delta),
            TimestampType::LogAppendTime => batch.max_timestamp,
        }
    }

    /// Reads one record and moves `input` behind it.
    fn read(input: &mut &'a [u8]) -> Option<Self> {
        let before = input.len();
        let length = usize::try_from(varint::read_signed(input)?).ok()?;
        let mut body = input.split_off(..length)?;
        let size = before - input.len();
        let attributes = body.split_off_first()?.cast_signed();
        let timestamp_delta = varint::read_signed_long(&mut body)?;
        let offset_delta = varint::read_signed(&mut body)?;
        let key = read_nullable(&mut body).ok()?;
        let value = read_nullable(&mut body).ok()?;
        let header_count = usize::try_from(varint::read_signed(&mut body)?).ok()?;
        let header_bytes = body;
        // every header takes two bytes at least, so the count is bounded before the walk
        if header_count > body.len() / 2 {
            return None;
        }
        for _ in 0..header_count {
            read_header(&mut body)?;
        }
        if !body.is_empty() {
            return None;
        }
        Some(Self {
            attributes,
            timestamp_delta,
            offset_delta,
            key,
            value,
            header_bytes,
            header_count,
            size,
        })
    }
}

/// The bytes are not a length with so many bytes behind it.
struct Malformed;

fn read_nullable<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let length = varint::read_signed(input).ok_or(Malformed)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    input.split_off(..length).map(Some).ok_or(Malformed)
}

fn read_header<'a>(input: &mut &'a [u8]) -> Option<RecordHeader<'a>> {
    let key = read_nullable(input).ok()??;
    let value = read_nullable(input).ok()?;
    Some(RecordHeader { key, value })
}

/// Walks the headers of one record.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = RecordHeader<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        read_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}

/// Walks the `count` records of a decompressed payload. An error is the last item.
pub const fn iter_records(payload: &[u8], count: i32) -> RecordIter<'_> {
    RecordIter {
        rest: payload,
        index: 0,
        count,
        is_done: false,
    }
}

/// See [`iter_records`].
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    rest: &'a [u8],
    index: i32,
    count: i32,
    is_done: bool,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if self.index >= self.count {
            self.is_done = true;
            let extra = self.rest.len();
            return (extra > 0).then_some(Err(RecordError::TrailingBytes { extra }));
        }
        let index = self.index;
        self.index += 1;
        let record = Record::read(&mut self.rest);
        self.is_done = record.is_none();
        Some(record.ok_or(RecordError::Malformed { index }))
    }
}

/// The records of a whole batch as uncompressed bytes, at most `limit` of them. Feed them to
/// [`iter_records`] with the batch's record count. The CRC is not checked.
pub fn payload<'a>(
    header: &BatchHeader,
    batch: &'a [u8],
    limit: usize,
) -> Result<Cow<'a, [u8]>, RecordError> {
    let (have, need) = (batch.len(), header.total_size());
    let records = batch
        .get(BATCH_HEADER_BYTES..need)
        .ok_or(BatchError::Truncated { have, need })?;
    Ok(compression::decompress(header.codec()?, records, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_record_parses() {
        // timestamp delta 5, offset delta 1, key "ab", null value, header "h" = "x", header "i" =
        // null
        let bytes = [
            30, 0, 10, 2, 4, b'a', b'b', 1, 4, 2, b'h', 2, b'x', 2, b'i', 1,
        ];
        let records: Vec<_> = iter_records(&bytes, 1).collect::<Result<_, _>>().unwrap();
        let [record] = records.as_slice() else {
            panic!("one record")
        };
        assert_eq!(record.timestamp_delta, 5);
        assert_eq!(record.offset_delta, 1);
        assert_eq!(record.key, Some(&b"ab"[..]));
        assert_eq!(record.value, None);
        assert_eq!(record.size, bytes.len());
        let headers: Vec<_> = record.headers().collect();
        assert_eq!(
            headers,
            [
                RecordHeader {
                    key: b"h",
                    value: Some(b"x")
                },
                RecordHeader {
                    key: b"i",
                    value: None
                }
            ]
        );
    }

    #[test]
    fn lengths_beyond_the_bytes_are_refused() {
        let whole = [16, 0, 0, 0, 2, b'k', 2, b'v', 0];
        assert!(iter_records(&whole, 1).all(|record| record.is_ok()));
        for end in 0..whole.len() {
            let cut = whole.get(..end).unwrap();
            assert_eq!(
                iter_records(cut, 1).next(),
                Some(Err(RecordError::Malformed { index: 0 })),
                "{end}"
            );
        }
        // value length 2^31-1; header count 2^31-1; negative header count
        let value = [24, 0, 0, 0, 1, 0xfe, 0xff, 0xff, 0xff, 15, 0, 0, 0];
        let count = [20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 15];
        let negative = [12, 0, 0, 0, 1, 1, 1];
        for bytes in [&value[..], &count[..], &negative[..]] {
            let mut items = iter_records(bytes, 1);
            assert_eq!(items.next(), Some(Err(RecordError::Malformed { index: 0 })));
            assert_eq!(items.next(), None);
        }
    }

    #[test]
    fn bytes_behind_the_last_record_are_an_error() {
        let bytes = [16, 0, 0, 0, 2, b'k', 2, b'v', 0, 99];
        let items: Vec<_> = iter_records(&bytes, 1).collect();
        assert_eq!(
            items.last(),
            Some(&Err(RecordError::TrailingBytes { extra: 1 }))
        );
        assert_eq!(items.len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            count: i32,
        ) {
            for record in iter_records(&bytes, count).flatten() {
                prop_assert!(record.headers().count() <= bytes.len());
            }
        }
    }
}

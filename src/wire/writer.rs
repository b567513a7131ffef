//! Writing of protocol fields into one frame.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a length that does not fit its field makes the whole frame an error, never a wrong
//! frame.

use bytes::{BufMut, Bytes, BytesMut};

use crate::model::ids::TopicId;
use crate::wire::EncodeError;
use crate::wire::frame::LENGTH_BYTES;

/// Collects one frame; the length prefix is filled in at the end.
pub(super) struct Writer {
    out: BytesMut,
    is_flexible: bool,
    is_too_long: bool,
}

impl Writer {
    /// A response frame with its header.
    pub(super) fn response(
        capacity: usize,
        correlation_id: i32,
        has_header_tags: bool,
        is_flexible: bool,
    ) -> Self {
        let mut out = BytesMut::with_capacity(capacity);
        out.put_i32(0);
        out.put_i32(correlation_id);
        if has_header_tags {
            out.put_u8(0);
        }
        Self {
            out,
            is_flexible,
            is_too_long: false,
        }
    }

    /// An empty buffer for a nested value.
    pub(super) fn nested(is_flexible: bool) -> Self {
        Self {
            out: BytesMut::new(),
            is_flexible,
            is_too_long: false,
        }
    }

    /// Bytes so far, the length prefix included.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.out.put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    pub(super) fn topic_id(&mut self, value: TopicId) {
        self.out.put_slice(value.as_bytes());
    }

    pub(super) fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out
                .put_u8(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.out.put_u8(u8::try_from(value).unwrap_or(0));
    }

    fn compact_length(&mut self, length: usize) {
        match u32::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(1))
        {
            Some(length) => self.varint(length),
            None => self.is_too_long = true,
        }
    }

    fn long_length(&mut self, length: usize) {
        if self.is_flexible {
            return self.compact_length(length);
        }
        match i32::try_from(length) {
            Ok(length) => self.out.put_i32(length),
            Err(_) => self.is_too_long = true,
        }
    }

    /// The length of a byte field whose bytes the caller sends.
    pub(super) fn bytes_length(&mut self, length: usize) {
        self.long_length(length);
    }

    pub(super) fn array(&mut self, count: usize) {
        self.long_length(count);
    }

    pub(super) fn null_array(&mut self) {
        if self.is_flexible {
            self.out.put_u8(0);
        } else {
            self.out.put_i32(-1);
        }
    }

    pub(super) fn string(&mut self, value: &str) {
        if self.is_flexible {
            self.compact_length(value.len());
        } else {
            match i16::try_from(value.len()) {
                Ok(length) => self.out.put_i16(length),
                Err(_) => self.is_too_long = true,
            }
        }
        self.out.put_slice(value.as_bytes());
    }

    pub(super) fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.string(value),
            None if self.is_flexible => self.out.put_u8(0),
            None => self.out.put_i16(-1),
        }
    }

    /// The end of a structure without tagged fields.
    pub(super) fn no_tags(&mut self) {
        if self.is_flexible {
            self.out.put_u8(0);
        }
    }

    /// The tagged fields of a structure, ascending; `values` are encoded already.
    pub(super) fn tags(&mut self, values: &[(u32, Writer)]) {
        if !self.is_flexible {
            return;
        }
        match u32::try_from(values.len()) {
            Ok(count) => self.varint(count),
            Err(_) => self.is_too_long = true,
        }
        for (tag, value) in values {
            self.varint(*tag);
            match u32::try_from(value.out.len()) {
                Ok(size) => self.varint(size),
                Err(_) => self.is_too_long = true,
            }
            self.is_too_long |= value.is_too_long;
            self.out.put_slice(&value.out);
        }
    }

    /// The finished frame, when `extra` bytes that are sent from elsewhere belong to it.
    pub(super) fn finish(mut self, extra: usize) -> Result<Bytes, EncodeError> {
        let length = self
            .out
            .len()
            .saturating_sub(LENGTH_BYTES)
            .checked_add(extra);
        let length = length.and_then(|length| i32::try_from(length).ok());
        let (Some(length), false) = (length, self.is_too_long) else {
            return Err(EncodeError::TooLong);
        };
        match self.out.first_chunk_mut::<LENGTH_BYTES>() {
            Some(prefix) => *prefix = length.to_be_bytes(),
            None => return Err(EncodeError::TooLong),
        }
        Ok(self.out.freeze())
    }
}

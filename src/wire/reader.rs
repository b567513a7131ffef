//! Total reading of protocol fields from one frame.
//!
//! Pure: no async, no clock, no IO.
//! Promises: never panics; strings and byte fields are slices of the frame, not copies; an array's
//! count is bounded by the bytes left, the protocol's limit, and a budget for the whole request.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::model::ids::TopicId;
use crate::model::limits::{ARRAY_ELEMENTS_MAX, TAGGED_FIELDS_MAX};
use crate::model::varint;
use crate::wire::DecodeError;

/// Reads fields in order. `flexible` says how lengths are written.
pub(super) struct Reader<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
    is_flexible: bool,
    elements_left: usize,
    tags_left: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(frame: &'a Bytes, is_flexible: bool) -> Self {
        Self {
            frame,
            rest: frame,
            is_flexible,
            elements_left: ARRAY_ELEMENTS_MAX,
            tags_left: ARRAY_ELEMENTS_MAX,
        }
    }

    pub(super) fn set_flexible(&mut self, is_flexible: bool) {
        self.is_flexible = is_flexible;
    }

    /// Where the next byte is in the frame.
    pub(super) fn position(&self) -> usize {
        self.frame.len() - self.rest.len()
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Elements of all arrays so far, whether they were read or not.
    pub(super) fn elements(&self) -> usize {
        ARRAY_ELEMENTS_MAX - self.elements_left
    }

    /// What was not read, as a slice of the frame.
    pub(super) fn into_rest(self) -> Bytes {
        self.frame.slice_ref(self.rest)
    }

    pub(super) fn take(&mut self, need: usize) -> Result<&'a [u8], DecodeError> {
        let (position, left) = (self.position(), self.left());
        self.rest.split_off(..need).ok_or(DecodeError::Truncated {
            position,
            need,
            left,
        })
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (position, left) = (self.position(), self.left());
        let (head, tail) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated {
                position,
                need: N,
                left,
            })?;
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn i8(&mut self) -> Result<i8, DecodeError> {
        Ok(i8::from_be_bytes(self.take_array()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.take_array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.take_array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.take_array()?))
    }

    pub(super) fn topic_id(&mut self) -> Result<TopicId, DecodeError> {
        Ok(TopicId::from_bytes(self.take_array()?))
    }

    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let position = self.position();
        varint::read_unsigned(&mut self.rest).ok_or(DecodeError::Varint { position })
    }

    fn varint_usize(&mut self) -> Result<usize, DecodeError> {
        let position = self.position();
        usize::try_from(self.varint()?).map_err(|_| DecodeError::Varint { position })
    }

    /// A length as compact fields have it: one more than the length, 0 for null.
    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok(self.varint_usize()?.checked_sub(1))
    }

    fn plain_length(&mut self, length: i64) -> Result<Option<usize>, DecodeError> {
        if length == -1 {
            return Ok(None);
        }
        let position = self.position();
        let length = usize::try_from(length)
            .map_err(|_| DecodeError::NegativeLength { position, length })?;
        Ok(Some(length))
    }

    fn string_length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.is_flexible {
            return self.compact_length();
        }
        let length = self.i16()?;
        self.plain_length(i64::from(length))
    }

    fn long_length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.is_flexible {
            return self.compact_length();
        }
        let length = self.i32()?;
        self.plain_length(i64::from(length))
    }

    /// Moves behind a string and says whether it is null.
    pub(super) fn skip_string(&mut self) -> Result<(), DecodeError> {
        if let Some(length) = self.string_length()? {
            self.take(length)?;
        }
        Ok(())
    }

    /// Moves behind a byte field.
    pub(super) fn skip_bytes(&mut self) -> Result<(), DecodeError> {
        if let Some(length) = self.long_length()? {
            self.take(length)?;
        }
        Ok(())
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<StrBytes>, DecodeError> {
        let Some(length) = self.string_length()? else {
            return Ok(None);
        };
        let bytes = self.take(length)?;
        let position = self.position();
        StrBytes::from_utf8(self.frame.slice_ref(bytes))
            .map(Some)
            .map_err(|_| DecodeError::Utf8 { position })
    }

    pub(super) fn string(&mut self) -> Result<StrBytes, DecodeError> {
        let value = self.nullable_string()?;
        value.ok_or(DecodeError::Null {
            position: self.position(),
        })
    }

    /// A byte field as a slice of the frame.
    pub(super) fn nullable_bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let Some(length) = self.long_length()? else {
            return Ok(None);
        };
        Ok(Some(self.frame.slice_ref(self.take(length)?)))
    }

    /// The count of an array whose elements take `element_bytes` at least; none for null.
    /// When this returns, the bytes for so many elements may be there: reserve no more than that.
    pub(super) fn nullable_array(
        &mut self,
        element_bytes: usize,
    ) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.long_length()? else {
            return Ok(None);
        };
        let max = (self.left() / element_bytes.max(1)).min(self.elements_left);
        if count > max {
            return Err(DecodeError::ArrayTooLong {
                position: self.position(),
                count,
                max,
            });
        }
        self.elements_left -= count;
        Ok(Some(count))
    }

    pub(super) fn array(&mut self, element_bytes: usize) -> Result<usize, DecodeError> {
        let count = self.nullable_array(element_bytes)?;
        count.ok_or(DecodeError::Null {
            position: self.position(),
        })
    }

    /// Reads the tagged fields at the end of a structure, if this version has them. `known` gets a
    /// reader on the value and says whether it knows the tag; the others are skipped.
    pub(super) fn tags(
        &mut self,
        mut known: impl FnMut(u32, &mut Self) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        if !self.is_flexible {
            return Ok(());
        }
        let count = self.varint_usize()?;
        let max = TAGGED_FIELDS_MAX.min(self.tags_left).min(self.left() / 2);
        if count > max {
            return Err(DecodeError::TooManyTags {
                position: self.position(),
                count,
                max,
            });
        }
        self.tags_left -= count;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint_usize()?;
            let end = self.position().saturating_add(size);
            let (position, left) = (self.position(), self.left());
            if size > left {
                return Err(DecodeError::Truncated {
                    position,
                    need: size,
                    left,
                });
            }
            if !known(tag, self)? {
                self.take(size)?;
            }
            if self.position() != end {
                return Err(DecodeError::TagSize {
                    tag,
                    position: self.position(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn skip_tags(&mut self) -> Result<(), DecodeError> {
        self.tags(|_, _| Ok(false))
    }
}

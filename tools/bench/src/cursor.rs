//! Reading of the two hot responses: fields in order from bytes that a broker sent.
//!
//! Pure: no async, no clock, no IO.
//! Promises: total; a length beyond the bytes that are there is `None`, never a panic.

/// Reads fields from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    is_flexible: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8], is_flexible: bool) -> Self {
        Self {
            rest: bytes,
            is_flexible,
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        self.rest.split_off(..count)
    }

    fn array_of<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn i16(&mut self) -> Option<i16> {
        self.array_of().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array_of().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array_of().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array_of()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A length or a count; null is 0.
    fn length(&mut self, is_short: bool) -> Option<usize> {
        if self.is_flexible {
            return usize::try_from(self.varint()?.saturating_sub(1)).ok();
        }
        let length = match is_short {
            true => i32::from(self.i16()?),
            false => self.i32()?,
        };
        usize::try_from(length.max(0)).ok()
    }

    pub(crate) fn array(&mut self) -> Option<usize> {
        self.length(false)
    }

    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.length(true)?;
        self.take(length)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length(false)?;
        self.take(length)
    }

    pub(crate) fn skip_tags(&mut self) -> Option<()> {
        if !self.is_flexible {
            return Some(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = usize::try_from(self.varint()?).ok()?;
            self.take(length)?;
        }
        Some(())
    }
}

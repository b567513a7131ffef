//! Variable-length integers: unsigned (flexible protocol versions) and zigzag (records).
//!
//! Pure: no async, no clock, no IO.
//! Promises: readers never panic, take at most 5 bytes (32 bits) or 10 bytes (64 bits), and refuse
//! what does not fit; on failure the input is left where it was.

/// Reads an unsigned 32-bit varint and moves `input` behind it.
pub fn read_unsigned(input: &mut &[u8]) -> Option<u32> {
    let mut rest = *input;
    let mut value = 0_u32;
    for shift in [0_u32, 7, 14, 21, 28] {
        let byte = *rest.split_off_first()?;
        let bits = u32::from(byte & 0x7f);
        if shift == 28 && bits > 0x0f {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            *input = rest;
            return Some(value);
        }
    }
    None
}

/// Reads an unsigned 64-bit varint and moves `input` behind it.
pub fn read_unsigned_long(input: &mut &[u8]) -> Option<u64> {
    let mut rest = *input;
    let mut value = 0_u64;
    for shift in (0_u32..=63).step_by(7) {
        let byte = *rest.split_off_first()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            *input = rest;
            return Some(value);
        }
    }
    None
}

/// Reads a zigzag 32-bit varint and moves `input` behind it.
pub fn read_signed(input: &mut &[u8]) -> Option<i32> {
    let value = read_unsigned(input)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Reads a zigzag 64-bit varint and moves `input` behind it.
pub fn read_signed_long(input: &mut &[u8]) -> Option<i64> {
    let value = read_unsigned_long(input)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Appends an unsigned varint.
pub fn write_unsigned(out: &mut Vec<u8>, value: u32) {
    write_unsigned_long(out, u64::from(value));
}

/// Appends an unsigned 64-bit varint.
pub fn write_unsigned_long(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let bits = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.push(bits);
            return;
        }
        out.push(bits | 0x80);
    }
}

/// Appends a zigzag varint.
pub fn write_signed(out: &mut Vec<u8>, value: i32) {
    write_signed_long(out, i64::from(value));
}

/// Appends a zigzag 64-bit varint.
pub fn write_signed_long(out: &mut Vec<u8>, value: i64) {
    write_unsigned_long(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Bytes that `write_unsigned` appends.
pub const fn unsigned_len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0x0fff_ffff => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        for value in [0, -1, 1, -64, 64, i32::MAX, i32::MIN] {
            write_signed(&mut out, value);
        }
        assert_eq!(
            out,
            [
                0, 1, 2, 127, 0x80, 1, 0xfe, 0xff, 0xff, 0xff, 15, 0xff, 0xff, 0xff, 0xff, 15
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_and_the_input_stays() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0x1f];
        let mut input = &bytes[..];
        assert_eq!(read_unsigned(&mut input), None);
        assert_eq!(input.len(), 5);
        assert_eq!(read_unsigned(&mut &[0x80, 0x80][..]), None);
        assert_eq!(
            read_unsigned(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]),
            None
        );
        assert_eq!(read_unsigned_long(&mut &[0xff; 10][..]), None);
    }

    proptest! {
        #[test]
        fn signed_round_trips(value: i64, narrow: i32) {
            let mut out = Vec::new();
            write_signed_long(&mut out, value);
            write_signed(&mut out, narrow);
            let mut input = &out[..];
            prop_assert_eq!(read_signed_long(&mut input), Some(value));
            prop_assert_eq!(read_signed(&mut input), Some(narrow));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn unsigned_round_trips_with_the_announced_length(value: u32) {
            let mut out = Vec::new();
            write_unsigned(&mut out, value);
            prop_assert_eq!(out.len(), unsigned_len(value));
            prop_assert_eq!(read_unsigned(&mut &out[..]), Some(value));
        }
    }
}

//! The frame around every message: four bytes of length, big-endian, then the message.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a length is judged before a byte of the body is read or reserved.

use crate::wire::DecodeError;

/// Bytes of the length prefix.
pub const LENGTH_BYTES: usize = 4;
/// Smallest request: API key, version, correlation id.
pub const REQUEST_BYTES_MIN: usize = 8;

/// Bytes that follow the prefix; `max` is `socket.request.max.bytes`.
pub fn frame_length(prefix: [u8; LENGTH_BYTES], max: usize) -> Result<usize, DecodeError> {
    let length = i32::from_be_bytes(prefix);
    usize::try_from(length)
        .ok()
        .filter(|length| (REQUEST_BYTES_MIN..=max).contains(length))
        .ok_or(DecodeError::FrameLength { length, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_outside_the_limits_are_refused() {
        assert_eq!(frame_length([0, 0, 1, 0], 256), Ok(256));
        assert_eq!(
            frame_length([0, 0, 1, 1], 256),
            Err(DecodeError::FrameLength {
                length: 257,
                max: 256
            })
        );
        // what a TLS or HTTP client sends first
        assert!(frame_length([0x16, 3, 1, 0], 100 << 20).is_err());
        assert!(frame_length(*b"GET ", 100 << 20).is_err());
        for length in [0, 7, -1, i32::MIN] {
            assert!(frame_length(length.to_be_bytes(), 256).is_err(), "{length}");
        }
    }
}

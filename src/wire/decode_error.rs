//! Why bytes are not a request, or a response does not fit into bytes.

use crate::wire::api::ApiKey;

/// Why bytes cannot be decoded. Positions count from the first byte after the frame's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A frame length that is negative or above the limit.
    #[error("frame length {length} is outside 0 to {max}")]
    FrameLength {
        /// What the prefix says.
        length: i32,
        /// The limit.
        max: usize,
    },
    /// The bytes end before the field does.
    #[error("request ends inside a field: {need} bytes needed at position {position}, {left} left")]
    Truncated {
        /// Where the field's bytes begin.
        position: usize,
        /// Bytes the field needs.
        need: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A negative length that does not mean null.
    #[error("impossible length {length} at position {position}")]
    NegativeLength {
        /// Behind the length field.
        position: usize,
        /// What it says.
        length: i64,
    },
    /// An array longer than its limit or than the bytes left.
    #[error("array of {count} elements at position {position}, at most {max} are possible")]
    ArrayTooLong {
        /// Behind the length field.
        position: usize,
        /// What it says.
        count: usize,
        /// The bound that applies.
        max: usize,
    },
    /// More tagged fields than allowed.
    #[error("{count} tagged fields at position {position}, at most {max} are possible")]
    TooManyTags {
        /// Behind the count.
        position: usize,
        /// What it says.
        count: usize,
        /// The bound that applies.
        max: usize,
    },
    /// Null where a value must be.
    #[error("null before position {position} where a value is expected")]
    Null {
        /// Behind the length field.
        position: usize,
    },
    /// A structure that may be null is neither null nor there.
    #[error(
        "byte {found} before position {position} says neither that a structure follows nor not"
    )]
    Presence {
        /// Behind the byte.
        position: usize,
        /// What it says.
        found: i8,
    },
    /// A variable-length integer that is too long or cut off.
    #[error("malformed variable-length integer at position {position}")]
    Varint {
        /// Where it begins.
        position: usize,
    },
    /// A string that is not UTF-8.
    #[error("string before position {position} is not UTF-8")]
    Utf8 {
        /// Behind the string.
        position: usize,
    },
    /// A tagged field whose size is not that of its value.
    #[error("tagged field {tag} before position {position} does not fill its size")]
    TagSize {
        /// Which.
        tag: u32,
        /// Behind its value.
        position: usize,
    },
    /// An API that this broker does not serve.
    #[error("API key {key} is not served")]
    UnknownApi {
        /// The number on the wire.
        key: i16,
    },
    /// A version outside the served range.
    #[error("{api} version {version} is not served")]
    UnsupportedVersion {
        /// Of the request.
        api: ApiKey,
        /// Of the request.
        version: i16,
    },
    /// The generated decoder refuses what the bounds check let pass: null or not UTF-8.
    #[error("{api} version {version} has a malformed body")]
    Body {
        /// Of the request.
        api: ApiKey,
        /// Of the request.
        version: i16,
    },
}

/// Why a message cannot be encoded: a mistake of the caller, never of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string, array or frame beyond what its length field can say.
    #[error("a length of the message does not fit into its field")]
    TooLong,
    /// The version lacks a field that is set.
    #[error("{api} version {version} cannot say what the message holds")]
    Body {
        /// Of the message.
        api: ApiKey,
        /// Of the message.
        version: i16,
    },
}

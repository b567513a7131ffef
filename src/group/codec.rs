//! Records of `__consumer_offsets`, in Kafka's exact format.
//!
//! Pure: no async, no clock, no IO.
//!
//! ```text
//! key    i16 version 0|1  string group, string topic, i32 partition     committed offset
//! key    i16 version 2    string group                                  group metadata
//! value  i16 version      offset:  i64 offset, [v3+ i32 leader epoch], string metadata,
//!                                  i64 commit timestamp, [v1 i64 expire timestamp]
//!                         group:   string protocol type, i32 generation, string? protocol,
//!                                  string? leader, [v2+ i64 state timestamp], members[
//!                                    string id, [v3+ string? instance id], string client id,
//!                                    string host, [v1+ i32 rebalance timeout],
//!                                    i32 session timeout, bytes subscription, bytes assignment]
//! ```
//! Strings are i16-counted, bytes and arrays i32-counted, all big-endian. Version 4 of both values
//! is the flexible form: unsigned varint counts plus one, and tagged fields, which are skipped.
//! Written: key 1 with value 3 (value 1 when the client set an expiry), key 2 with value 3. Read:
//! all. A null value is a tombstone. Keys of other versions belong to newer protocols:
//! `Key::Other`.
//! Promises: decoding is total; no allocation exceeds what the bytes at hand can fill.

use bytes::Bytes;

use super::offsets::CommittedOffset;
use crate::model::varint;

/// Why bytes are not a record of this topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("the record ends inside a field")]
    Truncated,
    /// A length is negative where it may not be, or text is not UTF-8.
    #[error("a field of the record is malformed")]
    Malformed,
    /// Written by a newer broker.
    #[error("the value has version {got}, this broker reads up to 4")]
    Version {
        /// The version found.
        got: i16,
    },
    /// A field does not fit its length on disk.
    #[error("a string of {size} bytes does not fit into a record")]
    TooLong {
        /// Its size in bytes.
        size: usize,
    },
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A committed offset.
    Offset {
        /// Group id.
        group: String,
        /// Topic name.
        topic: String,
        /// Partition of that topic.
        partition: i32,
    },
    /// A group's metadata.
    Group {
        /// Group id.
        group: String,
    },
    /// Of another protocol.
    Other {
        /// Its version.
        version: i16,
    },
}

/// One member in a group's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Member id.
    pub member_id: String,
    /// Instance id of a static member.
    pub group_instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Client address.
    pub client_host: String,
    /// Rebalance timeout.
    pub rebalance_timeout_ms: i32,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Metadata for the chosen protocol.
    pub subscription: Bytes,
    /// Assignment.
    pub assignment: Bytes,
}

/// A group's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// Protocol type, "" for none.
    pub protocol_type: String,
    /// Generation.
    pub generation_id: i32,
    /// Chosen protocol.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Since when the group is in its state, -1 if unknown.
    pub state_timestamp_ms: i64,
    /// Its members; none: the group is empty.
    pub members: Vec<MemberValue>,
}

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const VALUE_VERSION: i16 = 3;
const OFFSET_VALUE_VERSION_EXPIRING: i16 = 1;
const VALUE_VERSION_MAX: i16 = 4;

/// Encodes the key of a committed offset.
pub fn encode_offset_key(group: &str, topic: &str, partition: i32) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(10 + group.len() + topic.len());
    put_i16(&mut out, OFFSET_KEY_VERSION);
    put_string(&mut out, group)?;
    put_string(&mut out, topic)?;
    put_i32(&mut out, partition);
    Ok(out)
}

/// Encodes the key of a group's metadata.
pub fn encode_group_key(group: &str) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(4 + group.len());
    put_i16(&mut out, GROUP_KEY_VERSION);
    put_string(&mut out, group)?;
    Ok(out)
}

/// Encodes a committed offset.
pub fn encode_offset_value(value: &CommittedOffset) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(32 + value.metadata.len());
    if let Some(expire_timestamp_ms) = value.expire_timestamp_ms {
        // The only version with an own expiry; it has no leader epoch.
        put_i16(&mut out, OFFSET_VALUE_VERSION_EXPIRING);
        put_i64(&mut out, value.offset);
        put_string(&mut out, &value.metadata)?;
        put_i64(&mut out, value.commit_timestamp_ms);
        put_i64(&mut out, expire_timestamp_ms);
    } else {
        put_i16(&mut out, VALUE_VERSION);
        put_i64(&mut out, value.offset);
        put_i32(&mut out, value.leader_epoch);
        put_string(&mut out, &value.metadata)?;
        put_i64(&mut out, value.commit_timestamp_ms);
    }
    Ok(out)
}

/// Encodes a group's metadata.
pub fn encode_group_value(value: &GroupValue) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    put_i16(&mut out, VALUE_VERSION);
    put_string(&mut out, &value.protocol_type)?;
    put_i32(&mut out, value.generation_id);
    put_nullable_string(&mut out, value.protocol.as_deref())?;
    put_nullable_string(&mut out, value.leader.as_deref())?;
    put_i64(&mut out, value.state_timestamp_ms);
    put_count(&mut out, value.members.len())?;
    for member in &value.members {
        put_string(&mut out, &member.member_id)?;
        put_nullable_string(&mut out, member.group_instance_id.as_deref())?;
        put_string(&mut out, &member.client_id)?;
        put_string(&mut out, &member.client_host)?;
        put_i32(&mut out, member.rebalance_timeout_ms);
        put_i32(&mut out, member.session_timeout_ms);
        put_bytes(&mut out, &member.subscription)?;
        put_bytes(&mut out, &member.assignment)?;
    }
    Ok(out)
}

/// Decodes any key.
pub fn decode_key(bytes: &[u8]) -> Result<Key, CodecError> {
    let mut input = Input {
        rest: bytes,
        is_flexible: false,
    };
    Ok(match input.i16()? {
        0 | 1 => Key::Offset {
            group: input.string()?,
            topic: input.string()?,
            partition: input.i32()?,
        },
        2 => Key::Group {
            group: input.string()?,
        },
        version => Key::Other { version },
    })
}

/// Decodes a committed offset, versions 0 to 4.
pub fn decode_offset_value(bytes: &[u8]) -> Result<CommittedOffset, CodecError> {
    let (version, mut input) = Input::of_value(bytes)?;
    let offset = input.i64()?;
    let leader_epoch = if version >= 3 { input.i32()? } else { -1 };
    let metadata = input.string()?;
    let commit_timestamp_ms = input.i64()?;
    let expire = if version == OFFSET_VALUE_VERSION_EXPIRING {
        input.i64()?
    } else {
        -1
    };
    input.skip_tagged_fields()?;
    Ok(CommittedOffset {
        offset,
        leader_epoch,
        metadata: metadata.into(),
        commit_timestamp_ms,
        expire_timestamp_ms: (expire >= 0).then_some(expire),
    })
}

/// Decodes a group's metadata, versions 0 to 4.
pub fn decode_group_value(bytes: &[u8]) -> Result<GroupValue, CodecError> {
    let (version, mut input) = Input::of_value(bytes)?;
    let protocol_type = input.string()?;
    let generation_id = input.i32()?;
    let protocol = input.nullable_string()?;
    let leader = input.nullable_string()?;
    let state_timestamp_ms = if version >= 2 { input.i64()? } else { -1 };
    let count = input.count()?.ok_or(CodecError::Malformed)?;
    // Every member takes at least one byte of what is left.
    let mut members = Vec::with_capacity(count.min(input.rest.len() / 16));
    for _ in 0..count {
        members.push(decode_member(&mut input, version)?);
    }
    input.skip_tagged_fields()?;
    Ok(GroupValue {
        protocol_type,
        generation_id,
        protocol,
        leader,
        state_timestamp_ms,
        members,
    })
}

fn decode_member(input: &mut Input<'_>, version: i16) -> Result<MemberValue, CodecError> {
    let member_id = input.string()?;
    let group_instance_id = if version >= 3 {
        input.nullable_string()?
    } else {
        None
    };
    let client_id = input.string()?;
    let client_host = input.string()?;
    let rebalance_timeout_ms = if version >= 1 {
        Some(input.i32()?)
    } else {
        None
    };
    let session_timeout_ms = input.i32()?;
    let subscription = input.bytes()?;
    let assignment = input.bytes()?;
    input.skip_tagged_fields()?;
    Ok(MemberValue {
        member_id,
        group_instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription,
        assignment,
    })
}

struct Input<'a> {
    rest: &'a [u8],
    is_flexible: bool,
}

impl<'a> Input<'a> {
    fn of_value(bytes: &'a [u8]) -> Result<(i16, Self), CodecError> {
        let mut input = Self {
            rest: bytes,
            is_flexible: false,
        };
        let version = input.i16()?;
        if !(0..=VALUE_VERSION_MAX).contains(&version) {
            return Err(CodecError::Version { got: version });
        }
        input.is_flexible = version >= 4;
        Ok((version, input))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn i16(&mut self) -> Result<i16, CodecError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, CodecError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn unsigned_varint(&mut self) -> Result<usize, CodecError> {
        let value = varint::read_unsigned(&mut self.rest).ok_or(CodecError::Truncated)?;
        usize::try_from(value).map_err(|_| CodecError::Malformed)
    }

    /// A flexible count: zero is null, else the count plus one.
    fn compact_count(&mut self) -> Result<Option<usize>, CodecError> {
        Ok(self.unsigned_varint()?.checked_sub(1))
    }

    /// Count of an array or of bytes.
    fn count(&mut self) -> Result<Option<usize>, CodecError> {
        if self.is_flexible {
            return self.compact_count();
        }
        match self.i32()? {
            -1 => Ok(None),
            count => usize::try_from(count)
                .map(Some)
                .map_err(|_| CodecError::Malformed),
        }
    }

    fn nullable_string(&mut self) -> Result<Option<String>, CodecError> {
        let size = if self.is_flexible {
            self.compact_count()?
        } else {
            match self.i16()? {
                -1 => None,
                size => Some(usize::try_from(size).map_err(|_| CodecError::Malformed)?),
            }
        };
        let Some(size) = size else { return Ok(None) };
        let text = std::str::from_utf8(self.take(size)?).map_err(|_| CodecError::Malformed)?;
        Ok(Some(text.to_owned()))
    }

    fn string(&mut self) -> Result<String, CodecError> {
        self.nullable_string()?.ok_or(CodecError::Malformed)
    }

    /// Bytes; null reads as none.
    fn bytes(&mut self) -> Result<Bytes, CodecError> {
        match self.count()? {
            Some(size) => Ok(Bytes::copy_from_slice(self.take(size)?)),
            None => Ok(Bytes::new()),
        }
    }

    fn skip_tagged_fields(&mut self) -> Result<(), CodecError> {
        if !self.is_flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let _tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()?;
            self.take(size)?;
        }
        Ok(())
    }
}

fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Result<(), CodecError> {
    put_i32(
        out,
        i32::try_from(count).map_err(|_| CodecError::TooLong { size: count })?,
    );
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) -> Result<(), CodecError> {
    let size = i16::try_from(text.len()).map_err(|_| CodecError::TooLong { size: text.len() })?;
    put_i16(out, size);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_nullable_string(out: &mut Vec<u8>, text: Option<&str>) -> Result<(), CodecError> {
    if let Some(text) = text {
        return put_string(out, text);
    }
    put_i16(out, -1);
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), CodecError> {
    put_count(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

//! The two hot requests, written field by field into a buffer that is used again and again, and
//! their responses, read in place.
//!
//! Pure: no async, no clock, no IO.
//! `wire` encodes the same requests from structs; here nothing is allocated for a request, and the
//! records are never part of the buffer.

use corelog::wire::api::ApiKey;

use crate::cluster::Topic;
use crate::cold::CLIENT_ID;
use crate::cursor::Cursor;
use crate::numbers::wire_len;

/// First version of both APIs that names topics by id.
const TOPIC_ID_VERSION: i16 = 13;
const PRODUCE_VERSION_MAX: i16 = 13;

/// Writes lengths and tags as the version wants them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    api: ApiKey,
    version: i16,
    is_flexible: bool,
}

impl Format {
    pub(crate) fn new(api: ApiKey, version: i16) -> Self {
        Self {
            api,
            version,
            is_flexible: api.is_flexible(version),
        }
    }

    /// The highest version of Produce or Fetch to ask for.
    pub(crate) fn version_max(api: ApiKey, topics: &[Topic]) -> i16 {
        let has_ids = topics.iter().all(|topic| topic.id != [0; 16]);
        match api {
            _ if !has_ids => TOPIC_ID_VERSION - 1,
            ApiKey::Produce => PRODUCE_VERSION_MAX,
            _ => api.spec().max,
        }
    }

    /// Length (to be filled in with `seal`) and header.
    fn header(self, out: &mut Vec<u8>, correlation_id: i32) {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.api.code().to_be_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&correlation_id.to_be_bytes());
        // the client id keeps its two bytes of length in every version
        let length = u16::try_from(CLIENT_ID.len()).expect("a short name");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(CLIENT_ID.as_bytes());
        self.no_tags(out);
    }

    /// Fills in the length of the frame that starts at `start` and has `extra` bytes elsewhere.
    pub(crate) fn seal(out: &mut [u8], start: usize, extra: usize) {
        let length = wire_len(out.len() - start - 4 + extra);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn count(self, out: &mut Vec<u8>, count: usize) {
        match self.is_flexible {
            true => varint(out, count + 1),
            false => out.extend_from_slice(&wire_len(count).to_be_bytes()),
        }
    }

    fn topic(self, out: &mut Vec<u8>, topic: &Topic) {
        if self.version >= TOPIC_ID_VERSION {
            return out.extend_from_slice(&topic.id);
        }
        let name = topic.name.as_bytes();
        match self.is_flexible {
            true => varint(out, name.len() + 1),
            false => {
                let length = u16::try_from(name.len()).expect("a topic name");
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        out.extend_from_slice(name);
    }

    fn no_tags(self, out: &mut Vec<u8>) {
        if self.is_flexible {
            out.push(0);
        }
    }
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// Writes Produce requests: `begin`, for each topic `topic`, for each of its partitions
/// `partition`, the batch, `end_partition`; then `end_topic` and `end`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProduceWriter {
    pub(crate) format: Format,
    pub(crate) acks: i16,
    pub(crate) timeout_ms: i32,
}

impl ProduceWriter {
    pub(crate) fn begin(&self, out: &mut Vec<u8>, correlation_id: i32, topics: usize) {
        self.format.header(out, correlation_id);
        match self.format.is_flexible {
            true => out.push(0),
            false => out.extend_from_slice(&(-1_i16).to_be_bytes()),
        }
        out.extend_from_slice(&self.acks.to_be_bytes());
        out.extend_from_slice(&self.timeout_ms.to_be_bytes());
        self.format.count(out, topics);
    }

    pub(crate) fn topic(&self, out: &mut Vec<u8>, topic: &Topic, partitions: usize) {
        self.format.topic(out, topic);
        self.format.count(out, partitions);
    }

    pub(crate) fn partition(&self, out: &mut Vec<u8>, index: i32, records_len: usize) {
        out.extend_from_slice(&index.to_be_bytes());
        self.format.count(out, records_len);
    }

    pub(crate) fn end_partition(&self, out: &mut Vec<u8>) {
        self.format.no_tags(out);
    }

    pub(crate) fn end_topic(&self, out: &mut Vec<u8>) {
        self.format.no_tags(out);
    }

    pub(crate) fn end(&self, out: &mut Vec<u8>) {
        self.format.no_tags(out);
    }
}

/// One partition of a Produce response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) partition: i32,
    pub(crate) error: i16,
    pub(crate) base_offset: i64,
}

/// The correlation id of a response.
pub(crate) fn correlation_id(frame: &[u8]) -> Option<i32> {
    Cursor::new(frame, false).i32()
}

/// Reads a Produce response: every partition in order, with its topic's name or id.
pub(crate) fn read_produce(
    format: Format,
    frame: &[u8],
    mut on_partition: impl FnMut(&[u8], Appended),
) -> Option<()> {
    let version = format.version;
    let mut cursor = Cursor::new(frame, format.is_flexible);
    cursor.i32()?;
    cursor.skip_tags()?;
    for _ in 0..cursor.array()? {
        let topic = match version >= TOPIC_ID_VERSION {
            true => cursor.take(16)?,
            false => cursor.string()?,
        };
        for _ in 0..cursor.array()? {
            let partition = cursor.i32()?;
            let error = cursor.i16()?;
            let base_offset = cursor.i64()?;
            cursor.i64()?;
            if version >= 5 {
                cursor.i64()?;
            }
            if version >= 8 {
                for _ in 0..cursor.array()? {
                    cursor.i32()?;
                    cursor.string()?;
                    cursor.skip_tags()?;
                }
                cursor.string()?;
            }
            cursor.skip_tags()?;
            let appended = Appended {
                partition,
                error,
                base_offset,
            };
            on_partition(topic, appended);
        }
        cursor.skip_tags()?;
    }
    cursor.i32()?;
    cursor.skip_tags()
}

/// One partition of a Fetch request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: usize,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What all Fetch requests of a run say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchWriter {
    pub(crate) format: Format,
    pub(crate) max_wait_ms: i32,
    pub(crate) min_bytes: i32,
    pub(crate) max_bytes: i32,
    pub(crate) partition_max_bytes: i32,
}

/// Session id and epoch of a Fetch request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
}

impl FetchWriter {
    /// Writes the whole frame. `wanted` and `forgotten` are ordered by topic.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        correlation_id: i32,
        topics: &[Topic],
        session: Session,
        wanted: &[Wanted],
        forgotten: &[Wanted],
    ) {
        let Format { version, .. } = self.format;
        let start = out.len();
        self.format.header(out, correlation_id);
        if version < 15 {
            out.extend_from_slice(&(-1_i32).to_be_bytes());
        }
        for value in [self.max_wait_ms, self.min_bytes, self.max_bytes] {
            out.extend_from_slice(&value.to_be_bytes());
        }
        // read uncommitted
        out.push(0);
        if version >= 7 {
            out.extend_from_slice(&session.id.to_be_bytes());
            out.extend_from_slice(&session.epoch.to_be_bytes());
        }
        let by_topic = |list: &[Wanted]| list.chunk_by(|a, b| a.topic == b.topic).count();
        self.format.count(out, by_topic(wanted));
        for partitions in wanted.chunk_by(|a, b| a.topic == b.topic) {
            self.format.topic(out, &topics[partitions[0].topic]);
            self.format.count(out, partitions.len());
            for partition in partitions {
                self.partition(out, partition);
            }
            self.format.no_tags(out);
        }
        if version >= 7 {
            self.format.count(out, by_topic(forgotten));
            for partitions in forgotten.chunk_by(|a, b| a.topic == b.topic) {
                self.format.topic(out, &topics[partitions[0].topic]);
                self.format.count(out, partitions.len());
                for partition in partitions {
                    out.extend_from_slice(&partition.partition.to_be_bytes());
                }
                self.format.no_tags(out);
            }
        }
        if version >= 11 {
            // no rack
            match self.format.is_flexible {
                true => out.push(1),
                false => out.extend_from_slice(&[0, 0]),
            }
        }
        self.format.no_tags(out);
        Format::seal(out, start, 0);
    }

    fn partition(&self, out: &mut Vec<u8>, wanted: &Wanted) {
        let Format { version, .. } = self.format;
        out.extend_from_slice(&wanted.partition.to_be_bytes());
        if version >= 9 {
            out.extend_from_slice(&(-1_i32).to_be_bytes());
        }
        out.extend_from_slice(&wanted.offset.to_be_bytes());
        if version >= 12 {
            out.extend_from_slice(&(-1_i32).to_be_bytes());
        }
        if version >= 5 {
            out.extend_from_slice(&(-1_i64).to_be_bytes());
        }
        out.extend_from_slice(&self.partition_max_bytes.to_be_bytes());
        self.format.no_tags(out);
    }
}

/// One partition of a Fetch response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched<'a> {
    pub(crate) partition: i32,
    pub(crate) error: i16,
    pub(crate) log_start: i64,
    pub(crate) records: &'a [u8],
}

/// Reads a Fetch response: the error and the session of the whole, and every partition in order
/// with its topic's name or id.
pub(crate) fn read_fetch(
    format: Format,
    frame: &[u8],
    mut on_partition: impl FnMut(&[u8], Fetched<'_>),
) -> Option<(i16, i32)> {
    let version = format.version;
    let mut cursor = Cursor::new(frame, format.is_flexible);
    cursor.i32()?;
    cursor.skip_tags()?;
    cursor.i32()?;
    let (mut error, mut session) = (0, 0);
    if version >= 7 {
        error = cursor.i16()?;
        session = cursor.i32()?;
    }
    for _ in 0..cursor.array()? {
        let topic = match version >= TOPIC_ID_VERSION {
            true => cursor.take(16)?,
            false => cursor.string()?,
        };
        for _ in 0..cursor.array()? {
            let partition = cursor.i32()?;
            let error = cursor.i16()?;
            cursor.i64()?;
            cursor.i64()?;
            let log_start = if version >= 5 { cursor.i64()? } else { -1 };
            for _ in 0..cursor.array()? {
                cursor.take(16)?;
                cursor.skip_tags()?;
            }
            if version >= 11 {
                cursor.i32()?;
            }
            let records = cursor.bytes()?;
            cursor.skip_tags()?;
            let fetched = Fetched {
                partition,
                error,
                log_start,
                records,
            };
            on_partition(topic, fetched);
        }
        cursor.skip_tags()?;
    }
    cursor.skip_tags()?;
    Some((error, session))
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;

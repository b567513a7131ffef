//! The table of topic settings that have an effect.
//!
//! Pure: no async, no clock, no IO.
//! A topic without a value of its own takes the broker's: the first set one of the row's synonyms.
//! What Kafka has and Corelog accepts without effect is in `inert`.

use super::table::{Change, Effect, Kind, Row, Synonym};

/// Values of `cleanup.policy`.
pub const CLEANUP_POLICIES: &[&str] = &["delete", "compact"];
/// Values of `message.timestamp.type`.
pub const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
/// Values of `compression.type`.
pub const COMPRESSION_TYPES: &[&str] =
    &["uncompressed", "gzip", "snappy", "lz4", "zstd", "producer"];
/// Values of `corelog.durability`.
pub const DURABILITIES: &[&str] = &["disk", "memory"];
/// A segment holds at least one block of the device.
pub const SEGMENT_BYTES_MIN: i64 = 4096;

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;
const MS_PER_MINUTE: i64 = 60_000;
const MS_PER_HOUR: i64 = 3_600_000;

const fn same(broker_key: &'static str) -> Synonym {
    Synonym {
        broker_key,
        factor: 1,
    }
}

const fn row(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    synonyms: &'static [Synonym],
    effect: &'static str,
    doc: &'static str,
) -> Row {
    Row {
        key,
        aliases: &[],
        doc,
        kind,
        default: Some(default),
        change: Change::Live,
        effect: Effect::In(effect),
        synonyms,
    }
}

/// All active topic settings.
pub static ROWS: &[Row] = &[
    row(
        "cleanup.policy",
        Kind::ChoiceList(CLEANUP_POLICIES),
        "delete",
        &[same("log.cleanup.policy")],
        "log/retention.rs",
        "`delete`: old segments go by time and size. With `compact`, nothing is deleted by time \
         or size and records need keys; compaction itself is not there yet, so such a topic only \
         grows, and its creation warns.",
    ),
    row(
        "retention.ms",
        Kind::Long(-1, LONG_MAX),
        "604800000",
        &[
            same("log.retention.ms"),
            Synonym {
                broker_key: "log.retention.minutes",
                factor: MS_PER_MINUTE,
            },
            Synonym {
                broker_key: "log.retention.hours",
                factor: MS_PER_HOUR,
            },
        ],
        "log/retention.rs",
        "Delete segments whose newest record is older; -1 never.",
    ),
    row(
        "retention.bytes",
        Kind::Long(-1, LONG_MAX),
        "-1",
        &[same("log.retention.bytes")],
        "log/retention.rs",
        "Delete the oldest segments of a partition while the rest is still this large; -1 never.",
    ),
    row(
        "segment.bytes",
        Kind::Int(SEGMENT_BYTES_MIN, INT_MAX),
        "1073741824",
        &[same("log.segment.bytes")],
        "log/log.rs",
        "Begin a new segment file before one gets larger. A larger batch is refused.",
    ),
    row(
        "segment.ms",
        Kind::Long(1, LONG_MAX),
        "604800000",
        &[
            same("log.roll.ms"),
            Synonym {
                broker_key: "log.roll.hours",
                factor: MS_PER_HOUR,
            },
        ],
        "log/log.rs",
        "Begin a new segment file when the first record of the present one is this old.",
    ),
    row(
        "index.interval.bytes",
        Kind::Int(0, INT_MAX),
        "4096",
        &[same("log.index.interval.bytes")],
        "log/offset_index.rs",
        "Record bytes between two entries of the offset and time indexes.",
    ),
    row(
        "max.message.bytes",
        Kind::Int(0, INT_MAX),
        "1048588",
        &[same("message.max.bytes")],
        "server/handlers/produce.rs",
        "The largest record batch, as sent (after compression).",
    ),
    row(
        "message.timestamp.type",
        Kind::Choice(TIMESTAMP_TYPES),
        "CreateTime",
        &[same("log.message.timestamp.type")],
        "server/handlers/produce.rs",
        "Whether records keep the producer's time or get the time of their append.",
    ),
    row(
        "message.timestamp.before.max.ms",
        Kind::Long(0, LONG_MAX),
        "9223372036854775807",
        &[same("log.message.timestamp.before.max.ms")],
        "server/handlers/produce.rs",
        "Refuse records whose time is longer ago than this (`CreateTime` only).",
    ),
    row(
        "message.timestamp.after.max.ms",
        Kind::Long(0, LONG_MAX),
        "3600000",
        &[same("log.message.timestamp.after.max.ms")],
        "server/handlers/produce.rs",
        "Refuse records whose time is further in the future than this (`CreateTime` only).",
    ),
    row(
        "compression.type",
        Kind::Choice(COMPRESSION_TYPES),
        "producer",
        &[same("compression.type")],
        "server/handlers/produce.rs",
        "Recompress batches with this codec; `producer` keeps them as they come.",
    ),
    row(
        "min.insync.replicas",
        Kind::Int(1, INT_MAX),
        "1",
        &[same("min.insync.replicas")],
        "server/handlers/produce.rs",
        "Refuse acks=all writes when fewer replicas are in sync. There is one replica so far: \
         more than 1 refuses all of them.",
    ),
    row(
        "corelog.durability",
        Kind::Choice(DURABILITIES),
        "disk",
        &[],
        "shard/appends.rs",
        "`disk`: a write is acknowledged when it is durable. `memory`: acknowledged when it is \
         accepted; it enters the same next commit and is readable once durable, but a crash in \
         between loses acknowledged records.",
    ),
];

//! Kafka's settings that Corelog accepts without effect, each with the reason.
//!
//! Pure: no async, no clock, no IO.
//! Connect, Streams and test suites set them; refusing would stop them. Setting one warns; its
//! value is stored and given back as stored, with the source "default" and a documentation that
//! says that it has no effect: it is never reported as active.
//! Deliberately absent: security settings (`ssl.*`, `sasl.*` and the like). Accepting those
//! silently would pretend a protection that is not there.

use super::table::{Change, Effect, Kind, Row, Synonym};

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;

const fn row(key: &'static str, kind: Kind, default: &'static str, reason: &'static str) -> Row {
    Row {
        key,
        aliases: &[],
        doc: reason,
        kind,
        default: Some(default),
        change: Change::Live,
        effect: Effect::None(reason),
        synonyms: &[],
    }
}

const fn from_broker(synonyms: &'static [Synonym], row: Row) -> Row {
    Row { synonyms, ..row }
}

const fn unset(row: Row) -> Row {
    Row {
        default: None,
        ..row
    }
}

macro_rules! synonym {
    ($key:literal) => {
        &[Synonym {
            broker_key: $key,
            factor: 1,
        }]
    };
}

const FLUSHED: &str = "every acknowledged record is on disk already";
const COMPACTION: &str = "there is no compaction yet";
const TIERED: &str = "there is no tiered storage";
const REPLICATION: &str = "there is one replica of every partition";
const LEVEL: &str = "recompression uses the codec's default level";
const THREADS: &str = "work is done by one thread per core: see `cores`";
const OLD_FORMAT: &str = "records are kept in the current format only";
const NEW_GROUPS: &str = "the consumer, share and streams group protocols are not served";
const TRANSACTIONS: &str = "there are no transactions yet";
const QUOTAS: &str = "there are no quotas";

/// Topic settings without effect.
pub static TOPIC_ROWS: &[Row] = &[
    from_broker(
        synonym!("log.flush.interval.messages"),
        row(
            "flush.messages",
            Kind::Long(1, LONG_MAX),
            "9223372036854775807",
            FLUSHED,
        ),
    ),
    row(
        "flush.ms",
        Kind::Long(0, LONG_MAX),
        "9223372036854775807",
        FLUSHED,
    ),
    from_broker(
        synonym!("log.preallocate"),
        row(
            "preallocate",
            Kind::Boolean,
            "false",
            "how space is reserved is the broker's own affair",
        ),
    ),
    from_broker(
        synonym!("log.index.size.max.bytes"),
        row(
            "segment.index.bytes",
            Kind::Int(4, INT_MAX),
            "10485760",
            "an index is as large as its segment needs",
        ),
    ),
    row(
        "segment.jitter.ms",
        Kind::Long(0, LONG_MAX),
        "0",
        "segments roll at `segment.ms` exactly",
    ),
    from_broker(
        synonym!("log.segment.delete.delay.ms"),
        row(
            "file.delete.delay.ms",
            Kind::Long(0, LONG_MAX),
            "60000",
            "a file goes as soon as no reader has it open",
        ),
    ),
    from_broker(
        synonym!("log.cleaner.delete.retention.ms"),
        row(
            "delete.retention.ms",
            Kind::Long(0, LONG_MAX),
            "86400000",
            COMPACTION,
        ),
    ),
    from_broker(
        synonym!("log.cleaner.min.cleanable.ratio"),
        row(
            "min.cleanable.dirty.ratio",
            Kind::Double(0.0, 1.0),
            "0.5",
            COMPACTION,
        ),
    ),
    from_broker(
        synonym!("log.cleaner.min.compaction.lag.ms"),
        row(
            "min.compaction.lag.ms",
            Kind::Long(0, LONG_MAX),
            "0",
            COMPACTION,
        ),
    ),
    from_broker(
        synonym!("log.cleaner.max.compaction.lag.ms"),
        row(
            "max.compaction.lag.ms",
            Kind::Long(1, LONG_MAX),
            "9223372036854775807",
            COMPACTION,
        ),
    ),
    from_broker(
        synonym!("compression.gzip.level"),
        row("compression.gzip.level", Kind::Int(-1, 9), "-1", LEVEL),
    ),
    from_broker(
        synonym!("compression.lz4.level"),
        row("compression.lz4.level", Kind::Int(1, 17), "9", LEVEL),
    ),
    from_broker(
        synonym!("compression.zstd.level"),
        row(
            "compression.zstd.level",
            Kind::Int(-131_072, 22),
            "3",
            LEVEL,
        ),
    ),
    from_broker(
        synonym!("unclean.leader.election.enable"),
        row(
            "unclean.leader.election.enable",
            Kind::Boolean,
            "false",
            REPLICATION,
        ),
    ),
    row(
        "leader.replication.throttled.replicas",
        Kind::List,
        "",
        REPLICATION,
    ),
    row(
        "follower.replication.throttled.replicas",
        Kind::List,
        "",
        REPLICATION,
    ),
    row("remote.storage.enable", Kind::Boolean, "false", TIERED),
    row("remote.log.copy.disable", Kind::Boolean, "false", TIERED),
    row(
        "remote.log.delete.on.disable",
        Kind::Boolean,
        "false",
        TIERED,
    ),
    row("local.retention.ms", Kind::Long(-2, LONG_MAX), "-2", TIERED),
    row(
        "local.retention.bytes",
        Kind::Long(-2, LONG_MAX),
        "-2",
        TIERED,
    ),
    row("message.format.version", Kind::Text, "3.0-IV1", OLD_FORMAT),
    row(
        "message.downconversion.enable",
        Kind::Boolean,
        "false",
        OLD_FORMAT,
    ),
    row(
        "message.timestamp.difference.max.ms",
        Kind::Long(0, LONG_MAX),
        "9223372036854775807",
        "replaced by `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`",
    ),
];

/// Broker settings without effect.
pub static BROKER_ROWS: &[Row] = &[
    row(
        "log.flush.interval.messages",
        Kind::Long(1, LONG_MAX),
        "9223372036854775807",
        FLUSHED,
    ),
    unset(row(
        "log.flush.interval.ms",
        Kind::Long(0, LONG_MAX),
        "",
        FLUSHED,
    )),
    row(
        "log.flush.scheduler.interval.ms",
        Kind::Long(0, LONG_MAX),
        "9223372036854775807",
        FLUSHED,
    ),
    row(
        "log.flush.offset.checkpoint.interval.ms",
        Kind::Int(0, INT_MAX),
        "60000",
        FLUSHED,
    ),
    row(
        "log.flush.start.offset.checkpoint.interval.ms",
        Kind::Int(0, INT_MAX),
        "60000",
        FLUSHED,
    ),
    row(
        "log.preallocate",
        Kind::Boolean,
        "false",
        "how space is reserved is the broker's own affair",
    ),
    row(
        "log.index.size.max.bytes",
        Kind::Int(4, INT_MAX),
        "10485760",
        "an index is as large as its segment needs",
    ),
    unset(row(
        "log.roll.jitter.ms",
        Kind::Long(0, LONG_MAX),
        "",
        "segments roll at `segment.ms` exactly",
    )),
    row(
        "log.roll.jitter.hours",
        Kind::Int(0, INT_MAX),
        "0",
        "segments roll at `segment.ms` exactly",
    ),
    row(
        "log.segment.delete.delay.ms",
        Kind::Long(0, LONG_MAX),
        "60000",
        "a file goes as soon as no reader has it open",
    ),
    row("log.cleaner.enable", Kind::Boolean, "true", COMPACTION),
    row(
        "log.cleaner.threads",
        Kind::Int(0, INT_MAX),
        "1",
        COMPACTION,
    ),
    row(
        "log.cleaner.backoff.ms",
        Kind::Long(0, LONG_MAX),
        "15000",
        COMPACTION,
    ),
    row(
        "log.cleaner.delete.retention.ms",
        Kind::Long(0, LONG_MAX),
        "86400000",
        COMPACTION,
    ),
    row(
        "log.cleaner.min.cleanable.ratio",
        Kind::Double(0.0, 1.0),
        "0.5",
        COMPACTION,
    ),
    row(
        "log.cleaner.min.compaction.lag.ms",
        Kind::Long(0, LONG_MAX),
        "0",
        COMPACTION,
    ),
    row(
        "log.cleaner.max.compaction.lag.ms",
        Kind::Long(1, LONG_MAX),
        "9223372036854775807",
        COMPACTION,
    ),
    row("compression.gzip.level", Kind::Int(-1, 9), "-1", LEVEL),
    row("compression.lz4.level", Kind::Int(1, 17), "9", LEVEL),
    row(
        "compression.zstd.level",
        Kind::Int(-131_072, 22),
        "3",
        LEVEL,
    ),
    row("num.network.threads", Kind::Int(1, INT_MAX), "3", THREADS),
    row("num.io.threads", Kind::Int(1, INT_MAX), "8", THREADS),
    row("background.threads", Kind::Int(1, INT_MAX), "10", THREADS),
    row(
        "num.recovery.threads.per.data.dir",
        Kind::Int(1, INT_MAX),
        "2",
        THREADS,
    ),
    row(
        "queued.max.requests",
        Kind::Int(1, INT_MAX),
        "500",
        "requests wait in the sockets; `memory.per.shard` bounds those that were read",
    ),
    row(
        "queued.max.request.bytes",
        Kind::Long(-1, LONG_MAX),
        "-1",
        "`memory.per.shard` bounds the requests that were read",
    ),
    row(
        "socket.listen.backlog.size",
        Kind::Int(1, INT_MAX),
        "50",
        "the listen queue is as long as the kernel allows",
    ),
    row(
        "max.connection.creation.rate",
        Kind::Int(0, INT_MAX),
        "2147483647",
        QUOTAS,
    ),
    row("quota.window.num", Kind::Int(1, INT_MAX), "11", QUOTAS),
    row(
        "quota.window.size.seconds",
        Kind::Int(1, INT_MAX),
        "1",
        QUOTAS,
    ),
    row(
        "unclean.leader.election.enable",
        Kind::Boolean,
        "false",
        REPLICATION,
    ),
    row(
        "auto.leader.rebalance.enable",
        Kind::Boolean,
        "true",
        REPLICATION,
    ),
    row(
        "num.replica.fetchers",
        Kind::Int(0, INT_MAX),
        "1",
        REPLICATION,
    ),
    row(
        "replica.lag.time.max.ms",
        Kind::Long(0, LONG_MAX),
        "30000",
        REPLICATION,
    ),
    row(
        "replica.fetch.max.bytes",
        Kind::Int(0, INT_MAX),
        "1048576",
        REPLICATION,
    ),
    row(
        "controlled.shutdown.enable",
        Kind::Boolean,
        "true",
        REPLICATION,
    ),
    row(
        "offsets.topic.replication.factor",
        Kind::Short(1, 32_767),
        "3",
        REPLICATION,
    ),
    row(
        "offsets.topic.segment.bytes",
        Kind::Int(1, INT_MAX),
        "104857600",
        "the group log is bounded by rewriting its live state",
    ),
    row(
        "offsets.topic.compression.codec",
        Kind::Int(0, 4),
        "0",
        "the group log is written uncompressed",
    ),
    row(
        "offsets.load.buffer.size",
        Kind::Int(1, INT_MAX),
        "5242880",
        "the group log is read in steps of `destage.size`",
    ),
    row(
        "offsets.commit.timeout.ms",
        Kind::Int(1, INT_MAX),
        "5000",
        "a commit is answered when it is durable or has failed",
    ),
    row(
        "transaction.state.log.replication.factor",
        Kind::Short(1, 32_767),
        "3",
        TRANSACTIONS,
    ),
    row(
        "transaction.state.log.min.isr",
        Kind::Int(1, INT_MAX),
        "2",
        TRANSACTIONS,
    ),
    row(
        "transaction.state.log.num.partitions",
        Kind::Int(1, INT_MAX),
        "50",
        TRANSACTIONS,
    ),
    row(
        "transactional.id.expiration.ms",
        Kind::Int(1, INT_MAX),
        "604800000",
        TRANSACTIONS,
    ),
    row(
        "group.coordinator.rebalance.protocols",
        Kind::List,
        "classic",
        "the classic protocol is served, and no other",
    ),
    row(
        "group.consumer.session.timeout.ms",
        Kind::Int(1, INT_MAX),
        "45000",
        NEW_GROUPS,
    ),
    row(
        "group.consumer.heartbeat.interval.ms",
        Kind::Int(1, INT_MAX),
        "5000",
        NEW_GROUPS,
    ),
    unset(row("broker.rack", Kind::Text, "", REPLICATION)),
    row(
        "sasl.kerberos.min.time.before.relogin",
        Kind::Long(0, LONG_MAX),
        "60000",
        "there is no Kerberos; the value only paces logins, and protects nothing",
    ),
];

/// Settings of a group (`DescribeConfigs` and `IncrementalAlterConfigs` with a group resource).
pub static GROUP_ROWS: &[Row] = &[
    row(
        "consumer.session.timeout.ms",
        Kind::Int(45_000, 60_000),
        "45000",
        NEW_GROUPS,
    ),
    row(
        "consumer.heartbeat.interval.ms",
        Kind::Int(5_000, 15_000),
        "5000",
        NEW_GROUPS,
    ),
    row(
        "share.session.timeout.ms",
        Kind::Int(45_000, 60_000),
        "45000",
        NEW_GROUPS,
    ),
    row(
        "share.heartbeat.interval.ms",
        Kind::Int(5_000, 15_000),
        "5000",
        NEW_GROUPS,
    ),
    row(
        "share.record.lock.duration.ms",
        Kind::Int(1_000, 3_600_000),
        "30000",
        NEW_GROUPS,
    ),
    row("share.auto.offset.reset", Kind::Text, "latest", NEW_GROUPS),
    row(
        "streams.session.timeout.ms",
        Kind::Int(45_000, 60_000),
        "45000",
        NEW_GROUPS,
    ),
    row(
        "streams.heartbeat.interval.ms",
        Kind::Int(5_000, 15_000),
        "5000",
        NEW_GROUPS,
    ),
    row(
        "streams.num.standby.replicas",
        Kind::Int(0, 2),
        "0",
        NEW_GROUPS,
    ),
];

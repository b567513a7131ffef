//! The table of broker settings that have an effect.
//!
//! Pure: no async, no clock, no IO.
//! Kafka's settings carry Kafka's names, defaults and units; the per-core ones are our own and take
//! units (`64KiB`, `250us`). What Kafka has and Corelog accepts without effect is in `inert`.
//! To add a setting: a row here, a field in `broker`, a test that shows its effect.

use super::table::{Change, Effect, Kind, Row};

/// A heading of the documentation with its rows.
#[derive(Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// The rows, in reading order.
    pub rows: &'static [Row],
}

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn row(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    effect: &'static str,
    doc: &'static str,
) -> Row {
    Row {
        key,
        aliases: &[],
        doc,
        kind,
        default: Some(default),
        change: Change::Restart,
        effect: Effect::In(effect),
        synonyms: &[],
    }
}

const fn unset(row: Row) -> Row {
    Row {
        default: None,
        ..row
    }
}

const fn live(row: Row) -> Row {
    Row {
        change: Change::Live,
        ..row
    }
}

const fn also(aliases: &'static [&'static str], row: Row) -> Row {
    Row { aliases, ..row }
}

/// All active broker settings.
pub static SECTIONS: &[Section] = &[
    Section {
        title: "This broker",
        rows: BROKER,
    },
    Section {
        title: "Cores, memory, journal",
        rows: CORES,
    },
    Section {
        title: "Topics",
        rows: TOPICS,
    },
    Section {
        title: "Defaults of topic settings",
        rows: TOPIC_DEFAULTS,
    },
    Section {
        title: "Groups and offsets",
        rows: GROUPS,
    },
    Section {
        title: "Connections, requests, producers",
        rows: REQUESTS,
    },
];

static BROKER: &[Row] = &[
    also(
        &["broker.id"],
        row(
            "node.id",
            Kind::Int(0, INT_MAX),
            "1",
            "broker.rs",
            "This broker's number, as clients see it. It is written into the data directory at \
             the first start; a directory of another node is refused.",
        ),
    ),
    unset(row(
        "cluster.id",
        Kind::Text,
        "",
        "broker.rs",
        "The cluster's id. Unset: chosen at random at the first start and kept in the data \
         directory. A directory of another cluster is refused.",
    )),
    also(
        &["log.dirs", "log.dir"],
        row(
            "data.dir",
            Kind::Directory,
            "./data",
            "broker.rs",
            "The directory of everything that lasts: journals, segments, metadata. One directory; \
             it must take direct I/O.",
        ),
    ),
    also(
        &["listeners"],
        row(
            "listen",
            Kind::Listen,
            "localhost:9092",
            "server/listener.rs",
            "Where clients connect. `localhost` is 127.0.0.1 and ::1; an empty host or `*` is \
             every address; port 0 lets the system choose. There is no encryption or \
             authentication: listening beyond loopback warns.",
        ),
    ),
    also(
        &["advertised.listeners"],
        unset(row(
            "advertise",
            Kind::Advertise,
            "",
            "server/handlers/metadata.rs",
            "The address that clients are told to connect to. Unset: the one `listen` address \
             when it names one host; for `localhost`, a wildcard or several addresses, the one \
             that the client connected to.",
        )),
    ),
    row(
        "admin",
        Kind::AddressOrOff,
        "127.0.0.1:9644",
        "admin",
        "Where `/metrics` and `/healthz` are served over HTTP, or `off`. As unprotected as \
         `listen`: beyond loopback it warns.",
    ),
    row(
        "allow.volatile",
        Kind::Boolean,
        "false",
        "broker.rs",
        "Start on a file system that loses everything at a power cut (tmpfs). For tests.",
    ),
    row(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "telemetry/logging.rs",
        "The least serious log lines that are written.",
    ),
    row(
        "log.format",
        Kind::Choice(&["text", "json"]),
        "text",
        "telemetry/logging.rs",
        "Log lines for people or one JSON object a line, on standard error.",
    ),
];

static CORES: &[Row] = &[
    row(
        "cores",
        Kind::Cores,
        "all",
        "broker.rs",
        "The processors that run a shard each, such as `0,2-3`. `all`: every one that the \
         process may use, at most as many as its CPU quota pays for.",
    ),
    row(
        "memory.per.shard",
        Kind::SizeOrAuto(32 * MIB, 1024 * GIB),
        "auto",
        "config/machine.rs",
        "Memory of one shard for requests, the tail of its logs, the journal and reads. `auto`: \
         a quarter of what is available to the process (container limits included), divided by \
         the number of shards. More than what is available is refused.",
    ),
    row(
        "journal.size",
        Kind::SizeOrAuto(16 * MIB, 1024 * GIB),
        "auto",
        "config/machine.rs",
        "The commit journal of one shard. `auto`: 1 GiB, but all journals together at most 5 % \
         of the free disk space; a disk too small for 16 MiB a shard within that is refused. A \
         value that is set may take up to half of the free space.",
    ),
    row(
        "ring.depth",
        Kind::Int(32, 4096),
        "128",
        "rt/executor.rs",
        "Submission entries of each shard's io_uring. More lets more operations wait in the \
         kernel and takes more locked memory.",
    ),
    row(
        "spin",
        Kind::Time(0, 1_000_000),
        "0",
        "rt/executor.rs",
        "How long an idle shard looks for work before it sleeps. More answers sooner and costs a \
         processor.",
    ),
    row(
        "commit.bytes",
        Kind::Size(4096, 64 * MIB),
        "1MiB",
        "journal/committer.rs",
        "Size at which one group commit is full and is written. A single larger batch is \
         written whole. At most a fortieth of `memory.per.shard`: beyond, a value that is set is \
         refused, and the default gives way.",
    ),
    row(
        "commit.delay",
        Kind::Time(0, 100_000),
        "0",
        "journal/committer.rs",
        "How long a commit that is not full waits for company. 0: written as soon as a write \
         slot is free; what arrives meanwhile shares the next one.",
    ),
    row(
        "writes.in.flight",
        Kind::Int(1, 64),
        "4",
        "journal/committer.rs",
        "The most journal writes of one shard at a time. Small commits use one, full ones up to \
         this many.",
    ),
    row(
        "destage.size",
        Kind::Size(64 << 10, 64 * MIB),
        "1MiB",
        "log/destage.rs",
        "Size of the writes that move records from the journal's memory into segment files. At \
         most a twentieth of `memory.per.shard`: beyond, a value that is set is refused, and the \
         default gives way.",
    ),
    row(
        "shares",
        Kind::Shares,
        "network=1000,commit=1000,read=400,background=100",
        "rt/uring.rs",
        "How a busy shard divides its processor between connections, commits, reads of old data \
         and background work.",
    ),
];

static TOPICS: &[Row] = &[
    row(
        "num.partitions",
        Kind::Int(1, 10_000),
        "1",
        "cluster/controller.rs",
        "Partitions of a topic that is created without a number.",
    ),
    row(
        "default.replication.factor",
        Kind::Int(1, 32_767),
        "1",
        "cluster/controller.rs",
        "Replicas of a topic that is created without a number. More than there are brokers \
         refuses such a creation.",
    ),
    row(
        "auto.create.topics.enable",
        Kind::Boolean,
        "true",
        "server/handlers/metadata.rs",
        "Create a topic when a client that allows it asks for its metadata.",
    ),
    row(
        "delete.topic.enable",
        Kind::Boolean,
        "true",
        "server/handlers/topics.rs",
        "Whether topics can be deleted.",
    ),
    live(row(
        "log.retention.check.interval.ms",
        Kind::Long(1, LONG_MAX),
        "300000",
        "shard/background.rs",
        "How often old segments are looked for.",
    )),
    live(row(
        "scrub.bytes.per.second",
        Kind::Size(0, 1024 * GIB),
        "8MiB",
        "shard/scrub.rs",
        "How fast each shard reads its sealed segments to look for damage that nobody has met yet. \
         0: it does not.",
    )),
    live(row(
        "scrub.interval.ms",
        Kind::Long(1000, LONG_MAX),
        "604800000",
        "shard/scrub.rs",
        "Time from the beginning of one pass through all sealed segments to the next. The first \
         one begins with the broker.",
    )),
];

static TOPIC_DEFAULTS: &[Row] = &[
    live(row(
        "log.cleanup.policy",
        Kind::ChoiceList(super::topic_rows::CLEANUP_POLICIES),
        "delete",
        "log/retention.rs",
        "Default of `cleanup.policy`.",
    )),
    live(unset(row(
        "log.retention.ms",
        Kind::Long(-1, LONG_MAX),
        "",
        "log/retention.rs",
        "Default of `retention.ms`; wins over the two below. -1 keeps records for ever.",
    ))),
    unset(row(
        "log.retention.minutes",
        Kind::Int(-1, INT_MAX),
        "",
        "log/retention.rs",
        "Default of `retention.ms` in minutes; wins over hours.",
    )),
    row(
        "log.retention.hours",
        Kind::Int(-1, INT_MAX),
        "168",
        "log/retention.rs",
        "Default of `retention.ms` in hours.",
    ),
    live(row(
        "log.retention.bytes",
        Kind::Long(-1, LONG_MAX),
        "-1",
        "log/retention.rs",
        "Default of `retention.bytes`.",
    )),
    live(row(
        "log.segment.bytes",
        Kind::Int(super::topic_rows::SEGMENT_BYTES_MIN, INT_MAX),
        "1073741824",
        "log/log.rs",
        "Default of `segment.bytes`.",
    )),
    live(unset(row(
        "log.roll.ms",
        Kind::Long(1, LONG_MAX),
        "",
        "log/log.rs",
        "Default of `segment.ms`; wins over hours.",
    ))),
    row(
        "log.roll.hours",
        Kind::Int(1, INT_MAX),
        "168",
        "log/log.rs",
        "Default of `segment.ms` in hours.",
    ),
    live(row(
        "log.index.interval.bytes",
        Kind::Int(0, INT_MAX),
        "4096",
        "log/offset_index.rs",
        "Default of `index.interval.bytes`.",
    )),
    live(row(
        "message.max.bytes",
        Kind::Int(0, INT_MAX),
        "1048588",
        "server/handlers/produce.rs",
        "Default of `max.message.bytes`.",
    )),
    live(row(
        "log.message.timestamp.type",
        Kind::Choice(super::topic_rows::TIMESTAMP_TYPES),
        "CreateTime",
        "server/handlers/produce.rs",
        "Default of `message.timestamp.type`.",
    )),
    live(row(
        "log.message.timestamp.before.max.ms",
        Kind::Long(0, LONG_MAX),
        "9223372036854775807",
        "server/handlers/produce.rs",
        "Default of `message.timestamp.before.max.ms`.",
    )),
    live(row(
        "log.message.timestamp.after.max.ms",
        Kind::Long(0, LONG_MAX),
        "3600000",
        "server/handlers/produce.rs",
        "Default of `message.timestamp.after.max.ms`.",
    )),
    live(row(
        "compression.type",
        Kind::Choice(super::topic_rows::COMPRESSION_TYPES),
        "producer",
        "server/handlers/produce.rs",
        "Default of the topic setting of the same name.",
    )),
    live(row(
        "min.insync.replicas",
        Kind::Int(1, INT_MAX),
        "1",
        "server/handlers/produce.rs",
        "Default of the topic setting of the same name.",
    )),
];

static GROUPS: &[Row] = &[
    row(
        "group.initial.rebalance.delay.ms",
        Kind::Int(0, INT_MAX),
        "3000",
        "group/coordinator.rs",
        "How long the first member of an empty group waits for others before partitions are \
         shared out.",
    ),
    row(
        "group.min.session.timeout.ms",
        Kind::Int(0, INT_MAX),
        "6000",
        "group/coordinator.rs",
        "The shortest session timeout that a member may ask for.",
    ),
    row(
        "group.max.session.timeout.ms",
        Kind::Int(0, INT_MAX),
        "1800000",
        "group/coordinator.rs",
        "The longest session timeout that a member may ask for.",
    ),
    row(
        "group.max.size",
        Kind::Int(1, INT_MAX),
        "2147483647",
        "group/coordinator.rs",
        "The most members of one group.",
    ),
    row(
        "offsets.retention.minutes",
        Kind::Int(1, INT_MAX),
        "10080",
        "group/coordinator.rs",
        "How long committed offsets are kept after their group became empty.",
    ),
    row(
        "offsets.retention.check.interval.ms",
        Kind::Long(1, LONG_MAX),
        "600000",
        "group/coordinator.rs",
        "How often expired offsets are looked for.",
    ),
    row(
        "offsets.topic.num.partitions",
        Kind::Int(1, 10_000),
        "50",
        "group/coordinator.rs",
        "Partitions of `__consumer_offsets`, which is made at the first request for a group. A \
         later change has no effect on it.",
    ),
    row(
        "offset.metadata.max.bytes",
        Kind::Int(0, INT_MAX),
        "4096",
        "group/coordinator.rs",
        "The longest text that may be committed beside an offset.",
    ),
];

static REQUESTS: &[Row] = &[
    row(
        "socket.request.max.bytes",
        Kind::Int(1024, INT_MAX),
        "104857600",
        "server/connection.rs",
        "The largest request. A larger one closes its connection. Never more than fits into the \
         shard's memory for requests.",
    ),
    row(
        "fetch.max.bytes",
        Kind::Int(1024, INT_MAX),
        "57671680",
        "server/handlers/fetch.rs",
        "The most record bytes of one fetch response, whatever the client asks for; a first \
         larger batch is still sent whole.",
    ),
    row(
        "max.incremental.fetch.session.cache.slots",
        Kind::Int(0, INT_MAX),
        "1000",
        "server/fetch_session.rs",
        "The most fetch sessions of the broker, divided among its shards; 0: none. In a session, a \
         consumer and the broker name only the partitions that changed. Sessions take at most a \
         thirty-second of `memory.per.shard`, beside it.",
    ),
    row(
        "connections.max.idle.ms",
        Kind::Long(-1, LONG_MAX),
        "600000",
        "server/connection.rs",
        "Close a connection after this long without a request; -1 never.",
    ),
    row(
        "max.connections",
        Kind::Int(1, INT_MAX),
        "2147483647",
        "server/listener.rs",
        "The most client connections of the broker, divided evenly among its shards; one more is \
         closed at once. The open-file limit bounds it too.",
    ),
    row(
        "max.connections.per.ip",
        Kind::Int(0, INT_MAX),
        "2147483647",
        "shard/addresses.rs",
        "The most connections of one client address, over all shards; one more is closed at once. \
         A file that sets `max.connections` too has this name in quotes.",
    ),
    row(
        "max.connections.per.ip.overrides",
        Kind::AddressLimits,
        "",
        "shard/addresses.rs",
        "Addresses that have another limit than `max.connections.per.ip`, such as \
         `10.0.0.7:100,[fd00::1]:5`. Addresses only: names would have to be looked up for each \
         connection. A file that sets the shorter names too has this one in quotes.",
    ),
    row(
        "socket.send.buffer.bytes",
        Kind::Int(-1, INT_MAX),
        "-1",
        "rt/net.rs",
        "Kernel memory for what a client has not taken yet; the kernel takes up to twice as much, \
         and never more than `net.core.wmem_max` allows. -1: as the kernel likes, up to \
         `net.ipv4.tcp_wmem` (Kafka's default is 102400; set it where many unknown clients come).",
    ),
    row(
        "socket.receive.buffer.bytes",
        Kind::Int(-1, INT_MAX),
        "-1",
        "rt/net.rs",
        "Kernel memory for what a client has sent and nobody has read yet; the kernel takes up to \
         twice as much, and never more than `net.core.rmem_max` allows. -1: as the kernel likes, \
         up to `net.ipv4.tcp_rmem` (Kafka's default is 102400, less than five batches in flight).",
    ),
    live(row(
        "producer.id.expiration.ms",
        Kind::Int(1, INT_MAX),
        "86400000",
        "log/producer_state.rs",
        "How long an idle idempotent producer's sequence numbers are remembered, by the broker's \
         clock; an hour at most when there are nearly too many producers.",
    )),
    row(
        "transaction.max.timeout.ms",
        Kind::Int(1, INT_MAX),
        "900000",
        "server/handlers/producer_ids.rs",
        "The longest transaction timeout that a producer may ask for.",
    ),
];

/// All rows of all sections.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

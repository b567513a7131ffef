//! The coordinator's settings and limits.
//!
//! Pure: no async, no clock, no IO.
//! The settings carry Kafka's names and defaults; the shard fills them from the configuration.
//! The limits bound what one shard can be made to remember, whatever its clients ask for.

/// Groups that one shard coordinates at most; a further one is refused with `PolicyViolation`.
pub const GROUPS_PER_SHARD_MAX: usize = 100_000;

/// Members of all groups of one shard at most, those still to come back with their id included.
pub const MEMBERS_PER_SHARD_MAX: usize = 200_000;

/// Committed offsets of one shard at most, those still being written included.
pub const OFFSETS_PER_SHARD_MAX: usize = 8_000_000;

/// What the shard remembers of a group beside its members and offsets, roughly.
pub const GROUP_BYTES: usize = 1024;

/// What it remembers of a member beside its texts, metadata and assignment, roughly.
pub const MEMBER_BYTES: usize = 512;

/// What it remembers of a committed offset beside its record, roughly.
pub const OFFSET_BYTES: usize = 128;

/// Bytes of records waiting to be appended on one shard at most, and no more than all state; a
/// commit above it is told to come back.
pub const QUEUED_BYTES_PER_SHARD_MAX: usize = 64 * 1024 * 1024;

/// A new member has no id yet and cannot send heartbeats: so long it may wait for its first answer.
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;

/// What is queued is appended in batches of about this many bytes; a single larger write goes
/// alone.
pub const APPEND_BYTES_TARGET: usize = 256 * 1024;

/// Batches of a rewrite: small, so that other writes go on in between.
const REWRITE_BATCH_BYTES: u64 = 128 * 1024;

const _: () = assert!(
    REWRITE_BATCH_BYTES <= APPEND_BYTES_TARGET as u64,
    "a rewrite is not in the way"
);
const _: () = assert!(
    APPEND_BYTES_TARGET < crate::model::limits::MESSAGE_BYTES_DEFAULT,
    "joined writes never exceed what a partition takes by default"
);
const _: () = assert!(
    QUEUED_BYTES_PER_SHARD_MAX >= 4 * APPEND_BYTES_TARGET,
    "there is something to join while an append is under way"
);

/// Settings of the coordinator.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`.
    pub group_size_max: usize,
    /// Memory of the shard for groups, members and offsets: an eighth. Who would add to it beyond
    /// is told to come back; what is there goes on.
    pub state_bytes_max: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: u64,
    /// `offsets.topic.num.partitions`.
    pub offsets_partition_count: i32,
    /// A partition's log is not rewritten while it is smaller.
    pub rewrite_log_bytes_min: u64,
    /// A partition's log is rewritten when it is this many times its live state.
    pub rewrite_live_multiple: u64,
    /// A rewrite appends the live state in batches of about this many bytes.
    pub rewrite_batch_bytes: u64,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            group_size_max: usize::try_from(i32::MAX).unwrap_or(usize::MAX),
            state_bytes_max: 256 << 20,
            offset_metadata_bytes_max: crate::model::limits::OFFSET_METADATA_BYTES_DEFAULT,
            offsets_retention_ms: 10_080 * 60 * 1000,
            offsets_retention_check_interval_ms: 600_000,
            offsets_partition_count: crate::model::limits::OFFSETS_TOPIC_PARTITIONS,
            rewrite_log_bytes_min: crate::model::limits::OFFSETS_LOG_BYTES_MIN,
            rewrite_live_multiple: 4,
            rewrite_batch_bytes: REWRITE_BATCH_BYTES,
        }
    }
}

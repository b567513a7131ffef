//! The settings of one log, under Kafka's names, as its topic's configuration resolves to them.
//!
//! Pure: no async, no clock, no IO.

/// Largest segment: file positions in Kafka's indexes are 31-bit numbers.
pub const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// What a log needs to know of its topic; `Copy`, replaced as a whole when the topic is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`: a batch that would go beyond it starts a new segment.
    pub segment_bytes: u64,
    /// `segment.ms`: age in message time at which a new segment starts.
    pub segment_ms: i64,
    /// `segment.index.bytes`: size at which an index is full and a new segment starts.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`: bytes of batches between two index entries.
    pub index_interval_bytes: u64,
    /// `retention.ms`; none is for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; none is unlimited.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy` contains `delete`: time and size retention apply.
    pub deletes: bool,
}

impl Default for LogSettings {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: None,
            deletes: true,
        }
    }
}

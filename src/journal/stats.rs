//! What a journal counts about itself, for metrics.
//!
//! Runs on: the home shard.        Owner: `Journal`.
//! Distributions (flush latency, sizes) go straight into the shard's metrics, which forget what is
//! older than two minutes; here are sums since the journal was opened.

use std::time::Duration;

use crate::telemetry::metrics;
use crate::telemetry::names::Summary;

/// Counters since the journal was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalStats {
    /// Blocks that are durable, empty ones included.
    pub blocks: u64,
    /// Blocks that only say that all before them are durable.
    pub empty_blocks: u64,
    /// Entries that are durable.
    pub entries: u64,
    /// Bytes of those entries, without headers and padding.
    pub payload_bytes: u64,
    /// Bytes that were written for them.
    pub written_bytes: u64,
    /// Times that somebody had to wait for room or for the queue.
    pub waits: u64,
    /// The most writes that were under way, or done and not yet reported, at a time.
    pub writes_in_flight_max: usize,
}

impl JournalStats {
    pub(super) fn on_block(&mut self, entries: u64, payload: u64, bytes: u64, took: Duration) {
        self.blocks += 1;
        self.empty_blocks += u64::from(entries == 0);
        self.entries += entries;
        self.payload_bytes += payload;
        self.written_bytes += bytes;
        let metrics = metrics::local();
        metrics.observe_time(Summary::FlushLatency, took);
        if entries > 0 {
            metrics.observe(Summary::CommitBytes, bytes);
            metrics.observe(Summary::CommitEntries, entries);
        }
    }
}

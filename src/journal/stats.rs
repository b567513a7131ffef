//! What a journal counts about itself, for metrics.
//!
//! Pure: no async, no clock, no IO.        Owner: `Journal`.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies above this are counted as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Block sizes above this are counted as this.
const BLOCK_BYTES_MAX: u64 = 1 << 32;

/// Counters since the journal was opened. Copies are cheap enough for a scrape, not for a request.
#[derive(Clone, Debug)]
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
    /// Microseconds from the start of a block's write to its completion.
    pub flush_us: Histogram<u64>,
    /// Bytes of each block on disk.
    pub block_bytes: Histogram<u64>,
}

impl Default for JournalStats {
    fn default() -> Self {
        let histogram = |max| {
            Histogram::new_with_bounds(1, max, 2).expect("two digits from 1 is a valid range")
        };
        Self {
            blocks: 0,
            empty_blocks: 0,
            entries: 0,
            payload_bytes: 0,
            written_bytes: 0,
            waits: 0,
            flush_us: histogram(LATENCY_US_MAX),
            block_bytes: histogram(BLOCK_BYTES_MAX),
        }
    }
}

impl JournalStats {
    pub(super) fn on_block(&mut self, entries: u64, payload: u64, bytes: u64, took: Duration) {
        self.blocks += 1;
        self.empty_blocks += u64::from(entries == 0);
        self.entries += entries;
        self.payload_bytes += payload;
        self.written_bytes += bytes;
        self.flush_us
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
        self.block_bytes.saturating_record(bytes);
    }
}

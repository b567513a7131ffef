//! What a run measured: counts, latencies, one row a second, the progress line.
//!
//! Promises: throughput counts what was acknowledged (or received) inside the window; latency
//! counts every record that was *due* inside the window, whenever its answer came, and with the
//! time until the end of the run if none came.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::clock::Nanos;
use crate::numbers::SECOND_NS;

/// Longest latency that is told apart, in microseconds: one hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// The measured part of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Nanos,
    /// Exclusive.
    pub(crate) end: Nanos,
}

impl Window {
    pub(crate) fn holds(&self, at: Nanos) -> bool {
        (self.start..self.end).contains(&at)
    }
}

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds and digits are in range")
}

/// One second of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) second: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

/// Counts that only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) requests: u64,
    /// Values of the records.
    pub(crate) bytes: u64,
    /// Batches as they are on the wire.
    pub(crate) wire_bytes: u64,
}

impl Counts {
    fn add(&mut self, more: &Self) {
        self.records += more.records;
        self.batches += more.batches;
        self.requests += more.requests;
        self.bytes += more.bytes;
        self.wire_bytes += more.wire_bytes;
    }
}

/// Collects one side of a run: producing, consuming, or the way from end to end.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) window: Window,
    pub(crate) latency: Histogram<u64>,
    pub(crate) counts: Counts,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) series: Vec<Row>,
    second: Histogram<u64>,
    second_counts: Counts,
}

impl Recorder {
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            latency: histogram(),
            counts: Counts::default(),
            errors: BTreeMap::new(),
            series: Vec::new(),
            second: histogram(),
            second_counts: Counts::default(),
        }
    }

    /// Counts what was acknowledged or received now.
    pub(crate) fn count(&mut self, now: Nanos, counts: &Counts) {
        self.second_counts.add(counts);
        if self.window.holds(now) {
            self.counts.add(counts);
        }
    }

    /// Records that were due at `due` and are done now.
    pub(crate) fn done(&mut self, due: Nanos, now: Nanos, records: u64) {
        let us = (now.saturating_sub(due) / 1_000).clamp(1, LATENCY_MAX_US);
        self.second.saturating_record_n(us, records);
        if self.window.holds(due) {
            self.latency.saturating_record_n(us, records);
        }
    }

    /// A record of which nothing was heard until the end: at least this late.
    pub(crate) fn never_done(&mut self, due: Nanos, now: Nanos, why: &str) {
        if self.window.holds(due) {
            let us = (now.saturating_sub(due) / 1_000).clamp(1, LATENCY_MAX_US);
            self.latency.saturating_record_n(us, 1);
            self.error(why, 1);
        }
    }

    /// Records that were acknowledged and never came: late by at least the time since the window.
    pub(crate) fn never_received(&mut self, records: u64, late: Nanos) {
        if records > 0 {
            let us = (late / 1_000).clamp(1, LATENCY_MAX_US);
            self.latency.saturating_record_n(us, records);
            self.error("Unreceived", records);
        }
    }

    /// Records that failed.
    pub(crate) fn error(&mut self, name: &str, records: u64) {
        if records == 0 {
            return;
        }
        match self.errors.get_mut(name) {
            Some(count) => *count += records,
            None => {
                self.errors.insert(name.to_owned(), records);
            }
        }
    }

    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Closes the second that ends now and returns its row.
    pub(crate) fn tick(&mut self, now: Nanos) -> Row {
        let second = &self.second;
        let row = Row {
            second: now.saturating_sub(self.window.start).div_ceil(SECOND_NS),
            records: self.second_counts.records,
            bytes: self.second_counts.bytes,
            p50_us: second.value_at_quantile(0.5),
            p99_us: second.value_at_quantile(0.99),
            max_us: second.max(),
        };
        if now > self.window.start && now < self.window.end + SECOND_NS / 2 {
            self.series.push(row);
        }
        self.second.reset();
        self.second_counts = Counts::default();
        row
    }
}

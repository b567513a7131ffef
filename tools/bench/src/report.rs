//! What a run says at its end: a table for people, one JSON object for programs.

use std::fmt::Write as _;

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde_json::{Value, json};

use crate::numbers::{float, short, short_us};
use crate::recorder::{Recorder, Row};

/// The quantiles that are reported.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99_9", 0.999),
    ("p99_99", 0.9999),
];

/// Latencies in microseconds.
pub(crate) fn latency(histogram: &Histogram<u64>) -> Value {
    let mut value = json!({
        "count": histogram.len(),
        "mean": (histogram.mean() * 10.0).round() / 10.0,
    });
    for (name, quantile) in QUANTILES {
        value[name] = histogram.value_at_quantile(quantile).into();
    }
    value["max"] = histogram.max().into();
    value
}

/// A histogram as other tools read it: HdrHistogram V2, deflated, in base64.
pub(crate) fn encoded(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a histogram fits into memory");
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The rows of a run.
pub(crate) fn series(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "second": row.second,
            "records": row.records,
            "bytes": row.bytes,
            "p50_us": row.p50_us,
            "p99_us": row.p99_us,
            "max_us": row.max_us,
        })
    });
    rows.collect()
}

/// One side of a run over `seconds`.
pub(crate) fn side(recorder: &Recorder, seconds: f64) -> Value {
    let counts = &recorder.counts;
    json!({
        "records": counts.records,
        "batches": counts.batches,
        "requests": counts.requests,
        "bytes": counts.bytes,
        "wire_bytes": counts.wire_bytes,
        "seconds": seconds,
        "records_per_second": float(counts.records) / seconds,
        "bytes_per_second": float(counts.bytes) / seconds,
        "wire_bytes_per_second": float(counts.wire_bytes) / seconds,
        "latency_us": latency(&recorder.latency),
        "histogram": encoded(&recorder.latency),
        "errors": recorder.errors,
        "series": series(&recorder.series),
    })
}

/// The way from end to end.
pub(crate) fn end_to_end(recorder: &Recorder) -> Value {
    json!({
        "latency_us": latency(&recorder.latency),
        "histogram": encoded(&recorder.latency),
        "errors": recorder.errors,
        "series": series(&recorder.series),
    })
}

/// The line of one second.
pub(crate) fn progress(name: &str, row: &Row) -> String {
    format!(
        "{name} {}records/s {}B/s p50 {} p99 {} max {}",
        short(float(row.records)),
        short(float(row.bytes)),
        short_us(row.p50_us),
        short_us(row.p99_us),
        short_us(row.max_us)
    )
}

/// The lines of one side for people.
pub(crate) fn text(name: &str, side: &Value, meaning: &str) -> String {
    let number = |key: &str| side[key].as_f64().unwrap_or(0.0);
    let mut lines = format!(
        "{name}: {} records in {:.1} s: {}records/s, {}B/s of values, {}B/s of batches, \
         {:.1} records a batch\n",
        side["records"],
        number("seconds"),
        short(number("records_per_second")),
        short(number("bytes_per_second")),
        short(number("wire_bytes_per_second")),
        number("records") / number("batches").max(1.0),
    );
    lines += &latency_text(&side["latency_us"], meaning);
    lines + &errors_text(side)
}

/// What failed, for people.
pub(crate) fn errors_text(side: &Value) -> String {
    let mut lines = String::new();
    for (error, count) in side["errors"].as_object().into_iter().flatten() {
        let _ = writeln!(lines, "  failed: {count}: {error}");
    }
    lines
}

/// The latencies for people.
pub(crate) fn latency_text(latency: &Value, meaning: &str) -> String {
    let us = |key: &str| short_us(latency[key].as_u64().unwrap_or(0));
    format!(
        "  latency ({meaning}): p50 {}, p90 {}, p99 {}, p99.9 {}, p99.99 {}, max {}\n",
        us("p50"),
        us("p90"),
        us("p99"),
        us("p99_9"),
        us("p99_99"),
        us("max")
    )
}

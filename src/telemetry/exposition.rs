//! Snapshots of all shards -> the text of `GET /metrics`, Prometheus' text format 0.0.4.
//!
//! Pure: no async, no clock, no IO.
//! Every metric has a line per shard (`shard="0"`) and one for all of them (`shard="total"`):
//! quantiles cannot be added up by whoever reads them, so the broker merges the values itself.
//! A summary's quantiles are of the last one to two minutes, its count and sum since the start.

use std::fmt::Write as _;

use crate::telemetry::distribution::Distribution;
use crate::telemetry::metrics::{ApiMetrics, ShardSnapshot};
use crate::telemetry::names::{Counter, Gauge, Pool, Summary};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.99, "0.99"), (0.999, "0.999"), (1.0, "1")];

/// What is true of the whole broker.
#[derive(Clone, Debug)]
pub struct BrokerFacts {
    /// `node.id`.
    pub node_id: i32,
    /// Kafka's cluster id.
    pub cluster_id: String,
    /// Seconds since every shard accepted connections.
    pub uptime_seconds: u64,
}

/// Renders the text.
pub fn render(facts: &BrokerFacts, shards: &[ShardSnapshot]) -> String {
    let total = ShardSnapshot::total(shards);
    let names: Vec<String> = shards.iter().map(|shard| shard.shard.to_string()).collect();
    let mut sources: Vec<(&str, &ShardSnapshot)> =
        names.iter().map(String::as_str).zip(shards).collect();
    sources.push(("total", &total));
    let mut text = Text::default();
    text.facts(facts);
    text.numbers(&sources);
    text.pools(&sources);
    for summary in Summary::ALL {
        let name = summary.name();
        text.head(name, "summary", summary.help());
        for (shard, snapshot) in &sources {
            if let Some(values) = snapshot.summaries.get(summary.index()) {
                text.summary(name, &[("shard", shard)], values, summary.is_time());
            }
        }
    }
    text.requests(&sources);
    text.lags(&total);
    text.0
}

/// `(name, value)` pairs.
type Labels<'a> = [(&'a str, &'a str)];

/// Used or allowed bytes out of a pool's pair.
type PickBytes = fn((u64, u64)) -> u64;

/// The text so far. Writing to a string does not fail, so what `write!` returns is dropped.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A counter's name ends in `_total`, in its head and in its samples.
    fn counter_head(&mut self, name: &str, help: &str) -> String {
        let name = format!("{name}_total");
        self.head(&name, "counter", help);
        name
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn summary(&mut self, name: &str, labels: &Labels<'_>, values: &Distribution, is_time: bool) {
        let recent = values.recent();
        for (quantile, text) in QUANTILES {
            let labels = [labels, &[("quantile", text)]].concat();
            if recent.is_empty() {
                self.sample(name, &labels, "NaN"); // as Prometheus' own libraries say "no values"
            } else {
                self.sample(
                    name,
                    &labels,
                    shown(recent.value_at_quantile(quantile), is_time),
                );
            }
        }
        self.sample(&format!("{name}_sum"), labels, shown(values.sum(), is_time));
        self.sample(&format!("{name}_count"), labels, values.count());
    }

    fn facts(&mut self, facts: &BrokerFacts) {
        let node_id = facts.node_id.to_string();
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("node_id", &node_id),
            ("cluster_id", &facts.cluster_id),
        ];
        self.head(
            "corelog_build",
            "gauge",
            "What runs here; the value is always 1",
        );
        self.sample("corelog_build", &labels, 1);
        let help = "Seconds since every shard accepted connections";
        self.head("corelog_uptime_seconds", "gauge", help);
        self.sample("corelog_uptime_seconds", &[], facts.uptime_seconds);
    }

    fn numbers(&mut self, sources: &[(&str, &ShardSnapshot)]) {
        for kind in Counter::ALL {
            let name = self.counter_head(kind.name(), kind.help());
            for (shard, snapshot) in sources {
                let value = snapshot.counters.get(kind.index()).copied().unwrap_or(0);
                self.sample(&name, &[("shard", shard)], value);
            }
        }
        for kind in Gauge::ALL {
            self.head(kind.name(), "gauge", kind.help());
            for (shard, snapshot) in sources {
                let value = snapshot.gauges.get(kind.index()).copied().unwrap_or(0);
                self.sample(kind.name(), &[("shard", shard)], value);
            }
        }
    }

    fn pools(&mut self, sources: &[(&str, &ShardSnapshot)]) {
        let metrics: [(&str, &str, PickBytes); 2] = [
            (
                "corelog_memory_used_bytes",
                "Bytes in use of a memory pool",
                |pool| pool.0,
            ),
            (
                "corelog_memory_limit_bytes",
                "Bytes that a memory pool may use",
                |pool| pool.1,
            ),
        ];
        for (name, help, pick) in metrics {
            self.head(name, "gauge", help);
            for (shard, snapshot) in sources {
                for (pool, value) in Pool::ALL.iter().zip(snapshot.pools) {
                    self.sample(
                        name,
                        &[("shard", shard), ("pool", pool.label())],
                        pick(value),
                    );
                }
            }
        }
    }

    fn requests(&mut self, sources: &[(&str, &ShardSnapshot)]) {
        let sources = sources.iter();
        let rows: Vec<([(&str, &str); 2], &ApiMetrics)> = sources
            .flat_map(|(shard, snapshot)| {
                let apis = snapshot.apis.iter();
                apis.map(move |api| ([("shard", *shard), ("api", api.name)], api))
            })
            .collect();
        let help = "Requests answered with an error, for the whole or for a part of them";
        let name = self.counter_head("corelog_request_errors", help);
        for (labels, api) in &rows {
            self.sample(&name, labels, api.errors);
        }
        let name = self.counter_head("corelog_requests", "Requests answered");
        for (labels, api) in &rows {
            self.sample(&name, labels, api.latency.count());
        }
        let name = "corelog_request_latency_seconds";
        self.head(
            name,
            "summary",
            "Time from a request's last byte to its answer",
        );
        for (labels, api) in &rows {
            self.summary(name, labels, &api.latency, true);
        }
    }

    fn lags(&mut self, total: &ShardSnapshot) {
        let help = "Records between a group's committed offset and the high watermark";
        self.head("corelog_consumer_lag", "gauge", help);
        for lag in &total.consumer_lags {
            let partition = lag.partition.to_string();
            let labels = [
                ("group", lag.group.as_str()),
                ("topic", &lag.topic),
                ("partition", &partition),
            ];
            self.sample("corelog_consumer_lag", &labels, lag.lag);
        }
    }
}

/// A label's value as the format wants it between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Microseconds, sizes and counts stay below 2^53 for as long as a process lives.
#[expect(
    clippy::cast_precision_loss,
    reason = "the text has decimal fractions of seconds"
)]
fn shown(value: u64, is_time: bool) -> f64 {
    if is_time {
        value as f64 / 1e6
    } else {
        value as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ShardId;
    use crate::telemetry::metrics::{ConsumerLag, ShardMetrics};
    use std::time::Duration;

    fn text() -> String {
        let (one, two) = (ShardMetrics::new(ShardId(0)), ShardMetrics::new(ShardId(1)));
        one.add(Counter::BytesReceived, 100);
        two.add(Counter::BytesReceived, 11);
        one.set(Gauge::JournalUsedBytes, 5);
        two.set_pool(Pool::Tail, 7, 70);
        one.observe_time(Summary::FlushLatency, Duration::from_micros(200));
        one.observe(Summary::CommitBytes, 4096);
        two.observe_request("Produce", Duration::from_millis(3), false);
        two.set_consumer_lags(vec![ConsumerLag {
            group: "g\"1".to_owned(),
            topic: "orders".to_owned(),
            partition: 3,
            lag: 42,
        }]);
        let facts = BrokerFacts {
            node_id: 1,
            cluster_id: "abc".to_owned(),
            uptime_seconds: 9,
        };
        render(&facts, &[one.snapshot(), two.snapshot()])
    }

    #[test]
    fn every_shard_and_the_total_have_a_line() {
        let text = text();
        for line in [
            "# TYPE corelog_received_bytes_total counter",
            "corelog_received_bytes_total{shard=\"0\"} 100",
            "corelog_received_bytes_total{shard=\"1\"} 11",
            "corelog_received_bytes_total{shard=\"total\"} 111",
            "corelog_journal_used_bytes{shard=\"total\"} 5",
            "corelog_memory_used_bytes{shard=\"1\",pool=\"tail\"} 7",
            "corelog_memory_limit_bytes{shard=\"total\",pool=\"tail\"} 70",
            "corelog_flush_latency_seconds_count{shard=\"0\"} 1",
            "corelog_commit_size_bytes_sum{shard=\"total\"} 4096",
            "corelog_requests_total{shard=\"1\",api=\"Produce\"} 1",
            "corelog_consumer_lag{group=\"g\\\"1\",topic=\"orders\",partition=\"3\"} 42",
            "corelog_uptime_seconds 9",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line}\n--- in ---\n{text}"
            );
        }
    }

    #[test]
    fn quantiles_of_times_are_seconds() {
        let text = text();
        let prefix =
            "corelog_request_latency_seconds{shard=\"total\",api=\"Produce\",quantile=\"0.99\"}";
        let line = text.lines().find_map(|line| line.strip_prefix(prefix));
        let value: f64 = line.expect("the line is there").trim().parse().unwrap();
        assert!((0.0029..0.0031).contains(&value), "{value}");
    }

    #[test]
    fn no_metric_is_described_twice() {
        let text = text();
        let mut types: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let count = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count);
    }
}

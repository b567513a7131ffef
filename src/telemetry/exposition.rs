//! Snapshots of all shards -> the text of `GET /metrics`.
//!
//! Pure: no async, no clock, no IO.
//! Every metric has a line per shard (`shard="0"`) and one for all of them (`shard="total"`):
//! quantiles cannot be added up by whoever reads them, so the broker merges the values themselves.
//!
//! The text is written by prometheus-client, from a collector over the snapshots: its own metric
//! types are shared atomics, which shards do not touch. It has no summary type, so quantiles are a
//! gauge with the label `quantile`, beside `..._count` and `..._sum`, which only grow, as in
//! Prometheus' own summaries.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::telemetry::distribution::Distribution;
use crate::telemetry::metrics::{ApiMetrics, ShardSnapshot};
use crate::telemetry::names::{Counter, Gauge, Pool, Summary};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    let mut sources: Vec<(String, ShardSnapshot)> = shards
        .iter()
        .map(|shard| (shard.shard.to_string(), shard.clone()))
        .collect();
    sources.push(("total".to_owned(), ShardSnapshot::total(shards)));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        facts: facts.clone(),
        sources,
    }));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        // writing to a string does not fail
        Err(fmt::Error) => String::new(),
    }
}

/// What one scrape shows.
#[derive(Debug)]
struct Scrape {
    facts: BrokerFacts,
    /// Value of the label `shard`, and its snapshot.
    sources: Vec<(String, ShardSnapshot)>,
}

/// Used or allowed bytes out of a pool's pair.
type PickBytes = fn((u64, u64)) -> u64;

type Labels<'a, const N: usize> = [(&'a str, &'a str); N];

fn counter<L: EncodeLabelSet>(
    metric: &mut MetricEncoder<'_>,
    labels: &L,
    value: u64,
) -> fmt::Result {
    metric
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge<L: EncodeLabelSet>(metric: &mut MetricEncoder<'_>, labels: &L, value: u64) -> fmt::Result {
    // gauges are signed in the text; none of ours comes near the limit
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    metric.encode_family(labels)?.encode_gauge(&value)
}

fn gauge_f64<L: EncodeLabelSet>(
    metric: &mut MetricEncoder<'_>,
    labels: &L,
    value: f64,
) -> fmt::Result {
    metric.encode_family(labels)?.encode_gauge(&value)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_facts(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        self.encode_gauges(&mut encoder)?;
        self.encode_pools(&mut encoder)?;
        for summary in Summary::ALL {
            let place = summary.index();
            let rows = self.sources.iter().filter_map(|(shard, snapshot)| {
                let values = snapshot.summaries.get(place)?;
                Some(([("shard", shard.as_str())], values))
            });
            let rows: Vec<_> = rows.collect();
            encode_summary(
                &mut encoder,
                summary.name(),
                summary.help(),
                summary.is_time(),
                &rows,
            )?;
        }
        self.encode_requests(&mut encoder)?;
        self.encode_lags(&mut encoder)
    }
}

impl Scrape {
    fn encode_facts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let node_id = self.facts.node_id.to_string();
        let labels: Labels<'_, 3> = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("node_id", &node_id),
            ("cluster_id", &self.facts.cluster_id),
        ];
        let help = "What runs here; the value is always 1";
        let mut metric =
            encoder.encode_descriptor("corelog_build", help, None, MetricType::Gauge)?;
        gauge(&mut metric, &labels, 1)?;
        let help = "Seconds since every shard accepted connections";
        let mut metric =
            encoder.encode_descriptor("corelog_uptime_seconds", help, None, MetricType::Gauge)?;
        let uptime = i64::try_from(self.facts.uptime_seconds).unwrap_or(i64::MAX);
        metric.encode_gauge(&uptime)
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for kind in Counter::ALL {
            let mut metric =
                encoder.encode_descriptor(kind.name(), kind.help(), None, MetricType::Counter)?;
            for (shard, snapshot) in &self.sources {
                let value = snapshot.counters.get(kind.index()).copied().unwrap_or(0);
                counter(&mut metric, &[("shard", shard.as_str())], value)?;
            }
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for kind in Gauge::ALL {
            let mut metric =
                encoder.encode_descriptor(kind.name(), kind.help(), None, MetricType::Gauge)?;
            for (shard, snapshot) in &self.sources {
                let value = snapshot.gauges.get(kind.index()).copied().unwrap_or(0);
                gauge(&mut metric, &[("shard", shard.as_str())], value)?;
            }
        }
        Ok(())
    }

    fn encode_pools(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, snapshot) in &self.sources {
                for (pool, value) in Pool::ALL.iter().zip(snapshot.pools) {
                    let labels: Labels<'_, 2> = [("shard", shard), ("pool", pool.label())];
                    gauge(&mut metric, &labels, pick(value))?;
                }
            }
        }
        Ok(())
    }

    /// Each shard's APIs, by the labels `shard` and `api`.
    fn api_rows(&self) -> Vec<(Labels<'_, 2>, &ApiMetrics)> {
        let row = |shard, api: &'static str| [("shard", shard), ("api", api)];
        let sources = self.sources.iter();
        let rows = sources.flat_map(|(shard, snapshot)| {
            snapshot
                .apis
                .iter()
                .map(move |api| (row(shard.as_str(), api.name), api))
        });
        rows.collect()
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.api_rows();
        let help = "Requests answered with an error on the whole request";
        let mut metric =
            encoder.encode_descriptor("corelog_request_errors", help, None, MetricType::Counter)?;
        for (labels, api) in &rows {
            counter(&mut metric, labels, api.errors)?;
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|(labels, api)| (*labels, &api.latency))
            .collect();
        let help = "Requests answered";
        let mut metric =
            encoder.encode_descriptor("corelog_requests", help, None, MetricType::Counter)?;
        for (labels, latency) in &rows {
            counter(&mut metric, labels, latency.count())?;
        }
        let help = "Time from a request's last byte to its answer";
        encode_summary(
            encoder,
            "corelog_request_latency_seconds",
            help,
            true,
            &rows,
        )
    }

    fn encode_lags(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Records between a group's committed offset and the high watermark";
        let mut metric =
            encoder.encode_descriptor("corelog_consumer_lag", help, None, MetricType::Gauge)?;
        let total = self
            .sources
            .last()
            .map(|(_, snapshot)| snapshot.consumer_lags.as_slice());
        for lag in total.unwrap_or_default() {
            let partition = lag.partition.to_string();
            let labels: Labels<'_, 3> = [
                ("group", &lag.group),
                ("topic", &lag.topic),
                ("partition", &partition),
            ];
            gauge(&mut metric, &labels, lag.lag)?;
        }
        Ok(())
    }
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

fn encode_summary<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    is_time: bool,
    rows: &[(Labels<'_, N>, &Distribution)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, values) in rows {
        let recent = values.recent();
        for (quantile, text) in QUANTILES {
            let value = if recent.is_empty() {
                0
            } else {
                recent.value_at_quantile(quantile)
            };
            let labels = (*labels, [("quantile", text)]);
            gauge_f64(&mut metric, &labels, shown(value, is_time))?;
        }
    }
    let count_name = format!("{name}_count");
    let mut metric = encoder.encode_descriptor(&count_name, help, None, MetricType::Unknown)?;
    for (labels, values) in rows {
        gauge(&mut metric, labels, values.count())?;
    }
    let sum_name = format!("{name}_sum");
    let mut metric = encoder.encode_descriptor(&sum_name, help, None, MetricType::Unknown)?;
    for (labels, values) in rows {
        gauge_f64(&mut metric, labels, shown(values.sum(), is_time))?;
    }
    Ok(())
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
            "# TYPE corelog_received_bytes counter",
            "corelog_received_bytes_total{shard=\"0\"} 100",
            "corelog_received_bytes_total{shard=\"1\"} 11",
            "corelog_received_bytes_total{shard=\"total\"} 111",
            "corelog_journal_used_bytes{shard=\"total\"} 5",
            "corelog_memory_used_bytes{shard=\"1\",pool=\"tail\"} 7",
            "corelog_memory_limit_bytes{shard=\"total\",pool=\"tail\"} 70",
            "corelog_flush_latency_seconds_count{shard=\"0\"} 1",
            "corelog_commit_size_bytes_sum{shard=\"total\"} 4096.0",
            "corelog_requests_total{shard=\"1\",api=\"Produce\"} 1",
            "corelog_consumer_lag{group=\"g\\\"1\",topic=\"orders\",partition=\"3\"} 42",
            "corelog_uptime_seconds 9",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line}\n--- in ---\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
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

//! The command line: what to send, how fast, how to measure, where to write.
//!
//! Every flag ends up in the result's `settings`, so that a figure can be repeated from its file.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::numbers::parse_bytes;
use crate::sink::SinkOptions;
use crate::stamp::Stamping;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "corelog-bench",
    version,
    about = "Measures any Kafka-compatible broker: open loop, latency from when a record was due"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write records; latency from due to acknowledged
    #[command(args_override_self = true)]
    Produce(Load),
    /// Read records, as fast as they come
    #[command(args_override_self = true)]
    Consume(Load),
    /// Write and read; latency from due to received
    #[command(args_override_self = true)]
    EndToEnd(Load),
    /// Write and read at the same time, each with its own figures
    #[command(args_override_self = true)]
    Mixed(Load),
    /// Hold connections open and send nothing
    #[command(args_override_self = true)]
    Idle(Load),
    /// A broker that misbehaves on purpose, for the tests of this tool
    #[command(hide = true)]
    Sink(SinkOptions),
}

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Produce,
    Consume,
    EndToEnd,
    Mixed,
    Idle,
}

impl Mode {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::EndToEnd => "end-to-end",
            Self::Mixed => "mixed",
            Self::Idle => "idle",
        }
    }

    /// Whether there are producers.
    pub(crate) const fn produces(self) -> bool {
        matches!(self, Self::Produce | Self::EndToEnd | Self::Mixed)
    }

    /// Whether there are consumers.
    pub(crate) const fn consumes(self) -> bool {
        matches!(self, Self::Consume | Self::EndToEnd | Self::Mixed)
    }
}

/// Where consumers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    Beginning,
    End,
}

/// Rates to try one after the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sweep(pub(crate) Vec<Rate>);

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rates = text.strip_prefix("rate=").ok_or("rate=A,B,C is expected")?;
        let rates: Result<Vec<Rate>, String> = rates.split(',').map(str::parse).collect();
        rates.map(Self)
    }
}

/// Records per second, over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Rate {
    /// As fast as answers come: the requests in flight are the only limit.
    #[serde(serialize_with = "as_max")]
    Max,
    /// Records fall due at this rate whether or not the broker keeps up.
    PerSecond(f64),
}

fn as_max<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("max")
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let (digits, factor) = match text.strip_suffix(['k', 'M']) {
            Some(digits) if text.ends_with('k') => (digits, 1e3),
            Some(digits) => (digits, 1e6),
            None => (text, 1.0),
        };
        let rate: f64 = digits.parse().map_err(|_| "a number or `max`".to_owned())?;
        let rate = rate * factor;
        let fits = rate.is_finite() && (0.001..=1e9).contains(&rate);
        fits.then_some(Self::PerSecond(rate))
            .ok_or_else(|| "between 0.001 and 1000000000 records a second".to_owned())
    }
}

/// Who must have a batch before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub(crate) enum Acks {
    #[value(name = "0")]
    #[serde(rename = "0")]
    None,
    #[value(name = "1")]
    #[serde(rename = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    #[serde(rename = "all")]
    All,
}

impl Acks {
    /// As it is on the wire.
    pub(crate) const fn wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Kafka's codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Flags of every kind of load.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Load {
    /// Where the cluster is
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
    /// Topics to create and use
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) topics: usize,
    /// Partitions of each topic
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) partitions: usize,
    /// Use this topic (with --topics N: NAME-0, NAME-1, ...); created when it does not exist
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// Setting of the topics that are created; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) topic_config: Vec<String>,
    /// Copies of each partition in the topics that are created
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) replication: i16,
    /// Leave the topics that were created
    #[arg(long)]
    pub(crate) keep_topics: bool,
    /// Bytes of each record's value
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = parse_bytes)]
    pub(crate) record_size: u64,
    /// Different keys, of 8 bytes; they choose the partition as Kafka's clients do; 0: no keys
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keys: usize,
    /// Largest batch before compression; one record is always allowed
    #[arg(long, value_name = "BYTES", default_value = "65536", value_parser = parse_bytes)]
    pub(crate) batch_size: u64,
    /// How long the first record of a batch waits for more
    #[arg(long, value_name = "MS", default_value_t = 5.0)]
    pub(crate) linger: f64,
    /// Batches (of as many partitions) in one Produce request
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) partitions_per_request: usize,
    /// When a batch counts as written
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub(crate) acks: Acks,
    /// Idempotent producers: one producer id a connection
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// Codec of the batches
    #[arg(long, value_enum, value_name = "CODEC", default_value_t = Compression::None)]
    pub(crate) compression: Compression,
    /// Part of each value that is random bytes, the rest is text that repeats
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub(crate) random_share: f64,
    /// Connections that produce
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) connections: usize,
    /// Requests of a connection that wait for their answer
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) in_flight: usize,
    /// Records per second over all connections (30k and 2M are understood), or `max`
    #[arg(long, value_name = "R|max", default_value = "max")]
    pub(crate) rate: Rate,
    /// Consumers that each read everything (end-to-end, mixed and consume)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) consumers: usize,
    /// Connections of each consumer, which share the partitions
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) consumer_connections: usize,
    /// Where consumers begin (default: beginning for consume, else end)
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) from: Option<From>,
    /// consume: stop at what was the end of each partition at the start
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Longest wait of a Fetch for its first byte
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub(crate) fetch_wait: i32,
    /// Bytes that a Fetch waits for
    #[arg(long, value_name = "BYTES", default_value = "1", value_parser = parse_bytes)]
    pub(crate) fetch_min: u64,
    /// Most bytes of a Fetch
    #[arg(long, value_name = "BYTES", default_value = "50MiB", value_parser = parse_bytes)]
    pub(crate) fetch_max: u64,
    /// Most bytes of a partition in a Fetch
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_bytes)]
    pub(crate) partition_max: u64,
    /// Consumers compute the checksum of every batch
    #[arg(long)]
    pub(crate) check_crc: bool,
    /// Number and check every record: nothing lost, twice, out of order or damaged; exit code 1 if
    #[arg(long)]
    pub(crate) verify: bool,
    /// Run once for each rate, for a curve of latency over throughput
    #[arg(long, value_name = "rate=A,B,C")]
    pub(crate) sweep: Option<Sweep>,
    /// Draw the result
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub(crate) duration: f64,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub(crate) warmup: f64,
    /// Longest wait for what is outstanding at the end
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub(crate) drain: f64,
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Process of the broker, for its CPU seconds (default: who listens on the bootstrap port here)
    #[arg(long, value_name = "PID")]
    pub(crate) broker_pid: Option<u32>,
    /// Poll without sleeping: a busy core instead of wake-up delays
    #[arg(long)]
    pub(crate) spin: bool,
    /// No progress, only the result
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl Load {
    /// How much each record says about itself.
    pub(crate) const fn stamping(&self, mode: Mode) -> Stamping {
        match mode {
            _ if self.verify => Stamping::Full,
            Mode::EndToEnd => Stamping::Due,
            _ => Stamping::None,
        }
    }

    /// Where consumers begin.
    pub(crate) fn begins(&self, mode: Mode) -> From {
        self.from.unwrap_or(match mode {
            Mode::Consume => From::Beginning,
            _ => From::End,
        })
    }

    /// What the parser cannot know: ranges and what belongs together.
    pub(crate) fn check(&self, mode: Mode) -> Result<(), String> {
        if mode == Mode::Consume && self.topic.is_none() {
            return Err("consume needs --topic".to_owned());
        }
        if self.until_end && mode != Mode::Consume {
            return Err("--until-end is for consume".to_owned());
        }
        if self.sweep.is_some() && !mode.produces() {
            return Err("--sweep needs a mode that produces".to_owned());
        }
        let need = self.stamping(mode).len() as u64;
        if mode.produces() && self.record_size < need {
            return Err(format!(
                "--record-size must be at least {need} for what records carry"
            ));
        }
        self.check_ranges()
    }

    fn check_ranges(&self) -> Result<(), String> {
        let at_least_one = [
            ("--topics", self.topics),
            ("--partitions", self.partitions),
            ("--connections", self.connections),
            ("--in-flight", self.in_flight),
            ("--consumers", self.consumers),
            ("--consumer-connections", self.consumer_connections),
            ("--partitions-per-request", self.partitions_per_request),
        ];
        for (flag, value) in at_least_one {
            if !(1..=1_000_000).contains(&value) {
                return Err(format!("{flag} must be between 1 and 1000000, not {value}"));
            }
        }
        let times = [
            ("--linger", self.linger, 0.0),
            ("--duration", self.duration, 0.1),
            ("--warmup", self.warmup, 0.0),
            ("--drain", self.drain, 0.0),
        ];
        for (flag, value, min) in times {
            if !(min..=1e6).contains(&value) {
                return Err(format!(
                    "{flag} must be between {min} and 1000000, not {value}"
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.random_share) {
            return Err("--random-share must be between 0 and 1".to_owned());
        }
        for (flag, value) in [
            ("--record-size", self.record_size),
            ("--batch-size", self.batch_size),
            ("--fetch-min", self.fetch_min),
            ("--fetch-max", self.fetch_max),
            ("--partition-max", self.partition_max),
        ] {
            if value > 1 << 30 {
                return Err(format!("{flag} must be at most 1 GiB"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_or_max() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("30000".parse(), Ok(Rate::PerSecond(30_000.0)));
        assert_eq!("30k".parse(), Ok(Rate::PerSecond(30_000.0)));
        assert_eq!("1.5M".parse(), Ok(Rate::PerSecond(1_500_000.0)));
        for wrong in ["", "0", "-1", "fast", "NaN", "inf"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}

//! The tool against brokers that misbehave on purpose: every kind of damage must be seen.
//!
//! Runs on: processes of its own, on ports that the kernel chooses.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const TOOL: &str = env!("CARGO_BIN_EXE_corelog-bench");

/// A sink with a fault, and a directory for results.
struct Sink {
    process: Child,
    address: String,
    directory: TempDir,
}

impl Sink {
    fn start(flags: &[&str]) -> Self {
        let mut process = Command::new(TOOL)
            .arg("sink")
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        let mut address = String::new();
        let output = process.stdout.take().expect("a pipe");
        BufReader::new(output)
            .read_line(&mut address)
            .expect("the address");
        Self {
            process,
            address: address.trim().to_owned(),
            directory: TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"),
        }
    }

    fn with_fault(fault: &str) -> Self {
        Self::start(&["--fault", fault])
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, mode: &str, flags: &[&str]) -> Output {
        Command::new(TOOL)
            .args([mode, "--bootstrap", &self.address, "--quiet", "--json"])
            .arg(self.file("result"))
            .args(flags)
            .output()
            .expect("the tool starts")
    }

    /// Runs the tool; its exit code and its result.
    fn result(&self, mode: &str, flags: &[&str]) -> (Option<i32>, Value) {
        let output = self.run(mode, flags);
        let error = String::from_utf8_lossy(&output.stderr);
        let text = std::fs::read_to_string(self.file("result"));
        let text = text.unwrap_or_else(|_| panic!("{mode} {flags:?}: {error}"));
        (
            output.status.code(),
            serde_json::from_str(&text).expect("JSON"),
        )
    }

    /// Runs the tool, which must be content.
    fn passes(&self, mode: &str, flags: &[&str]) -> Value {
        let (code, result) = self.result(mode, flags);
        assert_eq!(code, Some(0), "{mode} {flags:?}: {}", result["verify"]);
        result
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// 1,000 records a second for one second, of which 200 ms are not measured; in small batches.
const SMALL: &[&str] = &[
    "--rate",
    "1000",
    "--warmup",
    "0.2",
    "--duration",
    "0.8",
    "--batch-size",
    "1000",
    "--linger",
    "1",
    "--partitions",
    "3",
    "--drain",
    "3",
];

fn verified(flags: &[&'static str]) -> Vec<&'static str> {
    [SMALL, &["--verify"], flags].concat()
}

#[test]
fn an_honest_broker_passes_in_every_mode_and_shape() {
    let shapes: [&[&str]; 7] = [
        &[],
        &["--compression", "zstd", "--batch-size", "5000"],
        &["--compression", "snappy", "--keys", "50"],
        &["--keys", "50", "--connections", "3", "--topics", "2"],
        &["--idempotent", "--partitions-per-request", "3"],
        &["--acks", "1", "--in-flight", "1", "--record-size", "2000"],
        &["--acks", "0", "--connections", "2"],
    ];
    let sink = Sink::with_fault("none");
    for shape in shapes {
        for mode in ["produce", "end-to-end", "mixed"] {
            let flags = verified(shape);
            let result = sink.passes(mode, &flags);
            let verify = &result["verify"];
            assert_eq!(verify["produced"], 1000, "{mode} {shape:?}");
            assert_eq!(verify["consumed"], 1000, "{mode} {shape:?}");
            assert_eq!(
                result["produce"]["latency_us"]["count"], 800,
                "{mode} {shape:?}"
            );
            assert_eq!(result["produce"]["errors"], serde_json::json!({}));
            if mode == "end-to-end" {
                assert_eq!(
                    result["end_to_end"]["latency_us"]["count"], 800,
                    "{shape:?}"
                );
            }
        }
    }
}

#[test]
fn every_consumer_gets_everything() {
    let sink = Sink::with_fault("none");
    let flags = ["--consumers", "3", "--consumer-connections", "2"];
    let result = sink.passes("end-to-end", &verified(&flags));
    assert_eq!(result["verify"]["consumed"], 3000);
    assert_eq!(result["end_to_end"]["latency_us"]["count"], 2400);
}

/// Runs both ways of verifying against a fault; the verdicts, exit code 1 each time.
fn verdicts(fault: &str) -> Vec<Value> {
    let sink = Sink::with_fault(fault);
    let verdicts = ["produce", "end-to-end"].map(|mode| {
        let (code, result) = sink.result(mode, &verified(&["--drain", "1"]));
        assert_eq!(code, Some(1), "{fault} {mode}: {}", result["verify"]);
        result["verify"].clone()
    });
    verdicts.into()
}

fn count(verdict: &Value, name: &str) -> u64 {
    verdict[name].as_u64().expect("a count")
}

#[test]
fn lost_records_are_counted() {
    for verdict in verdicts("lose") {
        let lost = count(&verdict, "lost");
        assert!(lost > 0 && lost < 500, "{verdict}");
        assert_eq!(
            lost,
            count(&verdict, "produced") - count(&verdict, "consumed")
        );
        assert_eq!(
            count(&verdict, "duplicated") + count(&verdict, "reordered"),
            0
        );
        assert_eq!(count(&verdict, "corrupt"), 0);
    }
}

#[test]
fn a_broker_that_keeps_nothing_has_lost_everything() {
    for verdict in verdicts("discard") {
        assert_eq!(
            (count(&verdict, "lost"), count(&verdict, "consumed")),
            (1000, 0)
        );
    }
}

#[test]
fn repeated_records_are_counted() {
    for verdict in verdicts("duplicate") {
        let duplicated = count(&verdict, "duplicated");
        assert!(duplicated > 0, "{verdict}");
        assert_eq!(duplicated, count(&verdict, "consumed") - 1000);
        assert_eq!(count(&verdict, "lost") + count(&verdict, "corrupt"), 0);
    }
}

#[test]
fn records_out_of_order_are_counted() {
    for verdict in verdicts("reorder") {
        assert!(count(&verdict, "reordered") > 0, "{verdict}");
        assert_eq!(
            count(&verdict, "duplicated") + count(&verdict, "corrupt"),
            0
        );
    }
}

#[test]
fn damaged_records_are_counted_whatever_the_batch_says() {
    for fault in ["corrupt", "corrupt-quietly"] {
        for verdict in verdicts(fault) {
            assert!(count(&verdict, "corrupt") > 0, "{fault}: {verdict}");
            assert_eq!(
                count(&verdict, "duplicated") + count(&verdict, "reordered"),
                0
            );
        }
    }
}

#[test]
fn refused_records_are_errors_and_not_lost() {
    let sink = Sink::with_fault("refuse");
    let result = sink.passes("produce", &verified(&[]));
    let refused = result["produce"]["errors"]["NotLeaderOrFollower"].as_u64();
    assert!(
        refused.is_some_and(|refused| refused > 0),
        "{}",
        result["produce"]["errors"]
    );
    let produced = count(&result["verify"], "produced");
    assert_eq!(produced + refused.unwrap_or(0), 1000);
    assert_eq!(count(&result["verify"], "lost"), 0);
}

#[test]
fn a_second_without_answers_shows_in_the_latencies() {
    for mode in ["produce", "end-to-end"] {
        let sink = Sink::start(&["--stall-after", "1", "--stall-for", "1"]);
        let flags = [
            "--rate",
            "2000",
            "--warmup",
            "0.5",
            "--duration",
            "2.5",
            "--in-flight",
            "1",
        ];
        let result = sink.passes(mode, &flags);
        let side = match mode {
            "produce" => &result["produce"],
            _ => &result["end_to_end"],
        };
        let latency = &side["latency_us"];
        let us = |quantile: &str| latency[quantile].as_u64().expect("a number");
        // 2,000 of 5,000 records fell due during the silence, evenly: none may be left out
        assert_eq!(us("count"), 5_000, "{mode}");
        assert!(us("max") >= 990_000, "{mode}: {latency}");
        assert!(us("p99_9") >= 980_000, "{mode}: {latency}");
        assert!(us("p99") >= 930_000, "{mode}: {latency}");
        let rows = side["series"].as_array().expect("rows");
        let worst = rows.iter().filter_map(|row| row["max_us"].as_u64()).max();
        assert!(worst.is_some_and(|us| us >= 990_000), "{mode}: {rows:?}");
    }
}

#[test]
fn what_is_never_answered_counts_at_least_until_the_end() {
    let sink = Sink::start(&["--stall-after", "0.5", "--stall-for", "60"]);
    let flags = [
        "--rate",
        "1000",
        "--warmup",
        "0",
        "--duration",
        "1",
        "--drain",
        "1",
    ];
    let result = sink.passes("produce", &flags);
    let produce = &result["produce"];
    assert_eq!(produce["latency_us"]["count"], 1000);
    let number = |name: &str| produce["errors"][name].as_u64().unwrap_or(0);
    assert!(
        number("Unanswered") + number("Unsent") >= 400,
        "{}",
        produce["errors"]
    );
    assert!(produce["latency_us"]["max"].as_u64().expect("a number") >= 1_400_000);
}

#[test]
fn a_backlog_is_drained_to_its_end() {
    let sink = Sink::with_fault("none");
    let flags = [SMALL, &["--verify", "--topic", "kept", "--keep-topics"]].concat();
    sink.passes("produce", &flags);
    let drain = [
        "--topic",
        "kept",
        "--until-end",
        "--verify",
        "--duration",
        "20",
    ];
    let result = sink.passes("consume", &drain);
    assert_eq!(result["consume"]["records"], 1000);
    assert_eq!(result["verify"]["consumed"], 1000);
    assert!(
        result["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds < 15.0)
    );
    assert!(result["produce"].is_null() && result["end_to_end"].is_null());
}

#[test]
fn a_full_speed_run_fills_its_batches_and_says_what_was_asked() {
    let sink = Sink::with_fault("discard");
    let flags = [
        "--warmup",
        "0.2",
        "--duration",
        "0.5",
        "--compression",
        "lz4",
    ];
    let result = sink.passes("produce", &flags);
    assert_eq!(result["tool"], "corelog-bench");
    assert_eq!(result["mode"], "produce");
    assert_eq!(result["settings"]["rate"], "max");
    assert_eq!(result["settings"]["acks"], "all");
    assert!(
        result["client_cpu_seconds"]
            .as_f64()
            .is_some_and(|used| used > 0.0)
    );
    assert!(result["broker_cpu_seconds"].is_number() && result["broker_rss_bytes"].is_number());
    assert!(
        result["compression_ratio"]
            .as_f64()
            .is_some_and(|ratio| ratio > 1.3)
    );
    let produce = &result["produce"];
    let (records, batches) = (count(produce, "records"), count(produce, "batches"));
    assert_eq!(records, batches * 595);
    assert_eq!(count(produce, "bytes"), records * 100);
    assert!(
        produce["histogram"]
            .as_str()
            .is_some_and(|text| text.starts_with("HISTF"))
    );
}

#[test]
fn a_sweep_has_a_point_for_each_rate_and_pictures_are_drawn() {
    let sink = Sink::with_fault("none");
    let curve = sink.file("curve.svg");
    let curve = curve.to_str().expect("a path");
    let flags = [
        "--sweep",
        "rate=500,1000",
        "--duration",
        "0.5",
        "--warmup",
        "0",
        "--plot",
        curve,
    ];
    let result = sink.passes("end-to-end", &flags);
    let points = result["sweep"].as_array().expect("points");
    let counts: Vec<_> = points
        .iter()
        .map(|point| (&point["rate"], &point["end_to_end"]["latency_us"]["count"]))
        .map(|(rate, count)| (rate.as_f64(), count.as_u64()))
        .collect();
    assert_eq!(
        counts,
        [(Some(500.0), Some(250)), (Some(1000.0), Some(500))]
    );
    let time = sink.file("time.svg");
    let time = time.to_str().expect("a path");
    sink.passes(
        "mixed",
        &[
            "--rate",
            "1000",
            "--duration",
            "1.2",
            "--warmup",
            "0",
            "--plot",
            time,
        ],
    );
    for file in [curve, time] {
        let svg = std::fs::read_to_string(file).expect("drawn");
        for part in ["<svg", "p99", "latency, ms", "</svg>"] {
            assert!(svg.contains(part), "{file} has no {part}");
        }
    }
}

#[test]
fn idle_connections_are_held_open() {
    let sink = Sink::with_fault("none");
    let result = sink.passes("idle", &["--connections", "50", "--duration", "0.3"]);
    assert!(result["produce"].is_null() && result["consume"].is_null());
    assert!(result["broker_cpu_seconds"].is_number());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sink = Sink::with_fault("none");
    for (mode, flags) in [
        ("consume", &[][..]),
        ("produce", &["--verify", "--record-size", "27"]),
        ("end-to-end", &["--record-size", "11"]),
        ("produce", &["--connections", "0"]),
        ("produce", &["--duration", "0"]),
        ("consume", &["--topic", "x", "--sweep", "rate=1"]),
    ] {
        let output = sink.run(mode, flags);
        assert_eq!(output.status.code(), Some(1), "{mode} {flags:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

//! The tool against the broker itself: every mode verifies, on a broker of its own.
//!
//! Without the test harness, because the same program is the broker: called with `serve`, it is
//! `corelog serve`, so that no other package's binary has to be built first.

use std::net::TcpListener;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|command| command == "serve") {
        return corelog::commands::run(arguments);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("every_mode_verifies_against_the_broker: test");
        return ExitCode::SUCCESS;
    }
    every_mode_verifies_against_the_broker();
    println!("test every_mode_verifies_against_the_broker ... ok");
    ExitCode::SUCCESS
}

/// The broker; killed when dropped.
struct Broker {
    process: Child,
    address: String,
    directory: TempDir,
}

impl Broker {
    fn start() -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let log = std::fs::File::create(directory.path().join("log")).expect("a file");
        let process = Command::new(std::env::current_exe().expect("a path"))
            .args(["serve", "--listen", &address, "--admin", "off"])
            .args(["--memory-per-shard", "64MiB", "--journal-size", "16MiB"])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the broker starts");
        let mut broker = Self {
            process,
            address,
            directory,
        };
        let deadline = Instant::now() + PATIENCE;
        while !broker.log().contains("ready") {
            let ended = broker.process.try_wait().expect("a child");
            let may_wait = ended.is_none() && Instant::now() < deadline;
            assert!(may_wait, "{}", broker.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn passes(&self, mode: &str, flags: &[&str]) -> Value {
        let file = self.directory.path().join("result");
        let output = Command::new(env!("CARGO_BIN_EXE_corelog-bench"))
            .args([mode, "--bootstrap", &self.address, "--quiet", "--json"])
            .arg(&file)
            .args(flags)
            .output()
            .expect("the tool starts");
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        assert_eq!(
            output.status.code(),
            Some(0),
            "{mode} {flags:?}: {text:?} {}",
            self.log()
        );
        let text = std::fs::read_to_string(&file).expect("a result");
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn every_mode_verifies_against_the_broker() {
    let broker = Broker::start();
    // one record a request over many connections, keys, idempotence, codecs, a backlog
    let load = [
        "--rate",
        "2000",
        "--warmup",
        "0.2",
        "--duration",
        "0.8",
        "--verify",
    ];
    let shapes: [(&str, &[&str]); 5] = [
        ("produce", &["--topic", "kept", "--keep-topics"]),
        (
            "end-to-end",
            &["--connections", "4", "--batch-size", "1", "--linger", "0"],
        ),
        (
            "end-to-end",
            &["--keys", "500", "--partitions", "40", "--idempotent"],
        ),
        (
            "mixed",
            &["--compression", "zstd", "--partitions-per-request", "4"],
        ),
        (
            "mixed",
            &[
                "--consumers",
                "2",
                "--consumer-connections",
                "2",
                "--topics",
                "2",
            ],
        ),
    ];
    for (mode, shape) in shapes {
        let result = broker.passes(mode, &[&load[..], shape].concat());
        assert_eq!(result["verify"]["produced"], 2000, "{mode} {shape:?}");
        assert_eq!(
            result["produce"]["latency_us"]["count"], 1600,
            "{mode} {shape:?}"
        );
        assert!(result["broker_cpu_seconds"].is_number(), "{mode} {shape:?}");
    }
    let drain = [
        "--topic",
        "kept",
        "--until-end",
        "--verify",
        "--duration",
        "30",
    ];
    let result = broker.passes("consume", &drain);
    assert_eq!(result["consume"]["records"], 2000);
    broker.passes("idle", &["--connections", "100", "--duration", "0.3"]);
}

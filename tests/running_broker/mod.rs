//! A broker process of a test's own: started on a free port, stopped at the end.
//!
//! Runs on: the test's thread. Every test file that says `mod running_broker;` has its own copy, so
//! not everything is used everywhere.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelog::client::Client;
use corelog::config::address::HostPort;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running broker with a directory of its own.
pub struct Broker {
    process: Child,
    address: String,
    directory: Rc<TempDir>,
}

/// An address that nobody listens on at the moment.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

/// Asks again until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Broker {
    /// Starts a small broker with these flags besides.
    pub fn start(flags: &[&str]) -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_in(Rc::new(directory), flags)
    }

    /// Starts with settings as `NAME=VALUE`.
    pub fn with_settings(settings: &[&str]) -> Self {
        let flags: Vec<&str> = settings
            .iter()
            .flat_map(|setting| ["--set", *setting])
            .collect();
        Self::start(&flags)
    }

    fn start_in(directory: Rc<TempDir>, flags: Vec<String>) -> Self {
        let address = free_address();
        let log = std::fs::File::create(directory.path().join("log")).expect("a file");
        let process = Command::new(env!("CARGO_BIN_EXE_corelog"))
            .args(["serve", "--set", "group.initial.rebalance.delay.ms=0"])
            .args(["--set", &format!("listen={address}"), "--set", "admin=off"])
            .args([
                "--set",
                "memory.per.shard=64MiB",
                "--set",
                "journal.size=16MiB",
            ])
            .args(flags)
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut broker = Self {
            process,
            address,
            directory,
        };
        let deadline = Instant::now() + PATIENCE;
        while !broker.log().contains("ready") {
            let ended = broker.process.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{}",
                broker.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    /// Kills the process and starts another one on the same directory, with these flags.
    pub fn restart(mut self, flags: &[&str]) -> Self {
        self.kill();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_in(Rc::clone(&self.directory), flags)
    }

    /// Ends the process in order: everything is in the segment files then.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.process.wait().expect("a child");
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Where clients connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The directory that holds the data directory and the log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What the broker wrote on standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A client of this broker.
    pub fn client(&self) -> Client {
        let address = HostPort::parse(&self.address).expect("host and port");
        Client::connect(&[address]).expect("the broker answers")
    }

    /// A bare connection.
    pub fn socket(&self) -> TcpStream {
        TcpStream::connect(&self.address).expect("the broker accepts")
    }

    /// A command against this broker, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
        command
            .args(arguments)
            .args(["--bootstrap", &self.address])
            .stdin(Stdio::null());
        command
    }

    /// Runs a command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .expect("the program starts")
    }

    /// Runs a command that must succeed; its output.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command with `--json` that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("one JSON document")
    }

    /// Runs a command that must fail; its one line.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let line = String::from_utf8(output.stderr).expect("text");
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    /// Produces lines; whether that succeeded, and the error line.
    pub fn try_produce(&self, arguments: &[&str], input: &str) -> Result<(), String> {
        let mut child = self
            .command(&[&["produce"], arguments].concat())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        let _ = stdin.write_all(input.as_bytes()); // a refused command reads no more
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let error = String::from_utf8(output.stderr).expect("text");
        if output.status.success() {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Produces lines; must succeed.
    pub fn produce(&self, arguments: &[&str], input: &str) {
        if let Err(error) = self.try_produce(arguments, input) {
            panic!("{arguments:?}: {error}");
        }
    }

    /// The files of a partition with this extension, by name, with their sizes.
    pub fn files(&self, partition: &str, extension: &str) -> Vec<(String, u64)> {
        let directory = self.data().join("topics").join(partition);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if Path::new(&name)
                .extension()
                .is_some_and(|found| found == extension)
            {
                found.push((name, entry.metadata().map_or(0, |metadata| metadata.len())));
            }
        }
        found.sort();
        found
    }

    /// First offset and end of a partition.
    pub fn range(&self, topic: &str, partition: usize) -> (i64, i64) {
        let described = self.json(&["topic", "describe", topic]);
        let found = &described[0]["partitions"][partition];
        (
            found["start"].as_i64().expect("a start"),
            found["end"].as_i64().expect("an end"),
        )
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log());
        }
    }
}

//! A real broker process for the tests, and a real client (librdkafka) to speak to it.
//!
//! Promises: a broker's process is gone when its value is dropped, and its directory lies under
//! `target`. A broker keeps its port over a restart: ports are taken from below the range of
//! outgoing connections, so that nobody takes them meanwhile.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary compiles this file and uses its own part of it"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub mod client;
pub mod no_io_uring;
pub mod raw;
pub mod watch;

/// How long a start may take before the test fails. The machine may be busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What the broker promises for a stop.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A broker that is about to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    data_dir: PathBuf,
    listen: String,
    address: SocketAddr,
    admin: String,
    arguments: Vec<String>,
    open_files: Option<u64>,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    launch: Launch,
    said: Arc<Mutex<String>>,
}

/// A start that ended before the broker served.
#[derive(Debug)]
pub struct Refusal {
    /// Exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    /// All that was written to stderr.
    pub stderr: String,
}

impl Launch {
    /// A small broker on `data_dir`, on a port of its own.
    pub fn new(data_dir: &Path) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let small = ["--memory-per-shard", "64MiB", "--journal-size", "64MiB"];
        Self {
            data_dir: data_dir.to_owned(),
            listen: address.to_string(),
            address,
            admin: "off".to_owned(),
            arguments: small.map(ToOwned::to_owned).to_vec(),
            open_files: None,
        }
    }

    /// Lets the process have so many descriptors, as `ulimit -n` does.
    #[must_use]
    pub fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Adds `flag value`, in place of an earlier value unless it is `--set`.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        if let Some(at) = self
            .arguments
            .iter()
            .position(|word| word == flag && word != "--set")
        {
            self.arguments.drain(at..at + 2);
        }
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds `--set name=value`.
    #[must_use]
    pub fn set(self, name: &str, value: &str) -> Self {
        self.flag("--set", &format!("{name}={value}"))
    }

    /// Serves on this address.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address.to_string();
        self.address = address;
        self
    }

    /// Serves on this host name, on the port chosen before.
    #[must_use]
    pub fn listen_host(mut self, host: &str) -> Self {
        self.listen = format!("{host}:{}", self.address.port());
        self
    }

    /// Serves metrics on this address.
    #[must_use]
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = address.to_string();
        self
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the broker; a refusal fails the test.
    #[track_caller]
    pub fn start(&self) -> Broker {
        match self.try_start() {
            Ok(broker) => broker,
            Err(refusal) => panic!("the broker did not start: {refusal:?}"),
        }
    }

    /// The command that starts the broker, for what this type does not do.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
        if let Some(limit) = self.open_files {
            limit_open_files(&mut command, limit);
        }
        command
            .arg("serve")
            .args(["--listen", &self.listen, "--admin", &self.admin])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts the broker and waits for its line on stderr, or for its end.
    #[track_caller]
    pub fn try_start(&self) -> Result<Broker, Refusal> {
        let mut child = self
            .command()
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary that cargo has just built");
        let said = collect_lines(&mut child);
        let mut broker = Broker {
            child,
            launch: self.clone(),
            said: Arc::clone(&said),
        };
        let started = Instant::now();
        loop {
            if let Some(status) = broker.child.try_wait().expect("our own child") {
                // the collecting thread ends at the end of the pipe
                std::thread::sleep(Duration::from_millis(50));
                return Err(Refusal {
                    code: status.code(),
                    stderr: broker.said(),
                });
            }
            // not the "already" of an address in use
            let is_ready = [" ready ", "\"ready\""].map(|word| broker.said().contains(word));
            if is_ready.contains(&true) && is_accepting(self.address) {
                return Ok(broker);
            }
            assert!(
                started.elapsed() < START_LIMIT,
                "not ready in time: {}",
                broker.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Broker {
    /// For `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.launch.address.to_string()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.launch.data_dir
    }

    /// How it was started: to start it again in the same place.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// All it has written to stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic under the lock").clone()
    }

    /// Whether its process is there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) {
        let process = i32::try_from(self.child.id()).expect("process ids fit i32");
        // SAFETY: kill(2) touches no memory; the child is not reaped before `self` is dropped.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }

    /// Waits for the end of the process; fails the test after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(
                started.elapsed() < limit,
                "still running after {limit:?}: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, exit code 0 in time; the way to start again.
    #[track_caller]
    pub fn stop(mut self) -> Launch {
        self.signal(libc::SIGTERM);
        let status = self.wait(STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "{}", self.said());
        self.launch.clone()
    }

    /// SIGKILL; the way to start again.
    pub fn kill(mut self) -> Launch {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        self.launch.clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // one that ended already is what we want
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker said:\n{}---", self.said());
        }
    }
}

impl Refusal {
    /// Exit code 1 and one line on stderr, which is returned.
    #[track_caller]
    pub fn line(&self) -> &str {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert_eq!(
            self.stderr.lines().count(),
            1,
            "one line, got: {}",
            self.stderr
        );
        self.stderr.trim_end()
    }
}

/// A directory of its own under `target`, gone at the end of the test.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("target can be written")
}

/// A port that is free now.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // test binaries run one after another; tests in one share the counter
    let first = 20_000 + u16::try_from(std::process::id() % 11_000).expect("below 11,000");
    for _ in 0..1_000 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {first} on");
}

/// Every file below `directory`, but for the lock: path and what it holds.
pub fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten() {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.file_name().is_some_and(|name| name != ".lock") {
                found.insert(path.clone(), std::fs::read(&path).expect("a readable file"));
            }
        }
    }
    found
}

fn limit_open_files(command: &mut Command, limit: u64) {
    use std::os::unix::process::CommandExt as _;
    let limits = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: setrlimit is safe between fork and exec; `limits` is copied into the closure.
    unsafe {
        command.pre_exec(
            move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
}

fn is_accepting(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

fn collect_lines(child: &mut Child) -> Arc<Mutex<String>> {
    let said = Arc::new(Mutex::new(String::new()));
    let pipe = BufReader::new(child.stderr.take().expect("piped above"));
    let kept = Arc::clone(&said);
    std::thread::spawn(move || {
        for line in pipe.lines().map_while(Result::ok) {
            let mut kept = kept.lock().expect("no panic under the lock");
            kept.push_str(&line);
            kept.push('\n');
        }
    });
    said
}

//! The broker under test: a process that is started, killed without warning, and started again.
//!
//! Runs on: the main thread.        Owner: `main`.
//! Promises: the process is gone when `kill` returns or the value is dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an answer may take before the broker's process is looked at again.
const START_STEP: Duration = Duration::from_secs(2);

/// How to start the broker.
#[derive(Clone, Debug)]
pub(crate) struct BrokerCommand {
    words: Vec<String>,
    address: SocketAddr,
    log_path: PathBuf,
}

/// A running broker.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    /// From the start of the process to its first answer.
    pub(crate) start_time: Duration,
}

impl BrokerCommand {
    /// `words` may contain `{listen}` and `{data}`.
    pub(crate) fn new(
        words: &[String],
        address: SocketAddr,
        data_dir: &Path,
        log_path: PathBuf,
    ) -> Self {
        let words = words
            .iter()
            .map(|word| {
                word.replace("{listen}", &address.to_string())
                    .replace("{data}", &data_dir.display().to_string())
            })
            .collect();
        Self {
            words,
            address,
            log_path,
        }
    }

    /// Starts the broker and waits until it answers a request.
    pub(crate) fn start(&self, limit: Duration) -> Result<Broker, String> {
        let started = Instant::now();
        let mut broker = self.spawn()?;
        while !is_answering(self.address) {
            if let Ok(Some(status)) = broker.child.try_wait() {
                return Err(format!("the broker ended: {status}, {}", self.last_line()));
            }
            if started.elapsed() > limit {
                return Err(format!("the broker answers nothing after {limit:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        broker.start_time = started.elapsed();
        Ok(broker)
    }

    /// Starts the broker and waits for nothing.
    pub(crate) fn spawn(&self) -> Result<Broker, String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_path)
            .map_err(|error| format!("{}: {error}", self.log_path.display()))?;
        let log_too = log.try_clone().map_err(|error| error.to_string())?;
        let (program, arguments) = self.words.split_first().ok_or("an empty broker command")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        Ok(Broker {
            child,
            start_time: Duration::ZERO,
        })
    }

    fn last_line(&self) -> String {
        let text = std::fs::read_to_string(&self.log_path).unwrap_or_default();
        let line = text.lines().last().unwrap_or("and said nothing");
        format!("{line} ({})", self.log_path.display())
    }
}

impl Broker {
    /// Whether the process is there. A start without power ends by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, then waits until the process is gone. `Err`: it had ended by itself.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let ended = self.child.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = ended {
            return Err(format!("the broker had ended by itself: {status}"));
        }
        self.child.kill().map_err(|error| error.to_string())?;
        self.child.wait().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// SIGTERM; the exit status must be 0 within `limit`.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<(), String> {
        let process = i32::try_from(self.child.id()).map_err(|error| error.to_string())?;
        // SAFETY: kill(2) touches no memory; the child is not reaped yet, so the id is its own.
        if unsafe { libc::kill(process, libc::SIGTERM) } != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        let started = Instant::now();
        loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{status} at SIGTERM")),
                None if started.elapsed() > limit => {
                    return Err(format!("still running {limit:?} after SIGTERM"));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // a process that is gone already is what we want
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether an `ApiVersions` request in version 0 is answered: a broker can accept before it serves.
fn is_answering(address: SocketAddr) -> bool {
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(START_STEP))?;
        stream.write_all(&REQUEST)?;
        stream.read_exact(&mut [0; 4])
    };
    ask().is_ok()
}

/// A port of the loopback interface that was free a moment ago. It lies below the range from which
/// the kernel takes the ports of outgoing connections: it must stay free while the broker is down.
pub(crate) fn free_address(seed: u64) -> std::io::Result<SocketAddr> {
    let first = 20_000 + seed % 10_000;
    let candidates = (0..1_000).map(|step| u16::try_from(first + step).unwrap_or(20_000));
    let mut last = std::io::ErrorKind::AddrInUse.into();
    for port in candidates {
        match TcpListener::bind(("127.0.0.1", port)).and_then(|socket| socket.local_addr()) {
            Ok(address) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

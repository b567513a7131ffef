//! What this process uses: CPU time, memory, descriptors.
//!
//! Runs on: anywhere; reads small files of /proc, which never wait for a disk.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::sys;

/// A reading of the process's use of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// CPU time of all threads, in user and kernel mode.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub open_files: u64,
}

/// What the process has used so far.
pub fn usage() -> io::Result<Usage> {
    let malformed = || io::Error::other("cannot read /proc/self");
    let ticks = parse_stat(&fs::read_to_string("/proc/self/stat")?).ok_or_else(malformed)?;
    let pages = parse_statm(&fs::read_to_string("/proc/self/statm")?).ok_or_else(malformed)?;
    let open_files = u64::try_from(fs::read_dir("/proc/self/fd")?.count()).unwrap_or(u64::MAX);
    Ok(Usage {
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / sys::clock_ticks_per_second()),
        resident_bytes: pages.saturating_mul(sys::page_size()),
        open_files,
    })
}

/// utime + stime. The name in parentheses may hold anything, so fields count from the last one.
fn parse_stat(text: &str) -> Option<u64> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some(user + system)
}

fn parse_statm(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Tells systemd that the service is up (`Type=notify`); does nothing elsewhere. For start-up only.
pub fn notify_ready() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let told = notify_address(&name)
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = told {
        tracing::warn!(%error, "systemd could not be told that the broker is ready");
    }
}

/// A path, or behind `@` the name of a socket that has none (an abstract one).
fn notify_address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let text = "7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(parse_stat(text), Some(300));
        assert_eq!(parse_statm("1000 234 50 1 0 100 0"), Some(234));
    }

    #[test]
    fn this_process_uses_memory_and_descriptors() {
        let usage = usage().unwrap();
        assert!(usage.resident_bytes > 1 << 20);
        assert!(usage.open_files > 2);
    }
}

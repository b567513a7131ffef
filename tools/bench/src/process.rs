//! What processes cost: CPU seconds of this one and of a broker on the same machine.
//!
//! Runs on: the calling thread. Linux only: the broker's figures come from `/proc`.

use std::fs;
use std::net::TcpStream;

use rustix::time::{ClockId, clock_gettime};

use crate::numbers::{SECOND_NS, float, seconds};

/// CPU seconds of this process so far, user and system.
pub(crate) fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let whole = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds(whole * SECOND_NS + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU seconds of a process so far, user and system, ended threads included.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command may hold anything, its closing parenthesis is the last
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let used = ticks(11)? + ticks(12)?;
    Some(float(used) / float(rustix::param::clock_ticks_per_second()))
}

/// Resident memory of a process.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}

/// The process that listens on the other end of a connection, when that is this machine and the
/// process may be looked at.
pub(crate) fn pid_behind(stream: &TcpStream) -> Option<u32> {
    let (own, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
    if own.ip() != peer.ip() && !peer.ip().is_loopback() {
        return None;
    }
    let inodes = listening_inodes(peer.port());
    let sockets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| has_one_of(*pid, &sockets))
}

fn listening_inodes(port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let port = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, LISTENING, _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&port)
            {
                inodes.push(inode.to_owned());
            }
        }
    }
    inodes
}

fn has_one_of(pid: u32, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        let target = fs::read_link(file.path()).unwrap_or_default();
        sockets
            .iter()
            .any(|socket| target.as_os_str() == socket.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_listener_of_a_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("accepted");
        assert_eq!(pid_behind(&stream), Some(std::process::id()));
        drop(listener);
        assert_eq!(pid_behind(&stream), None);
    }

    #[test]
    fn this_process_has_memory_and_used_its_processor() {
        let pid = std::process::id();
        assert!(rss_bytes(pid).expect("readable") > 1 << 20);
        assert!(cpu_seconds(pid).is_some());
        assert!(own_cpu_seconds() > 0.0);
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}

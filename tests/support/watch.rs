//! What a broker takes, as the kernel counts it, and what it says of itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Broker;

/// The most memory that the broker has had so far.
pub fn peak_bytes(broker: &Broker) -> u64 {
    status_bytes(broker, "VmHWM:")
}

/// The memory that the broker has now.
pub fn resident_bytes(broker: &Broker) -> u64 {
    status_bytes(broker, "VmRSS:")
}

fn status_bytes(broker: &Broker, name: &str) -> u64 {
    let path = format!("/proc/{}/status", broker.process_id());
    let status = std::fs::read_to_string(path).expect("our own child");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.expect("a size").trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") << 10
}

/// Descriptors that the broker has.
pub fn open_files(broker: &Broker) -> usize {
    let path = format!("/proc/{}/fd", broker.process_id());
    std::fs::read_dir(path).expect("our own child").count()
}

/// Memory of the kernel for the TCP sockets of this machine.
pub fn socket_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let text = std::fs::read_to_string("/proc/net/sockstat").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let mut words = line.expect("a line of TCP").split(' ');
    let pages = words.by_ref().skip_while(|word| *word != "mem").nth(1);
    pages.expect("pages").parse::<u64>().expect("a number") * PAGE_BYTES
}

/// The value of a gauge over all shards.
pub fn total(admin: SocketAddr, name: &str) -> usize {
    let mut stream = TcpStream::connect(admin).expect("the admin port");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("taken");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("text");
    let head = format!("{name}{{shard=\"total\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&head));
    line.expect("a gauge").parse().expect("a number")
}

/// The soft limit of this process to the hard one, which is returned: a test of many connections
/// has their other ends.
pub fn raise_open_files() -> u64 {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls touch the structure that lives here, and nothing else.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) == 0 && {
            limits.rlim_cur = limits.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) == 0
        }
    };
    assert!(raised, "{}", std::io::Error::last_os_error());
    limits.rlim_cur
}

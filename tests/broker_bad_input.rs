//! What no client sends: the broker answers as Kafka does or closes the connection, and goes on.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use corelog::wire::api::ApiKey;
use support::{Broker, Launch, client, directory};

const API_VERSIONS: i16 = 18;
const UNSUPPORTED_VERSION: i16 = 35;
/// Requests of random bytes for each version of each API.
const RANDOM_REQUESTS: u64 = 8;
/// The pools are allocated at the start: bad requests must not add to them.
const GROWTH_MAX_BYTES: u64 = 128 << 20;

fn connect(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(broker.launch().address()).expect("accepted");
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a valid timeout");
    stream
}

/// Key, version, correlation id, null client id; tagged fields where the version has them.
fn header(key: i16, version: i16, is_flexible: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(7_i32.to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes());
    if is_flexible {
        bytes.push(0);
    }
    bytes
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("small frames");
    [&length.to_be_bytes()[..], body].concat()
}

/// Sends the bytes and reads until the other side closes or stays silent for a moment.
fn exchange(broker: &Broker, bytes: &[u8], patience: Duration) -> Outcome {
    let mut stream = connect(broker);
    stream
        .set_read_timeout(Some(patience))
        .expect("a valid timeout");
    if stream.write_all(bytes).is_err() {
        return Outcome::Closed;
    }
    let mut answer = [0; 4];
    match stream.read_exact(&mut answer) {
        Ok(()) => Outcome::Answered,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Outcome::Silent,
        Err(_) => Outcome::Closed,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Closed,
    Silent,
}

#[track_caller]
fn assert_serves(broker: &mut Broker) {
    assert!(broker.is_running(), "the broker ended: {}", broker.said());
    let mut stream = connect(broker);
    stream
        .write_all(&frame(&header(API_VERSIONS, 0, false)))
        .expect("accepted");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer[4..8], 7_i32.to_be_bytes());
    assert_eq!(answer[8..10], [0, 0]);
}

fn resident_bytes(broker: &Broker) -> u64 {
    let path = format!("/proc/{}/status", broker.process_id());
    let status = std::fs::read_to_string(path).expect("our own child");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a line");
    let kibibytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kibibytes * 1024
}

#[test]
fn impossible_lengths_and_unknown_requests_close_the_connection() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    let cases: [(&str, Vec<u8>); 6] = [
        ("the largest length", i32::MAX.to_be_bytes().to_vec()),
        ("a negative length", (-1_i32).to_be_bytes().to_vec()),
        ("an empty frame", frame(&[])),
        ("half a header", frame(&[0, 18, 0])),
        ("an unknown key", frame(&header(9_999, 0, false))),
        ("a negative key", frame(&header(-2, 0, false))),
    ];
    for (what, bytes) in cases {
        let outcome = exchange(&broker, &bytes, Duration::from_secs(5));
        assert_eq!(outcome, Outcome::Closed, "{what}");
        assert_serves(&mut broker);
    }
    let said = broker.said();
    assert!(said.contains("127.0.0.1"), "a line names the peer: {said}");
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    let mut stream = connect(&broker);
    stream
        .write_all(&frame(&header(API_VERSIONS, 99, true)))
        .expect("accepted");
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer[4..8], 7_i32.to_be_bytes());
    assert_eq!(answer[8..10], UNSUPPORTED_VERSION.to_be_bytes());
    assert_ne!(
        answer[10..14],
        [0; 4],
        "the versions that are served come along"
    );
}

#[test]
fn connections_that_stop_in_the_middle_leave_nothing_behind() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    let before = open_sockets(&broker);
    for length in 1..40 {
        let mut stream = connect(&broker);
        let whole = frame(&[&header(API_VERSIONS, 3, true)[..], &[0; 30]].concat());
        let _ = stream.write_all(&whole[..length.min(whole.len())]);
    }
    assert_serves(&mut broker);
    client::wait_until("the connections are closed here too", || {
        open_sockets(&broker) <= before
    });
}

#[test]
fn random_bodies_of_every_version_neither_end_the_broker_nor_grow_it() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "bystander", 2, &[]);
    let before = resident_bytes(&broker);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut outcomes = [0; 3];
    for key in ApiKey::ALL {
        for version in key.versions() {
            for number in 0..RANDOM_REQUESTS {
                let is_flexible = key.is_flexible(version);
                let mut body = header(key.code(), version, is_flexible);
                for _ in 0..(number * 16) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    // long lengths and zeros are where decoders go wrong
                    body.push(match random % 5 {
                        0 => 0xff,
                        1 | 2 => 0,
                        3 => 0x7f,
                        _ => u8::try_from(random >> 32 & 0xff).expect("eight bits"),
                    });
                }
                let outcome = exchange(&broker, &frame(&body), Duration::from_millis(40));
                outcomes[usize::from(outcome != Outcome::Answered)
                    + usize::from(outcome == Outcome::Silent)] += 1;
            }
        }
        assert!(
            broker.is_running(),
            "{key} ended the broker: {}",
            broker.said()
        );
    }
    assert_serves(&mut broker);
    client::produce(
        &broker.bootstrap(),
        "bystander",
        0,
        [b"after".to_vec()],
        &[],
    );
    let grown = resident_bytes(&broker).saturating_sub(before);
    assert!(
        grown < GROWTH_MAX_BYTES,
        "grown by {grown} bytes: {outcomes:?}"
    );
    assert!(!broker.said().contains("panic"), "{}", broker.said());
}

fn open_sockets(broker: &Broker) -> usize {
    let path = format!("/proc/{}/fd", broker.process_id());
    let entries = std::fs::read_dir(path).expect("our own child");
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let is_socket = |target: &std::path::PathBuf| target.to_string_lossy().starts_with("socket:");
    targets.filter(is_socket).count()
}

//! Memory of a whole broker under clients that ask for as much of it as they can.
//!
//! Each test has a broker of one small shard, and measures the peak of its resident memory as the
//! kernel counts it.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{Broker, Launch, client, directory};

/// What the shard of these tests is given.
const BUDGET_BYTES: u64 = 32 << 20;
/// What a broker of one shard may take beside its budget, whatever clients do.
const BESIDE_BYTES: u64 = 64 << 20;

const PRODUCE: i16 = 0;

/// A broker of one shard with the least memory there is; sockets hold little of its answers.
fn start(dir: &std::path::Path) -> Broker {
    Launch::new(dir)
        .flag("--cores", "0")
        .flag("--memory-per-shard", "32MiB")
        .flag("--journal-size", "16MiB")
        .set("socket.send.buffer.bytes", "4096")
        .start()
}

/// The most memory that the broker has had so far.
fn peak_bytes(broker: &Broker) -> u64 {
    let path = format!("/proc/{}/status", broker.process_id());
    let status = std::fs::read_to_string(path).expect("our own child");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.expect("a peak").trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") << 10
}

/// The peak is within budget and constant, and the broker serves.
#[track_caller]
fn assert_bounded(broker: &Broker) {
    let peak = peak_bytes(broker);
    eprintln!("peak of resident memory: {} KiB", peak >> 10);
    assert!(
        peak <= BUDGET_BYTES + BESIDE_BYTES,
        "{} KiB of memory with a budget of {} KiB",
        peak >> 10,
        BUDGET_BYTES >> 10
    );
    assert_serves(broker);
}

/// A producer gets through within the limit of the tests.
#[track_caller]
fn assert_serves(broker: &Broker) {
    client::produce(&broker.bootstrap(), "served", 0, [b"through".to_vec()], &[]);
}

/// A frame of an old version: its header has no tagged fields.
fn frame(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(api.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(7_i32.to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes()); // no client id
    bytes.extend(body);
    let length = u32::try_from(bytes.len()).expect("small frames");
    [&length.to_be_bytes()[..], &bytes].concat()
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    body.extend(text.as_bytes());
}

fn count(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a count").to_be_bytes()
}

/// A Produce v7 to `partitions` partitions of a topic, none of which has records.
fn empty_produce(topic: &str, partitions: usize) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((-1_i16).to_be_bytes()); // no transaction
    body.extend(1_i16.to_be_bytes());
    body.extend(1_000_i32.to_be_bytes());
    body.extend(count(1));
    put_text(&mut body, topic);
    body.extend(count(partitions));
    for partition in 0..partitions {
        body.extend(count(partition));
        body.extend((-1_i32).to_be_bytes()); // no records
    }
    frame(PRODUCE, 7, &body)
}

/// A connection that sends all of `bytes`, or as much as is taken, and reads nothing.
fn send_unread(broker: &Broker, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(broker.launch().address()).expect("accepted");
    let limit = Duration::from_millis(500);
    stream.set_write_timeout(Some(limit)).expect("a valid time");
    if let Err(error) = stream.write_all(bytes) {
        let is_held_back = error.kind() == ErrorKind::WouldBlock;
        let is_closed = matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
        );
        assert!(is_held_back || is_closed, "{error}");
    }
    stream
}

/// Time for the broker to do with the requests what it will.
fn settle() {
    std::thread::sleep(Duration::from_secs(3));
}

/// Whether the broker closes the connection, once everything that it sends is read.
fn is_closed(mut stream: &TcpStream) -> bool {
    let limit = Duration::from_secs(10);
    stream.set_read_timeout(Some(limit)).expect("a valid time");
    let started = Instant::now();
    let mut room = vec![0; 1 << 16];
    while started.elapsed() < limit {
        match stream.read(&mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}

#[test]
fn produce_requests_that_name_many_partitions_are_charged_for_them() {
    let dir = directory();
    let broker = start(dir.path());
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    // of one size, half of what a request may have, and small ones in a row
    let many = empty_produce("served", 190_000);
    let some = empty_produce("served", 10_000).repeat(20);
    let few = empty_produce("served", 30).repeat(200);
    let streams: Vec<TcpStream> = [&many, &some, &few]
        .into_iter()
        .flat_map(|bytes| {
            (0..12)
                .map(|_| send_unread(&broker, bytes))
                .collect::<Vec<_>>()
        })
        .collect();
    settle();
    assert_bounded(&broker);
    assert!(is_closed(&streams[0]), "more than there is ever room for");
    assert!(broker.said().contains("raise memory.per.shard"));
}

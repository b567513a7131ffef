//! More of everything than a broker can serve at a time: producer ids, connections, and requests of
//! the largest size that come slowly, in part, or all at once.
//!
//! Each test has a broker of one small shard; what it takes is what the kernel counts.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{ProducerEpoch, ProducerId};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, MetadataRequest, ProduceRequest, TopicName};
use support::raw::{Connection, text};
use support::watch::{
    open_files, peak_bytes, raise_open_files, resident_bytes, socket_bytes, total,
};
use support::{Broker, Launch, client, directory, free_port};

/// What the shard of these tests is given.
const BUDGET_BYTES: u64 = 32 << 20;
/// What a broker of one shard may take beside its budget, whatever clients do.
const BESIDE_BYTES: u64 = 64 << 20;
const POLICY_VIOLATION: i16 = 44;
const PRODUCE_VERSION: i16 = 9;

fn launch(dir: &Path) -> (Launch, SocketAddr) {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let launch = Launch::new(dir)
        .flag("--cores", "0")
        .flag("--memory-per-shard", "32MiB")
        .flag("--journal-size", "16MiB")
        .admin(admin);
    (launch, admin)
}

#[track_caller]
fn assert_bounded(broker: &Broker) {
    let peak = peak_bytes(broker);
    eprintln!("peak of resident memory: {} KiB", peak >> 10);
    assert!(peak <= BUDGET_BYTES + BESIDE_BYTES, "{} KiB", peak >> 10);
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < client::LIMIT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

// ---------------------------------------------------------------------- producer ids

/// Produce of one batch: one record of `producer`, or of no producer.
fn one_record(partition: i32, producer: i64, sequence: i32, value: &[u8]) -> ProduceRequest {
    let mut batch = BatchBuilder::new();
    if producer >= 0 {
        batch = batch.producer(ProducerId(producer), ProducerEpoch(0), sequence);
    }
    batch.push(1, None, Some(value)); // of 1970: nobody expires by that
    let partition = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(Bytes::from(batch.build())));
    let topic = TopicProduceData::default()
        .with_name(TopicName(text("served")))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// Error code and base offset.
fn produced(connection: &mut Connection, request: &ProduceRequest) -> (i16, i64) {
    connection.send_only(request);
    outcome(connection)
}

fn outcome(connection: &mut Connection) -> (i16, i64) {
    let answer = connection.receive::<ProduceRequest>(PRODUCE_VERSION);
    let partition = &answer.responses[0].partition_responses[0];
    let is_explained = partition.error_message.is_some();
    assert_eq!(partition.error_code != 0, is_explained, "{partition:?}");
    (partition.error_code, partition.base_offset)
}

trait SendOnly {
    fn send_only(&mut self, request: &ProduceRequest);
}

impl SendOnly for Connection {
    fn send_only(&mut self, request: &ProduceRequest) {
        let frame = self.frame(request, PRODUCE_VERSION);
        self.send(&frame);
    }
}

/// So many ids that nobody had before, as a client gets them.
fn fresh_ids(connection: &mut Connection, count: usize) -> Vec<i64> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    let frames: Vec<Bytes> = (0..count).map(|_| connection.frame(&request, 4)).collect();
    connection.send(&frames.concat());
    let ids = (0..count).map(|_| connection.receive::<InitProducerIdRequest>(4).producer_id.0);
    let ids: Vec<i64> = ids.collect();
    assert!(ids.iter().all(|id| *id >= 0), "{ids:?}");
    ids
}

/// A partition may have half of the 4,096 that 32 MiB of memory allow.
const PRODUCERS_MAX: usize = 2_048;

#[test]
fn producer_ids_without_end_are_refused_and_those_that_are_known_go_on() {
    const AT_ONCE: usize = 100;
    let dir = directory();
    let (launch, admin) = launch(dir.path());
    let broker = launch.start();
    client::create_topic(&broker.bootstrap(), "served", 2, &[]);
    let mut connection = Connection::open(broker.launch().address());
    let mut known = Vec::new();
    let refused = loop {
        let ids = fresh_ids(&mut connection, AT_ONCE);
        for id in &ids {
            connection.send_only(&one_record(0, *id, 0, b"first"));
        }
        let codes: Vec<i16> = ids.iter().map(|_| outcome(&mut connection).0).collect();
        known.extend(
            ids.iter()
                .zip(&codes)
                .filter(|(_, code)| **code == 0)
                .map(|(id, _)| *id),
        );
        let at = codes.iter().position(|code| *code != 0);
        if let Some(at) = at {
            assert!(codes[at..].iter().all(|code| *code == POLICY_VIOLATION));
            break ids[at];
        }
    };
    assert_eq!(known.len(), PRODUCERS_MAX);
    assert_eq!(total(admin, "corelog_producers"), PRODUCERS_MAX);
    assert!(broker.said().contains("too many idempotent producers"));
    let end = i64::try_from(PRODUCERS_MAX).expect("few");
    let check = |connection: &mut Connection, sequence: i32, end: i64| {
        let mut ask =
            |id: i64, sequence: i32| produced(connection, &one_record(0, id, sequence, b"first"));
        assert_eq!(ask(refused, 0).0, POLICY_VIOLATION, "a new one stays out");
        for (offset, id) in [(0, known[0]), (end - 1, known[PRODUCERS_MAX - 1])] {
            assert_eq!(
                ask(id, 0),
                (0, offset.min(2_047)),
                "what it repeats is known"
            );
        }
        assert_eq!(ask(known[7], sequence), (0, end), "what follows is taken");
        assert_eq!(ask(known[7], sequence), (0, end), "once");
    };
    check(&mut connection, 1, end);
    assert_eq!(
        produced(&mut connection, &one_record(0, -1, 0, b"any")),
        (0, end + 1)
    );
    // a client library is told, and can go on elsewhere
    let producer = client::producer(&broker.bootstrap(), &[("enable.idempotence", "true")]);
    client::send(&producer, "served", 0, None, b"refused");
    let refusal = client::flush(&producer)
        .pop()
        .expect("an outcome")
        .unwrap_err();
    assert!(refusal.contains("Policy"), "{refusal}");
    client::send(&producer, "served", 1, None, b"taken");
    client::flush(&producer)
        .pop()
        .expect("an outcome")
        .expect("acknowledged");
    assert_bounded(&broker);
    // a crash changes none of it
    let broker = broker.kill().start();
    let mut connection = Connection::open(broker.launch().address());
    check(&mut connection, 2, end + 2);
    assert_bounded(&broker);
    // those that were idle for long make room, in time
    let launch = broker.stop().set("producer.id.expiration.ms", "1000");
    let broker = launch.set("log.retention.check.interval.ms", "100").start();
    let mut connection = Connection::open(broker.launch().address());
    eventually("there is room again", || {
        produced(&mut connection, &one_record(0, refused, 0, b"first")) == (0, end + 3)
    });
    assert!(total(admin, "corelog_producers") < 10);
}

#[test]
fn a_producer_of_old_records_is_remembered_as_long_as_any_other() {
    let dir = directory();
    let (launch, _) = launch(dir.path());
    let broker = launch.set("log.retention.check.interval.ms", "50").start();
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let mut connection = Connection::open(broker.launch().address());
    let id = fresh_ids(&mut connection, 1)[0];
    let request = one_record(0, id, 0, b"of 1970");
    assert_eq!(produced(&mut connection, &request), (0, 0));
    std::thread::sleep(Duration::from_millis(500)); // idle ones are looked for meanwhile
    assert_eq!(produced(&mut connection, &request), (0, 0), "once");
}

// ---------------------------------------------------------------------- connections

fn metadata_of_nothing() -> MetadataRequest {
    MetadataRequest::default().with_topics(Some(Vec::new()))
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_keep_nobody_out() {
    /// Descriptors of this process and of the broker that are none of idle connections.
    const OTHER_FILES: u64 = 1_000;
    const WANTED: u64 = 10_000;
    /// Twice what a release build needs: without optimization tasks are larger.
    const EACH_BYTES_MAX: u64 = 24 << 10;
    let count = WANTED.min(raise_open_files().saturating_sub(OTHER_FILES));
    if count < WANTED {
        eprintln!("NOT {WANTED} BUT {count} CONNECTIONS: raise the hard limit of open files");
    }
    let dir = directory();
    let (launch, admin) = launch(dir.path());
    let broker = launch.start();
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let mut old = Connection::open(broker.launch().address());
    assert_eq!(produced(&mut old, &one_record(0, -1, 0, b"before")), (0, 0));
    let (resident, sockets) = (resident_bytes(&broker), socket_bytes());
    let mut idle: Vec<Connection> = Vec::new();
    for _ in 0..count {
        let mut connection = Connection::open(broker.launch().address());
        let frame = connection.frame(&metadata_of_nothing(), 12);
        connection.send(&frame);
        idle.push(connection);
    }
    for connection in &mut idle {
        connection.receive::<MetadataRequest>(12);
    }
    let count = usize::try_from(count).expect("few");
    assert!(total(admin, "corelog_connections") > count);
    assert_eq!(produced(&mut old, &one_record(0, -1, 0, b"old")), (0, 1));
    let mut new = Connection::open(broker.launch().address());
    assert_eq!(produced(&mut new, &one_record(0, -1, 0, b"new")), (0, 2));
    let each =
        |before: u64, now: u64| now.saturating_sub(before) / u64::try_from(count).expect("few");
    let resident = each(resident, resident_bytes(&broker));
    let sockets = each(sockets, socket_bytes());
    eprintln!("{count} idle: {resident} bytes of memory each, {sockets} in the sockets' buffers");
    assert!(
        resident < EACH_BYTES_MAX,
        "{resident} bytes for an idle connection"
    );
    drop(idle);
    eventually("they are gone", || total(admin, "corelog_connections") < 10);
    assert_eq!(produced(&mut old, &one_record(0, -1, 0, b"after")), (0, 3));
}

/// Closes at once, with a reset instead of an end.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).expect("small");
    // SAFETY: the option is read from a structure of its size that lives here.
    let set = unsafe {
        let option = (&raw const linger).cast();
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            option,
            size,
        )
    };
    assert_eq!(set, 0);
}

/// Opens so many connections one after the other and leaves each in another way.
fn open_and_close(broker: &Broker, count: usize) {
    let mut whole = Connection::open(broker.launch().address());
    let request = whole.frame(&metadata_of_nothing(), 12);
    let large = [
        &(1_i32 << 20).to_be_bytes()[..],
        &[0, 0, 0, 9],
        &vec![7; 20_000],
    ]
    .concat();
    for number in 0..count {
        let mut stream = TcpStream::connect(broker.launch().address()).expect("accepted");
        let sent: &[u8] = match number % 6 {
            0 | 1 => &[],
            2 => &request[..request.len() / 2],
            3 => &request,
            4 => &large[..3],
            _ => &large,
        };
        stream.write_all(sent).expect("taken");
        if number % 4 == 1 {
            reset(&stream);
        }
    }
}

#[test]
fn connections_opened_and_closed_in_a_loop_leave_nothing_behind() {
    const COUNT: usize = 6_000;
    /// What the allocator may do with what is free.
    const SLACK_BYTES: u64 = 4 << 20;
    let dir = directory();
    let (launch, admin) = launch(dir.path());
    let broker = launch.start();
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let is_done = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut connection = Connection::open(broker.launch().address());
            let mut longest = Duration::ZERO;
            while !is_done.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let (code, _) = produced(&mut connection, &one_record(0, -1, 0, b"honest"));
                assert_eq!(code, 0);
                longest = longest.max(sent.elapsed());
                std::thread::sleep(Duration::from_millis(10));
            }
            longest
        });
        open_and_close(&broker, COUNT / 4); // what is made once is made
        let quiet = || {
            eventually("they are gone", || total(admin, "corelog_connections") == 1);
            (open_files(&broker), resident_bytes(&broker))
        };
        let (files, resident) = quiet();
        open_and_close(&broker, COUNT);
        let (files_after, resident_after) = quiet();
        eprintln!(
            "descriptors: {files} before, {files_after} after; memory: {} KiB, {} KiB",
            resident >> 10,
            resident_after >> 10
        );
        is_done.store(true, Ordering::Relaxed);
        assert!(files_after <= files + 3, "{files_after} of {files}"); // segments may be opened
        assert!(resident_after <= resident + SLACK_BYTES);
        honest.join().expect("served")
    });
    eprintln!("the longest that the honest producer waited: {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    // one that is gone before it is accepted is no reason to accept no others for a while
    assert!(!broker.said().contains("cannot accept"));
    assert_bounded(&broker);
}

// ---------------------------------------------------------------------- slow and large requests

/// Sends the head of a request of `size_bytes`, and then a byte now and then.
struct Trickle(TcpStream);

impl Trickle {
    fn begin(broker: &Broker, api: i16, version: i16, size_bytes: i32) -> Self {
        let mut stream = TcpStream::connect(broker.launch().address()).expect("accepted");
        let head = [api.to_be_bytes(), version.to_be_bytes()].concat();
        let head = [&size_bytes.to_be_bytes()[..], &head].concat();
        stream.write_all(&head).expect("taken");
        stream.set_nonblocking(true).expect("a socket");
        Self(stream)
    }

    /// One byte more; whether the broker still takes them.
    fn go_on(&mut self) -> bool {
        let is_open = |error: std::io::Error| error.kind() == ErrorKind::WouldBlock;
        let is_read = self.0.read(&mut [0; 1]).map_err(is_open);
        is_read == Err(true) && self.0.write_all(&[0]).is_ok()
    }
}

#[test]
fn large_requests_that_trickle_in_hold_no_honest_client_up() {
    const PRODUCE: i16 = 0;
    const METADATA: i16 = 3;
    const OF_EACH_KIND: usize = 40;
    let dir = directory();
    let (launch, _) = launch(dir.path());
    let broker = launch.start();
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    // what Produce and all others may have is promised many times over
    let mut trickles: Vec<Trickle> = (0..OF_EACH_KIND)
        .flat_map(|_| [(PRODUCE, 9, 9_000_000), (METADATA, 12, 2_300_000)])
        .map(|(api, version, size)| Trickle::begin(&broker, api, version, size))
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let resident = resident_bytes(&broker);
    let mut honest = Connection::open(broker.launch().address());
    let (mut longest, started) = (Duration::ZERO, Instant::now());
    // those that hold memory are given up after 10 s, a byte now and then or not
    let mut closed = 0;
    while closed < 2 {
        assert!(
            started.elapsed() < Duration::from_secs(17),
            "{closed} were closed"
        );
        let sent = Instant::now();
        assert_eq!(
            produced(&mut honest, &one_record(0, -1, 0, &[7; 16_000])).0,
            0
        );
        honest.call(&metadata_of_nothing(), 12);
        longest = longest.max(sent.elapsed());
        std::thread::sleep(Duration::from_millis(200));
        let before = trickles.len();
        trickles.retain_mut(Trickle::go_on);
        closed += before - trickles.len();
    }
    let took = started.elapsed();
    eprintln!("the longest that the honest client waited: {longest:?}; given up after {took:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(took > Duration::from_secs(8), "too early: {took:?}");
    assert!(broker.said().contains("did not arrive in time"));
    let grown = resident_bytes(&broker).saturating_sub(resident);
    assert!(
        grown < 8 << 20,
        "{grown} bytes more for what was only promised"
    );
    assert_bounded(&broker);
}

/// A connection that sends one request as the broker takes it, and waits for the answer.
struct Sending {
    stream: TcpStream,
    sent: usize,
    answer: Vec<u8>,
}

impl Sending {
    /// Does what can be done now; whether the answer is here.
    fn advance(&mut self, request: &[u8]) -> bool {
        while self.sent < request.len() {
            match self.stream.write(&request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}: {} of {} bytes", self.sent, request.len()),
            }
        }
        let mut room = [0; 512];
        match self.stream.read(&mut room) {
            Ok(0) => panic!("closed without an answer"),
            Ok(count) => self.answer.extend(&room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
        let (length, rest) = self.answer.split_at(4.min(self.answer.len()));
        let length = length.try_into().map_or(u32::MAX, u32::from_be_bytes);
        rest.len() == usize::try_from(length).expect("it fits")
    }
}

#[test]
fn a_thousand_requests_of_the_largest_size_at_once_are_served_within_the_budget() {
    const CONNECTIONS: usize = 1_100;
    const REQUEST_BYTES: usize = 256 << 10;
    raise_open_files();
    let dir = directory();
    let (launch, _) = launch(dir.path());
    let broker = launch
        .set("socket.request.max.bytes", &REQUEST_BYTES.to_string())
        .set("message.max.bytes", &REQUEST_BYTES.to_string())
        .set("socket.receive.buffer.bytes", "16384")
        .start();
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let mut unused = Connection::open(broker.launch().address());
    let envelope = unused
        .frame(&one_record(0, -1, 0, &[]), PRODUCE_VERSION)
        .len();
    let value = vec![7; REQUEST_BYTES - envelope - 2]; // longer lengths
    let request = unused.frame(&one_record(0, -1, 0, &value), PRODUCE_VERSION);
    assert!(
        (REQUEST_BYTES - 16..=REQUEST_BYTES + 4).contains(&request.len()),
        "{}",
        request.len()
    );
    let mut sending: Vec<Sending> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(broker.launch().address()).expect("accepted");
            stream.set_nonblocking(true).expect("a socket");
            Sending {
                stream,
                sent: 0,
                answer: Vec::new(),
            }
        })
        .collect();
    let started = Instant::now();
    while !sending.is_empty() {
        assert!(
            started.elapsed() < client::LIMIT * 2,
            "{} are not served",
            sending.len()
        );
        sending.retain_mut(|one| !one.advance(&request));
    }
    eprintln!(
        "{CONNECTIONS} requests of {REQUEST_BYTES} bytes: {:?}",
        started.elapsed()
    );
    let mut connection = Connection::open(broker.launch().address());
    let (code, offset) = produced(&mut connection, &one_record(0, -1, 0, b"last"));
    assert_eq!(
        (code, usize::try_from(offset)),
        (0, Ok(CONNECTIONS)),
        "each of them once"
    );
    assert_bounded(&broker);
}

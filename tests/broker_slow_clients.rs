//! Clients that do not read, or send a byte now and then, beside clients that do.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use support::raw::{Connection, text};
use support::watch::{raise_open_files, total};
use support::{Launch, client, directory};

/// A Fetch v4 of one partition from its start, 50 MiB at most.
fn fetch_frame(topic: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(1_i16.to_be_bytes()); // Fetch
    body.extend(4_i16.to_be_bytes());
    body.extend(7_i32.to_be_bytes());
    body.extend((-1_i16).to_be_bytes()); // no client id
    body.extend((-1_i32).to_be_bytes()); // a consumer
    body.extend(100_i32.to_be_bytes()); // wait ms
    body.extend(1_i32.to_be_bytes()); // min bytes
    body.extend((50_i32 << 20).to_be_bytes());
    body.push(0); // read uncommitted
    body.extend(1_i32.to_be_bytes());
    body.extend(i16::try_from(topic.len()).expect("short").to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(0_i64.to_be_bytes());
    body.extend((50_i32 << 20).to_be_bytes());
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len()).expect("small");
    [&length.to_be_bytes()[..], body].concat()
}

#[test]
fn clients_that_do_not_read_leave_room_for_those_that_do() {
    let dir = directory();
    let broker = Launch::new(dir.path())
        .flag("--memory-per-shard", "32MiB")
        .flag("--cores", "0") // all of them want the memory of one shard, wherever they land
        .start();
    client::create_topic(&broker.bootstrap(), "unread", 1, &[]);
    let values = (0..300).map(|_| vec![b'u'; 30_000]);
    client::produce(&broker.bootstrap(), "unread", 0, values, &[]);
    let hogs: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut socket = TcpStream::connect(broker.bootstrap()).expect("accepted");
            // several: the first answers disappear in the buffers of the sockets
            for _ in 0..8 {
                socket.write_all(&fetch_frame("unread")).expect("taken");
            }
            socket
        })
        .collect();
    let reads = client::read_partition(&broker.bootstrap(), "unread", 0, 0);
    assert_eq!(reads.len(), 300);
    drop(hogs);
}

#[test]
fn a_body_that_stalls_gives_its_memory_to_those_who_wait() {
    let dir = directory();
    let broker = Launch::new(dir.path())
        .flag("--memory-per-shard", "32MiB")
        .flag("--cores", "0")
        .start();
    client::create_topic(&broker.bootstrap(), "stalled", 1, &[]);
    // heads of Produce requests that fill the pool; their bodies never come
    let mut stalled: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut socket = TcpStream::connect(broker.bootstrap()).expect("accepted");
            let size: i32 = 5 << 20;
            socket.write_all(&size.to_be_bytes()).expect("taken");
            socket.write_all(&[0, 0, 0, 7]).expect("taken"); // Produce v7
            socket
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    client::produce(
        &broker.bootstrap(),
        "stalled",
        0,
        [b"through".to_vec()],
        &[],
    );
    let first = &mut stalled[0];
    first
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("set");
    assert_eq!(first.read(&mut [0; 1]).expect("closed"), 0);
}

/// A Fetch of both partitions that waits for data for `wait`.
fn waiting_fetch(topic: &str, wait: Duration) -> FetchRequest {
    let partitions = (0..2).map(|partition| {
        FetchPartition::default()
            .with_partition(partition)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(text(topic)))
        .with_partitions(partitions.collect());
    FetchRequest::default()
        .with_max_wait_ms(i32::try_from(wait.as_millis()).expect("seconds"))
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

#[test]
fn thousands_of_waiting_consumers_leave_the_way_between_shards_free() {
    /// More on each of two shards than one shard may have calls open at another.
    const CONSUMERS: usize = 2_600;
    const WAIT: Duration = Duration::from_secs(30);
    raise_open_files();
    let dir = directory();
    let broker = Launch::new(dir.path()).flag("--cores", "0,1").start();
    client::create_topic(&broker.bootstrap(), "quiet", 2, &[]);
    client::create_topic(&broker.bootstrap(), "busy", 2, &[]);
    let consumers: Vec<Connection> = (0..CONSUMERS)
        .map(|_| {
            let mut connection = Connection::open(broker.launch().address());
            let frame = connection.frame(&waiting_fetch("quiet", WAIT), 12);
            connection.send(&frame);
            connection
        })
        .collect();
    // let all of them be read and wait
    std::thread::sleep(Duration::from_secs(2));
    let started = Instant::now();
    for partition in 0..2 {
        client::produce(
            &broker.bootstrap(),
            "busy",
            partition,
            [b"now".to_vec()],
            &[],
        );
    }
    let took = started.elapsed();
    assert!(took < WAIT / 3, "a producer waited for consumers: {took:?}");
    // and each of them is told at once
    for partition in 0..2 {
        client::produce(
            &broker.bootstrap(),
            "quiet",
            partition,
            [b"now".to_vec()],
            &[],
        );
    }
    for mut consumer in consumers {
        let answer = consumer.receive::<FetchRequest>(12);
        let partitions = &answer.responses[0].partitions;
        assert!(
            partitions
                .iter()
                .any(|partition| partition.high_watermark == 1)
        );
    }
    let took = started.elapsed();
    assert!(took < WAIT / 2, "consumers were told late: {took:?}");
}

#[test]
fn a_waiting_fetch_ends_when_its_client_goes_away() {
    const CONSUMERS: usize = 20;
    let dir = directory();
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, support::free_port()));
    let launch = Launch::new(dir.path()).flag("--cores", "0,1");
    let broker = launch.admin(admin).start();
    client::create_topic(&broker.bootstrap(), "quiet", 2, &[]);
    let consumers: Vec<Connection> = (0..CONSUMERS)
        .map(|_| {
            let mut connection = Connection::open(broker.launch().address());
            let frame = connection.frame(&waiting_fetch("quiet", Duration::from_secs(1_000)), 12);
            connection.send(&frame);
            connection
        })
        .collect();
    let becomes = |wanted: &[(&str, usize)]| {
        let started = Instant::now();
        while wanted
            .iter()
            .any(|(name, value)| total(admin, name) != *value)
        {
            assert!(started.elapsed() < client::LIMIT, "{wanted:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    becomes(&[("corelog_waiting_fetches", CONSUMERS)]);
    drop(consumers);
    becomes(&[
        ("corelog_waiting_fetches", 0),
        ("corelog_in_flight_requests", 0),
        ("corelog_connections", 0),
    ]);
}

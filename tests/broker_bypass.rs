//! Records that go past the journal, through the real program: acknowledged means kept, however the
//! process ends.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use support::{Broker, Launch, client, directory, free_port};

const PARTITIONS: i32 = 2;
const VALUE_BYTES: usize = 20_000;

fn launch(dir: &Path) -> Launch {
    Launch::new(dir).set("bypass.size", "16KiB")
}

/// `count` records to each partition, all at once; none is lost.
fn burst(broker: &Broker, first: usize, count: usize) {
    let settings = [
        ("enable.idempotence", "true"),
        ("linger.ms", "2"),
        ("batch.size", "200000"),
    ];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in first..first + count {
        for partition in 0..PARTITIONS {
            let mut value = format!("{partition}:{number}:");
            value.push_str(&"x".repeat(VALUE_BYTES));
            client::send(&producer, "large", partition, None, value.as_bytes());
        }
    }
    for delivery in client::flush(&producer) {
        delivery.expect("acknowledged");
    }
}

#[track_caller]
fn check(broker: &Broker, count: usize) {
    for partition in 0..PARTITIONS {
        let reads = client::read_partition(&broker.bootstrap(), "large", partition, 0);
        assert_eq!(reads.len(), count, "partition {partition}");
        for (number, read) in reads.iter().enumerate() {
            let value = read.value.as_deref().expect("a value");
            let start = format!("{partition}:{number}:");
            assert!(value.starts_with(start.as_bytes()), "{partition}:{number}");
            assert_eq!(value.len(), start.len() + VALUE_BYTES);
        }
    }
}

fn bypassed_bytes(admin: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(admin).expect("the admin port answers");
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is received");
    let name = "corelog_bypassed_bytes_total{shard=\"total\"}";
    let line = answer.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.rsplit(' ').next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[test]
fn records_past_the_journal_survive_kills_and_stops() {
    let dir = directory();
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut broker = launch(dir.path()).admin(admin).start();
    let settings = [("segment.bytes", "4194304")];
    client::create_topic(&broker.bootstrap(), "large", PARTITIONS, &settings);
    for round in 0..4 {
        burst(&broker, round * 400, 400);
        assert!(bypassed_bytes(admin) > 0.0, "round {round}");
        let ended = if round == 2 {
            broker.stop()
        } else {
            broker.kill()
        };
        broker = ended.start();
        check(&broker, (round + 1) * 400);
    }
}

#[test]
fn topics_deleted_while_their_records_go_past_the_journal_do_no_harm() {
    let dir = directory();
    let broker = launch(dir.path()).start();
    for round in 0..4 {
        client::create_topic(&broker.bootstrap(), "large", PARTITIONS, &[]);
        burst(&broker, 0, 200);
        if round == 3 {
            break;
        }
        client::delete_topic(&broker.bootstrap(), "large");
    }
    check(&broker, 200);
    let said = broker.said();
    assert!(!said.contains("the data directory failed"), "{said}");
    drop(broker.kill().start());
}

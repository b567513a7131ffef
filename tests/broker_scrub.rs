//! The background scrub of a real broker: what it finds in sealed segments, what becomes of it for
//! clients, and the settings that bound it.

mod support;

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use serde_json::Value;
use support::raw::{Connection, text};
use support::{Broker, Launch, client, directory, free_port};

const RECORDS: usize = 600;
const CORRUPT_MESSAGE: i16 = 2;

fn launch(dir: &Path) -> (Launch, SocketAddr) {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let launch = Launch::new(dir).admin(admin).flag("--log-format", "json");
    (launch, admin)
}

fn get(admin: SocketAddr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(admin).expect("listens");
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

/// The total of a metric.
fn metric(admin: SocketAddr, name: &str) -> u64 {
    let start = format!("{name}{{shard=\"total\"}} ");
    let page = get(admin, "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(&start));
    line.expect("it is there").parse().expect("a whole number")
}

fn value(partition: i32, number: usize) -> Vec<u8> {
    format!("{partition}:{number}:{}", "x".repeat(300)).into_bytes()
}

fn fill(broker: &Broker, first: usize) {
    let settings = [("linger.ms", "1"), ("batch.num.messages", "5")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in first..first + RECORDS {
        for partition in 0..2 {
            client::send(&producer, "s", partition, None, &value(partition, number));
        }
    }
    for delivery in client::flush(&producer) {
        delivery.expect("acknowledged");
    }
}

/// Two partitions with several sealed segments each, which the stop in between has written.
fn filled(launch: &Launch) -> Broker {
    let broker = launch.start();
    let settings = [("segment.bytes", "32768")];
    client::create_topic(&broker.bootstrap(), "s", 2, &settings);
    fill(&broker, 0);
    let broker = broker.stop().start();
    for partition in 0..2 {
        let count = sealed(broker.data_dir(), partition).len();
        assert!(count > 3, "{count} sealed segments");
    }
    broker
}

/// The sealed segments: each has the snapshot that the next one begins with.
fn sealed(data_dir: &Path, partition: i32) -> Vec<PathBuf> {
    let dir = data_dir.join(format!("topics/s-{partition}"));
    let mut logs: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a partition")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .collect();
    logs.sort();
    let is_sealed = |next: &PathBuf| next.with_extension("snapshot").exists();
    let count = logs
        .iter()
        .skip(1)
        .take_while(|next| is_sealed(next))
        .count();
    logs.truncate(count);
    logs
}

#[track_caller]
fn check(broker: &Broker, partition: i32, from: i64, count: usize) {
    let reads = client::read_partition(&broker.bootstrap(), "s", partition, from);
    let first = usize::try_from(from).expect("small");
    let numbers: Vec<usize> = (first..count).collect();
    assert_eq!(reads.len(), numbers.len(), "s-{partition} from {from}");
    for (read, number) in reads.iter().zip(numbers) {
        assert_eq!(read.value, Some(value(partition, number)));
    }
}

/// Error code and number of record bytes of a fetch.
fn fetch(broker: &Broker, partition: i32, offset: i64) -> (i16, usize) {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(text("s")))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let answer = Connection::open(broker.launch().address()).call(&request, 12);
    let read = &answer.responses[0].partitions[0];
    (
        read.error_code,
        read.records.as_ref().map_or(0, bytes::Bytes::len),
    )
}

/// Prints all of one partition.
fn consume(broker: &Broker, offset: i64) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(["consume", "s", "--partition", "1", "--offset"]);
    command.arg(offset.to_string());
    command.args(["--bootstrap", &broker.bootstrap()]);
    command.output().expect("runs")
}

/// The error lines about damage so far.
fn told(broker: &Broker) -> Vec<Value> {
    let said = broker.said();
    let lines = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an object"));
    lines
        .filter(|line| line["message"] == "a sealed segment is damaged")
        .collect()
}

#[test]
fn a_flipped_byte_is_told_and_everything_around_it_is_served() {
    let dir = directory();
    let (launch, admin) = launch(dir.path());
    let launch = launch.set("scrub.interval.ms", "1000");
    let broker = filled(&launch);
    let path = sealed(dir.path(), 1)[1].clone();
    client::wait_until("a pass is over", || {
        metric(admin, "corelog_scrubbed_segments_total") > 0
    });
    assert!(get(admin, "/healthz").ends_with("\r\n\r\nok\n"));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("there");
    let place = file.metadata().expect("known").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], place)
        .expect("the test's own");
    client::wait_until("the damage is told", || !told(&broker).is_empty());
    let line = told(&broker).remove(0);
    assert_eq!(
        (&line["level"], &line["partition"]),
        (&"ERROR".into(), &"s-1".into()),
        "{line}"
    );
    assert_eq!(line["file"], path.display().to_string(), "{line}");
    let number = |field: &str| {
        line[field]
            .as_i64()
            .unwrap_or_else(|| panic!("{field}: {line}"))
    };
    let (from, next) = (number("offset"), number("next_offset"));
    assert!(
        u64::try_from(number("position")).expect("a position") <= place,
        "{line}"
    );
    assert!(from < next && next - from <= 5, "one batch: {line}");
    let remedy = line["remedy"].as_str().expect("text");
    assert!(remedy.contains("restore the file"), "{line}");
    let health = get(admin, "/healthz");
    assert!(
        health.ends_with("ok, but partitions are damaged: 1\n"),
        "{health}"
    );
    assert_eq!(metric(admin, "corelog_damaged_partitions"), 1);
    assert!(metric(admin, "corelog_scrub_damage_found_total") > 0);
    // the damaged batch is refused, nothing else is
    assert_eq!(fetch(&broker, 1, from), (CORRUPT_MESSAGE, 0));
    assert_eq!(fetch(&broker, 1, next - 1), (CORRUPT_MESSAGE, 0));
    let consumed = consume(&broker, from);
    assert_eq!(consumed.status.code(), Some(1), "{consumed:?}");
    assert_eq!(
        String::from_utf8_lossy(&consumed.stderr),
        format!("corelog: partition 1 of topic `s`: the records at offset {from} are damaged\n")
    );
    let (code, bytes) = fetch(&broker, 1, from - 1);
    assert!(code == 0 && bytes > 0, "before it: {code}");
    fill(&broker, RECORDS);
    check(&broker, 0, 0, 2 * RECORDS);
    check(&broker, 1, next, 2 * RECORDS);
    let launch = broker.stop();
    let file = OpenOptions::new().write(true).open(&path).expect("there");
    file.write_all_at(&byte, place).expect("the test's own");
    let broker = launch.start();
    let passed = || metric(admin, "corelog_scrubbed_segments_total");
    client::wait_until("a pass is over", || passed() > 30);
    assert_eq!(told(&broker), Vec::<Value>::new());
    assert!(get(admin, "/healthz").ends_with("\r\n\r\nok\n"));
    for partition in 0..2 {
        check(&broker, partition, 0, 2 * RECORDS);
    }
}

#[test]
fn an_index_that_does_not_fit_is_made_anew_while_the_broker_runs() {
    let dir = directory();
    let (launch, _) = launch(dir.path());
    let broker = filled(&launch.set("scrub.interval.ms", "1000"));
    let path = sealed(dir.path(), 0)[2].with_extension("index");
    let whole = std::fs::read(&path).expect("there");
    let mut wrong = whole.clone();
    wrong[3] ^= 1;
    std::fs::write(&path, wrong).expect("the test's own");
    client::wait_until("it is made anew", || {
        std::fs::read(&path).expect("there") == whole
    });
    // the line comes after the file
    client::wait_until("it is told", || {
        broker.said().contains("the segment is indexed again")
    });
    assert_eq!(told(&broker), Vec::<Value>::new());
    check(&broker, 0, 0, RECORDS);
}

#[test]
fn scrub_bytes_per_second_bounds_what_is_read_and_0_is_nothing() {
    let dir = directory();
    let (launch, admin) = launch(dir.path());
    let launch = launch
        .set("scrub.bytes.per.second", "0")
        .set("scrub.interval.ms", "1000");
    let broker = filled(&launch);
    std::thread::sleep(Duration::from_millis(1500));
    let read = || metric(admin, "corelog_scrubbed_bytes_total");
    assert_eq!(read(), 0);
    let rate = 64 << 10;
    let began = Instant::now();
    alter(&broker, "scrub.bytes.per.second", &rate.to_string());
    client::wait_until("it reads", || read() > rate);
    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    let most = rate * u64::try_from(shards).expect("few") * (began.elapsed().as_secs() + 2);
    assert!(read() <= most, "{} after {:?}", read(), began.elapsed());
    alter(&broker, "scrub.bytes.per.second", "0");
    client::wait_until("it stops", || {
        // longer than the pauses behind a segment and between two passes
        let before = read();
        std::thread::sleep(Duration::from_secs(4));
        read() == before
    });
}

#[test]
fn scrub_interval_ms_is_the_time_between_two_passes() {
    let dir = directory();
    let (launch, admin) = launch(dir.path());
    let broker = filled(&launch);
    let passed = || metric(admin, "corelog_scrubbed_segments_total");
    let segments = sealed(dir.path(), 0).len() + sealed(dir.path(), 1).len();
    let segments = u64::try_from(segments).expect("few");
    client::wait_until("the first pass is over", || passed() == segments);
    // the next is a week away
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(passed(), segments);
    alter(&broker, "scrub.interval.ms", "1000");
    client::wait_until("two more passes", || passed() >= 3 * segments);
}

fn alter(broker: &Broker, name: &str, value: &str) {
    let admin = client::admin(&broker.bootstrap());
    let change = AlterConfig::new(ResourceSpecifier::Broker(1)).set(name, value);
    let altered = client::block_on(admin.alter_configs([&change], &AdminOptions::new()));
    altered.expect("answered").remove(0).expect("altered");
}

//! `/metrics` of a broker that has done a bit of everything: well formed, and nothing stays 0.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{ProducerEpoch, ProducerId};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, FetchRequest, InitProducerIdRequest, ProduceRequest, TopicName,
};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use support::raw::{Connection, text};
use support::{Broker, Launch, client, directory};

/// Names that stay 0 on a healthy broker under this load, and why.
const MAY_BE_ZERO: &[(&str, &str)] = &[
    (
        "corelog_loop_stalls_total",
        "a task that holds a core for 50 ms is a fault",
    ),
    ("corelog_loop_stall_microseconds_total", "the same"),
    ("corelog_journal_wait_seconds", "only when the ring is full"),
    ("corelog_disk_full", "only on a full disk"),
    ("corelog_offline_partitions", "only after damage"),
    ("corelog_damaged_partitions", "only after damage"),
    ("corelog_scrub_damage_found_total", "only after damage"),
    (
        "corelog_segments_reused_total",
        "only of segments of 16 MiB and more",
    ),
    (
        "corelog_deleted_waiting_bytes",
        "what was deleted is gone within a moment",
    ),
    (
        "corelog_in_flight_requests",
        "whoever scrapes sees a moment between requests",
    ),
];
const TOPIC: &str = "measured";
const GZIPPED: &str = "gzipped";
const BATCH_BYTES: usize = 500_000;
/// Each partition gets more than the tail keeps of the 32 MiB that a shard has here.
const BATCHES: i32 = 100;

// ---------------------------------------------------------------------- the text

/// The samples of one name.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads text format 0.0.4 and refuses whatever the format does not allow.
fn parse(page: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let (mut current, mut seen) = (String::new(), BTreeSet::new());
    assert!(page.ends_with('\n'), "the last line is complete");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and its help");
            assert!(!help.is_empty() && is_name(name), "{line}");
            name.clone_into(&mut current);
            let before = metrics.insert(current.clone(), Metric::default());
            assert!(before.is_none(), "described twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and its type");
            assert!(["counter", "gauge", "summary"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert_eq!(name, current, "the type follows the help");
            let metric = metrics.get_mut(name).expect("its help came before");
            kind.clone_into(&mut metric.kind);
        } else {
            let sample = parse_sample(line);
            let metric = metrics.get_mut(&current).expect("a head came before");
            let is_part =
                |suffix| metric.kind == "summary" && sample.name == format!("{current}{suffix}");
            assert!(
                sample.name == current || is_part("_sum") || is_part("_count"),
                "{line} stands below {current}"
            );
            let is_quantile = metric.kind == "summary" && sample.name == current;
            assert_eq!(
                sample.labels.contains_key("quantile"),
                is_quantile,
                "{line}"
            );
            assert!(
                seen.insert((sample.name.clone(), sample.labels.clone())),
                "said twice: {line}"
            );
            assert!(is_quantile || sample.value >= 0.0, "{line}");
            metric.samples.push(sample);
        }
    }
    metrics
}

fn parse_sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match head.split_once('{') {
        None => (head, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed")),
    };
    assert!(is_name(name), "{line}");
    let labels = labels.split_terminator(',').map(|label| {
        let (name, value) = label.split_once('=').expect("a label's value");
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        assert!(is_name(name), "{line}");
        (name.to_owned(), value.expect("in quotes").to_owned())
    });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().expect("a number"),
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn scrape(admin: SocketAddr) -> BTreeMap<String, Metric> {
    let mut stream = TcpStream::connect(admin).expect("the admin port");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    parse(page)
}

/// The value of the sample that has these labels among its own.
fn value(metrics: &BTreeMap<String, Metric>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let base = name.trim_end_matches("_count").trim_end_matches("_sum");
    let samples = &metrics[base].samples;
    let has = |sample: &&Sample| {
        sample.name == name
            && labels
                .iter()
                .all(|(label, value)| sample.labels.get(*label).is_some_and(|have| have == value))
    };
    let found = samples.iter().find(has);
    found
        .unwrap_or_else(|| panic!("no {name} {labels:?}"))
        .value
}

fn total(metrics: &BTreeMap<String, Metric>, name: &str) -> f64 {
    value(metrics, name, &[("shard", "total")])
}

// ---------------------------------------------------------------------- the load

fn produce_request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(TopicName(text(topic)))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

fn produce(connection: &mut Connection, topic: &str, partition: i32, batch: Bytes) -> i16 {
    let answer = connection.call(&produce_request(topic, partition, batch), 9);
    answer.responses[0].partition_responses[0].error_code
}

fn fetch_request(session_epoch: i32, max_wait_ms: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(text(TOPIC)))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(session_epoch)
        .with_topics(vec![topic])
}

fn batch(value: &[u8]) -> Bytes {
    let mut batch = BatchBuilder::new();
    batch.push(1, None, Some(value));
    batch.build().into()
}

/// Appends that are new, again, refused and compressed anew.
fn produce_all_kinds(connection: &mut Connection) {
    for number in 0..BATCHES {
        let value = vec![7; BATCH_BYTES];
        assert_eq!(produce(connection, TOPIC, number % 4, batch(&value)), 0);
    }
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    let id = ProducerId(connection.call(&request, 4).producer_id.0);
    let mut once = BatchBuilder::new().producer(id, ProducerEpoch(0), 0);
    once.push(1, None, Some(b"once"));
    let once = Bytes::from(once.build());
    assert_eq!(produce(connection, TOPIC, 1, once.clone()), 0);
    assert_eq!(
        produce(connection, TOPIC, 1, once),
        0,
        "a duplicate is answered"
    );
    assert_eq!(produce(connection, GZIPPED, 0, batch(b"anew")), 0);
    let too_large = batch(&vec![7; 2_000_000]);
    assert_eq!(produce(connection, TOPIC, 0, too_large), 10);
}

/// Reads from the tail, from segments, and with a session; then the old segments go.
fn read_and_delete(broker: &Broker, connection: &mut Connection) {
    let is_cold = || client::read_partition(&broker.bootstrap(), TOPIC, 0, 0).len();
    assert_eq!(is_cold(), usize::try_from(BATCHES / 4).expect("a few"));
    client::produce(&broker.bootstrap(), TOPIC, 0, [b"newest".to_vec()], &[]);
    let newest = i64::from(BATCHES / 4);
    let answer = connection.call(&fetch_request(0, 0, newest), 12);
    assert!(
        answer.session_id != 0 && answer.error_code == 0,
        "{answer:?}"
    );
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(0)
        .with_offset(newest);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(text(TOPIC)))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    let answer = connection.call(&request, 2);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
}

fn send_garbage(broker: &Broker) {
    let mut stream = TcpStream::connect(broker.launch().address()).expect("accepted");
    stream.write_all(&[0xff; 16]).expect("taken");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest); // closed, or reset
}

#[test]
fn every_metric_moves_under_a_load_of_every_kind() {
    let dir = directory();
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, support::free_port()));
    let broker = Launch::new(dir.path())
        .set("scrub.interval.ms", "1000")
        .set("group.initial.rebalance.delay.ms", "0")
        .flag("--memory-per-shard", "32MiB")
        .admin(admin)
        .start();
    let small = [("segment.bytes", "2097152")];
    client::create_topic(&broker.bootstrap(), TOPIC, 4, &small);
    client::create_topic(
        &broker.bootstrap(),
        GZIPPED,
        1,
        &[("compression.type", "gzip")],
    );
    let mut connection = Connection::open(broker.launch().address());
    produce_all_kinds(&mut connection);
    read_and_delete(&broker, &mut connection);
    send_garbage(&broker);

    let settings = [
        ("session.timeout.ms", "6000"),
        ("enable.auto.commit", "false"),
    ];
    let member = client::consumer(&broker.bootstrap(), "team", &settings);
    member.subscribe(&[TOPIC]).expect("a valid subscription");
    assert!(!client::poll_records(&member, 1).is_empty());
    // Partition 1 is 25 records behind, whichever partition was delivered first.
    let mut behind = TopicPartitionList::new();
    behind
        .add_partition_offset(TOPIC, 1, Offset::Offset(0))
        .expect("a valid offset");
    member.commit(&behind, CommitMode::Sync).expect("committed");
    // A fetch that waits, seen from outside.
    let mut waiting = Connection::open(broker.launch().address());
    let end = i64::from(BATCHES / 4) + 1;
    let frame = waiting.frame(&fetch_request(-1, 20_000, end), 12);
    waiting.send(&frame);

    let may_be_zero: BTreeSet<&str> = MAY_BE_ZERO.iter().map(|(name, _)| *name).collect();
    let mut metrics = BTreeMap::new();
    let mut silent = Vec::new();
    // Consumer lag is looked up every 15 s, all others are there at once.
    let started = Instant::now();
    while started.elapsed() < client::LIMIT {
        let _ = member.poll(Duration::from_millis(500));
        metrics = scrape(admin);
        silent = metrics
            .iter()
            .filter(|(name, metric)| {
                let is_zero = |sample: &Sample| sample.value == 0.0 || sample.value.is_nan();
                !may_be_zero.contains(name.as_str()) && metric.samples.iter().all(is_zero)
            })
            .map(|(name, _)| name.clone())
            .collect();
        if silent.is_empty() {
            break;
        }
    }
    let is_alone = !metrics["corelog_connections"]
        .samples
        .iter()
        .any(|sample| sample.labels["shard"] == "1");
    silent.retain(|name| !(is_alone && name == "corelog_mesh_calls_total"));
    assert!(silent.is_empty(), "{silent:?} stayed 0");
    check_figures(&metrics);
}

/// A small counter's value.
fn whole(value: f64) -> u64 {
    value.to_string().parse().expect("a whole number")
}

/// What the load was, where it is known to the last record.
fn check_figures(metrics: &BTreeMap<String, Metric>) {
    let at_least = |name: &str, least: f64| {
        let value = total(metrics, name);
        assert!(value >= least, "{name} is {value}");
    };
    let count = |name: &str| whole(total(metrics, name));
    assert_eq!(count("corelog_duplicate_batches_total"), 1);
    assert_eq!(count("corelog_refused_batches_total"), 1);
    assert_eq!(count("corelog_recompressed_batches_total"), 1);
    assert_eq!(count("corelog_connections_refused_total"), 1);
    at_least("corelog_produced_batches_total", f64::from(BATCHES) + 3.0);
    at_least(
        "corelog_produced_bytes_total",
        f64::from(BATCHES) * 500_000.0,
    );
    at_least("corelog_fetched_file_bytes_total", 1_000_000.0);
    at_least("corelog_flush_latency_seconds_count", 10.0);
    at_least(
        "corelog_commit_size_bytes_sum",
        f64::from(BATCHES) * 500_000.0,
    );
    for pool in ["request", "tail", "disk", "response"] {
        let labels = [("shard", "total"), ("pool", pool)];
        assert!(
            value(metrics, "corelog_memory_limit_bytes", &labels) > 1e6,
            "{pool}"
        );
    }
    let errors = |api| {
        let labels = [("shard", "total"), ("api", api)];
        whole(value(metrics, "corelog_request_errors_total", &labels))
    };
    assert_eq!(errors("Produce"), 1);
    assert_eq!(errors("DeleteRecords"), 0);
    let lag = value(
        metrics,
        "corelog_consumer_lag",
        &[("group", "team"), ("topic", TOPIC)],
    );
    assert!(lag >= f64::from(BATCHES / 4), "the lag is {lag}");
}

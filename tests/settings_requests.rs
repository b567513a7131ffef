//! Every setting of groups, offsets, connections, requests and producers has an effect.

mod running_broker;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelog::client::assignor;
use corelog::client::connection::Connection;
use corelog::client::fetcher::Fetcher;
use corelog::config::address::HostPort;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{ProducerEpoch, ProducerId};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, FetchRequest, GroupId,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, JoinGroupResponse,
    OffsetCommitRequest, ProduceRequest, TopicName, TransactionalId, alter_configs_request,
};
use kafka_protocol::protocol::StrBytes;

use running_broker::{Broker, eventually};
use socket2::{Domain, Socket, Type};

const COORDINATOR_LOADING: i16 = 14;
const NOT_COORDINATOR: i16 = 16;
const INVALID_SESSION_TIMEOUT: i16 = 26;
const GROUP_MAX_SIZE_REACHED: i16 = 81;
const INVALID_CONFIG: i16 = 40;
const OFFSET_METADATA_TOO_LARGE: i16 = 12;
/// No client asks again after this.
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
const OUT_OF_ORDER_SEQUENCE: i16 = 45;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn connect(broker: &Broker) -> Connection {
    let address = HostPort::parse(broker.address()).expect("host and port");
    Connection::open(&address).expect("the broker answers")
}

/// Joins a group (version 3: no second round for a member id).
fn join(broker: &Broker, group: &str, session_timeout_ms: i32) -> JoinGroupResponse {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(assignor::encode_subscription(&["t".to_owned()]));
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(session_timeout_ms)
        .with_rebalance_timeout_ms(1_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    eventually("the group has its coordinator", || {
        let response = connect(broker).call(&request, 3).expect("an answer");
        let is_loading = matches!(response.error_code, COORDINATOR_LOADING | NOT_COORDINATOR);
        (!is_loading).then_some(response)
    })
}

#[test]
fn group_min_and_max_session_timeout_bound_what_a_member_may_ask() {
    let broker = Broker::with_settings(&[
        "group.min.session.timeout.ms=5000",
        "group.max.session.timeout.ms=7000",
    ]);
    for (timeout, code) in [
        (4_999, INVALID_SESSION_TIMEOUT),
        (7_001, INVALID_SESSION_TIMEOUT),
        (6_000, 0),
    ] {
        assert_eq!(join(&broker, "g", timeout).error_code, code, "{timeout}");
    }
}

#[test]
fn group_max_size_refuses_one_member_more() {
    let broker = Broker::with_settings(&["group.max.size=1"]);
    assert_eq!(join(&broker, "g", 10_000).error_code, 0);
    assert_eq!(
        join(&broker, "g", 10_000).error_code,
        GROUP_MAX_SIZE_REACHED
    );
}

#[test]
fn group_initial_rebalance_delay_ms_holds_the_first_join_back() {
    let time = |setting: &str| {
        let broker = Broker::with_settings(&[setting]);
        assert_eq!(join(&broker, "warm-up", 10_000).error_code, 0);
        let start = Instant::now();
        assert_eq!(join(&broker, "g", 10_000).error_code, 0);
        start.elapsed()
    };
    assert!(time("group.initial.rebalance.delay.ms=700") >= Duration::from_millis(700));
    assert!(time("group.initial.rebalance.delay.ms=0") < Duration::from_millis(600));
}

/// Commits offset 1 of partition 0 of `t` for a group without members; the error code.
fn commit(broker: &Broker, metadata: &str) -> i16 {
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(1)
        .with_committed_metadata(Some(text(metadata)));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text("t")))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    eventually("the group has its coordinator", || {
        let response = connect(broker).call(&request, 8).expect("an answer");
        let code = response.topics[0].partitions[0].error_code;
        (!matches!(code, COORDINATOR_LOADING | NOT_COORDINATOR)).then_some(code)
    })
}

#[test]
fn offset_metadata_max_bytes_refuses_longer_texts() {
    let broker = Broker::with_settings(&["offset.metadata.max.bytes=5"]);
    broker.text(&["topic", "create", "t"]);
    assert_eq!(commit(&broker, "12345"), 0);
    assert_eq!(commit(&broker, "123456"), OFFSET_METADATA_TOO_LARGE);
}

#[test]
fn offsets_topic_num_partitions_is_taken_when_the_topic_is_made() {
    let broker = Broker::with_settings(&["offsets.topic.num.partitions=7"]);
    broker.text(&["topic", "create", "t"]);
    assert_eq!(commit(&broker, ""), 0);
    let count = |broker: &Broker| {
        let listed = broker.json(&["topic", "list", "--internal"]);
        let all = listed.as_array().expect("topics").clone();
        let found = all
            .into_iter()
            .find(|topic| topic["topic"] == "__consumer_offsets");
        found.expect("the offsets topic")["partitions"].as_u64()
    };
    assert_eq!(count(&broker), Some(7));
    // another number later moves nothing: the offsets are where they were
    let broker = broker.restart(&["--set", "offsets.topic.num.partitions=9"]);
    assert_eq!(count(&broker), Some(7));
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(described[0]["partitions"][0]["committed"], 1, "{described}");
}

#[test]
fn offsets_retention_minutes_and_check_interval_expire_the_offsets_of_an_empty_group() {
    let broker = Broker::with_settings(&[
        "offsets.retention.minutes=1",
        "offsets.retention.check.interval.ms=500",
    ]);
    broker.text(&["topic", "create", "t"]);
    assert_eq!(commit(&broker, ""), 0);
    std::thread::sleep(Duration::from_secs(45));
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(described[0]["partitions"][0]["committed"], 1, "{described}");
    eventually("the offsets have expired", || {
        (broker.run(&["group", "describe", "g"]).status.code() == Some(1)).then_some(())
    });
}

/// Whether the broker closes the connection within this time.
fn is_closed_within(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).expect("a socket");
    matches!(stream.read(&mut [0; 16]), Ok(0))
}

#[test]
fn socket_request_max_bytes_closes_on_a_larger_request() {
    let broker = Broker::with_settings(&["socket.request.max.bytes=2000000"]);
    for (size, is_closed) in [(2_000_001_u32, true), (1_999_999, false)] {
        let mut stream = broker.socket();
        stream.write_all(&size.to_be_bytes()).expect("taken");
        stream.write_all(&[0, 3, 0, 0]).expect("taken"); // Metadata, version 0
        assert_eq!(
            is_closed_within(&mut stream, Duration::from_secs(1)),
            is_closed,
            "{size}"
        );
    }
}

#[test]
fn connections_max_idle_ms_closes_silent_connections() {
    let broker = Broker::with_settings(&["connections.max.idle.ms=300"]);
    let start = Instant::now();
    assert!(is_closed_within(
        &mut broker.socket(),
        Duration::from_secs(10)
    ));
    assert!(
        start.elapsed() >= Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
    let broker = broker.restart(&["--set", "connections.max.idle.ms=-1"]);
    assert!(!is_closed_within(
        &mut broker.socket(),
        Duration::from_secs(1)
    ));
}

#[test]
fn max_connections_closes_what_is_too_many() {
    let broker = Broker::start(&["--set", "cores=0", "--set", "max.connections=2"]);
    let first = connect(&broker);
    let second = connect(&broker);
    eventually("the third connection is closed", || {
        is_closed_within(&mut broker.socket(), Duration::from_millis(500)).then_some(())
    });
    drop((first, second));
    eventually("there is room again", || {
        (!is_closed_within(&mut broker.socket(), Duration::from_millis(300))).then_some(())
    });
}

/// A connection from another address of this machine.
fn socket_from(broker: &Broker, own: [u8; 4]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own = SocketAddr::from((own, 0));
    socket.bind(&own.into()).expect("all of 127/8 is loopback");
    let address: SocketAddr = broker.address().parse().expect("an address");
    socket.connect(&address.into()).expect("accepted");
    socket.into()
}

/// How many of `count` connections from this address stay open; they close at the end.
fn accepted_from(broker: &Broker, own: [u8; 4], count: usize) -> usize {
    let sockets: Vec<TcpStream> = (0..count).map(|_| socket_from(broker, own)).collect();
    let served = |mut socket: TcpStream| {
        // ApiVersions v0: an answer, or the end
        let asked = socket.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
        let wait = socket.set_read_timeout(Some(Duration::from_secs(10)));
        wait.expect("a socket");
        (asked.is_ok() && socket.read_exact(&mut [0; 4]).is_ok()).then_some(socket)
    };
    let served: Vec<TcpStream> = sockets.into_iter().filter_map(served).collect();
    served.len()
}

#[test]
fn max_connections_per_ip_and_its_overrides_bound_each_address_over_all_shards() {
    let broker = Broker::with_settings(&[
        "max.connections.per.ip=3",
        "max.connections.per.ip.overrides=127.0.0.3:5, 127.0.0.4:0",
    ]);
    eventually(
        "the connection that asked whether it is ready is gone",
        || (accepted_from(&broker, [127, 0, 0, 1], 3) == 3).then_some(()),
    );
    assert_eq!(accepted_from(&broker, [127, 0, 0, 2], 10), 3);
    assert_eq!(accepted_from(&broker, [127, 0, 0, 3], 10), 5);
    assert_eq!(accepted_from(&broker, [127, 0, 0, 4], 10), 0);
    eventually("places are free again when connections end", || {
        (accepted_from(&broker, [127, 0, 0, 2], 3) == 3).then_some(())
    });
    let log = broker.log();
    let line = log
        .lines()
        .find(|line| line.contains("max.connections.per.ip reached"));
    assert!(line.is_some_and(|line| line.contains("127.0.0.")), "{log}");
}

/// What the kernel keeps for the broker's end of this connection: sent and not taken by the
/// client, received and not read by the broker.
fn kernel_queues(broker: &Broker, client: &TcpStream) -> (usize, usize) {
    let port = |address: &str| {
        address
            .rsplit(':')
            .next()
            .and_then(|p| p.parse::<u16>().ok())
    };
    let ends = (
        port(broker.address()).expect("a port"),
        client.local_addr().expect("bound").port(),
    );
    let wanted = format!(":{:04X} 0100007F:{:04X} 01 ", ends.0, ends.1);
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let line = table.lines().find_map(|line| line.split_once(&wanted));
    let (_, rest) = line.expect("an open connection");
    let (sent, received) = rest[..17].split_once(':').expect("two queues");
    let number = |hex: &str| usize::from_str_radix(hex, 16).expect("a number");
    (number(sent), number(received))
}

/// A Fetch v4 of all of `t`, which waits `wait_ms` for a first byte.
fn plain_fetch(wait_ms: i32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend([0, 1, 0, 4, 0, 0, 0, 1, 0xff, 0xff]); // Fetch v4, no client id
    body.extend((-1_i32).to_be_bytes());
    body.extend(wait_ms.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(i32::MAX.to_be_bytes());
    body.push(0);
    body.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1]);
    body.extend(0_i32.to_be_bytes());
    body.extend(0_i64.to_be_bytes());
    body.extend(i32::MAX.to_be_bytes());
    let length = u32::try_from(body.len()).expect("small");
    [&length.to_be_bytes()[..], &body].concat()
}

/// A client with small buffers of its own, so that the broker's show.
fn narrow_client(broker: &Broker) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    socket.set_send_buffer_size(4096).expect("set");
    let address: SocketAddr = broker.address().parse().expect("an address");
    socket.connect(&address.into()).expect("accepted");
    socket.into()
}

#[test]
fn socket_send_buffer_bytes_bounds_what_waits_for_a_client_that_does_not_read() {
    let waiting = |setting: &str| {
        let broker = Broker::with_settings(&[setting]);
        broker.text(&["topic", "create", "t"]);
        broker.produce(&["t"], &format!("{}\n", "x".repeat(500)).repeat(2_000));
        let mut client = narrow_client(&broker);
        client.write_all(&plain_fetch(0)).expect("taken");
        let (mut last, mut same) = (0, 0);
        eventually("the buffer is full", || {
            let (sent, _) = kernel_queues(&broker, &client);
            same = if sent == last { same + 1 } else { 0 };
            last = sent;
            (sent > 0 && same >= 10).then_some(sent)
        })
    };
    let (small, large) = (
        waiting("socket.send.buffer.bytes=8192"),
        waiting("socket.send.buffer.bytes=200000"),
    );
    assert!(small <= 2 * 8192, "{small}");
    assert!(large >= 50_000, "{large}");
}

#[test]
fn socket_receive_buffer_bytes_bounds_what_waits_for_the_broker() {
    let waiting = |setting: &str| {
        let broker = Broker::with_settings(&[setting]);
        broker.text(&["topic", "create", "t"]);
        let mut client = narrow_client(&broker);
        // nothing behind a Fetch that waits is answered, and little of it read
        client.write_all(&plain_fetch(60_000)).expect("taken");
        let time = Some(Duration::from_millis(500));
        client.set_write_timeout(time).expect("a socket");
        while client.write(&plain_fetch(0)).is_ok() {}
        kernel_queues(&broker, &client).1
    };
    let (small, large) = (
        waiting("socket.receive.buffer.bytes=8192"),
        waiting("socket.receive.buffer.bytes=200000"),
    );
    assert!(small <= 2 * 8192, "{small}");
    assert!(
        large >= 3 * small,
        "{large} of at most 200000, {small} of 8192"
    );
}

#[test]
fn fetch_max_bytes_bounds_one_response() {
    let broker = Broker::with_settings(&["fetch.max.bytes=20000"]);
    broker.text(&["topic", "create", "t"]);
    let mut lines = String::new();
    for number in 0..10 {
        let _ = writeln!(lines, "{number:09000}");
    }
    for line in lines.lines() {
        broker.produce(&["t"], &format!("{line}\n"));
    }
    let start = BTreeMap::from([(("t".to_owned(), 0), 0)]);
    let mut client = broker.client();
    let round = Fetcher::new(start)
        .poll(&mut client, Duration::from_secs(5))
        .expect("fetched");
    let size = round.fetched[0].records().len();
    assert!((9_000..=20_000).contains(&size), "{size} of 90,000 bytes");
}

/// Asks for a new fetch session; its id, or 0.
fn fetch_session(broker: &Broker) -> i32 {
    let partition = FetchPartition::default()
        .with_current_leader_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1_000);
    let topic = FetchTopic::default()
        .with_topic(TopicName(text("t")))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_bytes(1_000)
        .with_session_epoch(0)
        .with_topics(vec![topic]);
    let response = connect(broker).call(&request, 11).expect("an answer");
    assert_eq!(response.responses[0].partitions[0].error_code, 0);
    response.session_id
}

#[test]
fn max_incremental_fetch_session_cache_slots_bounds_the_sessions() {
    let setting = "max.incremental.fetch.session.cache.slots=2";
    let broker = Broker::start(&["--set", "cores=0", "--set", setting]);
    broker.text(&["topic", "create", "t"]);
    assert!(fetch_session(&broker) > 0);
    assert!(fetch_session(&broker) > 0);
    assert_eq!(fetch_session(&broker), 0, "a third one has no room");
    let none = "max.incremental.fetch.session.cache.slots=0";
    let broker = broker.restart(&["--set", none]);
    assert_eq!(fetch_session(&broker), 0);
}

fn produce_with_sequence(broker: &Broker, id: i64, sequence: i32) -> i16 {
    let mut batch = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(0), sequence);
    batch.push(1, None, Some(b"value"));
    let data = PartitionProduceData::default().with_records(Some(Bytes::from(batch.build())));
    let topic = TopicProduceData::default()
        .with_name(TopicName(text("t")))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![topic]);
    let response = connect(broker).call(&request, 8).expect("an answer");
    response.responses[0].partition_responses[0].error_code
}

#[test]
fn producer_id_expiration_ms_forgets_idle_producers() {
    let broker = Broker::with_settings(&[
        "producer.id.expiration.ms=300",
        "log.retention.check.interval.ms=100",
    ]);
    broker.text(&["topic", "create", "t"]);
    assert_eq!(produce_with_sequence(&broker, 77, 0), 0);
    eventually(
        "the producer is forgotten, so that any sequence begins anew",
        || {
            let code = produce_with_sequence(&broker, 77, 9);
            assert!(code == 0 || code == OUT_OF_ORDER_SEQUENCE, "{code}");
            (code == 0).then_some(())
        },
    );
    let broker = broker.restart(&[]);
    assert_eq!(produce_with_sequence(&broker, 78, 0), 0);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(produce_with_sequence(&broker, 78, 9), OUT_OF_ORDER_SEQUENCE);
}

#[test]
fn transaction_max_timeout_ms_refuses_longer_ones() {
    let broker = Broker::with_settings(&["transaction.max.timeout.ms=1000"]);
    let ask = |timeout: i32| {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text("tx"))))
            .with_transaction_timeout_ms(timeout);
        connect(&broker)
            .call(&request, 4)
            .expect("an answer")
            .error_code
    };
    assert_eq!(ask(1001), INVALID_TRANSACTION_TIMEOUT);
    let no_transactions = ask(1000);
    assert_eq!(no_transactions, TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
}

const BROKER_RESOURCE: i8 = 4;
const GROUP_RESOURCE: i8 = 32;

/// IncrementalAlterConfigs of one setting; the error code.
fn alter(broker: &Broker, (kind, of): (i8, &str), name: &str, value: &str) -> i16 {
    let change = AlterableConfig::default()
        .with_name(text(name))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configs(vec![change]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    connect(broker)
        .call(&request, 1)
        .expect("an answer")
        .responses[0]
        .error_code
}

/// AlterConfigs: this setting and no other; the error code.
fn replace(broker: &Broker, (kind, of): (i8, &str), name: &str, value: &str) -> i16 {
    let setting = alter_configs_request::AlterableConfig::default()
        .with_name(text(name))
        .with_value(Some(text(value)));
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configs(vec![setting]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    connect(broker)
        .call(&request, 2)
        .expect("an answer")
        .responses[0]
        .error_code
}

#[test]
fn a_setting_without_effect_warns_at_the_start_and_whenever_it_is_altered() {
    let broker = Broker::with_settings(&["log.format=json", "num.io.threads=8"]);
    let warnings = |setting: &str| -> Vec<serde_json::Value> {
        let log = broker.log();
        let lines = log.lines().map(serde_json::from_str);
        lines
            .map(|line: Result<serde_json::Value, _>| line.expect("one object a line"))
            .filter(|line| line["level"] == "WARN" && line["setting"] == setting)
            .collect()
    };
    let count = |setting: &str| warnings(setting).len();
    assert_eq!(count("num.io.threads"), 1);
    assert_eq!(count("num.network.threads"), 0);
    let (this, all, group) = (
        (BROKER_RESOURCE, "1"),
        (BROKER_RESOURCE, ""),
        (GROUP_RESOURCE, "g"),
    );
    assert_eq!(alter(&broker, this, "num.io.threads", "9"), 0);
    assert_eq!(count("num.io.threads"), 2);
    assert_eq!(replace(&broker, this, "log.flush.interval.ms", "5"), 0);
    assert_eq!(count("log.flush.interval.ms"), 1);
    assert_eq!(replace(&broker, all, "num.network.threads", "4"), 0);
    assert_eq!(count("num.network.threads"), 1);
    assert_eq!(alter(&broker, all, "background.threads", "4"), 0);
    assert_eq!(count("background.threads"), 1);
    let name = "consumer.heartbeat.interval.ms";
    assert_eq!(alter(&broker, group, name, "6000"), 0);
    let [of_group] = &warnings(name)[..] else {
        panic!("{}", broker.log())
    };
    assert_eq!(of_group["group"], "g", "{of_group}");
    // one that has an effect, one that is refused
    assert_eq!(replace(&broker, this, "message.max.bytes", "2000"), 0);
    assert_eq!(
        alter(&broker, this, "num.io.threads", "many"),
        INVALID_CONFIG
    );
    assert_eq!(count("message.max.bytes"), 0);
    assert_eq!(count("num.io.threads"), 2);
}

#[test]
fn settings_of_a_group_are_checked_kept_and_given_back() {
    let name = "consumer.session.timeout.ms";
    let group = (GROUP_RESOURCE, "g");
    let broker = Broker::start(&[]);
    assert_eq!(alter(&broker, group, name, "50000"), 0);
    assert_eq!(alter(&broker, group, name, "1"), INVALID_CONFIG);
    assert_eq!(alter(&broker, group, "retention.ms", "1"), INVALID_CONFIG);
    let broker = broker.restart(&[]);
    let resource = DescribeConfigsResource::default()
        .with_resource_type(GROUP_RESOURCE)
        .with_resource_name(text("g"))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = connect(&broker).call(&request, 4).expect("an answer");
    let configs = &response.results[0].configs;
    let found = configs
        .iter()
        .find(|row| row.name.as_str() == name)
        .expect("described");
    assert_eq!(found.value.as_deref(), Some("50000"));
}

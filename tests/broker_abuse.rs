//! Memory of a whole broker under clients that ask for as much of it as they can.
//!
//! Each test has a broker of one small shard, and measures the peak of its resident memory as the
//! kernel counts it.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DescribeConfigsRequest, FetchRequest, GroupId,
    HeartbeatRequest, JoinGroupRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest, TopicName,
};
use support::raw::{Connection, text};
use support::watch::peak_bytes;
use support::{Broker, Launch, client, directory};

/// What the shard of these tests is given.
const BUDGET_BYTES: u64 = 32 << 20;
/// What a broker of one shard may take beside its budget, whatever clients do.
const BESIDE_BYTES: u64 = 64 << 20;

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const INVALID_REQUEST: i16 = 42;
const POLICY_VIOLATION: i16 = 44;

/// A broker of one shard with the least memory there is; sockets hold little of its answers.
fn start(dir: &Path) -> Broker {
    start_with(dir, &[])
}

fn start_with(dir: &Path, settings: &[(&str, &str)]) -> Broker {
    let launch = Launch::new(dir)
        .flag("--cores", "0")
        .flag("--memory-per-shard", "32MiB")
        .flag("--journal-size", "16MiB")
        .set("socket.send.buffer.bytes", "4096");
    let set = |launch: Launch, (name, value): &(&str, &str)| launch.set(name, value);
    settings.iter().fold(launch, set).start()
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

/// Metadata v1 of one topic, named `times` times.
fn metadata(topic: &str, times: usize) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(count(times));
    for _ in 0..times {
        put_text(&mut body, topic);
    }
    frame(METADATA, 1, &body)
}

#[test]
fn a_topic_named_many_times_is_described_once() {
    let dir = directory();
    let broker = start(dir.path());
    client::create_topic(&broker.bootstrap(), "served", 100, &[]);
    let streams: Vec<TcpStream> = (0..12)
        .map(|_| send_unread(&broker, &metadata("served", 3_000)))
        .collect();
    settle();
    assert_bounded(&broker);
    drop(streams);
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text("served"))));
    let request = MetadataRequest::default().with_topics(Some(vec![topic; 3]));
    let answer = Connection::open(broker.launch().address()).call(&request, 12);
    assert_eq!(answer.topics.len(), 1);
    assert_eq!(answer.topics[0].partitions.len(), 100);
}

#[test]
fn settings_asked_for_many_times_do_not_fill_the_memory() {
    const BROKER: i8 = 4;
    let dir = directory();
    let broker = start(dir.path());
    let resource = DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(text("1"))
        .with_configuration_keys(None);
    let asked = |times: usize| {
        DescribeConfigsRequest::default()
            .with_resources(vec![resource.clone(); times])
            .with_include_synonyms(true)
            .with_include_documentation(true)
    };
    let address = broker.launch().address();
    let unread: Vec<Connection> = (0..200)
        .map(|number| {
            let mut connection = Connection::open(address);
            let frame = connection.frame(&asked(if number < 4 { 3_000 } else { 10 }), 4);
            connection.send(&frame);
            connection
        })
        .collect();
    settle();
    assert_bounded(&broker);
    drop(unread);
    let answer = Connection::open(address).call(&asked(3_000), 4);
    let codes: Vec<i16> = answer.results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes.len(), 3_000);
    assert_eq!((codes[0], codes[2_999]), (0, POLICY_VIOLATION));
}

#[test]
fn texts_beside_offsets_are_told_once() {
    let dir = directory();
    let broker = start(dir.path());
    let bootstrap = broker.bootstrap();
    client::create_topic(&bootstrap, "served", 1, &[]);
    let mut connection = Connection::open(broker.launch().address());
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(1)
        .with_committed_metadata(Some(text(&"t".repeat(4_000))));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text("served")))
        .with_partitions(vec![partition]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("readers")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let started = Instant::now();
    while connection.call(&commit, 8).topics[0].partitions[0].error_code != 0 {
        assert!(started.elapsed() < client::LIMIT, "not committed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let topic = OffsetFetchRequestTopics::default()
        .with_name(TopicName(text("served")))
        .with_partition_indexes(vec![0; 6_000]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text("readers")))
        .with_topics(Some(vec![topic]));
    let request = OffsetFetchRequest::default().with_groups(vec![group.clone(), group]);
    let answer = connection.call(&request, 8);
    assert_eq!(answer.groups[0].topics[0].partitions.len(), 1);
    let metadata = &answer.groups[0].topics[0].partitions[0].metadata;
    assert_eq!(metadata.as_ref().map(|text| text.len()), Some(4_000));
    assert_eq!(answer.groups[1].error_code, INVALID_REQUEST);
    assert_bounded(&broker);
}

#[test]
fn one_request_creates_ten_thousand_partitions_at_most() {
    let dir = directory();
    let broker = start(dir.path());
    let mut connection = Connection::open(broker.launch().address());
    let asked = |topics: usize, partitions: i32| {
        let topics = (0..topics).map(|number| {
            CreatableTopic::default()
                .with_name(TopicName(text(&format!("topic-{number}"))))
                .with_num_partitions(partitions)
                .with_replication_factor(1)
        });
        CreateTopicsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(1_000)
    };
    for (topics, partitions) in [(10_001, 1), (2, 6_000), (10_001, -1)] {
        let answer = connection.call(&asked(topics, partitions), 7);
        assert_eq!(answer.topics.len(), topics);
        let is_refused = |topic: &CreatableTopicResult| topic.error_code == POLICY_VIOLATION;
        assert!(answer.topics.iter().all(is_refused));
    }
    let check_only = asked(1_200, 1).with_validate_only(true);
    let answer = connection.call(&check_only, 7);
    assert_eq!(answer.topics[1_199].error_code, 0);
    assert_eq!(answer.topics[1_199].configs, None, "not so many settings");
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let more = CreatePartitionsTopic::default()
        .with_name(TopicName(text("served")))
        .with_count(10_002)
        .with_assignments(None);
    let more = CreatePartitionsRequest::default()
        .with_topics(vec![more])
        .with_timeout_ms(1_000);
    let answer = connection.call(&more, 3);
    assert_eq!(answer.results[0].error_code, POLICY_VIOLATION);
    assert_bounded(&broker);
}

/// Metadata of no topic, answered within a second although others wait.
#[track_caller]
fn assert_answers_at_once(broker: &Broker) {
    let started = Instant::now();
    let mut connection = Connection::open(broker.launch().address());
    connection.call(
        &MetadataRequest::default().with_topics(Some(Vec::new())),
        12,
    );
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "answered after {took:?}");
}

#[test]
fn fetches_of_everything_that_wait_hold_nothing_that_others_need() {
    const CONSUMERS: usize = 400;
    const PARTITIONS: i32 = 400;
    let dir = directory();
    let broker = start(dir.path());
    client::create_topic(&broker.bootstrap(), "quiet", PARTITIONS, &[]);
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let partitions = (0..PARTITIONS).map(|partition| {
        FetchPartition::default()
            .with_partition(partition)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default()
        .with_topic(TopicName(text("quiet")))
        .with_partitions(partitions.collect());
    let request = FetchRequest::default()
        .with_max_wait_ms(60_000)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let mut consumers: Vec<Connection> = (0..CONSUMERS)
        .map(|_| {
            let mut connection = Connection::open(broker.launch().address());
            let frame = connection.frame(&request, 12);
            connection.send(&frame);
            connection
        })
        .collect();
    settle();
    assert_answers_at_once(&broker);
    assert_bounded(&broker);
    // those for whom there was no room have an empty answer, the others wait
    let last = consumers.last_mut().expect("many");
    let answer = last.receive::<FetchRequest>(12);
    assert_eq!(answer.error_code, 0);
}

#[test]
fn members_that_wait_for_their_group_hold_nothing_that_others_need() {
    const MEMBERS: usize = 200;
    let dir = directory();
    let broker = start_with(dir.path(), &[("group.initial.rebalance.delay.ms", "8000")]);
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from(vec![7; 20_000]));
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text("large")))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let join = || {
        let mut connection = Connection::open(broker.launch().address());
        let frame = connection.frame(&request, 3); // a member joins without an id
        connection.send(&frame);
        connection
    };
    drop(join()); // the topic of the offsets is made, and loaded
    settle();
    let members: Vec<Connection> = (0..MEMBERS).map(|_| join()).collect();
    std::thread::sleep(Duration::from_secs(1));
    assert_answers_at_once(&broker);
    let generations: Vec<i32> = members
        .into_iter()
        .map(|mut member| member.receive::<JoinGroupRequest>(3).generation_id)
        .collect();
    assert!(
        generations
            .iter()
            .all(|generation| *generation == generations[0])
    );
    assert_bounded(&broker);
}

/// A member of a group of its own, which has its assignment.
struct Member {
    connection: Connection,
    heartbeat: HeartbeatRequest,
}

impl Member {
    fn join(broker: &Broker) -> Self {
        let mut connection = Connection::open(broker.launch().address());
        let group = || GroupId(text("beating"));
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        let join = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let started = Instant::now();
        let joined = loop {
            let joined = connection.call(&join, 3);
            if joined.error_code == 0 {
                break joined;
            }
            assert!(started.elapsed() < client::LIMIT, "{}", joined.error_code);
            std::thread::sleep(Duration::from_millis(100));
        };
        let sync = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone());
        assert_eq!(connection.call(&sync, 3).error_code, 0);
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id);
        Self {
            connection,
            heartbeat,
        }
    }

    /// The longest time that a heartbeat took, of those sent in `time`.
    fn beat_for(&mut self, time: Duration) -> Duration {
        let started = Instant::now();
        let mut longest = Duration::ZERO;
        while started.elapsed() < time {
            let sent = Instant::now();
            assert_eq!(self.connection.call(&self.heartbeat, 3).error_code, 0);
            longest = longest.max(sent.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        longest
    }
}

#[test]
fn heartbeats_pass_while_produce_is_held_back() {
    const PRODUCERS: usize = 50;
    let dir = directory();
    let broker = start_with(dir.path(), &[("group.initial.rebalance.delay.ms", "0")]);
    client::create_topic(&broker.bootstrap(), "served", 1, &[]);
    let mut member = Member::join(&broker);
    // the first frames fill the pool, the others wait for it; no body ever comes
    let size: i32 = 5 << 20;
    let head = [&size.to_be_bytes()[..], &[0, 0, 0, 7]].concat(); // Produce v7
    let held: Vec<TcpStream> = (0..PRODUCERS)
        .map(|_| send_unread(&broker, &head))
        .collect();
    let longest = member.beat_for(Duration::from_secs(3));
    assert!(
        longest < Duration::from_millis(500),
        "a heartbeat took {longest:?}"
    );
    drop(held);
    assert_bounded(&broker);
}

#[test]
fn a_noisy_connection_does_not_starve_the_others_of_its_shard() {
    let dir = directory();
    let broker = start_with(dir.path(), &[("group.initial.rebalance.delay.ms", "0")]);
    client::create_topic(&broker.bootstrap(), "served", 100, &[]);
    let mut member = Member::join(&broker);
    let quiet = member.beat_for(Duration::from_secs(1));
    // as many requests as the sockets take, of the kinds that cost most, answers read as they come
    let noise = [
        metadata("served", 1).repeat(500),
        empty_produce("served", 2_000),
    ];
    let noisy: Vec<TcpStream> = (0..noise.len())
        .map(|_| TcpStream::connect(broker.launch().address()).expect("accepted"))
        .collect();
    let longest = std::thread::scope(|scope| {
        for (mut stream, bytes) in noisy.iter().zip(&noise) {
            scope.spawn(move || while stream.write_all(bytes).is_ok() {});
            scope.spawn(move || {
                let mut room = vec![0; 1 << 16];
                while matches!(stream.read(&mut room), Ok(1..)) {}
            });
        }
        let longest = member.beat_for(Duration::from_secs(3));
        for stream in &noisy {
            stream.shutdown(Shutdown::Both).expect("still connected");
        }
        longest
    });
    eprintln!("heartbeats: {quiet:?} alone, {longest:?} beside a noisy connection");
    assert!(
        longest < Duration::from_millis(500),
        "a heartbeat took {longest:?}"
    );
    assert_bounded(&broker);
}

#[test]
fn groups_without_end_are_told_to_come_back_and_those_that_are_there_go_on() {
    const GROUPS: usize = 250;
    const PARTITIONS: i32 = 100;
    const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    let dir = directory();
    let broker = start(dir.path());
    client::create_topic(&broker.bootstrap(), "served", PARTITIONS, &[]);
    let mut connection = Connection::open(broker.launch().address());
    let commit = |group: usize, offset: i64| {
        let partitions = (0..PARTITIONS).map(|partition| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
                .with_committed_metadata(Some(text(&"t".repeat(4_000))))
        });
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("served")))
            .with_partitions(partitions.collect());
        OffsetCommitRequest::default()
            .with_group_id(GroupId(text(&format!("group-{group}"))))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    };
    let mut code = |group: usize, offset: i64| {
        let answer = connection.call(&commit(group, offset), 8);
        let partitions = &answer.topics[0].partitions;
        partitions.iter().map(|p| p.error_code).max().expect("some")
    };
    let started = Instant::now();
    while code(0, 1) != 0 {
        assert!(started.elapsed() < client::LIMIT, "not committed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let codes: Vec<i16> = (1..GROUPS).map(|group| code(group, 1)).collect();
    let taken = codes.iter().filter(|code| **code == 0).count();
    assert!((5..50).contains(&taken), "{taken} of {GROUPS} groups");
    assert_eq!(codes.last(), Some(&COORDINATOR_NOT_AVAILABLE));
    assert_eq!(code(0, 2), 0, "an offset that is there moves on");
    assert_bounded(&broker);
}

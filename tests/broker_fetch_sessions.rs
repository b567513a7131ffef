//! Fetch sessions (KIP-227) over a socket: requests and answers name only what changed.

mod support;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, FetchResponse, TopicName,
};
use support::raw::{Connection, text};
use support::{Broker, Launch, client, directory};
use uuid::Uuid;

const TOPIC: &str = "watched";
const CREATE: (i32, i32) = (0, 0);
/// No partition is told of.
const NOTHING: [i32; 0] = [];
/// The last version that names topics, and one that has their ids.
const BY_NAME: i16 = 12;
const BY_ID: i16 = 16;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const UNKNOWN_TOPIC_ID: i16 = 100;
const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;

/// One home for all partitions, so that every connection finds its session.
fn start(dir: &tempfile::TempDir) -> Broker {
    Launch::new(dir.path()).flag("--cores", "0").start()
}

fn connect(broker: &Broker) -> Connection {
    Connection::open(broker.launch().address())
}

/// A topic's part of a request: partitions with their offsets.
fn topic(name: &str, id: Uuid, partitions: &[(i32, i64)]) -> FetchTopic {
    let partitions = partitions.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(*offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(1 << 20)
    });
    FetchTopic::default()
        .with_topic(TopicName(text(name)))
        .with_topic_id(id)
        .with_partitions(partitions.collect())
}

fn request((id, epoch): (i32, i32), topics: Vec<FetchTopic>) -> FetchRequest {
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_id(id)
        .with_session_epoch(epoch)
        .with_topics(topics)
}

fn watched(partitions: &[(i32, i64)]) -> Vec<FetchTopic> {
    vec![topic(TOPIC, Uuid::nil(), partitions)]
}

fn nothing_new(session: (i32, i32)) -> FetchRequest {
    request(session, Vec::new())
}

/// What an answer tells: partition, error, bytes of records.
fn told(response: &FetchResponse) -> Vec<(i32, i16, usize)> {
    assert_eq!(response.error_code, 0, "{response:?}");
    let partitions = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions);
    partitions
        .map(|p| {
            let records = p.records.as_ref().map_or(0, bytes::Bytes::len);
            (p.partition_index, p.error_code, records)
        })
        .collect()
}

/// Partitions told of, each without an error.
fn partitions(response: &FetchResponse) -> Vec<i32> {
    let told = told(response);
    assert!(told.iter().all(|(_, error, _)| *error == 0), "{told:?}");
    told.into_iter().map(|(partition, ..)| partition).collect()
}

fn produce(broker: &Broker, partition: i32) {
    client::produce(
        &broker.bootstrap(),
        TOPIC,
        partition,
        [b"record".to_vec()],
        &[],
    );
}

#[test]
fn a_session_names_only_what_changed() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), TOPIC, 4, &[]);
    let mut consumer = connect(&broker);
    let all = watched(&[(0, 0), (1, 0), (2, 0), (3, 0)]);
    let full = consumer.call(&request(CREATE, all), BY_NAME);
    let id = full.session_id;
    assert_ne!(id, 0);
    assert_eq!(partitions(&full), [0, 1, 2, 3]);

    let quiet = consumer.call(&nothing_new((id, 1)), BY_NAME);
    assert_eq!((partitions(&quiet), quiet.session_id), (vec![], id));

    produce(&broker, 2);
    let news = consumer.call(&nothing_new((id, 2)), BY_NAME);
    assert_eq!(partitions(&news), [2]);
    assert!(told(&news)[0].2 > 0, "with its records");

    let moved = consumer.call(&request((id, 3), watched(&[(2, 1)])), BY_NAME);
    assert_eq!(partitions(&moved), NOTHING, "read up to its end");

    let mut less = nothing_new((id, 4));
    less.forgotten_topics_data = vec![
        ForgottenTopic::default()
            .with_topic(TopicName(text(TOPIC)))
            .with_partitions(vec![3]),
    ];
    assert_eq!(partitions(&consumer.call(&less, BY_NAME)), NOTHING);
    produce(&broker, 3);
    produce(&broker, 0);
    let news = consumer.call(&nothing_new((id, 5)), BY_NAME);
    assert_eq!(partitions(&news), [0], "3 was forgotten");

    let again = consumer.call(&request((id, 6), watched(&[(0, 1), (3, 0)])), BY_NAME);
    assert_eq!(partitions(&again), [3], "3 is back");
}

#[test]
fn partitions_with_records_take_turns() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), TOPIC, 3, &[]);
    for partition in 0..3 {
        produce(&broker, partition);
        produce(&broker, partition);
    }
    let mut consumer = connect(&broker);
    let all = watched(&[(0, 0), (1, 0), (2, 0)]);
    let mut full = request(CREATE, all);
    full.max_bytes = 1; // one batch an answer
    let answer = consumer.call(&full, BY_NAME);
    let id = answer.session_id;
    let with_records = |response: &FetchResponse| -> Vec<i32> {
        let told = told(response).into_iter();
        told.filter(|(.., bytes)| *bytes > 0)
            .map(|(p, ..)| p)
            .collect()
    };
    assert_eq!(with_records(&answer), [0]);
    let mut turns = Vec::new();
    for epoch in 1..7 {
        let mut next = nothing_new((id, epoch));
        next.max_bytes = 1;
        turns.extend(with_records(&consumer.call(&next, BY_NAME)));
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn wrong_sessions_and_epochs_are_refused_and_a_full_request_starts_anew() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), TOPIC, 1, &[]);
    let mut consumer = connect(&broker);
    let make = |consumer: &mut Connection, session| {
        let full = consumer.call(&request(session, watched(&[(0, 0)])), BY_NAME);
        assert_eq!(partitions(&full), [0]);
        full.session_id
    };
    let id = make(&mut consumer, CREATE);
    let refused = |consumer: &mut Connection, session, version| {
        let answer = consumer.call(&nothing_new(session), version);
        assert_eq!((answer.session_id, answer.responses.len()), (0, 0));
        answer.error_code
    };
    let unknown = if id == 1 { 2 } else { id - 1 };
    let cases = [
        ((unknown, 1), BY_NAME, FETCH_SESSION_ID_NOT_FOUND),
        ((0, 1), BY_NAME, FETCH_SESSION_ID_NOT_FOUND),
        ((id, 2), BY_NAME, INVALID_FETCH_SESSION_EPOCH),
        ((id, -2), BY_NAME, INVALID_FETCH_SESSION_EPOCH),
        ((id, 1), BY_ID, FETCH_SESSION_TOPIC_ID_ERROR),
    ];
    for (session, version, code) in cases {
        assert_eq!(
            refused(&mut consumer, session, version),
            code,
            "{session:?}"
        );
    }
    // refusals change nothing, and another connection may go on with the session
    let mut other = connect(&broker);
    assert_eq!(
        partitions(&other.call(&nothing_new((id, 1)), BY_NAME)),
        NOTHING
    );
    let second = make(&mut consumer, (id, 0));
    assert_ne!(second, id);
    assert_eq!(
        refused(&mut consumer, (id, 2), BY_NAME),
        FETCH_SESSION_ID_NOT_FOUND
    );
    let last = consumer.call(&request((second, -1), watched(&[(0, 0)])), BY_NAME);
    assert_eq!((partitions(&last), last.session_id), (vec![0], 0));
    assert_eq!(
        refused(&mut consumer, (second, 1), BY_NAME),
        FETCH_SESSION_ID_NOT_FOUND
    );
}

#[test]
fn topic_ids_errors_and_waiting_work_in_a_session() {
    let dir = directory();
    let broker = start(&dir);
    let mut admin = connect(&broker);
    let create = |admin: &mut Connection, name: &str| {
        let topic = CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(30_000);
        let answer = admin.call(&request, 7);
        assert_eq!(answer.topics[0].error_code, 0);
        answer.topics[0].topic_id
    };
    let (first, second) = (create(&mut admin, TOPIC), create(&mut admin, "other"));
    let mut consumer = connect(&broker);
    let both = vec![
        topic("", first, &[(0, 0), (7, 0)]),
        topic("", second, &[(0, 0)]),
    ];
    let full = consumer.call(&request(CREATE, both), BY_ID);
    let id = full.session_id;
    let unknown = (7, UNKNOWN_TOPIC_OR_PARTITION, 0);
    assert_eq!(told(&full), [(0, 0, 0), unknown, (0, 0, 0)]);
    let again = consumer.call(&nothing_new((id, 1)), BY_ID);
    assert_eq!(
        told(&again),
        [unknown],
        "an error is told as long as it lasts"
    );
    let mut less = nothing_new((id, 2));
    less.forgotten_topics_data = vec![
        ForgottenTopic::default()
            .with_topic_id(first)
            .with_partitions(vec![7]),
    ];
    less.max_wait_ms = 20_000;
    let frame = consumer.frame(&less, BY_ID);
    consumer.send(&frame); // waits, and is woken
    produce(&broker, 0);
    let woken = consumer.receive::<FetchRequest>(BY_ID);
    assert_eq!(woken.responses.len(), 1);
    assert_eq!(woken.responses[0].topic_id, first);
    let deleted = admin.call(
        &DeleteTopicsRequest::default()
            .with_topic_names(vec![TopicName(text("other"))])
            .with_timeout_ms(30_000),
        5,
    );
    assert_eq!(deleted.responses[0].error_code, 0);
    let after = vec![topic("", first, &[(0, 1)])];
    let gone = consumer.call(&request((id, 3), after), BY_ID);
    assert_eq!(told(&gone), [(0, UNKNOWN_TOPIC_ID, 0)]);
    assert_eq!(gone.responses[0].topic_id, second);
}

#[test]
fn a_consumer_of_a_thousand_partitions_does_not_resend_them() {
    const PARTITIONS: i32 = 1_000;
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), TOPIC, PARTITIONS, &[]);
    let mut consumer = connect(&broker);
    let all: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    let full = consumer.frame(&request(CREATE, watched(&all)), BY_NAME);
    consumer.send(&full);
    let whole = consumer.receive_bytes();
    let answer = whole.decode::<FetchRequest>(BY_NAME);
    assert_eq!(told(&answer).len(), 1_000);
    produce(&broker, 700);
    let next = consumer.frame(&nothing_new((answer.session_id, 1)), BY_NAME);
    consumer.send(&next);
    let part = consumer.receive_bytes();
    assert_eq!(partitions(&part.decode::<FetchRequest>(BY_NAME)), [700]);
    println!(
        "request {} and answer {} bytes; in the session {} and {}",
        full.len(),
        whole.len(),
        next.len(),
        part.len()
    );
    assert!(next.len() < 100 && part.len() < 300);
}

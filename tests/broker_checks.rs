//! What is checked of requests that are well formed: records, sequences, epochs, cursors, and
//! values of features that are not served. Asked by hand, because clients do not ask so.

mod support;

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use corelog::model::offset::Offset;
use corelog::model::record_batch::compute_crc;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, DeleteTopicsRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest,
    FetchRequest, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest, TopicName, TransactionalId,
};
use kafka_protocol::messages::{describe_configs_request, fetch_response};
use support::raw::{Connection, text};
use support::{Launch, client, directory};

const INVALID_RECORD: i16 = 87;

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn produce(
    connection: &mut Connection,
    topic: &str,
    batch: Bytes,
    version: i16,
) -> PartitionProduceResponse {
    let partition = PartitionProduceData::default().with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(name(topic))
        .with_partition_data(vec![partition]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    let mut answer = connection.call(&request, version);
    answer.responses.remove(0).partition_responses.remove(0)
}

fn one_record() -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    batch.push(1_000, Some(b"key"), Some(b"value"));
    batch
}

#[test]
fn each_record_that_is_refused_is_named_to_clients_that_can_read_it() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    let compacted = [("cleanup.policy", "compact")];
    client::create_topic(&broker.bootstrap(), "compacted", 1, &compacted);
    let mut connection = Connection::open(broker.launch().address());
    let mut batch = BatchBuilder::new();
    for number in 0..4 {
        let key = (number % 2 == 0).then_some(&b"key"[..]);
        batch.push(number, key, Some(b"value"));
    }
    let batch = Bytes::from(batch.build());
    let answer = produce(&mut connection, "compacted", batch.clone(), 7);
    assert_eq!(answer.error_code, INVALID_RECORD);
    assert!(answer.record_errors.is_empty(), "not before KIP-467");
    let answer = produce(&mut connection, "compacted", batch, 8);
    assert_eq!(answer.error_code, INVALID_RECORD);
    let errors = answer.record_errors.iter();
    assert_eq!(errors.map(|e| e.batch_index).collect::<Vec<_>>(), [1, 3]);
    for error in &answer.record_errors {
        let message = error.batch_index_error_message.as_ref().expect("a reason");
        assert!(message.contains("without key"), "{message}");
    }
    assert!(answer.error_message.is_some());
    let answer = produce(&mut connection, "compacted", one_record().build().into(), 8);
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (0, 0),
        "nothing was kept"
    );
}

#[test]
fn records_are_looked_at_before_they_are_compressed_anew() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    let gzip = [("compression.type", "gzip")];
    client::create_topic(&broker.bootstrap(), "gzipped", 1, &gzip);
    let mut connection = Connection::open(broker.launch().address());
    let mut batch = one_record().build();
    let at = batch.len() - 4;
    batch[at..].fill(0xff);
    let crc = compute_crc(&batch).to_be_bytes();
    batch[17..21].copy_from_slice(&crc);
    let answer = produce(&mut connection, "gzipped", batch.into(), 9);
    assert_eq!(answer.error_code, INVALID_RECORD, "{answer:?}");
    let answer = produce(&mut connection, "gzipped", one_record().build().into(), 9);
    assert_eq!((answer.error_code, answer.base_offset), (0, 0));
}

#[test]
fn a_repeated_batch_gets_the_first_answer_again() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    let stamped = [("message.timestamp.type", "LogAppendTime")];
    client::create_topic(&broker.bootstrap(), "stamped", 1, &stamped);
    client::create_topic(&broker.bootstrap(), "plain", 1, &[]);
    let mut connection = Connection::open(broker.launch().address());
    let batch = || {
        let batch = one_record().producer(ProducerId(5), ProducerEpoch(0), 0);
        Bytes::from(batch.build())
    };
    let first = produce(&mut connection, "stamped", batch(), 9);
    assert!(
        first.error_code == 0 && first.log_append_time_ms > 1_000,
        "{first:?}"
    );
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(produce(&mut connection, "stamped", batch(), 9), first);
    let broker = broker.kill().start();
    let mut connection = Connection::open(broker.launch().address());
    assert_eq!(produce(&mut connection, "stamped", batch(), 9), first);
    let first = produce(&mut connection, "plain", batch(), 9);
    assert_eq!((first.error_code, first.log_append_time_ms), (0, -1));
    assert_eq!(produce(&mut connection, "plain", batch(), 9), first);
}

#[test]
fn many_partitions_are_described_in_pages() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    for (topic, partitions) in [("a", 3), ("b", 1), ("c", 2)] {
        client::create_topic(&broker.bootstrap(), topic, partitions, &[]);
    }
    let mut connection = Connection::open(broker.launch().address());
    let topics = ["a", "b", "c", "d"].map(|topic| TopicRequest::default().with_name(name(topic)));
    let mut request = DescribeTopicPartitionsRequest::default()
        .with_topics(topics.to_vec())
        .with_response_partition_limit(2);
    let mut pages = Vec::new();
    loop {
        let answer = connection.call(&request, 0);
        let page = answer.topics.iter().map(|topic| {
            let numbers = topic.partitions.iter().map(|p| p.partition_index);
            let name = topic.name.as_ref().expect("named").to_string();
            (name, topic.error_code, numbers.collect::<Vec<_>>())
        });
        pages.push(page.collect::<Vec<_>>());
        let Some(next) = answer.next_cursor else {
            break;
        };
        request.cursor = Some(
            Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    let page = |topics: &[(&str, i16, &[i32])]| {
        let topics = topics.iter();
        topics
            .map(|(name, code, numbers)| ((*name).to_owned(), *code, numbers.to_vec()))
            .collect()
    };
    let expected: Vec<Vec<(String, i16, Vec<i32>)>> = vec![
        page(&[("a", 0, &[0, 1])]),
        page(&[("a", 0, &[2]), ("b", 0, &[0])]),
        page(&[("c", 0, &[0, 1])]),
        page(&[("d", 3, &[])]),
    ];
    assert_eq!(pages, expected);
    request.cursor = Some(
        Cursor::default()
            .with_topic_name(name("a"))
            .with_partition_index(-1),
    );
    let answer = connection.call(&request, 0);
    assert!(
        answer.topics.iter().all(|topic| topic.error_code == 42),
        "{answer:?}"
    );
}

/// A partition whose leaders had epoch 2 for offsets 0 to 4, 5 for 5 to 9.
fn with_epochs(dir: &std::path::Path) {
    let dir = dir.join("topics/led-0");
    std::fs::create_dir_all(&dir).expect("made");
    let mut segment = Vec::new();
    for offset in 0..10 {
        let epoch = if offset < 5 { 2 } else { 5 };
        let mut batch = BatchBuilder::new()
            .base_offset(Offset::new(offset))
            .leader_epoch(LeaderEpoch(epoch));
        batch.push(1_000, None, Some(b"value"));
        segment.extend_from_slice(&batch.build());
    }
    std::fs::write(dir.join("00000000000000000000.log"), segment).expect("written");
}

#[test]
fn epochs_of_clients_are_checked_against_those_of_the_log() {
    let dir = directory();
    with_epochs(dir.path());
    let broker = Launch::new(dir.path()).start();
    let mut connection = Connection::open(broker.launch().address());
    let topics = vec![MetadataRequestTopic::default().with_name(Some(name("led")))];
    let answer = connection.call(&MetadataRequest::default().with_topics(Some(topics)), 9);
    assert_eq!(answer.topics[0].partitions[0].leader_epoch, 5);
    let mut fetch = |current: i32, last_fetched: i32, offset: i64| {
        let partition = FetchPartition::default()
            .with_current_leader_epoch(current)
            .with_last_fetched_epoch(last_fetched)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(name("led"))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_session_epoch(-1)
            .with_max_bytes(1 << 20)
            .with_topics(vec![topic]);
        let mut answer = connection.call(&request, 12);
        answer.responses.remove(0).partitions.remove(0)
    };
    let has_records = |answer: &fetch_response::PartitionData| {
        answer.error_code == 0 && answer.records.as_ref().is_some_and(|r| !r.is_empty())
    };
    assert_eq!(fetch(4, -1, 0).error_code, 74, "an old leader");
    assert_eq!(fetch(6, -1, 0).error_code, 75, "a leader to come");
    assert!(has_records(&fetch(5, -1, 0)));
    for (last_fetched, offset) in [(2, 5), (2, 3), (5, 9)] {
        let answer = fetch(5, last_fetched, offset);
        assert!(has_records(&answer), "{last_fetched} {offset}: {answer:?}");
        assert_eq!(answer.diverging_epoch.end_offset, -1);
    }
    // (asked epoch, offset) -> (largest epoch at or below it, its end)
    for ((asked, offset), expected) in [((2, 6), (2, 5)), ((3, 5), (2, 5)), ((4, 4), (2, 5))] {
        let answer = fetch(5, asked, offset);
        let diverging = &answer.diverging_epoch;
        assert_eq!(
            (diverging.epoch, diverging.end_offset),
            expected,
            "{asked} {offset}"
        );
        assert!(answer.records.is_none_or(|records| records.is_empty()));
    }
    assert_eq!(fetch(5, 6, 5).error_code, 1, "an epoch that never was");
    let mut end = |current: i32, asked: i32| {
        let partition = OffsetForLeaderPartition::default()
            .with_current_leader_epoch(current)
            .with_leader_epoch(asked);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(name("led"))
            .with_partitions(vec![partition]);
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let answer = connection.call(&request, 4);
        let found = &answer.topics[0].partitions[0];
        (found.error_code, found.leader_epoch, found.end_offset)
    };
    assert_eq!(end(-1, 2), (0, 2, 5));
    assert_eq!(end(-1, 4), (0, 2, 5));
    assert_eq!(end(5, 5), (0, 5, 10));
    assert_eq!(end(-1, 7), (0, -1, -1));
    assert_eq!(end(4, 5).0, 74);
    assert_eq!(end(6, 5).0, 75);
}

#[test]
fn a_topic_that_is_named_twice_is_not_deleted() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    for topic in ["twice", "once"] {
        client::create_topic(&broker.bootstrap(), topic, 1, &[]);
    }
    let mut connection = Connection::open(broker.launch().address());
    let by_name = |topic: &str| DeleteTopicState::default().with_name(Some(name(topic)));
    let mut delete = |topics: Vec<DeleteTopicState>| {
        let request = DeleteTopicsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(10_000);
        let answer = connection.call(&request, 6);
        let results = answer.responses.into_iter();
        results
            .map(|r| (r.error_code, r.topic_id))
            .collect::<Vec<_>>()
    };
    let answer = delete(vec![by_name("twice"), by_name("once"), by_name("twice")]);
    let codes: Vec<i16> = answer.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [42, 0, 42]);
    let id = answer[0].1;
    let both = by_name("twice").with_topic_id(id);
    assert_eq!(delete(vec![both])[0].0, 42, "name and id");
    let by_id = DeleteTopicState::default()
        .with_name(None)
        .with_topic_id(id);
    assert_eq!(delete(vec![by_id])[0].0, 0);
}

#[test]
fn values_of_features_that_are_not_served_get_kafkas_errors_on_an_open_connection() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "t", 1, &[]);
    let mut connection = Connection::open(broker.launch().address());
    let connection = &mut connection;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text("transaction"))))
        .with_transaction_timeout_ms(1_000);
    assert_eq!(
        connection.call(&request, 4).error_code,
        53,
        "a transactional id"
    );
    let batch = one_record()
        .producer(ProducerId(1), ProducerEpoch(0), 0)
        .transactional();
    let answer = produce(connection, "t", batch.build().into(), 9);
    assert_eq!(answer.error_code, 53, "a transactional batch");
    for (key_type, code) in [(1, 53), (2, 42), (3, 42)] {
        let request = FindCoordinatorRequest::default()
            .with_key_type(key_type)
            .with_coordinator_keys(vec![text("key")]);
        let answer = connection.call(&request, 6);
        assert_eq!(
            answer.coordinators[0].error_code, code,
            "coordinator {key_type}"
        );
    }
    for (timestamp, version) in [(-4, 8), (-5, 9)] {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(name("t"))
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let answer = connection.call(&request, version);
        let found = &answer.topics[0].partitions[0];
        let told = (found.error_code, found.offset);
        assert!(
            [(0, 0), (0, -1)].contains(&told),
            "timestamp {timestamp}: {told:?}"
        );
    }
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(99)
        .with_resource_name(text("x"));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(connection.call(&request, 4).results[0].error_code, 42);
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(name("t"))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(1)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let answer = connection.call(&request, 12);
    assert_eq!(
        answer.responses[0].partitions[0].error_code, 0,
        "read_committed"
    );
}

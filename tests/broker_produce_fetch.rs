//! Records in, the same records out: over a real socket, with a real client.

mod support;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, TopicName};
use rdkafka::consumer::Consumer as _;
use rdkafka::producer::BaseRecord;
use rdkafka::{Offset, TopicPartitionList};
use support::raw::{Connection, text};
use support::{Launch, client, directory};

/// Special timestamp of ListOffsets 11: the earliest offset that waits for an upload.
const EARLIEST_PENDING_UPLOAD: i64 = -6;
const UNSUPPORTED_VERSION: i16 = 35;

#[test]
fn records_of_every_codec_come_back_as_they_were() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    for codec in ["none", "gzip", "snappy", "lz4"] {
        let topic = format!("codec-{codec}");
        client::create_topic(&broker.bootstrap(), &topic, 1, &[]);
        let values: Vec<Vec<u8>> = (0..500)
            .map(|n| format!("{codec} {n}").into_bytes())
            .collect();
        let settings = [("compression.type", codec), ("linger.ms", "5")];
        client::produce(&broker.bootstrap(), &topic, 0, values.clone(), &settings);
        let reads = client::read_partition(&broker.bootstrap(), &topic, 0, 0);
        let read_values: Vec<Vec<u8>> = reads.into_iter().filter_map(|read| read.value).collect();
        assert!(read_values == values, "{codec}");
    }
}

#[test]
fn every_kind_of_acknowledgement_delivers() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "acks", 1, &[]);
    for acks in ["0", "1", "all"] {
        let values = (0..200).map(|number| format!("{acks} {number}").into_bytes());
        client::produce(&broker.bootstrap(), "acks", 0, values, &[("acks", acks)]);
    }
    let mut count = 0;
    client::wait_until("the records of acks=0 are there too", || {
        count = client::read_partition(&broker.bootstrap(), "acks", 0, 0).len();
        count == 600
    });
}

#[test]
fn keys_keep_their_partition_and_their_order() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "keyed", 6, &[]);
    let settings = [("enable.idempotence", "true"), ("linger.ms", "2")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in 0..3_000 {
        let key = format!("key-{}", number % 37);
        client::send(
            &producer,
            "keyed",
            -1,
            Some(&key),
            number.to_string().as_bytes(),
        );
    }
    assert!(client::flush(&producer).iter().all(Result::is_ok));
    let mut last_of_key = std::collections::BTreeMap::new();
    let mut total = 0;
    for partition in 0..6 {
        for read in client::read_partition(&broker.bootstrap(), "keyed", partition, 0) {
            let key = read.key.expect("a key");
            let number: i32 = String::from_utf8(read.value.expect("a value"))
                .expect("text")
                .parse()
                .expect("a number");
            let before = last_of_key.insert(key, (partition, number));
            if let Some((earlier_partition, earlier)) = before {
                assert_eq!(earlier_partition, partition);
                assert!(earlier < number);
            }
            total += 1;
        }
    }
    assert_eq!(total, 3_000);
    assert_eq!(last_of_key.len(), 37);
}

#[test]
fn a_read_from_the_middle_of_a_batch_starts_at_that_record() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "middle", 1, &[]);
    let settings = [("linger.ms", "200"), ("batch.num.messages", "100")];
    let values = (0..100).map(|number: i32| number.to_string().into_bytes());
    client::produce(&broker.bootstrap(), "middle", 0, values, &settings);
    for from in [0, 1, 37, 98, 99] {
        let reads = client::read_partition(&broker.bootstrap(), "middle", 0, from);
        assert_eq!(reads[0].offset, from);
        assert_eq!(reads[0].value, Some(from.to_string().into_bytes()));
        assert_eq!(i64::try_from(reads.len()).expect("small"), 100 - from);
    }
}

#[test]
fn null_keys_values_and_large_records_pass() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "odd", 1, &[]);
    let producer = client::producer(&broker.bootstrap(), &[]);
    let large = vec![0x5a; 950_000];
    let null: BaseRecord<'_, str, [u8]> = BaseRecord::to("odd").partition(0).key("tombstone");
    producer
        .send(null)
        .map_err(|(error, _)| error)
        .expect("queued");
    client::send(&producer, "odd", 0, None, b"");
    client::send(&producer, "odd", 0, Some(""), &large);
    assert!(client::flush(&producer).iter().all(Result::is_ok));
    let reads = client::read_partition(&broker.bootstrap(), "odd", 0, 0);
    assert_eq!(reads.len(), 3);
    assert_eq!(
        (reads[0].key.as_deref(), &reads[0].value),
        (Some(&b"tombstone"[..]), &None)
    );
    assert_eq!(
        (&reads[1].key, reads[1].value.as_deref()),
        (&None, Some(&b""[..]))
    );
    assert_eq!(reads[2].key.as_deref(), Some(&b""[..]));
    assert!(reads[2].value.as_deref() == Some(&large[..]));
}

#[test]
fn a_record_above_the_topics_limit_is_refused_and_the_next_one_passes() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(
        &broker.bootstrap(),
        "small",
        1,
        &[("max.message.bytes", "2000")],
    );
    let producer = client::producer(&broker.bootstrap(), &[]);
    client::send(&producer, "small", 0, None, &[1; 5_000]);
    let refused = client::flush(&producer);
    assert!(
        refused[0]
            .as_ref()
            .is_err_and(|e| e.contains("MessageSizeTooLarge")),
        "{refused:?}"
    );
    client::send(&producer, "small", 0, None, &[2; 500]);
    assert_eq!(client::flush(&producer)[1], Ok((0, 0)));
}

#[test]
fn offsets_are_found_by_timestamp() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "timed", 1, &[]);
    let producer = client::producer(&broker.bootstrap(), &[]);
    for number in 0..50_i64 {
        let record: BaseRecord<'_, str, [u8]> = BaseRecord::to("timed")
            .partition(0)
            .payload(b"t".as_slice())
            .timestamp(1_000_000 + number * 10);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("queued");
    }
    assert!(client::flush(&producer).iter().all(Result::is_ok));
    let consumer = client::consumer(&broker.bootstrap(), "times", &[]);
    let at = |timestamp: i64| {
        let mut asked = TopicPartitionList::new();
        asked
            .add_partition_offset("timed", 0, Offset::Offset(timestamp))
            .expect("valid");
        let answer = consumer
            .offsets_for_times(asked, client::LIMIT)
            .expect("answered");
        answer.elements()[0].offset()
    };
    assert_eq!(at(0), Offset::Offset(0));
    assert_eq!(at(1_000_000), Offset::Offset(0));
    assert_eq!(at(1_000_245), Offset::Offset(25));
    assert_eq!(at(1_000_490), Offset::Offset(49));
    assert_eq!(at(1_000_491), Offset::End);
}

#[test]
fn a_topic_is_created_by_the_first_record_only_where_that_is_allowed() {
    let dir = directory();
    let broker = Launch::new(dir.path()).set("num.partitions", "3").start();
    client::produce(
        &broker.bootstrap(),
        "automatic",
        2,
        [b"first".to_vec()],
        &[],
    );
    assert_eq!(
        client::read_partition(&broker.bootstrap(), "automatic", 2, 0).len(),
        1
    );
    drop(broker);

    let dir = directory();
    let broker = Launch::new(dir.path())
        .set("auto.create.topics.enable", "false")
        .start();
    let producer = client::producer(&broker.bootstrap(), &[("message.timeout.ms", "2000")]);
    client::send(&producer, "automatic", 0, None, b"first");
    assert!(client::flush(&producer)[0].is_err());
}

#[test]
fn a_waiting_consumer_gets_a_record_as_soon_as_it_is_durable() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "tail", 1, &[]);
    let consumer = client::consumer(
        &broker.bootstrap(),
        "tail",
        &[("fetch.wait.max.ms", "10000")],
    );
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset("tail", 0, Offset::Beginning)
        .expect("valid");
    consumer.assign(&assignment).expect("assigned");
    client::produce(&broker.bootstrap(), "tail", 0, [b"warm up".to_vec()], &[]);
    client::poll_records(&consumer, 1);
    let producer = client::producer(&broker.bootstrap(), &[("linger.ms", "0")]);
    for _ in 0..20 {
        let started = std::time::Instant::now();
        client::send(&producer, "tail", 0, None, b"now");
        client::poll_records(&consumer, 1);
        let elapsed = started.elapsed();
        // a broker that only answers at the fetch's deadline needs ten seconds
        assert!(elapsed.as_secs() < 3, "{elapsed:?}");
    }
}

#[test]
fn nothing_waits_for_an_upload_and_older_versions_do_not_know_the_question() {
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "local", 1, &[]);
    client::produce(&broker.bootstrap(), "local", 0, [vec![1]], &[]);
    let partition = ListOffsetsPartition::default()
        .with_current_leader_epoch(-1)
        .with_timestamp(EARLIEST_PENDING_UPLOAD);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(text("local")))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_topics(vec![topic]);
    let mut connection = Connection::open(broker.launch().address());
    for (version, code) in [(10, UNSUPPORTED_VERSION), (11, 0)] {
        let frame = connection.frame_as(&request, 10, version);
        connection.send(&frame);
        let answer = connection.receive::<ListOffsetsRequest>(10);
        let told = &answer.topics[0].partitions[0];
        assert_eq!(
            (told.error_code, told.offset),
            (code, -1),
            "version {version}"
        );
        assert_eq!(
            (told.timestamp, told.leader_epoch),
            (-1, -1),
            "version {version}"
        );
    }
}

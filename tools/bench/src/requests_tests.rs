//! The hand-written requests and readers against `wire`, which the broker reads and answers with.

use bytes::Bytes;
use corelog::model::error_code::ErrorCode;
use corelog::model::ids::{CorrelationId, PartitionIndex};
use corelog::wire::fetch::{FetchPartitionResponse, FetchResponse, FetchTopicResponse, Part};
use corelog::wire::header::RequestHeader;
use corelog::wire::messages::{Request, decode_request};
use corelog::wire::produce::{ProducePartitionResponse, ProduceResponse, ProduceTopicResponse};
use corelog::wire::topic_ref::TopicRef;
use uuid::Uuid;

use super::*;

fn topics() -> Vec<Topic> {
    ["first", "second"]
        .iter()
        .zip(1..)
        .map(|(name, number)| Topic {
            name: (*name).to_owned(),
            id: *Uuid::from_u64_pair(0, number).as_bytes(),
        })
        .collect()
}

fn decode(frame: &[u8]) -> Request {
    let (length, body) = frame.split_first_chunk::<4>().expect("a length");
    assert_eq!(usize::try_from(i32::from_be_bytes(*length)), Ok(body.len()));
    let (header, body) = RequestHeader::parse(&Bytes::copy_from_slice(body)).expect("a header");
    assert_eq!(header.correlation_id, CorrelationId(77));
    assert_eq!(header.client_id_or_empty(), CLIENT_ID);
    decode_request(&header, &body).expect("a request")
}

fn named(reference: &TopicRef, topic: &Topic) -> bool {
    match reference {
        TopicRef::Name(name) => name.as_str() == topic.name,
        TopicRef::Id(id) => id.as_bytes() == &topic.id,
    }
}

#[test]
fn produce_requests_of_every_version_say_what_was_meant() {
    for version in ApiKey::Produce.versions() {
        let writer = ProduceWriter {
            format: Format::new(ApiKey::Produce, version),
            acks: -1,
            timeout_ms: 1_234,
        };
        let mut out = Vec::new();
        writer.begin(&mut out, 77, 2);
        for (topic, records) in topics().iter().zip([&b"abc"[..], &[7; 300]]) {
            writer.topic(&mut out, topic, 1);
            writer.partition(&mut out, 5, records.len());
            out.extend_from_slice(records);
            writer.end_partition(&mut out);
            writer.end_topic(&mut out);
        }
        writer.end(&mut out);
        Format::seal(&mut out, 0, 0);
        let Request::Produce(request) = decode(&out) else {
            panic!("not a Produce request");
        };
        assert_eq!((request.acks, request.timeout_ms), (-1, 1_234));
        assert_eq!(request.topics.len(), 2);
        for (found, topic) in request.topics.iter().zip(&topics()) {
            assert!(named(&found.topic, topic));
            assert_eq!(found.partitions[0].index, PartitionIndex(5));
        }
        let records = request.topics[1].partitions[0].records.as_deref();
        assert_eq!(records, Some(&[7; 300][..]));
    }
}

#[test]
fn produce_responses_of_every_version_are_read() {
    for version in ApiKey::Produce.versions() {
        let mut refused =
            ProducePartitionResponse::refused(PartitionIndex(4), ErrorCode::NotLeaderOrFollower);
        refused.error_message = Some("not here".into());
        let topics = topics();
        let response = ProduceResponse {
            topics: vec![ProduceTopicResponse {
                topic: match version >= TOPIC_ID_VERSION {
                    true => TopicRef::Id(Uuid::from_bytes(topics[0].id).into()),
                    false => TopicRef::Name("first".into()),
                },
                partitions: vec![
                    ProducePartitionResponse::appended(PartitionIndex(3), 99, 0),
                    refused,
                ],
            }],
            ..ProduceResponse::default()
        };
        let frame = response.encode(version, CorrelationId(9)).expect("encoded");
        assert_eq!(correlation_id(&frame[4..]), Some(9));
        let mut found = Vec::new();
        let format = Format::new(ApiKey::Produce, version);
        let read = read_produce(format, &frame[4..], |topic, appended| {
            assert!(topics[0].is_named(topic));
            found.push((appended.partition, appended.error, appended.base_offset));
        });
        assert_eq!(read, Some(()));
        assert_eq!(found, [(3, 0, 99), (4, 6, -1)]);
        for end in 4..frame.len() {
            assert!(
                read_produce(format, &frame[4..end], |_, _| ()).is_none(),
                "{version} {end}"
            );
        }
    }
}

#[test]
fn fetch_requests_of_every_version_say_what_was_meant() {
    for version in ApiKey::Fetch.versions() {
        let writer = FetchWriter {
            format: Format::new(ApiKey::Fetch, version),
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 1 << 20,
            partition_max_bytes: 1 << 10,
        };
        let wanted = |topic, partition, offset| Wanted {
            topic,
            partition,
            offset,
        };
        let session = Session { id: 8, epoch: 3 };
        let mut out = Vec::new();
        writer.write(
            &mut out,
            77,
            &topics(),
            session,
            &[wanted(0, 1, 10), wanted(0, 2, 20), wanted(1, 1, 30)],
            &[wanted(1, 6, 0)],
        );
        let Request::Fetch(request) = decode(&out) else {
            panic!("not a Fetch request");
        };
        assert_eq!((request.max_wait_ms, request.min_bytes), (500, 1));
        assert_eq!(
            (request.replica_id.get(), request.partition_count()),
            (-1, 3)
        );
        let last = &request.topics[1];
        assert!(named(&last.topic, &topics()[1]));
        assert_eq!(last.partitions[0].fetch_offset, 30);
        assert_eq!(last.partitions[0].partition_max_bytes, 1 << 10);
        if version >= 7 {
            assert_eq!((request.session_id, request.session_epoch), (8, 3));
            assert_eq!(request.forgotten_topics[0].partitions, [PartitionIndex(6)]);
        }
    }
}

#[test]
fn fetch_responses_of_every_version_are_read() {
    for version in ApiKey::Fetch.versions() {
        let mut partition =
            FetchPartitionResponse::refused(PartitionIndex(2), ErrorCode::OffsetOutOfRange);
        partition.log_start_offset = 40;
        partition.aborted_transactions = Some(Vec::new());
        partition.records_len = 5;
        let mut response = FetchResponse::empty(ErrorCode::None, 12);
        response.topics = vec![FetchTopicResponse {
            topic: match version >= TOPIC_ID_VERSION {
                true => TopicRef::Id(Uuid::from_bytes(topics()[0].id).into()),
                false => TopicRef::Name("first".into()),
            },
            partitions: vec![partition],
        }];
        let mut frame = Vec::new();
        for part in response
            .encode(version, CorrelationId(9))
            .expect("encoded")
            .parts
        {
            match part {
                Part::Bytes(bytes) => frame.extend_from_slice(&bytes),
                Part::Records { .. } => frame.extend_from_slice(b"01234"),
            }
        }
        let format = Format::new(ApiKey::Fetch, version);
        let mut count = 0;
        let read = read_fetch(format, &frame[4..], |topic, fetched| {
            assert!(topics()[0].is_named(topic));
            assert_eq!((fetched.partition, fetched.error), (2, 1));
            assert_eq!(fetched.records, b"01234");
            assert!(version < 5 || fetched.log_start == 40);
            count += 1;
        });
        assert_eq!(read, Some((0, if version >= 7 { 12 } else { 0 })));
        assert_eq!(count, 1);
        for end in 4..frame.len() {
            assert!(
                read_fetch(format, &frame[4..end], |_, _| ()).is_none(),
                "{version} {end}"
            );
        }
    }
}

//! Produce on the wire: golden bytes, round trips against kafka-protocol, damaged frames.

use bytes::{Buf, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::ids::TopicId;

type TopicCase = (String, [u8; 16], Vec<(i32, Option<Vec<u8>>)>);

#[derive(Clone, Debug)]
struct Case {
    transactional_id: Option<String>,
    acks: i16,
    timeout_ms: i32,
    topics: Vec<TopicCase>,
    unknown_tag: Option<(i32, Vec<u8>)>,
}

fn case() -> impl Strategy<Value = Case> {
    let records = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80));
    let partitions = proptest::collection::vec((any::<i32>(), records), 0..4);
    let topics = proptest::collection::vec((".{0,12}", any::<[u8; 16]>(), partitions), 0..4);
    let tag = (0..1000_i32, proptest::collection::vec(any::<u8>(), 0..9));
    let tag = proptest::option::of(tag);
    (
        proptest::option::of(".{0,9}"),
        any::<i16>(),
        any::<i32>(),
        topics,
        tag,
    )
        .prop_map(
            |(transactional_id, acks, timeout_ms, topics, unknown_tag)| Case {
                transactional_id,
                acks,
                timeout_ms,
                topics,
                unknown_tag,
            },
        )
}

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl Case {
    fn tags(&self, version: i16) -> std::collections::BTreeMap<i32, Bytes> {
        let tag = self.unknown_tag.iter().filter(|_| version >= 9);
        tag.map(|(tag, value)| (*tag, Bytes::from(value.clone())))
            .collect()
    }

    fn generated(&self, version: i16) -> kp::ProduceRequest {
        let topics = self.topics.iter().map(|(name, id, partitions)| {
            let partitions = partitions.iter().map(|(index, records)| {
                PartitionProduceData::default()
                    .with_index(*index)
                    .with_records(records.clone().map(Bytes::from))
                    .with_unknown_tagged_fields(self.tags(version))
            });
            let topic = TopicProduceData::default()
                .with_partition_data(partitions.collect())
                .with_unknown_tagged_fields(self.tags(version));
            if version >= 13 {
                topic.with_topic_id(Uuid::from_bytes(*id))
            } else {
                topic.with_name(kp::TopicName(string(name)))
            }
        });
        kp::ProduceRequest::default()
            .with_transactional_id(self.transactional_id.as_deref().map(|t| string(t).into()))
            .with_acks(self.acks)
            .with_timeout_ms(self.timeout_ms)
            .with_topic_data(topics.collect())
            .with_unknown_tagged_fields(self.tags(version))
    }

    fn expected(&self, version: i16) -> ProduceRequest {
        let topics = self
            .topics
            .iter()
            .map(|(name, id, partitions)| ProduceTopic {
                topic: if version >= 13 {
                    TopicRef::Id(TopicId::from_bytes(*id))
                } else {
                    TopicRef::Name(string(name))
                },
                partitions: partitions
                    .iter()
                    .map(|(index, records)| ProducePartition {
                        index: PartitionIndex(*index),
                        records: records.clone().map(Bytes::from),
                    })
                    .collect(),
            });
        ProduceRequest {
            transactional_id: self.transactional_id.as_deref().map(string),
            acks: self.acks,
            timeout_ms: self.timeout_ms,
            topics: topics.collect(),
        }
    }
}

fn body(request: &kp::ProduceRequest, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    request.encode(&mut out, version).unwrap();
    out.freeze()
}

#[test]
fn golden_request_v3_of_one_partition() {
    let body = Bytes::from_static(
        b"\xff\xff\xff\xff\0\0\x05\xdc\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x02\0\0\0\x03abc",
    );
    let request = ProduceRequest::parse(3, &body).unwrap();
    assert_eq!((request.acks, request.timeout_ms), (-1, 1500));
    let topic = request.topics.first().unwrap();
    assert_eq!(topic.topic.name(), Some("t"));
    let partition = topic.partitions.first().unwrap();
    assert_eq!(partition.index, PartitionIndex(2));
    let records = partition.records.as_ref().unwrap();
    assert_eq!(&records[..], b"abc");
    // a slice of the frame, not a copy
    assert_eq!(records.as_ptr(), body.slice(body.len() - 3..).as_ptr());
}

#[test]
fn versions_below_3_are_refused() {
    for version in [-1, 0, 1, 2, 14] {
        let error = DecodeError::UnsupportedVersion {
            api: ApiKey::Produce,
            version,
        };
        assert_eq!(ProduceRequest::parse(version, &Bytes::new()), Err(error));
    }
}

#[test]
fn array_lengths_beyond_the_bytes_reserve_nothing() {
    let body = Bytes::from_static(b"\xff\xff\0\x01\0\0\0\0\x7f\xff\xff\xff");
    assert!(matches!(
        ProduceRequest::parse(3, &body),
        Err(DecodeError::ArrayTooLong {
            count: 0x7fff_ffff,
            max: 0,
            ..
        })
    ));
}

#[test]
fn golden_response_v3() {
    let topic = ProduceTopicResponse {
        topic: TopicRef::Name(string("t")),
        partitions: vec![ProducePartitionResponse::appended(PartitionIndex(1), 7, 0)],
    };
    let response = ProduceResponse {
        topics: vec![topic],
        ..ProduceResponse::default()
    };
    let frame = response.encode(3, CorrelationId(2)).unwrap();
    let expected = b"\0\0\0\x2d\0\0\0\x02\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x01\0\0\
        \0\0\0\0\0\0\0\x07\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0";
    let mut expected = expected.to_vec();
    let length = u8::try_from(expected.len() - 4).unwrap();
    *expected.get_mut(3).unwrap() = length;
    assert_eq!(&frame[..], expected);
}

proptest! {
    #[test]
    fn requests_are_read_as_the_generated_decoder_reads_them(case in case()) {
        for version in ApiKey::Produce.versions() {
            let generated = case.generated(version);
            let body = body(&generated, version);
            let back = kp::ProduceRequest::decode(&mut body.clone(), version).unwrap();
            prop_assert_eq!(&back, &generated);
            prop_assert_eq!(ProduceRequest::parse(version, &body), Ok(case.expected(version)));
        }
    }

    #[test]
    fn bent_and_cut_requests_are_survived(case in case(), at: usize, bit in 0..8_u32, cut: usize) {
        for version in ApiKey::Produce.versions() {
            let mut bytes = body(&case.generated(version), version).to_vec();
            let length = bytes.len();
            prop_assert!(ProduceRequest::parse(version, &Bytes::from(
                bytes.get(..cut % length).unwrap().to_vec()
            )).is_err());
            *bytes.get_mut(at % length).unwrap() ^= 1 << bit;
            let _ = ProduceRequest::parse(version, &Bytes::from(bytes));
        }
    }

    #[test]
    fn responses_are_the_generated_encoders_bytes(
        index: i32, offset: i64, time: i64, start: i64, throttle: i32,
        message in proptest::option::of(".{0,9}"),
        issues in proptest::collection::vec((any::<i32>(), proptest::option::of(".{0,9}")), 0..3),
        leader in proptest::option::of((0..9_i32, 0..9_i32)),
        node in proptest::option::of((any::<i32>(), ".{0,9}", proptest::option::of(".{0,5}"))),
        id: [u8; 16],
        count in 0..3_usize,
    ) {
        for version in ApiKey::Produce.versions() {
            let partition = ProducePartitionResponse {
                index: PartitionIndex(index),
                error: ErrorCode::InvalidRecord,
                base_offset: offset,
                log_append_time_ms: time,
                log_start_offset: start,
                record_errors: issues.iter().map(|(batch_index, message)| RecordIssue {
                    batch_index: *batch_index,
                    message: message.as_deref().map(string),
                }).collect(),
                error_message: message.as_deref().map(string),
                current_leader: leader.map(|(leader_id, epoch)| CurrentLeader {
                    leader_id: NodeId(leader_id),
                    leader_epoch: LeaderEpoch(epoch),
                }),
            };
            let topic = if version >= 13 {
                TopicRef::Id(TopicId::from_bytes(id))
            } else {
                TopicRef::Name(string("topic"))
            };
            let topic = ProduceTopicResponse { topic, partitions: vec![partition; count] };
            let response = ProduceResponse {
                topics: vec![topic; count],
                throttle_time_ms: throttle,
                node_endpoints: node.iter().map(|(node_id, host, rack)| NodeEndpoint {
                    node_id: NodeId(*node_id),
                    host: string(host),
                    port: 9092,
                    rack: rack.as_deref().map(string),
                }).collect(),
            };
            let frame = response.encode(version, CorrelationId(5)).unwrap();
            let mut rest = frame.clone();
            prop_assert_eq!(usize::try_from(rest.get_i32()).unwrap(), frame.len() - 4);
            prop_assert_eq!(rest.get_i32(), 5);
            if version >= 9 {
                prop_assert_eq!(rest.get_u8(), 0);
            }
            let written = rest.clone();
            let back = kp::ProduceResponse::decode(&mut rest, version).unwrap();
            prop_assert!(rest.is_empty());
            let mut again = BytesMut::new();
            back.encode(&mut again, version).unwrap();
            prop_assert_eq!(&again[..], &written[..]);
            prop_assert_eq!(back.throttle_time_ms, throttle);
            for partition in back.responses.iter().flat_map(|topic| &topic.partition_responses) {
                prop_assert_eq!((partition.index, partition.base_offset), (index, offset));
                let expected = if version >= 8 { issues.len() } else { 0 };
                prop_assert_eq!(partition.record_errors.len(), expected);
                let leader_id = leader.filter(|_| version >= 10).map_or(-1, |leader| leader.0);
                prop_assert_eq!(partition.current_leader.leader_id, kp::BrokerId(leader_id));
            }
            let nodes = if version >= 10 { usize::from(node.is_some()) } else { 0 };
            prop_assert_eq!(back.node_endpoints.len(), nodes);
        }
    }
}

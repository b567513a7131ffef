//! Fetch on the wire: golden bytes, round trips against kafka-protocol, damaged frames.

use bytes::{Buf, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::messages::fetch_request as kpr;
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;

use super::*;
use crate::model::ids::TopicId;

type PartitionCase = (i32, i32, i64, i32, i64, i32, [u8; 16], i64);
type TopicCase = (String, [u8; 16], Vec<PartitionCase>);

#[derive(Clone, Debug)]
struct Case {
    numbers: (i32, i64, i32, i32, i32, i8),
    session: (i32, i32),
    topics: Vec<TopicCase>,
    forgotten: Vec<(String, [u8; 16], Vec<i32>)>,
    rack: String,
    cluster: Option<String>,
    unknown_tag: Option<(i32, Vec<u8>)>,
}

fn case() -> impl Strategy<Value = Case> {
    let partitions = proptest::collection::vec(any::<PartitionCase>(), 0..4);
    let topics = proptest::collection::vec((".{0,9}", any::<[u8; 16]>(), partitions), 0..4);
    let indexes = proptest::collection::vec(any::<i32>(), 0..4);
    let forgotten = proptest::collection::vec((".{0,9}", any::<[u8; 16]>(), indexes), 0..3);
    let tag = (5..1000_i32, proptest::collection::vec(any::<u8>(), 0..9));
    let cluster = proptest::option::of(".{0,9}");
    let tag = proptest::option::of(tag);
    (
        any::<(i32, i64, i32, i32, i32, i8)>(),
        any::<(i32, i32)>(),
        topics,
        forgotten,
        ".{0,9}",
        cluster,
        tag,
    )
        .prop_map(
            |(numbers, session, topics, forgotten, rack, cluster, unknown_tag)| Case {
                numbers,
                session,
                topics,
                forgotten,
                rack,
                cluster,
                unknown_tag,
            },
        )
}

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(text: &str, version: i16) -> kp::TopicName {
    kp::TopicName(string(if version < 13 { text } else { "" }))
}

fn id(bytes: [u8; 16], version: i16) -> Uuid {
    if version < 13 {
        Uuid::nil()
    } else {
        Uuid::from_bytes(bytes)
    }
}

fn topic_ref(text: &str, bytes: [u8; 16], version: i16) -> TopicRef {
    if version < 13 {
        TopicRef::Name(string(text))
    } else {
        TopicRef::Id(TopicId::from_bytes(bytes))
    }
}

impl Case {
    fn tags(&self, version: i16) -> std::collections::BTreeMap<i32, Bytes> {
        let tag = self.unknown_tag.iter().filter(|_| version >= 12);
        tag.map(|(tag, value)| (*tag, Bytes::from(value.clone())))
            .collect()
    }

    fn generated(&self, version: i16) -> kp::FetchRequest {
        let (replica, replica_epoch, wait, min, max, isolation) = self.numbers;
        let mut request = kp::FetchRequest::default()
            .with_max_wait_ms(wait)
            .with_min_bytes(min)
            .with_max_bytes(max)
            .with_isolation_level(isolation)
            .with_topics(self.generated_topics(version))
            .with_unknown_tagged_fields(self.tags(version));
        if version < 15 {
            request.replica_id = kp::BrokerId(replica);
        } else {
            request.replica_state = kpr::ReplicaState::default()
                .with_replica_id(kp::BrokerId(replica))
                .with_replica_epoch(replica_epoch)
                .with_unknown_tagged_fields(self.tags(version));
        }
        if version >= 7 {
            (request.session_id, request.session_epoch) = self.session;
            let forgotten = self.forgotten.iter().map(|(text, bytes, partitions)| {
                kpr::ForgottenTopic::default()
                    .with_topic(name(text, version))
                    .with_topic_id(id(*bytes, version))
                    .with_partitions(partitions.clone())
                    .with_unknown_tagged_fields(self.tags(version))
            });
            request.forgotten_topics_data = forgotten.collect();
        }
        if version >= 11 {
            request.rack_id = string(&self.rack);
        }
        if version >= 12 {
            request.cluster_id = self.cluster.as_deref().map(string);
        }
        request
    }

    fn generated_topics(&self, version: i16) -> Vec<kpr::FetchTopic> {
        let topics = self.topics.iter().map(|(text, bytes, partitions)| {
            let partitions = partitions.iter().map(|partition| {
                let (index, epoch, offset, last, start, max, directory, watermark) = *partition;
                let mut generated = kpr::FetchPartition::default()
                    .with_partition(index)
                    .with_fetch_offset(offset)
                    .with_partition_max_bytes(max)
                    .with_unknown_tagged_fields(self.tags(version));
                if version >= 5 {
                    generated.log_start_offset = start;
                }
                if version >= 9 {
                    generated.current_leader_epoch = epoch;
                }
                if version >= 12 {
                    generated.last_fetched_epoch = last;
                }
                if version >= 17 {
                    generated.replica_directory_id = Uuid::from_bytes(directory);
                }
                if version >= 18 {
                    generated.high_watermark = watermark;
                }
                generated
            });
            kpr::FetchTopic::default()
                .with_topic(name(text, version))
                .with_topic_id(id(*bytes, version))
                .with_partitions(partitions.collect())
                .with_unknown_tagged_fields(self.tags(version))
        });
        topics.collect()
    }

    fn expected(&self, version: i16) -> FetchRequest {
        let (replica, replica_epoch, max_wait_ms, min_bytes, max_bytes, isolation_level) =
            self.numbers;
        let has_session = version >= 7;
        let topics = self
            .topics
            .iter()
            .map(|(text, bytes, partitions)| FetchTopic {
                topic: topic_ref(text, *bytes, version),
                partitions: partitions
                    .iter()
                    .map(|case| expected_partition(case, version))
                    .collect(),
            });
        let forgotten = self.forgotten.iter().filter(|_| has_session);
        let forgotten = forgotten.map(|(text, bytes, partitions)| ForgottenTopic {
            topic: topic_ref(text, *bytes, version),
            partitions: partitions.iter().copied().map(PartitionIndex).collect(),
        });
        FetchRequest {
            replica_id: NodeId(replica),
            replica_epoch: if version >= 15 { replica_epoch } else { -1 },
            max_wait_ms,
            min_bytes,
            max_bytes,
            isolation_level,
            session_id: if has_session { self.session.0 } else { 0 },
            session_epoch: if has_session { self.session.1 } else { -1 },
            topics: topics.collect(),
            forgotten_topics: forgotten.collect(),
            rack_id: string(if version >= 11 { &self.rack } else { "" }),
            cluster_id: self
                .cluster
                .as_deref()
                .filter(|_| version >= 12)
                .map(string),
        }
    }
}

fn expected_partition(case: &PartitionCase, version: i16) -> FetchPartition {
    let (index, epoch, offset, last, start, max, directory, watermark) = *case;
    FetchPartition {
        index: PartitionIndex(index),
        current_leader_epoch: LeaderEpoch(if version >= 9 { epoch } else { -1 }),
        fetch_offset: offset,
        last_fetched_epoch: LeaderEpoch(if version >= 12 { last } else { -1 }),
        log_start_offset: if version >= 5 { start } else { -1 },
        partition_max_bytes: max,
        replica_directory_id: Uuid::from_bytes(if version >= 17 { directory } else { [0; 16] }),
        high_watermark: if version >= 18 { watermark } else { i64::MAX },
    }
}

fn body(request: &kp::FetchRequest, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    request.encode(&mut out, version).unwrap();
    out.freeze()
}

#[test]
fn golden_request_v4() {
    let body = Bytes::from_static(
        b"\xff\xff\xff\xff\0\0\x01\xf4\0\0\0\x01\x03\x20\0\0\0\0\0\0\x01\0\x01t\0\0\0\x01\
          \0\0\0\x02\0\0\0\0\0\0\0\x09\0\x10\0\0",
    );
    let request = FetchRequest::parse(4, &body).unwrap();
    assert_eq!((request.max_wait_ms, request.min_bytes), (500, 1));
    assert_eq!(request.max_bytes, 50 << 20);
    assert!(!request.is_from_follower());
    let partition = request.topics.first().unwrap().partitions.first().unwrap();
    assert_eq!(
        (partition.index, partition.fetch_offset),
        (PartitionIndex(2), 9)
    );
    assert_eq!(partition.partition_max_bytes, 1 << 20);
}

#[test]
fn a_tag_whose_value_does_not_fill_its_size_is_refused() {
    let request = kp::FetchRequest::default().with_cluster_id(Some(string("ab")));
    let mut bytes = body(&request, 12).to_vec();
    // ... | count 1 | tag 0 | size 3 | length 2+1 | a b
    assert_eq!(
        bytes.get(bytes.len() - 6..),
        Some(&[1, 0, 3, 3, b'a', b'b'][..])
    );
    let at = bytes.len() - 3;
    *bytes.get_mut(at).unwrap() = 2;
    assert!(matches!(
        FetchRequest::parse(12, &Bytes::from(bytes)),
        Err(DecodeError::TagSize { tag: 0, .. })
    ));
}

#[test]
fn an_oversized_frame_is_an_error_and_not_a_wrong_length() {
    let mut partition = FetchPartitionResponse::refused(PartitionIndex(0), ErrorCode::None);
    partition.records_len = usize::try_from(i32::MAX).unwrap();
    let topic = FetchTopicResponse {
        topic: TopicRef::Name(string("t")),
        partitions: vec![partition],
    };
    let mut response = FetchResponse::empty(ErrorCode::None, 0);
    response.topics.push(topic);
    assert_eq!(
        response.encode(4, CorrelationId(1)),
        Err(EncodeError::TooLong)
    );
}

/// What goes over the wire when the caller sends `records` of its own.
fn assemble(frame: &FetchFrame, records: &[Vec<u8>]) -> Bytes {
    let mut out = BytesMut::new();
    for part in &frame.parts {
        match part {
            Part::Bytes(bytes) => out.extend_from_slice(bytes),
            Part::Records { partition, len } => {
                let records = records.get(*partition).unwrap();
                assert_eq!(records.len(), *len);
                out.extend_from_slice(records);
            }
        }
    }
    assert_eq!(out.len(), frame.total_len);
    out.freeze()
}

#[derive(Clone, Debug)]
struct Answer {
    offsets: (i64, i64, i64),
    records: Vec<u8>,
    aborted: Option<Vec<(i64, i64)>>,
    leader: Option<(i32, i32)>,
    diverging: Option<(i32, i64)>,
    replica: i32,
}

fn answer() -> impl Strategy<Value = Answer> {
    (
        any::<(i64, i64, i64)>(),
        proptest::collection::vec(any::<u8>(), 0..50),
        proptest::option::of(proptest::collection::vec(any::<(i64, i64)>(), 0..3)),
        proptest::option::of((0..9_i32, 0..9_i32)),
        proptest::option::of((0..9_i32, 0..9_i64)),
        any::<i32>(),
    )
        .prop_map(
            |(offsets, records, aborted, leader, diverging, replica)| Answer {
                offsets,
                records,
                aborted,
                leader,
                diverging,
                replica,
            },
        )
}

impl Answer {
    fn response(&self, index: i32) -> FetchPartitionResponse {
        let (high_watermark, last_stable_offset, log_start_offset) = self.offsets;
        FetchPartitionResponse {
            index: PartitionIndex(index),
            error: ErrorCode::None,
            high_watermark,
            last_stable_offset,
            log_start_offset,
            diverging_epoch: self.diverging.map(|(epoch, end)| (LeaderEpoch(epoch), end)),
            current_leader: self.leader.map(|(leader, epoch)| CurrentLeader {
                leader_id: NodeId(leader),
                leader_epoch: LeaderEpoch(epoch),
            }),
            aborted_transactions: self.aborted.as_ref().map(|aborted| {
                let each = aborted
                    .iter()
                    .map(|(producer_id, first_offset)| AbortedTransaction {
                        producer_id: ProducerId(*producer_id),
                        first_offset: *first_offset,
                    });
                each.collect()
            }),
            preferred_read_replica: NodeId(self.replica),
            records_len: self.records.len(),
        }
    }
}

proptest! {
    #[test]
    fn requests_are_read_as_the_generated_decoder_reads_them(case in case()) {
        for version in ApiKey::Fetch.versions() {
            let generated = case.generated(version);
            let body = body(&generated, version);
            let back = kp::FetchRequest::decode(&mut body.clone(), version).unwrap();
            prop_assert_eq!(&back, &generated);
            prop_assert_eq!(FetchRequest::parse(version, &body), Ok(case.expected(version)));
        }
    }

    #[test]
    fn bent_and_cut_requests_are_survived(case in case(), at: usize, bit in 0..8_u32, cut: usize) {
        for version in ApiKey::Fetch.versions() {
            let mut bytes = body(&case.generated(version), version).to_vec();
            let length = bytes.len();
            let cut = Bytes::from(bytes.get(..cut % length).unwrap().to_vec());
            prop_assert!(FetchRequest::parse(version, &cut).is_err());
            *bytes.get_mut(at % length).unwrap() ^= 1 << bit;
            let _ = FetchRequest::parse(version, &Bytes::from(bytes));
        }
    }

    #[test]
    fn responses_are_the_generated_encoders_bytes(
        answers in proptest::collection::vec(proptest::collection::vec(answer(), 0..4), 0..3),
        session: i32,
        throttle: i32,
        node in proptest::option::of((any::<i32>(), ".{0,9}")),
        bytes: [u8; 16],
    ) {
        for version in ApiKey::Fetch.versions() {
            let topics = answers.iter().map(|answers| FetchTopicResponse {
                topic: topic_ref("topic", bytes, version),
                partitions: (0..).zip(answers).map(|(index, one)| one.response(index)).collect(),
            });
            let response = FetchResponse {
                throttle_time_ms: throttle,
                error: ErrorCode::None,
                session_id: session,
                topics: topics.collect(),
                node_endpoints: node.iter().map(|(node_id, host)| NodeEndpoint {
                    node_id: NodeId(*node_id),
                    host: string(host),
                    port: 1,
                    rack: None,
                }).collect(),
            };
            let records: Vec<_> =
                answers.iter().flatten().map(|answer| answer.records.clone()).collect();
            let frame = response.encode(version, CorrelationId(6)).unwrap();
            let frame = assemble(&frame, &records);
            let mut rest = frame.clone();
            prop_assert_eq!(usize::try_from(rest.get_i32()).unwrap(), frame.len() - 4);
            prop_assert_eq!(rest.get_i32(), 6);
            if version >= 12 {
                prop_assert_eq!(rest.get_u8(), 0);
            }
            let written = rest.clone();
            let back = kp::FetchResponse::decode(&mut rest, version).unwrap();
            prop_assert!(rest.is_empty());
            let mut again = BytesMut::new();
            back.encode(&mut again, version).unwrap();
            prop_assert_eq!(&again[..], &written[..]);
            prop_assert_eq!(back.session_id, if version >= 7 { session } else { 0 });
            let partitions: Vec<_> =
                back.responses.iter().flat_map(|topic| &topic.partitions).collect();
            prop_assert_eq!(partitions.len(), records.len());
            for (partition, records) in partitions.iter().zip(&records) {
                prop_assert_eq!(partition.records.as_deref(), Some(&records[..]));
            }
            let nodes = if version >= 16 { usize::from(node.is_some()) } else { 0 };
            prop_assert_eq!(back.node_endpoints.len(), nodes);
        }
    }
}

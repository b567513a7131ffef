//! Steps of the produce walk before the log: header and body of a Produce request, and its answer.
//!
//! Run: `cargo bench --bench decode_produce`.

use std::hint::black_box;

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{CorrelationId, PartitionIndex};
use corelog::wire::StrBytes;
use corelog::wire::header::RequestHeader;
use corelog::wire::messages::encode_request;
use corelog::wire::produce::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse,
};
use corelog::wire::topic_ref::TopicRef;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kafka_protocol::messages as kp;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::Decodable;

const VERSION: i16 = 13;

/// A frame without its length: one topic, so many partitions, a batch of 16 KiB each.
fn frame(partitions: i32) -> Bytes {
    let mut builder = BatchBuilder::new();
    for _ in 0..150 {
        builder.push(1_700_000_000_000, None, Some(&[b'x'; 100]));
    }
    let batch = Bytes::from(builder.build());
    let partitions = (0..partitions).map(|index| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(batch.clone()))
    });
    let topic = TopicProduceData::default()
        .with_topic_id(uuid::Uuid::from_bytes([7; 16]))
        .with_partition_data(partitions.collect());
    let request = kp::ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    encode_request(VERSION, CorrelationId(1), "bench", &request)
        .expect("a frame")
        .slice(4..)
}

fn response(partitions: i32) -> ProduceResponse {
    let partitions = (0..partitions)
        .map(|index| ProducePartitionResponse::appended(PartitionIndex(index), 1 << 40, 0));
    let topic = ProduceTopicResponse {
        topic: TopicRef::Name(StrBytes::from_static_str("orders")),
        partitions: partitions.collect(),
    };
    ProduceResponse {
        topics: vec![topic],
        ..ProduceResponse::default()
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("produce");
    for partitions in [1, 10, 100] {
        let frame = frame(partitions);
        group.throughput(Throughput::Elements(u64::from(partitions.unsigned_abs())));
        group.bench_with_input(
            BenchmarkId::new("in place", partitions),
            &frame,
            |bencher, frame| {
                bencher.iter(|| {
                    let (header, body) = RequestHeader::parse(black_box(frame)).expect("a header");
                    ProduceRequest::parse(header.version, &body).expect("a body")
                });
            },
        );
        let (_, body) = RequestHeader::parse(&frame).expect("a header");
        group.bench_with_input(
            BenchmarkId::new("generated", partitions),
            &body,
            |bencher, body| {
                bencher.iter(|| {
                    kp::ProduceRequest::decode(&mut black_box(body).clone(), VERSION)
                        .expect("a body")
                });
            },
        );
        let response = response(partitions);
        group.bench_with_input(
            BenchmarkId::new("answer", partitions),
            &response,
            |bencher, response| {
                bencher.iter(|| {
                    black_box(response)
                        .encode(9, CorrelationId(1))
                        .expect("a frame")
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);

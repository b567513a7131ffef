//! Pipelined Produce requests: batches of one connection reach each partition in request order,
//! whatever work each of them needs and whichever core is its partition's home.

mod support;

use std::collections::BTreeMap;
use std::thread;

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::compression::Codec;
use corelog::model::ids::{ProducerEpoch, ProducerId};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, TopicName};
use support::raw::{Connection, text};
use support::{Broker, Launch, client, directory};

const TOPIC: &str = "mixed";
const PARTITIONS: i32 = 4;
/// What clients keep in flight.
const IN_FLIGHT: i32 = 5;
const ROUNDS: i32 = 60;
const PRODUCERS: u8 = 3;
const RECORDS_PER_BATCH: i32 = 3;
const PRODUCE_VERSION: i16 = 9;

/// A producer with a connection of its own.
struct Producer {
    number: u8,
    connection: Connection,
    id: ProducerId,
}

impl Producer {
    fn new(broker: &Broker, number: u8) -> Self {
        let mut connection = Connection::open(broker.launch().address());
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        let answer = connection.call(&request, 4);
        assert_eq!(answer.error_code, 0);
        Self {
            number,
            connection,
            id: ProducerId(answer.producer_id.0),
        }
    }

    /// One batch for every partition. Some are compressed as the topic wants them; the others are
    /// compressed anew by the broker, which takes its time.
    fn request(&mut self, request: i32) -> Bytes {
        let partitions = (0..PARTITIONS).map(|partition| {
            let needs_work = (request + partition) % 2 == 1;
            let codec = if needs_work { Codec::None } else { Codec::Gzip };
            let sequence = request * RECORDS_PER_BATCH;
            let mut batch =
                BatchBuilder::new()
                    .codec(codec)
                    .producer(self.id, ProducerEpoch(0), sequence);
            for number in sequence..sequence + RECORDS_PER_BATCH {
                let value = value(self.number, number, if needs_work { 8_000 } else { 20 });
                batch.push(1, None, Some(&value));
            }
            PartitionProduceData::default()
                .with_index(partition)
                .with_records(Some(batch.build().into()))
        });
        let topic = TopicProduceData::default()
            .with_name(TopicName(text(TOPIC)))
            .with_partition_data(partitions.collect());
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        self.connection.frame(&request, PRODUCE_VERSION)
    }

    /// Five requests leave together; then their answers are read. Offsets rise within a partition.
    fn run(mut self) {
        let mut last = [-1; PARTITIONS as usize];
        for round in 0..ROUNDS {
            let first = round * IN_FLIGHT;
            let frames: Vec<Bytes> = (first..first + IN_FLIGHT)
                .map(|request| self.request(request))
                .collect();
            self.connection.send(&frames.concat());
            for request in first..first + IN_FLIGHT {
                let answer = self.connection.receive::<ProduceRequest>(PRODUCE_VERSION);
                for partition in &answer.responses[0].partition_responses {
                    let what = (self.number, request, partition.index);
                    assert_eq!(partition.error_code, 0, "{what:?}: {partition:?}");
                    let last = &mut last[usize::try_from(partition.index).expect("a few")];
                    assert!(partition.base_offset > *last, "{what:?}: {partition:?}");
                    *last = partition.base_offset;
                }
            }
        }
    }
}

/// Producer and number, then text that a codec has some work with.
fn value(producer: u8, number: i32, size: usize) -> Vec<u8> {
    let mut value = vec![producer];
    value.extend(number.to_be_bytes());
    let mut state = u32::try_from(number).expect("not negative") * 4 + u32::from(producer);
    value.extend((0..size).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + u8::try_from(state >> 28).expect("four bits")
    }));
    value
}

/// Numbers of each producer's records in one partition, in offset order.
fn read(broker: &Broker, partition: i32) -> BTreeMap<u8, Vec<i32>> {
    let mut numbers: BTreeMap<u8, Vec<i32>> = BTreeMap::new();
    for record in client::read_partition(&broker.bootstrap(), TOPIC, partition, 0) {
        let value = record.value.expect("a value");
        let number = i32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
        numbers.entry(value[0]).or_default().push(number);
    }
    numbers
}

#[test]
fn pipelined_batches_reach_each_partition_in_request_order() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    assert!(
        cores >= 2,
        "this test needs two cores: one home is not another's"
    );
    let dir = directory();
    let broker = Launch::new(dir.path()).flag("--cores", "0,1").start();
    let settings = [("compression.type", "gzip")];
    client::create_topic(&broker.bootstrap(), TOPIC, PARTITIONS, &settings);
    thread::scope(|scope| {
        for number in 0..PRODUCERS {
            let producer = Producer::new(&broker, number);
            scope.spawn(|| producer.run());
        }
    });
    let expected: Vec<i32> = (0..ROUNDS * IN_FLIGHT * RECORDS_PER_BATCH).collect();
    for partition in 0..PARTITIONS {
        let numbers = read(&broker, partition);
        assert_eq!(
            numbers.len(),
            usize::from(PRODUCERS),
            "partition {partition}"
        );
        for (producer, found) in numbers {
            assert_eq!(
                found, expected,
                "producer {producer}, partition {partition}"
            );
        }
    }
}

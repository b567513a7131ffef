//! librdkafka for the tests: short calls that wait and fail the test with a sentence.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

/// How long a single exchange may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Delivery of one record: partition and offset, or the error.
pub type Delivery = Result<(i32, i64), String>;

/// Keeps the deliveries.
#[derive(Clone, Debug, Default)]
pub struct Deliveries(Arc<Mutex<Vec<Delivery>>>);

impl Deliveries {
    pub fn all(&self) -> Vec<Delivery> {
        self.0.lock().expect("no panic under the lock").clone()
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let delivery = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.to_string()),
        };
        self.0
            .lock()
            .expect("no panic under the lock")
            .push(delivery);
    }
}

/// A producer that keeps its deliveries in its context.
pub type Producer = BaseProducer<Deliveries>;

/// A producer with these settings besides the address.
pub fn producer(bootstrap: &str, settings: &[(&str, &str)]) -> Producer {
    config(bootstrap, settings)
        .create_with_context(Deliveries::default())
        .expect("a valid producer")
}

/// Sends one record; `partition` below 0 lets the key choose.
#[track_caller]
pub fn send(producer: &Producer, topic: &str, partition: i32, key: Option<&str>, value: &[u8]) {
    let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).payload(value);
    if partition >= 0 {
        record = record.partition(partition);
    }
    if let Some(key) = key {
        record = record.key(key);
    }
    if let Err((error, _)) = producer.send(record) {
        panic!("not queued: {error}");
    }
}

/// Waits for all deliveries and returns those since the last call's end, in order of arrival.
#[track_caller]
pub fn flush(producer: &Producer) -> Vec<Delivery> {
    producer.flush(LIMIT).expect("delivered in time");
    producer.context().all()
}

/// Sends `values` to one partition with these settings, and expects each to be acknowledged.
#[track_caller]
pub fn produce(
    bootstrap: &str,
    topic: &str,
    partition: i32,
    values: impl IntoIterator<Item = Vec<u8>>,
    settings: &[(&str, &str)],
) {
    let producer = producer(bootstrap, settings);
    let mut count = 0;
    for value in values {
        send(&producer, topic, partition, None, &value);
        count += 1;
    }
    let deliveries = flush(&producer);
    assert_eq!(deliveries.len(), count);
    for delivery in deliveries {
        delivery.expect("acknowledged");
    }
}

/// Creates a topic with these settings.
#[track_caller]
pub fn create_topic(bootstrap: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin = admin(bootstrap);
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    let results = block_on(admin.create_topics([&new], &AdminOptions::new())).expect("answered");
    for result in results {
        result.expect("created");
    }
}

/// Deletes a topic.
#[track_caller]
pub fn delete_topic(bootstrap: &str, topic: &str) {
    let admin = admin(bootstrap);
    let results = block_on(admin.delete_topics(&[topic], &AdminOptions::new())).expect("answered");
    for result in results {
        result.expect("deleted");
    }
}

/// An admin client.
pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    config(bootstrap, &[])
        .create()
        .expect("a valid admin client")
}

/// A consumer of `group` with these settings.
pub fn consumer(bootstrap: &str, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = config(
        bootstrap,
        &[("group.id", group), ("auto.offset.reset", "earliest")],
    );
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().expect("a valid consumer")
}

/// Reads one partition from `from` up to the end that it has now.
#[track_caller]
pub fn read_partition(bootstrap: &str, topic: &str, partition: i32, from: i64) -> Vec<Read> {
    let settings = [
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
    ];
    let consumer = consumer(bootstrap, "reader", &settings);
    let (_, end) = consumer
        .fetch_watermarks(topic, partition, LIMIT)
        .expect("watermarks");
    let wanted = usize::try_from((end - from).max(0)).expect("a small number");
    let mut assignment = TopicPartitionList::new();
    let start = Offset::Offset(from);
    assignment
        .add_partition_offset(topic, partition, start)
        .expect("a valid offset");
    consumer.assign(&assignment).expect("assigned");
    poll_records(&consumer, wanted)
}

/// Polls until `wanted` records have come.
#[track_caller]
pub fn poll_records<C: ConsumerContext>(consumer: &BaseConsumer<C>, wanted: usize) -> Vec<Read> {
    let started = Instant::now();
    let mut reads = Vec::with_capacity(wanted);
    while reads.len() < wanted {
        assert!(
            started.elapsed() < LIMIT,
            "{} of {wanted} records in {LIMIT:?}",
            reads.len()
        );
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => reads.push(Read {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => panic!("consumer: {error}"),
        }
    }
    reads
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LIMIT, "not in {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Errors that the library reports while it waits for a leader or a connection.
fn is_passing(error: &rdkafka::error::KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::UnknownTopicOrPartition
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
        )
    )
}

fn config(bootstrap: &str, settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config.set("reconnect.backoff.max.ms", "200");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future of the library on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

//! Produces and consumes with the rdkafka crate.
//!
//! ```text
//! corelog-client-rust BOOTSTRAP produce TOPIC CODEC [idempotent]
//!     lines KEY<tab>VALUE from stdin
//! corelog-client-rust BOOTSTRAP consume TOPIC [TIMESTAMP]
//!     all there is, or all since TIMESTAMP (ms)
//! corelog-client-rust BOOTSTRAP group GROUP TOPIC [COUNT]
//!     as a group member; commits every record, ends after COUNT
//! corelog-client-rust BOOTSTRAP cooperative GROUP TOPIC
//!     the same without an end, rebalancing cooperatively
//! ```

use std::error::Error;
use std::io::BufRead;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Prints what the client reports on its own: deliveries and assignments.
struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(sent) => {
                println!(
                    "{{\"partition\": {}, \"offset\": {}}}",
                    sent.partition(),
                    sent.offset()
                );
            }
            Err((error, _)) => eprintln!("not acknowledged: {error}"),
        }
    }
}

impl ConsumerContext for Reports {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let (change, list) = match rebalance {
            Rebalance::Assign(list) => ("assigned", list),
            Rebalance::Revoke(list) => ("revoked", list),
            Rebalance::Error(error) => return eprintln!("rebalance: {error}"),
        };
        let elements = list.elements();
        let partitions: Vec<i32> = elements
            .iter()
            .map(TopicPartitionListElem::partition)
            .collect();
        println!("{{\"{change}\": {partitions:?}}}");
    }
}

fn produce(mut config: ClientConfig, topic: &str, codec: &str, idempotent: bool) -> Result<()> {
    let producer: ThreadedProducer<Reports> = config
        .set("compression.type", codec)
        .set("enable.idempotence", idempotent.to_string())
        .set("acks", "all")
        .set("linger.ms", "20")
        .create_with_context(Reports)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (key, value) = line.split_once('\t').ok_or("a line without a tab")?;
        let header = Header {
            key: "client",
            value: Some("rdkafka"),
        };
        let mut record = BaseRecord::<str, str>::to(topic)
            .payload(value)
            .headers(OwnedHeaders::new().insert(header));
        if !key.is_empty() {
            record = record.key(key);
        }
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(TIMEOUT)?;
    Ok(())
}

/// JSON of a text without characters that JSON would want escaped.
fn quote(text: Option<&[u8]>) -> String {
    text.map_or("null".into(), |text| {
        format!("\"{}\"", String::from_utf8_lossy(text))
    })
}

fn print_record(message: &BorrowedMessage<'_>) {
    let headers: Vec<String> = message.headers().map_or(Vec::new(), |headers| {
        headers
            .iter()
            .map(|h| format!("\"{}\": {}", h.key, quote(h.value)))
            .collect()
    });
    println!(
        "{{\"partition\": {}, \"offset\": {}, \"timestamp\": {}, \"key\": {}, \"value\": {}, \
         \"headers\": {{{}}}}}",
        message.partition(),
        message.offset(),
        message.timestamp().to_millis().unwrap_or(-1),
        quote(message.key()),
        quote(message.payload()),
        headers.join(", ")
    );
}

fn consume(mut config: ClientConfig, topic: &str, timestamp: Option<i64>) -> Result<()> {
    let consumer: BaseConsumer = config
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let from = timestamp.map_or(Offset::Beginning, Offset::Offset);
    let mut list = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(rdkafka::metadata::MetadataTopic::partitions)
    {
        list.add_partition_offset(topic, partition.id(), from)?;
    }
    if timestamp.is_some() {
        list = consumer.offsets_for_times(list, TIMEOUT)?;
    }
    consumer.assign(&list)?;
    let mut unread = list.count();
    while unread > 0 {
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => print_record(&message),
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    Ok(())
}

fn group(mut config: ClientConfig, group: &str, topic: &str, count: Option<u64>) -> Result<()> {
    let consumer: BaseConsumer<Reports> = config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500")
        .create_with_context(Reports)?;
    consumer.subscribe(&[topic])?;
    let mut done = 0;
    while count.is_none_or(|count| done < count) {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            let message = message?;
            print_record(&message);
            consumer.commit_message(&message, CommitMode::Sync)?;
            done += 1;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut config = ClientConfig::new();
    config.set(
        "bootstrap.servers",
        *arguments.first().ok_or("no bootstrap address")?,
    );
    match arguments.get(1..).unwrap_or_default() {
        ["produce", topic, codec, rest @ ..] => produce(config, topic, codec, !rest.is_empty()),
        ["consume", topic] => consume(config, topic, None),
        ["consume", topic, timestamp] => consume(config, topic, Some(timestamp.parse()?)),
        ["group", id, topic] => group(config, id, topic, None),
        ["cooperative", id, topic] => {
            config.set("partition.assignment.strategy", "cooperative-sticky");
            group(config, id, topic, None)
        }
        ["group", id, topic, count] => group(config, id, topic, Some(count.parse()?)),
        _ => Err("usage: BOOTSTRAP produce|consume|group|cooperative ...".into()),
    }
}

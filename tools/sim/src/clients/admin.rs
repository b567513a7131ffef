//! Topics that come and go, and records that are deleted.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use corelog::model::compression::Codec;
use corelog::rt;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::checkers::records::RecordId;
use crate::clients::consumer;
use crate::clients::producer::{Batch, outcome, request};
use crate::wire::Connection;
use crate::world::{CHURN, IDEMPOTENT, Place, World, refused};

const UNKNOWN_TOPIC: i16 = 3;
const TOPIC_EXISTS: i16 = 36;

/// Whether the topic that comes and goes is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Churn {
    Absent,
    Present,
    /// A request to change it was not answered in this life of the broker: it may still be done.
    Unsure(u32),
}

/// What is known of the topic that comes and goes.
pub(crate) struct Admin {
    churn: Cell<Churn>,
    incarnation: Cell<u32>,
    next: Cell<u32>,
}

impl Admin {
    pub(crate) fn new() -> Self {
        Self {
            churn: Cell::new(Churn::Absent),
            incarnation: Cell::default(),
            next: Cell::default(),
        }
    }

    pub(crate) async fn run(self: Rc<Self>, world: Rc<World>) {
        while let Some(mut connection) = world.connect().await {
            drop(self.serve(&world, &mut connection).await);
            world.pause().await;
        }
    }

    async fn serve(&self, world: &World, connection: &mut Connection) -> io::Result<()> {
        while !world.is_over() {
            match world.below(3) {
                0 => delete_records(world, connection).await?,
                _ => self.churn(world, connection).await?,
            }
            world.pause().await;
        }
        Ok(())
    }

    async fn churn(&self, world: &World, connection: &mut Connection) -> io::Result<()> {
        let unsure = Churn::Unsure(world.life.get());
        tracing::info!(target: "corelog::sim", is = ?self.churn.get(), "churn");
        match self.churn.get() {
            Churn::Absent => {
                self.churn.set(unsure);
                self.incarnation.set(self.incarnation.get() + 1);
                self.next.set(0);
                let code = create(connection, CHURN, 1, &[]).await?;
                world.count("topic created");
                self.settle(
                    code,
                    Churn::Present,
                    TOPIC_EXISTS,
                    "[deleted-stays-deleted]",
                )
            }
            Churn::Present => {
                self.fill(world, connection).await?;
                self.churn.set(unsure);
                let code = delete(connection, CHURN).await?;
                world.count("topic deleted");
                self.settle(code, Churn::Absent, UNKNOWN_TOPIC, "[topic-stays]")
            }
            Churn::Unsure(life) if life == world.life.get() => Ok(()),
            Churn::Unsure(_) => match delete(connection, CHURN).await? {
                0 | UNKNOWN_TOPIC => {
                    self.churn.set(Churn::Absent);
                    Ok(())
                }
                code => Err(refused(code)),
            },
        }
    }

    fn settle(&self, code: i16, now: Churn, never: i16, check: &str) -> io::Result<()> {
        assert_ne!(
            code, never,
            "{check} {CHURN}: error {code} on the way to {now:?}"
        );
        if code != 0 {
            return Err(refused(code));
        }
        self.churn.set(now);
        Ok(())
    }

    /// Writes to the topic and reads all of it: nothing of its predecessors is there.
    async fn fill(&self, world: &World, connection: &mut Connection) -> io::Result<()> {
        let place = Place {
            topic: CHURN,
            partition: 0,
            incarnation: self.incarnation.get(),
        };
        for _ in 0..=world.below(4) {
            let batch = Batch {
                place,
                first: RecordId {
                    producer: IDEMPOTENT + self.incarnation.get(),
                    number: self.next.get(),
                },
                count: 2,
                codec: Codec::None,
                sent_ms: rt::unix_ms(),
            };
            self.next.set(self.next.get() + batch.count);
            world.with(place, |records| records.on_send(batch.first, batch.count));
            let response = connection.call(&request(&batch, None), 9).await?;
            let (code, base) = outcome(&response);
            assert_ne!(code, UNKNOWN_TOPIC, "[topic-stays] {CHURN}");
            if code != 0 {
                return Err(refused(code));
            }
            world.with(place, |records| {
                let told = (base, batch.sent_ms);
                records.on_acknowledged(batch.first, batch.count, told, false);
            });
        }
        consumer::read_whole(world, connection, place).await
    }
}

/// Creates a topic; the error code.
pub(crate) async fn create(
    connection: &mut Connection,
    name: &'static str,
    partitions: i32,
    configs: &[(&'static str, &'static str)],
) -> io::Result<i16> {
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_static_str(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = connection.call(&request, 5).await?;
    let topic = response.topics.first().ok_or(io::ErrorKind::InvalidData)?;
    Ok(topic.error_code)
}

async fn delete(connection: &mut Connection, name: &'static str) -> io::Result<i16> {
    let topic =
        DeleteTopicState::default().with_name(Some(TopicName(StrBytes::from_static_str(name))));
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = connection.call(&request, 6).await?;
    let topic = response.responses.first();
    Ok(topic.ok_or(io::ErrorKind::InvalidData)?.error_code)
}

/// Deletes the first records of a partition.
async fn delete_records(world: &World, connection: &mut Connection) -> io::Result<()> {
    let place = world.pick(&Place::lasting());
    let (start, end) = consumer::bounds(world, connection, place).await?;
    let reach = start.abs_diff(end) / 2;
    let offset = start + i64::try_from(world.below(1 + reach)).expect("small");
    world.with(place, |records| records.on_delete(offset));
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(place.partition)
        .with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(place.topic)))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = connection.call(&request, 2).await?;
    world.count("records deleted");
    let found = response.topics.first().and_then(|t| t.partitions.first());
    let found = found.ok_or(io::ErrorKind::InvalidData)?;
    match found.error_code {
        0 => {
            let low_watermark = found.low_watermark;
            world.with(place, |records| records.on_deleted(low_watermark));
            Ok(())
        }
        code => Err(refused(code)),
    }
}

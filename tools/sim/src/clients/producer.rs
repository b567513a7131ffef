//! A producer: several batches on the way, sent again in their order until they are acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::compression::Codec;
use corelog::model::ids::{ProducerEpoch, ProducerId};
use corelog::rt;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::ProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::checkers::records::RecordId;
use crate::wire::Connection;
use crate::world::{Place, World, is_idempotent, refused};

/// Batches on the way: Kafka recognizes a repetition among the last five of a partition.
const WINDOW: usize = 4;
const VERSION: i16 = 9;

const OUT_OF_ORDER_SEQUENCE: i16 = 45;
const DUPLICATE_SEQUENCE: i16 = 46;
const UNKNOWN_PRODUCER: i16 = 59;

/// Records that belong together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) place: Place,
    pub(crate) first: RecordId,
    pub(crate) count: u32,
    pub(crate) codec: Codec,
    /// When its records were made, as the clock said then.
    pub(crate) sent_ms: i64,
}

impl Batch {
    /// Its bytes; the same however often it is sent.
    pub(crate) fn encode(&self, identity: Option<(i64, i16)>) -> Bytes {
        let mut builder = BatchBuilder::new().codec(self.codec);
        if let Some((id, epoch)) = identity {
            let sequence = i32::try_from(self.first.number).expect("few");
            builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
        }
        for n in 0..self.count {
            let id = RecordId {
                number: self.first.number + n,
                ..self.first
            };
            builder.push(self.sent_ms, None, Some(&id.value()));
        }
        Bytes::from(builder.build())
    }
}

/// A Produce request of one batch.
pub(crate) fn request(batch: &Batch, identity: Option<(i64, i16)>) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(batch.place.partition)
        .with_records(Some(batch.encode(identity)));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str(batch.place.topic)))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// Error code and base offset of an answer to one batch.
pub(crate) fn outcome(response: &ProduceResponse) -> (i16, i64) {
    let topic = response.responses.first().expect("one topic was sent");
    let partition = topic.partition_responses.first();
    let partition = partition.expect("one partition was sent");
    (partition.error_code, partition.base_offset)
}

/// What a producer remembers over the broker's lives.
pub(crate) struct Producer {
    number: u32,
    identity: Cell<Option<(i64, i16)>>,
    next: RefCell<BTreeMap<Place, u32>>,
    /// In the order in which they must be sent.
    unacknowledged: RefCell<VecDeque<Batch>>,
}

impl Producer {
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            identity: Cell::default(),
            next: RefCell::default(),
            unacknowledged: RefCell::default(),
        }
    }

    /// Produces until the world is over.
    pub(crate) async fn run(self: Rc<Self>, world: Rc<World>) {
        while let Some(mut connection) = world.connect().await {
            // whatever it was, the next connection begins with what is not acknowledged
            drop(self.serve(&world, &mut connection).await);
            world.pause().await;
        }
    }

    async fn serve(&self, world: &World, connection: &mut Connection) -> io::Result<()> {
        if is_idempotent(self.number) && self.identity.get().is_none() {
            let identity = identity(connection).await?;
            world.on_producer_id(identity.0);
            self.identity.set(Some(identity));
        }
        let mut on_the_way: VecDeque<i32> = VecDeque::new();
        let mut is_first = true;
        while !world.is_over() {
            if on_the_way.is_empty() {
                self.send_gap(world, connection).await?;
            }
            while on_the_way.len() < WINDOW {
                let sent_before = self.unacknowledged.borrow().get(on_the_way.len()).copied();
                let batch = match sent_before {
                    Some(batch) => batch,
                    None if world.chance(4) && !on_the_way.is_empty() => break,
                    None => self.next_batch(world),
                };
                let identity = self.identity.get();
                tracing::debug!(target: "corelog::sim", ?batch, ?identity, "sent");
                let request = request(&batch, identity);
                on_the_way.push_back(connection.send(&request, VERSION).await?);
            }
            if world.chance(60) {
                // the next connection repeats what is on the way, while this one may still be read
                world.tally.borrow_mut().add("sent again unasked", 1);
                return Ok(());
            }
            let Some(correlation_id) = on_the_way.pop_front() else {
                continue;
            };
            let receiving = connection.receive::<ProduceRequest>(correlation_id, VERSION);
            let (code, base) = outcome(&receiving.await?);
            let batch = self.unacknowledged.borrow().front().copied();
            let batch = batch.expect("it was sent");
            world.count(if code == 0 { "produced" } else { "refused" });
            let is_strange = [OUT_OF_ORDER_SEQUENCE, DUPLICATE_SEQUENCE, UNKNOWN_PRODUCER];
            assert!(
                !(is_first && is_strange.contains(&code)),
                "[sequence-kept] {batch:?} is refused with {code}, all before it are acknowledged"
            );
            is_first = false;
            tracing::debug!(target: "corelog::sim", ?batch, code, base, "answered");
            if code != 0 {
                return Err(refused(code));
            }
            self.unacknowledged.borrow_mut().pop_front();
            world.with(batch.place, |records| {
                let is_idempotent = is_idempotent(self.number);
                let told = (base, batch.sent_ms);
                records.on_acknowledged(batch.first, batch.count, told, is_idempotent);
            });
        }
        Ok(())
    }

    /// Nothing is on the way: sends records behind some that are missing, which must be refused.
    async fn send_gap(&self, world: &World, connection: &mut Connection) -> io::Result<()> {
        let place = world.pick(&Place::lasting());
        let next = self.next.borrow().get(&place).copied().unwrap_or(0);
        let is_free = self.unacknowledged.borrow().is_empty();
        if !is_idempotent(self.number) || !is_free || next == 0 || !world.chance(3) {
            return Ok(());
        }
        let batch = Batch {
            place,
            first: RecordId {
                producer: self.number,
                number: next + 1 + u32::try_from(world.below(6)).expect("small"),
            },
            count: 1,
            codec: Codec::None,
            sent_ms: rt::unix_ms(),
        };
        let request = request(&batch, self.identity.get());
        let (code, base) = outcome(&connection.call(&request, VERSION).await?);
        world.count("sequence gap sent");
        assert_ne!(
            code, 0,
            "[gap-refused] {batch:?} is taken at {base}, and {next} is the next of its producer"
        );
        Ok(())
    }

    fn next_batch(&self, world: &World) -> Batch {
        let place = world.pick(&Place::all());
        let count = 1 + u32::try_from(world.below(6)).expect("small");
        let mut next = self.next.borrow_mut();
        let next = next.entry(place).or_default();
        let batch = Batch {
            place,
            first: RecordId {
                producer: self.number,
                number: *next,
            },
            count,
            codec: world.pick(&[Codec::None, Codec::None, Codec::None, Codec::Lz4]),
            sent_ms: rt::unix_ms(),
        };
        *next += count;
        world.with(place, |records| records.on_send(batch.first, count));
        self.unacknowledged.borrow_mut().push_back(batch);
        batch
    }
}

async fn identity(connection: &mut Connection) -> io::Result<(i64, i16)> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    let response = connection.call(&request, 4).await?;
    match response.error_code {
        0 => Ok((response.producer_id.0, response.producer_epoch)),
        code => Err(refused(code)),
    }
}

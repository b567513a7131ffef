//! What the flags mean for a run: templates, connections, who produces and consumes what.
//!
//! Runs on: the calling thread, before a run.

use std::collections::HashMap;
use std::rc::Rc;

use corelog::wire::api::ApiKey;

use crate::args::{Load, Mode, Rate};
use crate::batch::{BatchMaker, key_text, partition_of_key};
use crate::clock::{Clock, Nanos};
use crate::cluster::{Cluster, Target};
use crate::consumer::{Assigned, ConsumeShared, Consumer};
use crate::engine::{Engine, Role};
use crate::link::Link;
use crate::numbers::{float, whole, whole_len};
use crate::producer::{ProduceShared, Producer};
use crate::recorder::{Recorder, Window};
use crate::requests::{FetchWriter, Format, ProduceWriter};
use crate::stamp::Stamping;
use crate::supply::{Batching, KeyedSupply, Keys, Lane, PlainSupply, Supply};
use crate::template::RecordShape;
use crate::verify::{Ledger, Seen};

const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// What producing connections share.
pub(crate) fn produce_shared(
    mode: Mode,
    load: &Load,
    cluster: &mut Cluster,
    clock: Clock,
    window: Window,
    run: u32,
) -> Result<ProduceShared, String> {
    let max = Format::version_max(ApiKey::Produce, &cluster.topics);
    let version = cluster.cold().versions().agree(ApiKey::Produce, max)?;
    let value_len = whole_len(float(load.record_size));
    let shape = RecordShape {
        value_len,
        has_key: load.keys > 0,
        random_share: load.random_share,
    };
    let batch_size = whole_len(float(load.batch_size));
    let maker = BatchMaker::new(shape, batch_size, load.compression, load.stamping(mode));
    Ok(ProduceShared {
        clock,
        writer: ProduceWriter {
            format: Format::new(ApiKey::Produce, version),
            acks: load.acks.wire(),
            timeout_ms: PRODUCE_TIMEOUT_MS,
        },
        topics: cluster.topics.clone(),
        maker,
        in_flight_max: load.in_flight,
        value_len,
        run,
        recorder: Recorder::new(window),
        ledger: load.verify.then(Ledger::default),
        acked_ends: vec![0; cluster.targets.len()],
    })
}

/// When records are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) start: Nanos,
    pub(crate) window: Window,
}

/// One connection after the other, each to the leader of some partitions, which are its targets.
pub(crate) fn add_producers(
    load: &Load,
    cluster: &mut Cluster,
    engine: &mut Engine,
    links: Vec<Link>,
    schedule: Schedule,
) -> Result<(), String> {
    let shared = engine
        .shared
        .produce
        .as_ref()
        .expect("[produces] it was given");
    let count_max = shared.maker.count_max();
    let led = cluster.led();
    let targets: Vec<Rc<[Target]>> = led.iter().map(|(_, list)| list.as_slice().into()).collect();
    let keys = keys_of_leaders(load, cluster, &targets)?;
    let count = links.len();
    let end = schedule.window.end;
    for (number, link) in links.into_iter().enumerate() {
        let leader = number % led.len();
        let targets = Rc::clone(&targets[leader]);
        let batching = Batching {
            count_max,
            linger: whole(load.linger * 1e6),
            batches_max: load.partitions_per_request,
            targets: targets.len(),
        };
        let lane = match load.rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(Lane::new(schedule.start, end, rate, number, count)),
        };
        let first = number * targets.len() / count;
        let supply = match keys.get(leader) {
            None => Supply::Plain(PlainSupply::new(batching, lane, end, first)),
            Some(keys) => {
                let keys = Rc::clone(keys);
                Supply::Keyed(KeyedSupply::new(batching, lane, end, keys, first))
            }
        };
        let identity = match load.idempotent {
            true => Some(cluster.producer_identity()?),
            false => None,
        };
        let number = u32::try_from(number).map_err(|error| error.to_string())?;
        let producer = Producer::new(number, targets, supply, identity, load.verify);
        engine.add(link, Role::Produce(Box::new(producer)))?;
    }
    Ok(())
}

/// Connections that produce, leader after leader.
pub(crate) fn open_producer_links(load: &Load, cluster: &Cluster) -> Result<Vec<Link>, String> {
    let led = cluster.led();
    if load.connections < led.len() {
        let leaders = led.len();
        return Err(format!(
            "{leaders} brokers lead: --connections {leaders} at least"
        ));
    }
    let addresses = led.iter().map(|(address, _)| address).cycle();
    addresses
        .take(load.connections)
        .map(|address| Link::open(address))
        .collect()
}

/// For each leader the keys of its partitions; nothing without keys. Topics take turns.
fn keys_of_leaders(
    load: &Load,
    cluster: &Cluster,
    leaders: &[Rc<[Target]>],
) -> Result<Vec<Rc<Keys>>, String> {
    if load.keys == 0 {
        return Ok(Vec::new());
    }
    // of each topic, the partitions as (leader, place among its targets)
    let mut places: Vec<HashMap<i32, (usize, usize)>> = vec![HashMap::new(); cluster.topics.len()];
    for (leader, targets) in leaders.iter().enumerate() {
        for (place, target) in targets.iter().enumerate() {
            places[target.topic].insert(target.partition, (leader, place));
        }
    }
    let mut keys = vec![Vec::new(); leaders.len()];
    let count = u32::try_from(load.keys).map_err(|error| error.to_string())?;
    for key in 0..count {
        let topic = usize::try_from(key).unwrap_or(0) % places.len();
        let partitions = &places[topic];
        let partition = partition_of_key(&key_text(key), partitions.len());
        let partition = i32::try_from(partition).map_err(|error| error.to_string())?;
        if let Some((leader, place)) = partitions.get(&partition) {
            keys[*leader].push((key, *place));
        }
    }
    if keys.iter().any(Vec::is_empty) {
        return Err("a broker leads no partition of any key: more --keys are needed".to_owned());
    }
    let keys = keys.into_iter().zip(leaders);
    Ok(keys
        .map(|(keys, targets)| Rc::new(Keys::new(keys, targets.len())))
        .collect())
}

/// What consuming connections share.
pub(crate) fn consume_shared(
    mode: Mode,
    load: &Load,
    cluster: &mut Cluster,
    clock: Clock,
    window: Window,
    run: Option<u32>,
) -> Result<ConsumeShared, String> {
    let max = Format::version_max(ApiKey::Fetch, &cluster.topics);
    let version = cluster.cold().versions().agree(ApiKey::Fetch, max)?;
    let size = |bytes: u64| i32::try_from(bytes).map_err(|error| error.to_string());
    let names = cluster
        .topics
        .iter()
        .enumerate()
        .flat_map(|(number, topic)| {
            [
                (topic.name.as_bytes().to_vec(), number),
                (topic.id.to_vec(), number),
            ]
        });
    let seen = match load.verify {
        true => load.consumers,
        false => 0,
    };
    Ok(ConsumeShared {
        clock,
        writer: FetchWriter {
            format: Format::new(ApiKey::Fetch, version),
            max_wait_ms: load.fetch_wait,
            min_bytes: size(load.fetch_min)?,
            max_bytes: size(load.fetch_max)?,
            partition_max_bytes: size(load.partition_max)?,
        },
        topics: cluster.topics.clone(),
        topic_numbers: names.collect(),
        recorder: Recorder::new(window),
        end_to_end: (mode == Mode::EndToEnd).then(|| Recorder::new(window)),
        stamping: load.stamping(mode),
        run,
        check_crc: load.check_crc || load.verify,
        seen: (0..seen).map(|_| Seen::default()).collect(),
        from_start: mode.produces() || load.begins(mode) == crate::args::From::Beginning,
        value_len: mode.produces().then(|| whole_len(float(load.record_size))),
        last_received_at: clock.now(),
        to_end: false,
    })
}

/// Every consumer reads every partition; its connections share them.
pub(crate) fn add_consumers(
    connections: usize,
    consumers: usize,
    cluster: &Cluster,
    engine: &mut Engine,
    starts: &[i64],
    ends: Option<&[i64]>,
) -> Result<(), String> {
    let led = cluster.led();
    let connections = connections.max(led.len());
    for consumer in 0..consumers {
        for number in 0..connections {
            let (address, targets) = &led[number % led.len()];
            // connections of this leader, and which of them this is
            let own = (connections - number % led.len()).div_ceil(led.len());
            let mine = targets.iter().skip(number / led.len()).step_by(own);
            let assigned: Vec<Assigned> = mine
                .map(|target| {
                    let stop_at = ends.map(|ends| ends[target.number]);
                    Assigned::new(*target, starts[target.number], stop_at)
                })
                .collect();
            if !assigned.is_empty() {
                let consumer = Consumer::new(consumer, assigned);
                engine.add(Link::open(address)?, Role::Consume(Box::new(consumer)))?;
            }
        }
    }
    Ok(())
}

/// How much the records of a run say, for the text of a report.
pub(crate) const fn stamping_text(stamping: Stamping) -> &'static str {
    match stamping {
        Stamping::None => "",
        Stamping::Due => ", each record stamped with its due time",
        Stamping::Full => ", each record numbered and checksummed",
    }
}

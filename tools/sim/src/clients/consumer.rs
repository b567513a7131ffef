//! A consumer: fetches from anywhere and holds what comes against what is known.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use corelog::model::record::{iter_records, payload};
use corelog::model::record_batch::{check_crc, iter_batches};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::checkers::records::check_dense;
use crate::wire::Connection;
use crate::world::{Place, TRAIL, World, is_idempotent, refused};

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const FETCH_BYTES: i32 = 1 << 20;

/// Reads until the world is over: onwards, and now and then somewhere else.
pub(crate) async fn run(world: Rc<World>) {
    while let Some(mut connection) = world.connect().await {
        drop(serve(&world, &mut connection).await);
        world.pause().await;
    }
}

async fn serve(world: &World, connection: &mut Connection) -> io::Result<()> {
    let (mut place, mut position) = (world.pick(&Place::all()), None);
    while !world.is_over() {
        let at = match position {
            Some(at) if !world.chance(12) => at,
            _ => {
                place = world.pick(&Place::all());
                let (start, end) = bounds(world, connection, place).await?;
                start + i64::try_from(world.below(1 + start.abs_diff(end))).expect("small")
            }
        };
        position = fetch(world, connection, place, at, 20).await?;
    }
    Ok(())
}

/// Earliest and latest offset.
pub(crate) async fn bounds(
    world: &World,
    connection: &mut Connection,
    place: Place,
) -> io::Result<(i64, i64)> {
    let known = world.known(place);
    let start = list_offset(connection, place, EARLIEST).await?;
    let end = list_offset(connection, place, LATEST).await?;
    world.count("listed");
    world.on_bounds(place, known, end, start);
    Ok((start, end))
}

async fn list_offset(connection: &mut Connection, place: Place, time: i64) -> io::Result<i64> {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(place.partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(time);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(place.topic)))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_topics(vec![topic]);
    let response = connection.call(&request, 5).await?;
    let topic = response.topics.first().ok_or(io::ErrorKind::InvalidData)?;
    let found = topic.partitions.first();
    let found = found.ok_or(io::ErrorKind::InvalidData)?;
    match found.error_code {
        0 => Ok(found.offset),
        code => Err(refused(code)),
    }
}

/// Fetches from `at`; where to go on, or `None` when that is not in the log.
pub(crate) async fn fetch(
    world: &World,
    connection: &mut Connection,
    place: Place,
    at: i64,
    wait_ms: i32,
) -> io::Result<Option<i64>> {
    let known = world.known(place);
    let partition = FetchPartition::default()
        .with_partition(place.partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(at)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(FETCH_BYTES);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_static_str(place.topic)))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let response = connection.call(&request, 12).await?;
    world.count("fetched");
    if response.error_code != 0 {
        return Err(refused(response.error_code));
    }
    let topic = response.responses.first();
    let found = topic.and_then(|topic| topic.partitions.first());
    let found = found.ok_or(io::ErrorKind::InvalidData)?;
    match found.error_code {
        0 => {}
        OFFSET_OUT_OF_RANGE => return Ok(None),
        CORRUPT_MESSAGE => {
            let until = world.with(place, |records| records.damaged_until(at));
            let until = until.unwrap_or_else(|| {
                panic!("[damage-told] {place:?}: {at} is said to be damaged, and is not")
            });
            world.tally.borrow_mut().add("damage refused", 1);
            return Ok(Some(until));
        }
        code => return Err(refused(code)),
    }
    let (high_watermark, log_start) = (found.high_watermark, found.log_start_offset);
    world.on_bounds(place, known, high_watermark, log_start);
    let records = found.records.clone().unwrap_or_default();
    let next = check(world, place, at, &records)?;
    assert!(
        next <= high_watermark,
        "[visible] {place:?}: {next} is behind the last record read, {high_watermark} is the \
         high watermark"
    );
    Ok(Some(next))
}

/// Checks every record; the offset behind the last.
fn check(world: &World, place: Place, at: i64, records: &Bytes) -> io::Result<i64> {
    let mut batches = Vec::new();
    for batch in iter_batches(records) {
        let Ok((header, batch)) = batch else { break }; // cut off by the size of the answer
        let base = header.base_offset.get();
        batches.push((base, base + i64::from(header.last_offset_delta)));
        if !check_crc(batch) {
            let is_known = world.with(place, |records| records.damaged_until(base).is_some());
            assert!(
                is_known,
                "[damage-told] {place:?}: the batch at {base} is damaged"
            );
            world.tally.borrow_mut().add("damage seen by a consumer", 1);
            continue;
        }
        let plain = payload(&header, batch, 1 << 20).map_err(io::Error::other)?;
        for record in iter_records(&plain, header.record_count) {
            let record = record.map_err(io::Error::other)?;
            let value = record.value.unwrap_or_default();
            let sent_ms = header.base_timestamp + record.timestamp_delta;
            let offset = base + i64::from(record.offset_delta);
            world.with(place, |records| {
                records.on_read(offset, (value, sent_ms), is_idempotent);
            });
        }
    }
    check_dense(place.topic, at, &batches);
    Ok(batches.last().map_or(at, |(_, last)| last + 1))
}

/// Reads a partition from its start to its end.
pub(crate) async fn read_whole(
    world: &World,
    connection: &mut Connection,
    place: Place,
) -> io::Result<()> {
    let (mut start, mut end) = bounds(world, connection, place).await?;
    let mut at = start;
    while at < end {
        let Some(next) = fetch(world, connection, place, at, 0).await? else {
            assert_eq!(
                place.topic, TRAIL,
                "[acknowledged-stays] {place:?}: {at} is out of range of {start} to {end}"
            );
            (start, end) = bounds(world, connection, place).await?; // it has expired meanwhile
            at = start;
            continue;
        };
        assert!(
            next > at,
            "[acknowledged-stays] {place:?}: nothing is read at {at}, and it ends at {end}"
        );
        at = next;
    }
    world.with(place, |records| records.on_read_whole(start, end));
    Ok(())
}

//! Produce: checks each batch, gives it its place in its partition's order, answers when durable.
//!
//! Runs on: the connection's shard; appends run on the partitions' home shards.
//! Promises: when `handle` returns, every batch has its place; the answer's future only waits. So
//! the next request of the connection may be prepared meanwhile, and cannot overtake this one.
//! Fast path: header view in place, CRC-32C, offsets patched at home; records are looked at only
//! where a rule of the topic needs them (a compacted topic's keys, the topic's own codec), and then
//! off the shard, with a bound on the decompressed size.
//! Rules: KIP-98, KIP-467 (record errors), KIP-516 (topic ids), KIP-937 (timestamps); protocol
//! notes at each check.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

use crate::config::topic::{CompressionType, TimestampType as TopicTimestampType, TopicConfig};
use crate::log::log::NewBatch;
use crate::model::batch_builder;
use crate::model::compression::Codec;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{PartitionIndex, TopicPartition};
use crate::model::limits;
use crate::model::record::{self, RecordError};
use crate::model::record_batch::{self, BatchError, BatchHeader, TimestampType};
use crate::partition::error::Error;
use crate::partition::partition::Appended;
use crate::rt;
use crate::server::connection::{Answer, End, PendingAnswer};
use crate::server::context::RequestContext;
use crate::server::errors;
use crate::server::handlers::topic_lookup::find_topic;
use crate::server::response::Response;
use crate::shard::calls::AppendPart;
use crate::telemetry::metrics;
use crate::telemetry::names::{Counter, Summary};
use crate::wire::api::ApiKey;
use crate::wire::produce::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse, RecordIssue,
};

/// First version that may carry Zstandard (KIP-110).
const ZSTD_VERSION: i16 = 7;
/// The acknowledgement of every replica in sync is wanted.
const ACKS_ALL: i16 = -1;
/// Replicas in sync of every partition: the one that there is.
const IN_SYNC_REPLICAS: u32 = 1;

/// Submits the batches of a request.
pub(crate) async fn handle(
    ctx: RequestContext,
    request: ProduceRequest,
) -> Result<PendingAnswer, End> {
    let acks = request.acks;
    let refused_whole = refuse_whole(&request);
    let mut topics: Vec<ProduceTopicResponse> = Vec::with_capacity(request.topics.len());
    let mut parts: Vec<AppendPart> = Vec::new();
    let image = ctx.shard.image();
    let frame_bytes = records_bytes(&request);
    for topic in request.topics {
        let (found, unknown) = match find_topic(&image, &topic.topic) {
            // Only their coordinators write them: a foreign record would not be understood.
            (Some(topic), _) if topic.is_internal() => (None, ErrorCode::InvalidTopicException),
            other => other,
        };
        let config = found.map(|t| ctx.shard.topic_config(t));
        let name = topic.topic.into_own();
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for p in topic.partitions {
            let place = found
                .and_then(|t| t.partition(p.index.get()))
                .zip(config.as_deref());
            let refused = |code| ProducePartitionResponse::refused(p.index, code);
            partitions.push(match (refused_whole, place) {
                (Some(code), _) => refused(code),
                (None, None) => refused(unknown),
                // As in Kafka, the broker alone writes its own topics.
                (None, Some(_)) if found.is_some_and(|t| t.is_internal()) => {
                    refused(ErrorCode::InvalidTopicException)
                }
                (None, Some((_, config)))
                    if acks == ACKS_ALL && config.min_insync_replicas > IN_SYNC_REPLICAS =>
                {
                    refused(ErrorCode::NotEnoughReplicas)
                }
                (None, Some((partition, config))) => {
                    let records = p.records.unwrap_or_default();
                    match prepare(ctx.version, config, partition, records, frame_bytes).await {
                        Ok(part) => {
                            parts.push(part);
                            refused(ErrorCode::None) // until its outcome is known
                        }
                        Err(error) => explained(p.index, error),
                    }
                }
            });
        }
        topics.push(ProduceTopicResponse {
            topic: name,
            partitions,
        });
    }
    let pending = ctx.shard.append(parts).await;
    Ok(Box::pin(async move {
        let outcomes = pending.outcomes().await;
        settle(&mut topics, outcomes);
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        let refused = partitions.filter(|p| p.error != ErrorCode::None).count();
        let is_refused = refused > 0;
        let refused = u64::try_from(refused).unwrap_or(u64::MAX);
        ctx.shard.metrics.add(Counter::RefusedBatches, refused);
        let elapsed = ctx.received.elapsed();
        ctx.shard
            .metrics
            .observe_request(ApiKey::Produce.name(), elapsed, is_refused);
        ctx.shard
            .metrics
            .observe_time(Summary::ProduceLatency, elapsed);
        match acks {
            0 if is_refused => Answer::Close,
            0 => Answer::Nothing,
            _ => answer(&ctx, topics).map_or(Answer::Close, Answer::Write),
        }
    }))
}

/// Bytes of all batches: about the frame that they came in.
fn records_bytes(request: &ProduceRequest) -> usize {
    let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
    partitions
        .filter_map(|p| p.records.as_ref())
        .map(Bytes::len)
        .sum()
}

/// A refusal that every partition of the request gets.
fn refuse_whole(request: &ProduceRequest) -> Option<ErrorCode> {
    if !matches!(request.acks, -1..=1) {
        return Some(ErrorCode::InvalidRequiredAcks);
    }
    request
        .transactional_id
        .is_some()
        .then_some(ErrorCode::TransactionalIdAuthorizationFailed)
}

/// One batch made ready for its home shard. Awaits only where records have to be read, off the
/// shard; the connection waits for it, so that order is kept.
async fn prepare(
    version: i16,
    config: &TopicConfig,
    partition: TopicPartition,
    records: Bytes,
    frame_bytes: usize,
) -> Result<AppendPart, Error> {
    let header = check(version, config, &records, rt::unix_ms())?;
    let (batch, header) = match record_work(config, &header)? {
        None => (records, header),
        Some(work) => {
            if work.recompress_to.is_some() {
                metrics::local().increment(Counter::RecompressedBatches);
            }
            let limit = limits::DECOMPRESSED_BATCH_BYTES_MAX;
            rt::blocking("produce-records", move || work.carry_out(records, limit)).await?
        }
    };
    let size_bytes = batch.len();
    if size_bytes > config.max_message_bytes {
        return Err(too_large(size_bytes, config.max_message_bytes));
    }
    let (mut bytes, held_bytes) = alone(batch, frame_bytes);
    let mut log_append_time_ms = -1;
    let mut header = header;
    if config.timestamp_type == TopicTimestampType::LogAppendTime {
        log_append_time_ms = rt::unix_ms();
        record_batch::set_log_append_time(&mut bytes, log_append_time_ms);
        header = BatchHeader::parse(&bytes).map_err(batch_error)?;
    }
    let batch = NewBatch {
        bytes,
        header,
        held_bytes,
    };
    Ok(AppendPart {
        partition,
        batch,
        log_append_time_ms,
    })
}

/// The batch as bytes that can be changed, and the memory they keep alive: the frame itself where
/// the batch is most of it and nobody else holds it, else a copy.
fn alone(batch: Bytes, frame_bytes: usize) -> (BytesMut, usize) {
    match batch.try_into_mut() {
        Ok(bytes) if bytes.len() * 2 >= frame_bytes => (bytes, frame_bytes),
        Ok(bytes) => (BytesMut::from(&bytes[..]), bytes.len()),
        Err(shared) => (BytesMut::from(&shared[..]), shared.len()),
    }
}

fn too_large(size_bytes: usize, limit_bytes: usize) -> Error {
    let size_bytes = u64::try_from(size_bytes).unwrap_or(u64::MAX);
    Error::MessageTooLarge {
        size_bytes,
        limit_bytes: u64::try_from(limit_bytes).unwrap_or(u64::MAX),
    }
}

/// Everything that the header tells. Pure.
fn check(
    version: i16,
    config: &TopicConfig,
    records: &[u8],
    now_ms: i64,
) -> Result<BatchHeader, Error> {
    let header = record_batch::check_produced(records).map_err(batch_error)?;
    if header.is_transactional() {
        return Err(Error::TransactionsNotServed);
    }
    let codec = header.codec().map_err(batch_error)?;
    if codec == Codec::Zstd && version < ZSTD_VERSION {
        return Err(Error::UnsupportedCompression);
    }
    let size_bytes = records.len();
    if size_bytes > config.max_message_bytes {
        return Err(too_large(size_bytes, config.max_message_bytes));
    }
    if u64::try_from(size_bytes).unwrap_or(u64::MAX) > u64::from(config.segment_bytes) {
        let limit_bytes = u64::from(config.segment_bytes);
        let size_bytes = u64::try_from(size_bytes).unwrap_or(u64::MAX);
        return Err(Error::RecordListTooLarge {
            size_bytes,
            limit_bytes,
        });
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(Error::InvalidTimestamp {
            timestamp_ms: header.max_timestamp,
        });
    }
    if config.timestamp_type == TopicTimestampType::CreateTime {
        let newest = now_ms.saturating_add(config.timestamp_after_max_ms);
        let oldest = now_ms.saturating_sub(config.timestamp_before_max_ms);
        for timestamp_ms in [header.base_timestamp, header.max_timestamp] {
            if timestamp_ms != -1 && !(oldest..=newest).contains(&timestamp_ms) {
                return Err(Error::InvalidTimestamp { timestamp_ms });
            }
        }
    }
    Ok(header)
}

fn batch_error(error: BatchError) -> Error {
    match error {
        BatchError::Codec { .. } => Error::UnsupportedCompression,
        BatchError::Truncated { .. } | BatchError::Length { .. } | BatchError::Crc { .. } => {
            Error::CorruptBatch(error.to_string())
        }
        other => Error::InvalidRecord {
            reason: other.to_string(),
            records: Vec::new(),
        },
    }
}

/// What has to be done with the records themselves.
struct RecordWork {
    must_have_keys: bool,
    recompress_to: Option<(Codec, Option<i32>)>,
}

/// The work that the topic asks for; `None` on the fast path.
fn record_work(config: &TopicConfig, header: &BatchHeader) -> Result<Option<RecordWork>, Error> {
    let codec = header.codec().map_err(batch_error)?;
    let wanted = match config.compression {
        CompressionType::Producer => codec,
        CompressionType::Uncompressed => Codec::None,
        CompressionType::Gzip => Codec::Gzip,
        CompressionType::Snappy => Codec::Snappy,
        CompressionType::Lz4 => Codec::Lz4,
        CompressionType::Zstd => Codec::Zstd,
    };
    let recompress_to = (wanted != codec).then_some((wanted, None));
    let must_have_keys = config.cleanup_compact;
    let is_needed = must_have_keys || recompress_to.is_some();
    Ok(is_needed.then_some(RecordWork {
        must_have_keys,
        recompress_to,
    }))
}

impl RecordWork {
    fn carry_out(self, batch: Bytes, limit: usize) -> Result<(Bytes, BatchHeader), Error> {
        let (header, whole, _) = BatchHeader::parse_whole(&batch).map_err(batch_error)?;
        check_records(&header, whole, limit, self.must_have_keys)?;
        let Some((codec, level)) = self.recompress_to else {
            return Ok((batch, header));
        };
        let recompressed =
            batch_builder::recompress(&batch, codec, level, limit).map_err(record_error)?;
        let header = BatchHeader::parse(&recompressed).map_err(batch_error)?;
        Ok((recompressed.into(), header))
    }
}

fn record_error(error: RecordError) -> Error {
    Error::InvalidRecord {
        reason: error.to_string(),
        records: Vec::new(),
    }
}

/// The records are as many as the header says, and whole. A compacted topic takes only those with
/// keys; each that has none is named (KIP-467).
fn check_records(
    header: &BatchHeader,
    batch: &[u8],
    limit: usize,
    must_have_keys: bool,
) -> Result<(), Error> {
    const REASON: &str = "Compacted topic cannot accept message without key";
    let payload = record::payload(header, batch, limit).map_err(record_error)?;
    let mut keyless = Vec::new();
    for (index, record) in (0i32..).zip(record::iter_records(&payload, header.record_count)) {
        if record.map_err(record_error)?.key.is_none() && must_have_keys {
            keyless.push((index, format!("{REASON} in topic partition.")));
        }
    }
    if keyless.is_empty() {
        return Ok(());
    }
    let reason = "One or more records have been rejected due to INVALID_RECORD".to_owned();
    Err(Error::InvalidRecord {
        reason,
        records: keyless,
    })
}

/// Fills in what became of the batches that were submitted: the partitions not refused before.
fn settle(topics: &mut [ProduceTopicResponse], outcomes: Vec<Result<Appended, Error>>) {
    let partitions = topics.iter_mut().flat_map(|t| &mut t.partitions);
    let submitted = partitions.filter(|p| p.error == ErrorCode::None);
    for (partition, outcome) in submitted.zip(outcomes) {
        match outcome {
            Ok(appended) => {
                partition.base_offset = appended.base_offset.get();
                partition.log_append_time_ms = appended.log_append_time_ms;
                partition.log_start_offset = appended.log_start.get();
            }
            Err(error) => *partition = explained(partition.index, error),
        }
    }
}

fn answer(ctx: &RequestContext, topics: Vec<ProduceTopicResponse>) -> Option<Response> {
    let response = ProduceResponse {
        topics,
        throttle_time_ms: 0,
        node_endpoints: Vec::new(),
    };
    match response.encode(ctx.version, ctx.correlation_id) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            tracing::error!(%error, "an answer to Produce could not be encoded");
            None
        }
    }
}

fn explained(index: PartitionIndex, error: Error) -> ProducePartitionResponse {
    let mut partition = ProducePartitionResponse::refused(index, errors::code(&error));
    partition.error_message = Some(StrBytes::from_string(error.to_string()));
    if let Error::InvalidRecord { records, .. } = error {
        partition.record_errors = records
            .into_iter()
            .map(|(batch_index, message)| RecordIssue {
                batch_index,
                message: Some(StrBytes::from_string(message)),
            })
            .collect();
    }
    partition
}

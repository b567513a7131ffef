//! Fetch: reads from the partitions' home shards and waits for data where there is too little.
//!
//! Runs on: the connection's shard; home shards answer sizes and batches through the mesh.
//! The walk: ask every home shard for sizes -> enough, or an error, or the deadline? -> share out
//! the byte budget in request order -> read -> answer. Else wait until one of the partitions moves,
//! and ask again. Nothing polls.
//! Rules: KIP-74 (the first partition with data gives at least one whole batch), KIP-227 (every
//! answer has session id 0, so clients send whole fetches), KIP-320 (epochs), KIP-516 (topic ids).

use std::collections::HashMap;
use std::time::Duration;

use crate::cluster::metadata::Image;
use crate::log::read::{ReadPart, ReadPlan};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicPartition};
use crate::model::offset::Offset;
use crate::partition::error::Error;
use crate::partition::reads::{Available, FetchPart, Fetched};
use crate::rt;
use crate::server::connection::End;
use crate::server::context::RequestContext;
use crate::server::errors;
use crate::server::handlers::topic_lookup::find_topic;
use crate::server::response::{Part, Response};
use crate::wire::fetch::{
    self, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse,
};

/// One partition of the request: what to ask its home, or the refusal it already has.
type Asked = Result<FetchPart, ErrorCode>;

/// Answers a fetch, at the latest when its `max_wait_ms` is over.
pub(crate) async fn handle(ctx: &RequestContext, request: &FetchRequest) -> Result<Response, End> {
    if request.session_id != 0 && request.session_epoch > 0 {
        // Sessions are never handed out, so this one is not ours (KIP-227).
        let refused = FetchResponse::empty(ErrorCode::FetchSessionIdNotFound, 0);
        let frame = refused
            .encode(ctx.version, ctx.correlation_id)
            .map_err(broken)?;
        return Ok(Response {
            parts: memory_parts(frame.parts),
            _charge: None,
        });
    }
    let asked = resolve(&ctx.shard.image(), request);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = rt::now() + wait;
    let min_bytes = u64::try_from(request.min_bytes).unwrap_or(0);
    let limit = usize::try_from(request.max_bytes).unwrap_or(0);
    let limit = limit.min(ctx.config().fetch_max_bytes);
    loop {
        let sizes = sizes(ctx, &asked).await;
        let is_over = rt::now() >= deadline || ctx.shard.is_stopping();
        let is_due = is_over || is_due(&sizes, min_bytes);
        if is_due {
            let (numbers, parts): (Vec<usize>, Vec<FetchPart>) =
                share_out(&asked, &sizes, limit).into_iter().unzip();
            let size_bytes = parts.iter().map(|part| part.size_bytes_max).sum();
            let charge = ctx.shard.budget.charge_response(size_bytes).await;
            let fetched = ctx.shard.read(parts).await;
            let fetched = numbers.into_iter().zip(fetched).collect();
            let parts = answer(ctx, request, sizes, fetched)?;
            return Ok(Response {
                parts,
                _charge: Some(charge),
            });
        }
        await_data(ctx, &asked, &sizes, deadline).await;
    }
}

/// Finds the partitions; an unknown name, id or number is answered without asking anyone.
fn resolve(image: &Image, request: &FetchRequest) -> Vec<Asked> {
    let mut asked = Vec::new();
    for topic in &request.topics {
        let (found, unknown) = find_topic(image, &topic.topic);
        for p in &topic.partitions {
            asked.push(match found.and_then(|t| t.partition(p.index.get())) {
                None => Err(unknown),
                Some(partition) => Ok(FetchPart {
                    partition,
                    fetch_offset: Offset::new(p.fetch_offset),
                    current_leader_epoch: p.current_leader_epoch.get(),
                    last_fetched_epoch: p.last_fetched_epoch.get(),
                    size_bytes_max: usize::try_from(p.partition_max_bytes).unwrap_or(0),
                    must_progress: false,
                }),
            });
        }
    }
    asked
}

/// What each partition has; a refusal of the request itself counts as one of the home's.
async fn sizes(ctx: &RequestContext, asked: &[Asked]) -> Vec<Result<Available, ErrorCode>> {
    let parts = asked
        .iter()
        .filter_map(|a| a.as_ref().ok().copied())
        .collect();
    let mut answers = ctx.shard.fetch_sizes(parts).await.into_iter();
    asked
        .iter()
        .map(|a| match a {
            Err(code) => Err(*code),
            Ok(_) => answers
                .next()
                .unwrap_or(Err(Error::Stopping))
                .map_err(|error| errors::code(&error)),
        })
        .collect()
}

/// Whether the answer is due now: enough bytes, or something the client has to learn at once.
fn is_due(sizes: &[Result<Available, ErrorCode>], min_bytes: u64) -> bool {
    let mut total = 0u64;
    for size in sizes {
        match size {
            Err(_) => return true,
            Ok(available) if available.diverging.is_some() => return true,
            Ok(available) => total = total.saturating_add(available.size_bytes),
        }
    }
    total >= min_bytes || sizes.is_empty()
}

/// Gives each partition its part of `limit` in request order, with its number in the request. The
/// first one with data is served at least one batch, however large (KIP-74). Partitions with
/// nothing to give are left out.
fn share_out(
    asked: &[Asked],
    sizes: &[Result<Available, ErrorCode>],
    limit: usize,
) -> Vec<(usize, FetchPart)> {
    let mut left = limit;
    let mut is_first = true;
    let mut parts = Vec::new();
    for (number, (part, size)) in asked.iter().zip(sizes).enumerate() {
        let (Ok(part), Ok(available)) = (part, size) else {
            continue;
        };
        if available.size_bytes == 0 || available.diverging.is_some() || (left == 0 && !is_first) {
            continue;
        }
        let there = usize::try_from(available.size_bytes).unwrap_or(usize::MAX);
        let size_bytes_max = there.min(part.size_bytes_max).min(left);
        parts.push((
            number,
            FetchPart {
                size_bytes_max,
                must_progress: is_first,
                ..*part
            },
        ));
        left -= size_bytes_max;
        is_first = false;
    }
    parts
}

/// Returns when one of the partitions may have more, or at the deadline.
async fn await_data(
    ctx: &RequestContext,
    asked: &[Asked],
    sizes: &[Result<Available, ErrorCode>],
    deadline: rt::Instant,
) {
    let seen: Vec<(TopicPartition, Offset)> = asked
        .iter()
        .zip(sizes)
        .filter_map(|(part, size)| {
            Some((
                part.as_ref().ok()?.partition,
                size.as_ref().ok()?.high_watermark,
            ))
        })
        .collect();
    ctx.shard.await_data(seen, deadline).await;
}

/// Puts the answer together: metadata of every partition, records where there are any.
fn answer(
    ctx: &RequestContext,
    request: &FetchRequest,
    sizes: Vec<Result<Available, ErrorCode>>,
    mut fetched: HashMap<usize, Result<Fetched, Error>>,
) -> Result<Vec<Part>, End> {
    let mut plans: Vec<Option<ReadPlan>> = Vec::with_capacity(sizes.len());
    let mut responses = Vec::with_capacity(sizes.len());
    let indexes = request
        .topics
        .iter()
        .flat_map(|t| &t.partitions)
        .map(|p| p.index);
    for (number, (index, size)) in indexes.zip(sizes).enumerate() {
        let read = match fetched.remove(&number) {
            Some(Ok(fetched)) => Ok((fetched.available, Some(fetched.plan))),
            Some(Err(error)) => Err(errors::code(&error)),
            None => size.map(|available| (available, None)),
        };
        let (response, plan) = match read {
            Ok((available, plan)) => (described(index, &available, plan.as_ref()), plan),
            Err(code) => (FetchPartitionResponse::refused(index, code), None),
        };
        responses.push(response);
        plans.push(plan);
    }
    let mut responses = responses.into_iter();
    let topics = request
        .topics
        .iter()
        .map(|t| FetchTopicResponse {
            topic: t.topic.clone(),
            partitions: responses.by_ref().take(t.partitions.len()).collect(),
        })
        .collect();
    let response = FetchResponse {
        topics,
        ..FetchResponse::empty(ErrorCode::None, 0)
    };
    let frame = response
        .encode(ctx.version, ctx.correlation_id)
        .map_err(broken)?;
    let mut parts = Vec::with_capacity(frame.parts.len());
    for part in frame.parts {
        match part {
            fetch::Part::Bytes(bytes) => parts.push(Part::Memory(bytes)),
            fetch::Part::Records { partition, .. } => {
                let plan = plans.get_mut(partition).and_then(Option::take);
                let plan = plan.expect("a partition with records has a plan");
                parts.extend(plan.parts.into_iter().map(read_part));
            }
        }
    }
    Ok(parts)
}

fn memory_parts(parts: Vec<fetch::Part>) -> Vec<Part> {
    parts
        .into_iter()
        .filter_map(|part| match part {
            fetch::Part::Bytes(bytes) => Some(Part::Memory(bytes)),
            fetch::Part::Records { .. } => None,
        })
        .collect()
}

fn broken(error: crate::wire::EncodeError) -> End {
    tracing::error!(%error, "an answer to Fetch could not be encoded");
    End::Refused(error.to_string())
}

fn read_part(part: ReadPart) -> Part {
    match part {
        ReadPart::Memory(bytes) => Part::Memory(bytes),
        ReadPart::File {
            file,
            position,
            len,
        } => Part::File {
            file,
            position,
            size_bytes: len,
        },
    }
}

fn described(
    index: PartitionIndex,
    available: &Available,
    plan: Option<&ReadPlan>,
) -> FetchPartitionResponse {
    FetchPartitionResponse {
        high_watermark: available.high_watermark.get(),
        last_stable_offset: available.high_watermark.get(),
        log_start_offset: available.log_start.get(),
        diverging_epoch: available
            .diverging
            .map(|(epoch, end)| (LeaderEpoch(epoch), end.get())),
        records_len: plan.map_or(0, |plan| {
            usize::try_from(plan.size_bytes).unwrap_or(usize::MAX)
        }),
        ..FetchPartitionResponse::refused(index, ErrorCode::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TopicId;

    fn part(size_bytes_max: usize) -> FetchPart {
        FetchPart {
            partition: TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0)),
            fetch_offset: Offset::ZERO,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            size_bytes_max,
            must_progress: false,
        }
    }

    fn there(size_bytes: u64) -> Available {
        Available {
            size_bytes,
            high_watermark: Offset::ZERO,
            log_start: Offset::ZERO,
            diverging: None,
        }
    }

    fn shares(
        asked: &[Asked],
        sizes: &[Result<Available, ErrorCode>],
        limit: usize,
    ) -> Vec<(usize, usize, bool)> {
        share_out(asked, sizes, limit)
            .into_iter()
            .map(|(number, part)| (number, part.size_bytes_max, part.must_progress))
            .collect()
    }

    #[test]
    fn bytes_are_shared_out_in_request_order() {
        let asked = [Ok(part(100)), Ok(part(100)), Ok(part(100)), Ok(part(100))];
        let sizes = [Ok(there(0)), Ok(there(70)), Ok(there(500)), Ok(there(500))];
        assert_eq!(shares(&asked, &sizes, 150), [(1, 70, true), (2, 80, false)]);
    }

    #[test]
    fn the_first_partition_with_data_progresses_whatever_the_limit() {
        assert_eq!(shares(&[Ok(part(0))], &[Ok(there(500))], 0), [(0, 0, true)]);
    }

    #[test]
    fn refused_partitions_take_no_share() {
        let asked = [Err(ErrorCode::UnknownTopicId), Ok(part(100))];
        let sizes = [Err(ErrorCode::UnknownTopicId), Ok(there(10))];
        assert_eq!(shares(&asked, &sizes, 100), [(1, 10, true)]);
    }

    #[test]
    fn an_answer_is_due_with_enough_bytes_or_an_error() {
        assert!(!is_due(&[Ok(there(0)), Ok(there(5))], 10));
        assert!(is_due(&[Ok(there(5)), Ok(there(5))], 10));
        assert!(is_due(
            &[Ok(there(0)), Err(ErrorCode::OffsetOutOfRange)],
            10
        ));
        assert!(is_due(&[Ok(there(0))], 0));
        assert!(is_due(&[], 1));
    }
}

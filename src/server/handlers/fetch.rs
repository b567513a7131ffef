//! Fetch: reads from the partitions' home shards and waits for data where there is too little.
//!
//! Runs on: the connection's shard; home shards answer sizes and batches through the mesh.
//! The walk: ask every home shard for sizes -> enough, or an error, or the deadline? -> share out
//! the byte budget in request order -> read -> answer. Else wait until one of the partitions moves,
//! and ask again. Nothing polls.
//! Rules: KIP-74 (the first partition with data gives at least one whole batch), KIP-227 (sessions:
//! `server::fetch_session` decides, here it is asked), KIP-320 (epochs), KIP-516 (topic ids).

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
use crate::server::fetch_session::{FetchSession, FetchSessions, NO_SESSION, Turn};
use crate::server::handlers::topic_lookup::find_topic;
use crate::server::response::{self, Part, Response};
use crate::telemetry::names::Gauge;
use crate::wire::fetch::{
    self, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic, FetchTopicResponse,
};

/// What the answer says of a partition, beside its records, and what that is made of.
const PARTITION_BYTES: usize = 256;

/// How long a Fetch waits for data when there is no room for it to wait: the client asks again, ten
/// times a second and not as fast as it can.
const CROWDED_WAIT: Duration = Duration::from_millis(100);

/// One partition of the request: what to ask its home, or the refusal it already has.
type Asked = Result<FetchPart, ErrorCode>;

/// Answers a fetch, at the latest when its `max_wait_ms` is over.
pub(crate) async fn handle(ctx: &RequestContext, request: &FetchRequest) -> Result<Response, End> {
    let turn = match begin(ctx, request) {
        Ok(turn) => turn,
        Err(code) => return refused(ctx, code),
    };
    let of_session;
    let topics = match &turn {
        Turn::Sessionless | Turn::New => &request.topics,
        Turn::Continued { session, .. } => {
            of_session = session.borrow().wanted();
            &of_session
        }
    };
    let asked = resolve(&ctx.shard.image(), topics);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let mut deadline = rt::now() + wait;
    let min_bytes = u64::try_from(request.min_bytes).unwrap_or(0);
    let limit = usize::try_from(request.max_bytes).unwrap_or(0);
    let limit = limit
        .min(ctx.config().fetch_max_bytes)
        .min(ctx.shard.budget.response_bytes_max());
    loop {
        let sizes = sizes(ctx, &asked).await;
        let is_over = rt::now() >= deadline || ctx.shard.is_stopping();
        let is_due = is_over || is_due(&sizes, min_bytes);
        if is_due {
            let (numbers, parts): (Vec<usize>, Vec<FetchPart>) =
                share_out(&asked, &sizes, limit).into_iter().unzip();
            let size_bytes: usize = parts.iter().map(|part| part.size_bytes_max).sum();
            let size_bytes = size_bytes.saturating_add(asked.len() * PARTITION_BYTES);
            let mut charge = ctx.shard.budget.charge_response(size_bytes).await;
            let fetched = ctx.shard.read(parts).await;
            let fetched = numbers.into_iter().zip(fetched).collect();
            let told = Told::new(topics, sizes, fetched);
            let parts = answer(ctx, request, &turn, told)?;
            charge.shrink_to(response::memory_bytes(&parts)); // file ranges hold none
            return Ok(Response {
                parts,
                charge: Some(charge),
            });
        }
        if !ctx.in_flight.begin_wait(asked.len()) {
            deadline = deadline.min(rt::now() + CROWDED_WAIT);
        }
        await_data(ctx, &asked, &sizes, deadline).await;
    }
}

// ---------------------------------------------------------------------- sessions

/// What the request does to its session; most requests have none, and touch nothing.
fn begin(ctx: &RequestContext, request: &FetchRequest) -> Result<Turn, ErrorCode> {
    if request.is_without_session() {
        return Ok(Turn::Sessionless);
    }
    let mut sessions = ctx.fetch_sessions.borrow_mut();
    let turn = sessions.begin(request, is_by_id(ctx), now_ms());
    count(ctx, &sessions);
    turn
}

/// Whether requests of this version name topics by id; a session does not change over.
fn is_by_id(ctx: &RequestContext) -> bool {
    ctx.version >= fetch::TOPIC_ID_VERSION
}

/// Time for the age of sessions, not that of the calendar.
fn now_ms() -> i64 {
    i64::try_from(rt::now().as_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

fn count(ctx: &RequestContext, sessions: &FetchSessions) {
    let (count, partitions) = sessions.count();
    for (gauge, value) in [
        (Gauge::FetchSessions, count),
        (Gauge::FetchSessionPartitions, partitions),
    ] {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        ctx.shard.metrics.set(gauge, value);
    }
}

/// Ends the request's turn: which session the answer names. What a session's client knows already
/// is left out of `told`.
fn end(
    ctx: &RequestContext,
    request: &FetchRequest,
    turn: &Turn,
    told: &mut Told,
) -> Result<i32, ErrorCode> {
    match turn {
        Turn::Sessionless => Ok(NO_SESSION),
        Turn::New => {
            let mut sessions = ctx.fetch_sessions.borrow_mut();
            let now = (now_ms(), rt::random_u64());
            let id = sessions.create(request, &told.topics, is_by_id(ctx), now);
            count(ctx, &sessions);
            Ok(id)
        }
        Turn::Continued { session, epoch } => {
            let mut session = session.borrow_mut();
            if session.epoch() != *epoch {
                return Err(ErrorCode::InvalidFetchSessionEpoch); // another connection used it
            }
            told.keep_news(&mut session);
            Ok(session.id())
        }
    }
}

fn refused(ctx: &RequestContext, code: ErrorCode) -> Result<Response, End> {
    ctx.note_error();
    let refused = FetchResponse::empty(code, NO_SESSION);
    let frame = refused
        .encode(ctx.version, ctx.correlation_id)
        .map_err(broken)?;
    Ok(Response {
        parts: with_records(frame.parts, Vec::new()),
        charge: None,
    })
}

// ---------------------------------------------------------------------- what there is

/// Finds the partitions; an unknown name, id or number is answered without asking anyone.
fn resolve(image: &Image, topics: &[FetchTopic]) -> Vec<Asked> {
    let mut asked = Vec::new();
    for topic in topics {
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

// ---------------------------------------------------------------------- the answer

/// What the client is told, and the records that go with it.
struct Told {
    topics: Vec<FetchTopicResponse>,
    /// One a partition of `topics`.
    plans: Vec<Option<ReadPlan>>,
    /// Whether a partition is refused.
    has_error: bool,
}

impl Told {
    /// Metadata of every partition asked for, records where there are any.
    fn new(
        topics: &[FetchTopic],
        sizes: Vec<Result<Available, ErrorCode>>,
        mut fetched: HashMap<usize, Result<Fetched, Error>>,
    ) -> Self {
        let mut plans: Vec<Option<ReadPlan>> = Vec::with_capacity(sizes.len());
        let mut sizes = sizes.into_iter().enumerate();
        let mut has_error = false;
        let topics = topics
            .iter()
            .map(|topic| {
                let mut partitions = Vec::with_capacity(topic.partitions.len());
                for (asked, (number, size)) in topic.partitions.iter().zip(sizes.by_ref()) {
                    let read = match fetched.remove(&number) {
                        Some(Ok(fetched)) => Ok((fetched.available, Some(fetched.plan))),
                        Some(Err(error)) => Err(errors::code(&error)),
                        None => size.map(|available| (available, None)),
                    };
                    let (response, plan) = match read {
                        Ok((available, plan)) => {
                            (described(asked.index, &available, plan.as_ref()), plan)
                        }
                        Err(code) => {
                            has_error = true;
                            (FetchPartitionResponse::refused(asked.index, code), None)
                        }
                    };
                    partitions.push(response);
                    plans.push(plan);
                }
                FetchTopicResponse {
                    topic: topic.topic.clone(),
                    partitions,
                }
            })
            .collect();
        Self {
            topics,
            plans,
            has_error,
        }
    }

    /// Leaves out what the session's client knows.
    fn keep_news(&mut self, session: &mut FetchSession) {
        let mut plans = std::mem::take(&mut self.plans).into_iter();
        for topic in &mut self.topics {
            let name = &topic.topic;
            topic.partitions.retain(|told| {
                let plan = plans.next().flatten();
                let is_news = session.tell(name, told);
                if is_news {
                    self.plans.push(plan);
                }
                is_news
            });
        }
        self.topics.retain(|topic| !topic.partitions.is_empty());
    }
}

fn answer(
    ctx: &RequestContext,
    request: &FetchRequest,
    turn: &Turn,
    mut told: Told,
) -> Result<Vec<Part>, End> {
    let ended = end(ctx, request, turn, &mut told);
    if told.has_error || ended.is_err() {
        ctx.note_error();
    }
    let response = match ended {
        Ok(session_id) => FetchResponse {
            topics: told.topics,
            ..FetchResponse::empty(ErrorCode::None, session_id)
        },
        Err(code) => FetchResponse::empty(code, NO_SESSION),
    };
    let frame = response
        .encode(ctx.version, ctx.correlation_id)
        .map_err(broken)?;
    Ok(with_records(frame.parts, told.plans))
}

/// The frame's parts, with the records of each partition in their place.
fn with_records(frame: Vec<fetch::Part>, mut plans: Vec<Option<ReadPlan>>) -> Vec<Part> {
    let mut parts = Vec::with_capacity(frame.len());
    for part in frame {
        match part {
            fetch::Part::Bytes(bytes) => parts.push(Part::Memory(bytes)),
            fetch::Part::Records { partition, .. } => {
                let plan = plans.get_mut(partition).and_then(Option::take);
                let plan = plan.expect("a partition with records has a plan");
                parts.extend(plan.parts.into_iter().map(read_part));
            }
        }
    }
    parts
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

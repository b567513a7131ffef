//! From a frame to the handler of its API: one match.
//!
//! Promises: a version that is not served, or a body that does not decode, ends the connection as
//! in Kafka; ApiVersions alone answers what it does not know (KIP-511).

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use crate::rt;
use crate::server::answer_weight;
use crate::server::connection::{Answer, ClientAt, End, PendingAnswer};
use crate::server::context::RequestContext;
use crate::server::fetch_session::SharedSessions;
use crate::server::handlers::{
    cluster, configs, fetch, group_offsets, groups, metadata, offsets, produce, producer_ids,
    topics,
};
use crate::server::in_flight::InFlight;
use crate::server::response::Response;
use crate::shard::shard::Shard;
use crate::wire::api::ApiKey;
use crate::wire::header::RequestHeader;
use crate::wire::messages::{self, ColdResponse, Request};
use crate::wire::{DecodeError, api_versions};

/// Decodes and handles one frame (without its length prefix).
///
/// Cancel: safe, except while Produce is submitting; the connection's reader cancels what waits for
/// other clients, and nothing else.
pub(crate) async fn dispatch(
    shard: &Rc<Shard>,
    fetch_sessions: &SharedSessions,
    (client, in_flight): (&ClientAt, Rc<InFlight>),
    frame: Bytes,
) -> Result<PendingAnswer, End> {
    let start = rt::now();
    let (header, body) = RequestHeader::parse(&frame).map_err(refused)?;
    drop(frame); // the batches in `body` shall be the only owners of their bytes
    let (api, version) = (header.api, header.version);
    let client_id = client.known_as(header.client_id_or_empty());
    if api == ApiKey::ApiVersions && !header.is_supported() {
        let answer = api_versions::encode_unsupported(header.correlation_id).map_err(broken)?;
        return Ok(ready(answer.into()));
    }
    let checked = messages::check_request(&header, body).map_err(refused)?;
    in_flight.charge_elements(api, checked.elements()).await?;
    let request = checked.decode().map_err(refused)?;
    let ctx = RequestContext {
        shard: shard.clone(),
        fetch_sessions: fetch_sessions.clone(),
        version,
        correlation_id: header.correlation_id,
        client_id,
        peer: client.peer,
        local: client.local,
        in_flight,
        received: start,
        has_error: Cell::new(false),
    };
    drop(header); // its client id is a slice of the frame too
    let answer = match request {
        Request::Produce(request) => return produce::handle(ctx, request).await,
        Request::Fetch(mut request) => {
            request.own_texts(); // it may wait for long, the frame shall not
            Box::pin(fetch::handle(&ctx, &request)).await?
        }
        cold => {
            let mut charge = answer_weight::charge(shard, &cold).await;
            // in memory of its own: a connection that waits has no room for what it may come to do
            let bytes = Box::pin(handle_cold(&ctx, cold)).await.map_err(broken)?;
            if let Some(charge) = &mut charge {
                charge.shrink_to(bytes.len());
            }
            Response {
                charge,
                ..bytes.into()
            }
        }
    };
    shard
        .metrics
        .observe_request(api.name(), start.elapsed(), ctx.has_error.get());
    Ok(ready(answer))
}

fn ready(response: Response) -> PendingAnswer {
    Box::pin(std::future::ready(Answer::Write(response)))
}

fn refused(error: DecodeError) -> End {
    End::Refused(error.to_string())
}

/// An answer that cannot be encoded is a fault of ours; the client is not left waiting.
fn broken(error: crate::wire::EncodeError) -> End {
    tracing::error!(%error, "an answer could not be encoded");
    End::Refused(error.to_string())
}

type Encoded = Result<Bytes, crate::wire::EncodeError>;

fn encode<R: ColdResponse>(ctx: &RequestContext, response: R) -> Encoded {
    if response.has_error() {
        ctx.note_error();
    }
    messages::encode_response(ctx.version, ctx.correlation_id, response)
}

async fn handle_cold(ctx: &RequestContext, request: Request) -> Encoded {
    match request {
        Request::Produce(_) | Request::Fetch(_) => unreachable!("the hot APIs went their own way"),
        Request::ApiVersions(r) => encode(ctx, cluster::api_versions(ctx, &r)),
        Request::Metadata(r) => encode(ctx, metadata::handle(ctx, r).await),
        Request::DescribeCluster(r) => encode(ctx, cluster::describe_cluster(ctx, &r)),
        Request::DescribeTopicPartitions(r) => {
            encode(ctx, cluster::describe_topic_partitions(ctx, &r))
        }
        Request::FindCoordinator(r) => encode(ctx, cluster::find_coordinator(ctx, r)),
        Request::ListConfigResources(r) => encode(ctx, cluster::list_config_resources(ctx, &r)),
        Request::CreateTopics(r) => encode(ctx, topics::create(ctx, r).await),
        Request::DeleteTopics(r) => encode(ctx, topics::delete(ctx, r).await),
        Request::CreatePartitions(r) => encode(ctx, topics::create_partitions(ctx, r).await),
        Request::DescribeConfigs(r) => encode(ctx, configs::describe(ctx, r)),
        Request::AlterConfigs(r) => encode(ctx, configs::alter(ctx, r).await),
        Request::IncrementalAlterConfigs(r) => {
            encode(ctx, configs::incremental_alter(ctx, r).await)
        }
        Request::ListOffsets(r) => encode(ctx, offsets::list(ctx, r).await),
        Request::OffsetForLeaderEpoch(r) => encode(ctx, offsets::epoch_ends(ctx, r).await),
        Request::DeleteRecords(r) => encode(ctx, offsets::delete_records(ctx, r).await),
        Request::DescribeLogDirs(r) => encode(ctx, offsets::describe_log_dirs(ctx, r).await),
        Request::InitProducerId(r) => encode(ctx, producer_ids::handle(ctx, r).await),
        Request::JoinGroup(r) => encode(ctx, groups::join(ctx, r).await),
        Request::SyncGroup(r) => encode(ctx, groups::sync(ctx, r).await),
        Request::Heartbeat(r) => encode(ctx, groups::heartbeat(ctx, r).await),
        Request::LeaveGroup(r) => encode(ctx, groups::leave(ctx, r).await),
        Request::DescribeGroups(r) => encode(ctx, groups::describe(ctx, r).await),
        Request::ListGroups(r) => encode(ctx, groups::list(ctx, r).await),
        Request::DeleteGroups(r) => encode(ctx, groups::delete(ctx, r).await),
        Request::OffsetCommit(r) => encode(ctx, group_offsets::commit(ctx, r).await),
        Request::OffsetFetch(r) => encode(ctx, group_offsets::fetch(ctx, r).await),
        Request::OffsetDelete(r) => encode(ctx, group_offsets::delete(ctx, r).await),
    }
}

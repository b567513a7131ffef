//! The group APIs: protocol structs to the coordinator's own and back. Rules live in `group`.
//!
//! Version differences that a client can see are settled here (where an error stands in the
//! answer, what an absent protocol looks like); the coordinator never sees a version number.

use std::collections::HashSet;

use bytes::Bytes;
use kafka_protocol::messages as kafka;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;

use crate::group::requests::{
    DescribeResponse, GroupReply, GroupRequest, HeartbeatRequest, JoinRequest, JoinResponse,
    LeaveRequest, LeaveResponse, LeavingMember, ListRequest, Protocol, SyncRequest, SyncResponse,
};
use crate::model::error_code::ErrorCode;
use crate::server::context::RequestContext;
use crate::server::operations;

pub(super) fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// Bytes that the group keeps for long, as a copy of their own: the request's frame goes.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn some_string(value: Option<StrBytes>) -> Option<String> {
    value.map(|v| v.to_string())
}

/// Asks the coordinator; `None` when its shard is going down.
pub(super) async fn ask(ctx: &RequestContext, request: GroupRequest) -> Option<GroupReply> {
    ctx.shard.group(request).await
}

/// What the coordinator is asked. The frame goes with `request`: who waits holds none.
fn join_request(ctx: &RequestContext, request: kafka::JoinGroupRequest) -> JoinRequest {
    JoinRequest {
        group_id: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        group_instance_id: some_string(request.group_instance_id),
        client_id: ctx.client_id.to_string(),
        client_host: format!("/{}", ctx.peer.ip().to_canonical()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .into_iter()
            .map(|p| Protocol {
                name: p.name.to_string(),
                metadata: own(&p.metadata),
            })
            .collect(),
        requires_known_member_id: ctx.version >= 4,
        supports_skip_assignment: ctx.version >= 9,
    }
}

/// JoinGroup.
pub(crate) async fn join(
    ctx: &RequestContext,
    request: kafka::JoinGroupRequest,
) -> kafka::JoinGroupResponse {
    let join = join_request(ctx, request);
    let member_id = join.member_id.clone();
    let joined = match ask(ctx, GroupRequest::Join(join)).await {
        Some(GroupReply::Join(joined)) => joined,
        _ => JoinResponse::refused(member_id, ErrorCode::NotCoordinator),
    };
    let response = kafka::JoinGroupResponse::default()
        .with_error_code(joined.error.code())
        .with_generation_id(joined.generation_id)
        .with_leader(text(joined.leader))
        .with_member_id(text(joined.member_id))
        .with_members(
            joined
                .members
                .into_iter()
                .map(|m| {
                    JoinGroupResponseMember::default()
                        .with_member_id(text(m.member_id))
                        .with_group_instance_id(m.group_instance_id.map(text))
                        .with_metadata(m.metadata)
                })
                .collect(),
        );
    let response = response
        .with_protocol_name(joined.protocol_name.map(text))
        .with_skip_assignment(joined.skip_assignment);
    if ctx.version < 7 {
        return response;
    }
    response.with_protocol_type(joined.protocol_type.map(text))
}

/// See [`join_request`].
fn sync_request(request: kafka::SyncGroupRequest) -> SyncRequest {
    SyncRequest {
        group_id: request.group_id.to_string(),
        generation_id: request.generation_id,
        member_id: request.member_id.to_string(),
        group_instance_id: some_string(request.group_instance_id),
        protocol_type: some_string(request.protocol_type),
        protocol_name: some_string(request.protocol_name),
        assignments: request
            .assignments
            .into_iter()
            .map(|a| (a.member_id.to_string(), own(&a.assignment)))
            .collect(),
    }
}

/// SyncGroup.
pub(crate) async fn sync(
    ctx: &RequestContext,
    request: kafka::SyncGroupRequest,
) -> kafka::SyncGroupResponse {
    let sync = sync_request(request);
    let synced = match ask(ctx, GroupRequest::Sync(sync)).await {
        Some(GroupReply::Sync(synced)) => synced,
        _ => SyncResponse::refused(ErrorCode::NotCoordinator),
    };
    let response = kafka::SyncGroupResponse::default()
        .with_error_code(synced.error.code())
        .with_assignment(synced.assignment);
    if ctx.version < 5 {
        return response;
    }
    response
        .with_protocol_type(synced.protocol_type.map(text))
        .with_protocol_name(synced.protocol_name.map(text))
}

/// Heartbeat.
pub(crate) async fn heartbeat(
    ctx: &RequestContext,
    request: kafka::HeartbeatRequest,
) -> kafka::HeartbeatResponse {
    let beat = HeartbeatRequest {
        group_id: request.group_id.to_string(),
        generation_id: request.generation_id,
        member_id: request.member_id.to_string(),
        group_instance_id: some_string(request.group_instance_id),
    };
    let code = match ask(ctx, GroupRequest::Heartbeat(beat)).await {
        Some(GroupReply::Heartbeat(code)) => code,
        _ => ErrorCode::NotCoordinator,
    };
    kafka::HeartbeatResponse::default().with_error_code(code.code())
}

/// LeaveGroup.
pub(crate) async fn leave(
    ctx: &RequestContext,
    request: kafka::LeaveGroupRequest,
) -> kafka::LeaveGroupResponse {
    let leaving = |m: kafka::leave_group_request::MemberIdentity| LeavingMember {
        member_id: m.member_id.to_string(),
        group_instance_id: some_string(m.group_instance_id),
    };
    let members = request.members.into_iter().map(leaving).collect();
    let leave = LeaveRequest {
        group_id: request.group_id.to_string(),
        members,
    };
    let left = match ask(ctx, GroupRequest::Leave(leave)).await {
        Some(GroupReply::Leave(left)) => left,
        _ => LeaveResponse {
            error: ErrorCode::NotCoordinator,
            members: Vec::new(),
        },
    };
    kafka::LeaveGroupResponse::default()
        .with_error_code(left.error.code())
        .with_members(
            left.members
                .into_iter()
                .map(|(member, error)| {
                    MemberResponse::default()
                        .with_member_id(text(member.member_id))
                        .with_group_instance_id(member.group_instance_id.map(text))
                        .with_error_code(error.code())
                })
                .collect(),
        )
}

/// DescribeGroups.
pub(crate) async fn describe(
    ctx: &RequestContext,
    request: kafka::DescribeGroupsRequest,
) -> kafka::DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    let mut seen = HashSet::new();
    for group in request.groups {
        if !seen.insert(group.clone()) {
            let code = ErrorCode::InvalidRequest.code(); // a group may be large: once is enough
            let refused = DescribedGroup::default().with_group_id(group);
            groups.push(refused.with_error_code(code));
            continue;
        }
        let asked = GroupRequest::Describe(group.to_string());
        groups.push(match ask(ctx, asked).await {
            Some(GroupReply::Describe(described)) => {
                let is_asked = request.include_authorized_operations && described.error.is_ok();
                described_group(ctx.version, described)
                    .with_authorized_operations(operations::if_asked(is_asked, operations::GROUP))
            }
            _ => DescribedGroup::default()
                .with_group_id(group)
                .with_error_code(ErrorCode::NotCoordinator.code()),
        });
    }
    kafka::DescribeGroupsResponse::default().with_groups(groups)
}

fn described_group(version: i16, described: DescribeResponse) -> DescribedGroup {
    let is_unknown = described.error == ErrorCode::GroupIdNotFound;
    // KIP-1043: version 6 says that the group is not there, those below call it dead.
    let (error, message) = match (is_unknown, version) {
        (true, 6..) => {
            let message = format!("Group {} not found.", described.group_id);
            (described.error, Some(text(message)))
        }
        (true, _) => (ErrorCode::None, None),
        _ => (described.error, None),
    };
    let group = DescribedGroup::default()
        .with_error_code(error.code())
        .with_group_id(GroupId(text(described.group_id)))
        .with_group_state(StrBytes::from_static_str(described.state))
        .with_protocol_type(text(described.protocol_type))
        .with_protocol_data(text(described.protocol))
        .with_members(
            described
                .members
                .into_iter()
                .map(|m| {
                    let member = DescribedGroupMember::default()
                        .with_member_id(text(m.member_id))
                        .with_client_id(text(m.client_id))
                        .with_client_host(text(m.client_host))
                        .with_member_metadata(m.metadata)
                        .with_member_assignment(m.assignment);
                    match version {
                        4.. => member.with_group_instance_id(m.group_instance_id.map(text)),
                        _ => member,
                    }
                })
                .collect(),
        );
    if version >= 6 {
        group.with_error_message(message)
    } else {
        group
    }
}

/// ListGroups: the coordinators of all shards.
pub(crate) async fn list(
    ctx: &RequestContext,
    request: kafka::ListGroupsRequest,
) -> kafka::ListGroupsResponse {
    let strings = |all: Vec<StrBytes>| all.into_iter().map(|s| s.to_string()).collect();
    let asked = GroupRequest::List(ListRequest {
        states: strings(request.states_filter),
        types: strings(request.types_filter),
    });
    let mut response = kafka::ListGroupsResponse::default();
    for reply in ctx.shard.group_everywhere(asked).await {
        let GroupReply::List(listed) = reply else {
            continue;
        };
        if listed.error != ErrorCode::None {
            response.error_code = listed.error.code();
        }
        response.groups.extend(listed.groups.into_iter().map(|g| {
            let group = ListedGroup::default()
                .with_group_id(GroupId(text(g.group_id)))
                .with_protocol_type(text(g.protocol_type));
            match ctx.version {
                ..=3 => group,
                4 => group.with_group_state(StrBytes::from_static_str(g.state)),
                _ => group
                    .with_group_state(StrBytes::from_static_str(g.state))
                    .with_group_type(StrBytes::from_static_str(g.group_type)),
            }
        }));
    }
    response
}

/// DeleteGroups.
pub(crate) async fn delete(
    ctx: &RequestContext,
    request: kafka::DeleteGroupsRequest,
) -> kafka::DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let code = match ask(ctx, GroupRequest::Delete(group.to_string())).await {
            Some(GroupReply::Delete(code)) => code,
            _ => ErrorCode::NotCoordinator,
        };
        results.push(
            DeletableGroupResult::default()
                .with_group_id(group)
                .with_error_code(code.code()),
        );
    }
    kafka::DeleteGroupsResponse::default().with_results(results)
}

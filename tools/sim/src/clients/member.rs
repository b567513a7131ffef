//! A member of a group: joins, learns what it has, heartbeats, leaves, comes back.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use corelog::rt;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use crate::clients::committer;
use crate::wire::Connection;
use crate::world::{TOPICS, World, refused};

/// The group that they are members of.
pub(crate) const GROUP: &str = "together";
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const MEMBER_ID_REQUIRED: i16 = 79;

/// Is a member until the world is over.
pub(crate) async fn run(world: Rc<World>) {
    while let Some(mut connection) = world.connect().await {
        drop(serve(&world, &mut connection).await);
        world.pause().await;
    }
}

async fn serve(world: &World, connection: &mut Connection) -> io::Result<()> {
    let mut member = String::new();
    let mut before = None;
    while !world.is_over() {
        let joined = join(world, connection, &member).await?;
        member = joined.member_id.to_string();
        let Some(partitions) = sync(world, connection, &joined).await? else {
            continue;
        };
        world.generations.borrow_mut().on_assigned(
            GROUP,
            joined.generation_id,
            &joined.leader,
            &member,
            &partitions,
        );
        if let Some(generation) = before.filter(|before| *before < joined.generation_id) {
            let late = (member.as_str(), generation);
            let code = commit(world, connection, late, 0, Expected::Refused).await?;
            assert_ne!(
                code, 0,
                "[generation-fenced] {member} commits as of generation {generation} in {}",
                joined.generation_id
            );
        }
        before = Some(joined.generation_id);
        for _ in 0..=world.below(8) {
            rt::sleep(Duration::from_millis(20 + world.below(80))).await;
            for partition in &partitions {
                let mine = (member.as_str(), joined.generation_id);
                commit(world, connection, mine, *partition, Expected::Taken).await?;
                if world.chance(4) {
                    let topic = TOPICS[0].0;
                    committer::fetch(world, connection, GROUP, topic, *partition).await?;
                }
            }
            if heartbeat(world, connection, &joined).await? != 0 {
                break;
            }
        }
        if world.chance(4) {
            leave(world, connection, &member).await?;
            member.clear();
            before = None;
        }
    }
    Ok(())
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It may be in force from now on.
    Taken,
    /// It must not.
    Refused,
}

/// Commits the next number for a partition, as a member of a generation; the error code.
async fn commit(
    world: &World,
    connection: &mut Connection,
    as_of: (&str, i32),
    partition: i32,
    expected: Expected,
) -> io::Result<i16> {
    let (offset, life) = (world.next_number(), world.life.get());
    if expected == Expected::Taken {
        world.with_offsets(GROUP, |offsets| offsets.on_send(partition, offset, life));
    }
    let request = committer::commit_request(GROUP, as_of, TOPICS[0].0, partition, offset);
    let response = connection.call(&request, 8).await?;
    world.count(match expected {
        Expected::Taken => "committed by a member",
        Expected::Refused => "committed of an earlier generation",
    });
    let found = response.topics.first().and_then(|t| t.partitions.first());
    let code = found.ok_or(io::ErrorKind::InvalidData)?.error_code;
    world.with_offsets(GROUP, |offsets| match code {
        0 if expected == Expected::Taken => offsets.on_answered(partition, offset),
        ILLEGAL_GENERATION | UNKNOWN_MEMBER => offsets.on_refused(partition, offset),
        _ => {}
    });
    Ok(code)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

async fn join(
    world: &World,
    connection: &mut Connection,
    member: &str,
) -> io::Result<JoinGroupResponse> {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"m"));
    let mut request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_session_timeout_ms(6_000)
        .with_rebalance_timeout_ms(3_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    loop {
        let response = connection.call(&request, 6).await?;
        world.count("joined");
        match response.error_code {
            0 => return Ok(response),
            MEMBER_ID_REQUIRED => request.member_id = response.member_id,
            code => return Err(refused(code)),
        }
    }
}

/// The partitions that the member has; `None` when the group is at its next generation already.
async fn sync(
    world: &World,
    connection: &mut Connection,
    joined: &JoinGroupResponse,
) -> io::Result<Option<Vec<i32>>> {
    let (_, partitions) = TOPICS[0];
    let members = &joined.members;
    let assignments = members.iter().enumerate().map(|(n, member)| {
        let mut assignment = BytesMut::new();
        let theirs = (0..partitions).filter(|p| {
            let of = usize::try_from(*p).expect("few") % members.len();
            of == n
        });
        for partition in theirs {
            assignment.put_i32(partition);
        }
        SyncGroupRequestAssignment::default()
            .with_member_id(member.member_id.clone())
            .with_assignment(assignment.freeze())
    });
    let request = SyncGroupRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(assignments.collect());
    let response = connection.call(&request, 4).await?;
    world.count("synced");
    if response.error_code != 0 {
        return Ok(None);
    }
    let mut assignment = response.assignment;
    let mut partitions = Vec::new();
    while assignment.remaining() >= 4 {
        partitions.push(assignment.get_i32());
    }
    Ok(Some(partitions))
}

async fn heartbeat(
    world: &World,
    connection: &mut Connection,
    joined: &JoinGroupResponse,
) -> io::Result<i16> {
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone());
    let response = connection.call(&request, 4).await?;
    world.count("heartbeat");
    Ok(response.error_code)
}

async fn leave(world: &World, connection: &mut Connection, member: &str) -> io::Result<()> {
    use kafka_protocol::messages::leave_group_request::MemberIdentity;
    let leaving = MemberIdentity::default().with_member_id(text(member));
    let request = LeaveGroupRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_members(vec![leaving]);
    connection.call(&request, 4).await?;
    world.count("left");
    Ok(())
}

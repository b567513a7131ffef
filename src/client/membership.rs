//! A member of a consumer group, classic protocol, range assignor.
//!
//! Runs on: the calling thread, which must call `heartbeat` often enough.
//! Promises: positions are committed under the generation they were read in; a member that was
//! left out joins again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    SyncGroupRequest,
};

use super::assignor::{self, Partitions};
use super::cluster::{Client, topic_name};
use super::connection::Connection;
use super::error::Error;
use super::groups::{self, Committer};
use super::topics::text;
use crate::model::error_code::ErrorCode;

const SESSION_TIMEOUT_MS: i32 = 10_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
const REBALANCE_TIMEOUT: Duration = Duration::from_mins(1);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
const PROTOCOL_TYPE: &str = "consumer";

/// This process as a member.
#[derive(Debug)]
pub struct Membership {
    group: String,
    topics: Vec<String>,
    member_id: String,
    generation: i32,
    last_heartbeat: Instant,
}

/// Whether the member still owns what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Member,
    /// The group shares out anew: commit, then `join` again.
    MustRejoin,
}

impl Membership {
    /// A member that has not joined yet.
    pub fn new(group: &str, topics: Vec<String>) -> Self {
        Self {
            group: group.to_owned(),
            topics,
            member_id: String::new(),
            generation: -1,
            last_heartbeat: Instant::now(),
        }
    }

    /// Joins (again) and answers the partitions that are now this member's.
    pub fn join(&mut self, client: &mut Client) -> Result<Partitions, Error> {
        let deadline = Instant::now() + 3 * REBALANCE_TIMEOUT;
        loop {
            match self.join_once(client) {
                Err(error) if self.may_rejoin(&error) && Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    /// Takes note of what an error says about this member; whether joining again makes sense.
    fn may_rejoin(&mut self, error: &Error) -> bool {
        match error.code() {
            Some(ErrorCode::UnknownMemberId) => {
                self.member_id.clear();
                true
            }
            Some(
                ErrorCode::RebalanceInProgress
                | ErrorCode::IllegalGeneration
                | ErrorCode::MemberIdRequired,
            ) => true,
            _ => false,
        }
    }

    fn join_once(&mut self, client: &mut Client) -> Result<Partitions, Error> {
        let joined = self.send_join(client)?;
        self.generation = joined.generation_id;
        let is_leader = joined.leader == joined.member_id;
        let assignments = if is_leader {
            Self::share_out(client, &joined)?
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_assignments(assignments);
        let what = || format!("group `{}`", self.group);
        let assignment: Bytes = client.retry_at_coordinator(&self.group, |connection| {
            let response = connection.call_waiting(&request, 3, REBALANCE_TIMEOUT)?;
            Error::check(what, response.error_code, None)?;
            Ok(response.assignment)
        })?;
        self.last_heartbeat = Instant::now();
        assignor::decode_assignment(assignment).ok_or_else(|| Error::Malformed {
            address: "the coordinator".to_owned(),
            api: "SyncGroup".to_owned(),
            reason: "the assignment is not one of the consumer protocol".to_owned(),
        })
    }

    fn send_join(&mut self, client: &mut Client) -> Result<JoinGroupResponse, Error> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(assignor::RANGE))
            .with_metadata(assignor::encode_subscription(&self.topics));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_session_timeout_ms(SESSION_TIMEOUT_MS)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(text(&self.member_id))
            .with_protocol_type(text(PROTOCOL_TYPE))
            .with_protocols(vec![protocol]);
        let group = self.group.clone();
        let member_id = &mut self.member_id;
        client.retry_at_coordinator(&group, |connection| {
            let response = connection.call_waiting(&request, 5, REBALANCE_TIMEOUT)?;
            if response.error_code == ErrorCode::MemberIdRequired.code() || response.error_code == 0
            {
                *member_id = response.member_id.to_string();
            }
            Error::check(|| format!("group `{group}`"), response.error_code, None)?;
            Ok(response)
        })
    }

    /// As the group's leader: what every member gets.
    fn share_out(
        client: &mut Client,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, Error> {
        let mut members = BTreeMap::new();
        for member in &joined.members {
            let topics = assignor::decode_subscription(member.metadata.clone());
            members.insert(member.member_id.to_string(), topics.unwrap_or_default());
        }
        let mut counts = BTreeMap::new();
        for described in client.all_topics()? {
            let count = i32::try_from(described.partitions.len()).unwrap_or(i32::MAX);
            counts.insert(topic_name(&described).to_owned(), count);
        }
        let shares = assignor::assign_ranges(&members, &counts);
        Ok(shares
            .into_iter()
            .map(|(member, share)| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(text(&member))
                    .with_assignment(assignor::encode_assignment(&share))
            })
            .collect())
    }

    /// Tells the coordinator that this member lives, when it is time to.
    pub fn heartbeat(&mut self, client: &mut Client) -> Result<Standing, Error> {
        if self.last_heartbeat.elapsed() < HEARTBEAT_INTERVAL {
            return Ok(Standing::Member);
        }
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id));
        let what = || format!("group `{}`", self.group);
        let result = client.retry_at_coordinator(&self.group, |connection| {
            let response = connection.call(&request, 3)?;
            Error::check(what, response.error_code, None)
        });
        self.last_heartbeat = Instant::now();
        match result {
            Ok(()) => Ok(Standing::Member),
            Err(error) if self.may_rejoin(&error) => Ok(Standing::MustRejoin),
            Err(error) => Err(error),
        }
    }

    /// Commits positions. A member that was left out meanwhile is told to join again.
    pub fn commit(
        &mut self,
        client: &mut Client,
        offsets: &BTreeMap<(String, i32), i64>,
    ) -> Result<Standing, Error> {
        if offsets.is_empty() {
            return Ok(Standing::Member);
        }
        let committer = Committer {
            member_id: &self.member_id,
            generation: self.generation,
        };
        let result = client.retry_at_coordinator(&self.group, |connection: &mut Connection| {
            groups::commit(connection, &self.group, &committer, offsets)
        });
        match result {
            Ok(()) => Ok(Standing::Member),
            Err(error) if self.may_rejoin(&error) => Ok(Standing::MustRejoin),
            Err(error) => Err(error),
        }
    }

    /// Leaves, so that the others need not wait for the session to expire.
    pub fn leave(self, client: &mut Client) -> Result<(), Error> {
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.member_id));
        client.retry_at_coordinator(&self.group, |connection| {
            let response = connection.call(&request, 2)?;
            Error::check(
                || format!("group `{}`", self.group),
                response.error_code,
                None,
            )
        })
    }
}

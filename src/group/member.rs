//! One member of a group.
//!
//! Pure: no async, no clock, no IO.
//! Invariant: [kept-alive] a member that waits for an answer does not time out, unless it is new:
//! a new member has no id yet, nobody would notice that it is gone.

use bytes::Bytes;

use super::codec::MemberValue;
use super::requests::{JoinRequest, Protocol};
use super::settings::MEMBER_BYTES;
use super::turn::{Moment, Waiter};

/// A member, static or dynamic.
#[derive(Debug)]
pub struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    /// The preferred one first.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// Waits for the rebalance to end.
    pub(super) waiting_join: Option<Waiter>,
    /// Waits for the leader's assignment.
    pub(super) waiting_sync: Option<Waiter>,
    /// Has not had an answer to its first join.
    pub(super) is_new: bool,
    /// Has not asked for its assignment of the current generation.
    pub(super) owes_sync: bool,
    /// When its session ends.
    pub(super) deadline: Moment,
}

impl Member {
    /// A member as it joins; its session and its waiter are set by the group.
    pub(super) fn joining(request: JoinRequest, deadline: Moment) -> Self {
        Self {
            instance_id: request.group_instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocols: request.protocols,
            assignment: Bytes::new(),
            waiting_join: None,
            waiting_sync: None,
            is_new: true,
            owes_sync: false,
            deadline,
        }
    }

    /// A member as it was when the group's metadata was stored.
    pub(super) fn restored(value: MemberValue, protocol: &str, deadline: Moment) -> Self {
        Self {
            instance_id: value.group_instance_id,
            client_id: value.client_id,
            client_host: value.client_host,
            session_timeout_ms: value.session_timeout_ms,
            rebalance_timeout_ms: value.rebalance_timeout_ms,
            protocols: vec![Protocol {
                name: protocol.to_owned(),
                metadata: value.subscription,
            }],
            assignment: value.assignment,
            waiting_join: None,
            waiting_sync: None,
            is_new: false,
            owes_sync: false,
            deadline,
        }
    }

    /// Takes over what a member may change when it joins again.
    pub(super) fn update(&mut self, request: JoinRequest) {
        self.client_id = request.client_id;
        self.client_host = request.client_host;
        self.session_timeout_ms = request.session_timeout_ms;
        self.rebalance_timeout_ms = request.rebalance_timeout_ms;
        self.protocols = request.protocols;
    }

    /// Whether its session cannot end now.
    pub(super) const fn is_kept_alive(&self) -> bool {
        !self.is_new && (self.waiting_join.is_some() || self.waiting_sync.is_some())
    }

    /// Session timeout; clients cannot ask for a negative one.
    pub(super) fn session_ms(&self) -> u64 {
        u64::try_from(self.session_timeout_ms).unwrap_or(0)
    }

    /// Rebalance timeout, at least a millisecond: time has to pass between two deadlines.
    pub(super) fn rebalance_ms(&self) -> u64 {
        u64::try_from(self.rebalance_timeout_ms).unwrap_or(0).max(1)
    }

    /// Whether it knows a protocol.
    pub(super) fn supports(&self, name: &str) -> bool {
        self.protocols.iter().any(|protocol| protocol.name == name)
    }

    /// Its metadata for a protocol.
    pub(super) fn metadata(&self, name: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|protocol| protocol.name == name)
            .map(|protocol| protocol.metadata.clone())
            .unwrap_or_default()
    }

    /// Bytes that it makes the shard remember, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        self.protocols
            .iter()
            .map(Protocol::size_bytes)
            .sum::<usize>()
            + self.client_id.len()
            + self.client_host.len()
            + self.instance_id.as_ref().map_or(0, String::len)
            + self.assignment.len()
            + MEMBER_BYTES
    }
}

//! What others see of a group: its stored form, its description, the topics it reads.
//!
//! Pure: no async, no clock, no IO.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::{GroupValue, MemberValue};
use super::offsets::Aging;
use super::requests::{DescribeResponse, DescribedMember, JoinRequest, ListRequest, ListedGroup};
use super::state::{CONSUMER_PROTOCOL_TYPE, Group, State};
use super::subscription;
use super::turn::Now;
use crate::model::error_code::ErrorCode;

/// The only type of group there is so far.
pub(super) const GROUP_TYPE: &str = "classic";

impl Group {
    /// The group's metadata with these assignments (by member id; others get none).
    pub(super) fn value(&self, now: Now, assignments: &BTreeMap<String, Bytes>) -> GroupValue {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let members = self
            .members
            .iter()
            .map(|(id, member)| MemberValue {
                member_id: id.clone(),
                group_instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                subscription: member.metadata(protocol),
                assignment: assignments.get(id).cloned().unwrap_or_default(),
            })
            .collect();
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation_id: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: now.unix_ms,
            members,
        }
    }

    /// The group's metadata as it will be when a static member has taken over another id.
    pub(super) fn value_with_replaced(
        &self,
        now: Now,
        old_id: &str,
        new_id: &str,
        request: &JoinRequest,
    ) -> GroupValue {
        let assignments = self
            .members
            .iter()
            .map(|(id, member)| (id.clone(), member.assignment.clone()))
            .collect();
        let mut value = self.value(now, &assignments);
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        for member in value
            .members
            .iter_mut()
            .filter(|member| member.member_id == old_id)
        {
            new_id.clone_into(&mut member.member_id);
            member.client_id.clone_from(&request.client_id);
            member.client_host.clone_from(&request.client_host);
            member.rebalance_timeout_ms = request.rebalance_timeout_ms;
            member.session_timeout_ms = request.session_timeout_ms;
            let metadata = request
                .protocols
                .iter()
                .find(|entry| entry.name == protocol);
            member.subscription = metadata
                .map(|entry| entry.metadata.clone())
                .unwrap_or_default();
        }
        if value.leader.as_deref() == Some(old_id) {
            value.leader = Some(new_id.to_owned());
        }
        value
    }

    /// DescribeGroups. Metadata and assignments belong together only while the group is stable.
    pub fn describe(&self) -> DescribeResponse {
        let is_stable = self.state == State::Stable;
        let protocol = self
            .protocol_name
            .clone()
            .filter(|_| is_stable)
            .unwrap_or_default();
        let members = self
            .members
            .iter()
            .map(|(id, member)| DescribedMember {
                member_id: id.clone(),
                group_instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                metadata: if is_stable {
                    member.metadata(&protocol)
                } else {
                    Bytes::new()
                },
                assignment: if is_stable {
                    member.assignment.clone()
                } else {
                    Bytes::new()
                },
            })
            .collect();
        DescribeResponse {
            error: ErrorCode::None,
            group_id: self.id.clone(),
            state: self.state.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol,
            members,
        }
    }

    /// Its line of ListGroups, if the filters let it through.
    pub fn list(&self, filters: &ListRequest) -> Option<ListedGroup> {
        let passes = |filter: &[String], name: &str| {
            filter.is_empty()
                || filter
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        (passes(&filters.states, self.state.name()) && passes(&filters.types, GROUP_TYPE)).then(
            || ListedGroup {
                group_id: self.id.clone(),
                protocol_type: self.protocol_type.clone().unwrap_or_default(),
                state: self.state.name(),
                group_type: GROUP_TYPE,
            },
        )
    }

    /// The topics that the members of the generation subscribe to, if all of them can be read.
    pub(super) fn read_subscriptions(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER_PROTOCOL_TYPE) {
            return None;
        }
        let protocol = self.protocol_name.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscription::topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }

    /// Whether a member may be reading the topic. When in doubt, yes.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        if self.members.is_empty() {
            return false;
        }
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => true,
        }
    }

    /// Whether offsets may be deleted one by one: not those of groups that are in use and whose
    /// subscriptions cannot be read.
    pub fn check_delete_offsets(&self) -> Result<(), ErrorCode> {
        let is_consumer = self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE);
        match self.state {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            State::Empty => Ok(()),
            _ if is_consumer => Ok(()),
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// Whether the whole group may be deleted.
    pub fn check_delete(&self) -> Result<(), ErrorCode> {
        match self.state {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            State::Empty => Ok(()),
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                Err(ErrorCode::NonEmptyGroup)
            }
        }
    }

    /// From when on its offsets grow old.
    pub fn aging(&self) -> Aging {
        let is_consumer = self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE);
        match self.state {
            State::Empty if self.protocol_type.is_some() => match self.state_since_ms {
                Some(unix_ms) => Aging::SinceEmpty { unix_ms },
                None => Aging::SinceCommit,
            },
            State::Empty => Aging::SinceCommit,
            // Topics it no longer subscribes to; `is_subscribed` spares the others.
            State::Stable if is_consumer && self.subscribed.is_some() => Aging::SinceCommit,
            // While members come and go nobody knows what they will subscribe to.
            _ => Aging::Never,
        }
    }
}

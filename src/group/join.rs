//! JoinGroup: who is taken in, under which id, and whether that makes the group share anew.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a join is answered at once, when the rebalance it caused or found is over, or, for a
//! static member that comes back to a stable group, when its new id is durable (KIP-345).

use super::membership::fence;
use super::requests::{JoinRequest, JoinResponse, Protocol};
use super::settings::GroupSettings;
use super::state::{Group, State};
use super::sync::{Replacement, Store};
use super::turn::{Turn, Waiter};
use crate::model::error_code::ErrorCode;

/// A member id that nobody has: the instance id or the client id, and a random UUID.
pub(super) fn new_member_id(request: &JoinRequest, random: [u8; 16]) -> String {
    let prefix = request
        .group_instance_id
        .as_deref()
        .unwrap_or(&request.client_id);
    let unique = uuid::Builder::from_random_bytes(random).into_uuid();
    format!("{prefix}-{unique}")
}

impl Group {
    /// A member joins. `fresh_id` is the id it gets if it has none.
    pub fn on_join(
        &mut self,
        turn: &mut Turn<'_>,
        request: JoinRequest,
        waiter: Waiter,
        fresh_id: String,
    ) {
        if !self.has_room(turn.settings, &request.member_id) {
            self.drop_member(turn, &request.member_id);
            let refusal = JoinResponse::refused("", ErrorCode::GroupMaxSizeReached);
            turn.answer_join(waiter, refusal);
        } else if !self.supports_one_of(&request) {
            let error = ErrorCode::InconsistentGroupProtocol;
            turn.answer_join(waiter, JoinResponse::refused(request.member_id, error));
        } else if request.member_id.is_empty() {
            self.join_without_id(turn, request, waiter, fresh_id);
        } else {
            self.join_with_id(turn, request, waiter);
        }
        self.try_complete_join(turn);
    }

    /// While a rebalance is prepared, those who wait count: so a group above the limit shrinks to
    /// it.
    fn has_room(&self, settings: &GroupSettings, member_id: &str) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                let is_waiting = member.is_some_and(|member| member.waiting_join.is_some());
                let waiting = self
                    .members
                    .values()
                    .filter(|member| member.waiting_join.is_some());
                is_waiting || waiting.count() < settings.group_size_max
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || self.members.len() < settings.group_size_max
            }
        }
    }

    /// Whether a protocol is left that everybody knows.
    fn supports_one_of(&self, request: &JoinRequest) -> bool {
        if self.state == State::Empty {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request.protocols.iter().any(|protocol| {
                self.members
                    .values()
                    .all(|member| member.supports(&protocol.name))
            })
    }

    fn join_without_id(
        &mut self,
        turn: &mut Turn<'_>,
        request: JoinRequest,
        waiter: Waiter,
        fresh_id: String,
    ) {
        match &request.group_instance_id {
            Some(instance) => match self.static_members.get(instance).cloned() {
                Some(old_id) => self.return_static(turn, request, waiter, &old_id, fresh_id),
                None => self.add_member(turn, fresh_id, request, waiter),
            },
            None if request.requires_known_member_id => {
                let session_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
                let deadline = turn.now.moment.plus_ms(session_ms);
                self.pending.insert(fresh_id.clone(), deadline);
                self.wake_by(deadline);
                let answer = JoinResponse::refused(fresh_id, ErrorCode::MemberIdRequired);
                turn.answer_join(waiter, answer);
            }
            None => self.add_member(turn, fresh_id, request, waiter),
        }
    }

    fn join_with_id(&mut self, turn: &mut Turn<'_>, mut request: JoinRequest, waiter: Waiter) {
        let member_id = std::mem::take(&mut request.member_id);
        if request.group_instance_id.is_none() && self.pending.remove(&member_id).is_some() {
            return self.add_member(turn, member_id, request, waiter);
        }
        let instance = request.group_instance_id.as_deref();
        if let Err(error) = self.check_member(&member_id, instance) {
            return turn.answer_join(waiter, JoinResponse::refused(member_id, error));
        }
        let is_same = self
            .members
            .get(&member_id)
            .is_some_and(|member| member.protocols == request.protocols);
        let is_leader = self.leader.as_ref() == Some(&member_id);
        let shares_anew = match self.state {
            State::PreparingRebalance => true,
            // It may just have missed the answer to its join.
            State::CompletingRebalance => !is_same,
            // The leader joins again when something that only it watches has changed.
            State::Stable => is_leader || !is_same,
            State::Empty | State::Dead => {
                let error = ErrorCode::UnknownMemberId;
                return turn.answer_join(waiter, JoinResponse::refused(member_id, error));
            }
        };
        if shares_anew {
            if let Some(member) = self.members.get_mut(&member_id) {
                member.update(request);
            }
            self.wait_for_rebalance(turn, &member_id, waiter);
        } else {
            self.renew_session(turn.now, &member_id);
            let response = self.joined(&member_id);
            turn.answer_join(waiter, response);
        }
    }

    fn wait_for_rebalance(&mut self, turn: &mut Turn<'_>, member_id: &str, waiter: Waiter) {
        let earlier = self
            .members
            .get_mut(member_id)
            .and_then(|member| member.waiting_join.replace(waiter));
        if let Some(earlier) = earlier {
            // The member asks again: it no longer listens to the first question.
            let error = ErrorCode::RebalanceInProgress;
            turn.answer_join(earlier, JoinResponse::refused(member_id, error));
        }
        self.prepare_rebalance(turn);
    }

    /// A static member is back without its id: it gets a new one, the old one is fenced.
    fn return_static(
        &mut self,
        turn: &mut Turn<'_>,
        request: JoinRequest,
        waiter: Waiter,
        old_id: &str,
        new_id: String,
    ) {
        let keeps_protocol = self.state == State::Stable && {
            let next = self.choose_protocol(Some((old_id, &request.protocols)));
            self.protocol_name.as_ref() == Some(&next)
        };
        if keeps_protocol {
            // No rebalance. The old id stays in force until the new one is durable.
            let value = self.value_with_replaced(turn.now, old_id, &new_id, &request);
            let replacement = Replacement {
                request,
                waiter,
                old_id: old_id.to_owned(),
                new_id,
                generation: self.generation,
            };
            return self.store(turn, Store::Replacement(Box::new(replacement)), value);
        }
        self.replace_member(turn, old_id, &new_id, request);
        self.wait_for_rebalance(turn, &new_id, waiter);
    }

    /// Moves a static member to another id; whoever still waits under the old one is fenced.
    pub(super) fn replace_member(
        &mut self,
        turn: &mut Turn<'_>,
        old_id: &str,
        new_id: &str,
        request: JoinRequest,
    ) {
        let Some(mut member) = self.members.remove(old_id) else {
            return;
        };
        fence(turn, old_id, &mut member);
        if let Some(instance) = &member.instance_id {
            self.static_members
                .insert(instance.clone(), new_id.to_owned());
        }
        member.update(request);
        self.members.insert(new_id.to_owned(), member);
        if self.leader.as_deref() == Some(old_id) {
            self.leader = Some(new_id.to_owned());
        }
        self.renew_session(turn.now, new_id);
    }

    /// The answer to a static member that came back without a rebalance.
    pub(super) fn returned(
        &self,
        member_id: &str,
        leader_before: &str,
        supports_skip_assignment: bool,
    ) -> JoinResponse {
        let mut response = self.joined(member_id);
        if supports_skip_assignment {
            // It watches the group's metadata as the leader does, and assigns nothing (KIP-814).
            response.skip_assignment = self.leader.as_deref() == Some(member_id);
        } else {
            // A leader that does not know of skipping would assign anew, and a stable group would
            // not hear of it: under the old id it takes itself for a follower.
            leader_before.clone_into(&mut response.leader);
            response.members.clear();
        }
        response
    }

    /// The protocol that most members prefer among those that all know. With `instead`, as if that
    /// member had those protocols.
    pub(super) fn choose_protocol(&self, instead: Option<(&str, &[Protocol])>) -> String {
        let ballots: Vec<&[Protocol]> = self
            .members
            .iter()
            .map(|(id, member)| match instead {
                Some((other, protocols)) if other == id => protocols,
                _ => member.protocols.as_slice(),
            })
            .collect();
        let Some((first, rest)) = ballots.split_first() else {
            return String::new();
        };
        let knows = |ballot: &[Protocol], name: &str| ballot.iter().any(|p| p.name == name);
        let mut votes: Vec<(&str, usize)> = first
            .iter()
            .map(|protocol| protocol.name.as_str())
            .filter(|name| rest.iter().all(|ballot| knows(ballot, name)))
            .map(|name| (name, 0))
            .collect();
        for ballot in &ballots {
            let choice = ballot
                .iter()
                .find_map(|protocol| votes.iter().position(|(name, _)| *name == protocol.name));
            if let Some((_, count)) = choice.and_then(|index| votes.get_mut(index)) {
                *count += 1;
            }
        }
        // Of equals the first one: what the first member prefers.
        let most = votes.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let chosen = votes.iter().find(|(_, count)| *count == most);
        chosen
            .map(|(name, _)| (*name).to_owned())
            .unwrap_or_default()
    }
}

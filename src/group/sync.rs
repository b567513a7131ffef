//! SyncGroup, and what happens when the group's metadata has been stored, or could not be.
//!
//! Pure: no async, no clock, no IO.
//! Promises: an assignment is told to anybody only when it is durable. When it cannot be stored all
//! who wait for it get the error and have to join again.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::codec::GroupValue;
use super::member::Member;
use super::requests::{JoinRequest, JoinResponse, SyncRequest, SyncResponse};
use super::state::{Group, State};
use super::turn::{Effect, StoreTicket, Turn, Waiter};
use crate::model::error_code::ErrorCode;

/// A store of metadata whose outcome is awaited.
#[derive(Debug)]
pub(super) enum Store {
    /// The leader's assignment.
    Assignment {
        /// Of which generation.
        generation: i32,
        /// By member id.
        assignments: BTreeMap<String, Bytes>,
    },
    /// A static member's new id.
    Replacement(Box<Replacement>),
    /// Nobody is left.
    Vacancy,
}

/// A static member that came back to a stable group.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) request: JoinRequest,
    pub(super) waiter: Waiter,
    pub(super) old_id: String,
    pub(super) new_id: String,
    pub(super) generation: i32,
}

impl Group {
    /// A member asks for its assignment; the leader brings all of them.
    pub fn on_sync(&mut self, turn: &mut Turn<'_>, request: SyncRequest, waiter: Waiter) {
        if let Err(error) = self.check_sync(&request) {
            return turn.answer_sync(waiter, SyncResponse::refused(error));
        }
        let member_id = request.member_id;
        match self.state {
            State::Empty | State::Dead => {
                turn.answer_sync(waiter, SyncResponse::refused(ErrorCode::UnknownMemberId));
            }
            State::PreparingRebalance => {
                self.renew_session(turn.now, &member_id);
                turn.answer_sync(
                    waiter,
                    SyncResponse::refused(ErrorCode::RebalanceInProgress),
                );
            }
            State::CompletingRebalance => {
                self.settle_sync(&member_id);
                self.renew_session(turn.now, &member_id);
                let earlier = self
                    .members
                    .get_mut(&member_id)
                    .and_then(|member| member.waiting_sync.replace(waiter));
                if let Some(earlier) = earlier {
                    let error = ErrorCode::RebalanceInProgress;
                    turn.answer_sync(earlier, SyncResponse::refused(error));
                }
                if self.leader.as_ref() == Some(&member_id) {
                    self.store_assignment(turn, request.assignments);
                }
            }
            State::Stable => {
                self.settle_sync(&member_id);
                self.renew_session(turn.now, &member_id);
                if let Some(member) = self.members.get(&member_id) {
                    let response = self.synced(member);
                    turn.answer_sync(waiter, response);
                }
            }
        }
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |asked: &Option<String>, ours: &Option<String>| {
            asked.is_some() && asked.as_ref() != ours.as_ref()
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn synced(&self, member: &Member) -> SyncResponse {
        SyncResponse {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment: member.assignment.clone(),
        }
    }

    /// [one-assignment]: a second one of the same generation is not listened to.
    fn store_assignment(&mut self, turn: &mut Turn<'_>, assignments: Vec<(String, Bytes)>) {
        let is_storing = self.stores.values().any(|store| {
            matches!(store, Store::Assignment { generation, .. } if *generation == self.generation)
        });
        if is_storing {
            return;
        }
        let assignments: BTreeMap<String, Bytes> = assignments
            .into_iter()
            .filter(|(id, _)| self.members.contains_key(id))
            .collect();
        let value = self.value(turn.now, &assignments);
        let generation = self.generation;
        self.store(
            turn,
            Store::Assignment {
                generation,
                assignments,
            },
            value,
        );
    }

    pub(super) fn store(&mut self, turn: &mut Turn<'_>, store: Store, value: GroupValue) {
        let ticket = self.next_ticket();
        self.stores.insert(ticket, store);
        turn.effects.push(Effect::Store(ticket, value));
    }

    /// The outcome of an [`Effect::Store`].
    pub fn on_stored(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: StoreTicket,
        outcome: Result<(), ErrorCode>,
    ) {
        match self.stores.remove(&ticket) {
            None | Some(Store::Vacancy) => {}
            Some(Store::Assignment {
                generation,
                assignments,
            }) => {
                // Another rebalance may have begun meanwhile: then those who waited have been told.
                if self.state == State::CompletingRebalance && self.generation == generation {
                    self.on_assignment_stored(turn, assignments, outcome);
                }
            }
            Some(Store::Replacement(replacement)) => {
                self.on_replacement_stored(turn, replacement, outcome);
            }
        }
    }

    fn on_assignment_stored(
        &mut self,
        turn: &mut Turn<'_>,
        mut assignments: BTreeMap<String, Bytes>,
        outcome: Result<(), ErrorCode>,
    ) {
        if let Err(error) = outcome {
            self.refuse_syncs(turn, error);
            self.prepare_rebalance(turn);
            return self.try_complete_join(turn);
        }
        self.become_stable(turn.now);
        let mut earliest = None;
        let mut waiters = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
            if let Some(waiter) = member.waiting_sync.take() {
                member.deadline = turn.now.moment.plus_ms(member.session_ms());
                earliest = earliest.into_iter().chain([member.deadline]).min();
                waiters.push((id.clone(), waiter));
            }
        }
        if let Some(earliest) = earliest {
            self.wake_by(earliest);
        }
        for (id, waiter) in waiters {
            if let Some(member) = self.members.get(&id) {
                let response = self.synced(member);
                turn.answer_sync(waiter, response);
            }
        }
    }

    fn on_replacement_stored(
        &mut self,
        turn: &mut Turn<'_>,
        replacement: Box<Replacement>,
        outcome: Result<(), ErrorCode>,
    ) {
        let Replacement {
            request,
            waiter,
            old_id,
            new_id,
            generation,
        } = *replacement;
        if let Err(error) = outcome {
            return turn.answer_join(waiter, JoinResponse::refused("", error));
        }
        let holds_instance = request
            .group_instance_id
            .as_ref()
            .and_then(|instance| self.static_members.get(instance))
            .is_some_and(|holder| *holder == old_id);
        if self.state == State::Stable && self.generation == generation && holds_instance {
            let leader_before = self.leader.clone().unwrap_or_default();
            let skips = request.supports_skip_assignment;
            self.replace_member(turn, &old_id, &new_id, request);
            let response = self.returned(&new_id, &leader_before, skips);
            turn.answer_join(waiter, response);
        } else {
            // The group moved on while the id was being stored: the member joins what it is now.
            self.on_join(turn, request, waiter, new_id);
        }
    }

    /// All who wait for an assignment get an error; none has an assignment any more.
    pub(super) fn refuse_syncs(&mut self, turn: &mut Turn<'_>, error: ErrorCode) {
        let mut earliest = None;
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(waiter) = member.waiting_sync.take() {
                member.deadline = turn.now.moment.plus_ms(member.session_ms());
                earliest = earliest.into_iter().chain([member.deadline]).min();
                turn.answer_sync(waiter, SyncResponse::refused(error));
            }
        }
        if let Some(earliest) = earliest {
            self.wake_by(earliest);
        }
    }
}

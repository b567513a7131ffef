//! Heartbeats, leaving, and whether a member may commit offsets.
//!
//! Pure: no async, no clock, no IO.
//! Promises: whoever is heard of with valid credentials has its session renewed.

use super::member::Member;
use super::requests::{CommitRequest, HeartbeatRequest, JoinResponse, LeavingMember, SyncResponse};
use super::state::{Group, State};
use super::turn::Turn;
use crate::breaks::{self, Break};
use crate::model::error_code::ErrorCode;

impl Group {
    /// Whether the id is a member's and, if an instance id is given, that instance's.
    pub(super) fn check_member(
        &self,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(holder) if holder != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if !self.members.contains_key(member_id) {
            return Err(ErrorCode::UnknownMemberId);
        }
        Ok(())
    }

    /// A sign of life; the answer tells whether to join again.
    pub fn on_heartbeat(&mut self, turn: &mut Turn<'_>, request: &HeartbeatRequest) -> ErrorCode {
        let instance = request.group_instance_id.as_deref();
        if let Err(error) = self.check_member(&request.member_id, instance) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        match self.state {
            State::Empty | State::Dead => return ErrorCode::UnknownMemberId,
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {}
        }
        self.renew_session(turn.now, &request.member_id);
        if self.state == State::PreparingRebalance {
            ErrorCode::RebalanceInProgress
        } else {
            ErrorCode::None
        }
    }

    /// Members leave, of their own will or by an administrator's.
    pub fn on_leave(
        &mut self,
        turn: &mut Turn<'_>,
        members: Vec<LeavingMember>,
    ) -> Vec<(LeavingMember, ErrorCode)> {
        members
            .into_iter()
            .map(|leaving| {
                let error = self.leave(turn, &leaving).err().unwrap_or(ErrorCode::None);
                (leaving, error)
            })
            .collect()
    }

    fn leave(&mut self, turn: &mut Turn<'_>, leaving: &LeavingMember) -> Result<(), ErrorCode> {
        let instance = leaving.group_instance_id.as_deref();
        if instance.is_none() && self.pending.remove(&leaving.member_id).is_some() {
            self.try_complete_join(turn);
            return Ok(());
        }
        let member_id = match instance {
            // An administrator names the instance only.
            Some(instance) if leaving.member_id.is_empty() => self
                .static_members
                .get(instance)
                .ok_or(ErrorCode::UnknownMemberId)?
                .clone(),
            _ => leaving.member_id.clone(),
        };
        self.check_member(&member_id, instance)?;
        self.remove_member(turn, &member_id);
        Ok(())
    }

    /// Whether offsets may be committed by whoever the request says it is.
    pub fn check_commit(
        &mut self,
        turn: &mut Turn<'_>,
        request: &CommitRequest,
    ) -> Result<(), ErrorCode> {
        if request.generation_id < 0 && self.state == State::Empty {
            // A simple consumer, or an administrator who sets the offsets of an empty group.
            return Ok(());
        }
        let instance = request.group_instance_id.as_deref();
        if request.generation_id < 0 && request.member_id.is_empty() && instance.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(&request.member_id, instance)?;
        let is_of_now = request.generation_id == self.generation;
        if !is_of_now && !breaks::is_on(Break::GenerationUnchecked) {
            return Err(ErrorCode::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.renew_session(turn.now, &request.member_id);
        Ok(())
    }
}

/// Whoever waits under a fenced id is told.
pub(super) fn fence(turn: &mut Turn<'_>, member_id: &str, member: &mut Member) {
    if let Some(waiter) = member.waiting_join.take() {
        let refusal = JoinResponse::refused(member_id, ErrorCode::FencedInstanceId);
        turn.answer_join(waiter, refusal);
    }
    if let Some(waiter) = member.waiting_sync.take() {
        turn.answer_sync(waiter, SyncResponse::refused(ErrorCode::FencedInstanceId));
    }
}

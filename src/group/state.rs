//! One group: the classic protocol's states, its members and their deadlines.
//!
//! Pure: no async, no clock, no IO.
//!
//! ```text
//!            join                all joined, or time over          assignment durable
//!   Empty ----------> Preparing -------------------------> Completing ----------------> Stable
//!     ^                 |   ^ ^                                |                           |
//!     +-----------------+   | +--------------------------------+                           |
//!        nobody is left     +--------------------------------------------------------------+
//!                                  a member joins, changes, leaves or falls silent
//! ```
//! Reading order: this file (what all events share), `join.rs`, `sync.rs`, `membership.rs`,
//! `view.rs`.
//! Invariants: [one-answer] every `Waiter` taken in is given out exactly once. [generation-rises]
//! the generation never falls. [one-assignment] a generation has at most one assignment.
//! [group-transitions] only the arrows above. [leader-is-member] a group with members has a leader
//! among them. [wake-in-time] `next_deadline` is never later than the earliest deadline; it may be
//! earlier, because a heartbeat only moves a deadline back and does not search for the next one.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::GroupValue;
use super::member::Member;
use super::requests::{JoinRequest, JoinResponse, JoinedMember, SyncResponse};
use super::settings::{MEMBER_BYTES, NEW_MEMBER_JOIN_TIMEOUT_MS};
use super::sync::Store;
use super::turn::{Moment, Now, StoreTicket, Turn, Waiter};
use crate::model::error_code::ErrorCode;

/// The protocol type whose subscriptions the coordinator can read.
pub(super) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// How often at most a rebalance that nobody joins is looked at again.
const ABSENT_RECHECK_MS: u64 = 1_000;

/// State of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nobody is in it; it may have committed offsets.
    Empty,
    /// Members are called upon to join.
    PreparingRebalance,
    /// All have joined; the leader's assignment is awaited, or being stored.
    CompletingRebalance,
    /// Every member may know its assignment.
    Stable,
    /// Gone.
    Dead,
}

impl State {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }

    const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (_, Self::Dead)
                | (
                    Self::Empty | Self::CompletingRebalance | Self::Stable,
                    Self::PreparingRebalance
                )
                | (
                    Self::PreparingRebalance,
                    Self::CompletingRebalance | Self::Empty
                )
                | (Self::CompletingRebalance, Self::Stable)
        )
    }
}

/// A rebalance that waits for members.
#[derive(Debug)]
struct Rebalance {
    deadline: Moment,
    initial: Option<InitialDelay>,
}

/// The first rebalance of an empty group waits a while for others to come.
#[derive(Debug)]
struct InitialDelay {
    /// How far it may still be extended.
    remaining_ms: u64,
    /// Somebody came since the last extension.
    has_joined: bool,
}

/// A consumer group of the classic protocol.
#[derive(Debug)]
pub struct Group {
    pub(super) id: String,
    pub(super) state: State,
    /// Wall clock; absent if unknown (groups stored by very old brokers).
    pub(super) state_since_ms: Option<i64>,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol_name: Option<String>,
    pub(super) generation: i32,
    pub(super) leader: Option<String>,
    /// By member id.
    pub(super) members: BTreeMap<String, Member>,
    /// Instance id to member id.
    pub(super) static_members: BTreeMap<String, String>,
    /// Ids given out that have not come back, until when.
    pub(super) pending: BTreeMap<String, Moment>,
    /// Topics of all members' subscriptions; absent if they cannot be read.
    pub(super) subscribed: Option<BTreeSet<String>>,
    rebalance: Option<Rebalance>,
    sync_deadline: Option<Moment>,
    wake_at: Option<Moment>,
    pub(super) stores: BTreeMap<StoreTicket, Store>,
    next_ticket: u64,
}

impl Group {
    /// A group that nobody has joined yet.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            state: State::Empty,
            state_since_ms: None,
            protocol_type: None,
            protocol_name: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            subscribed: None,
            rebalance: None,
            sync_deadline: None,
            wake_at: None,
            stores: BTreeMap::new(),
            next_ticket: 0,
        }
    }

    /// A group as it was stored. Its members have a whole session to make themselves heard.
    pub fn restored(id: impl Into<String>, value: GroupValue, now: Now) -> Self {
        let mut group = Self::new(id);
        group.generation = value.generation_id;
        group.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        group.state_since_ms = (value.state_timestamp_ms >= 0).then_some(value.state_timestamp_ms);
        if value.members.is_empty() {
            return group;
        }
        let protocol = value.protocol.unwrap_or_default();
        for mut stored in value.members {
            let id = std::mem::take(&mut stored.member_id);
            let mut member = Member::restored(stored, &protocol, now.moment);
            member.deadline = now.moment.plus_ms(member.session_ms());
            group.wake_by(member.deadline);
            if let Some(instance) = &member.instance_id {
                group.static_members.insert(instance.clone(), id.clone());
            }
            group.members.insert(id, member);
        }
        group.leader = value.leader;
        group.keep_leader();
        group.protocol_name = Some(protocol);
        group.state = State::Stable;
        group.subscribed = group.read_subscriptions();
        group
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Its generation.
    pub const fn generation(&self) -> i32 {
        self.generation
    }

    /// Members, and ids given out that have not come back.
    pub fn size(&self) -> usize {
        self.members.len() + self.pending.len()
    }

    /// Bytes that its members, and ids given out, make the shard remember, roughly.
    pub fn size_bytes(&self) -> usize {
        if self.size() == 0 {
            return 0;
        }
        let members = self.members.iter();
        let members = members.map(|(id, member)| 2 * id.len() + member.size_bytes());
        let pending = self.pending.keys().map(|id| id.len() + MEMBER_BYTES);
        self.id.len() + members.chain(pending).sum::<usize>()
    }

    /// Bytes of a member that joins again, under its id or as the instance that it is.
    pub fn member_size_bytes(&self, request: &JoinRequest) -> Option<usize> {
        let instance = request.group_instance_id.as_ref();
        let by_instance = instance.and_then(|instance| self.static_members.get(instance));
        let id = match request.member_id.is_empty() {
            true => by_instance?,
            false => &request.member_id,
        };
        let member = self.members.get(id)?;
        Some(member.size_bytes() - member.assignment.len())
    }

    /// Bytes of all assignments.
    pub fn assignment_size_bytes(&self) -> usize {
        let members = self.members.values();
        members.map(|member| member.assignment.len()).sum()
    }

    /// Whether nothing about it is worth keeping in memory, its offsets and records aside.
    pub fn is_vacant(&self) -> bool {
        matches!(self.state, State::Empty | State::Dead)
            && self.pending.is_empty()
            && self.stores.is_empty()
    }

    /// When `on_time` has to be called at the latest.
    pub const fn next_deadline(&self) -> Option<Moment> {
        self.wake_at
    }

    // ------------------------------------------------------------------ deadlines

    /// Time has passed. `drained_to`: every request that arrived before then has been handled, so a
    /// deadline up to it is final. May be earlier than `turn.now`.
    pub fn on_time(&mut self, turn: &mut Turn<'_>, drained_to: Moment) {
        if self.wake_at.is_none_or(|wake_at| wake_at > drained_to) {
            return;
        }
        self.expire_pending(turn, drained_to);
        self.expire_sessions(turn, drained_to);
        if self
            .sync_deadline
            .is_some_and(|deadline| deadline <= drained_to)
        {
            self.expire_syncs(turn);
        }
        if self
            .rebalance
            .as_ref()
            .is_some_and(|rebalance| rebalance.deadline <= drained_to)
        {
            self.on_rebalance_deadline(turn);
        }
        self.wake_at = self.earliest_deadline();
    }

    fn expire_pending(&mut self, turn: &mut Turn<'_>, drained_to: Moment) {
        let before = self.pending.len();
        self.pending.retain(|_, deadline| *deadline > drained_to);
        if self.pending.len() != before {
            self.try_complete_join(turn);
        }
    }

    fn expire_sessions(&mut self, turn: &mut Turn<'_>, drained_to: Moment) {
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_kept_alive() && member.deadline <= drained_to)
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            // The removal of one may have ended a rebalance and so renewed the session of another.
            let is_due = self
                .members
                .get(&id)
                .is_some_and(|member| !member.is_kept_alive() && member.deadline <= drained_to);
            if is_due {
                self.remove_member(turn, &id);
            }
        }
    }

    /// Who has not even asked for its assignment within the rebalance timeout is gone.
    fn expire_syncs(&mut self, turn: &mut Turn<'_>) {
        self.sync_deadline = None;
        let owing: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.owes_sync)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &owing {
            self.drop_member(turn, id);
        }
        if !owing.is_empty() {
            self.prepare_rebalance(turn);
            self.try_complete_join(turn);
        }
    }

    fn on_rebalance_deadline(&mut self, turn: &mut Turn<'_>) {
        let delay = turn.settings.initial_rebalance_delay_ms;
        if let Some(rebalance) = &mut self.rebalance
            && let Some(initial) = &mut rebalance.initial
            && initial.has_joined
            && initial.remaining_ms > 0
            && delay > 0
        {
            let extension = delay.min(initial.remaining_ms);
            initial.has_joined = false;
            initial.remaining_ms -= extension;
            rebalance.deadline = turn.now.moment.plus_ms(extension);
            return;
        }
        self.complete_join(turn);
    }

    fn earliest_deadline(&self) -> Option<Moment> {
        let sessions = self
            .members
            .values()
            .filter(|member| !member.is_kept_alive())
            .map(|member| member.deadline);
        sessions
            .chain(self.pending.values().copied())
            .chain(self.rebalance.as_ref().map(|rebalance| rebalance.deadline))
            .chain(self.sync_deadline)
            .min()
    }

    pub(super) fn wake_by(&mut self, deadline: Moment) {
        self.wake_at = Some(
            self.wake_at
                .map_or(deadline, |wake_at| wake_at.min(deadline)),
        );
    }

    /// The member was heard of.
    pub(super) fn renew_session(&mut self, now: Now, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.deadline = now.moment.plus_ms(member.session_ms());
            let deadline = member.deadline;
            self.wake_by(deadline);
        }
    }

    // ------------------------------------------------------------------ members

    /// Takes a member in and calls for a rebalance.
    pub(super) fn add_member(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: String,
        request: JoinRequest,
        waiter: Waiter,
    ) {
        if self.generation == 0
            && let Some(Rebalance {
                initial: Some(initial),
                ..
            }) = &mut self.rebalance
        {
            initial.has_joined = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        if let Some(instance) = &request.group_instance_id {
            self.static_members
                .insert(instance.clone(), member_id.clone());
        }
        let deadline = turn.now.moment.plus_ms(NEW_MEMBER_JOIN_TIMEOUT_MS);
        let mut member = Member::joining(request, deadline);
        member.waiting_join = Some(waiter);
        self.wake_by(deadline);
        self.leader.get_or_insert_with(|| member_id.clone());
        let earlier = self.members.insert(member_id, member);
        assert!(earlier.is_none(), "[one-answer] a new member id is new");
        self.prepare_rebalance(turn);
    }

    /// Takes a member out without further consequences. Whatever it waits for is answered.
    pub(super) fn drop_member(&mut self, turn: &mut Turn<'_>, member_id: &str) {
        let Some(member) = self.members.remove(member_id) else {
            return;
        };
        if let Some(waiter) = member.waiting_join {
            turn.answer_join(
                waiter,
                JoinResponse::refused("", ErrorCode::UnknownMemberId),
            );
        }
        if let Some(waiter) = member.waiting_sync {
            turn.answer_sync(waiter, SyncResponse::refused(ErrorCode::UnknownMemberId));
        }
        if let Some(instance) = &member.instance_id
            && self
                .static_members
                .get(instance)
                .is_some_and(|holder| holder == member_id)
        {
            self.static_members.remove(instance);
        }
        self.keep_leader();
    }

    /// Takes a member out; the others have to share anew.
    pub(super) fn remove_member(&mut self, turn: &mut Turn<'_>, member_id: &str) {
        self.drop_member(turn, member_id);
        self.prepare_rebalance(turn);
        self.try_complete_join(turn);
    }

    /// [leader-is-member]
    fn keep_leader(&mut self) {
        let is_member = self
            .leader
            .as_ref()
            .is_some_and(|id| self.members.contains_key(id));
        if !is_member {
            self.leader = self.members.keys().next().cloned();
        }
    }

    // ------------------------------------------------------------------ rebalance

    fn become_state(&mut self, now: Now, next: State) {
        assert!(
            self.state.may_become(next),
            "[group-transitions] {:?} to {next:?}",
            self.state
        );
        self.state = next;
        self.state_since_ms = Some(now.unix_ms);
    }

    /// Calls all members to join again, unless they are called already.
    pub(super) fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        let timeout_ms = self.rebalance_timeout_ms();
        let rebalance = match self.state {
            State::PreparingRebalance | State::Dead => return,
            State::Empty => {
                let delay_ms = turn.settings.initial_rebalance_delay_ms;
                let remaining_ms = timeout_ms.saturating_sub(delay_ms);
                let initial = Some(InitialDelay {
                    remaining_ms,
                    has_joined: false,
                });
                Rebalance {
                    deadline: turn.now.moment.plus_ms(delay_ms),
                    initial,
                }
            }
            State::CompletingRebalance | State::Stable => Rebalance {
                deadline: turn.now.moment.plus_ms(timeout_ms),
                initial: None,
            },
        };
        if self.state == State::CompletingRebalance {
            self.refuse_syncs(turn, ErrorCode::RebalanceInProgress);
        }
        self.sync_deadline = None;
        for member in self.members.values_mut() {
            member.owes_sync = false;
        }
        self.wake_by(rebalance.deadline);
        self.rebalance = Some(rebalance);
        self.become_state(turn.now, State::PreparingRebalance);
    }

    /// Ends the joining as soon as nobody is missing. An initial delay is waited out.
    pub(super) fn try_complete_join(&mut self, turn: &mut Turn<'_>) {
        let Some(rebalance) = &self.rebalance else {
            return;
        };
        if rebalance.initial.is_some() {
            if turn.settings.initial_rebalance_delay_ms == 0 {
                self.complete_join(turn);
            }
            return;
        }
        let is_complete = self.pending.is_empty()
            && self
                .members
                .values()
                .all(|member| member.waiting_join.is_some());
        if is_complete {
            self.complete_join(turn);
        }
    }

    /// Begins the next generation with those who have joined, and with absent static members.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.waiting_join.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.drop_member(turn, &id);
        }
        if self.members.is_empty() {
            return self.become_empty(turn);
        }
        if !self.elect_joined_leader() {
            // Only static members are left and none of them is here: wait until one comes or their
            // sessions end.
            let timeout_ms = self.rebalance_timeout_ms().max(ABSENT_RECHECK_MS);
            let deadline = turn.now.moment.plus_ms(timeout_ms);
            self.wake_by(deadline);
            self.rebalance = Some(Rebalance {
                deadline,
                initial: None,
            });
            return;
        }
        self.begin_generation(turn);
    }

    /// Makes sure that the leader is one who has joined; whether there is one.
    fn elect_joined_leader(&mut self) -> bool {
        let has_joined = |id: &String| {
            self.members
                .get(id)
                .is_some_and(|member| member.waiting_join.is_some())
        };
        if !self.leader.as_ref().is_some_and(has_joined) {
            let Some(joined) = self.members.keys().find(|id| has_joined(id)).cloned() else {
                return false;
            };
            self.leader = Some(joined);
        }
        true
    }

    fn raise_generation(&mut self) {
        // Not within the life of any group: 2^31 rebalances.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.rebalance = None;
        self.sync_deadline = None;
    }

    fn become_empty(&mut self, turn: &mut Turn<'_>) {
        self.raise_generation();
        self.protocol_name = None;
        self.leader = None;
        self.subscribed = None;
        self.become_state(turn.now, State::Empty);
        let value = self.value(turn.now, &BTreeMap::new());
        self.store(turn, Store::Vacancy, value);
    }

    fn begin_generation(&mut self, turn: &mut Turn<'_>) {
        self.raise_generation();
        self.protocol_name = Some(self.choose_protocol(None));
        self.subscribed = self.read_subscriptions();
        self.become_state(turn.now, State::CompletingRebalance);
        let deadline = turn.now.moment.plus_ms(self.rebalance_timeout_ms());
        self.sync_deadline = Some(deadline);
        self.wake_by(deadline);
        let mut waiters = Vec::with_capacity(self.members.len());
        let mut earliest = deadline;
        for (id, member) in &mut self.members {
            member.is_new = false;
            member.owes_sync = true;
            member.deadline = turn.now.moment.plus_ms(member.session_ms());
            earliest = earliest.min(member.deadline);
            if let Some(waiter) = member.waiting_join.take() {
                waiters.push((id.clone(), waiter));
            }
        }
        self.wake_by(earliest);
        for (id, waiter) in waiters {
            let response = self.joined(&id);
            turn.answer_join(waiter, response);
        }
    }

    /// The answer to a member of the current generation.
    pub(super) fn joined(&self, member_id: &str) -> JoinResponse {
        let is_leader = self.leader.as_deref() == Some(member_id);
        JoinResponse {
            error: ErrorCode::None,
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: if is_leader {
                self.members_for_leader()
            } else {
                Vec::new()
            },
        }
    }

    pub(super) fn members_for_leader(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        self.members
            .iter()
            .map(|(id, member)| JoinedMember {
                member_id: id.clone(),
                group_instance_id: member.instance_id.clone(),
                metadata: member.metadata(protocol),
            })
            .collect()
    }

    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        self.members
            .values()
            .map(Member::rebalance_ms)
            .max()
            .unwrap_or(0)
    }

    /// Somebody asked for its assignment; when all have, there is nothing more to wait for.
    pub(super) fn settle_sync(&mut self, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.owes_sync = false;
        }
        if self.members.values().all(|member| !member.owes_sync) {
            self.sync_deadline = None;
        }
    }

    /// The assignment is durable.
    pub(super) fn become_stable(&mut self, now: Now) {
        self.become_state(now, State::Stable);
    }

    /// The group is gone from this shard: all who wait are sent away.
    pub fn on_unload(&mut self, turn: &mut Turn<'_>, error: ErrorCode) {
        for member in self.members.values_mut() {
            if let Some(waiter) = member.waiting_join.take() {
                turn.answer_join(waiter, JoinResponse::refused("", error));
            }
            if let Some(waiter) = member.waiting_sync.take() {
                turn.answer_sync(waiter, SyncResponse::refused(error));
            }
        }
        for store in std::mem::take(&mut self.stores).into_values() {
            if let Store::Replacement(replacement) = store {
                turn.answer_join(replacement.waiter, JoinResponse::refused("", error));
            }
        }
        self.become_state(turn.now, State::Dead);
        self.rebalance = None;
        self.sync_deadline = None;
        self.wake_at = None;
    }

    pub(super) fn next_ticket(&mut self) -> StoreTicket {
        self.next_ticket += 1;
        StoreTicket(self.next_ticket)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

//! All that one shard coordinates: its offsets partitions, their groups, deadlines and limits.
//!
//! Pure: no async, no clock, no IO.
//! The driver (`coordinator.rs`) calls a method for each event, then hands on the `Output`s and
//! sees to it that every partition named by `take_unattended` has a writer, which carries out
//! `next_step` after `next_step`.
//! Reading order: this file (members and time), `commits.rs` (offsets), `retention.rs` (what goes).
//! Invariants: [filed] a group with a deadline is filed under it. [members-counted] `member_count`
//! is the sum of the groups' sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::codec::CodecError;
use super::groups::Entry;
use super::join::new_member_id;
use super::offsets_log::OffsetsLogError;
use super::offsets_partition::{OffsetsPartition, PendingWrite, Status, Step, Then};
use super::record::GroupRecord;
use super::requests::{
    DescribeResponse, HeartbeatRequest, JoinRequest, JoinResponse, LeaveRequest, LeaveResponse,
    ListRequest, ListResponse, SyncRequest, SyncResponse,
};
use super::settings::{
    GROUP_BYTES, GROUPS_PER_SHARD_MAX, GroupSettings, MEMBERS_PER_SHARD_MAX, OFFSET_BYTES,
};
use super::state::{Group, State};
use super::turn::{Effect, Moment, Now, StoreTicket, Turn, Waiter};
use crate::model::error_code::ErrorCode;
use crate::model::java_hash::coordinator_partition;
use crate::model::limits::STRING_BYTES_MAX;
use crate::model::offset::Offset;

/// Bytes of the random part of a member id, the hyphen before it included.
const MEMBER_ID_SUFFIX_BYTES: usize = 37;

/// Something for the driver to hand on.
#[derive(Debug)]
pub enum Output {
    /// The answer to the join with this number.
    Join(u64, JoinResponse),
    /// The answer to the sync with this number.
    Sync(u64, SyncResponse),
    /// The outcome of the write with this number.
    Written(u64, Result<(), OffsetsLogError>),
}

/// The right to read or write one partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub index: i32,
    /// Tells it from the same partition after it has left and come back.
    incarnation: u64,
}

/// Sizes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RosterStats {
    /// Groups.
    pub groups: usize,
    /// Rebalances completed: assignments that are durable.
    pub rebalances: u64,
    /// Members, and member ids given out that have not come back.
    pub members: usize,
    /// Committed offsets.
    pub offsets: usize,
    /// Bytes of records that wait for the log.
    pub queued_bytes: usize,
    /// Bytes of the offsets partitions' logs.
    pub log_bytes: u64,
    /// Bytes of their live records.
    pub live_bytes: u64,
}

/// Everything one shard coordinates.
#[derive(Debug)]
pub struct Roster {
    pub(super) settings: Rc<GroupSettings>,
    pub(super) partitions: BTreeMap<i32, OffsetsPartition>,
    deadlines: BTreeSet<(Moment, i32, String)>,
    outputs: Vec<Output>,
    unattended: BTreeSet<i32>,
    member_count: usize,
    rebalances: u64,
    member_bytes: usize,
    last_number: u64,
}

impl Roster {
    /// A roster without partitions.
    pub fn new(settings: GroupSettings) -> Self {
        Self {
            settings: Rc::new(settings),
            partitions: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            outputs: Vec::new(),
            unattended: BTreeSet::new(),
            member_count: 0,
            rebalances: 0,
            member_bytes: 0,
            last_number: 0,
        }
    }

    /// A number that nobody has had, for whoever waits.
    pub fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// What is to be handed on, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Writers for the partitions that need one and have none; they have one from now on.
    pub fn take_unattended(&mut self) -> Vec<Claim> {
        let mut writers = Vec::new();
        for index in std::mem::take(&mut self.unattended) {
            if let Some(partition) = self.partitions.get_mut(&index)
                && !partition.has_writer
                && partition.has_work(&self.settings)
            {
                partition.has_writer = true;
                writers.push(Claim {
                    index,
                    incarnation: partition.incarnation,
                });
            }
        }
        writers
    }

    /// Sizes.
    pub fn stats(&self) -> RosterStats {
        let mut stats = RosterStats {
            members: self.member_count,
            rebalances: self.rebalances,
            ..RosterStats::default()
        };
        for partition in self.partitions.values() {
            stats.groups += partition.groups.len();
            stats.offsets += partition.groups.offset_count();
            stats.queued_bytes += partition.queued_bytes();
            stats.log_bytes += partition.log_bytes();
            stats.live_bytes += partition.groups.live_bytes();
        }
        stats
    }

    /// Whether no write waits for a log.
    pub fn is_rested(&self) -> bool {
        self.partitions
            .values()
            .all(|partition| partition.queued_bytes() == 0)
    }

    /// Every committed offset: group, topic, partition, offset.
    pub fn for_each_committed(&self, mut visit: impl FnMut(&str, &str, i32, i64)) {
        for (id, entry) in self.partitions.values().flat_map(|p| p.groups.iter()) {
            for (topic, partition, value) in entry.offsets.iter() {
                visit(id, topic, partition, value.offset);
            }
        }
    }

    // ------------------------------------------------------------------ partitions

    /// How many partitions groups are spread over: what the topic has, once it is known. Not to be
    /// changed while partitions are here.
    pub fn set_partition_count(&mut self, count: i32) {
        assert!(
            self.partitions.is_empty(),
            "[filed] groups do not move between partitions"
        );
        Rc::make_mut(&mut self.settings).offsets_partition_count = count;
    }

    /// The partition comes to this shard; its log is going to be read. `None`: it is here.
    pub fn begin_load(&mut self, index: i32) -> Option<Claim> {
        let is_here = self
            .partitions
            .get(&index)
            .is_some_and(|partition| partition.status != Status::Failed);
        if is_here {
            return None;
        }
        let incarnation = self.next_number();
        let loading = OffsetsPartition::loading(incarnation);
        self.partitions.insert(index, loading);
        Some(Claim { index, incarnation })
    }

    /// A part of its log was read: what it changes, its size, and where the log ends.
    pub fn on_read(
        &mut self,
        claim: Claim,
        records: Vec<GroupRecord>,
        size_bytes: usize,
        log_end: Offset,
    ) {
        if let Some(partition) = self.claimed(claim) {
            for record in records {
                partition.groups.apply(record);
            }
            partition.on_read(size_bytes, log_end);
        }
    }

    /// All of its log was read: its groups come to life.
    pub fn end_load(&mut self, claim: Claim, now: Now) -> Result<(), CodecError> {
        let Some(partition) = self.claimed(claim) else {
            return Ok(());
        };
        partition.groups.revive(now)?;
        partition.status = Status::Ready;
        if let Some(partition) = self.partitions.get_mut(&claim.index) {
            for (id, entry) in partition.groups.iter_mut() {
                self.member_count += entry.group.size();
                self.member_bytes += entry.group.size_bytes();
                refile(&mut self.deadlines, claim.index, id, entry);
            }
        }
        self.unattended.insert(claim.index);
        Ok(())
    }

    /// Its log cannot be read: its groups cannot be served.
    pub fn fail_load(&mut self, claim: Claim) {
        if let Some(partition) = self.claimed(claim) {
            *partition = OffsetsPartition::loading(claim.incarnation);
            partition.status = Status::Failed;
        }
    }

    /// The partition leaves this shard: all who wait are sent away.
    pub fn unload(&mut self, now: Now, index: i32) {
        let Some(mut partition) = self.partitions.remove(&index) else {
            return;
        };
        let settings = Rc::clone(&self.settings);
        let mut turn = Turn::new(now, &settings);
        for (id, entry) in partition.groups.iter_mut() {
            self.member_count -= entry.group.size();
            self.member_bytes -= entry.group.size_bytes();
            entry.group.on_unload(&mut turn, ErrorCode::NotCoordinator);
            refile(&mut self.deadlines, index, id, entry);
        }
        for effect in turn.effects {
            match effect {
                Effect::Join(waiter, response) => {
                    self.outputs
                        .push(Output::Join(waiter.into_number(), response));
                }
                Effect::Sync(waiter, response) => {
                    self.outputs
                        .push(Output::Sync(waiter.into_number(), response));
                }
                Effect::Store(..) => unreachable!("a group that is sent away stores nothing"),
            }
        }
        for (_, then) in partition.into_pending_writes() {
            if let Then::Asker(number) = then {
                self.outputs
                    .push(Output::Written(number, Err(OffsetsLogError::NotHere)));
            }
        }
    }

    /// The partitions that are here.
    pub fn partition_indexes(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }

    /// The partition of a group.
    pub fn partition_of(&self, group: &str) -> i32 {
        coordinator_partition(group, self.settings.offsets_partition_count)
    }

    /// The partition of a group, if it can be used.
    pub(super) fn ready(&self, group: &str) -> Result<i32, ErrorCode> {
        if group.len() > STRING_BYTES_MAX {
            return Err(ErrorCode::InvalidGroupId);
        }
        let index = self.partition_of(group);
        match self
            .partitions
            .get(&index)
            .map(|partition| partition.status)
        {
            None => Err(ErrorCode::NotCoordinator),
            Some(Status::Loading) => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(Status::Failed) => Err(ErrorCode::CoordinatorNotAvailable),
            Some(Status::Ready) => Ok(index),
        }
    }

    /// As `ready`; and members' requests have to name a group.
    fn ready_for_members(&self, group: &str) -> Result<i32, ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        self.ready(group)
    }

    pub(super) fn entry(&self, index: i32, group: &str) -> Option<&Entry> {
        self.partitions.get(&index)?.groups.get(group)
    }

    // ------------------------------------------------------------------ members

    /// JoinGroup. The answer comes as an `Output`.
    pub fn join(&mut self, now: Now, request: JoinRequest, number: u64, random: [u8; 16]) {
        match self.check_join(&request) {
            Err(error) => {
                let refusal = JoinResponse::refused(request.member_id, error);
                self.outputs.push(Output::Join(number, refusal));
            }
            Ok(index) => {
                let fresh_id = new_member_id(&request, random);
                let id = request.group_id.clone();
                self.turn(now, index, &id, |group, turn| {
                    group.on_join(turn, request, Waiter::new(number), fresh_id);
                });
            }
        }
    }

    fn check_join(&self, request: &JoinRequest) -> Result<i32, ErrorCode> {
        let index = self.ready_for_members(&request.group_id)?;
        let allowed = self.settings.session_timeout_min_ms..=self.settings.session_timeout_max_ms;
        if !allowed.contains(&request.session_timeout_ms) {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        check_lengths(request)?;
        let is_known = self.entry(index, &request.group_id).is_some();
        if !is_known && !request.member_id.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        if !is_known {
            let groups: usize = self.partitions.values().map(|p| p.groups.len()).sum();
            if groups >= GROUPS_PER_SHARD_MAX {
                return Err(ErrorCode::PolicyViolation);
            }
        }
        let is_crowded = request.member_id.is_empty() && self.member_count >= MEMBERS_PER_SHARD_MAX;
        if is_crowded || !self.has_room(self.growth(index, request)) {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        Ok(index)
    }

    /// Bytes that a join adds to what is remembered. A member that comes back adds nothing unless
    /// it has more to say than before: no group is kept from sharing anew.
    fn growth(&self, index: i32, request: &JoinRequest) -> usize {
        let group = self.entry(index, &request.group_id).map(|e| &e.group);
        let before = group.map_or(0, |g| g.member_size_bytes(request).unwrap_or(0));
        let of_group = match group {
            Some(_) => 0,
            None => GROUP_BYTES + request.group_id.len(),
        };
        of_group + request.size_bytes().saturating_sub(before)
    }

    /// Whether so much more may be remembered.
    pub(super) fn has_room(&self, growth: usize) -> bool {
        growth == 0 || growth <= self.room_bytes()
    }

    /// How much more may be remembered.
    pub(super) fn room_bytes(&self) -> usize {
        let max = self.settings.state_bytes_max;
        max.saturating_sub(self.state_bytes())
    }

    /// Bytes that groups make this shard remember, roughly.
    pub fn state_bytes(&self) -> usize {
        let stats = self.stats();
        let records = usize::try_from(stats.live_bytes).unwrap_or(usize::MAX);
        [
            records,
            stats.queued_bytes,
            self.member_bytes,
            stats.groups * GROUP_BYTES,
            stats.offsets * OFFSET_BYTES,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// SyncGroup. The answer comes as an `Output`.
    pub fn sync(&mut self, now: Now, request: SyncRequest, number: u64) {
        let refused = match self.ready_for_members(&request.group_id) {
            // What the members were about to agree on is lost. Told so, they join again at once;
            // old clients do not expect to hear of loading here.
            Err(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::RebalanceInProgress,
            Err(error) => error,
            Ok(index) if self.entry(index, &request.group_id).is_none() => {
                ErrorCode::UnknownMemberId
            }
            Ok(index) => {
                let bytes: usize = request
                    .assignments
                    .iter()
                    .map(|(_, bytes)| bytes.len())
                    .sum();
                let before = self.entry(index, &request.group_id);
                let before = before.map_or(0, |e| e.group.assignment_size_bytes());
                if self.has_room(bytes.saturating_sub(before)) {
                    let id = request.group_id.clone();
                    return self.turn(now, index, &id, |group, turn| {
                        group.on_sync(turn, request, Waiter::new(number));
                    });
                }
                ErrorCode::CoordinatorNotAvailable
            }
        };
        self.outputs
            .push(Output::Sync(number, SyncResponse::refused(refused)));
    }

    /// Heartbeat.
    pub fn heartbeat(&mut self, now: Now, request: &HeartbeatRequest) -> ErrorCode {
        match self.ready_for_members(&request.group_id) {
            // Nothing is known against it; old clients do not expect to hear of loading here.
            Err(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
            Err(error) => error,
            Ok(index) if self.entry(index, &request.group_id).is_none() => {
                ErrorCode::UnknownMemberId
            }
            Ok(index) => self.light_turn(now, index, &request.group_id, |group, turn| {
                group.on_heartbeat(turn, request)
            }),
        }
    }

    /// LeaveGroup.
    pub fn leave(&mut self, now: Now, request: LeaveRequest) -> LeaveResponse {
        match self.ready_for_members(&request.group_id) {
            Err(error) => LeaveResponse {
                error,
                members: Vec::new(),
            },
            Ok(index) if self.entry(index, &request.group_id).is_none() => {
                let unknown = |member| (member, ErrorCode::UnknownMemberId);
                let members = request.members.into_iter().map(unknown).collect();
                LeaveResponse {
                    error: ErrorCode::None,
                    members,
                }
            }
            Ok(index) => {
                let members = self.turn(now, index, &request.group_id, |group, turn| {
                    group.on_leave(turn, request.members)
                });
                LeaveResponse {
                    error: ErrorCode::None,
                    members,
                }
            }
        }
    }

    /// DescribeGroups of one group.
    pub fn describe(&self, group_id: String) -> DescribeResponse {
        let error = match self.ready(&group_id) {
            Ok(index) => match self.entry(index, &group_id) {
                Some(entry) => return entry.group.describe(),
                None => ErrorCode::GroupIdNotFound,
            },
            Err(error) => error,
        };
        let state = if error == ErrorCode::GroupIdNotFound {
            State::Dead.name()
        } else {
            ""
        };
        DescribeResponse {
            error,
            group_id,
            state,
            protocol_type: String::new(),
            protocol: String::new(),
            members: Vec::new(),
        }
    }

    /// ListGroups.
    pub fn list(&self, filters: &ListRequest) -> ListResponse {
        let is_loading = self
            .partitions
            .values()
            .any(|p| p.status == Status::Loading);
        if is_loading {
            return ListResponse {
                error: ErrorCode::CoordinatorLoadInProgress,
                groups: Vec::new(),
            };
        }
        let entries = self
            .partitions
            .values()
            .flat_map(|partition| partition.groups.iter());
        let mut groups: Vec<_> = entries
            .filter_map(|(_, entry)| entry.group.list(filters))
            .collect();
        groups.sort_unstable_by(|left, right| left.group_id.cmp(&right.group_id));
        ListResponse {
            error: ErrorCode::None,
            groups,
        }
    }

    // ------------------------------------------------------------------ time

    /// When `on_time` has to be called at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(deadline, _, _)| *deadline)
    }

    /// Whether the group has outlived a deadline that nobody has looked at yet.
    pub fn is_overdue(&self, group_id: &str, now: Moment) -> bool {
        let entry = self
            .ready(group_id)
            .ok()
            .and_then(|index| self.entry(index, group_id));
        let deadline = entry.and_then(|entry| entry.group.next_deadline());
        deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Time has passed, and every request that arrived before `drained_to` has been handled. Looks
    /// at `groups_max` groups at most; whether others are due.
    pub fn on_time(&mut self, now: Now, drained_to: Moment, groups_max: usize) -> bool {
        let due: Vec<(i32, String)> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _, _)| *deadline <= drained_to)
            .take(groups_max)
            .map(|(_, index, group)| (*index, group.clone()))
            .collect();
        for (index, id) in due {
            self.turn(now, index, &id, |group, turn| {
                group.on_time(turn, drained_to);
            });
        }
        self.next_deadline()
            .is_some_and(|deadline| deadline <= drained_to)
    }

    // ------------------------------------------------------------------ one turn of a group

    /// Lets the group handle an event that may change its members.
    fn turn<R>(
        &mut self,
        now: Now,
        index: i32,
        id: &str,
        act: impl FnOnce(&mut Group, &mut Turn<'_>) -> R,
    ) -> R {
        let weigh = |roster: &Self| roster.entry(index, id).map_or(0, |e| e.group.size_bytes());
        let before = weigh(self);
        let result = self.light_turn(now, index, id, act);
        self.member_bytes = self.member_bytes + weigh(self) - before;
        result
    }

    /// Lets the group handle an event that leaves its members as they are.
    pub(super) fn light_turn<R>(
        &mut self,
        now: Now,
        index: i32,
        id: &str,
        act: impl FnOnce(&mut Group, &mut Turn<'_>) -> R,
    ) -> R {
        let settings = Rc::clone(&self.settings);
        let mut turn = Turn::new(now, &settings);
        let partition = self
            .partitions
            .get_mut(&index)
            .expect("[filed] only what is here is called upon");
        let entry = partition.groups.entry(id);
        let size_before = entry.group.size();
        let result = act(&mut entry.group, &mut turn);
        self.member_count = self.member_count + entry.group.size() - size_before;
        refile(&mut self.deadlines, index, id, entry);
        for effect in turn.effects {
            match effect {
                Effect::Join(waiter, response) => {
                    self.outputs
                        .push(Output::Join(waiter.into_number(), response));
                }
                Effect::Sync(waiter, response) => {
                    self.outputs
                        .push(Output::Sync(waiter.into_number(), response));
                }
                Effect::Store(ticket, value) => match GroupRecord::metadata(id, &value) {
                    Ok(record) => self.write(index, id, vec![record], Then::Group(ticket)),
                    Err(_) => {
                        self.on_stored(now, index, id, ticket, Err(ErrorCode::UnknownServerError));
                    }
                },
            }
        }
        self.forget_if_idle(index, id);
        result
    }

    /// [filed] A group that is forgotten takes its deadline along: without its group it would be
    /// due for ever.
    fn forget_if_idle(&mut self, index: i32, id: &str) {
        let partition = self.partitions.get_mut(&index);
        let forgotten = partition.and_then(|partition| partition.groups.forget_if_idle(id));
        if let Some(deadline) = forgotten.and_then(|entry| entry.filed_under) {
            self.deadlines.remove(&(deadline, index, id.to_owned()));
        }
    }

    fn on_stored(
        &mut self,
        now: Now,
        index: i32,
        id: &str,
        ticket: StoreTicket,
        outcome: Result<(), ErrorCode>,
    ) {
        let is_stable = self.turn(now, index, id, |group, turn| {
            let before = group.state();
            group.on_stored(turn, ticket, outcome);
            before != State::Stable && group.state() == State::Stable
        });
        self.rebalances += u64::from(is_stable);
    }

    // ------------------------------------------------------------------ the log

    /// Queues records of a group as one write. They fit: strings were checked as they came in.
    pub(super) fn write(&mut self, index: i32, group: &str, records: Vec<GroupRecord>, then: Then) {
        let encoded: Result<Vec<_>, _> = records
            .into_iter()
            .map(|record| record.encode().map(|bytes| (record, bytes)))
            .collect();
        let records = encoded.expect("strings are checked where they come in");
        if let Some(partition) = self.partitions.get_mut(&index) {
            partition.push(PendingWrite {
                group: group.to_owned(),
                records,
                then,
            });
            self.unattended.insert(index);
        }
    }

    /// The partition of a claim, unless it has left this shard since.
    fn claimed(&mut self, claim: Claim) -> Option<&mut OffsetsPartition> {
        let partition = self.partitions.get_mut(&claim.index)?;
        (partition.incarnation == claim.incarnation).then_some(partition)
    }

    /// The next step with the partition's log. At `Rest` the writer has ended.
    pub fn next_step(&mut self, claim: Claim) -> Step {
        let settings = Rc::clone(&self.settings);
        let Some(partition) = self.claimed(claim) else {
            return Step::Rest;
        };
        let step = partition.next_step(&settings);
        if matches!(step, Step::Rest) {
            partition.has_writer = false;
        }
        step
    }

    /// An append is durable (the new end of the log), or has failed.
    pub fn on_appended(
        &mut self,
        now: Now,
        claim: Claim,
        outcome: Result<Offset, OffsetsLogError>,
    ) {
        let settings = Rc::clone(&self.settings);
        let Some(partition) = self.claimed(claim) else {
            return;
        };
        for (group, then) in partition.on_appended(outcome.ok(), &settings) {
            match then {
                Then::Nobody => {}
                Then::Asker(number) => {
                    self.outputs
                        .push(Output::Written(number, outcome.map(|_| ())));
                }
                Then::Group(ticket) => {
                    let outcome = outcome.map(|_| ()).map_err(OffsetsLogError::code);
                    self.on_stored(now, claim.index, &group, ticket, outcome);
                }
            }
            self.forget_if_idle(claim.index, &group);
        }
    }

    /// The log start has moved, or could not be moved.
    pub fn on_log_start(&mut self, claim: Claim, has_moved: bool) {
        let settings = Rc::clone(&self.settings);
        if let Some(partition) = self.claimed(claim) {
            partition.on_log_start(has_moved, &settings);
        }
    }
}

/// [filed]
fn refile(
    deadlines: &mut BTreeSet<(Moment, i32, String)>,
    index: i32,
    id: &str,
    entry: &mut Entry,
) {
    let next = entry.group.next_deadline();
    if next == entry.filed_under {
        return;
    }
    if let Some(before) = entry.filed_under {
        deadlines.remove(&(before, index, id.to_owned()));
    }
    if let Some(next) = next {
        deadlines.insert((next, index, id.to_owned()));
    }
    entry.filed_under = next;
}

/// Every string of the request has to fit into a record.
fn check_lengths(request: &JoinRequest) -> Result<(), ErrorCode> {
    let prefix_max = STRING_BYTES_MAX - MEMBER_ID_SUFFIX_BYTES;
    let instance = request.group_instance_id.as_deref().unwrap_or_default();
    let fits = request.client_id.len() <= prefix_max
        && instance.len() <= prefix_max
        && request.member_id.len() <= STRING_BYTES_MAX
        && request.client_host.len() <= STRING_BYTES_MAX
        && request.protocol_type.len() <= STRING_BYTES_MAX
        && request
            .protocols
            .iter()
            .all(|protocol| protocol.name.len() <= STRING_BYTES_MAX);
    if fits {
        Ok(())
    } else {
        Err(ErrorCode::InvalidRequest)
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;

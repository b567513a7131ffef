//! A group on the bench: drives the state machine in tests and watches its promises.
//!
//! Checks with every event: each waiter is answered once ([one-answer]), the generation never falls
//! ([generation-rises]), a generation is given one assignment ([one-assignment]), the leader is a
//! member ([leader-is-member]), no deadline is slept through ([wake-in-time]), and no member is
//! told an assignment that is not stored.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::GroupValue;
use super::requests::{
    CommitRequest, HeartbeatRequest, JoinRequest, JoinResponse, LeavingMember, Protocol,
    SyncRequest, SyncResponse,
};
use super::settings::GroupSettings;
use super::state::{Group, State};
use super::turn::{Effect, Moment, Now, StoreTicket, Turn, Waiter};
use crate::model::error_code::ErrorCode;

pub(super) const SESSION_MS: i32 = 10_000;
pub(super) const REBALANCE_MS: i32 = 30_000;

pub(super) struct Bench {
    pub(super) group: Group,
    pub(super) settings: GroupSettings,
    pub(super) now: Now,
    pub(super) stores: Vec<(StoreTicket, GroupValue)>,
    last_number: u64,
    last_id: u64,
    waiting: BTreeSet<u64>,
    joins: BTreeMap<u64, JoinResponse>,
    syncs: BTreeMap<u64, SyncResponse>,
    /// By number: the generation and member id of a sync.
    sync_of: BTreeMap<u64, (i32, String)>,
    /// By generation and member id: the assignments told.
    pub(super) told: BTreeMap<(i32, String), Bytes>,
    /// By generation and member id: the assignments stored.
    durable: BTreeMap<(i32, String), Bytes>,
    generation: i32,
}

pub(super) fn join_of(member_id: &str, instance: Option<&str>) -> JoinRequest {
    JoinRequest {
        group_id: "group".to_owned(),
        member_id: member_id.to_owned(),
        group_instance_id: instance.map(str::to_owned),
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".to_owned(),
        protocols: vec![protocol("range", b"m")],
        requires_known_member_id: false,
        supports_skip_assignment: false,
    }
}

pub(super) fn protocol(name: &str, metadata: &[u8]) -> Protocol {
    Protocol {
        name: name.to_owned(),
        metadata: Bytes::copy_from_slice(metadata),
    }
}

/// A "consumer" subscription, version 0.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![
        0,
        0,
        0,
        0,
        0,
        u8::try_from(topics.len()).expect("few topics"),
    ];
    for topic in topics {
        bytes.extend([0, u8::try_from(topic.len()).expect("short names")]);
        bytes.extend(topic.as_bytes());
    }
    bytes.extend([0xff; 4]);
    Bytes::from(bytes)
}

impl Bench {
    /// A group without initial delay.
    pub(super) fn new() -> Self {
        Self::with(GroupSettings {
            initial_rebalance_delay_ms: 0,
            ..GroupSettings::default()
        })
    }

    pub(super) fn with(settings: GroupSettings) -> Self {
        Self {
            group: Group::new("group"),
            settings,
            now: Now {
                moment: Moment(1_000),
                unix_ms: 1_700_000_000_000,
            },
            stores: Vec::new(),
            last_number: 0,
            last_id: 0,
            waiting: BTreeSet::new(),
            joins: BTreeMap::new(),
            syncs: BTreeMap::new(),
            sync_of: BTreeMap::new(),
            told: BTreeMap::new(),
            durable: BTreeMap::new(),
            generation: 0,
        }
    }

    pub(super) fn run<R>(&mut self, act: impl FnOnce(&mut Group, &mut Turn<'_>) -> R) -> R {
        let mut turn = Turn::new(self.now, &self.settings);
        let result = act(&mut self.group, &mut turn);
        for effect in turn.effects {
            match effect {
                Effect::Join(waiter, response) => {
                    let number = waiter.into_number();
                    assert!(self.waiting.remove(&number), "[one-answer]");
                    self.joins.insert(number, response);
                }
                Effect::Sync(waiter, response) => {
                    let number = waiter.into_number();
                    assert!(self.waiting.remove(&number), "[one-answer]");
                    self.note_told(number, &response);
                    self.syncs.insert(number, response);
                }
                Effect::Store(ticket, value) => self.stores.push((ticket, value)),
            }
        }
        self.check();
        result
    }

    fn check(&mut self) {
        let group = &self.group;
        assert!(group.generation() >= self.generation, "[generation-rises]");
        self.generation = group.generation();
        if let Some(leader) = &group.leader {
            assert!(group.members.contains_key(leader), "[leader-is-member]");
        }
        assert_eq!(
            group.leader.is_some(),
            !group.members.is_empty(),
            "[leader-is-member]"
        );
        for (instance, holder) in &group.static_members {
            let member = group
                .members
                .get(holder)
                .expect("a static member is a member");
            assert_eq!(member.instance_id.as_ref(), Some(instance));
        }
        let due = group
            .members
            .values()
            .filter(|member| !member.is_kept_alive())
            .map(|member| member.deadline)
            .chain(group.pending.values().copied())
            .min();
        if let Some(due) = due.filter(|_| group.state() != State::Dead) {
            assert!(
                group.next_deadline().is_some_and(|next| next <= due),
                "[wake-in-time]"
            );
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.waiting.insert(self.last_number);
        self.last_number
    }

    /// Joins; the number of the one who waits.
    pub(super) fn join(&mut self, request: JoinRequest) -> u64 {
        let number = self.number();
        self.last_id += 1;
        let fresh_id = format!("id{}", self.last_id);
        self.run(|group, turn| group.on_join(turn, request, Waiter::new(number), fresh_id));
        number
    }

    pub(super) fn sync(
        &mut self,
        generation_id: i32,
        member_id: &str,
        instance: Option<&str>,
        assignments: &[(&str, &[u8])],
    ) -> u64 {
        let number = self.number();
        let request = SyncRequest {
            group_id: "group".to_owned(),
            generation_id,
            member_id: member_id.to_owned(),
            group_instance_id: instance.map(str::to_owned),
            protocol_type: None,
            protocol_name: None,
            assignments: assignments
                .iter()
                .map(|(id, bytes)| ((*id).to_owned(), Bytes::copy_from_slice(bytes)))
                .collect(),
        };
        self.sync_of
            .insert(number, (generation_id, member_id.to_owned()));
        self.run(|group, turn| group.on_sync(turn, request, Waiter::new(number)));
        number
    }

    fn note_told(&mut self, number: u64, response: &SyncResponse) {
        let Some(told_to) = self.sync_of.remove(&number) else {
            return;
        };
        if !response.error.is_ok() {
            return;
        }
        let stored = self.durable.get(&told_to).cloned().unwrap_or_default();
        assert_eq!(response.assignment, stored, "told only what is durable");
        let earlier = self.told.insert(told_to, response.assignment.clone());
        assert!(
            earlier.is_none_or(|e| e == response.assignment),
            "[one-assignment]"
        );
    }

    pub(super) fn heartbeat(
        &mut self,
        generation_id: i32,
        member_id: &str,
        instance: Option<&str>,
    ) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: "group".to_owned(),
            generation_id,
            member_id: member_id.to_owned(),
            group_instance_id: instance.map(str::to_owned),
        };
        self.run(|group, turn| group.on_heartbeat(turn, &request))
    }

    pub(super) fn leave(&mut self, member_id: &str, instance: Option<&str>) -> ErrorCode {
        let leaving = LeavingMember {
            member_id: member_id.to_owned(),
            group_instance_id: instance.map(str::to_owned),
        };
        self.run(|group, turn| group.on_leave(turn, vec![leaving]))[0].1
    }

    pub(super) fn may_commit(&mut self, generation_id: i32, member_id: &str) -> ErrorCode {
        let request = CommitRequest {
            group_id: "group".to_owned(),
            generation_id,
            member_id: member_id.to_owned(),
            group_instance_id: None,
            retention_time_ms: None,
            topics: Vec::new(),
        };
        let outcome = self.run(|group, turn| group.check_commit(turn, &request));
        outcome.err().unwrap_or(ErrorCode::None)
    }

    /// All stores so far succeed, or fail.
    pub(super) fn stored(&mut self, outcome: Result<(), ErrorCode>) -> Vec<GroupValue> {
        let count = self.stores.len();
        (0..count)
            .map(|_| self.stored_one(outcome).expect("it was counted"))
            .collect()
    }

    /// The oldest store succeeds, or fails.
    pub(super) fn stored_one(&mut self, outcome: Result<(), ErrorCode>) -> Option<GroupValue> {
        if self.stores.is_empty() {
            return None;
        }
        let (ticket, value) = self.stores.remove(0);
        if outcome.is_ok() {
            for member in &value.members {
                let key = (value.generation_id, member.member_id.clone());
                self.durable.insert(key, member.assignment.clone());
            }
        }
        self.run(|group, turn| group.on_stored(turn, ticket, outcome));
        Some(value)
    }

    /// Time passes; all input is handled.
    pub(super) fn pass(&mut self, ms: u64) {
        self.tick(ms);
        let now = self.now.moment;
        self.run(|group, turn| group.on_time(turn, now));
    }

    /// Time passes, and the timer does not run.
    pub(super) fn tick(&mut self, ms: u64) {
        self.now.moment = self.now.moment.plus_ms(ms);
        self.now.unix_ms += i64::try_from(ms).expect("short times");
    }

    /// The answer to a join; it has to be there.
    pub(super) fn joined(&mut self, number: u64) -> JoinResponse {
        self.joins.remove(&number).expect("the join is answered")
    }

    /// The answer to a sync; it has to be there.
    pub(super) fn synced(&mut self, number: u64) -> SyncResponse {
        self.syncs.remove(&number).expect("the sync is answered")
    }

    pub(super) fn is_waiting(&self, number: u64) -> bool {
        self.waiting.contains(&number)
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// A member joins and the rebalance ends with it: its id.
    pub(super) fn alone(&mut self) -> String {
        let number = self.join(join_of("", None));
        self.joined(number).member_id
    }

    /// A stable group of these members (instance ids or dynamic ones), the first one leads.
    pub(super) fn stable(instances: &[Option<&str>]) -> (Self, Vec<String>) {
        let mut bench = Self::new();
        let mut ids: Vec<String> = Vec::new();
        for instance in instances {
            let newcomer = bench.join(join_of("", *instance));
            let rejoins: Vec<(String, u64)> = ids
                .iter()
                .zip(instances)
                .map(|(id, instance)| (id.clone(), *instance))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|(id, instance)| (id.clone(), bench.join(join_of(&id, instance))))
                .collect();
            for (_, number) in rejoins {
                assert!(bench.joined(number).error.is_ok());
            }
            ids.push(bench.joined(newcomer).member_id);
        }
        bench.share(&ids, instances);
        (bench, ids)
    }

    /// All sync; member number n is assigned the byte n.
    pub(super) fn share(&mut self, ids: &[String], instances: &[Option<&str>]) {
        let generation = self.group.generation();
        let numbers: Vec<u8> = (0..=u8::MAX).collect();
        let assignments: Vec<(&str, &[u8])> = ids
            .iter()
            .zip(numbers.chunks(1))
            .map(|(id, assignment)| (id.as_str(), assignment))
            .collect();
        let leader = self.group.leader.clone().expect("it has members");
        let mut syncs = Vec::new();
        for (id, instance) in ids.iter().zip(instances) {
            let brought: &[(&str, &[u8])] = if *id == leader { &assignments } else { &[] };
            syncs.push(self.sync(generation, id, *instance, brought));
        }
        self.stored(Ok(()));
        for (number, expected) in syncs.into_iter().zip(numbers.chunks(1)) {
            let response = self.synced(number);
            assert_eq!(response.error, ErrorCode::None);
            assert_eq!(response.assignment, expected);
        }
        assert_eq!(self.group.state(), State::Stable);
    }
}

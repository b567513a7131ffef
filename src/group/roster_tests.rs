//! One shard's groups over logs in memory: what is durable, what goes, what a restart finds.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::bench::{SESSION_MS, join_of, subscription};
use super::super::commits::Writing;
use super::super::memory_log::MemoryLog;
use super::*;
use crate::group::record::encode_batch;
use crate::group::replay::Replay;
use crate::group::requests::{
    CommitRequest, CommitResponse, DeleteOffsetsRequest, FetchOffsetsRequest, FetchedOffset,
    LeavingMember, OffsetToCommit, Protocol,
};
use crate::group::retention::GroupCursor;
use crate::group::settings::APPEND_BYTES_TARGET;

const DAY_MS: i64 = 86_400_000;

/// What a step did, before the roster hears of it.
#[derive(Clone, Copy)]
enum Notice {
    Rested,
    Appended(Claim, Result<Offset, OffsetsLogError>),
    LogStart(Claim, bool),
}

/// A shard with all offsets partitions, and whoever waits.
struct TestShard {
    roster: Roster,
    logs: BTreeMap<i32, MemoryLog>,
    now: Now,
    writers: Vec<Claim>,
    written: BTreeMap<u64, Result<(), OffsetsLogError>>,
    joins: BTreeMap<u64, JoinResponse>,
    syncs: BTreeMap<u64, SyncResponse>,
}

impl TestShard {
    fn new() -> Self {
        Self::with(GroupSettings {
            initial_rebalance_delay_ms: 0,
            ..GroupSettings::default()
        })
    }

    fn with(settings: GroupSettings) -> Self {
        let logs = (0..settings.offsets_partition_count)
            .map(|index| (index, MemoryLog::default()))
            .collect();
        let now = Now {
            moment: Moment(1),
            unix_ms: 1_700_000_000_000,
        };
        Self::start(settings, logs, now)
    }

    fn start(settings: GroupSettings, logs: BTreeMap<i32, MemoryLog>, now: Now) -> Self {
        let mut roster = Roster::new(settings);
        for (index, log) in &logs {
            let claim = roster.begin_load(*index).expect("it is not here");
            let mut replay = Replay::default();
            loop {
                let chunk = log.read(replay.next_offset());
                let mut records = Vec::new();
                replay
                    .read(&chunk.batches, |record| records.push(record))
                    .expect("good batches");
                roster.on_read(claim, records, chunk.batches.len(), chunk.end_offset);
                if replay
                    .next_offset()
                    .is_none_or(|next| next >= chunk.end_offset)
                {
                    break;
                }
            }
            roster.end_load(claim, now).expect("good values");
        }
        Self {
            roster,
            logs,
            now,
            writers: Vec::new(),
            written: BTreeMap::new(),
            joins: BTreeMap::new(),
            syncs: BTreeMap::new(),
        }
    }

    /// The same logs, everything else forgotten.
    fn restart(self) -> Self {
        Self::start((*self.roster.settings).clone(), self.logs, self.now)
    }

    fn log(&mut self, group: &str) -> &mut MemoryLog {
        let index = self.roster.partition_of(group);
        self.logs.get_mut(&index).expect("every partition is here")
    }

    fn collect(&mut self) {
        self.writers.extend(self.roster.take_unattended());
        for output in self.roster.take_outputs() {
            let earlier = match output {
                Output::Join(number, response) => {
                    self.joins.insert(number, response).map(|_| ()).is_some()
                }
                Output::Sync(number, response) => {
                    self.syncs.insert(number, response).map(|_| ()).is_some()
                }
                Output::Written(number, outcome) => self.written.insert(number, outcome).is_some(),
            };
            assert!(!earlier, "[one-answer]");
        }
    }

    /// The next step of a writer, as far as the log. `None`: there was none.
    fn step_in_log(&mut self) -> Option<Notice> {
        self.collect();
        let writer = self.writers.first().copied()?;
        let log = self
            .logs
            .get_mut(&writer.index)
            .expect("every partition is here");
        Some(match self.roster.next_step(writer) {
            Step::Rest => {
                self.writers.remove(0);
                Notice::Rested
            }
            Step::Append(records) => {
                let count = i64::try_from(records.len()).expect("few records");
                let base = log.append(&encode_batch(&records, self.now.unix_ms));
                Notice::Appended(writer, base.map(|base| base.plus(count)))
            }
            Step::AdvanceLogStart(start) => {
                Notice::LogStart(writer, log.advance_log_start(start).is_ok())
            }
        })
    }

    /// The roster hears of the step.
    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Rested => {}
            Notice::Appended(writer, log_end) => {
                self.roster.on_appended(self.now, writer, log_end);
            }
            Notice::LogStart(writer, has_moved) => self.roster.on_log_start(writer, has_moved),
        }
        self.collect();
    }

    /// One step of one writer. Whether there was one.
    fn step(&mut self) -> bool {
        let notice = self.step_in_log();
        notice.map(|notice| self.notice(notice)).is_some()
    }

    /// Until all logs rest.
    fn settle(&mut self) {
        while self.step() {}
    }

    fn outcome(&mut self, writes: &[u64]) -> Result<(), OffsetsLogError> {
        let written = &self.written;
        writes
            .iter()
            .map(|number| *written.get(number).expect("the write has an outcome"))
            .fold(Ok(()), Result::and)
    }

    fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) -> Vec<u64> {
        let request = commit_of(group, topic, partition, offset);
        let Writing { response, writes } = self.roster.commit(self.now, request);
        assert_eq!(error_of(&response), ErrorCode::None);
        writes
    }

    fn committed(&self, group: &str, topic: &str, partition: i32) -> FetchedOffset {
        let topics = Some(vec![(topic.to_owned(), vec![partition])]);
        let group_id = group.to_owned();
        let request = FetchOffsetsRequest {
            group_id,
            topics,
            require_stable: false,
        };
        let mut response = self.roster.fetch_offsets(request);
        assert_eq!(response.error, ErrorCode::None);
        response.topics.remove(0).1.remove(0)
    }

    /// A stable group of one member that subscribes to these topics: its id.
    fn stable(&mut self, group: &str, topics: &[&str]) -> String {
        let mut request = join_of("", None);
        request.group_id = group.to_owned();
        let metadata = subscription(topics);
        request.protocols = vec![Protocol {
            name: "range".to_owned(),
            metadata,
        }];
        let number = self.roster.next_number();
        self.roster.join(self.now, request, number, [7; 16]);
        self.collect();
        let joined = self.joins.remove(&number).expect("the only member");
        let number = self.sync(group, joined.generation_id, &joined.member_id, b"all");
        assert!(
            !self.syncs.contains_key(&number),
            "not before it is durable"
        );
        self.settle();
        let synced = self.syncs.remove(&number).expect("it is durable");
        assert_eq!(
            (synced.error, synced.assignment),
            (ErrorCode::None, Bytes::from("all"))
        );
        joined.member_id
    }

    fn sync(&mut self, group: &str, generation_id: i32, id: &str, assignment: &[u8]) -> u64 {
        let number = self.roster.next_number();
        let request = SyncRequest {
            group_id: group.to_owned(),
            generation_id,
            member_id: id.to_owned(),
            group_instance_id: None,
            protocol_type: None,
            protocol_name: None,
            assignments: vec![(id.to_owned(), Bytes::copy_from_slice(assignment))],
        };
        self.roster.sync(self.now, request, number);
        self.collect();
        number
    }

    fn heartbeat(&mut self, group: &str, generation_id: i32, id: &str) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: group.to_owned(),
            generation_id,
            member_id: id.to_owned(),
            group_instance_id: None,
        };
        self.roster.heartbeat(self.now, &request)
    }

    fn leave(&mut self, group: &str, member_id: &str) {
        let leaving = LeavingMember {
            member_id: member_id.to_owned(),
            group_instance_id: None,
        };
        let request = LeaveRequest {
            group_id: group.to_owned(),
            members: vec![leaving],
        };
        let response = self.roster.leave(self.now, request);
        assert_eq!(response.members[0].1, ErrorCode::None);
    }

    fn pass(&mut self, ms: i64) {
        let step = u64::try_from(ms).expect("forwards");
        self.now.moment = self.now.moment.plus_ms(step);
        self.now.unix_ms += ms;
        while self.roster.on_time(self.now, self.now.moment, 1) {}
    }

    fn walk(&mut self, step: impl Fn(&mut Self, Option<&GroupCursor>) -> Option<GroupCursor>) {
        let mut after = None;
        loop {
            after = step(self, after.as_ref());
            if after.is_none() {
                break;
            }
        }
        self.settle();
    }

    fn expire(&mut self) {
        self.walk(|shard, after| shard.roster.expire_offsets(shard.now, after, 2));
    }

    /// Everything durable: by group, its offsets, and how it is described without its members'
    /// state.
    fn durable(&self) -> Vec<String> {
        let mut all = Vec::new();
        for partition in self.roster.partitions.values() {
            for (id, entry) in partition.groups.iter() {
                for (topic, index, value) in entry.offsets.iter() {
                    all.push(format!("{id} {topic} {index} {value:?}"));
                }
                if let Some(stored) = &entry.stored {
                    all.push(format!("{id} {stored:?}"));
                }
            }
        }
        all
    }
}

fn commit_of(group: &str, topic: &str, partition: i32, offset: i64) -> CommitRequest {
    let metadata = format!("note {offset}");
    CommitRequest {
        group_id: group.to_owned(),
        generation_id: -1,
        member_id: String::new(),
        group_instance_id: None,
        retention_time_ms: None,
        topics: vec![(
            topic.to_owned(),
            vec![OffsetToCommit {
                partition,
                offset,
                leader_epoch: 3,
                metadata,
            }],
        )],
    }
}

fn error_of(response: &CommitResponse) -> ErrorCode {
    response.topics[0].1[0].1
}

fn delete_offsets_of(group: &str, topic: &str, partition: i32) -> DeleteOffsetsRequest {
    let topics = vec![(topic.to_owned(), vec![partition])];
    DeleteOffsetsRequest {
        group_id: group.to_owned(),
        topics,
    }
}

// ---------------------------------------------------------------------- commits

#[test]
fn a_commit_is_visible_when_it_is_durable_and_carries_its_metadata() {
    let mut shard = TestShard::new();
    let writes = shard.commit("g", "t", 0, 42);
    assert_eq!(shard.committed("g", "t", 0).offset, -1);
    shard.settle();
    assert_eq!(shard.outcome(&writes), Ok(()));
    let committed = shard.committed("g", "t", 0);
    assert_eq!((committed.offset, committed.leader_epoch), (42, 3));
    assert_eq!(committed.metadata, "note 42");
    let restarted = shard.restart();
    assert_eq!(restarted.committed("g", "t", 0), committed);
}

#[test]
fn a_failed_commit_leaves_what_was_there() {
    let mut shard = TestShard::new();
    shard.commit("g", "t", 0, 1);
    shard.settle();
    shard.log("g").is_failing = true;
    let writes = shard.commit("g", "t", 0, 2);
    shard.settle();
    assert_eq!(shard.outcome(&writes), Err(OffsetsLogError::Unavailable));
    assert_eq!(shard.committed("g", "t", 0).offset, 1);
    shard.log("g").is_failing = false;
    shard.commit("g", "t", 0, 3);
    shard.settle();
    assert_eq!(shard.committed("g", "t", 0).offset, 3);
}

#[test]
fn a_failed_first_commit_leaves_no_group() {
    let mut shard = TestShard::new();
    shard.log("g").is_failing = true;
    shard.commit("g", "t", 0, 2);
    shard.settle();
    assert_eq!(shard.roster.stats().groups, 0);
}

#[test]
fn metadata_above_the_limit_is_refused_for_its_partition_alone() {
    let mut shard = TestShard::new();
    let mut request = commit_of("g", "t", 0, 1);
    let offset = |partition, size| OffsetToCommit {
        partition,
        offset: 9,
        leader_epoch: -1,
        metadata: "x".repeat(size),
    };
    request.topics[0].1 = vec![offset(0, 4_096), offset(1, 4_097)];
    let Writing { response, .. } = shard.roster.commit(shard.now, request);
    let expected = vec![(0, ErrorCode::None), (1, ErrorCode::OffsetMetadataTooLarge)];
    assert_eq!(response.topics, [("t".to_owned(), expected)]);
    shard.settle();
    assert_eq!(shard.committed("g", "t", 0).offset, 9);
    assert_eq!(shard.committed("g", "t", 1).offset, -1);
}

#[test]
fn commits_of_forgotten_generations_are_refused() {
    let mut shard = TestShard::new();
    let mut request = commit_of("g", "t", 0, 1);
    request.generation_id = 4;
    let Writing { response, writes } = shard.roster.commit(shard.now, request);
    assert_eq!(error_of(&response), ErrorCode::IllegalGeneration);
    assert!(writes.is_empty());
    shard.stable("g", &["t"]);
    let Writing { response, .. } = shard.roster.commit(shard.now, commit_of("g", "t", 0, 1));
    assert_eq!(
        error_of(&response),
        ErrorCode::UnknownMemberId,
        "the group is not empty"
    );
}

#[test]
fn many_offsets_in_one_request_are_written_in_several_batches() {
    let mut shard = TestShard::new();
    let mut request = commit_of("g", "t", 0, 1);
    request.topics[0].1 = (0..5_000)
        .map(|partition| OffsetToCommit {
            partition,
            offset: 7,
            leader_epoch: -1,
            metadata: "x".repeat(100),
        })
        .collect();
    let Writing { writes, .. } = shard.roster.commit(shard.now, request);
    assert!(writes.len() > 1);
    shard.settle();
    assert_eq!(shard.outcome(&writes), Ok(()));
    assert_eq!(shard.roster.stats().offsets, 5_000);
    assert!(shard.log("g").batch_bytes_max <= APPEND_BYTES_TARGET + 1_000);
}

#[test]
fn what_comes_while_an_append_is_under_way_goes_together() {
    let mut shard = TestShard::new();
    for offset in 0..100 {
        shard.commit("g", "t", 0, offset);
    }
    shard.settle();
    assert_eq!(shard.log("g").appends, 1);
    assert_eq!(shard.committed("g", "t", 0).offset, 99);
}

#[test]
fn offsets_are_fetched_all_or_some() {
    let mut shard = TestShard::new();
    shard.commit("g", "t", 0, 1);
    shard.commit("g", "u", 3, 2);
    shard.settle();
    let group_id = "g".to_owned();
    let request = FetchOffsetsRequest {
        group_id,
        topics: None,
        require_stable: true,
    };
    let response = shard.roster.fetch_offsets(request);
    let names: Vec<_> = response
        .topics
        .iter()
        .map(|(topic, _)| topic.as_str())
        .collect();
    assert_eq!(names, ["t", "u"]);
    assert_eq!(response.topics[1].1[0].offset, 2);
    assert_eq!(shard.committed("nobody", "t", 0).offset, -1);
}

// ---------------------------------------------------------------------- which shard, which state

#[test]
fn groups_of_other_shards_and_of_logs_still_being_read_are_refused() {
    let mut roster = Roster::new(GroupSettings::default());
    let now = Now::default();
    let index = roster.partition_of("g");
    let errors = |roster: &mut Roster| {
        let number = roster.next_number();
        let mut request = join_of("", None);
        request.group_id = "g".to_owned();
        roster.join(now, request, number, [0; 16]);
        let Some(Output::Join(_, join)) = roster.take_outputs().pop() else {
            panic!("no answer")
        };
        let heartbeat = HeartbeatRequest {
            group_id: "g".to_owned(),
            generation_id: 1,
            member_id: "m".to_owned(),
            group_instance_id: None,
        };
        let commit = roster.commit(now, commit_of("g", "t", 0, 1));
        let describe = roster.describe("g".to_owned());
        let delete = roster.delete("g").expect_err("not served");
        (
            join.error,
            roster.heartbeat(now, &heartbeat),
            error_of(&commit.response),
            describe.error,
            delete,
        )
    };
    let not_here = ErrorCode::NotCoordinator;
    assert_eq!(
        errors(&mut roster),
        (not_here, not_here, not_here, not_here, not_here)
    );
    let claim = roster.begin_load(index).expect("it is not here");
    assert_eq!(roster.begin_load(index), None, "once is enough");
    let loading = ErrorCode::CoordinatorLoadInProgress;
    assert_eq!(
        errors(&mut roster),
        (loading, ErrorCode::None, loading, loading, loading)
    );
    assert_eq!(roster.list(&ListRequest::default()).error, loading);
    roster.fail_load(claim);
    let failed = ErrorCode::CoordinatorNotAvailable;
    assert_eq!(
        errors(&mut roster),
        (failed, failed, failed, failed, failed)
    );
    let claim = roster.begin_load(index).expect("a failed one is read anew");
    roster.end_load(claim, now).expect("an empty log");
    assert_eq!(
        roster.heartbeat(now, &heartbeat_of("g")),
        ErrorCode::UnknownMemberId
    );
}

fn heartbeat_of(group: &str) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: group.to_owned(),
        generation_id: 1,
        member_id: "m".to_owned(),
        group_instance_id: None,
    }
}

#[test]
fn a_refused_fetch_tells_the_error_for_every_partition_asked_for() {
    // Versions 0 and 1 have no other place for it; without it a client would start over.
    let mut roster = Roster::new(GroupSettings::default());
    let index = roster.partition_of("g");
    assert!(roster.begin_load(index).is_some());
    let request = FetchOffsetsRequest {
        group_id: "g".to_owned(),
        topics: Some(vec![("t".to_owned(), vec![0, 1])]),
        require_stable: false,
    };
    let response = roster.fetch_offsets(request);
    assert_eq!(response.error, ErrorCode::CoordinatorLoadInProgress);
    let errors: Vec<_> = response.topics[0].1.iter().map(|part| part.error).collect();
    assert_eq!(errors, [ErrorCode::CoordinatorLoadInProgress; 2]);
}

#[test]
fn groups_are_spread_over_as_many_partitions_as_the_topic_has() {
    let mut roster = Roster::new(GroupSettings::default());
    roster.set_partition_count(3);
    let used: BTreeSet<i32> = (0..50)
        .map(|n| roster.partition_of(&format!("g{n}")))
        .collect();
    assert_eq!(used, BTreeSet::from([0, 1, 2]));
}

#[test]
fn members_have_to_name_a_group_and_simple_consumers_need_not() {
    let mut shard = TestShard::new();
    assert_eq!(shard.heartbeat("", 1, "m"), ErrorCode::InvalidGroupId);
    shard.commit("", "t", 0, 5);
    shard.settle();
    assert_eq!(shard.committed("", "t", 0).offset, 5);
    assert_eq!(shard.restart().committed("", "t", 0).offset, 5);
}

#[test]
fn session_timeouts_have_bounds() {
    let mut shard = TestShard::new();
    for (timeout, expected) in [
        (5_999, ErrorCode::InvalidSessionTimeout),
        (6_000, ErrorCode::None),
        (1_800_001, ErrorCode::InvalidSessionTimeout),
    ] {
        let mut request = join_of("", None);
        request.session_timeout_ms = timeout;
        let number = shard.roster.next_number();
        shard.roster.join(shard.now, request, number, [0; 16]);
        shard.collect();
        assert_eq!(shard.joins[&number].error, expected, "{timeout}");
    }
}

#[test]
fn a_member_id_of_a_group_that_nobody_knows_is_unknown_and_leaves_no_trace() {
    let mut shard = TestShard::new();
    let number = shard.roster.next_number();
    shard
        .roster
        .join(shard.now, join_of("stranger", None), number, [0; 16]);
    shard.collect();
    assert_eq!(shard.joins[&number].error, ErrorCode::UnknownMemberId);
    assert_eq!(
        shard.heartbeat("group", 1, "stranger"),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(shard.roster.stats(), RosterStats::default());
}

#[test]
fn what_is_there_goes_on_when_no_more_may_be_remembered() {
    let mut shard = TestShard::with(GroupSettings {
        initial_rebalance_delay_ms: 0,
        state_bytes_max: 64 << 10,
        ..GroupSettings::default()
    });
    let with_metadata = |group: &str, member: &str, size: usize| {
        let mut request = join_of(member, None);
        request.group_id = group.to_owned();
        request.requires_known_member_id = false;
        request.protocols = vec![Protocol {
            name: "range".to_owned(),
            metadata: Bytes::from(vec![0; size]),
        }];
        request
    };
    let joined = |shard: &mut TestShard, request: JoinRequest| {
        let number = shard.roster.next_number();
        shard.roster.join(shard.now, request, number, [7; 16]);
        shard.collect();
        shard.pass(1);
        shard.collect();
        let answer = &shard.joins[&number];
        (answer.error, answer.member_id.clone())
    };
    let (error, member) = joined(&mut shard, with_metadata("g", "", 40 << 10));
    assert_eq!(error, ErrorCode::None);
    let crowded = joined(&mut shard, with_metadata("h", "", 40 << 10)).0;
    assert_eq!(crowded, ErrorCode::CoordinatorNotAvailable, "a new member");
    let more = joined(&mut shard, with_metadata("g", &member, 80 << 10)).0;
    assert_eq!(more, ErrorCode::CoordinatorNotAvailable, "a larger one");
    let again = joined(&mut shard, with_metadata("g", &member, 40 << 10)).0;
    assert_eq!(again, ErrorCode::None, "a known member that comes back");
}

#[test]
fn strings_that_fit_no_record_are_refused() {
    let mut shard = TestShard::new();
    let mut request = join_of("", None);
    request.client_id = "x".repeat(STRING_BYTES_MAX);
    let number = shard.roster.next_number();
    shard.roster.join(shard.now, request, number, [0; 16]);
    let mut request = join_of("", None);
    request.group_id = "x".repeat(STRING_BYTES_MAX + 1);
    let second = shard.roster.next_number();
    shard.roster.join(shard.now, request, second, [0; 16]);
    shard.collect();
    assert_eq!(shard.joins[&number].error, ErrorCode::InvalidRequest);
    assert_eq!(shard.joins[&second].error, ErrorCode::InvalidGroupId);
}

// ---------------------------------------------------------------------- members and restarts

#[test]
fn a_stable_group_survives_a_restart() {
    let mut shard = TestShard::new();
    let id = shard.stable("g", &["t"]);
    let described = shard.roster.describe("g".to_owned());
    let mut restarted = shard.restart();
    assert_eq!(restarted.roster.describe("g".to_owned()), described);
    assert_eq!(restarted.heartbeat("g", 1, &id), ErrorCode::None);
    let number = restarted.sync("g", 1, &id, b"");
    assert_eq!(restarted.syncs[&number].assignment, "all");
    restarted.pass(i64::from(SESSION_MS));
    restarted.settle();
    let state = restarted.roster.describe("g".to_owned()).state;
    assert_eq!(state, "Empty");
    assert_eq!(restarted.roster.stats().members, 0);
    let mut again = restarted.restart();
    let joined = again.stable("g", &["t"]);
    assert_eq!(
        again.heartbeat("g", 3, &joined),
        ErrorCode::None,
        "the generation goes on"
    );
}

#[test]
fn members_are_counted_and_uncounted() {
    let mut shard = TestShard::new();
    let first = shard.stable("g", &["t"]);
    shard.stable("h", &["t"]);
    assert_eq!(shard.roster.stats().members, 2);
    shard.leave("g", &first);
    shard.pass(i64::from(SESSION_MS));
    shard.settle();
    assert_eq!(shard.roster.stats().members, 0);
    assert_eq!(shard.roster.member_bytes, 0);
    assert_eq!(shard.roster.next_deadline(), None);
}

#[test]
fn groups_are_listed_by_state() {
    let mut shard = TestShard::new();
    shard.stable("b", &["t"]);
    shard.commit("a", "t", 0, 1);
    shard.settle();
    let ids = |states: &[&str]| -> Vec<String> {
        let states = states.iter().map(|state| (*state).to_owned()).collect();
        let filters = ListRequest {
            states,
            types: Vec::new(),
        };
        let listed = shard.roster.list(&filters).groups;
        listed.into_iter().map(|group| group.group_id).collect()
    };
    assert_eq!(ids(&[]), ["a", "b"]);
    assert_eq!(ids(&["stable"]), ["b"]);
    assert_eq!(ids(&["Empty"]), ["a"]);
}

#[test]
fn an_unknown_group_is_described_as_dead() {
    let shard = TestShard::new();
    let described = shard.roster.describe("nobody".to_owned());
    assert_eq!(
        (described.error, described.state),
        (ErrorCode::GroupIdNotFound, "Dead")
    );
}

#[test]
fn whoever_waits_when_the_partition_leaves_is_sent_away() {
    let mut shard = TestShard::new();
    let id = shard.stable("g", &["t"]);
    let mut request = join_of("", None);
    request.group_id = "g".to_owned();
    let join = shard.roster.next_number();
    shard.roster.join(shard.now, request, join, [1; 16]);
    let mut commit = commit_of("g", "t", 0, 1);
    (commit.generation_id, commit.member_id) = (1, id);
    let Writing { writes, .. } = shard.roster.commit(shard.now, commit);
    shard.collect();
    let writer = shard.writers[0];
    let step = shard.roster.next_step(writer);
    assert!(matches!(step, Step::Append(_)));
    let index = shard.roster.partition_of("g");
    shard.roster.unload(shard.now, index);
    shard.collect();
    assert_eq!(shard.joins[&join].error, ErrorCode::NotCoordinator);
    assert_eq!(shard.outcome(&writes), Err(OffsetsLogError::NotHere));
    assert_eq!(shard.roster.stats().members, 0);
    assert_eq!(shard.roster.next_deadline(), None);
    // The same partition comes back while its old writer still waits for the log.
    assert!(shard.roster.begin_load(index).is_some());
    shard
        .roster
        .on_appended(shard.now, writer, Ok(Offset::new(9)));
    assert!(matches!(shard.roster.next_step(writer), Step::Rest));
}

// ---------------------------------------------------------------------- deletion

#[test]
fn a_deleted_group_stays_deleted() {
    let mut shard = TestShard::new();
    let id = shard.stable("g", &["t"]);
    assert_eq!(
        shard.roster.delete("g").err(),
        Some(ErrorCode::NonEmptyGroup)
    );
    assert_eq!(
        shard.roster.delete("nobody").err(),
        Some(ErrorCode::GroupIdNotFound)
    );
    shard.leave("g", &id);
    shard.commit("g", "t", 0, 1);
    shard.settle();
    let writes = shard.roster.delete("g").expect("it is empty").writes;
    assert_eq!(
        shard.committed("g", "t", 0).offset,
        1,
        "not before it is durable"
    );
    shard.settle();
    assert_eq!(shard.outcome(&writes), Ok(()));
    assert_eq!(shard.roster.stats().groups, 0);
    assert_eq!(shard.restart().roster.stats().groups, 0);
}

#[test]
fn a_group_that_is_joined_while_its_deletion_is_written_lives_on_without_offsets() {
    let mut shard = TestShard::new();
    shard.commit("g", "t", 0, 1);
    shard.settle();
    shard.roster.delete("g").expect("it is empty");
    let id = shard.stable("g", &["t"]);
    assert_eq!(shard.committed("g", "t", 0).offset, -1);
    assert_eq!(shard.heartbeat("g", 1, &id), ErrorCode::None);
    let mut restarted = shard.restart();
    assert_eq!(restarted.heartbeat("g", 1, &id), ErrorCode::None);
}

#[test]
fn offsets_of_subscribed_topics_cannot_be_deleted() {
    let mut shard = TestShard::new();
    shard.commit("g", "t", 0, 1);
    shard.commit("g", "old", 0, 1);
    shard.stable("g", &["t"]);
    let unknown = shard
        .roster
        .delete_offsets(delete_offsets_of("nobody", "t", 0));
    assert_eq!(unknown.response.error, ErrorCode::GroupIdNotFound);
    let refused = shard.roster.delete_offsets(delete_offsets_of("g", "t", 0));
    assert_eq!(
        refused.response.topics[0].1,
        [(0, ErrorCode::GroupSubscribedToTopic)]
    );
    assert!(refused.writes.is_empty());
    let deleted = shard
        .roster
        .delete_offsets(delete_offsets_of("g", "old", 0));
    assert_eq!(deleted.response.topics[0].1, [(0, ErrorCode::None)]);
    shard.settle();
    assert_eq!(shard.outcome(&deleted.writes), Ok(()));
    let restarted = shard.restart();
    assert_eq!(restarted.committed("g", "old", 0).offset, -1);
    assert_eq!(restarted.committed("g", "t", 0).offset, 1);
}

// ---------------------------------------------------------------------- retention

#[test]
fn offsets_of_an_empty_group_go_after_the_retention_and_the_group_with_them() {
    let mut shard = TestShard::new();
    let id = shard.stable("g", &["t"]);
    let mut commit = commit_of("g", "t", 0, 1);
    (commit.generation_id, commit.member_id) = (1, id.clone());
    shard.roster.commit(shard.now, commit);
    shard.settle();
    shard.now.unix_ms += 30 * DAY_MS;
    shard.expire();
    assert_eq!(
        shard.committed("g", "t", 0).offset,
        1,
        "the group is in use"
    );
    shard.leave("g", &id);
    shard.settle();
    shard.now.unix_ms += 7 * DAY_MS - 1;
    shard.expire();
    assert_eq!(shard.committed("g", "t", 0).offset, 1);
    let mut shard = shard.restart();
    shard.now.unix_ms += 1;
    shard.expire();
    assert_eq!(shard.roster.stats().groups, 0);
    assert_eq!(shard.restart().durable(), Vec::<String>::new());
}

#[test]
fn offsets_of_a_topic_that_a_stable_group_no_longer_reads_expire() {
    let mut shard = TestShard::new();
    shard.commit("g", "t", 0, 1);
    shard.commit("g", "old", 0, 1);
    shard.stable("g", &["t"]);
    shard.now.unix_ms += 7 * DAY_MS;
    shard.expire();
    assert_eq!(shard.committed("g", "t", 0).offset, 1);
    assert_eq!(shard.committed("g", "old", 0).offset, -1);
}

#[test]
fn an_expiry_does_not_overtake_a_commit_that_is_being_written() {
    let mut shard = TestShard::new();
    shard.commit("g", "t", 0, 1);
    shard.settle();
    shard.now.unix_ms += 8 * DAY_MS;
    shard.commit("g", "t", 0, 2);
    shard.expire();
    assert_eq!(shard.committed("g", "t", 0).offset, 2);
    assert_eq!(shard.restart().committed("g", "t", 0).offset, 2);
}

#[test]
fn a_commit_may_bring_its_own_retention() {
    let mut shard = TestShard::new();
    let mut request = commit_of("g", "t", 0, 1);
    request.retention_time_ms = Some(1_000);
    shard.roster.commit(shard.now, request);
    shard.settle();
    let mut shard = shard.restart();
    shard.now.unix_ms += 999;
    shard.expire();
    assert_eq!(shard.committed("g", "t", 0).offset, 1);
    shard.now.unix_ms += 1;
    shard.expire();
    assert_eq!(shard.committed("g", "t", 0).offset, -1);
}

#[test]
fn offsets_of_deleted_topics_go_those_being_written_included() {
    let mut shard = TestShard::new();
    for group in ["a", "b", "c"] {
        shard.commit(group, "gone", 0, 1);
        shard.commit(group, "kept", 0, 1);
    }
    shard.settle();
    shard.commit("a", "gone", 1, 2);
    shard.step();
    shard.commit("b", "gone", 1, 2);
    shard.walk(|shard, after| {
        shard
            .roster
            .forget_topics(&|topic| topic == "gone", after, 2)
    });
    for shard in [&shard.roster.stats(), &shard.restart().roster.stats()] {
        assert_eq!((shard.groups, shard.offsets), (3, 3));
    }
}

// ---------------------------------------------------------------------- bounding the log

fn small_logs() -> GroupSettings {
    GroupSettings {
        initial_rebalance_delay_ms: 0,
        rewrite_log_bytes_min: 2_000,
        rewrite_live_multiple: 2,
        offsets_partition_count: 1,
        ..GroupSettings::default()
    }
}

#[test]
fn a_million_commits_leave_a_bounded_log_and_a_restart_finds_the_last_ones() {
    const COMMITS: i64 = 1_000_000;
    const GROUPS: i64 = 40;
    const PARTITIONS: i64 = 25;
    let mut shard = TestShard::with(GroupSettings {
        offsets_partition_count: 1,
        ..GroupSettings::default()
    });
    let keys: Vec<(String, i32)> = (0..GROUPS * PARTITIONS)
        .map(|key| {
            let partition = i32::try_from(key % PARTITIONS).expect("small");
            (format!("group-{}", key / PARTITIONS), partition)
        })
        .collect();
    for (offset, (group, partition)) in (0..COMMITS).zip(keys.iter().cycle()) {
        shard.commit(group, "topic", *partition, offset);
        if offset % 50 == 49 {
            shard.settle();
            shard.written.clear();
        }
    }
    shard.settle();
    let bound = usize::try_from(shard.roster.settings.rewrite_log_bytes_min).expect("small");
    let log = shard.log("group-0");
    assert!(log.record_count() < COMMITS / 10);
    let (bytes_max, moved) = (log.bytes_max, log.starts_moved);
    // Written in all: about 90 bytes a commit. In the log at any time: the bound, the live state
    // once more while it is rewritten, and what was joined in one append.
    assert!(
        bytes_max < bound + bound / 4,
        "{bytes_max} bytes in the log"
    );
    assert!(moved >= 10, "the log start moved {moved} times");
    let before = shard.durable();
    let restarted = shard.restart();
    assert_eq!(restarted.durable(), before);
    for (key, (group, partition)) in keys.iter().enumerate() {
        let key = i64::try_from(key).expect("small");
        let last = COMMITS - GROUPS * PARTITIONS + key;
        assert_eq!(restarted.committed(group, "topic", *partition).offset, last);
    }
}

#[test]
fn a_rewrite_that_fails_is_tried_again_and_loses_nothing() {
    let mut shard = TestShard::with(small_logs());
    let mut failures = 0;
    for offset in 0..2_000_i64 {
        shard.commit("g", "t", i32::try_from(offset % 7).expect("small"), offset);
        shard.step();
        // whatever the next step is, it fails now and then
        if offset % 5 == 0 {
            shard.log("g").is_failing = true;
            shard.step();
            shard.log("g").is_failing = false;
            failures += 1;
        }
    }
    shard.settle();
    assert!(failures > 100 && shard.log("g").starts_moved > 5);
    let bytes = shard.log("g").bytes_max;
    assert!(bytes < 8_000, "{bytes} bytes in the log");
    let before = shard.durable();
    assert_eq!(shard.restart().durable(), before);
}

#[test]
fn an_empty_live_state_needs_no_copies_to_shorten_the_log() {
    let mut shard = TestShard::with(small_logs());
    for round in 0..100 {
        shard.commit("g", "t", 0, round);
        shard.settle();
        shard.roster.delete("g").expect("it is empty");
        shard.settle();
    }
    assert!(shard.log("g").bytes_max < 3_000);
    assert_eq!(shard.restart().roster.stats().groups, 0);
}

/// A live state of about 3,000 bytes, rewritten in batches of 300 while commits go on: dead after
/// any step, the log has what was durable, and no acknowledged commit is older than it was.
#[test]
fn a_crash_between_the_batches_of_a_rewrite_loses_nothing_and_takes_nothing_back() {
    const PARTITIONS: i32 = 40;
    const COMMITS: i64 = 250;
    const CRASHES: std::ops::Range<i64> = 100..150; // more than one whole rewrite
    let partition_of = |offset: i64| i32::try_from(offset * 7 % 40).expect("small");
    let mut seen_rewrites = 0;
    for crash_at in CRASHES {
        let settings = GroupSettings {
            rewrite_batch_bytes: 300,
            ..small_logs()
        };
        let mut shard = TestShard::with(settings);
        let mut acknowledged = BTreeMap::new();
        for partition in 0..PARTITIONS {
            shard.commit("g", "t", partition, 0);
            shard.settle();
        }
        let mut waiting: Vec<(Vec<u64>, i64)> = Vec::new();
        for offset in 1..COMMITS {
            let writes = shard.commit("g", "t", partition_of(offset), offset);
            waiting.push((writes, offset));
            shard.step();
            shard.step(); // a write, then a copy: both go on
            waiting.retain(|(writes, offset)| {
                let is_written = writes.iter().all(|n| shard.written.contains_key(n));
                if is_written {
                    acknowledged.insert(partition_of(*offset), *offset);
                }
                !is_written
            });
            if offset == crash_at {
                let before = shard.durable();
                shard = shard.restart();
                assert_eq!(shard.durable(), before, "crash at {crash_at}");
                waiting.clear();
            }
            for (partition, offset) in &acknowledged {
                let found = shard.committed("g", "t", *partition).offset;
                assert!(found >= *offset, "crash at {crash_at}: {found} < {offset}");
            }
        }
        shard.settle();
        let log = shard.log("g");
        seen_rewrites += log.starts_moved;
        assert!(log.batch_bytes_max < 1_000, "{} bytes", log.batch_bytes_max);
        let before = shard.durable();
        assert_eq!(shard.restart().durable(), before);
    }
    assert!(seen_rewrites > 2 * 50, "{seen_rewrites} rewrites");
}

#[derive(Clone, Debug)]
enum Event {
    Commit { group: usize, partition: i32 },
    Delete { group: usize },
    Join { group: usize },
    Pass { ms: i64 },
    Steps { count: usize },
    Failing { is_failing: bool },
    Crash { dies_before_notice: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (0..3_usize, 0..3_i32)
            .prop_map(|(group, partition)| Event::Commit { group, partition }),
        1 => (0..3_usize).prop_map(|group| Event::Delete { group }),
        2 => (0..3_usize).prop_map(|group| Event::Join { group }),
        1 => (1..20_000_i64).prop_map(|ms| Event::Pass { ms }),
        8 => (1..4_usize).prop_map(|count| Event::Steps { count }),
        1 => any::<bool>().prop_map(|is_failing| Event::Failing { is_failing }),
        1 => any::<bool>().prop_map(|dies_before_notice| Event::Crash { dies_before_notice }),
    ]
}

#[test]
fn a_rewrite_that_leaves_a_log_as_long_is_not_begun_again_at_once() {
    let settings = GroupSettings {
        rewrite_log_bytes_min: 600,
        rewrite_batch_bytes: 50, // a batch for each record: headers are half of the log
        ..small_logs()
    };
    let mut shard = TestShard::with(settings);
    for offset in 0..60 {
        let partition = i32::try_from(offset % 12).expect("small");
        shard
            .roster
            .commit(shard.now, commit_of("a", "t", partition, offset));
        shard.settle(); // rewrote for ever
    }
    let before = shard.durable();
    assert_eq!(shard.restart().durable(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// [image-is-log], at every moment: a crash between two steps finds exactly what was durable;
    /// one in the middle of an append finds that, or that and the append.
    #[test]
    fn a_crash_at_any_step_finds_what_was_durable(
        events in prop::collection::vec(event(), 1..150),
        rewrite_batch_bytes in 50..2_000_u64,
    ) {
        const GROUPS: [&str; 3] = ["a", "b", "c"];
        let settings = GroupSettings {
            rewrite_log_bytes_min: 600,
            rewrite_batch_bytes,
            ..small_logs()
        };
        let mut shard = TestShard::with(settings);
        let mut offset = 0_i64;
        for event in events {
            offset += 1;
            match event {
                Event::Commit { group, partition } => {
                    let request = commit_of(GROUPS[group], "t", partition, offset);
                    shard.roster.commit(shard.now, request);
                }
                Event::Delete { group } => drop(shard.roster.delete(GROUPS[group])),
                Event::Join { group } => {
                    let number = shard.roster.next_number();
                    let mut request = join_of("", None);
                    request.group_id = GROUPS[group].to_owned();
                    let random = u128::from(offset.unsigned_abs()).to_be_bytes();
                    shard.roster.join(shard.now, request, number, random);
                    shard.collect();
                    if let Some(joined) = shard.joins.get(&number).filter(|j| j.error.is_ok()) {
                        let (generation, id) = (joined.generation_id, joined.member_id.clone());
                        shard.sync(GROUPS[group], generation, &id, b"x");
                    }
                }
                Event::Pass { ms } => shard.pass(ms),
                Event::Steps { count } => {
                    for _ in 0..count {
                        shard.step();
                    }
                }
                Event::Failing { is_failing } => shard.log("a").is_failing = is_failing,
                Event::Crash { dies_before_notice: false } => {
                    let before = shard.durable();
                    shard = shard.restart();
                    prop_assert_eq!(shard.durable(), before);
                }
                Event::Crash { dies_before_notice: true } => {
                    // The one that dies finds the step in the log; its twin lives to hear of it.
                    if let Some(notice) = shard.step_in_log() {
                        let settings = (*shard.roster.settings).clone();
                        let died = TestShard::start(settings, shard.logs.clone(), shard.now);
                        shard.notice(notice);
                        prop_assert_eq!(died.durable(), shard.durable());
                        shard = died;
                    }
                }
            }
        }
        shard.log("a").is_failing = false;
        shard.settle();
        let before = shard.durable();
        let live = shard.roster.stats().live_bytes;
        let log = shard.log("a").clone();
        // each failure or crash may leave copies of a rewrite that did not come to its end
        prop_assert!(
            u64::try_from(log.bytes).expect("small") < 4_000 + 4 * live,
            "{} bytes in the log, {} live", log.bytes, live
        );
        prop_assert_eq!(shard.restart().durable(), before);
    }
}

/// What these stories see of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_story_notices;

    #[test]
    fn a_log_that_is_cut_before_its_live_state_was_copied_is_noticed() {
        assert_story_notices(
            Break::OffsetsCutBeforeCopied,
            a_crash_between_the_batches_of_a_rewrite_loses_nothing_and_takes_nothing_back,
        );
    }
}

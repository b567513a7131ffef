//! The driver on both runtimes, over a log in memory that takes its time.

use bytes::Bytes;

use super::super::bench::join_of;
use super::super::input_barrier::LoopBarrier;
use super::super::memory_log::MemoryLog;
use super::super::offsets_log::{LocalFuture, ReadChunk};
use super::*;
use crate::group::requests::OffsetToCommit;
use crate::rt::testing::on_both;

/// A log whose appends take a while.
#[derive(Default)]
struct SlowLog {
    log: RefCell<MemoryLog>,
    damage: Cell<bool>,
}

impl OffsetsLog for SlowLog {
    fn append(
        &self,
        partition: i32,
        batch: Bytes,
    ) -> LocalFuture<'_, Result<Offset, OffsetsLogError>> {
        assert_eq!(partition, 0);
        Box::pin(async move {
            rt::sleep(Duration::from_millis(1)).await;
            self.log.borrow_mut().append(&batch)
        })
    }

    fn read(
        &self,
        _partition: i32,
        from: Option<Offset>,
    ) -> LocalFuture<'_, Result<ReadChunk, OffsetsLogError>> {
        Box::pin(async move {
            rt::yield_now().await;
            let mut chunk = self.log.borrow().read(from);
            if self.damage.get() {
                let mut bytes = chunk.batches.to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                chunk.batches = Bytes::from(bytes);
            }
            Ok(chunk)
        })
    }

    fn advance_log_start(
        &self,
        _partition: i32,
        start: Offset,
    ) -> LocalFuture<'_, Result<(), OffsetsLogError>> {
        Box::pin(async move {
            rt::sleep(Duration::from_millis(1)).await;
            self.log.borrow_mut().advance_log_start(start)
        })
    }
}

/// Hands over a request that has been waiting all the time.
#[derive(Default)]
struct LateInput {
    coordinator: RefCell<Option<GroupCoordinator>>,
    late: RefCell<Option<HeartbeatRequest>>,
    asked: Cell<usize>,
}

impl InputBarrier for LateInput {
    fn drained(&self) -> LocalFuture<'_, ()> {
        Box::pin(async move {
            rt::yield_now().await;
            self.asked.set(self.asked.get() + 1);
            let coordinator = self.coordinator.borrow().clone();
            if let (Some(coordinator), Some(late)) = (coordinator, self.late.take()) {
                coordinator.heartbeat(&late);
            }
        })
    }
}

fn settings() -> GroupSettings {
    GroupSettings {
        session_timeout_min_ms: 1,
        initial_rebalance_delay_ms: 0,
        offsets_partition_count: 1,
        ..GroupSettings::default()
    }
}

async fn start(settings: GroupSettings, log: &Rc<SlowLog>) -> GroupCoordinator {
    let coordinator = GroupCoordinator::new(
        settings,
        Rc::clone(log) as Rc<dyn OffsetsLog>,
        Rc::new(LoopBarrier),
    );
    coordinator.load(0).await.expect("a good log");
    coordinator
}

fn commit_of(partition: i32, offset: i64) -> CommitRequest {
    let metadata = "note".to_owned();
    CommitRequest {
        group_id: "group".to_owned(),
        generation_id: -1,
        member_id: String::new(),
        group_instance_id: None,
        retention_time_ms: None,
        topics: vec![(
            "topic".to_owned(),
            vec![OffsetToCommit {
                partition,
                offset,
                leader_epoch: -1,
                metadata,
            }],
        )],
    }
}

fn committed(coordinator: &GroupCoordinator, partition: i32) -> i64 {
    let response = coordinator.fetch_offsets(FetchOffsetsRequest {
        group_id: "group".to_owned(),
        topics: Some(vec![("topic".to_owned(), vec![partition])]),
        require_stable: true,
    });
    response.topics[0].1[0].offset
}

fn heartbeat_of(joined: &JoinResponse) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: "group".to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        group_instance_id: None,
    }
}

/// A member as clients are: joins and syncs until it has an assignment.
async fn take_part(
    coordinator: GroupCoordinator,
    session_timeout_ms: i32,
) -> (JoinResponse, Bytes) {
    let mut member_id = String::new();
    loop {
        let mut request = join_of(&member_id, None);
        request.session_timeout_ms = session_timeout_ms;
        request.requires_known_member_id = true;
        let joined = coordinator.join(request).await;
        member_id.clone_from(&joined.member_id);
        if !joined.error.is_ok() {
            assert!(matches!(
                joined.error,
                ErrorCode::MemberIdRequired | ErrorCode::RebalanceInProgress
            ));
            continue;
        }
        let assign = |member: &crate::group::requests::JoinedMember| {
            (
                member.member_id.clone(),
                Bytes::from(member.member_id.clone()),
            )
        };
        let synced = coordinator
            .sync(SyncRequest {
                group_id: "group".to_owned(),
                generation_id: joined.generation_id,
                member_id: member_id.clone(),
                group_instance_id: None,
                protocol_type: None,
                protocol_name: None,
                assignments: joined.members.iter().map(assign).collect(),
            })
            .await;
        if synced.error.is_ok() {
            if coordinator.heartbeat(&heartbeat_of(&joined)).is_ok() {
                return (joined, synced.assignment);
            }
        } else {
            assert_eq!(synced.error, ErrorCode::RebalanceInProgress);
        }
    }
}

#[test]
fn groups_are_loading_from_the_call_on() {
    on_both(|_| async move {
        let log = Rc::new(SlowLog::default());
        let coordinator = GroupCoordinator::new(
            settings(),
            Rc::clone(&log) as Rc<dyn OffsetsLog>,
            Rc::new(LoopBarrier),
        );
        let code =
            || coordinator.heartbeat(&heartbeat_of(&JoinResponse::refused("m", ErrorCode::None)));
        assert_eq!(code(), ErrorCode::NotCoordinator);
        let loading = coordinator.load(0);
        assert_eq!(code(), ErrorCode::None, "while it loads, members go on");
        loading.await.expect("a good log");
        assert_eq!(code(), ErrorCode::UnknownMemberId);
    });
}

#[test]
fn three_members_come_to_share_a_group() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let delayed = GroupSettings {
            initial_rebalance_delay_ms: 30,
            ..settings()
        };
        let coordinator = start(delayed, &log).await;
        let members: Vec<_> = (0..3)
            .map(|_| {
                rt::spawn(
                    Lane::Network,
                    "member",
                    take_part(coordinator.clone(), 10_000),
                )
            })
            .collect();
        let mut ids = Vec::new();
        for member in members {
            let (joined, assignment) = member.await;
            assert_eq!(assignment, joined.member_id, "each its own assignment");
            assert_eq!(joined.generation_id, 1);
            ids.push(joined.member_id);
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert_eq!(coordinator.describe("group".to_owned()).state, "Stable");
        // A restart knows the members and their assignments.
        let again = start(settings(), &log).await;
        assert_eq!(
            again.describe("group".to_owned()),
            coordinator.describe("group".to_owned())
        );
        again.close().await;
        coordinator.close().await;
    });
}

#[test]
fn a_silent_member_is_replaced_by_those_who_stay() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let coordinator = start(settings(), &log).await;
        let (silent, _) = take_part(coordinator.clone(), 60).await;
        // It holds up the newcomer until its session ends.
        let (joined, _) = take_part(coordinator.clone(), 60_000).await;
        assert_eq!(joined.leader, joined.member_id);
        let error = coordinator.heartbeat(&heartbeat_of(&silent));
        assert_eq!(error, ErrorCode::UnknownMemberId);
        coordinator.close().await;
    });
}

#[test]
fn a_heartbeat_that_was_waiting_in_the_input_saves_its_session() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let barrier = Rc::new(LateInput::default());
        let given = Rc::clone(&barrier) as Rc<dyn InputBarrier>;
        let coordinator =
            GroupCoordinator::new(settings(), Rc::clone(&log) as Rc<dyn OffsetsLog>, given);
        coordinator.load(0).await.expect("a good log");
        let (joined, _) = take_part(coordinator.clone(), 100).await;
        *barrier.coordinator.borrow_mut() = Some(coordinator.clone());
        *barrier.late.borrow_mut() = Some(heartbeat_of(&joined));
        rt::sleep(Duration::from_millis(150)).await;
        assert!(barrier.asked.get() > 0, "the deadline was noticed");
        assert_eq!(
            coordinator.heartbeat(&heartbeat_of(&joined)),
            ErrorCode::None
        );
        rt::sleep(Duration::from_millis(250)).await;
        assert_eq!(
            coordinator.heartbeat(&heartbeat_of(&joined)),
            ErrorCode::UnknownMemberId
        );
        *barrier.coordinator.borrow_mut() = None;
        coordinator.close().await;
    });
}

/// Input that takes long to be handled.
struct SlowInput;

impl InputBarrier for SlowInput {
    fn drained(&self) -> LocalFuture<'_, ()> {
        Box::pin(rt::sleep(Duration::from_millis(200)))
    }
}

#[test]
fn a_group_can_be_deleted_as_soon_as_its_sessions_have_run_out() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let given = Rc::new(SlowInput) as Rc<dyn InputBarrier>;
        let coordinator =
            GroupCoordinator::new(settings(), Rc::clone(&log) as Rc<dyn OffsetsLog>, given);
        coordinator.load(0).await.expect("a good log");
        take_part(coordinator.clone(), 100).await;
        assert_eq!(coordinator.delete("group").await, ErrorCode::NonEmptyGroup);
        rt::sleep(Duration::from_millis(110)).await;
        assert_eq!(coordinator.delete("group").await, ErrorCode::None);
        coordinator.close().await;
    });
}

#[test]
fn commits_in_parallel_are_joined_and_all_durable() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let coordinator = start(settings(), &log).await;
        let commits: Vec<_> = (0..200)
            .map(|partition| {
                let coordinator = coordinator.clone();
                rt::spawn(Lane::Network, "commit", async move {
                    coordinator.commit(commit_of(partition, 7)).await
                })
            })
            .collect();
        for commit in commits {
            assert_eq!(commit.await.topics[0].1[0].1, ErrorCode::None);
        }
        let appends = log.log.borrow().appends;
        assert!(appends < 20, "{appends} appends for 200 commits");
        let again = start(settings(), &log).await;
        assert_eq!(again.stats().offsets, 200);
        let mut seen = 0;
        again.for_each_committed(|group, topic, _, offset| {
            assert_eq!((group, topic, offset), ("group", "topic", 7));
            seen += 1;
        });
        assert_eq!(seen, 200);
        again.close().await;
        coordinator.close().await;
    });
}

#[test]
fn a_log_that_fails_is_told_to_members_and_committers_and_forgotten_when_it_works_again() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let coordinator = start(settings(), &log).await;
        log.log.borrow_mut().is_failing = true;
        let response = coordinator.commit(commit_of(0, 1)).await;
        assert_eq!(
            response.topics[0].1[0].1,
            ErrorCode::CoordinatorNotAvailable
        );
        assert_eq!(committed(&coordinator, 0), -1);
        let joined = coordinator.join(join_of("", None)).await;
        let sync = |joined: &JoinResponse| SyncRequest {
            group_id: "group".to_owned(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            group_instance_id: None,
            protocol_type: None,
            protocol_name: None,
            assignments: Vec::new(),
        };
        let synced = coordinator.sync(sync(&joined)).await;
        assert_eq!(synced.error, ErrorCode::CoordinatorNotAvailable);
        log.log.borrow_mut().is_failing = false;
        let joined = coordinator.join(join_of(&joined.member_id, None)).await;
        assert_eq!((joined.error, joined.generation_id), (ErrorCode::None, 2));
        assert_eq!(coordinator.sync(sync(&joined)).await.error, ErrorCode::None);
        coordinator.close().await;
    });
}

#[test]
fn a_commit_is_carried_out_though_its_asker_goes_away() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let coordinator = start(settings(), &log).await;
        let gone = rt::timeout(Duration::ZERO, coordinator.commit(commit_of(0, 5))).await;
        assert!(gone.is_none());
        coordinator.close().await;
        let again = start(settings(), &log).await;
        assert_eq!(committed(&again, 0), 5);
        again.close().await;
    });
}

#[test]
fn closing_writes_what_is_queued_and_sends_away_who_waits() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let delayed = GroupSettings {
            initial_rebalance_delay_ms: 60_000,
            ..settings()
        };
        let coordinator = start(delayed, &log).await;
        let other = coordinator.clone();
        let join = rt::spawn(Lane::Network, "member", async move {
            other.join(join_of("", None)).await
        });
        let other = coordinator.clone();
        let commit = rt::spawn(Lane::Network, "commit", async move {
            let mut request = commit_of(0, 5);
            "other".clone_into(&mut request.group_id);
            other.commit(request).await
        });
        let has_begun = |stats: RosterStats| {
            stats.members == 1 && (stats.queued_bytes > 0 || stats.offsets > 0)
        };
        while !has_begun(coordinator.stats()) {
            rt::yield_now().await;
        }
        coordinator.close().await;
        assert_eq!(commit.await.topics[0].1[0].1, ErrorCode::None);
        assert_eq!(join.await.error, ErrorCode::NotCoordinator);
        let refused = coordinator.commit(commit_of(0, 6)).await;
        assert_eq!(refused.topics[0].1[0].1, ErrorCode::NotCoordinator);
    });
}

#[test]
fn a_damaged_log_is_not_served_until_it_is_mended() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let coordinator = start(settings(), &log).await;
        coordinator.commit(commit_of(0, 5)).await;
        coordinator.close().await;
        log.damage.set(true);
        let again = GroupCoordinator::new(
            settings(),
            Rc::clone(&log) as Rc<dyn OffsetsLog>,
            Rc::new(LoopBarrier),
        );
        let outcome = again.load(0).await;
        assert!(matches!(
            outcome,
            Err(LoadError::Replay(ReplayError::Checksum { .. }))
        ));
        let refused = again.commit(commit_of(0, 6)).await;
        assert_eq!(refused.topics[0].1[0].1, ErrorCode::CoordinatorNotAvailable);
        log.damage.set(false);
        again.load(0).await.expect("mended");
        assert_eq!(committed(&again, 0), 5);
        again.close().await;
    });
}

#[test]
fn expired_offsets_go_without_being_asked_for() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let brief = GroupSettings {
            offsets_retention_ms: 20,
            offsets_retention_check_interval_ms: 10,
            ..settings()
        };
        let coordinator = start(brief, &log).await;
        coordinator.commit(commit_of(0, 5)).await;
        for _ in 0..100 {
            rt::sleep(Duration::from_millis(10)).await;
            if coordinator.stats().groups == 0 {
                break;
            }
        }
        assert_eq!(coordinator.stats().groups, 0);
        coordinator.close().await;
    });
}

#[test]
fn topics_that_are_gone_are_forgotten() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let coordinator = start(settings(), &log).await;
        coordinator.commit(commit_of(0, 5)).await;
        coordinator.forget_topics(|topic| topic == "another").await;
        coordinator.close().await;
        let again = start(settings(), &log).await;
        assert_eq!(committed(&again, 0), 5);
        again.forget_topics(|topic| topic == "topic").await;
        again.close().await;
        let third = start(settings(), &log).await;
        assert_eq!(third.stats().groups, 0);
        third.close().await;
    });
}

#[test]
fn a_small_log_stays_small_while_members_commit() {
    on_both(|_| async {
        let log = Rc::new(SlowLog::default());
        let bounded = GroupSettings {
            rewrite_log_bytes_min: 4_000,
            ..settings()
        };
        let coordinator = start(bounded, &log).await;
        for offset in 0..150 {
            let answer = coordinator.commit(commit_of(0, offset)).await;
            assert_eq!(answer.topics[0].1[0].1, ErrorCode::None);
        }
        coordinator.close().await;
        let (bytes_max, moved) = (log.log.borrow().bytes_max, log.log.borrow().starts_moved);
        assert!(
            bytes_max < 5_000 && moved > 2,
            "{bytes_max} bytes, {moved} new starts"
        );
        let again = start(settings(), &log).await;
        assert_eq!(committed(&again, 0), 149);
        again.close().await;
    });
}

/// What these stories see of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_story_notices;

    #[test]
    fn a_commit_that_is_answered_early_is_noticed() {
        assert_story_notices(
            Break::OffsetCommitAnsweredEarly,
            commits_in_parallel_are_joined_and_all_durable,
        );
    }
}

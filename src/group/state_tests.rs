//! The rules of the classic protocol, one by one.

use bytes::Bytes;

use super::super::bench::{Bench, REBALANCE_MS, SESSION_MS, join_of, protocol, subscription};
use super::*;
use crate::group::requests::{JoinRequest, ListRequest, NO_GENERATION, Protocol};
use crate::group::settings::GroupSettings;

const SESSION: u64 = SESSION_MS.unsigned_abs() as u64;
const REBALANCE: u64 = REBALANCE_MS.unsigned_abs() as u64;

fn delayed(delay_ms: u64) -> Bench {
    let initial_rebalance_delay_ms = delay_ms;
    Bench::with(GroupSettings {
        initial_rebalance_delay_ms,
        ..GroupSettings::default()
    })
}

fn with_protocols(mut request: JoinRequest, names: &[&str]) -> JoinRequest {
    request.protocols = names
        .iter()
        .map(|name| protocol(name, name.as_bytes()))
        .collect();
    request
}

fn known(mut request: JoinRequest) -> JoinRequest {
    request.requires_known_member_id = true;
    request
}

// ---------------------------------------------------------------------- joining

#[test]
fn the_first_member_leads_generation_one() {
    let mut bench = Bench::new();
    let number = bench.join(join_of("", None));
    let joined = bench.joined(number);
    assert_eq!((joined.error, joined.generation_id), (ErrorCode::None, 1));
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.members[0].metadata, "m");
    assert_eq!(joined.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(joined.protocol_name.as_deref(), Some("range"));
    assert_eq!(bench.group.state(), State::CompletingRebalance);
}

#[test]
fn followers_do_not_see_the_members() {
    let (mut bench, ids) = Bench::stable(&[None]);
    let second = bench.join(join_of("", None));
    let first = bench.join(join_of(&ids[0], None));
    let (first, second) = (bench.joined(first), bench.joined(second));
    assert_eq!((first.generation_id, second.generation_id), (2, 2));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
    assert_eq!(second.leader, ids[0]);
}

#[test]
fn a_dynamic_member_without_id_is_sent_back_for_one() {
    let mut bench = Bench::new();
    let number = bench.join(known(join_of("", None)));
    let refusal = bench.joined(number);
    assert_eq!(refusal.error, ErrorCode::MemberIdRequired);
    assert_eq!(refusal.generation_id, NO_GENERATION);
    assert!(!refusal.member_id.is_empty());
    assert_eq!((bench.group.state(), bench.group.size()), (State::Empty, 1));
    let number = bench.join(known(join_of(&refusal.member_id, None)));
    assert_eq!(bench.joined(number).error, ErrorCode::None);
    assert_eq!(bench.group.size(), 1);
}

#[test]
fn an_id_that_does_not_come_back_is_forgotten_after_a_session() {
    let mut bench = Bench::new();
    let number = bench.join(known(join_of("", None)));
    let id = bench.joined(number).member_id;
    bench.pass(SESSION - 1);
    assert_eq!(bench.group.size(), 1);
    bench.pass(1);
    assert!(bench.group.is_vacant());
    let number = bench.join(known(join_of(&id, None)));
    assert_eq!(bench.joined(number).error, ErrorCode::UnknownMemberId);
}

#[test]
fn a_rebalance_waits_for_an_id_to_come_back_but_not_longer() {
    let (mut bench, ids) = Bench::stable(&[None]);
    let pending = bench.join(known(join_of("", None)));
    assert_eq!(bench.joined(pending).error, ErrorCode::MemberIdRequired);
    let number = bench.join(join_of(&ids[0], None));
    assert!(bench.is_waiting(number), "the other one is on its way");
    bench.pass(SESSION);
    assert_eq!(bench.joined(number).generation_id, 2);
}

#[test]
fn a_pending_id_can_leave() {
    let (mut bench, ids) = Bench::stable(&[None]);
    let pending = bench.join(known(join_of("", None)));
    let id = bench.joined(pending).member_id;
    let number = bench.join(join_of(&ids[0], None));
    assert_eq!(bench.leave(&id, None), ErrorCode::None);
    assert_eq!(bench.joined(number).error, ErrorCode::None);
}

#[test]
fn a_static_member_needs_no_second_join() {
    let mut bench = Bench::new();
    let number = bench.join(known(join_of("", Some("one"))));
    assert_eq!(bench.joined(number).error, ErrorCode::None);
}

#[test]
fn an_unknown_id_is_refused() {
    let (mut bench, _) = Bench::stable(&[None]);
    let number = bench.join(join_of("stranger", None));
    let refusal = bench.joined(number);
    assert_eq!(refusal.error, ErrorCode::UnknownMemberId);
    assert_eq!(refusal.member_id, "stranger");
    assert_eq!(bench.group.state(), State::Stable);
}

// ---------------------------------------------------------------------- initial delay

#[test]
fn an_empty_group_waits_for_others_before_its_first_generation() {
    let mut bench = delayed(3_000);
    let first = bench.join(join_of("", None));
    bench.pass(2_999);
    assert!(bench.is_waiting(first));
    bench.pass(1);
    assert_eq!(bench.joined(first).generation_id, 1);
}

#[test]
fn the_initial_delay_is_extended_while_members_come() {
    let mut bench = delayed(3_000);
    let first = bench.join(join_of("", None));
    bench.pass(2_000);
    let second = bench.join(join_of("", None));
    bench.pass(1_000);
    assert!(bench.is_waiting(first), "somebody came: three more seconds");
    bench.pass(2_999);
    assert!(bench.is_waiting(second));
    bench.pass(1);
    assert_eq!(
        (
            bench.joined(first).generation_id,
            bench.joined(second).generation_id
        ),
        (1, 1)
    );
}

#[test]
fn the_initial_delay_ends_with_the_rebalance_timeout() {
    let mut bench = delayed(3_000);
    let first = bench.join(join_of("", None));
    let mut passed = 0;
    while bench.is_waiting(first) {
        bench.join(join_of("", None));
        bench.pass(1_000);
        passed += 1_000;
        assert!(
            passed <= REBALANCE,
            "members that keep coming do not hold up the others for ever"
        );
    }
    assert_eq!(passed, REBALANCE);
}

// ---------------------------------------------------------------------- protocols

#[test]
fn members_without_a_common_protocol_are_refused() {
    let (mut bench, _) = Bench::stable(&[None]);
    let number = bench.join(with_protocols(join_of("", None), &["sticky"]));
    assert_eq!(
        bench.joined(number).error,
        ErrorCode::InconsistentGroupProtocol
    );
    let mut other_type = join_of("", None);
    other_type.protocol_type = "connect".to_owned();
    let number = bench.join(other_type);
    assert_eq!(
        bench.joined(number).error,
        ErrorCode::InconsistentGroupProtocol
    );
    assert_eq!(bench.group.state(), State::Stable);
}

#[test]
fn an_empty_group_takes_any_type_but_not_none() {
    let mut bench = Bench::new();
    let mut request = join_of("", None);
    request.protocols.clear();
    let number = bench.join(request);
    assert_eq!(
        bench.joined(number).error,
        ErrorCode::InconsistentGroupProtocol
    );
    let mut request = join_of("", None);
    request.protocol_type = "connect".to_owned();
    let number = bench.join(request);
    assert_eq!(
        bench.joined(number).protocol_type.as_deref(),
        Some("connect")
    );
}

#[test]
fn most_votes_win_among_the_protocols_that_all_know() {
    let mut bench = delayed(1_000);
    let first = bench.join(with_protocols(join_of("", None), &["a", "b", "c"]));
    bench.join(with_protocols(join_of("", None), &["d", "c", "b"]));
    bench.join(with_protocols(join_of("", None), &["c", "b"]));
    bench.pass(1_000);
    bench.pass(1_000);
    let joined = bench.joined(first);
    // "a" and "d" are not known to all; b has one vote, c has two
    assert_eq!(joined.protocol_name.as_deref(), Some("c"));
    assert!(joined.members.iter().all(|member| member.metadata == "c"));
}

// ---------------------------------------------------------------------- rejoining

#[test]
fn a_follower_that_missed_its_answer_gets_it_again() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let number = bench.join(join_of(&ids[1], None));
    let joined = bench.joined(number);
    assert_eq!((joined.error, joined.generation_id), (ErrorCode::None, 2));
    assert_eq!(bench.group.state(), State::Stable);
}

#[test]
fn a_leader_that_joins_again_causes_a_rebalance() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let number = bench.join(join_of(&ids[0], None));
    assert!(bench.is_waiting(number));
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    assert_eq!(
        bench.heartbeat(2, &ids[1], None),
        ErrorCode::RebalanceInProgress
    );
}

#[test]
fn changed_metadata_causes_a_rebalance() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let mut request = join_of(&ids[1], None);
    request.protocols = vec![protocol("range", b"other topics")];
    let number = bench.join(request);
    let leader = bench.join(join_of(&ids[0], None));
    assert_eq!(bench.joined(number).generation_id, 3);
    let seen = bench.joined(leader).members;
    assert!(seen.iter().any(|member| member.metadata == "other topics"));
}

#[test]
fn in_completing_the_same_join_is_answered_and_a_changed_one_starts_over() {
    let mut bench = Bench::new();
    let id = bench.alone();
    let number = bench.join(join_of(&id, None));
    assert_eq!(
        (bench.joined(number).generation_id, bench.group.generation()),
        (1, 1)
    );
    let mut changed = join_of(&id, None);
    changed.protocols = vec![protocol("range", b"x")];
    let number = bench.join(changed);
    assert_eq!(bench.joined(number).generation_id, 2);
}

#[test]
fn a_member_that_asks_twice_is_answered_twice() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let first = bench.join(join_of(&ids[0], None));
    let second = bench.join(join_of(&ids[0], None));
    assert_eq!(bench.joined(first).error, ErrorCode::RebalanceInProgress);
    assert!(bench.is_waiting(second));
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let number = bench.join(join_of(&ids[0], None));
    for _ in 0..REBALANCE / 5_000 {
        assert!(bench.is_waiting(number));
        // alive, but it never joins
        assert_eq!(
            bench.heartbeat(2, &ids[1], None),
            ErrorCode::RebalanceInProgress
        );
        bench.pass(5_000);
    }
    assert_eq!(bench.joined(number).members.len(), 1);
    assert_eq!(
        bench.heartbeat(3, &ids[1], None),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn the_leadership_passes_on_when_the_leader_does_not_rejoin() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let newcomer = bench.join(join_of("", None));
    let second = bench.join(join_of(&ids[1], None));
    for _ in 0..REBALANCE / 5_000 {
        bench.heartbeat(2, &ids[0], None);
        bench.pass(5_000);
    }
    let (newcomer, second) = (bench.joined(newcomer), bench.joined(second));
    assert_eq!(newcomer.leader, second.leader);
    assert_ne!(second.leader, ids[0]);
    assert_eq!(newcomer.members.len() + second.members.len(), 2);
}

#[test]
fn a_full_group_refuses_newcomers() {
    let settings = GroupSettings {
        initial_rebalance_delay_ms: 0,
        group_size_max: 1,
        ..GroupSettings::default()
    };
    let mut bench = Bench::with(settings);
    let id = bench.alone();
    let number = bench.join(join_of("", None));
    assert_eq!(bench.joined(number).error, ErrorCode::GroupMaxSizeReached);
    // a lowered limit: of those who join again only so many are taken
    let (mut bench, ids) = Bench::stable(&[None, None]);
    bench.settings.group_size_max = 1;
    let first = bench.join(join_of(&ids[0], None));
    let second = bench.join(join_of(&ids[1], None));
    assert_eq!(bench.joined(second).error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(bench.joined(first).members.len(), 1);
    drop(id);
}

// ---------------------------------------------------------------------- syncing

#[test]
fn an_assignment_is_told_only_when_it_is_durable() {
    let mut bench = Bench::new();
    let id = bench.alone();
    let number = bench.sync(1, &id, None, &[(&id, b"all")]);
    assert!(bench.is_waiting(number));
    assert_eq!(bench.group.state(), State::CompletingRebalance);
    let stored = bench.stored(Ok(()));
    assert_eq!(stored[0].members[0].assignment, "all");
    assert_eq!(stored[0].generation_id, 1);
    assert_eq!(bench.synced(number).assignment, "all");
    assert_eq!(bench.group.state(), State::Stable);
}

#[test]
fn an_assignment_that_cannot_be_stored_sends_all_back_to_join() {
    let mut bench = delayed(1_000);
    let numbers = [bench.join(join_of("", None)), bench.join(join_of("", None))];
    bench.pass(1_000);
    bench.pass(1_000);
    let ids = numbers.map(|number| bench.joined(number).member_id);
    let syncs = [
        bench.sync(1, &ids[0], None, &[]),
        bench.sync(1, &ids[1], None, &[]),
    ];
    bench.stored(Err(ErrorCode::NotCoordinator));
    for number in syncs {
        assert_eq!(bench.synced(number).error, ErrorCode::NotCoordinator);
    }
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    let numbers = [
        bench.join(join_of(&ids[0], None)),
        bench.join(join_of(&ids[1], None)),
    ];
    for number in numbers {
        assert_eq!(bench.joined(number).generation_id, 2);
    }
}

#[test]
fn an_assignment_stored_too_late_is_not_told() {
    let mut bench = Bench::new();
    let id = bench.alone();
    let sync = bench.sync(1, &id, None, &[(&id, b"old")]);
    bench.join(join_of("", None));
    assert_eq!(bench.synced(sync).error, ErrorCode::RebalanceInProgress);
    bench.stored(Ok(()));
    assert_eq!(bench.group.state(), State::PreparingRebalance);
}

#[test]
fn a_second_assignment_of_the_same_generation_is_not_listened_to() {
    let mut bench = Bench::new();
    let id = bench.alone();
    let first = bench.sync(1, &id, None, &[(&id, b"one")]);
    let second = bench.sync(1, &id, None, &[(&id, b"two")]);
    assert_eq!(bench.synced(first).error, ErrorCode::RebalanceInProgress);
    assert_eq!(bench.stored(Ok(())).len(), 1);
    assert_eq!(bench.synced(second).assignment, "one");
    let third = bench.sync(1, &id, None, &[(&id, b"three")]);
    assert_eq!(bench.synced(third).assignment, "one");
}

#[test]
fn members_without_an_assignment_get_an_empty_one_and_strangers_none() {
    let mut bench = Bench::new();
    let id = bench.alone();
    let number = bench.sync(1, &id, None, &[("stranger", b"x")]);
    assert_eq!(bench.stored(Ok(()))[0].members.len(), 1);
    let synced = bench.synced(number);
    assert_eq!(
        (synced.error, synced.assignment.len()),
        (ErrorCode::None, 0)
    );
}

#[test]
fn syncs_of_others_are_fenced() {
    let (mut bench, ids) = Bench::stable(&[Some("one")]);
    let outcome = |bench: &mut Bench, generation, id: &str, instance| {
        let number = bench.sync(generation, id, instance, &[]);
        bench.synced(number).error
    };
    assert_eq!(
        outcome(&mut bench, 0, &ids[0], None),
        ErrorCode::IllegalGeneration
    );
    assert_eq!(
        outcome(&mut bench, 1, "stranger", None),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        outcome(&mut bench, 1, "other", Some("one")),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        outcome(&mut bench, 1, &ids[0], Some("two")),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        outcome(&mut bench, 1, &ids[0], Some("one")),
        ErrorCode::None
    );
    bench.join(join_of("", None));
    assert_eq!(
        outcome(&mut bench, 1, &ids[0], None),
        ErrorCode::RebalanceInProgress
    );
}

#[test]
fn a_sync_of_another_protocol_is_refused() {
    let (mut bench, ids) = Bench::stable(&[None]);
    for (protocol_type, protocol_name, expected) in [
        (Some("connect"), None, ErrorCode::InconsistentGroupProtocol),
        (None, Some("sticky"), ErrorCode::InconsistentGroupProtocol),
        (Some("consumer"), Some("range"), ErrorCode::None),
    ] {
        let request = crate::group::requests::SyncRequest {
            group_id: "group".to_owned(),
            generation_id: 1,
            member_id: ids[0].clone(),
            group_instance_id: None,
            protocol_type: protocol_type.map(str::to_owned),
            protocol_name: protocol_name.map(str::to_owned),
            assignments: Vec::new(),
        };
        let effects = {
            let mut turn = Turn::new(bench.now, &bench.settings);
            bench.group.on_sync(&mut turn, request, Waiter::new(1_000));
            turn.effects
        };
        let [crate::group::turn::Effect::Sync(_, response)] = effects.as_slice() else {
            panic!("one answer, got {effects:?}");
        };
        assert_eq!(response.error, expected);
    }
}

#[test]
fn who_does_not_sync_within_the_rebalance_timeout_is_out() {
    let mut bench = delayed(1_000);
    let numbers = [bench.join(join_of("", None)), bench.join(join_of("", None))];
    bench.pass(1_000);
    bench.pass(1_000);
    let ids = numbers.map(|number| bench.joined(number).member_id);
    let follower = bench.sync(1, &ids[1], None, &[]);
    for _ in 0..REBALANCE / 5_000 {
        assert!(bench.is_waiting(follower));
        assert_eq!(bench.heartbeat(1, &ids[0], None), ErrorCode::None);
        bench.pass(5_000);
    }
    assert_eq!(bench.synced(follower).error, ErrorCode::RebalanceInProgress);
    assert_eq!(
        bench.heartbeat(1, &ids[0], None),
        ErrorCode::UnknownMemberId
    );
    let number = bench.join(join_of(&ids[1], None));
    assert_eq!(bench.joined(number).leader, ids[1]);
}

// ---------------------------------------------------------------------- heartbeats and sessions

#[test]
fn heartbeats_are_fenced_by_generation_and_id() {
    let (mut bench, ids) = Bench::stable(&[Some("one")]);
    assert_eq!(bench.heartbeat(1, &ids[0], None), ErrorCode::None);
    assert_eq!(
        bench.heartbeat(0, &ids[0], None),
        ErrorCode::IllegalGeneration
    );
    assert_eq!(
        bench.heartbeat(1, "stranger", None),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        bench.heartbeat(1, "other", Some("one")),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        bench.heartbeat(1, &ids[0], Some("two")),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn while_the_assignment_is_awaited_heartbeats_are_fine() {
    let mut bench = Bench::new();
    let id = bench.alone();
    assert_eq!(bench.group.state(), State::CompletingRebalance);
    assert_eq!(bench.heartbeat(1, &id, None), ErrorCode::None);
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    bench.pass(SESSION / 2);
    bench.heartbeat(2, &ids[0], None);
    bench.pass(SESSION / 2);
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    assert_eq!(
        bench.heartbeat(2, &ids[1], None),
        ErrorCode::UnknownMemberId
    );
    let number = bench.join(join_of(&ids[0], None));
    assert_eq!(bench.joined(number).members.len(), 1);
}

#[test]
fn when_all_are_silent_the_group_becomes_empty_and_that_is_stored() {
    let (mut bench, _) = Bench::stable(&[None, None]);
    bench.pass(SESSION);
    assert_eq!(bench.group.state(), State::Empty);
    let stored = bench.stored(Ok(()));
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].generation_id, stored[0].members.len()), (3, 0));
    assert_eq!(stored[0].protocol_type, "consumer");
    assert_eq!(stored[0].state_timestamp_ms, bench.now.unix_ms);
    assert!(bench.group.is_vacant());
}

#[test]
fn after_a_stall_a_session_ends_only_if_no_heartbeat_was_waiting() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    bench.tick(10 * SESSION);
    // The deadlines have passed. One heartbeat was waiting in its socket and is handled first.
    let noticed = bench.now.moment;
    bench.tick(5);
    assert_eq!(bench.heartbeat(2, &ids[0], None), ErrorCode::None);
    bench.run(|group, turn| group.on_time(turn, noticed));
    assert_eq!(
        bench.heartbeat(2, &ids[0], None),
        ErrorCode::RebalanceInProgress
    );
    assert_eq!(
        bench.heartbeat(2, &ids[1], None),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn a_deadline_beyond_the_input_handled_so_far_is_not_final() {
    let (mut bench, _) = Bench::stable(&[None]);
    let deadline = bench.now.moment.plus_ms(SESSION);
    bench.tick(2 * SESSION);
    bench.run(|group, turn| group.on_time(turn, Moment(deadline.0 - 1)));
    assert_eq!(bench.group.state(), State::Stable);
    bench.run(|group, turn| group.on_time(turn, deadline));
    assert_eq!(bench.group.state(), State::Empty);
}

#[test]
fn members_that_wait_for_an_answer_do_not_time_out() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let number = bench.join(join_of(&ids[0], None));
    for _ in 0..4 {
        bench.heartbeat(2, &ids[1], None);
        bench.pass(SESSION / 2);
    }
    assert!(bench.is_waiting(number));
    let second = bench.join(join_of(&ids[1], None));
    assert!(bench.joined(number).error.is_ok() && bench.joined(second).error.is_ok());
}

#[test]
fn a_new_member_that_nobody_hears_of_again_does_not_stay_for_ever() {
    let mut bench = delayed(20 * 60_000);
    let mut request = join_of("", None);
    request.rebalance_timeout_ms = i32::MAX;
    let number = bench.join(request);
    bench.pass(NEW_MEMBER_JOIN_TIMEOUT_MS - 1);
    assert!(bench.is_waiting(number));
    bench.pass(1);
    assert_eq!(bench.joined(number).error, ErrorCode::UnknownMemberId);
}

#[test]
fn commits_and_syncs_are_signs_of_life() {
    let (mut bench, ids) = Bench::stable(&[None]);
    for _ in 0..3 {
        bench.pass(SESSION - 1);
        assert_eq!(bench.may_commit(1, &ids[0]), ErrorCode::None);
        bench.pass(SESSION - 1);
        let number = bench.sync(1, &ids[0], None, &[]);
        assert_eq!(bench.synced(number).error, ErrorCode::None);
    }
}

// ---------------------------------------------------------------------- leaving

#[test]
fn a_member_that_leaves_causes_a_rebalance() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    assert_eq!(bench.leave(&ids[1], None), ErrorCode::None);
    assert_eq!(bench.leave(&ids[1], None), ErrorCode::UnknownMemberId);
    let number = bench.join(join_of(&ids[0], None));
    assert_eq!(bench.joined(number).members.len(), 1);
}

#[test]
fn the_last_one_to_leave_empties_the_group() {
    let (mut bench, ids) = Bench::stable(&[None]);
    assert_eq!(bench.leave(&ids[0], None), ErrorCode::None);
    assert_eq!(
        (bench.group.state(), bench.group.generation()),
        (State::Empty, 2)
    );
    assert_eq!(bench.stored(Ok(())).len(), 1);
}

#[test]
fn whoever_leaves_while_waiting_is_answered() {
    let (mut bench, ids) = Bench::stable(&[None, None]);
    let join = bench.join(join_of(&ids[0], None));
    bench.leave(&ids[0], None);
    assert_eq!(bench.joined(join).error, ErrorCode::UnknownMemberId);
    let mut bench = Bench::new();
    let id = bench.alone();
    let sync = bench.sync(1, &id, None, &[]);
    bench.leave(&id, None);
    assert_eq!(bench.synced(sync).error, ErrorCode::UnknownMemberId);
}

#[test]
fn an_administrator_removes_by_instance_id_alone() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), Some("two")]);
    assert_eq!(bench.leave("", Some("nobody")), ErrorCode::UnknownMemberId);
    assert_eq!(
        bench.leave("other", Some("one")),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(bench.leave("", Some("one")), ErrorCode::None);
    assert_eq!(bench.leave(&ids[1], Some("two")), ErrorCode::None);
    assert_eq!(bench.group.state(), State::Empty);
}

// ---------------------------------------------------------------------- static members

#[test]
fn a_static_member_returns_without_a_rebalance_once_its_new_id_is_durable() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), Some("two")]);
    let number = bench.join(join_of("", Some("two")));
    assert!(bench.is_waiting(number));
    assert_eq!(
        bench.heartbeat(2, &ids[1], Some("two")),
        ErrorCode::None,
        "still in force"
    );
    let stored = bench.stored(Ok(()));
    let joined = bench.joined(number);
    assert_eq!((joined.error, joined.generation_id), (ErrorCode::None, 2));
    assert_ne!(joined.member_id, ids[1]);
    assert_eq!(joined.leader, ids[0]);
    assert!(stored[0].members.iter().any(|member| {
        member.member_id == joined.member_id && member.assignment == Bytes::from_static(&[1])
    }));
    assert_eq!(bench.group.state(), State::Stable);
    assert_eq!(
        bench.heartbeat(2, &ids[1], Some("two")),
        ErrorCode::FencedInstanceId
    );
    let sync = bench.sync(2, &joined.member_id, Some("two"), &[]);
    assert_eq!(bench.synced(sync).assignment, Bytes::from_static(&[1]));
}

#[test]
fn when_the_new_id_cannot_be_stored_the_old_one_stays() {
    let (mut bench, ids) = Bench::stable(&[Some("one")]);
    let number = bench.join(join_of("", Some("one")));
    bench.stored(Err(ErrorCode::CoordinatorNotAvailable));
    let refusal = bench.joined(number);
    assert_eq!(refusal.error, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(bench.heartbeat(1, &ids[0], Some("one")), ErrorCode::None);
    assert_eq!(bench.group.state(), State::Stable);
}

#[test]
fn a_returning_static_leader_is_told_to_skip_the_assignment_if_it_knows_how() {
    let (mut bench, _) = Bench::stable(&[Some("one"), Some("two")]);
    let mut request = join_of("", Some("one"));
    request.supports_skip_assignment = true;
    let number = bench.join(request);
    bench.stored(Ok(()));
    let joined = bench.joined(number);
    assert!(joined.skip_assignment);
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 2);
}

#[test]
fn a_returning_static_leader_that_cannot_skip_takes_itself_for_a_follower() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), Some("two")]);
    let number = bench.join(join_of("", Some("one")));
    bench.stored(Ok(()));
    let joined = bench.joined(number);
    assert!(!joined.skip_assignment);
    assert_eq!(joined.leader, ids[0]);
    assert_ne!(joined.member_id, ids[0]);
    assert!(joined.members.is_empty());
    assert_eq!(
        bench.group.leader.as_deref(),
        Some(joined.member_id.as_str())
    );
}

#[test]
fn a_static_member_whose_protocols_change_the_choice_causes_a_rebalance() {
    let mut bench = Bench::new();
    let both = |id: &str, instance| with_protocols(join_of(id, instance), &["a", "b"]);
    let number = bench.join(both("", Some("one")));
    let one = bench.joined(number).member_id;
    bench.share(&[one], &[Some("one")]);
    assert_eq!(bench.group.protocol_name.as_deref(), Some("a"));
    let number = bench.join(with_protocols(join_of("", Some("one")), &["b", "a"]));
    let joined = bench.joined(number);
    assert_eq!(
        (joined.generation_id, joined.protocol_name.as_deref()),
        (2, Some("b"))
    );
}

#[test]
fn a_static_member_that_returns_during_a_rebalance_takes_part_in_it() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), None]);
    let dynamic = bench.join({
        let mut request = join_of(&ids[1], None);
        request.protocols = vec![protocol("range", b"x")];
        request
    });
    let old = bench.join(join_of(&ids[0], Some("one")));
    // both have joined: generation 3 is there, nobody has synced
    assert!(bench.joined(dynamic).error.is_ok() && bench.joined(old).error.is_ok());
    let sync = bench.sync(3, &ids[0], Some("one"), &[]);
    let new = bench.join(join_of("", Some("one")));
    assert_eq!(bench.synced(sync).error, ErrorCode::FencedInstanceId);
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    let dynamic = bench.join(join_of(&ids[1], None));
    assert_eq!(bench.joined(new).generation_id, 4);
    assert_eq!(bench.joined(dynamic).generation_id, 4);
}

#[test]
fn a_join_waiting_under_an_old_id_is_fenced_by_the_new_one() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), None]);
    let old = bench.join(join_of(&ids[0], Some("one")));
    assert!(bench.is_waiting(old));
    let new = bench.join(join_of("", Some("one")));
    let fenced = bench.joined(old);
    assert_eq!(fenced.error, ErrorCode::FencedInstanceId);
    assert_eq!(fenced.member_id, ids[0]);
    assert!(bench.is_waiting(new));
    let refused = bench.join(join_of(&ids[0], Some("one")));
    assert_eq!(bench.joined(refused).error, ErrorCode::FencedInstanceId);
}

#[test]
fn a_static_member_that_returns_while_its_id_is_being_stored_joins_what_is_there_then() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), None]);
    let number = bench.join(join_of("", Some("one")));
    bench.leave(&ids[1], None);
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    bench.stored(Ok(()));
    let joined = bench.joined(number);
    assert_eq!((joined.error, joined.generation_id), (ErrorCode::None, 3));
}

#[test]
fn two_processes_with_one_instance_id_fence_each_other_in_turn() {
    let (mut bench, _) = Bench::stable(&[Some("one")]);
    let first = bench.join(join_of("", Some("one")));
    let second = bench.join(join_of("", Some("one")));
    bench.stored(Ok(()));
    bench.stored(Ok(()));
    let (first, second) = (bench.joined(first), bench.joined(second));
    assert!(first.error.is_ok() && second.error.is_ok());
    assert_eq!(
        bench.heartbeat(1, &first.member_id, Some("one")),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        bench.heartbeat(1, &second.member_id, Some("one")),
        ErrorCode::None
    );
}

#[test]
fn an_absent_static_member_keeps_its_place_until_its_session_ends() {
    let (mut bench, ids) = Bench::stable(&[None, Some("two")]);
    // It is heard of for the last time; then its process restarts.
    let number = bench.join(join_of(&ids[0], None));
    for _ in 0..REBALANCE / 5_000 {
        bench.heartbeat(2, &ids[1], Some("two"));
        bench.pass(5_000);
    }
    assert_eq!(
        bench.joined(number).members.len(),
        2,
        "absent, and counted all the same"
    );
    let new = bench.join(join_of("", Some("two")));
    assert!(bench.is_waiting(new));
}

#[test]
fn a_rebalance_that_only_absent_static_members_could_join_waits_for_them() {
    let (mut bench, ids) = Bench::stable(&[Some("one"), Some("two")]);
    bench.leave(&ids[0], Some("one"));
    bench.heartbeat(2, &ids[1], Some("two"));
    for _ in 0..2 * REBALANCE / 5_000 {
        bench.pass(5_000);
        bench.heartbeat(2, &ids[1], Some("two"));
    }
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    bench.pass(SESSION);
    assert_eq!(bench.group.state(), State::Empty);
}

// ---------------------------------------------------------------------- committing

#[test]
fn simple_consumers_commit_to_empty_groups_only() {
    let mut bench = Bench::new();
    assert_eq!(bench.may_commit(-1, ""), ErrorCode::None);
    let (mut bench, ids) = Bench::stable(&[None]);
    assert_eq!(bench.may_commit(-1, ""), ErrorCode::UnknownMemberId);
    assert_eq!(bench.may_commit(1, &ids[0]), ErrorCode::None);
    assert_eq!(bench.may_commit(0, &ids[0]), ErrorCode::IllegalGeneration);
    assert_eq!(bench.may_commit(1, "stranger"), ErrorCode::UnknownMemberId);
}

#[test]
fn members_commit_while_a_rebalance_is_prepared_but_not_while_it_completes() {
    let (mut bench, ids) = Bench::stable(&[None]);
    bench.join(join_of("", None));
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    assert_eq!(bench.may_commit(1, &ids[0]), ErrorCode::None);
    let number = bench.join(join_of(&ids[0], None));
    assert_eq!(bench.joined(number).generation_id, 2);
    assert_eq!(bench.may_commit(2, &ids[0]), ErrorCode::RebalanceInProgress);
}

// ---------------------------------------------------------------------- views

#[test]
fn metadata_and_assignments_are_shown_while_stable_only() {
    let (mut bench, ids) = Bench::stable(&[Some("one")]);
    let described = bench.group.describe();
    assert_eq!(
        (described.state, described.protocol.as_str()),
        ("Stable", "range")
    );
    assert_eq!(described.members[0].assignment, Bytes::from_static(&[0]));
    assert_eq!(described.members[0].metadata, "m");
    assert_eq!(
        described.members[0].group_instance_id.as_deref(),
        Some("one")
    );
    assert_eq!(described.members[0].client_host, "/127.0.0.1");
    bench.join(join_of("", None));
    let described = bench.group.describe();
    assert_eq!(
        (described.state, described.protocol.as_str()),
        ("PreparingRebalance", "")
    );
    assert!(
        described
            .members
            .iter()
            .all(|member| member.assignment.is_empty())
    );
    drop(ids);
}

#[test]
fn lists_are_filtered_by_state_and_type_in_any_case() {
    let (bench, _) = Bench::stable(&[None]);
    let list = |states: &[&str], types: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        bench
            .group
            .list(&ListRequest {
                states: own(states),
                types: own(types),
            })
            .is_some()
    };
    assert!(list(&[], &[]));
    assert!(list(&["empty", "STABLE"], &["Classic"]));
    assert!(!list(&["Empty"], &[]));
    assert!(!list(&[], &["consumer"]));
}

#[test]
fn topics_that_members_subscribe_to_are_known() {
    let mut bench = Bench::new();
    let mut request = join_of("", None);
    let metadata = subscription(&["a", "b"]);
    request.protocols = vec![Protocol {
        name: "range".to_owned(),
        metadata,
    }];
    let number = bench.join(request);
    let id = bench.joined(number).member_id;
    assert!(bench.group.is_subscribed("a") && bench.group.is_subscribed("b"));
    assert!(!bench.group.is_subscribed("c"));
    assert_eq!(bench.group.check_delete_offsets(), Ok(()));
    assert_eq!(bench.group.check_delete(), Err(ErrorCode::NonEmptyGroup));
    bench.leave(&id, None);
    assert!(!bench.group.is_subscribed("a"));
    assert_eq!(bench.group.check_delete(), Ok(()));
}

#[test]
fn subscriptions_that_cannot_be_read_count_as_subscribed_to_all() {
    let (bench, _) = Bench::stable(&[None]);
    assert!(bench.group.is_subscribed("anything"));
    let mut bench = Bench::new();
    let mut request = join_of("", None);
    request.protocol_type = "connect".to_owned();
    bench.join(request);
    assert_eq!(
        bench.group.check_delete_offsets(),
        Err(ErrorCode::NonEmptyGroup)
    );
}

#[test]
fn a_restored_group_goes_on_where_it_was_stored() {
    let mut bench = Bench::new();
    let id = bench.alone();
    bench.sync(1, &id, None, &[(&id, b"all")]);
    let value = bench.stored(Ok(())).remove(0);
    bench.group = Group::restored("group", value, bench.now);
    assert_eq!(bench.group.state(), State::Stable);
    assert_eq!(bench.heartbeat(1, &id, None), ErrorCode::None);
    let number = bench.sync(1, &id, None, &[]);
    assert_eq!(bench.synced(number).assignment, "all");
    bench.pass(SESSION);
    assert_eq!(
        bench.group.state(),
        State::Empty,
        "nobody was heard of for a session"
    );
    assert_eq!(bench.group.generation(), 2);
}

#[test]
fn whoever_waits_when_the_group_leaves_the_shard_is_sent_away() {
    let (mut bench, ids) = Bench::stable(&[None, None, Some("three")]);
    let returning = bench.join(join_of("", Some("three")));
    let join = bench.join(join_of(&ids[0], None));
    bench.run(|group, turn| group.on_unload(turn, ErrorCode::NotCoordinator));
    assert_eq!(bench.joined(returning).error, ErrorCode::NotCoordinator);
    assert_eq!(bench.joined(join).error, ErrorCode::NotCoordinator);
    assert_eq!(bench.waiting_count(), 0);
}

/// What these stories see of the program's own mistakes.
#[cfg(feature = "breaks")]
mod break_tests {
    use super::*;
    use crate::breaks::Break;
    use crate::breaks::testing::assert_story_notices;

    #[test]
    fn a_generation_that_is_not_looked_at_is_noticed() {
        assert_story_notices(
            Break::GenerationUnchecked,
            simple_consumers_commit_to_empty_groups_only,
        );
    }
}

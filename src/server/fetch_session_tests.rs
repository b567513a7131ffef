//! Fetch sessions: each rule of KIP-227 by itself, and a model with random clients.

use kafka_protocol::protocol::StrBytes;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::ids::TopicId;

const SLOTS: usize = 3;

fn by_name(name: &'static str) -> TopicRef {
    TopicRef::Name(StrBytes::from_static_str(name))
}

fn asked(index: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition {
        index: PartitionIndex(index),
        current_leader_epoch: LeaderEpoch(-1),
        fetch_offset,
        last_fetched_epoch: LeaderEpoch(-1),
        log_start_offset: -1,
        partition_max_bytes: 1_000,
        replica_directory_id: uuid::Uuid::nil(),
        high_watermark: i64::MAX,
    }
}

fn topic(topic: TopicRef, partitions: &[i32]) -> FetchTopic {
    FetchTopic {
        topic,
        partitions: partitions.iter().map(|index| asked(*index, 0)).collect(),
    }
}

fn forgotten(topic: TopicRef, partitions: &[i32]) -> ForgottenTopic {
    ForgottenTopic {
        topic,
        partitions: partitions
            .iter()
            .map(|index| PartitionIndex(*index))
            .collect(),
    }
}

fn request((session_id, session_epoch): (i32, i32), topics: Vec<FetchTopic>) -> FetchRequest {
    FetchRequest {
        replica_id: crate::model::ids::NodeId(-1),
        replica_epoch: -1,
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 1_000,
        isolation_level: 0,
        session_id,
        session_epoch,
        topics,
        forgotten_topics: Vec::new(),
        rack_id: StrBytes::from_static_str(""),
        cluster_id: None,
    }
}

fn full(topics: Vec<FetchTopic>) -> FetchRequest {
    request((NO_SESSION, INITIAL_EPOCH), topics)
}

fn told(index: i32, high_watermark: i64, records_len: usize) -> FetchPartitionResponse {
    FetchPartitionResponse {
        high_watermark,
        last_stable_offset: high_watermark,
        log_start_offset: 0,
        records_len,
        ..FetchPartitionResponse::refused(PartitionIndex(index), ErrorCode::None)
    }
}

/// An answer that tells the same of every partition.
fn answer(topics: &[FetchTopic], high_watermark: i64) -> Vec<FetchTopicResponse> {
    let partitions = |topic: &FetchTopic| {
        let indexes = topic.partitions.iter().map(|p| p.index.get());
        indexes
            .map(|index| told(index, high_watermark, 0))
            .collect()
    };
    topics
        .iter()
        .map(|topic| FetchTopicResponse {
            topic: topic.topic.clone(),
            partitions: partitions(topic),
        })
        .collect()
}

fn cache() -> FetchSessions {
    FetchSessions::new(SLOTS, 100)
}

/// Makes a session; its id.
fn make(sessions: &mut FetchSessions, topics: Vec<FetchTopic>, now_ms: i64) -> i32 {
    let request = full(topics);
    let turn = sessions.begin(&request, false, now_ms).expect("welcome");
    assert!(matches!(turn, Turn::New));
    let answer = answer(&request.topics, 10);
    let random = 1_000 * u64::try_from(now_ms).expect("positive");
    sessions.create(&request, &answer, false, (now_ms, random))
}

#[track_caller]
fn go_on(sessions: &mut FetchSessions, request: &FetchRequest, now_ms: i64) -> SharedSession {
    match sessions.begin(request, false, now_ms) {
        Ok(Turn::Continued { session, epoch }) => {
            assert_eq!(session.borrow().epoch(), epoch);
            session
        }
        other => panic!("{other:?}"),
    }
}

fn order(session: &SharedSession) -> Vec<(TopicRef, i32, i64)> {
    let wanted = session.borrow().wanted();
    let flat = wanted.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|p| (topic.topic.clone(), p.index.get(), p.fetch_offset))
    });
    flat.collect()
}

#[test]
fn a_session_remembers_what_the_full_request_asked() {
    let mut sessions = cache();
    let id = make(&mut sessions, vec![topic(by_name("a"), &[1, 0])], 0);
    assert_ne!(id, NO_SESSION);
    assert_eq!(sessions.count(), (1, 2));
    let session = go_on(&mut sessions, &request((id, 1), vec![]), 0);
    assert_eq!(
        order(&session),
        [(by_name("a"), 1, 0), (by_name("a"), 0, 0)]
    );
}

#[test]
fn requests_change_add_and_forget_partitions() {
    let mut sessions = cache();
    let id = make(&mut sessions, vec![topic(by_name("a"), &[0, 1])], 0);
    let mut next = request((id, 1), vec![topic(by_name("b"), &[5])]);
    let changed = FetchTopic {
        topic: by_name("a"),
        partitions: vec![asked(0, 42)],
    };
    next.topics.push(changed);
    next.forgotten_topics = vec![
        forgotten(by_name("a"), &[1, 9]),
        forgotten(by_name("never seen"), &[0]),
    ];
    let session = go_on(&mut sessions, &next, 0);
    assert_eq!(
        order(&session),
        [(by_name("a"), 0, 42), (by_name("b"), 5, 0)]
    );
    assert_eq!(sessions.count(), (1, 2));
}

#[test]
fn a_session_without_partitions_is_no_session() {
    let mut sessions = cache();
    let id = make(&mut sessions, vec![topic(by_name("a"), &[0])], 0);
    let mut next = request((id, 1), vec![]);
    next.forgotten_topics = vec![forgotten(by_name("a"), &[0])];
    let turn = sessions.begin(&next, false, 0);
    assert!(matches!(turn, Ok(Turn::Sessionless)), "{turn:?}");
    assert_eq!(sessions.count(), (0, 0));
}

#[test]
fn epochs_must_follow_each_other_and_go_round() {
    let mut sessions = cache();
    let id = make(&mut sessions, vec![topic(by_name("a"), &[0])], 0);
    for wrong in [2, 7, -2, i32::MIN, i32::MAX] {
        let refused = sessions.begin(&request((id, wrong), vec![]), false, 0);
        assert_eq!(
            refused.expect_err("wrong"),
            ErrorCode::InvalidFetchSessionEpoch
        );
    }
    let session = go_on(&mut sessions, &request((id, 1), vec![]), 0);
    let again = sessions.begin(&request((id, 1), vec![]), false, 0);
    assert_eq!(
        again.expect_err("used"),
        ErrorCode::InvalidFetchSessionEpoch
    );
    session.borrow_mut().epoch = i32::MAX;
    let session = go_on(&mut sessions, &request((id, i32::MAX), vec![]), 0);
    assert_eq!(session.borrow().epoch(), 1);
    go_on(&mut sessions, &request((id, 1), vec![]), 0);
}

#[test]
fn unknown_sessions_are_named_so() {
    let mut sessions = cache();
    for id in [NO_SESSION, 1, -5] {
        let refused = sessions.begin(&request((id, 1), vec![]), false, 0);
        assert_eq!(
            refused.expect_err("unknown"),
            ErrorCode::FetchSessionIdNotFound
        );
    }
}

#[test]
fn a_final_or_a_new_full_request_ends_the_session_it_names() {
    for epoch in [FINAL_EPOCH, INITIAL_EPOCH] {
        let mut sessions = cache();
        let id = make(&mut sessions, vec![topic(by_name("a"), &[0])], 0);
        let turn = sessions.begin(&request((id, epoch), vec![]), false, 0);
        match epoch {
            FINAL_EPOCH => assert!(matches!(turn, Ok(Turn::Sessionless))),
            _ => assert!(matches!(turn, Ok(Turn::New))),
        }
        assert_eq!(sessions.count(), (0, 0));
    }
}

#[test]
fn a_session_does_not_change_over_between_names_and_ids() {
    let mut sessions = cache();
    let id = make(&mut sessions, vec![topic(by_name("a"), &[0])], 0);
    let refused = sessions.begin(&request((id, 1), vec![]), true, 0);
    assert_eq!(
        refused.expect_err("ids"),
        ErrorCode::FetchSessionTopicIdError
    );
    let topics = vec![topic(TopicRef::Id(TopicId::from_bytes([3; 16])), &[0])];
    let by_id = full(topics);
    let answer = answer(&by_id.topics, 1);
    let id = sessions.create(&by_id, &answer, true, (0, 99));
    assert!(sessions.begin(&request((id, 1), vec![]), true, 0).is_ok());
}

#[test]
fn only_news_is_told() {
    let mut sessions = cache();
    let a = by_name("a");
    let id = make(&mut sessions, vec![topic(a.clone(), &[0])], 0);
    let session = go_on(&mut sessions, &request((id, 1), vec![]), 0);
    let mut session = session.borrow_mut();
    assert!(!session.tell(&a, &told(0, 10, 0)), "as in the full answer");
    assert!(session.tell(&a, &told(0, 11, 0)), "a new high watermark");
    assert!(!session.tell(&a, &told(0, 11, 0)));
    assert!(session.tell(&a, &told(0, 11, 5)), "records");
    let trimmed = FetchPartitionResponse {
        log_start_offset: 3,
        ..told(0, 11, 0)
    };
    assert!(session.tell(&a, &trimmed), "a new log start");
    assert!(!session.tell(&a, &trimmed));
    let refused = FetchPartitionResponse::refused(PartitionIndex(0), ErrorCode::OffsetOutOfRange);
    assert!(session.tell(&a, &refused), "an error");
    assert!(session.tell(&a, &refused), "an error as long as it lasts");
    assert!(session.tell(&a, &trimmed), "its end");
    let diverging = FetchPartitionResponse {
        diverging_epoch: Some((LeaderEpoch(1), 2)),
        ..trimmed.clone()
    };
    assert!(session.tell(&a, &diverging), "another history");
    assert!(session.tell(&a, &trimmed), "its end");
    assert!(!session.tell(&a, &trimmed));
}

#[test]
fn partitions_with_records_go_to_the_end() {
    let mut sessions = cache();
    let (a, b) = (by_name("a"), by_name("b"));
    let topics = vec![topic(a.clone(), &[0, 1]), topic(b.clone(), &[0])];
    let id = make(&mut sessions, topics, 0);
    let session = go_on(&mut sessions, &request((id, 1), vec![]), 0);
    session.borrow_mut().tell(&a, &told(0, 10, 100));
    session.borrow_mut().tell(&b, &told(0, 12, 0));
    let places: Vec<_> = order(&session)
        .into_iter()
        .map(|(t, p, _)| (t, p))
        .collect();
    assert_eq!(places, [(a.clone(), 1), (b, 0), (a, 0)]);
}

#[test]
fn a_full_cache_refuses_until_a_session_is_stale() {
    let mut sessions = cache();
    let some = || vec![topic(by_name("a"), &[0])];
    let first = make(&mut sessions, some(), 0);
    for now_ms in 1..3 {
        assert_ne!(make(&mut sessions, some(), now_ms), NO_SESSION);
    }
    assert_eq!(make(&mut sessions, some(), EVICTION_MS), NO_SESSION);
    assert_ne!(make(&mut sessions, some(), EVICTION_MS + 1), NO_SESSION);
    assert_eq!(sessions.count(), (3, 3));
    let gone = sessions.begin(&request((first, 1), vec![]), false, 0);
    assert_eq!(
        gone.expect_err("evicted"),
        ErrorCode::FetchSessionIdNotFound
    );
}

#[test]
fn a_session_in_use_gives_way_to_a_larger_one_only_and_after_its_time() {
    let mut sessions = cache();
    let ids: Vec<i32> = (0..3)
        .map(|_| make(&mut sessions, vec![topic(by_name("a"), &[0, 1])], 0))
        .collect();
    let later = EVICTION_MS + 1;
    let use_all = |sessions: &mut FetchSessions, epoch, now_ms| {
        for id in &ids {
            go_on(sessions, &request((*id, epoch), vec![]), now_ms);
        }
    };
    use_all(&mut sessions, 1, EVICTION_MS - 1);
    let larger = || vec![topic(by_name("b"), &[0, 1, 2])];
    assert_eq!(make(&mut sessions, larger(), EVICTION_MS), NO_SESSION);
    let as_large = vec![topic(by_name("b"), &[0, 1])];
    assert_eq!(make(&mut sessions, as_large, later), NO_SESSION);
    assert_ne!(make(&mut sessions, larger(), later), NO_SESSION);
    assert_eq!(sessions.count(), (3, 7));
}

#[test]
fn a_follower_goes_first() {
    let mut sessions = cache();
    for _ in 0..3 {
        make(&mut sessions, vec![topic(by_name("a"), &[0, 1])], 0);
    }
    let mut follower = full(vec![topic(by_name("b"), &[0])]);
    follower.replica_id = crate::model::ids::NodeId(2);
    let answer = answer(&follower.topics, 1);
    let id = sessions.create(&follower, &answer, false, (1, 5));
    assert_ne!(id, NO_SESSION);
    let larger = vec![topic(by_name("a"), &[0, 1, 2])];
    let later = EVICTION_MS + 1;
    go_on(&mut sessions, &request((id, 1), vec![]), later);
    make(&mut sessions, larger, later);
    go_on(&mut sessions, &request((id, 2), vec![]), later);
}

#[test]
fn memory_is_bounded_by_partitions_too() {
    let mut sessions = FetchSessions::new(10, 4);
    let id = make(&mut sessions, vec![topic(by_name("a"), &[0, 1])], 0);
    let too_large = vec![topic(by_name("b"), &[0, 1, 2])];
    assert_eq!(make(&mut sessions, too_large, 0), NO_SESSION);
    // what is there already takes no room again
    let same = request((id, 1), vec![topic(by_name("a"), &[0, 1, 0, 1])]);
    go_on(&mut sessions, &same, 0);
    let grows = request((id, 2), vec![topic(by_name("a"), &[2, 3])]);
    go_on(&mut sessions, &grows, 0);
    let too_much = sessions.begin(&request((id, 3), vec![topic(by_name("a"), &[4])]), false, 0);
    assert_eq!(
        too_much.expect_err("full"),
        ErrorCode::FetchSessionIdNotFound
    );
    assert_eq!(sessions.count(), (0, 0));
}

#[test]
fn no_slots_no_sessions() {
    let mut sessions = FetchSessions::new(0, 100);
    assert_eq!(
        make(&mut sessions, vec![topic(by_name("a"), &[0])], 0),
        NO_SESSION
    );
}

#[test]
fn slots_are_divided_among_the_shards() {
    let slots = |shard| of_shard(10, (shard, 4), 1 << 30).borrow().slots;
    assert_eq!([0, 1, 2, 3].map(slots), [3, 3, 2, 2]);
}

#[test]
fn ids_are_positive_and_not_in_use() {
    let mut sessions = FetchSessions::new(10, 100);
    let mut ids = Vec::new();
    for random in [0, 1 << 31, u64::MAX, u64::MAX, 0x7fff_ffff] {
        let request = full(vec![topic(by_name("a"), &[0])]);
        let answer = answer(&request.topics, 1);
        let id = sessions.create(&request, &answer, false, (0, random));
        assert!(id > 0 && !ids.contains(&id), "{id} after {ids:?}");
        ids.push(id);
    }
}

// ---- model ------------------------------------------------------------------------------------

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A partition moves: its high watermark, whether it is refused.
    Move {
        partition: i32,
        by: i64,
        is_refused: bool,
    },
    /// Client `who` polls: it wants these partitions from now on.
    Poll {
        who: usize,
        wants: Vec<i32>,
        is_new: bool,
    },
    /// Time passes.
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8i32, 0..3i64, proptest::bool::weighted(0.1)).prop_map(
            |(partition, by, is_refused)| Step::Move { partition, by, is_refused }
        ),
        6 => (0..4usize, proptest::collection::vec(0..8i32, 1..6), proptest::bool::weighted(0.1))
            .prop_map(|(who, wants, is_new)| Step::Poll { who, wants, is_new }),
        1 => (0..EVICTION_MS).prop_map(Step::Wait),
    ]
}

/// One partition as it is: high watermark, refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    high_watermark: i64,
    is_refused: bool,
}

/// A client after KIP-227: it sends what changed and believes what it was told.
#[derive(Debug, Default)]
struct Client {
    session: (i32, i32),
    wants: Vec<i32>,
    /// In the order in which the broker must serve: a plain vector.
    order: Vec<i32>,
    /// Where the client is, where the broker believes it is.
    offsets: BTreeMap<i32, i64>,
    sent: BTreeMap<i32, i64>,
    /// What the client was told last.
    known: BTreeMap<i32, State>,
}

impl Client {
    fn request(&mut self, wants: &[i32], is_new: bool) -> FetchRequest {
        let mut distinct: Vec<i32> = Vec::new();
        for want in wants {
            if !distinct.contains(want) {
                distinct.push(*want);
            }
        }
        if is_new {
            self.session.1 = INITIAL_EPOCH;
        }
        let is_full = self.session.1 == INITIAL_EPOCH;
        let gone: Vec<i32> = self
            .wants
            .iter()
            .copied()
            .filter(|p| !distinct.contains(p))
            .collect();
        let added = |p: &i32| is_full || !self.wants.contains(p);
        let mut partitions = Vec::new();
        for partition in &distinct {
            let offset = self.offsets.get(partition).copied().unwrap_or(0);
            let is_moved = self.sent.insert(*partition, offset) != Some(offset);
            if added(partition) || is_moved {
                partitions.push(asked(*partition, offset));
            }
        }
        let topic = FetchTopic {
            topic: by_name("t"),
            partitions,
        };
        let mut request = request(self.session, vec![topic]);
        if is_full {
            self.order.clear();
        } else {
            self.order.retain(|p| !gone.contains(p));
            request.forgotten_topics = vec![forgotten(by_name("t"), &gone)];
        }
        self.order.extend(distinct.iter().filter(|p| added(p)));
        if is_full {
            self.known.clear();
        }
        self.known.retain(|p, _| distinct.contains(p));
        self.wants = distinct;
        request
    }

    fn learn(&mut self, told: &FetchPartitionResponse) {
        let index = told.index.get();
        let state = State {
            high_watermark: told.high_watermark,
            is_refused: told.error != ErrorCode::None,
        };
        self.known.insert(index, state);
        if told.records_len > 0 {
            self.offsets.insert(index, told.high_watermark);
            self.order.retain(|p| *p != index);
            self.order.push(index);
        }
    }
}

/// What the broker finds in a partition.
fn read(state: State, asked: &FetchPartition) -> FetchPartitionResponse {
    if state.is_refused {
        return FetchPartitionResponse::refused(asked.index, ErrorCode::KafkaStorageError);
    }
    let behind = state.high_watermark - asked.fetch_offset;
    told(
        asked.index.get(),
        state.high_watermark,
        usize::try_from(behind).unwrap_or(0),
    )
}

/// The whole exchange; afterwards the client knows every partition as it is.
fn poll(
    sessions: &mut FetchSessions,
    client: &mut Client,
    partitions: &[State],
    (wants, is_new): (&[i32], bool),
    now_ms: i64,
) {
    let request = client.request(wants, is_new);
    let find = |asked: &FetchPartition| {
        read(
            partitions[usize::try_from(asked.index.get()).expect("small")],
            asked,
        )
    };
    match sessions.begin(&request, false, now_ms) {
        Err(code) => {
            assert_eq!(
                code,
                ErrorCode::FetchSessionIdNotFound,
                "the client keeps its epochs"
            );
            client.session = (NO_SESSION, INITIAL_EPOCH);
            client.known.clear();
            return;
        }
        Ok(Turn::Sessionless) => panic!("the client wants sessions and something to fetch"),
        Ok(Turn::New) => {
            let partitions: Vec<_> = request.topics[0].partitions.iter().map(find).collect();
            let answer = vec![FetchTopicResponse {
                topic: by_name("t"),
                partitions: partitions.clone(),
            }];
            let random = u64::try_from(now_ms).expect("positive");
            let id = sessions.create(&request, &answer, false, (now_ms, random));
            client.session = (id, i32::from(id != NO_SESSION));
            let order = client.order.clone();
            for told in &partitions {
                client.learn(told);
            }
            client.order = order; // a full answer moves nothing
        }
        Ok(Turn::Continued { session, epoch }) => {
            let wanted = session.borrow().wanted();
            let asked: Vec<FetchPartition> = wanted
                .iter()
                .flat_map(|topic| topic.partitions.clone())
                .collect();
            let order: Vec<i32> = asked.iter().map(|p| p.index.get()).collect();
            assert_eq!(order, client.order, "served in turn");
            for asked in &asked {
                let told = find(asked);
                if session.borrow_mut().tell(&by_name("t"), &told) {
                    client.learn(&told);
                }
            }
            client.session.1 = epoch;
        }
    }
    for partition in &client.wants {
        let mut state = partitions[usize::try_from(*partition).expect("small")];
        if state.is_refused {
            state.high_watermark = -1;
        }
        assert_eq!(
            client.known.get(partition),
            Some(&state),
            "partition {partition}"
        );
    }
}

proptest! {
    #[test]
    fn clients_always_know_what_they_would_know_without_sessions(
        steps in proptest::collection::vec(step(), 1..80),
        slots in 0..4usize,
        partitions_max in 4..20usize,
    ) {
        let mut sessions = FetchSessions::new(slots, partitions_max);
        let mut clients: Vec<Client> = (0..4).map(|_| Client::default()).collect();
        let mut partitions = vec![State { high_watermark: 0, is_refused: false }; 8];
        let mut now_ms = 1;
        for step in steps {
            match step {
                Step::Wait(ms) => now_ms += ms,
                Step::Move { partition, by, is_refused } => {
                    let state = &mut partitions[usize::try_from(partition).expect("small")];
                    state.high_watermark += by;
                    state.is_refused = is_refused;
                }
                Step::Poll { who, wants, is_new } => {
                    poll(&mut sessions, &mut clients[who], &partitions, (&wants, is_new), now_ms);
                }
            }
            now_ms += 1;
            let (count, total) = sessions.count();
            prop_assert!(count <= slots, "[session-slots] {count}");
            prop_assert!(total <= partitions_max, "[session-slots] {total}");
            let kept: Vec<usize> =
                sessions.sessions.values().map(|kept| kept.session.borrow().len()).collect();
            prop_assert_eq!(kept.iter().sum::<usize>(), total, "[session-size]");
        }
    }
}

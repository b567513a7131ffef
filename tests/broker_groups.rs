//! Consumer groups as clients use them: sharing, leaving, committing, rewinding.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::{GroupId, HeartbeatRequest, JoinGroupRequest, SyncGroupRequest};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use support::raw::{Connection, text};
use support::{Broker, Launch, client, directory};

const QUICK: [(&str, &str); 3] = [
    ("session.timeout.ms", "6000"),
    ("heartbeat.interval.ms", "500"),
    ("enable.auto.commit", "false"),
];

fn start(dir: &tempfile::TempDir) -> Broker {
    Launch::new(dir.path())
        .set("group.initial.rebalance.delay.ms", "0")
        .start()
}

fn assigned(consumer: &BaseConsumer) -> BTreeSet<i32> {
    let assignment = consumer.assignment().expect("an assignment");
    assignment
        .elements()
        .iter()
        .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
        .collect()
}

/// Polls all members until together they own every partition once, and none owns all.
#[track_caller]
fn settle(members: &[&BaseConsumer], partitions: i32) {
    let started = Instant::now();
    let all: BTreeSet<i32> = (0..partitions).collect();
    loop {
        for member in members {
            let _ = member.poll(Duration::from_millis(50));
        }
        let parts: Vec<BTreeSet<i32>> = members.iter().map(|member| assigned(member)).collect();
        let total: usize = parts.iter().map(BTreeSet::len).sum();
        let union: BTreeSet<i32> = parts.iter().flatten().copied().collect();
        if union == all && total == all.len() && parts.iter().all(|part| !part.is_empty()) {
            return;
        }
        assert!(started.elapsed() < client::LIMIT, "not shared: {parts:?}");
    }
}

#[test]
fn members_share_the_partitions_and_take_over_from_one_that_leaves() {
    for strategy in ["range", "cooperative-sticky"] {
        let dir = directory();
        let broker = start(&dir);
        client::create_topic(&broker.bootstrap(), "shared", 6, &[]);
        let settings: Vec<(&str, &str)> = QUICK
            .into_iter()
            .chain([("partition.assignment.strategy", strategy)])
            .collect();
        let member = || {
            let member = client::consumer(&broker.bootstrap(), "team", &settings);
            member.subscribe(&["shared"]).expect("a valid subscription");
            member
        };
        let (first, second, third) = (member(), member(), member());
        settle(&[&first, &second, &third], 6);
        drop(third);
        settle(&[&first, &second], 6);
        drop(second);
        settle(&[&first], 6);
    }
}

#[test]
fn a_group_goes_on_where_it_committed() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), "work", 1, &[]);
    client::produce(
        &broker.bootstrap(),
        "work",
        0,
        (0..100u8).map(|byte| vec![byte]),
        &[],
    );
    let consumer = client::consumer(&broker.bootstrap(), "workers", &QUICK);
    consumer.subscribe(&["work"]).expect("a valid subscription");
    client::poll_records(&consumer, 100);
    let mut position = TopicPartitionList::new();
    position
        .add_partition_offset("work", 0, Offset::Offset(60))
        .expect("a valid offset");
    consumer
        .commit(&position, CommitMode::Sync)
        .expect("committed");
    drop(consumer);
    let consumer = client::consumer(&broker.bootstrap(), "workers", &QUICK);
    consumer.subscribe(&["work"]).expect("a valid subscription");
    assert_eq!(client::poll_records(&consumer, 40)[0].offset, 60);
    let other = client::consumer(&broker.bootstrap(), "others", &QUICK);
    other.subscribe(&["work"]).expect("a valid subscription");
    assert_eq!(client::poll_records(&other, 100)[0].offset, 0);
}

#[test]
fn the_metadata_of_a_commit_comes_back() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), "noted", 1, &[]);
    client::produce(&broker.bootstrap(), "noted", 0, [vec![1], vec![2]], &[]);
    let consumer = client::consumer(&broker.bootstrap(), "notes", &QUICK);
    consumer
        .subscribe(&["noted"])
        .expect("a valid subscription");
    client::poll_records(&consumer, 2);
    let mut position = TopicPartitionList::new();
    position
        .add_partition_offset("noted", 0, Offset::Offset(1))
        .expect("a valid offset");
    position
        .find_partition("noted", 0)
        .expect("just added")
        .set_metadata("half done");
    consumer
        .commit(&position, CommitMode::Sync)
        .expect("committed");
    let committed = consumer.committed(client::LIMIT).expect("answered");
    let element = committed.find_partition("noted", 0).expect("our partition");
    assert_eq!(
        (element.offset(), element.metadata()),
        (Offset::Offset(1), "half done")
    );
}

#[test]
fn a_group_is_listed_with_its_members() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), "listed", 2, &[]);
    let member = || {
        let member = client::consumer(&broker.bootstrap(), "seen", &QUICK);
        member.subscribe(&["listed"]).expect("a valid subscription");
        member
    };
    let (first, second) = (member(), member());
    settle(&[&first, &second], 2);
    let groups = first
        .fetch_group_list(Some("seen"), client::LIMIT)
        .expect("answered");
    assert_eq!(groups.groups().len(), 1);
    let group = &groups.groups()[0];
    assert_eq!(
        (group.name(), group.state(), group.protocol_type()),
        ("seen", "Stable", "consumer")
    );
    assert_eq!(group.members().len(), 2);
}

#[test]
fn groups_join_promptly_after_others_were_deleted() {
    let dir = directory();
    let broker = start(&dir);
    client::create_topic(&broker.bootstrap(), "reused", 1, &[]);
    client::produce(&broker.bootstrap(), "reused", 0, [vec![1]], &[]);
    let admin = client::admin(&broker.bootstrap());
    for round in 0..3 {
        let names: Vec<String> = (0..8)
            .map(|number| format!("group-{round}-{number}"))
            .collect();
        for name in &names {
            let consumer = client::consumer(&broker.bootstrap(), name, &QUICK);
            consumer
                .subscribe(&["reused"])
                .expect("a valid subscription");
            client::poll_records(&consumer, 1);
            consumer
                .commit_consumer_state(CommitMode::Sync)
                .expect("committed");
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let options = rdkafka::admin::AdminOptions::new();
        let results = client::block_on(admin.delete_groups(&names, &options)).expect("answered");
        for result in results {
            result.expect("deleted");
        }
    }
}

/// One member that is alone in its group, over a connection of its own.
struct Alone {
    connection: Connection,
    heartbeat: HeartbeatRequest,
}

impl Alone {
    fn join(broker: &Broker, number: usize, session: Duration) -> Self {
        let mut connection = Connection::open(broker.launch().address());
        let group = GroupId(text(&format!("group-{number}")));
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        let session_ms = i32::try_from(session.as_millis()).expect("seconds");
        let join = JoinGroupRequest::default()
            .with_group_id(group.clone())
            .with_session_timeout_ms(session_ms)
            .with_rebalance_timeout_ms(session_ms)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let started = Instant::now();
        let joined = loop {
            let joined = connection.call(&join, 3); // no member id is needed first
            if joined.error_code == 0 {
                break joined;
            }
            assert!(started.elapsed() < client::LIMIT, "{joined:?}");
            std::thread::sleep(Duration::from_millis(20)); // its partition is being loaded
        };
        let sync = SyncGroupRequest::default()
            .with_group_id(group.clone())
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone());
        assert_eq!(connection.call(&sync, 2).error_code, 0);
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(group)
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id);
        Self {
            connection,
            heartbeat,
        }
    }

    fn beat(&mut self) {
        let frame = self.connection.frame(&self.heartbeat, 3);
        self.connection.send(&frame);
    }

    fn answer(&mut self) -> i16 {
        self.connection.receive::<HeartbeatRequest>(3).error_code
    }
}

#[test]
fn after_a_stall_no_session_expires_whose_heartbeat_has_arrived() {
    const SESSION: Duration = Duration::from_secs(2);
    let dir = directory();
    let broker = Launch::new(dir.path())
        .set("group.initial.rebalance.delay.ms", "0")
        .set("group.min.session.timeout.ms", "100")
        .start();
    let join = |number| Alone::join(&broker, number, SESSION);
    let mut members: Vec<Alone> = (0..40).map(join).collect();
    let mut silent = join(40);
    for member in &mut members {
        member.beat();
        assert_eq!(member.answer(), 0);
    }
    broker.signal(libc::SIGSTOP);
    members.iter_mut().for_each(Alone::beat);
    std::thread::sleep(SESSION * 2);
    broker.signal(libc::SIGCONT);
    let late = members
        .iter_mut()
        .filter_map(|m| Some(m.answer()).filter(|code| *code != 0));
    assert_eq!(late.collect::<Vec<i16>>(), Vec::<i16>::new());
    // who said nothing is gone after a session's time at the latest
    std::thread::sleep(SESSION);
    silent.beat();
    assert_eq!(silent.answer(), 25, "UNKNOWN_MEMBER_ID");
}

//! The log of committed offsets: it stays small however much is committed, and nothing that clients
//! ask for takes an acknowledged commit away.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::alter_configs_request::{self, AlterConfigsResource};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, GroupId,
    IncrementalAlterConfigsRequest, OffsetCommitRequest, OffsetFetchRequest, TopicName,
};
use support::client::{self, wait_until};
use support::raw::{Connection, text};
use support::{Broker, Launch, directory};

const OFFSETS_TOPIC: &str = "__consumer_offsets";
const TOPIC: &str = "read";
const LOADING_OR_ELSEWHERE: [i16; 3] = [14, 15, 16];
const INVALID_TOPIC: i16 = 17;
const INVALID_CONFIG: i16 = 40;
const TOPIC_RESOURCE: i8 = 2;

fn connect(broker: &Broker) -> Connection {
    Connection::open(broker.launch().address())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Commits `offset` for partitions 0 to `partitions`, by a group without members.
fn commit_of(group: &str, partitions: i32, offset: i64) -> OffsetCommitRequest {
    let partitions = (0..partitions).map(|index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_metadata(None)
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(TOPIC))
        .with_partitions(partitions.collect());
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

/// Commits until the coordinator is there and takes it.
#[track_caller]
fn commit(connection: &mut Connection, group: &str, partitions: i32, offset: i64) {
    wait_until("the coordinator is there", || {
        let answer = connection.call(&commit_of(group, partitions, offset), 8);
        let codes = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let worst = codes.map(|partition| partition.error_code).max();
        let worst = worst.expect("a partition");
        assert!(
            worst == 0 || LOADING_OR_ELSEWHERE.contains(&worst),
            "{worst}"
        );
        worst == 0
    });
}

/// All committed offsets of a group, by partition.
fn committed(connection: &mut Connection, group: &str) -> BTreeMap<i32, i64> {
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(None);
    let mut found = BTreeMap::new();
    wait_until("the coordinator is there", || {
        let answer = connection.call(&request, 7);
        let code = answer.error_code;
        assert!(code == 0 || LOADING_OR_ELSEWHERE.contains(&code), "{code}");
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        found = partitions
            .map(|partition| (partition.partition_index, partition.committed_offset))
            .collect();
        code == 0
    });
    found
}

/// Bytes of all segments of `__consumer_offsets`.
fn segment_bytes(data_dir: &Path) -> u64 {
    let mut total = 0;
    for entry in std::fs::read_dir(data_dir.join("topics")).expect("topics") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if !name.starts_with(OFFSETS_TOPIC) {
            continue;
        }
        for file in std::fs::read_dir(&path).expect("a partition") {
            let file = file.expect("readable");
            if file.path().extension().is_some_and(|found| found == "log") {
                total += file.metadata().map_or(0, |metadata| metadata.len());
            }
        }
    }
    total
}

#[test]
fn a_million_commits_leave_a_bounded_disk_and_a_quick_restart() {
    const COMMITS: i64 = 1_000_000;
    const PARTITIONS: i32 = 200;
    const GROUPS: [&str; 2] = ["first", "second"];
    const PIPELINED: i64 = 4;
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), TOPIC, PARTITIONS, &[]);
    let mut connection = connect(&broker);
    for group in GROUPS {
        commit(&mut connection, group, PARTITIONS, 0);
    }
    let started = Instant::now();
    let (mut sent, mut received, mut disk_max) = (0, 0, 0);
    let requests = COMMITS / i64::from(PARTITIONS);
    while received < requests {
        while sent < requests && sent < received + PIPELINED {
            let group = GROUPS[usize::from(sent % 2 == 1)];
            let frame: Bytes = connection.frame(&commit_of(group, PARTITIONS, sent), 8);
            connection.send(&frame);
            sent += 1;
        }
        let answer = connection.receive::<OffsetCommitRequest>(8);
        let partitions = &answer.topics[0].partitions;
        assert!(partitions.iter().all(|partition| partition.error_code == 0));
        received += 1;
        if received % 50 == 0 {
            disk_max = disk_max.max(segment_bytes(broker.data_dir()));
        }
    }
    let took = started.elapsed();
    let launch = broker.kill();
    let started = Instant::now();
    let broker = launch.start();
    let mut connection = connect(&broker);
    let found = GROUPS.map(|group| committed(&mut connection, group));
    let restart = started.elapsed();
    println!("{COMMITS} commits in {took:?}, at most {disk_max} bytes, restart in {restart:?}");
    for (last, found) in [requests - 2, requests - 1].into_iter().zip(found) {
        let expected = (0..PARTITIONS).map(|index| (index, last)).collect();
        assert_eq!(found, expected);
    }
    // two logs of 4 MiB, each while it is rewritten, in segments of 4 MiB
    assert!(disk_max <= 40 << 20, "{disk_max} bytes");
    assert!(restart < Duration::from_secs(20), "{restart:?}");
}

#[test]
fn clients_cannot_take_committed_offsets_away() {
    let dir = directory();
    let broker = Launch::new(dir.path())
        .set("log.retention.check.interval.ms", "50")
        .set("log.retention.ms", "1")
        .set("log.roll.ms", "1")
        .start();
    client::create_topic(&broker.bootstrap(), TOPIC, 10, &[]);
    let mut connection = connect(&broker);
    let refused = create(&mut connection, &[("cleanup.policy", "delete")]);
    assert_eq!(refused.0, INVALID_CONFIG, "{refused:?}");
    assert!(refused.1.contains("cleanup.policy"), "{refused:?}");
    assert_eq!(create(&mut connection, &[("retention.ms", "1")]).0, 0);
    commit(&mut connection, "group", 10, 5);
    for _ in 0..20 {
        commit(&mut connection, "other", 10, 6); // there is something to roll
    }

    for (name, value) in [("cleanup.policy", "delete"), ("segment.bytes", "4096")] {
        assert_eq!(
            alter(&mut connection, name, value),
            INVALID_CONFIG,
            "{name}"
        );
        let code = alter_incrementally(&mut connection, name, value);
        assert_eq!(code, INVALID_CONFIG, "{name}");
    }
    assert_eq!(alter(&mut connection, "retention.bytes", "1"), 0);
    let delete = DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name(OFFSETS_TOPIC)])
        .with_timeout_ms(30_000);
    assert_eq!(
        connection.call(&delete, 5).responses[0].error_code,
        INVALID_TOPIC
    );
    assert_eq!(delete_records(&mut connection), INVALID_TOPIC);

    std::thread::sleep(Duration::from_millis(500)); // ten looks for what may go
    let all = |offset| {
        (0..10)
            .map(|index| (index, offset))
            .collect::<BTreeMap<_, _>>()
    };
    let mut connection = connect(&broker);
    assert_eq!(committed(&mut connection, "group"), all(5));
    let broker = broker.kill().start();
    let mut connection = connect(&broker);
    assert_eq!(committed(&mut connection, "group"), all(5));
    assert_eq!(committed(&mut connection, "other"), all(6));
}

/// Creates `__consumer_offsets`, as some tools do beforehand: error code and message.
fn create(connection: &mut Connection, configs: &[(&str, &str)]) -> (i16, String) {
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(OFFSETS_TOPIC))
        .with_num_partitions(3)
        .with_replication_factor(1)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let answer = connection.call(&request, 7);
    let topic = &answer.topics[0];
    let message = topic.error_message.as_deref().unwrap_or_default();
    (topic.error_code, message.to_owned())
}

fn alter(connection: &mut Connection, name: &str, value: &str) -> i16 {
    let config = alter_configs_request::AlterableConfig::default()
        .with_name(text(name))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(OFFSETS_TOPIC))
        .with_configs(vec![config]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    connection.call(&request, 2).responses[0].error_code
}

fn alter_incrementally(connection: &mut Connection, name: &str, value: &str) -> i16 {
    let config = incremental::AlterableConfig::default()
        .with_name(text(name))
        .with_value(Some(text(value)));
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(OFFSETS_TOPIC))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    connection.call(&request, 1).responses[0].error_code
}

/// DeleteRecords up to the end of one partition.
fn delete_records(connection: &mut Connection) -> i16 {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(0)
        .with_offset(-1);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(OFFSETS_TOPIC))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    connection.call(&request, 2).topics[0].partitions[0].error_code
}

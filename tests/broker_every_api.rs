//! Every served API in every served version, asked for something that is there: the answer decodes
//! to its last byte and has no error.
//!
//! What the answers mean is looked at by the other tests, and by real clients; here nothing that is
//! announced may be missing. Versions without generated structs are in `wire::newer`.

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use corelog::model::batch_builder::BatchBuilder;
use corelog::wire::api::ApiKey;
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiVersionsRequest, BrokerId, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, FetchRequest, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest,
    LeaveGroupRequest, ListConfigResourcesRequest, ListGroupsRequest, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::messages::{
    alter_configs_request as alter, create_partitions_request, create_topics_request,
    delete_records_request, delete_topics_request, describe_configs_request,
    describe_topic_partitions_request, fetch_request, incremental_alter_configs_request as change,
    join_group_request, leave_group_request, list_offsets_request, metadata_request,
    offset_commit_request, offset_delete_request, offset_fetch_request,
    offset_for_leader_epoch_request, produce_request, sync_group_request,
};
use kafka_protocol::protocol::{Request, StrBytes};
use support::raw::{Connection, text};
use support::{Launch, directory};
use uuid::Uuid;

const TOPIC: &str = "orders";
const GROUP: &str = "readers";
const TOPIC_RESOURCE: i8 = 2;
/// What the first request for a group is told while its partition is being made.
const LOAD_IN_PROGRESS: i16 = 14;
const MEMBER_ID_REQUIRED: i16 = 79;

/// One connection, and what was asked over it.
struct Asking {
    connection: Connection,
    asked: BTreeSet<ApiKey>,
}

impl Asking {
    /// Asks in every version and hands each answer to `check`.
    fn ask<R: Request>(
        &mut self,
        request: impl Fn(i16) -> R,
        mut check: impl FnMut(i16, R::Response),
    ) {
        let api = ApiKey::from_code(R::KEY).expect("served");
        let generated = R::VERSIONS.min..=R::VERSIONS.max;
        for version in api.versions().filter(|version| generated.contains(version)) {
            let answer = self.connection.call(&request(version), version);
            check(version, answer);
        }
        self.asked.insert(api);
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn group() -> GroupId {
    GroupId(text(GROUP))
}

fn batch() -> Bytes {
    let mut batch = BatchBuilder::new();
    batch.push(1_000, None, Some(b"value"));
    batch.build().into()
}

#[test]
fn every_version_of_every_api_is_answered_without_an_error() {
    let dir = directory();
    let broker = Launch::new(dir.path())
        .set("group.initial.rebalance.delay.ms", "0")
        .set("offsets.topic.num.partitions", "1")
        .start();
    let mut asking = Asking {
        connection: Connection::open(broker.launch().address()),
        asked: BTreeSet::new(),
    };
    cluster(&mut asking);
    topics(&mut asking);
    let id = metadata(&mut asking);
    records(&mut asking, id);
    positions(&mut asking);
    settings(&mut asking);
    members(&mut asking);
    offsets(&mut asking);
    end_of_groups(&mut asking);
    let served: BTreeSet<ApiKey> = ApiKey::ALL.iter().copied().collect();
    assert_eq!(asking.asked, served, "an API without its question");
}

fn cluster(asking: &mut Asking) {
    asking.ask(
        |version| match version {
            3.. => ApiVersionsRequest::default()
                .with_client_software_name(text("raw"))
                .with_client_software_version(text("1")),
            _ => ApiVersionsRequest::default(),
        },
        |version, answer| {
            assert_eq!(answer.error_code, 0, "ApiVersions {version}");
            let found: BTreeSet<i16> = answer.api_keys.iter().map(|api| api.api_key).collect();
            let served: BTreeSet<i16> = ApiKey::ALL.iter().map(|api| api.code()).collect();
            assert_eq!(found, served, "ApiVersions {version}");
        },
    );
    asking.ask(
        |_| DescribeClusterRequest::default(),
        |version, answer| {
            assert_eq!(answer.error_code, 0, "DescribeCluster {version}");
            assert_eq!(answer.brokers.len(), 1, "DescribeCluster {version}");
        },
    );
    asking.ask(
        |_| ListConfigResourcesRequest::default(),
        |version, answer| assert_eq!(answer.error_code, 0, "ListConfigResources {version}"),
    );
    asking.ask(
        |_| {
            InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(1_000)
        },
        |version, answer| {
            assert_eq!(answer.error_code, 0, "InitProducerId {version}");
            assert!(answer.producer_id.0 >= 0, "InitProducerId {version}");
        },
    );
}

fn topics(asking: &mut Asking) {
    let made = |topic: &str| {
        create_topics_request::CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(1)
            .with_replication_factor(1)
    };
    asking.ask(
        |version| {
            let topics = vec![made(&format!("made-{version}"))];
            CreateTopicsRequest::default()
                .with_topics(topics)
                .with_timeout_ms(10_000)
        },
        |version, answer| assert_eq!(answer.topics[0].error_code, 0, "CreateTopics {version}"),
    );
    let request = CreateTopicsRequest::default()
        .with_topics(vec![made(TOPIC)])
        .with_timeout_ms(10_000);
    assert_eq!(asking.connection.call(&request, 7).topics[0].error_code, 0);
    asking.ask(
        |version| {
            let topic = create_partitions_request::CreatePartitionsTopic::default()
                .with_name(name("made-7"))
                .with_count(i32::from(version) + 2)
                .with_assignments(None);
            CreatePartitionsRequest::default()
                .with_topics(vec![topic])
                .with_timeout_ms(10_000)
        },
        |version, answer| {
            assert_eq!(
                answer.results[0].error_code, 0,
                "CreatePartitions {version}"
            );
        },
    );
    asking.ask(
        |version| {
            let topic = name(&format!("made-{version}"));
            let request = DeleteTopicsRequest::default().with_timeout_ms(10_000);
            let state = delete_topics_request::DeleteTopicState::default();
            match version {
                ..6 if version == 1 => request.with_topic_names(vec![name("made-7")]),
                ..6 => request.with_topic_names(vec![topic]),
                _ => request.with_topics(vec![state.with_name(Some(topic))]),
            }
        },
        |version, answer| {
            assert_eq!(answer.responses[0].error_code, 0, "DeleteTopics {version}");
        },
    );
}

/// The topic's id.
fn metadata(asking: &mut Asking) -> Uuid {
    let mut id = Uuid::nil();
    asking.ask(
        |_| {
            let topic = metadata_request::MetadataRequestTopic::default();
            let topics = vec![topic.with_name(Some(name(TOPIC)))];
            MetadataRequest::default().with_topics(Some(topics))
        },
        |version, answer| {
            assert_eq!(answer.topics[0].error_code, 0, "Metadata {version}");
            assert_eq!(answer.topics[0].partitions.len(), 1, "Metadata {version}");
            id = answer.topics[0].topic_id;
        },
    );
    asking.ask(
        |_| {
            let topic = describe_topic_partitions_request::TopicRequest::default();
            DescribeTopicPartitionsRequest::default()
                .with_topics(vec![topic.with_name(name(TOPIC))])
                .with_response_partition_limit(10)
        },
        |version, answer| {
            let topic = &answer.topics[0];
            assert_eq!(topic.error_code, 0, "DescribeTopicPartitions {version}");
            assert_eq!(topic.topic_id, id, "DescribeTopicPartitions {version}");
        },
    );
    id
}

fn records(asking: &mut Asking, id: Uuid) {
    let mut next = 0;
    asking.ask(
        |version| {
            let partition = produce_request::PartitionProduceData::default();
            let topic = produce_request::TopicProduceData::default()
                .with_partition_data(vec![partition.with_records(Some(batch()))]);
            let topic = match version {
                13.. => topic.with_topic_id(id),
                _ => topic.with_name(name(TOPIC)),
            };
            ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(10_000)
                .with_topic_data(vec![topic])
        },
        |version, answer| {
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!(partition.error_code, 0, "Produce {version}");
            assert_eq!(partition.base_offset, next, "Produce {version}");
            next += 1;
        },
    );
    asking.ask(
        |version| {
            let partition = fetch_request::FetchPartition::default()
                .with_partition_max_bytes(1 << 20)
                .with_fetch_offset(3);
            let topic = fetch_request::FetchTopic::default().with_partitions(vec![partition]);
            let topic = match version {
                13.. => topic.with_topic_id(id),
                _ => topic.with_topic(name(TOPIC)),
            };
            FetchRequest::default()
                .with_max_wait_ms(1_000)
                .with_min_bytes(1)
                .with_max_bytes(1 << 20)
                .with_topics(vec![topic])
        },
        |version, answer| {
            let partition = &answer.responses[0].partitions[0];
            assert_eq!(partition.error_code, 0, "Fetch {version}");
            assert_eq!(partition.high_watermark, next, "Fetch {version}");
            let records = partition.records.as_ref().expect("records");
            assert_eq!(records[..8], 3_i64.to_be_bytes(), "Fetch {version}");
        },
    );
}

fn positions(asking: &mut Asking) {
    let appended = i64::try_from(ApiKey::Produce.versions().count()).expect("a few");
    asking.ask(
        |_| {
            let partition = list_offsets_request::ListOffsetsPartition::default();
            let topic = list_offsets_request::ListOffsetsTopic::default()
                .with_name(name(TOPIC))
                .with_partitions(vec![partition.with_timestamp(-1)]);
            ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(vec![topic])
        },
        |version, answer| {
            let partition = &answer.topics[0].partitions[0];
            assert_eq!(partition.error_code, 0, "ListOffsets {version}");
            assert_eq!(partition.offset, appended, "ListOffsets {version}");
        },
    );
    asking.ask(
        |_| {
            let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
            let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_topic(name(TOPIC))
                .with_partitions(vec![partition.with_current_leader_epoch(-1)]);
            OffsetForLeaderEpochRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(vec![topic])
        },
        |version, answer| {
            let partition = &answer.topics[0].partitions[0];
            assert_eq!(partition.error_code, 0, "OffsetForLeaderEpoch {version}");
            assert_eq!(partition.leader_epoch, 0, "OffsetForLeaderEpoch {version}");
            assert_eq!(
                partition.end_offset, appended,
                "OffsetForLeaderEpoch {version}"
            );
        },
    );
    asking.ask(
        |version| {
            let partition = delete_records_request::DeleteRecordsPartition::default();
            let topic = delete_records_request::DeleteRecordsTopic::default()
                .with_name(name(TOPIC))
                .with_partitions(vec![partition.with_offset(i64::from(version) + 1)]);
            DeleteRecordsRequest::default()
                .with_topics(vec![topic])
                .with_timeout_ms(10_000)
        },
        |version, answer| {
            let partition = &answer.topics[0].partitions[0];
            assert_eq!(partition.error_code, 0, "DeleteRecords {version}");
            assert_eq!(partition.low_watermark, i64::from(version) + 1);
        },
    );
    asking.ask(
        |_| DescribeLogDirsRequest::default().with_topics(None),
        |version, answer| {
            let directory = &answer.results[0];
            assert_eq!(directory.error_code, 0, "DescribeLogDirs {version}");
            let mut topics = directory.topics.iter();
            let topic = topics.find(|topic| topic.name == name(TOPIC));
            let partition = &topic.expect("the topic").partitions[0];
            assert!(partition.partition_size > 0, "DescribeLogDirs {version}");
        },
    );
}

fn settings(asking: &mut Asking) {
    asking.ask(
        |_| {
            let resource = describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(text(TOPIC))
                .with_configuration_keys(None);
            DescribeConfigsRequest::default().with_resources(vec![resource])
        },
        |version, answer| {
            let result = &answer.results[0];
            assert_eq!(result.error_code, 0, "DescribeConfigs {version}");
            assert!(result.configs.len() > 10, "DescribeConfigs {version}");
        },
    );
    asking.ask(
        |_| {
            let config = alter::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("1000000")));
            let resource = alter::AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(text(TOPIC))
                .with_configs(vec![config]);
            AlterConfigsRequest::default().with_resources(vec![resource])
        },
        |version, answer| assert_eq!(answer.responses[0].error_code, 0, "AlterConfigs {version}"),
    );
    asking.ask(
        |_| {
            let config = change::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("2000000")));
            let resource = change::AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(text(TOPIC))
                .with_configs(vec![config]);
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
        },
        |version, answer| {
            let code = answer.responses[0].error_code;
            assert_eq!(code, 0, "IncrementalAlterConfigs {version}");
        },
    );
}

fn coordinator(asking: &mut Asking) {
    asking.ask(
        |version| match version {
            4.. => FindCoordinatorRequest::default().with_coordinator_keys(vec![text(GROUP)]),
            _ => FindCoordinatorRequest::default().with_key(text(GROUP)),
        },
        |version, answer| {
            let found = answer.coordinators.first();
            let code = found.map_or(answer.error_code, |found| found.error_code);
            assert_eq!(code, 0, "FindCoordinator {version}");
            let port = found.map_or(answer.port, |found| found.port);
            assert!(port > 0, "FindCoordinator {version}");
        },
    );
}

fn join(member: StrBytes) -> JoinGroupRequest {
    let protocol = join_group_request::JoinGroupRequestProtocol::default();
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(30_000)
        .with_member_id(member)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol.with_name(text("range"))])
}

/// Joins, syncs, beats and leaves, once in each version of JoinGroup.
fn members(asking: &mut Asking) {
    coordinator(asking);
    for api in [
        ApiKey::JoinGroup,
        ApiKey::SyncGroup,
        ApiKey::Heartbeat,
        ApiKey::LeaveGroup,
    ] {
        asking.asked.insert(api);
    }
    let last = |api: ApiKey, version: i16| version.min(api.spec().max);
    for version in ApiKey::JoinGroup.versions() {
        let join = |member| match version {
            0 => join(member),
            _ => join(member).with_rebalance_timeout_ms(30_000),
        };
        let connection = &mut asking.connection;
        let mut joined = connection.call(&join(text("")), version);
        while joined.error_code == LOAD_IN_PROGRESS {
            joined = connection.call(&join(text("")), version);
        }
        if version >= 4 {
            assert_eq!(
                joined.error_code, MEMBER_ID_REQUIRED,
                "JoinGroup {version}: an id comes first"
            );
            joined = connection.call(&join(joined.member_id), version);
        }
        assert_eq!(joined.error_code, 0, "JoinGroup {version}");
        let (member, generation) = (joined.member_id, joined.generation_id);
        let number = last(ApiKey::SyncGroup, version);
        let assignment = sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment(Bytes::from_static(b"mine"));
        let mut request = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(generation)
            .with_member_id(member.clone())
            .with_assignments(vec![assignment]);
        if number >= 5 {
            request.protocol_type = Some(text("consumer"));
            request.protocol_name = Some(text("range"));
        }
        let synced = connection.call(&request, number);
        assert_eq!(synced.error_code, 0, "SyncGroup {number}");
        assert_eq!(synced.assignment, "mine", "SyncGroup {number}");
        let number = last(ApiKey::Heartbeat, version);
        let request = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(generation)
            .with_member_id(member.clone());
        let beaten = connection.call(&request, number);
        assert_eq!(beaten.error_code, 0, "Heartbeat {number}");
        let number = last(ApiKey::LeaveGroup, version);
        let identity = leave_group_request::MemberIdentity::default();
        let request = LeaveGroupRequest::default().with_group_id(group());
        let request = match number {
            3.. => request.with_members(vec![identity.with_member_id(member)]),
            _ => request.with_member_id(member),
        };
        let left = connection.call(&request, number);
        assert_eq!(left.error_code, 0, "LeaveGroup {number}");
        assert!(left.members.iter().all(|member| member.error_code == 0));
    }
}

/// A commit without a generation, as of a consumer that assigns partitions itself.
fn commit(offset: i64) -> OffsetCommitRequest {
    let partition = offset_commit_request::OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic = offset_commit_request::OffsetCommitRequestTopic::default()
        .with_name(name(TOPIC))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

fn offsets(asking: &mut Asking) {
    asking.ask(
        |version| commit(i64::from(version)),
        |version, answer| {
            let code = answer.topics[0].partitions[0].error_code;
            assert_eq!(code, 0, "OffsetCommit {version}");
        },
    );
    let committed = i64::from(ApiKey::OffsetCommit.spec().max);
    asking.ask(
        |version| {
            let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(name(TOPIC))
                .with_partition_indexes(vec![0]);
            let topics = offset_fetch_request::OffsetFetchRequestTopics::default()
                .with_name(name(TOPIC))
                .with_partition_indexes(vec![0]);
            let asked = offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(group())
                .with_topics(Some(vec![topics]));
            let request = OffsetFetchRequest::default();
            match version {
                8.. => request.with_groups(vec![asked]),
                _ => request
                    .with_group_id(group())
                    .with_topics(Some(vec![topic])),
            }
        },
        |version, answer| {
            let found = if version >= 8 {
                answer.groups[0].topics[0].partitions[0].committed_offset
            } else {
                answer.topics[0].partitions[0].committed_offset
            };
            assert_eq!(found, committed, "OffsetFetch {version}");
        },
    );
}

fn end_of_groups(asking: &mut Asking) {
    asking.ask(
        |_| DescribeGroupsRequest::default().with_groups(vec![group()]),
        |version, answer| {
            assert_eq!(answer.groups[0].error_code, 0, "DescribeGroups {version}");
            let state = answer.groups[0].group_state.as_str();
            assert_eq!(state, "Empty", "DescribeGroups {version}");
        },
    );
    asking.ask(
        |_| ListGroupsRequest::default(),
        |version, answer| {
            assert_eq!(answer.error_code, 0, "ListGroups {version}");
            assert_eq!(answer.groups[0].group_id, group(), "ListGroups {version}");
        },
    );
    asking.ask(
        |_| {
            let partition = offset_delete_request::OffsetDeleteRequestPartition::default();
            let topic = offset_delete_request::OffsetDeleteRequestTopic::default()
                .with_name(name(TOPIC))
                .with_partitions(vec![partition]);
            OffsetDeleteRequest::default()
                .with_group_id(group())
                .with_topics(vec![topic])
        },
        |version, answer| {
            assert_eq!(answer.error_code, 0, "OffsetDelete {version}");
            let code = answer.topics[0].partitions[0].error_code;
            assert_eq!(code, 0, "OffsetDelete {version}");
        },
    );
    let gone = |version: i16| GroupId(text(&format!("gone-{version}")));
    for version in ApiKey::DeleteGroups.versions() {
        let request = commit(1).with_group_id(gone(version));
        let answer = asking.connection.call(&request, 9);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }
    asking.ask(
        |version| DeleteGroupsRequest::default().with_groups_names(vec![gone(version)]),
        |version, answer| assert_eq!(answer.results[0].error_code, 0, "DeleteGroups {version}"),
    );
}

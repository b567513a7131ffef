//! Old versions in new shapes: handlers see requests, and make responses, in the newest shape only.
//!
//! Pure: no async, no clock, no IO.
//! Promises: an upgraded request says in the newest fields what the old ones say; the old fields
//! stay.
//! A fitted response has nothing set that its version lacks, so encoding cannot fail for that
//! reason.
//! A response that a handler made in the old shape itself is left as it is.

use kafka_protocol::messages as kp;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};

/// "Not asked for" in fields of authorized operations.
const NO_OPERATIONS: i32 = i32::MIN;

/// Brings a decoded request into the newest shape.
pub trait Upgrade {
    /// `version` is the one it was decoded from.
    fn upgrade(&mut self, version: i16) {
        let _ = version;
    }
}

/// Takes out of a response what a version cannot say.
pub trait Fit {
    /// `version` is the one it will be encoded to.
    fn fit(&mut self, version: i16) {
        let _ = version;
    }
}

macro_rules! nothing_to_upgrade {
    ($($request:ident)*) => { $(impl Upgrade for kp::$request {})* };
}

macro_rules! nothing_to_fit {
    ($($response:ident)*) => { $(impl Fit for kp::$response {})* };
}

nothing_to_upgrade! {
    ListOffsetsRequest OffsetCommitRequest HeartbeatRequest SyncGroupRequest DescribeGroupsRequest
    ListGroupsRequest ApiVersionsRequest CreateTopicsRequest DeleteRecordsRequest
    InitProducerIdRequest OffsetForLeaderEpochRequest DescribeConfigsRequest AlterConfigsRequest
    DescribeLogDirsRequest CreatePartitionsRequest DeleteGroupsRequest
    IncrementalAlterConfigsRequest OffsetDeleteRequest DescribeClusterRequest
    ListConfigResourcesRequest DescribeTopicPartitionsRequest
}

nothing_to_fit! {
    ProduceResponse FetchResponse OffsetCommitResponse HeartbeatResponse SyncGroupResponse
    ListGroupsResponse ApiVersionsResponse CreateTopicsResponse DeleteRecordsResponse
    OffsetForLeaderEpochResponse DescribeConfigsResponse AlterConfigsResponse
    DescribeLogDirsResponse CreatePartitionsResponse DeleteGroupsResponse
    IncrementalAlterConfigsResponse OffsetDeleteResponse ListConfigResourcesResponse
    DescribeTopicPartitionsResponse
}

impl Upgrade for kp::MetadataRequest {
    /// In version 0 an empty list means all topics; later null does.
    fn upgrade(&mut self, version: i16) {
        if version == 0 && self.topics.as_ref().is_some_and(Vec::is_empty) {
            self.topics = None;
        }
    }
}

impl Upgrade for kp::OffsetFetchRequest {
    /// Before version 8 one group stands at the top level.
    fn upgrade(&mut self, version: i16) {
        if version >= 8 {
            return;
        }
        let topics = self.topics.as_ref().map(|topics| {
            topics
                .iter()
                .map(|topic| {
                    OffsetFetchRequestTopics::default()
                        .with_name(topic.name.clone())
                        .with_partition_indexes(topic.partition_indexes.clone())
                })
                .collect()
        });
        self.groups = vec![
            OffsetFetchRequestGroup::default()
                .with_group_id(self.group_id.clone())
                .with_topics(topics),
        ];
    }
}

impl Upgrade for kp::FindCoordinatorRequest {
    /// Before version 4 there is one key; before version 1 it is a group.
    fn upgrade(&mut self, version: i16) {
        if version < 4 {
            self.coordinator_keys = vec![self.key.clone()];
        }
    }
}

impl Upgrade for kp::JoinGroupRequest {
    /// In version 0 the session timeout is the rebalance timeout too.
    fn upgrade(&mut self, version: i16) {
        if version == 0 {
            self.rebalance_timeout_ms = self.session_timeout_ms;
        }
    }
}

impl Upgrade for kp::LeaveGroupRequest {
    /// Before version 3 one member leaves.
    fn upgrade(&mut self, version: i16) {
        if version < 3 {
            self.members = vec![MemberIdentity::default().with_member_id(self.member_id.clone())];
        }
    }
}

impl Upgrade for kp::DeleteTopicsRequest {
    /// Before version 6 topics are names only.
    fn upgrade(&mut self, version: i16) {
        if version < 6 {
            let by_name =
                |name: &kp::TopicName| DeleteTopicState::default().with_name(Some(name.clone()));
            self.topics = self.topic_names.iter().map(by_name).collect();
        }
    }
}

impl Fit for kp::ListOffsetsResponse {
    fn fit(&mut self, version: i16) {
        if version < 4 {
            for partition in self
                .topics
                .iter_mut()
                .flat_map(|topic| &mut topic.partitions)
            {
                partition.leader_epoch = -1;
            }
        }
    }
}

impl Fit for kp::MetadataResponse {
    fn fit(&mut self, version: i16) {
        if !(8..=10).contains(&version) {
            self.cluster_authorized_operations = NO_OPERATIONS;
        }
        for topic in &mut self.topics {
            if version < 8 {
                topic.topic_authorized_operations = NO_OPERATIONS;
            }
            if version < 12 {
                topic.name.get_or_insert_default();
            }
        }
    }
}

impl Fit for kp::OffsetFetchResponse {
    fn fit(&mut self, version: i16) {
        if version >= 8 || self.groups.is_empty() {
            return;
        }
        let group = self.groups.swap_remove(0);
        self.groups.clear();
        // version 1 has no error of the group: it goes to every partition
        let group_error = if version < 2 { group.error_code } else { 0 };
        self.error_code = group.error_code;
        self.topics = group
            .topics
            .into_iter()
            .map(|topic| {
                let partitions = topic.partitions.into_iter().map(|partition| {
                    let error_code = match partition.error_code {
                        0 => group_error,
                        error_code => error_code,
                    };
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_committed_offset(partition.committed_offset)
                        .with_committed_leader_epoch(partition.committed_leader_epoch)
                        .with_metadata(partition.metadata)
                        .with_error_code(error_code)
                });
                OffsetFetchResponseTopic::default()
                    .with_name(topic.name)
                    .with_partitions(partitions.collect())
            })
            .collect();
    }
}

impl Fit for kp::FindCoordinatorResponse {
    fn fit(&mut self, version: i16) {
        if version >= 4 || self.coordinators.is_empty() {
            return;
        }
        let coordinator = self.coordinators.swap_remove(0);
        self.coordinators.clear();
        self.error_code = coordinator.error_code;
        self.error_message = coordinator.error_message;
        self.node_id = coordinator.node_id;
        self.host = coordinator.host;
        self.port = coordinator.port;
    }
}

impl Fit for kp::JoinGroupResponse {
    fn fit(&mut self, version: i16) {
        if version < 9 {
            self.skip_assignment = false;
        }
        if version < 7 {
            self.protocol_name.get_or_insert_default();
        }
    }
}

impl Fit for kp::LeaveGroupResponse {
    fn fit(&mut self, version: i16) {
        if version >= 3 {
            return;
        }
        if let (0, Some(member)) = (self.error_code, self.members.first()) {
            self.error_code = member.error_code;
        }
        self.members.clear();
    }
}

impl Fit for kp::DescribeGroupsResponse {
    fn fit(&mut self, version: i16) {
        for group in &mut self.groups {
            if version < 6 {
                group.error_message = None;
            }
            if version < 3 {
                group.authorized_operations = NO_OPERATIONS;
            }
        }
    }
}

impl Fit for kp::DeleteTopicsResponse {
    fn fit(&mut self, version: i16) {
        if version < 6 {
            for topic in &mut self.responses {
                topic.name.get_or_insert_default();
            }
        }
    }
}

impl Fit for kp::InitProducerIdResponse {
    /// These fields belong to two-phase commit, which no served version has.
    fn fit(&mut self, _version: i16) {
        self.ongoing_txn_producer_id = kp::ProducerId(-1);
        self.ongoing_txn_producer_epoch = -1;
    }
}

impl Fit for kp::DescribeClusterResponse {
    fn fit(&mut self, version: i16) {
        if version < 1 {
            self.endpoint_type = 1;
        }
        if version < 2 {
            for broker in &mut self.brokers {
                broker.is_fenced = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::StrBytes;

    use crate::model::ids::CorrelationId;
    use crate::wire::api::ApiKey;
    use crate::wire::header::RequestHeader;
    use crate::wire::messages::{
        ColdRequest, Request, decode_request, decode_response, encode_request, encode_response,
    };
    use kafka_protocol::messages::find_coordinator_response::Coordinator;
    use kafka_protocol::messages::leave_group_response::MemberResponse;
    use kafka_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };

    fn text(value: &'static str) -> StrBytes {
        StrBytes::from_static_str(value)
    }

    fn arrive<R: ColdRequest>(version: i16, request: &R) -> Request {
        let frame = encode_request(version, CorrelationId(1), "test", request).unwrap();
        let (header, body) = RequestHeader::parse(&frame.slice(4..)).unwrap();
        decode_request(&header, &body).unwrap()
    }

    fn arrive_back<R: crate::wire::messages::ColdResponse>(version: i16, response: R) -> R {
        let frame = encode_response(version, CorrelationId(4), response).unwrap();
        let (correlation, back) = decode_response(version, &frame.slice(4..)).unwrap();
        assert_eq!(correlation, CorrelationId(4));
        back
    }

    #[test]
    fn find_coordinator_v0_has_its_key_in_the_list_and_its_answer_at_the_top() {
        let request = kp::FindCoordinatorRequest::default().with_key(text("g"));
        let Request::FindCoordinator(request) = arrive(0, &request) else {
            panic!()
        };
        assert_eq!(request.coordinator_keys, [text("g")]);
        let coordinator = Coordinator::default()
            .with_key(text("g"))
            .with_node_id(kp::BrokerId(3))
            .with_host(text("h"))
            .with_port(9092);
        let response = kp::FindCoordinatorResponse::default().with_coordinators(vec![coordinator]);
        for version in 0..4 {
            let back = arrive_back(version, response.clone());
            assert_eq!((back.node_id, back.port), (kp::BrokerId(3), 9092));
            assert_eq!(&*back.host, "h");
        }
        assert_eq!(arrive_back(4, response.clone()), response);
    }

    #[test]
    fn offset_fetch_before_v8_is_one_group() {
        use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
        let topic = OffsetFetchRequestTopic::default()
            .with_name(kp::TopicName(text("t")))
            .with_partition_indexes(vec![0, 5]);
        let request = kp::OffsetFetchRequest::default()
            .with_group_id(kp::GroupId(text("g")))
            .with_topics(Some(vec![topic]));
        let Request::OffsetFetch(request) = arrive(1, &request) else {
            panic!()
        };
        let group = request.groups.first().unwrap();
        assert_eq!(&**group.group_id, "g");
        let topics = group.topics.as_ref().unwrap();
        assert_eq!(topics.first().unwrap().partition_indexes, [0, 5]);

        let partition = OffsetFetchResponsePartitions::default()
            .with_partition_index(5)
            .with_committed_offset(42)
            .with_metadata(Some(text("m")));
        let topic = OffsetFetchResponseTopics::default()
            .with_name(kp::TopicName(text("t")))
            .with_partitions(vec![partition]);
        let group = OffsetFetchResponseGroup::default()
            .with_group_id(kp::GroupId(text("g")))
            .with_topics(vec![topic])
            .with_error_code(16);
        let response = kp::OffsetFetchResponse::default().with_groups(vec![group]);
        for version in 1..8 {
            let back = arrive_back(version, response.clone());
            let partition = back.topics.first().unwrap().partitions.first().unwrap();
            assert_eq!(
                (partition.partition_index, partition.committed_offset),
                (5, 42)
            );
            assert_eq!(partition.error_code, if version == 1 { 16 } else { 0 });
            assert_eq!(back.error_code, if version == 1 { 0 } else { 16 });
        }
    }

    #[test]
    fn null_topics_of_offset_fetch_stay_null() {
        let request = kp::OffsetFetchRequest::default()
            .with_group_id(kp::GroupId(text("g")))
            .with_topics(None);
        let Request::OffsetFetch(request) = arrive(5, &request) else {
            panic!()
        };
        assert_eq!(request.groups.first().unwrap().topics, None);
    }

    #[test]
    fn leave_group_before_v3_is_one_member() {
        let request = kp::LeaveGroupRequest::default()
            .with_group_id(kp::GroupId(text("g")))
            .with_member_id(text("m"));
        let Request::LeaveGroup(request) = arrive(1, &request) else {
            panic!()
        };
        assert_eq!(&*request.members.first().unwrap().member_id, "m");
        let member = MemberResponse::default()
            .with_member_id(text("m"))
            .with_error_code(25);
        let response = kp::LeaveGroupResponse::default().with_members(vec![member]);
        assert_eq!(arrive_back(1, response.clone()).error_code, 25);
        assert_eq!(arrive_back(3, response).members.len(), 1);
    }

    #[test]
    fn metadata_v0_empty_means_all_and_later_it_means_none() {
        let request = kp::MetadataRequest::default().with_topics(Some(Vec::new()));
        let Request::Metadata(v0) = arrive(0, &request) else {
            panic!()
        };
        assert_eq!(v0.topics, None);
        let Request::Metadata(v1) = arrive(1, &request) else {
            panic!()
        };
        assert_eq!(v1.topics, Some(Vec::new()));
        let request = kp::MetadataRequest::default().with_topics(None);
        let Request::Metadata(v1) = arrive(1, &request) else {
            panic!()
        };
        assert_eq!(v1.topics, None);
    }

    #[test]
    fn delete_topics_by_name_and_join_group_v0_are_in_the_new_shape() {
        let request = kp::DeleteTopicsRequest::default()
            .with_topic_names(vec![kp::TopicName(text("a")), kp::TopicName(text("b"))]);
        let Request::DeleteTopics(request) = arrive(1, &request) else {
            panic!()
        };
        assert_eq!(request.topics.len(), 2);
        let request = kp::JoinGroupRequest::default().with_session_timeout_ms(6000);
        let Request::JoinGroup(request) = arrive(0, &request) else {
            panic!()
        };
        assert_eq!(request.rebalance_timeout_ms, 6000);
    }

    #[test]
    fn responses_with_every_new_field_set_encode_in_every_version() {
        use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
        use kafka_protocol::messages::describe_groups_response::DescribedGroup;
        use kafka_protocol::messages::list_offsets_response::{
            ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
        };
        use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
        let group = DescribedGroup::default()
            .with_error_message(Some(text("why")))
            .with_authorized_operations(7);
        let describe = kp::DescribeGroupsResponse::default().with_groups(vec![group]);
        let offset = ListOffsetsPartitionResponse::default().with_leader_epoch(3);
        let topic = ListOffsetsTopicResponse::default().with_partitions(vec![offset]);
        let offsets = kp::ListOffsetsResponse::default().with_topics(vec![topic]);
        let topic = MetadataResponseTopic::default()
            .with_name(None)
            .with_topic_authorized_operations(1);
        let metadata = kp::MetadataResponse::default()
            .with_cluster_authorized_operations(1)
            .with_topics(vec![topic]);
        let join = kp::JoinGroupResponse::default()
            .with_skip_assignment(true)
            .with_protocol_name(None)
            .with_protocol_type(Some(text("consumer")));
        let broker = DescribeClusterBroker::default().with_is_fenced(true);
        let cluster = kp::DescribeClusterResponse::default()
            .with_endpoint_type(2)
            .with_brokers(vec![broker]);
        for version in ApiKey::DescribeGroups.versions() {
            arrive_back(version, describe.clone());
        }
        for version in ApiKey::ListOffsets.versions() {
            arrive_back(version, offsets.clone());
        }
        for version in ApiKey::Metadata.versions() {
            arrive_back(version, metadata.clone());
        }
        for version in ApiKey::JoinGroup.versions() {
            let back = arrive_back(version, join.clone());
            assert_eq!(back.protocol_name.is_some(), version < 7);
        }
        for version in ApiKey::DescribeCluster.versions() {
            arrive_back(version, cluster.clone());
        }
    }
}

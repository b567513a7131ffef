//! The generated request of each API, for tests that take all of them.

/// Calls a function that is generic over the generated request of an API: `ApiKey` and `kp`, the
/// generated messages, are to be in scope.
macro_rules! with_generated_request {
    ($api:expr, $function:ident($($argument:expr),*)) => {
        match $api {
            ApiKey::Produce => $function::<kp::ProduceRequest>($($argument),*),
            ApiKey::Fetch => $function::<kp::FetchRequest>($($argument),*),
            ApiKey::ListOffsets => $function::<kp::ListOffsetsRequest>($($argument),*),
            ApiKey::Metadata => $function::<kp::MetadataRequest>($($argument),*),
            ApiKey::OffsetCommit => $function::<kp::OffsetCommitRequest>($($argument),*),
            ApiKey::OffsetFetch => $function::<kp::OffsetFetchRequest>($($argument),*),
            ApiKey::FindCoordinator => $function::<kp::FindCoordinatorRequest>($($argument),*),
            ApiKey::JoinGroup => $function::<kp::JoinGroupRequest>($($argument),*),
            ApiKey::Heartbeat => $function::<kp::HeartbeatRequest>($($argument),*),
            ApiKey::LeaveGroup => $function::<kp::LeaveGroupRequest>($($argument),*),
            ApiKey::SyncGroup => $function::<kp::SyncGroupRequest>($($argument),*),
            ApiKey::DescribeGroups => $function::<kp::DescribeGroupsRequest>($($argument),*),
            ApiKey::ListGroups => $function::<kp::ListGroupsRequest>($($argument),*),
            ApiKey::ApiVersions => $function::<kp::ApiVersionsRequest>($($argument),*),
            ApiKey::CreateTopics => $function::<kp::CreateTopicsRequest>($($argument),*),
            ApiKey::DeleteTopics => $function::<kp::DeleteTopicsRequest>($($argument),*),
            ApiKey::DeleteRecords => $function::<kp::DeleteRecordsRequest>($($argument),*),
            ApiKey::InitProducerId => $function::<kp::InitProducerIdRequest>($($argument),*),
            ApiKey::OffsetForLeaderEpoch => {
                $function::<kp::OffsetForLeaderEpochRequest>($($argument),*)
            }
            ApiKey::DescribeConfigs => $function::<kp::DescribeConfigsRequest>($($argument),*),
            ApiKey::AlterConfigs => $function::<kp::AlterConfigsRequest>($($argument),*),
            ApiKey::DescribeLogDirs => $function::<kp::DescribeLogDirsRequest>($($argument),*),
            ApiKey::CreatePartitions => $function::<kp::CreatePartitionsRequest>($($argument),*),
            ApiKey::DeleteGroups => $function::<kp::DeleteGroupsRequest>($($argument),*),
            ApiKey::IncrementalAlterConfigs => {
                $function::<kp::IncrementalAlterConfigsRequest>($($argument),*)
            }
            ApiKey::OffsetDelete => $function::<kp::OffsetDeleteRequest>($($argument),*),
            ApiKey::DescribeCluster => $function::<kp::DescribeClusterRequest>($($argument),*),
            ApiKey::ListConfigResources => {
                $function::<kp::ListConfigResourcesRequest>($($argument),*)
            }
            ApiKey::DescribeTopicPartitions => {
                $function::<kp::DescribeTopicPartitionsRequest>($($argument),*)
            }
        }
    };
}

//! Whether a response refuses its request, or a part of it. For metrics.
//!
//! Pure: no async, no clock, no IO.
//! One line a response: where its error codes are. One that is forgotten does not compile.

use kafka_protocol::messages as kp;

/// A response that can say no.
pub trait Outcome {
    /// Whether any error code in it is set.
    fn has_error(&self) -> bool;
}

macro_rules! outcomes {
    ($($response:ident: |$r:ident| $has_error:expr;)*) => {
        $(impl Outcome for kp::$response {
            fn has_error(&self) -> bool {
                let $r = self;
                $has_error
            }
        })*
    };
}

/// Whether any of `parts` has an error code.
macro_rules! any {
    ($parts:expr) => {
        $parts.iter().any(|part| part.error_code != 0)
    };
    ($topics:expr, $parts:ident) => {
        $topics.iter().any(|topic| any!(topic.$parts))
    };
}

outcomes! {
    ProduceResponse: |r| any_produced(r);
    FetchResponse: |r| r.error_code != 0 || any!(r.responses, partitions);
    ListOffsetsResponse: |r| any!(r.topics, partitions);
    MetadataResponse: |r| r.error_code != 0 || any!(r.topics);
    OffsetCommitResponse: |r| any!(r.topics, partitions);
    OffsetFetchResponse: |r| r.error_code != 0
        || any!(r.topics, partitions)
        || r.groups.iter().any(|g| g.error_code != 0 || any!(g.topics, partitions));
    FindCoordinatorResponse: |r| r.error_code != 0 || any!(r.coordinators);
    JoinGroupResponse: |r| r.error_code != 0;
    HeartbeatResponse: |r| r.error_code != 0;
    LeaveGroupResponse: |r| r.error_code != 0 || any!(r.members);
    SyncGroupResponse: |r| r.error_code != 0;
    DescribeGroupsResponse: |r| any!(r.groups);
    ListGroupsResponse: |r| r.error_code != 0;
    ApiVersionsResponse: |r| r.error_code != 0;
    CreateTopicsResponse: |r| any!(r.topics);
    DeleteTopicsResponse: |r| any!(r.responses);
    DeleteRecordsResponse: |r| any!(r.topics, partitions);
    InitProducerIdResponse: |r| r.error_code != 0;
    OffsetForLeaderEpochResponse: |r| any!(r.topics, partitions);
    DescribeConfigsResponse: |r| any!(r.results);
    AlterConfigsResponse: |r| any!(r.responses);
    DescribeLogDirsResponse: |r| r.error_code != 0 || any!(r.results);
    CreatePartitionsResponse: |r| any!(r.results);
    DeleteGroupsResponse: |r| any!(r.results);
    IncrementalAlterConfigsResponse: |r| any!(r.responses);
    OffsetDeleteResponse: |r| r.error_code != 0 || any!(r.topics, partitions);
    DescribeClusterResponse: |r| r.error_code != 0;
    ListConfigResourcesResponse: |r| r.error_code != 0;
    DescribeTopicPartitionsResponse: |r| any!(r.topics);
}

fn any_produced(response: &kp::ProduceResponse) -> bool {
    let topics = &response.responses;
    topics.iter().any(|topic| any!(topic.partition_responses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
    use kafka_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };

    #[test]
    fn an_error_anywhere_counts() {
        assert!(!kp::MetadataResponse::default().has_error());
        let known = MetadataResponseTopic::default();
        let unknown = MetadataResponseTopic::default().with_error_code(3);
        let topics = |topics: &[MetadataResponseTopic]| {
            kp::MetadataResponse::default().with_topics(topics.to_vec())
        };
        assert!(!topics(std::slice::from_ref(&known)).has_error());
        assert!(topics(&[known, unknown]).has_error());
        let partition = OffsetFetchResponsePartitions::default().with_error_code(15);
        let topic = OffsetFetchResponseTopics::default().with_partitions(vec![partition]);
        let group = OffsetFetchResponseGroup::default().with_topics(vec![topic]);
        let response = kp::OffsetFetchResponse::default().with_groups(vec![group]);
        assert!(response.has_error());
    }
}

//! Versions that Kafka 4.3 has and the generated structs do not, each one above their last.
//!
//! ```text
//! ListOffsets 11    : as 10; timestamp -6 asks for the earliest offset that waits for an upload
//! DescribeLogDirs 5 : request as 4; response: each result ends with a boolean, "is cordoned"
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: bytes are those of Kafka's own client, see the tests.

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::Encodable;

use crate::wire::api::ApiKey;

/// First version of DescribeLogDirs whose results say whether a directory is cordoned.
const CORDONED_VERSION: i16 = 5;
/// The last version of DescribeLogDirs that is generated.
const LOG_DIRS_GENERATED: i16 = 4;

/// The generated version whose request has the same bytes.
pub const fn generated(api: ApiKey, version: i16) -> i16 {
    match (api, version) {
        (ApiKey::ListOffsets, 11) => 10,
        (ApiKey::DescribeLogDirs, CORDONED_VERSION) => LOG_DIRS_GENERATED,
        _ => version,
    }
}

/// Encodes a response where its bytes in a version are not those of a generated one.
pub trait Newer: Encodable {
    /// Whether this version is written here.
    fn is_newer(version: i16) -> bool {
        let _ = version;
        false
    }

    /// Writes the body in such a version; `None`: it cannot be written.
    fn encode_newer(&self, out: &mut BytesMut) -> Option<()> {
        let _ = out;
        None
    }
}

macro_rules! nothing_newer {
    ($($response:ident)*) => { $(impl Newer for kp::$response {})* };
}

nothing_newer! {
    ProduceResponse FetchResponse ListOffsetsResponse MetadataResponse OffsetCommitResponse
    OffsetFetchResponse FindCoordinatorResponse JoinGroupResponse HeartbeatResponse
    LeaveGroupResponse SyncGroupResponse DescribeGroupsResponse ListGroupsResponse
    ApiVersionsResponse CreateTopicsResponse DeleteTopicsResponse DeleteRecordsResponse
    InitProducerIdResponse OffsetForLeaderEpochResponse DescribeConfigsResponse
    AlterConfigsResponse CreatePartitionsResponse DeleteGroupsResponse
    IncrementalAlterConfigsResponse OffsetDeleteResponse DescribeClusterResponse
    ListConfigResourcesResponse DescribeTopicPartitionsResponse
}

impl Newer for kp::DescribeLogDirsResponse {
    fn is_newer(version: i16) -> bool {
        version == CORDONED_VERSION
    }

    /// No directory is ever cordoned here.
    fn encode_newer(&self, out: &mut BytesMut) -> Option<()> {
        out.put_i32(self.throttle_time_ms);
        out.put_i16(self.error_code);
        put_length(out, self.results.len());
        for result in &self.results {
            result.encode(out, LOG_DIRS_GENERATED).ok()?;
            // the new field stands before the tagged fields, of which there are none
            assert_eq!(out.last(), Some(&0), "no tagged fields are ever set");
            out.truncate(out.len() - 1);
            out.put_u8(0);
            out.put_u8(0);
        }
        out.put_u8(0);
        Some(())
    }
}

/// A compact length: one more than it is, in groups of seven bits (KIP-482).
fn put_length(out: &mut BytesMut, length: usize) {
    let mut rest = length + 1;
    while rest >= 0x80 {
        out.put_u8(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    out.put_u8(u8::try_from(rest).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::CorrelationId;
    use crate::wire::header::RequestHeader;
    use crate::wire::messages::{Request, decode_request, encode_response};
    use bytes::Bytes;
    use kafka_protocol::messages::describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
    };
    use kafka_protocol::protocol::StrBytes;

    fn hex(text: &str) -> Vec<u8> {
        let pair = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
        (0..text.len()).step_by(2).map(pair).collect()
    }

    /// Written by `DescribeLogDirsResponseData` of Kafka's Java client 4.3.1.
    const LOG_DIRS: &str = "000000000000020000062f646174610202740200000003000000000000004d000000\
                            000000000000000000000000000003e80000000000000384000000";

    fn log_dirs(results: usize) -> kp::DescribeLogDirsResponse {
        let partition = DescribeLogDirsPartition::default()
            .with_partition_index(3)
            .with_partition_size(77);
        let topic = DescribeLogDirsTopic::default()
            .with_name(kp::TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![partition]);
        let result = DescribeLogDirsResult::default()
            .with_log_dir(StrBytes::from_static_str("/data"))
            .with_topics(vec![topic])
            .with_total_bytes(1_000)
            .with_usable_bytes(900);
        kp::DescribeLogDirsResponse::default().with_results(vec![result; results])
    }

    #[test]
    fn describe_log_dirs_5_is_kafkas_byte_for_byte() {
        let frame = encode_response(5, CorrelationId(7), log_dirs(1)).expect("encodable");
        // length, correlation id, tagged fields of the header
        assert_eq!(frame.get(9..), Some(&hex(LOG_DIRS)[..]));
        let many = encode_response(5, CorrelationId(7), log_dirs(200)).expect("encodable");
        let count = many.get(9 + 6..9 + 8); // 201 in two groups of seven bits
        assert_eq!(count, Some(&[0xc9, 0x01][..]));
    }

    #[test]
    fn list_offsets_11_is_read_as_kafkas_client_writes_it() {
        // `ListOffsetsRequestData` of the client 4.3.1: partition 0 of `t`, timestamp -6
        let body = hex("ffffffff000202740200000000fffffffffffffffffffffffa00000000753000");
        let header = RequestHeader {
            api: ApiKey::ListOffsets,
            version: 11,
            correlation_id: CorrelationId(1),
            client_id: None,
        };
        let request = decode_request(&header, &Bytes::from(body)).expect("well-formed");
        let Request::ListOffsets(request) = request else {
            panic!("{request:?}");
        };
        let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
        let timestamps: Vec<i64> = partitions.map(|partition| partition.timestamp).collect();
        assert_eq!(timestamps, [-6]);
        assert_eq!(request.timeout_ms, 30_000);
    }
}

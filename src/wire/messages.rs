//! Requests in, responses out: one enum for dispatch, one function for encoding.
//!
//! Produce and Fetch are this crate's own structs, parsed in place; everything else is
//! kafka-protocol's generated structs, brought into the newest shape by `normalize`. Nothing is
//! decoded before `bounds` has walked over it.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `decode_request` is total. `encode_response` says in any served version what a
//! response in the newest shape says, as far as the version can.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::model::ids::CorrelationId;
use crate::wire::api::ApiKey;
use crate::wire::fetch::FetchRequest;
use crate::wire::frame::LENGTH_BYTES;
use crate::wire::header::RequestHeader;
use crate::wire::newer;
use crate::wire::normalize;
use crate::wire::outcome::Outcome;
use crate::wire::produce::ProduceRequest;
use crate::wire::{DecodeError, EncodeError, bounds};

macro_rules! cold_messages {
    ($($variant:ident: $request:ident -> $response:ident;)*) => {
        /// A decoded request.
        #[expect(missing_docs, reason = "the variants are the APIs' names")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request {
            Produce(ProduceRequest),
            Fetch(FetchRequest),
            $($variant(kp::$request),)*
        }

        impl Request {
            /// Which API it belongs to.
            pub const fn api(&self) -> ApiKey {
                match self {
                    Self::Produce(_) => ApiKey::Produce,
                    Self::Fetch(_) => ApiKey::Fetch,
                    $(Self::$variant(_) => ApiKey::$variant,)*
                }
            }
        }

        fn decode_generated(api: ApiKey, version: i16, body: &mut Bytes) -> Option<Request> {
            match api {
                ApiKey::Produce | ApiKey::Fetch => None,
                $(ApiKey::$variant => {
                    let generated = newer::generated(api, version);
                    let mut request = kp::$request::decode(body, generated).ok()?;
                    normalize::Upgrade::upgrade(&mut request, version);
                    Some(Request::$variant(request))
                })*
            }
        }

        $(
            impl ColdRequest for kp::$request {
                const API: ApiKey = ApiKey::$variant;
                type Response = kp::$response;
            }

            impl ColdResponse for kp::$response {
                const API: ApiKey = ApiKey::$variant;
            }
        )*
    };
}

/// A generated request: what a client sends.
pub trait ColdRequest: Encodable + Decodable {
    /// Which API.
    const API: ApiKey;
    /// What comes back.
    type Response: ColdResponse;
}

/// A generated response: what the broker sends.
pub trait ColdResponse: Encodable + Decodable + Outcome + normalize::Fit + newer::Newer {
    /// Which API.
    const API: ApiKey;
}

cold_messages! {
    ListOffsets: ListOffsetsRequest -> ListOffsetsResponse;
    Metadata: MetadataRequest -> MetadataResponse;
    OffsetCommit: OffsetCommitRequest -> OffsetCommitResponse;
    OffsetFetch: OffsetFetchRequest -> OffsetFetchResponse;
    FindCoordinator: FindCoordinatorRequest -> FindCoordinatorResponse;
    JoinGroup: JoinGroupRequest -> JoinGroupResponse;
    Heartbeat: HeartbeatRequest -> HeartbeatResponse;
    LeaveGroup: LeaveGroupRequest -> LeaveGroupResponse;
    SyncGroup: SyncGroupRequest -> SyncGroupResponse;
    DescribeGroups: DescribeGroupsRequest -> DescribeGroupsResponse;
    ListGroups: ListGroupsRequest -> ListGroupsResponse;
    ApiVersions: ApiVersionsRequest -> ApiVersionsResponse;
    CreateTopics: CreateTopicsRequest -> CreateTopicsResponse;
    DeleteTopics: DeleteTopicsRequest -> DeleteTopicsResponse;
    DeleteRecords: DeleteRecordsRequest -> DeleteRecordsResponse;
    InitProducerId: InitProducerIdRequest -> InitProducerIdResponse;
    OffsetForLeaderEpoch: OffsetForLeaderEpochRequest -> OffsetForLeaderEpochResponse;
    DescribeConfigs: DescribeConfigsRequest -> DescribeConfigsResponse;
    AlterConfigs: AlterConfigsRequest -> AlterConfigsResponse;
    DescribeLogDirs: DescribeLogDirsRequest -> DescribeLogDirsResponse;
    CreatePartitions: CreatePartitionsRequest -> CreatePartitionsResponse;
    DeleteGroups: DeleteGroupsRequest -> DeleteGroupsResponse;
    IncrementalAlterConfigs: IncrementalAlterConfigsRequest -> IncrementalAlterConfigsResponse;
    OffsetDelete: OffsetDeleteRequest -> OffsetDeleteResponse;
    DescribeCluster: DescribeClusterRequest -> DescribeClusterResponse;
    ListConfigResources: ListConfigResourcesRequest -> ListConfigResourcesResponse;
    DescribeTopicPartitions: DescribeTopicPartitionsRequest -> DescribeTopicPartitionsResponse;
}

// for clients only: the broker has its own structs for these two
impl ColdRequest for kp::ProduceRequest {
    const API: ApiKey = ApiKey::Produce;
    type Response = kp::ProduceResponse;
}

impl ColdResponse for kp::ProduceResponse {
    const API: ApiKey = ApiKey::Produce;
}

impl ColdRequest for kp::FetchRequest {
    const API: ApiKey = ApiKey::Fetch;
    type Response = kp::FetchResponse;
}

impl ColdResponse for kp::FetchResponse {
    const API: ApiKey = ApiKey::Fetch;
}

/// A request body whose lengths and counts are those of bytes that are there.
#[derive(Debug)]
pub struct CheckedBody {
    api: ApiKey,
    version: i16,
    body: Bytes,
    elements: usize,
}

/// Proves the shape of a request body, once, before anything is decoded. The header's version is
/// served, or this is an error.
pub fn check_request(header: &RequestHeader, body: Bytes) -> Result<CheckedBody, DecodeError> {
    let RequestHeader { api, version, .. } = *header;
    if !api.serves(version) {
        return Err(DecodeError::UnsupportedVersion { api, version });
    }
    let elements = bounds::count_elements(api, version, &body)?;
    Ok(CheckedBody {
        api,
        version,
        body,
        elements,
    })
}

impl CheckedBody {
    /// Elements of all arrays together.
    pub const fn elements(&self) -> usize {
        self.elements
    }

    /// The request. Nothing but what it keeps of the body stays alive.
    pub fn decode(mut self) -> Result<Request, DecodeError> {
        let (api, version) = (self.api, self.version);
        match api {
            ApiKey::Produce => ProduceRequest::parse(version, &self.body).map(Request::Produce),
            ApiKey::Fetch => FetchRequest::parse(version, &self.body).map(Request::Fetch),
            _ => decode_generated(api, version, &mut self.body)
                .ok_or(DecodeError::Body { api, version }),
        }
    }
}

/// Checks and decodes a request body.
pub fn decode_request(header: &RequestHeader, body: &Bytes) -> Result<Request, DecodeError> {
    check_request(header, body.clone())?.decode()
}

/// Encodes a response frame: length, header, body. The response may be in the newest shape.
pub fn encode_response<R: ColdResponse>(
    version: i16,
    correlation_id: CorrelationId,
    mut response: R,
) -> Result<Bytes, EncodeError> {
    let api = R::API;
    response.fit(version);
    let mut out = BytesMut::new();
    out.put_i32(0);
    out.put_i32(correlation_id.get());
    if api.response_header_version(version) >= 1 {
        out.put_u8(0);
    }
    let written = if R::is_newer(version) {
        response.encode_newer(&mut out)
    } else {
        let generated = newer::generated(api, version);
        response.encode(&mut out, generated).ok()
    };
    written.ok_or(EncodeError::Body { api, version })?;
    seal_frame(out)
}

/// Encodes a request frame, as a client sends it.
pub fn encode_request<R: ColdRequest>(
    version: i16,
    correlation_id: CorrelationId,
    client_id: &str,
    request: &R,
) -> Result<Bytes, EncodeError> {
    let api = R::API;
    let mut out = BytesMut::new();
    out.put_i32(0);
    let header_version = api.request_header_version(version);
    kp::RequestHeader::default()
        .with_request_api_key(api.code())
        .with_request_api_version(version)
        .with_correlation_id(correlation_id.get())
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())))
        .encode(&mut out, header_version)
        .map_err(|_| EncodeError::Body { api, version })?;
    request
        .encode(&mut out, newer::generated(api, version))
        .map_err(|_| EncodeError::Body { api, version })?;
    seal_frame(out)
}

/// Decodes a response frame without its length, as a client gets it. The generated decoder trusts
/// the array lengths of the broker that the user chose to talk to.
pub fn decode_response<R: ColdResponse>(
    version: i16,
    frame: &Bytes,
) -> Result<(CorrelationId, R), DecodeError> {
    let api = R::API;
    let mut body = frame.clone();
    let header = kp::ResponseHeader::decode(&mut body, api.response_header_version(version));
    let header = header.map_err(|_| DecodeError::Body { api, version })?;
    if R::is_newer(version) {
        return Err(DecodeError::Body { api, version }); // our own clients do not ask for it
    }
    let generated = newer::generated(api, version);
    let response = R::decode(&mut body, generated);
    let response = response.map_err(|_| DecodeError::Body { api, version })?;
    Ok((CorrelationId(header.correlation_id), response))
}

fn seal_frame(mut out: BytesMut) -> Result<Bytes, EncodeError> {
    let length = out.len().saturating_sub(LENGTH_BYTES);
    let length = i32::try_from(length).map_err(|_| EncodeError::TooLong)?;
    let prefix = out
        .first_chunk_mut::<LENGTH_BYTES>()
        .ok_or(EncodeError::TooLong)?;
    *prefix = length.to_be_bytes();
    Ok(out.freeze())
}

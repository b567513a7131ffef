//! What clients send: frames, the bodies of every API and version, Produce and Fetch twice.

use bytes::{BufMut, Bytes, BytesMut};
use corelog::model::ids::{CorrelationId, TopicId};
use corelog::model::limits::REQUEST_BYTES_DEFAULT;
use corelog::wire::DecodeError;
use corelog::wire::api::ApiKey;
use corelog::wire::bounds::{self, Field, Kind};
use corelog::wire::frame::{LENGTH_BYTES, REQUEST_BYTES_MIN, frame_length};
use corelog::wire::header::RequestHeader;
use corelog::wire::messages::decode_request;
use corelog::wire::newer;
use corelog::wire::topic_ref::TopicRef;
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Decodable, Encodable};

use super::watch::frugal;

/// Requests of real clients, without their length.
fn captures() -> Vec<Vec<u8>> {
    let folder = super::repository().join("tests/data/wire");
    let entries = std::fs::read_dir(folder).expect("the captures are in the repository");
    let paths = entries.map(|entry| entry.expect("a directory entry").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .collect();
    paths.sort();
    let frames = paths.iter().map(|path| {
        let text = std::fs::read_to_string(path).expect("a text file");
        from_hex(&text)
    });
    frames.collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.chars().filter_map(|digit| digit.to_digit(16));
    let digits: Vec<u8> = digits
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    let pairs = digits.chunks_exact(2);
    pairs.map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A body of the given shape: two elements in every array, something in every string.
fn sample_body(api: ApiKey, version: i16) -> Vec<u8> {
    let mut out = Vec::new();
    let is_flexible = api.is_flexible(version);
    put_fields(&mut out, bounds::request_schema(api), version, is_flexible);
    out
}

fn put_fields(out: &mut Vec<u8>, fields: &[Field], version: i16, is_flexible: bool) {
    for field in fields.iter().filter(|field| field.is_in(version)) {
        put_value(out, field.kind, version, is_flexible);
    }
    out.extend(is_flexible.then_some(0)); // no tagged fields
}

fn put_value(out: &mut Vec<u8>, kind: Kind, version: i16, is_flexible: bool) {
    match kind {
        // 1 is a legal boolean and number, and says that a structure is there
        Kind::Fixed(size) => out.resize(out.len() + size, 1),
        Kind::String if is_flexible => out.extend([3, b'a', b'b']),
        Kind::String => out.extend([0, 2, b'a', b'b']),
        Kind::Bytes if is_flexible => out.extend([3, 7, 8]),
        Kind::Bytes => out.extend([0, 0, 0, 2, 7, 8]),
        Kind::Array(element) => {
            out.extend_from_slice(if is_flexible { &[3] } else { &[0, 0, 0, 2] });
            put_value(out, *element, version, is_flexible);
            put_value(out, *element, version, is_flexible);
        }
        Kind::Struct(fields) => put_fields(out, fields, version, is_flexible),
        Kind::NullableStruct(fields) => {
            out.push(1);
            put_fields(out, fields, version, is_flexible);
        }
    }
}

fn header(api: ApiKey, version: i16) -> RequestHeader {
    RequestHeader {
        api,
        version,
        correlation_id: CorrelationId(1),
        client_id: None,
    }
}

/// Decodes a body as the broker does, and as kafka-protocol does; says whether it is accepted.
fn check_body(api: ApiKey, version: i16, body: &Bytes) -> bool {
    let request = frugal(body.len(), || decode_request(&header(api, version), body));
    let shape = frugal(0, || bounds::check(api, version, body));
    match api {
        ApiKey::Produce => produce::compare(version, body, shape.is_ok()),
        ApiKey::Fetch => fetch::compare(version, body, shape.is_ok()),
        _ => {
            let consumed = shape.ok().map(|_| generated(api, version, body));
            let expected = consumed.flatten();
            assert_eq!(request.is_ok(), expected.is_some(), "{api} {version}");
            if let Some(consumed) = expected {
                // what the walk has proved is all that the generated decoder looks at
                assert_eq!(shape, Ok(consumed), "{api} {version}");
            }
        }
    }
    if let Ok(request) = &request {
        assert_eq!(request.api(), api);
    }
    request.is_ok()
}

/// The bytes that the generated decoder reads; what it read is written and read again.
fn generated(api: ApiKey, version: i16, body: &Bytes) -> Option<usize> {
    with_generated_request!(api, round_trip(api, version, body))
}

fn round_trip<R>(api: ApiKey, version: i16, body: &Bytes) -> Option<usize>
where
    R: Decodable + Encodable + PartialEq + std::fmt::Debug,
{
    let generated = newer::generated(api, version);
    let mut rest = body.clone();
    let request = R::decode(&mut rest, generated).ok()?;
    let consumed = body.len() - rest.len();
    if may_have_negative_tags(body) && format!("{request:?}").contains("unknown_tagged_fields: {-")
    {
        // The generated encoder counts the tags that nobody knows, and leaves out those from 2^31
        // on, which are negative to it. This crate never sends any.
        return Some(consumed);
    }
    let mut out = BytesMut::new();
    // a field that is not in this version is the only reason not to encode, and none was read
    request
        .encode(&mut out, generated)
        .expect("what was decoded can be encoded");
    let again = R::decode(&mut out.freeze(), generated);
    assert_eq!(again.expect("what was encoded can be decoded"), request);
    Some(consumed)
}

/// Whether a varint of 2^31 or more is anywhere in the bytes.
fn may_have_negative_tags(body: &[u8]) -> bool {
    let large = |five: &[u8]| five[..4].iter().all(|byte| byte & 0x80 != 0) && five[4] & 8 != 0;
    body.windows(5).any(large)
}

fn same_topic(ours: &TopicRef, name: &str, id: uuid::Uuid) {
    match ours {
        TopicRef::Name(ours) => assert_eq!(&**ours, name),
        TopicRef::Id(ours) => assert_eq!(*ours, TopicId::from_bytes(*id.as_bytes())),
    }
}

/// Version and body of an input: the first byte counts through the versions.
fn split_version(api: ApiKey, bytes: &[u8]) -> Option<(i16, Bytes)> {
    let (first, body) = bytes.split_first()?;
    let versions: Vec<i16> = api.versions().collect();
    let version = versions[usize::from(*first) % versions.len()];
    Some((version, Bytes::copy_from_slice(body)))
}

/// Inputs of one API: the shape of each version, and what clients sent.
fn samples_of(api: ApiKey) -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for (number, version) in (0..).zip(api.versions()) {
        samples.push([vec![number], sample_body(api, version)].concat());
        for capture in captures() {
            let frame = Bytes::from(capture);
            let (header, body) = RequestHeader::parse(&frame).expect("a served request");
            if (header.api, header.version) == (api, version) {
                samples.push([&[number], &body[..]].concat());
            }
        }
    }
    samples
}

/// Length, header and body, as they come from a socket.
pub(crate) mod frame {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Some((prefix, frame)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return false;
        };
        let length = frame_length(*prefix, REQUEST_BYTES_DEFAULT);
        if let Ok(length) = length {
            assert!((REQUEST_BYTES_MIN..=REQUEST_BYTES_DEFAULT).contains(&length));
        }
        // a connection would have waited for the bytes: they are looked at as if they were all
        let frame = Bytes::copy_from_slice(frame);
        let parsed = frugal(0, || RequestHeader::parse(&frame));
        let Ok((header, body)) = parsed else {
            return false;
        };
        if !header.is_supported() {
            assert!(header.api == ApiKey::ApiVersions && body.is_empty());
            return decode_request(&header, &body).is_ok();
        }
        assert!(
            frame.ends_with(&body),
            "the body is what follows the header"
        );
        let again = encode_header(&header);
        assert_eq!(
            RequestHeader::parse(&again),
            Ok((header.clone(), Bytes::new()))
        );
        check_body(header.api, header.version, &body) && length == Ok(frame.len())
    }

    fn encode_header(header: &RequestHeader) -> Bytes {
        let mut out = BytesMut::new();
        kp::RequestHeader::default()
            .with_request_api_key(header.api.code())
            .with_request_api_version(header.version)
            .with_correlation_id(header.correlation_id.get())
            .with_client_id(header.client_id.clone())
            .encode(&mut out, header.api.request_header_version(header.version))
            .expect("a header is encoded in any version");
        out.freeze()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let with_length = |frame: Vec<u8>| {
            let length = u32::try_from(frame.len()).expect("a small frame");
            [&length.to_be_bytes()[..], &frame].concat()
        };
        captures().into_iter().map(with_length).collect()
    }
}

/// The body of any API in any version: the first byte counts through all of them.
pub(crate) mod request {
    use super::*;

    fn all() -> Vec<(ApiKey, i16)> {
        let versions = |api: &ApiKey| {
            let api = *api;
            api.versions().map(move |version| (api, version))
        };
        ApiKey::ALL.iter().flat_map(versions).collect()
    }

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Some((first, body)) = bytes.split_first() else {
            return false;
        };
        let all = all();
        assert!(
            all.len() <= 256,
            "one byte counts through {} versions",
            all.len()
        );
        let (api, version) = all[usize::from(*first) % all.len()];
        check_body(api, version, &Bytes::copy_from_slice(body))
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let body = |(number, (api, version))| [vec![number], sample_body(api, version)].concat();
        (0..=u8::MAX).zip(all()).map(body).collect()
    }
}

/// Produce, by this crate's parser and by the generated one.
pub(crate) mod produce {
    use super::*;
    use corelog::wire::produce::ProduceRequest;
    use kp::produce_request::{PartitionProduceData, TopicProduceData};

    pub(crate) fn check(bytes: &[u8]) -> bool {
        split_version(ApiKey::Produce, bytes)
            .is_some_and(|(version, body)| check_body(ApiKey::Produce, version, &body))
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        samples_of(ApiKey::Produce)
    }

    /// Both accept the same bytes, and read the same of them.
    pub(super) fn compare(version: i16, body: &Bytes, has_shape: bool) {
        let ours = ProduceRequest::parse(version, body);
        if !has_shape {
            // the generated decoder must not see it; the walk speaks for it
            assert!(ours.is_err(), "version {version}: {ours:?}");
            return;
        }
        let theirs = kp::ProduceRequest::decode(&mut body.clone(), version);
        let (ours, theirs) = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Err(_), Err(_)) => return,
            (ours, theirs) => panic!("version {version}: {ours:?}, but {theirs:?}"),
        };
        let id = theirs.transactional_id.as_ref().map(|id| id.0.clone());
        assert_eq!(ours.transactional_id, id);
        assert_eq!(
            (ours.acks, ours.timeout_ms),
            (theirs.acks, theirs.timeout_ms)
        );
        assert_eq!(ours.topics.len(), theirs.topic_data.len());
        for (ours, theirs) in ours.topics.iter().zip(&theirs.topic_data) {
            same_topic(&ours.topic, &theirs.name.0, theirs.topic_id);
            let theirs = theirs.partition_data.iter();
            let theirs: Vec<_> = theirs.map(|one| (one.index, one.records.clone())).collect();
            let ours = ours.partitions.iter();
            let ours: Vec<_> = ours
                .map(|one| (one.index.get(), one.records.clone()))
                .collect();
            assert_eq!(ours, theirs);
        }
        let again = ProduceRequest::parse(version, &encode(version, &ours));
        assert_eq!(again.as_ref(), Ok(&ours), "version {version}");
    }

    fn encode(version: i16, request: &ProduceRequest) -> Bytes {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                PartitionProduceData::default()
                    .with_index(partition.index.get())
                    .with_records(partition.records.clone())
            });
            let data = TopicProduceData::default().with_partition_data(partitions.collect());
            match &topic.topic {
                TopicRef::Name(name) => data.with_name(kp::TopicName(name.clone())),
                TopicRef::Id(id) => data.with_topic_id(uuid::Uuid::from_bytes(*id.as_bytes())),
            }
        });
        let mut out = BytesMut::new();
        kp::ProduceRequest::default()
            .with_transactional_id(request.transactional_id.clone().map(Into::into))
            .with_acks(request.acks)
            .with_timeout_ms(request.timeout_ms)
            .with_topic_data(topics.collect())
            .encode(&mut out, version)
            .expect("the fields of this version");
        out.freeze()
    }
}

/// Fetch, by this crate's parser and by the generated one.
pub(crate) mod fetch {
    use super::*;
    use corelog::wire::fetch::{FetchPartition, FetchRequest};

    pub(crate) fn check(bytes: &[u8]) -> bool {
        split_version(ApiKey::Fetch, bytes)
            .is_some_and(|(version, body)| check_body(ApiKey::Fetch, version, &body))
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let mut samples = samples_of(ApiKey::Fetch);
        // the tagged fields that are known, in the last version
        let last = samples.last().expect("a version").clone();
        let tagged = [&last[..last.len() - 1], &tags()[..]].concat();
        samples.push(tagged);
        samples
    }

    /// Cluster id "c"; replica 5 of epoch 6.
    fn tags() -> Vec<u8> {
        let mut out = vec![2, 0, 2, 2, b'c', 1, 13];
        out.put_i32(5);
        out.put_i64(6);
        out.put_u8(0);
        out
    }

    /// Both accept the same bytes, and read the same of them.
    pub(super) fn compare(version: i16, body: &Bytes, has_shape: bool) {
        let ours = FetchRequest::parse(version, body);
        if !has_shape {
            assert!(ours.is_err(), "version {version}: {ours:?}");
            return;
        }
        let is_in_a_tag = ours.as_ref().is_err_and(|error| {
            !matches!(error, DecodeError::Null { .. } | DecodeError::Utf8 { .. })
        });
        if is_in_a_tag {
            // The walk has seen all lengths but those inside of tags that are known. The generated
            // decoder never compares the size of a tag with what it reads, and would go on at
            // another place: with 51 GB for an array that is none.
            return;
        }
        let theirs = kp::FetchRequest::decode(&mut body.clone(), version);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => same(version, &ours, &theirs),
            (Err(_), Err(_)) => {}
            // a tag of a later version is one that is not known: it is passed over here
            (Ok(_), Err(error)) if error.to_string().contains("is not valid for version") => {}
            (ours, theirs) => panic!("version {version}: {ours:?}, but {theirs:?}"),
        }
    }

    fn same(version: i16, ours: &FetchRequest, theirs: &kp::FetchRequest) {
        let (replica, epoch) = if version >= 15 {
            let state = &theirs.replica_state;
            (state.replica_id.0, state.replica_epoch)
        } else {
            (theirs.replica_id.0, -1)
        };
        assert_eq!(
            (ours.replica_id.get(), ours.replica_epoch),
            (replica, epoch)
        );
        assert_eq!(
            (ours.max_wait_ms, ours.min_bytes, ours.max_bytes),
            (theirs.max_wait_ms, theirs.min_bytes, theirs.max_bytes)
        );
        assert_eq!(ours.isolation_level, theirs.isolation_level);
        assert_eq!(
            (ours.session_id, ours.session_epoch),
            (theirs.session_id, theirs.session_epoch)
        );
        assert_eq!(
            (&ours.rack_id, &ours.cluster_id),
            (&theirs.rack_id, &theirs.cluster_id)
        );
        assert_eq!(ours.topics.len(), theirs.topics.len());
        for (ours, theirs) in ours.topics.iter().zip(&theirs.topics) {
            same_topic(&ours.topic, &theirs.topic.0, theirs.topic_id);
            assert_eq!(ours.partitions.len(), theirs.partitions.len());
            for (ours, theirs) in ours.partitions.iter().zip(&theirs.partitions) {
                same_partition(ours, theirs);
            }
        }
        assert_eq!(
            ours.forgotten_topics.len(),
            theirs.forgotten_topics_data.len()
        );
        for (ours, theirs) in ours
            .forgotten_topics
            .iter()
            .zip(&theirs.forgotten_topics_data)
        {
            same_topic(&ours.topic, &theirs.topic.0, theirs.topic_id);
            let partitions: Vec<i32> = ours.partitions.iter().map(|index| index.get()).collect();
            assert_eq!(partitions, theirs.partitions);
        }
    }

    fn same_partition(ours: &FetchPartition, theirs: &kp::fetch_request::FetchPartition) {
        assert_eq!(
            (
                ours.index.get(),
                ours.fetch_offset,
                ours.partition_max_bytes
            ),
            (
                theirs.partition,
                theirs.fetch_offset,
                theirs.partition_max_bytes
            )
        );
        assert_eq!(
            (
                ours.current_leader_epoch.get(),
                ours.last_fetched_epoch.get()
            ),
            (theirs.current_leader_epoch, theirs.last_fetched_epoch)
        );
        assert_eq!(ours.log_start_offset, theirs.log_start_offset);
        assert_eq!(ours.replica_directory_id, theirs.replica_directory_id);
        assert_eq!(ours.high_watermark, theirs.high_watermark);
    }
}

//! Every array of every served version, asked for with 2^31-1 elements: refused, and nothing
//! reserved.
//!
//! Requests are generated from the schemas of `wire::bounds` with two elements in every array. That
//! the schemas are right is shown by the generated decoder and encoder, which must read all of the
//! bytes and write the same ones. Then each length is bent, one at a time, with an allocator that
//! watches.

#[macro_use]
#[path = "../fuzz/src/decoders/generated.rs"]
mod generated;
mod support;
#[expect(dead_code, reason = "the limits are for decoders of any bytes")]
#[path = "../fuzz/src/decoders/watch.rs"]
mod watch;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};
use corelog::model::ids::CorrelationId;
use corelog::wire::DecodeError;
use corelog::wire::api::ApiKey;
use corelog::wire::bounds::{self, Field, Kind};
use corelog::wire::header::RequestHeader;
use corelog::wire::messages::decode_request;
use corelog::wire::newer;
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Decodable, Encodable};
use watch::largest_allocation;

#[global_allocator]
static ALLOCATOR: watch::Watching = watch::Watching;

#[derive(Clone, Copy, Debug, PartialEq)]
enum LengthKind {
    Array,
    String,
    Bytes,
    Tags,
}

/// A request body and where its lengths are.
struct Sample {
    bytes: Vec<u8>,
    /// Position, bytes of the length field, what it counts.
    lengths: Vec<(usize, usize, LengthKind)>,
}

fn sample(api: ApiKey, version: i16) -> Sample {
    let mut sample = Sample {
        bytes: Vec::new(),
        lengths: Vec::new(),
    };
    let is_flexible = api.is_flexible(version);
    sample.fields(bounds::request_schema(api), version, is_flexible);
    sample
}

impl Sample {
    fn length(&mut self, kind: LengthKind, length: u8, is_flexible: bool) {
        let field = match (kind, is_flexible) {
            (LengthKind::Tags, false) => return,
            (LengthKind::Tags, true) => vec![length],
            (_, true) => vec![length + 1],
            (LengthKind::String, false) => vec![0, length],
            (LengthKind::Array | LengthKind::Bytes, false) => vec![0, 0, 0, length],
        };
        self.lengths.push((self.bytes.len(), field.len(), kind));
        self.bytes.extend_from_slice(&field);
    }

    fn fields(&mut self, fields: &[Field], version: i16, is_flexible: bool) {
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.value(field.kind, version, is_flexible);
        }
        self.length(LengthKind::Tags, 0, is_flexible);
    }

    fn value(&mut self, kind: Kind, version: i16, is_flexible: bool) {
        match kind {
            // 1 is a legal boolean, number and tag of a struct that is there
            Kind::Fixed(size) => self.bytes.extend_from_slice(&vec![1; size]),
            Kind::String => {
                self.length(LengthKind::String, 2, is_flexible);
                self.bytes.extend_from_slice(b"ab");
            }
            Kind::Bytes => {
                self.length(LengthKind::Bytes, 3, is_flexible);
                self.bytes.extend_from_slice(b"xyz");
            }
            Kind::Array(element) => {
                self.length(LengthKind::Array, 2, is_flexible);
                self.value(*element, version, is_flexible);
                self.value(*element, version, is_flexible);
            }
            Kind::Struct(fields) => self.fields(fields, version, is_flexible),
            Kind::NullableStruct(fields) => {
                self.bytes.push(1);
                self.fields(fields, version, is_flexible);
            }
        }
    }

    /// The body with one length replaced by the largest that its field can say (2^31-1 for arrays).
    fn bent(&self, (at, size, kind): (usize, usize, LengthKind), is_flexible: bool) -> Bytes {
        let mut bytes = self.bytes.clone();
        let huge: &[u8] = match (kind, is_flexible) {
            // 2^31-1 elements, and one more for the compact form
            (LengthKind::Array | LengthKind::Bytes | LengthKind::String, true) => {
                &[0x80, 0x80, 0x80, 0x80, 0x08]
            }
            (LengthKind::Tags, _) => &[0xff, 0xff, 0xff, 0xff, 0x07],
            (LengthKind::String, false) => &[0x7f, 0xff],
            (LengthKind::Array | LengthKind::Bytes, false) => &[0x7f, 0xff, 0xff, 0xff],
        };
        bytes.splice(at..at + size, huge.iter().copied());
        Bytes::from(bytes)
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

fn round_trip<R: Decodable + Encodable>(version: i16, body: &Bytes) -> (usize, Bytes) {
    let mut rest = body.clone();
    let request = R::decode(&mut rest, version).expect("the schema's bytes are a request");
    let mut out = BytesMut::new();
    request
        .encode(&mut out, version)
        .expect("what was decoded can be encoded");
    (rest.len(), out.freeze())
}

fn generated_round_trip(api: ApiKey, version: i16, body: &Bytes) -> (usize, Bytes) {
    let version = newer::generated(api, version);
    with_generated_request!(api, round_trip(version, body))
}

#[test]
fn the_schemas_describe_what_the_generated_code_reads_and_writes() {
    for api in ApiKey::ALL {
        for version in api.versions() {
            let body = Bytes::from(sample(*api, version).bytes);
            let (left, again) = generated_round_trip(*api, version, &body);
            assert_eq!(left, 0, "{api} v{version} reads less than the schema");
            assert_eq!(again, body, "{api} v{version} writes something else");
            assert_eq!(
                bounds::check(*api, version, &body),
                Ok(body.len()),
                "{api} v{version}"
            );
            let request = decode_request(&header(*api, version), &body);
            assert_eq!(request.expect("a legal request").api(), *api);
        }
    }
}

#[test]
fn no_length_of_any_version_reserves_more_than_the_request_could_hold() {
    let mut bent_arrays = 0;
    for api in ApiKey::ALL {
        for version in api.versions() {
            let sample = sample(*api, version);
            for length in &sample.lengths {
                let body = sample.bent(*length, api.is_flexible(version));
                let work = || decode_request(&header(*api, version), &body);
                let (largest, result) = largest_allocation(work);
                let error = result.expect_err("a length beyond the bytes is refused");
                let is_expected = match length.2 {
                    LengthKind::Array => matches!(error, DecodeError::ArrayTooLong { .. }),
                    LengthKind::Tags => matches!(error, DecodeError::TooManyTags { .. }),
                    LengthKind::String | LengthKind::Bytes => {
                        matches!(error, DecodeError::Truncated { .. })
                    }
                };
                assert!(is_expected, "{api} v{version} {length:?}: {error}");
                assert!(
                    largest <= 4096,
                    "{api} v{version} {length:?}: {largest} bytes reserved"
                );
                bent_arrays += usize::from(length.2 == LengthKind::Array);
            }
        }
    }
    assert!(bent_arrays > 300, "only {bent_arrays} arrays were tried");
}

#[test]
fn a_broker_closes_the_connection_on_every_array_that_is_too_long() {
    let dir = support::directory();
    let mut broker = support::Launch::new(dir.path()).start();
    for api in ApiKey::ALL {
        for version in api.versions() {
            let sample = sample(*api, version);
            let is_flexible = api.is_flexible(version);
            let arrays = sample.lengths.iter();
            for array in arrays.filter(|(.., kind)| *kind == LengthKind::Array) {
                let mut frame = vec![0; 4];
                frame.extend(api.code().to_be_bytes());
                frame.extend(version.to_be_bytes());
                frame.extend(1_i32.to_be_bytes());
                frame.extend((-1_i16).to_be_bytes()); // no client id
                frame.extend(is_flexible.then_some(0)); // no tagged fields
                frame.extend(sample.bent(*array, is_flexible));
                let length = u32::try_from(frame.len() - 4).expect("small");
                frame[..4].copy_from_slice(&length.to_be_bytes());
                let mut stream = TcpStream::connect(broker.launch().address()).expect("accepted");
                let limit = Some(support::client::LIMIT);
                stream.set_read_timeout(limit).expect("valid");
                stream.write_all(&frame).expect("taken");
                let mut answer = Vec::new();
                let closed = stream.read_to_end(&mut answer);
                assert!(
                    closed.is_ok() && answer.is_empty(),
                    "{api} v{version} {array:?}"
                );
            }
        }
        assert!(
            broker.is_running(),
            "{api} ended the broker: {}",
            broker.said()
        );
    }
}

#[test]
fn every_truncation_of_every_version_is_refused() {
    for api in ApiKey::ALL {
        for version in api.versions() {
            let body = Bytes::from(sample(*api, version).bytes);
            for end in 0..body.len() {
                let result = decode_request(&header(*api, version), &body.slice(..end));
                assert!(
                    result.is_err(),
                    "{api} v{version} cut to {end} of {}",
                    body.len()
                );
            }
        }
    }
}

/// A generator of the same numbers in every run.
fn random_numbers() -> impl FnMut() -> u64 {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    }
}

#[test]
fn any_frame_is_survived_from_its_first_byte() {
    let mut next = random_numbers();
    let mut decoded = 0;
    for round in 0..200_000 {
        let length = usize::try_from(next() % 60).expect("a length");
        let mut frame: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0] % 3).collect();
        // an API and a version that may exist, or else nearly nothing passes the header
        if let (true, Some(key)) = (round % 8 != 0, frame.get_mut(..4)) {
            let api = ApiKey::ALL[usize::try_from(next()).expect("an index") % ApiKey::ALL.len()];
            key[..2].copy_from_slice(&api.code().to_be_bytes());
            key[2..].copy_from_slice(&[0, next().to_le_bytes()[0] % 14]);
        }
        let frame = Bytes::from(frame);
        let work = || {
            let (header, body) = RequestHeader::parse(&frame)?;
            decode_request(&header, &body)
        };
        let (largest, result) = largest_allocation(work);
        assert!(largest <= 64 * 1024, "{largest} bytes for {frame:?}");
        decoded += u32::from(result.is_ok());
    }
    assert!(decoded > 1000, "the frames are too wild: {decoded} decoded");
}

#[test]
fn any_bytes_are_survived_and_reserve_little() {
    let mut next = random_numbers();
    let mut accepted = 0;
    for api in ApiKey::ALL {
        for version in api.versions() {
            let sample = sample(*api, version);
            for _ in 0..300 {
                let mut bytes = sample.bytes.clone();
                for _ in 0..=(next() % 4) {
                    let length = u64::try_from(bytes.len()).expect("a length");
                    if let Some(at) = next().checked_rem(length) {
                        let at = usize::try_from(at).expect("an index");
                        bytes[at] = next().to_le_bytes()[0];
                    }
                }
                let body = Bytes::from(bytes);
                let work = || decode_request(&header(*api, version), &body).is_ok();
                let (largest, is_ok) = largest_allocation(work);
                assert!(
                    largest <= 64 * 1024,
                    "{api} v{version}: {largest} bytes for {body:?}"
                );
                accepted += u32::from(is_ok);
            }
        }
    }
    assert!(
        accepted > 1000,
        "the mutations are too coarse: {accepted} accepted"
    );
}

//! Request headers: which API, which version, whose answer.
//!
//! ```text
//! i16 api key | i16 version | i32 correlation id | i16 length (-1 null) client id
//! | tagged fields (v2)
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: total; the client id keeps its two-byte length even where everything else is compact.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::model::ids::CorrelationId;
use crate::wire::DecodeError;
use crate::wire::api::ApiKey;
use crate::wire::reader::Reader;

/// What stands before every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which API.
    pub api: ApiKey,
    /// Of the request and of its response.
    pub version: i16,
    /// Comes back in the response.
    pub correlation_id: CorrelationId,
    /// What the client calls itself; for logs, quotas and group members.
    pub client_id: Option<StrBytes>,
}

impl RequestHeader {
    /// Splits a frame (without its length) into header and body.
    ///
    /// An API that is not served and a version outside the range are errors: the connection is
    /// closed, as Kafka does. The exception is `ApiVersions`: any version of it passes, without a
    /// body, and `is_supported` says no; the answer is `api_versions::encode_unsupported`.
    pub fn parse(frame: &Bytes) -> Result<(Self, Bytes), DecodeError> {
        let mut reader = Reader::new(frame, false);
        let key = reader.i16()?;
        let version = reader.i16()?;
        let correlation_id = CorrelationId(reader.i32()?);
        let api = ApiKey::from_code(key).ok_or(DecodeError::UnknownApi { key })?;
        if !api.serves(version) {
            if api == ApiKey::ApiVersions {
                let header = Self {
                    api,
                    version,
                    correlation_id,
                    client_id: None,
                };
                return Ok((header, Bytes::new()));
            }
            return Err(DecodeError::UnsupportedVersion { api, version });
        }
        let client_id = reader.nullable_string()?;
        if api.request_header_version(version) >= 2 {
            reader.set_flexible(true);
            reader.skip_tags()?;
        }
        Ok((
            Self {
                api,
                version,
                correlation_id,
                client_id,
            },
            reader.into_rest(),
        ))
    }

    /// Whether the version is served; only `ApiVersions` can come with another one.
    pub const fn is_supported(&self) -> bool {
        self.api.serves(self.version)
    }

    /// The client id for logs: empty when there is none.
    pub fn client_id_or_empty(&self) -> &str {
        self.client_id.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::RequestHeader as Generated;
    use kafka_protocol::protocol::Encodable;

    fn frame(api: ApiKey, version: i16, client_id: Option<&'static str>) -> Bytes {
        let mut out = BytesMut::new();
        Generated::default()
            .with_request_api_key(api.code())
            .with_request_api_version(version)
            .with_correlation_id(77)
            .with_client_id(client_id.map(StrBytes::from_static_str))
            .encode(&mut out, api.request_header_version(version))
            .unwrap();
        out.extend_from_slice(b"body");
        out.freeze()
    }

    #[test]
    fn headers_of_every_api_and_version_are_read() {
        for api in ApiKey::ALL {
            for version in api.versions() {
                for client_id in [None, Some(""), Some("kcat")] {
                    let frame = frame(*api, version, client_id);
                    let (header, body) = RequestHeader::parse(&frame).unwrap();
                    assert_eq!((header.api, header.version), (*api, version));
                    assert_eq!(header.correlation_id, CorrelationId(77));
                    assert_eq!(header.client_id.as_deref(), client_id);
                    assert_eq!(&body[..], b"body");
                    assert!(header.is_supported());
                }
            }
        }
    }

    #[test]
    fn golden_header_of_librdkafka_api_versions_v3() {
        // captured form: key 18, version 3, correlation 1, "rdkafka", no tags, then the body
        let frame = Bytes::from_static(b"\0\x12\0\x03\0\0\0\x01\0\x07rdkafka\0\x0blibrdkafka");
        let (header, body) = RequestHeader::parse(&frame).unwrap();
        assert_eq!(header.client_id_or_empty(), "rdkafka");
        assert_eq!(&body[..], b"\x0blibrdkafka");
    }

    #[test]
    fn unknown_keys_and_versions_are_refused_but_api_versions_passes() {
        let bytes = |key: i16, version: i16| {
            let mut out = key.to_be_bytes().to_vec();
            out.extend_from_slice(&version.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 5, 0xff, 0xff]);
            Bytes::from(out)
        };
        assert_eq!(
            RequestHeader::parse(&bytes(999, 0)),
            Err(DecodeError::UnknownApi { key: 999 })
        );
        assert_eq!(
            RequestHeader::parse(&bytes(0, 2)),
            Err(DecodeError::UnsupportedVersion {
                api: ApiKey::Produce,
                version: 2
            })
        );
        for version in [5, 127, -1] {
            let (header, body) = RequestHeader::parse(&bytes(18, version)).unwrap();
            assert!(!header.is_supported());
            assert_eq!(header.correlation_id, CorrelationId(5));
            assert!(body.is_empty());
        }
    }

    #[test]
    fn unknown_tags_are_skipped_and_counts_are_bounded() {
        let with_tags = |tags: &[u8]| {
            let mut out = vec![0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff];
            out.extend_from_slice(tags);
            Bytes::from(out)
        };
        let (_, body) = RequestHeader::parse(&with_tags(&[1, 9, 2, 7, 7, 42])).unwrap();
        assert_eq!(&body[..], &[42]);
        for tags in [
            &[5, 0, 0][..],
            &[0xff, 0xff, 0xff, 0xff, 15, 0],
            &[1, 0, 9],
            &[0x80],
            &[],
        ] {
            assert!(RequestHeader::parse(&with_tags(tags)).is_err(), "{tags:?}");
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_an_empty_body() {
        let whole = frame(ApiKey::Metadata, 12, Some("client"));
        let header_len = whole.len() - 4;
        for end in 0..header_len {
            assert!(RequestHeader::parse(&whole.slice(..end)).is_err(), "{end}");
        }
    }
}

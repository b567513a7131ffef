//! The first exchange of every connection, with the exceptions that only it has.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a client newer than the broker gets an answer it can read: version 0, error 35, and
//! the range of `ApiVersions` itself, so that it asks again with a version both know.

use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::protocol::StrBytes;

use crate::model::error_code::ErrorCode;
use crate::model::ids::CorrelationId;
use crate::wire::EncodeError;
use crate::wire::api::{ApiKey, ApiSpec};
use crate::wire::messages::encode_response;

/// A versioned capability of the cluster (KIP-584).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name, as `metadata.version`.
    pub name: &'static str,
    /// Lowest level this broker supports.
    pub min: i16,
    /// Highest level this broker supports.
    pub max: i16,
    /// Level in force; 0 is off, and not announced.
    pub finalized: i16,
}

/// The response for a request of a served version: the table of `api.rs` and these features.
pub fn response(version: i16, features: &[Feature]) -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse::default()
        .with_api_keys(ApiKey::ALL.iter().map(|k| line(*k)).collect());
    if version < 3 {
        return response;
    }
    response.supported_features = features
        .iter()
        .filter_map(|feature| supported(version, feature))
        .collect();
    response.finalized_features = features
        .iter()
        .filter(|feature| feature.finalized > 0)
        .map(|feature| {
            FinalizedFeatureKey::default()
                .with_name(StrBytes::from_static_str(feature.name))
                .with_max_version_level(feature.finalized)
                .with_min_version_level(feature.finalized)
        })
        .collect();
    response.finalized_features_epoch = 0;
    response
}

fn line(key: ApiKey) -> ApiVersion {
    let spec: &ApiSpec = key.spec();
    ApiVersion::default()
        .with_api_key(key.code())
        .with_min_version(spec.announced_min())
        .with_max_version(spec.max)
}

/// Before version 4, Java clients throw on a feature whose lowest level is 0: it is raised to 1.
fn supported(version: i16, feature: &Feature) -> Option<SupportedFeatureKey> {
    let min = if version < 4 {
        feature.min.max(1)
    } else {
        feature.min
    };
    (min <= feature.max).then(|| {
        SupportedFeatureKey::default()
            .with_name(StrBytes::from_static_str(feature.name))
            .with_min_version(min)
            .with_max_version(feature.max)
    })
}

/// The frame that answers a request of a version that is not served.
pub fn encode_unsupported(correlation_id: CorrelationId) -> Result<Bytes, EncodeError> {
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![line(ApiKey::ApiVersions)]);
    encode_response(0, correlation_id, response)
}

/// Whether a client's software name or version (from version 3 on) is one that Kafka takes: letters
/// and digits, with `-` and `.` inside. Others are answered with `INVALID_REQUEST`.
pub fn is_valid_software_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    is_edge(bytes.first()) && is_edge(bytes.last()) && bytes.iter().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::messages::decode_response;

    #[test]
    fn golden_answer_to_an_unknown_version() {
        let frame = encode_unsupported(CorrelationId(9)).unwrap();
        assert_eq!(
            &frame[..],
            [
                0, 0, 0, 16, 0, 0, 0, 9, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4
            ]
        );
    }

    #[test]
    fn the_response_header_has_no_tags_in_any_version() {
        for version in ApiKey::ApiVersions.versions() {
            let frame = encode_response(version, CorrelationId(1), response(version, &[])).unwrap();
            let (_, back): (_, ApiVersionsResponse) =
                decode_response(version, &frame.slice(4..)).unwrap();
            assert_eq!(back.api_keys.len(), ApiKey::ALL.len());
            let produce = back.api_keys.first().unwrap();
            assert_eq!((produce.min_version, produce.max_version), (0, 13));
        }
    }

    #[test]
    fn features_with_level_zero_are_raised_before_version_4() {
        let features = [
            Feature {
                name: "metadata.version",
                min: 7,
                max: 29,
                finalized: 29,
            },
            Feature {
                name: "group.version",
                min: 0,
                max: 1,
                finalized: 0,
            },
            Feature {
                name: "transaction.version",
                min: 0,
                max: 0,
                finalized: 0,
            },
        ];
        let old = response(3, &features);
        let pairs: Vec<_> = old
            .supported_features
            .iter()
            .map(|f| (f.min_version, f.max_version))
            .collect();
        assert_eq!(pairs, [(7, 29), (1, 1)]);
        assert_eq!(old.finalized_features.len(), 1);
        assert_eq!(response(4, &features).supported_features.len(), 3);
        assert!(response(2, &features).supported_features.is_empty());
    }

    #[test]
    fn software_texts_follow_kafkas_pattern() {
        for text in [
            "a",
            "librdkafka",
            "2.0.2",
            "apache-kafka-java",
            "confluent-kafka-python-rdkafka",
        ] {
            assert!(is_valid_software_text(text), "{text}");
        }
        for text in ["", "-a", "a.", "a b", "caf\u{e9}", "a_b", "."] {
            assert!(!is_valid_software_text(text), "{text}");
        }
    }
}

//! THE table of served APIs: what `ApiVersions` announces, what requests are accepted, what the
//! README lists.
//!
//! Pure: no async, no clock, no IO.
//! Invariants: [api-table] what is announced is served in full, with one exception that Kafka makes
//! too: Produce is announced from version 0, because old librdkafka takes that as the sign that
//! compression works, and refused below version 3.
//! Ranges are Kafka 4.3's, as far as the generated structs, or `wire::newer`, have the versions;
//! the table keeps both.

use std::fmt;
use std::fmt::Write as _;

macro_rules! apis {
    ($($variant:ident = $key:literal,
        serves $min:literal..=$max:literal,
        kafka $kafka_min:literal..=$kafka_max:literal,
        flexible $flexible:expr;)*) => {
        /// The served APIs.
        #[expect(missing_docs, reason = "the variants are Kafka's names of its APIs")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($variant = $key,)*
        }

        impl ApiKey {
            /// Every served API, ascending by key.
            pub const ALL: &'static [ApiKey] = &[$(ApiKey::$variant,)*];

            /// The API of a number on the wire, when it is served.
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($key => Some(ApiKey::$variant),)*
                    _ => None,
                }
            }

            /// The API's line of the table.
            pub const fn spec(self) -> &'static ApiSpec {
                match self {
                    $(ApiKey::$variant => &ApiSpec {
                        key: ApiKey::$variant,
                        name: stringify!($variant),
                        min: $min,
                        max: $max,
                        kafka_min: $kafka_min,
                        kafka_max: $kafka_max,
                        flexible_from: $flexible,
                    },)*
                }
            }

            /// The number on the wire.
            pub const fn code(self) -> i16 {
                match self {
                    $(ApiKey::$variant => $key,)*
                }
            }
        }
    };
}

/// No version is flexible.
const NEVER: i16 = i16::MAX;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiSpec {
    /// Which API.
    pub key: ApiKey,
    /// Kafka's name.
    pub name: &'static str,
    /// Lowest version served.
    pub min: i16,
    /// Highest version served.
    pub max: i16,
    /// Lowest version that Kafka 4.3 announces.
    pub kafka_min: i16,
    /// Highest version that Kafka 4.3 announces.
    pub kafka_max: i16,
    /// First version with compact lengths and tagged fields (KIP-482).
    pub flexible_from: i16,
}

apis! {
    Produce = 0, serves 3..=13, kafka 0..=13, flexible 9;
    Fetch = 1, serves 4..=18, kafka 4..=18, flexible 12;
    ListOffsets = 2, serves 1..=11, kafka 1..=11, flexible 6;
    Metadata = 3, serves 0..=13, kafka 0..=13, flexible 9;
    OffsetCommit = 8, serves 2..=9, kafka 2..=10, flexible 8;
    OffsetFetch = 9, serves 1..=9, kafka 1..=10, flexible 6;
    FindCoordinator = 10, serves 0..=6, kafka 0..=6, flexible 3;
    JoinGroup = 11, serves 0..=9, kafka 0..=9, flexible 6;
    Heartbeat = 12, serves 0..=4, kafka 0..=4, flexible 4;
    LeaveGroup = 13, serves 0..=5, kafka 0..=5, flexible 4;
    SyncGroup = 14, serves 0..=5, kafka 0..=5, flexible 4;
    DescribeGroups = 15, serves 0..=6, kafka 0..=6, flexible 5;
    ListGroups = 16, serves 0..=5, kafka 0..=5, flexible 3;
    ApiVersions = 18, serves 0..=4, kafka 0..=4, flexible 3;
    CreateTopics = 19, serves 2..=7, kafka 2..=7, flexible 5;
    DeleteTopics = 20, serves 1..=6, kafka 1..=6, flexible 4;
    DeleteRecords = 21, serves 0..=2, kafka 0..=2, flexible 2;
    InitProducerId = 22, serves 0..=5, kafka 0..=5, flexible 2;
    OffsetForLeaderEpoch = 23, serves 2..=4, kafka 2..=4, flexible 4;
    DescribeConfigs = 32, serves 1..=4, kafka 1..=4, flexible 4;
    AlterConfigs = 33, serves 0..=2, kafka 0..=2, flexible 2;
    DescribeLogDirs = 35, serves 1..=5, kafka 1..=5, flexible 2;
    CreatePartitions = 37, serves 0..=3, kafka 0..=3, flexible 2;
    DeleteGroups = 42, serves 0..=2, kafka 0..=2, flexible 2;
    IncrementalAlterConfigs = 44, serves 0..=1, kafka 0..=1, flexible 1;
    OffsetDelete = 47, serves 0..=0, kafka 0..=0, flexible NEVER;
    DescribeCluster = 60, serves 0..=2, kafka 0..=2, flexible 0;
    ListConfigResources = 74, serves 0..=1, kafka 0..=1, flexible 0;
    DescribeTopicPartitions = 75, serves 0..=0, kafka 0..=0, flexible 0;
}

impl ApiSpec {
    /// Lowest version that `ApiVersions` announces: see [api-table].
    pub const fn announced_min(&self) -> i16 {
        match self.key {
            ApiKey::Produce => 0,
            _ => self.min,
        }
    }
}

impl ApiKey {
    /// Kafka's name.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Whether requests of this version are answered.
    pub const fn serves(self, version: i16) -> bool {
        let spec = self.spec();
        spec.min <= version && version <= spec.max
    }

    /// Every version served, ascending.
    pub fn versions(self) -> impl Iterator<Item = i16> + Clone {
        self.spec().min..=self.spec().max
    }

    /// Whether this version has compact lengths and tagged fields.
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.spec().flexible_from
    }

    /// Version of the request header: 2 has tagged fields.
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the response header: 1 has tagged fields. `ApiVersions` stays at 0, because a
    /// client that does not know yet what the broker speaks must be able to read it.
    pub const fn response_header_version(self, version: i16) -> i16 {
        match self {
            Self::ApiVersions => 0,
            _ if self.is_flexible(version) => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The README's compatibility table.
pub fn markdown_table() -> String {
    let mut table = String::from("| Key | API | Versions | Kafka 4.3 |\n|---:|---|---|---|\n");
    for key in ApiKey::ALL {
        let ApiSpec {
            name,
            min,
            max,
            kafka_min,
            kafka_max,
            ..
        } = key.spec();
        let code = key.code();
        // writing to a string does not fail
        let _ = writeln!(
            table,
            "| {code} | {name} | {min}-{max} | {kafka_min}-{kafka_max} |"
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::newer;
    use kafka_protocol::messages::ApiKey as Generated;

    #[test]
    fn the_table_agrees_with_the_generated_messages() {
        for key in ApiKey::ALL {
            let generated = Generated::try_from(key.code()).unwrap();
            let range = generated.valid_versions();
            let spec = key.spec();
            assert!(
                range.min <= spec.min && newer::generated(*key, spec.max) <= range.max,
                "{key}: {range:?}"
            );
            assert_eq!(format!("{generated:?}").trim_end_matches("Key"), spec.name);
            for version in key.versions() {
                assert_eq!(
                    key.request_header_version(version),
                    generated.request_header_version(version),
                    "{key} {version}"
                );
                assert_eq!(
                    key.response_header_version(version),
                    generated.response_header_version(version),
                    "{key} {version}"
                );
            }
        }
    }

    #[test]
    fn no_range_exceeds_kafkas_and_none_is_empty() {
        for key in ApiKey::ALL {
            let spec = key.spec();
            assert!(spec.min <= spec.max && spec.max <= spec.kafka_max, "{key}");
            assert!(spec.announced_min() == spec.kafka_min, "{key}");
            assert_eq!(ApiKey::from_code(key.code()), Some(*key));
        }
        assert!(ApiKey::ALL.is_sorted());
    }

    #[test]
    fn versions_that_old_clients_insist_on_are_served() {
        // librdkafka before 2.11 turns a feature off unless exactly these are in the range
        for (key, version) in [
            (ApiKey::Produce, 3),
            (ApiKey::Produce, 7),
            (ApiKey::Fetch, 4),
            (ApiKey::Fetch, 10),
            (ApiKey::FindCoordinator, 0),
            (ApiKey::OffsetCommit, 2),
            (ApiKey::OffsetFetch, 1),
            (ApiKey::JoinGroup, 0),
            (ApiKey::SyncGroup, 0),
            (ApiKey::Heartbeat, 0),
            (ApiKey::LeaveGroup, 0),
            (ApiKey::ListOffsets, 1),
            (ApiKey::InitProducerId, 0),
            (ApiKey::OffsetForLeaderEpoch, 2),
        ] {
            assert!(key.serves(version), "{key} {version}");
        }
        assert_eq!(ApiKey::Produce.spec().announced_min(), 0);
        assert!(!ApiKey::Produce.serves(2));
    }

    #[test]
    fn the_markdown_table_has_a_line_per_api() {
        let table = markdown_table();
        assert_eq!(table.lines().count(), ApiKey::ALL.len() + 2);
        assert!(
            table.contains("| 8 | OffsetCommit | 2-9 | 2-10 |\n"),
            "{table}"
        );
    }
}

//! Checks the shape of a request before the generated decoder sees it.
//!
//! kafka-protocol reserves memory by the array lengths it reads: four bytes could ask for 154 GB.
//! So a walker goes over the body first, by the schemas below, and proves that every string, byte
//! field, array element and tagged field that a length claims is really there.
//!
//! Pure: no async, no clock, no IO. Allocates nothing.
//! Promises: after `check` returns `Ok`, no length in the body speaks of more than the body holds;
//! all arrays together have at most `ARRAY_ELEMENTS_MAX` elements, a structure at most
//! `TAGGED_FIELDS_MAX` tagged fields.
//! Deliberately absent: nullability, UTF-8, values. Those the decoder refuses by itself, without
//! reserving anything. Bytes behind the last field are ignored, as Kafka ignores them.
//! The schemas are tested against the generated code: what they describe is generated, decoded, and
//! encoded to the same bytes, for every served version (`tests/wire_bounds.rs`).

use bytes::Bytes;

use crate::wire::DecodeError;
use crate::wire::api::ApiKey;
use crate::wire::reader::Reader;

/// What a field looks like in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// So many bytes: numbers, booleans, UUIDs.
    Fixed(usize),
    /// Two-byte or compact length, then bytes; -1 or 0 for null.
    String,
    /// Four-byte or compact length, then bytes; -1 or 0 for null.
    Bytes,
    /// Four-byte or compact count, then elements; -1 or 0 for null.
    Array(&'static Kind),
    /// Fields, then tagged fields where the version has them.
    Struct(&'static [Field]),
    /// One byte, -1 for null, 1 for a structure that follows.
    NullableStruct(&'static [Field]),
}

/// A field and the versions that have it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its shape.
    pub kind: Kind,
    /// First version with it.
    pub from: i16,
    /// Last version with it.
    pub to: i16,
}

impl Field {
    /// Whether a version has the field.
    pub const fn is_in(&self, version: i16) -> bool {
        self.from <= version && version <= self.to
    }
}

const I8: Kind = Kind::Fixed(1);
const BOOL: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);
const STR: Kind = Kind::String;
const BYTES: Kind = Kind::Bytes;

const fn always(kind: Kind) -> Field {
    Field {
        kind,
        from: 0,
        to: i16::MAX,
    }
}

const fn since(from: i16, kind: Kind) -> Field {
    Field {
        kind,
        from,
        to: i16::MAX,
    }
}

const fn until(to: i16, kind: Kind) -> Field {
    Field { kind, from: 0, to }
}

const fn between(from: i16, to: i16, kind: Kind) -> Field {
    Field { kind, from, to }
}

const fn list(element: &'static Kind) -> Kind {
    Kind::Array(element)
}

const PRODUCE: &[Field] = &[
    always(STR),
    always(I16),
    always(I32),
    always(list(&Kind::Struct(&[
        until(12, STR),
        since(13, UUID),
        always(list(&Kind::Struct(&[always(I32), always(BYTES)]))),
    ]))),
];

const FETCH: &[Field] = &[
    until(14, I32),
    always(I32),
    always(I32),
    always(I32),
    always(I8),
    since(7, I32),
    since(7, I32),
    always(list(&Kind::Struct(&[
        until(12, STR),
        since(13, UUID),
        always(list(&Kind::Struct(&[
            always(I32),
            since(9, I32),
            always(I64),
            since(12, I32),
            since(5, I64),
            always(I32),
        ]))),
    ]))),
    since(
        7,
        list(&Kind::Struct(&[
            until(12, STR),
            since(13, UUID),
            always(list(&I32)),
        ])),
    ),
    since(11, STR),
];

const LIST_OFFSETS: &[Field] = &[
    always(I32),
    since(2, I8),
    always(list(&Kind::Struct(&[
        always(STR),
        always(list(&Kind::Struct(&[
            always(I32),
            since(4, I32),
            always(I64),
        ]))),
    ]))),
    since(10, I32),
];

const METADATA: &[Field] = &[
    always(list(&Kind::Struct(&[since(10, UUID), always(STR)]))),
    since(4, BOOL),
    between(8, 10, BOOL),
    since(8, BOOL),
];

const OFFSET_COMMIT: &[Field] = &[
    always(STR),
    always(I32),
    always(STR),
    since(7, STR),
    until(4, I64),
    always(list(&Kind::Struct(&[
        always(STR),
        always(list(&Kind::Struct(&[
            always(I32),
            always(I64),
            since(6, I32),
            always(STR),
        ]))),
    ]))),
];

const OFFSET_FETCH_TOPICS: Kind = list(&Kind::Struct(&[always(STR), always(list(&I32))]));

const OFFSET_FETCH: &[Field] = &[
    until(7, STR),
    until(7, OFFSET_FETCH_TOPICS),
    since(
        8,
        list(&Kind::Struct(&[
            always(STR),
            since(9, STR),
            since(9, I32),
            always(OFFSET_FETCH_TOPICS),
        ])),
    ),
    since(7, BOOL),
];

const FIND_COORDINATOR: &[Field] = &[until(3, STR), since(1, I8), since(4, list(&STR))];

const JOIN_GROUP: &[Field] = &[
    always(STR),
    always(I32),
    since(1, I32),
    always(STR),
    since(5, STR),
    always(STR),
    always(list(&Kind::Struct(&[always(STR), always(BYTES)]))),
    since(8, STR),
];

const HEARTBEAT: &[Field] = &[always(STR), always(I32), always(STR), since(3, STR)];

const LEAVE_GROUP: &[Field] = &[
    always(STR),
    until(2, STR),
    since(
        3,
        list(&Kind::Struct(&[always(STR), always(STR), since(5, STR)])),
    ),
];

const SYNC_GROUP: &[Field] = &[
    always(STR),
    always(I32),
    always(STR),
    since(3, STR),
    since(5, STR),
    since(5, STR),
    always(list(&Kind::Struct(&[always(STR), always(BYTES)]))),
];

const DESCRIBE_GROUPS: &[Field] = &[always(list(&STR)), since(3, BOOL)];

const LIST_GROUPS: &[Field] = &[since(4, list(&STR)), since(5, list(&STR))];

const API_VERSIONS: &[Field] = &[since(3, STR), since(3, STR)];

const CREATE_TOPICS: &[Field] = &[
    always(list(&Kind::Struct(&[
        always(STR),
        always(I32),
        always(I16),
        always(list(&Kind::Struct(&[always(I32), always(list(&I32))]))),
        always(list(&Kind::Struct(&[always(STR), always(STR)]))),
    ]))),
    always(I32),
    always(BOOL),
];

const DELETE_TOPICS: &[Field] = &[
    since(6, list(&Kind::Struct(&[always(STR), always(UUID)]))),
    until(5, list(&STR)),
    always(I32),
];

const DELETE_RECORDS: &[Field] = &[
    always(list(&Kind::Struct(&[
        always(STR),
        always(list(&Kind::Struct(&[always(I32), always(I64)]))),
    ]))),
    always(I32),
];

const INIT_PRODUCER_ID: &[Field] = &[always(STR), always(I32), since(3, I64), since(3, I16)];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, I32),
    always(list(&Kind::Struct(&[
        always(STR),
        always(list(&Kind::Struct(&[
            always(I32),
            always(I32),
            always(I32),
        ]))),
    ]))),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    always(list(&Kind::Struct(&[
        always(I8),
        always(STR),
        always(list(&STR)),
    ]))),
    always(BOOL),
    since(3, BOOL),
];

const ALTER_CONFIGS: &[Field] = &[
    always(list(&Kind::Struct(&[
        always(I8),
        always(STR),
        always(list(&Kind::Struct(&[always(STR), always(STR)]))),
    ]))),
    always(BOOL),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(list(&Kind::Struct(&[
        always(I8),
        always(STR),
        always(list(&Kind::Struct(&[always(STR), always(I8), always(STR)]))),
    ]))),
    always(BOOL),
];

const DESCRIBE_LOG_DIRS: &[Field] = &[always(list(&Kind::Struct(&[
    always(STR),
    always(list(&I32)),
])))];

const CREATE_PARTITIONS: &[Field] = &[
    always(list(&Kind::Struct(&[
        always(STR),
        always(I32),
        always(list(&Kind::Struct(&[always(list(&I32))]))),
    ]))),
    always(I32),
    always(BOOL),
];

const DELETE_GROUPS: &[Field] = &[always(list(&STR))];

const OFFSET_DELETE: &[Field] = &[
    always(STR),
    always(list(&Kind::Struct(&[
        always(STR),
        always(list(&Kind::Struct(&[always(I32)]))),
    ]))),
];

const DESCRIBE_CLUSTER: &[Field] = &[always(BOOL), since(1, I8), since(2, BOOL)];

const LIST_CONFIG_RESOURCES: &[Field] = &[since(1, list(&I8))];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    always(list(&Kind::Struct(&[always(STR)]))),
    always(I32),
    always(Kind::NullableStruct(&[always(STR), always(I32)])),
];

/// The fields of an API's requests, in wire order.
pub const fn request_schema(api: ApiKey) -> &'static [Field] {
    match api {
        ApiKey::Produce => PRODUCE,
        ApiKey::Fetch => FETCH,
        ApiKey::ListOffsets => LIST_OFFSETS,
        ApiKey::Metadata => METADATA,
        ApiKey::OffsetCommit => OFFSET_COMMIT,
        ApiKey::OffsetFetch => OFFSET_FETCH,
        ApiKey::FindCoordinator => FIND_COORDINATOR,
        ApiKey::JoinGroup => JOIN_GROUP,
        ApiKey::Heartbeat => HEARTBEAT,
        ApiKey::LeaveGroup => LEAVE_GROUP,
        ApiKey::SyncGroup => SYNC_GROUP,
        ApiKey::DescribeGroups => DESCRIBE_GROUPS,
        ApiKey::ListGroups => LIST_GROUPS,
        ApiKey::ApiVersions => API_VERSIONS,
        ApiKey::CreateTopics => CREATE_TOPICS,
        ApiKey::DeleteTopics => DELETE_TOPICS,
        ApiKey::DeleteRecords => DELETE_RECORDS,
        ApiKey::InitProducerId => INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => DESCRIBE_CONFIGS,
        ApiKey::AlterConfigs => ALTER_CONFIGS,
        ApiKey::DescribeLogDirs => DESCRIBE_LOG_DIRS,
        ApiKey::CreatePartitions => CREATE_PARTITIONS,
        ApiKey::DeleteGroups => DELETE_GROUPS,
        ApiKey::IncrementalAlterConfigs => INCREMENTAL_ALTER_CONFIGS,
        ApiKey::OffsetDelete => OFFSET_DELETE,
        ApiKey::DescribeCluster => DESCRIBE_CLUSTER,
        ApiKey::ListConfigResources => LIST_CONFIG_RESOURCES,
        ApiKey::DescribeTopicPartitions => DESCRIBE_TOPIC_PARTITIONS,
    }
}

/// What a member of a group says that it wants to read ("consumer" protocol, after the version).
pub const SUBSCRIPTION: &[Field] = &[
    always(list(&STR)),
    always(BYTES),
    since(1, list(&MEMBER_TOPIC)),
    since(2, I32),
    since(3, STR),
];

/// What the leader of a group gives a member to read, after the version.
pub const ASSIGNMENT: &[Field] = &[always(list(&MEMBER_TOPIC)), always(BYTES)];

const MEMBER_TOPIC: Kind = Kind::Struct(&[always(STR), always(list(&I32))]);

/// Proves the shape of a message that members of a group send each other; returns as [`check`].
pub fn check_member_message(
    fields: &[Field],
    version: i16,
    bytes: &Bytes,
) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bytes, false);
    walk_fields(fields, version, &mut reader)?;
    Ok(reader.position())
}

/// Proves the shape of a request body; returns the bytes that its fields take.
pub fn check(api: ApiKey, version: i16, body: &Bytes) -> Result<usize, DecodeError> {
    Ok(walk_body(api, version, body)?.position())
}

/// Proves the shape of a request body; returns how many elements its arrays have together.
pub fn count_elements(api: ApiKey, version: i16, body: &Bytes) -> Result<usize, DecodeError> {
    Ok(walk_body(api, version, body)?.elements())
}

fn walk_body(api: ApiKey, version: i16, body: &Bytes) -> Result<Reader<'_>, DecodeError> {
    let mut reader = Reader::new(body, api.is_flexible(version));
    walk_fields(request_schema(api), version, &mut reader)?;
    Ok(reader)
}

fn walk_fields(fields: &[Field], version: i16, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    for field in fields.iter().filter(|field| field.is_in(version)) {
        walk(field.kind, version, reader)?;
    }
    reader.skip_tags()
}

fn walk(kind: Kind, version: i16, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match kind {
        Kind::Fixed(size) => reader.take(size).map(drop),
        Kind::String => reader.skip_string(),
        Kind::Bytes => reader.skip_bytes(),
        Kind::Struct(fields) => walk_fields(fields, version, reader),
        Kind::NullableStruct(fields) => match reader.i8()? {
            -1 => Ok(()),
            1 => walk_fields(fields, version, reader),
            // Kafka's decoder takes 0 for a structure, the generated one for null; nobody sends it
            found => Err(DecodeError::Presence {
                position: reader.position(),
                found,
            }),
        },
        Kind::Array(element) => {
            // every element takes one byte at least, most take more: the walk finds the end in time
            let element_bytes = if let Kind::Fixed(size) = element {
                *size
            } else {
                1
            };
            for _ in 0..reader.nullable_array(element_bytes)?.unwrap_or(0) {
                walk(*element, version, reader)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_is_there_or_null_and_nothing_between() {
        // DescribeTopicPartitions: no topics, a limit, then the cursor
        let check_cursor = |present: i8, rest: &[u8]| {
            let start = [1, 0, 0, 0, 9, present.cast_unsigned()];
            let body = Bytes::from([&start[..], rest].concat());
            check(ApiKey::DescribeTopicPartitions, 0, &body)
        };
        assert_eq!(check_cursor(-1, &[0]), Ok(7));
        assert_eq!(check_cursor(1, &[2, b't', 0, 0, 0, 3, 0, 0]), Ok(14));
        for found in [0, 2, -2, i8::MIN] {
            let refused = Err(DecodeError::Presence { position: 6, found });
            assert_eq!(check_cursor(found, &[2, b't', 0, 0, 0, 3, 0, 0]), refused);
        }
    }

    #[test]
    fn four_bytes_cannot_ask_for_gigabytes() {
        // Metadata v1: one array, then nothing
        let body = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(
            check(ApiKey::Metadata, 1, &body),
            Err(DecodeError::ArrayTooLong {
                position: 4,
                count: 0x7fff_ffff,
                max: 0
            })
        );
        // the compact form: 2^31-1 + 1
        let body = Bytes::from_static(&[0x80, 0x80, 0x80, 0x80, 8, 1, 1, 1]);
        assert_eq!(
            check(ApiKey::Metadata, 9, &body),
            Err(DecodeError::ArrayTooLong {
                position: 5,
                count: 0x7fff_ffff,
                max: 3
            })
        );
    }

    #[test]
    fn all_arrays_together_have_a_limit() {
        // 2 topics of 300,000 ints each are there byte by byte, but too many
        let mut body = vec![0, 1, b't', 0, 4, 0x93, 0xe0];
        body.extend_from_slice(&vec![0; 300_000 * 4]);
        let one = body.clone();
        body.extend_from_slice(&one);
        let mut two = vec![0, 0, 0, 2];
        two.extend_from_slice(&body);
        assert!(matches!(
            check(ApiKey::DescribeLogDirs, 1, &Bytes::from(two)),
            Err(DecodeError::ArrayTooLong {
                count: 300_000,
                max: 99_998,
                ..
            })
        ));
        let mut single = vec![0, 0, 0, 1];
        single.extend_from_slice(&one);
        let length = single.len();
        let single = Bytes::from(single);
        assert_eq!(check(ApiKey::DescribeLogDirs, 1, &single), Ok(length));
        let counted = count_elements(ApiKey::DescribeLogDirs, 1, &single);
        assert_eq!(counted, Ok(300_001));
    }

    #[test]
    fn tagged_fields_are_counted_and_measured() {
        // DescribeCluster v0: a boolean, then tags
        let check = |bytes: &'static [u8]| {
            super::check(ApiKey::DescribeCluster, 0, &Bytes::from_static(bytes))
        };
        assert_eq!(check(&[1, 0]), Ok(2));
        assert_eq!(check(&[1, 1, 5, 2, 9, 9]), Ok(6));
        assert!(matches!(
            check(&[1, 0xff, 0xff, 0xff, 0xff, 15, 0, 0]),
            Err(DecodeError::TooManyTags {
                count: 0xffff_ffff,
                ..
            })
        ));
        assert!(check(&[1, 1, 5, 3, 9, 9]).is_err());
    }
}

//! Records of `__consumer_offsets`, logs of them, and what members send each other.

use bytes::Bytes;
use corelog::client::assignor;
use corelog::group::codec::{
    GroupValue, Key, MemberValue, decode_group_value, decode_key, decode_offset_value,
    encode_group_key, encode_group_value, encode_offset_key, encode_offset_value,
};
use corelog::group::groups::Groups;
use corelog::group::offsets::CommittedOffset;
use corelog::group::record::{GroupRecord, encode_batch};
use corelog::group::replay::Replay;

use super::records::seal_batches;
use super::watch::{frugal, within};

fn sample_offset(expire_timestamp_ms: Option<i64>) -> CommittedOffset {
    CommittedOffset {
        offset: 42,
        leader_epoch: if expire_timestamp_ms.is_some() { -1 } else { 3 },
        metadata: "note".into(),
        commit_timestamp_ms: 1_000,
        expire_timestamp_ms,
    }
}

fn sample_group() -> GroupValue {
    let member = |instance: Option<&str>| MemberValue {
        member_id: "member-1".to_owned(),
        group_instance_id: instance.map(str::to_owned),
        client_id: "kcat".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        rebalance_timeout_ms: 300_000,
        session_timeout_ms: 45_000,
        subscription: assignor::encode_subscription(&["orders".to_owned()]),
        assignment: Bytes::from_static(b"share"),
    };
    GroupValue {
        protocol_type: "consumer".to_owned(),
        generation_id: 3,
        protocol: Some("range".to_owned()),
        leader: Some("member-1".to_owned()),
        state_timestamp_ms: 1_000,
        members: vec![member(None), member(Some("i-1"))],
    }
}

fn sample_records() -> Vec<GroupRecord> {
    vec![
        GroupRecord::offset("g", "orders", 1, Some(sample_offset(None))),
        GroupRecord::offset("g", "orders", 2, Some(sample_offset(Some(2_000)))),
        GroupRecord::metadata("g", &sample_group()).expect("it fits"),
        GroupRecord::offset("g", "orders", 1, None),
        GroupRecord::tombstone("g"),
    ]
}

/// Key and value of one record: the first byte is the key's length, the value follows the key.
pub(crate) mod offsets_record {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Some((length, rest)) = bytes.split_first() else {
            return false;
        };
        let at = usize::from(*length).min(rest.len());
        let (key, value) = rest.split_at(at);
        check_key(key);
        let offset = check_offset_value(value);
        let group = check_group_value(value);
        // the same bytes may be both: the key tells, here as in the log
        let value = (!value.is_empty()).then_some(value);
        match frugal(bytes.len(), || GroupRecord::decode(key, value)) {
            Ok(None) => matches!(decode_key(key), Ok(Key::Other { .. })),
            Ok(Some(record)) => {
                assert!(value.is_none() || offset || group);
                let again = record.encode().expect("what fits a record");
                let again = GroupRecord::decode(&again.key, again.value.as_deref());
                assert_eq!(again, Ok(Some(record)));
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let encode = |record: GroupRecord| {
            let encoded = record.encode().expect("it fits");
            let length = u8::try_from(encoded.key.len()).expect("a short key");
            let value = encoded.value.unwrap_or_default();
            [&[length], &encoded.key[..], &value[..]].concat()
        };
        sample_records().into_iter().map(encode).collect()
    }

    fn check_key(bytes: &[u8]) {
        let encoded = match frugal(bytes.len(), || decode_key(bytes)) {
            Ok(Key::Offset {
                group,
                topic,
                partition,
            }) => encode_offset_key(&group, &topic, partition),
            Ok(Key::Group { group }) => encode_group_key(&group),
            Ok(Key::Other { .. }) | Err(_) => return,
        };
        let encoded = encoded.expect("what was read fits");
        assert_eq!(decode_key(&encoded), decode_key(bytes));
    }

    fn check_offset_value(bytes: &[u8]) -> bool {
        let Ok(value) = frugal(bytes.len(), || decode_offset_value(bytes)) else {
            return false;
        };
        // the flexible form takes longer strings than the one that is written
        if let Ok(encoded) = encode_offset_value(&value) {
            assert_eq!(decode_offset_value(&encoded), Ok(value));
        }
        true
    }

    fn check_group_value(bytes: &[u8]) -> bool {
        let Ok(value) = frugal(bytes.len(), || decode_group_value(bytes)) else {
            return false;
        };
        if let Ok(encoded) = encode_group_value(&value) {
            assert_eq!(decode_group_value(&encoded), Ok(value));
        }
        true
    }
}

/// Batches of such records, applied as a start applies them.
pub(crate) mod offsets_log {
    use super::*;

    /// What a batch may decompress to in this place is fixed; inputs are small.
    const BYTES_MAX: usize = 512 << 20;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        check_bytes(&seal_batches(bytes));
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let records = sample_records().into_iter();
        let encoded = records.map(|record| record.encode().expect("it fits"));
        let encoded: Vec<_> = encoded.collect();
        let mut whole = encode_batch(&encoded[..3], 1_000).to_vec();
        let mut behind = encode_batch(&encoded[3..], 1_001).to_vec();
        behind[7] = 3; // base offset
        whole.extend(behind);
        vec![whole]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let mut groups = Groups::default();
        let mut replay = Replay::default();
        let read = within(BYTES_MAX, || {
            replay.read(bytes, |record| groups.apply(record))
        });
        let offsets = groups.iter().map(|(_, entry)| entry.offsets.len());
        assert_eq!(offsets.sum::<usize>(), groups.offset_count());
        // the same batches once more change nothing
        let before = (groups.live_bytes(), groups.offset_count());
        let again = replay.read(bytes, |record| groups.apply(record));
        if read.is_ok() {
            assert!(again.is_ok());
            assert_eq!(before, (groups.live_bytes(), groups.offset_count()));
        }
        read.is_ok() && !bytes.is_empty()
    }
}

/// What the members of a group send each other through the coordinator.
pub(crate) mod subscription {
    use super::*;
    use corelog::group::subscription::topics;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let read = frugal(bytes.len(), || topics(bytes));
        let shared = Bytes::copy_from_slice(bytes);
        let member = frugal(bytes.len(), || {
            assignor::decode_subscription(shared.clone())
        });
        let share = frugal(bytes.len(), || assignor::decode_assignment(shared));
        if let Some(topics) = &member {
            // the coordinator looks at the topics only, and skips the rest
            assert_eq!(read.as_ref(), Some(topics));
        }
        if let Some(share) = &share {
            let again = assignor::decode_assignment(assignor::encode_assignment(share));
            assert_eq!(again.as_ref(), Some(share));
        }
        if let Some(list) = &read {
            assert_eq!(topics(&assignor::encode_subscription(list)), read);
        }
        member.is_some() || share.is_some()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let topics = ["orders".to_owned(), "a".to_owned()];
        let share = [("orders".to_owned(), vec![0, 3]), ("a".to_owned(), vec![1])];
        vec![
            assignor::encode_subscription(&topics).to_vec(),
            assignor::encode_assignment(&share.into()).to_vec(),
        ]
    }
}

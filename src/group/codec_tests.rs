//! Golden bytes derived by hand from Kafka's schemas, round trips, damage.

use proptest::prelude::*;

use super::*;

/// Bytes from hex, blanks ignored.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex"))
        .collect()
}

fn committed() -> CommittedOffset {
    CommittedOffset {
        offset: 42,
        leader_epoch: 5,
        metadata: "hi".into(),
        commit_timestamp_ms: 0x0102_0304_0506,
        expire_timestamp_ms: None,
    }
}

fn group() -> GroupValue {
    GroupValue {
        protocol_type: "consumer".to_owned(),
        generation_id: 3,
        protocol: Some("range".to_owned()),
        leader: Some("m1".to_owned()),
        state_timestamp_ms: 7,
        members: vec![MemberValue {
            member_id: "m1".to_owned(),
            group_instance_id: Some("i".to_owned()),
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            rebalance_timeout_ms: 300_000,
            session_timeout_ms: 10_000,
            subscription: Bytes::from_static(&[1, 2]),
            assignment: Bytes::from_static(&[3]),
        }],
    }
}

// version 1, "grp", "top", partition 7
const OFFSET_KEY: &str = "0001 0003 677270 0003 746f70 00000007";
// version 2, "grp"
const GROUP_KEY: &str = "0002 0003 677270";
// version 3, offset, leader epoch, "hi", commit time
const OFFSET_VALUE: &str = "0003 000000000000002a 00000005 0002 6869 0000010203040506";
// version 1, offset, "hi", commit time, expiry
const OFFSET_VALUE_1: &str = "0001 000000000000002a 0002 6869 0000010203040506 0000000000000009";
// version 3, "consumer", generation, "range", "m1", state time, one member:
// "m1", "i", "c", "/h", rebalance timeout, session timeout, subscription, assignment
const GROUP_VALUE: &str = "0003 0008 636f6e73756d6572 00000003 0005 72616e6765 0002 6d31 \
    0000000000000007 00000001 \
    0002 6d31 0001 69 0001 63 0002 2f68 000493e0 00002710 00000002 0102 00000001 03";

#[test]
fn keys_and_values_are_kafkas_byte_for_byte() {
    assert_eq!(encode_offset_key("grp", "top", 7), Ok(hex(OFFSET_KEY)));
    assert_eq!(encode_group_key("grp"), Ok(hex(GROUP_KEY)));
    assert_eq!(encode_offset_value(&committed()), Ok(hex(OFFSET_VALUE)));
    assert_eq!(encode_group_value(&group()), Ok(hex(GROUP_VALUE)));
    let expiring = CommittedOffset {
        expire_timestamp_ms: Some(9),
        ..committed()
    };
    assert_eq!(encode_offset_value(&expiring), Ok(hex(OFFSET_VALUE_1)));
}

#[test]
fn what_kafka_wrote_is_read() {
    let (group_id, topic) = ("grp".to_owned(), "top".to_owned());
    let key = Key::Offset {
        group: group_id.clone(),
        topic,
        partition: 7,
    };
    assert_eq!(decode_key(&hex(OFFSET_KEY)), Ok(key.clone()));
    let old_key = hex(&OFFSET_KEY.replacen("0001", "0000", 1));
    assert_eq!(decode_key(&old_key), Ok(key));
    assert_eq!(
        decode_key(&hex(GROUP_KEY)),
        Ok(Key::Group { group: group_id })
    );
    assert_eq!(
        decode_key(&hex("0003 0003 677270")),
        Ok(Key::Other { version: 3 })
    );
    assert_eq!(decode_offset_value(&hex(OFFSET_VALUE)), Ok(committed()));
    assert_eq!(decode_group_value(&hex(GROUP_VALUE)), Ok(group()));
}

#[test]
fn every_older_version_of_an_offset_is_read() {
    let old = CommittedOffset {
        leader_epoch: -1,
        ..committed()
    };
    let body = "000000000000002a 0002 6869 0000010203040506";
    assert_eq!(
        decode_offset_value(&hex(&format!("0000 {body}"))),
        Ok(old.clone())
    );
    assert_eq!(
        decode_offset_value(&hex(&format!("0002 {body}"))),
        Ok(old.clone())
    );
    let expiring = CommittedOffset {
        expire_timestamp_ms: Some(9),
        ..old.clone()
    };
    assert_eq!(decode_offset_value(&hex(OFFSET_VALUE_1)), Ok(expiring));
    let never = format!("0001 {body} ffffffffffffffff");
    assert_eq!(decode_offset_value(&hex(&never)), Ok(old));
}

#[test]
fn the_flexible_version_of_an_offset_is_read_and_its_tags_are_skipped() {
    // version 4: compact string, then one tagged field of 16 bytes (a topic id)
    let bytes = hex("0004 000000000000002a 00000005 03 6869 0000010203040506 \
        01 00 10 000102030405060708090a0b0c0d0e0f");
    assert_eq!(decode_offset_value(&bytes), Ok(committed()));
}

#[test]
fn every_version_of_a_group_is_read() {
    let head = "0008 636f6e73756d6572 00000003 0005 72616e6765 0002 6d31";
    let state_time = "0000000000000007";
    let member = |instance: &str, rebalance: &str| {
        format!(
            "00000001 0002 6d31 {instance} 0001 63 0002 2f68 {rebalance} 00002710 \
             00000002 0102 00000001 03"
        )
    };
    let mut expected = group();
    expected.members[0].group_instance_id = None;
    let version_2 = format!("0002 {head} {state_time} {}", member("", "000493e0"));
    assert_eq!(decode_group_value(&hex(&version_2)), Ok(expected.clone()));
    expected.state_timestamp_ms = -1;
    let version_1 = format!("0001 {head} {}", member("", "000493e0"));
    assert_eq!(decode_group_value(&hex(&version_1)), Ok(expected.clone()));
    expected.members[0].rebalance_timeout_ms = 10_000;
    let version_0 = format!("0000 {head} {}", member("", ""));
    assert_eq!(decode_group_value(&hex(&version_0)), Ok(expected));
    let version_4 = "0004 09 636f6e73756d6572 00000003 06 72616e6765 03 6d31 0000000000000007 \
        02 03 6d31 02 69 02 63 03 2f68 000493e0 00002710 03 0102 02 03 00 00";
    assert_eq!(decode_group_value(&hex(version_4)), Ok(group()));
}

#[test]
fn an_empty_group_has_neither_protocol_nor_leader() {
    let empty = GroupValue {
        protocol: None,
        leader: None,
        members: Vec::new(),
        ..group()
    };
    let bytes = encode_group_value(&empty).expect("short strings");
    let golden = "0003 0008 636f6e73756d6572 00000003 ffff ffff 0000000000000007 00000000";
    assert_eq!(bytes, hex(golden));
    assert_eq!(decode_group_value(&bytes), Ok(empty));
}

#[test]
fn values_of_newer_versions_are_refused_by_number() {
    assert_eq!(
        decode_offset_value(&hex("0005 00")),
        Err(CodecError::Version { got: 5 })
    );
    assert_eq!(
        decode_group_value(&hex("ffff 00")),
        Err(CodecError::Version { got: -1 })
    );
}

#[test]
fn cut_off_anywhere_everything_is_refused() {
    fn check<T: std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, CodecError>) {
        for len in 0..bytes.len() {
            assert!(
                decode(&bytes[..len]).is_err(),
                "cut at {len} of {}",
                bytes.len()
            );
        }
    }
    check(&hex(OFFSET_KEY), decode_key);
    check(&hex(GROUP_KEY), decode_key);
    check(&hex(OFFSET_VALUE), decode_offset_value);
    check(&hex(OFFSET_VALUE_1), decode_offset_value);
    check(&hex(GROUP_VALUE), decode_group_value);
}

#[test]
fn absurd_lengths_are_refused_without_allocating() {
    let head = "0003 0000 00000003 ffff ffff 0000000000000007";
    assert!(decode_group_value(&hex(&format!("{head} 7fffffff"))).is_err());
    assert_eq!(
        decode_group_value(&hex(&format!("{head} fffffffe"))),
        Err(CodecError::Malformed)
    );
    assert_eq!(
        decode_group_value(&hex(&format!("{head} ffffffff"))),
        Err(CodecError::Malformed)
    );
    assert_eq!(decode_key(&hex("0002 8000")), Err(CodecError::Malformed));
    assert_eq!(decode_key(&hex("0002 0001 ff")), Err(CodecError::Malformed));
}

#[test]
fn strings_too_long_for_their_length_field_are_refused() {
    let long = "x".repeat(32_768);
    assert_eq!(
        encode_group_key(&long),
        Err(CodecError::TooLong { size: 32_768 })
    );
    assert!(encode_group_key(&long[1..]).is_ok());
}

prop_compose! {
    fn any_offset()(
        offset in any::<i64>(),
        leader_epoch in any::<i32>(),
        metadata in "\\PC{0,40}",
        commit_timestamp_ms in any::<i64>(),
        expire_timestamp_ms in prop::option::of(0..i64::MAX),
    ) -> CommittedOffset {
        // the version with an expiry has no epoch
        let leader_epoch = if expire_timestamp_ms.is_some() { -1 } else { leader_epoch };
        let metadata = metadata.into();
        CommittedOffset {
            offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms,
        }
    }
}

prop_compose! {
    fn any_member()(
        member_id in "\\PC{0,20}",
        group_instance_id in prop::option::of("\\PC{0,20}"),
        client_id in "\\PC{0,20}",
        client_host in "\\PC{0,20}",
        rebalance_timeout_ms in any::<i32>(),
        session_timeout_ms in any::<i32>(),
        subscription in prop::collection::vec(any::<u8>(), 0..40),
        assignment in prop::collection::vec(any::<u8>(), 0..40),
    ) -> MemberValue {
        MemberValue {
            member_id, group_instance_id, client_id, client_host,
            rebalance_timeout_ms, session_timeout_ms,
            subscription: subscription.into(), assignment: assignment.into(),
        }
    }
}

proptest! {
    #[test]
    fn offsets_read_back_as_written(value in any_offset()) {
        let bytes = encode_offset_value(&value).expect("short strings");
        prop_assert_eq!(decode_offset_value(&bytes), Ok(value));
    }

    #[test]
    fn groups_read_back_as_written(members in prop::collection::vec(any_member(), 0..5)) {
        let value = GroupValue { members, ..group() };
        let bytes = encode_group_value(&value).expect("short strings");
        prop_assert_eq!(decode_group_value(&bytes), Ok(value));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        version in 0..6_u8,
        rest in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = vec![0, version];
        bytes.extend(rest);
        let _ = decode_key(&bytes);
        let _ = decode_offset_value(&bytes);
        let _ = decode_group_value(&bytes);
    }

    #[test]
    fn one_changed_byte_never_panics(at in 0..80_usize, to in any::<u8>()) {
        let mut bytes = hex(GROUP_VALUE);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
            let _ = decode_group_value(&bytes);
        }
    }
}

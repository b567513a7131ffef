//! Sharing partitions out among the members of a group: the range assignor, and its messages.
//!
//! Pure: no async, no clock, no IO.
//! As in Kafka: per topic, members in the order of their ids get consecutive ranges; the first
//! ones get one more when it does not divide.
//! Promises: what other members send is refused or read; its lengths reserve nothing by themselves.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, StrBytes};

use crate::wire::bounds::{self, ASSIGNMENT, SUBSCRIPTION};

/// The protocol's name, as members announce it.
pub const RANGE: &str = "range";

/// Partitions by topic.
pub type Partitions = BTreeMap<String, Vec<i32>>;

/// The message version that every member understands.
const VERSION: i16 = 0;

/// Gives every member its ranges. `members`: id and subscribed topics; `partition_counts`: of the
/// topics that exist.
pub fn assign_ranges(
    members: &BTreeMap<String, Vec<String>>,
    partition_counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, Partitions> {
    let mut shares: BTreeMap<String, Partitions> = members
        .keys()
        .map(|member| (member.clone(), Partitions::new()))
        .collect();
    for (topic, count) in partition_counts {
        let subscribed: Vec<&String> = members
            .iter()
            .filter(|(_, topics)| topics.contains(topic))
            .map(|(member, _)| member)
            .collect();
        let Ok(among) = i32::try_from(subscribed.len()) else {
            continue;
        };
        if among == 0 {
            continue;
        }
        let (each, more) = (count / among, count % among);
        let mut next = 0;
        for (at, member) in (0..among).zip(subscribed) {
            let end = next + each + i32::from(at < more);
            if end > next {
                let share = shares.get_mut(member).expect("every member has a share");
                share.insert(topic.clone(), (next..end).collect());
            }
            next = end;
        }
    }
    shares
}

/// The subscription of a member, as `JoinGroup` carries it.
pub fn encode_subscription(topics: &[String]) -> Bytes {
    let topics = topics
        .iter()
        .map(|topic| StrBytes::from_string(topic.clone()))
        .collect();
    let message = ConsumerProtocolSubscription::default().with_topics(topics);
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    message
        .encode(&mut bytes, VERSION)
        .expect("version 0 carries topics and user data");
    bytes.freeze()
}

/// The topics of a member's subscription; `None` when the bytes are something else.
pub fn decode_subscription(mut bytes: Bytes) -> Option<Vec<String>> {
    let version = read_version(&mut bytes, 3)?;
    bounds::check_member_message(SUBSCRIPTION, version, &bytes).ok()?;
    let message = ConsumerProtocolSubscription::decode(&mut bytes, version).ok()?;
    Some(message.topics.iter().map(ToString::to_string).collect())
}

/// A member's share, as `SyncGroup` carries it.
pub fn encode_assignment(partitions: &Partitions) -> Bytes {
    let topics = partitions
        .iter()
        .map(|(topic, partitions)| {
            TopicPartition::default()
                .with_topic(TopicName(StrBytes::from_string(topic.clone())))
                .with_partitions(partitions.clone())
        })
        .collect();
    let message = ConsumerProtocolAssignment::default().with_assigned_partitions(topics);
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    message
        .encode(&mut bytes, VERSION)
        .expect("version 0 carries partitions and user data");
    bytes.freeze()
}

/// The partitions of a share; none when the bytes are empty (a member without share).
pub fn decode_assignment(mut bytes: Bytes) -> Option<Partitions> {
    if bytes.is_empty() {
        return Some(Partitions::new());
    }
    let version = read_version(&mut bytes, 3)?;
    bounds::check_member_message(ASSIGNMENT, version, &bytes).ok()?;
    let message = ConsumerProtocolAssignment::decode(&mut bytes, version).ok()?;
    let topics = message.assigned_partitions.into_iter();
    Some(
        topics
            .map(|entry| (entry.topic.0.to_string(), entry.partitions))
            .collect(),
    )
}

/// The version in front of a message; a newer one than known reads as the newest known.
fn read_version(bytes: &mut Bytes, newest: i16) -> Option<i16> {
    let (prefix, _) = bytes.split_first_chunk::<2>()?;
    let version = i16::from_be_bytes(*prefix);
    let _ = bytes.split_to(2);
    (version >= 0).then_some(version.min(newest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::consumer_protocol_subscription;

    fn shares(members: &[(&str, &[&str])], topics: &[(&str, i32)]) -> Vec<Vec<(String, Vec<i32>)>> {
        let members = members
            .iter()
            .map(|(id, topics)| {
                (
                    (*id).to_owned(),
                    topics.iter().map(|topic| (*topic).to_owned()).collect(),
                )
            })
            .collect();
        let counts = topics
            .iter()
            .map(|(topic, count)| ((*topic).to_owned(), *count))
            .collect();
        let shares = assign_ranges(&members, &counts);
        shares
            .into_values()
            .map(|share| share.into_iter().collect())
            .collect()
    }

    #[test]
    fn the_first_members_get_one_more_when_it_does_not_divide() {
        let both: &[&str] = &["t"];
        assert_eq!(
            shares(&[("a", both), ("b", both), ("c", both)], &[("t", 7)]),
            [
                vec![("t".to_owned(), vec![0, 1, 2])],
                vec![("t".to_owned(), vec![3, 4])],
                vec![("t".to_owned(), vec![5, 6])],
            ]
        );
    }

    #[test]
    fn members_get_only_what_they_subscribed_to_and_some_get_nothing() {
        assert_eq!(
            shares(
                &[("a", &["t"]), ("b", &["t", "u"]), ("c", &["t"])],
                &[("t", 2), ("u", 1)]
            ),
            [
                vec![("t".to_owned(), vec![0])],
                vec![("t".to_owned(), vec![1]), ("u".to_owned(), vec![0])],
                vec![],
            ]
        );
    }

    #[test]
    fn every_partition_is_given_exactly_once() {
        for members in 1..6 {
            for partitions in 0..12 {
                let names: Vec<String> = (0..members).map(|at| format!("m{at}")).collect();
                let members: BTreeMap<String, Vec<String>> = names
                    .into_iter()
                    .map(|name| (name, vec!["t".to_owned()]))
                    .collect();
                let counts = BTreeMap::from([("t".to_owned(), partitions)]);
                let mut given: Vec<i32> = assign_ranges(&members, &counts)
                    .into_values()
                    .flat_map(|share| share.into_values().flatten())
                    .collect();
                given.sort_unstable();
                assert_eq!(given, (0..partitions).collect::<Vec<i32>>());
            }
        }
    }

    #[test]
    fn messages_survive_a_round_trip_and_garbage_is_refused() {
        let topics = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            decode_subscription(encode_subscription(&topics)),
            Some(topics)
        );
        let share = Partitions::from([("a".to_owned(), vec![0, 2])]);
        assert_eq!(decode_assignment(encode_assignment(&share)), Some(share));
        assert_eq!(decode_assignment(Bytes::new()), Some(Partitions::new()));
        assert_eq!(decode_subscription(Bytes::from_static(&[0])), None);
        assert_eq!(
            decode_subscription(Bytes::from_static(&[0, 0, 0, 0, 0, 9])),
            None
        );
    }

    #[test]
    fn a_length_that_another_member_claims_reserves_nothing() {
        // 2^31 - 1 topics; in the next version also so many owned partitions
        const TOPICS: [u8; 6] = [0, 0, 0x7f, 0xff, 0xff, 0xff];
        const OWNED: [u8; 14] = [
            0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff,
        ];
        assert_eq!(decode_subscription(Bytes::from_static(&TOPICS)), None);
        assert_eq!(decode_subscription(Bytes::from_static(&OWNED)), None);
        assert_eq!(decode_assignment(Bytes::from_static(&TOPICS)), None);
    }

    #[test]
    fn messages_of_every_version_have_the_shape_that_is_checked() {
        for version in 0..=3 {
            let mut bytes = BytesMut::new();
            let owned = consumer_protocol_subscription::TopicPartition::default()
                .with_topic(TopicName(StrBytes::from_static_str("t")))
                .with_partitions(vec![1, 2]);
            let mut message = ConsumerProtocolSubscription::default()
                .with_topics(vec![StrBytes::from_static_str("t")])
                .with_user_data(Some(Bytes::from_static(b"data")));
            if version >= 1 {
                message = message.with_owned_partitions(vec![owned]);
            }
            if version >= 2 {
                message = message.with_generation_id(7);
            }
            if version >= 3 {
                message = message.with_rack_id(Some(StrBytes::from_static_str("r")));
            }
            message.encode(&mut bytes, version).unwrap();
            let bytes = bytes.freeze();
            let read = bounds::check_member_message(SUBSCRIPTION, version, &bytes);
            assert_eq!(read, Ok(bytes.len()), "version {version}");
        }
    }
}

//! What an answer will take in memory, as far as its request does not bound it: known before it is
//! built.
//!
//! Runs on: the shard that accepted the connection.
//! Promises: an answer that may be much larger than its request (thirty bytes ask for every topic)
//! has room before the first byte of it is there, so that those who ask and do not read cannot
//! have many built.
//! Deliberately absent: what grows with the request (`in_flight` charges its elements), and what
//! waits for other clients, which must hold nothing.

use crate::server::in_flight::ANSWER_FREE_BYTES;
use crate::shard::budget::Charge;
use crate::shard::shard::Shard;
use crate::wire::messages::Request;

/// A partition, topic or group in an answer: its structure and its bytes.
const ITEM_BYTES: usize = 256;
/// A setting in an answer.
const SETTING_BYTES: usize = 256;
/// The same with synonyms and documentation.
const EXPLAINED_SETTING_BYTES: usize = 768;
/// Settings of a topic that CreateTopics shows.
const SETTINGS_OF_TOPIC: usize = 40;
/// Topics of one CreateTopics whose settings are shown.
pub(crate) const SHOWN_TOPICS_MAX: usize = 1_000;

/// Waits for room for an answer that will be large; `None`: it will not.
///
/// Cancel: safe.
pub(crate) async fn charge(shard: &Shard, request: &Request) -> Option<Charge> {
    match bytes(shard, request) {
        size_bytes if size_bytes > ANSWER_FREE_BYTES => {
            Some(shard.budget.charge_response(size_bytes).await)
        }
        _ => None,
    }
}

/// Settings that one DescribeConfigs describes at most.
pub(crate) fn described_settings_max(shard: &Shard, is_explained: bool) -> usize {
    2 * shard.budget.element_bytes_max() / setting_bytes(is_explained)
}

fn setting_bytes(is_explained: bool) -> usize {
    match is_explained {
        true => EXPLAINED_SETTING_BYTES,
        false => SETTING_BYTES,
    }
}

fn bytes(shard: &Shard, request: &Request) -> usize {
    let image = shard.image();
    let partitions = usize::try_from(image.partition_count()).unwrap_or(usize::MAX);
    let items = |count: usize| count.saturating_mul(ITEM_BYTES);
    match request {
        Request::Metadata(r) => match &r.topics {
            None => items(partitions + image.topic_count()),
            // each is described once, and one that is made now has few partitions
            Some(asked) => {
                let named = asked.iter().filter_map(|topic| topic.name.as_ref());
                let found = named.filter_map(|name| image.topic(name));
                let named: usize = found
                    .map(|topic| usize::try_from(topic.partition_count).unwrap_or(0))
                    .fold(0, usize::saturating_add);
                match asked.iter().all(|topic| topic.name.is_some()) {
                    true => items(named.min(partitions)),
                    false => items(partitions),
                }
            }
        },
        Request::DescribeTopicPartitions(r) => {
            let limit = usize::try_from(r.response_partition_limit).unwrap_or(0);
            items(limit.min(partitions))
        }
        Request::DescribeLogDirs(_) => items(partitions),
        Request::ListConfigResources(_) => {
            items(image.topic_count() + image.group_overrides().len())
        }
        Request::DescribeConfigs(r) => {
            let is_explained = r.include_synonyms || r.include_documentation;
            let settings = r.resources.len().saturating_mul(SETTINGS_OF_TOPIC);
            let settings = settings.min(described_settings_max(shard, is_explained));
            settings * setting_bytes(is_explained)
        }
        Request::CreateTopics(r) => {
            r.topics.len().min(SHOWN_TOPICS_MAX) * SETTINGS_OF_TOPIC * SETTING_BYTES
        }
        Request::ListGroups(_) => items(
            shard
                .group_counts()
                .0
                .saturating_mul(usize::from(shard.shard_count())),
        ),
        // what the group has is not known here: a few at a time
        Request::DescribeGroups(_) => shard.budget.response_bytes_max(),
        Request::OffsetFetch(r) if r.groups.iter().any(|group| group.topics.is_none()) => {
            shard.budget.response_bytes_max()
        }
        _ => 0,
    }
}

//! Which shard is home to a partition.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a function of topic id, partition and shard count alone, so every shard and every
//! start agree; the partitions of one topic go round all shards. A table replaces it once
//! partitions move.

use crate::model::ids::{ShardId, TopicPartition};

/// The home shard among `shard_count` shards.
pub fn home(partition: TopicPartition, shard_count: u16) -> ShardId {
    let topic_hash = u64::from(crc32c::crc32c(partition.topic.as_bytes()));
    let index = u64::try_from(partition.partition.0).unwrap_or(0);
    let shard = (topic_hash + index) % u64::from(shard_count.max(1));
    ShardId(u16::try_from(shard).expect("a remainder of a u16 fits u16"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{PartitionIndex, TopicId};

    #[test]
    fn the_partitions_of_a_topic_go_round_the_shards() {
        let topic = TopicId::from_bytes([3; 16]);
        let homes: Vec<u16> = (0..8)
            .map(|p| home(TopicPartition::new(topic, PartitionIndex(p)), 4).0)
            .collect();
        assert_eq!(homes[..4], homes[4..]);
        let mut first = homes[..4].to_vec();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3]);
    }

    #[test]
    fn the_home_of_a_partition_never_changes_between_versions() {
        let topic = TopicId::from_bytes([7; 16]);
        assert_eq!(
            home(TopicPartition::new(topic, PartitionIndex(5)), 3).0,
            GOLDEN
        );
    }

    /// crc32c of sixteen 7s is fixed, so is this.
    const GOLDEN: u16 = 0;
}

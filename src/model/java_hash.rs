//! Java's `String.hashCode`, by which Kafka places groups and transactional ids on partitions.
//!
//! Pure: no async, no clock, no IO.

/// `String.hashCode`: over UTF-16 code units, 31-ary, wrapping at 32 bits.
pub fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

/// The partition of `__consumer_offsets` or `__transaction_state` that coordinates `id`.
///
/// # Panics
/// When `partition_count` is not positive: the topic always has partitions.
pub fn coordinator_partition(id: &str, partition_count: i32) -> i32 {
    assert!(
        partition_count > 0,
        "[coordinator-partitions] a coordinator topic has partitions"
    );
    (java_string_hash(id) & i32::MAX) % partition_count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        assert_eq!(java_string_hash(""), 0);
        assert_eq!(java_string_hash("a"), 97);
        assert_eq!(java_string_hash("hello"), 99_162_322);
        // a known string with the smallest hash
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        // outside the basic plane: two code units, 0xD83D and 0xDE00
        assert_eq!(java_string_hash("\u{1F600}"), 0xD83D * 31 + 0xDE00);
    }

    #[test]
    fn a_negative_hash_still_names_a_partition() {
        assert_eq!(coordinator_partition("polygenelubricants", 50), 0);
        assert_eq!(coordinator_partition("hello", 50), 22);
    }
}

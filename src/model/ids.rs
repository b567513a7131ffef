//! Identities: numbers that must not be mixed up get a type each.
//!
//! Pure: no async, no clock, no IO.
//! Promises: every id is `Copy`, ordered and hashable; `Display` is what Kafka's tools print.

use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number_id!(
    /// One core's thread and everything it owns; dense from 0.
    ShardId(u16)
);
number_id!(
    /// A broker of the cluster (`node.id`).
    NodeId(i32)
);
number_id!(
    /// A partition of a topic; dense from 0. Clients may send any number, so it is signed.
    PartitionIndex(i32)
);
number_id!(
    /// Counts leaderships of one partition; -1 is "unknown".
    LeaderEpoch(i32)
);
number_id!(
    /// An idempotent or transactional producer; -1 is "none".
    ProducerId(i64)
);
number_id!(
    /// Counts incarnations of one producer id; -1 is "none".
    ProducerEpoch(i16)
);
number_id!(
    /// Number that a client gives a request and finds in its response.
    CorrelationId(i32)
);

impl ShardId {
    /// As an index into per-shard tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl LeaderEpoch {
    /// "The client or the batch does not know an epoch."
    pub const UNKNOWN: Self = Self(-1);
}

impl ProducerId {
    /// "Neither idempotent nor transactional."
    pub const NONE: Self = Self(-1);

    /// Whether a producer has this id at all.
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl ProducerEpoch {
    /// "Neither idempotent nor transactional."
    pub const NONE: Self = Self(-1);
}

/// A topic's identity for life (KIP-516): a topic created again under the same name has another
/// one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId([u8; 16]);

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl TopicId {
    /// All zero: "no topic id given", as Kafka's `Uuid.ZERO_UUID`.
    pub const ZERO: Self = Self([0; 16]);

    /// From its 16 bytes in wire and disk order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes in wire and disk order.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether no topic id was given.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Kafka's reserved ids (zero, and one for the metadata topic) are never given to a topic.
    pub fn is_reserved(self) -> bool {
        let [head @ .., last] = &self.0;
        head.iter().all(|byte| *byte == 0) && *last <= 1
    }
}

impl fmt::Display for TopicId {
    /// Kafka's text form: base64url without padding, 22 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        for index in 0..22_u32 {
            // 21 groups of 6 bits from the top, then the last 2 bits padded with zeros
            let group = if index < 21 {
                value >> (122 - 6 * index)
            } else {
                value << 4
            };
            let symbol = usize::try_from(group & 63)
                .ok()
                .and_then(|group| BASE64URL.get(group));
            fmt::Write::write_char(f, char::from(symbol.copied().unwrap_or(b'A')))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a topic id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a topic id: 22 base64url characters are expected")]
pub struct TopicIdParseError;

impl FromStr for TopicId {
    type Err = TopicIdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let symbols: &[u8; 22] = text.as_bytes().try_into().map_err(|_| TopicIdParseError)?;
        let mut value = 0_u128;
        for (index, symbol) in symbols.iter().enumerate() {
            let position = BASE64URL.iter().position(|known| known == symbol);
            let group = position.and_then(|group| u128::try_from(group).ok());
            let group = group.ok_or(TopicIdParseError)?;
            if index < 21 {
                value = (value << 6) | group;
            } else if group.trailing_zeros() >= 4 {
                value = (value << 2) | (group >> 4);
            } else {
                return Err(TopicIdParseError); // bits beyond the 128th
            }
        }
        Ok(Self(value.to_be_bytes()))
    }
}

impl From<uuid::Uuid> for TopicId {
    fn from(value: uuid::Uuid) -> Self {
        Self(*value.as_bytes())
    }
}

impl From<TopicId> for uuid::Uuid {
    fn from(value: TopicId) -> Self {
        uuid::Uuid::from_bytes(value.0)
    }
}

/// The unit of ordering and of ownership: one partition of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Which topic, for life.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// Puts the two together.
    pub const fn new(topic: TopicId, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topic_id_prints_as_kafka_prints_uuids() {
        assert_eq!(TopicId::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(
            TopicId::from_bytes([0xff; 16]).to_string(),
            "_____________________w"
        );
        let mut bytes = [0; 16];
        bytes[15] = 1;
        // Kafka's Uuid.METADATA_TOPIC_ID
        assert_eq!(
            TopicId::from_bytes(bytes).to_string(),
            "AAAAAAAAAAAAAAAAAAAAAQ"
        );
        assert!(TopicId::from_bytes(bytes).is_reserved());
    }

    #[test]
    fn topic_id_text_with_stray_bits_is_refused() {
        assert!("AAAAAAAAAAAAAAAAAAAAAB".parse::<TopicId>().is_err());
        assert!("AAAAAAAAAAAAAAAAAAAAA".parse::<TopicId>().is_err());
        assert!("AAAAAAAAAAAAAAAAAAAA+A".parse::<TopicId>().is_err());
    }

    proptest! {
        #[test]
        fn topic_id_text_round_trips(bytes: [u8; 16]) {
            let id = TopicId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<TopicId>(), Ok(id));
        }
    }
}

//! What a client may do, as the bit sets that describe calls return (KIP-430).
//!
//! Pure: no async, no clock, no IO. There is no authorizer here, and then Kafka returns every
//! operation that a kind of resource knows. A caller that does not ask gets [`NOT_ASKED`].

/// The schema's default: the client did not ask.
pub(crate) const NOT_ASKED: i32 = i32::MIN;

/// Everything that can be done with a topic.
pub(crate) const TOPIC: i32 = bits(&[
    READ,
    WRITE,
    CREATE,
    DELETE,
    ALTER,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    ALTER_CONFIGS,
]);

/// Everything that can be done with a group.
pub(crate) const GROUP: i32 = bits(&[READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS]);

/// Everything that can be done with the cluster.
pub(crate) const CLUSTER: i32 = bits(&[
    CREATE,
    ALTER,
    DESCRIBE,
    CLUSTER_ACTION,
    DESCRIBE_CONFIGS,
    ALTER_CONFIGS,
    IDEMPOTENT_WRITE,
]);

// Kafka's numbers of the operations.
const READ: u32 = 3;
const WRITE: u32 = 4;
const CREATE: u32 = 5;
const DELETE: u32 = 6;
const ALTER: u32 = 7;
const DESCRIBE: u32 = 8;
const CLUSTER_ACTION: u32 = 9;
const DESCRIBE_CONFIGS: u32 = 10;
const ALTER_CONFIGS: u32 = 11;
const IDEMPOTENT_WRITE: u32 = 12;

/// `all` if the client asked.
pub(crate) const fn if_asked(is_asked: bool, all: i32) -> i32 {
    if is_asked { all } else { NOT_ASKED }
}

const fn bits(operations: &[u32]) -> i32 {
    let mut set = 0;
    let mut rest = operations;
    while let Some((operation, others)) = rest.split_first() {
        set |= 1 << *operation;
        rest = others;
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_those_that_a_kafka_without_authorizer_returns() {
        assert_eq!(TOPIC, 0b1101_1111_1000);
        assert_eq!(GROUP, 0b1101_0100_1000);
        assert_eq!(CLUSTER, 0b1_1111_1010_0000);
        assert_eq!(if_asked(false, TOPIC), i32::MIN);
    }
}

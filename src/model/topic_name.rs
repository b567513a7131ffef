//! Kafka's rules for topic names.
//!
//! Pure: no async, no clock, no IO.
//! A legal name is also a safe directory name: no separators, not `.` or `..`, bounded length.

use super::limits::TOPIC_NAME_BYTES_MAX;

/// Why a topic name is refused. Its text is what Kafka tells the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// No characters.
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    /// `.` or `..`.
    #[error("Topic name is invalid: '.' or '..' is not allowed")]
    Dots,
    /// Longer than 249 characters.
    #[error(
        "Topic name is invalid: the length of the name is {got}, longer than {TOPIC_NAME_BYTES_MAX}"
    )]
    Length {
        /// Bytes of the name.
        got: usize,
    },
    /// Something else than ASCII letters, digits, '.', '_' and '-'.
    #[error(
        "Topic name is invalid: it contains one or more characters other than ASCII \
         alphanumerics, '.', '_' and '-'"
    )]
    Characters,
}

/// Topic of the committed offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Topic of the transaction coordinator.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Checks a name that a client wants to use.
pub fn check_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(TopicNameError::Length { got: name.len() });
    }
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.bytes().all(is_legal) {
        Ok(())
    } else {
        Err(TopicNameError::Characters)
    }
}

/// Whether two names become one in places that turn '.' into '_' (metric names), as `a.b` and
/// `a_b`.
/// Kafka refuses to create the second of such a pair. A name collides with itself.
pub fn topic_names_collide(left: &str, right: &str) -> bool {
    let unify = |byte: u8| if byte == b'.' { b'_' } else { byte };
    left.len() == right.len() && left.bytes().map(unify).eq(right.bytes().map(unify))
}

/// Whether a name contains characters that can collide at all.
pub fn topic_name_can_collide(name: &str) -> bool {
    name.bytes().any(|byte| matches!(byte, b'.' | b'_'))
}

/// Whether the topic belongs to the broker itself; clients neither write nor delete it.
pub fn is_internal_topic(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == TRANSACTIONS_TOPIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_kafka_accepts_are_accepted() {
        for name in [
            "a",
            "orders",
            "A.b_c-9",
            "...",
            "__consumer_offsets",
            &"x".repeat(249),
        ] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_kafka_refuses_are_refused() {
        assert_eq!(check_topic_name(""), Err(TopicNameError::Empty));
        assert_eq!(check_topic_name("."), Err(TopicNameError::Dots));
        assert_eq!(check_topic_name(".."), Err(TopicNameError::Dots));
        let long = "x".repeat(250);
        assert_eq!(
            check_topic_name(&long),
            Err(TopicNameError::Length { got: 250 })
        );
        for name in ["a b", "a/b", "a:b", "caf\u{e9}", "a\0"] {
            assert_eq!(
                check_topic_name(name),
                Err(TopicNameError::Characters),
                "{name}"
            );
        }
    }

    #[test]
    fn dot_and_underscore_collide() {
        assert!(topic_names_collide("a.b", "a_b"));
        assert!(topic_names_collide("a.b_c", "a_b.c"));
        assert!(!topic_names_collide("a.b", "a-b"));
        assert!(!topic_names_collide("a.b", "a.bc"));
        assert!(topic_name_can_collide("a_b"));
        assert!(!topic_name_can_collide("a-b"));
    }
}

//! The topics in a "consumer" subscription: what the Java client and all others send as metadata.
//!
//! Pure: no async, no clock, no IO.
//!
//! ```text
//! i16 version, i32 count, count x (i16 length, topic), ... fields of no interest here
//! ```
//! Every version begins so, those to come included (the protocol's own rule).

/// The topics, or `None` if the bytes are no subscription.
pub fn topics(metadata: &[u8]) -> Option<Vec<String>> {
    let (version, rest) = metadata.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    // Every topic takes at least two bytes.
    let mut topics = Vec::with_capacity(count.min(rest.len() / 2));
    for _ in 0..count {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let size = usize::try_from(i16::from_be_bytes(*size)).ok()?;
        let (topic, after) = after.split_at_checked(size)?;
        topics.push(std::str::from_utf8(topic).ok()?.to_owned());
        rest = after;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    // version 1, topics ["a", "bc"], null user data, no owned partitions
    const GOLDEN: &[u8] = &[
        0, 1, 0, 0, 0, 2, 0, 1, b'a', 0, 2, b'b', b'c', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ];

    #[test]
    fn topics_of_a_real_subscription_are_read() {
        assert_eq!(topics(GOLDEN), Some(vec!["a".to_owned(), "bc".to_owned()]));
    }

    #[test]
    fn later_versions_begin_the_same_way() {
        let mut bytes = GOLDEN.to_vec();
        bytes[1] = 9;
        assert_eq!(topics(&bytes).map(|topics| topics.len()), Some(2));
    }

    #[test]
    fn cut_off_inside_the_topics_it_is_none() {
        for len in 0..13 {
            assert_eq!(topics(&GOLDEN[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn absurd_counts_are_refused_without_allocating() {
        assert_eq!(topics(&[0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0]), None);
        assert_eq!(topics(&[0, 0, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(topics(&[0xff, 0xff, 0, 0, 0, 0]), None);
        assert_eq!(topics(&[0, 0, 0, 0, 0, 1, 0xff, 0xff]), None);
    }
}

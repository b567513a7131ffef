//! Kafka's `partition.metadata` text file: which topic id a partition directory belongs to.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a directory of another topic of the same name is recognised (KIP-516).
//!
//! The file: `version: 0` and `topic_id: <22 base64url characters>`, one a line.

use crate::model::ids::TopicId;

/// Name of the file in the partition's directory.
pub const FILE_NAME: &str = "partition.metadata";

/// The text is not a partition metadata file of version 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("partition.metadata is not a version 0 file with a topic id")]
pub struct MetadataError;

/// The text of the file.
pub fn encode(topic: TopicId) -> String {
    format!("version: 0\ntopic_id: {topic}")
}

/// The topic id that the text of a file names.
pub fn decode(text: &str) -> Result<TopicId, MetadataError> {
    let (mut version, mut topic) = (None, None);
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("version", value)) => version = Some(value),
            Some(("topic_id", value)) => topic = value.parse::<TopicId>().ok(),
            _ => return Err(MetadataError),
        }
    }
    if version == Some("0") {
        topic.ok_or(MetadataError)
    } else {
        Err(MetadataError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_text_is_kafkas() {
        let mut bytes = [0; 16];
        bytes[15] = 1;
        let topic = TopicId::from_bytes(bytes);
        assert_eq!(
            encode(topic),
            "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ"
        );
        assert_eq!(
            decode("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ"),
            Ok(topic)
        );
        assert_eq!(
            decode("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n"),
            Ok(topic)
        );
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "version: 0",
            "version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ",
            "nonsense",
        ] {
            assert_eq!(decode(text), Err(MetadataError), "{text:?}");
        }
    }
}

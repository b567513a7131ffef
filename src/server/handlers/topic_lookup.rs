//! Finds the topic that a hot request means: by name, or since KIP-516 by id.
//!
//! Pure: no async, no clock, no IO.

use std::sync::Arc;

use crate::cluster::metadata::{Image, Topic};
use crate::model::error_code::ErrorCode;
use crate::wire::topic_ref::TopicRef;

/// The topic that a request means, and the code to answer with where it or a partition is missing.
pub(crate) fn find_topic<'a>(
    image: &'a Image,
    topic: &TopicRef,
) -> (Option<&'a Arc<Topic>>, ErrorCode) {
    match topic {
        TopicRef::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
        TopicRef::Id(id) => match image.topic_by_id(*id) {
            Some(topic) => (Some(topic), ErrorCode::UnknownTopicOrPartition),
            None => (None, ErrorCode::UnknownTopicId),
        },
    }
}

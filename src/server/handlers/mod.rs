//! One file per family of APIs; each handler takes a context and a decoded request and returns the
//! response. The hot two, `produce` and `fetch`, work on the frame in place.

pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod fetch;
pub(crate) mod group_offsets;
pub(crate) mod groups;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod producer_ids;
pub(crate) mod topics;

use std::sync::Arc;

use crate::cluster::metadata::{Image, Topic};
use crate::model::error_code::ErrorCode;
use crate::wire::topic_ref::TopicRef;

/// The topic that a request means, and the code to answer with where it or a partition is missing.
fn find_topic<'a>(image: &'a Image, topic: &TopicRef) -> (Option<&'a Arc<Topic>>, ErrorCode) {
    match topic {
        TopicRef::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
        TopicRef::Id(id) => match image.topic_by_id(*id) {
            Some(topic) => (Some(topic), ErrorCode::UnknownTopicOrPartition),
            None => (None, ErrorCode::UnknownTopicId),
        },
    }
}

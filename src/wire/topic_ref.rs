//! How a request names a topic: by name, or since KIP-516 by id.

use kafka_protocol::protocol::StrBytes;

use crate::model::ids::TopicId;
use crate::wire::DecodeError;
use crate::wire::reader::Reader;
use crate::wire::writer::Writer;

/// A topic as the request names it; the response names it the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicRef {
    /// By name, in versions before topic ids.
    Name(StrBytes),
    /// By id.
    Id(TopicId),
}

impl TopicRef {
    /// Bytes it takes at least.
    pub(super) const BYTES_MIN: usize = 1;

    pub(super) fn read(reader: &mut Reader<'_>, is_by_id: bool) -> Result<Self, DecodeError> {
        if is_by_id {
            reader.topic_id().map(Self::Id)
        } else {
            reader.string().map(Self::Name)
        }
    }

    /// Writes what the version wants. A response made from its own request always has that; for
    /// another one the missing half is empty.
    pub(super) fn write(&self, writer: &mut Writer, is_by_id: bool) {
        match (self, is_by_id) {
            (Self::Id(id), true) => writer.topic_id(*id),
            (Self::Name(_), true) => writer.topic_id(TopicId::ZERO),
            (Self::Name(name), false) => writer.string(name),
            (Self::Id(_), false) => writer.string(""),
        }
    }

    /// The same with bytes of its own: who waits shall not keep a whole frame alive.
    #[must_use]
    pub fn into_own(self) -> Self {
        match self {
            Self::Name(name) => Self::Name(StrBytes::from_string(name.to_string())),
            id @ Self::Id(_) => id,
        }
    }

    /// The name, when named so.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Id(_) => None,
        }
    }

    /// The id, when named so.
    pub fn id(&self) -> Option<TopicId> {
        match self {
            Self::Name(_) => None,
            Self::Id(id) => Some(*id),
        }
    }
}

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
pub(crate) mod topic_lookup;
pub(crate) mod topics;

//! What a handler knows about the request besides its body.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::config::BrokerConfig;
use crate::config::address::Advertised;
use crate::model::ids::{CorrelationId, NodeId};
use crate::rt::Instant;
use crate::server::fetch_session::SharedSessions;
use crate::server::in_flight::InFlight;
use crate::shard::shard::Shard;

/// One request's surroundings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RequestContext {
    /// The shard that owns the connection.
    pub(crate) shard: Rc<Shard>,
    /// Fetch sessions of that shard's connections.
    pub(crate) fetch_sessions: SharedSessions,
    /// Version of the request, already checked against `wire::api`.
    pub(crate) version: i16,
    /// Comes back with the answer.
    pub(crate) correlation_id: CorrelationId,
    /// `client.id` of the header; empty when the client sent none.
    pub(crate) client_id: Rc<str>,
    /// Who is asking.
    pub(crate) peer: SocketAddr,
    /// The address that the client connected to.
    pub(crate) local: SocketAddr,
    /// The memory that the request holds.
    pub(crate) in_flight: Rc<InFlight>,
    /// When the frame was complete.
    pub(crate) received: Instant,
    /// Whether the answer refuses the request or a part of it; for the metrics.
    pub(crate) has_error: Cell<bool>,
}

impl RequestContext {
    /// The answer refuses the request or a part of it.
    pub(crate) fn note_error(&self) {
        self.has_error.set(true);
    }

    /// The broker's settings.
    pub(crate) fn config(&self) -> Rc<BrokerConfig> {
        self.shard.config()
    }

    /// This broker's id.
    pub(crate) fn node_id(&self) -> NodeId {
        NodeId(self.config().node_id)
    }

    /// Host and port that clients shall use: `--advertise`, or the address this client came to, so
    /// that a wildcard listener never advertises 0.0.0.0.
    pub(crate) fn advertised(&self) -> (String, i32) {
        match self.config().advertised() {
            Advertised::Fixed(address) => (address.host, i32::from(address.port)),
            Advertised::AsConnected => (
                self.local.ip().to_canonical().to_string(),
                i32::from(self.local.port()),
            ),
        }
    }
}

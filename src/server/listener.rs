//! Accepts connections on this shard's listeners (SO_REUSEPORT: the kernel spreads them).

use std::rc::Rc;
use std::time::Duration;

use crate::rt::net::{TcpListener, TcpStream};
use crate::rt::{self, Lane};
use crate::server::connection;
use crate::server::fetch_session::SharedSessions;
use crate::shard::addresses;
use crate::shard::shard::Shard;
use crate::telemetry::names::{Counter, Gauge};

/// Pause after a failed accept, so that a shortage of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connections accepted before those that are there have their turn: a client that opens and closes
/// in a loop has few at a time and does not keep the shard; one among thousands waits little.
const ACCEPTED_AT_ONCE: u64 = 64;

/// Accepts until the shard stops. Limit: `max.connections`, split evenly over the shards; what
/// comes beyond is closed at once.
pub(crate) async fn run(shard: Rc<Shard>, fetch_sessions: SharedSessions, listener: TcpListener) {
    let shards = u64::from(shard.shard_count()).max(1);
    let limit = u64::from(shard.config().max_connections).div_ceil(shards);
    let mut accepted: u64 = 0;
    loop {
        match listener.accept().await {
            Ok(stream) if shard.metrics.gauge(Gauge::Connections) >= limit => {
                shard.metrics.increment(Counter::ConnectionsRefused);
                if let Some(left_out) = shard.may_tell_of_connection() {
                    let peer = stream.peer_addr();
                    let what = "max.connections reached: a new connection is closed";
                    tracing::warn!(%peer, limit, left_out, "{what}");
                }
                drop(stream);
            }
            Ok(stream) => {
                shard.metrics.increment(Counter::ConnectionsAccepted);
                shard.metrics.raise(Gauge::Connections, 1); // now: the next one may be too many
                drop(stream.set_nodelay(true)); // a socket that is gone already says so when read
                rt::spawn(
                    Lane::Network,
                    "connection",
                    admit(shard.clone(), fetch_sessions.clone(), stream),
                )
                .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                rt::sleep(ACCEPT_RETRY).await;
            }
        }
        accepted += 1;
        if accepted.is_multiple_of(ACCEPTED_AT_ONCE) {
            rt::yield_now().await;
        }
    }
}

/// Serves a connection, unless its address has as many as `max.connections.per.ip` allows.
async fn admit(shard: Rc<Shard>, fetch_sessions: SharedSessions, stream: TcpStream) {
    let peer = stream.peer_addr();
    let address = peer.ip().to_canonical();
    let limit = addresses::limit_of(&shard.config(), address);
    let is_admitted = match limit {
        Some(limit) => shard.enter_address(address, limit).await,
        None => true,
    };
    if is_admitted {
        connection::run(shard.clone(), fetch_sessions, stream).await;
        if limit.is_some() {
            shard.leave_address(address).await;
        }
    } else {
        drop(stream);
        shard.metrics.increment(Counter::ConnectionsRefused);
        if let Some(left_out) = shard.may_tell_of_connection() {
            let what = "max.connections.per.ip reached: a new connection is closed";
            tracing::warn!(%peer, limit, left_out, "{what}");
        }
    }
    shard.metrics.lower(Gauge::Connections, 1);
}

//! Accepts connections on this shard's listeners (SO_REUSEPORT: the kernel spreads them).

use std::rc::Rc;
use std::time::Duration;

use crate::rt::net::TcpListener;
use crate::rt::{self, Lane};
use crate::server::connection;
use crate::server::fetch_session::SharedSessions;
use crate::shard::shard::Shard;
use crate::telemetry::names::{Counter, Gauge};

/// Pause after a failed accept, so that a shortage of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts until the shard stops. Limit: `max.connections`, split evenly over the shards; what
/// comes beyond is closed at once.
pub(crate) async fn run(shard: Rc<Shard>, fetch_sessions: SharedSessions, listener: TcpListener) {
    let shards = u64::from(shard.shard_count()).max(1);
    let limit = u64::from(shard.config().max_connections).div_ceil(shards);
    loop {
        match listener.accept().await {
            Ok(stream) if shard.metrics.gauge(Gauge::Connections) >= limit => {
                shard.metrics.increment(Counter::ConnectionsRefused);
                tracing::warn!(limit, "max.connections reached: a new connection is closed");
                drop(stream);
            }
            Ok(stream) => {
                shard.metrics.increment(Counter::ConnectionsAccepted);
                drop(stream.set_nodelay(true)); // a socket that is gone already says so when read
                rt::spawn(
                    Lane::Network,
                    "connection",
                    connection::run(shard.clone(), fetch_sessions.clone(), stream),
                )
                .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                rt::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

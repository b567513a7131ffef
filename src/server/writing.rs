//! An answer onto the socket: memory by vectored writes, file ranges by sendfile.
//!
//! Runs on: the shard that accepted the connection.
//! Promises: a client that takes something now and then gets all of its answer; one that takes
//! nothing for too long (`patience`) loses the connection and gives the memory back.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;

use crate::rt;
use crate::rt::net::TcpStream;
use crate::server::in_flight::InFlight;
use crate::server::patience;
use crate::server::response::{Part, Response};
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;

/// Writes all of `response`.
///
/// # Errors
/// `TimedOut` when the client took nothing for too long.
pub(crate) async fn write(
    shard: &Shard,
    stream: &TcpStream,
    response: Response,
    in_flight: &InFlight,
) -> std::io::Result<()> {
    let others_wait = || in_flight.is_awaited(response.charge.as_ref());
    let to = (shard, stream);
    let mut memory: Vec<Bytes> = Vec::new();
    shard.metrics.add(Counter::BytesSent, response.size_bytes());
    for part in response.parts {
        match part {
            Part::Memory(bytes) => memory.push(bytes),
            Part::File {
                file,
                position,
                size_bytes,
            } => {
                watched(to, &others_wait, stream.write_all_vectored(&mut memory)).await?;
                memory.clear();
                let send = stream.send_file(&file, position, size_bytes);
                watched(to, &others_wait, send).await?;
            }
        }
    }
    watched(to, &others_wait, stream.write_all_vectored(&mut memory)).await
}

/// Awaits `write`, looking now and then whether the client still takes something.
async fn watched(
    (shard, stream): (&Shard, &TcpStream),
    others_wait: &impl Fn() -> bool,
    write: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    let mut write = pin!(write);
    let mut seen = stream.sent_bytes();
    let mut idle = Duration::ZERO;
    loop {
        if let Some(written) = rt::timeout(patience::LOOK_INTERVAL, write.as_mut()).await {
            return written;
        }
        let sent = stream.sent_bytes();
        idle = if sent == seen {
            idle + patience::LOOK_INTERVAL
        } else {
            Duration::ZERO
        };
        seen = sent;
        if patience::is_stalled(idle, others_wait()) {
            let peer = stream.peer_addr();
            if let Some(left_out) = shard.may_tell_of_connection() {
                let what = "connection closed: the client does not take its answer";
                tracing::warn!(%peer, ?idle, left_out, "{what}");
            }
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
}

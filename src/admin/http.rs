//! The admin port: `/metrics` for Prometheus and `/healthz` for supervisors, over plain HTTP/1.1.
//!
//! Runs on: shard 0, background lane.
//! Two paths and GET only: a request is a line that matters and headers that do not, so the few
//! lines here stand in for an HTTP library, none of which runs on this executor.
//! Limits: `REQUEST_SIZE_BYTES_MAX` a request, `REQUEST_TIME` for all of it, `CONNECTIONS_MAX` at
//! once; one request a connection.

use std::cell::Cell;
use std::iter;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::rt::net::{TcpListener, TcpStream};
use crate::rt::{self, Lane};
use crate::shard::observe::Health;
use crate::shard::shard::Shard;
use crate::telemetry::exposition;

const REQUEST_SIZE_BYTES_MAX: usize = 8 << 10;
const REQUEST_TIME: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: u32 = 16;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts until the task is cancelled.
pub async fn run(shard: Rc<Shard>, listener: TcpListener) {
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok(stream) if open.get() >= CONNECTIONS_MAX => drop(stream),
            Ok(stream) => {
                open.set(open.get() + 1);
                let (shard, open) = (shard.clone(), open.clone());
                rt::spawn(Lane::Background, "admin-request", async move {
                    // A peer that is slow or gone is its own loss.
                    drop(rt::timeout(REQUEST_TIME, answer(&shard, &stream)).await);
                    open.set(open.get() - 1);
                })
                .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                rt::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn answer(shard: &Rc<Shard>, stream: &TcpStream) -> std::io::Result<()> {
    let mut request = BytesMut::new();
    while !is_complete(&request) {
        if request.len() > REQUEST_SIZE_BYTES_MAX || stream.read_some(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (status, kind, body) = match parse(&request) {
        Some("/metrics") => {
            let text = shard.metrics_text().await;
            ("200 OK", exposition::CONTENT_TYPE, text)
        }
        Some("/healthz") => health(&shard.health().await),
        Some(_) => (
            "404 Not Found",
            TEXT,
            "there are /metrics and /healthz\n".to_owned(),
        ),
        None => ("405 Method Not Allowed", TEXT, "GET only\n".to_owned()),
    };
    let size = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\
         Connection: close\r\n\r\n"
    );
    stream
        .write_all_vectored(&mut [Bytes::from(head), Bytes::from(body)])
        .await?;
    stream.shutdown(std::net::Shutdown::Both)
}

/// Failing while nothing can be appended: until a restart, or until a full disk has room again.
/// Partitions that are offline or damaged are for people.
fn health(health: &Health) -> (&'static str, &'static str, String) {
    if !health.complaints.is_empty() {
        let text = health.complaints.join("\n") + "\n";
        return ("503 Service Unavailable", TEXT, text);
    }
    let unserved = [
        ("offline", health.unserved.offline),
        ("damaged", health.unserved.damaged),
    ];
    let unserved = unserved.into_iter().filter(|(_, count)| *count > 0);
    let text = iter::once("ok".to_owned())
        .chain(unserved.map(|(what, count)| format!("but partitions are {what}: {count}")));
    ("200 OK", TEXT, text.collect::<Vec<_>>().join(", ") + "\n")
}

const TEXT: &str = "text/plain; charset=utf-8";

fn is_complete(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n")
}

/// The path of a GET, without its query.
fn parse(request: &[u8]) -> Option<&str> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    (method == "GET").then(|| target.split('?').next().unwrap_or(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_taken_without_its_query() {
        assert_eq!(
            parse(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
            Some("/metrics")
        );
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), None);
        assert_eq!(parse(b"\xff\xfe\r\n\r\n"), None);
        assert_eq!(parse(b""), None);
    }
}

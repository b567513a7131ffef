//! One client connection: frames in, answers out, in the order of the requests.
//!
//! Runs on: the shard that accepted it.      Owner: its reader task.      Pure: no.
//! Promises: answers leave in request order. Produce requests are prepared and submitted one after
//! the other, so that their batches reach each partition in request order, while the answers before
//! them are still being waited for. Any other request starts when every answer before it has been
//! written: Kafka handles one request of a connection at a time, clients rely on it.
//! Limits: a frame is charged to its pool before its body is read; `PIPELINED_MAX` answers wait at
//! most; a body that does not arrive, or a response that makes no progress, ends the connection.

use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::rt::net::TcpStream;
use crate::rt::sync::{Notify, Queue};
use crate::rt::{self, Lane};
use crate::server::dispatch;
use crate::server::fetch_session::SharedSessions;
use crate::server::response::{Part, Response};
use crate::shard::budget::Charge;
use crate::shard::shard::Shard;
use crate::telemetry::names::{Counter, Gauge};
use crate::wire::api::ApiKey;

/// Answers of one connection that may wait for durability at a time.
const PIPELINED_MAX: usize = 256;
/// What is read at once after a small frame: many small ones may follow.
const READ_SIZE_BYTES: usize = 64 << 10;
/// Frames from this size on get a buffer of their own, of exactly their size.
const OWN_BUFFER_SIZE_BYTES_MIN: usize = 16 << 10;
/// The body of a frame whose head has arrived must be complete within this time.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// A response of which the client takes nothing for this long ends the connection.
const RESPONSE_STALL: Duration = Duration::from_secs(60);
/// Length prefix, API key.
const HEAD_SIZE: usize = 6;
/// API key, version, correlation id, client id length: no request is shorter.
const FRAME_SIZE_BYTES_MIN: usize = 10;

/// What the writer does when an answer's turn has come.
pub(crate) enum Answer {
    /// Writes it.
    Write(Response),
    /// Nothing: acks=0. The request's memory is free once its batches are durable.
    Nothing,
    /// Closes the connection: how acks=0 learns of a refusal, as in Kafka.
    Close,
}

/// An answer that may still wait for durability.
pub(crate) type PendingAnswer = Pin<Box<dyn Future<Output = Answer>>>;

/// Why a connection ends, for the log line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// Closed by the client between requests, or idle for `connections.max.idle.ms`.
    #[error("closed")]
    Quiet,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The client sent what no broker answers; Kafka closes the connection too.
    #[error("{0}")]
    Refused(String),
}

/// A request between its frame and its answer: the memory it holds, and its place in the gauge.
struct InFlight {
    shard: Rc<Shard>,
    _charge: Charge,
}

impl InFlight {
    fn new(shard: &Rc<Shard>, charge: Charge) -> Self {
        shard.metrics.raise(Gauge::InFlightRequests, 1);
        Self {
            shard: shard.clone(),
            _charge: charge,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shard.metrics.lower(Gauge::InFlightRequests, 1);
    }
}

struct Shared {
    answers: Queue<(PendingAnswer, InFlight)>,
    /// Told whenever an answer has been written and none is left.
    all_written: Notify,
    unwritten: std::cell::Cell<usize>,
}

/// Serves `stream` until it ends.
pub(crate) async fn run(shard: Rc<Shard>, fetch_sessions: SharedSessions, stream: TcpStream) {
    let (peer, local) = (stream.peer_addr(), stream.local_addr());
    let stream = Rc::new(stream);
    shard.metrics.raise(Gauge::Connections, 1);
    let shared = Rc::new(Shared {
        answers: Queue::new(PIPELINED_MAX),
        all_written: Notify::new(),
        unwritten: std::cell::Cell::new(0),
    });
    let writing = rt::spawn(Lane::Network, "connection-writer", {
        let (shared, shard, stream) = (shared.clone(), shard.clone(), stream.clone());
        async move { write_answers(&shared, &shard, &stream).await }
    });
    let mut requests = Requests {
        shard: shard.clone(),
        stream,
        buffer: BytesMut::new(),
        was_large: false,
    };
    let end = serve(&shared, &mut requests, &fetch_sessions, (peer, local)).await;
    shared.answers.close();
    match end {
        End::Quiet => {}
        End::Io(error) => tracing::debug!(%peer, %error, "connection lost"),
        End::Refused(reason) => {
            shard.metrics.increment(Counter::ConnectionsRefused);
            tracing::warn!(%peer, reason, "connection closed");
        }
    }
    writing.await;
    shard.metrics.lower(Gauge::Connections, 1);
}

async fn serve(
    shared: &Shared,
    requests: &mut Requests,
    fetch_sessions: &SharedSessions,
    addresses: (SocketAddr, SocketAddr),
) -> End {
    let shard = requests.shard.clone();
    loop {
        let (frame, charge) = match requests.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Quiet,
            Err(end) => return end,
        };
        let in_flight = InFlight::new(&shard, charge);
        if shared.answers.is_closed() || shard.is_stopping() {
            return End::Quiet; // the writer met its end, or the broker comes to its own
        }
        if !is_produce(&frame) {
            while shared.unwritten.get() > 0 {
                shared.all_written.notified().await;
            }
        }
        let answer = match dispatch::dispatch(&shard, fetch_sessions, addresses, frame).await {
            Ok(answer) => answer,
            Err(end) => return end,
        };
        shared.unwritten.set(shared.unwritten.get() + 1);
        if shared.answers.push((answer, in_flight)).await.is_err() {
            return End::Quiet;
        }
    }
}

fn is_produce(frame: &Bytes) -> bool {
    frame.get(..2) == Some(&ApiKey::Produce.code().to_be_bytes()[..])
}

/// Frames off the socket, each charged to its pool.
///
/// After a large frame only the head of the next one is read at first: then its size is known, its
/// body is received where it will stay, and nothing behind it is taken along. After a small frame
/// as much is read as there is: one system call brings many.
struct Requests {
    shard: Rc<Shard>,
    stream: Rc<TcpStream>,
    buffer: BytesMut,
    /// Whether the frame before had a buffer of its own.
    was_large: bool,
}

impl Requests {
    /// The next frame without its length prefix; `None` when the client is done or idle too long.
    async fn next(&mut self) -> Result<Option<(Bytes, Charge)>, End> {
        let idle = self
            .shard
            .config()
            .connections_max_idle
            .unwrap_or(Duration::MAX);
        while self.buffer.len() < HEAD_SIZE {
            // an impossible length ends the connection even if nothing follows it
            self.size()?;
            let read = rt::timeout(idle, self.read_head()).await;
            match read {
                None => return Ok(None),
                Some(Ok(0)) if self.buffer.is_empty() => return Ok(None),
                Some(Ok(0)) => return Err(End::Refused("cut off within a request".into())),
                Some(read) => read?,
            };
        }
        let (size, api_key) = self.head()?;
        let charge = if api_key == ApiKey::Produce.code() {
            self.shard.budget.charge_produce(size).await
        } else {
            self.shard.budget.charge_control(size).await
        };
        let whole = size + 4;
        self.was_large = whole >= OWN_BUFFER_SIZE_BYTES_MIN;
        let mut frame = if self.was_large {
            self.large_frame(whole).await?
        } else {
            self.small_frame(whole).await?
        }
        .freeze();
        let received = u64::try_from(whole).unwrap_or(u64::MAX);
        self.shard.metrics.add(Counter::BytesReceived, received);
        bytes::Buf::advance(&mut frame, 4);
        Ok(Some((frame, charge)))
    }

    /// A frame alone in its memory, so that its batch is patched and kept in place. What was read
    /// before its size was known is copied.
    async fn large_frame(&mut self, whole: usize) -> Result<BytesMut, End> {
        let mut frame = BytesMut::with_capacity(whole);
        let begun = self.buffer.len().min(whole);
        frame.extend_from_slice(&self.buffer.split_to(begun));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new(); // an idle connection holds no memory for it
        }
        while frame.len() < whole {
            let missing = whole - frame.len();
            let read = self.stream.read_at_most(&mut frame, missing);
            body(rt::timeout(BODY_DEADLINE, read).await)?;
        }
        Ok(frame)
    }

    /// A frame cut off the front of the buffer, which it shares with its neighbours.
    async fn small_frame(&mut self, whole: usize) -> Result<BytesMut, End> {
        while self.buffer.len() < whole {
            self.buffer.reserve(READ_SIZE_BYTES / 2);
            let read = self.stream.read_some(&mut self.buffer);
            body(rt::timeout(BODY_DEADLINE, read).await)?;
        }
        Ok(self.buffer.split_to(whole))
    }

    async fn read_head(&mut self) -> std::io::Result<usize> {
        if self.was_large {
            let missing = HEAD_SIZE - self.buffer.len();
            self.buffer.reserve(missing);
            return self.stream.read_at_most(&mut self.buffer, missing).await;
        }
        self.buffer.reserve(READ_SIZE_BYTES);
        self.stream.read_some(&mut self.buffer).await
    }

    /// Size and API key of the frame at the front, checked before anything is allocated for it.
    fn head(&self) -> Result<(usize, i16), End> {
        let size = self.size()?.expect("HEAD_SIZE is more than a length");
        let key = self
            .buffer
            .get(4..HEAD_SIZE)
            .and_then(|key| key.first_chunk::<2>());
        Ok((
            size,
            i16::from_be_bytes(*key.expect("HEAD_SIZE is as much")),
        ))
    }

    /// Size of the frame at the front, within its limits; `None` while its length is not here yet.
    fn size(&self) -> Result<Option<usize>, End> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let limit = self.shard.settings().request_bytes_max;
        match usize::try_from(length) {
            Ok(size) if size < FRAME_SIZE_BYTES_MIN => Err(End::Refused(format!(
                "request of {size} bytes is too short"
            ))),
            Ok(size) if size <= limit => Ok(Some(size)),
            _ => Err(End::Refused(format!(
                "request of {length} bytes is outside socket.request.max.bytes={limit}"
            ))),
        }
    }
}

/// Checks one read of a body: it has its deadline, and the client may not leave within it.
fn body(read: Option<std::io::Result<usize>>) -> Result<(), End> {
    match read {
        None => Err(End::Refused("the body of a request did not arrive".into())),
        Some(Ok(0)) => Err(End::Refused("cut off within a request".into())),
        Some(read) => Ok(read.map(drop)?),
    }
}

async fn write_answers(shared: &Shared, shard: &Shard, stream: &TcpStream) {
    while let Some((answer, in_flight)) = shared.answers.pop().await {
        let written = match answer.await {
            Answer::Write(response) => write(shard, stream, response).await,
            Answer::Nothing => Ok(()),
            Answer::Close => Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        drop(in_flight);
        shared.unwritten.set(shared.unwritten.get() - 1);
        if written.is_err() {
            break;
        }
        if shared.unwritten.get() == 0 {
            shared.all_written.notify_all();
        }
    }
    // Nothing more will be written: let the reader see the end and stop.
    shared.answers.close();
    while let Some(_abandoned) = shared.answers.try_pop() {}
    shared.unwritten.set(0);
    shared.all_written.notify_all();
    drop(stream.shutdown(Shutdown::Both)); // it may be gone already
}

async fn write(shard: &Shard, stream: &TcpStream, response: Response) -> std::io::Result<()> {
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
                stalled(stream.write_all_vectored(&mut memory)).await?;
                memory.clear();
                stalled(stream.send_file(&file, position, size_bytes)).await?;
            }
        }
    }
    stalled(stream.write_all_vectored(&mut memory)).await
}

async fn stalled<T>(write: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match rt::timeout(RESPONSE_STALL, write).await {
        Some(written) => written,
        None => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

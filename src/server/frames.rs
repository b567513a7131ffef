//! Requests off a socket: frames, each charged to its memory pool before its body is read.
//!
//! Runs on: the shard that accepted the connection.      Owner: the connection's reader task.
//! Promises: an impossible length ends the connection before anything is allocated for it; a large
//! frame is alone in a buffer of exactly its size.
//! Limits: besides its charged frame a connection holds what one read of small frames brings
//! (`rt::net::SMALL_READ_BYTES`); a body that does not come on (`patience`) ends the connection.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::rt;
use crate::rt::net::{SMALL_READ_BYTES, TcpStream};
use crate::server::connection::End;
use crate::server::patience;
use crate::shard::budget::Charge;
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;
use crate::wire::api::ApiKey;

/// Frames from this size on get a buffer of their own.
const OWN_BUFFER_SIZE_BYTES_MIN: usize = 16 << 10;
/// Length prefix, API key.
const HEAD_SIZE: usize = 6;
/// API key, version, correlation id, client id length: no request is shorter.
const FRAME_SIZE_BYTES_MIN: usize = 10;

/// The frames of one connection.
///
/// After a large frame only the head of the next one is read at first: then its size is known, its
/// body is received where it will stay, and nothing behind it is taken along. After a small frame
/// as much is read as there is: one system call brings many.
pub(crate) struct Frames {
    shard: Rc<Shard>,
    stream: Rc<TcpStream>,
    buffer: BytesMut,
    /// Whether the frame before had a buffer of its own; so it is said of the first.
    was_large: bool,
}

impl Frames {
    pub(crate) fn new(shard: Rc<Shard>, stream: Rc<TcpStream>) -> Self {
        Self {
            shard,
            stream,
            buffer: BytesMut::new(),
            was_large: true, // thousands may begin with a large one, and wait with what they read
        }
    }

    /// The shard that the connection is on.
    pub(crate) fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// The next frame without its length prefix; `None` when the client is done or idle too long.
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Charge)>, End> {
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
            self.check_control(size)?;
            self.shard.budget.charge_control(size).await
        };
        let whole = size + 4;
        self.was_large = whole >= OWN_BUFFER_SIZE_BYTES_MIN;
        let mut frame = if self.was_large {
            self.large_frame(whole, &charge).await?
        } else {
            self.small_frame(whole, &charge).await?
        }
        .freeze();
        let received = u64::try_from(whole).unwrap_or(u64::MAX);
        self.shard.metrics.add(Counter::BytesReceived, received);
        bytes::Buf::advance(&mut frame, 4);
        Ok(Some((frame, charge)))
    }

    /// A frame alone in its memory, so that its batch is patched and kept in place. What was read
    /// before its size was known is copied.
    async fn large_frame(&mut self, whole: usize, charge: &Charge) -> Result<BytesMut, End> {
        let mut frame = BytesMut::with_capacity(whole);
        let begun = self.buffer.len().min(whole);
        frame.extend_from_slice(&self.buffer.split_to(begun));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new(); // an idle connection holds no memory for it
        }
        let start = rt::now();
        let mut last = start;
        while frame.len() < whole {
            let missing = whole - frame.len();
            let read = self.stream.read_at_most(&mut frame, missing);
            let read = rt::timeout(patience::LOOK_INTERVAL, read).await;
            let sizes = (frame.len(), whole);
            check_body(read, (start, &mut last), sizes, charge.is_wanted())?;
        }
        Ok(frame)
    }

    /// A frame cut off the front of the buffer, which it shares with its neighbours.
    async fn small_frame(&mut self, whole: usize, charge: &Charge) -> Result<BytesMut, End> {
        let start = rt::now();
        let mut last = start;
        while self.buffer.len() < whole {
            let read = self.stream.read_small(&mut self.buffer);
            let read = rt::timeout(patience::LOOK_INTERVAL, read).await;
            let sizes = (self.buffer.len(), whole);
            check_body(read, (start, &mut last), sizes, charge.is_wanted())?;
        }
        Ok(self.buffer.split_to(whole))
    }

    /// Returns when the client has closed the connection, or the connection broke. Reads ahead of
    /// what it sends meanwhile, a small read at most.
    ///
    /// Cancel: safe; what was read is kept.
    pub(crate) async fn closed_by_client(&mut self) {
        let ahead = if self.was_large {
            HEAD_SIZE
        } else {
            SMALL_READ_BYTES
        };
        while self.buffer.len() < ahead {
            if matches!(self.read_head().await, Ok(0) | Err(_)) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    async fn read_head(&mut self) -> std::io::Result<usize> {
        if self.was_large {
            let missing = HEAD_SIZE - self.buffer.len();
            self.buffer.reserve(missing);
            return self.stream.read_at_most(&mut self.buffer, missing).await;
        }
        self.stream.read_small(&mut self.buffer).await
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

    /// Requests other than Produce have a pool of their own, which is smaller.
    fn check_control(&self, size: usize) -> Result<(), End> {
        let limit = self.shard.budget.control_bytes_max();
        if size <= limit {
            return Ok(());
        }
        Err(End::Refused(format!(
            "request of {size} bytes is above the {limit} bytes that requests other than Produce \
             share: raise memory.per.shard"
        )))
    }
}

/// Checks one read of a body that began at `start` and last brought something at `last`.
fn check_body(
    read: Option<std::io::Result<usize>>,
    (start, last): (rt::Instant, &mut rt::Instant),
    (received, whole): (usize, usize),
    others_wait: bool,
) -> Result<(), End> {
    match read {
        Some(Ok(0)) => return Err(End::Refused("cut off within a request".into())),
        Some(read) => {
            read?;
            *last = rt::now();
        }
        None => {}
    }
    if patience::is_stalled(last.elapsed(), others_wait)
        || patience::is_late(start.elapsed(), received, others_wait)
    {
        let reason = format!("the body of a request of {whole} bytes did not arrive in time");
        return Err(End::Refused(reason));
    }
    Ok(())
}

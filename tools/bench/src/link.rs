//! One non-blocking connection: what waits to be sent, and frames as they come in.
//!
//! Runs on: the engine's thread.
//! Promises: bytes leave in the order they were queued, with as few system calls as the socket
//! allows; a connection that waits for nothing holds no receive buffer.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::rc::Rc;

use crate::cold;

/// Pieces given to one system call.
const SLICES_MAX: usize = 32;
/// Smaller records are copied behind what is queued already, so that one call sends many requests.
const COPY_MAX: usize = 8 << 10;
/// A queued buffer takes small additions up to this size.
const BUFFER_MAX: usize = 64 << 10;
const INPUT_MIN: usize = 64 << 10;
const RESPONSE_BYTES_MAX: usize = 1 << 30;

/// Records on their way.
#[derive(Debug)]
pub(crate) enum Body {
    /// The beginning of bytes that many batches share.
    Shared(Rc<Vec<u8>>, usize),
    /// Stamped for this batch.
    Owned(Vec<u8>),
}

impl Body {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(bytes, len) => &bytes[..*len],
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Buffers to be used again.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    output: Vec<Vec<u8>>,
    input: Vec<Vec<u8>>,
}

impl Pool {
    /// Idle buffers of each kind.
    const KEPT: usize = 64;

    /// An empty buffer to write into.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.output.pop().unwrap_or_default()
    }

    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        if self.output.len() < Self::KEPT {
            buffer.clear();
            self.output.push(buffer);
        }
    }

    fn take_input(&mut self) -> Vec<u8> {
        self.input.pop().unwrap_or_else(|| vec![0; INPUT_MIN])
    }

    fn give_input(&mut self, buffer: Vec<u8>) {
        if self.input.len() < Self::KEPT {
            self.input.push(buffer);
        }
    }
}

/// A connection of the engine.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    address: String,
    queue: VecDeque<Body>,
    /// Bytes of the first piece that are sent.
    sent_of_first: usize,
    /// All bytes ever queued.
    pub(crate) queued: u64,
    /// All bytes ever sent.
    pub(crate) sent: u64,
    input: Vec<u8>,
    filled: usize,
    /// The socket is full: the engine asks to be told when it is not.
    pub(crate) is_blocked: bool,
}

impl Link {
    pub(crate) fn open(address: &str) -> Result<Self, String> {
        Self::from_stream(cold::connect(address)?, address)
    }

    /// Takes a connection over.
    pub(crate) fn from_stream(stream: TcpStream, address: &str) -> Result<Self, String> {
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_nonblocking(true))
            .map_err(|error| format!("{address}: {error}"))?;
        Ok(Self {
            stream,
            address: address.to_owned(),
            queue: VecDeque::new(),
            sent_of_first: 0,
            queued: 0,
            sent: 0,
            input: Vec::new(),
            filled: 0,
            is_blocked: false,
        })
    }

    /// Queues bytes by copying them.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8], pool: &mut Pool) {
        self.queued += bytes.len() as u64;
        if let Some(Body::Owned(last)) = self.queue.back_mut()
            && last.len() + bytes.len() <= BUFFER_MAX
        {
            return last.extend_from_slice(bytes);
        }
        let mut buffer = pool.take();
        buffer.extend_from_slice(bytes);
        self.queue.push_back(Body::Owned(buffer));
    }

    /// Queues records.
    pub(crate) fn push_body(&mut self, body: Body, pool: &mut Pool) {
        if body.bytes().len() <= COPY_MAX {
            self.push_bytes(body.bytes(), pool);
            if let Body::Owned(buffer) = body {
                pool.give(buffer);
            }
            return;
        }
        self.queued += body.bytes().len() as u64;
        self.queue.push_back(body);
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self, pool: &mut Pool) -> Result<(), String> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, body) in slices.iter_mut().zip(&self.queue) {
                let skip = if count == 0 { self.sent_of_first } else { 0 };
                *slice = IoSlice::new(&body.bytes()[skip..]);
                count += 1;
            }
            match self.stream.write_vectored(&slices[..count]) {
                Ok(written) => self.advance(written, pool),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("{}: sending: {error}", self.address)),
            }
        }
        self.is_blocked = false;
        Ok(())
    }

    fn advance(&mut self, written: usize, pool: &mut Pool) {
        self.sent += written as u64;
        let mut left = self.sent_of_first + written;
        while let Some(first) = self.queue.front() {
            let len = first.bytes().len();
            if left < len {
                break;
            }
            left -= len;
            if let Some(Body::Owned(buffer)) = self.queue.pop_front() {
                pool.give(buffer);
            }
        }
        self.sent_of_first = left;
    }

    /// Reads what is there and calls `each` with every whole frame, without its length.
    pub(crate) fn receive(
        &mut self,
        pool: &mut Pool,
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.input.is_empty() {
            self.input = pool.take_input();
        }
        loop {
            let space = self.input.len() - self.filled;
            let read = match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(format!("{}: closed by the broker", self.address)),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("{}: receiving: {error}", self.address)),
            };
            self.filled += read;
            self.frames(&mut each)?;
            if read < space {
                break;
            }
        }
        if self.filled == 0 {
            pool.give_input(std::mem::take(&mut self.input));
        }
        Ok(())
    }

    fn frames(&mut self, each: &mut impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let mut at = 0;
        let mut need = INPUT_MIN;
        while let Some(prefix) = self.input[at..self.filled].first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if length > RESPONSE_BYTES_MAX {
                return Err(format!("{}: a response of impossible length", self.address));
            }
            need = 4 + length;
            if self.filled - at < need {
                break;
            }
            each(&self.input[at + 4..at + need])?;
            at += need;
        }
        if at > 0 {
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
        if need > self.input.len() {
            self.input.resize(need.next_multiple_of(INPUT_MIN), 0);
        }
        Ok(())
    }
}

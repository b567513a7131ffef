//! TCP: one listener per shard on one port, streams whose two directions are used by two tasks.
//!
//! The port is claimed before anything else: `PortClaim` binds and listens without `SO_REUSEPORT`,
//! which fails if anybody listens there, with that option or without. Only then is the option set
//! on the claiming socket, so that the other shards can join it; from the first moment on no second
//! broker can claim the port, and there is no gap between claim and use, because the claiming
//! socket itself becomes the first shard's listener. Until then the kernel queues connections.
//!
//! Runs on: `PortClaim` anywhere, the rest on a shard; under the simulator the port, its listeners
//! and the connections are those of `sim::net`.
//! Promises: reads and writes try the socket first and wait for readiness through the ring. A file
//! is sent by sendfile(2) on the blocking pool: cold pages make a pool thread wait, never the
//! shard, and a peer that does not read makes nobody wait but its own connection.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use glommio::io::PollableFd;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::blocking::{self, Kind};
use super::runtime::{self, Runtime};
use super::shared_file::SharedFile;
use super::sim::{SimListener, SimSocket};
use super::{sim, sys, yield_if_needed};

/// Connections that the kernel queues per listener; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Room made for a read when the buffer has none.
const READ_ROOM: usize = 16 << 10;

/// The most that `read_small` brings at once.
pub const SMALL_READ_BYTES: usize = 16 << 10;

thread_local! {
    /// Where `read_small` receives: a connection that waits holds no memory for what may come.
    static SMALL_READ: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SMALL_READ_BYTES));
}

/// Slices given to one write.
const SLICES_MAX: usize = 128;

/// Bytes that one job on the blocking pool sends of a file.
const SEND_CHUNK: usize = 1 << 20;

/// How long a start waits for a port that is in use.
const PORT_WAIT: Duration = Duration::from_secs(2);
/// How often it looks.
const PORT_POLL: Duration = Duration::from_millis(20);

/// Kernel memory of each accepted connection; `None`: as the kernel likes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketBuffers {
    /// `socket.send.buffer.bytes`.
    pub send_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`.
    pub receive_bytes: Option<usize>,
}

impl SocketBuffers {
    /// Connections inherit what their listener has: nothing is set at each accept, and the window
    /// that clients are told of is right from the first packet.
    fn set_on(self, listener: &Socket) -> io::Result<()> {
        if let Some(bytes) = self.send_bytes {
            listener.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_bytes {
            listener.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

/// A port that is ours; shards make their listeners from it.
#[derive(Debug)]
pub struct PortClaim {
    /// `None` under the simulator, where nobody else wants a port.
    socket: Option<Socket>,
    addr: SocketAddr,
}

impl PortClaim {
    /// Takes the port; port 0 picks a free one. `[::]` also takes IPv4.
    ///
    /// A port that is in use is tried for a while: that of a killed broker is free only when the
    /// kernel has taken down its rings, which is after its process has gone.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there, still after `PORT_WAIT`.
    pub fn new(addr: SocketAddr) -> io::Result<Self> {
        if is_simulated() {
            let mut addr = addr;
            if addr.port() == 0 {
                addr.set_port(sim::free_port());
            }
            return Ok(Self { socket: None, addr });
        }
        let deadline = Instant::now() + PORT_WAIT;
        loop {
            match Self::try_new(addr) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    std::thread::sleep(PORT_POLL);
                }
                claimed => return claimed,
            }
        }
    }

    pub(super) fn try_new(addr: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(addr)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        socket.set_reuse_port(true)?;
        let addr = local_addr(&socket)?;
        Ok(Self {
            socket: Some(socket),
            addr,
        })
    }

    /// The address, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Bounds the buffers of connections from here on.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn set_buffers(&self, buffers: SocketBuffers) -> io::Result<()> {
        self.socket
            .as_ref()
            .map_or(Ok(()), |socket| buffers.set_on(socket))
    }

    /// The claiming socket itself as this shard's listener: for one shard, the others `bind`.
    pub fn into_listener(self) -> io::Result<TcpListener> {
        match self.socket {
            Some(socket) => TcpListener::new(socket),
            None => TcpListener::bind(self.addr),
        }
    }
}

/// One shard's listener.
pub struct TcpListener {
    socket: Listening,
    addr: SocketAddr,
}

enum Listening {
    Machine(PollableFd<Arc<Socket>>),
    Sim(SimListener),
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpListener")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl TcpListener {
    /// See [`PortClaim::new`].
    pub fn claim(addr: SocketAddr) -> io::Result<PortClaim> {
        PortClaim::new(addr)
    }

    /// One more listener on a port that this process has claimed.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        if is_simulated() {
            let socket = Listening::Sim(SimListener::bind(addr));
            return Ok(Self { socket, addr });
        }
        let socket = new_socket(addr)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Self::new(socket)
    }

    fn new(socket: Socket) -> io::Result<Self> {
        let addr = local_addr(&socket)?;
        Ok(Self {
            socket: Listening::Machine(PollableFd::new(Arc::new(socket))?),
            addr,
        })
    }

    /// Bounds the buffers of connections from here on.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn set_buffers(&self, buffers: SocketBuffers) -> io::Result<()> {
        match &self.socket {
            Listening::Machine(socket) => buffers.set_on(socket.get_ref()),
            Listening::Sim(_) => Ok(()),
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection, with `TCP_NODELAY` set.
    ///
    /// # Errors
    /// When the process has no descriptor left, among others: the caller waits before it tries
    /// again.
    /// Cancel: safe.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        let socket = match &self.socket {
            Listening::Machine(socket) => socket,
            Listening::Sim(listener) => return Ok(TcpStream::simulated(listener.accept().await)),
        };
        loop {
            match socket.get_ref().accept() {
                Ok((socket, peer)) => {
                    return TcpStream::new(PollableFd::new(Arc::new(socket))?, &peer);
                }
                Err(error) if would_block(&error) => readable(socket).await?,
                // The peer gave up before we came: not our error.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A connection. Clones are the same connection: give one to the reader and one to the writer.
#[derive(Clone, Debug)]
pub struct TcpStream {
    inner: Rc<Inner>,
}

struct Inner {
    socket: Connected,
    peer: SocketAddr,
    local: SocketAddr,
    sent_bytes: Cell<u64>,
}

enum Connected {
    Machine(PollableFd<Arc<Socket>>),
    Sim(SimSocket),
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpStream")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The calls of a socket that never block, and the waits for them.
impl Connected {
    fn try_recv(&self, buf: &mut BytesMut, limit: usize) -> io::Result<usize> {
        match self {
            Self::Machine(socket) => sys::recv_spare(socket.get_ref(), buf, limit),
            Self::Sim(socket) => socket.try_recv(buf, limit),
        }
    }

    fn try_send(&self, bufs: &[Bytes]) -> io::Result<usize> {
        match self {
            Self::Machine(socket) => send_slices(socket.get_ref(), bufs),
            Self::Sim(socket) => socket.try_send(bufs),
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Machine(socket) => readable(socket).await,
            Self::Sim(socket) => {
                socket.readable().await;
                Ok(())
            }
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Machine(socket) => writable(socket).await,
            Self::Sim(socket) => {
                socket.writable().await;
                Ok(())
            }
        }
    }
}

fn is_simulated() -> bool {
    runtime::with(|runtime| matches!(runtime, Some(Runtime::Sim(_))))
}

impl TcpStream {
    /// Connects to `addr`.
    ///
    /// Cancel: safe.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        if is_simulated() {
            return Ok(Self::simulated(SimSocket::connect(addr).await?));
        }
        let socket = Socket::new(domain(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let connecting = match socket.connect(&addr.into()) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
            Err(error) => return Err(error),
        };
        let socket = PollableFd::new(Arc::new(socket))?;
        if connecting {
            writable(&socket).await?;
            if let Some(error) = socket.get_ref().take_error()? {
                return Err(error);
            }
        }
        let peer = socket.get_ref().peer_addr()?;
        Self::new(socket, &peer)
    }

    /// The address of the other end is the one that came with it: a socket that was reset since
    /// does not know it any more, and is none that cannot be accepted.
    fn new(socket: PollableFd<Arc<Socket>>, peer: &SockAddr) -> io::Result<Self> {
        let connected = socket.get_ref();
        connected.set_nonblocking(true)?;
        connected.set_tcp_nodelay(true)?;
        let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        let local = local_addr(connected)?;
        Ok(Self {
            inner: Rc::new(Inner {
                socket: Connected::Machine(socket),
                peer,
                local,
                sent_bytes: Cell::new(0),
            }),
        })
    }

    fn simulated(socket: SimSocket) -> Self {
        Self {
            inner: Rc::new(Inner {
                peer: socket.peer,
                local: socket.local,
                socket: Connected::Sim(socket),
                sent_bytes: Cell::new(0),
            }),
        }
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.inner.peer
    }

    /// The address that the other end connected to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Bytes that the kernel has taken so far: tells whether a write that takes long gets on.
    pub fn sent_bytes(&self) -> u64 {
        self.inner.sent_bytes.get()
    }

    fn note_sent(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let sent = &self.inner.sent_bytes;
        sent.set(sent.get().saturating_add(count));
    }

    /// Sends small writes at once (the default here), or lets the kernel collect them.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match &self.inner.socket {
            Connected::Machine(socket) => socket.get_ref().set_tcp_nodelay(nodelay),
            Connected::Sim(_) => Ok(()),
        }
    }

    /// Appends what has arrived to `buf`, waiting for something; 0 at the end of the stream. Fills
    /// the room that `buf` has, and makes 16 KiB if it has none.
    ///
    /// Cancel: safe; nothing is lost.
    pub async fn read_some(&self, buf: &mut BytesMut) -> io::Result<usize> {
        if buf.capacity() == buf.len() {
            buf.reserve(READ_ROOM);
        }
        self.read_at_most(buf, usize::MAX).await
    }

    /// Appends what has arrived to `buf`, at most `SMALL_READ_BYTES`, making room for exactly that;
    /// waits for something; 0 at the end of the stream.
    ///
    /// Cancel: safe; nothing is lost.
    pub async fn read_small(&self, buf: &mut BytesMut) -> io::Result<usize> {
        yield_if_needed().await;
        loop {
            let received = SMALL_READ.with_borrow_mut(|room| {
                room.clear();
                let received = self.inner.socket.try_recv(room, SMALL_READ_BYTES)?;
                buf.extend_from_slice(room);
                Ok(received)
            });
            match received {
                Ok(count) => return Ok(count),
                Err(error) if would_block(&error) => self.inner.socket.readable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends exactly `count` bytes to `buf`; makes room for them all at once.
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream ends before.
    /// Cancel: what has arrived is in `buf`.
    pub async fn read_exact(&self, buf: &mut BytesMut, count: usize) -> io::Result<()> {
        buf.reserve(count);
        let mut left = count;
        while left > 0 {
            let read = self.read_at_most(buf, left).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
        }
        Ok(())
    }

    /// Appends what has arrived to `buf`, at most `limit` bytes and what `buf` has room for; waits
    /// for something; 0 at the end of the stream.
    ///
    /// Cancel: safe; nothing is lost.
    pub async fn read_at_most(&self, buf: &mut BytesMut, limit: usize) -> io::Result<usize> {
        // A peer that always has more must not keep the shard.
        yield_if_needed().await;
        loop {
            match self.inner.socket.try_recv(buf, limit) {
                Ok(count) => return Ok(count),
                Err(error) if would_block(&error) => self.inner.socket.readable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of `bufs` in order, as many as possible per system call. Written bytes are cut
    /// off the front of `bufs`, which is all empty at the end.
    ///
    /// Cancel: `bufs` is what has not been written; the stream is then only good for closing, or
    /// for going on with exactly that. One writer at a time.
    pub async fn write_all_vectored(&self, bufs: &mut [Bytes]) -> io::Result<()> {
        let mut first = 0;
        loop {
            while bufs.get(first).is_some_and(Bytes::is_empty) {
                first += 1;
            }
            let Some(rest) = bufs.get_mut(first..).filter(|rest| !rest.is_empty()) else {
                return Ok(());
            };
            yield_if_needed().await;
            match self.inner.socket.try_send(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.note_sent(written);
                    advance(rest, written);
                }
                Err(error) if would_block(&error) => self.inner.socket.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends `len` bytes of `file` from `pos`, without them entering the process.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    /// Cancel: up to one megabyte more may be sent; the stream is then only good for closing.
    pub async fn send_file(&self, file: &SharedFile, pos: u64, len: u64) -> io::Result<()> {
        let end = pos + len;
        let (Connected::Machine(socket), Some(file)) = (&self.inner.socket, file.machine()) else {
            return self.copy_file(file, pos, end).await;
        };
        let mut at = pos;
        while at < end {
            let chunk = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(SEND_CHUNK);
            let (socket, file) = (Arc::clone(socket.get_ref()), Arc::clone(file));
            let sent = blocking::run(Kind::Transfer, "sendfile", move || {
                send_chunk(&socket, &file, at, chunk)
            })
            .await?;
            self.note_sent(sent.bytes);
            at += u64::try_from(sent.bytes).unwrap_or(u64::MAX);
            match sent.stopped {
                Stopped::Done => {}
                Stopped::Full => self.inner.socket.writable().await?,
                Stopped::FileEnd => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }

    /// As `send_file` where there is no sendfile(2): under the simulator.
    async fn copy_file(&self, file: &SharedFile, pos: u64, end: u64) -> io::Result<()> {
        let mut at = pos;
        while at < end {
            let chunk = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(SEND_CHUNK);
            let bytes = file.read_at(at, chunk).await?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.write_all_vectored(&mut [bytes]).await?;
        }
        Ok(())
    }

    /// Ends one or both directions. A reader or writer that waits is woken.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let socket = match &self.inner.socket {
            Connected::Machine(socket) => socket.get_ref(),
            Connected::Sim(socket) => {
                socket.shutdown(how);
                return Ok(());
            }
        };
        match socket.shutdown(how) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }
}

struct Sent {
    bytes: usize,
    stopped: Stopped,
}

enum Stopped {
    Done,
    Full,
    FileEnd,
}

/// Runs on: a thread of the blocking pool. The socket does not block, the file may.
///
/// The kernel's own read-ahead would never let the device be idle, and the journal's flushes wait
/// for that: only the chunk itself is read.
fn send_chunk(socket: &Socket, file: &std::fs::File, pos: u64, len: usize) -> io::Result<Sent> {
    sys::read_ahead_only(file.as_fd(), pos, len);
    let mut bytes = 0;
    while bytes < len {
        let at = pos + u64::try_from(bytes).unwrap_or(u64::MAX);
        match sys::sendfile(socket.as_fd(), file.as_fd(), at, len - bytes) {
            Ok(0) => {
                return Ok(Sent {
                    bytes,
                    stopped: Stopped::FileEnd,
                });
            }
            Ok(sent) => bytes += sent,
            Err(error) if would_block(&error) => {
                return Ok(Sent {
                    bytes,
                    stopped: Stopped::Full,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Sent {
        bytes,
        stopped: Stopped::Done,
    })
}

fn advance(bufs: &mut [Bytes], mut written: usize) {
    for buf in bufs {
        let part = written.min(buf.len());
        buf.advance(part);
        written -= part;
        if written == 0 {
            return;
        }
    }
}

fn send_slices(socket: &Socket, bufs: &[Bytes]) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = bufs.len().min(SLICES_MAX);
    for (slice, buf) in slices.iter_mut().zip(bufs) {
        *slice = IoSlice::new(buf);
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    socket.send_vectored_with_flags(&slices[..count], flags)
}

async fn readable(socket: &PollableFd<Arc<Socket>>) -> io::Result<()> {
    socket.readable().await?;
    runtime::note_reactor_ran();
    Ok(())
}

async fn writable(socket: &PollableFd<Arc<Socket>>) -> io::Result<()> {
    socket.writable().await?;
    runtime::note_reactor_ran();
    Ok(())
}

fn new_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    // Connections of an earlier run that linger in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn domain(addr: SocketAddr) -> Domain {
    Domain::for_address(addr)
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    Ok(socket
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::InvalidData)?)
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

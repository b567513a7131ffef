//! Simulated TCP: listeners and connections whose bytes come late, in pieces, or never.
//!
//! Runs on: a simulated shard; a machine has one network, which ends with it.
//! Promises: what is sent arrives in its order, after a delay that the seed draws for each write,
//! so that connections overtake each other; a write takes no more than the room in the pipe. Bytes
//! of a connection that is cut are lost, or arrive in part.
//! Limits: one task reads and one writes each end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::executor::SimShard;
use super::rng::Rng;
use crate::rt::clock::{self, Instant};
use crate::rt::runtime::{self, Runtime};

/// First port that connections go out from.
const FIRST_PORT: u16 = 40_000;

/// The least and the most that a pipe holds, in bytes.
const PIPE_BYTES: (u64, u64) = (2 << 10, 256 << 10);

/// What a write takes to arrive, in microseconds.
const DELAY_MICROS: (u64, u64) = (5, 300);

/// What a stalled write takes, in milliseconds.
const STALL_MILLIS: (u64, u64) = (50, 3_000);

/// How often connections fail: once in so many writes, or never.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetFaults {
    /// The connection is cut.
    pub cut: Option<u64>,
    /// The bytes are kept back for a while.
    pub stall: Option<u64>,
}

/// How often they did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetFired {
    /// Connections cut.
    pub cuts: u64,
    /// Writes kept back.
    pub stalls: u64,
}

/// The network of one simulated machine.
pub(in crate::rt) struct SimNet {
    rng: RefCell<Rng>,
    listeners: RefCell<BTreeMap<u64, Rc<Backlog>>>,
    next_id: Cell<u64>,
    next_port: Cell<u16>,
    faults: Cell<NetFaults>,
    fired: Cell<NetFired>,
}

struct Backlog {
    addr: SocketAddr,
    waiting: RefCell<VecDeque<SimSocket>>,
    acceptor: RefCell<Option<Waker>>,
}

fn shard() -> Rc<SimShard> {
    match runtime::current() {
        Runtime::Sim(shard) => shard,
        Runtime::Uring(_) => panic!("[one-runtime] a simulated socket is used on a real shard"),
    }
}

impl SimNet {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: RefCell::new(Rng::new(seed ^ 0x4E_4554)),
            listeners: RefCell::default(),
            next_id: Cell::new(0),
            next_port: Cell::new(FIRST_PORT),
            faults: Cell::default(),
            fired: Cell::default(),
        }
    }

    pub(super) fn set_faults(&self, faults: NetFaults) {
        self.faults.set(faults);
    }

    pub(super) fn fired(&self) -> NetFired {
        self.fired.get()
    }

    fn between(&self, (least, most): (u64, u64)) -> u64 {
        least + self.rng.borrow_mut().below(most - least + 1)
    }

    fn happens(&self, once_in: Option<u64>) -> bool {
        once_in.is_some_and(|n| self.rng.borrow_mut().chance(n))
    }

    fn pipe(&self) -> Rc<RefCell<Pipe>> {
        let capacity = usize::try_from(self.between(PIPE_BYTES)).unwrap_or(usize::MAX);
        Rc::new(RefCell::new(Pipe {
            capacity,
            ..Pipe::default()
        }))
    }

    /// One of the listeners at `addr`, drawn as the kernel draws one of a port's sockets.
    fn listener_at(&self, addr: SocketAddr) -> Option<Rc<Backlog>> {
        let listeners = self.listeners.borrow();
        let at: Vec<&Rc<Backlog>> = listeners.values().filter(|l| l.addr == addr).collect();
        if at.is_empty() {
            return None;
        }
        let drawn = self.rng.borrow_mut().index(at.len());
        at.get(drawn).map(|backlog| Rc::clone(backlog))
    }
}

/// A port that nobody has had.
pub(in crate::rt) fn free_port() -> u16 {
    let shard = shard();
    let net = shard.net();
    let port = net.next_port.get();
    net.next_port.set(port.checked_add(1).unwrap_or(FIRST_PORT));
    port
}

/// A simulated listener.
pub(in crate::rt) struct SimListener {
    id: u64,
    backlog: Rc<Backlog>,
    shard: Rc<SimShard>,
}

impl SimListener {
    pub(in crate::rt) fn bind(addr: SocketAddr) -> Self {
        let shard = shard();
        let net = shard.net();
        let id = net.next_id.get();
        net.next_id.set(id + 1);
        let backlog = Rc::new(Backlog {
            addr,
            waiting: RefCell::default(),
            acceptor: RefCell::default(),
        });
        net.listeners.borrow_mut().insert(id, Rc::clone(&backlog));
        Self { id, backlog, shard }
    }

    pub(in crate::rt) async fn accept(&self) -> SimSocket {
        poll_fn(|cx| match self.backlog.waiting.borrow_mut().pop_front() {
            Some(socket) => Poll::Ready(socket),
            None => {
                self.backlog.acceptor.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let gone = self.shard.net().listeners.borrow_mut().remove(&self.id);
        drop(gone);
        let never_accepted = std::mem::take(&mut *self.backlog.waiting.borrow_mut());
        drop(never_accepted);
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// When each write arrives.
    on_the_way: VecDeque<(Instant, Bytes)>,
    size_bytes: usize,
    capacity: usize,
    last_due: Instant,
    /// Nothing more is sent.
    is_ended: bool,
    /// Nobody reads any more: the reader has said so.
    is_closed: bool,
    /// The connection was cut: nothing more is sent, and nothing read.
    is_cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.wake();
    }

    /// What is on the way is lost.
    fn close(&mut self) {
        self.is_closed = true;
        self.on_the_way.clear();
        self.size_bytes = 0;
        self.wake();
    }

    fn cut(&mut self) {
        self.is_cut = true;
        self.close();
    }

    /// There is nothing to read, now or later.
    fn is_over(&self) -> bool {
        self.is_closed || self.is_ended && self.on_the_way.is_empty()
    }
}

/// One end of a connection. Ends it when dropped.
pub(in crate::rt) struct SimSocket {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    pub(in crate::rt) peer: SocketAddr,
    pub(in crate::rt) local: SocketAddr,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.outgoing.borrow_mut().end();
        self.incoming.borrow_mut().close();
    }
}

impl SimSocket {
    pub(in crate::rt) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let shard = shard();
        let net = shard.net();
        clock::sleep(Duration::from_micros(net.between(DELAY_MICROS))).await;
        let Some(backlog) = net.listener_at(addr) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (there, back) = (net.pipe(), net.pipe());
        let accepted = Self {
            incoming: Rc::clone(&there),
            outgoing: Rc::clone(&back),
            peer: local,
            local: addr,
        };
        backlog.waiting.borrow_mut().push_back(accepted);
        let acceptor = backlog.acceptor.take();
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
        Ok(Self {
            incoming: back,
            outgoing: there,
            peer: addr,
            local,
        })
    }

    /// As recv(2) that does not block: what has arrived, at most `limit` and what `buf` has room
    /// for; 0 at the end.
    pub(in crate::rt) fn try_recv(&self, buf: &mut BytesMut, limit: usize) -> io::Result<usize> {
        let mut pipe = self.incoming.borrow_mut();
        if pipe.is_cut {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let room = (buf.capacity() - buf.len()).min(limit);
        let now = clock::now();
        let mut received = 0;
        while received < room {
            let Some((due, bytes)) = pipe.on_the_way.front_mut() else {
                break;
            };
            if *due > now {
                break;
            }
            let part = bytes.split_to(bytes.len().min(room - received));
            if bytes.is_empty() {
                pipe.on_the_way.pop_front();
            }
            buf.extend_from_slice(&part);
            received += part.len();
            pipe.size_bytes -= part.len();
        }
        if received > 0 {
            let writer = pipe.writer.take();
            drop(pipe);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Ok(received);
        }
        if pipe.is_over() || room == 0 {
            return Ok(0);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Waits until `try_recv` may have something.
    pub(in crate::rt) async fn readable(&self) {
        loop {
            let due = poll_fn(|cx| {
                let mut pipe = self.incoming.borrow_mut();
                match pipe.on_the_way.front() {
                    Some((due, _)) => Poll::Ready(Some(*due)),
                    None if pipe.is_over() => Poll::Ready(None),
                    None => {
                        pipe.reader = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await;
            match due {
                Some(due) if due > clock::now() => clock::sleep_until(due).await,
                _ => return,
            }
        }
    }

    /// As send(2) that does not block: how much of `slices` was taken.
    pub(in crate::rt) fn try_send(&self, slices: &[Bytes]) -> io::Result<usize> {
        let shard = shard();
        let net = shard.net();
        if self.outgoing.borrow().is_closed || self.outgoing.borrow().is_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let wanted: usize = slices.iter().map(Bytes::len).sum();
        let is_cut = net.happens(net.faults.get().cut);
        let is_stalled = net.happens(net.faults.get().stall);
        let (mut delay, mut taken) = (Duration::from_micros(net.between(DELAY_MICROS)), {
            let pipe = self.outgoing.borrow();
            wanted.min(pipe.capacity - pipe.size_bytes)
        });
        if taken > 1 && (is_cut || net.happens(Some(16))) {
            taken = 1 + net.rng.borrow_mut().index(taken);
        }
        let mut fired = net.fired.get();
        if is_stalled {
            fired.stalls += 1;
            delay += Duration::from_millis(net.between(STALL_MILLIS));
        }
        if is_cut {
            fired.cuts += 1;
            net.fired.set(fired);
            if net.happens(Some(2)) {
                self.send(slices, taken, delay); // arrives in part, and then the end
            }
            self.cut();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        net.fired.set(fired);
        if taken == 0 && wanted > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.send(slices, taken, delay);
        Ok(taken)
    }

    fn send(&self, slices: &[Bytes], mut taken: usize, delay: Duration) {
        let mut pipe = self.outgoing.borrow_mut();
        let due = pipe.last_due.max(clock::now() + delay);
        pipe.last_due = due;
        for slice in slices {
            let part = slice.slice(..slice.len().min(taken));
            taken -= part.len();
            pipe.size_bytes += part.len();
            if !part.is_empty() {
                pipe.on_the_way.push_back((due, part));
            }
        }
        let reader = pipe.reader.take();
        drop(pipe);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ends both directions at once: what this end has not read is lost.
    fn cut(&self) {
        self.outgoing.borrow_mut().end();
        self.incoming.borrow_mut().cut();
    }

    /// Waits until `try_send` may take something.
    pub(in crate::rt) async fn writable(&self) {
        poll_fn(|cx| {
            let mut pipe = self.outgoing.borrow_mut();
            if pipe.is_closed || pipe.is_ended || pipe.size_bytes < pipe.capacity {
                return Poll::Ready(());
            }
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(in crate::rt) fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.incoming.borrow_mut().close();
        }
        if how != Shutdown::Read {
            self.outgoing.borrow_mut().end();
        }
    }
}

//! One client connection: frames in, answers out, in the order of the requests.
//!
//! Runs on: the shard that accepted it.      Owner: its reader task.      Pure: no.
//! Promises: answers leave in request order. Produce requests are prepared and submitted one after
//! the other, so that their batches reach each partition in request order, while the answers before
//! them are still being waited for. Any other request starts when every answer before it has been
//! written: Kafka handles one request of a connection at a time, clients rely on it.
//! Limits: `PIPELINED_MAX` answers wait at most; a body that does not arrive (`frames`), or a
//! response that makes no progress (`writing`), ends the connection. So does a client that goes
//! away while its request waits for other clients: a Fetch for data, a member for its group.

use std::cell::RefCell;
use std::net::{Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};

use crate::rt::net::TcpStream;
use crate::rt::sync::{Notify, Queue};
use crate::rt::{self, Lane};
use crate::server::dispatch;
use crate::server::fetch_session::SharedSessions;
use crate::server::frames::Frames;
use crate::server::in_flight::InFlight;
use crate::server::response::Response;
use crate::server::writing;
use crate::shard::shard::Shard;
use crate::telemetry::names::Counter;
use crate::wire::api::ApiKey;

/// Answers of one connection that may wait for durability at a time.
const PIPELINED_MAX: usize = 256;

/// A request that takes longer than this waits for other clients, if it is one that may: it holds
/// no memory that anybody waits for, and its client is watched from here on.
const WATCH_AFTER: Duration = Duration::from_millis(50);

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

struct Shared {
    answers: Queue<(PendingAnswer, Rc<InFlight>)>,
    /// Told whenever an answer has been written and none is left.
    all_written: Notify,
    unwritten: std::cell::Cell<usize>,
}

/// Who is at the other end.
pub(crate) struct ClientAt {
    pub(crate) peer: SocketAddr,
    /// The address that the client connected to.
    pub(crate) local: SocketAddr,
    /// `client.id` of the last request; empty before the first.
    id: RefCell<Rc<str>>,
}

impl ClientAt {
    fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let id = RefCell::new("".into());
        Self { peer, local, id }
    }

    /// The `client.id` of a request; one that is as before costs no allocation.
    pub(crate) fn known_as(&self, id: &str) -> Rc<str> {
        let mut known = self.id.borrow_mut();
        if **known != *id {
            *known = id.into();
        }
        known.clone()
    }
}

/// Serves `stream` until it ends.
pub(crate) async fn run(shard: Rc<Shard>, fetch_sessions: SharedSessions, stream: TcpStream) {
    let (peer, local) = (stream.peer_addr(), stream.local_addr());
    let stream = Rc::new(stream);
    let shared = Rc::new(Shared {
        answers: Queue::new(PIPELINED_MAX),
        all_written: Notify::new(),
        unwritten: std::cell::Cell::new(0),
    });
    let writing = rt::spawn(Lane::Network, "connection-writer", {
        let (shared, shard, stream) = (shared.clone(), shard.clone(), stream.clone());
        async move { write_answers(&shared, &shard, &stream).await }
    });
    let mut requests = Frames::new(shard.clone(), stream);
    let client = ClientAt::new(peer, local);
    let end = serve(&shared, &mut requests, &fetch_sessions, &client).await;
    let client_id = client.id.borrow().clone();
    shared.answers.close();
    match end {
        End::Quiet => {}
        End::Io(error) => {
            tracing::debug!(%peer, client_id = &*client_id, %error, "connection lost");
        }
        End::Refused(reason) => {
            shard.metrics.increment(Counter::ConnectionsRefused);
            if let Some(left_out) = shard.may_tell_of_connection() {
                let client_id = &*client_id;
                tracing::warn!(%peer, client_id, reason, left_out, "connection closed");
            }
        }
    }
    writing.await;
}

async fn serve(
    shared: &Shared,
    requests: &mut Frames,
    fetch_sessions: &SharedSessions,
    client: &ClientAt,
) -> End {
    let shard = requests.shard().clone();
    loop {
        let (frame, charge) = match requests.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Quiet,
            Err(end) => return end,
        };
        let is_produce = is_of(&frame, ApiKey::Produce);
        let in_flight = Rc::new(InFlight::new(&shard, is_produce, charge));
        if shared.answers.is_closed() || shard.is_stopping() {
            return End::Quiet; // the writer met its end, or the broker comes to its own
        }
        if !is_produce {
            while shared.unwritten.get() > 0 {
                shared.all_written.notified().await;
            }
        }
        let may_wait = [ApiKey::Fetch, ApiKey::JoinGroup, ApiKey::SyncGroup];
        let may_wait = may_wait.into_iter().find(|api| is_of(&frame, *api));
        let waiting = in_flight.clone();
        let of = (client, in_flight.clone());
        let dispatched = pin!(dispatch::dispatch(&shard, fetch_sessions, of, frame));
        let answered = if let Some(api) = may_wait {
            match select(dispatched, pin!(given_up(requests, api, &waiting))).await {
                Either::Left((answered, _)) => answered,
                Either::Right(((), _)) => return End::Quiet,
            }
        } else {
            dispatched.await
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(end) => return end,
        };
        shared.unwritten.set(shared.unwritten.get() + 1);
        if shared.answers.push((answer, in_flight)).await.is_err() {
            return End::Quiet;
        }
    }
}

fn is_of(frame: &Bytes, api: ApiKey) -> bool {
    frame.get(..2) == Some(&api.code().to_be_bytes()[..])
}

/// Returns when the client of a request that takes long has gone away.
async fn given_up(requests: &mut Frames, api: ApiKey, waiting: &InFlight) {
    rt::sleep(WATCH_AFTER).await;
    if api != ApiKey::Fetch {
        waiting.release(); // a Fetch does so itself: it keeps its partitions meanwhile
    }
    requests.closed_by_client().await;
}

async fn write_answers(shared: &Shared, shard: &Shard, stream: &TcpStream) {
    while let Some((answer, in_flight)) = shared.answers.pop().await {
        let written = match answer.await {
            Answer::Write(mut response) => {
                in_flight.charge_answer(&mut response).await;
                writing::write(shard, stream, response, &in_flight).await
            }
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

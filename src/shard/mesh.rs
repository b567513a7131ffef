//! The mesh: how one shard asks another. The only way anything moves between cores.
//!
//! Runs on: every shard.      Owner: `Shard`.      Pure: no.
//! Promises: calls from one shard to another arrive in the order in which they were sent; payloads
//! are moved, never copied; two shards cannot wait for each other.
//! Invariants: [reply-room] a call takes a permit first, there are as many permits as the reply
//! channel has places, so a reply never waits. [receive-never-sends] the receiving loop hands a
//! call on and awaits nothing but the next call. [late-reply] a call that is answered "later" gives
//! its permit back and keeps its slot until its reply comes, as a call the other way.
//! Limits: `CALLS_IN_FLIGHT_MAX` for each ordered pair of shards; the next call waits its turn.
//! What may last (a fetch that waits for data, a member that waits for others) is answered later:
//! there are as many of those as clients that wait, and they keep nobody else out.

use std::cell::RefCell;
use std::rc::Rc;

use crate::model::ids::ShardId;
use crate::rt::cross::{self, TrySendError};
use crate::rt::sync::{Permit, Semaphore, oneshot};
use crate::shard::calls::{ShardCall, ShardReply};
use crate::telemetry::metrics;
use crate::telemetry::names::Counter;

/// Calls that one shard may have open at another.
pub const CALLS_IN_FLIGHT_MAX: usize = 1024;

/// A call on its way; the slot comes back with the reply.
pub(crate) struct Envelope {
    slot: usize,
    pub(crate) call: ShardCall,
}

struct Returned {
    slot: usize,
    /// None: later.
    reply: Option<ShardReply>,
}

/// Both ends that one shard has of its two channel pairs with one other shard. Made before the
/// executors start, then moved to the shard's thread.
pub struct Link {
    peer: ShardId,
    calls_out: cross::Sender<Envelope>,
    calls_in: cross::Receiver<Envelope>,
    replies_out: cross::Sender<Returned>,
    replies_in: cross::Receiver<Returned>,
}

/// The links of every shard with every other: entry `i` belongs to shard `i`.
pub fn links(shard_count: u16) -> Vec<Vec<Link>> {
    let mut all: Vec<Vec<Link>> = (0..shard_count).map(|_| Vec::new()).collect();
    for a in 0..shard_count {
        for b in a + 1..shard_count {
            let (calls_ab, calls_at_b) = cross::channel(CALLS_IN_FLIGHT_MAX);
            let (calls_ba, calls_at_a) = cross::channel(CALLS_IN_FLIGHT_MAX);
            let (replies_ab, replies_at_b) = cross::channel(CALLS_IN_FLIGHT_MAX);
            let (replies_ba, replies_at_a) = cross::channel(CALLS_IN_FLIGHT_MAX);
            all[usize::from(a)].push(Link {
                peer: ShardId(b),
                calls_out: calls_ab,
                calls_in: calls_at_a,
                replies_out: replies_ab,
                replies_in: replies_at_a,
            });
            all[usize::from(b)].push(Link {
                peer: ShardId(a),
                calls_out: calls_ba,
                calls_in: calls_at_b,
                replies_out: replies_ba,
                replies_in: replies_at_b,
            });
        }
    }
    all
}

/// A call that has not got all of its answer.
struct Open {
    /// None: the late reply has overtaken the word that it will come late.
    waiter: Option<oneshot::Sender<ShardReply>>,
    /// None: the reply will come late.
    permit: Option<Permit>,
}

/// Where replies to open calls go, by slot.
#[derive(Default)]
struct Slots {
    open: Vec<Option<Open>>,
    free: Vec<usize>,
}

impl Slots {
    fn take(&mut self, waiter: oneshot::Sender<ShardReply>, permit: Permit) -> usize {
        let open = Some(Open {
            waiter: Some(waiter),
            permit: Some(permit),
        });
        if let Some(slot) = self.free.pop() {
            self.open[slot] = open;
            slot
        } else {
            self.open.push(open);
            self.open.len() - 1
        }
    }

    /// The call was never sent: whoever awaits it learns that the peer is gone.
    fn give_up(&mut self, slot: usize) {
        self.open[slot] = None;
        self.free.push(slot);
    }

    fn complete(&mut self, returned: Returned) {
        let Returned { slot, reply } = returned;
        let open = self.open[slot]
            .as_mut()
            .expect("[reply-room] one reply a call");
        open.permit = None;
        if let Some(reply) = reply {
            answer(open, reply);
        }
        self.free_if_answered(slot);
    }

    fn complete_late(&mut self, slot: usize, reply: ShardReply) {
        let open = self.open[slot]
            .as_mut()
            .expect("[late-reply] one reply a call");
        answer(open, reply);
        self.free_if_answered(slot);
    }

    fn free_if_answered(&mut self, slot: usize) {
        let is_answered = |open: &Open| open.waiter.is_none() && open.permit.is_none();
        if self.open[slot].as_ref().is_some_and(is_answered) {
            self.give_up(slot);
        }
    }
}

fn answer(open: &mut Open, reply: ShardReply) {
    let waiter = open.waiter.take().expect("[late-reply] one reply a call");
    drop(waiter.send(reply)); // the caller may be gone: its client disconnected
}

/// One shard's way to one other shard.
pub(crate) struct Peer {
    id: ShardId,
    calls: RefCell<cross::Sender<Envelope>>,
    replies: RefCell<cross::Sender<Returned>>,
    permits: Semaphore,
    slots: RefCell<Slots>,
}

/// A call that was sent; await it for the reply. `None`: the other shard is gone.
pub struct Pending(oneshot::Receiver<ShardReply>);

impl Pending {
    /// The reply.
    ///
    /// Cancel: safe; the reply is dropped when it comes.
    pub async fn reply(self) -> Option<ShardReply> {
        self.0.await.ok()
    }
}

/// What a shard receives from one peer, and its way to it.
pub(crate) struct Inbox {
    pub(crate) peer: Rc<Peer>,
    pub(crate) calls: cross::Receiver<Envelope>,
    pub(crate) replies: Replies,
}

impl Link {
    /// Takes the ends into use, on the shard's own thread.
    pub(crate) fn open(self) -> Inbox {
        let peer = Rc::new(Peer {
            id: self.peer,
            calls: RefCell::new(self.calls_out),
            replies: RefCell::new(self.replies_out),
            permits: Semaphore::new(CALLS_IN_FLIGHT_MAX),
            slots: RefCell::default(),
        });
        let replies = Replies {
            peer: peer.clone(),
            replies: self.replies_in,
        };
        Inbox {
            peer,
            calls: self.calls_in,
            replies,
        }
    }
}

impl Peer {
    /// Who is at the other end.
    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Sends a call, waiting for a free reply place. Calls of one task arrive in the order sent.
    ///
    /// Cancel: safe until it returns; after that the call will be carried out.
    pub(crate) async fn send(&self, call: ShardCall) -> Pending {
        let permit = self.permits.acquire(1).await;
        let (waiter, receiver) = oneshot::oneshot();
        let slot = self.slots.borrow_mut().take(waiter, permit);
        match self.calls.borrow_mut().try_send(Envelope { slot, call }) {
            Ok(()) => metrics::local().increment(Counter::MeshCalls),
            Err(TrySendError::Closed(_)) => self.slots.borrow_mut().give_up(slot),
            Err(TrySendError::Full(_)) => panic!("[reply-room] a place for every permit"),
        }
        Pending(receiver)
    }

    /// Answers a call of this peer.
    pub(crate) fn reply(&self, envelope_slot: usize, reply: ShardReply) {
        self.give_back(envelope_slot, Some(reply));
    }

    /// Tells this peer that its call will be answered by `reply_late`.
    pub(crate) fn promise(&self, envelope_slot: usize) {
        self.give_back(envelope_slot, None);
    }

    fn give_back(&self, slot: usize, reply: Option<ShardReply>) {
        let sent = self.replies.borrow_mut().try_send(Returned { slot, reply });
        assert!(
            !matches!(sent, Err(TrySendError::Full(_))),
            "[reply-room] the caller kept a place"
        );
    }

    /// Answers a call that was promised an answer; never awaited by the receiving loop.
    ///
    /// Cancel: not safe; the caller waits for it.
    pub(crate) async fn reply_late(&self, envelope_slot: usize, reply: ShardReply) {
        drop(self.send(ShardCall::Late(envelope_slot, reply)).await);
    }

    /// The answer to an own call that was answered late.
    pub(crate) fn take_late(&self, slot: usize, reply: ShardReply) {
        self.slots.borrow_mut().complete_late(slot, reply);
    }
}

impl Envelope {
    pub(crate) fn open(self) -> (usize, ShardCall) {
        (self.slot, self.call)
    }
}

/// Completes calls as their replies come in; runs until the peer is gone.
pub(crate) struct Replies {
    peer: Rc<Peer>,
    replies: cross::Receiver<Returned>,
}

impl Replies {
    pub(crate) async fn run(mut self) {
        while let Some(returned) = self.replies.recv().await {
            self.peer.slots.borrow_mut().complete(returned);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rt::testing::on_both;
    use crate::rt::{self, Lane};

    /// More calls than there are places for, each of them answered late.
    const CALLS: usize = 3 * CALLS_IN_FLIGHT_MAX;

    /// Promises every call an answer, gives it after a while, and takes late answers.
    fn serve(inbox: Inbox) -> Rc<Peer> {
        let Inbox {
            peer,
            mut calls,
            replies,
        } = inbox;
        rt::spawn(Lane::Network, "replies", replies.run()).detach();
        let served = peer.clone();
        rt::spawn(Lane::Network, "calls", async move {
            while let Some(envelope) = calls.recv().await {
                let (slot, call) = envelope.open();
                if let ShardCall::Late(asked, reply) = call {
                    served.take_late(asked, reply);
                    served.reply(slot, ShardReply::Done);
                    continue;
                }
                served.promise(slot);
                let served = served.clone();
                rt::spawn(Lane::Network, "answer", async move {
                    if slot % 2 == 0 {
                        rt::sleep(Duration::from_millis(1)).await;
                    }
                    served.reply_late(slot, ShardReply::DataOrDeadline).await;
                })
                .detach();
            }
        })
        .detach();
        peer
    }

    async fn flood(peer: Rc<Peer>) {
        let mut pending = Vec::new();
        for _ in 0..CALLS {
            pending.push(peer.send(ShardCall::Drain).await);
        }
        for one in pending {
            let reply = one.reply().await;
            assert!(matches!(reply, Some(ShardReply::DataOrDeadline)));
        }
        // the other side's answers, and the words that they come late, are still under way
        let is_free = || {
            let slots = peer.slots.borrow();
            slots.free.len() == slots.open.len()
        };
        let freed = async {
            while !is_free() {
                rt::sleep(Duration::from_millis(1)).await;
            }
        };
        let freed = rt::timeout(Duration::from_secs(20), freed).await;
        assert!(freed.is_some(), "slots are left");
    }

    #[test]
    fn calls_that_last_keep_no_other_call_out() {
        on_both(|_| async {
            let mut links = links(2).into_iter().flatten();
            let (one, other) = (links.next().unwrap(), links.next().unwrap());
            let (one, other) = (serve(one.open()), serve(other.open()));
            let flooding = [one, other].map(|peer| rt::spawn(Lane::Network, "flood", flood(peer)));
            for flooding in flooding {
                flooding.await;
            }
        });
    }
}

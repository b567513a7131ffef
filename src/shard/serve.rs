//! Serving the other shards: their calls in, replies out.
//!
//! Runs on: every shard, two tasks for each peer.      Owner: `Shard`.
//! Promises: the receiving loop awaits nothing but the next call [receive-never-sends]: an append
//! gets its place at once, everything else runs in a task of its own.

use std::rc::Rc;

use crate::model::ids::ShardId;
use crate::partition::error::Error;
use crate::rt::{self, Lane};
use crate::shard::appends::Source;
use crate::shard::calls::{ShardCall, ShardReply};
use crate::shard::control;
use crate::shard::mesh::{Inbox, Peer};
use crate::shard::shard::Shard;

/// Serves one peer until it is gone.
pub(crate) async fn run(shard: Rc<Shard>, inbox: Inbox) {
    let Inbox {
        peer,
        mut calls,
        replies,
    } = inbox;
    let completing = rt::spawn(Lane::Network, "mesh-replies", replies.run());
    while let Some(envelope) = calls.recv().await {
        let (slot, call) = envelope.open();
        match call {
            ShardCall::Append(parts) => {
                let outcomes = shard.appends.submit(parts, Source::Producer);
                let peer = peer.clone();
                rt::spawn(Lane::Network, "mesh-append", async move {
                    let mut appended = Vec::with_capacity(outcomes.len());
                    for outcome in outcomes {
                        appended.push(outcome.await.unwrap_or(Err(Error::Stopping)));
                    }
                    peer.reply(slot, ShardReply::Appended(appended));
                })
                .detach();
            }
            ShardCall::EndWait(wait_id) => {
                shard.end_wait(peer.id(), wait_id);
                peer.reply(slot, ShardReply::Done);
            }
            ShardCall::FetchSizes(parts) => {
                peer.reply(slot, ShardReply::FetchSizes(shard.sizes_here(&parts)));
            }
            ShardCall::EnterAddress(address, limit) => {
                let is_entered = shard.addresses.enter(address, limit);
                peer.reply(slot, ShardReply::IsEntered(is_entered));
            }
            ShardCall::LeaveAddress(address) => {
                shard.addresses.leave(address);
                peer.reply(slot, ShardReply::Done);
            }
            ShardCall::Late(asked, reply) => {
                peer.take_late(asked, reply);
                peer.reply(slot, ShardReply::Done);
            }
            call if call.may_last() => {
                if let ShardCall::AwaitData { wait_id, .. } = &call {
                    shard.open_wait(peer.id(), *wait_id);
                }
                peer.promise(slot);
                let (shard, peer) = (shard.clone(), peer.clone());
                rt::spawn(Lane::Network, "mesh-wait", async move {
                    let reply = carry_out(&shard, peer.id(), call).await;
                    peer.reply_late(slot, reply).await;
                })
                .detach();
            }
            call => {
                let (shard, peer) = (shard.clone(), peer.clone());
                rt::spawn(Lane::Network, "mesh-call", answer(shard, peer, slot, call)).detach();
            }
        }
    }
    drop(completing);
}

async fn answer(shard: Rc<Shard>, peer: Rc<Peer>, slot: usize, call: ShardCall) {
    let reply = carry_out(&shard, peer.id(), call).await;
    peer.reply(slot, reply);
}

async fn carry_out(shard: &Rc<Shard>, asker: ShardId, call: ShardCall) -> ShardReply {
    match call {
        ShardCall::Append(_)
        | ShardCall::EndWait(_)
        | ShardCall::FetchSizes(_)
        | ShardCall::EnterAddress(..)
        | ShardCall::LeaveAddress(_)
        | ShardCall::Late(..) => unreachable!("answered by the receiving loop"),
        ShardCall::Read(parts) => ShardReply::Read(shard.read_here(parts).await),
        ShardCall::AwaitData {
            wait_id,
            seen,
            wait,
        } => {
            shard.await_data_here(asker, wait_id, seen, wait).await;
            ShardReply::DataOrDeadline
        }
        ShardCall::Offsets(asked) => ShardReply::Offsets(shard.offsets_here(asked).await),
        ShardCall::EpochEnds(asked) => ShardReply::EpochEnds(shard.epoch_ends_here(&asked)),
        ShardCall::DeleteRecords(asked) => {
            ShardReply::LogStarts(shard.delete_records_here(asked).await)
        }
        ShardCall::Sizes => ShardReply::Sizes(shard.partition_sizes_here()),
        ShardCall::Publish(image) => {
            shard.apply_image(image).await;
            ShardReply::Done
        }
        ShardCall::Control(call) => ShardReply::Control(control::carry_out(shard, call).await),
        ShardCall::Group(request) => ShardReply::Group(shard.group_here(request).await),
        ShardCall::Metrics => ShardReply::Metrics(Box::new(shard.metrics_here())),
        ShardCall::Health => {
            let (complaint, unserved) = shard.health_here();
            ShardReply::Health(complaint, unserved)
        }
        ShardCall::Storage(trouble) => {
            shard.storage.hear(trouble);
            ShardReply::Done
        }
        ShardCall::Drain => {
            shard.drain_here().await;
            ShardReply::Done
        }
    }
}

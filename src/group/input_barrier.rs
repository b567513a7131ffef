//! When has the shard caught up with its input? Asked before a deadline is taken as missed.
//!
//! After a stall the deadlines of many sessions may have passed while the heartbeats that would
//! have moved them wait unread in sockets and in the mesh. So a deadline is final only once every
//! request that had arrived before it was noticed has been handled.
//! Runs on: the coordinator's shard.

use std::time::Duration;

use super::offsets_log::LocalFuture;
use crate::rt;

/// Tells the coordinator when the shard has caught up with its input.
pub trait InputBarrier {
    /// Resolves when every request that had arrived when this was called has been handed to its
    /// handler.
    fn drained(&self) -> LocalFuture<'_, ()>;
}

/// Waits until the shard's loop turns quickly again, for so many rounds that a request which was
/// waiting in a socket has been read, passed on by the mesh and handled.
///
/// It sees stalls of its own shard only: whoever has several asks each of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopBarrier;

/// Length of a round.
const ROUND: Duration = Duration::from_millis(1);
/// A round that took longer shows that the loop is still behind.
const PROMPT: Duration = Duration::from_millis(10);
/// Prompt rounds in a row that show that it has caught up.
const PROMPT_ROUNDS: u32 = 10;
/// On a machine that is always late no round is prompt: after this long, and as many rounds, what
/// had arrived before has been read, and deadlines must not wait for ever.
const LIMIT: Duration = Duration::from_millis(250);

impl InputBarrier for LoopBarrier {
    fn drained(&self) -> LocalFuture<'_, ()> {
        Box::pin(async {
            let start = rt::now();
            let mut prompt_rounds = 0;
            for round in 1.. {
                let began = rt::now();
                rt::sleep(ROUND).await;
                rt::yield_now().await;
                let is_prompt = rt::now().saturating_since(began) <= PROMPT;
                prompt_rounds = if is_prompt { prompt_rounds + 1 } else { 0 };
                let is_late = rt::now().saturating_since(start) >= LIMIT;
                if prompt_rounds == PROMPT_ROUNDS || (is_late && round >= PROMPT_ROUNDS) {
                    return;
                }
            }
        })
    }
}

//! The one task that turns the queue into blocks, keeps them in flight and reports them in order.
//!
//! Runs on: the home shard, lane commit.        Owner: `Journal`.
//! Promises: an idle device gets the first entry at once; a busy one gets full blocks.
//! Invariants:
//! [durable-order] blocks may complete in any order; they are reported in sequence.
//! [write-window] at most `writes_in_flight` blocks lie between the oldest that is not reported and
//! the newest, so a block always says "durable" about all but the last few before it.
//! [claimed] after a block with entries, silence is followed by one empty block, which says that
//! the entries are durable; replay can then tell damage from a torn end.
//!
//! Several small writes at once make a device slower, several full ones make it faster: a second
//! write starts only when there is enough to write.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::breaks::{self, Break};
use crate::journal::block::{self, block_len};
use crate::journal::config::JournalConfig;
use crate::journal::entry::EntryKind;
use crate::journal::journal::{Completed, Phase, Position, Queued, Shared, State};
use crate::rt::{Instant, IoBuf, fs, now, sleep};

/// Writes blocks until the journal is closed or fails.
pub(super) async fn run(shared: Rc<Shared>) {
    let mut committer = Committer {
        shared,
        writes: FuturesUnordered::new(),
        in_flight: VecDeque::new(),
        durable_sequence: 0,
        is_unclaimed: false,
        quiet_since: now(),
    };
    loop {
        committer.collect().await;
        match decide(&committer.view(), &committer.shared.config) {
            Step::Commit => committer.commit().await,
            Step::EmptyBlock => committer.commit_empty().await,
            Step::Wait(at_most) => committer.wait(at_most).await,
            Step::End => break,
        }
    }
}

struct Committer {
    shared: Rc<Shared>,
    writes: FuturesUnordered<Pin<Box<dyn Future<Output = Written>>>>,
    /// Blocks that are not reported, oldest first.
    in_flight: VecDeque<InFlight>,
    /// Every block up to this one (inclusive) is durable.
    durable_sequence: u64,
    /// The newest block has entries, and no block says yet that it is durable.
    is_unclaimed: bool,
    /// When the device or the queue last had nothing to do.
    quiet_since: Instant,
}

struct InFlight {
    sequence: u64,
    is_written: bool,
    took: Duration,
    /// Exclusive.
    end_position: Position,
    entry_count: u64,
    payload_bytes: u64,
    block_bytes: u64,
    completed: Vec<Completed>,
}

struct Written {
    sequence: u64,
    took: Duration,
    result: io::Result<()>,
}

enum Event {
    Written(Option<Written>),
    Work,
    Time,
}

/// What the committer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Commit,
    EmptyBlock,
    /// Until something happens, or this long.
    Wait(Option<Duration>),
    End,
}

/// What that depends on.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact"
)]
struct View {
    queued_bytes: usize,
    has_queue: bool,
    in_flight: usize,
    is_writing: bool,
    is_closing: bool,
    is_failed: bool,
    is_unclaimed: bool,
    /// Since the device had nothing to do, or since the queue had nothing.
    quiet_for: Duration,
}

fn decide(view: &View, config: &JournalConfig) -> Step {
    if view.is_failed {
        // the kernel still has buffers of the other writes
        return if view.is_writing {
            Step::Wait(None)
        } else {
            Step::End
        };
    }
    if view.has_queue {
        let is_full = view.queued_bytes >= config.commit_bytes;
        if view.in_flight == 0 {
            let left = config.commit_delay.saturating_sub(view.quiet_for);
            let must_wait = !is_full && !view.is_closing && !left.is_zero();
            return if must_wait {
                Step::Wait(Some(left))
            } else {
                Step::Commit
            };
        }
        let is_worth_it = is_full || view.queued_bytes >= config.parallel_bytes_min;
        let has_window = view.in_flight < config.writes_in_flight;
        return if is_worth_it && has_window {
            Step::Commit
        } else {
            Step::Wait(None)
        };
    }
    if view.in_flight > 0 {
        return Step::Wait(None);
    }
    if view.is_closing {
        return Step::End;
    }
    if view.is_unclaimed {
        let left = config.idle_block_after.saturating_sub(view.quiet_for);
        return if left.is_zero() {
            Step::EmptyBlock
        } else {
            Step::Wait(Some(left))
        };
    }
    Step::Wait(None)
}

impl Committer {
    fn view(&self) -> View {
        let state = self.shared.state.borrow();
        View {
            queued_bytes: state.queued_bytes,
            has_queue: !state.queue.is_empty(),
            in_flight: self.in_flight.len(),
            is_writing: !self.writes.is_empty(),
            is_closing: matches!(state.phase, Phase::Closing),
            is_failed: matches!(state.phase, Phase::Failed(_)),
            is_unclaimed: self.is_unclaimed,
            quiet_for: now().saturating_since(self.quiet_since),
        }
    }

    /// Takes what has been written, and gets new writes started.
    async fn collect(&mut self) {
        while let Some(written) = std::future::poll_fn(|context| {
            let next = self.writes.poll_next_unpin(context);
            Poll::Ready(if let Poll::Ready(written) = next {
                written
            } else {
                None
            })
        })
        .await
        {
            self.on_written(written);
        }
        if breaks::is_on(Break::AckBeforeWrite)
            && let Some(sequence) = self.in_flight.back().map(|block| block.sequence)
        {
            let (took, result) = (Duration::ZERO, Ok(()));
            self.on_written(Written {
                sequence,
                took,
                result,
            });
        }
    }

    async fn wait(&mut self, at_most: Option<Duration>) {
        let shared = Rc::clone(&self.shared);
        let had_queue = !shared.state.borrow().queue.is_empty();
        let mut work = pin!(shared.work.notified());
        let mut timer = pin!(async {
            match at_most {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        });
        let event = std::future::poll_fn(|context| {
            if !self.writes.is_empty()
                && let Poll::Ready(written) = self.writes.poll_next_unpin(context)
            {
                return Poll::Ready(Event::Written(written));
            }
            if work.as_mut().poll(context).is_ready() {
                return Poll::Ready(Event::Work);
            }
            timer.as_mut().poll(context).map(|()| Event::Time)
        })
        .await;
        match event {
            Event::Written(Some(written)) => self.on_written(written),
            // the commit delay counts from the first entry of the block
            Event::Work if !had_queue && self.in_flight.is_empty() => self.quiet_since = now(),
            Event::Written(None) | Event::Work | Event::Time => {}
        }
    }

    /// Builds the next block from the queue and starts its write.
    async fn commit(&mut self) {
        let len = plan(&self.shared.state.borrow(), self.shared.config.commit_bytes);
        let Some(buf) = self.buffer(len).await else {
            return;
        };
        let shared = Rc::clone(&self.shared);
        let mut state = shared.state.borrow_mut();
        let state = &mut *state;
        let mut taken: Vec<Queued> = Vec::new();
        let mut payload = 0;
        while let Some(next) = state.queue.front() {
            let longer = payload + next.entry.encoded_len();
            if block_len(longer) > buf.len() {
                break;
            }
            payload = longer;
            state.queued_bytes -= next.entry.encoded_len();
            state.queue_bytes -= next.queue_bytes;
            let charge = next.charge;
            state.ring.release(charge);
            taken.extend(state.queue.pop_front());
        }
        self.write(state, buf, &taken);
        state.waiters.wake_first();
        self.is_unclaimed = true;
    }

    /// Writes a block that only says how far everything is durable.
    async fn commit_empty(&mut self) {
        if !self.shared.state.borrow().ring.has_room_for_empty_block() {
            // a full ring waits for a checkpoint, and whatever is written next says it as well
            self.is_unclaimed = false;
            return;
        }
        let Some(buf) = self.buffer(block_len(0)).await else {
            return;
        };
        let shared = Rc::clone(&self.shared);
        let mut state = shared.state.borrow_mut();
        if !state.queue.is_empty() || !state.ring.has_room_for_empty_block() {
            return;
        }
        self.write(&mut state, buf, &[]);
        self.is_unclaimed = false;
    }

    /// A buffer of `len` bytes; goes on reporting while it waits for one. `None` after a failure.
    async fn buffer(&mut self, len: usize) -> Option<IoBuf> {
        let buf = if let Some(buf) = IoBuf::try_alloc(len) {
            buf
        } else {
            let mut alloc = pin!(IoBuf::alloc(len));
            loop {
                if self.writes.is_empty() {
                    break alloc.await;
                }
                let event = match select(alloc.as_mut(), self.writes.next()).await {
                    Either::Left((buf, _)) => break buf,
                    Either::Right((written, _)) => written,
                };
                if let Some(written) = event {
                    self.on_written(written);
                }
            }
        };
        let is_failed = matches!(self.shared.state.borrow().phase, Phase::Failed(_));
        (!is_failed).then_some(buf)
    }

    fn write(&mut self, state: &mut State, mut buf: IoBuf, taken: &[Queued]) {
        let (link, ring_id) = (state.link, self.shared.ring_id);
        let entries = taken.iter().map(|queued| &queued.entry);
        let (len, crc) = block::encode(&mut buf, ring_id, link, self.durable_sequence, entries);
        let block_bytes = to_u64(len);
        let first = self
            .in_flight
            .back()
            .map_or(state.durable_position, |last| last.end_position);
        let slot = state
            .ring
            .place(block_bytes, first.0, link)
            .expect("[ring-room] was granted before the entries were queued");
        state.link = link.next(crc);
        let end_position = Position(first.0 + to_u64(taken.len()));
        self.in_flight.push_back(InFlight {
            sequence: link.sequence,
            is_written: false,
            took: Duration::ZERO,
            end_position,
            entry_count: to_u64(taken.len()),
            payload_bytes: taken
                .iter()
                .map(|queued| to_u64(queued.entry.payload.len()))
                .sum(),
            block_bytes,
            completed: completed(first, taken),
        });
        let most = &mut state.stats.writes_in_flight_max;
        *most = self.in_flight.len().max(*most);
        let file = state
            .files
            .get(usize::try_from(slot.file).unwrap_or(usize::MAX))
            .cloned()
            .expect("[ring-files] the ring knows open files only");
        self.writes.push(Box::pin(async move {
            let start = now();
            let result = file.write_at(buf, len, slot.offset).await.map(drop);
            let took = now().saturating_since(start);
            Written {
                sequence: link.sequence,
                took,
                result,
            }
        }));
    }

    fn on_written(&mut self, written: Written) {
        if let Err(error) = written.result
            && !(breaks::is_on(Break::EnospcSwallowed) && fs::is_disk_full(&error))
        {
            self.shared.fail(error);
        }
        let shared = Rc::clone(&self.shared);
        let mut state = shared.state.borrow_mut();
        if matches!(state.phase, Phase::Failed(_)) {
            return;
        }
        for block in &mut self.in_flight {
            let is_before = block.sequence < written.sequence;
            if block.sequence == written.sequence
                || (is_before && breaks::is_on(Break::AcksReordered))
            {
                block.is_written = true;
                block.took = written.took;
            }
        }
        let mut has_news = false;
        while self.in_flight.front().is_some_and(|block| block.is_written) {
            let Some(mut block) = self.in_flight.pop_front() else {
                break;
            };
            assert!(
                block.sequence == self.durable_sequence + 1
                    && block.end_position >= state.durable_position,
                "[durable-order] blocks are reported in sequence"
            );
            self.durable_sequence = block.sequence;
            state.durable_position = block.end_position;
            state.completed.append(&mut block.completed);
            let (entries, payload) = (block.entry_count, block.payload_bytes);
            state
                .stats
                .on_block(entries, payload, block.block_bytes, block.took);
            has_news = true;
        }
        drop(state);
        if has_news {
            if self.in_flight.is_empty() {
                self.quiet_since = now();
            }
            shared.progress.notify_all();
        }
    }
}

/// Length of the next block: as many entries from the front as fit into one commit and where the
/// first one goes.
fn plan(state: &State, commit_bytes: usize) -> usize {
    let mut entries = state.queue.iter();
    let Some(first) = entries.next() else {
        return block_len(0);
    };
    let mut payload = first.entry.encoded_len();
    let stretch = state
        .ring
        .stretch_for(to_u64(block_len(payload)))
        .expect("[ring-room] was granted before the entry was queued");
    let limit = commit_bytes.min(usize::try_from(stretch).unwrap_or(usize::MAX));
    for next in entries {
        let longer = payload + next.entry.encoded_len();
        if block_len(longer) > limit {
            break;
        }
        payload = longer;
    }
    block_len(payload)
}

/// What to tell when the block is durable; appends of one owner in a row are told as one.
fn completed(first: Position, taken: &[Queued]) -> Vec<Completed> {
    let mut all: Vec<Completed> = Vec::new();
    for (number, queued) in (first.0..).zip(taken) {
        let this = Completed {
            owner: queued.owner,
            position: Position(number),
            kind: queued.entry.kind,
            next_offset: queued.entry.next_offset,
        };
        match all.last_mut() {
            Some(last) if last.owner == this.owner && are_appends(last.kind, this.kind) => {
                *last = this;
            }
            _ => all.push(this),
        }
    }
    all
}

fn are_appends(first: EntryKind, second: EntryKind) -> bool {
    first == EntryKind::Append && second == EntryKind::Append
}

fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: View = View {
        queued_bytes: 1000,
        has_queue: true,
        in_flight: 1,
        is_writing: true,
        is_closing: false,
        is_failed: false,
        is_unclaimed: true,
        quiet_for: Duration::ZERO,
    };

    fn step(view: View) -> Step {
        decide(&view, &JournalConfig::default())
    }

    #[test]
    fn idle_device_gets_the_first_entry_at_once() {
        assert_eq!(
            step(View {
                in_flight: 0,
                is_writing: false,
                ..BUSY
            }),
            Step::Commit
        );
    }

    #[test]
    fn commit_delay_holds_a_small_block_of_an_idle_device() {
        let config = JournalConfig {
            commit_delay: Duration::from_millis(2),
            ..JournalConfig::default()
        };
        let view = View {
            in_flight: 0,
            is_writing: false,
            ..BUSY
        };
        assert_eq!(
            decide(&view, &config),
            Step::Wait(Some(Duration::from_millis(2)))
        );
        let later = View {
            quiet_for: Duration::from_millis(2),
            ..view
        };
        assert_eq!(decide(&later, &config), Step::Commit);
        let full = View {
            queued_bytes: config.commit_bytes,
            ..view
        };
        assert_eq!(decide(&full, &config), Step::Commit);
        assert_eq!(
            decide(
                &View {
                    is_closing: true,
                    ..view
                },
                &config
            ),
            Step::Commit
        );
    }

    #[test]
    fn busy_device_gets_a_second_write_only_when_it_is_large() {
        assert_eq!(step(BUSY), Step::Wait(None));
        assert_eq!(
            step(View {
                queued_bytes: 128 * 1024,
                ..BUSY
            }),
            Step::Commit
        );
        let full = View {
            queued_bytes: 128 * 1024,
            in_flight: 4,
            ..BUSY
        };
        assert_eq!(step(full), Step::Wait(None));
    }

    #[test]
    fn silence_is_followed_by_one_empty_block() {
        let quiet = View {
            has_queue: false,
            in_flight: 0,
            is_writing: false,
            ..BUSY
        };
        assert_eq!(step(quiet), Step::Wait(Some(Duration::from_millis(50))));
        let later = View {
            quiet_for: Duration::from_millis(50),
            ..quiet
        };
        assert_eq!(step(later), Step::EmptyBlock);
        assert_eq!(
            step(View {
                is_unclaimed: false,
                ..later
            }),
            Step::Wait(None)
        );
    }

    #[test]
    fn failed_journal_waits_for_its_buffers_and_ends() {
        assert_eq!(
            step(View {
                is_failed: true,
                ..BUSY
            }),
            Step::Wait(None)
        );
        assert_eq!(
            step(View {
                is_failed: true,
                is_writing: false,
                ..BUSY
            }),
            Step::End
        );
    }

    #[test]
    fn closing_journal_writes_what_is_queued_first() {
        assert_eq!(
            step(View {
                is_closing: true,
                ..BUSY
            }),
            Step::Wait(None)
        );
        let idle = View {
            is_closing: true,
            in_flight: 0,
            is_writing: false,
            ..BUSY
        };
        assert_eq!(step(idle), Step::Commit);
        assert_eq!(
            step(View {
                has_queue: false,
                ..idle
            }),
            Step::End
        );
    }
}

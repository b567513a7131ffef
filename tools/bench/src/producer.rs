//! One producing connection: takes what is due, sends it, matches the answers.
//!
//! Runs on: the engine's thread.
//! Promises: never more than `in_flight` requests without an answer; every batch that was sent is
//! acknowledged, failed, or counted as unanswered at the end.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::batch::{BatchMaker, Content};
use crate::clock::{Clock, Nanos};
use crate::cluster::{Target, Topic};
use crate::link::{Body, Link, Pool};
use crate::recorder::{Counts, Recorder};
use crate::requests::{Appended, Format, ProduceWriter, correlation_id, read_produce};
use crate::stamp::Stamp;
use crate::supply::{Dues, Next, Ready, Supply};
use crate::template::{BatchHead, HEADER_BYTES};
use crate::verify::Ledger;

/// What all producing connections share.
#[derive(Debug)]
pub(crate) struct ProduceShared {
    pub(crate) clock: Clock,
    pub(crate) writer: ProduceWriter,
    pub(crate) topics: Vec<Topic>,
    pub(crate) maker: BatchMaker,
    pub(crate) in_flight_max: usize,
    pub(crate) value_len: usize,
    /// Tells this run's records from all others.
    pub(crate) run: u32,
    pub(crate) recorder: Recorder,
    /// With --verify.
    pub(crate) ledger: Option<Ledger>,
    /// For each target of the cluster, the offset after the last acknowledged record.
    pub(crate) acked_ends: Vec<i64>,
}

/// A batch that waits for its answer.
#[derive(Debug)]
struct SentBatch {
    ready: Ready,
    first_sequence: u64,
    wire_bytes: usize,
}

#[derive(Debug)]
struct InFlight {
    correlation_id: i32,
    sent_at: Nanos,
    /// Without acks, done when the link has sent so many bytes.
    end: u64,
    batches: Vec<SentBatch>,
}

/// An idempotent producer's id and epoch.
pub(crate) type Identity = (i64, i16);

/// A connection that produces.
#[derive(Debug)]
pub(crate) struct Producer {
    number: u32,
    targets: Rc<[Target]>,
    identity: Option<Identity>,
    /// Records sent to each target; empty where nobody asks.
    sequences: Vec<u64>,
    supply: Supply,
    in_flight: VecDeque<InFlight>,
    next_correlation_id: i32,
    ready: Vec<Ready>,
    head: Vec<u8>,
}

impl Producer {
    pub(crate) fn new(
        number: u32,
        targets: Rc<[Target]>,
        supply: Supply,
        identity: Option<Identity>,
        is_verified: bool,
    ) -> Self {
        let is_counted = identity.is_some() || is_verified;
        let sequences = if is_counted { targets.len() } else { 0 };
        Self {
            number,
            targets,
            identity,
            sequences: vec![0; sequences],
            supply,
            in_flight: VecDeque::new(),
            next_correlation_id: 0,
            ready: Vec::new(),
            head: Vec::new(),
        }
    }

    /// Sends as many requests as are due and allowed; says when to come back.
    pub(crate) fn pump(
        &mut self,
        now: Nanos,
        link: &mut Link,
        pool: &mut Pool,
        shared: &mut ProduceShared,
    ) -> Result<Option<Nanos>, String> {
        let mut next = None;
        while self.in_flight.len() < shared.in_flight_max {
            match self.supply.take(now, &mut self.ready) {
                Next::Send => self.send(now, link, pool, shared)?,
                Next::At(at) => {
                    next = Some(at);
                    break;
                }
                Next::Never => break,
            }
        }
        if !link.is_blocked {
            link.flush(pool)?;
        }
        if shared.writer.acks == 0 && self.complete_sent(link, shared) {
            // what was sent made room; the engine comes back at once
            next = Some(now);
        }
        Ok(next)
    }

    fn send(
        &mut self,
        now: Nanos,
        link: &mut Link,
        pool: &mut Pool,
        shared: &mut ProduceShared,
    ) -> Result<(), String> {
        let mut ready = std::mem::take(&mut self.ready);
        let targets = Rc::clone(&self.targets);
        let topic_of = |batch: &Ready| targets[batch.target].topic;
        ready.sort_by_key(topic_of);
        let by_topic = || ready.chunk_by(|a, b| topic_of(a) == topic_of(b));
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1) & i32::MAX;
        let writer = shared.writer;
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        writer.begin(&mut head, correlation_id, by_topic().count());
        let mut bodies: Vec<(usize, Body, u64)> = Vec::with_capacity(ready.len());
        for batches in by_topic() {
            let topic = topic_of(&batches[0]);
            writer.topic(&mut head, &shared.topics[topic], batches.len());
            for batch in batches {
                let first = self.next_sequence(batch);
                let body = self.records(now, batch, first, pool, shared)?;
                let partition = targets[batch.target].partition;
                writer.partition(&mut head, partition, HEADER_BYTES + body.bytes().len());
                self.batch_head(now, batch, first, shared)
                    .write(&mut head, body.bytes());
                bodies.push((head.len(), body, first));
                writer.end_partition(&mut head);
            }
            writer.end_topic(&mut head);
        }
        writer.end(&mut head);
        let extra = bodies.iter().map(|(_, body, _)| body.bytes().len()).sum();
        Format::seal(&mut head, 0, extra);
        let mut batches = Vec::with_capacity(bodies.len());
        let mut from = 0;
        for ((at, body, first_sequence), ready) in bodies.into_iter().zip(ready.drain(..)) {
            link.push_bytes(&head[from..at], pool);
            batches.push(SentBatch {
                ready,
                first_sequence,
                wire_bytes: HEADER_BYTES + body.bytes().len(),
            });
            link.push_body(body, pool);
            from = at;
        }
        link.push_bytes(&head[from..], pool);
        self.ready = ready;
        self.head = head;
        self.in_flight.push_back(InFlight {
            correlation_id,
            sent_at: now,
            end: link.queued,
            batches,
        });
        Ok(())
    }

    /// Numbers the records of a batch in its stream.
    fn next_sequence(&mut self, batch: &Ready) -> u64 {
        let Some(next) = self.sequences.get_mut(batch.target) else {
            return 0;
        };
        let first = *next;
        *next += batch.count as u64;
        first
    }

    fn records(
        &self,
        now: Nanos,
        batch: &Ready,
        first_sequence: u64,
        pool: &mut Pool,
        shared: &mut ProduceShared,
    ) -> Result<Body, String> {
        let (clock, run) = (shared.clock, shared.run);
        shared.maker.records(batch.count, pool, |number| Content {
            key: batch.keys.get(number).copied().unwrap_or(0),
            stamp: Stamp {
                due_unix_ns: clock.unix_ns(batch.dues.due(number, now)),
                run,
                producer: self.number,
                sequence: first_sequence + number as u64,
            },
        })
    }

    fn batch_head(
        &self,
        now: Nanos,
        batch: &Ready,
        first_sequence: u64,
        shared: &ProduceShared,
    ) -> BatchHead {
        let (producer_id, producer_epoch) = self.identity.unwrap_or((-1, -1));
        // sequences of the protocol count to 2^31 - 1 and begin again
        let sequence = i32::try_from(first_sequence & 0x7fff_ffff).unwrap_or(0);
        BatchHead {
            codec: shared.maker.codec().id(),
            count: batch.count,
            timestamp_ms: shared.clock.unix_ms(now),
            producer_id,
            producer_epoch,
            base_sequence: self.identity.map_or(-1, |_| sequence),
        }
    }

    /// Without acks, a batch is done when the socket has taken it.
    fn complete_sent(&mut self, link: &Link, shared: &mut ProduceShared) -> bool {
        let before = self.in_flight.len();
        while self
            .in_flight
            .front()
            .is_some_and(|first| first.end <= link.sent)
        {
            let request = self.in_flight.pop_front().expect("there is a first");
            let now = shared.clock.now();
            for batch in &request.batches {
                self.acknowledge(batch, None, request.sent_at, now, shared);
            }
            count_request(now, shared);
        }
        self.in_flight.len() < before
    }

    /// Takes one response.
    pub(crate) fn on_response(
        &mut self,
        frame: &[u8],
        shared: &mut ProduceShared,
    ) -> Result<(), String> {
        let request = self.in_flight.pop_front();
        let request = request.ok_or("a response that nobody asked for")?;
        if correlation_id(frame) != Some(request.correlation_id) {
            return Err("a response to another request".to_owned());
        }
        let now = shared.clock.now();
        let mut answered = 0;
        let format = shared.writer.format;
        read_produce(format, frame, |topic, appended: Appended| {
            // brokers may answer in another order than they were asked
            let is_it = |batch: &SentBatch| {
                let target = self.targets[batch.ready.target];
                target.partition == appended.partition
                    && shared.topics[target.topic].is_named(topic)
            };
            let next = request.batches.get(answered).filter(|batch| is_it(batch));
            let Some(batch) = next.or_else(|| request.batches.iter().find(|batch| is_it(batch)))
            else {
                return;
            };
            answered += 1;
            match appended.error {
                0 => {
                    let base = Some(appended.base_offset);
                    self.acknowledge(batch, base, request.sent_at, now, shared);
                }
                code => {
                    let name = crate::cold::error_name(code);
                    shared.recorder.error(&name, batch.ready.count as u64);
                }
            }
        })
        .ok_or("a Produce response that cannot be read")?;
        if answered != request.batches.len() {
            return Err("a Produce response for other partitions".to_owned());
        }
        count_request(now, shared);
        Ok(())
    }

    fn acknowledge(
        &self,
        batch: &SentBatch,
        base_offset: Option<i64>,
        sent_at: Nanos,
        now: Nanos,
        shared: &mut ProduceShared,
    ) {
        let Ready {
            count,
            dues,
            target,
            ..
        } = &batch.ready;
        let records = *count as u64;
        let target = self.targets[*target].number;
        if let Some(ledger) = &mut shared.ledger {
            let first = batch.first_sequence;
            ledger.acked((self.number, target), first..first + records);
        }
        if let Some(base) = base_offset {
            let end = base + i64::try_from(records).unwrap_or(0);
            let known = &mut shared.acked_ends[target];
            *known = end.max(*known);
        }
        let recorder = &mut shared.recorder;
        if let Dues::AtSend = dues {
            recorder.done(sent_at, now, records);
        } else {
            for number in 0..*count {
                recorder.done(dues.due(number, sent_at), now, 1);
            }
        }
        let counts = Counts {
            records,
            batches: 1,
            requests: 0,
            bytes: (*count * shared.value_len) as u64,
            wire_bytes: batch.wire_bytes as u64,
        };
        recorder.count(now, &counts);
    }

    /// Nothing is outstanding and nothing will be due.
    pub(crate) fn is_done(&self, now: Nanos) -> bool {
        self.in_flight.is_empty() && self.supply.has_ended(now)
    }

    /// Counts what never was answered or sent.
    pub(crate) fn abandon(&self, now: Nanos, shared: &mut ProduceShared) {
        let recorder = &mut shared.recorder;
        for request in &self.in_flight {
            for SentBatch { ready, .. } in &request.batches {
                for number in 0..ready.count {
                    let due = ready.dues.due(number, request.sent_at);
                    recorder.never_done(due, now, "Unanswered");
                }
            }
        }
        self.supply
            .leftover(now, |due| recorder.never_done(due, now, "Unsent"));
    }
}

fn count_request(now: Nanos, shared: &mut ProduceShared) {
    let counts = Counts {
        requests: 1,
        ..Counts::default()
    };
    shared.recorder.count(now, &counts);
}

//! One producing connection: takes what is due, sends it, matches the answers.
//!
//! Runs on: the engine's thread.
//! Promises: never more than `in_flight` requests without an answer; every batch that was sent is
//! acknowledged, failed, or counted as unanswered at the end.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::clock::{Clock, Nanos};
use crate::cluster::{Target, Topic};
use crate::link::{Body, Link, Pool};
use crate::recorder::{Counts, Recorder};
use crate::requests::{Appended, Format, ProduceWriter, correlation_id, read_produce};
use crate::supply::{Next, Ready, Supply};
use crate::template::{BatchHead, HEADER_BYTES, Template};

/// What all producing connections share.
#[derive(Debug)]
pub(crate) struct ProduceShared {
    pub(crate) clock: Clock,
    pub(crate) writer: ProduceWriter,
    pub(crate) topics: Vec<Topic>,
    pub(crate) template: Template,
    pub(crate) in_flight_max: usize,
    pub(crate) value_len: usize,
    pub(crate) recorder: Recorder,
}

/// A batch that waits for its answer.
#[derive(Debug)]
struct SentBatch {
    ready: Ready,
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

/// A connection that produces.
#[derive(Debug)]
pub(crate) struct Producer {
    targets: Rc<[Target]>,
    supply: Supply,
    in_flight: VecDeque<InFlight>,
    next_correlation_id: i32,
    ready: Vec<Ready>,
    head: Vec<u8>,
}

impl Producer {
    pub(crate) fn new(targets: Rc<[Target]>, supply: Supply) -> Self {
        Self {
            targets,
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
                Next::Send => self.send(now, link, pool, shared),
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

    fn send(&mut self, now: Nanos, link: &mut Link, pool: &mut Pool, shared: &mut ProduceShared) {
        let mut ready = std::mem::take(&mut self.ready);
        let targets = Rc::clone(&self.targets);
        ready.sort_by_key(|batch| targets[batch.target].topic);
        let id = self.next_correlation_id;
        self.next_correlation_id = id.wrapping_add(1) & i32::MAX;
        let topic_of = |batch: &Ready| targets[batch.target].topic;
        let by_topic = || ready.chunk_by(|a, b| topic_of(a) == topic_of(b));
        let writer = shared.writer;
        let head = &mut self.head;
        head.clear();
        let mut bodies: Vec<(usize, Body)> = Vec::with_capacity(ready.len());
        writer.begin(head, id, by_topic().count());
        for batches in by_topic() {
            let topic = &shared.topics[topic_of(&batches[0])];
            writer.topic(head, topic, batches.len());
            for batch in batches {
                let template = &shared.template;
                let len = template.len(batch.count);
                let body = Body::Shared(Rc::clone(&template.records), len);
                let partition = targets[batch.target].partition;
                writer.partition(head, partition, HEADER_BYTES + len);
                let batch_head = BatchHead {
                    codec: 0,
                    count: batch.count,
                    timestamp_ms: shared.clock.unix_ms(now),
                    producer_id: -1,
                    producer_epoch: -1,
                    base_sequence: -1,
                };
                batch_head.write(head, body.bytes());
                bodies.push((head.len(), body));
                writer.end_partition(head);
            }
            writer.end_topic(head);
        }
        writer.end(head);
        let extra = bodies.iter().map(|(_, body)| body.bytes().len()).sum();
        Format::seal(head, 0, extra);
        let mut batches = Vec::with_capacity(bodies.len());
        let mut from = 0;
        for ((at, body), ready) in bodies.into_iter().zip(ready.drain(..)) {
            link.push_bytes(&head[from..at], pool);
            let wire_bytes = HEADER_BYTES + body.bytes().len();
            batches.push(SentBatch { ready, wire_bytes });
            link.push_body(body, pool);
            from = at;
        }
        link.push_bytes(&head[from..], pool);
        self.ready = ready;
        self.in_flight.push_back(InFlight {
            correlation_id: id,
            sent_at: now,
            end: link.queued,
            batches,
        });
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
                acknowledge(batch, request.sent_at, now, shared);
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
                0 => acknowledge(batch, request.sent_at, now, shared),
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

    /// Nothing is outstanding and nothing will be due.
    pub(crate) fn is_done(&mut self, now: Nanos) -> bool {
        if !self.in_flight.is_empty() {
            return false;
        }
        let mut nothing = Vec::new();
        self.supply.clone().take(now, &mut nothing) == Next::Never
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

fn acknowledge(batch: &SentBatch, sent_at: Nanos, now: Nanos, shared: &mut ProduceShared) {
    let Ready { count, dues, .. } = &batch.ready;
    let recorder = &mut shared.recorder;
    if let crate::supply::Dues::AtSend = dues {
        recorder.done(sent_at, now, *count as u64);
    } else {
        for number in 0..*count {
            recorder.done(dues.due(number, sent_at), now, 1);
        }
    }
    let counts = Counts {
        records: *count as u64,
        batches: 1,
        requests: 0,
        bytes: (*count * shared.value_len) as u64,
        wire_bytes: batch.wire_bytes as u64,
    };
    recorder.count(now, &counts);
}

fn count_request(now: Nanos, shared: &mut ProduceShared) {
    let counts = Counts {
        requests: 1,
        ..Counts::default()
    };
    shared.recorder.count(now, &counts);
}

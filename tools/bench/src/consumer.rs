//! One consuming connection: asks, walks the batches that come, asks again.
//!
//! Runs on: the engine's thread.
//! Promises: one Fetch at a time; records are looked at one by one only where latency or
//! verification needs it. Fetch sessions (KIP-227) are used where the broker gives them, so that a
//! request names only the partitions that moved.

use std::collections::HashMap;

use crate::args::Compression;
use crate::clock::{Clock, Nanos};
use crate::cluster::{Target, Topic};
use crate::link::{Link, Pool};
use crate::recorder::{Counts, Recorder};
use crate::records::{self, Batch};
use crate::requests::{FetchWriter, Fetched, Session, Wanted, correlation_id, read_fetch};
use crate::stamp::{Stamp, Stamping};
use crate::verify::Seen;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const SESSION_NOT_FOUND: i16 = 70;
const SESSION_EPOCH: i16 = 71;
/// Pause after an error, so that a broken partition does not make a busy loop.
const PAUSE_NS: Nanos = 100_000_000;

/// What all consuming connections share.
#[derive(Debug)]
pub(crate) struct ConsumeShared {
    pub(crate) clock: Clock,
    pub(crate) writer: FetchWriter,
    pub(crate) topics: Vec<Topic>,
    /// By name and by id.
    pub(crate) topic_numbers: HashMap<Vec<u8>, usize>,
    pub(crate) recorder: Recorder,
    /// From due to received; needs stamps.
    pub(crate) end_to_end: Option<Recorder>,
    pub(crate) stamping: Stamping,
    /// Whose stamps count; none: everybody's.
    pub(crate) run: Option<u32>,
    pub(crate) check_crc: bool,
    /// Of each consumer, with --verify.
    pub(crate) seen: Vec<Seen>,
    pub(crate) from_start: bool,
    /// Bytes of a value, where this run wrote the records.
    pub(crate) value_len: Option<usize>,
    pub(crate) last_received_at: Nanos,
    /// The run ends when everything up to the partitions' ends is read.
    pub(crate) to_end: bool,
}

/// A partition of a consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assigned {
    pub(crate) target: Target,
    pub(crate) offset: i64,
    /// Nothing is wanted from here on.
    pub(crate) stop_at: Option<i64>,
    is_stale: bool,
    is_forgotten: bool,
}

impl Assigned {
    pub(crate) const fn new(target: Target, offset: i64, stop_at: Option<i64>) -> Self {
        Self {
            target,
            offset,
            stop_at,
            is_stale: true,
            is_forgotten: false,
        }
    }

    fn has_ended(&self) -> bool {
        self.stop_at.is_some_and(|stop| self.offset >= stop)
    }

    const fn wanted(&self) -> Wanted {
        Wanted {
            topic: self.target.topic,
            partition: self.target.partition,
            offset: self.offset,
        }
    }
}

/// A connection that consumes.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Which of the consumers that each read everything.
    number: usize,
    assigned: Vec<Assigned>,
    places: HashMap<(usize, i32), usize>,
    session: Session,
    next_correlation_id: i32,
    outstanding: Option<(i32, Nanos)>,
    paused_until: Nanos,
    frame: Vec<u8>,
}

impl Consumer {
    /// `assigned` is ordered by topic.
    pub(crate) fn new(number: usize, assigned: Vec<Assigned>) -> Self {
        let places = assigned
            .iter()
            .enumerate()
            .map(|(place, assigned)| ((assigned.target.topic, assigned.target.partition), place));
        Self {
            number,
            places: places.collect(),
            assigned,
            session: Session { id: 0, epoch: 0 },
            next_correlation_id: 0,
            outstanding: None,
            paused_until: 0,
            frame: Vec::new(),
        }
    }

    /// Asks for more, unless an answer is due.
    pub(crate) fn pump(
        &mut self,
        now: Nanos,
        link: &mut Link,
        pool: &mut Pool,
        shared: &ConsumeShared,
    ) -> Result<Option<Nanos>, String> {
        if self.outstanding.is_some() || self.assigned.iter().all(Assigned::has_ended) {
            return Ok(None);
        }
        if now < self.paused_until {
            return Ok(Some(self.paused_until));
        }
        let is_whole = self.session.epoch == 0;
        let (mut wanted, mut forgotten) = (Vec::new(), Vec::new());
        for assigned in &mut self.assigned {
            if is_whole {
                assigned.is_stale = true;
                assigned.is_forgotten = false;
            }
            if assigned.has_ended() {
                if !is_whole && !assigned.is_forgotten {
                    forgotten.push(assigned.wanted());
                }
                assigned.is_forgotten = true;
            } else if std::mem::take(&mut assigned.is_stale) {
                wanted.push(assigned.wanted());
            }
        }
        let id = self.next_correlation_id;
        self.next_correlation_id = id.wrapping_add(1) & i32::MAX;
        self.frame.clear();
        let (writer, topics) = (&shared.writer, &shared.topics);
        writer.write(
            &mut self.frame,
            id,
            topics,
            self.session,
            &wanted,
            &forgotten,
        );
        link.push_bytes(&self.frame, pool);
        self.outstanding = Some((id, now));
        link.flush(pool)?;
        Ok(None)
    }

    /// Takes one response.
    pub(crate) fn on_response(
        &mut self,
        frame: &[u8],
        shared: &mut ConsumeShared,
    ) -> Result<(), String> {
        let (id, sent_at) = self.outstanding.take().ok_or("a response to no request")?;
        if correlation_id(frame) != Some(id) {
            return Err("a response to another request".to_owned());
        }
        let now = shared.clock.now();
        let mut counts = Counts {
            requests: 1,
            ..Counts::default()
        };
        let format = shared.writer.format;
        let read = read_fetch(format, frame, |topic, fetched| {
            let topic = shared.topic_numbers.get(topic).copied();
            let place = topic.and_then(|topic| self.places.get(&(topic, fetched.partition)));
            if let Some(place) = place.copied() {
                self.on_partition(place, &fetched, now, &mut counts, shared);
            }
        });
        let (error, session) = read.ok_or("a Fetch response that cannot be read")?;
        self.on_session(now, error, session, shared);
        if counts.records > 0 {
            shared.last_received_at = now;
            shared.recorder.done(sent_at, now, counts.records);
        }
        shared.recorder.count(now, &counts);
        if let Some(recorder) = &mut shared.end_to_end {
            recorder.count(now, &counts);
        }
        Ok(())
    }

    fn on_session(&mut self, now: Nanos, error: i16, session: i32, shared: &mut ConsumeShared) {
        match error {
            0 if session == 0 => self.session = Session { id: 0, epoch: 0 },
            0 => {
                let next = self.session.epoch.checked_add(1).unwrap_or(1);
                self.session = Session {
                    id: session,
                    epoch: next,
                };
            }
            code => {
                // the broker forgot the session: a new one begins
                self.session = Session { id: 0, epoch: 0 };
                if code != SESSION_NOT_FOUND && code != SESSION_EPOCH {
                    self.paused_until = now + PAUSE_NS;
                    shared.recorder.error(&crate::cold::error_name(code), 1);
                }
            }
        }
    }

    fn on_partition(
        &mut self,
        place: usize,
        fetched: &Fetched<'_>,
        now: Nanos,
        counts: &mut Counts,
        shared: &mut ConsumeShared,
    ) {
        let assigned = &mut self.assigned[place];
        if fetched.error != 0 {
            assigned.is_stale = true;
            shared
                .recorder
                .error(&crate::cold::error_name(fetched.error), 1);
            if fetched.error == OFFSET_OUT_OF_RANGE && fetched.log_start > assigned.offset {
                assigned.offset = fetched.log_start;
            } else {
                self.paused_until = now + PAUSE_NS;
            }
            return;
        }
        for batch in records::batches(fetched.records) {
            let first = assigned.offset.max(batch.base_offset);
            if batch.next_offset <= assigned.offset {
                continue;
            }
            let skipped = first - batch.base_offset;
            assigned.offset = batch.next_offset;
            assigned.is_stale = true;
            counts.batches += 1;
            counts.wire_bytes += batch.bytes.len() as u64;
            if batch.is_control() {
                continue;
            }
            let skipped = u64::try_from(skipped).unwrap_or(0);
            let records = batch.record_count.saturating_sub(skipped);
            counts.records += records;
            counts.bytes += match shared.value_len {
                Some(len) => records * len as u64,
                None => batch.payload().len() as u64,
            };
            inspect(
                self.number,
                assigned.target.number,
                &batch,
                first,
                now,
                shared,
            );
        }
    }

    /// Everything that was acknowledged is here, or nothing more is wanted.
    pub(crate) fn is_done(&self, acked_ends: Option<&[i64]>) -> bool {
        self.assigned.iter().all(|assigned| match acked_ends {
            Some(ends) => assigned.offset >= ends[assigned.target.number],
            None => assigned.has_ended(),
        })
    }

    /// Records up to the ends that were wanted and did not come.
    pub(crate) fn missing_to_end(&self) -> u64 {
        let missing = self.assigned.iter().map(|assigned| {
            let missing = assigned.stop_at.unwrap_or(0) - assigned.offset;
            u64::try_from(missing).unwrap_or(0)
        });
        missing.sum()
    }

    /// Acknowledged records that did not come.
    pub(crate) fn missing(&self, acked_ends: &[i64]) -> u64 {
        let missing = self.assigned.iter().map(|assigned| {
            u64::try_from(acked_ends[assigned.target.number] - assigned.offset).unwrap_or(0)
        });
        missing.sum()
    }
}

/// Checks and reads one batch, as far as the run asks for it.
fn inspect(
    consumer: usize,
    target: usize,
    batch: &Batch<'_>,
    first: i64,
    now: Nanos,
    shared: &mut ConsumeShared,
) {
    let mut seen = shared.seen.get_mut(consumer);
    let is_damaged = shared.check_crc && !crate::template::has_its_crc(batch.bytes);
    if is_damaged {
        shared.recorder.error("CorruptBatch", batch.record_count);
        if let Some(seen) = &mut seen {
            seen.corrupt += batch.record_count;
        }
        return;
    }
    if shared.stamping == Stamping::None {
        return;
    }
    let codec = Compression::from_attributes(batch.attributes);
    let unpacked;
    let payload = match codec {
        Some(Compression::None) => batch.payload(),
        Some(codec) => {
            unpacked = codec.decompress(batch.payload()).unwrap_or_default();
            &unpacked
        }
        None => &[],
    };
    let mut read = 0;
    for (offset_delta, value) in records::values(payload) {
        read += 1;
        if batch.base_offset + offset_delta < first {
            continue;
        }
        let stamp = Stamp::read(shared.stamping, value);
        match (&stamp, &mut seen) {
            (None, Some(seen)) => seen.corrupt += 1,
            (Some(stamp), Some(seen)) if shared.run.is_none_or(|run| run == stamp.run) => {
                seen.receive((stamp.producer, target), stamp.sequence, shared.from_start);
            }
            _ => {}
        }
        if let (Some(stamp), Some(recorder)) = (stamp, &mut shared.end_to_end)
            && shared.run == Some(stamp.run)
        {
            recorder.done(shared.clock.since_start(stamp.due_unix_ns), now, 1);
        }
    }
    if let Some(seen) = seen {
        seen.corrupt += batch.record_count.saturating_sub(read);
    }
}

//! Fetch sessions (KIP-227): what a consumer fetches is remembered, so that its requests and our
//! answers name only the partitions that changed.
//!
//! Pure: no async, no clock, no IO.
//! Owner: one cache a shard, for the connections that it accepted; a client that comes back to
//! another shard is told that its session is not there, and starts a new one.
//! Rules: a full request (epoch 0) makes a session if there is room, -1 ends it; any other epoch
//! must be the one expected, and the next one is one higher (after the largest: 1). An answer
//! leaves a partition out when it has no records and nothing else that the client does not know
//! already.
//! Partitions that returned records go to the end of the order, so that none starves.
//! Invariants: [session-slots] never more sessions than slots, nor more partitions than there is
//! memory for. [session-size] the cache's count of partitions is the sum over its sessions.
//! Eviction: a session unused for `EVICTION_MS` gives way to any other; a younger one only to a
//! larger one (or to a follower's), and only after it has lived that long.

use std::cell::RefCell;
use std::collections::btree_map::Values;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, PartitionIndex};
use crate::wire::fetch::{
    FetchPartition, FetchPartitionResponse, FetchRequest, FetchTopic, FetchTopicResponse,
    ForgottenTopic,
};
use crate::wire::topic_ref::TopicRef;

/// The answer's session id where there is none.
pub(crate) const NO_SESSION: i32 = 0;
/// Epoch of a request that wants a new session.
const INITIAL_EPOCH: i32 = 0;
/// Epoch of a request that wants none, and ends the one it names.
const FINAL_EPOCH: i32 = -1;
/// Kafka's time after which an unused session gives way.
pub(crate) const EVICTION_MS: i64 = 120_000;
/// Memory of one partition in a session, with its share of the maps' overhead.
pub(crate) const PARTITION_BYTES: usize = 192;
/// Sessions take at most this part of a shard's memory.
const MEMORY_DIVISOR: u64 = 32;
/// A high watermark that no partition has: the next answer is news.
const UNKNOWN: i64 = -1;

/// A session that outlives its place in the cache while a request uses it.
pub(crate) type SharedSession = Rc<RefCell<FetchSession>>;

/// How a request is to be served.
#[derive(Debug)]
pub(crate) enum Turn {
    /// As it is; no session.
    Sessionless,
    /// As it is; then a session is made of it.
    New,
    /// From the session, which expects this epoch as long as no other request comes in between.
    Continued {
        /// The session, with the request's changes.
        session: SharedSession,
        /// Its next epoch.
        epoch: i32,
    },
}

/// The sessions of one shard, as its connections share them.
pub(crate) type SharedSessions = Rc<RefCell<FetchSessions>>;

/// A shard's part of all `slots`, with room for as many partitions as its part of memory allows.
pub(crate) fn of_shard(
    slots: u32,
    (shard, shard_count): (u16, u16),
    memory_bytes: u64,
) -> SharedSessions {
    let (shard, shard_count) = (u32::from(shard), u32::from(shard_count).max(1));
    let slots = slots / shard_count + u32::from(shard < slots % shard_count);
    let as_usize = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let partitions_max = as_usize(memory_bytes / MEMORY_DIVISOR) / PARTITION_BYTES;
    let sessions = FetchSessions::new(as_usize(slots.into()), partitions_max);
    Rc::new(RefCell::new(sessions))
}

/// All sessions of one shard.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    slots: usize,
    partitions_max: usize,
    partitions: usize,
    sessions: HashMap<i32, Kept>,
}

/// A session's place in the cache.
#[derive(Debug)]
struct Kept {
    session: SharedSession,
    /// As counted in [session-size].
    size: usize,
    is_privileged: bool,
    created_ms: i64,
    last_used_ms: i64,
}

/// What one client fetches, in the order in which it is served.
#[derive(Debug)]
pub(crate) struct FetchSession {
    id: i32,
    epoch: i32,
    is_by_id: bool,
    /// Where each partition is in `order`.
    places: HashMap<TopicRef, HashMap<PartitionIndex, u64>>,
    order: BTreeMap<u64, Entry>,
    next_place: u64,
}

/// One partition of a session: what the client asked last, and what it was told last.
#[derive(Debug, Clone)]
struct Entry {
    topic: TopicRef,
    index: PartitionIndex,
    current_leader_epoch: LeaderEpoch,
    last_fetched_epoch: LeaderEpoch,
    fetch_offset: i64,
    partition_max_bytes: i32,
    high_watermark: i64,
    log_start_offset: i64,
}

impl FetchSessions {
    /// No sessions yet; with 0 `slots` there will never be any.
    pub(crate) fn new(slots: usize, partitions_max: usize) -> Self {
        Self {
            slots,
            partitions_max,
            partitions: 0,
            sessions: HashMap::new(),
        }
    }

    /// Sessions, partitions in all of them.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.sessions.len(), self.partitions)
    }

    /// What a request does to the sessions before anything is fetched.
    pub(crate) fn begin(
        &mut self,
        request: &FetchRequest,
        is_by_id: bool,
        now_ms: i64,
    ) -> Result<Turn, ErrorCode> {
        let id = request.session_id;
        match request.session_epoch {
            FINAL_EPOCH => {
                self.remove(id);
                return Ok(Turn::Sessionless);
            }
            INITIAL_EPOCH => {
                self.remove(id);
                return Ok(Turn::New);
            }
            _ => {}
        }
        let kept = self.sessions.get_mut(&id);
        let kept = kept.ok_or(ErrorCode::FetchSessionIdNotFound)?;
        let session = Rc::clone(&kept.session);
        let mut changed = session.borrow_mut();
        if changed.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if changed.is_by_id != is_by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let room = self.partitions_max - (self.partitions - kept.size);
        if changed.len() + request.partition_count() > room && changed.len_with(request) > room {
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound); // the client starts anew, as without one
        }
        changed.update(request);
        if changed.len() == 0 {
            self.remove(id);
            return Ok(Turn::Sessionless);
        }
        self.partitions = self.partitions - kept.size + changed.len();
        kept.size = changed.len();
        kept.last_used_ms = now_ms;
        changed.epoch = next_epoch(changed.epoch);
        let epoch = changed.epoch;
        drop(changed);
        Ok(Turn::Continued { session, epoch })
    }

    /// Makes a session of a full request and its answer, if there is room; its id, or
    /// [`NO_SESSION`]. The answer names the same partitions in the same order.
    pub(crate) fn create(
        &mut self,
        request: &FetchRequest,
        answer: &[FetchTopicResponse],
        is_by_id: bool,
        (now_ms, random): (i64, u64),
    ) -> i32 {
        let size = request.partition_count();
        let is_privileged = request.is_from_follower();
        if !self.make_room(is_privileged, size, now_ms) {
            return NO_SESSION;
        }
        let mut session = FetchSession::new(self.unused_id(random), is_by_id);
        for (topic, answered) in request.topics.iter().zip(answer) {
            let name = session.own_name(&topic.topic);
            for (asked, told) in topic.partitions.iter().zip(&answered.partitions) {
                session.put(&name, asked).observe(told);
            }
        }
        let (id, size) = (session.id, session.len());
        self.partitions += size;
        self.sessions.insert(
            id,
            Kept {
                session: Rc::new(RefCell::new(session)),
                size,
                is_privileged,
                created_ms: now_ms,
                last_used_ms: now_ms,
            },
        );
        id
    }

    fn make_room(&mut self, is_privileged: bool, size: usize, now_ms: i64) -> bool {
        if self.slots == 0 || size > self.partitions_max {
            return false;
        }
        while self.sessions.len() >= self.slots || self.partitions + size > self.partitions_max {
            match self.least_valuable(is_privileged, size, now_ms) {
                Some(id) => self.remove(id),
                None => return false,
            }
        }
        true
    }

    /// The session that gives way to a new one of this size: one long unused, else the smallest of
    /// those that have had their time, if it is smaller than the new one.
    fn least_valuable(&self, is_privileged: bool, size: usize, now_ms: i64) -> Option<i32> {
        let is_old = |since_ms: i64| now_ms.saturating_sub(since_ms) > EVICTION_MS;
        let (oldest, kept) = self
            .sessions
            .iter()
            .min_by_key(|(id, kept)| (kept.last_used_ms, **id))?;
        if is_old(kept.last_used_ms) {
            return Some(*oldest);
        }
        let worth = |kept: &Kept| (kept.is_privileged, kept.size);
        self.sessions
            .iter()
            .filter(|(_, kept)| is_old(kept.created_ms) || (is_privileged && !kept.is_privileged))
            .min_by_key(|(id, kept)| (worth(kept), **id))
            .filter(|(_, kept)| worth(kept) < (is_privileged, size))
            .map(|(id, _)| *id)
    }

    fn remove(&mut self, id: i32) {
        if let Some(kept) = self.sessions.remove(&id) {
            self.partitions -= kept.size;
        }
    }

    /// A positive number that no session has, near a random one.
    fn unused_id(&self, random: u64) -> i32 {
        let mut id = i32::try_from(random % (1 << 31)).expect("31 bits");
        while id <= NO_SESSION || self.sessions.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(1);
        }
        id
    }
}

/// Epochs go round through the positive numbers.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

impl FetchSession {
    fn new(id: i32, is_by_id: bool) -> Self {
        Self {
            id,
            epoch: next_epoch(INITIAL_EPOCH),
            is_by_id,
            places: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
        }
    }

    /// Names it in requests.
    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    /// The epoch that the next request must have.
    pub(crate) fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Partitions.
    fn len(&self) -> usize {
        self.order.len()
    }

    /// Partitions once the request is applied.
    fn len_with(&self, request: &FetchRequest) -> usize {
        let added = |topic: &FetchTopic| {
            let known = self.places.get(&topic.topic);
            let is_new = |p: &&FetchPartition| known.is_none_or(|k| !k.contains_key(&p.index));
            topic.partitions.iter().filter(is_new).count()
        };
        self.len() + request.topics.iter().map(added).sum::<usize>()
    }

    fn update(&mut self, request: &FetchRequest) {
        for topic in &request.topics {
            let name = self.own_name(&topic.topic);
            for partition in &topic.partitions {
                self.put(&name, partition);
            }
        }
        for topic in &request.forgotten_topics {
            self.forget(topic);
        }
    }

    /// The topic's name as bytes of its own, which all its partitions share: a session shall not
    /// keep the frame of a request alive.
    fn own_name(&self, topic: &TopicRef) -> TopicRef {
        if let Some((known, _)) = self.places.get_key_value(topic) {
            return known.clone();
        }
        topic.clone().into_own()
    }

    /// Takes over what the client asks of a partition; a new one goes to the end.
    fn put(&mut self, topic: &TopicRef, asked: &FetchPartition) -> &mut Entry {
        let places = self.places.entry(topic.clone()).or_default();
        let place = *places.entry(asked.index).or_insert_with(|| {
            self.next_place += 1;
            self.next_place
        });
        let entry = self.order.entry(place).or_insert_with(|| Entry {
            topic: topic.clone(),
            index: asked.index,
            current_leader_epoch: asked.current_leader_epoch,
            last_fetched_epoch: asked.last_fetched_epoch,
            fetch_offset: asked.fetch_offset,
            partition_max_bytes: asked.partition_max_bytes,
            high_watermark: UNKNOWN,
            log_start_offset: UNKNOWN,
        });
        entry.current_leader_epoch = asked.current_leader_epoch;
        entry.last_fetched_epoch = asked.last_fetched_epoch;
        entry.fetch_offset = asked.fetch_offset;
        entry.partition_max_bytes = asked.partition_max_bytes;
        entry
    }

    fn forget(&mut self, forgotten: &ForgottenTopic) {
        let Some(places) = self.places.get_mut(&forgotten.topic) else {
            return;
        };
        for index in &forgotten.partitions {
            if let Some(place) = places.remove(index) {
                self.order.remove(&place);
            }
        }
        if places.is_empty() {
            self.places.remove(&forgotten.topic);
        }
    }

    /// Everything the session fetches, in order; neighbours of one topic stand together.
    pub(crate) fn wanted(&self) -> Vec<FetchTopic> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for entry in self.entries() {
            match topics.last_mut() {
                Some(last) if last.topic == entry.topic => last.partitions.push(entry.asked()),
                _ => topics.push(FetchTopic {
                    topic: entry.topic.clone(),
                    partitions: vec![entry.asked()],
                }),
            }
        }
        topics
    }

    fn entries(&self) -> Values<'_, u64, Entry> {
        self.order.values()
    }

    /// Takes note of what the client is about to be told of a partition; whether that is news. One
    /// that returns records goes to the end of the order.
    pub(crate) fn tell(&mut self, topic: &TopicRef, told: &FetchPartitionResponse) -> bool {
        let places = self.places.get_mut(topic);
        let Some(place) = places.and_then(|places| places.get_mut(&told.index)) else {
            return true; // forgotten by another request meanwhile; the client will sort it out
        };
        let entry = self.order.get_mut(place);
        let is_news = entry
            .expect("[session-size] a place has its entry")
            .observe(told);
        if told.records_len > 0
            && let Some(entry) = self.order.remove(place)
        {
            self.next_place += 1;
            *place = self.next_place;
            self.order.insert(*place, entry);
        }
        is_news
    }
}

impl Entry {
    fn asked(&self) -> FetchPartition {
        FetchPartition {
            index: self.index,
            current_leader_epoch: self.current_leader_epoch,
            fetch_offset: self.fetch_offset,
            last_fetched_epoch: self.last_fetched_epoch,
            partition_max_bytes: self.partition_max_bytes,
            log_start_offset: -1,
            replica_directory_id: uuid::Uuid::nil(),
            high_watermark: i64::MAX,
        }
    }

    /// Whether the client does not know this yet. After an error, or where the logs diverge, the
    /// next answer is news too, because what was told before no longer counts.
    fn observe(&mut self, told: &FetchPartitionResponse) -> bool {
        let is_wrong = told.error != ErrorCode::None || told.diverging_epoch.is_some();
        let is_news = is_wrong
            || told.records_len > 0
            || told.high_watermark != self.high_watermark
            || told.log_start_offset != self.log_start_offset;
        self.high_watermark = if is_wrong {
            UNKNOWN
        } else {
            told.high_watermark
        };
        self.log_start_offset = told.log_start_offset;
        is_news
    }
}

#[cfg(test)]
#[path = "fetch_session_tests.rs"]
mod tests;

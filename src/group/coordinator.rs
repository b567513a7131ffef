//! The coordinator of one shard: brings requests, time and the log together around the roster.
//!
//! Runs on: one shard, which is the home of its offsets partitions. Not `Send`.   Owner: `Shard`.
//! Promises: what is announced is durable. A request that was accepted is carried out though its
//! asker disconnects. A session ends only after its deadline was noticed, all input that had
//! arrived by then was handled, and the deadline still stands.
//! Invariants: no borrow of the roster is held across an await. After each change of the roster
//! `settle` hands on its answers, starts writers, and wakes the timer if a deadline came closer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::codec::CodecError;
use super::commits::Writing;
use super::input_barrier::InputBarrier;
use super::offsets_log::{OffsetsLog, OffsetsLogError};
use super::offsets_partition::Step;
use super::record;
use super::replay::{Replay, ReplayError};
use super::requests::{
    CommitRequest, CommitResponse, DeleteOffsetsRequest, DeleteOffsetsResponse, DescribeResponse,
    FetchOffsetsRequest, FetchOffsetsResponse, GroupReply, GroupRequest, HeartbeatRequest,
    JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, ListRequest, ListResponse,
    PartitionOutcomes, SyncRequest, SyncResponse,
};
use super::roster::{Claim, Output, Roster, RosterStats};
use super::settings::GroupSettings;
use super::turn::{Moment, Now};
use crate::breaks::{self, Break};
use crate::model::error_code::ErrorCode;
use crate::model::offset::Offset;
use crate::rt::sync::{Notify, oneshot};
use crate::rt::{self, Lane, Task};

/// Groups looked at between two yields.
const GROUPS_PER_STEP: usize = 64;

/// Why a partition cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its log could not be read.
    #[error(transparent)]
    Log(#[from] OffsetsLogError),
    /// Its log is damaged.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A group's metadata cannot be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The log ends before the end that it claims.
    #[error("the log stops at offset {} and not at its end", at.get())]
    Stopped {
        /// Where it stops.
        at: Offset,
    },
}

/// Whoever waits, by number.
#[derive(Debug, Default)]
struct Askers {
    joins: HashMap<u64, oneshot::Sender<JoinResponse>>,
    syncs: HashMap<u64, oneshot::Sender<SyncResponse>>,
    writes: HashMap<u64, oneshot::Sender<Result<(), OffsetsLogError>>>,
}

impl Askers {
    /// Hands an answer on. Whoever has gone away does not get it.
    fn answer(&mut self, output: Output) {
        match output {
            Output::Join(number, response) => {
                if let Some(asker) = self.joins.remove(&number) {
                    drop(asker.send(response));
                }
            }
            Output::Sync(number, response) => {
                if let Some(asker) = self.syncs.remove(&number) {
                    drop(asker.send(response));
                }
            }
            Output::Written(number, outcome) => {
                if let Some(asker) = self.writes.remove(&number) {
                    let _ = asker.send(outcome);
                }
            }
        }
    }
}

struct Shared {
    roster: RefCell<Roster>,
    askers: RefCell<Askers>,
    log: Rc<dyn OffsetsLog>,
    barrier: Rc<dyn InputBarrier>,
    began: rt::Instant,
    /// A deadline is closer than `sleeps_until`.
    closer: Notify,
    sleeps_until: Cell<Moment>,
    /// No write is queued.
    rested: Notify,
    is_log_failing: Cell<bool>,
    tasks: RefCell<Vec<Task<()>>>,
}

/// The group coordinator of one shard. Clones are the same coordinator.
#[derive(Clone)]
pub struct GroupCoordinator {
    shared: Rc<Shared>,
}

impl GroupCoordinator {
    /// A coordinator without partitions; `load` gives it some.
    pub fn new(
        settings: GroupSettings,
        log: Rc<dyn OffsetsLog>,
        barrier: Rc<dyn InputBarrier>,
    ) -> Self {
        let check_ms = settings.offsets_retention_check_interval_ms.max(1);
        let shared = Rc::new(Shared {
            roster: RefCell::new(Roster::new(settings)),
            askers: RefCell::default(),
            log,
            barrier,
            began: rt::now(),
            closer: Notify::new(),
            sleeps_until: Cell::new(Moment(u64::MAX)),
            rested: Notify::new(),
            is_log_failing: Cell::new(false),
            tasks: RefCell::default(),
        });
        let timer = rt::spawn(Lane::Network, "group-timer", keep_time(Rc::clone(&shared)));
        let interval = Duration::from_millis(check_ms);
        let retention = rt::spawn(
            Lane::Background,
            "group-retention",
            retain(Rc::clone(&shared), interval),
        );
        shared.tasks.borrow_mut().extend([timer, retention]);
        Self { shared }
    }

    /// How many partitions groups are spread over: what the topic has, once it is known. Only while
    /// no partition is here.
    pub fn set_partition_count(&self, count: i32) {
        self.shared.roster.borrow_mut().set_partition_count(count);
    }

    /// Reads a partition that has come to this shard and serves its groups from then on. From the
    /// call on until then they are answered "loading"; after an error they cannot be served, until
    /// `load` is called anew.
    ///
    /// Cancel: not safe; the partition stays "loading".
    pub fn load(&self, partition: i32) -> impl Future<Output = Result<(), LoadError>> + use<> {
        let shared = self.shared.clone();
        let claim = shared.roster.borrow_mut().begin_load(partition);
        async move {
            let Some(claim) = claim else { return Ok(()) };
            let outcome = shared.read_log(claim).await;
            let outcome = outcome.and_then(|()| {
                let now = shared.now();
                Ok(shared.roster.borrow_mut().end_load(claim, now)?)
            });
            if let Err(error) = &outcome {
                tracing::error!(partition, %error, "groups of this partition cannot be served");
                shared.roster.borrow_mut().fail_load(claim);
            }
            shared.settle();
            outcome
        }
    }

    /// The partition leaves this shard. Whoever waits is sent away.
    pub fn unload(&self, partition: i32) {
        let now = self.shared.now();
        self.shared.roster.borrow_mut().unload(now, partition);
        self.shared.settle();
    }

    /// Waits until nothing is queued for the log, then sends away whoever waits, and stops.
    pub async fn close(&self) {
        while self.stats().queued_bytes > 0 {
            self.shared.rested.notified().await;
        }
        let indexes = self.shared.roster.borrow().partition_indexes();
        for index in indexes {
            self.unload(index);
        }
        // The tasks hold what holds them: dropping them here ends both.
        let tasks = std::mem::take(&mut *self.shared.tasks.borrow_mut());
        drop(tasks);
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> RosterStats {
        self.shared.roster.borrow().stats()
    }

    /// Every committed offset: group, topic, partition, offset. For consumer lag.
    pub fn for_each_committed(&self, visit: impl FnMut(&str, &str, i32, i64)) {
        self.shared.roster.borrow().for_each_committed(visit);
    }

    /// Forgets the committed offsets of topics that are gone: after deletions, and after a start
    /// for those that were deleted just before it.
    pub async fn forget_topics(&self, is_gone: impl Fn(&str) -> bool) {
        let mut after = None;
        loop {
            after = self.shared.roster.borrow_mut().forget_topics(
                &is_gone,
                after.as_ref(),
                GROUPS_PER_STEP,
            );
            self.shared.settle();
            if after.is_none() {
                return;
            }
            rt::yield_if_needed().await;
        }
    }

    /// Any request. `Cancel:` safe; what was accepted is carried out.
    pub async fn handle(&self, request: GroupRequest) -> GroupReply {
        match request {
            GroupRequest::Join(request) => GroupReply::Join(self.join(request).await),
            GroupRequest::Sync(request) => GroupReply::Sync(self.sync(request).await),
            GroupRequest::Heartbeat(request) => GroupReply::Heartbeat(self.heartbeat(&request)),
            GroupRequest::Leave(request) => GroupReply::Leave(self.leave(request)),
            GroupRequest::Commit(request) => GroupReply::Commit(self.commit(request).await),
            GroupRequest::FetchOffsets(request) => {
                GroupReply::FetchOffsets(self.fetch_offsets(request))
            }
            GroupRequest::Describe(group_id) => GroupReply::Describe(self.describe(group_id)),
            GroupRequest::Delete(group_id) => GroupReply::Delete(self.delete(&group_id).await),
            GroupRequest::DeleteOffsets(request) => {
                GroupReply::DeleteOffsets(self.delete_offsets(request).await)
            }
            GroupRequest::List(request) => GroupReply::List(self.list(&request)),
        }
    }

    /// JoinGroup: resolves when the rebalance is over. `Cancel:` safe; the member has joined.
    pub async fn join(&self, request: JoinRequest) -> JoinResponse {
        let member_id = request.member_id.clone();
        let (asker, answer) = oneshot::oneshot();
        {
            let now = self.shared.now();
            let mut roster = self.shared.roster.borrow_mut();
            let number = roster.next_number();
            self.shared.askers.borrow_mut().joins.insert(number, asker);
            roster.join(now, request, number, rt::random_bytes16());
        }
        self.shared.settle();
        let gone = |_| JoinResponse::refused(member_id, ErrorCode::NotCoordinator);
        answer.await.unwrap_or_else(gone)
    }

    /// SyncGroup: resolves when the assignment is durable. `Cancel:` safe.
    pub async fn sync(&self, request: SyncRequest) -> SyncResponse {
        let (asker, answer) = oneshot::oneshot();
        {
            let now = self.shared.now();
            let mut roster = self.shared.roster.borrow_mut();
            let number = roster.next_number();
            self.shared.askers.borrow_mut().syncs.insert(number, asker);
            roster.sync(now, request, number);
        }
        self.shared.settle();
        answer
            .await
            .unwrap_or_else(|_| SyncResponse::refused(ErrorCode::NotCoordinator))
    }

    /// Heartbeat.
    pub fn heartbeat(&self, request: &HeartbeatRequest) -> ErrorCode {
        let now = self.shared.now();
        let answer = self.shared.roster.borrow_mut().heartbeat(now, request);
        self.shared.settle();
        answer
    }

    /// LeaveGroup.
    pub fn leave(&self, request: LeaveRequest) -> LeaveResponse {
        let now = self.shared.now();
        let answer = self.shared.roster.borrow_mut().leave(now, request);
        self.shared.settle();
        answer
    }

    /// OffsetCommit: resolves when the offsets are durable. `Cancel:` safe; they are committed.
    pub async fn commit(&self, request: CommitRequest) -> CommitResponse {
        let now = self.shared.now();
        let writing = self.shared.roster.borrow_mut().commit(now, request);
        if breaks::is_on(Break::OffsetCommitAnsweredEarly) {
            self.shared.settle();
            return writing.response;
        }
        let (mut response, outcome) = self.shared.written(writing).await;
        if let Err(error) = outcome {
            refuse_accepted(&mut response.topics, error.commit_code());
        }
        response
    }

    /// OffsetFetch of one group.
    pub fn fetch_offsets(&self, request: FetchOffsetsRequest) -> FetchOffsetsResponse {
        self.shared.roster.borrow().fetch_offsets(request)
    }

    /// DescribeGroups of one group.
    pub fn describe(&self, group_id: String) -> DescribeResponse {
        self.shared.roster.borrow().describe(group_id)
    }

    /// DeleteGroups of one group: resolves when that is durable. `Cancel:` safe; it is deleted.
    pub async fn delete(&self, group_id: &str) -> ErrorCode {
        let now = self.shared.moment();
        if self.shared.roster.borrow().is_overdue(group_id, now) {
            // members whose sessions have run out do not keep their group
            self.shared.end_overdue(now).await;
        }
        let writing = self.shared.roster.borrow_mut().delete(group_id);
        match writing {
            Err(error) => error,
            Ok(writing) => match self.shared.written(writing).await.1 {
                Ok(()) => ErrorCode::None,
                Err(error) => error.code(),
            },
        }
    }

    /// OffsetDelete: resolves when that is durable. `Cancel:` safe; they are deleted.
    pub async fn delete_offsets(&self, request: DeleteOffsetsRequest) -> DeleteOffsetsResponse {
        let writing = self.shared.roster.borrow_mut().delete_offsets(request);
        let (mut response, outcome) = self.shared.written(writing).await;
        if let Err(error) = outcome {
            refuse_accepted(&mut response.topics, error.code());
        }
        response
    }

    /// ListGroups of this shard.
    pub fn list(&self, request: &ListRequest) -> ListResponse {
        self.shared.roster.borrow().list(request)
    }
}

impl Shared {
    fn now(&self) -> Now {
        Now {
            moment: self.moment(),
            unix_ms: rt::unix_ms(),
        }
    }

    fn moment(&self) -> Moment {
        let since = rt::now().saturating_since(self.began);
        Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Carries out what a change of the roster asks for.
    fn settle(self: &Rc<Self>) {
        let (outputs, writers, next, is_rested) = {
            let mut roster = self.roster.borrow_mut();
            let outputs = roster.take_outputs();
            let writers = roster.take_unattended();
            (outputs, writers, roster.next_deadline(), roster.is_rested())
        };
        {
            let mut askers = self.askers.borrow_mut();
            for output in outputs {
                askers.answer(output);
            }
        }
        for writer in writers {
            rt::spawn(Lane::Commit, "group-writer", write(Rc::clone(self), writer)).detach();
        }
        if next.is_some_and(|next| next < self.sleeps_until.get()) {
            self.closer.notify_one();
        }
        if is_rested {
            self.rested.notify_all();
        }
    }

    /// Waits for all writes of a request.
    async fn written<R>(self: &Rc<Self>, writing: Writing<R>) -> (R, Result<(), OffsetsLogError>) {
        let answers: Vec<_> = {
            let mut askers = self.askers.borrow_mut();
            let numbers = writing.writes.into_iter();
            numbers
                .map(|number| {
                    let (asker, answer) = oneshot::oneshot();
                    askers.writes.insert(number, asker);
                    answer
                })
                .collect()
        };
        self.settle();
        let mut outcome = Ok(());
        for answer in answers {
            outcome = outcome.and(answer.await.unwrap_or(Err(OffsetsLogError::NotHere)));
        }
        (writing.response, outcome)
    }

    /// Ends what had outlived its deadline at `drained_to`, if it still has when all input up to
    /// here is handled.
    async fn end_overdue(self: &Rc<Self>, drained_to: Moment) {
        self.barrier.drained().await;
        loop {
            let now = self.now();
            let has_more = self
                .roster
                .borrow_mut()
                .on_time(now, drained_to, GROUPS_PER_STEP);
            self.settle();
            if !has_more {
                return;
            }
            rt::yield_now().await;
        }
    }

    async fn read_log(&self, claim: Claim) -> Result<(), LoadError> {
        let mut replay = Replay::default();
        loop {
            let from = replay.next_offset();
            let chunk = self.log.read(claim.index, from).await?;
            let mut records = Vec::new();
            replay.read(&chunk.batches, |record| records.push(record))?;
            let size = chunk.batches.len();
            self.roster
                .borrow_mut()
                .on_read(claim, records, size, chunk.end_offset);
            let at = replay.next_offset().unwrap_or(chunk.end_offset);
            if at >= chunk.end_offset {
                return Ok(());
            }
            if replay.next_offset() == from {
                return Err(LoadError::Stopped { at });
            }
            rt::yield_if_needed().await;
        }
    }

    /// Notes whether the log can be written; says so when that changes.
    fn note_log(&self, index: i32, error: Option<OffsetsLogError>) {
        match error {
            Some(error) if !self.is_log_failing.replace(true) => {
                tracing::error!(partition = index, %error, "group metadata cannot be made durable");
            }
            None if self.is_log_failing.replace(false) => {
                tracing::info!(
                    partition = index,
                    "group metadata can be made durable again"
                );
            }
            _ => {}
        }
    }
}

/// Ends what has outlived its deadline.
async fn keep_time(shared: Rc<Shared>) {
    loop {
        let next = shared.roster.borrow().next_deadline();
        let now = shared.moment();
        shared.sleeps_until.set(next.unwrap_or(Moment(u64::MAX)));
        match next {
            None => {
                shared.closer.notified().await;
                continue;
            }
            Some(next) if next > now => {
                let wait = Duration::from_millis(next.0 - now.0);
                rt::timeout(wait, shared.closer.notified()).await;
                continue;
            }
            Some(_) => {}
        }
        shared.end_overdue(now).await;
    }
}

/// Removes expired offsets, again and again.
async fn retain(shared: Rc<Shared>, interval: Duration) {
    loop {
        rt::sleep(interval).await;
        let mut after = None;
        loop {
            let now = shared.now();
            after = shared
                .roster
                .borrow_mut()
                .expire_offsets(now, after.as_ref(), GROUPS_PER_STEP);
            shared.settle();
            if after.is_none() {
                break;
            }
            rt::yield_if_needed().await;
        }
    }
}

/// Carries out the steps with one partition's log until there are no more.
async fn write(shared: Rc<Shared>, claim: Claim) {
    loop {
        let step = shared.roster.borrow_mut().next_step(claim);
        match step {
            Step::Rest => return,
            Step::Append(records) => {
                let count = i64::try_from(records.len()).unwrap_or(i64::MAX);
                let batch = record::encode_batch(&records, rt::unix_ms());
                let outcome = shared.log.append(claim.index, batch).await;
                shared.note_log(claim.index, outcome.err());
                let log_end = outcome.map(|base_offset| base_offset.plus(count));
                let now = shared.now();
                shared.roster.borrow_mut().on_appended(now, claim, log_end);
            }
            Step::AdvanceLogStart(start) => {
                let outcome = shared.log.advance_log_start(claim.index, start).await;
                shared.note_log(claim.index, outcome.err());
                shared
                    .roster
                    .borrow_mut()
                    .on_log_start(claim, outcome.is_ok());
            }
        }
        shared.settle();
    }
}

/// What was accepted has failed after all.
fn refuse_accepted(topics: &mut PartitionOutcomes, error: ErrorCode) {
    for (_, outcome) in topics.iter_mut().flat_map(|(_, outcomes)| outcomes) {
        if outcome.is_ok() {
            *outcome = error;
        }
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;

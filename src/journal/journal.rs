//! The journal as its shard uses it: reserve room, queue an entry, learn what is durable, free.
//!
//! Runs on: the home shard.        Owner: the shard.        Cheap to clone, not `Send`.
//! Promises: entries become durable in the order of `enqueue`; `next_completed` tells each once.
//! Invariants:
//! [durable-prefix] what is reported durable is a prefix of what was queued.
//! [fail-stop] after one failed block write nothing is reported any more, not even blocks whose own
//! write succeeded, and nothing is accepted; the way out is a restart.
//! [checkpoint-first] ring space is given back only in `write_checkpoint`, after the file that no
//! longer needs it is durable.
//! Deliberately absent: no retry of a failed write. A second try that succeeds says nothing about
//! the first one's bytes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::breaks::{self, Break};
use crate::journal::block::{Link, RingId};
use crate::journal::checkpoint::{Checkpoint, CheckpointState, PartitionCheckpoint};
use crate::journal::checkpoint_file::{self, Retired};
use crate::journal::committer;
use crate::journal::config::JournalConfig;
use crate::journal::entry::{Entry, EntryKind};
use crate::journal::error::JournalError;
use crate::journal::reservation::{Reservation, Reserve, Waiters};
use crate::journal::ring::{Ring, RoomClass};
use crate::journal::ring_files;
use crate::journal::stats::JournalStats;
use crate::model::limits::ALIGNMENT_BYTES;
use crate::model::offset::Offset;
use crate::rt::sync::{Notify, Semaphore};
use crate::rt::{File, Lane, Task, spawn};

/// Marks are at most this many per file: what bounds their memory.
const MARKS_PER_FILE: u64 = 1024;

/// Number of an entry in this run: the first one queued is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Whose entry it is, for the shard; the journal gives it back and knows no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// Entries of one owner that have become durable. Appends that follow each other in one block are
/// told as one: durable up to `next_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Whose.
    pub owner: Owner,
    /// The last entry's position.
    pub position: Position,
    /// The last entry's kind.
    pub kind: EntryKind,
    /// The last entry's next offset.
    pub next_offset: Offset,
}

/// One shard's commit journal.
#[derive(Clone)]
pub struct Journal {
    handle: Rc<Handle>,
}

/// Ends the journal's tasks when the last clone is gone.
struct Handle {
    shared: Rc<Shared>,
    committer: RefCell<Option<Task<()>>>,
    grower: RefCell<Option<Task<()>>>,
}

/// What the handle, the committer and the grower share.
pub(super) struct Shared {
    pub(super) config: JournalConfig,
    pub(super) dir: PathBuf,
    pub(super) ring_id: RingId,
    pub(super) state: RefCell<State>,
    /// Tells the committer: something was queued, or the journal is closing.
    pub(super) work: Notify,
    /// Tells everyone who waits for durability: some, or a failure.
    pub(super) progress: Notify,
    checkpoint_lock: Semaphore,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) ring: Ring,
    /// Open files by number; as many as the ring knows.
    pub(super) files: Vec<File>,
    /// Whether more files are being made.
    pub(super) is_growing: bool,
    /// Why no more are, although some are missing.
    pub(super) growth_error: Option<JournalError>,
    pub(super) waiters: Waiters,
    /// Payload bytes that are promised or queued.
    pub(super) queue_bytes: usize,
    pub(super) queue: VecDeque<Queued>,
    /// Encoded bytes of what is queued.
    pub(super) queued_bytes: usize,
    /// What the next block will say.
    pub(super) link: Link,
    /// Position that the next queued entry gets.
    pub(super) next_position: Position,
    /// Everything before is durable (exclusive). May lag `next_position` by what is queued or being
    /// written.
    pub(super) durable_position: Position,
    /// Durable, not yet taken by `next_completed`.
    pub(super) completed: Vec<Completed>,
    pub(super) stats: JournalStats,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Open,
    /// No new entries; what is queued is written.
    Closing,
    Failed(JournalError),
}

/// An entry that waits for its block.
pub(super) struct Queued {
    pub(super) entry: Entry,
    pub(super) owner: Owner,
    /// What the ring promised for it.
    pub(super) charge: u64,
    /// What it holds of the queue's bytes.
    pub(super) queue_bytes: usize,
}

impl Shared {
    /// What new entries are answered with, unless they are welcome.
    pub(super) fn refusal(&self) -> Option<JournalError> {
        match &self.state.borrow().phase {
            Phase::Open => None,
            Phase::Closing => Some(JournalError::Closed),
            Phase::Failed(error) => Some(error.clone()),
        }
    }

    /// Ends the journal for good: nobody waits, nothing more is reported.
    pub(super) fn fail(&self, error: io::Error) {
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Failed(_)) {
            return;
        }
        tracing::error!(%error, "journal write failed; nothing is acknowledged until a restart");
        state.phase = Phase::Failed(JournalError::Failed(Arc::new(error)));
        state.completed.clear();
        state.queue.clear();
        state.waiters.wake_all();
        drop(state);
        self.progress.notify_all();
        self.work.notify_one();
    }
}

impl Journal {
    /// Opens a ring whose content is retired, with at least its first file; the others are made in
    /// the background, and the ring grows as they get ready.
    ///
    /// Cancel: safe; the next start finds a retired ring.
    pub async fn open(retired: Retired, config: JournalConfig) -> Result<Self, JournalError> {
        config.check()?;
        let Retired {
            dir,
            mut checkpoint,
        } = retired;
        let ring_id = checkpoint.ring;
        let sizes = config.file_sizes();
        ring_files::remove_unfinished(&dir).await?;
        remove_misfits(&dir, &sizes).await?;
        let link = Link::first(checkpoint.run());
        let page = u64::try_from(ALIGNMENT_BYTES).unwrap_or(u64::MAX);
        let spacing = (config.file_bytes / MARKS_PER_FILE).max(page);
        let mut ring = Ring::new(config.first_file_bytes, spacing, link);
        let mut files = vec![open_or_make(&dir, ring_id, 0, config.first_file_bytes).await?];
        for (index, size_bytes) in (0_u32..).zip(&sizes).skip(1) {
            let header = ring_files::header(ring_id, index, *size_bytes);
            let Some(file) = ring_files::open(&dir, header).await? else {
                break;
            };
            ring.add_file(*size_bytes);
            files.push(file);
        }
        let is_growing = files.len() < sizes.len();
        // its files are there, and none of them has a block of this run
        checkpoint.state = CheckpointState::Running;
        checkpoint.file_count = u32::try_from(files.len()).unwrap_or(u32::MAX);
        checkpoint_file::write(&dir, &checkpoint).await?;
        let state = State {
            phase: Phase::Open,
            ring,
            files,
            is_growing,
            growth_error: None,
            waiters: Waiters::default(),
            queue_bytes: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            link,
            next_position: Position(0),
            durable_position: Position(0),
            completed: Vec::new(),
            stats: JournalStats::default(),
        };
        let shared = Rc::new(Shared {
            config,
            dir,
            ring_id,
            state: RefCell::new(state),
            work: Notify::new(),
            progress: Notify::new(),
            checkpoint_lock: Semaphore::new(1),
        });
        let committer = spawn(
            Lane::Commit,
            "journal committer",
            committer::run(Rc::clone(&shared)),
        );
        let grower = is_growing.then(|| {
            spawn(
                Lane::Background,
                "journal file maker",
                grow(Rc::clone(&shared), sizes),
            )
        });
        let handle = Handle {
            shared,
            committer: RefCell::new(Some(committer)),
            grower: RefCell::new(grower),
        };
        Ok(Self {
            handle: Rc::new(handle),
        })
    }

    fn shared(&self) -> &Rc<Shared> {
        &self.handle.shared
    }

    /// Waits for room for one entry with `payload_bytes` of payload, first come first served.
    ///
    /// Cancel: safe; whoever is next in line moves up.
    pub fn reserve(&self, payload_bytes: usize) -> Reserve {
        Reserve::new(Rc::clone(self.shared()), RoomClass::Data, payload_bytes)
    }

    /// As [`Self::reserve`], for entries that free space or that an admin waits for: carried bytes
    /// and everything without payload. They have room even in a ring that is full for data.
    ///
    /// Cancel: safe.
    pub fn reserve_control(&self, payload_bytes: usize) -> Reserve {
        Reserve::new(Rc::clone(self.shared()), RoomClass::Control, payload_bytes)
    }

    /// Queues an entry for the next block and tells its position.
    ///
    /// # Panics
    /// When the entry is longer than what was reserved.
    pub fn enqueue(
        &self,
        reservation: Reservation,
        owner: Owner,
        entry: Entry,
    ) -> Result<Position, JournalError> {
        if let Some(error) = self.shared().refusal() {
            return Err(error);
        }
        assert!(
            entry.payload.len() <= reservation.payload_bytes(),
            "[ring-room] an entry takes no more than was reserved for it"
        );
        let (charge, queue_bytes) = reservation.into_charges();
        let mut state = self.shared().state.borrow_mut();
        let position = state.next_position;
        state.next_position = Position(position.0 + 1);
        state.queued_bytes += entry.encoded_len();
        state.queue.push_back(Queued {
            entry,
            owner,
            charge,
            queue_bytes,
        });
        drop(state);
        self.shared().work.notify_one();
        Ok(position)
    }

    /// What has become durable since the last call, oldest first; waits until there is something.
    /// For one task of the shard.
    ///
    /// Cancel: safe.
    pub async fn next_completed(&self) -> Result<Vec<Completed>, JournalError> {
        loop {
            let progress = self.shared().progress.notified();
            {
                let mut state = self.shared().state.borrow_mut();
                if let Phase::Failed(error) = &state.phase {
                    return Err(error.clone());
                }
                if !state.completed.is_empty() {
                    return Ok(std::mem::take(&mut state.completed));
                }
                let is_drained = state.durable_position == state.next_position;
                if matches!(state.phase, Phase::Closing) && is_drained {
                    return Err(JournalError::Closed);
                }
            }
            progress.await;
        }
    }

    /// Waits until the entry at `position` is durable.
    ///
    /// Cancel: safe.
    pub async fn durable(&self, position: Position) -> Result<(), JournalError> {
        loop {
            let progress = self.shared().progress.notified();
            {
                let state = self.shared().state.borrow();
                if let Phase::Failed(error) = &state.phase {
                    return Err(error.clone());
                }
                if state.durable_position > position {
                    return Ok(());
                }
            }
            progress.await;
        }
    }

    /// Everything before is durable (exclusive).
    pub fn durable_position(&self) -> Position {
        self.shared().state.borrow().durable_position
    }

    /// What the next queued entry gets.
    pub fn next_position(&self) -> Position {
        self.shared().state.borrow().next_position
    }

    /// The failure that ended the journal, if one did.
    pub fn failed(&self) -> Option<JournalError> {
        match &self.shared().state.borrow().phase {
            Phase::Failed(error) => Some(error.clone()),
            Phase::Open | Phase::Closing => None,
        }
    }

    /// Part of the ring that is used or promised, 0 to 1.
    pub fn fill(&self) -> f64 {
        self.shared().state.borrow().ring.fill()
    }

    /// Bytes for blocks in all files that are ready.
    pub fn capacity(&self) -> u64 {
        self.shared().state.borrow().ring.capacity()
    }

    /// Whether more files are being made.
    pub fn is_growing(&self) -> bool {
        self.shared().state.borrow().is_growing
    }

    /// Waits until all files are made, or one could not be: the ring stays smaller then.
    ///
    /// Cancel: safe.
    pub async fn grown(&self) -> Result<(), JournalError> {
        loop {
            let progress = self.shared().progress.notified();
            {
                let state = self.shared().state.borrow();
                if !state.is_growing {
                    return state.growth_error.clone().map_or(Ok(()), Err);
                }
            }
            progress.await;
        }
    }

    /// The longest payload that an entry may have.
    pub fn payload_bytes_max(&self) -> usize {
        self.shared().config.payload_bytes_max()
    }

    /// Counters since the journal was opened.
    pub fn stats(&self) -> JournalStats {
        self.shared().state.borrow().stats
    }

    /// The directory of the ring.
    pub fn dir(&self) -> &Path {
        &self.handle.shared.dir
    }

    /// Writes a checkpoint from which replay meets every entry from `pin` on, then frees the ring
    /// up to there. What the entries before did is in `partitions` or durable in the segments.
    /// A pin beyond the durable position counts as the durable position.
    ///
    /// Cancel: safe; the space is then freed by the next one.
    pub async fn write_checkpoint(
        &self,
        pin: Position,
        partitions: Vec<PartitionCheckpoint>,
    ) -> Result<(), JournalError> {
        let shared = self.shared();
        let _only_one = shared.checkpoint_lock.acquire(1).await;
        let (anchor, file_count) = {
            let mut state = shared.state.borrow_mut();
            if let Phase::Failed(error) = &state.phase {
                return Err(error.clone());
            }
            let pin = pin.min(state.durable_position);
            if pin == state.next_position {
                // nothing is queued or being written (but for an empty block): free to the byte
                let (next, link) = (state.next_position, state.link);
                state.ring.mark_head(next.0, link);
            }
            let file_count = u32::try_from(state.files.len()).unwrap_or(u32::MAX);
            let anchor = state.ring.anchor_for(pin.0);
            if breaks::is_on(Break::RingReusedBeforeCheckpoint) {
                state.ring.free_to(anchor);
                state.waiters.wake_first();
            }
            (anchor, file_count)
        };
        let ring = shared.ring_id;
        let checkpoint = Checkpoint {
            state: CheckpointState::Running,
            ring,
            anchor,
            file_count,
            partitions,
        };
        checkpoint_file::write(&shared.dir, &checkpoint).await?;
        let mut state = shared.state.borrow_mut();
        state.ring.free_to(anchor);
        state.waiters.wake_first();
        Ok(())
    }

    /// Takes no more entries, writes what is queued, and closes the files.
    ///
    /// Cancel: not safe; the committer goes on alone until the last handle is dropped.
    pub async fn close(&self) -> Result<(), JournalError> {
        let shared = self.shared();
        {
            let mut state = shared.state.borrow_mut();
            if matches!(state.phase, Phase::Open) {
                state.phase = Phase::Closing;
            }
            state.waiters.wake_all();
        }
        shared.work.notify_one();
        let grower = self.handle.grower.take();
        if let Some(grower) = grower {
            grower.cancel().await;
        }
        let committer = self.handle.committer.take();
        if let Some(committer) = committer {
            committer.await;
        }
        shared.progress.notify_all();
        if let Some(error) = self.failed() {
            return Err(error);
        }
        let files = std::mem::take(&mut shared.state.borrow_mut().files);
        for file in files {
            file.close().await?;
        }
        Ok(())
    }

    /// After [`Self::close`], with everything in the segments: says so in the checkpoint, and the
    /// next start has nothing to replay.
    ///
    /// Cancel: safe; the next start replays.
    pub async fn write_stopped(&self) -> Result<(), JournalError> {
        let shared = self.shared();
        let anchor = {
            let state = shared.state.borrow();
            match &state.phase {
                Phase::Failed(error) => return Err(error.clone()),
                Phase::Open => return Err(JournalError::Closed),
                Phase::Closing => {}
            }
            assert!(
                state.durable_position == state.next_position,
                "[durable-prefix] a closed journal has written everything"
            );
            state.ring.anchor_for(state.durable_position.0)
        };
        let ring = shared.ring_id;
        let checkpoint = Checkpoint {
            state: CheckpointState::Stopped,
            ring,
            anchor,
            file_count: 0,
            partitions: Vec::new(),
        };
        checkpoint_file::write(&shared.dir, &checkpoint).await?;
        Ok(())
    }
}

/// Removes files that the configuration has no place for. The ring is retired: nothing is in them.
async fn remove_misfits(dir: &Path, sizes: &[u64]) -> io::Result<()> {
    for found in ring_files::list(dir).await? {
        let wanted = usize::try_from(found.index)
            .ok()
            .and_then(|index| sizes.get(index));
        if wanted != Some(&found.size_bytes) {
            crate::rt::fs::remove_file(ring_files::path_of(dir, found.index)).await?;
        }
    }
    Ok(())
}

async fn open_or_make(
    dir: &Path,
    ring: RingId,
    index: u32,
    size_bytes: u64,
) -> Result<File, JournalError> {
    let header = ring_files::header(ring, index, size_bytes);
    if let Some(file) = ring_files::open(dir, header).await? {
        return Ok(file);
    }
    ring_files::make(dir, header).await?;
    let file = ring_files::open(dir, header).await?;
    file.ok_or_else(|| {
        let path = ring_files::path_of(dir, index);
        let text = format!("{}: a file that was just made is not whole", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text).into()
    })
}

/// Makes the files that are missing, one after the other, and adds each to the ring.
async fn grow(shared: Rc<Shared>, sizes: Vec<u64>) {
    let ready = shared.state.borrow().files.len();
    for (index, size_bytes) in (0_u32..).zip(sizes).skip(ready) {
        match open_or_make(&shared.dir, shared.ring_id, index, size_bytes).await {
            Ok(file) => {
                let mut state = shared.state.borrow_mut();
                state.ring.add_file(size_bytes);
                state.files.push(file);
                state.waiters.wake_first();
            }
            Err(error) => {
                let capacity = shared.state.borrow().ring.capacity();
                tracing::warn!(%error, capacity, "the journal stays smaller than configured");
                shared.state.borrow_mut().growth_error = Some(error);
                break;
            }
        }
    }
    let mut state = shared.state.borrow_mut();
    state.is_growing = false;
    // who waits for a file that will not come is told so
    state.waiters.wake_first();
    drop(state);
    shared.progress.notify_all();
}

//! How a shard comes up and goes down.
//!
//! Runs on: the shard's main task.
//! Promises: when `start` returns, calls of other shards are served; after `stop` the partitions at
//! home here are plain Kafka directories and the journal says that it holds nothing; or, when that
//! took too long, the journal has what is missing.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use crate::cluster::metadata::Image;
use crate::cluster::metadata_log::MetadataLog;
use crate::group::input_barrier::{InputBarrier, LoopBarrier};
use crate::journal::Journal;
use crate::journal::checkpoint_file::Retired;
use crate::journal::config::JournalConfig;
use crate::journal::error::JournalError;
use crate::log::error as log;
use crate::log::writes::name_states;
use crate::model::ids::{ShardId, TopicPartition};
use crate::partition::partition::Partition;
use crate::rt::{self, Lane, Task};
use crate::shard::calls::ShardCall;
use crate::shard::mesh::Link;
use crate::shard::recovery::SPARE_DIR;
use crate::shard::shard::{Parts, Process, Shard};
use crate::shard::{appends, background, observe, partitions, scrub, serve, storage};
use crate::telemetry::metrics;

/// No message takes more of the journal's ring than this part.
const MESSAGE_DIVISOR: u64 = 8;
/// What groups have queued for their log has this long to be written at a stop.
const GROUPS_CLOSE_TIME: Duration = Duration::from_secs(2);
/// Partitions whose files are closed at a time at a stop.
const CLOSED_AT_A_TIME: usize = 32;
/// So long a stop closes partitions: it ends within 10 s, however many there are.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// How often a stopping shard looks whether everything is answered.
const QUIET_POLL: Duration = Duration::from_millis(5);

/// Why a shard could not be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// A partition.
    #[error("{0}")]
    Log(#[from] log::Error),
    /// The space for what must be possible on a full disk.
    #[error("{0}")]
    Reserve(std::io::Error),
    /// The file system at the end.
    #[error("cannot flush the data directory: {0}")]
    Sync(std::io::Error),
}

/// The tasks of a running shard.
pub struct Running {
    completer: Task<()>,
    others: Vec<Task<()>>,
}

impl Shard {
    /// Opens the journal and the partitions at home here.
    pub async fn open(
        id: ShardId,
        process: &Arc<Process>,
        image: &Arc<Image>,
        retired: Retired,
        metadata_log: Option<MetadataLog>,
    ) -> Result<Rc<Self>, Error> {
        let journal = Journal::open(retired, journal_config(process)).await?;
        let free = rt::fs::free_space(&process.data_dir).await.unwrap_or(0);
        let shard = Self::new(Parts {
            id,
            process: process.clone(),
            image: image.clone(),
            journal,
            logs: partitions::log_context(process, free),
            metadata_log,
            metrics: metrics::start_shard(id),
        });
        let spares = process.data_dir.join(SPARE_DIR);
        shard.logs.reclaim().keep_spares(spares);
        shard.set_image(image.clone());
        shard.open_partitions(image).await?;
        if id == ShardId(0)
            && let Err(error) = shard.reserve.take().await
            && !shard.storage.on_error(&error)
        {
            return Err(Error::Reserve(error));
        }
        Ok(shard)
    }

    /// Connects the mesh and starts the shard's tasks.
    pub fn start(self: &Rc<Self>, links: Vec<Link>) -> Running {
        let mut others = Vec::new();
        let mut peers = vec![None; usize::from(self.shard_count())];
        for link in links {
            let inbox = link.open();
            peers[usize::from(inbox.peer.id().0)] = Some(inbox.peer.clone());
            others.push(rt::spawn(
                Lane::Network,
                "mesh",
                serve::run(self.clone(), inbox),
            ));
        }
        self.set_peers(peers);
        others.push(rt::spawn(
            Lane::Network,
            "appends",
            appends::run(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Commit,
            "destage",
            background::destage(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Commit,
            "checkpoint",
            background::write_checkpoints(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Commit,
            "storage",
            storage::spread(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Background,
            "journal growth",
            background::watch_growth(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Background,
            "retention",
            background::retain(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Background,
            "reclaim",
            background::reclaim(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Background,
            "observe",
            observe::run(self.clone()),
        ));
        others.push(rt::spawn(
            Lane::Background,
            "scrub",
            scrub::scrub(self.clone()),
        ));
        self.start_groups();
        let completer = rt::spawn(Lane::Commit, "completions", appends::complete(self.clone()));
        Running { completer, others }
    }

    /// Waits until every request that was read here has its answer, but not longer than `limit`.
    pub async fn wait_until_quiet(self: &Rc<Self>, limit: Duration) {
        let deadline = rt::now() + limit;
        while self.requests_in_flight() > 0 && rt::now() < deadline {
            rt::sleep(QUIET_POLL).await;
        }
    }

    /// Makes everything accepted durable, closes segments and journal. Nothing is appended any
    /// more.
    pub async fn stop(self: &Rc<Self>, running: Running) -> Result<(), Error> {
        // Commits that cannot be written any more are not waited for.
        rt::timeout(GROUPS_CLOSE_TIME, self.close_groups()).await;
        appends::drained(self).await;
        for task in running.others {
            task.cancel().await;
        }
        self.journal.close().await?;
        running.completer.await; // it has told the partitions all that is durable
        if self.close_logs().await? {
            self.journal.write_stopped().await?;
        }
        Ok(())
    }

    /// Leaves plain Kafka directories, durably: all files, one flush, all states under their names,
    /// one flush. Whether that was done for all; killed anywhere in between, and for those that
    /// could not be closed in `CLOSE_TIME`, the next start has the journal.
    async fn close_logs(&self) -> Result<bool, Error> {
        let deadline = rt::now() + CLOSE_TIME;
        let partitions = self.partitions.all();
        let mut left = partitions.len();
        let mut closing =
            stream::iter(partitions.into_iter().map(close_log)).buffer_unordered(CLOSED_AT_A_TIME);
        let mut without_space = 0;
        let mut states = Vec::new();
        while rt::now() < deadline
            && let time_left = deadline.saturating_since(rt::now())
            && let Some(Some((id, closed))) = rt::timeout(time_left, closing.next()).await
        {
            left -= 1;
            match closed {
                Ok(state) => states.extend(state),
                Err(error) if error.is_disk_full() => {
                    without_space += 1;
                    tracing::warn!(%error, partition = %self.name(id),
                        "disk full: the next start recovers this partition from the journal");
                }
                Err(error) => {
                    tracing::warn!(%error, partition = %self.name(id),
                        "the next start recovers this partition from the journal");
                    return Err(error.into());
                }
            }
        }
        drop(closing);
        name_states(self.data_dir(), states, CLOSED_AT_A_TIME)
            .await
            .map_err(Error::Sync)?;
        if left > 0 {
            tracing::info!(
                partitions = left,
                "not closed in {} s: the next start recovers them from the journal",
                CLOSE_TIME.as_secs()
            );
        }
        Ok(left + without_space == 0)
    }

    /// All input that has arrived on this shard has been handed to its handlers.
    pub(crate) async fn drain_here(&self) {
        LoopBarrier.drained().await;
    }

    /// The same for every shard.
    pub(crate) async fn drain_everywhere(&self) {
        let mut pending = Vec::new();
        for id in self.shard_ids().filter(|id| *id != self.id()) {
            pending.push(self.send(id, ShardCall::Drain).await);
        }
        self.drain_here().await;
        for reply in pending {
            reply.reply().await;
        }
        self.drain_here().await; // what other shards read travels through the mesh
    }
}

fn journal_config(process: &Process) -> JournalConfig {
    let settings = &process.settings;
    let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let message = settings
        .request_bytes_max
        .min(usize_of(settings.journal_bytes / MESSAGE_DIVISOR));
    let config = JournalConfig::for_ring(settings.journal_bytes, message);
    JournalConfig {
        commit_bytes: usize_of(settings.commit_bytes),
        commit_delay: settings.commit_delay,
        writes_in_flight: usize::try_from(settings.writes_in_flight).unwrap_or(1),
        queue_bytes_max: usize_of(settings.pools.journal_bytes),
        ..config
    }
}

/// Leaves one partition as a plain Kafka directory, but for the name of its state file, which waits
/// for the flush.
async fn close_log(
    partition: Rc<Partition>,
) -> (TopicPartition, Result<Option<PathBuf>, log::Error>) {
    (partition.id(), partition.log().close_unflushed().await)
}

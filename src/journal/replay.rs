//! Reads a ring back after a start: its entries in the order in which they were queued.
//!
//! Runs on: a shard, at start.        Owner: recovery.
//! Promises: entries come in chain order; every entry that was reported durable comes, or an error
//! says what is missing; nothing comes that was not queued in the run that is read.
//! Invariants:
//! [block-chain] only the successor by run, sequence and checksum is followed, wherever it lies.
//! [damage-or-torn] where the chain ends, later blocks of it decide: if one of them says that the
//! missing one was durable, it is damage and an error; else the end was torn by the crash.
//! [retire-last] a ring is written again only after its content is in the segments and the
//! checkpoint of the next run is durable. A kill at any point before repeats the replay; a kill at
//! any point after finds nothing to replay.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use crate::breaks::{self, Break};
use crate::journal::block::{self, BlockError, Link, RingId, RunId};
use crate::journal::checkpoint::{
    Checkpoint, CheckpointError, CheckpointState, PartitionCheckpoint,
};
use crate::journal::checkpoint_file::{self, Retired, Stored};
use crate::journal::entry::Entry;
use crate::journal::ring::{FILE_START, Slot};
use crate::journal::ring_reader::{BlockRef, Found, RingReader};
use crate::rt::{fs, mark, random_u64};

/// Blocks that are looked at behind a gap: more than a committer keeps in flight.
const LOOK_BEHIND_BLOCKS: usize = 80;

/// A ring cannot be read back, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The machine refused to read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A block that was durable is gone. `next_entry` goes on behind it, if there is more.
    #[error(
        "{}: journal block {sequence} at byte {position} was durable and is damaged{}",
        file.display(),
        if *.is_unreadable { " (it cannot be read)" } else { "" }
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Byte in the file.
        position: u64,
        /// The block's number in its run.
        sequence: u64,
        /// The device refuses to read it. Then it is not known whether it was durable.
        is_unreadable: bool,
        /// The next block that is there; every one between is missing.
        resumes_at: Option<u64>,
    },
    /// Written by a newer program.
    #[error(
        "{}: journal format version {found} is newer than this program's: start a newer Corelog",
        file.display()
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// The version that is written.
        found: u16,
    },
    /// A file of another ring, or a second one with the same number.
    #[error(
        "{}: the file does not belong to this journal: restore its directory as it was",
        file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// The checksums of a block are right, but an entry in it has no form that is known.
    #[error(
        "{}: journal block at byte {position}: {error}: start the Corelog that wrote it",
        file.display()
    )]
    Form {
        /// The file.
        file: PathBuf,
        /// Byte in the file.
        position: u64,
        /// What is wrong with it.
        error: BlockError,
    },
}

/// How the chain ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The broker had stopped with everything in its segments.
    Stopped,
    /// Nothing was being written.
    Clean,
    /// Writes were in flight when the process or the machine ended; none of them was acknowledged.
    Torn {
        /// The file.
        file: PathBuf,
        /// Byte in the file of the first block that is not whole.
        position: u64,
    },
    /// Damage, and nothing valid behind it.
    Damaged,
}

/// An entry and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedEntry {
    /// The entry.
    pub entry: Entry,
    /// Number of its block in the run.
    pub sequence: u64,
    /// File and byte of its block.
    pub slot: Slot,
}

/// A ring that is being read back.
pub struct Replay {
    dir: PathBuf,
    reader: RingReader,
    ring: RingId,
    checkpoint: Option<Checkpoint>,
    is_checkpoint_old: bool,
    highest_run: RunId,
    /// Where the next block should be, and what it says.
    slot: Slot,
    link: Link,
    entries: VecDeque<ReplayedEntry>,
    end: Option<ReplayEnd>,
}

impl Replay {
    /// Opens a ring's directory; a directory that does not exist is an empty ring.
    ///
    /// Cancel: safe.
    pub async fn open(dir: &Path) -> Result<Self, ReplayError> {
        let checkpoint = match checkpoint_file::read(dir).await? {
            Stored::Found(checkpoint) => Some(checkpoint),
            Stored::Missing => None,
            Stored::Unusable(CheckpointError::Version { found }) => {
                return Err(ReplayError::Version {
                    file: checkpoint_file::path_in(dir),
                    found,
                });
            }
            Stored::Unusable(error) => {
                let file = checkpoint_file::path_in(dir);
                tracing::warn!(file = %file.display(), %error, "the whole journal is searched");
                None
            }
        };
        let known = checkpoint.as_ref().map(|checkpoint| checkpoint.ring);
        let file_count = checkpoint.as_ref().map_or(0, |found| found.file_count);
        let reader = RingReader::open(dir, known, file_count).await?;
        let ring = reader.ring().unwrap_or_else(|| RingId(random_u64()));
        let slot = Slot {
            file: 0,
            offset: FILE_START,
        };
        let mut replay = Self {
            dir: dir.to_owned(),
            reader,
            ring,
            checkpoint,
            is_checkpoint_old: false,
            highest_run: RunId::default(),
            slot,
            link: Link::first(RunId::default()),
            entries: VecDeque::new(),
            end: None,
        };
        replay.find_start().await?;
        Ok(replay)
    }

    /// What the checkpoint says about partitions; empty without one of the run that is replayed.
    pub fn partitions(&self) -> &[PartitionCheckpoint] {
        match &self.checkpoint {
            Some(checkpoint) if !self.is_checkpoint_old => &checkpoint.partitions,
            _ => &[],
        }
    }

    /// The ring, and the run whose blocks are read.
    pub const fn source(&self) -> (RingId, RunId) {
        (self.ring, self.link.run)
    }

    /// Whether the checkpoint is of the run that is replayed. If not (missing, damaged, restored
    /// from somewhere), the replay starts with the oldest block that is linked to the newest.
    pub const fn has_current_checkpoint(&self) -> bool {
        self.checkpoint.is_some() && !self.is_checkpoint_old
    }

    /// Whether nothing at all is left of the ring, or there was none yet.
    pub fn is_absent(&self) -> bool {
        self.checkpoint.is_none() && self.reader.has_no_files()
    }

    /// How the chain ended, once `next_entry` has said that there is no more.
    pub const fn end(&self) -> Option<&ReplayEnd> {
        self.end.as_ref()
    }

    /// The next entry; `None` at the end. After [`ReplayError::Damaged`] it may be called again and
    /// goes on behind the damage.
    ///
    /// Cancel: safe.
    pub async fn next_entry(&mut self) -> Result<Option<ReplayedEntry>, ReplayError> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Some(entry));
            }
            if self.end.is_some() {
                return Ok(None);
            }
            self.next_block().await?;
        }
    }

    /// Makes the ring ready for a new run: what it held is in the segments, and `partitions` says
    /// so. The first moment at which anything of the ring's content is given up.
    ///
    /// Cancel: safe; the old checkpoint or the new one stays.
    ///
    /// # Panics
    /// When the replay has not come to its end.
    pub async fn retire(
        self,
        partitions: Vec<PartitionCheckpoint>,
    ) -> Result<Retired, ReplayError> {
        assert!(
            self.end.is_some(),
            "[retire-last] a ring is read to its end before it is retired"
        );
        self.reader.close().await?;
        let run = RunId(self.highest_run.0 + 1);
        let checkpoint = Checkpoint::retired(self.ring, run, partitions);
        Ok(checkpoint_file::retire(&self.dir, checkpoint).await?)
    }

    /// Removes the ring of a shard that is no more; what it held is in the segments, and the
    /// checkpoints of other shards say so. A kill in between leaves a ring with nothing to replay.
    ///
    /// Cancel: safe.
    ///
    /// # Panics
    /// When the replay has not come to its end.
    pub async fn remove(self) -> Result<(), ReplayError> {
        assert!(
            self.end.is_some(),
            "[retire-last] a ring is read to its end before it is removed"
        );
        self.reader.close().await?;
        if !fs::exists(&self.dir).await? {
            return Ok(());
        }
        let checkpoint = Checkpoint::retired(self.ring, self.highest_run, Vec::new());
        checkpoint_file::write(&self.dir, &checkpoint).await?;
        for entry in fs::read_dir(&self.dir).await? {
            let path = self.dir.join(&entry.name);
            if path != checkpoint_file::path_in(&self.dir) {
                fs::remove_file(path).await?;
            }
        }
        // the files are gone for good before what says that they hold nothing
        fs::sync_dir(&self.dir).await?;
        fs::remove_dir_all(&self.dir).await?;
        if let Some(above) = self.dir.parent() {
            fs::sync_dir(above).await?;
        }
        Ok(())
    }

    async fn find_start(&mut self) -> Result<(), ReplayError> {
        let mut newest = RunId::default();
        for start in self.reader.starts_behind(u32::MAX) {
            if let Some(block) = self.reader.valid_at(start).await? {
                newest = newest.max(block.header.link.run);
            }
        }
        if let Some(checkpoint) = &self.checkpoint {
            self.highest_run = checkpoint.run();
            if newest <= checkpoint.run() {
                let anchor = checkpoint.anchor;
                if checkpoint.state == CheckpointState::Stopped {
                    mark("replay: stopped ring");
                    self.end = Some(ReplayEnd::Stopped);
                }
                self.slot = anchor.slot;
                self.link = anchor.link;
                return Ok(());
            }
            mark("replay: older checkpoint");
            self.is_checkpoint_old = true;
        }
        let blocks = self.reader.scan_all().await?;
        for block in &blocks {
            self.highest_run = self.highest_run.max(block.header.link.run);
        }
        if let Some(oldest) = oldest_linked(blocks) {
            self.slot = oldest.slot;
            self.link = oldest.header.link;
        } else {
            self.end = Some(ReplayEnd::Clean);
        }
        Ok(())
    }

    /// Takes the entries of the next block of the chain, or decides how the chain ends.
    async fn next_block(&mut self) -> Result<(), ReplayError> {
        let mut broken = None;
        let mut unreadable = None;
        for (number, slot) in self.places().into_iter().enumerate() {
            let found = if number == 0 {
                self.reader.peek_next(slot).await?
            } else {
                self.reader.peek(slot).await?
            };
            let header = match found {
                Found::Header(header) if header.link == self.link => header,
                Found::Header(header) if number == 0 && breaks::is_on(Break::ChainCheckOff) => {
                    header
                }
                // the next block lies where the last one ends, or begins the next file
                Found::Unreadable if number <= 1 => {
                    unreadable = unreadable.or(Some(slot));
                    continue;
                }
                Found::Header(_) | Found::Unreadable | Found::Nothing => continue,
            };
            let Some(bytes) = self.reader.block(slot, &header).await? else {
                mark("replay: block not whole");
                broken = broken.or(Some(slot));
                continue;
            };
            mark(match number {
                0 => "replay: block behind the last",
                _ => "replay: block in another file",
            });
            let sequence = header.link.sequence;
            let entries = block::entries(&bytes, &header).map_err(|error| {
                let file = self.reader.path(slot.file);
                ReplayError::Form {
                    file,
                    position: slot.offset,
                    error,
                }
            })?;
            self.entries
                .extend(entries.into_iter().map(|entry| ReplayedEntry {
                    entry,
                    sequence,
                    slot,
                }));
            self.slot = BlockRef { slot, header }.end();
            self.link = self.link.next(header.crc);
            if breaks::is_on(Break::ReplayStopsABlockEarly) && !self.has_next_block().await? {
                self.entries.clear();
            }
            return Ok(());
        }
        self.end_of_chain(broken, unreadable).await
    }

    /// Where the next block can be: behind the last one, or at the start of a file.
    fn places(&self) -> Vec<Slot> {
        let mut places = vec![self.slot];
        places.append(&mut self.reader.starts_behind(self.slot.file));
        places
    }

    async fn has_next_block(&mut self) -> Result<bool, ReplayError> {
        for slot in self.places() {
            let found = self.reader.valid_at(slot).await?;
            if found.is_some_and(|block| block.header.link == self.link) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The block `self.link` is not there: torn, damaged, or never written.
    async fn end_of_chain(
        &mut self,
        broken: Option<Slot>,
        unreadable: Option<Slot>,
    ) -> Result<(), ReplayError> {
        let missing = self.link.sequence;
        let later = self.later_blocks().await?;
        let was_durable = later
            .iter()
            .any(|block| block.header.durable_sequence >= missing);
        let place = broken.or(unreadable).unwrap_or(self.slot);
        let file = self.reader.path(place.file);
        let position = place.offset;
        if !was_durable && unreadable.is_none() {
            let is_torn = broken.is_some() || !later.is_empty();
            mark(match (is_torn, later.is_empty()) {
                (false, _) => "replay: clean end",
                (true, true) => "replay: torn end",
                (true, false) => "replay: torn end, blocks behind it",
            });
            let torn = ReplayEnd::Torn { file, position };
            self.end = Some(if is_torn { torn } else { ReplayEnd::Clean });
            return Ok(());
        }
        let run = self.link.run;
        let behind =
            |block: &BlockRef| block.header.link.run == run && block.header.link.sequence > missing;
        let mut all = self.reader.scan_all().await?;
        all.retain(behind);
        let resumes = all
            .into_iter()
            .min_by_key(|block| block.header.link.sequence);
        if let Some(block) = resumes {
            self.slot = block.slot;
            self.link = block.header.link;
        } else {
            self.end = Some(ReplayEnd::Damaged);
        }
        Err(ReplayError::Damaged {
            file,
            position,
            sequence: missing,
            is_unreadable: unreadable.is_some() && !was_durable,
            resumes_at: resumes.map(|block| block.header.link.sequence),
        })
    }

    /// Blocks of this run behind the missing one, where they can be if it was written: behind its
    /// place, or in a file that it began. If it was durable, some of them say so, because no block
    /// is further ahead of the oldest unreported one than the write window.
    async fn later_blocks(&mut self) -> Result<Vec<BlockRef>, ReplayError> {
        let mut later = self.reader.scan(self.slot, u64::MAX, usize::MAX).await?;
        for (number, start) in self
            .reader
            .starts_behind(self.slot.file)
            .into_iter()
            .enumerate()
        {
            let end = if start.file == self.slot.file {
                self.slot.offset
            } else {
                u64::MAX
            };
            let may_begin_here = number == 0 || start.file <= 1 || start.file == self.slot.file;
            let first = match self.reader.valid_at(start).await? {
                Some(block) => Some(block),
                // a missing block at this start is followed by what was written behind it
                None if may_begin_here => self.reader.scan(start, end, 1).await?.first().copied(),
                None => None,
            };
            if let Some(first) = first.filter(|block| self.is_later(block)) {
                later.append(
                    &mut self
                        .reader
                        .scan(first.slot, end, LOOK_BEHIND_BLOCKS)
                        .await?,
                );
            }
        }
        later.retain(|block| self.is_later(block));
        Ok(later)
    }

    fn is_later(&self, block: &BlockRef) -> bool {
        let link = block.header.link;
        link.run == self.link.run && link.sequence > self.link.sequence
    }
}

/// Where to start without a checkpoint: the oldest block of the newest run from which the chain
/// leads, unbroken, to the newest block that can have been reported.
fn oldest_linked(mut blocks: Vec<BlockRef>) -> Option<BlockRef> {
    let run = blocks.iter().map(|block| block.header.link.run).max()?;
    blocks.retain(|block| block.header.link.run == run);
    blocks.sort_by_key(|block| block.header.link.sequence);
    let durable = blocks
        .iter()
        .map(|block| block.header.durable_sequence)
        .max()?;
    let mut first = blocks.pop()?;
    while let Some(before) = blocks.pop() {
        let is_linked = before.header.link.next(before.header.crc) == first.header.link;
        // behind a gap that nobody calls durable lies what the crash left of unreported writes
        let is_behind_torn = first.header.link.sequence > durable + 1;
        if !is_linked && !is_behind_torn {
            return Some(first);
        }
        first = before;
    }
    (first.header.link.sequence <= durable + 1).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::block::BlockHeader;

    fn block(run: u64, sequence: u64, durable_sequence: u64) -> BlockRef {
        let crc = |sequence: u64| u32::try_from(sequence * 100).expect("small");
        let link = Link {
            run: RunId(run),
            sequence,
            previous_crc: crc(sequence - 1),
        };
        let header = BlockHeader {
            ring: RingId(1),
            link,
            durable_sequence,
            payload_length: 0,
            entry_count: 0,
            crc: crc(sequence),
        };
        BlockRef {
            slot: Slot {
                file: 0,
                offset: sequence * 4096,
            },
            header,
        }
    }

    fn start(blocks: &[(u64, u64, u64)]) -> Option<u64> {
        let blocks = blocks
            .iter()
            .map(|(run, sequence, durable)| block(*run, *sequence, *durable));
        oldest_linked(blocks.collect()).map(|block| block.header.link.sequence)
    }

    #[test]
    fn search_without_checkpoint_starts_at_the_oldest_linked_block() {
        assert_eq!(start(&[(2, 12, 11), (2, 11, 10), (2, 10, 9)]), Some(10));
        assert_eq!(start(&[(2, 1, 0)]), Some(1));
        assert_eq!(start(&[]), None);
    }

    #[test]
    fn search_without_checkpoint_reads_the_newest_run_only() {
        assert_eq!(
            start(&[(2, 12, 11), (2, 11, 10), (3, 1, 0), (3, 2, 1)]),
            Some(1)
        );
    }

    #[test]
    fn search_without_checkpoint_ignores_leftovers_of_an_earlier_lap() {
        assert_eq!(
            start(&[(2, 3, 2), (2, 4, 3), (2, 10, 9), (2, 11, 10)]),
            Some(10)
        );
    }

    #[test]
    fn search_without_checkpoint_ignores_unreported_writes_behind_a_gap() {
        assert_eq!(
            start(&[(2, 10, 9), (2, 11, 9), (2, 13, 9), (2, 14, 10)]),
            Some(10)
        );
        assert_eq!(
            start(&[(2, 2, 0), (2, 3, 0)]),
            None,
            "the first block was torn"
        );
    }
}

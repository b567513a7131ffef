//! The metadata log: the records of [`super::metadata`] on disk.
//!
//! Runs on: shard 0 (file work goes off the shard).      Owner: the controller's shard.
//! Promises: when `append` returns, the records survive a power cut; when it fails, none of them is
//! announced and the log refuses further changes until a restart re-reads it.
//!
//! ```text
//! <data>/metadata/00000000000000000007.log     one file; the number counts rewrites
//!   frame: u32 length | u32 CRC-32C of the payload | payload: one record as JSON   (little endian)
//! ```
//! A file that has grown to several times its live content is replaced: the snapshot is written to
//! the next number (temporary name, sync, rename, directory sync), then the old file goes. A start
//! reads the highest number. A torn last frame was never announced and is cut off; a bad frame
//! with a valid one behind it is corruption, and the start is refused. What is announced has one
//! behind it: [claimed] the records, durable, then `Record::Durable` in a write of its own.

use std::path::{Path, PathBuf};

use crate::breaks::{self, Break};
use crate::cluster::metadata::{ApplyError, Image, Record};
use crate::rt::{self, File, IoBuf, OpenOptions};

/// Longest payload of one frame: far above any topic's overrides.
const FRAME_SIZE_BYTES_MAX: usize = 16 << 20;
/// A log below this size is never rewritten.
const REWRITE_SIZE_BYTES_MIN: u64 = 1 << 20;
const FRAME_HEADER_SIZE: usize = 8;

/// What can go wrong with the metadata on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("metadata log: {0}")]
    Io(#[from] std::io::Error),
    /// A frame in the middle does not match its checksum or is not a record.
    #[error("metadata log {path} is damaged at byte {position}: restore it from a backup")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the frame starts.
        position: u64,
    },
    /// The directory is that of a broker that has run, and the log is gone.
    #[error("metadata log {directory}/*.log is missing: restore it from a backup")]
    Missing {
        /// Where it should be.
        directory: PathBuf,
    },
    /// The records contradict each other.
    #[error("metadata log {path}: {source}: restore it from a backup, or start a newer Corelog")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: ApplyError,
    },
    /// An earlier append failed; what reached the disk is not known.
    #[error("metadata log is closed after a failed write: restart the broker")]
    Failed,
}

impl Error {
    /// Whether room on the disk would cure it.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io(error) if rt::fs::is_disk_full(error))
    }
}

/// The open log.
#[derive(Debug)]
pub struct MetadataLog {
    directory: PathBuf,
    number: u64,
    file: File,
    size_bytes: u64,
    snapshot_size_bytes: u64,
    has_failed: bool,
}

impl MetadataLog {
    /// Opens the log in `directory` and returns the image it leads to. Creates it, unless a broker
    /// `has_run` with it.
    pub async fn open(directory: &Path, has_run: bool) -> Result<(Self, Image), Error> {
        rt::fs::create_dir_all(directory).await?;
        let mut numbers = numbers_in(directory).await?;
        let Some(number) = numbers.pop() else {
            if has_run {
                let directory = directory.to_owned();
                return Err(Error::Missing { directory });
            }
            return Self::create(directory).await;
        };
        let path = file_path(directory, number);
        let bytes = rt::fs::read(&path).await?;
        let (records, valid_size) = decode(&bytes).map_err(|position| Error::Corrupt {
            path: path.clone(),
            position,
        })?;
        if valid_size < bytes.len() {
            tracing::warn!(
                file = %path.display(), position = valid_size, cut = bytes.len() - valid_size,
                "metadata log ends in an unfinished record, which was never announced: cut off"
            );
            rt::fs::write_atomic(&path, bytes[..valid_size].to_vec()).await?;
        }
        let image = Image::default()
            .apply(&records)
            .map_err(|source| Error::Inconsistent { path, source })?;
        for old in numbers {
            rt::fs::remove_file(&file_path(directory, old)).await?;
        }
        let log = Self {
            directory: directory.to_owned(),
            number,
            file: open_for_append(&file_path(directory, number)).await?,
            size_bytes: to_u64(valid_size),
            snapshot_size_bytes: to_u64(encode(&image.to_records()).len()),
            has_failed: false,
        };
        Ok((log, image))
    }

    async fn create(directory: &Path) -> Result<(Self, Image), Error> {
        let path = file_path(directory, 0);
        rt::fs::write_atomic(&path, Vec::new()).await?;
        let log = Self {
            directory: directory.to_owned(),
            number: 0,
            file: open_for_append(&path).await?,
            size_bytes: 0,
            snapshot_size_bytes: 0,
            has_failed: false,
        };
        Ok((log, Image::default()))
    }

    /// Makes `records` durable. `after` is the image they lead to, for the case of a rewrite.
    ///
    /// After an error the log is closed, unless the disk was full: then nothing has changed, and
    /// the next append may succeed.
    /// Cancel: not safe; the caller holds the controller's turn until this returns.
    pub async fn append(&mut self, records: &[Record], after: &Image) -> Result<(), Error> {
        if self.has_failed {
            return Err(Error::Failed);
        }
        self.has_failed = true; // until the write is known to be durable
        let bytes = encode(records);
        let grown = self.size_bytes + to_u64(bytes.len());
        if grown > REWRITE_SIZE_BYTES_MIN.max(self.snapshot_size_bytes.saturating_mul(4)) {
            self.rewrite(after).await?;
        } else if let Err(error) = self.write_behind(bytes).await {
            if rt::fs::is_disk_full(&error) {
                // part of it may be there, and shall not stand behind what comes instead
                self.file.truncate(self.size_bytes).await?;
                self.file.fdatasync().await?;
                self.has_failed = false;
            }
            return Err(error.into());
        }
        self.has_failed = false;
        Ok(())
    }

    async fn write_behind(&mut self, bytes: Vec<u8>) -> std::io::Result<()> {
        let mut end = self.size_bytes;
        for bytes in [bytes, encode(&[Record::Durable])] {
            let mut buffer = IoBuf::alloc(bytes.len()).await;
            buffer[..bytes.len()].copy_from_slice(&bytes);
            self.file.write_at(buffer, bytes.len(), end).await?;
            end += to_u64(bytes.len());
        }
        self.size_bytes = end;
        Ok(())
    }

    async fn rewrite(&mut self, image: &Image) -> Result<(), Error> {
        let mut records = image.to_records();
        records.push(Record::Durable);
        let snapshot = encode(&records);
        let size_bytes = to_u64(snapshot.len());
        let new = file_path(&self.directory, self.number + 1);
        if let Err(error) = rt::fs::write_atomic(&new, snapshot).await {
            if rt::fs::is_disk_full(&error) {
                // a start takes the highest number, and the old file is written on
                if rt::fs::exists(&new).await? {
                    rt::fs::remove_file(&new).await?;
                    rt::fs::sync_dir(&self.directory).await?;
                }
                self.has_failed = false;
            }
            return Err(error.into());
        }
        let old = file_path(&self.directory, self.number);
        self.number += 1;
        self.file = open_for_append(&file_path(&self.directory, self.number)).await?;
        self.size_bytes = size_bytes;
        self.snapshot_size_bytes = size_bytes;
        rt::fs::remove_file(&old).await?;
        Ok(())
    }
}

/// Small writes at arbitrary positions, each durable when it completes.
async fn open_for_append(path: &Path) -> std::io::Result<File> {
    File::open(
        path,
        &OpenOptions {
            write: true,
            dsync: !breaks::is_on(Break::MetadataNotSynced),
            ..OpenOptions::default()
        },
    )
    .await
}

/// Numbers of the files in `directory`, in order; the last one counts.
async fn numbers_in(directory: &Path) -> std::io::Result<Vec<u64>> {
    let entries = rt::fs::read_dir(directory).await?;
    let mut numbers: Vec<u64> = entries
        .iter()
        .filter_map(|entry| entry.name.to_str()?.strip_suffix(".log")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The file that counts, if there is any.
pub async fn newest(directory: &Path) -> std::io::Result<Option<PathBuf>> {
    match numbers_in(directory).await {
        Ok(numbers) => Ok(numbers.last().map(|number| file_path(directory, *number))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn file_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}.log"))
}

fn to_u64(size: usize) -> u64 {
    u64::try_from(size).expect("usize fits u64 on every supported machine")
}

/// Frames of `records`, ready to be appended.
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let payload = serde_json::to_vec(record).expect("records have string keys only");
        let length = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        out.extend_from_slice(&payload);
    }
    out
}

/// The records of a log file and the size of its valid part, or the position of a damaged frame.
///
/// Only the last frame may be unfinished: a crash tears the end of what was being appended.
pub fn decode(bytes: &[u8]) -> Result<(Vec<Record>, usize), u64> {
    let mut records = Vec::new();
    let mut position = 0;
    while let Some((record, size)) = bytes.get(position..).and_then(decode_frame) {
        records.push(record);
        position += size;
    }
    let rest = bytes.get(position..).unwrap_or_default();
    if has_frame_behind(rest) {
        Err(to_u64(position))
    } else {
        Ok((records, position))
    }
}

fn decode_frame(bytes: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length > FRAME_SIZE_BYTES_MAX {
        return None;
    }
    let payload = rest.get(..length)?;
    if crc32c::crc32c(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let record = serde_json::from_slice(payload).ok()?;
    Some((record, FRAME_HEADER_SIZE + length))
}

/// Whether a valid frame starts anywhere in the bytes that follow a bad one. The search is bounded
/// by the file, which the rewrite keeps small.
fn has_frame_behind(rest: &[u8]) -> bool {
    (1..rest.len()).any(|start| rest.get(start..).and_then(decode_frame).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::sim::{CrashMode, DiskOp, Fault, Sim, SimDisk};

    fn records() -> Vec<Record> {
        (1..=3)
            .map(|n| Record::ProducerIdsReserved { next: n * 1000 })
            .collect()
    }

    #[test]
    fn a_log_cut_at_any_length_keeps_whole_records_only() {
        let bytes = encode(&records());
        for length in 0..=bytes.len() {
            let (decoded, valid) = decode(&bytes[..length]).unwrap();
            assert_eq!(decoded, records()[..decoded.len()]);
            assert!(valid <= length);
        }
        assert_eq!(decode(&bytes).unwrap().0, records());
    }

    #[test]
    fn a_flipped_byte_before_the_last_record_is_corruption() {
        let bytes = encode(&records());
        let last = bytes.len() / 3 * 2;
        for position in 0..last {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x40;
            assert!(
                decode(&damaged).is_err(),
                "flip at {position} went unnoticed"
            );
        }
    }

    #[test]
    fn an_announced_record_that_is_damaged_is_not_taken_for_a_torn_one() {
        let dir = Path::new("/data/metadata");
        let disk = SimDisk::new(1);
        Sim::with_disk(1, disk.clone()).run(async {
            let (mut log, image) = MetadataLog::open(dir, false).await.unwrap();
            let after = image.apply(&records()[..1]).unwrap();
            log.append(&records()[..1], &after).await.unwrap();
        });
        let path = file_path(dir, 0);
        let whole = disk.peek(&path).unwrap();
        let announced = encode(&records()[..1]).len();
        for position in 0..announced {
            disk.poke(&path, to_u64(position), &[whole[position] ^ 0x40])
                .unwrap();
            let opened = Sim::with_disk(2, disk.clone()).run(MetadataLog::open(dir, true));
            assert!(
                matches!(opened, Err(Error::Corrupt { position: 0, .. })),
                "at {position}"
            );
            disk.poke(&path, 0, &whole).unwrap();
        }
    }

    fn fault(op: DiskOp, path: &str, error: std::io::ErrorKind, skip: u64) -> Fault {
        Fault {
            op,
            path: path.to_owned(),
            error,
            skip,
            times: 1,
        }
    }

    /// Appends where each of the calls that an append makes fails once; what a start finds then.
    #[test]
    fn a_full_disk_refuses_a_change_without_a_trace_and_takes_the_next() {
        let dir = Path::new("/data/metadata");
        for (skip, is_rewrite) in [(0, false), (1, false), (0, true)] {
            let disk = SimDisk::new(skip);
            let expected = Sim::with_disk(1, disk.clone()).run(async {
                let (mut log, mut image) = MetadataLog::open(dir, false).await.unwrap();
                rt::fs::sync_filesystem(dir).await.unwrap();
                if is_rewrite {
                    log.size_bytes = REWRITE_SIZE_BYTES_MIN;
                }
                let full = std::io::ErrorKind::StorageFull;
                disk.inject(fault(DiskOp::Write, "metadata", full, skip));
                let refused = image.apply(&records()).unwrap();
                let error = log.append(&records(), &refused).await.unwrap_err();
                assert!(error.is_disk_full(), "{error}");
                // shorter than what was refused
                image = image.apply(&records()[..1]).unwrap();
                log.append(&records()[..1], &image).await.unwrap();
                image.to_records()
            });
            disk.crash(CrashMode::Lose);
            let (_, image) = Sim::with_disk(2, disk)
                .run(MetadataLog::open(dir, true))
                .unwrap();
            assert_eq!(image.to_records(), expected, "{skip}, {is_rewrite}");
        }
    }

    #[test]
    fn any_other_failure_closes_the_log() {
        let dir = Path::new("/data/metadata");
        for (op, error) in [
            (DiskOp::Write, std::io::ErrorKind::Other),
            // the refused change cannot be taken back
            (DiskOp::Resize, std::io::ErrorKind::Other),
        ] {
            let disk = SimDisk::new(1);
            Sim::with_disk(1, disk.clone()).run(async {
                let (mut log, image) = MetadataLog::open(dir, false).await.unwrap();
                let after = image.apply(&records()).unwrap();
                disk.inject(fault(op, "metadata", error, 0));
                let full = std::io::ErrorKind::StorageFull;
                disk.inject(fault(DiskOp::Write, "metadata", full, 0));
                let failed = log.append(&records(), &after).await.unwrap_err();
                assert!(!failed.is_disk_full(), "{failed}");
                disk.clear_faults();
                let closed = log.append(&records(), &after).await.unwrap_err();
                assert!(matches!(closed, Error::Failed), "{closed}");
            });
        }
    }

    #[test]
    fn a_log_that_is_gone_is_not_made_anew() {
        Sim::new(1).run(async {
            let dir = Path::new("/data/metadata");
            let opened = MetadataLog::open(dir, true).await;
            assert!(matches!(opened, Err(Error::Missing { .. })));
            let (mut log, image) = MetadataLog::open(dir, false).await.unwrap();
            let after = image.apply(&records()).unwrap();
            log.append(&records(), &after).await.unwrap();
            drop(log);
            let (_, image) = MetadataLog::open(dir, true).await.unwrap();
            assert_eq!(image.to_records(), after.to_records());
        });
    }

    #[test]
    fn a_frame_has_these_bytes() {
        let bytes = encode(&[Record::TombstonesCleared]);
        assert_eq!(&bytes[..4], &[29, 0, 0, 0]);
        assert_eq!(&bytes[4..8], &[216, 57, 243, 117]);
        assert_eq!(&bytes[8..], br#"{"type":"tombstones_cleared"}"#);
        assert_eq!(bytes[4..8], crc32c::crc32c(&bytes[8..]).to_le_bytes());
    }

    #[test]
    fn every_kind_of_record_has_these_bytes() {
        let id = || "AAAAAAAAAAAAAAAAAAAAAQ".to_owned();
        let configs = || {
            let pairs = [("retention.ms", "1"), ("cleanup.policy", "delete")];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let golden = [
            (
                Record::TopicCreated {
                    id: id(),
                    name: "orders".to_owned(),
                    partitions: 3,
                    leader_epoch: 0,
                    configs: configs().into(),
                },
                r#"{"type":"topic_created","id":"AAAAAAAAAAAAAAAAAAAAAQ","name":"orders","#
                    .to_owned()
                    + r#""partitions":3,"leader_epoch":0,"#
                    + r#""configs":{"cleanup.policy":"delete","retention.ms":"1"}}"#,
            ),
            (
                Record::PartitionsAdded {
                    id: id(),
                    partitions: 5,
                },
                r#"{"type":"partitions_added","id":"AAAAAAAAAAAAAAAAAAAAAQ","partitions":5}"#
                    .to_owned(),
            ),
            (
                Record::TopicConfigured {
                    id: id(),
                    configs: [].into(),
                },
                r#"{"type":"topic_configured","id":"AAAAAAAAAAAAAAAAAAAAAQ","configs":{}}"#
                    .to_owned(),
            ),
            (
                Record::TopicDeleted { id: id() },
                r#"{"type":"topic_deleted","id":"AAAAAAAAAAAAAAAAAAAAAQ"}"#.to_owned(),
            ),
            (
                Record::TombstonesCleared,
                r#"{"type":"tombstones_cleared"}"#.to_owned(),
            ),
            (Record::Durable, r#"{"type":"durable"}"#.to_owned()),
            (
                Record::BrokerConfigured {
                    configs: configs().into(),
                },
                r#"{"type":"broker_configured","#.to_owned()
                    + r#""configs":{"cleanup.policy":"delete","retention.ms":"1"}}"#,
            ),
            (
                Record::GroupConfigured {
                    group: "readers".to_owned(),
                    configs: configs().into(),
                },
                r#"{"type":"group_configured","group":"readers","#.to_owned()
                    + r#""configs":{"cleanup.policy":"delete","retention.ms":"1"}}"#,
            ),
            (
                Record::ProducerIdsReserved { next: 1000 },
                r#"{"type":"producer_ids_reserved","next":1000}"#.to_owned(),
            ),
        ];
        for (record, text) in golden {
            let bytes = encode(std::slice::from_ref(&record));
            assert_eq!(std::str::from_utf8(&bytes[8..]).unwrap(), text);
            assert_eq!(decode(&bytes).unwrap(), (vec![record], bytes.len()));
        }
    }

    #[test]
    fn a_created_topic_of_before_leader_epochs_is_read() {
        let text = br#"{"type":"topic_created","id":"i","name":"n","partitions":1,"configs":{}}"#;
        let record: Record = serde_json::from_slice(text).unwrap();
        assert!(
            matches!(
                record,
                Record::TopicCreated {
                    leader_epoch: 0,
                    ..
                }
            ),
            "{record:?}"
        );
    }

    #[test]
    fn what_was_appended_is_there_after_a_power_failure() {
        let dir = Path::new("/data/metadata");
        let disk = SimDisk::new(1);
        let expected = Sim::with_disk(1, disk.clone()).run(async {
            let (mut log, image) = MetadataLog::open(dir, false).await.unwrap();
            rt::fs::sync_filesystem(dir).await.unwrap();
            let after = image.apply(&records()).unwrap();
            log.append(&records(), &after).await.unwrap();
            after.to_records()
        });
        disk.crash(CrashMode::Lose);
        let opened = Sim::with_disk(2, disk).run(MetadataLog::open(dir, true));
        assert_eq!(opened.unwrap().1.to_records(), expected);
    }

    /// What these stories see of the program's own mistakes.
    #[cfg(feature = "breaks")]
    mod break_tests {
        use super::*;
        use crate::breaks::Break;
        use crate::breaks::testing::assert_story_notices;

        #[test]
        fn a_change_that_is_not_flushed_is_noticed() {
            assert_story_notices(
                Break::MetadataNotSynced,
                what_was_appended_is_there_after_a_power_failure,
            );
        }
    }
}

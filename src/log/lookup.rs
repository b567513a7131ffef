//! Offsets by time: the first record at or after a timestamp, and the record with the largest one.
//!
//! Runs on: the home shard; decompression happens off it, within a bound.        Owner: `Log`.
//! Promises: the answer is exact to the record, as Kafka's: the first record, in offset order from
//! the log start, whose timestamp is at or above the one asked for.

use bytes::Bytes;

use super::checkpoint::align_down;
use super::error::Error;
use super::indexer::MaxTimestamp;
use super::log::Log;
use super::scan::{CHUNK_BYTES_SMALL, Scan, SegmentFile};
use super::segments::SealedSegment;
use crate::model::compression::Codec;
use crate::model::ids::LeaderEpoch;
use crate::model::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use crate::model::offset::{FilePosition, Offset};
use crate::model::record::{RecordError, iter_records, payload};
use crate::model::record_batch::BatchHeader;
use crate::rt::blocking;

/// Uncompressed batches up to this size are searched on the shard.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// A record that a search by time found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's timestamp, ms.
    pub timestamp: i64,
    /// Its offset.
    pub offset: Offset,
    /// The epoch that wrote it.
    pub leader_epoch: LeaderEpoch,
}

/// A search for the first record at or after `timestamp` in `from..upper_bound`.
#[derive(Clone, Copy, Debug)]
struct Search {
    timestamp: i64,
    from: Offset,
    upper_bound: Offset,
}

impl Log {
    /// The first record at or above the log start and below `upper_bound` with a timestamp at or
    /// above `timestamp`.
    ///
    /// Cancel: safe.
    pub async fn offset_for_timestamp(
        &self,
        timestamp: i64,
        upper_bound: Offset,
    ) -> Result<Option<TimestampOffset>, Error> {
        let from = self.offsets().log_start;
        let mut search = Search {
            timestamp,
            from,
            upper_bound,
        };
        let sealed: Vec<SealedSegment> = self.state.borrow().sealed.iter().copied().collect();
        for segment in sealed {
            let found = match self.max_timestamp_of(&segment).await {
                Ok(max) if max.timestamp < timestamp => continue,
                Ok(_) => self.search_sealed(&segment, &search).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(_) if self.offsets().log_start >= segment.next_offset => {
                    search.from = self.offsets().log_start; // retention took it meanwhile
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(found) = self.search_open(&search).await? {
            return Ok(Some(found));
        }
        self.search_tail(&search).await
    }

    /// The first record with the largest timestamp of the log.
    ///
    /// Cancel: safe.
    pub async fn max_timestamp(
        &self,
        upper_bound: Offset,
    ) -> Result<Option<TimestampOffset>, Error> {
        let mut best = MaxTimestamp::NONE;
        let sealed: Vec<SealedSegment> = self.state.borrow().sealed.iter().copied().collect();
        for segment in sealed {
            let max = self.max_timestamp_of(&segment).await?;
            if max.timestamp > best.timestamp {
                best = max;
            }
        }
        {
            let (state, tail) = (self.state.borrow(), self.tail.borrow());
            if state.destaged.max_timestamp.timestamp > best.timestamp {
                best = state.destaged.max_timestamp;
            }
            let in_memory = tail
                .undestaged()
                .filter(|batch| batch.next_offset <= upper_bound);
            for batch in in_memory.filter(|batch| batch.base_offset >= state.destaged.next_offset) {
                if batch.max_timestamp > best.timestamp {
                    let offset = batch.next_offset.plus(-1);
                    best = MaxTimestamp {
                        timestamp: batch.max_timestamp,
                        offset,
                    };
                }
            }
        }
        let from = self.offsets().log_start;
        if best.timestamp < 0 || best.offset < from {
            return Ok(None);
        }
        let batch = self
            .read(best.offset, 0, Offset::MAX, true)
            .await?
            .into_bytes()
            .await?;
        let search = Search {
            timestamp: best.timestamp,
            from,
            upper_bound: Offset::MAX,
        };
        first_record(batch, search).await
    }

    /// Largest timestamp of a sealed segment, remembered once it was looked up.
    pub(super) async fn max_timestamp_of(
        &self,
        segment: &SealedSegment,
    ) -> Result<MaxTimestamp, Error> {
        if let Some(known) = segment.max_timestamp {
            return Ok(known);
        }
        let base = segment.base_offset;
        let (_, indexes) = self.sealed_segment(segment).await?;
        let max = indexes
            .times
            .last()
            .map_or(MaxTimestamp::NONE, |last| MaxTimestamp {
                timestamp: last.timestamp,
                offset: base.plus(i64::from(last.relative_offset)),
            });
        self.state.borrow_mut().sealed.set_max_timestamp(base, max);
        Ok(max)
    }

    async fn search_sealed(
        &self,
        segment: &SealedSegment,
        search: &Search,
    ) -> Result<Option<TimestampOffset>, Error> {
        let (file, indexes) = self.sealed_segment(segment).await?;
        let base = segment.base_offset;
        let near = indexes
            .times
            .last_below(search.timestamp)
            .map_or(0, |entry| {
                indexes
                    .offsets
                    .floor(base, base.plus(i64::from(entry.relative_offset)))
            });
        let parts = self.state.borrow().sealed.sound_parts(segment);
        for part in parts.into_iter().filter(|part| part.end > near) {
            let file = SegmentFile::Shared(file.clone());
            let found = search_file(file, near.max(part.start), part.end, search).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Searches the part of the oldest open segment that is in its file.
    async fn search_open(&self, search: &Search) -> Result<Option<TimestampOffset>, Error> {
        let (base, end, max) = {
            let state = self.state.borrow();
            let destaged = &state.destaged;
            (
                state.oldest_open().base,
                destaged.end_position,
                destaged.max_timestamp,
            )
        };
        if end == 0 || max.timestamp < search.timestamp {
            return Ok(None);
        }
        self.load_indexer().await?;
        let near = {
            let state = self.state.borrow();
            let segment = state.oldest_open();
            let indexer = segment.indexer.as_ref().filter(|_| segment.base == base);
            indexer.map_or(0, |indexer| {
                indexer
                    .times()
                    .last_below(search.timestamp)
                    .map_or(0, |entry| {
                        let offset = base.plus(i64::from(entry.relative_offset));
                        indexer.offsets().floor(base, offset)
                    })
            })
        };
        let file = self.open_segment_file(base).await?;
        debug_assert!(align_down(near) <= end, "index entries lie in the file");
        search_file(file, near, end, search).await
    }

    async fn search_tail(&self, search: &Search) -> Result<Option<TimestampOffset>, Error> {
        let mut from = search.from;
        loop {
            let found = {
                let tail = self.tail.borrow();
                let first = tail.first_offset().unwrap_or(Offset::MAX).max(from);
                let mut batches = tail.from_offset(first);
                batches
                    .find(|batch| batch.max_timestamp >= search.timestamp)
                    .filter(|batch| batch.next_offset <= search.upper_bound)
                    .map(|batch| (batch.bytes.clone(), batch.next_offset))
            };
            let Some((batch, next_offset)) = found else {
                return Ok(None);
            };
            let record = first_record(batch, Search { from, ..*search }).await?;
            if record.is_some() {
                return Ok(record);
            }
            from = next_offset; // the record that made the maximum lies below the log start
        }
    }
}

async fn search_file(
    file: SegmentFile,
    near: FilePosition,
    end: FilePosition,
    search: &Search,
) -> Result<Option<TimestampOffset>, Error> {
    let path = file.path().to_owned();
    let mut scan = Scan::new(file, near, end, CHUNK_BYTES_SMALL);
    while let Some(scanned) = scan.next().await? {
        if scanned.header.next_offset() > search.upper_bound {
            return Ok(None);
        }
        let may_hold = scanned.header.max_timestamp >= search.timestamp
            && scanned.header.next_offset() > search.from;
        if !may_hold {
            continue;
        }
        let batch = scan.batch(&scanned).await?;
        let found = first_record(batch, *search)
            .await
            .map_err(|error| match error {
                Error::Record(damage) => Error::corrupt(&path, scanned.position, damage),
                other => other,
            })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The first record of one batch that the search is after.
async fn first_record(batch: Bytes, search: Search) -> Result<Option<TimestampOffset>, Error> {
    let header = BatchHeader::parse(&batch)?;
    let is_cheap = header.codec()? == Codec::None && batch.len() <= INLINE_BYTES_MAX;
    let found = if is_cheap {
        find_record(&header, &batch, &search)
    } else {
        blocking("find a record by time", move || {
            find_record(&header, &batch, &search)
        })
        .await
    };
    Ok(found?)
}

fn find_record(
    header: &BatchHeader,
    batch: &[u8],
    search: &Search,
) -> Result<Option<TimestampOffset>, RecordError> {
    let records = payload(header, batch, DECOMPRESSED_BATCH_BYTES_MAX)?;
    for record in iter_records(&records, header.record_count) {
        let record = record?;
        let timestamp = record.timestamp(header);
        let offset = header.base_offset.plus(i64::from(record.offset_delta));
        if timestamp >= search.timestamp && offset >= search.from {
            let leader_epoch = header.leader_epoch;
            return Ok(Some(TimestampOffset {
                timestamp,
                offset,
                leader_epoch,
            }));
        }
    }
    Ok(None)
}

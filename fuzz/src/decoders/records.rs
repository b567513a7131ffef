//! Record batches, their records, their compression, and segments made of them.

use corelog::model::batch_builder::{BatchBuilder, recompress};
use corelog::model::compression::{Codec, compress, decompress};
use corelog::model::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use corelog::model::limits::{BATCH_HEADER_BYTES, BATCH_LOG_OVERHEAD_BYTES};
use corelog::model::offset::Offset;
use corelog::model::record::{Record, iter_records, payload};
use corelog::model::record_batch::{
    BatchHeader, check_crc, check_produced, compute_crc, iter_batches, set_base_offset_and_epoch,
};

use super::watch::{frugal, within};

/// What a batch may decompress to here; the broker allows more.
const LIMIT: usize = 1 << 20;
/// What a codec may hold at once beside its output: LZ4's largest block, and the one before it.
const CODEC_BYTES: usize = 16 << 20;
/// Where the CRC of a batch is.
const CRC_AT: std::ops::Range<usize> = 17..21;

/// Every kind of batch, from `base` on.
pub(super) fn sample_batches(base: i64) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut offset = base;
    for codec in Codec::ALL {
        let builder = BatchBuilder::new()
            .base_offset(Offset::new(offset))
            .codec(codec);
        let mut builder = builder.leader_epoch(LeaderEpoch(1));
        builder.push(1_000, Some(b"key"), Some(b"value"));
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(b"x")), (b"i", None)];
        builder.push_with_headers(1_005, None, Some(&[b'v'; 40]), &headers);
        builder.push(990, Some(b""), None);
        offset += 3;
        batches.push(builder.build());
    }
    let idempotent = BatchBuilder::new().producer(ProducerId(7), ProducerEpoch(1), 3);
    let stamped = BatchBuilder::new().log_append_time(2_000);
    let marker = BatchBuilder::new()
        .producer(ProducerId(7), ProducerEpoch(1), -1)
        .transactional()
        .control();
    for builder in [idempotent, stamped, marker] {
        let mut builder = builder
            .base_offset(Offset::new(offset))
            .leader_epoch(LeaderEpoch(1));
        builder.push(1_500, Some(&[0, 0, 0, 1]), Some(&[0; 6]));
        offset += 1;
        batches.push(builder.build());
    }
    batches
}

/// Puts length and CRC of every batch right, as far as the bytes go.
pub(super) fn seal_batches(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let mut rest = &mut sealed[..];
    while rest.len() >= BATCH_HEADER_BYTES {
        let have = rest.len() - BATCH_LOG_OVERHEAD_BYTES;
        let said = i32::from_be_bytes(rest[8..12].try_into().expect("four bytes"));
        let said = usize::try_from(said).unwrap_or(have);
        let length = said.clamp(BATCH_HEADER_BYTES - BATCH_LOG_OVERHEAD_BYTES, have);
        let (batch, behind) = rest.split_at_mut(length + BATCH_LOG_OVERHEAD_BYTES);
        let length = u32::try_from(length).expect("a small input");
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
        let crc = compute_crc(batch);
        batch[CRC_AT].copy_from_slice(&crc.to_be_bytes());
        rest = behind;
    }
    sealed
}

/// Batches as Produce brings them and as segments hold them.
pub(crate) mod record_batches {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        check_bytes(&seal_batches(bytes));
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let mut samples = sample_batches(0);
        samples.push(samples.concat());
        samples
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let mut walk = iter_batches(bytes);
        let (mut walked, mut has_error, mut all_intact) = (0, false, !bytes.is_empty());
        while let Some(item) = frugal(0, || walk.next()) {
            assert!(!has_error, "an error is the last item");
            match item {
                Ok((header, batch)) => {
                    assert_eq!(batch.len(), header.total_size());
                    walked += batch.len();
                    all_intact &= check_batch(&header, batch);
                }
                Err(_) => has_error = true,
            }
        }
        assert_eq!(
            walked == bytes.len(),
            !has_error,
            "every byte is walked, or an error"
        );
        all_intact && !has_error
    }

    /// Says whether the batch is intact and its records are read to the end.
    fn check_batch(header: &BatchHeader, batch: &[u8]) -> bool {
        assert_eq!(BatchHeader::parse(batch).as_ref(), Ok(header));
        assert!(header.base_offset <= header.last_offset());
        assert_eq!(header.next_offset(), header.last_offset().next());
        let mut moved = batch.to_vec();
        set_base_offset_and_epoch(&mut moved, Offset::new(77), LeaderEpoch(9));
        assert_eq!(
            check_crc(&moved),
            check_crc(batch),
            "the place is not summed"
        );
        let produced = check_produced(batch);
        if let Ok(produced) = &produced {
            assert_eq!((produced, check_crc(batch)), (header, true));
            assert_eq!(header.record_count - 1, header.last_offset_delta);
        }
        let Ok(payload) = within(CODEC_BYTES, || payload(header, batch, LIMIT)) else {
            return false;
        };
        assert!(payload.len() <= LIMIT);
        let mut records = Vec::new();
        let mut size = 0;
        for record in iter_records(&payload, header.record_count) {
            let Ok(record) = record else { return false };
            assert_eq!(record.headers().count(), record.headers().len());
            let _ = record.timestamp(header);
            size += record.size;
            records.push(record);
        }
        assert_eq!(size, payload.len(), "records fill the payload");
        assert_eq!(i32::try_from(records.len()), Ok(header.record_count));
        if produced.is_ok() {
            check_recompressed(header, batch, &payload);
            check_rebuilt(header, &records);
        }
        check_crc(batch)
    }

    /// Another codec changes the bytes and nothing that they say.
    fn check_recompressed(header: &BatchHeader, batch: &[u8], before: &[u8]) {
        let choice = usize::try_from(header.crc).expect("64 bits") % Codec::ALL.len();
        let codec = Codec::ALL[choice];
        let again = recompress(batch, codec, None, LIMIT).expect("it was decompressed before");
        let after = check_produced(&again).expect("a batch that may be produced");
        assert_eq!(after.codec(), Ok(codec));
        assert_eq!(payload(&after, &again, LIMIT).expect("its records"), before);
        let same = |header: &BatchHeader| (header.base_offset, header.last_sequence());
        assert_eq!(
            (same(&after), after.record_count),
            (same(header), header.record_count)
        );
    }

    /// The same records through the builder.
    fn check_rebuilt(header: &BatchHeader, records: &[Record<'_>]) {
        let mut builder = BatchBuilder::new().base_offset(header.base_offset);
        for record in records {
            let headers = record.headers().map(|header| (header.key, header.value));
            let headers: Vec<_> = headers.collect();
            // times before 1970 may be too far from each other for one batch
            let timestamp = record.timestamp(header).max(0);
            builder.push_with_headers(timestamp, record.key, record.value, &headers);
        }
        let built = builder.build();
        let after = check_produced(&built).expect("what is built may be produced");
        let bytes = payload(&after, &built, usize::MAX).expect("not compressed");
        let read = iter_records(&bytes, after.record_count);
        let read: Vec<_> = read.map(|record| record.expect("a record")).collect();
        assert_eq!(read.len(), records.len());
        for (again, record) in read.iter().zip(records) {
            assert_eq!((again.key, again.value), (record.key, record.value));
            assert!(again.headers().eq(record.headers()));
            assert_eq!(again.timestamp(&after), record.timestamp(header).max(0));
        }
    }
}

/// The codecs by themselves: the first byte says which.
pub(crate) mod compression {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        let Some((first, data)) = bytes.split_first() else {
            return false;
        };
        let codec = Codec::ALL[usize::from(*first) % Codec::ALL.len()];
        let limit = if codec == Codec::Snappy {
            snappy_bytes_max(data)
        } else {
            CODEC_BYTES
        };
        let Ok(plain) = within(limit, || decompress(codec, data, LIMIT)) else {
            return false;
        };
        assert!(plain.len() <= LIMIT);
        let packed = compress(codec, &plain).expect("memory to memory");
        assert_eq!(decompress(codec, &packed, LIMIT).as_ref(), Ok(&plain));
        if let Some(below) = plain.len().checked_sub(1) {
            assert!(
                decompress(codec, &packed, below).is_err(),
                "the limit holds"
            );
        }
        true
    }

    /// Three bytes of Snappy make 64 at most, so a few bytes that claim a lot are damaged.
    fn snappy_bytes_max(data: &[u8]) -> usize {
        (64 << 10) + 64 * data.len()
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let plain = [&b"the quick brown fox"[..], &[b'a'; 300]].concat();
        let packed = |(number, codec)| {
            let data = compress(codec, &plain).expect("memory to memory");
            [&[number][..], &data].concat()
        };
        let mut samples: Vec<_> = (0..).zip(Codec::ALL).map(packed).collect();
        // one raw block of Snappy: five bytes, literally
        samples.push(vec![2, 5, 4 << 2, b'h', b'e', b'l', b'l', b'o']);
        samples
    }
}

/// A segment with its indexes, as the scrub and `corelog check --data` look at it.
pub(crate) mod segment {
    use std::sync::OnceLock;

    use super::*;
    use corelog::log::indexer::Indexer;
    use corelog::log::leader_epochs::{EpochStart, LeaderEpochs};
    use corelog::log::offset_index::OffsetIndex;
    use corelog::log::time_index::TimeIndex;
    use corelog::log::verify::{Expected, Verified, Verifier};

    const BASE: Offset = Offset::new(50);
    const INTERVAL_BYTES: u64 = 100;
    static INDEXES: OnceLock<(OffsetIndex, TimeIndex)> = OnceLock::new();

    pub(crate) fn check(bytes: &[u8]) -> bool {
        check_bytes(&seal_batches(bytes));
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        vec![sample_batches(BASE.get()).concat()]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let whole = verify(bytes, bytes.len().max(1), true);
        // however the bytes come, and whether or not every offset has to be there
        assert_eq!(verify(bytes, 7, true), whole);
        let sparse = verify(bytes, 64, false);
        for verified in [&whole, &sparse] {
            let size = u64::try_from(bytes.len()).expect("64 bits");
            assert!(verified.end_position <= size);
            let mut end = 0;
            for stretch in &verified.damaged {
                assert!(end <= stretch.position && stretch.position <= stretch.end);
                assert!(stretch.end <= size && stretch.from <= stretch.next);
                end = stretch.end;
            }
        }
        whole.damaged.is_empty()
    }

    fn verify(bytes: &[u8], step: usize, is_dense: bool) -> Verified {
        let epoch = EpochStart {
            epoch: LeaderEpoch(1),
            start_offset: BASE,
        };
        let expected = Expected {
            base_offset: BASE,
            next_offset: None,
            size_bytes: u64::try_from(bytes.len()).expect("64 bits"),
            is_dense,
            epochs: LeaderEpochs::from_entries(vec![epoch]).expect("one epoch"),
            index_interval_bytes: INTERVAL_BYTES,
        };
        let mut verifier = Verifier::new(expected, Some(INDEXES.get_or_init(indexes).clone()));
        for part in bytes.chunks(step) {
            verifier.take(part);
        }
        verifier.finish()
    }

    /// The indexes of the sample: a walk goes on at their entries behind damage.
    fn indexes() -> (OffsetIndex, TimeIndex) {
        let mut indexer = Indexer::new(BASE, INTERVAL_BYTES);
        let mut position = 0;
        for batch in sample_batches(BASE.get()) {
            let header = BatchHeader::parse(&batch).expect("a sample");
            indexer.push(&header, position);
            position += u64::try_from(batch.len()).expect("64 bits");
        }
        indexer.finish();
        indexer.into_indexes()
    }
}

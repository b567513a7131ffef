//! What a journal has on disk: blocks of entries, heads of files, checkpoints, held entries.

use bytes::Bytes;
use corelog::journal::block::{
    self, BLOCK_HEADER_BYTES, BlockHeader, FILE_HEADER_BYTES, FileHeader, Link, RingId, RunId,
};
use corelog::journal::checkpoint::{Checkpoint, CheckpointState, PartitionCheckpoint};
use corelog::journal::entry::{self, ENTRY_HEADER_BYTES, Entry, EntryKind, Payload};
use corelog::journal::held::{self, Head};
use corelog::journal::ring::{Anchor, Slot};
use corelog::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use corelog::model::offset::Offset;

use super::watch::frugal;

/// Where the checksum is in every header of 64 bytes.
const CRC_AT: usize = 60;
const HEADER_BYTES: usize = 64;

fn topic_partition() -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes(*b"0123456789abcdef"), PartitionIndex(7))
}

fn sample_entries() -> Vec<Entry> {
    let entry = |kind, payload: &'static [u8]| Entry {
        kind,
        topic_partition: topic_partition(),
        segment_base: Offset::new(0x1000),
        file_position: 0x2_0000,
        base_offset: Offset::new(0x1234),
        next_offset: Offset::new(0x1240),
        leader_epoch: LeaderEpoch(5),
        payload: Payload::from(Bytes::from_static(payload)),
    };
    let bypass = EntryKind::Bypass {
        length: 4096,
        crc: 77,
    };
    vec![
        entry(EntryKind::Append, b"some batches"),
        entry(EntryKind::Carry, &[9; 100]),
        entry(bypass, b""),
        entry(EntryKind::LogStart, b""),
        entry(EntryKind::Truncate, b""),
        entry(EntryKind::Delete, b""),
    ]
}

fn encode_block(header: &BlockHeader, entries: &[Entry]) -> Vec<u8> {
    let payload: usize = entries.iter().map(Entry::encoded_len).sum();
    let mut out = vec![0xaa; block::block_len(payload)];
    let (length, _) = block::encode(
        &mut out,
        header.ring,
        header.link,
        header.durable_sequence,
        entries.iter(),
    );
    assert_eq!(length, out.len());
    out
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    usize::try_from(u32::from_le_bytes(field)).expect("64 bits")
}

fn put_u32(bytes: &mut [u8], at: usize, value: usize) {
    let value = u32::try_from(value).expect("a small input");
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Puts magic, version, lengths and checksums of entries right; tells how many fit, and the end.
fn seal_entries(bytes: &mut [u8]) -> (usize, usize) {
    let (mut at, mut count) = (0, 0);
    while bytes.len() - at >= ENTRY_HEADER_BYTES {
        let room = bytes.len() - at - ENTRY_HEADER_BYTES;
        let length = u32_at(bytes, at + 8).min(room);
        put_u32(bytes, at + 8, length);
        let end = at + ENTRY_HEADER_BYTES + length;
        let crc = crc32c::crc32c(&bytes[at + 4..end]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        (at, count) = (end, count + 1);
    }
    (at, count)
}

/// Makes a block of whatever the bytes are.
fn seal_block(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = bytes.to_vec();
    let (header, body) = sealed.split_at_mut_checked(BLOCK_HEADER_BYTES)?;
    let length = u32_at(header, 44).min(body.len());
    let (length, count) = seal_entries(&mut body[..length]);
    header[..8].copy_from_slice(b"CLJB\x01\0\0\0");
    put_u32(header, 44, length);
    put_u32(header, 48, count);
    header[52..CRC_AT].fill(0);
    let mut crc = crc32c::crc32c(&header[..CRC_AT]);
    let mut at = 0;
    while at < length {
        let end = at + ENTRY_HEADER_BYTES;
        crc = crc32c::crc32c_append(crc, &body[at..end]);
        at = end + u32_at(body, at + 8);
    }
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    Some(sealed)
}

/// Puts magic, version and checksum of a header right, which covers itself and `covered` of what
/// follows.
fn seal_header(bytes: &mut [u8], magic: [u8; 4], covered: usize) {
    bytes[..4].copy_from_slice(&magic);
    bytes[4..6].copy_from_slice(&[1, 0]);
    let end = HEADER_BYTES + covered.min(bytes.len() - HEADER_BYTES);
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &bytes[HEADER_BYTES..end]);
    bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// One block with its entries.
pub(crate) mod journal_block {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if let Some(sealed) = seal_block(bytes) {
            assert!(block::check(&sealed).is_ok(), "the sums are right");
            check_bytes(&sealed);
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let header = BlockHeader {
            ring: RingId(0x1122_3344_5566_7788),
            link: Link {
                run: RunId(3),
                sequence: 42,
                previous_crc: 0xdead_beef,
            },
            durable_sequence: 41,
            payload_length: 0,
            entry_count: 0,
            crc: 0,
        };
        // a block is padded to a page, which holds nothing to mutate
        let whole = encode_block(&header, &sample_entries());
        let used = BLOCK_HEADER_BYTES + u32_at(&whole, 44);
        vec![
            whole[..used].to_vec(),
            encode_block(&header, &[])[..HEADER_BYTES].to_vec(),
        ]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let bytes = Bytes::copy_from_slice(bytes);
        let _ = frugal(0, || entry::check(&bytes).is_ok());
        let checked = frugal(0, || block::check(&bytes));
        let Ok(header) = checked else { return false };
        assert_eq!(BlockHeader::peek(&bytes), Ok(header));
        let Ok(entries) = frugal(bytes.len(), || block::entries(&bytes, &header)) else {
            return false; // the sums are right, and the form is not
        };
        let length: usize = entries.iter().map(Entry::encoded_len).sum();
        assert_eq!(u32::try_from(length), Ok(header.payload_length));
        assert_eq!(u32::try_from(entries.len()), Ok(header.entry_count));
        let again = encode_block(&header, &entries);
        let end = BLOCK_HEADER_BYTES + length;
        assert_eq!(again[..end], bytes[..end], "the same bytes");
        assert_eq!(again.len(), header.block_len());
        assert_eq!(block::check(&again), Ok(header));
        assert_eq!(block::entries(&Bytes::from(again), &header), Ok(entries));
        true
    }
}

/// The first page of a ring file.
pub(crate) mod journal_file {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if bytes.len() >= HEADER_BYTES {
            let mut sealed = bytes.to_vec();
            seal_header(&mut sealed, *b"CLJF", 0);
            assert!(check_bytes(&sealed), "any fields make a header");
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let header = FileHeader {
            ring: RingId(0x0102_0304_0506_0708),
            index: 3,
            size_bytes: 64 << 20,
        };
        let mut page = vec![0; FILE_HEADER_BYTES];
        header.encode(&mut page);
        vec![page[..HEADER_BYTES].to_vec()]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let Ok(header) = FileHeader::decode(bytes) else {
            return false;
        };
        let mut page = vec![0; FILE_HEADER_BYTES];
        header.encode(&mut page);
        assert_eq!(FileHeader::decode(&page), Ok(header));
        true
    }
}

/// The journal's checkpoint.
pub(crate) mod journal_checkpoint {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if bytes.len() >= HEADER_BYTES {
            let mut sealed = bytes.to_vec();
            let records = sealed.len() - HEADER_BYTES;
            put_u32(&mut sealed, 52, records);
            seal_header(&mut sealed, *b"CLJC", records);
            check_bytes(&sealed);
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let partition = |record: &'static [u8]| PartitionCheckpoint {
            topic_partition: topic_partition(),
            record: Bytes::from_static(record),
        };
        let anchor = Anchor {
            slot: Slot {
                file: 1,
                offset: 8192,
            },
            link: Link::first(RunId(4)),
        };
        let running = Checkpoint {
            state: CheckpointState::Running,
            ring: RingId(5),
            anchor,
            file_count: 2,
            partitions: vec![partition(b"a record"), partition(b"")],
        };
        vec![
            running.encode(),
            Checkpoint::retired(RingId(5), RunId(6), Vec::new()).encode(),
        ]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let bytes = Bytes::copy_from_slice(bytes);
        let decoded = frugal(bytes.len(), || Checkpoint::decode(&bytes));
        let Ok(checkpoint) = decoded else {
            return false;
        };
        assert_eq!(checkpoint.encode(), bytes, "the same bytes");
        true
    }
}

/// Journal entries that a partition could not take, and the names of their files.
pub(crate) mod held_entries {
    use super::*;

    pub(crate) fn check(bytes: &[u8]) -> bool {
        if let Ok(name) = std::str::from_utf8(bytes)
            && let Some(id) = held::parse_file_name(name)
        {
            assert_eq!(held::file_name(id), name);
        }
        if bytes.len() >= HEADER_BYTES {
            let mut sealed = bytes.to_vec();
            let room = bytes.len() - HEADER_BYTES;
            let covered = u32_at(bytes, 28)
                .saturating_add(u32_at(bytes, 56))
                .min(room);
            let entries = u64::try_from(room - covered).expect("64 bits");
            sealed[48..56].copy_from_slice(&entries.to_le_bytes());
            seal_header(&mut sealed, *b"CLHE", covered);
            check_bytes(&sealed);
        }
        check_bytes(bytes)
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for entry in sample_entries() {
            let start = entries.len();
            entries.resize(start + entry.encoded_len(), 0);
            entry.encode(&mut entries[start..]);
        }
        let mut head = Head {
            topic_partition: topic_partition(),
            is_loss_accepted: false,
            needs_decision: true,
            reason: "segment 0 is missing".to_owned(),
            ring: RingId(5),
            run: RunId(6),
            record: Some(Bytes::from_static(b"a record")),
            entry_bytes: u64::try_from(entries.len()).expect("64 bits"),
        };
        let with_record = [head.encode(), entries.clone()].concat();
        head.record = None;
        vec![with_record, [head.encode(), entries].concat()]
    }

    fn check_bytes(bytes: &[u8]) -> bool {
        let bytes = Bytes::copy_from_slice(bytes);
        let decoded = frugal(bytes.len(), || Head::decode(&bytes));
        let Ok((head, entries)) = decoded else {
            return false;
        };
        assert!(
            bytes.ends_with(&entries),
            "the entries are the rest of the file"
        );
        let again = Bytes::from([head.encode(), entries.to_vec()].concat());
        let (mut reread, rest) = Head::decode(&again).expect("what was encoded");
        assert_eq!(rest, entries);
        // a long reason is cut
        assert!(head.reason.starts_with(&reread.reason));
        reread.reason.clone_from(&head.reason);
        assert_eq!(reread, head);
        let mut left = entries;
        while let Ok((entry, length)) = Entry::decode(&left) {
            assert_eq!(entry.encoded_len(), length);
            left = left.slice(length..);
        }
        true
    }
}

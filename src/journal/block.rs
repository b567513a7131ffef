//! One journal write: a block of entries, linked to the block before it. And the head of a file.
//!
//! Pure: no async, no clock, no IO.
//! Promises: `check` accepts a block only when every byte that counts is as it was written.
//! Invariants: [block-aligned] a block is written as a multiple of 4096 bytes, padded with zeros.
//! [block-chain] a block names run, sequence and the checksum of its predecessor: a valid block is
//! the successor of another one or it is not, wherever in the ring it lies.
//!
//! Block, little-endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CLJB` |
//! | 4 | 2 | format version, 1 |
//! | 6 | 2 | zero |
//! | 8 | 8 | ring id: random, one per ring; data that clients send cannot look like a block |
//! | 16 | 8 | run id: raised before a start writes its first block |
//! | 24 | 8 | sequence: 1 for the first block of a run, then one more each |
//! | 32 | 8 | highest sequence of this run that was durable when the block was built, 0 for none |
//! | 40 | 4 | checksum field of the block before, 0 before the first |
//! | 44 | 4 | payload length: bytes of all entries |
//! | 48 | 4 | entry count |
//! | 52 | 8 | zero |
//! | 60 | 4 | CRC-32C of bytes 0..60 and of the 80-byte header of every entry |
//! | 64 | | entries (`entry.rs`), each with a checksum over its own payload; then zeros |
//!
//! So every byte is summed once, and the block's checksum still depends on all of them.
//!
//! Every ring file begins with one page that is written once, before the file gets its name:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `CLJF` |
//! | 4 | 2 | format version, 1 |
//! | 6 | 2 | zero |
//! | 8 | 8 | ring id |
//! | 16 | 8 | file size in bytes |
//! | 24 | 4 | number of the file in the ring |
//! | 28 | 32 | zero |
//! | 60 | 4 | CRC-32C of bytes 0..60 |
//! | 64 | | zeros to 4096 |

use std::fmt;

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::breaks::{self, Break};
use crate::journal::entry::{self, ENTRY_HEADER_BYTES, Entry, EntryError};
use crate::model::limits::ALIGNMENT_BYTES;

/// Bytes of a block before its entries.
pub const BLOCK_HEADER_BYTES: usize = size_of::<RawBlock>();
/// Bytes of a ring file before its first block.
pub const FILE_HEADER_BYTES: usize = ALIGNMENT_BYTES;
/// The format that is written; a higher one on disk is refused.
pub const VERSION: u16 = 1;

const BLOCK_MAGIC: [u8; 4] = *b"CLJB";
const FILE_MAGIC: [u8; 4] = *b"CLJF";
/// Where the checksum of either header lies; it covers what is before.
const CRC_AT: usize = 60;

const _: () = assert!(
    BLOCK_HEADER_BYTES == 64 && size_of::<RawFile>() == 64,
    "the tables above"
);
const _: () = assert!(
    BLOCK_HEADER_BYTES + ENTRY_HEADER_BYTES < ALIGNMENT_BYTES,
    "one small page"
);

/// Names one ring for life: random, so that no client can forge a block inside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingId(pub u64);

/// Counts the starts that wrote to a ring; raised durably before the first block of a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBlock {
    magic: [u8; 4],
    version: U16,
    zero: [u8; 2],
    ring: U64,
    run: U64,
    sequence: U64,
    durable_sequence: U64,
    previous_crc: U32,
    payload_length: U32,
    entry_count: U32,
    zero_end: [u8; 8],
    crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFile {
    magic: [u8; 4],
    version: U16,
    zero: [u8; 2],
    ring: U64,
    size_bytes: U64,
    index: U32,
    zero_end: [u8; 32],
    crc: U32,
}

/// Where a block stands in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The start that wrote it.
    pub run: RunId,
    /// Its number in that run.
    pub sequence: u64,
    /// Checksum of the block with the number before; 0 for the first.
    pub previous_crc: u32,
}

impl Link {
    /// The first block of a run.
    pub const fn first(run: RunId) -> Self {
        Self {
            run,
            sequence: 1,
            previous_crc: 0,
        }
    }

    /// The block behind this one, whose checksum is `crc`.
    #[must_use]
    pub const fn next(self, crc: u32) -> Self {
        Self {
            run: self.run,
            sequence: self.sequence + 1,
            previous_crc: crc,
        }
    }
}

/// A block's header, as far as it says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Which ring.
    pub ring: RingId,
    /// Where in the chain.
    pub link: Link,
    /// Every block up to this sequence (inclusive) was durable when this one was built.
    pub durable_sequence: u64,
    /// Bytes of all entries.
    pub payload_length: u32,
    /// How many entries.
    pub entry_count: u32,
    /// The block's checksum: what its successor names.
    pub crc: u32,
}

/// Bytes that are not a block. A torn write can cause every one but `Version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Nothing of ours: never written, or the middle of a block.
    #[error("no block begins here")]
    NoBlock,
    /// A block (or file) of a later format.
    #[error("format version {found}, this program reads up to {VERSION}")]
    Version {
        /// The version that is written.
        found: u16,
    },
    /// The bytes end inside the block.
    #[error("block of {needed} bytes in {available}")]
    Short {
        /// Bytes that the block takes.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// The checksum is another one.
    #[error("block checksum is {found:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// The one that is written.
        found: u32,
        /// The one of the bytes.
        computed: u32,
    },
    /// The entries do not fill the payload as the header says.
    #[error("{count} entries in {length} bytes do not add up")]
    Entries {
        /// Entries by the header.
        count: u32,
        /// Payload by the header.
        length: u32,
    },
    /// An entry is damaged.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// Bytes that a block with `payload` bytes of entries takes on disk.
pub const fn block_len(payload: usize) -> usize {
    (BLOCK_HEADER_BYTES + payload).next_multiple_of(ALIGNMENT_BYTES)
}

impl BlockHeader {
    /// Reads a header; what it says is only known to be true after [`check`].
    pub fn peek(bytes: &[u8]) -> Result<Self, BlockError> {
        let available = bytes.len();
        let Ok((raw, _)) = RawBlock::ref_from_prefix(bytes) else {
            return Err(BlockError::Short {
                needed: BLOCK_HEADER_BYTES,
                available,
            });
        };
        if raw.magic != BLOCK_MAGIC {
            return Err(BlockError::NoBlock);
        }
        if raw.version.get() != VERSION {
            return Err(BlockError::Version {
                found: raw.version.get(),
            });
        }
        if raw.zero != [0; 2] || raw.zero_end != [0; 8] {
            return Err(BlockError::NoBlock);
        }
        Ok(Self {
            ring: RingId(raw.ring.get()),
            link: Link {
                run: RunId(raw.run.get()),
                sequence: raw.sequence.get(),
                previous_crc: raw.previous_crc.get(),
            },
            durable_sequence: raw.durable_sequence.get(),
            payload_length: raw.payload_length.get(),
            entry_count: raw.entry_count.get(),
            crc: raw.crc.get(),
        })
    }

    /// Bytes of the whole block on disk.
    pub fn block_len(&self) -> usize {
        block_len(usize::try_from(self.payload_length).unwrap_or(usize::MAX / 2))
    }
}

/// Writes a block at the start of `out`; tells its length on disk and its checksum.
///
/// # Panics
/// When `out` is too short for it.
pub fn encode<'a>(
    out: &mut [u8],
    ring: RingId,
    link: Link,
    durable_sequence: u64,
    entries: impl Iterator<Item = &'a Entry>,
) -> (usize, u32) {
    let mut at = BLOCK_HEADER_BYTES;
    let mut entry_count = 0_u32;
    // the header, which is summed first, is known last
    let mut starts = Vec::new();
    for entry in entries {
        starts.push(at);
        at += entry.encode(&mut out[at..]);
        entry_count += 1;
    }
    let length = at.next_multiple_of(ALIGNMENT_BYTES);
    out[at..length].fill(0);
    let payload_length =
        u32::try_from(at - BLOCK_HEADER_BYTES).expect("[block-size] below a journal file");
    let mut raw = RawBlock {
        magic: BLOCK_MAGIC,
        version: U16::new(VERSION),
        zero: [0; 2],
        ring: U64::new(ring.0),
        run: U64::new(link.run.0),
        sequence: U64::new(link.sequence),
        durable_sequence: U64::new(durable_sequence),
        previous_crc: U32::new(link.previous_crc),
        payload_length: U32::new(payload_length),
        entry_count: U32::new(entry_count),
        zero_end: [0; 8],
        crc: U32::new(0),
    };
    let mut crc = crc32c::crc32c(&raw.as_bytes()[..CRC_AT]);
    for start in starts {
        crc = crc32c::crc32c_append(crc, &out[start..start + ENTRY_HEADER_BYTES]);
    }
    raw.crc = U32::new(crc);
    out[..BLOCK_HEADER_BYTES].copy_from_slice(raw.as_bytes());
    (length, crc)
}

/// Checks the block at the start of `bytes` in full: header, every entry, and that they add up.
pub fn check(bytes: &[u8]) -> Result<BlockHeader, BlockError> {
    let header = BlockHeader::peek(bytes)?;
    let available = bytes.len();
    let payload_length = usize::try_from(header.payload_length).unwrap_or(usize::MAX / 2);
    let end = BLOCK_HEADER_BYTES + payload_length;
    let (Some(summed), Some(mut rest)) = (bytes.get(..CRC_AT), bytes.get(BLOCK_HEADER_BYTES..end))
    else {
        return Err(BlockError::Short {
            needed: end,
            available,
        });
    };
    let mut computed = crc32c::crc32c(summed);
    let mut count = 0_u32;
    while !rest.is_empty() {
        let (entry_header, length) = entry::check(rest)?;
        computed = crc32c::crc32c_append(computed, entry_header);
        rest = rest.get(length..).unwrap_or_default();
        count += 1;
    }
    if computed != header.crc {
        return Err(BlockError::Crc {
            found: header.crc,
            computed,
        });
    }
    if count != header.entry_count {
        let length = header.payload_length;
        return Err(BlockError::Entries {
            count: header.entry_count,
            length,
        });
    }
    Ok(header)
}

/// The entries of a block that [`check`] accepted, sharing its bytes.
pub fn entries(block: &Bytes, header: &BlockHeader) -> Result<Vec<Entry>, BlockError> {
    let payload_length = usize::try_from(header.payload_length).unwrap_or(usize::MAX / 2);
    let end = BLOCK_HEADER_BYTES + payload_length;
    if block.len() < end {
        return Err(BlockError::Short {
            needed: end,
            available: block.len(),
        });
    }
    let mut rest = block.slice(BLOCK_HEADER_BYTES..end);
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, length) = match Entry::decode(&rest) {
            Err(_) if breaks::is_on(Break::TornBlockAccepted) => break,
            decoded => decoded?,
        };
        entries.push(entry);
        rest = rest.slice(length..);
    }
    Ok(entries)
}

/// The first page of a ring file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Which ring the file belongs to.
    pub ring: RingId,
    /// Its number there.
    pub index: u32,
    /// Its size, this page included.
    pub size_bytes: u64,
}

impl FileHeader {
    /// Writes the page at the start of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`FILE_HEADER_BYTES`].
    pub fn encode(&self, out: &mut [u8]) {
        let page = &mut out[..FILE_HEADER_BYTES];
        page.fill(0);
        let mut raw = RawFile {
            magic: FILE_MAGIC,
            version: U16::new(VERSION),
            zero: [0; 2],
            ring: U64::new(self.ring.0),
            size_bytes: U64::new(self.size_bytes),
            index: U32::new(self.index),
            zero_end: [0; 32],
            crc: U32::new(0),
        };
        raw.crc = U32::new(crc32c::crc32c(&raw.as_bytes()[..CRC_AT]));
        page[..size_of::<RawFile>()].copy_from_slice(raw.as_bytes());
    }

    /// Reads it. The page is written once and flushed before the file has a name, so a torn write
    /// cannot cause any error here.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let available = bytes.len();
        let Ok((raw, _)) = RawFile::ref_from_prefix(bytes) else {
            return Err(BlockError::Short {
                needed: size_of::<RawFile>(),
                available,
            });
        };
        if raw.magic != FILE_MAGIC {
            return Err(BlockError::NoBlock);
        }
        let computed = crc32c::crc32c(raw.as_bytes().get(..CRC_AT).unwrap_or_default());
        if computed != raw.crc.get() {
            return Err(BlockError::Crc {
                found: raw.crc.get(),
                computed,
            });
        }
        // a version is believed once the checksum fits: every later one has it at the same place
        if raw.version.get() != VERSION {
            return Err(BlockError::Version {
                found: raw.version.get(),
            });
        }
        Ok(Self {
            ring: RingId(raw.ring.get()),
            index: raw.index.get(),
            size_bytes: raw.size_bytes.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::EntryKind;
    use crate::journal::entry::tests::{any_entry, sample};
    use proptest::prelude::*;

    const RING: RingId = RingId(0x1122_3344_5566_7788);
    const LINK: Link = Link {
        run: RunId(3),
        sequence: 42,
        previous_crc: 0xdead_beef,
    };

    fn encoded(entries: &[Entry]) -> (Vec<u8>, u32) {
        let payload = entries.iter().map(Entry::encoded_len).sum();
        let mut out = vec![0xaa; block_len(payload)];
        let (length, crc) = encode(&mut out, RING, LINK, 41, entries.iter());
        assert_eq!(length, out.len());
        (out, crc)
    }

    #[test]
    fn block_has_the_documented_bytes() {
        let entries = [
            sample(EntryKind::Append, b"batch"),
            sample(EntryKind::Delete, b""),
        ];
        let (bytes, crc) = encoded(&entries);
        assert_eq!(bytes.len(), 4096);
        let mut expected = Vec::new();
        expected.extend_from_slice(b"CLJB");
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[42, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[41, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0xef, 0xbe, 0xad, 0xde]);
        expected.extend_from_slice(&[165, 0, 0, 0]);
        expected.extend_from_slice(&[2, 0, 0, 0]);
        expected.extend_from_slice(&[0; 8]);
        assert_eq!(&bytes[..60], &expected);
        let mut summed = expected;
        summed.extend_from_slice(&bytes[64..144]);
        summed.extend_from_slice(&bytes[149..229]);
        assert_eq!(crc, crc32c::crc32c(&summed));
        assert_eq!(&bytes[60..64], &crc.to_le_bytes());
        assert_eq!(crc, 0x82a5_cc4b);
        assert!(bytes[229..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn file_header_has_the_documented_bytes() {
        let header = FileHeader {
            ring: RING,
            index: 9,
            size_bytes: 0x0400_0000,
        };
        let mut page = vec![0xaa; FILE_HEADER_BYTES];
        header.encode(&mut page);
        let mut expected = Vec::new();
        expected.extend_from_slice(b"CLJF");
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        expected.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0]);
        expected.extend_from_slice(&[9, 0, 0, 0]);
        expected.extend_from_slice(&[0; 32]);
        assert_eq!(&page[..60], &expected);
        assert_eq!(&page[60..64], &crc32c::crc32c(&expected).to_le_bytes());
        assert!(page[64..].iter().all(|byte| *byte == 0));
        assert_eq!(FileHeader::decode(&page), Ok(header));
        for bit in 0..64 * 8 {
            let mut flipped = page.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..64 {
            assert!(
                FileHeader::decode(&page[..length]).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn block_without_entries_is_one_page() {
        let (bytes, crc) = encoded(&[]);
        let header = check(&bytes).expect("valid");
        assert_eq!(
            (bytes.len(), header.crc, header.entry_count),
            (4096, crc, 0)
        );
        assert_eq!(header.durable_sequence, 41);
        assert_eq!(header.link, LINK);
    }

    #[test]
    fn block_with_any_flipped_bit_is_refused() {
        let entries = [
            sample(EntryKind::Append, b"batch"),
            sample(EntryKind::Truncate, b""),
        ];
        let (bytes, _) = encoded(&entries);
        let payload_end = 64 + 165;
        for bit in 0..payload_end * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn block_cut_at_every_length_is_refused() {
        let (bytes, _) = encoded(&[sample(EntryKind::Append, b"batch")]);
        for length in 0..64 + 85 {
            assert!(check(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn block_with_a_sector_of_older_bytes_is_refused() {
        let old = Entry {
            payload: vec![1; 9000].into(),
            ..sample(EntryKind::Append, b"")
        };
        let new = Entry {
            payload: vec![2; 9000].into(),
            ..sample(EntryKind::Append, b"")
        };
        let (old, _) = encoded(&[old]);
        let (new, _) = encoded(&[new]);
        for sector in 0..9100 / 512 {
            let mut torn = new.clone();
            torn[sector * 512..][..512].copy_from_slice(&old[sector * 512..][..512]);
            assert_eq!(check(&torn).is_ok(), torn == new, "sector {sector}");
        }
    }

    #[test]
    fn block_of_a_later_version_is_told_apart() {
        let (mut bytes, _) = encoded(&[]);
        bytes[4] = 2;
        assert_eq!(check(&bytes), Err(BlockError::Version { found: 2 }));
    }

    proptest! {
        #[test]
        fn block_round_trips(list in proptest::collection::vec(any_entry(), 0..20)) {
            let (bytes, crc) = encoded(&list);
            let header = check(&bytes).expect("valid");
            prop_assert_eq!(header.crc, crc);
            prop_assert_eq!(header.block_len(), bytes.len());
            prop_assert_eq!(entries(&Bytes::from(bytes), &header).expect("decodes"), list);
        }

        #[test]
        fn check_of_any_bytes_never_panics(mut bytes: Vec<u8>) {
            let _ = check(&bytes);
            if let Some(start) = bytes.get_mut(..6) {
                start.copy_from_slice(b"CLJB\x01\x00");
            }
            let _ = check(&bytes);
        }
    }
}

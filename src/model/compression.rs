//! The codecs of record batches: gzip, snappy, LZ4 frames, Zstandard.
//!
//! Pure: no async, no clock, no IO. Costs CPU: callers on a shard go through the blocking pool.
//! Promises: decompression is bounded: neither the output nor a codec's window grows beyond what
//! the caller allows by more than a fixed amount, whatever the bytes claim. Snappy, which says its
//! length first, gets no more memory than its bytes can fill.
//!
//! Snappy: Java clients frame their blocks as xerial's library does (`82 'SNAPPY' 00`, two version
//! numbers, then blocks with a 4-byte length each); other clients send one raw block. Both are
//! read, the framed form is written. LZ4 is written with independent blocks of 64 KiB, because
//! Java's reader refuses linked ones.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, xerial framing or one raw block.
    Snappy,
    /// LZ4 frame.
    Lz4,
    /// Zstandard frame.
    Zstd,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in a batch's attributes.
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a number.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Kafka's name, as in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a compression codec: none, gzip, snappy, lz4 and zstd are known")]
pub struct CodecParseError;

impl FromStr for Codec {
    type Err = CodecParseError;

    /// Kafka's names; `uncompressed` is its other word for `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "uncompressed" {
            return Ok(Self::None);
        }
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == text)
            .ok_or(CodecParseError)
    }
}

/// Why records cannot be decompressed or compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// More than the caller allows.
    #[error("{codec} data decompresses to more than {limit} bytes")]
    TooLarge {
        /// Of the data.
        codec: Codec,
        /// The caller's bound.
        limit: usize,
    },
    /// Not data of this codec, or damaged.
    #[error("{codec} data is damaged")]
    Corrupt {
        /// Of the data.
        codec: Codec,
    },
    /// The codec's library failed, or the level does not exist.
    #[error("{codec} compression failed")]
    Failed {
        /// Of the data.
        codec: Codec,
    },
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic, version 1, lowest compatible version 1.
const XERIAL_HEADER: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
/// Uncompressed bytes per snappy block that we write, as Java's default.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// The densest element of a snappy block: three bytes that copy 64.
const SNAPPY_COPY_BYTES_MAX: usize = 64;
/// See [`SNAPPY_COPY_BYTES_MAX`].
const SNAPPY_COPY_TAG_BYTES: usize = 3;
/// Largest Zstandard window that is accepted: 2^27 = 128 MiB, the format's own recommendation.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Decompresses to at most `limit` bytes. Uncompressed data is borrowed, not copied.
pub fn decompress(
    codec: Codec,
    data: &[u8],
    limit: usize,
) -> Result<Cow<'_, [u8]>, CompressionError> {
    match codec {
        Codec::None if data.len() > limit => Err(CompressionError::TooLarge { codec, limit }),
        Codec::None => Ok(Cow::Borrowed(data)),
        Codec::Gzip => read_bounded(codec, flate2::read::MultiGzDecoder::new(data), limit),
        Codec::Snappy => decompress_snappy(data, limit).map(Cow::Owned),
        Codec::Lz4 => read_bounded(codec, lz4_flex::frame::FrameDecoder::new(data), limit),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data)
                .map_err(|_| CompressionError::Failed { codec })?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|_| CompressionError::Failed { codec })?;
            read_bounded(codec, decoder, limit)
        }
    }
}

fn read_bounded(
    codec: Codec,
    reader: impl Read,
    limit: usize,
) -> Result<Cow<'static, [u8]>, CompressionError> {
    let mut out = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(bound)
        .read_to_end(&mut out)
        .map_err(|_| CompressionError::Corrupt { codec })?;
    if out.len() > limit {
        return Err(CompressionError::TooLarge { codec, limit });
    }
    Ok(Cow::Owned(out))
}

fn decompress_snappy(data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    if !data.starts_with(&XERIAL_MAGIC) {
        decompress_snappy_block(data, &mut out, limit)?;
        return Ok(out);
    }
    let corrupt = CompressionError::Corrupt {
        codec: Codec::Snappy,
    };
    let mut rest = data.get(XERIAL_HEADER.len()..).ok_or(corrupt)?;
    while !rest.is_empty() {
        // a stream made by concatenation has the header again
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER.len()..).ok_or(corrupt)?;
            continue;
        }
        let (length, tail) = rest.split_first_chunk::<4>().ok_or(corrupt)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| corrupt)?;
        let (block, tail) = tail.split_at_checked(length).ok_or(corrupt)?;
        decompress_snappy_block(block, &mut out, limit)?;
        rest = tail;
    }
    Ok(out)
}

fn decompress_snappy_block(
    block: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), CompressionError> {
    let codec = Codec::Snappy;
    let corrupt = CompressionError::Corrupt { codec };
    let start = out.len();
    let length = snap::raw::decompress_len(block).map_err(|_| corrupt)?;
    if length > limit.saturating_sub(start) {
        return Err(CompressionError::TooLarge { codec, limit });
    }
    if length > snappy_length_max(block.len()) {
        return Err(corrupt);
    }
    out.resize(start + length, 0);
    let target = out.get_mut(start..).ok_or(corrupt)?;
    let written = snap::raw::Decoder::new()
        .decompress(block, target)
        .map_err(|_| corrupt)?;
    if written == length {
        Ok(())
    } else {
        Err(corrupt)
    }
}

/// What a block of so many bytes can decompress to.
const fn snappy_length_max(block_bytes: usize) -> usize {
    block_bytes.saturating_mul(SNAPPY_COPY_BYTES_MAX) / SNAPPY_COPY_TAG_BYTES
}

/// Compresses with the codec's usual level.
pub fn compress(codec: Codec, data: &[u8]) -> Result<Vec<u8>, CompressionError> {
    compress_with_level(codec, None, data)
}

/// Compresses with a level of the codec's own scale (gzip 1-9, zstd -131072..=22); LZ4 and snappy
/// have one level here.
pub fn compress_with_level(
    codec: Codec,
    level: Option<i32>,
    data: &[u8],
) -> Result<Vec<u8>, CompressionError> {
    let result = match codec {
        Codec::None => Ok(data.to_vec()),
        Codec::Gzip => compress_gzip(level, data),
        Codec::Snappy => compress_snappy(data),
        Codec::Lz4 => compress_lz4(data),
        Codec::Zstd => zstd::bulk::compress(data, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)),
    };
    result.map_err(|_| CompressionError::Failed { codec })
}

fn compress_gzip(level: Option<i32>, data: &[u8]) -> io::Result<Vec<u8>> {
    let level = level
        .and_then(|level| u32::try_from(level).ok())
        .filter(|level| *level <= 9);
    let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(data)?;
    encoder.finish()
}

fn compress_snappy(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in data.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(io::Error::other)?;
        let length = u32::try_from(compressed.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(out)
}

fn compress_lz4(data: &[u8]) -> io::Result<Vec<u8>> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(data)?;
    encoder.finish().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn snappy_raw_block_is_read() {
        let raw = snap::raw::Encoder::new()
            .compress_vec(b"hello hello hello")
            .unwrap();
        assert_eq!(
            &*decompress(Codec::Snappy, &raw, 100).unwrap(),
            b"hello hello hello"
        );
    }

    #[test]
    fn snappy_is_written_with_xerial_framing() {
        let framed = compress(Codec::Snappy, b"abc").unwrap();
        // one block of 5 bytes: length 3, literal of 3, "abc"
        assert_eq!(framed.get(..16), Some(&XERIAL_HEADER[..]));
        assert_eq!(
            framed.get(16..),
            Some(&[0, 0, 0, 5, 3, 8, b'a', b'b', b'c'][..])
        );
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let zeros = vec![0_u8; 4 << 20];
        for codec in Codec::ALL {
            let packed = compress(codec, &zeros).unwrap();
            let limit = zeros.len() - 1;
            assert_eq!(
                decompress(codec, &packed, limit),
                Err(CompressionError::TooLarge { codec, limit }),
                "{codec}"
            );
            assert_eq!(
                decompress(codec, &packed, zeros.len()).unwrap().len(),
                zeros.len()
            );
        }
    }

    #[test]
    fn a_snappy_length_claim_reserves_nothing() {
        // claims 4 GiB - 1
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert_eq!(
            decompress(Codec::Snappy, &claim, 1000),
            Err(CompressionError::TooLarge {
                codec: Codec::Snappy,
                limit: 1000
            })
        );
    }

    #[test]
    fn a_snappy_block_gets_no_more_memory_than_its_bytes_can_fill() {
        // 256 MiB that six bytes cannot be
        let claim = [0x80, 0x80, 0x80, 0x80, 0x01, 0];
        assert_eq!(snap::raw::decompress_len(&claim), Ok(256 << 20));
        assert!(snappy_length_max(claim.len()) <= 128);
        let corrupt = Err(CompressionError::Corrupt {
            codec: Codec::Snappy,
        });
        assert_eq!(decompress(Codec::Snappy, &claim, 256 << 20), corrupt);
        // the densest blocks that there are: zeros
        for length in [0, 1, 63, 64, 65, 1000, 32 << 10, 60 << 10, 4 << 20] {
            let zeros = vec![0_u8; length];
            let packed = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
            assert!(length <= snappy_length_max(packed.len()), "{length}");
            assert_eq!(*decompress(Codec::Snappy, &packed, length).unwrap(), *zeros);
        }
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for codec in Codec::ALL {
            assert_eq!(Codec::from_id(codec.id()), Some(codec));
            assert_eq!(codec.name().parse(), Ok(codec));
        }
        assert_eq!("uncompressed".parse(), Ok(Codec::None));
        assert_eq!(Codec::from_id(5), None);
    }

    proptest! {
        #[test]
        fn every_codec_round_trips(data in proptest::collection::vec(any::<u8>(), 0..100_000)) {
            for codec in Codec::ALL {
                let packed = compress(codec, &data).unwrap();
                let unpacked = decompress(codec, &packed, data.len()).unwrap();
                prop_assert_eq!(&*unpacked, &data[..], "{}", codec);
            }
        }

        #[test]
        fn any_bytes_are_survived(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            cut: u16,
        ) {
            for codec in Codec::ALL {
                let _ = decompress(codec, &data, 1 << 16);
                let mut packed = compress(codec, &data).unwrap();
                packed.truncate(usize::from(cut) % (packed.len() + 1));
                let _ = decompress(codec, &packed, 1 << 16);
            }
        }
    }
}

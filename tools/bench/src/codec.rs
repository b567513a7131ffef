//! Kafka's codecs, as a client uses them: compressing what is sent, reading what is verified.
//!
//! Pure: no async, no clock, no IO.
//! Snappy is written as Java clients do (xerial's frame: a magic, two version numbers, blocks with
//! a 4-byte length each); raw blocks are read too.

use std::io::{Read as _, Write as _};

use crate::args::Compression;

const XERIAL_HEAD: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_BLOCK: usize = 32 << 10;

impl Compression {
    /// The number in a batch's attributes.
    pub(crate) const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of the low bits of a batch's attributes.
    pub(crate) const fn from_attributes(attributes: i16) -> Option<Self> {
        match attributes & 7 {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Compresses records at the codec's default level.
    pub(crate) fn compress(self, records: &[u8]) -> Result<Vec<u8>, String> {
        let explain = |error: &dyn std::fmt::Display| format!("{self:?}: {error}");
        match self {
            Self::None => Ok(records.to_vec()),
            Self::Gzip => {
                let mut writer =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                let written = writer.write_all(records).and_then(|()| writer.finish());
                written.map_err(|error| explain(&error))
            }
            Self::Snappy => {
                let mut out = XERIAL_HEAD.to_vec();
                for block in records.chunks(XERIAL_BLOCK) {
                    let packed = snap::raw::Encoder::new().compress_vec(block);
                    let packed = packed.map_err(|error| explain(&error))?;
                    out.extend_from_slice(&crate::numbers::wire_len(packed.len()).to_be_bytes());
                    out.extend_from_slice(&packed);
                }
                Ok(out)
            }
            Self::Lz4 => {
                let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
                writer.write_all(records).map_err(|error| explain(&error))?;
                writer.finish().map_err(|error| explain(&error))
            }
            Self::Zstd => zstd::bulk::compress(records, 3).map_err(|error| explain(&error)),
        }
    }

    /// The records of a batch; `None` when they are damaged.
    pub(crate) fn decompress(self, packed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::None => out.extend_from_slice(packed),
            Self::Gzip => {
                flate2::read::GzDecoder::new(packed)
                    .read_to_end(&mut out)
                    .ok()?;
            }
            Self::Snappy => match packed.strip_prefix(XERIAL_HEAD) {
                Some(mut rest) => {
                    while !rest.is_empty() {
                        let length = rest.split_off(..4)?.try_into().ok()?;
                        let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
                        let block = rest.split_off(..length)?;
                        out.append(&mut snap::raw::Decoder::new().decompress_vec(block).ok()?);
                    }
                }
                None => out = snap::raw::Decoder::new().decompress_vec(packed).ok()?,
            },
            Self::Lz4 => {
                let mut reader = lz4_flex::frame::FrameDecoder::new(packed);
                reader.read_to_end(&mut out).ok()?;
            }
            Self::Zstd => out = zstd::stream::decode_all(packed).ok()?,
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let records: Vec<u8> = b"the same words again and again ".repeat(5_000);
        for codec in [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            let packed = codec.compress(&records).expect("compressed");
            assert!(
                codec == Compression::None || packed.len() < records.len() / 2,
                "{codec:?}"
            );
            assert_eq!(
                codec.decompress(&packed).as_deref(),
                Some(&records[..]),
                "{codec:?}"
            );
            assert_eq!(Compression::from_attributes(codec.id().into()), Some(codec));
            if codec != Compression::None {
                assert_eq!(
                    codec.decompress(b"\x82SNAPPY no such thing"),
                    None,
                    "{codec:?}"
                );
            }
        }
    }
}

//! Names of the files in a partition directory: Kafka's own.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a name that this file did not make (or Kafka did not) parses to nothing and is left
//! alone.
//!
//! | name | content |
//! |---|---|
//! | `<20 digits>.log` | record batches; the digits are the offset of the first one |
//! | `<20 digits>.index` `.timeindex` `.txnindex` | the segment's indexes |
//! | `<20 digits>.snapshot` | producer state of exactly the batches below the offset |
//! | `<name>.deleted` | waits to be unlinked |

use crate::model::offset::Offset;

/// Suffix of a file or directory that waits to be unlinked.
pub const DELETED_SUFFIX: &str = ".deleted";
/// Suffix of files that were being written when the process ended; they are worthless.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// What a numbered file of a partition directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// Record batches.
    Log,
    /// Offset index.
    OffsetIndex,
    /// Time index.
    TimeIndex,
    /// Index of aborted transactions.
    TransactionIndex,
    /// Producer state.
    Snapshot,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Log,
        Self::OffsetIndex,
        Self::TimeIndex,
        Self::TransactionIndex,
        Self::Snapshot,
    ];

    /// The part of the name behind the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::OffsetIndex => "index",
            Self::TimeIndex => "timeindex",
            Self::TransactionIndex => "txnindex",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The name of a numbered file.
pub fn file_name(offset: Offset, kind: FileKind) -> String {
    format!("{:020}.{}", offset.get(), kind.extension())
}

/// The offset and kind that a name stands for, when it is the name of a numbered file.
pub fn parse_file_name(name: &str) -> Option<(Offset, FileKind)> {
    let (digits, extension) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let kind = FileKind::ALL
        .into_iter()
        .find(|kind| kind.extension() == extension)?;
    Some((Offset::new(digits.parse().ok()?), kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas_and_parse_back() {
        assert_eq!(
            file_name(Offset::new(0), FileKind::Log),
            "00000000000000000000.log"
        );
        for kind in FileKind::ALL {
            for offset in [Offset::ZERO, Offset::new(1_234_567), Offset::MAX] {
                let name = file_name(offset, kind);
                assert_eq!(parse_file_name(&name), Some((offset, kind)), "{name}");
            }
        }
    }

    #[test]
    fn foreign_names_parse_to_nothing() {
        for name in [
            "leader-epoch-checkpoint",
            "partition.metadata",
            "0.log",
            "00000000000000000000.log.deleted",
            "00000000000000000000.swap",
            "-0000000000000000001.log",
            "99999999999999999999.log",
            "00000000000000000000",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}

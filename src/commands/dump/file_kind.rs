//! Which kind of file it is, by name or first bytes, and the printer for it.
//!
//! Runs on: the main thread.

use super::super::arguments::DumpArguments;
use super::super::run::Failure;
use super::line::Printer;
use super::reader::FileReader;
use super::{journal, segment, small};
use crate::log::file_names::{FileKind, parse_file_name};

/// What a dump found, beside what it printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every checksum is right.
    Sound,
    /// Something is not; the output says what and where.
    Damaged,
}

impl Verdict {
    /// The worse of the two.
    pub(super) fn and(self, other: Self) -> Self {
        if other == Self::Damaged { other } else { self }
    }
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Numbered(FileKind),
    LeaderEpochs,
    PartitionMetadata,
    PartitionState,
    Journal,
    JournalCheckpoint,
    MetadataLog,
}

const MAGIC_BYTES: usize = 4;

/// The directory whose `.log` files hold metadata records, not batches.
const METADATA_DIRECTORY: &str = "metadata";

/// By name where Kafka gives the name, else by the first bytes.
fn kind_of(directory: &str, name: &str, first: &[u8]) -> Option<Kind> {
    if let Some((_, kind)) = parse_file_name(name) {
        if kind == FileKind::Log && directory == METADATA_DIRECTORY {
            return Some(Kind::MetadataLog);
        }
        return Some(Kind::Numbered(kind));
    }
    match (name, first) {
        ("leader-epoch-checkpoint", _) => Some(Kind::LeaderEpochs),
        ("partition.metadata", _) => Some(Kind::PartitionMetadata),
        (_, b"CLPS") => Some(Kind::PartitionState),
        (_, b"CLJF") => Some(Kind::Journal),
        (_, b"CLJC") => Some(Kind::JournalCheckpoint),
        _ => None,
    }
}

/// Runs the command.
pub(in crate::commands) fn run(arguments: &DumpArguments) -> Result<(), Failure> {
    let path = &arguments.file;
    let shown = path.display();
    let failed = |error: std::io::Error| Failure::Failed(format!("{shown}: {error}"));
    let file = FileReader::open(path).map_err(failed)?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    // as typed: `dump data/metadata/0.log` from outside, or the bare name inside the directory
    let full = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let parent = full.parent().and_then(|parent| parent.file_name());
    let directory = parent.and_then(|name| name.to_str()).unwrap_or_default();
    let first = file.read(0, MAGIC_BYTES).map_err(failed)?;
    let kind = kind_of(directory, name, &first).ok_or_else(|| {
        Failure::Failed(format!(
            "{shown}: neither a segment, index, snapshot or checkpoint by name nor a journal file"
        ))
    })?;
    let mut printer = Printer::new(arguments.json);
    let printed = match kind {
        Kind::Numbered(FileKind::Log) => segment::dump(&file, arguments.records, &mut printer),
        Kind::Journal => journal::dump(&file, &mut printer),
        _ => small::dump(&file, kind, &mut printer),
    };
    printer.flush()?;
    match printed? {
        Verdict::Sound => Ok(()),
        Verdict::Damaged => Err(Failure::Failed(format!("{shown}: damaged, see above"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_kafkas_names_or_by_their_first_bytes() {
        let segment = "00000000000000000012.log";
        assert_eq!(
            kind_of("", segment, b""),
            Some(Kind::Numbered(FileKind::Log))
        );
        let index = "00000000000000000012.timeindex";
        assert_eq!(
            kind_of("", index, b""),
            Some(Kind::Numbered(FileKind::TimeIndex))
        );
        assert_eq!(
            kind_of("", "leader-epoch-checkpoint", b"0\n1\n"),
            Some(Kind::LeaderEpochs)
        );
        assert_eq!(
            kind_of("", "checkpoint", b"CLJC"),
            Some(Kind::JournalCheckpoint)
        );
        assert_eq!(kind_of("", "any-name", b"CLJF"), Some(Kind::Journal));
        assert_eq!(kind_of("", "notes.txt", b"hell"), None);
        assert_eq!(kind_of("metadata", segment, b""), Some(Kind::MetadataLog));
    }
}

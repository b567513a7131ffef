//! `corelog dump`: prints a file of a data directory for people, with verdicts on its checksums.
//!
//! Runs on: the main thread. Reads piecewise: a segment or journal of any size.
//! Promises: a damaged file is printed as far as it can be read, then exit code 1; nothing is
//! written. Works on Kafka's own files too.

mod journal;
mod reader;
mod segment;
mod small;

use super::arguments::DumpArguments;
use super::output::Output;
use super::run::Failure;
use crate::log::file_names::{FileKind, parse_file_name};
use reader::FileReader;

/// What a dump found, beside what it printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Every checksum is right.
    Sound,
    /// Something is not; the output says what and where.
    Damaged,
}

impl Verdict {
    fn and(self, other: Self) -> Self {
        if other == Self::Damaged { other } else { self }
    }
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Numbered(FileKind),
    LeaderEpochs,
    PartitionMetadata,
    PartitionState,
    Journal,
    JournalCheckpoint,
}

const MAGIC_BYTES: usize = 4;

/// By name where Kafka gives the name, else by the first bytes.
fn kind_of(name: &str, first: &[u8]) -> Option<Kind> {
    if let Some((_, kind)) = parse_file_name(name) {
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
pub(super) fn run(arguments: &DumpArguments) -> Result<(), Failure> {
    let path = &arguments.file;
    let shown = path.display();
    let failed = |error: std::io::Error| Failure::Failed(format!("{shown}: {error}"));
    let file = FileReader::open(path).map_err(failed)?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let first = file.read(0, MAGIC_BYTES).map_err(failed)?;
    let kind = kind_of(name, &first).ok_or_else(|| {
        Failure::Failed(format!(
            "{shown}: neither a segment, index, snapshot or checkpoint by name nor a journal file"
        ))
    })?;
    let mut output = Output::new();
    let printed = match kind {
        Kind::Numbered(FileKind::Log) => segment::dump(&file, arguments.records, &mut output),
        Kind::Journal => journal::dump(&file, &mut output),
        _ => small::dump(&file, kind, &mut output),
    };
    output.flush()?;
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
        assert_eq!(kind_of(segment, b""), Some(Kind::Numbered(FileKind::Log)));
        let index = "00000000000000000012.timeindex";
        assert_eq!(
            kind_of(index, b""),
            Some(Kind::Numbered(FileKind::TimeIndex))
        );
        assert_eq!(
            kind_of("leader-epoch-checkpoint", b"0\n1\n"),
            Some(Kind::LeaderEpochs)
        );
        assert_eq!(
            kind_of("checkpoint", b"CLJC"),
            Some(Kind::JournalCheckpoint)
        );
        assert_eq!(kind_of("any-name", b"CLJF"), Some(Kind::Journal));
        assert_eq!(kind_of("notes.txt", b"hell"), None);
    }
}

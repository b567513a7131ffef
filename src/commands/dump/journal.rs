//! Prints a journal file: one line a block, one line an entry, in the order of the file.
//!
//! Runs on: the main thread.
//! Blocks of earlier runs stay in the file until they are overwritten; run and sequence tell.

use bytes::Bytes;

use super::super::output::Output;
use super::super::run::Failure;
use super::file_kind::Verdict;
use super::reader::FileReader;
use crate::journal::block::{self, BlockError, BlockHeader, FILE_HEADER_BYTES, FileHeader};
use crate::journal::entry::{Entry, EntryKind};
use crate::model::limits::ALIGNMENT_BYTES;

/// Prints the file.
pub(super) fn dump(file: &FileReader, output: &mut Output) -> Result<Verdict, Failure> {
    let head = file.read(0, FILE_HEADER_BYTES)?;
    let header = match FileHeader::decode(&head) {
        Ok(header) => header,
        Err(error) => {
            output.line(format!("file header: DAMAGED: {error}"))?;
            return Ok(Verdict::Damaged);
        }
    };
    output.line(format!(
        "journal file {} of ring {:016x}, {} bytes, header crc ok",
        header.index, header.ring.0, header.size_bytes
    ))?;
    let mut verdict = Verdict::Sound;
    if header.size_bytes != file.length() {
        output.line(format!("LENGTH: the file has {} bytes", file.length()))?;
        verdict = Verdict::Damaged;
    }
    let mut position = FILE_HEADER_BYTES;
    let (mut blocks, mut entries) = (0_u64, 0_u64);
    while let Some((block, length)) = next_block(file, &mut position)? {
        match block::check(&block) {
            Ok(header) => {
                output.line(block_line(position, &header, "ok"))?;
                entries += dump_entries(block, &header, output)?;
                blocks += 1;
                position += length;
            }
            Err(error) => {
                // torn by a crash, or damaged: replay tells the two apart by what follows
                let seen = BlockHeader::peek(&block);
                let line = seen.map_or_else(
                    |_| format!("position {position}: block"),
                    |header| block_line(position, &header, "WRONG"),
                );
                output.line(format!("{line}: {error}"))?;
                verdict = Verdict::Damaged;
                position += ALIGNMENT_BYTES;
            }
        }
    }
    output.line(format!("{blocks} blocks, {entries} entries"))?;
    Ok(verdict)
}

/// The next place, at or behind `position`, where something that looks like a block begins: its
/// bytes (as many as the file has) and its length.
fn next_block(
    file: &FileReader,
    position: &mut usize,
) -> Result<Option<(Vec<u8>, usize)>, Failure> {
    loop {
        let at = u64::try_from(*position).unwrap_or(u64::MAX);
        if at >= file.length() {
            return Ok(None);
        }
        let page = file.read(at, ALIGNMENT_BYTES)?;
        match BlockHeader::peek(&page) {
            Ok(header) => {
                let length = header.block_len();
                return Ok(Some((file.read(at, length)?, length)));
            }
            Err(BlockError::NoBlock | BlockError::Short { .. }) => *position += ALIGNMENT_BYTES,
            Err(_) => return Ok(Some((page, ALIGNMENT_BYTES))),
        }
    }
}

fn block_line(position: usize, header: &BlockHeader, verdict: &str) -> String {
    format!(
        "position {position}: run {} sequence {} durable-to {} previous-crc {:#010x} entries {} \
         payload {} crc {:#010x} {verdict}",
        header.link.run.0,
        header.link.sequence,
        header.durable_sequence,
        header.link.previous_crc,
        header.entry_count,
        header.payload_length,
        header.crc,
    )
}

fn dump_entries(block: Vec<u8>, header: &BlockHeader, output: &mut Output) -> Result<u64, Failure> {
    let entries = block::entries(&Bytes::from(block), header)
        .map_err(|error| Failure::Failed(format!("entries of a sound block: {error}")))?;
    let mut count = 0;
    for entry in &entries {
        output.line(entry_line(entry))?;
        count += 1;
    }
    Ok(count)
}

fn entry_line(entry: &Entry) -> String {
    let partition = format!(
        "{}-{}",
        entry.topic_partition.topic, entry.topic_partition.partition.0
    );
    let (base, next) = (entry.base_offset.get(), entry.next_offset.get());
    let place = format!(
        "segment {} position {}",
        entry.segment_base.get(),
        entry.file_position
    );
    let size = entry.payload.len();
    let epoch = entry.leader_epoch.0;
    match entry.kind {
        EntryKind::Append => {
            format!("  append {partition} offsets {base}..{next} epoch {epoch} {place} size {size}")
        }
        EntryKind::Carry => {
            format!("  carry {partition} offsets {base}..{next} {place} size {size}")
        }
        EntryKind::Bypass { length, crc } => {
            format!(
                "  bypass {partition} offsets {base}..{next} {place} size {length} crc {crc:#010x}"
            )
        }
        EntryKind::LogStart => format!("  log-start {partition} at {base}"),
        EntryKind::Truncate => format!("  truncate {partition} to {next} {place}"),
        EntryKind::Delete => format!("  delete {partition}"),
    }
}

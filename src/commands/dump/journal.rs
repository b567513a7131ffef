//! Prints a journal file: one line a block, one line an entry, in the order of the file.
//!
//! Runs on: the main thread.
//! Blocks of earlier runs stay in the file until they are overwritten; run and sequence tell.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::run::Failure;
use super::file_kind::Verdict;
use super::line::{Line, Printer};
use super::reader::FileReader;
use crate::journal::block::{self, BlockError, BlockHeader, FILE_HEADER_BYTES, FileHeader};
use crate::journal::entry::{Entry, EntryKind};
use crate::model::limits::ALIGNMENT_BYTES;

/// Prints the file.
pub(super) fn dump(file: &FileReader, printer: &mut Printer) -> Result<Verdict, Failure> {
    let head = file.read(0, FILE_HEADER_BYTES)?;
    let header = match FileHeader::decode(&head) {
        Ok(header) => header,
        Err(error) => {
            let text = format!("file header: DAMAGED: {error}");
            printer.line(&damage_line(text, 0, &error.to_string()))?;
            return Ok(Verdict::Damaged);
        }
    };
    printer.line(&head_line(&header))?;
    let mut verdict = Verdict::Sound;
    if header.size_bytes != file.length() {
        let reason = format!("the file has {} bytes", file.length());
        printer.line(&damage_line(format!("LENGTH: {reason}"), 0, &reason))?;
        verdict = Verdict::Damaged;
    }
    let mut position = FILE_HEADER_BYTES;
    let (mut blocks, mut entries) = (0_u64, 0_u64);
    while let Some((block, length)) = next_block(file, &mut position)? {
        match block::check(&block) {
            Ok(header) => {
                printer.line(&block_line(position, &header))?;
                entries += dump_entries(block, &header, printer)?;
                blocks += 1;
                position += length;
            }
            Err(error) => {
                // torn by a crash, or damaged: replay tells the two apart by what follows
                let seen = BlockHeader::peek(&block);
                let text = seen.map_or_else(
                    |_| format!("position {position}: block"),
                    |header| block_text(position, &header, "WRONG"),
                );
                let text = format!("{text}: {error}");
                printer.line(&damage_line(text, position, &error.to_string()))?;
                verdict = Verdict::Damaged;
                position += ALIGNMENT_BYTES;
            }
        }
    }
    printer.line(&Line::new(
        format!("{blocks} blocks, {entries} entries"),
        json!({ "kind": "end", "blocks": blocks, "entries": entries }),
    ))?;
    Ok(verdict)
}

fn damage_line(text: String, position: usize, reason: &str) -> Line {
    let json = json!({ "kind": "damage", "position": position, "reason": reason });
    Line::new(text, json)
}

fn head_line(header: &FileHeader) -> Line {
    let ring = format!("{:016x}", header.ring.0);
    let (index, size) = (header.index, header.size_bytes);
    Line::new(
        format!("journal file {index} of ring {ring}, {size} bytes, header crc ok"),
        json!({ "kind": "journal_file", "index": index, "ring": ring, "size_bytes": size }),
    )
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

fn block_line(position: usize, header: &BlockHeader) -> Line {
    let json = json!({
        "kind": "block",
        "position": position,
        "run": header.link.run.0,
        "sequence": header.link.sequence,
        "durable_sequence": header.durable_sequence,
        "previous_crc": header.link.previous_crc,
        "entries": header.entry_count,
        "payload_bytes": header.payload_length,
        "crc": header.crc,
        "sound": true,
    });
    Line::new(block_text(position, header, "ok"), json)
}

fn block_text(position: usize, header: &BlockHeader, verdict: &str) -> String {
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

fn dump_entries(
    block: Vec<u8>,
    header: &BlockHeader,
    printer: &mut Printer,
) -> Result<u64, Failure> {
    let entries = block::entries(&Bytes::from(block), header)
        .map_err(|error| Failure::Failed(format!("entries of a sound block: {error}")))?;
    let mut count = 0;
    for entry in &entries {
        printer.line(&Line::new(entry_text(entry), entry_json(entry)))?;
        count += 1;
    }
    Ok(count)
}

fn entry_text(entry: &Entry) -> String {
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

/// All fields of an entry, also those that its kind gives no meaning.
fn entry_json(entry: &Entry) -> Value {
    let carried = entry.payload.len();
    let (kind, size, crc) = match entry.kind {
        EntryKind::Append => ("append", json!(carried), None),
        EntryKind::Carry => ("carry", json!(carried), None),
        EntryKind::Bypass { length, crc } => ("bypass", json!(length), Some(crc)),
        EntryKind::LogStart => ("log_start", json!(carried), None),
        EntryKind::Truncate => ("truncate", json!(carried), None),
        EntryKind::Delete => ("delete", json!(carried), None),
    };
    json!({
        "kind": kind,
        "topic_id": entry.topic_partition.topic.to_string(),
        "partition": entry.topic_partition.partition.0,
        "base_offset": entry.base_offset.get(),
        "next_offset": entry.next_offset.get(),
        "leader_epoch": entry.leader_epoch.0,
        "segment_base": entry.segment_base.get(),
        "position": entry.file_position,
        "size_bytes": size,
        "crc": crc,
    })
}

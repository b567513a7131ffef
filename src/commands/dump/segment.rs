//! Prints a segment: a line a batch, on request a line a record.
//!
//! Runs on: the main thread.

use std::fmt::Write as _;

use serde_json::json;

use super::super::output::{bytes_json, headers_json, hex};
use super::super::run::Failure;
use super::file_kind::Verdict;
use super::line::{Line, Printer};
use super::reader::FileReader;
use crate::model::limits;
use crate::model::record::{Record, RecordError, iter_records, payload};
use crate::model::record_batch::{BatchHeader, check_crc};

/// Bytes of a key or value that are shown.
const SHOWN_BYTES_MAX: usize = 60;

/// Prints the file.
pub(super) fn dump(
    file: &FileReader,
    with_records: bool,
    printer: &mut Printer,
) -> Result<Verdict, Failure> {
    let mut position = 0;
    let mut verdict = Verdict::Sound;
    let (mut batches, mut records) = (0_u64, 0_u64);
    while position < file.length() {
        let left = file.length() - position;
        let head = file.read(position, limits::BATCH_HEADER_BYTES)?;
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(_) if file.is_zero_from(position)? => {
                printer.line(&reserved_line(position, left))?;
                break;
            }
            Err(error) => {
                printer.line(&damage_line(position, "NOT A BATCH", &error.to_string()))?;
                verdict = Verdict::Damaged;
                break;
            }
        };
        let size = u64::try_from(header.total_size()).unwrap_or(u64::MAX);
        if size > left {
            let reason = format!("a batch of {size} bytes, {left} are there");
            printer.line(&damage_line(position, "CUT OFF", &reason))?;
            verdict = Verdict::Damaged;
            break;
        }
        let batch = file.read(position, header.total_size())?;
        let is_sound = check_crc(&batch);
        printer.line(&batch_line(position, &header, is_sound))?;
        if is_sound && with_records {
            verdict = verdict.and(dump_records(&header, &batch, printer)?);
        }
        if !is_sound {
            verdict = Verdict::Damaged;
        }
        batches += 1;
        records += u64::from(header.record_count.unsigned_abs());
        position += size;
    }
    let length = file.length();
    printer.line(&Line::new(
        format!("{batches} batches, {records} records, {length} bytes"),
        json!({ "kind": "end", "batches": batches, "records": records, "size_bytes": length }),
    ))?;
    Ok(verdict)
}

fn reserved_line(position: u64, size: u64) -> Line {
    Line::new(
        format!("position {position}: {size} bytes reserved, unwritten"),
        json!({ "kind": "reserved", "position": position, "size_bytes": size }),
    )
}

fn damage_line(position: u64, what: &str, reason: &str) -> Line {
    let both = format!("{what}: {reason}");
    Line::new(
        format!("position {position}: {both}"),
        json!({ "kind": "damage", "position": position, "reason": both }),
    )
}

/// One batch.
fn batch_line(position: u64, header: &BatchHeader, is_sound: bool) -> Line {
    let codec = header
        .codec()
        .map_or_else(|error| error.to_string(), |codec| codec.to_string());
    let mut line = format!(
        "position {position}: offsets {}..={} records {} size {} epoch {} \
         codec {codec} time {}..{}",
        header.base_offset.get(),
        header.last_offset().get(),
        header.record_count,
        header.total_size(),
        header.leader_epoch.0,
        header.base_timestamp,
        header.max_timestamp,
    );
    if header.has_producer_id() {
        let _ = write!(
            line,
            " producer {} epoch {} sequence {}..={}",
            header.producer_id.0,
            header.producer_epoch.0,
            header.base_sequence,
            header.last_sequence(),
        );
    }
    if header.is_transactional() {
        line += " transactional";
    }
    if header.is_control() {
        line += " control";
    }
    let verdict = if is_sound { "ok" } else { "WRONG" };
    let _ = write!(line, " crc {:#010x} {verdict}", header.crc);
    let json = json!({
        "kind": "batch",
        "position": position,
        "base_offset": header.base_offset.get(),
        "last_offset": header.last_offset().get(),
        "records": header.record_count,
        "size_bytes": header.total_size(),
        "leader_epoch": header.leader_epoch.0,
        "codec": codec,
        "base_timestamp": header.base_timestamp,
        "max_timestamp": header.max_timestamp,
        "producer_id": header.producer_id.0,
        "producer_epoch": header.producer_epoch.0,
        "base_sequence": header.base_sequence,
        "transactional": header.is_transactional(),
        "control": header.is_control(),
        "crc": header.crc,
        "sound": is_sound,
    });
    Line::new(line, json)
}

fn dump_records(
    header: &BatchHeader,
    batch: &[u8],
    printer: &mut Printer,
) -> Result<Verdict, Failure> {
    let unreadable = |error: RecordError| {
        let reason = format!("UNREADABLE: {error}");
        let base_offset = header.base_offset.get();
        Line::new(
            format!("  {reason}"),
            json!({ "kind": "damage", "base_offset": base_offset, "reason": reason }),
        )
    };
    let bytes = match payload(header, batch, limits::DECOMPRESSED_BATCH_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            printer.line(&unreadable(error))?;
            return Ok(Verdict::Damaged);
        }
    };
    for record in iter_records(&bytes, header.record_count) {
        match record {
            Ok(record) => printer.line(&record_line(header, &record))?,
            Err(error) => {
                printer.line(&unreadable(error))?;
                return Ok(Verdict::Damaged);
            }
        }
    }
    Ok(Verdict::Sound)
}

fn record_line(header: &BatchHeader, record: &Record<'_>) -> Line {
    let offset = header.base_offset.get() + i64::from(record.offset_delta);
    let mut line = format!(
        "  offset {offset} time {} key {} value {}",
        record.timestamp(header),
        shown(record.key),
        shown(record.value),
    );
    for entry in record.headers() {
        let _ = write!(
            line,
            " header {}={}",
            shown(Some(entry.key)),
            shown(entry.value)
        );
    }
    let json = json!({
        "kind": "record",
        "offset": offset,
        "timestamp": record.timestamp(header),
        "key": bytes_json(record.key),
        "value": bytes_json(record.value),
        "headers": headers_json(record),
    });
    Line::new(line, json)
}

/// Text in quotes, other bytes in hex, both cut; `null` for nothing.
fn shown(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else {
        return "null".to_owned();
    };
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let more = if cut.len() < bytes.len() {
        format!("... ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    match std::str::from_utf8(cut) {
        Ok(text) => format!("{text:?}{more}"),
        // the cut may have split a character of a text
        Err(error) if more.is_empty() || cut.len() - error.valid_up_to() > 3 => {
            format!("0x{}{more}", hex(cut))
        }
        Err(error) => {
            let text = String::from_utf8_lossy(&cut[..error.valid_up_to()]);
            format!("{text:?}{more}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch_builder::BatchBuilder;
    use crate::model::ids::{ProducerEpoch, ProducerId};

    #[test]
    fn a_batch_is_one_line_with_its_verdict() {
        let mut builder = BatchBuilder::new()
            .producer(ProducerId(7), ProducerEpoch(1), 3)
            .transactional();
        builder.push(1_000, Some(b"k"), Some(b"v"));
        builder.push(2_000, None, None);
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).expect("built");
        let crc = format!("{:#010x}", header.crc);
        assert_eq!(
            batch_line(64, &header, true).text,
            format!(
                "position 64: offsets 0..=1 records 2 size {} epoch -1 codec none \
                 time 1000..2000 producer 7 epoch 1 sequence 3..=4 transactional crc {crc} ok",
                bytes.len()
            )
        );
        assert!(batch_line(64, &header, false).text.ends_with("WRONG"));
    }

    #[test]
    fn keys_and_values_are_shown_as_text_where_they_are_text() {
        assert_eq!(shown(None), "null");
        assert_eq!(shown(Some(b"a\"b")), "\"a\\\"b\"");
        assert_eq!(shown(Some(&[0xff, 1])), "0xff01");
        let long = "\u{e4}".repeat(100);
        assert!(shown(Some(long.as_bytes())).ends_with("... (200 bytes)"));
        let odd = format!("x{long}");
        assert!(shown(Some(odd.as_bytes())).starts_with("\"x\u{e4}"));
    }
}

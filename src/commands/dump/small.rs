//! Prints the files that are read whole: indexes, snapshots, checkpoints, partition metadata.
//!
//! Runs on: the main thread.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::run::Failure;
use super::file_kind::{Kind, Verdict};
use super::line::{Line, Printer};
use super::reader::FileReader;
use crate::journal::checkpoint::{Checkpoint, CheckpointState};
use crate::log::checkpoint::LogCheckpoint;
use crate::log::file_names::FileKind;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::producer_state::ProducerStates;
use crate::log::{partition_metadata, producer_snapshot};
use crate::model::offset::Offset;

/// What a file says, line by line, or why it cannot be read.
type Lines = Result<Vec<Line>, String>;

/// Prints the file.
pub(super) fn dump(
    file: &FileReader,
    kind: Kind,
    printer: &mut Printer,
) -> Result<Verdict, Failure> {
    let bytes = file.read_all()?;
    let lines = match kind {
        Kind::Numbered(FileKind::OffsetIndex) => offset_index(&bytes),
        Kind::Numbered(FileKind::TimeIndex) => time_index(&bytes),
        Kind::Numbered(FileKind::TransactionIndex) => transaction_index(&bytes),
        Kind::Numbered(FileKind::Snapshot) => snapshot(&bytes),
        Kind::LeaderEpochs => leader_epochs(&bytes),
        Kind::PartitionMetadata => metadata(&bytes),
        Kind::PartitionState => LogCheckpoint::decode_file(&bytes)
            .map(|state| vec![log_state(&state)])
            .map_err(|error| error.to_string()),
        Kind::JournalCheckpoint => journal_checkpoint(bytes),
        Kind::MetadataLog => metadata_log(&bytes),
        Kind::Numbered(FileKind::Log) | Kind::Journal => Err("not read whole".to_owned()),
    };
    match lines {
        Ok(lines) => {
            for line in lines {
                printer.line(&line)?;
            }
            Ok(Verdict::Sound)
        }
        Err(reason) => {
            printer.line(&Line::new(
                format!("DAMAGED: {reason}"),
                json!({ "kind": "damage", "reason": reason }),
            ))?;
            Ok(Verdict::Damaged)
        }
    }
}

/// Whole entries of `N` bytes; the zeros that Kafka reserves behind them are left out.
fn index_entries<const N: usize>(bytes: &[u8]) -> Result<(&[[u8; N]], usize), String> {
    let (entries, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the last whole entry", rest.len()));
    }
    let used = entries
        .iter()
        .rposition(|entry| *entry != [0; N])
        .map_or(0, |last| last + 1);
    let (used, reserved) = entries.split_at(used);
    Ok((used, reserved.len()))
}

fn ending(entries: usize, reserved: usize) -> Line {
    Line::new(
        format!("{entries} entries, {reserved} reserved"),
        json!({ "kind": "end", "entries": entries, "reserved": reserved }),
    )
}

fn offset_index(bytes: &[u8]) -> Lines {
    let (entries, reserved) = index_entries::<8>(bytes)?;
    let mut lines = Vec::new();
    let mut before = None;
    for (number, [o0, o1, o2, o3, p0, p1, p2, p3]) in entries.iter().copied().enumerate() {
        let offset = u32::from_be_bytes([o0, o1, o2, o3]);
        let position = u32::from_be_bytes([p0, p1, p2, p3]);
        if before.is_some_and(|(o, p)| offset <= o || position <= p) {
            return Err(format!("entry {number} is not above the one before it"));
        }
        before = Some((offset, position));
        lines.push(Line::new(
            format!("offset base+{offset} position {position}"),
            json!({ "kind": "offset", "relative_offset": offset, "position": position }),
        ));
    }
    lines.push(ending(entries.len(), reserved));
    Ok(lines)
}

fn time_index(bytes: &[u8]) -> Lines {
    let (entries, reserved) = index_entries::<12>(bytes)?;
    let mut lines = Vec::new();
    let mut before = None;
    for (number, [t @ .., o0, o1, o2, o3]) in entries.iter().copied().enumerate() {
        let time = i64::from_be_bytes(t);
        let offset = u32::from_be_bytes([o0, o1, o2, o3]);
        if before.is_some_and(|(t, o)| time < t || offset < o) {
            return Err(format!("entry {number} is below the one before it"));
        }
        before = Some((time, offset));
        lines.push(Line::new(
            format!("time {time} offset base+{offset}"),
            json!({ "kind": "time", "timestamp": time, "relative_offset": offset }),
        ));
    }
    lines.push(ending(entries.len(), reserved));
    Ok(lines)
}

/// Aborted transactions: version (2), producer id, first, last, last stable offset (8 each).
fn transaction_index(bytes: &[u8]) -> Lines {
    let (entries, reserved) = index_entries::<34>(bytes)?;
    let mut lines = Vec::new();
    for [_, _, numbers @ ..] in entries {
        let (words, _) = numbers.as_chunks::<8>();
        let words: Vec<i64> = words.iter().map(|word| i64::from_be_bytes(*word)).collect();
        if let [producer, first, last, stable] = words[..] {
            lines.push(Line::new(
                format!(
                    "aborted: producer {producer} offsets {first}..={last} last-stable {stable}"
                ),
                json!({
                    "kind": "aborted_transaction",
                    "producer_id": producer,
                    "first_offset": first,
                    "last_offset": last,
                    "last_stable_offset": stable,
                }),
            ));
        }
    }
    lines.push(ending(entries.len(), reserved));
    Ok(lines)
}

fn snapshot(bytes: &[u8]) -> Lines {
    let states = producer_snapshot::decode(bytes).map_err(|error| error.to_string())?;
    let count = states.count();
    let mut lines = vec![Line::new(
        format!("producer snapshot, crc ok, {count} producers"),
        json!({ "kind": "producer_snapshot", "producers": count, "sound": true }),
    )];
    lines.extend(producers(&states));
    Ok(lines)
}

fn producers(states: &ProducerStates) -> Vec<Line> {
    states
        .sorted()
        .into_iter()
        .map(|(id, entry)| {
            let last = entry.batches.last();
            let sequence = last.map_or(-1, |batch| batch.last_sequence);
            let offset = last.map_or(-1, |batch| batch.last_offset.get());
            let (epoch, time) = (entry.epoch.0, entry.last_timestamp);
            let start = entry.transaction_start.map(Offset::get);
            let open =
                start.map_or_else(String::new, |start| format!(" open-transaction-at {start}"));
            Line::new(
                format!(
                    "producer {} epoch {epoch} last-sequence {sequence} last-offset {offset} \
                     time {time}{open}",
                    id.0
                ),
                json!({
                    "kind": "producer",
                    "producer_id": id.0,
                    "producer_epoch": epoch,
                    "last_sequence": sequence,
                    "last_offset": offset,
                    "timestamp": time,
                    "transaction_start": start,
                }),
            )
        })
        .collect()
}

fn epoch_lines(epochs: &LeaderEpochs) -> impl Iterator<Item = Line> {
    epochs.entries().iter().map(|entry| {
        let (epoch, start) = (entry.epoch.0, entry.start_offset.get());
        Line::new(
            format!("epoch {epoch} from offset {start}"),
            json!({ "kind": "leader_epoch", "leader_epoch": epoch, "start_offset": start }),
        )
    })
}

fn leader_epochs(bytes: &[u8]) -> Lines {
    let content = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(epoch_lines(&LeaderEpochs::decode(content).map_err(|error| error.to_string())?).collect())
}

fn metadata(bytes: &[u8]) -> Lines {
    let content = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let topic = partition_metadata::decode(content).map_err(|error| error.to_string())?;
    Ok(vec![Line::new(
        format!("topic id {topic}"),
        json!({ "kind": "partition_metadata", "topic_id": topic.to_string() }),
    )])
}

/// Frames of length (4), CRC-32C (4), one record as JSON, little-endian.
fn metadata_log(bytes: &[u8]) -> Lines {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let position = bytes.len() - rest.len();
        let cut = || format!("position {position}: the last record is cut off");
        let ([l0, l1, l2, l3, c0, c1, c2, c3], behind) =
            rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
        let crc = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (record, behind) = behind.split_at_checked(length).ok_or_else(cut)?;
        if crc32c::crc32c(record) != crc {
            return Err(format!("position {position}: the checksum is wrong"));
        }
        let text = String::from_utf8_lossy(record).into_owned();
        let json: Value = serde_json::from_slice(record)
            .map_err(|error| format!("position {position}: {error}"))?;
        let json = json!({ "kind": "metadata_record", "position": position, "record": json });
        lines.push(Line::new(text, json));
        rest = behind;
    }
    let count = lines.len();
    lines.push(Line::new(
        format!("{count} records, every crc ok"),
        json!({ "kind": "end", "records": count }),
    ));
    Ok(lines)
}

/// One object, and several lines of text.
fn log_state(state: &LogCheckpoint) -> Line {
    let epochs: Vec<Line> = epoch_lines(&state.epochs).collect();
    let producers = producers(&state.producers);
    let json = json!({
        "kind": "partition_state",
        "log_start": state.log_start.get(),
        "next_offset": state.next_offset.get(),
        "segment_base": state.segment_base.get(),
        "destaged_position": state.destaged_position,
        "end_position": state.end_position,
        "offset_index_entries": state.offset_index_entries,
        "time_index_entries": state.time_index_entries,
        "truncations": state.truncations,
        "has_every_offset": state.is_dense,
        "leader_epochs": epochs.iter().map(|line| &line.json).collect::<Vec<_>>(),
        "producers": producers.iter().map(|line| &line.json).collect::<Vec<_>>(),
    });
    let mut lines = vec![
        format!(
            "log start {}, {}",
            state.log_start.get(),
            if state.is_dense {
                "every offset is there"
            } else {
                "offsets may be missing"
            }
        ),
        format!("next offset {}", state.next_offset.get()),
        format!(
            "segment {} destaged to position {}, batches to position {}",
            state.segment_base.get(),
            state.destaged_position,
            state.end_position
        ),
        format!(
            "index entries {}, time index entries {}, truncations {}",
            state.offset_index_entries, state.time_index_entries, state.truncations
        ),
    ];
    lines.extend(epochs.into_iter().chain(producers).map(|line| line.text));
    Line::new(lines.join("\n"), json)
}

fn journal_checkpoint(bytes: Vec<u8>) -> Lines {
    let checkpoint = Checkpoint::decode(&Bytes::from(bytes)).map_err(|error| error.to_string())?;
    let (state, meaning) = match checkpoint.state {
        CheckpointState::Running => ("running", "replay from the anchor"),
        CheckpointState::Stopped => ("stopped", "nothing to replay"),
    };
    let ring = format!("{:016x}", checkpoint.ring.0);
    let (link, slot) = (&checkpoint.anchor.link, &checkpoint.anchor.slot);
    let mut lines = vec![Line::new(
        format!(
            "journal checkpoint of ring {ring}, crc ok, {state}: {meaning}\n\
             anchor: run {} sequence {} in file {} at position {}, {} files",
            link.run.0, link.sequence, slot.file, slot.offset, checkpoint.file_count
        ),
        json!({
            "kind": "journal_checkpoint",
            "ring": ring,
            "state": state,
            "anchor_run": link.run.0,
            "anchor_sequence": link.sequence,
            "anchor_file": slot.file,
            "anchor_position": slot.offset,
            "files": checkpoint.file_count,
            "sound": true,
        }),
    )];
    for partition in &checkpoint.partitions {
        let (topic, number) = (
            partition.topic_partition.topic.to_string(),
            partition.topic_partition.partition.0,
        );
        let state = LogCheckpoint::decode(&partition.record)
            .map_err(|error| format!("partition {number}: {error}"))?;
        let state = log_state(&state);
        lines.push(Line::new(
            format!("partition {topic}-{number}\n{}", state.text).replace('\n', "\n  "),
            json!({
                "kind": "partition",
                "topic_id": topic,
                "partition": number,
                "state": state.json,
            }),
        ));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn an_index_is_listed_without_its_reserved_end() {
        let mut bytes = Vec::new();
        for (offset, position) in [(9_u32, 4096_u32), (20, 8200)] {
            bytes.extend(offset.to_be_bytes());
            bytes.extend(position.to_be_bytes());
        }
        bytes.extend([0; 24]);
        let lines = offset_index(&bytes).expect("ordered");
        assert_eq!(
            texts(&lines),
            [
                "offset base+9 position 4096",
                "offset base+20 position 8200",
                "2 entries, 3 reserved"
            ]
        );
        assert_eq!(
            lines[1].json,
            json!({ "kind": "offset", "relative_offset": 20, "position": 8200 })
        );
    }

    #[test]
    fn a_disordered_or_cut_index_is_damaged() {
        let mut bytes = Vec::new();
        for number in [9_u32, 4096, 9, 8200] {
            bytes.extend(number.to_be_bytes());
        }
        let error = offset_index(&bytes).expect_err("equal offsets");
        assert_eq!(error, "entry 1 is not above the one before it");
        assert_eq!(
            time_index(&[0; 13]).expect_err("cut"),
            "1 bytes follow the last whole entry"
        );
    }

    #[test]
    fn metadata_records_are_listed_and_checked() {
        let record = br#"{"type":"tombstones_cleared"}"#;
        let mut bytes = 29_u32.to_le_bytes().to_vec();
        bytes.extend(crc32c::crc32c(record).to_le_bytes());
        bytes.extend(record);
        let lines = metadata_log(&bytes).expect("sound");
        assert_eq!(
            texts(&lines),
            [
                r#"{"type":"tombstones_cleared"}"#,
                "1 records, every crc ok"
            ]
        );
        assert_eq!(lines[0].json["record"]["type"], "tombstones_cleared");
        assert!(metadata_log(&bytes[..20]).is_err());
        bytes[9] ^= 1;
        assert!(metadata_log(&bytes).is_err());
    }

    #[test]
    fn a_snapshot_with_a_wrong_checksum_is_damaged() {
        let mut bytes = producer_snapshot::encode(&ProducerStates::default());
        let lines = snapshot(&bytes).expect("sound");
        assert_eq!(texts(&lines), ["producer snapshot, crc ok, 0 producers"]);
        *bytes.last_mut().expect("not empty") ^= 1;
        assert!(snapshot(&bytes).is_err());
    }
}

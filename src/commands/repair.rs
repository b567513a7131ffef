//! `corelog repair`: shows which partitions wait for a decision about damage, and takes it.
//!
//! Runs on: the main thread, while no broker runs on the directory.
//! Promises: nothing is changed but by `--accept-loss`, which only notes the decision, durably; the
//! next start carries it out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;

use super::arguments::RepairArguments;
use super::output::Output;
use super::run::Failure;
use crate::journal::block::{RingId, RunId};
use crate::journal::held::{HELD_DIR, Head, file_name, parse_file_name};
use crate::log::partition_metadata;
use crate::model::ids::{PartitionIndex, TopicPartition};
use crate::rt::data_lock::DataLock;

/// The reason when there is none to be read.
const UNREADABLE: &str = "its file of journal entries cannot be read";

/// Stands for every listed partition.
const ALL: &str = "all";

/// A held file.
struct Held {
    path: PathBuf,
    id: TopicPartition,
    /// None when the head cannot be read.
    head: Option<Head>,
    entries: Bytes,
}

/// Lists, or notes what was decided.
pub(super) fn run(arguments: &RepairArguments) -> Result<(), Failure> {
    let data_dir = &arguments.data_dir;
    if !data_dir.join("corelog.json").exists() {
        let text = format!("{}: not a data directory", data_dir.display());
        return Err(Failure::Failed(text));
    }
    let lock = DataLock::acquire(data_dir).map_err(|error| Failure::Failed(error.to_string()))?;
    let names = directories(data_dir)?;
    let mut held = list(data_dir)?;
    for name in &arguments.accept_loss {
        if name == ALL {
            for one in &held {
                accept(one)?;
            }
        } else {
            accept(&find(data_dir, &names, &held, name)?)?;
        }
        held = list(data_dir)?;
    }
    drop(lock);
    print(&held, &names, arguments.json)
}

fn print(
    held: &[Held],
    names: &BTreeMap<TopicPartition, String>,
    as_json: bool,
) -> Result<(), Failure> {
    let mut output = Output::new();
    if as_json {
        let document = held.iter().map(|one| {
            let head = one.head.as_ref();
            json!({
                "partition": names.get(&one.id),
                "topic_id": one.id.topic.to_string(),
                "partition_index": one.id.partition.0,
                "loss_accepted": head.is_some_and(|head| head.is_loss_accepted),
                "reason": head.map_or(UNREADABLE, |head| &head.reason),
                "file": one.path.display().to_string(),
            })
        });
        return output.json(&document.collect());
    }
    if held.is_empty() {
        output.line("no partition waits for a decision")?;
    }
    for one in held {
        let name = names.get(&one.id).map_or("(no directory)", String::as_str);
        let text = match &one.head {
            Some(head) if head.is_loss_accepted => "loss accepted, carried out at the next start",
            Some(head) => head.reason.as_str(),
            None => UNREADABLE,
        };
        output.line(format!("{name}: {text} ({})", one.path.display()))?;
    }
    output.flush()
}

/// Directory names of the partitions that say which topic they belong to.
fn directories(data_dir: &Path) -> Result<BTreeMap<TopicPartition, String>, Failure> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(data_dir.join("topics"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path().join(partition_metadata::FILE_NAME));
        let topic = text
            .ok()
            .and_then(|text| partition_metadata::decode(&text).ok());
        let partition = name
            .rsplit_once('-')
            .and_then(|(_, number)| number.parse().ok());
        if let (Some(topic), Some(partition)) = (topic, partition) {
            names.insert(TopicPartition::new(topic, PartitionIndex(partition)), name);
        }
    }
    Ok(names)
}

fn list(data_dir: &Path) -> Result<Vec<Held>, Failure> {
    let root = data_dir.join(HELD_DIR);
    let mut held = Vec::new();
    if !root.exists() {
        return Ok(held);
    }
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(id) = parse_file_name(&name) else {
            continue;
        };
        let decoded = Head::decode(&Bytes::from(fs::read(&path)?));
        let (head, entries) = match decoded {
            Ok((head, entries)) => (Some(head), entries),
            Err(_) => (None, Bytes::new()),
        };
        held.push(Held {
            path,
            id,
            head,
            entries,
        });
    }
    held.sort_by_key(|one| one.id);
    Ok(held)
}

/// The file of the partition that a directory is named after; a new one if nothing is held of it.
fn find(
    data_dir: &Path,
    names: &BTreeMap<TopicPartition, String>,
    held: &[Held],
    name: &str,
) -> Result<Held, Failure> {
    let Some((id, _)) = names.iter().find(|(_, found)| *found == name) else {
        let text = format!("there is no partition {name} in {}", data_dir.display());
        return Err(Failure::Failed(text));
    };
    let known = held.iter().find(|one| one.id == *id);
    Ok(Held {
        path: data_dir.join(HELD_DIR).join(file_name(*id)),
        id: *id,
        head: known.and_then(|one| one.head.clone()),
        entries: known.map(|one| one.entries.clone()).unwrap_or_default(),
    })
}

/// Replaces the file by one that says that the loss is accepted, durably.
fn accept(held: &Held) -> Result<(), Failure> {
    let new = Head {
        topic_partition: held.id,
        is_loss_accepted: true,
        needs_decision: false,
        reason: String::new(),
        ring: RingId(0),
        run: RunId(0),
        record: None,
        entry_bytes: 0,
    };
    let head = Head {
        is_loss_accepted: true,
        ..held.head.clone().unwrap_or(new)
    };
    let temporary = held.path.with_extension("tmp");
    let directory = held.path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = File::create(&temporary)?;
    file.write_all(&head.encode())?;
    file.write_all(&held.entries)?;
    file.sync_all()?;
    fs::rename(&temporary, &held.path)?;
    File::open(directory)?.sync_all()?;
    if let Some(above) = directory.parent() {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

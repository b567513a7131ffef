//! `corelog group`: list, describe, delete, reset offsets.
//!
//! Runs on: the main thread.
//! Promises: offsets are set with `--execute` only, as Kafka's own tool does it.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use serde_json::{Value, json};

use super::arguments::{GroupCommand, ResetArguments, Selection};
use super::output::Output;
use super::run::Failure;
use crate::client::assignor::decode_assignment;
use crate::client::groups::{self, CommittedOffsets};
use crate::client::topics::{self, OffsetAt};
use crate::client::{Client, Error};
use crate::model::error_code::ErrorCode;

type PartitionKey = (String, i32);

/// Runs the command.
pub(super) fn run(command: GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::List { json, bootstrap } => {
            list(&mut Client::connect(&bootstrap.bootstrap.0)?, json)
        }
        GroupCommand::Describe {
            groups,
            json,
            bootstrap,
        } => {
            let mut client = Client::connect(&bootstrap.bootstrap.0)?;
            let described: Result<Vec<Described>, Failure> = groups
                .iter()
                .map(|name| describe(&mut client, name))
                .collect();
            print_described(&described?, json)
        }
        GroupCommand::Delete { groups, bootstrap } => {
            let mut client = Client::connect(&bootstrap.bootstrap.0)?;
            for name in groups {
                groups::delete(&mut client, &name)?;
            }
            Ok(())
        }
        GroupCommand::ResetOffsets(arguments) => reset_offsets(&arguments),
    }
}

fn list(client: &mut Client, as_json: bool) -> Result<(), Failure> {
    let found = groups::list(client)?;
    let mut output = Output::new();
    if as_json {
        let document: Vec<Value> = found
            .iter()
            .map(|group| {
                json!({
                    "group": &*group.group_id.0,
                    "state": &*group.group_state,
                    "protocol_type": &*group.protocol_type,
                })
            })
            .collect();
        return output.json(&Value::Array(document));
    }
    for group in &found {
        output.line(&*group.group_id.0)?;
    }
    output.flush()
}

/// A group with its members and where each partition stands.
struct Described {
    name: String,
    group: DescribedGroup,
    rows: Vec<PartitionRow>,
}

struct PartitionRow {
    key: PartitionKey,
    committed: Option<i64>,
    end: Option<i64>,
    owner: Option<Owner>,
}

#[derive(Clone)]
struct Owner {
    member: String,
    host: String,
}

impl PartitionRow {
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }
}

fn describe(client: &mut Client, name: &str) -> Result<Described, Failure> {
    let group = groups::describe(client, name)?;
    let committed = groups::committed(client, name, None)?;
    if &*group.group_state == "Dead" && committed.is_empty() {
        return Err(Failure::Failed(format!(
            "group `{name}`: there is no such group"
        )));
    }
    let owners = owners(&group);
    let keys: BTreeSet<PartitionKey> = committed.keys().chain(owners.keys()).cloned().collect();
    let ends = ends(client, &keys)?;
    let rows = keys
        .into_iter()
        .map(|key| PartitionRow {
            committed: committed.get(&key).map(|found| found.offset),
            end: ends.get(&key).copied(),
            owner: owners.get(&key).cloned(),
            key,
        })
        .collect();
    Ok(Described {
        name: name.to_owned(),
        group,
        rows,
    })
}

/// Java brokers print an address with a slash before it.
fn host_of(member: &DescribedGroupMember) -> &str {
    member.client_host.trim_start_matches('/')
}

fn owners(group: &DescribedGroup) -> BTreeMap<PartitionKey, Owner> {
    let mut owners = BTreeMap::new();
    for member in &group.members {
        let owner = Owner {
            member: member.member_id.to_string(),
            host: host_of(member).to_owned(),
        };
        // a group of another protocol (Connect) has assignments that are no consumer's
        for (topic, partitions) in
            decode_assignment(member.member_assignment.clone()).unwrap_or_default()
        {
            for partition in partitions {
                owners.insert((topic.clone(), partition), owner.clone());
            }
        }
    }
    owners
}

/// The end of each partition; none for topics that are gone.
fn ends(
    client: &mut Client,
    keys: &BTreeSet<PartitionKey>,
) -> Result<BTreeMap<PartitionKey, i64>, Error> {
    let topics: BTreeSet<&String> = keys.iter().map(|(topic, _)| topic).collect();
    let mut ends = BTreeMap::new();
    for name in topics {
        let described = match client.topic(name) {
            Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => continue,
            other => other?,
        };
        for (partition, end) in topics::offsets(client, &described, &[], OffsetAt::Latest)? {
            ends.insert((name.clone(), partition), end);
        }
    }
    Ok(ends)
}

fn print_described(described: &[Described], as_json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if as_json {
        let document: Vec<Value> = described.iter().map(described_json).collect();
        return output.json(&Value::Array(document));
    }
    for (at, one) in described.iter().enumerate() {
        if at > 0 {
            output.line("")?;
        }
        let state = &*one.group.group_state;
        let members = one.group.members.len();
        output.line(format!(
            "group {}  state {state}  members {members}",
            one.name
        ))?;
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let rows: Vec<Vec<String>> = one
            .rows
            .iter()
            .map(|row| {
                let (member, host) = row.owner.as_ref().map_or(("-", "-"), |owner| {
                    (owner.member.as_str(), owner.host.as_str())
                });
                vec![
                    format!("  {}", row.key.0),
                    row.key.1.to_string(),
                    number(row.committed),
                    number(row.end),
                    number(row.lag()),
                    member.to_owned(),
                    host.to_owned(),
                ]
            })
            .collect();
        if !rows.is_empty() {
            let head = [
                "  TOPIC",
                "PARTITION",
                "COMMITTED",
                "END",
                "LAG",
                "MEMBER",
                "HOST",
            ];
            output.table(&head, &rows)?;
        }
    }
    output.flush()
}

fn described_json(one: &Described) -> Value {
    let partitions: Vec<Value> = one
        .rows
        .iter()
        .map(|row| {
            json!({
                "topic": row.key.0,
                "partition": row.key.1,
                "committed": row.committed,
                "end": row.end,
                "lag": row.lag(),
                "member": row.owner.as_ref().map(|owner| &owner.member),
                "host": row.owner.as_ref().map(|owner| &owner.host),
            })
        })
        .collect();
    let members: Vec<Value> = one
        .group
        .members
        .iter()
        .map(|member| {
            json!({
                "member": &*member.member_id,
                "instance": member.group_instance_id.as_deref(),
                "client_id": &*member.client_id,
                "host": host_of(member),
            })
        })
        .collect();
    json!({
        "group": one.name,
        "state": &*one.group.group_state,
        "protocol": &*one.group.protocol_data,
        "members": members,
        "partitions": partitions,
    })
}

/// Where the offsets of a group shall go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    At(OffsetAt),
    Offset(i64),
    Shift(i64),
}

fn target(arguments: &ResetArguments) -> Target {
    if let Some(offset) = arguments.to_offset {
        Target::Offset(offset)
    } else if let Some(at) = arguments.to_timestamp {
        Target::At(OffsetAt::Timestamp(at))
    } else if let Some(by) = arguments.shift_by {
        Target::Shift(by)
    } else if arguments.to_latest {
        Target::At(OffsetAt::Latest)
    } else {
        Target::At(OffsetAt::Earliest)
    }
}

fn reset_offsets(arguments: &ResetArguments) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.bootstrap.bootstrap.0)?;
    let name = &arguments.group;
    let group = groups::describe(&mut client, name)?;
    if !matches!(&*group.group_state, "Empty" | "Dead") {
        let (state, members) = (&*group.group_state, group.members.len());
        return Err(Failure::Failed(format!(
            "group `{name}` is {state} with {members} members: stop them before its offsets are set"
        )));
    }
    let committed = groups::committed(&mut client, name, None)?;
    let mut selections = arguments.topic.clone();
    if selections.is_empty() {
        let topics: BTreeSet<&String> = committed.keys().map(|(topic, _)| topic).collect();
        selections = topics
            .into_iter()
            .map(|topic| Selection {
                topic: topic.clone(),
                partitions: Vec::new(),
            })
            .collect();
    }
    if selections.is_empty() {
        let text = format!("group `{name}` has committed nothing: name topics with --topic");
        return Err(Failure::Failed(text));
    }
    let mut wanted = BTreeMap::new();
    for selection in &selections {
        wanted.extend(choose(
            &mut client,
            selection,
            target(arguments),
            &committed,
        )?);
    }
    if arguments.execute {
        client.retry_at_coordinator(name, |connection| {
            groups::commit(connection, name, &groups::ADMINISTRATOR, &wanted)
        })?;
    }
    print_reset(&committed, &wanted, arguments)?;
    if !arguments.execute {
        eprintln!("corelog: nothing was changed: --execute sets these offsets");
    }
    Ok(())
}

fn choose(
    client: &mut Client,
    selection: &Selection,
    target: Target,
    committed: &CommittedOffsets,
) -> Result<BTreeMap<PartitionKey, i64>, Failure> {
    let described = client.topic(&selection.topic)?;
    let known = |index: &i32| {
        described
            .partitions
            .iter()
            .any(|p| p.partition_index == *index)
    };
    if let Some(unknown) = selection.partitions.iter().find(|index| !known(index)) {
        let topic = &selection.topic;
        return Err(Failure::Failed(format!(
            "topic `{topic}` has no partition {unknown}"
        )));
    }
    let wanted = &selection.partitions;
    let offsets = match target {
        Target::At(at) => topics::offsets(client, &described, wanted, at)?,
        Target::Offset(_) | Target::Shift(_) => {
            let starts = topics::offsets(client, &described, wanted, OffsetAt::Earliest)?;
            let ends = topics::offsets(client, &described, wanted, OffsetAt::Latest)?;
            starts
                .into_iter()
                .map(|(partition, start)| {
                    let end = ends.get(&partition).copied().unwrap_or(start);
                    let key = (selection.topic.clone(), partition);
                    let present = committed.get(&key).map_or(start, |found| found.offset);
                    let asked = moved(target, present);
                    let offset = asked.clamp(start, end.max(start));
                    if offset != asked {
                        eprintln!(
                            "corelog: {}-{partition}: offset {asked} is not within the log, \
                             {start} to {end}: {offset} is taken",
                            selection.topic
                        );
                    }
                    (partition, offset)
                })
                .collect()
        }
    };
    let keyed = offsets
        .into_iter()
        .map(|(partition, offset)| ((selection.topic.clone(), partition), offset));
    Ok(keyed.collect())
}

/// The offset that is asked for, wherever the log begins and ends.
fn moved(target: Target, present: i64) -> i64 {
    match target {
        Target::Offset(offset) => offset,
        Target::Shift(by) => present.saturating_add(by),
        Target::At(_) => present,
    }
}

fn print_reset(
    committed: &CommittedOffsets,
    wanted: &BTreeMap<PartitionKey, i64>,
    arguments: &ResetArguments,
) -> Result<(), Failure> {
    let mut output = Output::new();
    let before = |key: &PartitionKey| committed.get(key).map(|found| found.offset);
    if arguments.json {
        let document: Vec<Value> = wanted
            .iter()
            .map(|(key, offset)| {
                json!({
                    "topic": key.0,
                    "partition": key.1,
                    "before": before(key),
                    "offset": offset,
                    "committed": arguments.execute,
                })
            })
            .collect();
        return output.json(&Value::Array(document));
    }
    let rows: Vec<Vec<String>> = wanted
        .iter()
        .map(|(key, offset)| {
            let before = before(key).map_or_else(|| "-".to_owned(), |offset| offset.to_string());
            vec![key.0.clone(), key.1.to_string(), before, offset.to_string()]
        })
        .collect();
    let last = if arguments.execute { "NOW" } else { "WOULD BE" };
    output.table(&["TOPIC", "PARTITION", "BEFORE", last], &rows)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_counts_from_the_committed_offset() {
        assert_eq!(moved(Target::Shift(-5), 50), 45);
        assert_eq!(moved(Target::Shift(5), i64::MAX), i64::MAX);
        assert_eq!(moved(Target::Offset(5), 50), 5);
    }

    #[test]
    fn lag_is_known_only_with_both_ends_and_never_negative() {
        let row = |committed, end| PartitionRow {
            key: ("t".into(), 0),
            committed,
            end,
            owner: None,
        };
        assert_eq!(row(Some(3), Some(10)).lag(), Some(7));
        assert_eq!(row(Some(12), Some(10)).lag(), Some(0));
        assert_eq!(row(None, Some(10)).lag(), None);
    }
}

//! Administration of consumer groups: list, describe, delete, committed offsets.
//!
//! Runs on: the calling thread.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest, OffsetCommitRequest,
    OffsetFetchRequest,
};

use super::assignor::Partitions;
use super::cluster::Client;
use super::connection::Connection;
use super::error::Error;
use super::topics::{text, topic};

/// A committed position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// What the member wrote beside it.
    pub metadata: String,
}

/// Committed positions by topic and partition.
pub type CommittedOffsets = BTreeMap<(String, i32), Committed>;

/// Who commits: a member in its generation, or an administrator (generation -1, no member).
#[derive(Debug, Clone)]
pub struct Committer<'a> {
    /// The member's id; empty for an administrator.
    pub member_id: &'a str,
    /// The member's generation; -1 for an administrator.
    pub generation: i32,
}

/// An administrator: only a group without members accepts it.
pub const ADMINISTRATOR: Committer<'static> = Committer {
    member_id: "",
    generation: -1,
};

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

/// All groups of all brokers that were seen.
pub fn list(client: &mut Client) -> Result<Vec<ListedGroup>, Error> {
    let mut groups = Vec::new();
    for node in client.nodes() {
        let response = client.node(node)?.call(&ListGroupsRequest::default(), 4)?;
        Error::check(
            || format!("groups of broker {node}"),
            response.error_code,
            None,
        )?;
        groups.extend(response.groups);
    }
    groups.sort_by(|a, b| a.group_id.0.cmp(&b.group_id.0));
    Ok(groups)
}

/// State and members of a group. One that does not exist is in state `Dead`.
pub fn describe(client: &mut Client, name: &str) -> Result<DescribedGroup, Error> {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(name)]);
    client.retry_at_coordinator(name, |connection| {
        let response = connection.call(&request, 5)?;
        let group = response.groups.into_iter().next().unwrap_or_default();
        let message = group.error_message.as_deref();
        Error::check(|| format!("group `{name}`"), group.error_code, message)?;
        Ok(group)
    })
}

/// Deletes a group without members.
pub fn delete(client: &mut Client, name: &str) -> Result<(), Error> {
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(name)]);
    client.retry_at_coordinator(name, |connection| {
        let response = connection.call(&request, 2)?;
        for result in &response.results {
            Error::check(|| format!("group `{name}`"), result.error_code, None)?;
        }
        Ok(())
    })
}

/// Committed offsets of a group: of these partitions by topic, or (`None`) all.
pub fn committed(
    client: &mut Client,
    name: &str,
    wanted: Option<&Partitions>,
) -> Result<CommittedOffsets, Error> {
    let topics = wanted.map(|wanted| {
        let topics = wanted.iter().map(|(name, partitions)| {
            OffsetFetchRequestTopic::default()
                .with_name(topic(name))
                .with_partition_indexes(partitions.clone())
        });
        topics.collect()
    });
    let request = OffsetFetchRequest::default()
        .with_group_id(group_id(name))
        .with_topics(topics);
    client.retry_at_coordinator(name, |connection| {
        let response = connection.call(&request, 7)?;
        let what = || format!("offsets of group `{name}`");
        Error::check(what, response.error_code, None)?;
        let mut offsets = CommittedOffsets::new();
        for found in &response.topics {
            for partition in &found.partitions {
                Error::check(what, partition.error_code, None)?;
                if partition.committed_offset >= 0 {
                    let key = (found.name.0.to_string(), partition.partition_index);
                    let metadata = partition.metadata.as_deref().unwrap_or_default().to_owned();
                    let offset = partition.committed_offset;
                    offsets.insert(key, Committed { offset, metadata });
                }
            }
        }
        Ok(offsets)
    })
}

/// Commits offsets at the coordinator.
pub fn commit(
    connection: &mut Connection,
    name: &str,
    committer: &Committer<'_>,
    offsets: &BTreeMap<(String, i32), i64>,
) -> Result<(), Error> {
    let mut by_topic: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, partition), offset) in offsets {
        let entry = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text("")));
        by_topic.entry(topic).or_default().push(entry);
    }
    let topics = by_topic
        .into_iter()
        .map(|(name, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic(name))
                .with_partitions(partitions)
        })
        .collect();
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(name))
        .with_generation_id_or_member_epoch(committer.generation)
        .with_member_id(text(committer.member_id))
        .with_retention_time_ms(-1)
        .with_topics(topics);
    let response = connection.call(&request, 8)?;
    for found in &response.topics {
        for partition in &found.partitions {
            let what = || {
                let (topic, index) = (&found.name.0, partition.partition_index);
                format!("commit of group `{name}` for partition {index} of topic `{topic}`")
            };
            Error::check(what, partition.error_code, None)?;
        }
    }
    Ok(())
}

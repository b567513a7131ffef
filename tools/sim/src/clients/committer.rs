//! Commits offsets of a group without members, and asks for them.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::wire::Connection;
use crate::world::{TOPICS, World, refused};

/// The group that has no members.
pub(crate) const GROUP: &str = "alone";

/// The numbers that it commits, always higher.
#[derive(Default)]
pub(crate) struct Committer {
    next: Cell<i64>,
}

impl Committer {
    pub(crate) async fn run(self: Rc<Self>, world: Rc<World>) {
        while let Some(mut connection) = world.connect().await {
            drop(self.serve(&world, &mut connection).await);
            world.pause().await;
        }
    }

    async fn serve(&self, world: &World, connection: &mut Connection) -> io::Result<()> {
        let (topic, partitions) = TOPICS[0];
        while !world.is_over() {
            let partition = i32::try_from(world.below(3)).expect("small") % partitions;
            if world.chance(4) {
                fetch(world, connection, GROUP, topic, partition).await?;
                continue;
            }
            let (offset, life) = (self.next.get() + 1, world.life.get());
            self.next.set(offset);
            world.with_offsets(GROUP, |offsets| offsets.on_send(partition, offset, life));
            let request = commit_request(GROUP, ("", -1), topic, partition, offset);
            let response = connection.call(&request, 8).await?;
            world.count("committed");
            let found = response.topics.first().and_then(|t| t.partitions.first());
            match found.ok_or(io::ErrorKind::InvalidData)?.error_code {
                0 => world.with_offsets(GROUP, |offsets| offsets.on_answered(partition, offset)),
                code => return Err(refused(code)),
            }
        }
        Ok(())
    }
}

/// An OffsetCommit of one partition, of a member in its generation or of nobody.
pub(crate) fn commit_request(
    group: &'static str,
    (member, generation): (&str, i32),
    topic: &'static str,
    partition: i32,
    offset: i64,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(topic)))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str(group)))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(StrBytes::from_string(member.to_owned()))
        .with_topics(vec![topic])
}

/// Asks for what is committed and holds it against what is known.
pub(crate) async fn fetch(
    world: &World,
    connection: &mut Connection,
    group: &'static str,
    topic: &'static str,
    partition: i32,
) -> io::Result<()> {
    let asked = OffsetFetchRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(topic)))
        .with_partition_indexes(vec![partition]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str(group)))
        .with_topics(Some(vec![asked]));
    let response = connection.call(&request, 7).await?;
    world.count("offset fetched");
    if response.error_code != 0 {
        return Err(refused(response.error_code));
    }
    let found = response.topics.first().and_then(|t| t.partitions.first());
    let found = found.ok_or(io::ErrorKind::InvalidData)?;
    if found.error_code != 0 {
        return Err(refused(found.error_code));
    }
    let (got, life) = (found.committed_offset, world.life.get());
    world.with_offsets(group, |offsets| {
        offsets.on_fetched(group, partition, got, life);
    });
    Ok(())
}

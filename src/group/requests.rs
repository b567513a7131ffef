//! What the coordinator is asked and what it answers: plain owned structs, `Send`, because they
//! travel from the connection's shard to the group's home shard and back.
//!
//! Pure: no async, no clock, no IO.
//! Promises: differences between protocol versions arrive here as fields
//! (`requires_known_member_id`, `supports_skip_assignment`), never as a version number.

use bytes::Bytes;

use super::settings::MEMBER_BYTES;
use crate::model::error_code::ErrorCode;

/// The generation of somebody who is in none: simple consumers, refused joins.
pub const NO_GENERATION: i32 = -1;

/// One assignor that a member supports, with the member's metadata for it (opaque bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Name of the assignor.
    pub name: String,
    /// The member's subscription, in the assignor's own format.
    pub metadata: Bytes,
}

impl Protocol {
    /// Bytes that it makes the shard remember, roughly.
    pub fn size_bytes(&self) -> usize {
        self.name.len() + self.metadata.len()
    }
}

/// JoinGroup.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The group.
    pub group_id: String,
    /// Empty: a member that does not know its id yet.
    pub member_id: String,
    /// Set for static members (KIP-345).
    pub group_instance_id: Option<String>,
    /// Of the request's header; becomes the prefix of a dynamic member's id.
    pub client_id: String,
    /// The peer's address as Kafka shows it ("/127.0.0.1").
    pub client_host: String,
    /// How long the member may be silent.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for this member; version 0 has none: the session timeout.
    pub rebalance_timeout_ms: i32,
    /// "consumer", "connect", ...
    pub protocol_type: String,
    /// The member's assignors, the preferred one first.
    pub protocols: Vec<Protocol>,
    /// From version 4: a dynamic member without id is given one and has to come back with it.
    pub requires_known_member_id: bool,
    /// From version 9: a static leader may be told to leave the assignment as it is (KIP-814).
    pub supports_skip_assignment: bool,
}

impl JoinRequest {
    /// Bytes that it makes the shard remember of a member, roughly.
    pub fn size_bytes(&self) -> usize {
        let protocols = self.protocols.iter().map(Protocol::size_bytes);
        protocols.sum::<usize>()
            + self.client_id.len()
            + self.client_host.len()
            + self.group_instance_id.as_ref().map_or(0, String::len)
            + MEMBER_BYTES
    }
}

/// One member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: String,
    /// Its instance id, if it is static.
    pub group_instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// Answer to JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinResponse {
    /// The error, or `None`.
    pub error: ErrorCode,
    /// The generation joined, -1 on errors.
    pub generation_id: i32,
    /// Version 7 and later; absent on most errors.
    pub protocol_type: Option<String>,
    /// The chosen assignor; versions below 7 write an absent one as "".
    pub protocol_name: Option<String>,
    /// Id of the leader.
    pub leader: String,
    /// The leader shall not compute a new assignment.
    pub skip_assignment: bool,
    /// The id under which the asker is known.
    pub member_id: String,
    /// All members, for the leader only.
    pub members: Vec<JoinedMember>,
}

impl JoinResponse {
    /// A refusal.
    pub fn refused(member_id: impl Into<String>, error: ErrorCode) -> Self {
        Self {
            error,
            generation_id: NO_GENERATION,
            protocol_type: None,
            protocol_name: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.into(),
            members: Vec::new(),
        }
    }
}

/// SyncGroup.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// The group.
    pub group_id: String,
    /// The generation of the join answer.
    pub generation_id: i32,
    /// The asker.
    pub member_id: String,
    /// Set for static members.
    pub group_instance_id: Option<String>,
    /// Version 5 and later: has to match the group's.
    pub protocol_type: Option<String>,
    /// Version 5 and later: has to match the chosen one.
    pub protocol_name: Option<String>,
    /// Member id and assignment; of the leader only.
    pub assignments: Vec<(String, Bytes)>,
}

/// Answer to SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncResponse {
    /// The error, or `None`.
    pub error: ErrorCode,
    /// Version 5 and later.
    pub protocol_type: Option<String>,
    /// Version 5 and later.
    pub protocol_name: Option<String>,
    /// The asker's assignment.
    pub assignment: Bytes,
}

impl SyncResponse {
    /// A refusal.
    pub const fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            protocol_type: None,
            protocol_name: None,
            assignment: Bytes::new(),
        }
    }
}

/// Heartbeat. The answer is an error code.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    /// The group.
    pub group_id: String,
    /// The member's generation.
    pub generation_id: i32,
    /// The member.
    pub member_id: String,
    /// Set for static members.
    pub group_instance_id: Option<String>,
}

/// One member that leaves: by member id, or (administrators) by instance id alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingMember {
    /// Empty: whoever holds the instance id.
    pub member_id: String,
    /// Set for static members.
    pub group_instance_id: Option<String>,
}

/// LeaveGroup; versions below 3 name one member.
#[derive(Clone, Debug)]
pub struct LeaveRequest {
    /// The group.
    pub group_id: String,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// Answer to LeaveGroup; versions below 3 write the only member's error at the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveResponse {
    /// The error of the whole request, or `None`.
    pub error: ErrorCode,
    /// In the order asked.
    pub members: Vec<(LeavingMember, ErrorCode)>,
}

/// One offset to commit.
#[derive(Clone, Debug)]
pub struct OffsetToCommit {
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// Whatever the client wants back.
    pub metadata: String,
}

/// OffsetCommit. The handler has already refused topics that do not exist.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// The group; "" is a group too.
    pub group_id: String,
    /// -1 for simple consumers.
    pub generation_id: i32,
    /// Empty for simple consumers.
    pub member_id: String,
    /// Set for static members.
    pub group_instance_id: Option<String>,
    /// Versions 2 to 4: how long to keep the offsets; absent (or -1 on the wire): the broker's
    /// rule.
    pub retention_time_ms: Option<i64>,
    /// By topic name.
    pub topics: Vec<(String, Vec<OffsetToCommit>)>,
}

/// Per topic: partition and outcome. Used by OffsetCommit and OffsetDelete.
pub type PartitionOutcomes = Vec<(String, Vec<(i32, ErrorCode)>)>;

/// Answer to OffsetCommit, in the order asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitResponse {
    /// Every topic and partition of the request.
    pub topics: PartitionOutcomes,
}

/// OffsetFetch of one group.
#[derive(Clone, Debug)]
pub struct FetchOffsetsRequest {
    /// The group.
    pub group_id: String,
    /// Topics and partitions; absent: all that the group has.
    pub topics: Option<Vec<(String, Vec<i32>)>>,
    /// Version 7: wait for offsets of open transactions.
    pub require_stable: bool,
}

/// One committed offset, or its absence (offset -1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    /// The partition.
    pub partition: i32,
    /// The committed offset, -1 if there is none.
    pub offset: i64,
    /// Its leader epoch, -1 if unknown.
    pub leader_epoch: i32,
    /// The client's metadata.
    pub metadata: String,
    /// The error, or `None`.
    pub error: ErrorCode,
}

/// Answer to OffsetFetch of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOffsetsResponse {
    /// The error of the whole group, or `None`; versions below 3 repeat it on every partition.
    pub error: ErrorCode,
    /// In the order asked, or by name.
    pub topics: Vec<(String, Vec<FetchedOffset>)>,
}

impl FetchOffsetsResponse {
    /// A refusal: the error for the group, and for every partition that was asked for, because
    /// versions below 2 have no other place for it.
    pub fn refused(topics: Option<Vec<(String, Vec<i32>)>>, error: ErrorCode) -> Self {
        let refuse = |partition| FetchedOffset {
            partition,
            offset: -1,
            leader_epoch: -1,
            metadata: String::new(),
            error,
        };
        let topics = topics
            .unwrap_or_default()
            .into_iter()
            .map(|(topic, partitions)| (topic, partitions.into_iter().map(refuse).collect()));
        Self {
            error,
            topics: topics.collect(),
        }
    }
}

/// One member as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: String,
    /// Its instance id, if it is static.
    pub group_instance_id: Option<String>,
    /// Its client id.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// Its metadata for the chosen protocol; empty unless the group is stable.
    pub metadata: Bytes,
    /// Its assignment; empty unless the group is stable.
    pub assignment: Bytes,
}

/// Answer to DescribeGroups for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeResponse {
    /// `GroupIdNotFound` for an unknown group: version 6 answers it, versions below 6 answer
    /// success with the state "Dead".
    pub error: ErrorCode,
    /// The group.
    pub group_id: String,
    /// Kafka's name of the state.
    pub state: &'static str,
    /// "" for groups that never had a member.
    pub protocol_type: String,
    /// The chosen protocol; "" unless the group is stable.
    pub protocol: String,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// ListGroups.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Version 4: only these states (in any case); empty: all.
    pub states: Vec<String>,
    /// Version 5: only these types (in any case); empty: all.
    pub types: Vec<String>,
}

/// One line of ListGroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group_id: String,
    /// "" for groups that never had a member.
    pub protocol_type: String,
    /// Kafka's name of the state.
    pub state: &'static str,
    /// Kafka's name of the type: "classic".
    pub group_type: &'static str,
}

/// Answer to ListGroups of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListResponse {
    /// `CoordinatorLoadInProgress` while a part is still being read, or `None`.
    pub error: ErrorCode,
    /// What matches the filters, by group id.
    pub groups: Vec<ListedGroup>,
}

/// OffsetDelete.
#[derive(Clone, Debug)]
pub struct DeleteOffsetsRequest {
    /// The group.
    pub group_id: String,
    /// Topics and partitions whose offsets go.
    pub topics: Vec<(String, Vec<i32>)>,
}

/// Answer to OffsetDelete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOffsetsResponse {
    /// The error of the whole request, or `None`.
    pub error: ErrorCode,
    /// In the order asked; empty when the whole request failed.
    pub topics: PartitionOutcomes,
}

/// Everything a shard can be asked about groups; the answer is the variant of the same name.
#[derive(Clone, Debug)]
pub enum GroupRequest {
    /// JoinGroup.
    Join(JoinRequest),
    /// SyncGroup.
    Sync(SyncRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup.
    Leave(LeaveRequest),
    /// OffsetCommit.
    Commit(CommitRequest),
    /// OffsetFetch of one group.
    FetchOffsets(FetchOffsetsRequest),
    /// DescribeGroups of one group.
    Describe(String),
    /// DeleteGroups of one group.
    Delete(String),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsetsRequest),
    /// ListGroups; the only one that goes to every shard.
    List(ListRequest),
}

impl GroupRequest {
    /// The group that decides the home shard; "" for `List`, which every shard answers.
    pub fn group_id(&self) -> &str {
        match self {
            Self::Join(request) => &request.group_id,
            Self::Sync(request) => &request.group_id,
            Self::Heartbeat(request) => &request.group_id,
            Self::Leave(request) => &request.group_id,
            Self::Commit(request) => &request.group_id,
            Self::FetchOffsets(request) => &request.group_id,
            Self::Describe(group_id) | Self::Delete(group_id) => group_id,
            Self::DeleteOffsets(request) => &request.group_id,
            Self::List(_) => "",
        }
    }
}

/// The answers.
#[derive(Clone, Debug)]
pub enum GroupReply {
    /// JoinGroup.
    Join(JoinResponse),
    /// SyncGroup.
    Sync(SyncResponse),
    /// Heartbeat.
    Heartbeat(ErrorCode),
    /// LeaveGroup.
    Leave(LeaveResponse),
    /// OffsetCommit.
    Commit(CommitResponse),
    /// OffsetFetch of one group.
    FetchOffsets(FetchOffsetsResponse),
    /// DescribeGroups of one group.
    Describe(DescribeResponse),
    /// DeleteGroups of one group.
    Delete(ErrorCode),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsetsResponse),
    /// ListGroups of one shard.
    List(ListResponse),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_cross_the_mesh() {
        fn crosses<T: Send + 'static>() {}
        crosses::<GroupRequest>();
        crosses::<GroupReply>();
    }

    #[test]
    fn every_request_but_list_names_its_group() {
        let request = GroupRequest::Delete("g".to_owned());
        assert_eq!(request.group_id(), "g");
        assert_eq!(GroupRequest::List(ListRequest::default()).group_id(), "");
    }
}

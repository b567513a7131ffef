//! The metadata image: what exists in the cluster, as one immutable value.
//!
//! Pure: no async, no clock, no IO.
//! Owner: the controller makes a new image for every change; each shard holds the newest in an
//! `Arc`.
//! Promises: an image is the result of applying all records of the metadata log in order.
//! Invariants: [topic-names-unique] one live topic per name; [topic-ids-once] an id never returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{self, TopicOverrides};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};
use crate::model::topic_name;

/// One topic. Shared between images that did not change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Never reused, also not by a topic of the same name (KIP-516).
    pub id: TopicId,
    /// Kafka's topic name.
    pub name: Arc<str>,
    /// Partitions are numbered `0..partition_count`.
    pub partition_count: i32,
    /// Epoch of the one leader there is; above that of every record (KIP-101).
    pub leader_epoch: i32,
    /// Settings of this topic that differ from the broker's, by Kafka's names.
    pub overrides: TopicOverrides,
}

impl Topic {
    /// All partitions in order.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        (0..self.partition_count).map(|p| TopicPartition::new(self.id, PartitionIndex(p)))
    }

    /// The partition of that number, if the topic has it.
    pub fn partition(&self, index: i32) -> Option<TopicPartition> {
        (0..self.partition_count)
            .contains(&index)
            .then_some(TopicPartition::new(self.id, PartitionIndex(index)))
    }

    /// Topics that the broker keeps for itself; clients see them marked internal.
    pub fn is_internal(&self) -> bool {
        topic_name::is_internal_topic(&self.name)
    }
}

/// One change of the metadata. The log holds these in order; their JSON is the on-disk form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A topic came into being.
    TopicCreated {
        /// Base64url uuid.
        id: String,
        /// Topic name.
        name: String,
        /// Number of partitions.
        partitions: i32,
        /// Leader epoch; above 0 for a topic adopted from another broker's directory.
        #[serde(default)]
        leader_epoch: i32,
        /// Overrides by Kafka's names.
        configs: BTreeMap<String, String>,
    },
    /// The topic now has `partitions` partitions, more than before.
    PartitionsAdded {
        /// Base64url uuid.
        id: String,
        /// The new count.
        partitions: i32,
    },
    /// The overrides of a topic, whole.
    TopicConfigured {
        /// Base64url uuid.
        id: String,
        /// All overrides from now on.
        configs: BTreeMap<String, String>,
    },
    /// The topic is gone; its id stays behind as a tombstone until no journal holds it.
    TopicDeleted {
        /// Base64url uuid.
        id: String,
    },
    /// No journal and no directory holds anything of the ids deleted so far.
    TombstonesCleared,
    /// All records before are durable: one of them that is not whole is damaged, not torn.
    Durable,
    /// The dynamic settings of the broker, whole.
    BrokerConfigured {
        /// All dynamic settings from now on.
        configs: BTreeMap<String, String>,
    },
    /// The settings of a group, whole; none is no more of them.
    GroupConfigured {
        /// Group id.
        group: String,
        /// All settings from now on.
        configs: BTreeMap<String, String>,
    },
    /// Producer ids below `next` may have been given out.
    ProducerIdsReserved {
        /// First id that was never given out.
        next: i64,
    },
}

/// A record that does not fit the image it is applied to: the log is damaged or from a newer
/// version.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ApplyError {
    /// The id is not a base64url uuid.
    #[error("metadata record names the malformed topic id {0:?}")]
    BadId(String),
    /// Two live topics of one name.
    #[error("metadata record creates topic {0:?} twice")]
    NameTaken(String),
    /// Create of an id that exists or existed.
    #[error("metadata record reuses topic id {0}")]
    IdTaken(TopicId),
    /// An override that this version does not know.
    #[error("metadata record: {0}")]
    BadConfig(#[from] config::Error),
    /// Change of a topic that is not there.
    #[error("metadata record changes the unknown topic id {0}")]
    UnknownTopic(TopicId),
}

/// Everything the cluster has, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    version: u64,
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    names: BTreeMap<TopicId, Arc<str>>,
    tombstones: BTreeSet<TopicId>,
    broker_overrides: BTreeMap<String, String>,
    group_overrides: BTreeMap<String, BTreeMap<String, String>>,
    next_producer_id: i64,
}

impl Image {
    /// Records applied since the cluster was made; later images have a higher version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic of that id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Number of live topics.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Number of partitions of all live topics.
    pub fn partition_count(&self) -> u64 {
        self.topics
            .values()
            .map(|t| u64::try_from(t.partition_count).unwrap_or(0))
            .sum()
    }

    /// Whether the id belonged to a topic that is deleted while some journal may still hold it.
    pub fn is_tombstoned(&self, id: TopicId) -> bool {
        self.tombstones.contains(&id)
    }

    /// Whether any deleted id is still remembered.
    pub fn has_tombstones(&self) -> bool {
        !self.tombstones.is_empty()
    }

    /// Dynamic settings of the broker.
    pub fn broker_overrides(&self) -> &BTreeMap<String, String> {
        &self.broker_overrides
    }

    /// Settings of groups that have some, by group id.
    pub fn group_overrides(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.group_overrides
    }

    /// First producer id that was never given out.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The image after `records`, applied in order.
    pub fn apply(&self, records: &[Record]) -> Result<Self, ApplyError> {
        let mut next = self.clone();
        for record in records {
            next.apply_one(record)?;
            next.version += 1;
        }
        Ok(next)
    }

    fn apply_one(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::TopicCreated {
                id,
                name,
                partitions,
                leader_epoch,
                configs,
            } => self.create(Topic {
                id: parse_id(id)?,
                name: name.as_str().into(),
                partition_count: *partitions,
                leader_epoch: *leader_epoch,
                overrides: overrides_of(configs)?,
            }),
            Record::PartitionsAdded { id, partitions } => {
                self.change(parse_id(id)?, |topic| topic.partition_count = *partitions)
            }
            Record::TopicConfigured { id, configs } => {
                let overrides = overrides_of(configs)?;
                self.change(parse_id(id)?, |topic| topic.overrides = overrides)
            }
            Record::TopicDeleted { id } => self.delete(parse_id(id)?),
            Record::TombstonesCleared => {
                self.tombstones.clear();
                Ok(())
            }
            Record::Durable => Ok(()),
            Record::BrokerConfigured { configs } => {
                self.broker_overrides.clone_from(configs);
                Ok(())
            }
            Record::GroupConfigured { group, configs } => {
                if configs.is_empty() {
                    self.group_overrides.remove(group);
                } else {
                    self.group_overrides.insert(group.clone(), configs.clone());
                }
                Ok(())
            }
            Record::ProducerIdsReserved { next } => {
                self.next_producer_id = self.next_producer_id.max(*next);
                Ok(())
            }
        }
    }

    fn create(&mut self, topic: Topic) -> Result<(), ApplyError> {
        if self.topics.contains_key(&topic.name) {
            return Err(ApplyError::NameTaken(topic.name.to_string()));
        }
        if self.names.contains_key(&topic.id) || self.tombstones.contains(&topic.id) {
            return Err(ApplyError::IdTaken(topic.id));
        }
        self.names.insert(topic.id, topic.name.clone());
        self.topics.insert(topic.name.clone(), Arc::new(topic));
        Ok(())
    }

    fn change(&mut self, id: TopicId, change: impl FnOnce(&mut Topic)) -> Result<(), ApplyError> {
        let topic = self
            .names
            .get(&id)
            .and_then(|name| self.topics.get_mut(name))
            .ok_or(ApplyError::UnknownTopic(id))?;
        change(Arc::make_mut(topic));
        Ok(())
    }

    fn delete(&mut self, id: TopicId) -> Result<(), ApplyError> {
        let name = self.names.remove(&id).ok_or(ApplyError::UnknownTopic(id))?;
        self.topics.remove(&name);
        self.tombstones.insert(id);
        Ok(())
    }

    /// Records that lead from an empty image to this one (except for its version): the snapshot.
    pub fn to_records(&self) -> Vec<Record> {
        let mut records = Vec::with_capacity(self.topics.len() + 2);
        for id in &self.tombstones {
            let name = format!("deleted-{id}");
            let configs = BTreeMap::new();
            let id = id.to_string();
            records.push(Record::TopicCreated {
                id: id.clone(),
                name,
                partitions: 1,
                leader_epoch: 0,
                configs,
            });
            records.push(Record::TopicDeleted { id });
        }
        for topic in self.topics.values() {
            records.push(Record::TopicCreated {
                id: topic.id.to_string(),
                name: topic.name.to_string(),
                partitions: topic.partition_count,
                leader_epoch: topic.leader_epoch,
                configs: texts_of(&topic.overrides),
            });
        }
        if !self.broker_overrides.is_empty() {
            records.push(Record::BrokerConfigured {
                configs: self.broker_overrides.clone(),
            });
        }
        for (group, configs) in &self.group_overrides {
            records.push(Record::GroupConfigured {
                group: group.clone(),
                configs: configs.clone(),
            });
        }
        if self.next_producer_id > 0 {
            records.push(Record::ProducerIdsReserved {
                next: self.next_producer_id,
            });
        }
        records
    }
}

fn overrides_of(configs: &BTreeMap<String, String>) -> Result<TopicOverrides, config::Error> {
    TopicOverrides::new(
        configs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

/// The overrides as records keep them.
pub fn texts_of(overrides: &TopicOverrides) -> BTreeMap<String, String> {
    overrides
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn parse_id(text: &str) -> Result<TopicId, ApplyError> {
    text.parse().map_err(|_| ApplyError::BadId(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> TopicId {
        TopicId::from_bytes([n; 16])
    }

    fn created(n: u8, name: &str, partitions: i32) -> Record {
        let configs = BTreeMap::new();
        Record::TopicCreated {
            id: id(n).to_string(),
            name: name.to_owned(),
            partitions,
            leader_epoch: 0,
            configs,
        }
    }

    #[test]
    fn a_created_topic_is_found_by_name_and_by_id() {
        let image = Image::default().apply(&[created(1, "orders", 3)]).unwrap();
        assert_eq!(image.topic("orders").unwrap().partitions().count(), 3);
        assert_eq!(&*image.topic_by_id(id(1)).unwrap().name, "orders");
        assert_eq!(image.version(), 1);
    }

    #[test]
    fn a_deleted_topic_leaves_a_tombstone_and_frees_its_name() {
        let deleted = Record::TopicDeleted {
            id: id(1).to_string(),
        };
        let image = Image::default()
            .apply(&[created(1, "orders", 3), deleted, created(2, "orders", 1)])
            .unwrap();
        assert!(image.is_tombstoned(id(1)));
        assert_eq!(image.topic("orders").unwrap().id, id(2));
        assert_eq!(
            image.apply(&[created(1, "again", 1)]),
            Err(ApplyError::IdTaken(id(1)))
        );
    }

    #[test]
    fn a_snapshot_gives_the_same_image() {
        let configs = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
        let image = Image::default()
            .apply(&[
                created(1, "a", 1),
                created(2, "b", 2),
                Record::TopicConfigured {
                    id: id(2).to_string(),
                    configs: configs.clone(),
                },
                Record::PartitionsAdded {
                    id: id(2).to_string(),
                    partitions: 5,
                },
                Record::TopicDeleted {
                    id: id(1).to_string(),
                },
                Record::ProducerIdsReserved { next: 2000 },
                Record::BrokerConfigured {
                    configs: configs.clone(),
                },
                Record::GroupConfigured {
                    group: "g".to_owned(),
                    configs,
                },
            ])
            .unwrap();
        let mut restored = Image::default().apply(&image.to_records()).unwrap();
        restored.version = image.version;
        assert_eq!(restored, image);
    }

    #[test]
    fn a_record_about_an_unknown_topic_is_refused() {
        let record = Record::PartitionsAdded {
            id: id(9).to_string(),
            partitions: 2,
        };
        assert_eq!(
            Image::default().apply(&[record]),
            Err(ApplyError::UnknownTopic(id(9)))
        );
    }
}

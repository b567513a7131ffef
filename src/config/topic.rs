//! A topic's settings: what was set for it, and what is in force.
//!
//! Pure: no async, no clock, no IO.
//! `TopicOverrides` are the texts that clients set, kept with the topic's metadata. `TopicConfig`
//! is the typed result for one topic under one broker configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::BrokerConfig;
use super::error::Error;
use super::layers::{self, Source};
use super::table::{Effect, ListChange, Row, Synonym, Value, nearest};
use super::{inert, topic_rows};

/// All topic rows, active and inert.
pub fn all_rows() -> impl Iterator<Item = &'static Row> {
    topic_rows::ROWS.iter().chain(inert::TOPIC_ROWS)
}

/// The topic row of that name.
pub fn find_row(name: &str) -> Option<&'static Row> {
    all_rows().find(|row| row.key == name)
}

/// Values set for one topic, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TopicOverrides {
    texts: BTreeMap<String, String>,
}

const ORIGIN: &str = "topic";

impl TopicOverrides {
    /// Checks and takes all of `settings`; of one name given twice the last value counts.
    pub fn new<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let mut overrides = Self::default();
        for (name, value) in settings {
            overrides.set(name, value)?;
        }
        Ok(overrides)
    }

    /// Sets one value (`SET`).
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let row = find_row(name).ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            value: value.to_owned(),
            origin: ORIGIN.to_owned(),
            suggestion: nearest(name, all_rows().map(|row| row.key)).map(str::to_owned),
        })?;
        layers::check(row, name, value, ORIGIN)?;
        self.texts.insert(name.to_owned(), value.trim().to_owned());
        Ok(())
    }

    /// Goes back to the default (`DELETE`). An unknown name is refused, an unset one is fine.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.list_row_or_any(name, false)?;
        self.texts.remove(name);
        Ok(())
    }

    /// Adds words to a list (`APPEND`); words that are there already stay as they are.
    pub fn append(&mut self, name: &str, words: &str, broker: &BrokerConfig) -> Result<(), Error> {
        let list = self.current_list(name, broker)?;
        self.set(name, &ListChange::Append.apply(&list, words))
    }

    /// Takes words out of a list (`SUBTRACT`).
    pub fn subtract(
        &mut self,
        name: &str,
        words: &str,
        broker: &BrokerConfig,
    ) -> Result<(), Error> {
        let list = self.current_list(name, broker)?;
        self.set(name, &ListChange::Subtract.apply(&list, words))
    }

    /// The values set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The text set for this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// Settings among them that have no effect, with the reason: for one warning each.
    pub fn without_effect(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.texts
            .keys()
            .filter_map(|name| match find_row(name)?.effect {
                Effect::None(reason) => Some((name.as_str(), reason)),
                Effect::In(_) => None,
            })
    }

    /// One sentence for each value that does not do what its setter may expect.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self
            .without_effect()
            .map(|(name, reason)| format!("`{name}` has no effect: {reason}"))
            .collect();
        if self
            .get("cleanup.policy")
            .is_some_and(|words| words.contains("compact"))
        {
            warnings.push(
                "`cleanup.policy` = `compact`: compaction is not there yet, the topic only grows"
                    .to_owned(),
            );
        }
        warnings
    }

    fn list_row_or_any(&self, name: &str, list: bool) -> Result<&'static Row, Error> {
        let value = self.get(name).unwrap_or_default();
        let row = find_row(name).ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            value: value.to_owned(),
            origin: ORIGIN.to_owned(),
            suggestion: nearest(name, all_rows().map(|row| row.key)).map(str::to_owned),
        })?;
        if list && !row.kind.is_list() {
            return Err(Error::Conflict {
                name: name.to_owned(),
                value: value.to_owned(),
                reason: "words can be added to and taken from lists only".to_owned(),
            });
        }
        Ok(row)
    }

    fn current_list(&self, name: &str, broker: &BrokerConfig) -> Result<String, Error> {
        let row = self.list_row_or_any(name, true)?;
        Ok(match resolve(row, self, broker) {
            Value::List(list) => list.join(","),
            _ => String::new(),
        })
    }
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is durable.
    Disk,
    /// When it is accepted.
    Memory,
}

/// What stands in the time field of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's time.
    CreateTime,
    /// The time of the append.
    LogAppendTime,
}

/// The codec that batches of a topic are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the codecs")]
pub enum CompressionType {
    /// Whatever the producer used.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// The settings in force for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// Segments go by time and size.
    pub cleanup_delete: bool,
    /// Records need keys, and nothing goes by time or size.
    pub cleanup_compact: bool,
    /// `None`: for ever.
    pub retention: Option<Duration>,
    /// `None`: without limit.
    pub retention_bytes: Option<u64>,
    /// A segment is rolled before it gets larger.
    pub segment_bytes: u32,
    /// A segment is rolled when its first record is this old.
    pub segment_age: Duration,
    /// Record bytes between two index entries.
    pub index_interval_bytes: u32,
    /// The largest batch.
    pub max_message_bytes: usize,
    /// Whose time records carry.
    pub timestamp_type: TimestampType,
    /// How far in the past, in milliseconds, a record's time may be.
    pub timestamp_before_max_ms: i64,
    /// How far in the future, in milliseconds, a record's time may be.
    pub timestamp_after_max_ms: i64,
    /// The codec that batches are kept in.
    pub compression: CompressionType,
    /// Fewer replicas in sync refuse acks=all.
    pub min_insync_replicas: u32,
    /// When a write is acknowledged.
    pub durability: Durability,
}

impl TopicConfig {
    /// The settings in force for a topic with these overrides. Total: an override that this
    /// version does not know or allow (written by another one) counts as not set.
    pub fn resolve(broker: &BrokerConfig, overrides: &TopicOverrides) -> Self {
        let value = |key: &str| {
            let row = find_row(key).expect("[config-one-table] every field has its row");
            resolve(row, overrides, broker)
        };
        let integer = |key: &str| match value(key) {
            Value::Integer(number) => number,
            other => panic!("`{key}` is not a number: {other:?}"),
        };
        let text = |key: &str| match value(key) {
            Value::Text(text) => text,
            other => panic!("`{key}` is not a text: {other:?}"),
        };
        let Value::List(cleanup) = value("cleanup.policy") else {
            panic!("`cleanup.policy` is not a list")
        };
        let small = |key: &str| {
            u32::try_from(integer(key)).expect("the row's range is within 0..=i32::MAX")
        };
        Self {
            cleanup_delete: cleanup.iter().any(|word| word == "delete"),
            cleanup_compact: cleanup.iter().any(|word| word == "compact"),
            retention: u64::try_from(integer("retention.ms"))
                .ok()
                .map(Duration::from_millis),
            retention_bytes: u64::try_from(integer("retention.bytes")).ok(),
            segment_bytes: small("segment.bytes"),
            segment_age: Duration::from_millis(integer("segment.ms").unsigned_abs()),
            index_interval_bytes: small("index.interval.bytes"),
            max_message_bytes: usize::try_from(integer("max.message.bytes"))
                .expect("the row's range is within 0..=i32::MAX"),
            timestamp_type: match text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: integer("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: integer("message.timestamp.after.max.ms"),
            compression: match text("compression.type").as_str() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            min_insync_replicas: small("min.insync.replicas"),
            durability: match text("corelog.durability").as_str() {
                "memory" => Durability::Memory,
                _ => Durability::Disk,
            },
        }
    }

    /// The settings of a topic without overrides.
    pub fn defaults(broker: &BrokerConfig) -> Self {
        Self::resolve(broker, &TopicOverrides::default())
    }
}

/// The value in force: the topic's own, else the first broker synonym that is set, else the
/// first synonym that has a default, else the row's default.
fn resolve(row: &Row, overrides: &TopicOverrides, broker: &BrokerConfig) -> Value {
    if let Some(value) = overrides.get(row.key).and_then(|text| row.kind.parse(text)) {
        return value;
    }
    synonym_texts(row, broker)
        .into_iter()
        .next()
        .and_then(|found| row.kind.parse(&found.text))
        .unwrap_or_else(|| row.default_value())
}

/// One broker setting that stands behind a topic setting, in the topic setting's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynonymText {
    /// The broker setting's name.
    pub name: &'static str,
    /// Its text, in the topic setting's unit.
    pub text: String,
    /// Who set it.
    pub source: Source,
}

/// All broker settings behind a topic setting, the one in force first: those that are set, in the
/// row's order, then defaults.
pub fn synonym_texts(row: &Row, broker: &BrokerConfig) -> Vec<SynonymText> {
    let mut set = Vec::new();
    let mut defaults = Vec::new();
    for synonym in row.synonyms {
        let Some(behind) = layers::find_row(synonym.broker_key) else {
            continue;
        };
        for (source, text) in broker.settings().texts(synonym.broker_key) {
            let text = in_topic_unit(*synonym, text);
            set.push(SynonymText {
                name: behind.key,
                text,
                source,
            });
        }
        if let Some(text) = behind.default {
            let text = in_topic_unit(*synonym, text);
            defaults.push(SynonymText {
                name: behind.key,
                text,
                source: Source::Default,
            });
        }
    }
    set.append(&mut defaults);
    set
}

fn in_topic_unit(synonym: Synonym, text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) if number >= 0 && synonym.factor != 1 => {
            number.saturating_mul(synonym.factor).to_string()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Settings;

    fn broker(flags: &[(&str, &str)]) -> BrokerConfig {
        let mut settings = Settings::default();
        for (name, value) in flags {
            settings
                .set(name, value, Source::Flag, "--set")
                .expect("valid");
        }
        BrokerConfig::new(settings).expect("valid")
    }

    fn overrides(settings: &[(&str, &str)]) -> TopicOverrides {
        TopicOverrides::new(settings.iter().copied()).expect("valid")
    }

    #[test]
    fn defaults_are_kafkas() {
        let config = TopicConfig::defaults(&BrokerConfig::default());
        assert_eq!(config.retention, Some(Duration::from_hours(7 * 24)));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.segment_bytes, 1 << 30);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.segment_age, Duration::from_hours(7 * 24));
        assert!(config.cleanup_delete && !config.cleanup_compact);
        assert_eq!(config.durability, Durability::Disk);
    }

    #[test]
    fn the_topics_own_value_wins_over_the_brokers() {
        let broker = broker(&[("log.retention.ms", "1000")]);
        let own = overrides(&[("retention.ms", "-1")]);
        assert_eq!(TopicConfig::resolve(&broker, &own).retention, None);
        let default = TopicConfig::defaults(&broker);
        assert_eq!(default.retention, Some(Duration::from_secs(1)));
    }

    #[test]
    fn milliseconds_win_over_minutes_and_minutes_over_hours() {
        let hours = broker(&[("log.retention.hours", "2")]);
        let retention = |broker: &BrokerConfig| TopicConfig::defaults(broker).retention;
        assert_eq!(retention(&hours), Some(Duration::from_hours(2)));
        let minutes = broker(&[("log.retention.hours", "2"), ("log.retention.minutes", "3")]);
        assert_eq!(retention(&minutes), Some(Duration::from_mins(3)));
        let all = broker(&[("log.retention.minutes", "3"), ("log.retention.ms", "9")]);
        assert_eq!(retention(&all), Some(Duration::from_millis(9)));
        let forever = broker(&[("log.retention.hours", "-1")]);
        assert_eq!(retention(&forever), None);
    }

    #[test]
    fn lists_can_be_appended_to_and_subtracted_from() {
        let broker = BrokerConfig::default();
        let mut topic = TopicOverrides::default();
        topic
            .append("cleanup.policy", "compact", &broker)
            .expect("a list");
        assert_eq!(topic.get("cleanup.policy"), Some("delete,compact"));
        topic
            .append("cleanup.policy", "compact", &broker)
            .expect("a list");
        assert_eq!(topic.get("cleanup.policy"), Some("delete,compact"));
        topic
            .subtract("cleanup.policy", "delete", &broker)
            .expect("a list");
        assert_eq!(topic.get("cleanup.policy"), Some("compact"));
        assert!(topic.append("retention.ms", "1", &broker).is_err());
        assert!(topic.append("nonsense", "1", &broker).is_err());
    }

    #[test]
    fn unknown_and_impossible_settings_are_refused() {
        let mut topic = TopicOverrides::default();
        let error = topic.set("retention.mss", "1").expect_err("unknown");
        assert!(
            error.to_string().contains("did you mean `retention.ms`?"),
            "{error}"
        );
        let error = topic.set("retention.ms", "-2").expect_err("range");
        assert_eq!(
            error.to_string(),
            "setting `retention.ms` = `-2` (topic) is not allowed: \
             expected a whole number, -1 to 9223372036854775807"
        );
        assert!(topic.remove("dummy.doesntexist").is_err());
        assert_eq!(topic, TopicOverrides::default());
    }

    #[test]
    fn settings_without_effect_are_kept_and_named() {
        let topic = overrides(&[("flush.ms", "1"), ("retention.ms", "5")]);
        let names: Vec<_> = topic.without_effect().map(|(name, _)| name).collect();
        assert_eq!(names, ["flush.ms"]);
        assert_eq!(
            topic.warnings(),
            ["`flush.ms` has no effect: every acknowledged record is on disk already"]
        );
        assert_eq!(topic.get("flush.ms"), Some("1"));
    }

    #[test]
    fn a_stored_value_that_is_not_allowed_any_more_counts_as_not_set() {
        let text = r#"{"retention.ms": "burn", "from.the.future": "1"}"#;
        let stored: TopicOverrides = serde_json::from_str(text).expect("a map of texts");
        let broker = BrokerConfig::default();
        assert_eq!(
            TopicConfig::resolve(&broker, &stored),
            TopicConfig::defaults(&broker)
        );
    }

    #[test]
    fn every_topic_row_and_its_synonyms_agree() {
        let broker = BrokerConfig::default();
        let mut names = std::collections::BTreeSet::new();
        for row in all_rows() {
            assert!(names.insert(row.key), "{}", row.key);
            assert_ne!(row.doc, "", "{}", row.key);
            for synonym in row.synonyms {
                assert!(
                    layers::find_row(synonym.broker_key).is_some(),
                    "{}",
                    synonym.broker_key
                );
            }
            let resolved = resolve(row, &TopicOverrides::default(), &broker);
            assert_eq!(resolved, row.default_value(), "{}", row.key);
        }
    }
}

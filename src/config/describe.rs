//! Settings as `DescribeConfigs` tells them: every row with value, source and what stands behind.
//!
//! Pure: no async, no clock, no IO.
//! A setting without effect is given back as it was stored, so that clients that alter and read
//! back go on; its source is always "default" and its documentation says first that it has no
//! effect, so that nobody takes it for active.
//! A setting that resolves on the machine (`auto`, `all`) is told as it came out.

use super::broker::BrokerConfig;
use super::inert;
use super::layers::{self, Source};
use super::table::{Change, Effect, Row};
use super::topic::{self, TopicOverrides};

/// One setting with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The setting's name.
    pub name: &'static str,
    /// The value in force; `None` is "not set".
    pub value: Option<String>,
    /// Who set it.
    pub source: Source,
    /// Whether a client cannot alter it.
    pub read_only: bool,
    /// Whether the value must not be shown. Nothing is, so far.
    pub sensitive: bool,
    /// Whether it does anything.
    pub has_effect: bool,
    /// The type's number in `DescribeConfigs`.
    pub wire_type: i8,
    /// What it does.
    pub doc: String,
    /// All texts that stand behind it, the one in force first.
    pub synonyms: Vec<DescribedSynonym>,
}

impl Described {
    /// Whether nobody set it.
    pub fn is_default(&self) -> bool {
        self.source == Source::Default
    }
}

/// One text behind a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedSynonym {
    /// The setting that carries it.
    pub name: &'static str,
    /// The text.
    pub value: Option<String>,
    /// Who set it.
    pub source: Source,
}

/// What a row does, or why it does nothing.
pub fn row_doc(row: &Row) -> String {
    match row.effect {
        Effect::In(_) => row.doc.to_owned(),
        Effect::None(reason) => format!("No effect in Corelog: {reason}."),
    }
}

fn described(row: &Row, synonyms: Vec<DescribedSynonym>) -> Described {
    let (value, source) = synonyms.first().map_or((None, Source::Default), |first| {
        (first.value.clone(), first.source)
    });
    let has_effect = row.effect.is_active();
    let (source, synonyms) = match has_effect {
        true => (source, synonyms),
        false => (Source::Default, vec![default_of(row)]),
    };
    Described {
        name: row.key,
        value,
        source,
        read_only: row.change == Change::Restart,
        sensitive: false,
        has_effect,
        wire_type: row.kind.wire_type(),
        doc: row_doc(row),
        synonyms,
    }
}

fn default_of(row: &Row) -> DescribedSynonym {
    DescribedSynonym {
        name: row.key,
        value: row.default.map(str::to_owned),
        source: Source::Default,
    }
}

/// All settings of the broker, and again under each name that Kafka has for one. `in_force` are
/// the values that only the machine decides.
pub fn describe_broker(
    config: &BrokerConfig,
    in_force: &[(&'static str, String)],
) -> Vec<Described> {
    let rows = layers::all_rows().flat_map(|row| {
        let mut rows = vec![describe_broker_row(config, row)];
        if let Some((_, value)) = in_force.iter().find(|(name, _)| *name == row.key) {
            rows[0].value = Some(value.clone());
        }
        for alias in row.aliases {
            let mut copy = rows[0].clone();
            copy.name = alias;
            copy.value = copy.value.map(|text| as_kafka(config, row.key, text));
            rows.push(copy);
        }
        rows
    });
    rows.collect()
}

/// A value as Kafka writes it: addresses are `PLAINTEXT://host:port`.
fn as_kafka(config: &BrokerConfig, key: &str, text: String) -> String {
    let addresses = match key {
        "listen" => config.listen.clone(),
        "advertise" => config.advertise.iter().cloned().collect(),
        _ => return text,
    };
    let named = addresses.iter().map(|a| format!("PLAINTEXT://{a}"));
    named.collect::<Vec<_>>().join(",")
}

fn describe_broker_row(config: &BrokerConfig, row: &'static Row) -> Described {
    let mut synonyms: Vec<DescribedSynonym> = config
        .settings()
        .texts(row.key)
        .map(|(source, text)| DescribedSynonym {
            name: row.key,
            value: Some(text.to_owned()),
            source,
        })
        .collect();
    synonyms.push(default_of(row));
    described(row, synonyms)
}

/// All settings of a topic.
pub fn describe_topic(config: &BrokerConfig, overrides: &TopicOverrides) -> Vec<Described> {
    topic::all_rows()
        .map(|row| {
            let own = overrides.get(row.key).map(|text| DescribedSynonym {
                name: row.key,
                value: Some(text.to_owned()),
                source: Source::Topic,
            });
            let behind = topic::synonym_texts(row, config)
                .into_iter()
                .map(|synonym| DescribedSynonym {
                    name: synonym.name,
                    value: Some(synonym.text),
                    source: synonym.source,
                });
            let mut synonyms: Vec<DescribedSynonym> = own.into_iter().chain(behind).collect();
            if row.synonyms.is_empty() {
                synonyms.push(default_of(row));
            }
            described(row, synonyms)
        })
        .collect()
}

/// All settings of a group: `stored` are the texts that clients set for it.
pub fn describe_group<'a>(stored: impl Fn(&str) -> Option<&'a str>) -> Vec<Described> {
    inert::GROUP_ROWS
        .iter()
        .map(|row| {
            let own = stored(row.key).map(|text| DescribedSynonym {
                name: row.key,
                value: Some(text.to_owned()),
                source: Source::Group,
            });
            described(row, own.into_iter().chain([default_of(row)]).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Settings;

    fn named<'a>(rows: &'a [Described], name: &str) -> &'a Described {
        rows.iter().find(|row| row.name == name).expect("described")
    }

    fn broker() -> BrokerConfig {
        let mut settings = Settings::default();
        settings
            .set_file("log.retention.hours = 2", "f")
            .expect("valid");
        settings
            .set("log.retention.ms", "9", Source::Flag, "--set")
            .expect("valid");
        BrokerConfig::new(settings).expect("valid")
    }

    #[test]
    fn every_broker_row_is_described_with_value_and_source() {
        let rows = describe_broker(&broker(), &[]);
        let aliases: usize = layers::all_rows().map(|row| row.aliases.len()).sum();
        assert_eq!(rows.len(), layers::all_rows().count() + aliases);
        assert_eq!(named(&rows, "log.dirs").value.as_deref(), Some("./data"));
        let listeners = named(&rows, "listeners").value.as_deref();
        assert_eq!(listeners, Some("PLAINTEXT://localhost:9092"));
        assert_eq!(named(&rows, "advertised.listeners").value, None);
        assert_eq!(
            named(&rows, "memory.per.shard").value.as_deref(),
            Some("auto")
        );
        let resolved = describe_broker(&broker(), &[("memory.per.shard", "64MiB".to_owned())]);
        assert_eq!(
            named(&resolved, "memory.per.shard").value.as_deref(),
            Some("64MiB")
        );
        let hours = named(&rows, "log.retention.hours");
        assert_eq!(hours.value.as_deref(), Some("2"));
        assert_eq!(hours.source.wire_code(), 4);
        assert!(hours.read_only);
        let node = named(&rows, "node.id");
        assert!(node.is_default());
        assert_eq!(node.value.as_deref(), Some("1"));
        let minutes = named(&rows, "log.retention.minutes");
        assert_eq!(minutes.value, None);
    }

    #[test]
    fn a_topic_setting_names_the_broker_settings_behind_it() {
        let own = TopicOverrides::new([("retention.ms", "7")].into_iter()).expect("valid");
        let rows = describe_topic(&broker(), &own);
        let retention = named(&rows, "retention.ms");
        assert_eq!(retention.source, Source::Topic);
        let behind: Vec<(&str, Option<&str>)> = retention
            .synonyms
            .iter()
            .map(|synonym| (synonym.name, synonym.value.as_deref()))
            .collect();
        assert_eq!(
            behind,
            [
                ("retention.ms", Some("7")),
                ("log.retention.ms", Some("9")),
                ("log.retention.hours", Some("7200000")),
                ("log.retention.hours", Some("604800000")),
            ]
        );
    }

    #[test]
    fn a_topic_without_own_value_reports_the_brokers_source() {
        let rows = describe_topic(&broker(), &TopicOverrides::default());
        assert_eq!(named(&rows, "retention.ms").source, Source::Flag);
        assert_eq!(named(&rows, "retention.ms").value.as_deref(), Some("9"));
        let size = named(&rows, "max.message.bytes");
        assert!(size.is_default() && !size.read_only);
        assert_eq!(size.value.as_deref(), Some("1048588"));
    }

    #[test]
    fn a_setting_without_effect_is_given_back_and_never_reported_as_active() {
        let own = TopicOverrides::new([("flush.ms", "7")].into_iter()).expect("valid");
        let rows = describe_topic(&broker(), &own);
        let flush = named(&rows, "flush.ms");
        assert_eq!(flush.value.as_deref(), Some("7"));
        assert!(!flush.has_effect && flush.is_default());
        assert!(flush.synonyms.iter().all(|s| s.source == Source::Default));
        assert!(
            flush.doc.starts_with("No effect in Corelog"),
            "{}",
            flush.doc
        );
    }
}

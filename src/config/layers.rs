//! Who said what: the texts of the settings with their sources, checked against the tables.
//!
//! Pure: no async, no clock, no IO. Files and environment come in as text.
//! Promises: what is in a `Settings` exists and parses; of several sources the later wins.

use std::collections::BTreeMap;

use super::error::Error;
use super::table::{ENVIRONMENT_PREFIX, Row, Value, nearest};
use super::{broker_rows, inert};

/// Where a value comes from; a later one wins over an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The row's default.
    Default,
    /// The configuration file.
    File,
    /// A `CORELOG_...` variable.
    Environment,
    /// A flag of the command line.
    Flag,
    /// Altered while running, for all brokers.
    AlteredForAll,
    /// Altered while running, for this broker.
    Altered,
    /// Altered while running, for one topic.
    Topic,
    /// Altered while running, for one group.
    Group,
}

impl Source {
    /// The source's number in `DescribeConfigs` answers.
    pub fn wire_code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::Altered => 2,
            Self::AlteredForAll => 3,
            Self::File | Self::Environment | Self::Flag => 4,
            Self::Default => 5,
            Self::Group => 8,
        }
    }
}

/// Environment variables with the prefix that are not settings: read by the command line itself.
pub const ENVIRONMENT_RESERVED: &[&str] = &["CORELOG_CONFIG"];

/// All broker rows, active and inert.
pub fn all_rows() -> impl Iterator<Item = &'static Row> {
    broker_rows::rows().chain(inert::BROKER_ROWS)
}

/// The broker row of that name or alias.
pub fn find_row(name: &str) -> Option<&'static Row> {
    all_rows().find(|row| row.key == name || row.aliases.contains(&name))
}

/// Texts by setting and source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    texts: BTreeMap<&'static str, BTreeMap<Source, String>>,
}

impl Settings {
    /// Takes one setting; the same name twice from one source is fine on the command line (the
    /// last one wins, as flags do) and impossible elsewhere.
    pub fn set(
        &mut self,
        name: &str,
        value: &str,
        source: Source,
        origin: &str,
    ) -> Result<(), Error> {
        let row = find_row(name).ok_or_else(|| unknown(name, value, origin))?;
        check(row, name, value, origin)?;
        self.texts
            .entry(row.key)
            .or_default()
            .insert(source, value.trim().to_owned());
        Ok(())
    }

    /// Takes a whole TOML file. Tables are dots: `[log.retention] hours = 1` and
    /// `log.retention.hours = 1` are the same.
    pub fn set_file(&mut self, text: &str, origin: &str) -> Result<(), Error> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| Error::Syntax {
                origin: origin.to_owned(),
                reason: error.to_string().trim_end().replace('\n', " "),
            })?;
        let mut found = Vec::new();
        flatten("", &table, origin, &mut found)?;
        let mut seen = BTreeMap::new();
        for (name, value) in found {
            if let Some(row) = find_row(&name)
                && let Some(earlier) = seen.insert(row.key, name.clone())
            {
                return Err(Error::Conflict {
                    name,
                    value,
                    reason: format!("{origin} sets the same as `{earlier}`"),
                });
            }
            self.set(&name, &value, Source::File, origin)?;
        }
        Ok(())
    }

    /// Takes the variables that start with `CORELOG_`; others are ignored.
    pub fn set_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), Error> {
        for (variable, value) in variables {
            if !variable.starts_with(ENVIRONMENT_PREFIX)
                || ENVIRONMENT_RESERVED.contains(&variable.as_str())
            {
                continue;
            }
            let row = all_rows().find(|row| row.environment_name() == variable);
            let Some(row) = row else {
                let names: Vec<String> = all_rows().map(Row::environment_name).collect();
                let suggestion = nearest(&variable, names.iter().map(String::as_str));
                return Err(Error::Unknown {
                    suggestion: suggestion.map(str::to_owned),
                    name: variable,
                    value,
                    origin: "environment".to_owned(),
                });
            };
            let origin = format!("environment variable {variable}");
            self.set(row.key, &value, Source::Environment, &origin)?;
        }
        Ok(())
    }

    /// The text in force and its source; `None` when no source sets the row.
    pub fn text(&self, key: &str) -> Option<(Source, &str)> {
        let by_source = self.texts.get(key)?;
        by_source
            .last_key_value()
            .map(|(source, text)| (*source, text.as_str()))
    }

    /// All texts of the setting, the one in force first.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = (Source, &str)> {
        let by_source = self.texts.get(key).into_iter().flatten();
        by_source
            .rev()
            .map(|(source, text)| (*source, text.as_str()))
    }

    /// The value in force.
    pub fn value(&self, row: &Row) -> Value {
        self.text(row.key).map_or_else(
            || row.default_value(),
            |(_, text)| {
                row.kind
                    .parse(text)
                    .expect("[config-one-table] set() has parsed it")
            },
        )
    }

    /// The settings without those altered while running.
    #[must_use]
    pub fn at_start(&self) -> Self {
        let mut kept = self.clone();
        for by_source in kept.texts.values_mut() {
            by_source.retain(|source, _| *source <= Source::Flag);
        }
        kept.texts.retain(|_, by_source| !by_source.is_empty());
        kept
    }

    /// Settings that were set and have no effect, with the reason: for one warning each.
    pub fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        inert::BROKER_ROWS
            .iter()
            .filter(|row| self.texts.contains_key(row.key))
            .map(|row| (row.key, row.doc))
    }
}

/// The error of a name that no broker row has.
fn unknown(name: &str, value: &str, origin: &str) -> Error {
    Error::Unknown {
        name: name.to_owned(),
        value: value.to_owned(),
        origin: origin.to_owned(),
        suggestion: nearest(name, all_rows().map(|row| row.key)).map(str::to_owned),
    }
}

/// Parses a text for a row, or says what would be allowed.
pub fn check(row: &Row, name: &str, text: &str, origin: &str) -> Result<Value, Error> {
    row.kind.parse(text).ok_or_else(|| Error::NotAllowed {
        name: name.to_owned(),
        value: text.to_owned(),
        origin: origin.to_owned(),
        allowed: row.kind.allowed(),
    })
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    origin: &str,
    into: &mut Vec<(String, String)>,
) -> Result<(), Error> {
    for (key, value) in table {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            toml::Value::Table(inner) => flatten(&name, inner, origin, into)?,
            toml::Value::Array(items) => {
                let texts: Option<Vec<String>> = items.iter().map(scalar).collect();
                let texts = texts.ok_or_else(|| not_a_value(&name, origin))?;
                into.push((name, texts.join(",")));
            }
            other => {
                let text = scalar(other).ok_or_else(|| not_a_value(&name, origin))?;
                into.push((name, text));
            }
        }
    }
    Ok(())
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn not_a_value(name: &str, origin: &str) -> Error {
    Error::Syntax {
        origin: origin.to_owned(),
        reason: format!("`{name}` must be a text, a number, true or false, or a list of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(settings: &Settings, key: &str) -> Value {
        settings.value(find_row(key).expect("known"))
    }

    #[test]
    fn the_later_source_wins_whatever_the_order_of_reading() {
        let mut settings = Settings::default();
        settings
            .set("num.partitions", "4", Source::Flag, "--set")
            .expect("valid");
        settings
            .set_file("num.partitions = 2", "f.toml")
            .expect("valid");
        let variables = [("CORELOG_NUM_PARTITIONS".to_owned(), "3".to_owned())];
        settings
            .set_environment(variables.into_iter())
            .expect("valid");
        assert_eq!(number(&settings, "num.partitions"), Value::Integer(4));
        let sources: Vec<Source> = settings
            .texts("num.partitions")
            .map(|(source, _)| source)
            .collect();
        assert_eq!(sources, [Source::Flag, Source::Environment, Source::File]);
    }

    #[test]
    fn dotted_keys_and_tables_of_a_file_are_the_same() {
        let mut dotted = Settings::default();
        dotted
            .set_file("log.retention.hours = 5\nlisten = [\"a:1\", \"b:2\"]", "f")
            .expect("ok");
        let mut nested = Settings::default();
        nested
            .set_file("listen = \"a:1,b:2\"\n[log.retention]\nhours = 5", "f")
            .expect("ok");
        assert_eq!(dotted, nested);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known_one() {
        let mut settings = Settings::default();
        let error = settings
            .set_file("num.partition = 2", "f.toml")
            .expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown setting `num.partition` = `2` (f.toml): did you mean `num.partitions`?"
        );
        let variables = [("CORELOG_NOD_ID".to_owned(), "3".to_owned())];
        let error = settings
            .set_environment(variables.into_iter())
            .expect_err("unknown");
        assert!(
            error
                .to_string()
                .contains("did you mean `CORELOG_NODE_ID`?"),
            "{error}"
        );
    }

    #[test]
    fn an_impossible_value_is_refused_with_its_range() {
        let mut settings = Settings::default();
        let error = settings
            .set("num.partitions", "0", Source::Flag, "--set")
            .expect_err("range");
        assert_eq!(
            error.to_string(),
            "setting `num.partitions` = `0` (--set) is not allowed: \
             expected a whole number, 1 to 10000"
        );
    }

    #[test]
    fn a_name_and_its_alias_in_one_file_contradict() {
        let mut settings = Settings::default();
        let error = settings
            .set_file("node.id = 1\nbroker.id = 2", "f")
            .expect_err("twice");
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
    }

    #[test]
    fn foreign_and_reserved_variables_are_ignored() {
        let mut settings = Settings::default();
        let variables =
            [("PATH", "/bin"), ("CORELOG_CONFIG", "x.toml")].map(|(a, b)| (a.into(), b.into()));
        settings
            .set_environment(variables.into_iter())
            .expect("ignored");
        assert_eq!(settings, Settings::default());
    }

    /// Kafka's own names, of which a file must quote the longer one where it has both.
    const QUOTED: &[&str] = &["max.connections", "max.connections.per.ip"];

    #[test]
    fn no_active_name_is_a_prefix_of_another_so_a_file_can_say_all() {
        let names: Vec<&str> = broker_rows::rows()
            .flat_map(|row| std::iter::once(row.key).chain(row.aliases.iter().copied()))
            .collect();
        for name in &names {
            let below = format!("{name}.");
            assert!(
                QUOTED.contains(name) || names.iter().all(|other| !other.starts_with(&below)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_quoted_name_of_a_file_is_the_same_as_a_dotted_one() {
        let mut settings = Settings::default();
        settings
            .set_file("max.connections = 5\n\"max.connections.per.ip\" = 2", "f")
            .expect("ok");
        assert_eq!(
            number(&settings, "max.connections.per.ip"),
            Value::Integer(2)
        );
        assert_eq!(number(&settings, "max.connections"), Value::Integer(5));
    }

    #[test]
    fn names_and_variables_are_unique_and_defaults_parse() {
        let mut names = std::collections::BTreeSet::new();
        let mut variables = std::collections::BTreeSet::new();
        for row in all_rows() {
            for name in std::iter::once(&row.key).chain(row.aliases) {
                assert!(names.insert(*name), "{name}");
            }
            assert!(variables.insert(row.environment_name()), "{}", row.key);
            let _ = row.default_value();
            assert_ne!(row.doc, "", "{}", row.key);
        }
    }
}

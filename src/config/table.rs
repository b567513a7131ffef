//! What a row of the settings tables is, and how a value's text is checked against it.
//!
//! Pure: no async, no clock, no IO.
//! Invariants: [config-one-table] a setting exists where a row exists, and nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use super::address::{self, Cores, HostPort};
use super::units;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The name: Kafka's own where Kafka has the setting.
    pub key: &'static str,
    /// Other names for the same setting in file and `--set`: Kafka's, where ours is shorter.
    pub aliases: &'static [&'static str],
    /// What it does, for people: one to three sentences.
    pub doc: &'static str,
    /// Type and allowed range.
    pub kind: Kind,
    /// The text of the default; `None` is "not set" (another setting or nothing applies).
    pub default: Option<&'static str>,
    /// When a new value takes hold.
    pub change: Change,
    /// Where it takes hold.
    pub effect: Effect,
    /// For topic rows: broker settings that give the default, first set one wins.
    pub synonyms: &'static [Synonym],
}

/// When a changed value takes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// At the next start.
    Restart,
    /// At once, through `AlterConfigs` / `IncrementalAlterConfigs`.
    Live,
}

/// Whether and where a setting takes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// In this part of the program (a folder or file under `src/`).
    In(&'static str),
    /// Nowhere, for this reason: accepted, warned about and stored, because clients set it.
    None(&'static str),
}

impl Effect {
    /// Whether the setting does anything.
    pub fn is_active(self) -> bool {
        matches!(self, Self::In(_))
    }
}

/// A broker setting that gives a topic setting its default, multiplied into the topic's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synonym {
    /// The broker setting.
    pub broker_key: &'static str,
    /// What one unit of it is in units of the topic setting; -1 and "not set" stay.
    pub factor: i64,
}

/// Type and allowed range of a setting.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A plain decimal number, Kafka's `short`.
    Short(i64, i64),
    /// A plain decimal number, Kafka's `int`.
    Int(i64, i64),
    /// A plain decimal number, Kafka's `long`.
    Long(i64, i64),
    /// A decimal fraction.
    Double(f64, f64),
    /// Bytes with a unit, from..=to.
    Size(u64, u64),
    /// As `Size`, or `auto`: chosen from the machine.
    SizeOrAuto(u64, u64),
    /// A time with a unit, microseconds from..=to.
    Time(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Some of these words, comma-separated.
    ChoiceList(&'static [&'static str]),
    /// Words of any kind, comma-separated.
    List,
    /// Any text.
    Text,
    /// The path of one directory. Without commas: Kafka's names for it take lists.
    Directory,
    /// One or several `HOST:PORT`, comma-separated.
    Listen,
    /// One `HOST:PORT`, port not 0, host not a wildcard.
    Advertise,
    /// `HOST:PORT` or `off`.
    AddressOrOff,
    /// `IP:COUNT`, none or several, comma-separated, each address once.
    AddressLimits,
    /// `all` or a list such as `0,2-3`.
    Cores,
    /// `network=N,commit=N,read=N,background=N`, each 1..=1000.
    Shares,
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value and no default.
    Unset,
    /// From `Boolean`.
    Boolean(bool),
    /// From `Short`, `Int` and `Long`.
    Integer(i64),
    /// From `Double`.
    Double(f64),
    /// From `Size` and `SizeOrAuto`; `None` is `auto`.
    Size(Option<u64>),
    /// From `Time`.
    Time(Duration),
    /// From `Choice`, `Text` and `Directory`.
    Text(String),
    /// From `List` and `ChoiceList`.
    List(Vec<String>),
    /// From `Listen`, `Advertise` and `AddressOrOff`; empty is `off`.
    Addresses(Vec<HostPort>),
    /// From `AddressLimits`.
    AddressLimits(Vec<(IpAddr, u32)>),
    /// From `Cores`.
    Cores(Cores),
    /// From `Shares`.
    Shares(Shares),
}

/// Shares of the task queues: how processor time is divided when a shard has more work than time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections: reading requests, writing answers.
    pub network: u16,
    /// Appends and the journal.
    pub commit: u16,
    /// Reads of old data.
    pub read: u16,
    /// Retention, scrubbing, metrics.
    pub background: u16,
}

/// The most shares that a task queue can have.
pub const SHARES_MAX: u16 = 1000;

impl Shares {
    fn parse(text: &str) -> Option<Self> {
        let mut found = [None::<u16>; 4];
        for part in text.split(',') {
            let (name, number) = part.split_once('=')?;
            let at = ["network", "commit", "read", "background"]
                .iter()
                .position(|known| *known == name.trim())?;
            let number: u16 = number.trim().parse().ok()?;
            if !(1..=SHARES_MAX).contains(&number) || found[at].replace(number).is_some() {
                return None;
            }
        }
        let [network, commit, read, background] = found;
        Some(Self {
            network: network?,
            commit: commit?,
            read: read?,
            background: background?,
        })
    }
}

/// How a list of words changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListChange {
    /// Words that are not there yet come behind the others.
    Append,
    /// Words go.
    Subtract,
}

impl ListChange {
    /// The list after the change.
    pub fn apply(self, list: &str, changed: &str) -> String {
        let (mut list, changed) = (words(list), words(changed));
        match self {
            Self::Append => {
                for word in changed {
                    if !list.contains(&word) {
                        list.push(word);
                    }
                }
            }
            Self::Subtract => list.retain(|word| !changed.contains(word)),
        }
        list.join(",")
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn integer(text: &str, min: i64, max: i64) -> Option<Value> {
    let number = text.trim().parse::<i64>().ok()?;
    (min..=max)
        .contains(&number)
        .then_some(Value::Integer(number))
}

fn addresses(text: &str) -> Option<Vec<HostPort>> {
    let list: Option<Vec<HostPort>> = text.split(',').map(HostPort::parse).collect();
    list.filter(|list| {
        list.iter()
            .enumerate()
            .all(|(at, address)| !list[..at].contains(address))
    })
}

impl Kind {
    /// The value that a text stands for, or `None` when it is not allowed.
    pub fn parse(&self, text: &str) -> Option<Value> {
        let size = |min, max| {
            units::parse_size(text)
                .filter(|bytes| (min..=max).contains(bytes))
                .map(|bytes| Value::Size(Some(bytes)))
        };
        match *self {
            Self::Boolean => match text.trim().to_ascii_lowercase().as_str() {
                "true" => Some(Value::Boolean(true)),
                "false" => Some(Value::Boolean(false)),
                _ => None,
            },
            Self::Short(min, max) | Self::Int(min, max) | Self::Long(min, max) => {
                integer(text, min, max)
            }
            Self::Double(min, max) => {
                let number = text.trim().parse::<f64>().ok()?;
                (min..=max)
                    .contains(&number)
                    .then_some(Value::Double(number))
            }
            Self::SizeOrAuto(..) if text.trim() == "auto" => Some(Value::Size(None)),
            Self::Size(min, max) | Self::SizeOrAuto(min, max) => size(min, max),
            Self::Time(min, max) => units::parse_duration(text)
                .filter(|time| (u128::from(min)..=u128::from(max)).contains(&time.as_micros()))
                .map(Value::Time),
            Self::Choice(known) => known
                .contains(&text.trim())
                .then(|| Value::Text(text.trim().to_owned())),
            Self::ChoiceList(known) => {
                let list = words(text);
                list.iter()
                    .all(|word| known.contains(&word.as_str()))
                    .then_some(Value::List(list))
            }
            Self::List => Some(Value::List(words(text))),
            Self::Text => Some(Value::Text(text.to_owned())),
            Self::Directory => (!text.trim().is_empty() && !text.contains(','))
                .then(|| Value::Text(text.to_owned())),
            Self::Listen => addresses(text).map(Value::Addresses),
            Self::Advertise => HostPort::parse(text)
                .filter(|address| address.port != 0 && !address.is_wildcard())
                .map(|address| Value::Addresses(vec![address])),
            Self::AddressOrOff if text.trim() == "off" => Some(Value::Addresses(Vec::new())),
            Self::AddressOrOff => {
                HostPort::parse(text).map(|address| Value::Addresses(vec![address]))
            }
            Self::AddressLimits => address::parse_limits(text).map(Value::AddressLimits),
            Self::Cores => Cores::parse(text).map(Value::Cores),
            Self::Shares => Shares::parse(text).map(Value::Shares),
        }
    }

    /// What is allowed, as an error message and the documentation say it.
    pub fn allowed(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Short(min, max) | Self::Int(min, max) | Self::Long(min, max) => {
                format!("a whole number, {min} to {max}")
            }
            Self::Double(min, max) => format!("a number, {min} to {max}"),
            Self::Size(min, max) => {
                let (min, max) = (units::format_size(*min), units::format_size(*max));
                format!("a size such as 64KiB, {min} to {max}")
            }
            Self::SizeOrAuto(min, max) => {
                let (min, max) = (units::format_size(*min), units::format_size(*max));
                format!("auto, or a size such as 64MiB, {min} to {max}")
            }
            Self::Time(min, max) => {
                let min = units::format_duration(Duration::from_micros(*min));
                let max = units::format_duration(Duration::from_micros(*max));
                format!("a time such as 250us or 2ms, {min} to {max}")
            }
            Self::Choice(known) => format!("one of {}", known.join(", ")),
            Self::ChoiceList(known) => {
                format!("a comma-separated list of {}", known.join(", "))
            }
            Self::List => "a comma-separated list".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Directory => "one directory, a path without commas".to_owned(),
            Self::Listen => "HOST:PORT, or several of them with commas, without TLS".to_owned(),
            Self::Advertise => {
                "HOST:PORT that clients can reach: no wildcard host, no port 0".to_owned()
            }
            Self::AddressOrOff => "HOST:PORT or off".to_owned(),
            Self::AddressLimits => {
                "IP:COUNT, or several of them with commas; no host names".to_owned()
            }
            Self::Cores => "all, or core numbers such as 0,2-3, each once".to_owned(),
            Self::Shares => {
                format!("network=N,commit=N,read=N,background=N with N from 1 to {SHARES_MAX}")
            }
        }
    }

    /// The type's number in `DescribeConfigs` answers.
    pub fn wire_type(&self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::Int(..) => 3,
            Self::Short(..) => 4,
            Self::Long(..) => 5,
            Self::Double(..) => 6,
            Self::ChoiceList(_) | Self::List | Self::Listen => 7,
            _ => 2,
        }
    }

    /// The type's name in the documentation.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Short(..) => "short",
            Self::Int(..) => "int",
            Self::Long(..) => "long",
            Self::Double(..) => "double",
            Self::Size(..) | Self::SizeOrAuto(..) => "size",
            Self::Time(..) => "time",
            Self::Choice(_) | Self::Text | Self::Directory => "string",
            Self::ChoiceList(_) | Self::List => "list",
            Self::Listen | Self::Advertise | Self::AddressOrOff => "address",
            Self::AddressLimits => "limits",
            Self::Cores => "cores",
            Self::Shares => "shares",
        }
    }

    /// Whether `APPEND` and `SUBTRACT` of `IncrementalAlterConfigs` make sense.
    pub fn is_list(&self) -> bool {
        matches!(self, Self::ChoiceList(_) | Self::List)
    }
}

impl Row {
    /// The name of the environment variable: `num.partitions` is `CORELOG_NUM_PARTITIONS`.
    pub fn environment_name(&self) -> String {
        format!(
            "{ENVIRONMENT_PREFIX}{}",
            self.key.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// The checked default.
    pub fn default_value(&self) -> Value {
        self.default.map_or(Value::Unset, |text| {
            self.kind
                .parse(text)
                .expect("a test parses every default of every table")
        })
    }
}

/// What every environment variable that is a setting starts with.
pub const ENVIRONMENT_PREFIX: &str = "CORELOG_";

/// The known name nearest to an unknown one, when few letters differ.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 6)
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_the_range_are_refused() {
        let kind = Kind::Int(1, 10);
        assert_eq!(kind.parse("1"), Some(Value::Integer(1)));
        assert_eq!(kind.parse("10"), Some(Value::Integer(10)));
        for text in ["0", "11", "", "1.5", "ten", "1KiB"] {
            assert_eq!(kind.parse(text), None, "{text}");
        }
    }

    #[test]
    fn shares_need_all_four_queues() {
        let kind = Kind::Shares;
        assert_eq!(
            kind.parse("network=1000,commit=1000,read=400,background=100"),
            Some(Value::Shares(Shares {
                network: 1000,
                commit: 1000,
                read: 400,
                background: 100
            }))
        );
        for text in [
            "network=1",
            "network=0,commit=1,read=1,background=1",
            "network=1,network=1,commit=1,read=1,background=1",
            "network=1001,commit=1,read=1,background=1",
        ] {
            assert_eq!(kind.parse(text), None, "{text}");
        }
    }

    #[test]
    fn advertising_a_wildcard_is_refused() {
        assert!(Kind::Advertise.parse("broker:9092").is_some());
        assert!(Kind::Advertise.parse("0.0.0.0:9092").is_none());
        assert!(Kind::Advertise.parse("[::]:9092").is_none());
        assert!(Kind::Advertise.parse("broker:0").is_none());
    }

    #[test]
    fn there_is_one_directory() {
        let parsed = Kind::Directory.parse("/var/lib/core log");
        assert_eq!(parsed, Some(Value::Text("/var/lib/core log".to_owned())));
        for text in ["", " ", "/a,/b", "/a,"] {
            assert_eq!(Kind::Directory.parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_takes_known_words_only() {
        let kind = Kind::ChoiceList(&["delete", "compact"]);
        assert_eq!(
            kind.parse("compact, delete"),
            Some(Value::List(vec!["compact".into(), "delete".into()]))
        );
        assert_eq!(kind.parse("compact,burn"), None);
    }

    #[test]
    fn a_typing_mistake_gets_the_nearest_name() {
        let known = ["num.partitions", "node.id"];
        assert_eq!(
            nearest("num.partition", known.into_iter()),
            Some("num.partitions")
        );
        assert_eq!(nearest("nod.id", known.into_iter()), Some("node.id"));
        assert_eq!(nearest("something.else", known.into_iter()), None);
    }
}

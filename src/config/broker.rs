//! The broker's settings, typed: what the rest of the program reads.
//!
//! Pure: no async, no clock, no IO.
//! Promises: immutable; every field comes from the row of the same name (dots for underscores).
//! To change settings while running, build the next `BrokerConfig` with `with_altered`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Advertised, Cores, HostPort};
use super::error::Error;
use super::layers::{self, Settings, Source};
use super::table::{Change, ListChange, Shares, Value};

/// All active broker settings. Field docs are the rows' (`docs/config.md`).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each field is documented by its row, once")]
pub struct BrokerConfig {
    pub node_id: i32,
    pub cluster_id: Option<String>,
    pub data_dir: std::path::PathBuf,
    pub listen: Vec<HostPort>,
    pub advertise: Option<HostPort>,
    pub admin: Option<HostPort>,
    pub allow_volatile: bool,
    pub log_level: String,
    pub log_format: LogFormat,
    pub cores: Cores,
    pub memory_per_shard: Option<u64>,
    pub journal_size: Option<u64>,
    pub ring_depth: u32,
    pub spin: Duration,
    pub commit_bytes: u64,
    pub commit_delay: Duration,
    pub writes_in_flight: u32,
    pub destage_size: u64,
    pub shares: Shares,
    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics_enable: bool,
    pub delete_topic_enable: bool,
    pub log_retention_check_interval: Duration,
    /// 0: nothing is read.
    pub scrub_bytes_per_second: u64,
    pub scrub_interval: Duration,
    pub group_initial_rebalance_delay: Duration,
    pub group_min_session_timeout: Duration,
    pub group_max_session_timeout: Duration,
    pub group_max_size: u32,
    pub offsets_retention: Duration,
    pub offsets_retention_check_interval: Duration,
    pub offsets_topic_num_partitions: i32,
    pub offset_metadata_max_bytes: usize,
    pub socket_request_max_bytes: usize,
    pub fetch_max_bytes: usize,
    pub fetch_session_slots: u32,
    /// `None`: never.
    pub connections_max_idle: Option<Duration>,
    pub max_connections: u32,
    pub max_connections_per_ip: u32,
    pub max_connections_per_ip_overrides: Vec<(IpAddr, u32)>,
    /// `None`: as the kernel likes.
    pub socket_send_buffer_bytes: Option<usize>,
    /// `None`: as the kernel likes.
    pub socket_receive_buffer_bytes: Option<usize>,
    pub producer_id_expiration: Duration,
    pub transaction_max_timeout: Duration,
    settings: Arc<Settings>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for BrokerConfig {
    /// Every setting at its default.
    fn default() -> Self {
        Self::new(Settings::default()).expect("a test builds the defaults")
    }
}

impl BrokerConfig {
    /// Checks the relations between settings and builds the typed form.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let settings = Arc::new(settings);
        let reader = Reader {
            settings: &settings,
        };
        let idle = reader.integer("connections.max.idle.ms");
        let send_buffer = reader.integer("socket.send.buffer.bytes");
        let receive_buffer = reader.integer("socket.receive.buffer.bytes");
        let config = Self {
            node_id: reader.number("node.id"),
            cluster_id: reader.optional_text("cluster.id"),
            data_dir: reader.text("data.dir").into(),
            listen: reader.addresses("listen"),
            advertise: reader.addresses("advertise").pop(),
            admin: reader.addresses("admin").pop(),
            allow_volatile: reader.boolean("allow.volatile"),
            log_level: reader.text("log.level"),
            log_format: match reader.text("log.format").as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            cores: reader.cores("cores"),
            memory_per_shard: reader.size("memory.per.shard"),
            journal_size: reader.size("journal.size"),
            ring_depth: reader.number("ring.depth"),
            spin: reader.time("spin"),
            commit_bytes: reader.bytes("commit.bytes"),
            commit_delay: reader.time("commit.delay"),
            writes_in_flight: reader.number("writes.in.flight"),
            destage_size: reader.bytes("destage.size"),
            shares: reader.shares("shares"),
            num_partitions: reader.number("num.partitions"),
            default_replication_factor: reader.number("default.replication.factor"),
            auto_create_topics_enable: reader.boolean("auto.create.topics.enable"),
            delete_topic_enable: reader.boolean("delete.topic.enable"),
            log_retention_check_interval: reader.millis("log.retention.check.interval.ms"),
            scrub_bytes_per_second: reader.bytes("scrub.bytes.per.second"),
            scrub_interval: reader.millis("scrub.interval.ms"),
            group_initial_rebalance_delay: reader.millis("group.initial.rebalance.delay.ms"),
            group_min_session_timeout: reader.millis("group.min.session.timeout.ms"),
            group_max_session_timeout: reader.millis("group.max.session.timeout.ms"),
            group_max_size: reader.number("group.max.size"),
            offsets_retention: reader.minutes("offsets.retention.minutes"),
            offsets_retention_check_interval: reader.millis("offsets.retention.check.interval.ms"),
            offsets_topic_num_partitions: reader.number("offsets.topic.num.partitions"),
            offset_metadata_max_bytes: reader.number("offset.metadata.max.bytes"),
            socket_request_max_bytes: reader.number("socket.request.max.bytes"),
            fetch_max_bytes: reader.number("fetch.max.bytes"),
            fetch_session_slots: reader.number("max.incremental.fetch.session.cache.slots"),
            connections_max_idle: u64::try_from(idle).ok().map(Duration::from_millis),
            max_connections: reader.number("max.connections"),
            max_connections_per_ip: reader.number("max.connections.per.ip"),
            max_connections_per_ip_overrides: reader
                .address_limits("max.connections.per.ip.overrides"),
            socket_send_buffer_bytes: usize::try_from(send_buffer).ok(),
            socket_receive_buffer_bytes: usize::try_from(receive_buffer).ok(),
            producer_id_expiration: reader.millis("producer.id.expiration.ms"),
            transaction_max_timeout: reader.millis("transaction.max.timeout.ms"),
            settings: Arc::clone(&settings),
        };
        config.check_relations()?;
        Ok(config)
    }

    /// The next configuration after an alteration through the admin protocol: `altered` replaces
    /// whatever was altered before. Names that need a restart are refused.
    pub fn with_altered<'a>(
        &self,
        altered: impl Iterator<Item = (Source, &'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let mut settings = self.settings.at_start();
        for (source, name, value) in altered {
            check_alterable(name, value)?;
            settings.set(name, value, source, ORIGIN_ALTERED)?;
        }
        Self::new(settings)
    }

    /// The texts with their sources.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What clients are told to connect to.
    pub fn advertised(&self) -> Advertised {
        if let Some(address) = &self.advertise {
            return Advertised::Fixed(address.clone());
        }
        match self.listen.as_slice() {
            // port 0 is only known once bound: the connection knows it
            [only] if !only.is_wildcard() && only.host != "localhost" && only.port != 0 => {
                Advertised::Fixed(only.clone())
            }
            _ => Advertised::AsConnected,
        }
    }

    /// The addresses that others than this machine can reach, for clients and for the admin port:
    /// worth a warning without security.
    pub fn exposed(&self) -> impl Iterator<Item = &HostPort> {
        let all = self.listen.iter().chain(&self.admin);
        all.filter(|address| !address.is_loopback())
    }

    fn check_relations(&self) -> Result<(), Error> {
        let conflict = |name: &str, value: String, reason: String| {
            Err(Error::Conflict {
                name: name.to_owned(),
                value,
                reason,
            })
        };
        let (shortest, longest) = (
            self.group_min_session_timeout,
            self.group_max_session_timeout,
        );
        if shortest > longest {
            return conflict(
                "group.min.session.timeout.ms",
                shortest.as_millis().to_string(),
                format!(
                    "it exceeds `group.max.session.timeout.ms` = `{}`",
                    longest.as_millis()
                ),
            );
        }
        let topics = super::topic::TopicConfig::defaults(self);
        let request_max = self.socket_request_max_bytes;
        if topics.max_message_bytes > request_max {
            return conflict(
                "message.max.bytes",
                topics.max_message_bytes.to_string(),
                format!("it exceeds `socket.request.max.bytes` = `{request_max}`"),
            );
        }
        if let Some(admin) = &self.admin
            && admin.port != 0
            && self.listen.iter().any(|listen| same_address(listen, admin))
        {
            return conflict(
                "admin",
                admin.to_string(),
                "`listen` has the same".to_owned(),
            );
        }
        if let Some(id) = &self.cluster_id
            && (id.is_empty() || id.len() > CLUSTER_ID_LENGTH_MAX || !id.is_ascii())
        {
            return conflict(
                "cluster.id",
                id.clone(),
                format!("it must have 1 to {CLUSTER_ID_LENGTH_MAX} ASCII characters"),
            );
        }
        Ok(())
    }
}

const CLUSTER_ID_LENGTH_MAX: usize = 64;
const ORIGIN_ALTERED: &str = "altered while running";

/// Both would claim the same port of the same interface.
fn same_address(a: &HostPort, b: &HostPort) -> bool {
    a.port == b.port
        && (a.host == b.host || a.is_wildcard() || b.is_wildcard() || {
            a.is_loopback() && b.is_loopback() && (a.host == "localhost" || b.host == "localhost")
        })
}

/// The list that `APPEND` or `SUBTRACT` leads to: `altered` is what was set while running, else
/// the value of the start counts, else the default.
pub fn changed_list(
    broker: &BrokerConfig,
    name: &str,
    altered: Option<&str>,
    words: &str,
    change: ListChange,
) -> Result<String, Error> {
    let row = layers::find_row(name).filter(|row| row.kind.is_list());
    let row = row.ok_or_else(|| Error::Conflict {
        name: name.to_owned(),
        value: words.to_owned(),
        reason: "words can be added to and taken from lists only".to_owned(),
    })?;
    let at_start = broker.settings.at_start();
    let current = altered
        .or(at_start.text(row.key).map(|(_, text)| text))
        .or(row.default);
    Ok(change.apply(current.unwrap_or_default(), words))
}

/// Whether a running broker takes a new value of this setting.
pub fn check_alterable(name: &str, value: &str) -> Result<(), Error> {
    match layers::find_row(name) {
        Some(row) if row.change == Change::Restart => Err(Error::Conflict {
            name: name.to_owned(),
            value: value.to_owned(),
            reason: "it can only be set at start: in the file, the environment or a flag"
                .to_owned(),
        }),
        _ => Ok(()), // an unknown name gets its own error from `Settings::set`
    }
}

/// Reads typed values. A wrong type or an unknown key is a programmer's error: the test that
/// builds the defaults meets all of them.
struct Reader<'a> {
    settings: &'a Settings,
}

impl Reader<'_> {
    fn value(&self, key: &str) -> Value {
        let row = layers::find_row(key).expect("[config-one-table] every field has its row");
        self.settings.value(row)
    }

    fn integer(&self, key: &str) -> i64 {
        match self.value(key) {
            Value::Integer(number) => number,
            other => panic!("`{key}` is not a number: {other:?}"),
        }
    }

    fn number<T: TryFrom<i64>>(&self, key: &str) -> T {
        let number = self.integer(key);
        T::try_from(number)
            .ok()
            .expect("the row's range fits the field's type")
    }

    fn unsigned(&self, key: &str) -> u64 {
        self.number(key)
    }

    fn millis(&self, key: &str) -> Duration {
        Duration::from_millis(self.unsigned(key))
    }

    fn minutes(&self, key: &str) -> Duration {
        Duration::from_secs(self.unsigned(key) * 60)
    }

    fn boolean(&self, key: &str) -> bool {
        match self.value(key) {
            Value::Boolean(truth) => truth,
            other => panic!("`{key}` is not a boolean: {other:?}"),
        }
    }

    fn optional_text(&self, key: &str) -> Option<String> {
        match self.value(key) {
            Value::Text(text) => Some(text),
            Value::Unset => None,
            other => panic!("`{key}` is not a text: {other:?}"),
        }
    }

    fn text(&self, key: &str) -> String {
        self.optional_text(key).expect("the row has a default")
    }

    fn size(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Value::Size(size) => size,
            other => panic!("`{key}` is not a size: {other:?}"),
        }
    }

    fn bytes(&self, key: &str) -> u64 {
        self.size(key).expect("only `SizeOrAuto` can be auto")
    }

    fn time(&self, key: &str) -> Duration {
        match self.value(key) {
            Value::Time(time) => time,
            other => panic!("`{key}` is not a time: {other:?}"),
        }
    }

    fn addresses(&self, key: &str) -> Vec<HostPort> {
        match self.value(key) {
            Value::Addresses(list) => list,
            Value::Unset => Vec::new(),
            other => panic!("`{key}` is not an address: {other:?}"),
        }
    }

    fn address_limits(&self, key: &str) -> Vec<(IpAddr, u32)> {
        match self.value(key) {
            Value::AddressLimits(limits) => limits,
            other => panic!("`{key}` is not a list of limits: {other:?}"),
        }
    }

    fn cores(&self, key: &str) -> Cores {
        match self.value(key) {
            Value::Cores(cores) => cores,
            other => panic!("`{key}` is not a core list: {other:?}"),
        }
    }

    fn shares(&self, key: &str) -> Shares {
        match self.value(key) {
            Value::Shares(shares) => shares,
            other => panic!("`{key}` is not shares: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[(&str, &str)]) -> Result<BrokerConfig, Error> {
        let mut settings = Settings::default();
        for (name, value) in flags {
            settings.set(name, value, Source::Flag, "--set")?;
        }
        BrokerConfig::new(settings)
    }

    #[test]
    fn the_defaults_are_kafkas_and_bind_loopback_only() {
        let config = BrokerConfig::default();
        assert_eq!(config.node_id, 1);
        assert_eq!(config.num_partitions, 1);
        assert_eq!(config.group_initial_rebalance_delay, Duration::from_secs(3));
        assert_eq!(config.offsets_retention, Duration::from_hours(7 * 24));
        assert_eq!(config.exposed().count(), 0);
        assert_eq!(config.advertised(), Advertised::AsConnected);
        assert_eq!(config.connections_max_idle, Some(Duration::from_mins(10)));
    }

    #[test]
    fn the_whole_range_of_every_number_fits_its_field() {
        use crate::config::table::Kind;
        for row in super::super::broker_rows::rows() {
            let (Kind::Short(min, max) | Kind::Int(min, max) | Kind::Long(min, max)) = row.kind
            else {
                continue;
            };
            for number in [min, max] {
                let mut settings = Settings::default();
                settings
                    .set(row.key, &number.to_string(), Source::Flag, "t")
                    .expect("in range");
                // relations may refuse the extreme value; the conversion must not panic
                let _ = BrokerConfig::new(settings);
            }
        }
    }

    #[test]
    fn minus_one_keeps_idle_connections() {
        let config = config(&[("connections.max.idle.ms", "-1")]).expect("valid");
        assert_eq!(config.connections_max_idle, None);
    }

    #[test]
    fn a_wildcard_listener_advertises_what_the_client_connected_to() {
        let wildcard = config(&[("listen", "0.0.0.0:9092")]).expect("valid");
        assert_eq!(wildcard.advertised(), Advertised::AsConnected);
        assert_eq!(wildcard.exposed().count(), 1);
        let named = config(&[("listen", "broker-1:9092")]).expect("valid");
        let fixed = Advertised::Fixed(HostPort {
            host: "broker-1".into(),
            port: 9092,
        });
        assert_eq!(named.advertised(), fixed);
    }

    #[test]
    fn relations_between_settings_are_checked() {
        let error = config(&[("group.min.session.timeout.ms", "1800001")]).expect_err("min > max");
        assert_eq!(
            error.to_string(),
            "setting `group.min.session.timeout.ms` = `1800001` is not allowed: \
             it exceeds `group.max.session.timeout.ms` = `1800000`"
        );
        for flags in [
            [
                ("message.max.bytes", "2000000"),
                ("socket.request.max.bytes", "1000000"),
            ],
            [("listen", "127.0.0.1:9644"), ("node.id", "1")],
        ] {
            assert!(config(&flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn altering_replaces_earlier_alterations_and_keeps_the_start() {
        let start = config(&[("log.retention.ms", "1000")]).expect("valid");
        let altered = [(Source::Altered, "log.retention.ms", "5")];
        let first = start.with_altered(altered.into_iter()).expect("live");
        assert_eq!(
            first.settings().text("log.retention.ms"),
            Some((Source::Altered, "5"))
        );
        let second = first.with_altered(std::iter::empty()).expect("live");
        assert_eq!(second, start);
        let altered = [(Source::Altered, "node.id", "5")];
        assert!(start.with_altered(altered.into_iter()).is_err());
    }

    #[test]
    fn a_list_is_changed_from_what_is_in_force() {
        let start = config(&[]).expect("valid");
        let name = "log.cleanup.policy";
        let appended = changed_list(&start, name, None, "compact", ListChange::Append);
        assert_eq!(appended.as_deref(), Ok("delete,compact"));
        let altered = Some("delete,compact");
        let taken = changed_list(&start, name, altered, "delete", ListChange::Subtract);
        assert_eq!(taken.as_deref(), Ok("compact"));
        let other = changed_list(&start, "message.max.bytes", None, "1", ListChange::Append);
        assert!(other.is_err());
    }

    #[test]
    fn settings_without_effect_are_named_for_a_warning() {
        let config = config(&[("num.io.threads", "8"), ("node.id", "3")]).expect("valid");
        let names: Vec<_> = config
            .settings()
            .without_effect()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["num.io.threads"]);
    }
}

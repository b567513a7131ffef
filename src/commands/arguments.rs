//! What can be typed: the command line's grammar, and nothing else.
//!
//! Runs on: the main thread. The flags of `serve` carry setting names, so that the settings
//! tables alone decide what is allowed.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::address::HostPort;

/// A durable log broker that Apache Kafka clients can use unchanged.
#[derive(Debug, Parser)]
#[command(
    name = "corelog",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker
    Serve(Box<ServeArguments>),
    /// Create, list, describe, alter and delete topics
    Topic(TopicArguments),
    /// List, describe and delete consumer groups; set their offsets
    Group(GroupArguments),
    /// Write lines of standard input to a topic
    Produce(ProduceArguments),
    /// Print the records of a topic
    Consume(ConsumeArguments),
    /// Print a file of a data directory, with verdicts on its checksums
    Dump(DumpArguments),
    /// Look at the machine and what to change there; or at all of a data directory for damage
    Check(CheckArguments),
    /// List the partitions that wait for a decision about damage; give up what is damaged
    Repair(RepairArguments),
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
    /// About the settings
    #[command(hide = true)]
    Config(ConfigArguments),
}

/// Where the broker is.
#[derive(Debug, Clone, Args)]
pub struct BootstrapArguments {
    /// A broker of the cluster; several with commas
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    #[arg(value_parser = parse_bootstrap)]
    pub bootstrap: Bootstrap,
}

/// One or more broker addresses.
#[derive(Debug, Clone)]
pub struct Bootstrap(pub Vec<HostPort>);

fn parse_bootstrap(text: &str) -> Result<Bootstrap, String> {
    let addresses: Option<Vec<HostPort>> = text
        .split(',')
        .map(|one| HostPort::parse(one).filter(|address| address.port != 0))
        .collect();
    addresses
        .map(Bootstrap)
        .ok_or_else(|| "expected HOST:PORT".to_owned())
}

/// A topic setting as `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment(pub String, pub String);

fn parse_assignment(text: &str) -> Result<Assignment, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok(Assignment(name.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// `corelog topic`.
#[derive(Debug, Args)]
pub struct TopicArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: TopicCommand,
}

/// What `corelog topic` does.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create(CreateArguments),
    /// List the topics
    List {
        /// Internal topics too
        #[arg(long)]
        internal: bool,
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// Where the broker is
        #[command(flatten)]
        bootstrap: BootstrapArguments,
    },
    /// Show partitions, leaders, offsets and settings
    Describe {
        /// Names; none is all topics
        topics: Vec<String>,
        /// Settings that are at their default too
        #[arg(long)]
        all_configs: bool,
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// Where the broker is
        #[command(flatten)]
        bootstrap: BootstrapArguments,
    },
    /// Change settings, add partitions
    Alter(AlterArguments),
    /// Delete topics with all their records
    Delete {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
        /// Succeed when there is none of that name
        #[arg(long)]
        if_exists: bool,
        /// Where the broker is
        #[command(flatten)]
        bootstrap: BootstrapArguments,
    },
}

/// `corelog topic create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Its name
    pub topic: String,
    /// Number of partitions [default: the broker's num.partitions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: Option<i32>,
    /// Number of replicas [default: the broker's default.replication.factor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    pub replication_factor: Option<i16>,
    /// A setting; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub config: Vec<Assignment>,
    /// Succeed when it is there already
    #[arg(long)]
    pub if_not_exists: bool,
    /// Where the broker is
    #[command(flatten)]
    pub bootstrap: BootstrapArguments,
}

/// `corelog topic alter`.
#[derive(Debug, Args)]
pub struct AlterArguments {
    /// Its name
    pub topic: String,
    /// The new, larger number of partitions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: Option<i32>,
    /// A setting; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub config: Vec<Assignment>,
    /// A setting to take back to its default; may be given several times
    #[arg(long, value_name = "NAME")]
    pub reset_config: Vec<String>,
    /// Where the broker is
    #[command(flatten)]
    pub bootstrap: BootstrapArguments,
}

/// `corelog group`.
#[derive(Debug, Args)]
pub struct GroupArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: GroupCommand,
}

/// What `corelog group` does.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups
    List {
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// Where the broker is
        #[command(flatten)]
        bootstrap: BootstrapArguments,
    },
    /// Show committed offsets, ends, lag and members
    Describe {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// Where the broker is
        #[command(flatten)]
        bootstrap: BootstrapArguments,
    },
    /// Delete groups that have no members
    Delete {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
        /// Where the broker is
        #[command(flatten)]
        bootstrap: BootstrapArguments,
    },
    /// Show the offsets that a group without members would be set to; set them with --execute
    ResetOffsets(ResetArguments),
}

/// `corelog group reset-offsets`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
pub struct ResetArguments {
    /// The group
    pub group: String,
    /// TOPIC or TOPIC:0,2; several times; none is all topics that the group committed
    #[arg(long, value_name = "TOPIC[:PARTITIONS]", value_parser = parse_selection)]
    pub topic: Vec<Selection>,
    /// To the first record that is still there
    #[arg(long, group = "target")]
    pub to_earliest: bool,
    /// Behind the last record
    #[arg(long, group = "target")]
    pub to_latest: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET", group = "target")]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// To the first record of this time (milliseconds since 1970) or later
    #[arg(long, value_name = "MILLISECONDS", group = "target")]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub to_timestamp: Option<i64>,
    /// By so many records, forward or (negative) back
    #[arg(
        long,
        value_name = "N",
        group = "target",
        allow_negative_numbers = true
    )]
    pub shift_by: Option<i64>,
    /// Commit the offsets; without it they are only shown
    #[arg(long)]
    pub execute: bool,
    /// Show the offsets, but do not commit them: what happens without --execute, too
    #[arg(long, conflicts_with = "execute")]
    pub dry_run: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    /// Where the broker is
    #[command(flatten)]
    pub bootstrap: BootstrapArguments,
}

/// A topic, or some partitions of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The topic.
    pub topic: String,
    /// Its partitions; none is all.
    pub partitions: Vec<i32>,
}

fn parse_selection(text: &str) -> Result<Selection, String> {
    let (topic, list) = text.split_once(':').unwrap_or((text, ""));
    let partitions: Result<Vec<i32>, _> = list
        .split(',')
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect();
    match partitions {
        Ok(partitions) if !topic.is_empty() && partitions.iter().all(|index| *index >= 0) => {
            Ok(Selection {
                topic: topic.to_owned(),
                partitions,
            })
        }
        _ => Err("expected TOPIC or TOPIC:0,2".to_owned()),
    }
}

/// `corelog produce`.
#[derive(Debug, Args)]
pub struct ProduceArguments {
    /// The topic
    pub topic: String,
    /// What separates key and value; without it, the whole line is the value
    #[arg(long, value_name = "TEXT")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub key_separator: Option<String>,
    /// Whose acknowledgement is waited for
    #[arg(long, value_name = "ACKS", default_value = "all")]
    pub acks: AcksArgument,
    /// Codec of the batches
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub compression: CompressionArgument,
    /// Everything to this partition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Where the broker is
    #[command(flatten)]
    pub bootstrap: BootstrapArguments,
}

/// Values of `--acks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AcksArgument {
    /// Nobody's
    #[value(name = "0")]
    None,
    /// The leader's
    #[value(name = "1")]
    Leader,
    /// All replicas' in sync
    #[value(alias = "-1")]
    All,
}

/// Values of `--compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names of the codecs")]
pub enum CompressionArgument {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// `corelog consume`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
pub struct ConsumeArguments {
    /// The topic
    pub topic: String,
    /// Begin with the first record (in a group: where nothing was committed)
    #[arg(long, conflicts_with = "offset")]
    pub from_beginning: bool,
    /// Read as a member of this group and commit what was printed
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["offset", "partition"])]
    pub group: Option<String>,
    /// End after so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,
    /// Where to begin: beginning, end, an offset, or -N for N records before the end [default: end]
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true)]
    pub offset: Option<StartAt>,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Vec<i32>,
    /// Print the key and a tab before the value
    #[arg(long, conflicts_with = "json")]
    pub print_key: bool,
    /// End when the end of every partition was reached
    #[arg(long)]
    pub exit_at_end: bool,
    /// One JSON object a record, with partition, offset, timestamp, key and headers
    #[arg(long)]
    pub json: bool,
    /// Where the broker is
    #[command(flatten)]
    pub bootstrap: BootstrapArguments,
}

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// With the first record.
    Beginning,
    /// Behind the last record.
    End,
    /// With this offset.
    Offset(i64),
    /// So many records before the end.
    BeforeEnd(i64),
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            number => match number.parse::<i64>() {
                Ok(offset) if offset >= 0 => Ok(Self::Offset(offset)),
                Ok(back) if back > i64::MIN => Ok(Self::BeforeEnd(-back)),
                _ => Err("expected beginning, end, an offset or -N".to_owned()),
            },
        }
    }
}

/// `corelog dump`.
#[derive(Debug, Args)]
pub struct DumpArguments {
    /// A segment, index, snapshot, checkpoint or journal file
    pub file: PathBuf,
    /// The records of segments too, not only their batches
    #[arg(long)]
    pub records: bool,
    /// One JSON object a line, with its kind
    #[arg(long)]
    pub json: bool,
}

/// `corelog check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Instead of the machine: read everything in the data directory of a broker that does not
    /// run; exit code 1 when something is wrong
    #[arg(long)]
    pub data: bool,
    /// Where the data is, or will be; the disk below it is measured for four seconds [default:
    /// ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Settings file (TOML) of the broker, also `CORELOG_CONFIG`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Change of the machine what may be changed without a risk, until the next boot (as root)
    #[arg(long, conflicts_with = "data")]
    pub fix: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// `corelog repair`.
#[derive(Debug, Args)]
pub struct RepairArguments {
    /// The data directory of a broker that does not run
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Give up what is damaged: at the next start the log of this partition ends before it. May be
    /// given several times; `all` stands for every partition that is listed
    #[arg(long, value_name = "TOPIC-PARTITION|all")]
    pub accept_loss: Vec<String>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// `corelog completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `corelog config`.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// What to print.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `corelog config` prints.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print docs/config.md
    Docs,
}

/// `corelog serve`. Every flag but `--config` and `--set` is the setting with hyphens for dots.
#[derive(Debug, Default, Args)]
pub struct ServeArguments {
    /// Settings file (TOML) also `CORELOG_CONFIG`; the environment and flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where everything is kept [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Where clients connect [default: localhost:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The address that clients are told to connect to
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// This broker's number [default: 1]
    #[arg(long, value_name = "N")]
    pub node_id: Option<String>,
    /// Cores that run a shard each, such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,
    /// Where /metrics and /healthz are served, or off [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Memory of each shard, such as 512MiB [default: auto]
    #[arg(long, value_name = "SIZE")]
    pub memory_per_shard: Option<String>,
    /// Commit journal of each shard, such as 1GiB [default: auto]
    #[arg(long, value_name = "SIZE")]
    pub journal_size: Option<String>,
    /// Submission entries of each shard's io_uring [default: 128]
    #[arg(long, value_name = "N")]
    pub ring_depth: Option<String>,
    /// How long an idle shard looks for work before it sleeps [default: 0]
    #[arg(long, value_name = "TIME")]
    pub spin: Option<String>,
    /// Size at which a group commit is full [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub commit_bytes: Option<String>,
    /// How long a commit that is not full waits [default: 0]
    #[arg(long, value_name = "TIME")]
    pub commit_delay: Option<String>,
    /// The most journal writes of a shard at a time [default: 4]
    #[arg(long, value_name = "N")]
    pub writes_in_flight: Option<String>,
    /// Size of the writes into segment files [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub destage_size: Option<String>,
    /// Processor shares: network=N,commit=N,read=N,background=N
    #[arg(long, value_name = "SHARES")]
    pub shares: Option<String>,
    /// Start on a file system that a power cut empties (tmpfs)
    #[arg(long)]
    pub allow_volatile: bool,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any setting of docs/config.md; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

impl ServeArguments {
    /// The dedicated flags that were given: flag, setting name, value.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let volatile =
            self.allow_volatile
                .then_some(("--allow-volatile", "allow.volatile", "true"));
        let texts = [
            ("--data-dir", "data.dir", &self.data_dir),
            ("--listen", "listen", &self.listen),
            ("--advertise", "advertise", &self.advertise),
            ("--node-id", "node.id", &self.node_id),
            ("--cores", "cores", &self.cores),
            ("--admin", "admin", &self.admin),
            (
                "--memory-per-shard",
                "memory.per.shard",
                &self.memory_per_shard,
            ),
            ("--journal-size", "journal.size", &self.journal_size),
            ("--ring-depth", "ring.depth", &self.ring_depth),
            ("--spin", "spin", &self.spin),
            ("--commit-bytes", "commit.bytes", &self.commit_bytes),
            ("--commit-delay", "commit.delay", &self.commit_delay),
            (
                "--writes-in-flight",
                "writes.in.flight",
                &self.writes_in_flight,
            ),
            ("--destage-size", "destage.size", &self.destage_size),
            ("--shares", "shares", &self.shares),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ];
        texts
            .into_iter()
            .filter_map(|(flag, name, text)| Some((flag, name, text.as_deref()?)))
            .chain(volatile)
    }
}

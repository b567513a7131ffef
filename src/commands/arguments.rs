//! What can be typed: the command line's grammar, and nothing else.
//!
//! Runs on: the main thread. The flags of `serve` carry setting names, so that the settings
//! tables alone decide what is allowed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A durable log broker that Apache Kafka clients can use unchanged.
#[derive(Debug, Parser)]
#[command(name = "corelog", version, max_term_width = 100)]
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
    /// About the settings
    #[command(hide = true)]
    Config(ConfigArguments),
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
    /// Settings file (TOML) [env: CORELOG_CONFIG]; the environment and flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where everything is kept [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Where clients connect [default: localhost:9092, that is 127.0.0.1 and ::1]
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

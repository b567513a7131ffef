//! Kills a broker under load, again and again, and checks that nothing acknowledged is gone.
//!
//! One cycle: idempotent acks=all producers write to partitions that roll, expire and do neither,
//! a group of two reads and commits, topics come and go; at a random moment the broker is killed
//! with SIGKILL (or the power of its file system is cut) and started again, up to twice only to
//! be killed during that start; the same clients, never restarted, retry what was in flight; then
//! everything new is read back.
//! A cycle passes only if at least 1,000 records were acknowledged in it, some were in flight at
//! the kill, and every acknowledged record is there, once, in order, whole and where it was
//! acknowledged, if it has not expired; no committed offset went back; topics are there or gone
//! as it was acknowledged. After the last cycle every lane is read once more from its beginning.
//!
//! Runs on: the main thread; each producer and each member of the group has a thread of its own.

mod churn;
mod group;
mod ledger;
mod power;
mod process;
mod producer;
mod record;
mod report;
mod topics;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use crate::churn::ChurnLoad;
use crate::group::GroupLoad;
use crate::ledger::Ledger;
use crate::power::PowerDomain;
use crate::process::{Broker, BrokerCommand};
use crate::producer::LoadProducer;
use crate::report::{CycleReport, RunReport};
use crate::verify::Verifier;

/// A cycle with fewer acknowledged records proves nothing.
const ACKED_MIN: u64 = 1_000;
/// Longest random delay between the first 1,000 acknowledgements and the kill.
const KILL_DELAY_MAX_MS: u64 = 1_500;
/// Longest random delay between the power cut and the kill of the process.
const CUT_DELAY_MAX_MS: u64 = 100;
/// Most starts that are killed before one is let alone.
const KILLED_STARTS_MAX: u64 = 2;
/// Longest life of a start that is killed: as long as a start with its recovery takes.
const KILLED_START_MAX_MS: u64 = 600;
const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOAD_LIMIT: Duration = Duration::from_mins(1);
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
/// Compression of each producer: its number is its place here.
const PRODUCERS: [&str; 3] = ["none", "lz4", "none"];
/// Sparse; holds journals, segments and what the cycles add.
const DISK_BYTES: u64 = 8 << 30;

#[derive(Debug, Parser)]
#[command(about = "Kills a broker under load and checks that nothing acknowledged is gone")]
struct Options {
    /// How often to kill the broker
    #[arg(long, default_value_t = 5)]
    cycles: u32,
    /// Cut the power of the data directory's file system at each kill (root)
    #[arg(long)]
    power_cut: bool,
    /// The corelog binary
    #[arg(long, default_value = "target/release/corelog")]
    broker: PathBuf,
    /// Start this instead; {listen} and {data} are replaced
    #[arg(long, value_name = "COMMAND")]
    broker_command: Option<String>,
    /// Where the data directory, the broker's log and the disk image go
    #[arg(long, default_value = "target/crash")]
    work_dir: PathBuf,
    /// Seed of the random delays (default: from the clock; it is printed)
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures to this JSON file
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(report) => {
            println!("{}", report.totals());
            println!("{} passed, {} failed", report.passed(), report.failed());
            if report.failed() == 0 && report.passed() > 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(reason) => {
            eprintln!("corelog-crash: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<RunReport, String> {
    let seed = options.seed.unwrap_or_else(clock_seed);
    println!("seed {seed}, {} cycles, {}", options.cycles, mode(options));
    let work_dir = prepare(&options.work_dir)?;
    let power = options
        .power_cut
        .then(|| PowerDomain::create(&work_dir, DISK_BYTES))
        .transpose()?;
    let data_dir = power
        .as_ref()
        .map_or(&*work_dir, PowerDomain::path)
        .join("data");
    let mut session = Session::start(options, &work_dir, &data_dir, power, seed)?;
    let mut report = RunReport::new(mode(options), seed);
    for number in 1..=options.cycles {
        let cycle = session.cycle(number);
        println!("{cycle}");
        let is_broken = cycle.is_broken;
        report.cycles.push(cycle);
        if is_broken {
            report.not_run = options.cycles - number;
            break;
        }
    }
    if report.not_run == 0 {
        let closing = session.finish();
        println!("{closing}");
        report.closing = Some(closing);
    }
    if let Some(path) = &options.result {
        report.write(path)?;
    }
    Ok(report)
}

fn mode(options: &Options) -> &'static str {
    if options.power_cut {
        "power cut"
    } else {
        "kill -9"
    }
}

fn prepare(work_dir: &Path) -> Result<PathBuf, String> {
    let explain = |error: std::io::Error| format!("{}: {error}", work_dir.display());
    std::fs::create_dir_all(work_dir).map_err(explain)?;
    let work_dir = work_dir.canonicalize().map_err(explain)?;
    for left_over in ["data", "broker.log"] {
        let path = work_dir.join(left_over);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }
    Ok(work_dir)
}

/// The broker, its load and its checker over all cycles. Fields drop in order: the clients and
/// the broker before the file system under them.
struct Session {
    group: GroupLoad,
    churn: ChurnLoad,
    producers: Vec<LoadProducer>,
    verifier: Verifier,
    broker: Broker,
    command: BrokerCommand,
    power: Option<PowerDomain>,
    random: u64,
}

impl Session {
    fn start(
        options: &Options,
        work_dir: &Path,
        data_dir: &Path,
        power: Option<PowerDomain>,
        seed: u64,
    ) -> Result<Self, String> {
        let address = process::free_address(seed).map_err(|error| error.to_string())?;
        let words = broker_words(options);
        let log_path = work_dir.join("broker.log");
        let command = BrokerCommand::new(&words, address, data_dir, log_path);
        let broker = command.start(START_LIMIT)?;
        let bootstrap = address.to_string();
        let lanes = topics::create(&bootstrap)?;
        let verifier = Verifier::new(&bootstrap, &lanes, PRODUCERS.len());
        let mut producers = Vec::new();
        for (number, compression) in (0..).zip(PRODUCERS) {
            let producer = LoadProducer::start(number, &bootstrap, &lanes, compression);
            producers.push(producer.map_err(|error| error.to_string())?);
        }
        let ledgers = ledgers(&producers);
        let group = GroupLoad::start(&bootstrap, &lanes, &ledgers);
        let churn = ChurnLoad::start(&bootstrap);
        Ok(Self {
            group: group.map_err(|error| error.to_string())?,
            churn: churn.map_err(|error| error.to_string())?,
            producers,
            verifier,
            broker,
            command,
            power,
            random: seed | 1,
        })
    }

    fn cycle(&mut self, number: u32) -> CycleReport {
        let mut report = CycleReport::new(format!("cycle {number:>3}"));
        if let Err(reason) = self.try_cycle(&mut report) {
            report.is_broken = true;
            report.violations.push(reason);
        }
        for producer in &self.producers {
            report.violations.extend(producer.ledger.take_violations());
        }
        report
    }

    fn try_cycle(&mut self, report: &mut CycleReport) -> Result<(), String> {
        let acked_before = self.total(Ledger::acked_count);
        let (seen, commits) = (self.group.seen(), self.group.commits());
        let (created, deleted) = self.churn.counts();
        for producer in &self.producers {
            producer.resume();
        }
        self.churn.resume();
        self.wait_for_acks(acked_before + ACKED_MIN)?;
        std::thread::sleep(Duration::from_millis(self.random_below(KILL_DELAY_MAX_MS)));
        report.in_flight_at_kill = self.total(Ledger::in_flight);
        self.cut_power()?;
        report.acked_before_kill = self.total(Ledger::acked_count) - acked_before;
        self.broker.kill()?;
        self.restore_power()?;
        for _ in 0..self.random_below(KILLED_STARTS_MAX + 1) {
            self.broker = self.command.spawn()?;
            std::thread::sleep(Duration::from_millis(
                self.random_below(KILLED_START_MAX_MS),
            ));
            self.cut_power()?;
            if self.power.is_none() || self.broker.is_running() {
                self.broker.kill()?;
            }
            self.restore_power()?;
            report.killed_starts += 1;
        }
        self.broker = self.command.start(START_LIMIT)?;
        report.restart_time = self.broker.start_time;
        self.settle()?;
        report.acked = self.total(Ledger::acked_count) - acked_before;
        report.group_seen = self.group.seen() - seen;
        report.group_commits = self.group.commits() - commits;
        self.verify_new(report);
        let topics = self.churn.counts();
        report.topics_created = topics.0.saturating_sub(created);
        report.topics_deleted = topics.1.saturating_sub(deleted);
        if report.acked_before_kill < ACKED_MIN {
            report
                .violations
                .push(format!("only {} records acked", report.acked_before_kill));
        }
        if report.in_flight_at_kill == 0 {
            report
                .violations
                .push("nothing was in flight at the kill".into());
        }
        Ok(())
    }

    /// Cuts the power, where that is asked for, and lets the broker run on without it.
    fn cut_power(&mut self) -> Result<(), String> {
        let delay = self.random_below(CUT_DELAY_MAX_MS);
        if let Some(power) = &self.power {
            power.cut()?;
            std::thread::sleep(Duration::from_millis(delay));
        }
        Ok(())
    }

    fn restore_power(&mut self) -> Result<(), String> {
        self.power.as_mut().map_or(Ok(()), PowerDomain::restore)
    }

    fn verify_new(&mut self, report: &mut CycleReport) {
        let books: Vec<&Ledger> = self
            .producers
            .iter()
            .map(|producer| &*producer.ledger)
            .collect();
        let verdict = self.verifier.check_new(&books);
        report.verified = verdict.verified;
        report.violations.extend(verdict.violations);
        let violations = self.group.check(&ledgers(&self.producers));
        report.violations.extend(violations);
        report.violations.extend(self.churn.check());
    }

    /// Reads everything once more from the beginning, and stops the broker as an operator does.
    fn finish(mut self) -> CycleReport {
        let mut report = CycleReport::new("all again".into());
        let books: Vec<&Ledger> = self
            .producers
            .iter()
            .map(|producer| &*producer.ledger)
            .collect();
        let verdict = self.verifier.check_all(&books);
        report.acked = self.total(Ledger::acked_count);
        report.verified = verdict.verified;
        report.violations.extend(verdict.violations);
        if report.verified + verdict.expired < report.acked {
            report.violations.push(format!(
                "{} acked, {} there, {} expired",
                report.acked, report.verified, verdict.expired
            ));
        }
        // clients take their leave of a broker that answers
        drop((self.group, self.churn));
        if let Err(reason) = self.broker.stop(STOP_LIMIT) {
            report.violations.push(reason);
        }
        report
    }

    fn wait_for_acks(&mut self, wanted: u64) -> Result<(), String> {
        let started = Instant::now();
        while self.total(Ledger::acked_count) < wanted {
            if started.elapsed() > LOAD_LIMIT {
                return Err(format!(
                    "fewer than {ACKED_MIN} acknowledged in {LOAD_LIMIT:?}"
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Pauses the load until everything sent is acknowledged.
    fn settle(&mut self) -> Result<(), String> {
        for producer in &self.producers {
            producer.pause();
        }
        self.churn.pause();
        let started = Instant::now();
        let mut quiet_since = None;
        loop {
            let waiting = self.total(Ledger::in_flight) + u64::from(!self.churn.is_idle());
            match waiting {
                0 if quiet_since.is_some_and(|at: Instant| at.elapsed().as_millis() > 50) => {
                    return Ok(());
                }
                0 => {
                    quiet_since.get_or_insert_with(Instant::now);
                }
                _ => quiet_since = None,
            }
            if started.elapsed() > SETTLE_LIMIT {
                return Err(format!(
                    "{waiting} records still unacknowledged {SETTLE_LIMIT:?} later"
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn total(&self, count: impl Fn(&Ledger) -> u64) -> u64 {
        self.producers
            .iter()
            .map(|producer| count(&producer.ledger))
            .sum()
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }
}

fn ledgers(producers: &[LoadProducer]) -> Vec<Arc<Ledger>> {
    let ledgers = producers.iter().map(|producer| &producer.ledger);
    ledgers.map(Arc::clone).collect()
}

fn broker_words(options: &Options) -> Vec<String> {
    if let Some(command) = &options.broker_command {
        return command.split_whitespace().map(ToOwned::to_owned).collect();
    }
    let broker = options.broker.display().to_string();
    let rest = [
        "serve",
        "--listen",
        "{listen}",
        "--data-dir",
        "{data}",
        "--admin",
        "off",
        "--set",
        "log.retention.check.interval.ms=500",
        // a client that has known a topic would bring it back
        "--set",
        "auto.create.topics.enable=false",
        // members that join are killed before they have waited for others
        "--set",
        "group.initial.rebalance.delay.ms=0",
        "--set",
        "group.min.session.timeout.ms=1000",
    ];
    std::iter::once(broker)
        .chain(rest.iter().map(|word| (*word).to_owned()))
        .collect()
}

fn clock_seed() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs() ^ u64::from(since.subsec_nanos()) << 20
}

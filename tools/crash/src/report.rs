//! The figures of a run: one line for each cycle, and a JSON file for longer runs.
//!
//! Runs on: the main thread.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::json;

/// One cycle.
#[derive(Debug)]
pub(crate) struct CycleReport {
    name: String,
    /// Acknowledged in this cycle before the kill.
    pub(crate) acked_before_kill: u64,
    /// Sent and not acknowledged at the kill.
    pub(crate) in_flight_at_kill: u64,
    /// Acknowledged in this cycle altogether.
    pub(crate) acked: u64,
    /// Read back and found right.
    pub(crate) verified: u64,
    /// Starts that were killed before the one that was let alone.
    pub(crate) killed_starts: u32,
    /// Records that the group was given, and commits that were acknowledged to it.
    pub(crate) group_seen: u64,
    pub(crate) group_commits: u64,
    /// Topics created and deleted beside the load.
    pub(crate) topics_created: usize,
    pub(crate) topics_deleted: usize,
    /// From the start of the process to its first answer.
    pub(crate) restart_time: Duration,
    pub(crate) violations: Vec<String>,
    /// The run cannot go on after this cycle.
    pub(crate) is_broken: bool,
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct RunReport {
    mode: &'static str,
    seed: u64,
    pub(crate) cycles: Vec<CycleReport>,
    /// Cycles left after one that broke the run: they count as failed.
    pub(crate) not_run: u32,
    /// The last reading of everything: no cycle, but a failure if it finds one.
    pub(crate) closing: Option<CycleReport>,
}

impl CycleReport {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            acked_before_kill: 0,
            in_flight_at_kill: 0,
            acked: 0,
            verified: 0,
            killed_starts: 0,
            group_seen: 0,
            group_commits: 0,
            topics_created: 0,
            topics_deleted: 0,
            restart_time: Duration::ZERO,
            violations: Vec::new(),
            is_broken: false,
        }
    }

    fn is_passed(&self) -> bool {
        self.violations.is_empty() && !self.is_broken
    }
}

impl fmt::Display for CycleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {} acked before the kill, {} in flight, {} acked in all, {} verified, \
             {} starts killed, group {} records {} commits, topics +{} -{}, restarted in {} ms",
            if self.is_passed() { "PASS" } else { "FAIL" },
            self.name,
            self.acked_before_kill,
            self.in_flight_at_kill,
            self.acked,
            self.verified,
            self.killed_starts,
            self.group_seen,
            self.group_commits,
            self.topics_created,
            self.topics_deleted,
            self.restart_time.as_millis()
        )?;
        for violation in &self.violations {
            write!(f, "\n     {violation}")?;
        }
        Ok(())
    }
}

impl RunReport {
    pub(crate) fn new(mode: &'static str, seed: u64) -> Self {
        Self {
            mode,
            seed,
            cycles: Vec::new(),
            not_run: 0,
            closing: None,
        }
    }

    pub(crate) fn passed(&self) -> usize {
        self.cycles.iter().filter(|cycle| cycle.is_passed()).count()
    }

    pub(crate) fn failed(&self) -> usize {
        let not_run = usize::try_from(self.not_run).expect("u32 fits usize");
        let closing = self
            .closing
            .as_ref()
            .is_some_and(|closing| !closing.is_passed());
        self.cycles.len() - self.passed() + not_run + usize::from(closing)
    }

    /// One line: what all cycles together acknowledged, verified and had in flight at the kills.
    pub(crate) fn totals(&self) -> String {
        let sum = |of: fn(&CycleReport) -> u64| self.cycles.iter().map(of).sum::<u64>();
        format!(
            "{} acknowledged, {} verified, {} in flight at the kills, {} starts killed, {} records \
             seen and {} commits made by the group, {} topics created, {} deleted",
            sum(|cycle| cycle.acked),
            sum(|cycle| cycle.verified),
            sum(|cycle| cycle.in_flight_at_kill),
            sum(|cycle| u64::from(cycle.killed_starts)),
            sum(|cycle| cycle.group_seen),
            sum(|cycle| cycle.group_commits),
            sum(|cycle| cycle.topics_created as u64),
            sum(|cycle| cycle.topics_deleted as u64),
        )
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let cycles: Vec<_> = self
            .cycles
            .iter()
            .chain(&self.closing)
            .map(|cycle| {
                json!({
                    "name": cycle.name.trim(),
                    "passed": cycle.is_passed(),
                    "acked_before_kill": cycle.acked_before_kill,
                    "in_flight_at_kill": cycle.in_flight_at_kill,
                    "acked": cycle.acked,
                    "verified": cycle.verified,
                    "killed_starts": cycle.killed_starts,
                    "group_seen": cycle.group_seen,
                    "group_commits": cycle.group_commits,
                    "topics_created": cycle.topics_created,
                    "topics_deleted": cycle.topics_deleted,
                    "restart_ms": cycle.restart_time.as_millis().to_string(),
                    "violations": cycle.violations,
                })
            })
            .collect();
        let report = json!({
            "what": format!("tools/crash/run, {}", self.mode),
            "commit": said_by("git", &["rev-parse", "HEAD"]),
            "is_tree_clean": said_by("git", &["status", "--porcelain", "-uno"]).is_empty(),
            "date_unix_s": SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            "date": said_by("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            "machine": format!(
                "{}, {} CPUs",
                said_by("uname", &["-srm"]),
                std::thread::available_parallelism().map_or(0, usize::from)
            ),
            "seed": self.seed,
            "passed": self.passed(),
            "failed": self.failed(),
            "totals": self.totals(),
            "cycles": cycles,
        });
        let text = serde_json::to_string_pretty(&report).expect("plain values") + "\n";
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        }
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

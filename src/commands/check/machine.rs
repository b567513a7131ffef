//! `corelog check`: looks at the machine a broker would run on, and at the disk below its data.
//!
//! Runs on: the main thread; measures for about four seconds.
//! Promises: nothing is changed but by `--fix`, and that holds until the next boot; files to
//! measure with are removed.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::arguments::CheckArguments;
use super::super::output::Output;
use super::super::run::Failure;
use super::verdicts::{self, Finding, Fix, Verdict};
use crate::broker;
use crate::config::BrokerConfig;
use crate::config::machine as sizing;
use crate::rt::{machine, survey};

/// Prints what was found, one line a subject; fails where no broker would start.
pub(super) fn run(config: &BrokerConfig, arguments: &CheckArguments) -> Result<(), Failure> {
    let dir = existing(&config.data_dir)?;
    let found = look(&dir, config)?;
    let subjects = found.len();
    let rows: Vec<(Finding, Vec<Outcome>)> = found
        .into_iter()
        .map(|finding| {
            let outcomes = finding.fixes.iter();
            let outcomes = outcomes.map(|fix| outcome(fix, arguments.fix)).collect();
            (finding, outcomes)
        })
        .collect();
    print(&rows, arguments.json)?;
    let is_open = |outcomes: &[Outcome]| !outcomes.iter().any(|outcome| outcome.is_fixed);
    let problems = rows
        .iter()
        .filter(|(finding, outcomes)| finding.verdict == Verdict::Problem && is_open(outcomes));
    match problems.count() {
        0 => Ok(()),
        count => {
            let text = format!("{count} of {subjects} keep a broker from starting");
            Err(Failure::Failed(text))
        }
    }
}

fn print(rows: &[(Finding, Vec<Outcome>)], as_json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if as_json {
        let document = rows.iter().map(|(finding, outcomes)| {
            let fixes = outcomes.iter().map(|outcome| outcome.text.as_str());
            json!({
                "subject": finding.subject,
                "verdict": finding.verdict.word(),
                "text": finding.text,
                "fixes": fixes.collect::<Vec<_>>(),
            })
        });
        return output.json(&document.collect());
    }
    for (finding, outcomes) in rows {
        let (word, subject) = (finding.verdict.word(), finding.subject);
        output.line(format!("{word:<9}{subject:<16}{}", finding.text))?;
        for outcome in outcomes {
            output.line(format!("{:25}{}", "", outcome.text))?;
        }
    }
    output.flush()
}

/// The data directory, or what is above it where it is still to be made.
fn existing(data_dir: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(data_dir)?;
    let found = absolute.ancestors().find(|path| path.is_dir());
    found.map(Path::to_owned).ok_or_else(|| {
        let text = format!("{}: no such directory", data_dir.display());
        Failure::Failed(text)
    })
}

fn look(dir: &Path, config: &BrokerConfig) -> Result<Vec<Finding>, Failure> {
    let probed = machine::probe_io_uring();
    let (kernel, features) = (survey::kernel_release(), survey::io_uring_features());
    let mut found = vec![verdicts::io_uring(
        &probed,
        kernel.as_deref(),
        features.as_deref(),
    )];
    let kind = machine::filesystem(dir)?;
    let mount = survey::mount(dir);
    found.push(verdicts::file_system(kind, mount.as_ref()));
    let direct = machine::probe_direct_io(dir);
    found.push(verdicts::direct_io(&direct));
    if direct.is_ok() {
        let measured = survey::measure_durable_writes(dir);
        found.push(verdicts::durable_writes(&measured));
    }
    let disk = survey::block_device(dir);
    found.extend(disk.as_ref().and_then(verdicts::write_cache));
    found.push(verdicts::locked_memory(machine::memlock_limits()?));
    found.push(verdicts::open_files(machine::nofile_limits()?));
    let facts = broker::facts(config, dir)?;
    found.push(verdicts::sizes(&sizing::resolve(config, &facts)));
    let siblings: Vec<String> = facts
        .cores
        .iter()
        .filter_map(|core| survey::siblings(*core))
        .collect();
    found.extend(verdicts::threads_of_cores(&facts.cores, &siblings));
    let governors = facts.cores.iter().filter_map(|core| {
        let (governor, path) = survey::governor(*core)?;
        Some((*core, governor, path))
    });
    found.extend(verdicts::governors(governors.collect()));
    let clocks = survey::clock_sources().unwrap_or_default();
    found.extend(verdicts::clock(&clocks, survey::clock_source_file()));
    let by_core = survey::device_interrupts().unwrap_or_default();
    found.extend(verdicts::interrupts(&by_core));
    Ok(found)
}

/// What became of a fix.
struct Outcome {
    is_fixed: bool,
    text: String,
}

/// Carries `fix` out where that was asked for, else says what it would be.
fn outcome(fix: &Fix, is_asked: bool) -> Outcome {
    let (value, path) = (&fix.value, fix.path.display());
    if !is_asked {
        return Outcome {
            is_fixed: false,
            text: format!("--fix writes {value} to {path}, until the next boot"),
        };
    }
    let written = survey::write_system_setting(&fix.path, value);
    Outcome {
        is_fixed: written.is_ok(),
        text: match written {
            Ok(()) => format!("fixed: {value} written to {path}, until the next boot"),
            Err(error) => format!("not fixed: {path}: {error}: --fix needs root"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_is_proposed_carried_out_on_request_and_told_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let fix = Fix {
            path: dir.path().join("setting"),
            value: "0".into(),
        };
        assert!(!outcome(&fix, false).is_fixed);
        assert!(!fix.path.exists(), "a proposal changes nothing");
        assert!(outcome(&fix, true).is_fixed);
        assert_eq!(std::fs::read_to_string(&fix.path).unwrap(), "0");
        let missing = Fix {
            path: dir.path().join("none/setting"),
            value: "0".into(),
        };
        let failed = outcome(&missing, true);
        assert!(
            !failed.is_fixed && failed.text.starts_with("not fixed: "),
            "{}",
            failed.text
        );
    }

    #[test]
    fn the_directory_above_stands_for_one_that_is_still_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let later = dir.path().join("a/b");
        assert_eq!(existing(&later).unwrap(), dir.path());
        assert!(!later.exists());
    }
}

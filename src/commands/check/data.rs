//! `corelog check --data`: reads a whole data directory and lists what is wrong in it.
//!
//! Runs on: the main thread, while no broker runs on the directory; the reading on one executor.
//! Promises: nothing is written but this process's number into the lock file. Exit code 0 where
//! nothing was found, 1 where something was.

use serde_json::{Value, json};

use super::super::output::Output;
use super::super::run::Failure;
use crate::config::BrokerConfig;
use crate::log::check::Finding;
use crate::rt::data_lock::DataLock;
use crate::rt::executor::{self, ShardSpec};
use crate::shard::check::{self, Report};

/// What makes a directory one of a broker's, whatever else is missing.
const SIGNS: [&str; 3] = ["corelog.json", "metadata", "journal"];

/// Reads everything, prints what it found.
pub(super) fn run(config: &BrokerConfig, as_json: bool) -> Result<(), Failure> {
    let data_dir = &config.data_dir;
    if !SIGNS.iter().any(|sign| data_dir.join(sign).exists()) {
        let text = format!("{}: not a data directory", data_dir.display());
        return Err(Failure::Failed(text));
    }
    let lock = DataLock::acquire(data_dir).map_err(|error| Failure::Failed(error.to_string()))?;
    let checked = executor::run_on_cores(vec![ShardSpec::default()], {
        let data_dir = data_dir.clone();
        move |_| {
            let data_dir = data_dir.clone();
            async move { check::run(&data_dir).await }
        }
    });
    lock.undo();
    let mut reports = checked.map_err(|error| Failure::Failed(error.to_string()))?;
    let report = reports.pop().expect("one executor, one outcome");
    print(&report, as_json)?;
    if report.findings.is_empty() {
        return Ok(());
    }
    let text = format!("{}: damaged, see above", data_dir.display());
    Err(Failure::Failed(text))
}

fn print(report: &Report, as_json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if as_json {
        return output.json(&json!({
            "partitions": report.partitions,
            "segments": report.segments,
            "batches": report.batches,
            "size_bytes": report.size_bytes,
            "findings": report.findings.iter().map(object).collect::<Value>(),
        }));
    }
    for (_, finding) in &report.findings {
        output.line(line(finding))?;
    }
    output.line(format!(
        "{} partitions, {} segments, {} batches, {} bytes checked; {} findings",
        report.partitions,
        report.segments,
        report.batches,
        report.size_bytes,
        report.findings.len(),
    ))?;
    output.flush()
}

fn object((partition, finding): &(Option<String>, Finding)) -> Value {
    json!({
        "partition": partition,
        "file": finding.path.display().to_string(),
        "position": finding.position,
        "what": finding.what,
        "cure": finding.cure.text(),
    })
}

fn line(finding: &Finding) -> String {
    let (file, what, cure) = (finding.path.display(), &finding.what, finding.cure.text());
    match finding.position {
        Some(position) => format!("{file}, position {position}: {what}: {cure}"),
        None => format!("{file}: {what}: {cure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::check::Cure;

    #[test]
    fn a_finding_is_one_line_with_file_place_and_cure() {
        let whole = Finding::whole("/d/a", &"it is gone", Cure::Restore);
        assert_eq!(line(&whole), "/d/a: it is gone: restore it from a backup");
        let placed = Finding {
            position: Some(7),
            ..whole
        };
        assert_eq!(
            line(&placed),
            "/d/a, position 7: it is gone: restore it from a backup"
        );
        assert_eq!(object(&(None, placed))["position"], 7);
    }
}

//! `corelog check --data` on the directories of real brokers: stopped, killed, damaged, running.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Broker, Launch, client, contents, directory};

const RECORDS: usize = 400;

fn check(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(["check", "--data", "--data-dir"]).arg(dir);
    command.args(arguments).output().expect("runs")
}

/// What is found: the files' names and what is to be done.
#[track_caller]
fn findings(dir: &Path) -> Vec<(PathBuf, String)> {
    let before = contents(dir);
    let output = check(dir, &["--json"]);
    assert!(before == contents(dir), "the check changes nothing");
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let list = document["findings"].as_array().expect("a list").clone();
    assert_eq!(
        output.status.code(),
        Some(i32::from(!list.is_empty())),
        "{output:?}"
    );
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let found = list
        .iter()
        .map(|one| (text(&one["file"]).into(), text(&one["cure"])));
    found.collect()
}

fn fill(broker: &Broker) {
    let settings = [("linger.ms", "1"), ("batch.num.messages", "5")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in 0..RECORDS {
        let value = format!("{number}:{}", "x".repeat(300));
        for partition in 0..2 {
            client::send(&producer, "c", partition, None, value.as_bytes());
        }
    }
    for delivery in client::flush(&producer) {
        delivery.expect("acknowledged");
    }
}

/// A broker that was stopped in between: sealed segments, and as many records in the journal.
fn filled(dir: &Path) -> Broker {
    let broker = Launch::new(dir).start();
    client::create_topic(&broker.bootstrap(), "c", 2, &[("segment.bytes", "32768")]);
    fill(&broker);
    let broker = broker.stop().start();
    fill(&broker);
    broker
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("there");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("the test's own");
}

#[test]
fn a_directory_is_clean_after_a_stop_and_after_a_kill_and_not_looked_at_while_it_is_used() {
    let dir = directory();
    let broker = filled(dir.path());
    let output = check(dir.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is in use by another process"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    let launch = broker.kill();
    assert_eq!(findings(dir.path()), [], "after a kill");
    launch.start().stop();
    assert_eq!(findings(dir.path()), [], "after a stop");
    let output = check(dir.path(), &[]);
    let said = String::from_utf8(output.stdout).expect("text");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..2], ["2", "partitions,"], "{said}");
    assert!(said.ends_with(" bytes checked; 0 findings\n"), "{said}");
    let batches: usize = words[4].parse().expect("a number");
    assert!(batches >= 2 * 2 * RECORDS / 5, "{said}");
}

#[test]
fn each_damaged_file_is_one_finding_that_says_who_mends_it() {
    const BROKER: &str = "nothing is lost: the broker mends it or does without";
    const RESTORE: &str = "restore it from a backup";
    let dir = directory();
    filled(dir.path()).stop();
    let partition = dir.path().join("topics/c-1");
    let named = |kind: &str| {
        let mut paths: Vec<PathBuf> = contents(&partition).into_keys().collect();
        paths.retain(|path| path.extension().is_some_and(|found| found == kind));
        paths
    };
    let logs = named("log");
    let metadata = dir.path().join("metadata/00000000000000000000.log");
    let cases = [
        (logs[1].clone(), 5000, RESTORE),
        (logs[1].clone(), 7, RESTORE),
        (logs.last().expect("one").clone(), 70, RESTORE),
        (named("index")[1].clone(), 3, BROKER),
        (named("timeindex")[1].clone(), 7, BROKER),
        (named("snapshot")[0].clone(), 4, BROKER),
        (partition.join("leader-epoch-checkpoint"), 0, BROKER),
        (partition.join("partition.metadata"), 0, BROKER),
        (partition.join("partition.state"), 30, BROKER),
        (dir.path().join("corelog.json"), 30, RESTORE),
        (metadata, 12, RESTORE),
        (dir.path().join("journal/shard-000/checkpoint"), 20, BROKER),
    ];
    for (path, at, cure) in cases {
        flip(&path, at);
        let found = findings(dir.path());
        flip(&path, at);
        assert_eq!(found, [(path, cure.to_owned())], "byte {at}");
    }
    // what the system does not give is one more finding
    let unreadable = dir.path().join("topics/c-0/leader-epoch-checkpoint");
    std::fs::remove_file(&unreadable).expect("there");
    std::fs::create_dir(&unreadable).expect("the test's own");
    flip(&logs[1], 5000);
    let found = findings(dir.path());
    flip(&logs[1], 5000);
    std::fs::remove_dir(&unreadable).expect("the test's own");
    let paths: Vec<PathBuf> = found.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, [unreadable, logs[1].clone()]);
    std::fs::remove_file(&logs[0]).expect("there");
    let found = findings(dir.path());
    assert_eq!(found, [(logs[0].clone(), RESTORE.to_owned())]);
}

#[test]
fn the_directory_may_be_named_by_a_settings_file_and_has_to_be_one() {
    let dir = directory();
    Launch::new(&dir.path().join("data")).start().stop();
    let file = dir.path().join("corelog.toml");
    let text = format!("\"data.dir\" = {:?}\n", dir.path().join("data"));
    std::fs::write(&file, text).expect("the test's own");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
        command.arg("check").args(arguments).current_dir(dir.path());
        command.output().expect("runs").status.code()
    };
    assert_eq!(run(&["--data", "--config", "corelog.toml"]), Some(0));
    assert_eq!(run(&["--data"]), Some(0), "./data");
    assert_eq!(run(&["--data", "--data-dir", "elsewhere"]), Some(1));
    assert!(!dir.path().join("elsewhere").exists());
    assert_eq!(run(&["--data", "--fix"]), Some(2));
}

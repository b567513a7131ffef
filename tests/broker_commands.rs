//! The commands against a running broker: every one of them, as a user's script would run them.

mod running_broker;

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use running_broker::{Broker, PATIENCE};

fn lines(from: i32, to: i32) -> String {
    let mut lines = String::new();
    for number in from..=to {
        let _ = writeln!(lines, "key{number}:value{number}");
    }
    lines
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_topic_lives_through_create_describe_alter_and_delete() {
    let broker = Broker::start(&[]);
    broker.text(&[
        "topic",
        "create",
        "orders",
        "--partitions",
        "2",
        "--config",
        "retention.ms=5",
    ]);
    let refused = broker.refusal(&["topic", "create", "orders"]);
    assert!(
        refused.starts_with("corelog: topic `orders`: TOPIC_ALREADY_EXISTS"),
        "{refused}"
    );
    broker.text(&["topic", "create", "orders", "--if-not-exists"]);
    let refused = broker.refusal(&["topic", "create", "x", "--config", "no.such=1"]);
    assert!(refused.contains("INVALID_CONFIG"), "{refused}");
    assert_eq!(broker.text(&["topic", "list"]), "orders\n");

    broker.text(&[
        "topic",
        "alter",
        "orders",
        "--partitions",
        "3",
        "--config",
        "segment.ms=9",
    ]);
    broker.text(&["topic", "alter", "orders", "--reset-config", "retention.ms"]);
    let described = broker.json(&["topic", "describe", "orders"]);
    let topic = &described[0];
    assert_eq!(
        topic["partitions"].as_array().map(Vec::len),
        Some(3),
        "{topic}"
    );
    assert_eq!(topic["configs"][0]["name"], "segment.ms", "{topic}");
    assert_eq!(
        topic["configs"].as_array().map(Vec::len),
        Some(1),
        "{topic}"
    );

    broker.text(&["topic", "delete", "orders"]);
    let refused = broker.refusal(&["topic", "delete", "orders"]);
    assert!(refused.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{refused}");
    broker.text(&["topic", "delete", "orders", "--if-exists"]);
    assert_eq!(broker.text(&["topic", "list"]), "");
}

#[test]
fn lines_come_back_as_records_in_every_codec() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t", "--partitions", "3"]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for acks in ["0", "1", "all"] {
            let input = format!("{codec}:{acks}\n");
            let flags = [
                "t",
                "--key-separator",
                ":",
                "--compression",
                codec,
                "--acks",
                acks,
            ];
            broker.produce(&flags, &input);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let consume = [
        "consume",
        "t",
        "--from-beginning",
        "--exit-at-end",
        "--print-key",
    ];
    let mut text = broker.text(&consume);
    while text.lines().count() < 15 && Instant::now() < deadline {
        text = broker.text(&consume); // acks=0 says nothing about when
    }
    let mut expected = Vec::new();
    for codec in ["gzip", "lz4", "none", "snappy", "zstd"] {
        for acks in ["0", "1", "all"] {
            expected.push(format!("{codec}\t{acks}"));
        }
    }
    assert_eq!(sorted(&text), expected);
}

#[test]
fn a_consumer_begins_and_ends_where_it_is_told_to() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t"]);
    broker.produce(&["t", "--key-separator", ":"], &lines(1, 10));
    let consume = |flags: &[&str]| broker.text(&[&["consume", "t"], flags].concat());
    assert_eq!(
        consume(&["--from-beginning", "--max", "2"]),
        "value1\nvalue2\n"
    );
    assert_eq!(
        consume(&["--offset", "8", "--exit-at-end"]),
        "value9\nvalue10\n"
    );
    assert_eq!(consume(&["--offset", "-1", "--exit-at-end"]), "value10\n");
    assert_eq!(consume(&["--exit-at-end"]), "");
    let record: Value =
        serde_json::from_str(&consume(&["--offset", "3", "--max", "1", "--json"])).expect("JSON");
    assert_eq!(record["offset"], 3);
    assert_eq!(record["key"], "key4");
    let refused = broker.refusal(&["consume", "t", "--offset", "11", "--exit-at-end"]);
    assert!(
        refused.contains("offset 11 is beyond the end (10)"),
        "{refused}"
    );
    let refused = broker.refusal(&["consume", "t", "--partition", "1"]);
    assert!(refused.contains("has no partition 1"), "{refused}");
}

#[test]
fn a_group_goes_on_where_it_stopped_and_its_offsets_can_be_reset() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t", "--partitions", "3"]);
    broker.produce(&["t", "--key-separator", ":"], &lines(1, 30));
    let group = [
        "consume",
        "t",
        "--group",
        "g",
        "--from-beginning",
        "--exit-at-end",
    ];
    assert_eq!(broker.text(&group).lines().count(), 30);
    assert_eq!(broker.text(&group), "");
    broker.produce(&["t", "--key-separator", ":"], &lines(31, 40));
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(described[0]["state"], "Empty", "{described}");
    let lag: i64 = described[0]["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .filter_map(|partition| partition["lag"].as_i64())
        .sum();
    assert_eq!(lag, 10, "{described}");
    assert_eq!(broker.text(&group).lines().count(), 10);

    reset_offsets(&broker, &["--to-earliest", "--execute"]);
    assert_eq!(broker.text(&group).lines().count(), 40);

    assert_eq!(broker.text(&["group", "list"]), "g\n");
    broker.text(&["group", "delete", "g"]);
    let refused = broker.refusal(&["group", "describe", "g"]);
    assert!(refused.contains("there is no such group"), "{refused}");
}

/// `corelog group reset-offsets g`; the rows of its table, and standard error.
fn reset_offsets(broker: &Broker, flags: &[&str]) -> (Vec<String>, String) {
    let output = broker.run(&[&["group", "reset-offsets", "g"], flags].concat());
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(0), "{error}");
    let table = String::from_utf8(output.stdout).expect("text");
    let cells = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    (table.lines().map(cells).collect(), error)
}

#[test]
fn offsets_are_reset_with_execute_only_and_within_the_log() {
    const UNCHANGED: &str = "corelog: nothing was changed: --execute sets these offsets\n";
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t"]);
    broker.produce(&["t"], &lines(1, 10));
    let consume = ["consume", "t", "--group", "g", "--from-beginning"];
    let consume = [&consume[..], &["--exit-at-end"]].concat();
    assert_eq!(broker.text(&consume).lines().count(), 10);
    let committed = || {
        let described = broker.json(&["group", "describe", "g"]);
        described[0]["partitions"][0]["committed"].clone()
    };
    for flags in [
        &["--to-offset", "4"][..],
        &["--to-offset", "4", "--dry-run"],
    ] {
        let (table, error) = reset_offsets(&broker, flags);
        assert_eq!(table, ["TOPIC PARTITION BEFORE WOULD BE", "t 0 10 4"]);
        assert_eq!(error, UNCHANGED);
        assert_eq!(committed(), 10);
    }
    let plan = broker.json(&["group", "reset-offsets", "g", "--to-offset", "4"]);
    assert_eq!(plan[0]["committed"], false, "{plan}");
    let (table, error) = reset_offsets(&broker, &["--to-offset", "4", "--execute"]);
    assert_eq!(table, ["TOPIC PARTITION BEFORE NOW", "t 0 10 4"]);
    assert_eq!(error, "");
    assert_eq!(committed(), 4);

    let (table, error) = reset_offsets(&broker, &["--shift-by", "-5"]);
    assert_eq!(table[1], "t 0 4 0");
    let clamped = "corelog: t-0: offset -1 is not within the log, 0 to 10: 0 is taken\n";
    assert_eq!(error, [clamped, UNCHANGED].concat());
    let (table, error) = reset_offsets(&broker, &["--to-offset", "11", "--execute"]);
    assert_eq!(table[1], "t 0 4 10");
    let clamped = "corelog: t-0: offset 11 is not within the log, 0 to 10: 10 is taken\n";
    assert_eq!(error, clamped);
    assert_eq!(committed(), 10);
}

#[test]
fn two_members_share_a_topic_and_a_live_group_keeps_its_offsets() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t", "--partitions", "2"]);
    let member = || {
        let flags = ["consume", "t", "--group", "g", "--from-beginning"];
        let stdout = broker.directory().join(format!("{:?}", Instant::now()));
        let file = std::fs::File::create(&stdout).expect("a file");
        (
            broker
                .command(&flags)
                .stdout(file)
                .spawn()
                .expect("the program starts"),
            stdout,
        )
    };
    let (first, second) = (member(), member());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = broker.run(&["group", "describe", "g", "--json"]);
        let described: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let owners: std::collections::BTreeSet<&str> = described[0]["partitions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|partition| partition["member"].as_str())
            .collect();
        if owners.len() == 2 && described[0]["state"] == "Stable" {
            break;
        }
        assert!(Instant::now() < deadline, "{described}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let refused = broker.refusal(&["group", "reset-offsets", "g", "--to-earliest"]);
    assert!(refused.contains("is Stable with 2 members"), "{refused}");
    broker.produce(&["t", "--key-separator", ":"], &lines(1, 20));
    let mut children = Vec::new();
    let read = |path: &std::path::PathBuf| std::fs::read_to_string(path).expect("text");
    while read(&first.1).lines().count() + read(&second.1).lines().count() < 20 {
        assert!(Instant::now() < deadline, "records are missing");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (mut child, path) in [first, second] {
        assert!(read(&path).lines().count() > 0, "each member has its share");
        let pid = i32::try_from(child.id()).expect("a process id");
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        children.push(child.wait().expect("it ends").code());
    }
    assert_eq!(children, [Some(0), Some(0)]);
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(described[0]["state"], "Empty", "{described}");
    assert_eq!(described[0]["partitions"][0]["lag"], 0, "{described}");
}

#[test]
fn a_waiting_consumer_ends_quietly_when_its_reader_goes() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t"]);
    let mut child = broker
        .command(&["consume", "t"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    std::thread::sleep(Duration::from_millis(300));
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}

#[test]
fn producing_to_a_topic_that_is_not_there_waits_for_it() {
    let broker = Broker::start(&[]);
    broker.produce(&["made-on-demand"], "first\n");
    assert_eq!(broker.range("made-on-demand", 0), (0, 1));
    let strict = broker.restart(&["--set", "auto.create.topics.enable=false"]);
    let refused = strict.try_produce(&["absent"], "first\n");
    let error = refused.expect_err("nobody makes it");
    assert!(error.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{error}");
}

#[test]
fn batches_are_as_small_as_the_topic_wants_them() {
    let broker = Broker::start(&[]);
    let small = ["--config", "max.message.bytes=2000"];
    broker.text(&[&["topic", "create", "small"][..], &small].concat());
    broker.produce(&["small"], &lines(1, 5_000));
    broker.produce(&["small", "--compression", "gzip"], &lines(1, 5_000));
    assert_eq!(broker.range("small", 0), (0, 10_000));
    let large = broker.try_produce(&["small"], &format!("{}\n", "x".repeat(3_000)));
    assert!(large.expect_err("too large").contains("MESSAGE_TOO_LARGE"));
}

#[test]
fn dump_reads_every_file_of_a_data_directory() {
    let broker = Broker::start(&[]);
    broker.text(&[
        "topic",
        "create",
        "orders",
        "--config",
        "segment.bytes=20000",
    ]);
    broker.produce(&["orders", "--key-separator", ":"], &lines(1, 3000));
    broker.text(&[
        "consume",
        "orders",
        "--group",
        "readers",
        "--from-beginning",
        "--max",
        "10",
    ]);
    let mut broker = broker.restart(&[]);
    broker.produce(&["orders", "--key-separator", ":"], &lines(3001, 3010));
    broker.kill();
    let mut pending = vec![broker.data()];
    let mut kinds = std::collections::BTreeSet::new();
    let mut text = String::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("readable");
            pending.extend(entries.map(|entry| entry.expect("readable").path()));
            continue;
        }
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let is_other = [".lock", "corelog.json", "reserve"].contains(&&*name);
        if is_other || name.rsplit('.').next() == Some("tmp") {
            continue;
        }
        let dump = |flags: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_corelog"));
            command.arg("dump").args(flags).arg(&path);
            let output = command.output().expect("runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{name}: {said}{output:?}");
            said
        };
        let said = dump(&[]);
        for line in dump(&["--json"]).lines() {
            let object: Value = serde_json::from_str(line).expect("one object a line");
            assert!(object["kind"].is_string(), "{name}: {line}");
            assert_ne!(object["kind"], "damage", "{name}: {line}");
        }
        kinds.insert(name.rsplit('.').next().unwrap_or_default().to_owned());
        text += &said;
    }
    let expected = [
        "checkpoint",
        "index",
        "leader-epoch-checkpoint",
        "log",
        "metadata",
        "state",
        "timeindex",
        "wal",
    ];
    for kind in expected {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
    assert!(text.contains("append"), "the journal's entries: {text}");
}

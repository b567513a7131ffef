//! The `corelog` program as a user runs it, without a broker: exit codes and one-line errors.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use corelog::model::batch_builder::BatchBuilder;
use serde_json::Value;

fn corelog(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelog"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    corelog(arguments).output().expect("the program starts")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

/// An address that nobody listens on.
fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn every_client_command_says_in_one_line_that_the_broker_is_unreachable() {
    let address = dead_address();
    let commands: &[&[&str]] = &[
        &["topic", "create", "t"],
        &["topic", "list"],
        &["topic", "describe", "--json"],
        &["topic", "alter", "t", "--partitions", "3"],
        &["topic", "delete", "t"],
        &["group", "list", "--json"],
        &["group", "describe", "g"],
        &["group", "delete", "g"],
        &["group", "reset-offsets", "g", "--to-earliest"],
        &["produce", "t"],
        &["consume", "t", "--exit-at-end"],
        &["consume", "t", "--group", "g"],
    ];
    for command in commands {
        let output = run(&[command, &["--bootstrap", &address][..]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert_eq!(output.stdout, b"", "{command:?}");
        let text = stderr(&output);
        assert!(
            text.starts_with("corelog: cannot reach a broker at 127.0.0.1:"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let commands: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["topic", "create"],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--config", "no-value"],
        &["topic", "alter", "t"],
        &["topic", "list", "--bootstrap", "no-port"],
        &["group", "reset-offsets", "g"],
        &[
            "group",
            "reset-offsets",
            "g",
            "--to-earliest",
            "--to-latest",
        ],
        &[
            "group",
            "reset-offsets",
            "g",
            "--to-earliest",
            "--topic",
            "t:x",
        ],
        &[
            "group",
            "reset-offsets",
            "g",
            "--to-earliest",
            "--dry-run",
            "--execute",
        ],
        &["produce", "t", "--acks", "2"],
        &["produce", "t", "--compression", "rar"],
        &["produce", "t", "--key-separator", ""],
        &["consume", "t", "--max", "0"],
        &["consume", "t", "--offset", "soon"],
        &["consume", "t", "--group", "g", "--partition", "1"],
        &["consume", "t", "--from-beginning", "--offset", "5"],
        &["completions", "tcsh-of-my-own"],
        &["serve", "--set", "num.partitions"],
        &["serve", "--no-such-flag"],
    ];
    for command in commands {
        let output = run(command);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{command:?}: {}",
            stderr(&output)
        );
        assert_eq!(output.stdout, b"", "{command:?}");
        assert_ne!(output.stderr, b"", "{command:?}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for command in [
        &["--version"][..],
        &["serve", "--version"],
        &["consume", "--help"],
    ] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert_ne!(output.stdout, b"", "{command:?}");
    }
    let version = run(&["--version"]).stdout;
    assert_eq!(
        version,
        format!("corelog {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
}

#[test]
fn an_impossible_setting_stops_serve_before_anything_is_touched() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let data = directory.path().join("data");
    let file = directory.path().join("corelog.toml");
    std::fs::write(&file, "[group]\nmax.sise = 3\n").expect("written");
    let data_text = data.to_str().expect("text");
    let file_text = file.to_str().expect("text");
    let cases: &[(&[&str], (&str, &str), &str)] = &[
        (
            &["--set", "num.partitions=0"],
            ("A", "B"),
            "corelog: setting `num.partitions` = `0` (--set) is not allowed: \
             expected a whole number, 1 to 10000\n",
        ),
        (
            &["--journal-size", "1MiB"],
            ("A", "B"),
            "corelog: setting `journal.size` = `1MiB` (--journal-size) is not allowed: \
             expected auto, or a size such as 64MiB, 16MiB to 1024GiB\n",
        ),
        (
            &[],
            ("CORELOG_NODE_ID", "-4"),
            "corelog: setting `node.id` = `-4` (environment variable CORELOG_NODE_ID) is not \
             allowed: expected a whole number, 0 to 2147483647\n",
        ),
        (
            &["--config", file_text],
            ("A", "B"),
            "unknown setting `group.max.sise` = `3`",
        ),
        (
            &[
                "--set",
                "log.segment.bytes=1000000",
                "--advertise",
                "0.0.0.0:9092",
            ],
            ("A", "B"),
            "setting `advertise` = `0.0.0.0:9092` (--advertise) is not allowed",
        ),
        (
            &["--config", "/no/such/file"],
            ("A", "B"),
            "corelog: cannot read /no/such/file: ",
        ),
        (
            &["--set", "num.partitions=1\nnode.id=\x1b[31m2"],
            ("A", "B"),
            "setting `num.partitions` = `1\\nnode.id=\\u{1b}[31m2` (--set) is not allowed",
        ),
        (
            &[],
            ("CORELOG_CLUSTER_I", "a\nb"),
            "unknown setting `CORELOG_CLUSTER_I` = `a\\nb` (environment)",
        ),
    ];
    for (flags, (name, value), expected) in cases {
        let arguments = [&["serve", "--data-dir", data_text][..], flags].concat();
        let output = corelog(&arguments)
            .env(name, value)
            .output()
            .expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        let text = stderr(&output);
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!data.exists(), "{flags:?}");
    }
}

#[test]
fn several_data_directories_are_refused() {
    // not an address of any machine: a setting that is taken ends there
    let nowhere = ["serve", "--listen", "203.0.113.1:9092", "--set"];
    for setting in ["data.dir", "log.dirs", "log.dir"] {
        let output = run(&[&nowhere[..], &[&format!("{setting}=/a,/b")]].concat());
        assert_eq!(output.status.code(), Some(1));
        let expected = format!(
            "corelog: setting `{setting}` = `/a,/b` (--set) is not allowed: \
             expected one directory, a path without commas\n"
        );
        assert_eq!(stderr(&output), expected);
    }
}

#[test]
fn a_closed_output_ends_quietly() {
    let mut child = corelog(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_broker_that_is_none_is_told_from_one() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the program");
        let _ = stream.read(&mut [0; 512]);
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .expect("written");
    });
    let output = run(&["topic", "list", "--bootstrap", &address]);
    server.join().expect("answered");
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("cannot be read: its length is 1213486160 bytes"),
        "{text}"
    );
}

#[test]
fn dump_prints_a_segment_and_fails_on_damage() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("00000000000000000000.log");
    let mut batch = BatchBuilder::new();
    batch.push(1_000, Some(b"key"), Some(b"value"));
    let mut bytes = batch.build();
    let size = bytes.len();
    bytes.extend([0; 4096]);
    std::fs::write(&path, &bytes).expect("written");
    let path = path.to_str().expect("text");

    let sound = run(&["dump", "--records", path]);
    let text = String::from_utf8_lossy(&sound.stdout).into_owned();
    assert_eq!(sound.status.code(), Some(0), "{text}");
    assert!(
        text.contains("offset 0 time 1000 key \"key\" value \"value\""),
        "{text}"
    );
    assert!(
        text.contains(&format!("position {size}: 4096 bytes reserved, unwritten")),
        "{text}"
    );

    let json = |output: &Output| -> Vec<Value> {
        let text = String::from_utf8(output.stdout.clone()).expect("text");
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("one object a line")).collect()
    };
    let kinds = |lines: &[Value]| -> Vec<String> {
        let kinds = lines.iter().map(|line| line["kind"].as_str());
        kinds.map(|kind| kind.expect("text").to_owned()).collect()
    };
    let sound = json(&run(&["dump", "--records", "--json", path]));
    assert_eq!(kinds(&sound), ["batch", "record", "reserved", "end"]);
    assert_eq!(sound[0]["size_bytes"], size);
    assert_eq!(sound[0]["sound"], true);
    assert_eq!(sound[1]["value"], "value");
    assert_eq!(sound[3]["records"], 1);

    bytes[size - 2] ^= 1;
    std::fs::write(path, &bytes).expect("written");
    let damaged = run(&["dump", path]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&damaged.stdout).contains(" WRONG"));
    assert_eq!(
        stderr(&damaged),
        format!("corelog: {path}: damaged, see above\n")
    );
    let damaged = run(&["dump", "--json", path]);
    assert_eq!(damaged.status.code(), Some(1));
    assert_eq!(json(&damaged)[0]["sound"], false);
    bytes.truncate(size - 1);
    std::fs::write(path, &bytes).expect("written");
    let cut = json(&run(&["dump", "--json", path]));
    assert_eq!(kinds(&cut), ["damage", "end"]);
}

#[test]
fn check_looks_at_the_machine_and_leaves_the_directory_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let path = data.to_str().expect("text");
    let output = run(&["check", "--json", "--data-dir", path]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = found.as_array().expect("a list");
    let verdict = |subject: &str| {
        let one = found.iter().find(|one| one["subject"] == subject);
        let one = one.unwrap_or_else(|| panic!("{subject} is missing in {found:?}"));
        one["verdict"].as_str().expect("text").to_owned()
    };
    for subject in ["io_uring", "direct I/O", "locked memory", "sizes"] {
        assert_eq!(verdict(subject), "good", "{subject}");
    }
    for subject in ["file system", "durable writes", "open files"] {
        assert_ne!(verdict(subject), "problem", "{subject}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn check_fails_where_a_broker_would_lose_everything_with_the_machine() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a file system in memory");
    let output = run(&["check", "--data-dir", dir.path().to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("\nproblem  file system     in memory"),
        "{text}"
    );
    let error = stderr(&output);
    assert!(error.starts_with("corelog: 1 of "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

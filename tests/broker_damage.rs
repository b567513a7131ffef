//! Damage in the data directory of a real broker: one partition is offline, the others are served,
//! and nothing acknowledged is given up but by a decision.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Broker, Launch, client, directory, free_port};

const RECORDS: usize = 400;

fn fill(broker: &Broker, first: usize) {
    let settings = [("linger.ms", "1"), ("batch.num.messages", "20")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in first..first + RECORDS {
        for partition in 0..4 {
            let value = format!("{partition}:{number}:{}", "x".repeat(number % 300));
            client::send(&producer, "d", partition, None, value.as_bytes());
        }
    }
    for delivery in client::flush(&producer) {
        delivery.expect("acknowledged");
    }
}

#[track_caller]
fn check(broker: &Broker, partition: i32, count: usize) {
    let reads = client::read_partition(&broker.bootstrap(), "d", partition, 0);
    assert_eq!(reads.len(), count, "d-{partition}");
    for (number, read) in reads.iter().enumerate() {
        let expected = format!("{partition}:{number}:{}", "x".repeat(number % 300));
        assert_eq!(read.value.as_deref(), Some(expected.as_bytes()));
    }
}

/// A killed broker with records in segments and journal, its admin address, and a segment of d-1
/// that is cut to half. Returns the segment's path and what it held.
fn cut_in_half(dir: &Path) -> (Launch, SocketAddr, PathBuf, Vec<u8>) {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let broker = Launch::new(dir).admin(admin).start();
    client::create_topic(&broker.bootstrap(), "d", 4, &[]);
    fill(&broker, 0);
    let broker = broker.kill().start();
    fill(&broker, RECORDS);
    let launch = broker.kill();
    let path = dir.join("topics/d-1/00000000000000000000.log");
    let whole = std::fs::read(&path).expect("a segment");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("the test's own");
    (launch, admin, path, whole)
}

fn health(admin: SocketAddr) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(admin).expect("listens");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
        .expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

fn repair(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_corelog"))
        .arg("repair")
        .arg("--data-dir")
        .arg(dir)
        .args(arguments)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_damaged_partition_is_offline_until_its_file_is_restored() {
    let dir = directory();
    let (launch, admin, path, whole) = cut_in_half(dir.path());
    let broker = launch.start();
    for partition in [0, 2, 3] {
        check(&broker, partition, 2 * RECORDS);
    }
    let settings = [("message.timeout.ms", "2000")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    client::send(&producer, "d", 1, None, b"refused");
    let outcome = client::flush(&producer).pop().expect("one delivery");
    let refusal = outcome.expect_err("offline");
    let is_refused = ["storage", "timed out"].map(|word| refusal.to_lowercase().contains(word));
    assert!(is_refused.contains(&true), "{refusal}");
    assert!(health(admin).ends_with("ok, but partitions are offline: 1\n"));
    let said = broker.said();
    assert!(said.contains(&path.display().to_string()), "{said}");
    assert!(
        said.contains("d-1") && said.contains("corelog repair"),
        "{said}"
    );
    // an orderly stop and a start change nothing
    let broker = broker.stop().start();
    assert!(health(admin).ends_with("ok, but partitions are offline: 1\n"));
    let launch = broker.kill();
    std::fs::write(&path, whole).expect("the test's own");
    let broker = launch.start();
    assert!(health(admin).ends_with("\r\n\r\nok\n"), "{}", health(admin));
    for partition in 0..4 {
        check(&broker, partition, 2 * RECORDS);
    }
    fill(&broker, 2 * RECORDS);
    let broker = broker.kill().start();
    check(&broker, 1, 3 * RECORDS);
}

#[test]
fn a_log_line_about_a_partition_names_it_in_a_field() {
    let dir = directory();
    let (launch, ..) = cut_in_half(dir.path());
    let broker = launch.flag("--log-format", "json").start();
    let said = broker.said();
    let lines = said.lines().map(serde_json::from_str::<serde_json::Value>);
    let about: Vec<serde_json::Value> = lines
        .map(|line| line.expect("one object a line"))
        .filter(|line| line["level"] == "ERROR")
        .collect();
    let [line] = &about[..] else {
        panic!("one partition is damaged: {said}")
    };
    assert_eq!(line["partition"], "d-1", "{line}");
    let message = line["message"].as_str().expect("text");
    assert!(message.contains("the partition is offline"), "{line}");
}

#[test]
fn a_damaged_partition_is_served_again_as_far_as_it_is_whole_once_the_loss_is_accepted() {
    let dir = directory();
    let (launch, admin, path, _) = cut_in_half(dir.path());
    let listed = repair(dir.path(), &[]);
    assert_eq!(listed, "no partition waits for a decision\n");
    let listed_as_json = |arguments: &[&str]| -> serde_json::Value {
        let text = repair(dir.path(), &[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("one JSON document")
    };
    assert_eq!(listed_as_json(&[]), serde_json::json!([]));
    let launch = launch.start().stop();
    let listed = repair(dir.path(), &[]);
    assert!(
        listed.starts_with("d-1: ") && listed.contains(&path.display().to_string()),
        "{listed}"
    );
    let as_json = listed_as_json(&[]);
    let [one] = as_json.as_array().map(Vec::as_slice).expect("a list") else {
        panic!("one waits: {as_json}")
    };
    assert_eq!(one["partition"], "d-1", "{one}");
    assert_eq!(one["loss_accepted"], false, "{one}");
    let reason = one["reason"].as_str().expect("text");
    assert!(reason.contains(&path.display().to_string()), "{one}");
    let accepted = listed_as_json(&["--accept-loss", "d-1"]);
    assert_eq!(accepted[0]["loss_accepted"], true, "{accepted}");
    let listed = repair(dir.path(), &[]);
    assert!(listed.contains("loss accepted"), "{listed}");
    let broker = launch.start();
    assert!(health(admin).ends_with("\r\n\r\nok\n"), "{}", health(admin));
    let kept = client::read_partition(&broker.bootstrap(), "d", 1, 0).len();
    assert!((50..RECORDS).contains(&kept), "{kept}");
    check(&broker, 1, kept);
    client::produce(&broker.bootstrap(), "d", 1, [b"after".to_vec()], &[]);
    broker.stop();
    assert_eq!(
        repair(dir.path(), &[]),
        "no partition waits for a decision\n"
    );
}

#[test]
fn a_topic_with_an_offline_partition_can_be_deleted_and_made_anew() {
    let dir = directory();
    let (launch, admin, ..) = cut_in_half(dir.path());
    let broker = launch.start();
    let admin_client = client::admin(&broker.bootstrap());
    let options = rdkafka::admin::AdminOptions::new();
    let deleted = client::block_on(admin_client.delete_topics(&["d"], &options));
    deleted
        .expect("served")
        .pop()
        .expect("one")
        .expect("deleted");
    client::create_topic(&broker.bootstrap(), "d", 4, &[]);
    fill(&broker, 0);
    let broker = broker.kill().start();
    assert!(health(admin).ends_with("\r\n\r\nok\n"), "{}", health(admin));
    for partition in 0..4 {
        check(&broker, partition, RECORDS);
    }
}

//! What a restart keeps: everything acknowledged, however the process ended.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rdkafka::producer::Producer as _;
use support::{Broker, Launch, client, directory};

/// Writes `count` records to each of four partitions and waits until all are acknowledged.
fn fill(broker: &Broker, topic: &str, first: usize, count: usize) {
    let settings = [("enable.idempotence", "true"), ("linger.ms", "1")];
    let producer = client::producer(&broker.bootstrap(), &settings);
    for number in first..first + count {
        for partition in 0..4 {
            let value = format!("{partition}:{number}:{}", "x".repeat(number % 300));
            client::send(&producer, topic, partition, None, value.as_bytes());
        }
    }
    for delivery in client::flush(&producer) {
        delivery.expect("acknowledged");
    }
    assert_eq!(producer.in_flight_count(), 0);
}

#[track_caller]
fn check(broker: &Broker, topic: &str, count: usize) {
    for partition in 0..4 {
        let reads = client::read_partition(&broker.bootstrap(), topic, partition, 0);
        assert_eq!(reads.len(), count, "{topic}-{partition}");
        for (number, read) in reads.iter().enumerate() {
            let expected = format!("{partition}:{number}:{}", "x".repeat(number % 300));
            assert_eq!(read.offset, i64::try_from(number).expect("small"));
            assert_eq!(read.value.as_deref(), Some(expected.as_bytes()));
        }
    }
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    client::create_topic(
        &broker.bootstrap(),
        "kept",
        4,
        &[("segment.bytes", "1048576")],
    );
    for round in 0..3 {
        fill(&broker, "kept", round * 2_000, 2_000);
        broker = broker.kill().start();
        check(&broker, "kept", (round + 1) * 2_000);
    }
}

#[test]
fn an_orderly_stop_loses_nothing_either() {
    let dir = directory();
    let mut broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "kept", 4, &[]);
    for round in 0..3 {
        fill(&broker, "kept", round * 1_000, 1_000);
        broker = broker.stop().start();
        check(&broker, "kept", (round + 1) * 1_000);
    }
}

#[test]
fn another_number_of_shards_serves_the_same_records() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(
        cores >= 2,
        "this test needs two cores: without them no shard count can change"
    );
    let dir = directory();
    let broker = Launch::new(dir.path()).flag("--cores", "0,1").start();
    client::create_topic(&broker.bootstrap(), "moved", 4, &[]);
    fill(&broker, "moved", 0, 1_500);
    broker.kill();
    let broker = Launch::new(dir.path()).flag("--cores", "0").start();
    check(&broker, "moved", 1_500);
    fill(&broker, "moved", 1_500, 500);
    broker.kill();
    let broker = Launch::new(dir.path()).flag("--cores", "0,1").start();
    check(&broker, "moved", 2_000);
}

#[test]
fn more_partitions_than_descriptors_are_written_read_and_recovered() {
    const PARTITIONS: i32 = 600;
    let dir = directory();
    let mut broker = Launch::new(dir.path()).open_files(400).start();
    client::create_topic(&broker.bootstrap(), "many", PARTITIONS, &[]);
    for round in 1..=3_usize {
        let producer = client::producer(&broker.bootstrap(), &[("linger.ms", "1")]);
        for partition in 0..PARTITIONS {
            let value = format!("{partition}:{round}");
            client::send(&producer, "many", partition, None, value.as_bytes());
        }
        for delivery in client::flush(&producer) {
            delivery.expect("acknowledged");
        }
        drop(producer);
        broker = match round {
            1 => broker.kill().start(),
            2 => broker.stop().start(),
            _ => broker,
        };
        for partition in (0..PARTITIONS).step_by(75) {
            let reads = client::read_partition(&broker.bootstrap(), "many", partition, 0);
            let values = reads
                .iter()
                .map(|read| read.value.clone().expect("a value"));
            let expected = (1..=round).map(|round| format!("{partition}:{round}").into_bytes());
            assert!(values.eq(expected), "many-{partition} in round {round}");
        }
    }
}

#[test]
fn topics_and_committed_offsets_survive_a_kill() {
    use rdkafka::consumer::{CommitMode, Consumer as _};
    let dir = directory();
    let broker = Launch::new(dir.path())
        .set("group.initial.rebalance.delay.ms", "0")
        .start();
    client::create_topic(
        &broker.bootstrap(),
        "read",
        1,
        &[("retention.ms", "3600000")],
    );
    client::produce(
        &broker.bootstrap(),
        "read",
        0,
        (0..100u8).map(|byte| vec![byte]),
        &[],
    );
    let settings = [("enable.auto.commit", "false")];
    let consumer = client::consumer(&broker.bootstrap(), "readers", &settings);
    consumer.subscribe(&["read"]).expect("a valid subscription");
    client::poll_records(&consumer, 100);
    let mut position = rdkafka::TopicPartitionList::new();
    let forty = rdkafka::Offset::Offset(40);
    position
        .add_partition_offset("read", 0, forty)
        .expect("a valid offset");
    consumer
        .commit(&position, CommitMode::Sync)
        .expect("committed");
    drop(consumer);
    let broker = broker.kill().start();
    let consumer = client::consumer(&broker.bootstrap(), "readers", &settings);
    consumer.subscribe(&["read"]).expect("a valid subscription");
    let reads = client::poll_records(&consumer, 60);
    assert_eq!(reads[0].offset, 40);
    assert_eq!(reads[59].value, Some(vec![99]));
}

#[test]
fn every_journal_file_is_open_for_direct_and_durable_writes() {
    assert_flags_show_in_fdinfo();
    let dir = directory();
    let broker = Launch::new(dir.path()).start();
    client::create_topic(&broker.bootstrap(), "written", 2, &[]);
    client::produce(&broker.bootstrap(), "written", 0, [vec![1; 1000]], &[]);
    // a file that is just being made gets the second flag a moment after it was opened
    let mut seen = Vec::new();
    client::wait_until("every journal file has both flags", || {
        seen = journal_flags(broker.process_id());
        let both = libc::O_DIRECT | libc::O_DSYNC;
        !seen.is_empty() && seen.iter().all(|(_, flags)| flags & both == both)
    });
    assert!(seen.len() >= 2, "{seen:?}");
}

/// Path and flags of every journal file that the process has open.
fn journal_flags(process: u32) -> Vec<(PathBuf, i32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd")).expect("our own child") {
        let link = entry.expect("readable").path();
        let Ok(target) = std::fs::read_link(&link) else {
            continue;
        };
        let number = link
            .file_name()
            .expect("a number")
            .to_string_lossy()
            .into_owned();
        if target
            .extension()
            .is_some_and(|extension| extension == "wal")
            && let Some(flags) = flags_of(&format!("/proc/{process}/fdinfo/{number}"))
        {
            found.push((target, flags));
        }
    }
    found
}

fn flags_of(fdinfo: &str) -> Option<i32> {
    let text = std::fs::read_to_string(fdinfo).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(flags.trim(), 8).ok()
}

/// What the test above relies on, seen on a file of our own.
fn assert_flags_show_in_fdinfo() {
    let dir = directory();
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DSYNC);
    let file = options.open(dir.path().join("sample")).expect("writable");
    let flags = flags_of(&format!("/proc/self/fdinfo/{}", file.as_raw_fd())).expect("flags");
    assert_eq!(flags & libc::O_DIRECT, 0);
    assert_ne!(flags & libc::O_DSYNC, 0);
}

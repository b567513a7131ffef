//! Destaging beside everything else: it keeps up with appends, and a topic may go meanwhile.

mod support;

use std::time::{Duration, Instant};

use support::{Launch, client, directory};

/// A ring and a tail that a burst fills several times.
fn small(dir: &std::path::Path) -> Launch {
    Launch::new(dir)
        .flag("--memory-per-shard", "64MiB")
        .set("journal.size", "32MiB")
}

fn burst(bootstrap: &str, topic: &str, partitions: i32, megabytes: usize) {
    let settings = [("linger.ms", "5"), ("batch.size", "200000")];
    let producer = client::producer(bootstrap, &settings);
    let value = vec![b'v'; 50_000];
    for number in 0..megabytes * 20 {
        let partition = i32::try_from(number).expect("small") % partitions;
        client::send(&producer, topic, partition, None, &value);
        if number % 200 == 199 {
            client::flush(&producer);
        }
    }
    client::flush(&producer);
}

#[test]
fn a_burst_after_a_pause_does_not_wait_for_the_next_checkpoint_interval() {
    let dir = directory();
    let broker = small(dir.path()).flag("--cores", "0").start();
    client::create_topic(&broker.bootstrap(), "pause", 1, &[]);
    client::produce(&broker.bootstrap(), "pause", 0, [b"first".to_vec()], &[]);
    // the destager has looked, found too little, and sleeps until something is appended
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    burst(&broker.bootstrap(), "pause", 1, 100);
    // sleeping on to the next checkpoint took 9 s
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn topics_deleted_while_they_are_destaged_do_no_harm() {
    let dir = directory();
    let broker = small(dir.path()).start();
    let kept = "kept";
    client::create_topic(&broker.bootstrap(), kept, 4, &[]);
    for round in 0..6 {
        let topic = format!("gone-{round}");
        client::create_topic(&broker.bootstrap(), &topic, 4, &[]);
        burst(&broker.bootstrap(), &topic, 4, 20);
        client::delete_topic(&broker.bootstrap(), &topic);
        burst(&broker.bootstrap(), kept, 4, 5);
    }
    let said = broker.said();
    assert!(!said.contains("the data directory failed"), "{said}");
    let reads = client::read_partition(&broker.bootstrap(), kept, 0, 0);
    assert_eq!(reads.len(), 6 * 5 * 20 / 4);
}

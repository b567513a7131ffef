//! Every setting of topics, and its default among the broker's settings, has an effect.

mod running_broker;

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use corelog::client::fetcher::Fetcher;
use corelog::model::batch_builder::BatchBuilder;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    IncrementalAlterConfigsRequest, MetadataRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use running_broker::{Broker, eventually};

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292 million")
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// Produces one record of this time to partition 0; the error code.
fn produce_at(broker: &Broker, topic: &str, timestamp: i64) -> i16 {
    let mut batch = BatchBuilder::new();
    batch.push(timestamp, Some(b"key"), Some(b"value"));
    let data = PartitionProduceData::default().with_records(Some(Bytes::from(batch.build())));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![topic]);
    let mut client = broker.client();
    let response = client
        .any()
        .expect("connected")
        .call(&request, 8)
        .expect("an answer");
    response.responses[0].partition_responses[0].error_code
}

fn lines(count: usize, size: usize) -> String {
    let mut lines = String::new();
    for number in 0..count {
        let _ = writeln!(lines, "{number:0size$}");
    }
    lines
}

/// Runs `check` on a topic that has the setting itself, and on one that has it from its broker.
fn either_way(own: &str, from_broker: &str, check: impl Fn(&Broker, &str)) {
    let broker = Broker::with_settings(&[from_broker]);
    broker.text(&["topic", "create", "inherited"]);
    check(&broker, "inherited");
    let broker = broker.restart(&[]);
    broker.text(&["topic", "create", "own", "--config", own]);
    check(&broker, "own");
    broker.text(&["topic", "create", "plain"]);
    broker.text(&["topic", "alter", "plain", "--config", own]);
    check(&broker, "plain");
}

/// As `either_way`, but `check` looks at the files that `fill` and an orderly stop leave behind.
fn either_way_on_disk(
    own: &str,
    from_broker: &str,
    fill: impl Fn(&Broker, &str),
    check: impl Fn(&Broker, &str),
) {
    let mut broker = Broker::with_settings(&[from_broker]);
    broker.text(&["topic", "create", "inherited"]);
    fill(&broker, "inherited");
    broker.stop();
    check(&broker, "inherited-0");
    let mut broker = broker.restart(&[]);
    broker.text(&["topic", "create", "own", "--config", own]);
    fill(&broker, "own");
    broker.text(&["topic", "create", "plain"]);
    broker.text(&["topic", "alter", "plain", "--config", own]);
    fill(&broker, "plain");
    broker.stop();
    check(&broker, "own-0");
    check(&broker, "plain-0");
}

#[test]
fn num_partitions_and_default_replication_factor_fill_in_what_a_creation_leaves_out() {
    let broker = Broker::with_settings(&["num.partitions=3"]);
    broker.text(&["topic", "create", "t"]);
    let described = broker.json(&["topic", "describe", "t"]);
    assert_eq!(described[0]["partitions"].as_array().map(Vec::len), Some(3));
    let broker = broker.restart(&["--set", "default.replication.factor=2"]);
    let refused = broker.refusal(&["topic", "create", "u"]);
    assert!(refused.contains("INVALID_REPLICATION_FACTOR"), "{refused}");
    broker.text(&["topic", "create", "u", "--replication-factor", "1"]);
}

#[test]
fn auto_create_topics_enable_decides_whether_asking_creates() {
    let ask = |broker: &Broker, name: &str| {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(true);
        let mut client = broker.client();
        client
            .any()
            .expect("connected")
            .call(&request, 8)
            .expect("an answer");
        broker.text(&["topic", "list"]).contains(name)
    };
    let broker = Broker::with_settings(&["auto.create.topics.enable=false"]);
    assert!(!ask(&broker, "asked"));
    let broker = broker.restart(&[]);
    eventually("the topic is created", || {
        ask(&broker, "asked").then_some(())
    });
}

#[test]
fn delete_topic_enable_forbids_deleting() {
    let broker = Broker::with_settings(&["delete.topic.enable=false"]);
    broker.text(&["topic", "create", "t"]);
    let refused = broker.refusal(&["topic", "delete", "t"]);
    assert!(refused.contains("TOPIC_DELETION_DISABLED"), "{refused}");
}

#[test]
fn cleanup_policy_compact_wants_keys_and_deletes_nothing() {
    either_way(
        "cleanup.policy=compact",
        "log.cleanup.policy=compact",
        |broker, topic| {
            let refused = broker
                .try_produce(&[topic], "no key\n")
                .expect_err("keyless");
            assert!(refused.contains("INVALID_RECORD"), "{refused}");
            broker.produce(&[topic, "--key-separator", ":"], "a:b\n");
        },
    );
}

/// Whether the first offset of partition 0 rises above 0.
fn is_trimmed(broker: &Broker, topic: &str) {
    eventually("old segments are deleted", || {
        (broker.range(topic, 0).0 > 0).then_some(())
    });
}

#[test]
fn retention_ms_deletes_by_age_at_every_check_interval() {
    let age_out = |broker: &Broker, topic: &str| {
        broker.produce(&[topic], "old\n");
        std::thread::sleep(std::time::Duration::from_millis(300));
        broker.produce(&[topic], "new\n");
        is_trimmed(broker, topic);
    };
    let interval = "log.retention.check.interval.ms=200";
    let broker = Broker::with_settings(&["log.retention.ms=1", "log.roll.ms=100", interval]);
    broker.text(&["topic", "create", "inherited"]);
    age_out(&broker, "inherited");
    let broker = broker.restart(&["--set", interval]);
    let config = ["--config", "retention.ms=1", "--config", "segment.ms=100"];
    broker.text(&[&["topic", "create", "own"][..], &config].concat());
    age_out(&broker, "own");
}

#[test]
fn retention_of_minutes_and_hours_keeps_what_is_younger() {
    // a record two hours old goes under 1 hour and 60 minutes, and stays under 3 hours
    for (setting, goes) in [
        ("log.retention.hours=1", true),
        ("log.retention.minutes=60", true),
        ("log.retention.hours=3", false),
    ] {
        let broker = Broker::with_settings(&[
            setting,
            "log.retention.check.interval.ms=100",
            "log.segment.bytes=4096",
        ]);
        broker.text(&["topic", "create", "t"]);
        assert_eq!(produce_at(&broker, "t", now_ms() - 2 * 3_600_000), 0);
        broker.produce(&["t"], &lines(13, 298)); // does not fit beside the old record
        broker.produce(&["t"], "new\n");
        if goes {
            is_trimmed(&broker, "t");
        } else {
            std::thread::sleep(std::time::Duration::from_millis(600));
            assert_eq!(broker.range("t", 0).0, 0, "{setting}");
        }
    }
}

#[test]
fn retention_bytes_deletes_by_size() {
    let fill = |broker: &Broker, topic: &str| {
        for _ in 0..8 {
            broker.produce(&[topic], &lines(10, 300));
        }
        is_trimmed(broker, topic);
    };
    let timing = "log.retention.check.interval.ms=200";
    let broker = Broker::with_settings(&[
        "log.retention.bytes=10000",
        "log.segment.bytes=4096",
        timing,
    ]);
    broker.text(&["topic", "create", "inherited"]);
    fill(&broker, "inherited");
    let broker = broker.restart(&["--set", timing]);
    let config = [
        "--config",
        "retention.bytes=10000",
        "--config",
        "segment.bytes=4096",
    ];
    broker.text(&[&["topic", "create", "own"][..], &config].concat());
    fill(&broker, "own");
}

#[test]
fn segment_bytes_bounds_the_files() {
    let fill = |broker: &Broker, topic: &str| {
        for _ in 0..10 {
            broker.produce(&[topic], &lines(10, 300));
        }
    };
    either_way_on_disk(
        "segment.bytes=8192",
        "log.segment.bytes=8192",
        fill,
        |broker, partition| {
            let files = broker.files(partition, "log");
            assert!(files.len() >= 4, "{files:?}");
            assert!(files.iter().all(|(_, size)| *size <= 8192), "{files:?}");
        },
    );
}

#[test]
fn segment_ms_and_the_hours_roll_by_age() {
    let fill = |broker: &Broker, topic: &str| {
        broker.produce(&[topic], "a\n");
        std::thread::sleep(std::time::Duration::from_millis(300));
        broker.produce(&[topic], "b\n");
    };
    either_way_on_disk(
        "segment.ms=100",
        "log.roll.ms=100",
        fill,
        |broker, partition| {
            let files = broker.files(partition, "log");
            assert!(files.len() >= 2, "{files:?}");
        },
    );
    let hours_ago = |broker: &Broker, topic: &str, hours: i64| {
        assert_eq!(produce_at(broker, topic, now_ms() - hours * 3_600_000), 0);
    };
    for (setting, files) in [("log.roll.hours=1", 2), ("log.roll.hours=3", 1)] {
        let mut broker = Broker::with_settings(&[setting]);
        broker.text(&["topic", "create", "t"]);
        hours_ago(&broker, "t", 2);
        hours_ago(&broker, "t", 0);
        broker.stop();
        assert_eq!(broker.files("t-0", "log").len(), files, "{setting}");
    }
}

#[test]
fn index_interval_bytes_makes_the_index_dense_or_sparse() {
    let fill = |broker: &Broker, topic: &str| {
        for _ in 0..60 {
            broker.produce(&[topic], &lines(5, 400));
        }
    };
    let own = "index.interval.bytes=1000";
    either_way_on_disk(
        own,
        "log.index.interval.bytes=1000",
        fill,
        |broker, partition| {
            // an entry of 8 bytes for nearly every batch of some 2,000 bytes, against every third
            let files = broker.files(partition, "index");
            assert!(files[0].1 >= 8 * 50, "{files:?}");
        },
    );
    let mut broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t"]);
    fill(&broker, "t");
    broker.stop();
    let files = broker.files("t-0", "index");
    assert!(files[0].1 <= 8 * 30, "{files:?}");
}

#[test]
fn max_message_bytes_refuses_larger_batches() {
    either_way(
        "max.message.bytes=500",
        "message.max.bytes=500",
        |broker, topic| {
            let refused = broker
                .try_produce(&[topic], &lines(1, 600))
                .expect_err("too large");
            assert!(refused.contains("MESSAGE_TOO_LARGE"), "{refused}");
            broker.produce(&[topic], &lines(1, 300));
        },
    );
}

#[test]
fn message_timestamp_type_chooses_whose_time_counts() {
    let own = "message.timestamp.type=LogAppendTime";
    either_way(
        own,
        "log.message.timestamp.type=LogAppendTime",
        |broker, topic| {
            assert_eq!(produce_at(broker, topic, 1_000_000), 0);
            let text = broker.text(&["consume", topic, "--offset", "0", "--max", "1", "--json"]);
            let record: serde_json::Value = serde_json::from_str(&text).expect("a record");
            let age = now_ms() - record["timestamp"].as_i64().expect("a time");
            assert!((0..60_000).contains(&age), "{record}");
        },
    );
}

const INVALID_TIMESTAMP: i16 = 32;

#[test]
fn message_timestamp_before_and_after_max_ms_refuse_strange_times() {
    let own = "message.timestamp.before.max.ms=1000";
    either_way(
        own,
        "log.message.timestamp.before.max.ms=1000",
        |broker, topic| {
            assert_eq!(
                produce_at(broker, topic, now_ms() - 60_000),
                INVALID_TIMESTAMP
            );
            assert_eq!(produce_at(broker, topic, now_ms()), 0);
        },
    );
    let own = "message.timestamp.after.max.ms=1000";
    either_way(
        own,
        "log.message.timestamp.after.max.ms=1000",
        |broker, topic| {
            assert_eq!(
                produce_at(broker, topic, now_ms() + 60_000),
                INVALID_TIMESTAMP
            );
            assert_eq!(produce_at(broker, topic, now_ms()), 0);
        },
    );
}

#[test]
fn compression_type_recompresses() {
    either_way(
        "compression.type=zstd",
        "compression.type=zstd",
        |broker, topic| {
            broker.produce(&[topic, "--compression", "gzip"], &lines(100, 100));
            let mut client = broker.client();
            let start = std::collections::BTreeMap::from([((topic.to_owned(), 0), 0)]);
            let wait = std::time::Duration::from_secs(5);
            let round = Fetcher::new(start)
                .poll(&mut client, wait)
                .expect("fetched");
            let bytes = round.fetched.first().expect("one partition").records();
            let header = corelog::model::record_batch::BatchHeader::parse(bytes).expect("a batch");
            assert_eq!(header.codec(), Ok(corelog::model::compression::Codec::Zstd));
        },
    );
}

const NOT_ENOUGH_REPLICAS: i16 = 19;

#[test]
fn min_insync_replicas_refuses_what_one_replica_cannot_promise() {
    either_way(
        "min.insync.replicas=2",
        "min.insync.replicas=2",
        |broker, topic| {
            assert_eq!(produce_at(broker, topic, now_ms()), NOT_ENOUGH_REPLICAS);
            broker.produce(&[topic, "--acks", "1"], "x\n");
        },
    );
}

#[test]
fn corelog_durability_memory_acknowledges_before_the_commit() {
    let broker = Broker::with_settings(&["commit.delay=100ms"]);
    broker.text(&["topic", "create", "disk"]);
    broker.text(&[
        "topic",
        "create",
        "memory",
        "--config",
        "corelog.durability=memory",
    ]);
    let fastest = |topic: &str| {
        let times = (0..5).map(|_| {
            let start = std::time::Instant::now();
            broker.produce(&[topic], "x\n");
            start.elapsed()
        });
        times.min().expect("five")
    };
    let (disk, memory) = (fastest("disk"), fastest("memory"));
    assert!(
        disk >= memory + std::time::Duration::from_millis(50),
        "{disk:?} {memory:?}"
    );
    eventually("what was acknowledged early is readable", || {
        (broker.range("memory", 0).1 == 5).then_some(())
    });
}

/// Sets a setting of the broker while it runs; the error code.
fn alter_broker(broker: &Broker, name: &str, value: &str) -> i16 {
    let change = AlterableConfig::default()
        .with_name(StrBytes::from_string(name.to_owned()))
        .with_value(Some(StrBytes::from_string(value.to_owned())));
    let resource = AlterConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(StrBytes::from_static_str("1"))
        .with_configs(vec![change]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let mut client = broker.client();
    let response = client
        .any()
        .expect("connected")
        .call(&request, 1)
        .expect("an answer");
    response.responses[0].error_code
}

const INVALID_CONFIG: i16 = 40;
const MESSAGE_TOO_LARGE: i16 = 10;

#[test]
fn a_setting_altered_while_running_takes_hold_at_once_and_survives_a_restart() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t"]);
    assert_eq!(produce_at(&broker, "t", now_ms()), 0);
    assert_eq!(alter_broker(&broker, "message.max.bytes", "10"), 0);
    assert_eq!(produce_at(&broker, "t", now_ms()), MESSAGE_TOO_LARGE);
    let broker = broker.restart(&[]);
    assert_eq!(produce_at(&broker, "t", now_ms()), MESSAGE_TOO_LARGE);
    assert_ne!(alter_broker(&broker, "node.id", "3"), 0);
    assert_eq!(
        alter_broker(&broker, "message.max.bytes", "many"),
        INVALID_CONFIG
    );
    assert_eq!(alter_broker(&broker, "message.max.bytes", "1000"), 0);
    assert_eq!(produce_at(&broker, "t", now_ms()), 0);
}

#[test]
fn an_altered_check_interval_of_retention_takes_hold_at_once() {
    // at the start the next check is five minutes away
    let broker = Broker::with_settings(&["log.retention.ms=1", "log.roll.ms=100"]);
    broker.text(&["topic", "create", "t"]);
    broker.produce(&["t"], "old\n");
    std::thread::sleep(std::time::Duration::from_millis(300));
    broker.produce(&["t"], "new\n");
    let interval = "log.retention.check.interval.ms";
    assert_eq!(alter_broker(&broker, interval, "100"), 0);
    is_trimmed(&broker, "t");
}

#[test]
fn a_setting_without_effect_is_stored_and_warned_about() {
    let broker = Broker::start(&[]);
    broker.text(&["topic", "create", "t", "--config", "flush.ms=5"]);
    let flush_ms = || {
        let described = broker.json(&["topic", "describe", "t", "--all-configs"]);
        let configs = described[0]["configs"].as_array().expect("settings");
        let found = configs.iter().find(|config| config["name"] == "flush.ms");
        let found = found.expect("described");
        // given back, and never reported as set to anything that counts
        assert_eq!(found["default"], true, "{found}");
        found["value"].as_str().expect("a value").to_owned()
    };
    assert_eq!(flush_ms(), "5");
    broker.text(&["topic", "alter", "t", "--config", "flush.ms=6"]);
    assert_eq!(flush_ms(), "6");
    let warnings = broker.log();
    let warnings = warnings.lines().filter(|line| line.contains("flush.ms"));
    for line in warnings.clone() {
        assert!(line.ends_with("topic=t"), "named as people know it: {line}");
    }
    assert_eq!(warnings.count(), 2);
    broker.text(&["topic", "create", "c", "--config", "cleanup.policy=compact"]);
    assert!(
        broker.log().contains("compaction is not there yet"),
        "{}",
        broker.log()
    );
}

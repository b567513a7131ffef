//! Shards over directories of a simulated disk, and what a start makes of them: for tests that
//! tamper with the files in between.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary compiles this file and uses its own part of it"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::BytesMut;
use corelog::config::BrokerConfig;
use corelog::config::layers::{Settings, Source};
use corelog::config::machine::{MachineFacts, resolve};
use corelog::journal::Journal;
use corelog::journal::checkpoint::PartitionCheckpoint;
use corelog::journal::config::JournalConfig;
use corelog::journal::entry::Entry;
use corelog::journal::journal::{Owner, Position};
use corelog::log::LogSettings;
use corelog::log::context::{ContextLimits, LogContext};
use corelog::log::destage::CARRY_BYTES_MAX;
use corelog::log::log::{Log, NewBatch};
use corelog::model::batch_builder::BatchBuilder;
use corelog::model::ids::{LeaderEpoch, ProducerEpoch, ProducerId, TopicPartition};
use corelog::model::offset::Offset;
use corelog::model::record_batch::iter_batches;
use corelog::rt::fs;
use corelog::rt::sim::{CrashMode, Sim, SimDisk};
use corelog::shard::recovery::{self, Recovered};

pub const PARTITIONS: usize = 3;
pub const CHECKPOINT: &str = "/data/journal/shard-000/checkpoint";

pub fn dir(partition: usize) -> PathBuf {
    PathBuf::from(format!("/data/topics/t-{partition}"))
}

pub fn first_segment(partition: usize) -> PathBuf {
    dir(partition).join("00000000000000000000.log")
}

pub fn config() -> BrokerConfig {
    let mut settings = Settings::default();
    for (name, value) in [("data.dir", "/data"), ("log.segment.bytes", "1048576")] {
        settings
            .set(name, value, Source::Flag, "test")
            .expect("a setting");
    }
    BrokerConfig::new(settings).expect("valid")
}

/// A machine with one core and enough of everything.
pub fn facts() -> MachineFacts {
    MachineFacts {
        cores: vec![0],
        cpu_quota_millis: None,
        memory_available_bytes: 4 << 30,
        disk_free_bytes: 100 << 30,
        journal_present_bytes: 0,
    }
}

/// What the start-up does before any shard runs.
pub async fn recover() -> Recovered {
    try_recover()
        .await
        .expect("damage of a partition does not stop a start")
}

pub async fn try_recover() -> Result<Recovered, recovery::Error> {
    recover_for(1).await
}

pub async fn recover_for(shard_count: u16) -> Result<Recovered, recovery::Error> {
    let settings = resolve(&config(), &facts()).expect("enough of everything");
    recovery::run(&config(), &settings, shard_count).await
}

pub fn ids(recovered: &Recovered) -> Vec<TopicPartition> {
    let topic = recovered.image.topic("t").expect("adopted");
    topic.partitions().collect()
}

/// The partitions that are offline, by number, and why.
pub fn offline(recovered: &Recovered) -> BTreeMap<usize, String> {
    let all = ids(recovered).into_iter().enumerate();
    all.filter_map(|(n, id)| Some((n, recovered.offline.get(&id)?.to_string())))
        .collect()
}

pub struct Shard {
    pub journal: Journal,
    pub logs: Vec<std::rc::Rc<Log>>,
    pub ids: Vec<TopicPartition>,
}

pub fn context() -> std::rc::Rc<LogContext> {
    LogContext::new(ContextLimits {
        destage_bytes: 8 << 10,
        ..ContextLimits::default()
    })
}

pub async fn open_log(id: TopicPartition, partition: usize) -> std::rc::Rc<Log> {
    Log::open(&context(), dir(partition), id, LogSettings::default())
        .await
        .expect("a recovered directory opens")
}

/// A ring of 16 small files.
pub fn small_ring(file_bytes: u64) -> JournalConfig {
    JournalConfig {
        ring_bytes: 16 * file_bytes,
        file_bytes,
        first_file_bytes: file_bytes,
        commit_bytes: 16 * 1024,
        parallel_bytes_min: 4 * 1024,
        queue_bytes_max: 256 * 1024,
        ..JournalConfig::default()
    }
}

impl Shard {
    pub async fn open(recovered: Recovered) -> Self {
        Self::open_with(recovered, LogSettings::default(), small_ring(128 * 1024)).await
    }

    pub async fn open_with(
        mut recovered: Recovered,
        settings: LogSettings,
        journal: JournalConfig,
    ) -> Self {
        let ids = ids(&recovered);
        let mut logs = Vec::new();
        for (partition, id) in ids.iter().enumerate() {
            let log = Log::open(&context(), dir(partition), *id, settings).await;
            logs.push(log.expect("a recovered directory opens"));
        }
        let retired = recovered.journals.remove(0);
        let journal = Journal::open(retired, journal).await.expect("opens");
        Self { journal, logs, ids }
    }

    pub async fn enqueue(&self, partition: usize, entry: Entry) -> Position {
        let len = entry.payload.len();
        let reservation = self.journal.reserve(len).await.expect("room");
        let owner = Owner(u64::try_from(partition).expect("small"));
        self.journal
            .enqueue(reservation, owner, entry)
            .expect("taken")
    }

    /// Appends one batch of one record that says where it belongs; durable when this returns.
    /// Every other partition's batches are those of an idempotent producer.
    pub async fn append(&self, partition: usize) {
        let log = &self.logs[partition];
        if let Some(entry) = log.prepare().await.expect("reads") {
            let position = self.enqueue(partition, entry).await;
            log.on_enqueued(position);
        }
        let number = log.offsets().log_end.get();
        let mut builder = BatchBuilder::new();
        if partition % 2 == 1 {
            let sequence = i32::try_from(number).expect("small");
            builder = builder.producer(ProducerId(7), ProducerEpoch(0), sequence);
        }
        builder.push(number, None, Some(&value(partition, number)));
        let batch = NewBatch::own(BytesMut::from(&builder.build()[..])).expect("a batch");
        let appended = log.append(batch, LeaderEpoch(0), 1).expect("appends");
        let position = self.enqueue(partition, appended.entry).await;
        log.on_enqueued(position);
        self.journal.durable(position).await.expect("durable");
        log.on_durable(appended.next_offset);
        log.advance_high_watermark(appended.next_offset);
    }

    pub async fn append_round(&self, count: usize) {
        for _ in 0..count {
            for partition in 0..PARTITIONS {
                self.append(partition).await;
            }
        }
    }

    /// Brings everything to the segments and frees the ring, as the background task does.
    pub async fn checkpoint(&self) {
        let mut pin = self.journal.next_position();
        let mut records = Vec::new();
        for (partition, log) in self.logs.iter().enumerate() {
            log.destage().await.expect("writes");
            let max = usize::try_from(CARRY_BYTES_MAX).expect("small");
            if let Some(entry) = log.carry(max) {
                let position = self.enqueue(partition, entry).await;
                self.journal.durable(position).await.expect("durable");
                log.on_carried(position);
            }
            let found = log.checkpoint().await.expect("flushes");
            pin = log.pinned_entry().map_or(pin, |pinned| pin.min(pinned));
            let record = found.expect("in use").encode().into();
            records.push(PartitionCheckpoint {
                topic_partition: self.ids[partition],
                record,
            });
        }
        self.journal
            .write_checkpoint(pin, records)
            .await
            .expect("writes");
    }
}

pub fn value(partition: usize, number: i64) -> Vec<u8> {
    format!("{partition}:{number}:{}", "v".repeat(300)).into_bytes()
}

/// The records of a partition from its start: all that were appended up to `count`, in order.
pub async fn check(id: TopicPartition, partition: usize, count: i64) {
    let log = open_log(id, partition).await;
    let offsets = log.offsets();
    assert_eq!(
        (offsets.log_start.get(), offsets.log_end.get()),
        (0, count),
        "partition {partition}"
    );
    let mut next = 0;
    while next < count {
        let plan = log
            .read(Offset::new(next), 1 << 20, offsets.log_end, true)
            .await
            .expect("reads");
        let bytes = plan.into_bytes().await.expect("reads");
        for batch in iter_batches(&bytes) {
            let (header, batch) = batch.expect("whole");
            assert_eq!(header.base_offset.get(), next);
            let expected = value(partition, next);
            assert!(
                batch
                    .windows(expected.len())
                    .any(|window| window == expected),
                "partition {partition} at {next}"
            );
            next += 1;
        }
    }
}

pub fn life<F: Future>(disk: &SimDisk, seed: u64, future: F) -> F::Output {
    Sim::with_disk(seed, disk.clone()).run(future)
}

/// Three partitions of 100 records each: 60 in the segments, 20 behind the last checkpoint, all of
/// an earlier run; and 20 of a second run that is killed.
pub fn killed(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    life(&disk, seed, async {
        for partition in 0..PARTITIONS {
            fs::create_dir_all(dir(partition)).await.expect("makes");
        }
        fs::sync_filesystem("/").await.expect("flushes");
        let shard = Shard::open(recover().await).await;
        shard.append_round(60).await;
        shard.checkpoint().await;
        shard.append_round(20).await;
    });
    disk.crash(CrashMode::Lose);
    life(&disk, seed + 1, async {
        let shard = Shard::open(recover().await).await;
        shard.append_round(20).await;
    });
    disk.crash(CrashMode::Lose);
    disk
}

//! The start-up over directories that were tampered with, on the simulated disk: only what is
//! damaged stays offline, nothing acknowledged is given up, whenever and how often the power fails.

mod sim_shard;

use std::path::Path;

use corelog::cluster::metadata::Record;
use corelog::cluster::metadata_log::MetadataLog;
use corelog::log::LogSettings;
use corelog::log::log::Log;
use corelog::model::ids::TopicPartition;
use corelog::rt::sim::{CrashMode, Sim, SimDisk};
use corelog::rt::{File, OpenOptions, fs};
use sim_shard::{
    CHECKPOINT, PARTITIONS, Shard, check, context, dir, first_segment, ids, killed, life, offline,
    open_log, recover, recover_for, value,
};

async fn cut(path: &Path, to: u64) {
    let file = File::open(path, &OpenOptions::direct())
        .await
        .expect("there");
    file.truncate(to).await.expect("cuts");
    file.fdatasync().await.expect("flushes");
}

async fn replace(path: &Path, bytes: Vec<u8>) {
    fs::write_atomic(path, bytes).await.expect("writes");
}

#[test]
fn a_cut_segment_takes_one_partition_offline_and_restored_it_has_every_record() {
    let disk = killed(1);
    let whole = disk.peek(first_segment(1)).expect("there");
    life(&disk, 3, cut(&first_segment(1), 4096));
    // a second start must not take the hole for data that the first one may have left
    for start in 0..3 {
        life(&disk, 4 + start, async {
            let recovered = recover().await;
            let offline = offline(&recovered);
            assert_eq!(offline.keys().copied().collect::<Vec<_>>(), [1]);
            let path = first_segment(1).display().to_string();
            assert!(
                offline[&1].starts_with(&format!("{path}, position 4096")),
                "{}",
                offline[&1]
            );
            check(ids(&recovered)[0], 0, 100).await;
            check(ids(&recovered)[2], 2, 100).await;
        });
        disk.crash(CrashMode::Lose);
    }
    life(&disk, 9, async {
        replace(&first_segment(1), whole).await;
        let recovered = recover().await;
        assert!(recovered.offline.is_empty(), "{:?}", offline(&recovered));
        for (partition, id) in ids(&recovered).into_iter().enumerate() {
            check(id, partition, 100).await;
        }
        let held = fs::read_dir("/data/held").await.expect("made");
        assert!(held.is_empty(), "given up: {held:?}");
    });
}

#[test]
fn the_power_may_fail_at_any_change_of_a_start_with_a_damaged_partition() {
    let mut is_complete = false;
    let mut crashes = 0;
    for step in 0.. {
        if is_complete {
            break;
        }
        let disk = killed(100);
        let whole = disk.peek(first_segment(1)).expect("there");
        life(&disk, 3, cut(&first_segment(1), 4096));
        let modes = [CrashMode::Lose, CrashMode::Keep, CrashMode::Torn];
        // the start dies at change number `step`, the one after it a little later, then one lives
        for (attempt, after) in [step, step / 2 + 7].into_iter().enumerate() {
            disk.crash_after(1 + after);
            let sim = Sim::with_disk(200 + step, disk.clone());
            let done = sim.run_until_crash(async { drop(recover().await) });
            is_complete = attempt == 0 && done.is_some();
            crashes += usize::from(done.is_none());
            disk.crash(modes[usize::try_from(step).expect("small") % 3]);
            if is_complete {
                break;
            }
        }
        life(&disk, 300 + step, async {
            let recovered = recover().await;
            assert_eq!(offline(&recovered).len(), 1, "step {step}");
            check(ids(&recovered)[0], 0, 100).await;
        });
        disk.crash(CrashMode::Lose);
        // and the restored file comes back, wherever that start dies
        life(&disk, 400 + step, replace(&first_segment(1), whole));
        disk.crash_after(1 + step);
        let sim = Sim::with_disk(500 + step, disk.clone());
        sim.run_until_crash(async { drop(recover().await) });
        disk.crash(modes[usize::try_from(step + 1).expect("small") % 3]);
        life(&disk, 600 + step, async {
            let recovered = recover().await;
            assert!(recovered.offline.is_empty(), "step {step}");
            for (partition, id) in ids(&recovered).into_iter().enumerate() {
                check(id, partition, 100).await;
            }
        });
    }
    assert!(crashes > 20, "{crashes} power failures");
}

/// Notes the decision to give up what is damaged, as `corelog repair --accept-loss` does.
async fn accept_loss(id: TopicPartition) {
    use corelog::journal::held::{HELD_DIR, Head, file_name};
    let path = Path::new("/data").join(HELD_DIR).join(file_name(id));
    let file = fs::read(&path).await.expect("held");
    let (head, entries) = Head::decode(&file.into()).expect("whole");
    let head = Head {
        is_loss_accepted: true,
        ..head
    };
    replace(&path, [head.encode(), entries.to_vec()].concat()).await;
}

#[test]
fn an_accepted_loss_ends_the_log_before_the_damage() {
    let disk = killed(2);
    life(&disk, 3, cut(&first_segment(1), 4096));
    let id = life(&disk, 4, async { ids(&recover().await)[1] });
    disk.crash(CrashMode::Lose);
    life(&disk, 5, async {
        accept_loss(id).await;
        let recovered = recover().await;
        assert!(recovered.offline.is_empty(), "{:?}", offline(&recovered));
        let log = open_log(id, 1).await;
        let end = log.offsets().log_end.get();
        assert!((5..15).contains(&end), "what 4096 bytes hold: {end}");
        drop(log);
        check(id, 1, end).await;
        check(ids(&recovered)[2], 2, 100).await;
        // it goes on from there, and the next start has nothing to decide
        let shard = Shard::open(recovered).await;
        shard.append(1).await;
        drop(shard);
        let recovered = recover().await;
        assert!(recovered.offline.is_empty());
        check(id, 1, end + 1).await;
    });
}

/// Finds `wanted` in the journal, changes one byte of it, and tells in which block.
fn damage_journal(disk: &SimDisk, wanted: &[u8]) -> String {
    for file in 0..16 {
        let path = format!("/data/journal/shard-000/{file:08}.wal");
        let Ok(bytes) = disk.peek(&path) else {
            continue;
        };
        let found = bytes
            .windows(wanted.len())
            .rposition(|window| window == wanted);
        if let Some(at) = found {
            let at = u64::try_from(at).expect("small");
            disk.poke(&path, at + 20, b"X").expect("pokes");
            return format!("{path}, position {}", at / 4096 * 4096);
        }
    }
    panic!("not journaled");
}

#[test]
fn a_damaged_journal_block_keeps_only_those_offline_that_it_may_have_held() {
    let disk = killed(3);
    let place = damage_journal(&disk, &value(1, 90));
    for start in 0..2 {
        life(&disk, 4 + start, async {
            let recovered = recover().await;
            let offline = offline(&recovered);
            assert_eq!(offline.keys().copied().collect::<Vec<_>>(), [1]);
            assert!(offline[&1].contains(&place), "{place}: {}", offline[&1]);
            check(ids(&recovered)[0], 0, 100).await;
            check(ids(&recovered)[2], 2, 100).await;
        });
        disk.crash(CrashMode::Lose);
    }
    life(&disk, 7, async {
        let id = ids(&recover().await)[1];
        accept_loss(id).await;
        let recovered = recover().await;
        assert!(recovered.offline.is_empty(), "{:?}", offline(&recovered));
        check(id, 1, 90).await;
    });
}

#[test]
fn partitions_without_later_entries_wait_for_a_decision_and_then_have_everything() {
    let disk = SimDisk::new(8);
    life(&disk, 8, async {
        for partition in 0..PARTITIONS {
            fs::create_dir_all(dir(partition)).await.expect("makes");
        }
        fs::sync_filesystem("/").await.expect("flushes");
        let shard = Shard::open(recover().await).await;
        shard.append_round(5).await;
        shard.append(0).await;
        shard.append(1).await;
        shard.append(1).await;
    });
    disk.crash(CrashMode::Lose);
    // the block of partition 0's last record: nothing later tells what 0 and 2 had in it
    damage_journal(&disk, &value(0, 5));
    life(&disk, 9, async {
        let recovered = recover().await;
        let offline = offline(&recovered);
        assert_eq!(offline.keys().copied().collect::<Vec<_>>(), [0, 2]);
        check(ids(&recovered)[1], 1, 7).await;
        for partition in [0, 2] {
            accept_loss(ids(&recovered)[partition]).await;
        }
        let recovered = recover().await;
        assert!(recovered.offline.is_empty());
        check(ids(&recovered)[0], 0, 5).await;
        check(ids(&recovered)[2], 2, 5).await;
    });
}

#[test]
fn a_lost_checkpoint_costs_nothing_where_ring_space_was_freed() {
    for is_damaged in [false, true] {
        let disk = SimDisk::new(11);
        life(&disk, 11, async {
            for partition in 0..PARTITIONS {
                fs::create_dir_all(dir(partition)).await.expect("makes");
            }
            fs::sync_filesystem("/").await.expect("flushes");
            let shard = Shard::open(recover().await).await;
            while shard.journal.is_growing() {
                corelog::rt::sleep(std::time::Duration::from_millis(1)).await;
            }
            // the ring is overwritten more than once; partition 2 is quiet after the first round
            shard.append_round(10).await;
            for _ in 0..20 {
                shard.checkpoint().await;
                for _ in 0..40 {
                    shard.append(0).await;
                    shard.append(1).await;
                }
            }
        });
        disk.crash(CrashMode::Lose);
        life(&disk, 12, async {
            if is_damaged {
                replace(Path::new(CHECKPOINT), vec![0x11; 300]).await;
            } else {
                fs::remove_file(CHECKPOINT).await.expect("there");
            }
            let recovered = recover().await;
            assert!(recovered.offline.is_empty(), "{:?}", offline(&recovered));
            check(ids(&recovered)[0], 0, 810).await;
            check(ids(&recovered)[1], 1, 810).await;
            check(ids(&recovered)[2], 2, 10).await;
        });
    }
}

#[test]
fn a_missing_segment_is_damage_and_not_an_empty_log() {
    let disk = killed(5);
    life(&disk, 6, async {
        let shard = Shard::open(recover().await).await;
        for log in &shard.logs {
            log.close().await.expect("closes");
        }
        shard.journal.close().await.expect("closes");
        let stopped = shard.journal.write_stopped().await;
        stopped.expect("says so");
        let id = shard.ids[1];
        drop(shard);
        fs::remove_file(first_segment(1)).await.expect("there");
        let opened = Log::open(&context(), dir(1), id, LogSettings::default()).await;
        let error = opened.expect_err("not an empty log");
        assert!(
            error.is_damage() && error.to_string().contains("00000.log, position 0"),
            "{error}"
        );
    });
}

#[test]
fn a_start_with_fewer_shards_after_a_deletion_may_be_killed_anywhere() {
    let before = SimDisk::new(31);
    life(&before, 31, async {
        for partition in 0..PARTITIONS {
            fs::create_dir_all(dir(partition)).await.expect("makes");
        }
        fs::sync_filesystem("/").await.expect("flushes");
        let mut recovered = recover_for(2).await.expect("recovers");
        recovered.journals.swap(0, 1);
        let id = recovered.image.topic("t").expect("adopted").id.to_string();
        let shard = Shard::open(recovered).await;
        shard.append_round(3).await;
        fs::sync_filesystem("/").await.expect("flushes");
        let (mut metadata, image) = MetadataLog::open(Path::new("/data/metadata"), true)
            .await
            .expect("opens");
        let deletion = [Record::TopicDeleted { id }];
        let image = image.apply(&deletion).expect("a topic");
        metadata.append(&deletion, &image).await.expect("durable");
    });
    before.crash(CrashMode::Lose);
    for mode in [CrashMode::Lose, CrashMode::Keep] {
        for change in 1.. {
            let disk = before.copy();
            disk.crash_after(change);
            let ended = Sim::with_disk(32, disk.clone()).run_until_crash(recover_for(1));
            disk.crash(mode);
            life(&disk, 33, async {
                let recovered = recover_for(1).await;
                let recovered = recovered.unwrap_or_else(|error| panic!("{change}: {error}"));
                assert!(recovered.image.topic("t").is_none() && recovered.offline.is_empty());
            });
            if ended.is_some() {
                assert!(change > 10, "{change} changes");
                break;
            }
        }
    }
}

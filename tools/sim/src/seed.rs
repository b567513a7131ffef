//! One seed: a disk, and brokers that live on it one after the other until the last is checked.
//!
//! Runs on: one thread, for as long as it takes. Everything follows from the seed.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use corelog::broker::{self, StartError};
use corelog::config::BrokerConfig;
use corelog::config::layers::{Settings, Source};
use corelog::config::machine::{MachineFacts, ShardSettings, resolve};
use corelog::rt::signal::Termination;
use corelog::rt::sim::{CrashMode, DiskOp, Fault, NetFaults, Sim, SimDisk};
use corelog::rt::{self, Lane, Task};

use crate::clients::admin::{self, Admin};
use crate::clients::committer::{self, Committer};
use crate::clients::producer::Producer;
use crate::clients::{consumer, member};
use crate::rot;
use crate::wire::Connection;
use crate::world::{CLOCK_REACH_MS, Place, TOPICS, TRAIL, TRAIL_CONFIGS, Tally, World, refused};

/// Lives of the broker under faults, at least and at most; one more without follows.
const LIVES: (u32, u32) = (3, 60);
/// What each of them may take of a seed's operations.
const LIFE_OPERATIONS: u64 = 800;

/// What must have happened in a run of many seeds: what clients did, what failed, and, by the names
/// that the broker gives them, the branches of recovery. Not here, as only damage leads there: a
/// ring without its checkpoint, a partition without its state (`recovery_tampering` has them all).
pub const EXPECTED: &[&str] = &[
    "bit flipped",
    "clock set",
    "committed",
    "committed by a member",
    "committed of an earlier generation",
    "connection cut",
    "connection stalled",
    "damage refused",
    "damage seen by a consumer",
    "disk full",
    "fetched",
    "heartbeat",
    "joined",
    "kill",
    "left",
    "listed",
    "offset fetched",
    "open failed",
    "open: empty",
    "open: last block carried",
    "open: nothing to carry",
    "open: state agrees with the files",
    "orderly stop",
    "power failure under way",
    "power failure, all kept",
    "power failure, all lost",
    "power failure, torn",
    "produced",
    "records deleted",
    "records expired",
    "recovery: directory set aside before",
    "recovery: entry of a deleted topic",
    "recovery: reserve given up",
    "refused",
    "replay: base from the checkpoint",
    "replay: base from the partition",
    "replay: batches known to the base",
    "replay: block behind the last",
    "replay: block in another file",
    "replay: block not whole",
    "replay: carried bytes inside a batch",
    "replay: carried bytes join",
    "replay: clean end",
    "replay: entry flushed before",
    "replay: entry of a segment before the base",
    "replay: entry written",
    "replay: entry written in part",
    "replay: hole before an entry",
    "replay: hole closed by carried bytes",
    "replay: index made anew",
    "replay: index resumed",
    "replay: log start moved",
    "replay: segment begun",
    "replay: segment was removed by retention",
    "replay: stopped ring",
    "replay: torn end",
    "sent again unasked",
    "sequence gap sent",
    "short read",
    "slow flush",
    "start refused",
    "synced",
    "topic created",
    "topic deleted",
    "write failed",
];

/// As [`EXPECTED`], of a run of more seeds.
pub const EXPECTED_RARELY: &[&str] = &[
    "flush failed",
    "name change failed",
    "read failed",
    "recovery: directory of a deleted topic",
    "replay: segment cut to its batches",
    "replay: torn end, blocks behind it",
    "resize failed",
];
/// A broker without faults answers what is asked of it within this time.
const PATIENCE: Duration = Duration::from_secs(120);
/// A life with faults goes on for so long at most.
const LIFE_TIME: Duration = Duration::from_secs(20);

/// What a seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Stands for everything that happened.
    pub trace: u64,
    /// Client operations that were answered.
    pub operations: u64,
    /// Records that were acknowledged, and found.
    pub acknowledged: u64,
    /// What happened how often.
    pub tally: Tally,
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The power fails at a change of the disk from the start on.
    PowerFailure(u64),
    /// The process is killed.
    Kill,
    /// An orderly stop.
    Stop,
}

/// What goes wrong meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The wall clock is set, forward and back.
    Clock,
    Network,
    /// Reads return less than there is.
    ShortReads,
    /// Calls of a kind fail, on files whose path has this in it.
    Error(DiskOp, &'static str),
    Full,
    SlowFlushes,
}

/// Kinds of files, and what may fail of each. Beside these, for all of them: a disk without room,
/// flushes that take seconds, short reads, and what a power failure loses or tears, sector by
/// sector, of whatever was not flushed. Bits flip in sealed segments only (`rot.rs`): what journal,
/// metadata and the open segment lose to a damaged disk is lost, and known to be.
const ERRORS: [(DiskOp, &str); 12] = [
    (DiskOp::Write, "/journal/"),
    (DiskOp::Flush, "/journal/"),
    (DiskOp::Write, "checkpoint"),
    (DiskOp::Write, ".log"),
    (DiskOp::Flush, ".log"),
    (DiskOp::Read, ".log"),
    (DiskOp::Write, "index"),
    (DiskOp::Flush, "/topics"),
    (DiskOp::Open, "/topics"),
    (DiskOp::Resize, "/topics"),
    (DiskOp::Names, "/topics"),
    (DiskOp::Write, "/metadata/"),
];

fn config(cores: &str) -> BrokerConfig {
    let mut settings = Settings::default();
    for (name, value) in [
        ("data.dir", "/data"),
        ("listen", "127.0.0.1:9092"),
        ("cores", cores),
        ("memory.per.shard", "32MiB"),
        ("log.segment.bytes", "65536"),
        ("log.retention.check.interval.ms", "1000"),
        ("offsets.topic.num.partitions", "2"),
        ("group.initial.rebalance.delay.ms", "20"),
        ("auto.create.topics.enable", "false"),
    ] {
        settings
            .set(name, value, Source::Flag, "simulation")
            .expect("a setting");
    }
    BrokerConfig::new(settings).expect("valid")
}

/// Shards' blocks and writes, small enough for several to be under way.
fn draw_sizes(world: &World) -> (u64, u64) {
    let commit_bytes = world.pick(&[4 << 10, 16 << 10, 64 << 10]);
    let destage_bytes = world.pick(&[8 << 10, 64 << 10]);
    (commit_bytes, destage_bytes)
}

/// Shards with a ring so small that it is written again and again.
fn shard_settings(config: &BrokerConfig, sizes: (u64, u64)) -> ShardSettings {
    let machine = MachineFacts {
        cores: vec![0, 1],
        cpu_quota_millis: None,
        memory_available_bytes: 4 << 30,
        disk_free_bytes: 100 << 30,
        journal_present_bytes: 0,
    };
    let mut settings = resolve(config, &machine).expect("enough of everything");
    settings.journal_bytes = 1 << 20; // it wraps often, and is often full
    (settings.commit_bytes, settings.destage_bytes) = sizes;
    settings.offsets_log_bytes_min = 16 << 10;
    settings
}

/// The clients, as they outlive the broker.
struct Clients {
    producers: Vec<Rc<Producer>>,
    committer: Rc<Committer>,
    admin: Rc<Admin>,
}

/// Runs a seed to its end.
///
/// # Panics
/// When something that is promised does not hold: with the name of the check.
pub fn run(seed: u64, operations: u64) -> Outcome {
    let world = Rc::new(World::new(seed));
    let disk = SimDisk::new(seed);
    let clients = Clients {
        producers: (0..2).map(|n| Rc::new(Producer::new(n))).collect(),
        committer: Rc::default(),
        admin: Rc::new(Admin::new()),
    };
    Sim::with_disk(seed, disk.clone()).run(async {
        let made = rt::fs::create_dir_all("/data").await; // as the lock on it does
        made.and(rt::fs::sync_dir("/").await)
            .expect("an empty disk");
    });
    let mut trace = seed;
    for life in 0.. {
        world.life.set(life);
        world.set_over(false);
        let is_done = world.operations() >= operations && life >= LIVES.0;
        let is_last = is_done || life == LIVES.1;
        let sim = Sim::with_disk(seed.wrapping_mul(1000) + u64::from(life), disk.clone());
        let target = world.operations() + 1 + world.below(LIFE_OPERATIONS);
        let (troubles, ending) = if is_last {
            (Vec::new(), Ending::Stop)
        } else {
            (draw_troubles(&world), draw_ending(&world))
        };
        tracing::info!(target: "corelog::sim", life, ?troubles, ?ending, target, "begins");
        bring_about(&world, &sim, &disk, &troubles, ending);
        let ended = sim.run_until_crash(async {
            if is_last {
                check_all(&world).await;
            } else {
                let machine = (&sim, &disk);
                live(&world, machine, &clients, target, (&troubles, ending)).await;
            }
        });
        note(&world, &sim, &disk, ended.is_none());
        settle(&world, &disk, ended.is_none(), ending);
        if !is_last && world.chance(6) {
            rot::flip_a_bit(&world, &disk);
        }
        trace = trace.rotate_left(7) ^ sim.trace();
        if is_last {
            break;
        }
    }
    world
        .tally
        .borrow_mut()
        .add("records expired", world.expired());
    Outcome {
        trace,
        operations: world.operations(),
        acknowledged: world.acknowledged(),
        tally: world.tally.borrow().clone(),
    }
}

// ---------------------------------------------------------------------- what goes wrong

/// Nothing, one trouble, or two together: a repetition that overtakes its first needs both a cut
/// connection and a slow disk.
fn draw_troubles(world: &World) -> Vec<Trouble> {
    let count = world.pick(&[0, 0, 1, 1, 1, 2, 2, 3]);
    let draw = |_| match world.below(12) {
        0..=2 => Trouble::Network,
        3..=4 => {
            let (op, path) = world.pick(&ERRORS);
            Trouble::Error(op, path)
        }
        5..=6 => Trouble::Full,
        7..=9 => Trouble::SlowFlushes,
        10 => Trouble::Clock,
        _ => Trouble::ShortReads,
    };
    (0..count).map(draw).collect()
}

fn draw_ending(world: &World) -> Ending {
    let reach = world.pick(&[40, 400, 2_000, 8_000]);
    match world.below(8) {
        0 => Ending::Stop,
        1..=2 => Ending::Kill,
        _ => Ending::PowerFailure(1 + world.below(reach)),
    }
}

fn bring_about(world: &World, sim: &Sim, disk: &SimDisk, troubles: &[Trouble], ending: Ending) {
    sim.step_wall_clock(world.wall_offset_ms.get());
    for trouble in troubles {
        match *trouble {
            Trouble::Clock | Trouble::Full => {}
            Trouble::Network => sim.set_net_faults(NetFaults {
                cut: Some(100),
                stall: Some(200),
            }),
            Trouble::Error(op, path) => disk.inject(Fault {
                op,
                path: path.to_owned(),
                error: io::ErrorKind::Other,
                skip: world.below(60),
                times: 1 + world.below(2),
            }),
            Trouble::SlowFlushes => disk.set_slow_flushes(Some(30)),
            Trouble::ShortReads => disk.set_short_reads(Some(4)),
        }
    }
    if let Ending::PowerFailure(n) = ending {
        disk.crash_after(n);
    }
}

/// Counts what the life has seen.
fn note(world: &World, sim: &Sim, disk: &SimDisk, is_crashed: bool) {
    let mut tally = world.tally.borrow_mut();
    let fired = sim.net_fired();
    tally.add("connection cut", fired.cuts);
    tally.add("connection stalled", fired.stalls);
    for (what, count) in disk.take_fired().into_iter().chain(sim.marks()) {
        tally.add(what, count);
    }
    if is_crashed {
        tally.add("power failure under way", 1);
    }
}

/// The disk between two lives.
fn settle(world: &World, disk: &SimDisk, is_crashed: bool, ending: Ending) {
    disk.clear_faults();
    disk.set_slow_flushes(None);
    disk.set_short_reads(None);
    disk.set_capacity(None);
    let mode = match ending {
        // a killed process leaves what it has written
        Ending::Kill if !is_crashed => CrashMode::Keep,
        _ => world.pick(&[
            CrashMode::Lose,
            CrashMode::Keep,
            CrashMode::Torn,
            CrashMode::Torn,
        ]),
    };
    tracing::info!(target: "corelog::sim", is_crashed, ?ending, ?mode, "ends");
    disk.crash(mode);
    let what = match (ending, mode) {
        (Ending::Stop, _) => "orderly stop",
        (Ending::Kill, _) => "kill",
        (_, CrashMode::Lose) => "power failure, all lost",
        (_, CrashMode::Keep) => "power failure, all kept",
        (_, CrashMode::Torn) => "power failure, torn",
    };
    world.tally.borrow_mut().add(what, 1);
}

// ---------------------------------------------------------------------- a life

/// A broker that runs as a task.
struct Running {
    termination: Termination,
    outcome: Rc<RefCell<Option<Result<(), StartError>>>>,
    task: Task<()>,
}

/// Starts a broker on these cores, with a shard on each.
fn start(world: &World, cores: &str) -> Running {
    let config = config(cores);
    let settings = shard_settings(&config, draw_sizes(world));
    let termination = Termination::new();
    let outcome = Rc::new(RefCell::new(None));
    let (theirs, asked) = (outcome.clone(), termination.clone());
    let task = rt::spawn(Lane::Network, "broker", async move {
        let ended = broker::run_simulated(config, settings, asked).await;
        theirs.replace(Some(ended));
    });
    Running {
        termination,
        outcome,
        task,
    }
}

async fn live(
    world: &Rc<World>,
    (sim, disk): (&Sim, &SimDisk),
    clients: &Clients,
    target: u64,
    (troubles, ending): (&[Trouble], Ending),
) {
    let broker = start(world, world.pick(&["0,1", "0,1", "0,1", "0,1", "0,1", "0"]));
    let clients = spawn(world, clients);
    let may_refuse = troubles
        .iter()
        .any(|trouble| matches!(trouble, Trouble::Error(..) | Trouble::Full));
    let is_untroubled = troubles.is_empty();
    let deadline = rt::now() + if is_untroubled { PATIENCE } else { LIFE_TIME };
    while world.operations() < target && rt::now() < deadline {
        rt::sleep(Duration::from_millis(5)).await;
        if troubles.contains(&Trouble::Full) && world.chance(30) {
            fill_up(world, disk).await;
        }
        if troubles.contains(&Trouble::Clock) && world.chance(20) {
            set_clock(world, sim);
        }
        if let Some(outcome) = &*broker.outcome.borrow() {
            assert!(
                may_refuse,
                "[starts] the broker ended although nothing failed: {outcome:?}"
            );
            world.tally.borrow_mut().add("start refused", 1);
            return;
        }
    }
    assert!(
        world.operations() >= target || !is_untroubled,
        "[progress] {} of {target} operations were answered within {PATIENCE:?}",
        world.operations()
    );
    if matches!(ending, Ending::Stop) {
        stop(broker, may_refuse).await;
    }
    world.set_over(true);
    drop(clients);
}

/// Sets the wall clock, as an administrator or a time server does.
fn set_clock(world: &World, sim: &Sim) {
    let hours = [-3, -2, -1, 1, 2, 3].map(|hours| hours * 3_600_000);
    let by_ms = match world.below(2) {
        0 => world.pick(&hours),
        _ => i64::try_from(world.below(40_000)).expect("small") - 20_000,
    };
    if (world.wall_offset_ms.get() + by_ms).abs() > CLOCK_REACH_MS {
        return;
    }
    world.see_clock();
    world.on_clock(by_ms);
    sim.step_wall_clock(by_ms);
    world.see_clock();
}

/// The disk has hardly any room for a while.
async fn fill_up(world: &World, disk: &SimDisk) {
    let room = world.below(200 << 10);
    disk.set_capacity(Some(disk.used_bytes() + room));
    let millis = 200 + world.below(3_000);
    rt::sleep(Duration::from_millis(millis)).await;
    disk.set_capacity(None);
}

async fn stop(broker: Running, may_fail: bool) {
    broker.termination.request();
    let stopped = rt::timeout(PATIENCE, broker.task).await;
    assert!(stopped.is_some(), "[stops] not within {PATIENCE:?}");
    let outcome = broker.outcome.take();
    assert!(
        may_fail || matches!(outcome, Some(Ok(()))),
        "[stops] {outcome:?}"
    );
}

fn spawn(world: &Rc<World>, clients: &Clients) -> Vec<Task<()>> {
    let mut tasks = vec![rt::spawn(Lane::Network, "set up", set_up(world.clone()))];
    for producer in &clients.producers {
        let running = producer.clone().run(world.clone());
        tasks.push(rt::spawn(Lane::Network, "producer", running));
    }
    for _ in 0..2 {
        tasks.push(rt::spawn(
            Lane::Network,
            "consumer",
            consumer::run(world.clone()),
        ));
        tasks.push(rt::spawn(
            Lane::Network,
            "member",
            member::run(world.clone()),
        ));
    }
    let committing = clients.committer.clone().run(world.clone());
    tasks.push(rt::spawn(Lane::Network, "committer", committing));
    let administering = clients.admin.clone().run(world.clone());
    tasks.push(rt::spawn(Lane::Network, "admin", administering));
    tasks
}

/// Creates the topics that are there for good, as often as it takes.
async fn set_up(world: Rc<World>) {
    while let Some(mut connection) = world.connect_anyway().await {
        if create_topics(&mut connection).await.is_ok() {
            world.on_topics();
            return;
        }
        world.pause().await;
    }
}

async fn create_topics(connection: &mut Connection) -> io::Result<()> {
    const TOPIC_EXISTS: i16 = 36;
    for (name, partitions) in TOPICS {
        let configs: &[_] = match name {
            TRAIL => &TRAIL_CONFIGS,
            _ => &[],
        };
        match admin::create(connection, name, partitions, configs).await? {
            0 | TOPIC_EXISTS => {}
            code => return Err(refused(code)),
        }
    }
    Ok(())
}

// ---------------------------------------------------------------------- the end

/// A broker without faults: everything that is known is there.
async fn check_all(world: &Rc<World>) {
    let broker = start(world, "0,1");
    let checked = rt::timeout(PATIENCE, async {
        set_up(world.clone()).await;
        loop {
            let mut connection = world.connect().await.expect("it is not over");
            match check_over(world, &mut connection).await {
                Ok(()) => return,
                Err(_) => world.pause().await,
            }
        }
    });
    let is_checked = checked.await.is_some();
    let outcome = broker
        .outcome
        .borrow()
        .as_ref()
        .map(|ended| format!("{ended:?}"));
    assert!(
        is_checked,
        "[progress] what is known could not be read within {PATIENCE:?}; the broker: {outcome:?}"
    );
    stop(broker, false).await;
}

async fn check_over(world: &World, connection: &mut Connection) -> io::Result<()> {
    for place in Place::all() {
        consumer::read_whole(world, connection, place).await?;
    }
    let (topic, partitions) = TOPICS[0];
    for partition in 0..partitions {
        for group in [committer::GROUP, member::GROUP] {
            committer::fetch(world, connection, group, topic, partition).await?;
        }
    }
    Ok(())
}

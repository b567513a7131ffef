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
use crate::wire::Connection;
use crate::world::{Place, TOPICS, Tally, World, refused};

/// Lives of the broker under faults, at least and at most; one more without follows.
const LIVES: (u32, u32) = (3, 60);
/// What each of them may take of a seed's operations.
const LIFE_OPERATIONS: u64 = 800;

/// What must have happened in a run of many seeds.
pub const EXPECTED: &[&str] = &[
    "committed",
    "connection cut",
    "connection stalled",
    "disk full",
    "fetched",
    "flush failed",
    "heartbeat",
    "joined",
    "kill",
    "left",
    "listed",
    "name change failed",
    "offset fetched",
    "open failed",
    "orderly stop",
    "power failure under way",
    "power failure, all kept",
    "power failure, all lost",
    "power failure, torn",
    "produced",
    "read failed",
    "records deleted",
    "refused",
    "resize failed",
    "slow flush",
    "start refused",
    "synced",
    "topic created",
    "topic deleted",
    "write failed",
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
    None,
    Network,
    /// Calls of a kind fail, on files whose path has this in it.
    Error(DiskOp, &'static str),
    Full,
    SlowFlushes,
}

/// Kinds of files, and what may fail of each.
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

fn config() -> BrokerConfig {
    let mut settings = Settings::default();
    for (name, value) in [
        ("data.dir", "/data"),
        ("listen", "127.0.0.1:9092"),
        ("cores", "0,1"),
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

/// Two shards with a ring so small that it is written again and again.
fn shard_settings(config: &BrokerConfig) -> ShardSettings {
    let machine = MachineFacts {
        cores: vec![0, 1],
        cpu_quota_millis: None,
        memory_available_bytes: 4 << 30,
        disk_free_bytes: 100 << 30,
        journal_present_bytes: 0,
    };
    let mut settings = resolve(config, &machine).expect("enough of everything");
    settings.journal_bytes = 2 << 20;
    settings.destage_bytes = 64 << 10;
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
        let (trouble, ending) = if is_last {
            (Trouble::None, Ending::Stop)
        } else {
            (draw_trouble(&world), draw_ending(&world))
        };
        tracing::info!(target: "corelog::sim", life, ?trouble, ?ending, target, "begins");
        bring_about(&world, &sim, &disk, trouble, ending);
        let ended = sim.run_until_crash(async {
            if is_last {
                check_all(&world).await;
            } else {
                live(&world, &disk, &clients, target, (trouble, ending)).await;
            }
        });
        note(&world, &sim, &disk, ended.is_none());
        settle(&world, &disk, ended.is_none(), ending);
        trace = trace.rotate_left(7) ^ sim.trace();
        if is_last {
            break;
        }
    }
    Outcome {
        trace,
        operations: world.operations(),
        acknowledged: world.acknowledged(),
        tally: world.tally.borrow().clone(),
    }
}

// ---------------------------------------------------------------------- what goes wrong

fn draw_trouble(world: &World) -> Trouble {
    match world.below(10) {
        0..=2 => Trouble::None,
        3..=4 => Trouble::Network,
        5..=6 => {
            let (op, path) = world.pick(&ERRORS);
            Trouble::Error(op, path)
        }
        7 => Trouble::Full,
        _ => Trouble::SlowFlushes,
    }
}

fn draw_ending(world: &World) -> Ending {
    let reach = world.pick(&[40, 400, 2_000, 8_000]);
    match world.below(8) {
        0 => Ending::Stop,
        1..=2 => Ending::Kill,
        _ => Ending::PowerFailure(1 + world.below(reach)),
    }
}

fn bring_about(world: &World, sim: &Sim, disk: &SimDisk, trouble: Trouble, ending: Ending) {
    match trouble {
        Trouble::None | Trouble::Full => {}
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
    for (what, count) in disk.take_fired() {
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

fn start() -> Running {
    let config = config();
    let settings = shard_settings(&config);
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
    disk: &SimDisk,
    clients: &Clients,
    target: u64,
    (trouble, ending): (Trouble, Ending),
) {
    let broker = start();
    let clients = spawn(world, clients);
    let may_refuse = matches!(trouble, Trouble::Error(..) | Trouble::Full);
    let deadline = rt::now()
        + if trouble == Trouble::None {
            PATIENCE
        } else {
            LIFE_TIME
        };
    while world.operations() < target && rt::now() < deadline {
        rt::sleep(Duration::from_millis(5)).await;
        if trouble == Trouble::Full && world.chance(30) {
            fill_up(world, disk).await;
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
        world.operations() >= target || trouble != Trouble::None,
        "[progress] {} of {target} operations were answered within {PATIENCE:?}",
        world.operations()
    );
    if matches!(ending, Ending::Stop) {
        stop(broker, may_refuse).await;
    }
    world.set_over(true);
    drop(clients);
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
        match admin::create(connection, name, partitions, &[]).await? {
            0 | TOPIC_EXISTS => {}
            code => return Err(refused(code)),
        }
    }
    Ok(())
}

// ---------------------------------------------------------------------- the end

/// A broker without faults: everything that is known is there.
async fn check_all(world: &Rc<World>) {
    let broker = start();
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
        committer::fetch(world, connection, committer::GROUP, topic, partition).await?;
    }
    Ok(())
}

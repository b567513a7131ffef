//! One run from its flags to its figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::SystemTime;

use corelog::wire::api::ApiKey;
use serde_json::{Value, json};

use crate::args::{Compression, Load, Rate};
use crate::clock::{Clock, Nanos};
use crate::cluster::{Cluster, Target};
use crate::engine::{Engine, Observer, Role, Shared};
use crate::link::Link;
use crate::numbers::{SECOND_NS, float, seconds, whole, whole_len};
use crate::process;
use crate::producer::{ProduceShared, Producer};
use crate::recorder::{Recorder, Window};
use crate::report;
use crate::requests::{Format, ProduceWriter};
use crate::supply::{Batching, Lane, Supply};
use crate::template::{RecordShape, Template};

const PRODUCE_TIMEOUT_MS: i32 = 30_000;
/// Time to build everything before the first record is due.
const LEAD_NS: Nanos = 20_000_000;

/// Runs the load and returns the result.
pub(crate) fn run(load: &Load) -> Result<Value, String> {
    load.check()?;
    if load.idempotent || load.keys > 0 || load.compression != Compression::None {
        return Err("--keys, --compression and --idempotent are not in this version".to_owned());
    }
    let mut cluster = Cluster::prepare(load)?;
    let outcome = measure(load, &mut cluster);
    let deleted = cluster.delete_created();
    let result = outcome?;
    deleted?;
    Ok(result)
}

fn measure(load: &Load, cluster: &mut Cluster) -> Result<Value, String> {
    let clock = Clock::start();
    let started_unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let started_unix_ms = started_unix_ms.map_or(0, |since| since.as_millis());
    let links = open_links(load, cluster)?;
    let broker = load
        .broker_pid
        .or_else(|| process::pid_behind(&links.first()?.0.stream));
    let start = clock.now() + LEAD_NS;
    let window_start = start + whole(load.warmup * 1e9);
    let window = Window {
        start: window_start,
        end: window_start + whole(load.duration * 1e9),
    };
    let shared = Shared {
        produce: Some(produce_shared(load, cluster, clock, window)?),
    };
    let mut engine = Engine::new(clock, shared, load.spin)?;
    add_producers(load, &mut engine, links, start, window)?;
    let mut observer = Progress::new(load, broker, window);
    engine.run(window, whole(load.drain * 1e9), &mut observer)?;
    observer.finish();
    let produce = engine.shared.produce.as_ref().expect("it was given");
    let window_seconds = seconds(window.end - window.start);
    let side = report::side(&produce.recorder, window_seconds);
    print!("{}", report::text("produced", &side, meaning(load)));
    let cost = observer.cost();
    println!("  {}", cost.text());
    Ok(json!({
        "tool": "corelog-bench",
        "version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "mode": "produce",
        "settings": load,
        "started_unix_ms": u64::try_from(started_unix_ms).unwrap_or(0),
        "seconds": window_seconds,
        "produce": side,
        "consume": null,
        "end_to_end": null,
        "verify": null,
        "client_cpu_seconds": cost.client,
        "broker_cpu_seconds": cost.broker,
        "broker_rss_bytes": cost.broker_rss,
        "sweep": null,
    }))
}

fn meaning(load: &Load) -> &'static str {
    match load.rate {
        Rate::Max => "from sending the batch: at --rate max nothing is due earlier",
        Rate::PerSecond(_) => "from the moment each record was due",
    }
}

fn produce_shared(
    load: &Load,
    cluster: &mut Cluster,
    clock: Clock,
    window: Window,
) -> Result<ProduceShared, String> {
    let max = Format::version_max(ApiKey::Produce, &cluster.topics);
    let version = cluster.cold().versions().agree(ApiKey::Produce, max)?;
    let value_len = whole_len(float(load.record_size));
    let shape = RecordShape {
        value_len,
        has_key: false,
        random_share: load.random_share,
    };
    Ok(ProduceShared {
        clock,
        writer: ProduceWriter {
            format: Format::new(ApiKey::Produce, version),
            acks: load.acks.wire(),
            timeout_ms: PRODUCE_TIMEOUT_MS,
        },
        topics: cluster.topics.clone(),
        template: Template::build(shape, whole_len(float(load.batch_size)), 1),
        in_flight_max: load.in_flight,
        value_len,
        recorder: Recorder::new(window),
    })
}

/// A connection and the partitions that its broker leads.
type LeaderLink = (Link, Rc<[Target]>);

/// One connection after the other, each to the leader of some partitions; with those.
fn open_links(load: &Load, cluster: &Cluster) -> Result<Vec<LeaderLink>, String> {
    let mut led: BTreeMap<i32, Vec<Target>> = BTreeMap::new();
    for target in &cluster.targets {
        led.entry(target.leader).or_default().push(*target);
    }
    let led: Vec<(i32, Rc<[Target]>)> = led
        .into_iter()
        .map(|(leader, targets)| (leader, targets.into()))
        .collect();
    if load.connections < led.len() {
        let leaders = led.len();
        return Err(format!(
            "{leaders} brokers lead: --connections {leaders} at least"
        ));
    }
    let mut links = Vec::with_capacity(load.connections);
    for (leader, targets) in led.iter().cycle().take(load.connections) {
        let address = cluster
            .brokers
            .get(leader)
            .ok_or("a leader without address")?;
        links.push((Link::open(address)?, Rc::clone(targets)));
    }
    Ok(links)
}

fn add_producers(
    load: &Load,
    engine: &mut Engine,
    links: Vec<LeaderLink>,
    start: Nanos,
    window: Window,
) -> Result<(), String> {
    let shared = engine.shared.produce.as_ref().expect("it was given");
    let count_max = shared.template.count_max();
    let count = links.len();
    for (number, (link, targets)) in links.into_iter().enumerate() {
        let batching = Batching {
            count_max,
            linger: whole(load.linger * 1e6),
            batches_max: load.partitions_per_request,
            targets: targets.len(),
        };
        let lane = match load.rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(Lane::new(start, window.end, rate, number, count)),
        };
        let first = number * targets.len() / count;
        let supply = Supply::new(batching, lane, window.end, first);
        engine.add(link, Role::Produce(Producer::new(targets, supply)))?;
    }
    Ok(())
}

/// CPU seconds of the window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) client: f64,
    pub(crate) broker: Option<f64>,
    pub(crate) broker_rss: Option<u64>,
}

impl Cost {
    fn text(&self) -> String {
        let broker = match self.broker {
            Some(used) => format!("broker {used:.2} s"),
            None => "broker unknown (not a process that this one may look at)".to_owned(),
        };
        format!("CPU: client {:.2} s, {broker}", self.client)
    }
}

/// Draws the progress line and reads the CPU clocks at the edges of the window.
struct Progress {
    is_quiet: bool,
    is_terminal: bool,
    window: Window,
    broker: Option<u32>,
    at_start: (f64, Option<f64>),
    at_end: (f64, Option<f64>),
    broker_rss: Option<u64>,
}

impl Progress {
    fn new(load: &Load, broker: Option<u32>, window: Window) -> Self {
        Self {
            is_quiet: load.quiet,
            is_terminal: std::io::stderr().is_terminal(),
            window,
            broker,
            at_start: (0.0, None),
            at_end: (0.0, None),
            broker_rss: None,
        }
    }

    fn used(&self) -> (f64, Option<f64>) {
        let broker = self.broker.and_then(process::cpu_seconds);
        (process::own_cpu_seconds(), broker)
    }

    fn cost(&self) -> Cost {
        Cost {
            client: self.at_end.0 - self.at_start.0,
            broker: self
                .at_end
                .1
                .zip(self.at_start.1)
                .map(|(end, start)| end - start),
            broker_rss: self.broker_rss,
        }
    }

    /// Ends the line.
    fn finish(&self) {
        if !self.is_quiet && self.is_terminal {
            eprintln!();
        }
    }
}

impl Observer for Progress {
    fn on_start(&mut self) {
        self.at_start = self.used();
    }

    fn on_end(&mut self) {
        self.at_end = self.used();
        self.broker_rss = self.broker.and_then(process::rss_bytes);
    }

    fn on_second(&mut self, now: Nanos, shared: &mut Shared) {
        let Some(produce) = &mut shared.produce else {
            return;
        };
        let row = produce.recorder.tick(now);
        if self.is_quiet {
            return;
        }
        let phase = match now {
            now if now <= self.window.start => "warm-up".to_owned(),
            now if now < self.window.end + SECOND_NS / 2 => {
                format!("{:4.0} s", seconds(now - self.window.start))
            }
            _ => "draining".to_owned(),
        };
        let mut line = format!("{phase:>8}  {}", report::progress("produced", &row));
        let failed = produce.recorder.error_count();
        if failed > 0 {
            let _ = write!(line, " FAILED {failed}");
        }
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}

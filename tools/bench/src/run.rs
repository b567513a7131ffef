//! One run from its flags to its figures; a sweep is several.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::args::{Load, Mode, Rate};
use crate::clock::{Clock, Nanos};
use crate::cluster::Cluster;
use crate::engine::{Engine, Role, Shared};
use crate::link::Link;
use crate::numbers::{seconds, whole};
use crate::plot;
use crate::progress::{Cost, Progress};
use crate::recorder::Window;
use crate::report;
use crate::setup::{self, Schedule};
use crate::template::Random;
use crate::verify::Verdict;

/// Time to build everything before the first record is due.
const LEAD_NS: Nanos = 20_000_000;
/// Longest time to read everything back.
const READ_BACK_NS: Nanos = 600_000_000_000;

/// Figures of one run.
#[derive(Debug)]
pub(crate) struct Figures {
    seconds: f64,
    produce: Option<Value>,
    consume: Option<Value>,
    end_to_end: Option<Value>,
    compression_ratio: Option<f64>,
    verdict: Option<Verdict>,
    cost: Cost,
}

impl Figures {
    fn text(&self, mode: Mode, load: &Load) -> String {
        let mut text = String::new();
        let stamping = setup::stamping_text(load.stamping(mode));
        if let Some(side) = &self.produce {
            text += &report::text("produced", side, &format!("{}{stamping}", meaning(load)));
        }
        if let Some(side) = &self.consume {
            let meaning = "from sending a Fetch to its records, waiting for data included";
            text += &report::text("consumed", side, meaning);
        }
        if let Some(side) = &self.end_to_end {
            text += "end to end:\n";
            let meaning = format!("{}, to its receipt", meaning(load));
            text += &report::latency_text(&side["latency_us"], &meaning);
            text += &report::errors_text(side);
        }
        if let Some(ratio) = self.compression_ratio {
            let _ = writeln!(text, "compressed {ratio:.2} to 1");
        }
        if let Some(verdict) = &self.verdict {
            text += &verdict.text();
        }
        text + &self.cost.text()
    }

    fn json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "produce": self.produce,
            "consume": self.consume,
            "end_to_end": self.end_to_end,
            "compression_ratio": self.compression_ratio,
            "verify": self.verdict,
            "client_cpu_seconds": self.cost.client,
            "broker_cpu_seconds": self.cost.broker,
            "broker_rss_bytes": self.cost.broker_rss,
        })
    }
}

fn meaning(load: &Load) -> &'static str {
    match load.rate {
        Rate::Max => "from sending the batch: at --rate max nothing is due earlier",
        Rate::PerSecond(_) => "from the moment each record was due",
    }
}

/// Runs the load, prints and writes the figures; false when a check of the records failed.
pub(crate) fn run(mode: Mode, load: &Load) -> Result<bool, String> {
    load.check(mode)?;
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let started_ms = started.map_or(0, |since| since.as_millis());
    let mut cluster = Cluster::prepare(mode, load)?;
    let outcome = run_all(mode, load, &mut cluster);
    let deleted = cluster.delete_created();
    let (mut result, is_clean) = outcome?;
    deleted?;
    result["tool"] = "corelog-bench".into();
    result["version"] = env!("CARGO_PKG_VERSION").into();
    result["command"] = std::env::args().collect();
    result["mode"] = mode.name().into();
    result["settings"] = json!(load);
    result["started_unix_ms"] = u64::try_from(started_ms).unwrap_or(0).into();
    if let Some(file) = &load.plot {
        let drawn = plot::draw(file, &result);
        drawn.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if let Some(file) = &load.json {
        let written = std::fs::write(file, format!("{result:#}\n"));
        written.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(is_clean)
}

fn run_all(mode: Mode, load: &Load, cluster: &mut Cluster) -> Result<(Value, bool), String> {
    let Some(sweep) = &load.sweep else {
        let figures = measure(mode, load, cluster)?;
        print!("{}", figures.text(mode, load));
        let mut result = figures.json();
        result["sweep"] = Value::Null;
        return Ok((result, is_clean(&figures)));
    };
    let (mut points, mut all_clean, mut total) = (Vec::new(), true, 0.0);
    for rate in &sweep.0 {
        let load = Load {
            rate: *rate,
            ..load.clone()
        };
        println!("rate {}", json!(rate));
        let figures = measure(mode, &load, cluster)?;
        print!("{}", figures.text(mode, &load));
        all_clean &= is_clean(&figures);
        total += figures.seconds;
        let mut point = figures.json();
        point["rate"] = json!(rate);
        points.push(point);
    }
    let result = json!({
        "seconds": total, "produce": null, "consume": null, "end_to_end": null, "verify": null,
        "client_cpu_seconds": null, "broker_cpu_seconds": null, "broker_rss_bytes": null,
        "sweep": points,
    });
    Ok((result, all_clean))
}

fn is_clean(figures: &Figures) -> bool {
    figures.verdict.as_ref().is_none_or(Verdict::is_clean)
}

fn measure(mode: Mode, load: &Load, cluster: &mut Cluster) -> Result<Figures, String> {
    let clock = Clock::start();
    let run = Random(clock.unix_ns(0) ^ u64::from(std::process::id())).next();
    let run = u32::try_from(run >> 32).unwrap_or(0);
    let starts = match mode {
        Mode::Idle => Vec::new(),
        _ => cluster.offsets(load.begins(mode))?,
    };
    let links = match mode {
        Mode::Consume => Vec::new(),
        Mode::Idle => open_idle(load)?,
        _ => setup::open_producer_links(load, cluster)?,
    };
    let broker = load.broker_pid.or_else(|| cluster.cold().broker_pid());
    // a backlog is measured from its first byte, nothing is due later
    let (lead, warmup) = match load.until_end {
        true => (0, 0),
        false => (LEAD_NS, whole(load.warmup * 1e9)),
    };
    let start = clock.now() + lead;
    let window_start = start + warmup;
    let window = Window {
        start: window_start,
        end: window_start + whole(load.duration * 1e9),
    };
    let mut engine = Engine::new(clock, Shared::default(), load.spin)?;
    if mode.consumes() {
        let own = mode.produces().then_some(run);
        let mut shared = setup::consume_shared(mode, load, cluster, clock, window, own)?;
        shared.to_end = load.until_end;
        engine.shared.consume = Some(shared);
        let ends = match load.until_end {
            true => Some(cluster.offsets(crate::args::From::End)?),
            false => None,
        };
        let connections = match mode {
            Mode::Consume => load.consumer_connections.max(load.connections),
            _ => load.consumer_connections,
        };
        let ends = ends.as_deref();
        setup::add_consumers(
            connections,
            load.consumers,
            cluster,
            &mut engine,
            &starts,
            ends,
        )?;
    }
    if mode.produces() {
        let shared = setup::produce_shared(mode, load, cluster, clock, window, run)?;
        engine.shared.produce = Some(shared);
        let schedule = Schedule { start, window };
        setup::add_producers(load, cluster, &mut engine, links, schedule)?;
    } else {
        for link in links {
            engine.add(link, Role::Idle)?;
        }
    }
    let mut progress = Progress::new(load, broker, window);
    let end = engine.run(window, whole(load.drain * 1e9), &mut progress)?;
    progress.finish();
    let verdict = verdict(mode, load, cluster, &mut engine.shared, clock, run, &starts)?;
    let seconds = seconds(end.saturating_sub(window.start).max(1));
    Ok(figures(
        &engine.shared,
        load,
        seconds,
        verdict,
        progress.cost(),
    ))
}

fn figures(
    shared: &Shared,
    load: &Load,
    seconds: f64,
    verdict: Option<Verdict>,
    cost: Cost,
) -> Figures {
    let (produce, consume) = (shared.produce.as_ref(), shared.consume.as_ref());
    let is_compressed = load.compression != crate::args::Compression::None;
    Figures {
        seconds,
        produce: produce.map(|shared| report::side(&shared.recorder, seconds)),
        consume: consume.map(|shared| report::side(&shared.recorder, seconds)),
        end_to_end: consume
            .and_then(|shared| shared.end_to_end.as_ref())
            .map(report::end_to_end),
        compression_ratio: produce
            .filter(|_| is_compressed)
            .map(|shared| shared.maker.ratio()),
        verdict,
        cost,
    }
}

/// With `--verify`: what the consumers of the run saw, or, where there were none, what is there
/// when everything is read back.
fn verdict(
    mode: Mode,
    load: &Load,
    cluster: &mut Cluster,
    shared: &mut Shared,
    clock: Clock,
    run: u32,
    starts: &[i64],
) -> Result<Option<Verdict>, String> {
    if !load.verify {
        return Ok(None);
    }
    let ledger = shared
        .produce
        .as_mut()
        .and_then(|shared| shared.ledger.take());
    if let Some(consume) = &shared.consume {
        return Ok(Some(Verdict::new(ledger.as_ref(), &consume.seen)));
    }
    let window = Window {
        start: 0,
        end: clock.now() + READ_BACK_NS,
    };
    let once = Load {
        consumers: 1,
        quiet: true,
        ..load.clone()
    };
    let mut consume = setup::consume_shared(mode, &once, cluster, clock, window, Some(run))?;
    consume.to_end = true;
    let shared = Shared {
        produce: None,
        consume: Some(consume),
    };
    let ends = cluster.offsets(crate::args::From::End)?;
    let mut engine = Engine::new(clock, shared, false)?;
    setup::add_consumers(1, 1, cluster, &mut engine, starts, Some(&ends))?;
    let patience = whole(load.drain * 1e9);
    engine.run(window, patience, &mut Progress::new(&once, None, window))?;
    let consume = engine.shared.consume.expect("[reads] it was given");
    Ok(Some(Verdict::new(ledger.as_ref(), &consume.seen)))
}

/// Connections that agreed on versions, as a client's do, and then have nothing to say.
fn open_idle(load: &Load) -> Result<Vec<Link>, String> {
    let links = (0..load.connections).map(|_| {
        let connection = crate::cold::ColdConnection::open(&load.bootstrap)?;
        Link::from_stream(connection.into_stream(), &load.bootstrap)
    });
    links.collect()
}

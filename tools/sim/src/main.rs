//! Runs seeds, as many as asked, in parallel, and goes on where an earlier run ended.
//!
//! Exit code 1 when a seed found something, when something that must happen never did, and when a
//! named break was not caught.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use corelog_sim::{Tally, seed};
use serde_json::{Value, json};

/// Seeds between two notes of how far the run is.
const CHUNK: u64 = 200;
/// A run of so many seeds must have seen everything of `seed::EXPECTED`.
const ENOUGH_SEEDS: u64 = 100;
/// And one of so many everything of `seed::EXPECTED_RARELY`.
const MANY_SEEDS: u64 = 1000;

/// Whole brokers on a simulated machine that fails by the seed.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Client operations of each, at least.
    #[arg(long, default_value_t = 2000)]
    operations: u64,
    /// Threads; as many as there are cores, unless said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Where results are kept: a run with the same `--from` goes on from there.
    #[arg(long)]
    results: Option<PathBuf>,
    /// What the broker logs, from this level on, with what the clients do.
    #[arg(long)]
    log: Option<String>,
    /// Puts this fault into the broker, and expects it to be caught: a name, or `all`.
    #[cfg(feature = "breaks")]
    #[arg(long = "break")]
    broken: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // what a seed panics with is printed with the seed
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(level) = &arguments.log
        && let Err(error) = corelog::telemetry::logging::start(level, false)
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    #[cfg(feature = "breaks")]
    if let Some(name) = &arguments.broken {
        return breaks::run(name, &arguments);
    }
    run(&arguments)
}

/// What is known so far.
struct Results {
    next: u64,
    /// Stands for everything that happened in all of them.
    trace: u64,
    operations: u64,
    acknowledged: u64,
    tally: Tally,
    found: BTreeMap<u64, String>,
}

fn run(arguments: &Arguments) -> ExitCode {
    let start = Instant::now();
    let mut results = load(arguments);
    if results.next > arguments.from {
        println!("{} seeds are done already", results.next - arguments.from);
    }
    let end = arguments.from + arguments.seeds;
    while results.next < end {
        let until = end.min(results.next + CHUNK);
        run_chunk(arguments, &mut results, until);
        save(arguments, &results);
        println!(
            "seeds {} to {until}: {} operations, {} records acknowledged and found, {} findings, \
             {:.0} s",
            arguments.from,
            results.operations,
            results.acknowledged,
            results.found.len(),
            start.elapsed().as_secs_f64()
        );
    }
    for (what, count) in &results.tally.counts {
        println!("{count:>12}  {what}");
    }
    let seeds = results.next - arguments.from;
    let never = never(&results.tally, seeds);
    let is_poor = !never.is_empty();
    if is_poor {
        println!("never happened: {never:?}");
    }
    for (seed, what) in &results.found {
        println!("seed {seed}: {what}\n  again: tools/sim/run --from {seed} --seeds 1");
    }
    println!(
        "{seeds} seeds, {} findings, trace {:016x}",
        results.found.len(),
        results.trace
    );
    if results.found.is_empty() && !is_poor {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What must happen in a run of so many seeds, and did not.
fn never(tally: &Tally, seeds: u64) -> Vec<&'static str> {
    let common = seed::EXPECTED.iter().filter(|_| seeds >= ENOUGH_SEEDS);
    let rare = seed::EXPECTED_RARELY.iter().filter(|_| seeds >= MANY_SEEDS);
    let mut never: Vec<_> = common.chain(rare).copied().collect();
    never.retain(|what| tally.counts.get(*what).is_none_or(|n| *n == 0));
    never
}

/// Runs one seed; what it panicked with, if it did.
fn run_seed(seed: u64, operations: u64) -> Result<seed::Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| seed::run(seed, operations))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("a panic without words").to_owned()
    })
}

fn jobs(arguments: &Arguments) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    arguments.jobs.unwrap_or_else(cores).max(1)
}

fn run_chunk(arguments: &Arguments, results: &mut Results, until: u64) {
    let next = AtomicU64::new(results.next);
    let shared = Mutex::new(&mut *results);
    std::thread::scope(|scope| {
        for _ in 0..jobs(arguments) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= until {
                        return;
                    }
                    let outcome = run_seed(seed, arguments.operations);
                    let mut results = shared.lock().expect("seeds do not panic here");
                    match outcome {
                        Ok(outcome) => {
                            results.trace ^= outcome.trace;
                            results.operations += outcome.operations;
                            results.acknowledged += outcome.acknowledged;
                            results.tally.merge(&outcome.tally);
                        }
                        Err(what) => {
                            println!("seed {seed}: {what}");
                            results.found.insert(seed, what);
                        }
                    }
                }
            });
        }
    });
    results.next = until;
}

// ---------------------------------------------------------------------- results

fn load(arguments: &Arguments) -> Results {
    let mut results = Results {
        next: arguments.from,
        trace: 0,
        operations: 0,
        acknowledged: 0,
        tally: Tally::default(),
        found: BTreeMap::new(),
    };
    let Some(kept) = arguments.results.as_deref().and_then(read) else {
        return results;
    };
    if kept["from"] != json!(arguments.from)
        || kept["operations_a_seed"] != json!(arguments.operations)
    {
        return results;
    }
    let number = |name: &str| kept[name].as_u64().unwrap_or(0);
    results.next = number("next").max(arguments.from);
    results.trace = number("trace");
    results.operations = number("operations");
    results.acknowledged = number("acknowledged");
    for (what, count) in kept["tally"].as_object().into_iter().flatten() {
        results.tally.add(what, count.as_u64().unwrap_or(0));
    }
    for (seed, what) in kept["found"].as_object().into_iter().flatten() {
        if let (Ok(seed), Some(what)) = (seed.parse(), what.as_str()) {
            results.found.insert(seed, what.to_owned());
        }
    }
    results
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn save(arguments: &Arguments, results: &Results) {
    let Some(path) = &arguments.results else {
        return;
    };
    let text = json!({
        "from": arguments.from,
        "operations_a_seed": arguments.operations,
        "next": results.next,
        "trace": results.trace,
        "operations": results.operations,
        "acknowledged": results.acknowledged,
        "tally": results.tally.counts,
        "found": results.found,
    });
    if let Err(error) = std::fs::write(path, format!("{text:#}\n")) {
        eprintln!("cannot write {}: {error}", path.display());
    }
}

/// The checkers, checked: brokers with a fault of their own.
#[cfg(feature = "breaks")]
mod breaks {
    use corelog::breaks::{self, Break};

    use super::{Arguments, ExitCode, run_seed};

    pub(super) fn run(name: &str, arguments: &Arguments) -> ExitCode {
        let chosen: Vec<Break> = match name {
            "all" => Break::ALL.to_vec(),
            name => Break::from_name(name).into_iter().collect(),
        };
        if chosen.is_empty() {
            eprintln!("no break of the name {name}");
            return ExitCode::FAILURE;
        }
        let mut missed = 0;
        for broken in chosen {
            breaks::switch_on(Some(broken));
            let seeds = arguments.from..arguments.from + arguments.seeds;
            let caught = seeds
                .into_iter()
                .find_map(|seed| Some((seed, run_seed(seed, arguments.operations).err()?)));
            match caught {
                Some((seed, what)) => println!("{}: seed {seed}: {what}", broken.name()),
                None => {
                    missed += 1;
                    println!("{}: NOT CAUGHT in {} seeds", broken.name(), arguments.seeds);
                }
            }
        }
        println!("{missed} not caught");
        if missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

//! The live line, and the CPU clocks at the edges of the window.
//!
//! Runs on: the engine's thread, once a second.

use std::io::{IsTerminal as _, Write as _};

use crate::args::Load;
use crate::clock::Nanos;
use crate::engine::{Observer, Shared};
use crate::numbers::{SECOND_NS, seconds};
use crate::process;
use crate::recorder::{Recorder, Window};
use crate::report;

/// CPU seconds of the window, and memory at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) client: f64,
    pub(crate) broker: Option<f64>,
    pub(crate) broker_rss: Option<u64>,
}

impl Cost {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let broker = match (self.broker, self.broker_rss) {
            (Some(used), Some(rss)) => {
                format!("broker {used:.2} s, its memory {} MiB", rss >> 20)
            }
            _ => "broker unknown (no process that this one may look at)".to_owned(),
        };
        format!("CPU: client {:.2} s, {broker}\n", self.client)
    }
}

/// Watches a run.
#[derive(Debug)]
pub(crate) struct Progress {
    is_quiet: bool,
    is_terminal: bool,
    window: Window,
    broker: Option<u32>,
    at_start: (f64, Option<f64>),
    at_end: (f64, Option<f64>),
    broker_rss: Option<u64>,
}

impl Progress {
    pub(crate) fn new(load: &Load, broker: Option<u32>, window: Window) -> Self {
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

    /// What the window cost.
    pub(crate) fn cost(&self) -> Cost {
        let broker = self.at_end.1.zip(self.at_start.1);
        Cost {
            client: self.at_end.0 - self.at_start.0,
            broker: broker.map(|(end, start)| end - start),
            broker_rss: self.broker_rss,
        }
    }

    /// Ends the line.
    pub(crate) fn finish(&self) {
        if !self.is_quiet && self.is_terminal {
            eprintln!();
        }
    }

    fn phase(&self, now: Nanos) -> String {
        match now {
            now if now <= self.window.start => "warm-up".to_owned(),
            now if now < self.window.end + SECOND_NS / 2 => {
                format!("{:.0} s", seconds(now - self.window.start))
            }
            _ => "draining".to_owned(),
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
        let mut parts = Vec::new();
        let mut failed = 0;
        let mut add = |name: &str, recorder: &mut Recorder| {
            let row = recorder.tick(now);
            parts.push(report::progress(name, &row));
            failed += recorder.error_count();
        };
        if let Some(produce) = &mut shared.produce {
            add("produced", &mut produce.recorder);
        }
        if let Some(consume) = &mut shared.consume {
            add("consumed", &mut consume.recorder);
            if let Some(recorder) = &mut consume.end_to_end {
                add("end to end", recorder);
            }
        }
        if self.is_quiet {
            return;
        }
        let failed = match failed {
            0 => String::new(),
            failed => format!("  FAILED {failed}"),
        };
        let line = format!("{:>8}  {}{failed}", self.phase(now), parts.join("; "));
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}

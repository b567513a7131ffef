//! Log lines on standard error: for people, or one JSON object a line.
//!
//! Fields by these names: `partition`, `client_id`, `peer` on the lines about them, and `shard` on
//! every line that a shard's thread writes (the span that `broker.rs` enters there). One-line
//! start-up errors are not log lines: `main.rs` prints them.
//! Promises: a line with the target `LIFECYCLE` is written at every level.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// Target of the two lines that every run writes, whatever its level: ready and stopped.
pub const LIFECYCLE: &str = "corelog::lifecycle";

/// Why logging did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoggingError {
    /// Not a level.
    #[error("the log level is one of error, warn, info, debug, trace")]
    Level,
    /// Logging was started already.
    #[error("logging was started twice in one process")]
    AlreadyStarted,
}

/// Starts logging for the whole process: `level` is one of Kafka's and everybody's five words.
pub fn start(level: &str, is_json: bool) -> Result<(), LoggingError> {
    let level = LevelFilter::from_str(level).map_err(|_| LoggingError::Level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_writer(std::io::stderr);
    let started = if is_json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    started.map_err(|_| LoggingError::AlreadyStarted)
}

/// The runtime's own lines are texts of many lines about its rings, and it warns of memory that it
/// cannot register with them, which only costs a little: they stay out. What matters of a machine
/// is checked before.
fn filter(level: LevelFilter) -> EnvFilter {
    let runtime = level.min(LevelFilter::ERROR);
    EnvFilter::new(format!("{level},glommio={runtime},{LIFECYCLE}=info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_level_and_a_second_start_are_refused() {
        assert_eq!(start("loud", false), Err(LoggingError::Level));
        // another test of this process may have been first
        let _ = start("error", true);
        assert_eq!(start("error", false), Err(LoggingError::AlreadyStarted));
    }
}

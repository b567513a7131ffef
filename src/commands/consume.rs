//! `corelog consume`: prints the records of a topic, alone or as a member of a group.
//!
//! Runs on: the main thread.
//! Promises: in a group, only what was handed to the reader of the output is committed; ends
//! quietly when that reader has gone, and on the first SIGINT or SIGTERM.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::arguments::{ConsumeArguments, StartAt};
use super::output::{Output, bytes_json, headers_json};
use super::run::Failure;
use crate::client::Client;
use crate::client::fetcher::{DeliveryError, Fetcher, Flow, PartitionKey, Round};
use crate::client::groups;
use crate::client::membership::{Membership, Standing};
use crate::client::topics::{self, OffsetAt};
use crate::model::record::Record;

const POLL_WAIT: Duration = Duration::from_millis(500);
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
/// A member without partitions looks this often whether it got some.
const IDLE_PAUSE: Duration = Duration::from_millis(200);
const EXIT_INTERRUPTED: i32 = 130;

/// Runs the command.
pub(super) fn run(arguments: &ConsumeArguments) -> Result<(), Failure> {
    let stop = stop_flag()?;
    let mut client = Client::connect(&arguments.bootstrap.bootstrap.0)?;
    let mut printer = Printer::new(arguments);
    match &arguments.group {
        Some(group) => in_group(&mut client, arguments, group, &mut printer, &stop),
        None => alone(&mut client, arguments, &mut printer, &stop),
    }
}

/// Set by the first signal; the second one ends the process.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let again = Arc::clone(&stop);
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, again)?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// How a reading loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Everything that was asked for is printed, or a signal came.
    Done,
    /// The group shares out anew.
    MustRejoin,
}

fn alone(
    client: &mut Client,
    arguments: &ConsumeArguments,
    printer: &mut Printer,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let start = match arguments.offset {
        Some(start) => start,
        None if arguments.from_beginning => StartAt::Beginning,
        None => StartAt::End,
    };
    let positions = start_positions(client, arguments, start)?;
    let mut fetcher = Fetcher::new(positions);
    while !(stop.load(Ordering::Relaxed) || printer.is_full() || fetcher.is_finished()) {
        printer.output.check_open()?;
        let round = fetcher.poll(client, POLL_WAIT)?;
        printer.print(&mut fetcher, &round)?;
        for key in &round.out_of_range {
            // only what retention took away is passed over; a wrong --offset is an error
            let explicit = matches!(start, StartAt::Offset(_));
            skip_to_existing(client, &mut fetcher, key, explicit)?;
        }
    }
    printer.output.flush()
}

fn start_positions(
    client: &mut Client,
    arguments: &ConsumeArguments,
    start: StartAt,
) -> Result<BTreeMap<PartitionKey, i64>, Failure> {
    let topic = client.topic(&arguments.topic)?;
    let wanted = &arguments.partition;
    let known = |index: &i32| topic.partitions.iter().any(|p| p.partition_index == *index);
    if let Some(unknown) = wanted.iter().find(|index| !known(index)) {
        let name = &arguments.topic;
        return Err(Failure::Failed(format!(
            "topic `{name}` has no partition {unknown}"
        )));
    }
    let mut offsets = match start {
        StartAt::End | StartAt::BeforeEnd(_) => {
            topics::offsets(client, &topic, wanted, OffsetAt::Latest)?
        }
        StartAt::Beginning | StartAt::Offset(_) => {
            topics::offsets(client, &topic, wanted, OffsetAt::Earliest)?
        }
    };
    match start {
        StartAt::Offset(offset) => offsets.values_mut().for_each(|position| *position = offset),
        StartAt::BeforeEnd(back) => {
            let starts = topics::offsets(client, &topic, wanted, OffsetAt::Earliest)?;
            for (partition, position) in &mut offsets {
                let first = starts.get(partition).copied().unwrap_or(0);
                *position = position.saturating_sub(back).max(first);
            }
        }
        StartAt::Beginning | StartAt::End => {}
    }
    let name = &arguments.topic;
    Ok(offsets
        .into_iter()
        .map(|(index, offset)| ((name.clone(), index), offset))
        .collect())
}

/// Moves a position that the partition does not have into it.
fn skip_to_existing(
    client: &mut Client,
    fetcher: &mut Fetcher,
    key: &PartitionKey,
    is_explicit: bool,
) -> Result<(), Failure> {
    let topic = client.topic(&key.0)?;
    let at = |offsets: &BTreeMap<i32, i64>| offsets.get(&key.1).copied().unwrap_or(0);
    let first = at(&topics::offsets(
        client,
        &topic,
        &[key.1],
        OffsetAt::Earliest,
    )?);
    let end = at(&topics::offsets(
        client,
        &topic,
        &[key.1],
        OffsetAt::Latest,
    )?);
    let position = fetcher.positions()[key];
    let (name, index) = key;
    if position > end && is_explicit {
        return Err(Failure::Failed(format!(
            "offset {position} is beyond the end ({end}) of partition {index} of topic `{name}`"
        )));
    }
    let next = if position > end { end } else { first };
    eprintln!(
        "corelog: partition {index} of topic `{name}` has no offset {position}: going on at {next}"
    );
    fetcher.seek(key, next);
    Ok(())
}

fn in_group(
    client: &mut Client,
    arguments: &ConsumeArguments,
    group: &str,
    printer: &mut Printer,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    client.topic(&arguments.topic)?;
    let mut membership = Membership::new(group, vec![arguments.topic.clone()]);
    let result = loop {
        match one_generation(client, arguments, group, &mut membership, printer, stop) {
            Ok(Ended::MustRejoin) => {}
            Ok(Ended::Done) => break printer.output.flush(),
            Err(failure) => break Err(failure),
        }
    };
    // the first failure is the one to tell
    let left = membership.leave(client).map_err(Failure::from);
    result.and(left)
}

/// Joins, reads what was assigned, and commits, until the group shares out anew or all is done.
fn one_generation(
    client: &mut Client,
    arguments: &ConsumeArguments,
    group: &str,
    membership: &mut Membership,
    printer: &mut Printer,
    stop: &AtomicBool,
) -> Result<Ended, Failure> {
    let assigned = membership.join(client)?;
    let indexes = assigned.get(&arguments.topic).cloned().unwrap_or_default();
    let mut positions = BTreeMap::new();
    if !indexes.is_empty() {
        let topic = client.topic(&arguments.topic)?;
        let fallback = if arguments.from_beginning {
            OffsetAt::Earliest
        } else {
            OffsetAt::Latest
        };
        let committed = groups::committed(client, group, Some(&assigned))?;
        let fallbacks = topics::offsets(client, &topic, &indexes, fallback)?;
        for index in indexes {
            let key = (arguments.topic.clone(), index);
            let position = committed.get(&key).map_or_else(
                || fallbacks.get(&index).copied().unwrap_or(0),
                |found| found.offset,
            );
            positions.insert(key, position);
        }
    }
    let mut committed = positions.clone();
    let mut fetcher = Fetcher::new(positions);
    let mut last_commit = Instant::now();
    loop {
        printer.output.check_open()?;
        let nothing_left = arguments.exit_at_end && fetcher.is_finished();
        let is_done = stop.load(Ordering::Relaxed) || printer.is_full() || nothing_left;
        let standing = if is_done {
            Standing::Member
        } else {
            membership.heartbeat(client)?
        };
        let must_rejoin = standing == Standing::MustRejoin;
        if is_done || must_rejoin || last_commit.elapsed() >= COMMIT_INTERVAL {
            let standing = commit(client, membership, &fetcher, &mut committed)?;
            last_commit = Instant::now();
            if is_done {
                return Ok(Ended::Done);
            }
            if must_rejoin || standing == Standing::MustRejoin {
                return Ok(Ended::MustRejoin);
            }
        }
        if fetcher.positions().is_empty() {
            std::thread::sleep(IDLE_PAUSE);
            continue;
        }
        let round = fetcher.poll(client, POLL_WAIT)?;
        printer.print(&mut fetcher, &round)?;
        for key in &round.out_of_range {
            skip_to_existing(client, &mut fetcher, key, false)?;
        }
    }
}

/// Commits the positions that moved since the last commit.
fn commit(
    client: &mut Client,
    membership: &mut Membership,
    fetcher: &Fetcher,
    committed: &mut BTreeMap<PartitionKey, i64>,
) -> Result<Standing, Failure> {
    let moved: BTreeMap<PartitionKey, i64> = fetcher
        .positions()
        .iter()
        .filter(|(key, position)| committed.get(*key) != Some(position))
        .map(|(key, position)| (key.clone(), *position))
        .collect();
    let standing = membership.commit(client, &moved)?;
    if standing == Standing::Member {
        committed.extend(moved);
    }
    Ok(standing)
}

/// Prints records until it is full.
struct Printer {
    output: Output,
    print_key: bool,
    json: bool,
    exit_at_end: bool,
    left: Option<u64>,
}

impl Printer {
    fn new(arguments: &ConsumeArguments) -> Self {
        Self {
            output: Output::new(),
            print_key: arguments.print_key,
            json: arguments.json,
            exit_at_end: arguments.exit_at_end,
            left: arguments.max,
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Prints what a round brought and moves the positions behind it.
    fn print(&mut self, fetcher: &mut Fetcher, round: &Round) -> Result<(), Failure> {
        for fetched in &round.fetched {
            if self.is_full() {
                break;
            }
            let (topic, partition) = &fetched.key;
            let delivered = fetched.deliver(|offset, timestamp, record| {
                self.record(topic, *partition, offset, timestamp, record)
            });
            let position = delivered.map_err(|error| match error {
                DeliveryError::Receiver(failure) => failure,
                damaged @ DeliveryError::Damaged { .. } => Failure::Failed(damaged.to_string()),
            })?;
            fetcher.seek(&fetched.key, position);
            if self.exit_at_end && position >= fetched.high_watermark {
                fetcher.finish(&fetched.key);
            }
        }
        // positions that may be committed are those of records that left this process
        self.output.flush()
    }

    fn record(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        timestamp: i64,
        record: &Record<'_>,
    ) -> Result<Flow, Failure> {
        if self.json {
            let document = record_json(topic, partition, offset, timestamp, record);
            self.output.line(document.to_string())?;
        } else {
            let mut line = Vec::new();
            if self.print_key {
                line.extend_from_slice(record.key.unwrap_or(NULL));
                line.push(b'\t');
            }
            line.extend_from_slice(record.value.unwrap_or(NULL));
            self.output.line(line)?;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(if self.is_full() {
            Flow::Enough
        } else {
            Flow::More
        })
    }
}

/// What stands for a key or value that is not there.
const NULL: &[u8] = b"null";

fn record_json(
    topic: &str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    record: &Record<'_>,
) -> Value {
    json!({
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": timestamp,
        "key": bytes_json(record.key),
        "value": bytes_json(record.value),
        "headers": headers_json(record),
    })
}

//! `corelog produce`: lines of standard input become records.
//!
//! Runs on: the main thread; one thread reads standard input, so that lines typed by hand are sent
//! at once and a file is sent in large batches.

use std::io::{BufRead as _, Read as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::arguments::{AcksArgument, CompressionArgument, ProduceArguments};
use super::run::Failure;
use crate::client::Client;
use crate::client::producer::{Acks, Producer};
use crate::model::compression::Codec;

/// How long a batch that is not full waits for the next line.
const LINGER: Duration = Duration::from_millis(5);
/// Lines that wait between the reading thread and the sending one.
const LINES_WAITING_MAX: usize = 4096;
/// A longer line is refused: no broker would take it.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Runs the command.
pub(super) fn run(arguments: &ProduceArguments) -> Result<(), Failure> {
    let acks = match arguments.acks {
        AcksArgument::None => Acks::None,
        AcksArgument::Leader => Acks::Leader,
        AcksArgument::All => Acks::All,
    };
    let codec = match arguments.compression {
        CompressionArgument::None => Codec::None,
        CompressionArgument::Gzip => Codec::Gzip,
        CompressionArgument::Snappy => Codec::Snappy,
        CompressionArgument::Lz4 => Codec::Lz4,
        CompressionArgument::Zstd => Codec::Zstd,
    };
    let mut client = Client::connect(&arguments.bootstrap.bootstrap.0)?;
    let topic = &arguments.topic;
    let mut producer = Producer::new(&mut client, topic, acks, codec, arguments.partition)?;
    let (sender, lines) = sync_channel(LINES_WAITING_MAX);
    std::thread::spawn(move || read_lines(&sender));
    send_lines(&mut producer, &lines, arguments.key_separator.as_deref())
}

fn read_lines(lines: &SyncSender<std::io::Result<Vec<u8>>>) {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = input
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line);
        let is_end = matches!(read, Ok(0));
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let is_failed = read.is_err();
        // a closed channel: the sending side has failed and says why
        if is_end || lines.send(read.map(|_| line)).is_err() || is_failed {
            return;
        }
    }
}

fn send_lines(
    producer: &mut Producer<'_>,
    lines: &Receiver<std::io::Result<Vec<u8>>>,
    separator: Option<&str>,
) -> Result<(), Failure> {
    let mut number = 0_u64;
    loop {
        let linger = if producer.is_empty() {
            Duration::MAX
        } else {
            LINGER
        };
        let received = match lines.recv_timeout(linger) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                producer.flush()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(producer.flush()?),
        };
        let line = received.map_err(|error| Failure::Failed(format!("standard input: {error}")))?;
        number += 1;
        match split(&line, separator) {
            Ok((key, value)) => producer.push(now_ms(), key, Some(value))?,
            Err(separator) => {
                producer.flush()?;
                return Err(Failure::Failed(format!(
                    "line {number} has no key: `{separator}` does not occur in it"
                )));
            }
        }
    }
}

/// Key and value of a line; without the separator that was asked for, the separator.
fn split<'a, 'b>(
    line: &'a [u8],
    separator: Option<&'b str>,
) -> Result<(Option<&'a [u8]>, &'a [u8]), &'b str> {
    let Some(separator) = separator else {
        return Ok((None, line));
    };
    let at = line
        .windows(separator.len())
        .position(|window| window == separator.as_bytes())
        .ok_or(separator)?;
    let (key, rest) = line.split_at(at);
    Ok((Some(key), &rest[separator.len()..]))
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(
            split(b"a:b:c", Some(":")),
            Ok((Some(&b"a"[..]), &b"b:c"[..]))
        );
        assert_eq!(split(b"a::b", Some("::")), Ok((Some(&b"a"[..]), &b"b"[..])));
        assert_eq!(split(b":b", Some(":")), Ok((Some(&b""[..]), &b"b"[..])));
        assert_eq!(split(b"a:b", None), Ok((None, &b"a:b"[..])));
    }

    #[test]
    fn a_line_without_the_separator_is_refused() {
        assert_eq!(split(b"ab", Some(":")), Err(":"));
        assert_eq!(split(b"", Some(":")), Err(":"));
    }
}

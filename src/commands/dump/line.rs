//! What a dump says of one thing in a file: a line for people, an object for programs.
//!
//! Runs on: the main thread. Objects have a `kind`; those of kind `damage` say what is wrong, and
//! `sound` is whether a checksum is right.

use serde_json::Value;

use super::super::output::Output;
use super::super::run::Failure;

/// One thing in a file, both ways.
#[derive(Debug)]
pub(super) struct Line {
    /// One line, or several where it has parts.
    pub(super) text: String,
    pub(super) json: Value,
}

impl Line {
    pub(super) fn new(text: String, json: Value) -> Self {
        Self { text, json }
    }
}

/// Standard output, one way or the other.
pub(super) struct Printer {
    output: Output,
    as_json: bool,
}

impl Printer {
    pub(super) fn new(as_json: bool) -> Self {
        Self {
            output: Output::new(),
            as_json,
        }
    }

    pub(super) fn line(&mut self, line: &Line) -> Result<(), Failure> {
        if self.as_json {
            self.output.line(line.json.to_string())
        } else {
            self.output.line(&line.text)
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush()
    }
}

//! Standard output of the commands: buffered, tables, and knowing when its reader has gone.
//!
//! Runs on: the main thread.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};
use std::os::fd::AsRawFd as _;

use serde_json::{Value, json};

use super::run::Failure;
use crate::model::record::Record;

const BUFFER_BYTES: usize = 64 << 10;

/// Buffered standard output.
pub(super) struct Output {
    writer: BufWriter<Stdout>,
}

impl Output {
    /// Standard output.
    pub(super) fn new() -> Self {
        Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()),
        }
    }

    /// One line.
    pub(super) fn line(&mut self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.writer.write_all(text.as_ref())?;
        self.writer.write_all(b"\n")?;
        Ok(())
    }

    /// One JSON document, indented.
    pub(super) fn json(&mut self, document: &Value) -> Result<(), Failure> {
        self.line(format!("{document:#}"))?;
        self.flush()
    }

    /// Columns, each as wide as its widest cell.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        for line in table_lines(head, rows) {
            self.line(line)?;
        }
        Ok(())
    }

    /// Hands everything to the reader.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush()?;
        Ok(())
    }

    /// Fails when the reader has closed its end, without writing anything: a consumer that waits
    /// for records would not notice otherwise.
    pub(super) fn check_open(&self) -> Result<(), Failure> {
        let mut descriptor = libc::pollfd {
            fd: self.writer.get_ref().as_raw_fd(),
            events: 0,
            revents: 0,
        };
        // SAFETY: one valid pollfd that lives across the call, and the count says one.
        let ready = unsafe { libc::poll(&raw mut descriptor, 1, 0) };
        if ready > 0 && descriptor.revents & (libc::POLLERR | libc::POLLNVAL) != 0 {
            return Err(Failure::OutputClosed);
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Text as a JSON string; bytes that are no UTF-8 as `{"hex": "..."}`.
pub(super) fn bytes_json(bytes: Option<&[u8]>) -> Value {
    match bytes.map(std::str::from_utf8) {
        None => Value::Null,
        Some(Ok(text)) => Value::String(text.to_owned()),
        Some(Err(_)) => json!({ "hex": hex(bytes.unwrap_or_default()) }),
    }
}

/// The headers of a record, in their order.
pub(super) fn headers_json(record: &Record<'_>) -> Vec<Value> {
    let headers = record.headers().map(|header| {
        let name = String::from_utf8_lossy(header.key).into_owned();
        json!({ "name": name, "value": bytes_json(header.value) })
    });
    headers.collect()
}

/// The lines of a table; the last column is not padded.
fn table_lines(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["orders".to_owned(), "3".to_owned()],
            vec!["a".to_owned(), String::new()],
        ];
        assert_eq!(
            table_lines(&["TOPIC", "N"], &rows),
            ["TOPIC   N", "orders  3", "a"]
        );
    }

    #[test]
    fn json_keeps_text_null_and_binary_apart() {
        assert_eq!(bytes_json(None), Value::Null);
        assert_eq!(bytes_json(Some(b"")), json!(""));
        assert_eq!(bytes_json(Some("gr\u{fc}n".as_bytes())), json!("gr\u{fc}n"));
        assert_eq!(bytes_json(Some(&[0xff, 0])), json!({ "hex": "ff00" }));
    }
}

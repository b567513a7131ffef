//! Requests that real clients sent, byte for byte, and what they are read as.
//!
//! `tests/data/wire/<api>_v<version>_<client>.hex` are frames without their length, taken from the
//! network: kcat (librdkafka 2.0.2), confluent-kafka, kafka-python, aiokafka, kafkajs, and Java's
//! clients.
//! `decoded.txt` beside them has one line for each. With `UPDATE_GOLDEN=1` the test writes that
//! file anew; the difference is then for a human to judge.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use corelog::model::record::{iter_records, payload};
use corelog::model::record_batch::check_produced;
use corelog::wire::api::ApiKey;
use corelog::wire::header::RequestHeader;
use corelog::wire::messages::{Request, decode_request};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire")
}

fn captures() -> Vec<(String, Bytes)> {
    let mut captures = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("the folder is in the repository") {
        let path = entry.expect("a directory entry").path();
        if path.extension().is_some_and(|extension| extension == "hex") {
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(&path).expect("a text file");
            captures.push((name, from_hex(&text)));
        }
    }
    captures.sort();
    captures
}

fn from_hex(text: &str) -> Bytes {
    let digits: Vec<u32> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two hexadecimal digits");
    digits.chunks_exact(2).map(byte).collect()
}

/// One line: what the header and the body say.
fn describe(frame: &Bytes) -> String {
    let (header, body) = RequestHeader::parse(frame).expect("a served request");
    let request = decode_request(&header, &body).expect("a well-formed body");
    assert_eq!(request.api(), header.api);
    let mut line = format!(
        "{} v{} correlation {} client {:?}: ",
        header.api, header.version, header.correlation_id, header.client_id
    );
    match &request {
        Request::Produce(produce) => {
            let _ = write!(line, "acks {} timeout {}", produce.acks, produce.timeout_ms);
            for topic in &produce.topics {
                for partition in &topic.partitions {
                    let records = partition.records.as_ref().expect("records");
                    let _ = write!(line, " {:?} {} ", topic.topic, partition.index);
                    line.push_str(&describe_batch(records));
                }
            }
        }
        other => {
            let _ = write!(line, "{other:?}");
        }
    }
    line
}

fn describe_batch(bytes: &[u8]) -> String {
    let header = check_produced(bytes).expect("a legal batch");
    let payload = payload(&header, bytes, 1 << 20).expect("a codec that is there");
    let records: Vec<_> = iter_records(&payload, header.record_count)
        .map(|record| {
            let record = record.expect("a well-formed record");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers: Vec<_> = record.headers().map(|header| text(header.key)).collect();
            format!(
                "{:?}={:?}{headers:?}",
                record.key.map(text),
                record.value.map(text)
            )
        })
        .collect();
    format!(
        "{} bytes, {:?}, producer {} epoch {} sequence {}: {}",
        bytes.len(),
        header.codec(),
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        records.join(" ")
    )
}

#[test]
fn requests_of_real_clients_are_read_as_recorded() {
    let captures = captures();
    assert!(
        captures.len() >= 70,
        "captures are missing: {}",
        captures.len()
    );
    let mut text = String::new();
    for (name, frame) in &captures {
        let _ = writeln!(text, "{name}\n    {}", describe(frame));
    }
    let path = folder().join("decoded.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the folder is writable");
    }
    let expected = std::fs::read_to_string(&path).expect("decoded.txt is in the repository");
    for (got, want) in text.lines().zip(expected.lines()) {
        assert_eq!(got, want);
    }
    assert_eq!(text, expected);
}

#[test]
fn the_captures_cover_the_path_from_the_first_request_to_a_commit() {
    let apis: BTreeSet<_> = captures()
        .iter()
        .map(|(_, frame)| RequestHeader::parse(frame).expect("a served request").0.api)
        .collect();
    for api in [
        ApiKey::Produce,
        ApiKey::Fetch,
        ApiKey::ListOffsets,
        ApiKey::Metadata,
        ApiKey::OffsetCommit,
        ApiKey::OffsetFetch,
        ApiKey::FindCoordinator,
        ApiKey::JoinGroup,
        ApiKey::Heartbeat,
        ApiKey::LeaveGroup,
        ApiKey::SyncGroup,
        ApiKey::ApiVersions,
        ApiKey::InitProducerId,
    ] {
        assert!(apis.contains(&api), "{api}");
    }
}

#[test]
fn every_truncation_of_a_capture_is_refused_or_ends_in_ignored_bytes() {
    for (name, frame) in captures() {
        let (_, whole) = RequestHeader::parse(&frame).expect("a served request");
        for end in 0..frame.len() - whole.len() {
            assert!(
                RequestHeader::parse(&frame.slice(..end)).is_err(),
                "{name} header to {end}"
            );
        }
        let (header, _) = RequestHeader::parse(&frame).expect("a served request");
        for end in 0..whole.len() {
            let result = decode_request(&header, &whole.slice(..end));
            assert!(result.is_err(), "{name} body to {end}");
        }
    }
}

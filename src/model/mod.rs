//! The words of the domain: ids, offsets, error codes, record batches. No async, no IO, no runtime.
//!
//! | Kafka says | type here | file |
//! |---|---|---|
//! | topic id (KIP-516), partition | `TopicId`, `PartitionIndex`, `TopicPartition` | `ids.rs` |
//! | offset, position in a file | `Offset`, `FilePosition` | `offset.rs` |
//! | log start, LSO, high watermark, log end | `LogOffsets` | `log_offsets.rs` |
//! | record batch v2 (magic 2) | `BatchHeader` over bytes | `record_batch.rs` |
//! | the same, to be made | `BatchBuilder` | `batch_builder.rs` |
//! | record, header | `Record`, `RecordHeader` | `record.rs` |
//! | compression type | `Codec` | `compression.rs` |
//! | error code | `ErrorCode` | `error_code.rs` |
//! | topic name | `check_topic_name` | `topic_name.rs` |
//!
//! Promises: nothing here panics on bytes; what bytes claim is checked against the bytes that are
//! there.

#![deny(clippy::indexing_slicing)]

pub mod batch_builder;
pub mod compression;
pub mod error_code;
pub mod ids;
pub mod java_hash;
pub mod limits;
pub mod log_offsets;
pub mod offset;
pub mod record;
pub mod record_batch;
pub mod topic_name;
pub mod varint;

//! Every limit of the program in one place, with the relations between them checked at compile
//! time.
//!
//! Pure: no async, no clock, no IO.
//! Settings that users may change live in `config`; here are the fixed bounds and the defaults'
//! bounds.

/// Grain of direct I/O: positions, lengths and buffer addresses are multiples of it.
pub const ALIGNMENT_BYTES: usize = 4096;
/// Shards of one process.
pub const SHARDS_MAX: u16 = 1024;
/// Bytes of a record batch before its records (magic 2).
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes of a record batch that `batchLength` does not count: base offset and the length itself.
pub const BATCH_LOG_OVERHEAD_BYTES: usize = 12;
/// Kafka's default for `message.max.bytes`: a 1 MiB batch with its overhead.
pub const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;
/// Kafka's default for `socket.request.max.bytes`: the largest frame.
pub const REQUEST_BYTES_DEFAULT: usize = 100 * 1024 * 1024;
/// Elements in all arrays of a request together, whatever the bytes would allow: four times the
/// partitions of a broker.
pub const ARRAY_ELEMENTS_MAX: usize = 400_000;
/// Tagged fields in one structure of a request.
pub const TAGGED_FIELDS_MAX: usize = 10_000;
/// Bytes of a string with a two-byte length.
pub const STRING_BYTES_MAX: usize = 32_767;
/// Characters of a topic name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Batches remembered per idempotent producer, matched to the five that clients keep in flight.
pub const PRODUCER_BATCHES_CACHED: usize = 5;
/// Memory for an idempotent producer on one partition: its state at the log end and at the destaged
/// end, in tables that are half empty, and once more while a checkpoint is written.
pub const PRODUCER_SIZE_BYTES: u64 = 1 << 10;
/// How long a producer is remembered in any case, when there are so many that
/// `producer.id.expiration.ms` is too long: longer than clients go on repeating a batch.
pub const PRODUCER_KEPT_MS: i64 = 60 * 60 * 1000;
/// Highest sequence number of a producer; the next one is 0.
pub const SEQUENCE_MAX: i32 = i32::MAX;
/// Partitions of `__consumer_offsets`, Kafka's default.
pub const OFFSETS_TOPIC_PARTITIONS: i32 = 50;
/// Below this a log of committed offsets is not worth rewriting.
pub const OFFSETS_LOG_BYTES_MIN: u64 = 4 << 20;
/// Kafka's default for `offset.metadata.max.bytes`.
pub const OFFSET_METADATA_BYTES_DEFAULT: usize = 4096;
/// Largest decompressed size of one batch, when a rule needs its records.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Smallest encoded record: length, attributes, two deltas, key length, value length, header count.
pub const RECORD_BYTES_MIN: usize = 7;

const _: () = assert!(
    ALIGNMENT_BYTES.is_power_of_two(),
    "positions are rounded with a mask"
);
const _: () = assert!(
    BATCH_HEADER_BYTES > BATCH_LOG_OVERHEAD_BYTES,
    "the header holds its prefix"
);
const _: () = assert!(
    BATCH_HEADER_BYTES < ALIGNMENT_BYTES,
    "a batch header fits into one block, so one block read tells a batch's size"
);
const _: () = assert!(
    MESSAGE_BYTES_DEFAULT < REQUEST_BYTES_DEFAULT,
    "the largest default batch fits into a frame with room for its envelope"
);
const _: () = assert!(
    MESSAGE_BYTES_DEFAULT < DECOMPRESSED_BATCH_BYTES_MAX,
    "a batch that is legal uncompressed is legal after decompression"
);
const _: () = assert!(
    ARRAY_ELEMENTS_MAX < REQUEST_BYTES_DEFAULT,
    "an array of one-byte elements reaches its limit before the frame does"
);
const _: () = assert!(
    TOPIC_NAME_BYTES_MAX < STRING_BYTES_MAX,
    "names fit into their length field"
);
/// Partitions that one broker keeps; each costs memory whether it is used or not.
pub const PARTITIONS_PER_BROKER_MAX: i64 = 100_000;
/// Partitions that one request creates: as in Kafka, which calls more an excessively large batch.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

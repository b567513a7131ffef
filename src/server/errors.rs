//! Which code a client gets for which refusal: the one place, without a catch-all.

use crate::model::error_code::ErrorCode;
use crate::partition::error::Error;

/// Kafka's code for a partition's refusal.
pub(crate) fn code(error: &Error) -> ErrorCode {
    match error {
        Error::NotFound => ErrorCode::UnknownTopicOrPartition,
        Error::Offline(_) | Error::Storage(_) | Error::DiskFull => ErrorCode::KafkaStorageError,
        Error::Stopping => ErrorCode::NotLeaderOrFollower,
        Error::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        Error::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        Error::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        Error::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
        Error::RecordListTooLarge { .. } => ErrorCode::RecordListTooLarge,
        Error::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
        Error::InvalidRecord { .. } => ErrorCode::InvalidRecord,
        Error::CorruptBatch(_) => ErrorCode::CorruptMessage,
        Error::UnsupportedCompression => ErrorCode::UnsupportedCompressionType,
        Error::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        Error::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        Error::TransactionsNotServed => ErrorCode::TransactionalIdAuthorizationFailed,
        Error::TooManyProducers { .. } => ErrorCode::PolicyViolation,
        Error::Unsupported => ErrorCode::UnsupportedForMessageFormat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;

    #[test]
    fn every_refusal_has_its_code() {
        let offset = Offset::ZERO;
        let pairs = [
            (Error::NotFound, 3),
            (Error::Offline(String::new()), 56),
            (Error::Storage(String::new()), 56),
            (Error::DiskFull, 56),
            (Error::Stopping, 6),
            (Error::FencedLeaderEpoch { got: 0, current: 1 }, 74),
            (Error::UnknownLeaderEpoch { got: 1, current: 0 }, 75),
            (
                Error::OffsetOutOfRange {
                    got: offset,
                    start: offset,
                    end: offset,
                },
                1,
            ),
            (
                Error::MessageTooLarge {
                    size_bytes: 1,
                    limit_bytes: 0,
                },
                10,
            ),
            (
                Error::RecordListTooLarge {
                    size_bytes: 1,
                    limit_bytes: 0,
                },
                18,
            ),
            (Error::InvalidTimestamp { timestamp_ms: 0 }, 32),
            (
                Error::InvalidRecord {
                    reason: String::new(),
                    records: Vec::new(),
                },
                87,
            ),
            (Error::CorruptBatch(String::new()), 2),
            (Error::UnsupportedCompression, 76),
            (
                Error::OutOfOrderSequence {
                    producer_id: 0,
                    expected: 0,
                    got: 1,
                },
                45,
            ),
            (
                Error::InvalidProducerEpoch {
                    producer_id: 0,
                    got: 0,
                    current: 1,
                },
                47,
            ),
            (Error::TransactionsNotServed, 53),
            (Error::TooManyProducers { known: 1 }, 44),
            (Error::Unsupported, 43),
        ];
        for (error, number) in pairs {
            assert_eq!(code(&error).code(), number, "{error:?}");
        }
    }
}

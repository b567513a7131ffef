//! Why a request had no success: one sentence each, with the broker's address or Kafka's name of
//! the error.
//!
//! Runs on: any thread.

use crate::model::error_code::ErrorCode;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("cannot reach a broker at {address}: {reason}")]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection to {address} broke: {reason}")]
    Disconnected {
        /// The broker.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// No answer in time.
    #[error("{address} did not answer {api} within {seconds} s")]
    TimedOut {
        /// The broker.
        address: String,
        /// The request.
        api: String,
        /// How long it was waited.
        seconds: u64,
    },
    /// The broker does not serve the request in a version that is known here.
    #[error("{address} does not serve {api}")]
    Unsupported {
        /// The broker.
        address: String,
        /// The request.
        api: String,
    },
    /// The versions that the broker serves, or the request's size, do not allow what was asked.
    #[error("{api} cannot be sent to {address}: {reason}")]
    Unsendable {
        /// The broker.
        address: String,
        /// The request.
        api: String,
        /// Why not.
        reason: String,
    },
    /// The answer cannot be read.
    #[error("{address} sent an answer to {api} that cannot be read: {reason}")]
    Malformed {
        /// The broker.
        address: String,
        /// The request.
        api: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The broker says no.
    #[error("{what}: {}{}", code_name(*.code), detail(.message.as_deref()))]
    Refused {
        /// What was asked: "topic `orders`" and the like.
        what: String,
        /// Kafka's error code.
        code: i16,
        /// What the broker says beside it.
        message: Option<String>,
    },
    /// Kafka calls it retriable; here it is told, as the records do not come back by themselves.
    #[error("partition {partition} of topic `{topic}`: the records at offset {offset} are damaged")]
    Damaged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The position that was asked for.
        offset: i64,
    },
    /// The metadata do not say where to go.
    #[error("{what} has no leader at present")]
    NoLeader {
        /// The partition or group.
        what: String,
    },
}

impl Error {
    /// `Ok` for code 0.
    pub fn check(
        what: impl FnOnce() -> String,
        code: i16,
        message: Option<&str>,
    ) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        let message = message.filter(|text| !text.is_empty()).map(str::to_owned);
        Err(Self::Refused {
            what: what(),
            code,
            message,
        })
    }

    /// Whether the same request may succeed soon, perhaps at another broker.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                ErrorCode::from_code(*code).is_some_and(ErrorCode::is_retriable)
            }
            Self::Disconnected { .. } | Self::TimedOut { .. } | Self::NoLeader { .. } => true,
            Self::Unreachable { .. }
            | Self::Damaged { .. }
            | Self::Unsupported { .. }
            | Self::Unsendable { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// The code, when the broker gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => ErrorCode::from_code(*code),
            _ => None,
        }
    }
}

/// Kafka's name of a code; unknown ones by number.
pub fn code_name(code: i16) -> String {
    ErrorCode::from_code(code).map_or_else(
        || format!("error code {code}"),
        |known| known.name().to_owned(),
    )
}

fn detail(message: Option<&str>) -> String {
    message.map_or_else(String::new, |text| {
        format!(" ({})", text.trim_end_matches('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_subject_code_and_reason() {
        let error = Error::check(|| "topic `a`".into(), 36, Some("Topic 'a' already exists."));
        assert_eq!(
            error.expect_err("code 36").to_string(),
            "topic `a`: TOPIC_ALREADY_EXISTS (Topic 'a' already exists)"
        );
        let error = Error::check(|| "group `g`".into(), 999, None).expect_err("unknown code");
        assert_eq!(error.to_string(), "group `g`: error code 999");
        assert_eq!(Error::check(String::new, 0, None), Ok(()));
    }

    #[test]
    fn kafkas_retriable_codes_are_retried_and_others_are_not() {
        let refused = |code| Error::Refused {
            what: String::new(),
            code,
            message: None,
        };
        assert!(refused(5).is_retriable()); // LEADER_NOT_AVAILABLE
        assert!(!refused(36).is_retriable()); // TOPIC_ALREADY_EXISTS
        assert!(!refused(999).is_retriable());
    }
}

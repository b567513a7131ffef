//! Why a setting was refused: one sentence with name, value and allowed range.
//!
//! Pure: no async, no clock, no IO.
//! The texts are long-lived: start-up prints them, `CreateTopics` and `AlterConfigs` send them.

/// A refused setting. `origin` says where it came from ("the command line", a file name, ...).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No setting has this name.
    #[error("unknown setting `{name}` = `{value}` ({origin}){}", nearest(.suggestion.as_deref()))]
    Unknown {
        /// The name as given.
        name: String,
        /// The value as given.
        value: String,
        /// Where it came from.
        origin: String,
        /// The known name that is closest, when one is close.
        suggestion: Option<String>,
    },
    /// The value is not one of those allowed.
    #[error("setting `{name}` = `{value}` ({origin}) is not allowed: expected {allowed}")]
    NotAllowed {
        /// The setting's name.
        name: String,
        /// The value as given.
        value: String,
        /// Where it came from.
        origin: String,
        /// What would be allowed.
        allowed: String,
    },
    /// Two settings exclude each other.
    #[error("setting `{name}` = `{value}` is not allowed: {reason}")]
    Conflict {
        /// The setting that would have to change.
        name: String,
        /// Its value.
        value: String,
        /// The relation that is broken, with the other setting's name and value.
        reason: String,
    },
    /// The configuration file is not TOML, or has a value of a kind that no setting takes.
    #[error("{origin}: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// What is wrong, with the position.
        reason: String,
    },
}

fn nearest(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || ": `docs/config.md` lists all settings".to_owned(),
        |name| format!(": did you mean `{name}`?"),
    )
}

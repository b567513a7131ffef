//! Settings: every one declared once, in a table, with its type, default, allowed range and effect.
//!
//! Runs on: any thread; a finished `BrokerConfig` is immutable and cheap to clone.
//! Promises: an unknown or impossible setting is refused with name, value and allowed range; the
//! source of every value is kept, so that `DescribeConfigs` can tell it.
//! Precedence, the later wins: default, file (TOML), environment (`CORELOG_...`), flags, and for
//! settings that may change while running, the values altered through the admin protocol.
//! Reading order: `table` (what a row is), `broker_rows`, `topic_rows`, `inert` (the tables),
//! `layers` (who said what), `broker`, `topic` (typed results), `describe`, `docs`, `machine`.
//! Invariants: [config-one-table] flags, file keys, environment names, `docs/config.md` and
//! `DescribeConfigs` are all derived from the rows.
//! Deliberately absent: reading files or the environment; callers hand in text.

pub mod address;
pub mod broker;
pub mod broker_rows;
pub mod describe;
pub mod docs;
pub mod error;
pub mod group;
pub mod inert;
pub mod layers;
pub mod machine;
pub mod table;
pub mod topic;
pub mod topic_rows;
pub mod units;

pub use broker::BrokerConfig;
pub use error::Error;
pub use topic::{TopicConfig, TopicOverrides};

//! The admin port: what metrics systems and supervisors ask, apart from Kafka's own port.
//!
//! - [`http`]: `/metrics` and `/healthz`.

pub mod http;

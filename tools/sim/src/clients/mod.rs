//! Clients, as strict as real ones and less patient.
//!
//! - `producer.rs`: pipelined batches, sent again until they are acknowledged.
//! - `consumer.rs`: fetches from anywhere and checks what comes; reads a partition whole.
//! - `committer.rs`: commits offsets of a group without members, and asks for them.
//! - `member.rs`: a member of a group, with its assignment.
//! - `admin.rs`: topics that come and go, records that are deleted.
//!
//! Each is a loop that ends when the world says so; what must outlive the broker is in a state of
//! its own. A lost connection is made anew.

pub(crate) mod admin;
pub(crate) mod committer;
pub(crate) mod consumer;
pub(crate) mod member;
pub(crate) mod producer;

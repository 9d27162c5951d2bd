//! The journal `kafka`, as a library, with a real Apache Kafka: what is acknowledged is there, whoever is killed; each
//! partition has one reader, and its position and what is saved with it are a pair, through every rebalance.
//!
//! What holds for every engine is in `tests/journal_conformance`.
//!
//! | file | what it proves |
//! | --- | --- |
//! | `messages.rs` | an event as a message, and a message as an event; ranges and times |
//! | `outages.rs` | brokers away, at the start and under load |
//! | `sharing.rs` | processes that come, go, hang, are killed, are too many |
//! | `topic.rs` | topics that are not as they should be, lose events, are made anew |
//! | `table.rs` | what all know alike, through an outage |
//! | `service.rs` | the whole service: books, lag, and the backlog's limit at the door |
//!
//! | file | what the tests need |
//! | --- | --- |
//! | `world.rs` | a Kafka, a journal in it, events |
//! | `reading.rs`, `appending.rs` | what reads and appends meanwhile, and what must have come of it |
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod appending;
mod messages;
mod outages;
mod reading;
mod service;
mod sharing;
mod table;
mod topic;
mod world;

//! TelemetryX, the service: producers' events in, durable in a journal, delivered from there by independent routes.
//!
//! `ARCHITECTURE.md` follows one event from socket to sink; each module says what lives in it.
//!
//! | module | what |
//! | --- | --- |
//! | [`ingress`] | one file a protocol; each calls `intake` |
//! | [`intake`] | the one path in: admit, decode, validate, append |
//! | [`admission`] | who may come in, how often, how much |
//! | [`validators`], [`processors`], [`sinks`] | plug-ins, one file each |
//! | [`journal`] | where accepted events become durable |
//! | [`route`] | the loop that delivers them |
//! | `moving` | a journal from one engine to another, by way of a file |
//! | [`control`], [`redrive`] | dead letters and replays |
//! | [`findings`] | what sinks hand back, accepted |
//! | [`counters`], [`query`] | what can be asked |
//! | [`observe`] | metrics, logs, books of the door |
//! | [`config`], [`command`], [`service`] | settings, command line, and who builds it all |
#![deny(unsafe_code)]

pub mod admission;
pub mod clock;
pub mod command;
pub mod config;
pub mod control;
pub mod counters;
pub mod findings;
mod hex;
pub mod ingress;
pub mod intake;
pub mod journal;
#[cfg(feature = "kafka")]
mod kafka;
mod moving;
pub mod observe;
mod pem;
pub mod plugin;
mod postgres;
pub mod processors;
pub mod query;
pub mod redrive;
pub mod route;
pub mod service;
pub mod sinks;
pub mod validators;

//! TelemetryX, the service: producers' events in, durable in a journal, delivered from there by independent routes.
//!
//! `ARCHITECTURE.md` follows one event from socket to sink; each module says what lives in it.
#![forbid(unsafe_code)]

pub mod command;
pub mod config;

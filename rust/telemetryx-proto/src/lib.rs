//! The wire contract of TelemetryX, generated from `proto/` at build time.
//!
//! Nothing here is written by hand; the comments are those of the `.proto` files. The service itself reads and writes
//! [`v1::Event`] with the borrowing code of `telemetryx-common`, which is tested byte for byte against these types.

/// Package `telemetryx.v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/telemetryx.v1.rs"));
}

//! `http`: the HTTP listener and the limits of one request.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::TlsConfig;
use super::values::{ByteSize, Duration};

/// The HTTP listener: `POST /ingest` and everything that can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address to listen on.
    ///
    /// `127.0.0.1` is reachable from this machine only; `0.0.0.0` or `::` from everywhere, which wants
    /// `auth.keys`, client certificates or `auth.allow_open`.
    ///
    /// Default: `127.0.0.1`.
    #[schemars(extend("format" = "ip"))]
    pub host: IpAddr,

    /// Port to listen on.
    ///
    /// `0` takes any free port and logs which.
    ///
    /// Default: `8080`. Bounds: `0` to `65535`.
    pub port: u16,

    /// Largest request body, as sent and once decompressed.
    ///
    /// A larger one is answered 413; what was read of it is dropped at once.
    ///
    /// Default: `5MiB`. Bounds: `1KiB` to `1GiB`.
    #[schemars(extend("x-min" = "1KiB", "x-max" = "1GiB"))]
    pub max_body: ByteSize,

    /// Largest single event, as sent.
    ///
    /// An event over it makes its batch 413.
    ///
    /// Default: `1MiB`. Bounds: `256B` to `1GiB`, and not more than `http.max_body`.
    #[schemars(extend("x-min" = "256B", "x-max" = "1GiB"))]
    pub max_event: ByteSize,

    /// Most events in one request.
    ///
    /// A batch with more is answered 413.
    ///
    /// Default: `20000`. Bounds: `1` to `1000000`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_batch: u32,

    /// Time a client has to send a request's head.
    ///
    /// A slower one is cut off. An idle kept-alive connection counts as waiting for its next head.
    ///
    /// Default: `5s`. Bounds: `10ms` to `10m`.
    #[schemars(extend("x-min" = "10ms", "x-max" = "10m"))]
    pub header_timeout: Duration,

    /// Time a client has to send a request's body.
    ///
    /// A slower one is answered 408 and cut off.
    ///
    /// Default: `10s`. Bounds: `10ms` to `1h`.
    #[schemars(extend("x-min" = "10ms", "x-max" = "1h"))]
    pub body_timeout: Duration,

    /// Most connections open at once.
    ///
    /// Further ones are closed at once. Each needs a file descriptor (`ulimit -n`).
    ///
    /// Default: `10000`. Bounds: `1` to `1000000`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: u32,

    /// Certificates of this listener, and of every other that has none of its own.
    pub tls: TlsConfig,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 8080,
            max_body: ByteSize::mib(5),
            max_event: ByteSize::mib(1),
            max_batch: 20_000,
            header_timeout: Duration::secs(5),
            body_timeout: Duration::secs(10),
            max_connections: 10_000,
            tls: TlsConfig::default(),
        }
    }
}

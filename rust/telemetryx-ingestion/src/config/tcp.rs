//! `tcp`: framed TCP.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::TlsConfig;
use super::values::Duration;

/// Framed TCP: events without HTTP around them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TcpConfig {
    /// Address to listen on.
    ///
    /// Default: `127.0.0.1`.
    #[schemars(extend("format" = "ip"))]
    pub host: IpAddr,

    /// Port to listen on.
    ///
    /// `0` takes any free port and logs which. Empty: nothing listens.
    ///
    /// Default: none. Bounds: `0` to `65535`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,

    /// Most frames of one connection that are under way at a time.
    ///
    /// While so many wait for their answers, nothing is read from that connection.
    ///
    /// Default: `128`. Bounds: `1` to `4096`.
    #[schemars(range(min = 1, max = 4096))]
    pub max_in_flight: u32,

    /// Time a connection may be open with nothing under way.
    ///
    /// Default: `1m`. Bounds: `10ms` to `1d`.
    #[schemars(extend("x-min" = "10ms", "x-max" = "1d"))]
    pub idle_timeout: Duration,

    /// Certificates of this listener.
    ///
    /// Empty: those of `http.tls`, if there are any.
    pub tls: TlsConfig,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: None,
            max_in_flight: 128,
            idle_timeout: Duration::secs(60),
            tls: TlsConfig::default(),
        }
    }
}

//! `otlp`: the listeners of OpenTelemetry's protocol.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// OTLP, the protocol of OpenTelemetry: logs, spans and metrics.
///
/// Address, limits, timeouts and certificates are those of `http`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Whether OTLP is taken: on both ports below, and as `/v1/logs`, `/v1/traces`, `/v1/metrics` on `http.port`.
    ///
    /// Default: `true`.
    pub enabled: bool,

    /// Port for OTLP over HTTP.
    ///
    /// `0` takes any free port and logs which.
    ///
    /// Default: `4318`. Bounds: `0` to `65535`.
    pub http_port: u16,

    /// Port for OTLP over gRPC.
    ///
    /// `0` takes any free port and logs which.
    ///
    /// Default: `4317`. Bounds: `0` to `65535`.
    pub grpc_port: u16,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            http_port: 4318,
            grpc_port: 4317,
        }
    }
}

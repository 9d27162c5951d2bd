//! OTLP, the protocol of OpenTelemetry: logs, spans and metrics, over HTTP and gRPC. `docs/protocols.md` has what clients see.
//!
//! | file | purpose |
//! | --- | --- |
//! | `convert.rs` | export requests to events |
//! | `record.rs`, `attributes.rs` | what of a record becomes fields of its event |
//! | `schema.rs` | the messages of OTLP, as tables |
//! | `to_json.rs`, `from_json.rs` | between protobuf and OTLP/JSON, by those tables |
//! | `wire.rs` | the grammar of protobuf |
//! | `http.rs` | `POST /v1/…`, on the HTTP port and on one of its own |
//! | `grpc.rs` | the export services over gRPC |
//! | `grpc_tools.rs` | health and reflection over gRPC |
//! | `reply.rs` | answers, in both encodings |

use std::net::SocketAddr;
use std::sync::Arc;

use super::http::HttpService;
use super::http_connection::HttpConnections;
use super::protocol::{Built, HttpEndpoint, Listen, ProtocolFactory, Setup};
use super::tls;
use crate::config::{Config, ConfigError};

mod attributes;
mod convert;
mod from_json;
mod grpc;
mod grpc_tools;
mod http;
mod record;
pub(crate) mod reply;
mod schema;
#[cfg(test)]
mod tests;
mod to_json;
mod wire;

pub use from_json::JSON_GROWTH;
pub(crate) use reply::DROPPED;

inventory::submit! {
    ProtocolFactory {
        name: "otlp/http",
        listens: |config| {
            listen(config, "http.host, otlp.http_port", config.otlp.http_port, tls::ALPN_HTTP)
        },
        build: |setup| {
            if !setup.config.otlp.enabled {
                return Ok(Built::default());
            }
            let endpoints = http::endpoints(setup);
            let config = &setup.config.http;
            let service = HttpService::new(Arc::clone(setup.intake), None, endpoints.clone());
            let connections = HttpConnections::new(Arc::new(service), config);
            Ok(Built { endpoints, connections: vec![Arc::new(connections)] })
        },
    }
}

inventory::submit! {
    ProtocolFactory {
        name: "otlp/grpc",
        listens: |config| {
            listen(config, "http.host, otlp.grpc_port", config.otlp.grpc_port, tls::ALPN_GRPC)
        },
        build: build_grpc,
    }
}

fn listen<'c>(
    config: &'c Config,
    key: &'static str,
    port: u16,
    alpn: &'static [&'static str],
) -> Vec<Listen<'c>> {
    let listen = config.otlp.enabled.then_some(Listen {
        key,
        address: SocketAddr::new(config.http.host, port),
        tls: ("http.tls", &config.http.tls),
        alpn,
    });
    listen.into_iter().collect()
}

fn build_grpc(setup: &Setup<'_>) -> Result<Built, ConfigError> {
    if !setup.config.otlp.enabled {
        return Ok(Built::default());
    }
    let tools = grpc_tools::Tools::new(setup);
    let mut endpoints = grpc::endpoints(setup);
    endpoints.push(Arc::clone(&tools) as Arc<dyn HttpEndpoint>);
    let config = &setup.config.http;
    let service = HttpService::new(Arc::clone(setup.intake), None, endpoints);
    let connections = HttpConnections::new(Arc::new(service), config);
    Ok(Built {
        endpoints: Vec::new(),
        connections: vec![Arc::new(grpc_tools::Connections::new(
            connections,
            tools,
            config,
        ))],
    })
}

/// What is exported, each in a request of its own. As a [`Decode`](crate::intake::Decode) it reads such a request in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Spans.
    Traces,
    /// Data points.
    Metrics,
}

impl Signal {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Traces, Self::Metrics];

    /// An export request in OTLP/JSON, as protobuf; at most [`JSON_GROWTH`] times as long.
    ///
    /// # Errors
    /// It is not JSON, or no such request; says where.
    pub fn from_json(self, json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        from_json::to_protobuf(self.request(), json)
    }

    /// The request.
    fn request(self) -> &'static schema::Message {
        match self {
            Self::Logs => &schema::EXPORT_LOGS,
            Self::Traces => &schema::EXPORT_TRACE,
            Self::Metrics => &schema::EXPORT_METRICS,
        }
    }

    pub(crate) fn http_path(self) -> &'static str {
        match self {
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    pub(crate) fn grpc_path(self) -> &'static str {
        match self {
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }

    pub(crate) fn event_type(self) -> &'static str {
        match self {
            Self::Logs => "otel.log",
            Self::Traces => "otel.span",
            Self::Metrics => "otel.metric",
        }
    }

    /// The name of what a request is a list of, in JSON.
    pub(crate) fn resources_name(self) -> &'static str {
        match self {
            Self::Logs => "resourceLogs",
            Self::Traces => "resourceSpans",
            Self::Metrics => "resourceMetrics",
        }
    }

    /// The name of what is in each of those.
    pub(crate) fn scopes_name(self) -> &'static str {
        match self {
            Self::Logs => "scopeLogs",
            Self::Traces => "scopeSpans",
            Self::Metrics => "scopeMetrics",
        }
    }

    /// What stands before the scope in a payload.
    fn scopes(self) -> &'static str {
        match self {
            Self::Logs => "\"scopeLogs\":[{",
            Self::Traces => "\"scopeSpans\":[{",
            Self::Metrics => "\"scopeMetrics\":[{",
        }
    }

    /// What stands before the record in a payload.
    fn records(self) -> &'static str {
        match self {
            Self::Logs => "\"logRecords\":[",
            Self::Traces => "\"spans\":[",
            Self::Metrics => "\"metrics\":[",
        }
    }

    /// The count in a partial success, in JSON.
    fn rejected(self) -> &'static str {
        match self {
            Self::Logs => "rejectedLogRecords",
            Self::Traces => "rejectedSpans",
            Self::Metrics => "rejectedDataPoints",
        }
    }
}

//! What can be spoken: paths, frames, and which answers mean that events were taken in.

use std::borrow::Cow;

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// `POST /ingest`.
    Http,
    /// Frames with a length before them, several under way on a connection.
    Tcp,
    /// OTLP logs, protobuf, `POST /v1/logs`.
    OtlpHttp,
    /// OTLP logs over gRPC.
    OtlpGrpc,
    /// Signed notifications, `POST /webhooks/ring`.
    Ring,
}

/// What is around a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// A head of HTTP/1.1.
    Http,
    /// Four bytes of length.
    Length,
    /// A flag and four bytes of length.
    Grpc,
}

impl Protocol {
    /// What a URL says of the protocol, and that URL with the scheme of HTTP, or with that of HTTPS for TLS.
    pub(super) fn of_url(url: &str) -> (Self, Cow<'_, str>) {
        for (scheme, protocol, of_http) in [
            ("tcp", Self::Tcp, "http"),
            ("tls", Self::Tcp, "https"),
            ("grpc", Self::OtlpGrpc, "http"),
            ("grpcs", Self::OtlpGrpc, "https"),
        ] {
            if let Some((_, rest)) = url.split_once("://").filter(|(given, _)| *given == scheme) {
                return (protocol, format!("{of_http}://{rest}").into());
            }
        }
        let known = [Self::OtlpHttp, Self::Ring];
        let by_path = known
            .into_iter()
            .find(|protocol| url.ends_with(protocol.path()));
        (by_path.unwrap_or(Self::Http), url.into())
    }

    /// Where a service on this machine takes it if its config says nothing else.
    pub(super) fn usual_url(self) -> Result<&'static str, String> {
        match self {
            Self::Http | Self::OtlpHttp | Self::Ring => Ok("http://127.0.0.1:8080"),
            Self::OtlpGrpc => Ok("grpc://127.0.0.1:4317"),
            Self::Tcp => Err(
                "tcp has no usual port: say --url tcp://HOST:PORT, as `tcp.port` of the service"
                    .into(),
            ),
        }
    }

    /// What TLS is asked for.
    pub(super) fn alpn(self) -> &'static [&'static str] {
        match self.frame() {
            Frame::Http => &["http/1.1"],
            Frame::Length => &[],
            Frame::Grpc => &["h2"],
        }
    }

    pub(super) fn frame(self) -> Frame {
        match self {
            Self::Http | Self::OtlpHttp | Self::Ring => Frame::Http,
            Self::Tcp => Frame::Length,
            Self::OtlpGrpc => Frame::Grpc,
        }
    }

    /// Where it goes if the user names no path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Http => "/ingest",
            Self::Tcp => "/",
            Self::OtlpHttp => "/v1/logs",
            Self::OtlpGrpc => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Ring => "/webhooks/ring",
        }
    }

    /// The status of an answer to events that were taken in; OTLP asks for 200.
    pub(super) fn taken(self) -> u16 {
        match self {
            Self::OtlpHttp | Self::OtlpGrpc => 200,
            Self::Http | Self::Tcp | Self::Ring => 202,
        }
    }

    /// Whether a request can have several events.
    pub(crate) fn has_batches(self) -> bool {
        self != Self::Ring
    }

    /// Whether the client says what the id of an event is. Records of OTLP have none: what stands for it here is in the
    /// record.
    pub(crate) fn carries_ids(self) -> bool {
        !self.is_otlp()
    }

    pub(super) fn is_otlp(self) -> bool {
        matches!(self, Self::OtlpHttp | Self::OtlpGrpc)
    }
}

impl std::fmt::Display for Protocol {
    /// As the command line has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::OtlpHttp => "otlp-http",
            Self::OtlpGrpc => "otlp-grpc",
            Self::Ring => "ring",
        })
    }
}

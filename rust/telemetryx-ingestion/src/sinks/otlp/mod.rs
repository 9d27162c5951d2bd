//! `otlp`: what came in as OTLP goes on as OTLP, over HTTP or gRPC; every other event as a log record.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | settings and the sink: a request for each kind of signal |
//! | `requests.rs` | events as export requests |
//! | `taken.rs` | what the receiver has of a batch that comes again |
//! | `grpc.rs` | calls over HTTP/2 |

mod grpc;
mod requests;
mod taken;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;

use self::grpc::Grpc;
use self::requests::Part;
use self::taken::Taken;
use super::tls::TlsFiles;
use super::web::{Compression, Outgoing, Web, WebConfig, pack};
use super::{DeliverError, RejectedBySink, Sink, SinkContext, SinkFactory};
use crate::config::{Duration, Secret};
use crate::ingress::otlp::Signal;
use crate::ingress::otlp::reply::partial_success;
use crate::observe::rejected_unnamed;
use crate::plugin::{PluginError, settings};
use crate::route::EventBatch;

/// How often it is said that a receiver rejects records without saying which.
const SAY_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OtlpConfig {
    url: Option<Secret>,
    url_file: Option<PathBuf>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    headers_file: Option<PathBuf>,
    #[serde(default)]
    compression: Compression,
    tls: Option<TlsFiles>,
    timeout: Option<Duration>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Http,
    Grpc,
}

struct OtlpSink {
    route: String,
    web: Web,
    grpc: Option<Grpc>,
    compression: Compression,
    taken: Taken,
    unnamed: Mutex<Unnamed>,
}

/// Records that a receiver rejected without saying which.
#[derive(Debug, Default)]
struct Unnamed {
    records: u64,
    said_at: Option<Instant>,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: OtlpConfig = settings(parameters)?;
    let mut mistakes = Vec::new();
    if (config.protocol, config.compression) == (Protocol::Grpc, Compression::Zstd) {
        mistakes.push("`compression`: with `protocol: grpc` it is `none` or `gzip`".to_owned());
    }
    let web = WebConfig {
        url: config.url,
        url_file: config.url_file,
        headers: config.headers,
        headers_file: config.headers_file,
        tls: config.tls,
        timeout: config.timeout,
    };
    let web = Web::new_beside(mistakes, web)?;
    Ok(Box::new(OtlpSink {
        route: context.route.to_owned(),
        web,
        grpc: (config.protocol == Protocol::Grpc).then(Grpc::default),
        compression: config.compression,
        taken: Taken::default(),
        unnamed: Mutex::default(),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "otlp",
        constructor: construct,
        flush_interval: std::time::Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for OtlpSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let taken = self.taken.of(batch);
        let is_new = |place: usize| taken.get(place).is_some_and(|taken| !taken);
        let mut rejected = Vec::new();
        for (signal, part) in requests::of(batch, is_new) {
            let Part { body, places } = part;
            let answer = self.export(signal, body).await?;
            match self.rejection(signal, &answer, places.len()) {
                None => self.taken.add(batch, &places),
                Some(message) => rejected.extend(places.into_iter().map(|index| RejectedBySink {
                    index,
                    code: "rejected",
                    message: message.clone(),
                })),
            }
        }
        if !rejected.is_empty() {
            return Err(DeliverError::Rejected(rejected));
        }
        self.taken.settle(batch);
        Ok(())
    }

    async fn check(&self) -> Result<(), DeliverError> {
        self.web.knock().await
    }

    fn not_before(&self) -> Option<Instant> {
        self.web.not_before()
    }

    fn takes_parts(&self) -> bool {
        true
    }
}

impl OtlpSink {
    /// The receiver's words if it rejected all of so many records. If it rejected some, nobody knows which, and to send them
    /// again would double those that it took: they are counted, and it is said.
    fn rejection(&self, signal: Signal, answer: &[u8], records: usize) -> Option<String> {
        let (rejected, message) = partial_success(answer).filter(|(rejected, _)| *rejected > 0)?;
        let message = self.web.shown(&message);
        if rejected >= records as u64 {
            return Some(message);
        }
        rejected_unnamed(&self.route).increment(rejected);
        let mut unnamed = self.unnamed.lock();
        unnamed.records += rejected;
        if unnamed.said_at.is_none_or(|at| at.elapsed() > SAY_EVERY) {
            tracing::warn!(
                route = self.route,
                signal = signal.http_path(),
                records = unnamed.records,
                message,
                "the receiver rejected records of a request and did not say which: they are lost to it"
            );
            *unnamed = Unnamed {
                records: 0,
                said_at: Some(Instant::now()),
            };
        }
        None
    }

    /// One request, and the message that answers it.
    async fn export(&self, signal: Signal, body: Vec<u8>) -> Result<Vec<u8>, DeliverError> {
        let mut headers = HeaderMap::new();
        if let Some(grpc) = &self.grpc {
            let body = pack(body, self.compression, &mut headers).await?;
            let is_packed = self.compression != Compression::None;
            return grpc
                .call(&self.web, signal.grpc_path(), &body, is_packed)
                .await;
        }
        let kind = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, kind);
        let request = Outgoing {
            path: signal.http_path(),
            body: pack(body, self.compression, &mut headers).await?,
            headers,
            ..Outgoing::default()
        };
        let answer = self.web.post(request).await?;
        Ok(self.web.judge(answer)?.body)
    }
}

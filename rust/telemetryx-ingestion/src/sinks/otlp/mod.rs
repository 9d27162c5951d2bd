//! `otlp`: what came in as OTLP goes on as OTLP, over HTTP or gRPC; every other event as a log record.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | settings and the sink: a request for each kind of signal |
//! | `requests.rs` | events as export requests |
//! | `grpc.rs` | calls over HTTP/2 |

mod grpc;
mod requests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;

use self::grpc::Grpc;
use self::requests::Part;
use super::tls::TlsFiles;
use super::web::{Compression, Outgoing, Web, WebConfig, pack};
use super::{DeliverError, RejectedBySink, Sink, SinkContext, SinkFactory};
use crate::config::{Duration, Secret};
use crate::ingress::otlp::Signal;
use crate::ingress::otlp::reply::partial_success;
use crate::plugin::{PluginError, settings};
use crate::route::{Cause, EventBatch, Origin};

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
    /// What the receiver has of batches that are under way.
    taken: Mutex<HashMap<Batch, HashSet<Place>>>,
    unnamed: Mutex<Unnamed>,
}

/// A batch under way: the route brings one at a time, and so does a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Batch {
    Journal(u128),
    Replay,
    Letter(i64),
}

/// Where an event of a batch comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Journal(u64),
    Derived(String),
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
        taken: Mutex::default(),
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
        let key = match batch.cause() {
            Cause::Journal(stretch) => Batch::Journal(stretch.log),
            Cause::Replay => Batch::Replay,
            Cause::Redrive(letter) => Batch::Letter(letter.number),
        };
        let places = batch.iter().map(|(origin, event)| match origin {
            Origin::Journal(offset) => Place::Journal(offset),
            Origin::Derived => Place::Derived(event.id.clone().into_owned()),
        });
        let places = places.collect::<Vec<_>>();
        let before = self.taken.lock().remove(&key).unwrap_or_default();
        let is_new = |index: usize| {
            places
                .get(index)
                .is_some_and(|place| !before.contains(place))
        };
        let parts = requests::of(batch, is_new);
        let mut sending = Sending {
            places: &places,
            taken: before,
            rejected: Vec::new(),
        };
        let mut result = Ok(());
        for (signal, part) in parts {
            result = self.send(signal, part, &mut sending).await;
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() && !sending.rejected.is_empty() {
            result = Err(DeliverError::Rejected(sending.rejected));
        }
        // The same events come again: those that the receiver has are left out then.
        if result.is_err() {
            self.taken.lock().insert(key, sending.taken);
        }
        result
    }

    async fn check(&self) -> Result<(), DeliverError> {
        self.web.knock().await
    }

    fn not_before(&self) -> Option<Instant> {
        self.web.not_before()
    }
}

/// What becomes of the events of a batch.
struct Sending<'p> {
    places: &'p [Place],
    taken: HashSet<Place>,
    rejected: Vec<RejectedBySink>,
}

impl Sending<'_> {
    fn take(&mut self, part: &Part) {
        let places = part.indices().filter_map(|index| self.places.get(index));
        self.taken.extend(places.cloned());
    }

    fn reject(&mut self, part: &Part, code: &'static str, message: &str) {
        self.rejected
            .extend(part.indices().map(|index| RejectedBySink {
                index,
                code,
                message: message.to_owned(),
            }));
    }
}

impl OtlpSink {
    /// Sends records of one signal. What the receiver refuses as a whole goes by halves, down to the record that is
    /// refused alone.
    async fn send(
        &self,
        signal: Signal,
        part: Part,
        sending: &mut Sending<'_>,
    ) -> Result<(), DeliverError> {
        let mut waiting = vec![part];
        while let Some(mut part) = waiting.pop() {
            match self.export(signal, part.body().to_vec()).await {
                Ok(answer) => self.settle(signal, &part, &answer, sending),
                Err(DeliverError::Refused { code, message }) => {
                    if part.len() > 1 {
                        let behind = part.split();
                        waiting.extend([behind, part]);
                    } else {
                        sending.reject(&part, code, &message);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes in an answer, which may say that some records were rejected. Those are known if it is all of them.
    fn settle(&self, signal: Signal, part: &Part, answer: &[u8], sending: &mut Sending<'_>) {
        let (rejected, message) = match partial_success(answer) {
            None | Some((0, _)) => return sending.take(part),
            Some(told) => told,
        };
        let message = super::web::shown(&message);
        if rejected >= part.len() as u64 {
            return sending.reject(part, "rejected", &message);
        }
        // To send the others again would double those that were taken.
        sending.take(part);
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

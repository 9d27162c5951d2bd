//! `grpc`: hands batches to a brain, a server of `proto/brain.proto`, and takes in what it finds.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | settings, and the sink: one batch, one answer, its findings in the journal |
//! | `address.rs` | where the brain is, and the connection to it |
//! | `session.rs` | one stream: credit, batches under way, answers; made anew when it ends |
//! | `message.rs` | batches as bytes, answers from bytes |
//! | `findings.rs` | findings as events |
//!
//! A batch is delivered once its findings are durable, so a crash in between brings it again; the ids of findings are made
//! of what they are about, so that they are the same then. Findings, of whatever brain, are never handed to one: no brain
//! ever answers itself.

mod address;
mod findings;
mod message;
mod session;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use telemetryx_proto::v1::{Finding, Refused, answer};

use self::address::Address;
use self::message::{Events, findings_max};
use self::session::Link;
use super::secret::SinkSecret;
use super::tls::TlsFiles;
use super::{
    DeliverError, EmitError, Emitter, RejectedBySink, Sink, SinkContext, SinkFactory, timeout,
};
use crate::config::{self, Secret};
use crate::plugin::{PluginError, settings};
use crate::route::EventBatch;

/// What the types of findings begin with.
const FINDINGS: &str = "brain.";
/// The longest wait for an answer, and for credit.
const TIMEOUT: config::Duration = config::Duration::secs(30);
/// How often a connection is pinged on which nothing comes. Most gRPC libraries end one that is pinged every five minutes or
/// more often.
const KEEPALIVE: config::Duration = config::Duration::secs(310);
const KEEPALIVES: RangeInclusive<config::Duration> =
    config::Duration::millis(100)..=config::Duration::minutes(60);
/// What becomes of an event in which more is found than an answer may say.
const TOO_MUCH: &str = "too_much_found";
/// As much of a brain's words is repeated.
const WORDS_BYTES_MAX: usize = 2_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrpcConfig {
    url: Option<String>,
    tls: Option<TlsFiles>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    timeout: Option<config::Duration>,
    keepalive: Option<config::Duration>,
}

struct GrpcSink {
    route: String,
    link: Link,
    emitter: Emitter,
}

fn construct(
    parameters: toml::Value,
    context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: GrpcConfig = settings(parameters)?;
    let mut mistakes = Vec::new();
    let mut checked = |key, given, default, bounds| {
        let checked = timeout::checked(key, given, default, bounds);
        checked.unwrap_or_else(|error| {
            mistakes.push(error);
            default.into()
        })
    };
    let timeout = checked("timeout", config.timeout, TIMEOUT, timeout::BOUNDS);
    let keepalive = checked("keepalive", config.keepalive, KEEPALIVE, KEEPALIVES);
    let token = SinkSecret::of("token", config.token, config.token_file);
    let token = token.map_err(|error| mistakes.push(error.to_string()));
    let address = config.url.as_deref().unwrap_or_default();
    let address = Address::new(address, config.tls, token.ok().flatten(), keepalive);
    let address = address.map_err(|error| mistakes.extend(error));
    match address {
        Ok(address) if mistakes.is_empty() => Ok(Box::new(GrpcSink {
            link: Link::new(address, context.route, timeout),
            route: context.route.to_owned(),
            emitter: context.emitter.clone(),
        })),
        _ => Err(PluginError::Several(mistakes)),
    }
}

inventory::submit! {
    SinkFactory {
        kind: "grpc",
        constructor: construct,
        flush_interval: Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for GrpcSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let retryable = |words: String| DeliverError::Retryable(shorten(&words));
        let events = Events::of(batch);
        let session = self.link.session().await.map_err(retryable)?;
        if session.is_too_large(&events) {
            return Err(DeliverError::Refused {
                code: "too_large",
                message: format!(
                    "{} bytes are more than the brain takes in one message",
                    events.bytes()
                ),
            });
        }
        match session.ask(events).await.map_err(retryable)? {
            answer::Result::Done(done) => {
                too_many(&done.findings, batch.len())?;
                let findings = findings::events(done.findings, batch, &self.route);
                // A brain that breaks the contract once may have lost its count as well.
                let findings = findings.map_err(|words| retryable(session.end(&words)))?;
                let emitted = self.emitter.emit(&findings).await;
                emitted.map_err(|error| match error {
                    EmitError::Later(words) => {
                        retryable(format!("findings of the brain cannot be kept: {words}"))
                    }
                    EmitError::TooMuch(message) => DeliverError::Refused {
                        code: TOO_MUCH,
                        message,
                    },
                })
            }
            answer::Result::Later(later) => Err(retryable(format!(
                "the brain cannot take it now: {}",
                later.message
            ))),
            answer::Result::Refused(refused) => {
                let refused = refusal(refused, batch.len());
                Err(refused.unwrap_or_else(|words| retryable(session.end(&words))))
            }
        }
    }

    async fn check(&self) -> Result<(), DeliverError> {
        let session = self.link.session().await;
        session.map(drop).map_err(DeliverError::Retryable)
    }

    fn takes_parts(&self) -> bool {
        true
    }

    fn leaves_out(&self) -> Option<&'static str> {
        Some(FINDINGS)
    }

    fn hands_back(&self) -> bool {
        true
    }
}

/// Too much is found, and would be found again: halves of the batch are tried.
fn too_many(findings: &[Finding], events: usize) -> Result<(), DeliverError> {
    let (count, most) = (findings.len(), findings_max(events));
    if count <= most {
        return Ok(());
    }
    Err(DeliverError::Refused {
        code: TOO_MUCH,
        message: format!("it found {count} things in a batch of {events}: {most} are the most"),
    })
}

/// What the brain will never take.
fn refusal(refused: Refused, events: usize) -> Result<DeliverError, String> {
    let code = "refused_by_brain";
    if refused.events.is_empty() {
        let message = shorten(&refused.message);
        return Ok(DeliverError::Refused { code, message });
    }
    let rejected = refused.events.into_iter().map(|event| {
        let index = event.index as usize;
        let message = shorten(&format!("{}: {}", event.code, event.message));
        (index < events)
            .then_some(RejectedBySink {
                index,
                code,
                message,
            })
            .ok_or_else(|| format!("it refuses event {index} of a batch of {events}"))
    });
    Ok(DeliverError::Rejected(rejected.collect::<Result<_, _>>()?))
}

/// A brain's words, as far as they are repeated.
fn shorten(words: &str) -> String {
    let end = words.floor_char_boundary(WORDS_BYTES_MAX);
    let rest = if end < words.len() { "…" } else { "" };
    format!("{}{rest}", words.get(..end).unwrap_or_default())
}

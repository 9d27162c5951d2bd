//! `POST /ingest`: events as JSON, NDJSON or protobuf, one or many.

use std::net::IpAddr;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Request};
use hyper::body::Incoming;
use tracing::Instrument;
use tracing::field::{Empty, display};

use super::answer::{self, Answer};
use super::body::{self, BodyLimits};
use super::request_id::RequestId;
use crate::intake::{Accepted, Format, Intake, Refusal, Submission};

/// A longer key is refused: it is hashed for every request.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// Answers one request; its events are durable if the answer is 202.
pub(super) async fn post(
    intake: &Intake,
    limits: BodyLimits,
    request: Request<Incoming>,
    peer: IpAddr,
    request_id: &RequestId,
) -> Answer {
    // On at `RUST_LOG=debug`: a span a request costs more than taking in a small event.
    let span = tracing::debug_span!(
        "ingest", request_id = request_id.as_str(), source_ip = %peer,
        payload_size = Empty, decode_time = Empty, enqueue_time = Empty, process_time = Empty,
    );
    let started = std::time::Instant::now();
    let taken = async {
        let taken = take(intake, limits, request, peer, request_id).await;
        let current = tracing::Span::current();
        current.record("process_time", display(started.elapsed().as_secs_f64()));
        tracing::debug!(
            outcome = if taken.is_ok() { "accepted" } else { "refused" },
            "request"
        );
        taken
    }
    .instrument(span)
    .await;
    intake.metrics.requests.increment(1);
    intake
        .metrics
        .latency
        .record(started.elapsed().as_secs_f64());
    match taken {
        Ok(accepted) => {
            intake
                .metrics
                .http_accepted
                .increment(accepted.events.into());
            intake
                .metrics
                .http_refused
                .increment(accepted.rejected.count as u64);
            answer::accepted(&accepted, intake.journal.identity(), request_id)
        }
        Err(refusal) => {
            intake.metrics.request_errors.increment(1);
            if let Refusal::AllInvalid(rejected) = &refusal {
                intake.metrics.http_refused.increment(rejected.count as u64);
            }
            answer::refused(&refusal)
        }
    }
}

async fn take(
    intake: &Intake,
    limits: BodyLimits,
    request: Request<Incoming>,
    peer: IpAddr,
    request_id: &RequestId,
) -> Result<Accepted, Refusal> {
    let (head, mut body) = request.into_parts();
    let headers = &head.headers;
    let read = async {
        let admission = intake.admit(headers, peer)?;
        let (format, key) = (format(headers)?, idempotency_key(headers)?);
        let read = body::read(headers, &mut body, limits, &intake.memory).await;
        let (bytes, permit) = read.inspect_err(|refusal| {
            if matches!(refusal, Refusal::Overloaded { .. }) {
                intake.memory_spent();
            }
        })?;
        Ok((admission, format, key, bytes, permit))
    };
    let (admission, format, idempotency_key, body, permit) = match read.await {
        Ok(read) => read,
        Err(refusal) => {
            if !matches!(refusal, Refusal::TooSlow(_) | Refusal::Gone) {
                body::discard(headers, body, limits);
            }
            return Err(refusal);
        }
    };
    tracing::Span::current().record("payload_size", body.len());
    intake.metrics.bytes.increment(body.len() as u64);
    let submission = Submission {
        body,
        format,
        request_id: request_id.as_str(),
        idempotency_key,
        permit,
    };
    intake.accept(admission, submission).await
}

fn format(headers: &HeaderMap) -> Result<Format, Refusal> {
    let Some(given) = headers.get(CONTENT_TYPE) else {
        return Ok(Format::Json);
    };
    let given = given.to_str().unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    if is("application/json") || essence.is_empty() {
        Ok(Format::Json)
    } else if is("application/x-ndjson") || is("application/ndjson") || is("application/jsonl") {
        Ok(Format::Ndjson)
    } else if is("application/x-protobuf") || is("application/protobuf") {
        Ok(Format::Protobuf)
    } else {
        Err(Refusal::Unsupported(format!(
            "the content type `{given}` is not known: send application/json, application/x-ndjson or \
             application/x-protobuf"
        )))
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(given) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match given.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Refusal::BadRequest {
            code: "invalid_idempotency_key",
            message: format!(
                "`Idempotency-Key` must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
            ),
        }),
    }
}

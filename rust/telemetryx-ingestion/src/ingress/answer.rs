//! Values and refusals as answers: the only place where an error becomes a status code. Other protocols than HTTP put the
//! same fields into their own.

use std::time::Duration;

use ::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use ::http::{HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use serde_json::Value;
use telemetryx_common::json;

use super::request_id::RequestId;
use crate::admission::{Allowance, MemoryBudget, MemoryPermit};
use crate::intake::{Accepted, Refusal, Rejections};
use crate::observe::SignatureFault;
use crate::query::Receipt;

/// When to come back, where nothing better is known.
pub(super) const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Answers up to this size take nothing from a memory budget.
pub(super) const SMALL: usize = 1 << 10;

/// An answer's body: bytes, or a stream of them.
pub(super) type AnswerBody = Either<Full<Bytes>, UnsyncBoxBody<Bytes, std::convert::Infallible>>;
/// An answer.
pub(super) type Answer = Response<AnswerBody>;

/// In the extensions of an answer: the status that the metrics have, where a protocol says of its errors that they are 200.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountedAs(pub(super) StatusCode);

/// Bytes of one type.
pub(super) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A JSON value.
pub(super) fn value(status: StatusCode, value: &Value) -> Answer {
    bytes(status, "application/json", value.to_string())
}

/// A stream of bytes.
pub(super) fn stream<B>(content_type: &'static str, body: B) -> Answer
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let mut answer = Response::new(Either::Right(body.boxed_unsync()));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A large answer waits in budgeted memory until its client has taken the last of it; `None` if there is none.
pub(super) fn within_budget(answer: Answer, memory: &MemoryBudget) -> Option<Answer> {
    let (head, body) = answer.into_parts();
    let mut body = match body {
        Either::Left(body) if body.size_hint().lower() > SMALL as u64 => body,
        other => return Some(Answer::from_parts(head, other)),
    };
    // It is there as a whole.
    let frame = body.frame().now_or_never().flatten();
    let bytes = frame.and_then(|frame| frame.ok()?.into_data().ok())?;
    let permit = memory.take(bytes.len())?;
    let bytes = Bytes::from_owner(Budgeted {
        bytes,
        _permit: permit,
    });
    Some(Answer::from_parts(head, Either::Left(Full::new(bytes))))
}

/// Bytes, and the memory they take: given back when the last piece of them is gone, wherever it was passed on to.
struct Budgeted {
    bytes: Bytes,
    _permit: MemoryPermit,
}

impl AsRef<[u8]> for Budgeted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What came of a request to take in events; without its errors if there is no memory for them.
pub(super) fn taken(
    mut taken: Result<Accepted, Refusal>,
    request_id: &RequestId,
    memory: &MemoryBudget,
) -> Answer {
    let tell = |taken: &Result<Accepted, Refusal>| match taken {
        Ok(taken) => accepted(taken, request_id),
        Err(refusal) => refused(refusal),
    };
    within_budget(tell(&taken), memory).unwrap_or_else(|| {
        omit_errors(&mut taken);
        tell(&taken)
    })
}

/// The events that were refused are counted from here on, and not told one by one.
pub(super) fn omit_errors(taken: &mut Result<Accepted, Refusal>) {
    if let Ok(Accepted { rejected, .. }) | Err(Refusal::AllInvalid(rejected)) = taken {
        rejected.errors = Vec::new();
    }
}

/// 202: what was accepted, and the receipt for it.
pub(super) fn accepted(accepted: &Accepted, request_id: &RequestId) -> Answer {
    let mut body = Vec::with_capacity(192);
    body.push(b'{');
    write_accepted(accepted, request_id, &mut body);
    body.push(b'}');
    bytes(StatusCode::ACCEPTED, "application/json", body)
}

/// The fields of a 202, without the braces around them.
pub(super) fn write_accepted(accepted: &Accepted, request_id: &RequestId, body: &mut Vec<u8>) {
    body.extend_from_slice(b"\"accepted\":");
    json::write_number(accepted.events.into(), body);
    body.extend_from_slice(b",\"rejected\":");
    json::write_number(accepted.rejected.count as u64, body);
    body.extend_from_slice(b",\"request_id\":");
    json::write_str(request_id.as_str(), body);
    if let Some(position) = &accepted.position {
        body.extend_from_slice(b",\"receipt\":\"");
        Receipt::new(position.clone(), accepted.identity).write_to(body);
        body.push(b'"');
    }
    if accepted.shed > 0 && accepted.position.is_some() {
        body.extend_from_slice(b",\"shed\":");
        json::write_number(accepted.shed.into(), body);
    }
    body.extend_from_slice(b",\"durability\":\"");
    body.extend_from_slice(accepted.durability.as_bytes());
    body.push(b'"');
    write_errors(&accepted.rejected, body);
}

fn write_errors(Rejections { count, errors }: &Rejections, body: &mut Vec<u8>) {
    if *count == 0 {
        return;
    }
    body.extend_from_slice(b",\"errors\":[");
    for (place, error) in errors.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        json::write_error(error, body);
    }
    body.push(b']');
    let omitted = count.saturating_sub(errors.len());
    if omitted > 0 {
        body.extend_from_slice(b",\"errors_omitted\":");
        json::write_number(omitted as u64, body);
    }
}

/// What was refused, and why.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let class = classify(refusal);
    let mut body = Vec::with_capacity(128);
    body.push(b'{');
    write_refused(refusal, &class, &mut body);
    body.push(b'}');
    with_class(refusal, &class, "application/json", body)
}

/// The same, in the words of another protocol.
pub(super) fn refused_with(refusal: &Refusal, content_type: &'static str, body: Vec<u8>) -> Answer {
    with_class(refusal, &classify(refusal), content_type, body)
}

fn with_class(
    refusal: &Refusal,
    class: &Class<'_>,
    content_type: &'static str,
    body: Vec<u8>,
) -> Answer {
    let mut answer = bytes(class.status, content_type, body);
    if let Some(seconds) = class.retry_after {
        let seconds = HeaderValue::from(seconds);
        answer.headers_mut().insert(RETRY_AFTER, seconds);
    }
    let challenge = match refusal {
        Refusal::Unauthorized(_) => Some("Bearer"),
        Refusal::Unsigned(_) => Some("Signature"),
        _ => None,
    };
    if let Refusal::MethodNotAllowed(methods) = refusal {
        let methods = HeaderValue::from_static(methods);
        answer.headers_mut().insert(ALLOW, methods);
    }
    if let Some(challenge) = challenge {
        let challenge = HeaderValue::from_static(challenge);
        answer
            .headers_mut()
            .insert(::http::header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

/// Tells the client what it may still send, in the three headers of draft-ietf-httpapi-ratelimit-headers-06.
pub(super) fn tell_allowance(answer: &mut Answer, allowance: Allowance) {
    let Allowance {
        limit,
        remaining,
        reset,
    } = allowance;
    // A bucket that is empty has a token again when `Retry-After` says so.
    let least = u64::from(remaining == 0);
    let headers = answer.headers_mut();
    headers.insert(RATE_LIMIT, limit.into());
    headers.insert(RATE_REMAINING, remaining.into());
    headers.insert(RATE_RESET, whole_seconds(reset).max(least).into());
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The fields of an error, without the braces around them.
pub(super) fn write_refused(refusal: &Refusal, class: &Class<'_>, body: &mut Vec<u8>) {
    body.extend_from_slice(b"\"error\":{\"code\":");
    json::write_str(class.code, body);
    body.extend_from_slice(b",\"message\":");
    json::write_str(&refusal.to_string(), body);
    body.push(b'}');
    if let Refusal::AllInvalid(errors) = refusal {
        write_errors(errors, body);
    }
}

/// What a refusal is called.
pub(super) struct Class<'r> {
    /// Its status code.
    pub(super) status: StatusCode,
    /// Its name in the body.
    pub(super) code: &'r str,
    /// Whole seconds until the client may try again, if that helps.
    pub(super) retry_after: Option<u64>,
}

/// How a refusal is told.
pub(super) fn classify(refusal: &Refusal) -> Class<'_> {
    let (status, code, after) = status_of(refusal);
    Class {
        status,
        code,
        retry_after: after.map(|after| whole_seconds(after).max(1)),
    }
}

fn status_of(refusal: &Refusal) -> (StatusCode, &str, Option<Duration>) {
    let later = Some(RETRY_AFTER_DEFAULT);
    match refusal {
        Refusal::Undecodable(error) if error.is_too_large() => {
            (StatusCode::PAYLOAD_TOO_LARGE, error.code().as_str(), None)
        }
        Refusal::Undecodable(error) => (StatusCode::BAD_REQUEST, error.code().as_str(), None),
        Refusal::BadRequest { code, .. } => (StatusCode::BAD_REQUEST, code, None),
        Refusal::AllInvalid(_) => (StatusCode::BAD_REQUEST, "all_events_invalid", None),
        Refusal::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", None),
        Refusal::Unsupported(_) => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            None,
        ),
        Refusal::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "body_timeout", None),
        Refusal::Gone => (StatusCode::BAD_REQUEST, "incomplete_body", None),
        Refusal::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized", None),
        Refusal::Unsigned(fault) => {
            let code = match fault {
                SignatureFault::Missing => "signature_missing",
                SignatureFault::Wrong => "signature_wrong",
                SignatureFault::Expired => "signature_expired",
            };
            (StatusCode::UNAUTHORIZED, code, None)
        }
        Refusal::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", None),
        Refusal::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", None),
        Refusal::MethodNotAllowed(_) => {
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", None)
        }
        Refusal::RateLimited(spent) => {
            let after = Some(spent.retry_after);
            (StatusCode::TOO_MANY_REQUESTS, "rate_limited", after)
        }
        Refusal::Overloaded { code, .. } => (StatusCode::TOO_MANY_REQUESTS, code, later),
        Refusal::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", later),
        Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", None),
    }
}

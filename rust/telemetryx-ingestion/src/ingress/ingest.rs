//! `POST /ingest`: events as JSON, NDJSON or protobuf, one or many.

use std::sync::Arc;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Method};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::answer::{self, Answer};
use super::http_door::{Call, HttpDoor, Keys};
use super::protocol::{Built, HttpEndpoint, ProtocolFactory};
use crate::admission::only;
use crate::intake::{Accepted, Format, Refusal};

/// A longer key is refused: it is hashed for every request.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

inventory::submit! {
    ProtocolFactory {
        name: "http",
        listens: |_| Vec::new(),
        build: |setup| {
            let door = HttpDoor::new(Arc::clone(setup.intake), "http", &setup.config.http);
            Ok(Built { endpoints: vec![Arc::new(Ingest { door })], connections: Vec::new() })
        },
    }
}

struct Ingest {
    door: HttpDoor,
}

impl HttpEndpoint for Ingest {
    fn label(&self) -> &'static str {
        "/ingest"
    }

    fn claims(&self, path: &str) -> bool {
        path == "/ingest"
    }

    fn answer<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        self.post(call).boxed()
    }
}

impl Ingest {
    /// Answers one request; its events are durable if the answer is 202.
    async fn post(&self, call: Call<'_>) -> Answer {
        if call.head.method != Method::POST {
            return answer::refused(&Refusal::MethodNotAllowed("POST"));
        }
        let (peer, request_id) = (call.peer, call.request_id);
        let taken = self.door.counted(peer, request_id, self.take(call)).await;
        let intake = self.door.intake();
        answer::taken(taken, request_id, &intake.answers)
    }

    async fn take(&self, call: Call<'_>) -> Result<Accepted, Refusal> {
        let request_id = call.request_id;
        let check = |headers| Ok((format(headers)?, idempotency_key(headers)?));
        let received = self.door.receive(call, Keys::Asked, check).await?;
        let (format, key) = received.checked;
        self.door.accept(received, &format, request_id, key).await
    }
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
    let Some(given) = only(headers, "Idempotency-Key")? else {
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

//! OTLP/HTTP: `POST /v1/logs`, `/v1/traces`, `/v1/metrics`, as protobuf or JSON.

use std::sync::Arc;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, Method, StatusCode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::reply::{self, Encoding};
use super::{JSON_GROWTH, Signal};
use crate::ingress::answer::{self, Answer};
use crate::ingress::http_door::{Call, HttpDoor, Keys};
use crate::ingress::protocol::{HttpEndpoint, Setup};
use crate::intake::{Accepted, Refusal};

/// The ids of records that have none are derived from this and the request, so that a retry is harmless.
pub(super) const IDEMPOTENCY_KEY: &str = "otlp";

/// The three paths.
pub(super) fn endpoints(setup: &Setup<'_>) -> Vec<Arc<dyn HttpEndpoint>> {
    let door = HttpDoor::new(Arc::clone(setup.intake), "otlp_http", &setup.config.http);
    let door = Arc::new(door);
    let endpoint = |signal| {
        let door = Arc::clone(&door);
        Arc::new(Export { door, signal }) as Arc<dyn HttpEndpoint>
    };
    Signal::ALL.map(endpoint).into()
}

struct Export {
    door: Arc<HttpDoor>,
    signal: Signal,
}

impl HttpEndpoint for Export {
    fn label(&self) -> &'static str {
        self.signal.http_path()
    }

    fn claims(&self, path: &str) -> bool {
        path == self.signal.http_path()
    }

    fn answer<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        self.post(call).boxed()
    }
}

impl Export {
    async fn post(&self, call: Call<'_>) -> Answer {
        let encoding = encoding(&call.head.headers);
        // An error has to be written somehow, also where the request is in no known encoding.
        let of_answer = encoding.as_ref().map_or(Encoding::Json, |known| *known);
        let (peer, request_id) = (call.peer, call.request_id);
        let taken = if call.head.method == Method::POST {
            let taking = self.take(call, encoding);
            self.door.counted(peer, request_id, taking).await
        } else {
            Err(Refusal::MethodNotAllowed("POST"))
        };
        match taken {
            Ok(accepted) => answer::bytes(
                StatusCode::OK,
                of_answer.content_type(),
                reply::response(of_answer, self.signal, &accepted),
            ),
            Err(refusal) => {
                let body = reply::status(of_answer, &refusal);
                answer::refused_with(&refusal, of_answer.content_type(), body)
            }
        }
    }

    async fn take(
        &self,
        call: Call<'_>,
        encoding: Result<Encoding, Refusal>,
    ) -> Result<Accepted, Refusal> {
        let request_id = call.request_id;
        let received = self.door.receive(call, Keys::Asked, |_| encoding).await;
        let received = received.map_err(to_be_sent_again)?;
        let received = match received.checked {
            Encoding::Protobuf => received,
            Encoding::Json => self.door.map_body(received, |json, mut permit| {
                permit.grow(json.len() * JSON_GROWTH)?;
                let message = self.signal.from_json(&json);
                let message = message.map_err(|error| Refusal::BadRequest {
                    code: "invalid_json",
                    message: format!("this is no OTLP request in JSON: {error}"),
                })?;
                Ok((message.into(), permit))
            })?,
        };
        let taken = self
            .door
            .accept(received, &self.signal, request_id, Some(IDEMPOTENCY_KEY))
            .await;
        reply::settled(taken)
    }
}

/// Exporters give up what is answered 408; a slow body may be faster the next time.
fn to_be_sent_again(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::TooSlow(_) => Refusal::Unavailable(refusal.to_string()),
        other => other,
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let given = headers.get(CONTENT_TYPE);
    let given = given.map_or("", |given| given.to_str().unwrap_or_default());
    let essence = given.split(';').next().unwrap_or_default().trim();
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    if is("application/x-protobuf") || is("application/protobuf") {
        Ok(Encoding::Protobuf)
    } else if is("application/json") {
        Ok(Encoding::Json)
    } else {
        Err(Refusal::Unsupported(format!(
            "the content type `{given}` is not known: send application/x-protobuf or application/json"
        )))
    }
}

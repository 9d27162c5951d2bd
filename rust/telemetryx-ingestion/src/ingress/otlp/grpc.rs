//! OTLP/gRPC: the three `Export` calls. Each is one message in one frame, so that the frame is read here, as every body is:
//! its memory taken from the budget before it is read, and counted as it is unpacked.

use std::convert::Infallible;
use std::sync::Arc;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue, Method};
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::{Full, StreamBody};

use super::Signal;
use super::http::IDEMPOTENCY_KEY;
use super::reply::{self, Encoding};
use crate::admission::MemoryPermit;
use crate::ingress::answer::{self, Answer, AnswerBody};
use crate::ingress::decompress::{self, Encoding as Compression};
use crate::ingress::http_door::{Call, HttpDoor, Keys};
use crate::ingress::protocol::{HttpEndpoint, Setup};
use crate::intake::{Accepted, Refusal};

/// Before a message: whether it is packed, and its length.
const FRAME_HEAD_BYTES: usize = 5;
const GRPC_STATUS: &str = "grpc-status";

/// The three calls.
pub(super) fn endpoints(setup: &Setup<'_>) -> Vec<Arc<dyn HttpEndpoint>> {
    let config = &setup.config.http;
    let door = HttpDoor::new(Arc::clone(setup.intake), "otlp_grpc", config);
    let door = Arc::new(door.with_room_for(FRAME_HEAD_BYTES));
    let message_bytes_max = config.max_body.as_usize();
    let endpoint = |signal| {
        let door = Arc::clone(&door);
        Arc::new(Export {
            door,
            signal,
            message_bytes_max,
        }) as Arc<dyn HttpEndpoint>
    };
    Signal::ALL.map(endpoint).into()
}

struct Export {
    door: Arc<HttpDoor>,
    signal: Signal,
    message_bytes_max: usize,
}

impl HttpEndpoint for Export {
    fn label(&self) -> &'static str {
        self.signal.grpc_path()
    }

    fn claims(&self, path: &str) -> bool {
        path == self.signal.grpc_path()
    }

    fn answer<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        self.export(call).boxed()
    }
}

impl Export {
    async fn export(&self, call: Call<'_>) -> Answer {
        if let Err(refusal) = is_grpc(&call.head.method, &call.head.headers) {
            return answer::refused(&refusal);
        }
        let (peer, request_id) = (call.peer, call.request_id);
        match self.door.counted(peer, request_id, self.take(call)).await {
            Ok(accepted) => {
                let message = reply::response(Encoding::Protobuf, self.signal, &accepted);
                done(&message)
            }
            Err(refusal) => {
                let mut answer = refused(&refusal);
                if matches!(refusal, Refusal::Unsupported(_)) {
                    let known = HeaderValue::from_static("gzip,deflate,zstd,identity");
                    answer.headers_mut().insert("grpc-accept-encoding", known);
                }
                answer
            }
        }
    }

    async fn take(&self, call: Call<'_>) -> Result<Accepted, Refusal> {
        let request_id = call.request_id;
        let check = |headers: &HeaderMap| Compression::of(headers.get("grpc-encoding"));
        let received = self.door.receive(call, Keys::Asked, check).await?;
        let compression = received.checked;
        let received = self.door.map_body(received, |body, permit| {
            message(body, compression, self.message_bytes_max, permit)
        })?;
        let taken = self
            .door
            .accept(received, &self.signal, request_id, Some(IDEMPOTENCY_KEY))
            .await;
        reply::settled(taken)
    }
}

/// An error of gRPC, which is 200 to HTTP.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let answer = reply::grpc_status(refusal).into_http::<()>();
    let mut answer = answer.map(|()| AnswerBody::Left(Full::default()));
    let status = answer::classify(refusal).status;
    answer.extensions_mut().insert(answer::CountedAs(status));
    answer
}

/// Whoever speaks something else at this path gets an answer of HTTP: there is no status of gRPC for it.
fn is_grpc(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method != Method::POST {
        return Err(Refusal::MethodNotAllowed("POST"));
    }
    let given = headers.get(CONTENT_TYPE);
    let given = given.map_or("", |given| given.to_str().unwrap_or_default());
    let essence = given.split(';').next().unwrap_or_default().trim();
    match essence {
        "application/grpc" | "application/grpc+proto" => Ok(()),
        _ => Err(Refusal::Unsupported(format!(
            "the content type `{given}` is not known: this is gRPC, send application/grpc"
        ))),
    }
}

/// The one message of a call, unpacked.
fn message(
    mut body: Bytes,
    compression: Option<Compression>,
    limit: usize,
    permit: MemoryPermit,
) -> Result<(Bytes, MemoryPermit), Refusal> {
    let broken = |message: &str| Refusal::BadRequest {
        code: "invalid_frame",
        message: message.to_owned(),
    };
    if body.len() < FRAME_HEAD_BYTES {
        return Err(broken("the call ends before its message begins"));
    }
    let (packed, length) = (body.get_u8(), body.get_u32());
    if length as usize > limit {
        return Err(Refusal::body_too_large(limit));
    }
    if body.len() as u64 != u64::from(length) {
        return Err(broken(
            "the call must be one message of the length that its frame says",
        ));
    }
    match (packed, compression) {
        (0, _) => Ok((body, permit)),
        (1, Some(compression)) => decompress::unpack(compression, &body, limit, permit),
        (1, None) => Err(broken(
            "the message is packed, and `grpc-encoding` is missing",
        )),
        _ => Err(broken("the message is neither packed nor plain")),
    }
}

/// A message, and status 0 behind it.
fn done(message: &[u8]) -> Answer {
    let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + message.len());
    frame.push(0);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from(frame)), Frame::trailers(trailers)];
    let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
    answer::stream("application/grpc", StreamBody::new(frames))
}

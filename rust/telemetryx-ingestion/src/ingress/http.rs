//! Our HTTP API: which path is whose, and everything that can be asked.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::header::ACCEPT;
use ::http::{HeaderName, Method, Request, StatusCode};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use telemetryx_common::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{self, Answer};
use super::body::BodyLimits;
use super::http_door::{Call, ToldAllowance};
use super::protocol::HttpEndpoint;
use super::request_id::{self, RequestId};
use super::stream::Peer;
use crate::admission::MemoryBudget;
use crate::config::HttpConfig;
use crate::intake::{Intake, Refusal};
use crate::observe::{Endpoint, EndpointMetrics};
use crate::query::{self, EventPage, EventQuery, Query};

/// Events read at a time for a stream of `/events`.
const STREAM_PAGE: u32 = 500;
/// Bytes read at a time for it, about.
const STREAM_PAGE_BYTES: usize = 256 << 10;
/// Answers of `/events` under way at a time: each holds a page in memory.
const READERS_MAX: usize = 16;
/// A client that takes nothing of a stream for so long has gone.
const STREAM_STALL: Duration = Duration::from_secs(30);
/// Bytes of large answers to all other questions that may lie unread at a time.
const ANSWERS_BYTES_MAX: usize = 16 << 20;
/// The largest body that an admin request needs.
const ADMIN_BODY_MAX: usize = 16 << 10;

/// Answers the requests of one port; made once, shared by all connections.
pub(super) struct HttpService {
    intake: Arc<Intake>,
    endpoints: Vec<(Arc<dyn HttpEndpoint>, EndpointMetrics)>,
    /// `None`: this port only takes in.
    query: Option<Arc<Query>>,
    limits: BodyLimits,
    readers: Arc<Semaphore>,
    /// Memory for them: apart, so that operators see something while that of requests is spent.
    answers: MemoryBudget,
}

impl HttpService {
    /// Takes in events through `endpoints`, answers questions from `query`.
    pub(super) fn new(
        intake: Arc<Intake>,
        query: Option<Arc<Query>>,
        endpoints: Vec<Arc<dyn HttpEndpoint>>,
        config: &HttpConfig,
    ) -> Self {
        let with_metrics = |endpoint: Arc<dyn HttpEndpoint>| {
            let metrics = EndpointMetrics::new(endpoint.label());
            (endpoint, metrics)
        };
        Self {
            intake,
            endpoints: endpoints.into_iter().map(with_metrics).collect(),
            query,
            limits: BodyLimits::of(config),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            answers: MemoryBudget::new(ANSWERS_BYTES_MAX),
        }
    }

    /// Answers one request. Never fails: a panic is a 500.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Answer {
        let request_id = RequestId::of(request.headers());
        let started = Instant::now();
        let path = request.uri().path();
        let claimed = self.endpoints.iter().find(|(taker, _)| taker.claims(path));
        let (answering, metrics) = match claimed {
            Some((taker, metrics)) => {
                let answering = self.take(&**taker, request, peer, &request_id);
                (futures_util::future::Either::Left(answering), metrics)
            }
            None => {
                let endpoint = endpoint(path);
                let metrics = self.intake.metrics.endpoint(endpoint);
                let asking = self.ask(endpoint, request, peer);
                (futures_util::future::Either::Right(asking), metrics)
            }
        };
        let answered = AssertUnwindSafe(answering).catch_unwind().await;
        let mut answer = answered.unwrap_or_else(|_| {
            self.intake.metrics.internal_errors.increment(1);
            tracing::error!(request_id = request_id.as_str(), "a request panicked");
            answer::refused(&Refusal::Internal)
        });
        answer.headers_mut().insert(
            HeaderName::from_static(request_id::HEADER),
            request_id.header(),
        );
        let counted = answer.extensions_mut().remove::<answer::CountedAs>();
        let status = counted.map_or_else(|| answer.status(), |counted| counted.0);
        metrics.record(status.as_u16(), started.elapsed());
        answer
    }

    async fn take(
        &self,
        taker: &dyn HttpEndpoint,
        request: Request<Incoming>,
        peer: Peer,
        request_id: &RequestId,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let allowance = ToldAllowance::default();
        let call = Call {
            head: &head,
            body,
            peer,
            request_id,
            allowance: &allowance,
        };
        let mut answer = taker.answer(call).await;
        if let Some(allowance) = allowance.into_inner() {
            answer::tell_allowance(&mut answer, allowance);
        }
        answer
    }

    /// Everything that takes in no events.
    async fn ask(&self, endpoint: Endpoint, request: Request<Incoming>, peer: Peer) -> Answer {
        let answered = match &self.query {
            Some(query) => self.ask_of(query, endpoint, request, peer).await,
            None => Err(nothing_at(request.uri().path())),
        };
        let answer = answered.unwrap_or_else(|refusal| answer::refused(&refusal));
        // Operators have shown who they are.
        if endpoint == Endpoint::Admin {
            return answer;
        }
        answer::within_budget(answer, &self.answers).unwrap_or_else(|| {
            answer::refused(&Refusal::Overloaded {
                code: "too_many_answers",
                message: "too many answers lie unread; try again",
            })
        })
    }

    async fn ask_of(
        &self,
        query: &Arc<Query>,
        endpoint: Endpoint,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Answer, Refusal> {
        let path = request.uri().path().to_owned();
        let peer = peer.address.ip();
        if endpoint == Endpoint::Admin {
            query.admin.check(request.headers(), request.uri(), peer)?;
            return self.administer(query, &path, request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) && endpoint != Endpoint::Other {
            return Err(Refusal::MethodNotAllowed("GET, HEAD"));
        }
        let parameters = query::parameters(request.uri().query());
        let ok = |value| Ok(answer::value(StatusCode::OK, &value));
        match (endpoint, path.as_str()) {
            (Endpoint::Health, "/healthz") => Ok(answer::bytes(StatusCode::OK, "text/plain", "OK")),
            (Endpoint::Health, _) => {
                let (status, value) = query::health(query);
                Ok(answer::value(status, &value))
            }
            (Endpoint::Metrics, _) => Ok(answer::bytes(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                query::metrics(query),
            )),
            (Endpoint::Status, _) => ok(query::status(query)),
            (Endpoint::Ledger, _) => ok(query::ledger(query)),
            (Endpoint::Stats, "/stats") => ok(query::totals(query)?),
            (Endpoint::Stats, "/stats/rates") => ok(query::rates(query, &parameters)?),
            (Endpoint::Stats, path) => ok(query::source(query, &decoded(path, "/stats/")?)?),
            (Endpoint::Receipts, path) => {
                let receipt = decoded(path, "/receipts/")?;
                let answer = tokio::task::block_in_place(|| query::receipt(query, &receipt))?;
                ok(answer)
            }
            (Endpoint::Events, _) => {
                query.admin.check(request.headers(), request.uri(), peer)?;
                let wanted = EventQuery::parse(&parameters)?;
                let turn = Arc::clone(&self.readers).try_acquire_owned();
                let turn = turn.map_err(|_| Refusal::Overloaded {
                    code: "too_many_readers",
                    message: "too many answers of /events are under way; try again",
                })?;
                let streams = request.headers().get(ACCEPT).is_some_and(|accept| {
                    accept
                        .to_str()
                        .is_ok_and(|accept| accept.to_ascii_lowercase().contains("ndjson"))
                });
                if streams {
                    let limited = parameters.contains_key("limit");
                    stream(Arc::clone(query), wanted, limited, turn).await
                } else {
                    page(query, wanted, turn).await
                }
            }
            (Endpoint::Admin | Endpoint::Other, path) => Err(nothing_at(path)),
        }
    }

    async fn administer(
        &self,
        query: &Query,
        path: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let method = request.method().clone();
        let parameters = query::parameters(request.uri().query());
        let body = http_body_util::Limited::new(request.into_body(), ADMIN_BODY_MAX).collect();
        let body = tokio::time::timeout(self.limits.time, body)
            .await
            .map_err(|_| Refusal::TooSlow(self.limits.time))?
            .map_err(|_| Refusal::TooLarge {
                what: "the body",
                limit: format!("{ADMIN_BODY_MAX} bytes"),
            })?
            .to_bytes();
        tokio::task::block_in_place(|| {
            query::admin::answer(query, &method, path, &parameters, &body)
        })
        .map(|value| answer::value(StatusCode::OK, &value))
    }
}

async fn page(
    query: &Query,
    wanted: EventQuery,
    turn: OwnedSemaphorePermit,
) -> Result<Answer, Refusal> {
    let page = query::events(query, &wanted).await?;
    let mut body = b"{\"events\":[".to_vec();
    for (place, event) in page.events.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        json::write_event(event, &mut body);
    }
    body.extend_from_slice(b"],\"next\":");
    match page.next {
        Some(next) => json::write_str(&next.to_string(), &mut body),
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    // The turn ends when the client has the page, or is gone.
    let page =
        futures_util::stream::unfold((Some(Bytes::from(body)), turn), |(body, turn)| async {
            Some((Ok(Frame::data(body?)), (None, turn)))
        });
    Ok(answer::stream("application/json", StreamBody::new(page)))
}

/// Every event that matches, or as many as `limit` says, one a line; read as fast as the client takes them.
async fn stream(
    query: Arc<Query>,
    mut wanted: EventQuery,
    limited: bool,
    turn: OwnedSemaphorePermit,
) -> Result<Answer, Refusal> {
    let mut left = if limited {
        u64::from(wanted.limit)
    } else {
        u64::MAX
    };
    wanted.limit = u32::try_from(left.min(STREAM_PAGE.into())).unwrap_or(STREAM_PAGE);
    wanted.max_bytes = STREAM_PAGE_BYTES;
    // The first page before the answer: an error still has a status.
    let first = query::events(&query, &wanted).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(2);
    tokio::spawn(async move {
        let _turn = turn;
        let mut page = first;
        loop {
            left = left.saturating_sub(page.events.len() as u64);
            match sender.send_timeout(lines(&page), STREAM_STALL).await {
                Ok(()) => {}
                Err(_) => return,
            }
            let (Some(next), 1..) = (page.next, left) else {
                return;
            };
            wanted.after = Some(next);
            wanted.limit = wanted.limit.min(u32::try_from(left).unwrap_or(u32::MAX));
            page = match query::events(&query, &wanted).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "a stream of events broke off");
                    return;
                }
            };
        }
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let lines = receiver.recv().await?;
        Some((Ok(Frame::data(lines)), receiver))
    });
    Ok(answer::stream(
        "application/x-ndjson",
        StreamBody::new(frames),
    ))
}

fn nothing_at(path: &str) -> Refusal {
    Refusal::NotFound(format!("there is nothing at `{path}`"))
}

fn endpoint(path: &str) -> Endpoint {
    match path {
        "/health" | "/healthz" => Endpoint::Health,
        "/metrics" => Endpoint::Metrics,
        "/status" => Endpoint::Status,
        "/ledger" => Endpoint::Ledger,
        "/events" => Endpoint::Events,
        "/stats" => Endpoint::Stats,
        _ if path.starts_with("/stats/") => Endpoint::Stats,
        _ if path.starts_with("/receipts/") => Endpoint::Receipts,
        _ if path.starts_with("/dead-letters") || path.starts_with("/replays") => Endpoint::Admin,
        _ => Endpoint::Other,
    }
}

/// What follows `prefix` in the path, percent-decoded.
fn decoded(path: &str, prefix: &str) -> Result<String, Refusal> {
    let rest = path.strip_prefix(prefix).unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(rest).decode_utf8();
    decoded.map(Into::into).map_err(|_| Refusal::BadRequest {
        code: "invalid_path",
        message: "the path is not UTF-8 once percent-decoded".into(),
    })
}

fn lines(page: &EventPage) -> Bytes {
    let mut lines = Vec::new();
    for event in &page.events {
        json::write_line(event, &mut lines);
    }
    lines.into()
}

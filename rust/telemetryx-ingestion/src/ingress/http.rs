//! Our HTTP API: which path is whose.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

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
use super::ingest;
use super::request_id::{self, RequestId};
use crate::config::HttpConfig;
use crate::intake::{Intake, Refusal};
use crate::observe::{Endpoint, HttpTimer};
use crate::query::{self, EventPage, EventQuery, Query};

/// Events read at a time for a stream of `/events`.
const STREAM_PAGE: u32 = 500;
/// Bytes read at a time for it, about.
const STREAM_PAGE_BYTES: usize = 256 << 10;
/// Answers of `/events` under way at a time: each holds a page in memory.
const READERS_MAX: usize = 16;
/// A client that takes nothing of a stream for so long has gone.
const STREAM_STALL: Duration = Duration::from_secs(30);
/// The largest body that an admin request needs.
const ADMIN_BODY_MAX: usize = 16 << 10;

/// Answers the requests of one listener; made once, shared by all connections.
pub struct HttpService {
    intake: Arc<Intake>,
    query: Arc<Query>,
    limits: BodyLimits,
    readers: Arc<Semaphore>,
}

impl HttpService {
    /// Takes in events through `intake`, answers questions from `query`.
    #[must_use]
    pub fn new(intake: Arc<Intake>, query: Arc<Query>, config: &HttpConfig) -> Self {
        let limits = BodyLimits {
            bytes: config.max_body.as_usize(),
            time: config.body_timeout.into(),
        };
        Self {
            intake,
            query,
            limits,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        }
    }

    /// Answers one request. Never fails: a panic is a 500.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let request_id = RequestId::of(request.headers());
        let endpoint = endpoint(request.uri().path());
        let timer = HttpTimer::start(endpoint);
        let answered = AssertUnwindSafe(self.route(endpoint, request, peer, &request_id))
            .catch_unwind()
            .await;
        let mut answer = answered.unwrap_or_else(|_| {
            self.intake.metrics.internal_errors.increment(1);
            tracing::error!(request_id = request_id.as_str(), "a request panicked");
            answer::refused(&Refusal::Internal)
        });
        answer.headers_mut().insert(
            HeaderName::from_static(request_id::HEADER),
            request_id.header(),
        );
        timer.stop(&self.intake.metrics, answer.status().as_u16());
        answer
    }

    async fn route(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
        peer: IpAddr,
        id: &RequestId,
    ) -> Answer {
        if endpoint == Endpoint::Ingest {
            if request.method() != Method::POST {
                return answer::refused(&Refusal::MethodNotAllowed("POST"));
            }
            return ingest::post(&self.intake, self.limits, request, peer, id).await;
        }
        self.ask(endpoint, request, peer)
            .await
            .unwrap_or_else(|refusal| answer::refused(&refusal))
    }

    /// Everything but `/ingest`.
    async fn ask(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Result<Answer, Refusal> {
        let path = request.uri().path().to_owned();
        if endpoint == Endpoint::Admin {
            self.query
                .admin
                .check(request.headers(), request.uri(), peer)?;
            return self.administer(&path, request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) && endpoint != Endpoint::Other {
            return Err(Refusal::MethodNotAllowed("GET"));
        }
        let query = &*self.query;
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
                    self.stream(wanted, parameters.contains_key("limit"), turn)
                        .await
                } else {
                    self.page(wanted, turn).await
                }
            }
            (Endpoint::Ingest | Endpoint::Admin | Endpoint::Other, path) => {
                Err(Refusal::NotFound(format!("there is nothing at `{path}`")))
            }
        }
    }

    async fn page(
        &self,
        wanted: EventQuery,
        turn: OwnedSemaphorePermit,
    ) -> Result<Answer, Refusal> {
        let page = query::events(&self.query, &wanted).await?;
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
        &self,
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
        let first = query::events(&self.query, &wanted).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(2);
        let query = Arc::clone(&self.query);
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

    async fn administer(&self, path: &str, request: Request<Incoming>) -> Result<Answer, Refusal> {
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
            query::admin::answer(&self.query, &method, path, &parameters, &body)
        })
        .map(|value| answer::value(StatusCode::OK, &value))
    }
}

fn endpoint(path: &str) -> Endpoint {
    match path {
        "/ingest" => Endpoint::Ingest,
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

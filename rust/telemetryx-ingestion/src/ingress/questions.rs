//! Everything that can be asked: which question has which answer, and who computes it.
//!
//! Only `/health` is answered by the door's own threads. All else is computed where the routes deliver, at their lower
//! priority and a few questions at a time: whoever asks much waits for himself, and never stops those who send.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::ACCEPT;
use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::Value;
use telemetryx_common::json;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

use super::answer::{self, Answer};
use super::http::nothing_at;
use super::stream::Peer;
use crate::config::{HttpConfig, Role};
use crate::intake::Refusal;
use crate::observe::Endpoint;
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
/// Questions that are computed at a time.
const AT_A_TIME: usize = 2;
/// Questions that wait for their turn.
const WAITING_MAX: usize = 256;

/// Answers the questions of one port.
pub struct Questions {
    query: Arc<Query>,
    /// Computes the answers.
    runtime: Handle,
    body_timeout: Duration,
    /// Those who show nothing of themselves.
    anybody: Queue,
    /// Those who ask for counts, which may be elsewhere.
    counts: Queue,
    /// Those who ask where events are, which takes reading the journal.
    receipts: Queue,
    /// Those who have shown that they may: strangers do not stand before them.
    operators: Queue,
    readers: Arc<Semaphore>,
}

/// Those who wait for their turn, in the order in which they came.
struct Queue {
    turns: Arc<Semaphore>,
    places: Semaphore,
}

impl Queue {
    fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            places: Semaphore::new(WAITING_MAX),
        }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let _place = self.places.try_acquire().map_err(|_| Refusal::Overloaded {
            code: "too_many_questions",
            message: "too many questions wait for their answer; try again",
        })?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        turn.map_err(|_| Refusal::Internal)
    }
}

impl Questions {
    /// Answers from `query`, computed by `runtime`.
    #[must_use]
    pub fn new(query: Arc<Query>, runtime: Handle, config: &HttpConfig) -> Self {
        Self {
            query,
            runtime,
            body_timeout: config.body_timeout.into(),
            anybody: Queue::new(),
            counts: Queue::new(),
            receipts: Queue::new(),
            operators: Queue::new(),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        }
    }

    /// Answers one question.
    pub(super) async fn answer(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Answer, Refusal> {
        let query = &self.query;
        let path = request.uri().path().to_owned();
        if let Some(role) = asked_of(endpoint, &path)
            && !query.roles.contains(&role)
        {
            return Err(Refusal::NotFound(format!(
                "this process does not have the role `{}`: ask one that has",
                role.as_str()
            )));
        }
        let peer = peer.address.ip();
        if endpoint == Endpoint::Admin {
            query.admin.check(request.headers(), request.uri(), peer)?;
            return self.administer(path, request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) && endpoint != Endpoint::Other {
            return Err(Refusal::MethodNotAllowed("GET, HEAD"));
        }
        let parameters = query::parameters(request.uri().query());
        match (endpoint, path.as_str()) {
            (Endpoint::Health, "/healthz") => Ok(answer::bytes(StatusCode::OK, "text/plain", "OK")),
            (Endpoint::Health, _) => {
                let (status, value) = query::health(query);
                Ok(answer::value(status, &value))
            }
            (Endpoint::Metrics, _) => {
                let metrics = |query: &Query| {
                    Ok(answer::bytes(
                        StatusCode::OK,
                        "text/plain; version=0.0.4; charset=utf-8",
                        query::metrics(query),
                    ))
                };
                self.compute(&self.anybody, metrics).await
            }
            (Endpoint::Status, _) => {
                let status = |query: &Query| Ok(query::status(query));
                self.ask(&self.anybody, status).await
            }
            (Endpoint::Ledger, _) => {
                let ledger = |query: &Query| Ok(query::ledger(query));
                self.ask(&self.anybody, ledger).await
            }
            (Endpoint::Stats, "/stats") => self.ask(&self.counts, query::totals).await,
            (Endpoint::Stats, "/stats/rates") => {
                let rates = move |query: &Query| {
                    let rates = query::rates(query, &parameters)?;
                    Ok(answer::bytes(StatusCode::OK, "application/json", rates))
                };
                self.compute(&self.counts, rates).await
            }
            (Endpoint::Stats, path) => {
                let source = decoded(path, "/stats/")?;
                let answer = move |query: &Query| query::source(query, &source);
                self.ask(&self.counts, answer).await
            }
            (Endpoint::Receipts, path) => {
                let receipt = decoded(path, "/receipts/")?;
                let answer = move |query: &Query| query::receipt(query, &receipt);
                self.ask(&self.receipts, answer).await
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
                let query = Arc::clone(query);
                let read = if streams {
                    let limited = parameters.contains_key("limit");
                    self.runtime.spawn(stream(query, wanted, limited, turn))
                } else {
                    self.runtime.spawn(page(query, wanted, turn))
                };
                joined(read.await)
            }
            (Endpoint::Admin | Endpoint::Other, path) => Err(nothing_at(path)),
        }
    }

    /// A question with a JSON value as answer.
    async fn ask(
        &self,
        queue: &Queue,
        answer: impl FnOnce(&Query) -> Result<Value, Refusal> + Send + 'static,
    ) -> Result<Answer, Refusal> {
        let value = |query: &Query| Ok(answer::value(StatusCode::OK, &answer(query)?));
        self.compute(queue, value).await
    }

    /// Computes an answer when its turn has come. A client that goes away in the meantime keeps its turn until it is there.
    async fn compute(
        &self,
        queue: &Queue,
        answer: impl FnOnce(&Query) -> Result<Answer, Refusal> + Send + 'static,
    ) -> Result<Answer, Refusal> {
        let turn = queue.turn().await?;
        let query = Arc::clone(&self.query);
        let computing = self.runtime.spawn_blocking(move || {
            let _turn = turn;
            answer(&query)
        });
        joined(computing.await)
    }

    async fn administer(
        &self,
        path: String,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let method = request.method().clone();
        let parameters = query::parameters(request.uri().query());
        let body = http_body_util::Limited::new(request.into_body(), ADMIN_BODY_MAX).collect();
        let body = tokio::time::timeout(self.body_timeout, body)
            .await
            .map_err(|_| Refusal::TooSlow(self.body_timeout))?
            .map_err(|_| Refusal::TooLarge {
                what: "the body",
                limit: format!("{ADMIN_BODY_MAX} bytes"),
            })?
            .to_bytes();
        let answer = move |query: &Query| {
            let value = query::admin::answer(query, &method, &path, &parameters, &body)?;
            Ok(answer::value(StatusCode::OK, &value))
        };
        self.compute(&self.operators, answer).await
    }
}

/// The role of those who answer at `path`, if not everybody does.
fn asked_of(endpoint: Endpoint, path: &str) -> Option<Role> {
    match endpoint {
        Endpoint::Health | Endpoint::Metrics | Endpoint::Status => None,
        Endpoint::Stats
        | Endpoint::Events
        | Endpoint::Receipts
        | Endpoint::Ledger
        | Endpoint::Admin => Some(Role::Query),
        Endpoint::Other => {
            let takes = ["/ingest", "/v1/", "/webhooks/"];
            takes
                .iter()
                .any(|door| path.starts_with(door))
                .then_some(Role::Ingest)
        }
    }
}

/// What a task of the other runtime has to say; its panic goes on here.
fn joined(answer: Result<Result<Answer, Refusal>, JoinError>) -> Result<Answer, Refusal> {
    answer.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Refusal::Unavailable("the service is going down".into())),
    })
}

async fn page(
    query: Arc<Query>,
    wanted: EventQuery,
    turn: OwnedSemaphorePermit,
) -> Result<Answer, Refusal> {
    let page = query::events(&query, &wanted).await?;
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

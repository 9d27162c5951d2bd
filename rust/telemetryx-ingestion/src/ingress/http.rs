//! Our HTTP API: which path is whose.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use ::http::{HeaderName, Request};
use futures_util::FutureExt;
use hyper::body::Incoming;

use super::answer::{self, Answer};
use super::http_door::{Call, ToldAllowance};
use super::protocol::HttpEndpoint;
use super::questions::Questions;
use super::request_id::{self, RequestId};
use super::stream::Peer;
use crate::admission::MemoryBudget;
use crate::intake::{Intake, Refusal};
use crate::observe::{Endpoint, EndpointMetrics};

/// Bytes of large answers to questions that may lie unread at a time; those of `/events` have a limit of their own.
const ANSWERS_BYTES_MAX: usize = 16 << 20;

/// Answers the requests of one port; made once, shared by all connections.
pub(super) struct HttpService {
    intake: Arc<Intake>,
    endpoints: Vec<(Arc<dyn HttpEndpoint>, EndpointMetrics)>,
    /// `None`: this port only takes in.
    questions: Option<Questions>,
    /// Memory for answers to them: apart, so that operators see something while that of requests is spent.
    answers: MemoryBudget,
}

impl HttpService {
    /// Takes in events through `endpoints`, answers `questions`.
    pub(super) fn new(
        intake: Arc<Intake>,
        questions: Option<Questions>,
        endpoints: Vec<Arc<dyn HttpEndpoint>>,
    ) -> Self {
        let with_metrics = |endpoint: Arc<dyn HttpEndpoint>| {
            let metrics = EndpointMetrics::new(endpoint.label());
            (endpoint, metrics)
        };
        Self {
            intake,
            endpoints: endpoints.into_iter().map(with_metrics).collect(),
            questions,
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
        let answered = match &self.questions {
            Some(questions) => questions.answer(endpoint, request, peer).await,
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
}

pub(super) fn nothing_at(path: &str) -> Refusal {
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

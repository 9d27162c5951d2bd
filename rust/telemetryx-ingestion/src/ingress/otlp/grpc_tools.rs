//! What gRPC clients ask beside exporting: `grpc.health.v1`, and reflection, so that a tool such as `grpcurl` needs no
//! `.proto` file.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::grpc;
use crate::config::HttpConfig;
use crate::ingress::answer::{self, Answer};
use crate::ingress::http_connection::HttpConnections;
use crate::ingress::http_door::Call;
use crate::ingress::protocol::{HttpEndpoint, ServeConnection, Setup};
use crate::ingress::stream::{Peer, Stream};
use crate::intake::{Intake, Refusal};

/// No question here is longer. Reflection repeats it in its answer, twice.
const QUESTION_BYTES_MAX: usize = 1 << 10;
/// Those who watch at a time; no budget knows of what a call here takes.
const WATCHES_MAX: usize = 1024;
/// Reflection calls at a time: an answer that lies unread is far longer than its question.
const REFLECTIONS_MAX: usize = 32;
/// All other calls at a time; apart, so that nobody who watches keeps others from asking.
const QUESTIONS_MAX: usize = 1024;
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.";
/// Who watches knows of a change after this time.
const WATCH_STEP: Duration = Duration::from_secs(1);
/// At the end: time for calls under way, beyond what their bodies may take.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked for; the empty name is the service as a whole.
const SERVICES: [&str; 4] = [
    "",
    "opentelemetry.proto.collector.logs.v1.LogsService",
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
];

/// Health and reflection; also answers what no call is at: "unimplemented".
pub(super) struct Tools {
    health: Arc<Health>,
    routes: Routes,
    patience: Duration,
    watches: Arc<Semaphore>,
    reflections: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

/// Whether exports would be taken.
struct Health {
    intake: Arc<Intake>,
    reporter: HealthReporter,
    /// Held while it is said, so that what is said last is what was found last.
    said: Mutex<Said>,
}

/// What was last said of the service's health.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Is(ServingStatus),
    /// It is going down.
    Closed,
}

impl Tools {
    pub(super) fn new(setup: &Setup<'_>) -> Arc<Self> {
        let (reporter, service) = tonic_health::server::health_reporter();
        let mut routes =
            Routes::new(service.max_decoding_message_size(QUESTION_BYTES_MAX)).prepare();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(opentelemetry_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => {
                routes = routes
                    .add_service(v1.max_decoding_message_size(QUESTION_BYTES_MAX))
                    .add_service(v1alpha.max_decoding_message_size(QUESTION_BYTES_MAX));
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "there is no gRPC reflection");
            }
        }
        let health = Health {
            intake: Arc::clone(setup.intake),
            reporter,
            said: Mutex::new(Said::Nothing),
        };
        let at_most = |calls| Arc::new(Semaphore::new(calls));
        Arc::new(Self {
            health: Arc::new(health),
            routes,
            patience: setup.config.http.body_timeout.into(),
            watches: at_most(WATCHES_MAX),
            reflections: at_most(REFLECTIONS_MAX),
            questions: at_most(QUESTIONS_MAX),
        })
    }
}

impl Health {
    /// Says how it is now.
    async fn update(&self) {
        let now = if self.intake.journal.status().is_ok() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        let mut said = self.said.lock().await;
        if *said != Said::Closed && *said != Said::Is(now) {
            self.say(now).await;
            *said = Said::Is(now);
        }
    }

    async fn say(&self, status: ServingStatus) {
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Ends the streams of those who watch.
    async fn close(&self) {
        let mut said = self.said.lock().await;
        *said = Said::Closed;
        self.say(ServingStatus::NotServing).await;
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            reporter.clear_service_status(service).await;
        }
    }
}

impl HttpEndpoint for Tools {
    fn label(&self) -> &'static str {
        "grpc"
    }

    fn claims(&self, _: &str) -> bool {
        true
    }

    fn answer<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        async move {
            self.health.update().await;
            let path = call.head.uri.path();
            let is_watch = path == WATCH;
            let turns = if is_watch {
                &self.watches
            } else if path.starts_with(REFLECTION) {
                &self.reflections
            } else {
                &self.questions
            };
            let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
                return grpc::refused(&Refusal::Overloaded {
                    code: "too_many_calls",
                    message: "too many such calls are under way; try again",
                });
            };
            let watched = is_watch.then(|| Arc::clone(&self.health));
            let request = Request::from_parts(call.head.clone(), call.body);
            let mut routes = self.routes.clone();
            match tokio::time::timeout(self.patience, routes.call(request)).await {
                Ok(Ok(answer)) => {
                    let (head, body) = answer.into_parts();
                    let answering = (body, watched, turn);
                    let frames = stream::unfold(answering, |(mut body, watched, turn)| async {
                        let frame = next_frame(&mut body, watched.as_deref()).await?;
                        Some((Ok::<_, Infallible>(frame), (body, watched, turn)))
                    });
                    let body = answer::stream("application/grpc", StreamBody::new(frames));
                    Answer::from_parts(head, body.into_body())
                }
                Ok(Err(never)) => match never {},
                Err(_) => grpc::refused(&Refusal::TooSlow(self.patience)),
            }
        }
        .boxed()
    }
}

/// The next frame of an answer. While somebody waits for news of the health, it is looked at; as that is done on behalf of
/// the connection, one that only watches is not idle.
async fn next_frame(
    body: &mut tonic::body::Body,
    watched: Option<&Health>,
) -> Option<Frame<Bytes>> {
    let frame = match watched {
        None => body.frame().await,
        Some(health) => loop {
            match tokio::time::timeout(WATCH_STEP, body.frame()).await {
                Ok(frame) => break frame,
                Err(_) => health.update().await,
            }
        },
    };
    // tonic tells errors in trailers; what is left breaks the answer off.
    frame?.ok()
}

/// Connections of the gRPC port. A stream that a client watches or leaves open does not hold up the end of the service.
pub(super) struct Connections {
    inner: Arc<HttpConnections>,
    tools: Arc<Tools>,
    patience: Duration,
}

impl Connections {
    pub(super) fn new(inner: HttpConnections, tools: Arc<Tools>, config: &HttpConfig) -> Self {
        Self {
            inner: Arc::new(inner),
            tools,
            patience: Duration::from(config.body_timeout) + END_PATIENCE,
        }
    }
}

impl ServeConnection for Connections {
    fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        async move {
            let mut serving = Arc::clone(&self.inner).serve(stream, peer, stop.clone());
            tokio::select! {
                () = &mut serving => return,
                () = stop.cancelled() => {}
            }
            self.tools.health.close().await;
            tokio::time::timeout(self.patience, serving).await.ok();
        }
        .boxed()
    }
}

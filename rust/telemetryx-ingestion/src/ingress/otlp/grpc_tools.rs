//! What gRPC clients ask beside exporting: `grpc.health.v1`, and reflection, so that a tool such as `grpcurl` needs no
//! `.proto` file.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::HttpConfig;
use crate::ingress::answer::{self, Answer};
use crate::ingress::http_connection::HttpConnections;
use crate::ingress::http_door::Call;
use crate::ingress::protocol::{HttpEndpoint, ServeConnection, Setup};
use crate::ingress::stream::{Peer, Stream};
use crate::intake::{Intake, Refusal};

/// No question here is longer.
const QUESTION_BYTES_MAX: usize = 16 << 10;
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
    intake: Arc<Intake>,
    health: HealthReporter,
    said: Mutex<Said>,
    routes: Routes,
    patience: Duration,
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
        let (health, service) = tonic_health::server::health_reporter();
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
        Arc::new(Self {
            intake: Arc::clone(setup.intake),
            health,
            said: Mutex::new(Said::Nothing),
            routes,
            patience: setup.config.http.body_timeout.into(),
        })
    }

    /// Says how it is now: what is asked is whether exports would be taken.
    async fn update(&self) {
        let now = if self.intake.journal.status().is_ok() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        let said = std::mem::replace(&mut *self.said.lock(), Said::Is(now));
        match said {
            Said::Closed => *self.said.lock() = Said::Closed,
            Said::Is(before) if before == now => {}
            Said::Is(_) | Said::Nothing => self.say(now).await,
        }
    }

    async fn say(&self, status: ServingStatus) {
        for service in SERVICES {
            self.health.set_service_status(service, status).await;
        }
    }

    /// Ends the streams of those who watch.
    async fn close(&self) {
        *self.said.lock() = Said::Closed;
        self.say(ServingStatus::NotServing).await;
        let mut health = self.health.clone();
        for service in SERVICES {
            health.clear_service_status(service).await;
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
            self.update().await;
            let request = Request::from_parts(call.head.clone(), call.body);
            let mut routes = self.routes.clone();
            match tokio::time::timeout(self.patience, routes.call(request)).await {
                Ok(Ok(answer)) => {
                    let (head, body) = answer.into_parts();
                    // tonic tells errors in trailers; what is left breaks the answer off.
                    let frames = futures_util::stream::unfold(body, |mut body| async {
                        let frame = body.frame().await?.ok()?;
                        Some((Ok::<_, Infallible>(frame), body))
                    });
                    let body = answer::stream("application/grpc", StreamBody::new(frames));
                    Answer::from_parts(head, body.into_body())
                }
                Ok(Err(never)) => match never {},
                Err(_) => answer::refused(&Refusal::TooSlow(self.patience)),
            }
        }
        .boxed()
    }
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
            self.tools.close().await;
            tokio::time::timeout(self.patience, serving).await.ok();
        }
        .boxed()
    }
}

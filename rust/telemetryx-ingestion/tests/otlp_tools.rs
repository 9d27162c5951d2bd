//! What gRPC clients ask beside exporting: health and reflection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use support::{Load, SOON, service};
use telemetryx_testkit::{Service, SmallDisk};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

async fn connect(service: &Service) -> Channel {
    let address = format!("http://{}", service.otlp_grpc_address());
    let endpoint = Endpoint::from_shared(address).unwrap();
    endpoint.connect().await.unwrap()
}

fn of(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

fn list_services(host: &str) -> ServerReflectionRequest {
    ServerReflectionRequest {
        host: host.to_owned(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_and_watching_does_not_hold_up_the_end() {
    let mut service = service().otlp().start();
    let channel = connect(&service).await;
    let mut health = HealthClient::new(channel.clone());
    for name in ["", "opentelemetry.proto.collector.trace.v1.TraceService"] {
        let answer = health.check(of(name)).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{name}");
    }
    assert_eq!(
        health.check(of("nobody")).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    let mut watched = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);

    let asked = futures_util::stream::iter([list_services("")]);
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(asked)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = listed
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "logs.v1.LogsService",
        "trace.v1.TraceService",
        "metrics.v1.MetricsService",
    ] {
        let name = format!("opentelemetry.proto.collector.{name}");
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(
        names.iter().any(|name| name == "grpc.health.v1.Health"),
        "{names:?}"
    );

    service.signal_term();
    assert_eq!(
        watched.message().await.unwrap().unwrap().status,
        2,
        "it goes down"
    );
    let ended = tokio::task::spawn_blocking(move || service.wait());
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(
        ended
            .expect("a watcher holds up the end")
            .unwrap()
            .success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_hears_that_the_journal_cannot_write_and_is_not_cut_off_as_idle() {
    let disk = SmallDisk::of_kib(6 * 1024);
    let service = service()
        .otlp()
        .data_dir(&disk.path().join("data"))
        .config(
            // A connection without a request is ended after three to six seconds.
            "http: { header_timeout: 500ms }
journal: { embedded: { segment_size: 256KiB } }
routes: [ { name: stats, sink: { kind: stats } },
  { name: store, sink: { kind: sqlite }, retry: { initial: 5ms, max: 50ms }, breaker: { open_for: 50ms } } ]",
        )
        .start();
    // Of its own: what others ask on their connection is none of its news.
    let mut health = HealthClient::new(connect(&service).await);
    let mut watched = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, SERVING);
    let idle = tokio::time::timeout(Duration::from_secs(8), watched.message()).await;
    assert!(idle.is_err(), "there is nothing to say: {idle:?}");

    let load = Load::start(&service, "d", 3, 10, 1000);
    let news = tokio::time::timeout(SOON, watched.message()).await;
    let news = news.expect("it is not told").unwrap().unwrap();
    assert_eq!(news.status, NOT_SERVING);
    load.stop();
    disk.resize_kib(256 * 1024);
    let news = tokio::time::timeout(SOON, watched.message()).await;
    let news = news.expect("it is not told").unwrap().unwrap();
    assert_eq!(news.status, SERVING);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answers_takes_the_turns_of_reflection_and_of_nothing_else() {
    let service = service().otlp().start();
    let channel = connect(&service).await;
    let mut client = ServerReflectionClient::new(channel.clone());
    let endless = |host: &str| {
        let ask = list_services(host);
        // It ends with what is handed back: a client that merely drops its answers leaves its own side of the call open.
        let (stays, gone) = tokio::sync::oneshot::channel();
        let rest = futures_util::stream::once(gone).filter_map(async |gone| gone.ok());
        (
            stays,
            futures_util::stream::iter([ask]).chain(Box::pin(rest)),
        )
    };
    // Longer than any question.
    let (stays, asks) = endless(&"x".repeat(2000));
    let mut answers = client
        .server_reflection_info(asks)
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await;
    assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    drop((stays, answers));

    let mut open = Vec::new();
    let refused = loop {
        let (stays, asks) = endless("");
        match client.server_reflection_info(asks).await {
            Ok(answers) => open.push((stays, answers)),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert_eq!(open.len(), 32);
    let mut health = HealthClient::new(channel);
    let answer = health.check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status, SERVING);
    drop(open);
    let begun = Instant::now();
    loop {
        let (_stays, asks) = endless("");
        match client.server_reflection_info(asks).await {
            Ok(_) => break,
            Err(refused) => assert!(begun.elapsed() < SOON, "{refused}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

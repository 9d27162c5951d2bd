//! OTLP as the OpenTelemetry SDK for Python speaks it: what it sends is stored, its retries lead to the end, and a kill
//! loses nothing. `tests/python/otlp_sdk.py` is the sender.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};
use support::python::{program, python};
use support::{Load, SOON, assert_books_balance, metric, service, settle};
use telemetryx_testkit::{Service, SmallDisk, eventually};

/// An SDK waits for up to half a minute between its tries.
const PATIENCE: Duration = Duration::from_secs(120);
const TRANSPORTS: [&str; 2] = ["http", "grpc"];

/// The SDK, sending.
struct Sdk {
    child: Child,
    said: Arc<Mutex<Vec<Value>>>,
    log: Arc<Mutex<String>>,
}

impl Sdk {
    fn start(service: &Service, what: &str, transport: &str, arguments: &[&str]) -> Self {
        let endpoint = match transport {
            "grpc" => service.otlp_grpc_address(),
            _ => service.otlp_http_address(),
        };
        let program = program("otlp_sdk.py");
        let mut child = Command::new(python())
            .args([
                program.as_str(),
                what,
                transport,
                &format!("http://{endpoint}"),
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, log) = (Arc::default(), Arc::default());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let to: Arc<Mutex<Vec<Value>>> = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                to.lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap());
            }
        });
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let to: Arc<Mutex<String>> = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = to.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, said, log }
    }

    fn said(&self) -> Vec<Value> {
        self.said.lock().unwrap().clone()
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it ends, having given up nothing.
    #[track_caller]
    fn succeed(&mut self) {
        drop(self.child.stdin.take());
        eventually(PATIENCE, "the SDK comes to its end", || {
            self.child.try_wait().unwrap().is_some()
        });
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    /// The seconds that it waited before its tries.
    fn waits(&self) -> Vec<f64> {
        let log = self.log();
        let waits = log.split("retrying in ").skip(1);
        waits
            .map(|rest| rest.split('s').next().unwrap().parse().unwrap())
            .collect()
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn events(service: &Service) -> Vec<Value> {
    settle(service);
    let headers = [("accept", "application/x-ndjson")];
    let answer = service.request("GET", "/events", &headers, b"");
    answer.expect_status(200).ndjson()
}

/// The three names on the way from a request to its records in JSON, and the type of the events.
fn names(signal: &str) -> [&'static str; 4] {
    match signal {
        "logs" => ["resourceLogs", "scopeLogs", "logRecords", "otel.log"],
        "traces" => ["resourceSpans", "scopeSpans", "spans", "otel.span"],
        _ => ["resourceMetrics", "scopeMetrics", "metrics", "otel.metric"],
    }
}

/// A request as the official types write it.
fn as_official(signal: &str, request: &[u8]) -> Value {
    match signal {
        "logs" => serde_json::to_value(ExportLogsServiceRequest::decode(request).unwrap()),
        "traces" => serde_json::to_value(ExportTraceServiceRequest::decode(request).unwrap()),
        _ => serde_json::to_value(ExportMetricsServiceRequest::decode(request).unwrap()),
    }
    .unwrap()
}

/// A payload as the official types read it, and write it again.
fn through_official(signal: &str, payload: &Value) -> Value {
    let request = json!({ names(signal)[0]: [payload] });
    let request =
        match signal {
            "logs" => serde_json::from_value::<ExportLogsServiceRequest>(request)
                .map(serde_json::to_value),
            "traces" => serde_json::from_value::<ExportTraceServiceRequest>(request)
                .map(serde_json::to_value),
            _ => serde_json::from_value::<ExportMetricsServiceRequest>(request)
                .map(serde_json::to_value),
        };
    request.unwrap().unwrap()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().unwrap()
}

/// A request taken apart: each record, or data point, in a request of its own.
fn alone(signal: &str, request: &Value) -> Vec<Value> {
    let [resources, scopes, records, _] = names(signal);
    let mut found = Vec::new();
    for resource in list(request, resources) {
        for scope in list(resource, scopes) {
            for record in list(scope, records).iter().flat_map(points) {
                let (mut resource, mut scope) = (resource.clone(), scope.clone());
                scope[records] = json!([record]);
                resource[scopes] = json!([scope]);
                found.push(json!({ resources: [resource] }));
            }
        }
    }
    found
}

/// A metric with each of its points alone; anything else as it is.
fn points(record: &Value) -> Vec<Value> {
    let fields = record.as_object().unwrap();
    let Some((kind, data)) = fields
        .iter()
        .find(|(_, data)| data.get("dataPoints").is_some())
    else {
        return vec![record.clone()];
    };
    let alone = |point| {
        let mut metric = record.clone();
        metric[kind]["dataPoints"] = json!([point]);
        metric
    };
    list(data, "dataPoints").iter().map(alone).collect()
}

fn sorted(values: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut texts: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    texts.sort();
    texts
}

#[test]
fn all_that_the_sdk_sends_is_in_events_over_both_transports() {
    let service = service().otlp().start();
    for transport in TRANSPORTS {
        let mut sdk = Sdk::start(&service, "signals", transport, &[]);
        sdk.succeed();
        let stored = events(&service);
        let source = format!("shop-{transport}");
        let mut count = 0;
        for signal in ["logs", "traces", "metrics"] {
            let of_signal = |event: &&Value| {
                event["type"] == names(signal)[3] && event["source"] == source.as_str()
            };
            let found: Vec<_> = stored.iter().filter(of_signal).collect();
            let sent = sdk
                .said()
                .into_iter()
                .filter(|said| said["signal"] == signal);
            let sent: Vec<_> = sent
                .map(|said| STANDARD.decode(said["request"].as_str().unwrap()).unwrap())
                .flat_map(|request| alone(signal, &as_official(signal, &request)))
                .collect();
            count += sent.len();
            let payloads = found
                .iter()
                .map(|event| through_official(signal, &event["payload"]));
            assert_eq!(sorted(payloads), sorted(sent), "{transport} {signal}");
            for event in found {
                assert_fields(signal, transport, event);
            }
        }
        // Three logs, four spans, and of the metrics 2 + 1 + 1 + 1 + 1 points.
        assert_eq!(count, 13, "{transport}");
    }
    assert_eq!(events(&service).len(), 26);
    assert_books_balance(&service);
}

/// What of a record becomes fields of its event.
fn assert_fields(signal: &str, transport: &str, event: &Value) {
    let has = |name: &str, expected: &str| {
        assert_eq!(event["attributes"][name], expected, "{name} of {event}");
    };
    has("service.name", &format!("shop-{transport}"));
    has("host.name", "größe");
    has("cpus", "8");
    has("load", "0.25");
    has("cloud", "true");
    assert!(event["attributes"].get("tags").is_none(), "a list is none");
    let payload = &event["payload"];
    match signal {
        "logs" => {
            has("zone", "from scope");
            has("severity", "WARN");
            has("ratio", "0.5");
            has("ok", "true");
        }
        "traces" => {
            let span = &payload["scopeSpans"][0]["spans"][0];
            let text = |name: &str| span[name].as_str().unwrap();
            has("name", text("name"));
            let is_parent = span["name"] == "checkout";
            has(
                "zone",
                if is_parent {
                    "from span"
                } else {
                    "from resource"
                },
            );
            let kind = if is_parent { "-server" } else { "" };
            let id = format!("{}-{}{kind}", text("traceId"), text("spanId"));
            assert_eq!(event["id"], id.as_str());
        }
        _ => {
            let metric = &payload["scopeMetrics"][0]["metrics"][0];
            has("name", metric["name"].as_str().unwrap());
            has("zone", "from resource");
            if metric["name"] == "orders" {
                assert!(event["attributes"]["kind"].is_string(), "{event}");
            }
        }
    }
}

#[test]
fn sdk_that_is_told_when_to_come_back_waits_so_long_and_comes_through() {
    for transport in TRANSPORTS {
        let limit = "admission: { rate_limit: { enabled: true, rps: 0.25, burst: 1 } }";
        let service = service().otlp().config(limit).start();
        let mut sdk = Sdk::start(&service, "batches", transport, &["2"]);
        sdk.succeed();
        assert_eq!(sdk.said(), [0, 1].map(|n| json!({ "batch": n })));
        let waits = sdk.waits();
        println!("{transport}: waited {waits:?}");
        // Of itself it would wait about one second before its second try.
        assert_eq!(waits.len(), 1, "{}", sdk.log());
        assert!((1.5..=4.0).contains(&waits[0]), "{waits:?}");
        assert_eq!(events(&service).len(), 2);
        assert_eq!(assert_books_balance(&service)["door"]["rate_limited"], 1);
    }
}

#[test]
fn sdk_comes_through_once_the_journal_can_write_again() {
    let disk = SmallDisk::of_kib(6 * 1024);
    let service = service()
        .otlp()
        .data_dir(&disk.path().join("data"))
        .config(
            "journal: { embedded: { segment_size: 256KiB } }
routes: [ { name: stats, sink: { kind: stats } },
  { name: store, sink: { kind: sqlite }, retry: { initial: 5ms, max: 50ms }, breaker: { open_for: 50ms } } ]",
        )
        .start();
    let load = Load::start(&service, "d", 3, 10, 1000);
    eventually(SOON, "health says that there is no space", || {
        let health = service.get("/health");
        health.status == 503 && health.json()["journal"]["state"] == "no_space"
    });
    let mut sdks = TRANSPORTS.map(|transport| Sdk::start(&service, "batches", transport, &["1"]));
    for sdk in &sdks {
        eventually(SOON, "the SDK is told to come back", || {
            !sdk.waits().is_empty()
        });
    }
    assert!(
        sdks[0].log().contains("Service Unavailable"),
        "{}",
        sdks[0].log()
    );
    assert!(sdks[1].log().contains("UNAVAILABLE"), "{}", sdks[1].log());
    load.stop();
    disk.resize_kib(256 * 1024);
    for sdk in &mut sdks {
        sdk.succeed();
    }
    let stored = events(&service);
    let found = stored.iter().filter(|event| event["source"] == "batches");
    assert_eq!(found.count(), 2);
    assert_books_balance(&service);
}

#[test]
fn kills_under_load_lose_nothing_that_the_sdk_was_told_is_taken_and_double_nothing() {
    let mut service = service().otlp().start();
    let sdks = TRANSPORTS.map(|transport| Sdk::start(&service, "load", transport, &[transport]));
    for _ in 0..2 {
        let taken = sdks.each_ref().map(|sdk| sdk.said().len());
        for (sdk, taken) in sdks.iter().zip(taken) {
            eventually(PATIENCE, "batches are taken", || {
                sdk.said().len() > taken + 100
            });
        }
        service.kill();
        service.restart();
    }
    let mut firsts = Vec::new();
    for (transport, mut sdk) in TRANSPORTS.into_iter().zip(sdks) {
        let taken = sdk.said().len();
        eventually(PATIENCE, "batches are taken again", || {
            sdk.said().len() > taken + 100
        });
        sdk.succeed();
        println!(
            "{transport}: {} batches, waits {:?}",
            sdk.said().len(),
            sdk.waits()
        );
        assert!(!sdk.waits().is_empty(), "it did not notice the kills");
        let said = sdk.said().into_iter();
        firsts.extend(said.map(|said| (transport, said["first"].as_u64().unwrap())));
    }
    let mut stored: HashMap<(String, u64), u32> = HashMap::new();
    for event in events(&service) {
        let number = event["attributes"]["number"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let source = event["source"].as_str().unwrap().to_owned();
        *stored.entry((source, number)).or_default() += 1;
    }
    let taken = firsts.iter().flat_map(|(source, first)| {
        (*first..first + 10).map(|number| ((*source).to_owned(), number))
    });
    let lost = taken.filter(|record| !stored.contains_key(record)).count();
    assert_eq!(lost, 0, "of {} batches", firsts.len());
    assert!(stored.values().all(|count| *count == 1), "stored twice");
    assert_books_balance(&service);
    assert!(metric(&service, "ingestion_requests_total") > 0.0);
}

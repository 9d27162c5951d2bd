//! How fast export requests become events, for one core: a hundred records of one resource and scope, as a batch of an SDK.
//!
//! The reference is what one would write without the tables of `ingress/otlp`: the official types, and `serde_json` for
//! the payload. It makes no events, and writes what is around a record for all of them at once.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use telemetryx_common::DecodeLimits;
use telemetryx_ingestion::ingress::otlp::Signal;
use telemetryx_ingestion::intake::Decode;

const BATCH: u32 = 100;

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

fn any(value: impl Into<String>) -> AnyValue {
    AnyValue {
        value: Some(Value::StringValue(value.into())),
    }
}

fn time(n: u32) -> u64 {
    1_735_689_600_000_000_000 + u64::from(n)
}

fn attributes(n: u32) -> Vec<KeyValue> {
    vec![
        text("http.route", "/orders/{id}"),
        text("user", format!("u-{n}")),
    ]
}

fn resource() -> Option<Resource> {
    let attributes = vec![
        text("service.name", "shop"),
        text("service.version", "1.2.3"),
        text("host.name", "node-17"),
    ];
    Some(Resource {
        attributes,
        ..Resource::default()
    })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "checkout".to_owned(),
        ..InstrumentationScope::default()
    })
}

fn logs() -> ExportLogsServiceRequest {
    let record = |n| LogRecord {
        time_unix_nano: time(n),
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: Some(any(format!("order {n} is paid"))),
        attributes: attributes(n),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs {
        scope: scope(),
        log_records: (0..BATCH).map(record).collect(),
        ..ScopeLogs::default()
    }];
    let resource_logs = vec![ResourceLogs {
        resource: resource(),
        scope_logs,
        ..ResourceLogs::default()
    }];
    ExportLogsServiceRequest { resource_logs }
}

fn traces() -> ExportTraceServiceRequest {
    let span = |n: u32| Span {
        trace_id: u128::from(n + 1).to_be_bytes().to_vec(),
        span_id: u64::from(n + 1).to_be_bytes().to_vec(),
        name: "GET /orders/{id}".to_owned(),
        kind: 2,
        start_time_unix_nano: time(n),
        end_time_unix_nano: time(n) + 1_000_000,
        attributes: attributes(n),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans {
        scope: scope(),
        spans: (0..BATCH).map(span).collect(),
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        resource: resource(),
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }
}

fn metrics() -> ExportMetricsServiceRequest {
    let point = |n: u32| NumberDataPoint {
        time_unix_nano: time(n),
        attributes: attributes(n),
        value: Some(number_data_point::Value::AsDouble(f64::from(n) / 8.0)),
        ..NumberDataPoint::default()
    };
    let gauge = Gauge {
        data_points: (0..BATCH).map(point).collect(),
    };
    let metric = Metric {
        name: "orders.open".to_owned(),
        unit: "1".to_owned(),
        data: Some(metric::Data::Gauge(gauge)),
        ..Metric::default()
    };
    let scope_metrics = vec![ScopeMetrics {
        scope: scope(),
        metrics: vec![metric],
        ..ScopeMetrics::default()
    }];
    let resource_metrics = vec![ResourceMetrics {
        resource: resource(),
        scope_metrics,
        ..ResourceMetrics::default()
    }];
    ExportMetricsServiceRequest { resource_metrics }
}

/// The number of events, and the bytes of their payloads.
fn convert(signal: Signal, body: &[u8], limits: &DecodeLimits) -> (u32, usize) {
    let (mut events, mut bytes) = (0, 0);
    signal
        .decode(black_box(body), limits, &mut |_, event| {
            let event = event.expect("the batch is sound");
            events += 1;
            bytes += black_box(&event).payload.len();
        })
        .expect("the batch is sound");
    (events, bytes)
}

fn conversion(criterion: &mut Criterion) {
    let limits = DecodeLimits::default();
    let mut group = criterion.benchmark_group("otlp");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let logs = logs();
    let body = logs.encode_to_vec();
    group.bench_function("logs_prost_serde_reference", |bench| {
        bench.iter(|| {
            let request = ExportLogsServiceRequest::decode(black_box(body.as_slice()));
            let request = request.expect("the batch is sound");
            serde_json::to_vec(&request).expect("it can be written")
        });
    });
    let json = serde_json::to_vec(&logs).expect("it can be written");
    group.bench_function("logs_from_json", |bench| {
        bench.iter(|| {
            let body = Signal::Logs.from_json(black_box(&json));
            convert(Signal::Logs, &body.expect("it is OTLP/JSON"), &limits)
        });
    });
    for (name, signal, body) in [
        ("logs", Signal::Logs, body.clone()),
        ("spans", Signal::Traces, traces().encode_to_vec()),
        ("points", Signal::Metrics, metrics().encode_to_vec()),
    ] {
        assert_eq!(convert(signal, &body, &limits).0, BATCH);
        group.bench_function(name, |bench| bench.iter(|| convert(signal, &body, &limits)));
    }
    group.finish();
}

criterion_group!(benches, conversion);
criterion_main!(benches);

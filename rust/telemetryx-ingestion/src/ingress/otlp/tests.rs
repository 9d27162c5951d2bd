//! The conversion against the official types: there and back, and equal.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, metric::Data,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message;
use telemetryx_common::{DecodeError, DecodeLimits, ErrorCode, Event, EventError};

use super::schema;
use super::wire::put_bytes_field;
use super::{Signal, from_json};
use crate::intake::Decode;

mod random;

use random::{histogram_point, log, many, maybe, metric, resource, scope, span, text};

const LIMITS: DecodeLimits = DecodeLimits {
    max_event_bytes: 1 << 20,
    max_events: 1000,
};

/// Each event, or what is wrong with it.
type Seen = Vec<Result<Event<'static>, EventError>>;

fn events(signal: Signal, body: &[u8]) -> Result<Seen, DecodeError> {
    let mut seen = Vec::new();
    signal.decode(body, &LIMITS, &mut |_, event| {
        seen.push(event.map(Event::into_owned));
    })?;
    Ok(seen)
}

/// The payload as the export request that it is when it stands alone.
fn back<M: Message + Default>(signal: Signal, list: &str, payload: &str) -> M {
    serde_json::from_str::<serde_json::Value>(payload).unwrap();
    let text = format!("{{\"{list}\":[{payload}]}}");
    let bytes = from_json::to_protobuf(signal.request(), text.as_bytes()).unwrap();
    M::decode(bytes.as_slice()).unwrap()
}

/// The metric with each of its points alone.
fn points(metric: &Metric) -> Vec<Metric> {
    macro_rules! alone {
        ($kind:ident, $data:expr) => {
            $data
                .data_points
                .iter()
                .map(|point| {
                    let mut data = $data.clone();
                    data.data_points = vec![point.clone()];
                    Data::$kind(data)
                })
                .collect::<Vec<_>>()
        };
    }
    let data = match &metric.data {
        None => Vec::new(),
        Some(Data::Gauge(data)) => alone!(Gauge, data),
        Some(Data::Sum(data)) => alone!(Sum, data),
        Some(Data::Histogram(data)) => alone!(Histogram, data),
        Some(Data::ExponentialHistogram(data)) => alone!(ExponentialHistogram, data),
        Some(Data::Summary(data)) => alone!(Summary, data),
    };
    let metric = |data| Metric {
        data: Some(data),
        ..metric.clone()
    };
    data.into_iter().map(metric).collect()
}

/// Equal as bytes: a NaN is equal to itself there.
fn assert_back<M: Message + Default>(signal: Signal, list: &str, expected: &[M], body: &[u8]) {
    let seen = events(signal, body).unwrap();
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(expected) {
        let event = seen.as_ref().unwrap();
        assert_eq!(event.event_type.as_str(), signal.event_type());
        let back: M = back(signal, list, &event.payload);
        assert_eq!(
            back.encode_to_vec(),
            expected.encode_to_vec(),
            "{}",
            event.payload
        );
    }
}

proptest! {
    #[test]
    fn logs_come_back_as_they_were(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let resource_logs = many(rng, |rng| ResourceLogs {
            resource: maybe(rng, resource),
            scope_logs: many(rng, |rng| ScopeLogs {
                scope: maybe(rng, scope),
                log_records: many(rng, log),
                schema_url: text(rng),
            }),
            schema_url: text(rng),
        });
        let mut alone = Vec::new();
        for of_resource in &resource_logs {
            for of_scope in &of_resource.scope_logs {
                for record in &of_scope.log_records {
                    let log_records = vec![record.clone()];
                    let scope_logs = vec![ScopeLogs { log_records, ..of_scope.clone() }];
                    let resource_logs = vec![ResourceLogs { scope_logs, ..of_resource.clone() }];
                    alone.push(ExportLogsServiceRequest { resource_logs });
                }
            }
        }
        let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
        assert_back(Signal::Logs, "resourceLogs", &alone, &body);
    }

    #[test]
    fn spans_come_back_as_they_were(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let resource_spans = many(rng, |rng| ResourceSpans {
            resource: maybe(rng, resource),
            scope_spans: many(rng, |rng| ScopeSpans {
                scope: maybe(rng, scope),
                spans: many(rng, span),
                schema_url: text(rng),
            }),
            schema_url: text(rng),
        });
        let mut alone = Vec::new();
        for of_resource in &resource_spans {
            for of_scope in &of_resource.scope_spans {
                for span in &of_scope.spans {
                    let spans = vec![span.clone()];
                    let scope_spans = vec![ScopeSpans { spans, ..of_scope.clone() }];
                    let resource_spans = vec![ResourceSpans { scope_spans, ..of_resource.clone() }];
                    alone.push(ExportTraceServiceRequest { resource_spans });
                }
            }
        }
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        assert_back(Signal::Traces, "resourceSpans", &alone, &body);
    }

    #[test]
    fn points_come_back_as_they_were(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let resource_metrics = many(rng, |rng| ResourceMetrics {
            resource: maybe(rng, resource),
            scope_metrics: many(rng, |rng| ScopeMetrics {
                scope: maybe(rng, scope),
                metrics: many(rng, metric),
                schema_url: text(rng),
            }),
            schema_url: text(rng),
        });
        let mut alone = Vec::new();
        for of_resource in &resource_metrics {
            for of_scope in &of_resource.scope_metrics {
                for metric in of_scope.metrics.iter().flat_map(points) {
                    let metrics = vec![metric];
                    let scope_metrics = vec![ScopeMetrics { metrics, ..of_scope.clone() }];
                    let resource_metrics =
                        vec![ResourceMetrics { scope_metrics, ..of_resource.clone() }];
                    alone.push(ExportMetricsServiceRequest { resource_metrics });
                }
            }
        }
        let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
        assert_back(Signal::Metrics, "resourceMetrics", &alone, &body);
    }

    /// Parts that are there twice, out of order, or not packed mean what they mean to `prost`.
    #[test]
    fn any_two_encodings_after_another_are_read_as_prost_reads_them(seed: u64) {
        let rng = &mut Rng::with_seed(seed);
        let parts = [histogram_point(rng), histogram_point(rng)].map(|point| point.encode_to_vec());
        let joined = parts.concat();
        let expected = HistogramDataPoint::decode(joined.as_slice()).unwrap();
        let mut text = Vec::new();
        super::to_json::JsonWriter::new(&mut text, 0, usize::MAX)
            .message(&schema::HISTOGRAM_POINT, &joined)
            .unwrap();
        let bytes = from_json::to_protobuf(&schema::HISTOGRAM_POINT, &text).unwrap();
        let found = HistogramDataPoint::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(found.encode_to_vec(), expected.encode_to_vec());
    }

    #[test]
    fn no_bytes_panic(body: Vec<u8>) {
        for signal in Signal::ALL {
            drop(events(signal, &body));
            drop(from_json::to_protobuf(signal.request(), &body));
        }
    }
}

fn payload_of(signal: Signal, body: &str) -> Event<'static> {
    let body = from_json::to_protobuf(signal.request(), body.as_bytes()).unwrap();
    events(signal, &body).unwrap().remove(0).unwrap()
}

#[test]
fn official_types_read_the_payload_too() {
    let body = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
        "scopeLogs":[{"scope":{"name":"s"},"logRecords":[{"timeUnixNano":"1700000000000000000","severityText":"WARN",
        "severityNumber":13,"body":{"stringValue":"hi"},"traceId":"5B8EFFF798038103D269B633813FC60C","unknown":[1]}]}]}]}"#;
    let event = payload_of(Signal::Logs, body);
    assert_eq!(
        (event.id.as_ref(), event.source.as_text().as_ref()),
        ("", "shop")
    );
    let found: ResourceLogs = serde_json::from_str(&event.payload).unwrap();
    let expected: ExportLogsServiceRequest = serde_json::from_str(body).unwrap();
    assert_eq!(found, expected.resource_logs[0]);
}

#[test]
fn what_is_one_value_becomes_an_attribute_and_the_nearest_wins() {
    let body = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},
        {"key":"a","value":{"stringValue":"resource"}},{"key":"b","value":{"stringValue":"resource"}}]},
        "scopeLogs":[{"scope":{"name":"s","attributes":[{"key":"a","value":{"stringValue":"scope"}},
          {"key":"c","value":{"intValue":"-7"}}]},
        "logRecords":[{"timeUnixNano":"1","severityText":"WARN","eventName":"paid","attributes":[
          {"key":"a","value":{"stringValue":"record"}},{"key":"d","value":{"doubleValue":0.5}},
          {"key":"e","value":{"boolValue":true}},{"key":"f","value":{"doubleValue":"-Infinity"}},
          {"key":"list","value":{"arrayValue":{"values":[]}}},{"key":"none"},{"key":"","value":{"intValue":1}},
          {"key":"severity","value":{"stringValue":"no"}}]}]}]}]}"#;
    let event = payload_of(Signal::Logs, body);
    let found: Vec<_> = event
        .attributes
        .iter()
        .map(|(name, text)| (name.as_ref(), text.as_ref()))
        .collect();
    assert_eq!(
        found,
        [
            ("a", "record"),
            ("b", "resource"),
            ("c", "-7"),
            ("d", "0.5"),
            ("e", "true"),
            ("f", "-Infinity"),
            ("name", "paid"),
            ("service.name", "shop"),
            ("severity", "WARN"),
        ]
    );
}

fn request_of(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

#[test]
fn a_span_is_named_by_its_ids_unless_they_are_malformed() {
    for (trace, span_id, expected) in [
        (
            vec![1; 16],
            vec![2; 8],
            format!("{}-{}", "01".repeat(16), "02".repeat(8)),
        ),
        (vec![1; 16], vec![2; 7], String::new()),
        (vec![0; 16], vec![2; 8], String::new()),
        (vec![], vec![], String::new()),
    ] {
        let span = Span {
            trace_id: trace,
            span_id,
            ..Span::default()
        };
        let seen = events(Signal::Traces, &request_of(vec![span])).unwrap();
        let event = seen[0].as_ref().unwrap();
        assert_eq!(
            (event.id.as_ref(), event.source.as_text().as_ref()),
            (expected.as_str(), "unknown")
        );
    }
}

#[test]
fn a_span_of_a_call_is_named_by_its_side_too() {
    let spans = (0..=5).map(|kind| Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        kind,
        ..Span::default()
    });
    let seen = events(Signal::Traces, &request_of(spans.collect())).unwrap();
    let ids = seen.iter().map(|event| event.as_ref().unwrap().id.as_ref());
    let both = format!("{}-{}", "01".repeat(16), "02".repeat(8));
    let expected = ["", "", "-server", "-client", "-producer", "-consumer"];
    assert!(ids.eq(expected.map(|kind| format!("{both}{kind}"))));
}

/// One attribute of eleven bytes, tag and length included.
fn small_attribute() -> Vec<u8> {
    let mut attribute = Vec::new();
    put_bytes_field(1, b"key", &mut attribute);
    put_bytes_field(2, &[0x10, 1], &mut attribute);
    attribute
}

#[test]
fn what_is_over_the_limit_of_an_event_is_refused_alone() {
    let attribute = small_attribute();
    let many = |number| {
        let mut message = Vec::new();
        for _ in 0..40_000 {
            put_bytes_field(number, &attribute, &mut message);
        }
        message
    };
    let mut point = Vec::new();
    put_bytes_field(1, &many(7), &mut point);
    put_bytes_field(1, b"", &mut point);
    let cases: [(_, _, &[u8]); 3] = [
        (Signal::Logs, many(6), b""),
        (Signal::Traces, many(9), b""),
        (Signal::Metrics, point, &[10, 0]),
    ];
    for (signal, large, small) in cases {
        let mut records = Vec::new();
        let mut one = |record: &[u8]| match signal {
            // A gauge with these points.
            Signal::Metrics => {
                let mut metric = Vec::new();
                put_bytes_field(5, record, &mut metric);
                put_bytes_field(2, &metric, &mut records);
            }
            _ => put_bytes_field(2, record, &mut records),
        };
        one(small);
        one(&large);
        one(small);
        // Of the second resource all is too much.
        let mut first = Vec::new();
        put_bytes_field(2, &records, &mut first);
        let mut second = Vec::new();
        put_bytes_field(1, &many(1), &mut second);
        put_bytes_field(2, &records, &mut second);
        let mut body = Vec::new();
        put_bytes_field(1, &first, &mut body);
        put_bytes_field(1, &second, &mut body);
        put_bytes_field(1, &first, &mut body);
        let seen = events(signal, &body).unwrap();
        let refused = |event: &Result<Event<'_>, EventError>| match event {
            Ok(event) => {
                serde_json::from_str::<serde_json::Value>(&event.payload).unwrap();
                None
            }
            Err(error) => Some((error.code, error.index)),
        };
        let found: Vec<_> = seen.iter().map(refused).collect();
        let of_first: &[bool] = match signal {
            Signal::Metrics => &[false, true, false, false],
            _ => &[false, true, false],
        };
        let is_refused = [of_first, &vec![true; of_first.len()], of_first].concat();
        let expected = (0_u32..).zip(is_refused);
        let expected: Vec<_> = expected
            .map(|(index, is)| is.then_some((ErrorCode::EventTooLarge, index)))
            .collect();
        assert_eq!(found, expected, "{signal:?}");
    }
}

/// A log record with a body of so many lists in lists, each level in two parts with a text in between.
fn nested(levels: usize) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes_field(1, b"x", &mut any);
    for _ in 0..levels {
        let (mut list, mut outer) = (Vec::new(), Vec::new());
        put_bytes_field(1, &any, &mut list);
        put_bytes_field(5, &list, &mut outer);
        put_bytes_field(5, b"", &mut outer);
        any = outer;
    }
    let mut body = Vec::new();
    put_bytes_field(5, &any, &mut body);
    for number in [2, 2, 1] {
        let inner = std::mem::take(&mut body);
        put_bytes_field(number, &inner, &mut body);
    }
    body
}

#[test]
fn values_in_values_are_refused_at_the_bound_and_read_once_only() {
    assert!(events(Signal::Logs, &nested(30)).unwrap()[0].is_ok());
    let error = events(Signal::Logs, &nested(45)).unwrap().remove(0);
    assert_eq!(error.unwrap_err().code, ErrorCode::TooDeep);
    let error = events(Signal::Logs, &nested(2000)).unwrap_err();
    assert!(error.to_string().contains("deeper than 100"), "{error}");
    let json = "{\"resourceLogs\":[{\"resource\":".repeat(10_000);
    assert!(from_json::to_protobuf(Signal::Logs.request(), json.as_bytes()).is_err());
}

#[test]
fn much_around_many_that_are_empty_is_refused_before_it_is_written_for_each() {
    let attribute = small_attribute();
    for signal in Signal::ALL {
        let (mut resource, mut of_resource) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            put_bytes_field(1, &attribute, &mut resource);
        }
        put_bytes_field(1, &resource, &mut of_resource);
        put_bytes_field(3, &[b'u'; 500_000], &mut of_resource);
        for _ in 0..1_000_000 {
            put_bytes_field(2, b"", &mut of_resource);
        }
        let mut body = Vec::new();
        put_bytes_field(1, &of_resource, &mut body);
        let error = events(signal, &body).unwrap_err();
        assert_eq!(error, DecodeError::BatchTooLarge { limit: 64 << 20 });
        assert!(error.is_too_large());
    }
}

//! Anything that OTLP can say, at random.

use fastrand::Rng;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    self as metrics, Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric,
    NumberDataPoint, SummaryDataPoint, metric::Data,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};

pub(super) fn text(rng: &mut Rng) -> String {
    let words = [
        "",
        "a",
        "größe",
        "tab\t\"quote\" \\ \u{1}",
        "日本",
        "line\nbreak",
    ];
    words[rng.usize(..words.len())].to_owned()
}

pub(super) fn bytes(rng: &mut Rng, length: usize) -> Vec<u8> {
    // Now and then an id of a length that none has.
    let length = [length, length, 0, 3][rng.usize(..4)];
    (0..length).map(|_| rng.u8(..)).collect()
}

pub(super) fn double(rng: &mut Rng) -> f64 {
    let special = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e300,
        -0.1,
        5e-324,
    ];
    special
        .get(rng.usize(..9))
        .copied()
        .unwrap_or_else(|| rng.f64() * 1e6)
}

pub(super) fn many<T>(rng: &mut Rng, mut make: impl FnMut(&mut Rng) -> T) -> Vec<T> {
    (0..rng.usize(..4)).map(|_| make(rng)).collect()
}

pub(super) fn maybe<T>(rng: &mut Rng, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    rng.bool().then(|| make(rng))
}

pub(super) fn any(rng: &mut Rng, depth: u32) -> AnyValue {
    use any_value::Value;
    let value = match rng.u32(..if depth > 3 { 7 } else { 9 }) {
        0 => None,
        1 => Some(Value::StringValue(text(rng))),
        2 => Some(Value::BoolValue(rng.bool())),
        3 => Some(Value::IntValue(rng.i64(..))),
        4 => Some(Value::DoubleValue(double(rng))),
        5 => Some(Value::BytesValue(bytes(rng, 7))),
        6 => Some(Value::StringValueStrindex(rng.i32(..))),
        7 => Some(Value::ArrayValue(ArrayValue {
            values: many(rng, |rng| any(rng, depth + 1)),
        })),
        _ => Some(Value::KvlistValue(KeyValueList {
            values: many(rng, |rng| pair(rng, depth + 1)),
        })),
    };
    AnyValue { value }
}

pub(super) fn pair(rng: &mut Rng, depth: u32) -> KeyValue {
    KeyValue {
        key: text(rng),
        value: maybe(rng, |rng| any(rng, depth)),
        key_strindex: [0, rng.i32(..)][rng.usize(..2)],
    }
}

pub(super) fn pairs(rng: &mut Rng) -> Vec<KeyValue> {
    many(rng, |rng| pair(rng, 0))
}

pub(super) fn resource(rng: &mut Rng) -> Resource {
    Resource {
        attributes: pairs(rng),
        dropped_attributes_count: rng.u32(..),
        entity_refs: many(rng, |rng| EntityRef {
            schema_url: text(rng),
            r#type: text(rng),
            id_keys: many(rng, text),
            description_keys: many(rng, text),
        }),
    }
}

pub(super) fn scope(rng: &mut Rng) -> InstrumentationScope {
    InstrumentationScope {
        name: text(rng),
        version: text(rng),
        attributes: pairs(rng),
        dropped_attributes_count: rng.u32(..),
    }
}

pub(super) fn log(rng: &mut Rng) -> LogRecord {
    LogRecord {
        time_unix_nano: rng.u64(..),
        observed_time_unix_nano: rng.u64(..),
        severity_number: rng.i32(..),
        severity_text: text(rng),
        body: maybe(rng, |rng| any(rng, 0)),
        attributes: pairs(rng),
        dropped_attributes_count: rng.u32(..),
        flags: rng.u32(..),
        trace_id: bytes(rng, 16),
        span_id: bytes(rng, 8),
        event_name: text(rng),
    }
}

pub(super) fn span(rng: &mut Rng) -> Span {
    Span {
        trace_id: bytes(rng, 16),
        span_id: bytes(rng, 8),
        trace_state: text(rng),
        parent_span_id: bytes(rng, 8),
        flags: rng.u32(..),
        name: text(rng),
        kind: rng.i32(..),
        start_time_unix_nano: rng.u64(..),
        end_time_unix_nano: rng.u64(..),
        attributes: pairs(rng),
        dropped_attributes_count: rng.u32(..),
        events: many(rng, |rng| span::Event {
            time_unix_nano: rng.u64(..),
            name: text(rng),
            attributes: pairs(rng),
            dropped_attributes_count: rng.u32(..),
        }),
        dropped_events_count: rng.u32(..),
        links: many(rng, |rng| span::Link {
            trace_id: bytes(rng, 16),
            span_id: bytes(rng, 8),
            trace_state: text(rng),
            attributes: pairs(rng),
            dropped_attributes_count: rng.u32(..),
            flags: rng.u32(..),
        }),
        dropped_links_count: rng.u32(..),
        status: maybe(rng, |rng| Status {
            message: text(rng),
            code: rng.i32(..),
        }),
    }
}

pub(super) fn exemplar(rng: &mut Rng) -> Exemplar {
    use metrics::exemplar::Value;
    Exemplar {
        filtered_attributes: pairs(rng),
        time_unix_nano: rng.u64(..),
        span_id: bytes(rng, 8),
        trace_id: bytes(rng, 16),
        value: [
            None,
            Some(Value::AsDouble(double(rng))),
            Some(Value::AsInt(rng.i64(..))),
        ][rng.usize(..3)],
    }
}

pub(super) fn number_point(rng: &mut Rng) -> NumberDataPoint {
    use metrics::number_data_point::Value;
    NumberDataPoint {
        attributes: pairs(rng),
        start_time_unix_nano: rng.u64(..),
        time_unix_nano: rng.u64(..),
        exemplars: many(rng, exemplar),
        flags: rng.u32(..),
        value: [
            None,
            Some(Value::AsDouble(double(rng))),
            Some(Value::AsInt(rng.i64(..))),
        ][rng.usize(..3)],
    }
}

pub(super) fn histogram_point(rng: &mut Rng) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: pairs(rng),
        start_time_unix_nano: rng.u64(..),
        time_unix_nano: rng.u64(..),
        count: rng.u64(..),
        sum: maybe(rng, double),
        bucket_counts: many(rng, |rng| rng.u64(..)),
        explicit_bounds: many(rng, double),
        exemplars: many(rng, exemplar),
        flags: rng.u32(..),
        min: maybe(rng, double),
        max: maybe(rng, double),
    }
}

pub(super) fn exponential_point(rng: &mut Rng) -> ExponentialHistogramDataPoint {
    let buckets = |rng: &mut Rng| metrics::exponential_histogram_data_point::Buckets {
        offset: rng.i32(..),
        bucket_counts: many(rng, |rng| rng.u64(..)),
    };
    ExponentialHistogramDataPoint {
        attributes: pairs(rng),
        start_time_unix_nano: rng.u64(..),
        time_unix_nano: rng.u64(..),
        count: rng.u64(..),
        sum: maybe(rng, double),
        scale: rng.i32(..),
        zero_count: rng.u64(..),
        positive: maybe(rng, buckets),
        negative: maybe(rng, buckets),
        flags: rng.u32(..),
        exemplars: many(rng, exemplar),
        min: maybe(rng, double),
        max: maybe(rng, double),
        zero_threshold: double(rng),
    }
}

pub(super) fn summary_point(rng: &mut Rng) -> SummaryDataPoint {
    SummaryDataPoint {
        attributes: pairs(rng),
        start_time_unix_nano: rng.u64(..),
        time_unix_nano: rng.u64(..),
        count: rng.u64(..),
        sum: double(rng),
        quantile_values: many(rng, |rng| metrics::summary_data_point::ValueAtQuantile {
            quantile: double(rng),
            value: double(rng),
        }),
        flags: rng.u32(..),
    }
}

pub(super) fn metric(rng: &mut Rng) -> Metric {
    let aggregation_temporality = rng.i32(..);
    let data = match rng.u32(..6) {
        0 => None,
        1 => Some(Data::Gauge(metrics::Gauge {
            data_points: many(rng, number_point),
        })),
        2 => Some(Data::Sum(metrics::Sum {
            data_points: many(rng, number_point),
            aggregation_temporality,
            is_monotonic: rng.bool(),
        })),
        3 => Some(Data::Histogram(metrics::Histogram {
            data_points: many(rng, histogram_point),
            aggregation_temporality,
        })),
        4 => Some(Data::ExponentialHistogram(metrics::ExponentialHistogram {
            data_points: many(rng, exponential_point),
            aggregation_temporality,
        })),
        _ => Some(Data::Summary(metrics::Summary {
            data_points: many(rng, summary_point),
        })),
    };
    Metric {
        name: text(rng),
        description: text(rng),
        unit: text(rng),
        metadata: pairs(rng),
        data,
    }
}

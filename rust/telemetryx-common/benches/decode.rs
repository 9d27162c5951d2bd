//! How fast events are read, checked, written and read back, for one core.
//!
//! The reference is what one would write without this crate: `serde_json` into a struct with borrowed fields and the
//! payload as `RawValue`. It checks less (see `scan.rs`). Figures are per batch of 100 events of the stated length; the
//! `events/s` that criterion prints as elements is what the targets are stated in.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::value::RawValue;
use telemetryx_common::{
    DecodeLimits, Event, EventIds, Timestamp, ValidationRules, decode_json, decode_ndjson,
    decode_protobuf, json, wire,
};

const BATCH: u32 = 100;
const NOW: Timestamp = Timestamp::from_unix_nanos(1_735_689_700_000_000_000);

#[derive(Deserialize)]
struct ReferenceEvent<'a> {
    id: &'a str,
    ts: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    source: &'a str,
    schema_version: u32,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn event_json(n: u32) -> String {
    format!(
        r#"{{"id":"evt-{n:09}","ts":"2025-01-01T00:00:00.{:03}Z","type":"page_view","source":"web-{}","schema_version":1,"payload":{{"path":"/home","ms":{},"user":"u-{}"}}}}"#,
        n % 1000,
        n % 5,
        n % 90 + 10,
        n % 900 + 100
    )
}

fn batch(separator: &str) -> String {
    let events: Vec<_> = (0..BATCH).map(event_json).collect();
    events.join(separator)
}

fn events(body: &[u8]) -> Vec<Event<'_>> {
    let mut events = Vec::new();
    decode_json(body, &DecodeLimits::default(), |_, event| {
        events.push(event.expect("the batch is sound"));
    })
    .expect("the batch is sound");
    events
}

fn way_in(criterion: &mut Criterion) {
    let limits = DecodeLimits::default();
    let rules = ValidationRules::default();
    let array = format!("[{}]", batch(","));
    let array = array.as_bytes();
    let mut group = criterion.benchmark_group("in");
    group.throughput(Throughput::Elements(u64::from(BATCH)));

    group.bench_function("serde_json_reference", |bench| {
        bench.iter(|| {
            let events: Vec<ReferenceEvent<'_>> =
                serde_json::from_slice(black_box(array)).expect("the batch is sound");
            for event in &events {
                black_box((event.id, event.ts, event.kind, event.source));
                black_box((event.schema_version, event.payload.get()));
            }
        });
    });
    group.bench_function("decode_json", |bench| {
        bench.iter(|| {
            decode_json(black_box(array), &limits, |_, event| {
                black_box(&event);
            })
        });
    });
    group.bench_function("decode_check_encode", |bench| {
        let mut out = Vec::with_capacity(64 << 10);
        bench.iter(|| {
            out.clear();
            decode_json(black_box(array), &limits, |_, event| {
                if let Ok(mut event) = event
                    && rules.check(&event, NOW).is_ok()
                {
                    event.received_at = NOW;
                    wire::encode_event(&event, &event.id, &mut out);
                }
            })
            .expect("the batch is sound");
            black_box(out.len())
        });
    });
    let lines = batch("\n");
    group.bench_function("decode_ndjson", |bench| {
        bench.iter(|| {
            decode_ndjson(black_box(lines.as_bytes()), &limits, |_, event| {
                black_box(&event);
            })
        });
    });
    let mut protobuf = Vec::new();
    for event in events(array) {
        wire::encode_event(&event, &event.id, &mut protobuf);
    }
    group.bench_function("decode_protobuf", |bench| {
        bench.iter(|| {
            decode_protobuf(black_box(&protobuf), &limits, |_, event| {
                black_box(&event);
            })
        });
    });
    group.finish();
}

fn way_out(criterion: &mut Criterion) {
    let array = format!("[{}]", batch(","));
    let decoded = events(array.as_bytes());
    let mut out = Vec::with_capacity(64 << 10);
    let mut group = criterion.benchmark_group("out");
    group.throughput(Throughput::Elements(u64::from(BATCH)));

    group.bench_function("wire_encode", |bench| {
        bench.iter(|| {
            out.clear();
            for event in black_box(&decoded) {
                wire::encode_event(event, &event.id, &mut out);
            }
            black_box(out.len())
        });
    });
    let stored = out.clone();
    group.bench_function("wire_read", |bench| {
        bench.iter(|| {
            for event in wire::events(black_box(&stored)) {
                black_box(&event.expect("it was just written"));
            }
        });
    });
    group.bench_function("json_write", |bench| {
        bench.iter(|| {
            out.clear();
            for event in black_box(&decoded) {
                json::write_event(event, &mut out);
            }
            black_box(out.len())
        });
    });
    group.bench_function("ids", |bench| {
        let mut buffer = [0; 36];
        bench.iter(|| {
            let ids = EventIds::fresh(black_box(NOW));
            for index in 0..BATCH {
                black_box(ids.id_for(index, &mut buffer));
            }
        });
    });
    group.finish();
}

fn timestamps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timestamp");
    for text in [
        "2025-01-01T00:00:00.123Z",
        "2025-01-01T00:00:00.123456789+02:00",
    ] {
        group.bench_function(format!("parse/{text}"), |bench| {
            bench.iter(|| Timestamp::parse(black_box(text)));
        });
        group.bench_function(format!("parse_jiff/{text}"), |bench| {
            bench.iter(|| black_box(text).parse::<jiff::Timestamp>());
        });
    }
    group.bench_function("from_epoch_number", |bench| {
        bench.iter(|| Timestamp::from_epoch_number(black_box("1735689600.123")));
    });
    let mut out = Vec::with_capacity(64);
    group.bench_function("write", |bench| {
        bench.iter(|| {
            out.clear();
            black_box(NOW).write_to(&mut out);
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group!(benches, way_in, way_out, timestamps);
criterion_main!(benches);

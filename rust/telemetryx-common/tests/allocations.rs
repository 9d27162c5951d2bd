//! What decoding allocates: nothing for common events, and never more than a small multiple of the input.

#![allow(missing_docs, clippy::unwrap_used)]
// Counting what the allocator is asked for takes an allocator, and that trait is unsafe.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use telemetryx_common::{DecodeLimits, decode_json, decode_ndjson, decode_protobuf, wire};

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system's allocator unchanged; counting touches only this thread's cells.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        LIVE.set(LIVE.get() + layout.size());
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller keeps the contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls to the allocator, and the most that was live at a time, while `work` runs.
fn measured(work: impl FnOnce()) -> (usize, usize) {
    let (calls, live) = (CALLS.get(), LIVE.get());
    PEAK.set(live);
    work();
    (CALLS.get() - calls, PEAK.get() - live)
}

fn decode_all(body: &[u8]) {
    let limits = DecodeLimits {
        max_event_bytes: usize::MAX,
        max_events: usize::MAX,
    };
    decode_json(body, &limits, |_, event| drop(event)).ok();
    decode_ndjson(body, &limits, |_, event| drop(event)).ok();
    decode_protobuf(body, &limits, |_, event| drop(event)).ok();
}

#[test]
fn common_events_allocate_nothing() {
    let event = r#"{"id":"evt-1","ts":"2025-01-01T00:00:00.123Z","type":"page_view","source":"web-1","schema_version":1,"payload":{"path":"/home"}}"#;
    let array = format!("[{}]", vec![event; 100].join(","));
    let lines = vec![event; 100].join("\n");
    let mut stored = Vec::with_capacity(1 << 16);
    let limits = DecodeLimits::default();
    let (calls, _) = measured(|| {
        decode_json(array.as_bytes(), &limits, |_, event| {
            let event = event.unwrap();
            wire::encode_event(&event, &event.id, &mut stored);
        })
        .unwrap();
        decode_ndjson(lines.as_bytes(), &limits, |_, event| drop(event.unwrap())).unwrap();
        decode_protobuf(&stored, &limits, |_, event| drop(event.unwrap())).unwrap();
        assert_eq!(wire::events(&stored).filter(Result::is_ok).count(), 100);
    });
    assert_eq!(calls, 0);
}

#[test]
fn hostile_bodies_allocate_no_more_than_a_small_multiple_of_their_size() {
    let size = 1 << 20;
    let fill = |unit: &str| unit.repeat(size / unit.len());
    let attributes: Vec<_> = (0..size / 12).map(|n| format!("\"{n}\":1")).collect();
    for body in [
        fill("["),
        fill("{\"a\":"),
        format!("{{\"ts\":1,\"payload\":{}", fill("[")),
        format!("{{\"ts\":1,\"id\":\"{}\"}}", fill("\\u0041")),
        format!("{{\"ts\":1,\"{}\":{{}}}}", fill("\\n")),
        format!("{{\"ts\":1,{}}}", attributes.join(",")),
        format!("[{}0]", fill("0,")),
        format!("[{}0]", fill("{},")),
        format!("{{\"ts\":1,\"payload\":{}}}", fill("9")),
        format!("{{\"ts\":{}}}", fill("9")),
        fill("x\n"),
        fill("\x0a\x00"),
        fill("\x0a\x7f"),
        fill("\x1b"),
    ] {
        let (_, peak) = measured(|| decode_all(body.as_bytes()));
        let start: String = body.chars().take(20).collect();
        assert!(peak <= 16 * body.len(), "{start:?}…: {peak} bytes");
    }
}

#[test]
fn hostile_bodies_are_refused_in_time_that_grows_with_their_size_only() {
    let size = 1 << 20;
    let fill = |unit: &str| unit.repeat(size / unit.len());
    let started = std::time::Instant::now();
    for body in [
        format!("{{\"ts\":1,{}\"x\":{{}}}}", fill("\"schema_vresion\":{},")),
        format!("{{\"ts\":1,{}\"x\":1}}", fill("\"colour\":1,")),
        format!(
            "{{\"ts\":1,\"attributes\":{{{}\"x\":1}}}}",
            fill("\"a\":1,")
        ),
        format!("[{}1]", fill("{\"schema_vresion\":{}},")),
        fill("{\"ts\":1,\"x\":{}\n"),
    ] {
        decode_all(body.as_bytes());
    }
    // Takes a fraction of a second; anything quadratic takes minutes.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

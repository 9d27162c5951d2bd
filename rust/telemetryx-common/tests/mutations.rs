//! A million damaged inputs through every decoder: no panic, and never more events than the input could hold.
//!
//! `TELEMETRYX_SEED=… cargo test` replays a run; every run prints its seed.

#![allow(missing_docs, clippy::unwrap_used)]

use telemetryx_common::{
    DecodeLimits, Event, EventError, decode_json, decode_ndjson, decode_protobuf, json, wire,
};

const ROUNDS: u32 = 1_000_000;

const SEEDS: [&str; 10] = [
    r#"{"id":"evt-1","ts":"2025-01-01T00:00:00.123Z","type":"page_view","source":"web-1","schema_version":1,"payload":{"path":"/","ms":12}}"#,
    r#"[{"event_id":17,"timestamp":1735689600.5,"eventType":"Heartbeat","sourceId":5},{"ts":"2025-01-01 00:00:00+02:00","data":[1e3,-0.5,true,null]}]"#,
    r#"{"events":[{"ts":1735689600123,"attributes":{"a":"b","c":"\u00e9\ud83d\ude00"},"colour":"red"}]}"#,
    "{\"ts\":1735689600}\n\n{\"ts\":\"x\"}\r\n{\"ts\":1735689601,\"payload\":\"\\n\\\"\"}\n",
    r#"{"ts":1e999,"payload":[[[[[[[[[[1]]]]]]]]]],"partition_key":"k"}"#,
    r#"[{"ts":"0000-01-01T00:00:00Z"},{"ts":"2016-12-31T23:59:60Z","payload":"\u0000"}]"#,
    "{\"ts\" : 1735689600 ,\n\t\"payload\" : { \"é\" : \"日本\" } }",
    "[]",
    "\n \x0b",
    r#"{"ts":1735689600,"metadata":{"a":{"b":[{"c":{}}]}},"x":1,"y":true}"#,
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<Vec<u8>> = SEEDS.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    for seed in SEEDS {
        let mut stored = Vec::new();
        let encode = |_: &[u8], event: Result<Event<'_>, _>| {
            if let Ok(event) = event {
                wire::encode_event(&event, "some-id", &mut stored);
            }
        };
        // Some seeds are bad on purpose.
        decode_json(seed.as_bytes(), &DecodeLimits::default(), encode).ok();
        corpus.push(stored);
    }
    corpus
}

/// Changes a few bytes: one bit, one byte, a piece cut, doubled, or taken from elsewhere.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const TELLING: &[u8] = b"{}[]\",:\\u0e+-.9\n \0\xff\x80\x0a\x42";
    for _ in 0..=random.below(4) {
        let place = random.below(input.len());
        let end = (place + random.below(12)).min(input.len());
        match random.below(7) {
            _ if input.is_empty() => input.extend_from_slice(other),
            0 => input[place] ^= 1 << random.below(8),
            1 => input[place] = TELLING[random.below(TELLING.len())],
            2 => input.insert(place, TELLING[random.below(TELLING.len())]),
            3 => drop(input.drain(place..end)),
            4 => {
                let piece = input[place..end].to_vec();
                input.splice(place..place, piece);
            }
            5 => input.truncate(end),
            _ => {
                let from = random.below(other.len());
                let to = (from + random.below(40)).min(other.len());
                input.splice(place..end, other[from..to].iter().copied());
            }
        }
    }
}

/// Looks at all of an event or a rejection, and counts it.
fn look(result: Result<Event<'_>, EventError>, out: &mut Vec<u8>, count: &mut usize) {
    *count += 1;
    out.clear();
    match result {
        Ok(event) => {
            wire::encode_event(&event, &event.id, out);
            let read = wire::events(out).next().unwrap().unwrap();
            assert_eq!(read.payload, event.payload);
        }
        Err(error) => {
            json::write_error(&error, out);
            assert!(error.message.len() < 400);
        }
    }
}

#[test]
fn a_million_damaged_inputs_make_nothing_panic() {
    let seed = match std::env::var("TELEMETRYX_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::process::id().into(),
    };
    println!("TELEMETRYX_SEED={seed}");
    let mut random = Random(seed);
    let corpus = corpus();
    let limits = DecodeLimits::default();
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let mut sound = 0_u32;
    for _ in 0..ROUNDS {
        let (which, other) = (random.below(corpus.len()), random.below(corpus.len()));
        input.clone_from(&corpus[which]);
        mutate(&mut input, &corpus[other], &mut random);
        let mut count = 0;
        let decoded = if which < SEEDS.len() {
            let lines = decode_ndjson(&input, &limits, |_, e| look(e, &mut out, &mut count));
            let json = decode_json(&input, &limits, |_, e| look(e, &mut out, &mut count));
            lines.is_ok() && json.is_ok()
        } else {
            for event in wire::events(&input).flatten() {
                assert!(event.payload.len() <= input.len().max(4));
            }
            decode_protobuf(&input, &limits, |_, e| look(e, &mut out, &mut count)).is_ok()
        };
        sound += u32::from(decoded);
        assert!(count <= 2 * input.len() + 2, "seed {seed}");
    }
    // Else the mutator only makes rubbish, and nothing behind the first check is tested.
    assert!(
        sound > ROUNDS / 20,
        "only {sound} inputs could be decoded, seed {seed}"
    );
}

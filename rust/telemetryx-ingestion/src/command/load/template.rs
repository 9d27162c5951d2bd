//! A request built once and patched in place.
//!
//! Every field that changes from one request to the next has a fixed width, so a request is the same bytes at the same
//! places each time and to make the next one is to write digits over digits:
//!
//! ```text
//! POST /ingest HTTP/1.1 … content-length: 189 ⏎⏎
//! {"id":"run-000000000007","ts":"2026-11-21T08:41:15.123Z","type":"type-0002","source":"source-000007","payload":{…}}
//!            ~~~~~~~~~~~~        ~~~~~~~~~~~~~~~~~~~~~~~~               ~~~~                  ~~~~~~
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::digits::{Clock, Odometer, TIME_PLACEHOLDER, put, put_varint, put_zeros};
use super::protocol::{Frame, Protocol};
use super::target::Target;
use super::{otlp, ring};

/// Size of a JSON event where the user asks for no particular payload; the size the project's figures are given for.
const EVENT_BYTES_DEFAULT: usize = 189;
pub(super) const ID_DIGITS: usize = 12;
pub(super) const TYPE_DIGITS: usize = 4;
pub(super) const SOURCE_DIGITS: usize = 6;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BodyFormat {
    /// One object, or an array of them.
    Json,
    /// One object a line.
    Ndjson,
    /// `telemetryx.v1.EventBatch`.
    Protobuf,
}

/// What requests look like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) protocol: Protocol,
    /// Of protocols that take several.
    pub(crate) format: BodyFormat,
    /// Lines of each request's head, like `x-api-key: …`.
    pub(crate) headers: Vec<String>,
    /// Signs requests of protocols that are signed.
    pub(crate) hmac_key: String,
    /// Events a request.
    pub(crate) batch: usize,
    /// Ids are `<prefix>-<number, 12 digits>`; without it events have none and the service assigns them.
    pub(crate) id_prefix: Option<String>,
    /// Bytes of the payload; `None`: what makes a JSON event 189 bytes.
    pub(crate) payload_bytes: Option<usize>,
    pub(crate) type_count: u32,
    pub(crate) source_count: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http,
            format: BodyFormat::Json,
            headers: Vec::new(),
            hmac_key: String::new(),
            batch: 1,
            id_prefix: None,
            payload_bytes: None,
            type_count: 5,
            source_count: 100,
        }
    }
}

impl Shape {
    /// The id of the event with this number, as it is sent.
    pub(crate) fn id(&self, number: u64) -> Option<String> {
        self.id_prefix
            .as_ref()
            .map(|prefix| format!("{prefix}-{number:0ID_DIGITS$}"))
    }

    /// The number in an id that `id` made.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        id.strip_prefix(self.id_prefix.as_deref()?)?
            .strip_prefix('-')?
            .parse()
            .ok()
    }

    /// The number in the first such id that stands in quotes in this text.
    pub(crate) fn number_within(&self, text: &str) -> Option<u64> {
        let start = format!("\"{}-", self.id_prefix.as_deref()?);
        let (_, rest) = text.split_once(&start)?;
        rest.get(..ID_DIGITS)?.parse().ok()
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        let length = self.payload_bytes.unwrap_or_else(|| {
            let mut bare = Vec::new();
            write_json_event(&mut bare, self.id_prefix.as_deref(), b"");
            EVENT_BYTES_DEFAULT.saturating_sub(bare.len()).max(2)
        });
        let open = br#"{"temperature":21.5,"unit":"C","note":""#;
        let close = br#""}"#;
        let mut payload = Vec::with_capacity(length);
        if let Some(filling) = length.checked_sub(open.len() + close.len()) {
            payload.extend_from_slice(open);
            payload.resize(open.len() + filling, b'x');
            payload.extend_from_slice(close);
        } else if length >= 2 {
            payload.push(b'"');
            payload.resize(length - 1, b'x');
            payload.push(b'"');
        } else {
            payload.push(b'0');
        }
        payload
    }
}

/// How the time of an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// RFC 3339 with milliseconds, 24 bytes.
    Text,
    /// Nanoseconds since the epoch, 8 bytes, little-endian.
    Nanos,
    /// Milliseconds since the epoch, 13 digits.
    Millis,
}

/// Where the changing fields of one event are in the request.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: Option<usize>,
    pub(super) time: usize,
    pub(super) kind: Option<usize>,
    pub(super) source: usize,
}

/// Bodies of one protocol and format: the same bytes each time but for what is in the slots.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) slots: Vec<Slot>,
    pub(super) time: Time,
    pub(super) content_type: &'static str,
}

/// One connection's request.
#[derive(Debug)]
pub(crate) struct Template {
    request: Vec<u8>,
    body_at: usize,
    /// Where the signature's digits are, and the key for it.
    signature: Option<(usize, String)>,
    slots: Vec<Slot>,
    time: Time,
    type_count: u32,
    source_count: u32,
    clock: Clock,
}

impl Template {
    pub(crate) fn new(target: &Target, shape: &Shape) -> Self {
        let body = match shape.protocol {
            Protocol::Http | Protocol::Tcp => events(shape),
            Protocol::OtlpHttp | Protocol::OtlpGrpc => otlp::logs(shape),
            Protocol::Ring => ring::notification(shape),
        };
        let length = body.bytes.len();
        let mut request = Vec::new();
        let mut signature = None;
        match shape.protocol.frame() {
            Frame::Http => {
                let line = format!(
                    "POST {} HTTP/1.1\r\nhost: {}\r\n",
                    target.path, target.address
                );
                put(&mut request, line.as_bytes());
                for header in &shape.headers {
                    put(&mut request, format!("{header}\r\n").as_bytes());
                }
                if shape.protocol == Protocol::Ring {
                    let at = put(&mut request, b"x-signature: sha256=");
                    put_zeros(&mut request, ring::SIGNATURE_DIGITS);
                    put(&mut request, b"\r\n");
                    signature = Some((at, shape.hmac_key.clone()));
                }
                let rest = format!(
                    "content-type: {}\r\ncontent-length: {length}\r\n\r\n",
                    body.content_type
                );
                put(&mut request, rest.as_bytes());
            }
            Frame::Length => {
                put(&mut request, &(length as u32).to_be_bytes());
            }
            Frame::Grpc => {
                put(&mut request, &[0]);
                put(&mut request, &(length as u32).to_be_bytes());
            }
        }
        let body_at = request.len();
        let mut slots = body.slots;
        for slot in &mut slots {
            let fields = slot.id.iter_mut().chain(&mut slot.kind);
            fields
                .chain([&mut slot.time, &mut slot.source])
                .for_each(|at| *at += body_at);
        }
        request.extend_from_slice(&body.bytes);
        Self {
            request,
            body_at,
            signature,
            slots,
            time: body.time,
            type_count: shape.type_count.clamp(1, 10_u32.pow(TYPE_DIGITS as u32)),
            source_count: shape
                .source_count
                .clamp(1, 10_u32.pow(SOURCE_DIGITS as u32)),
            clock: Clock::default(),
        }
    }

    /// The request whose first event has this number, the others the next ones, all happening `now`.
    pub(crate) fn fill(&mut self, first: u64, now: SystemTime) -> &[u8] {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let nanos = (since_epoch.as_nanos() as i64).to_le_bytes();
        let millis = Odometer::<13>::new(since_epoch.as_millis() as u64, u64::MAX);
        let time: &[u8] = match self.time {
            Time::Text => self.clock.format(since_epoch),
            Time::Nanos => &nanos,
            Time::Millis => &millis.digits,
        };

        let mut id = Odometer::<ID_DIGITS>::new(first, u64::MAX);
        let mut kind = Odometer::<TYPE_DIGITS>::new(first, u64::from(self.type_count));
        let mut source = Odometer::<SOURCE_DIGITS>::new(first, u64::from(self.source_count));
        for slot in &self.slots {
            if let Some(at) = slot.id {
                self.request[at..at + ID_DIGITS].copy_from_slice(&id.digits);
                id.advance();
            }
            self.request[slot.time..slot.time + time.len()].copy_from_slice(time);
            if let Some(at) = slot.kind {
                self.request[at..at + TYPE_DIGITS].copy_from_slice(&kind.digits);
            }
            self.request[slot.source..slot.source + SOURCE_DIGITS].copy_from_slice(&source.digits);
            kind.advance();
            source.advance();
        }
        if let Some((at, key)) = &self.signature {
            let signature = ring::signature(key, &self.request[self.body_at..]);
            self.request[*at..*at + signature.len()].copy_from_slice(signature.as_bytes());
        }
        &self.request
    }
}

/// A body as `POST /ingest` and framed TCP take it.
fn events(shape: &Shape) -> Body {
    let payload = shape.payload();
    let prefix = shape.id_prefix.as_deref();
    let mut bytes = Vec::new();
    let mut slots = Vec::with_capacity(shape.batch);
    // A frame tells JSON by its first byte and knows no NDJSON.
    let array = shape.format == BodyFormat::Json && shape.batch > 1;
    if array {
        bytes.push(b'[');
    }
    for index in 0..shape.batch {
        match shape.format {
            BodyFormat::Json if index > 0 => bytes.push(b','),
            BodyFormat::Ndjson if index > 0 => bytes.push(b'\n'),
            _ => {}
        }
        slots.push(match shape.format {
            BodyFormat::Json | BodyFormat::Ndjson => write_json_event(&mut bytes, prefix, &payload),
            BodyFormat::Protobuf => write_protobuf_event(&mut bytes, prefix, &payload),
        });
    }
    if array {
        bytes.push(b']');
    }
    let (time, content_type) = match shape.format {
        BodyFormat::Json => (Time::Text, "application/json"),
        BodyFormat::Ndjson => (Time::Text, "application/x-ndjson"),
        BodyFormat::Protobuf => (Time::Nanos, "application/x-protobuf"),
    };
    Body {
        bytes,
        slots,
        time,
        content_type,
    }
}

fn write_json_event(body: &mut Vec<u8>, id_prefix: Option<&str>, payload: &[u8]) -> Slot {
    put(body, b"{");
    let id = id_prefix.map(|prefix| {
        // Quoted as JSON wants it; the quotes around it are ours.
        let quoted = serde_json::Value::from(prefix).to_string();
        put(body, b"\"id\":");
        put(body, &quoted.as_bytes()[..quoted.len() - 1]);
        put(body, b"-");
        let at = put_zeros(body, ID_DIGITS);
        put(body, b"\",");
        at
    });
    let time = put(body, b"\"ts\":\"");
    put(body, TIME_PLACEHOLDER);
    put(body, b"\",\"type\":\"type-");
    let kind = put_zeros(body, TYPE_DIGITS);
    put(body, b"\",\"source\":\"source-");
    let source = put_zeros(body, SOURCE_DIGITS);
    put(body, b"\",\"payload\":");
    put(body, payload);
    put(body, b"}");
    Slot {
        id,
        time,
        kind: Some(kind),
        source,
    }
}

/// One element of `EventBatch.events`, tag and length before it. Every field here has a tag of one byte.
fn write_protobuf_event(body: &mut Vec<u8>, id_prefix: Option<&str>, payload: &[u8]) -> Slot {
    let mut event = Vec::new();
    let id = id_prefix.map(|prefix| {
        event.push(0x0a);
        put_varint(&mut event, prefix.len() + 1 + ID_DIGITS);
        put(&mut event, prefix.as_bytes());
        put(&mut event, b"-");
        put_zeros(&mut event, ID_DIGITS)
    });
    let time = put(&mut event, &[0x11]);
    put(&mut event, &[0; 8]);
    put(&mut event, &[0x1a, 5 + TYPE_DIGITS as u8]);
    put(&mut event, b"type-");
    let kind = put_zeros(&mut event, TYPE_DIGITS);
    put(&mut event, &[0x22, 7 + SOURCE_DIGITS as u8]);
    put(&mut event, b"source-");
    let source = put_zeros(&mut event, SOURCE_DIGITS);
    put(&mut event, &[0x4a]);
    put_varint(&mut event, payload.len());
    put(&mut event, payload);

    body.push(0x0a);
    put_varint(body, event.len());
    let start = body.len();
    put(body, &event);
    Slot {
        id: id.map(|at| at + start),
        time: time + start,
        kind: Some(kind + start),
        source: source + start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the body is in a request made here.
    fn body_range(request: &[u8]) -> std::ops::Range<usize> {
        let end = request
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        end + 4..request.len()
    }

    fn shape(format: BodyFormat, batch: usize, id_prefix: Option<&str>) -> Shape {
        Shape {
            format,
            batch,
            id_prefix: id_prefix.map(str::to_owned),
            type_count: 3,
            ..Shape::default()
        }
    }

    fn target() -> Target {
        Target::plain("127.0.0.1:8080", "/ingest")
    }

    fn at(seconds: u64, millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis)
    }

    fn body(template: &mut Template, first: u64, now: SystemTime) -> Vec<u8> {
        let request = template.fill(first, now);
        request[body_range(request)].to_vec()
    }

    #[test]
    fn single_event_is_189_bytes_with_and_without_an_id() {
        for prefix in [None, Some("run")] {
            let mut template = Template::new(&target(), &shape(BodyFormat::Json, 1, prefix));
            assert_eq!(body(&mut template, 7, at(1_700_000_000, 5)).len(), 189);
        }
    }

    #[test]
    fn request_says_its_length_and_type() {
        let mut template = Template::new(&target(), &shape(BodyFormat::Ndjson, 3, None));
        let request = template.fill(0, at(0, 0));
        let head = std::str::from_utf8(&request[..body_range(request).start])
            .unwrap()
            .to_owned();
        let length = body_range(request).len();
        assert!(
            head.starts_with("POST /ingest HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("content-length: {length}\r\n")),
            "{head}"
        );
        assert!(
            head.contains("content-type: application/x-ndjson\r\n"),
            "{head}"
        );
    }

    #[test]
    fn patching_changes_ids_times_types_and_sources_only() {
        let mut template = Template::new(&target(), &shape(BodyFormat::Json, 2, Some("a\"b")));
        let first: serde_json::Value =
            serde_json::from_slice(&body(&mut template, 98, at(1_700_000_000, 5))).unwrap();
        assert_eq!(first[0]["id"], "a\"b-000000000098");
        assert_eq!(first[0]["ts"], "2023-11-14T22:13:20.005Z");
        assert_eq!(first[0]["type"], "type-0002");
        assert_eq!(first[0]["source"], "source-000098");
        let next: serde_json::Value =
            serde_json::from_slice(&body(&mut template, 100, at(1_700_000_061, 999))).unwrap();
        assert_eq!(next[1]["id"], "a\"b-000000000101");
        assert_eq!(next[1]["ts"], "2023-11-14T22:14:21.999Z");
        assert_eq!(next[1]["type"], "type-0002");
        assert_eq!(next[1]["source"], "source-000001");
        assert_eq!(first[0]["payload"], next[1]["payload"]);
    }

    #[test]
    fn payload_has_the_size_asked_for_and_is_json() {
        for payload_bytes in [1, 2, 3, 20, 41, 42, 1000] {
            let shape = Shape {
                payload_bytes: Some(payload_bytes),
                ..shape(BodyFormat::Json, 1, None)
            };
            let payload = shape.payload();
            assert_eq!(payload.len(), payload_bytes);
            serde_json::from_slice::<serde_json::Value>(&payload).unwrap();
        }
    }

    #[test]
    fn ndjson_is_one_event_a_line() {
        let mut template = Template::new(&target(), &shape(BodyFormat::Ndjson, 4, Some("n")));
        let body = String::from_utf8(body(&mut template, 9, at(0, 0))).unwrap();
        let ids: Vec<_> = body
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].to_string())
            .collect();
        assert_eq!(
            ids,
            [
                "\"n-000000000009\"",
                "\"n-000000000010\"",
                "\"n-000000000011\"",
                "\"n-000000000012\""
            ]
        );
    }

    #[test]
    fn protobuf_is_what_the_contract_reads() {
        use prost::Message;
        let shape = Shape {
            payload_bytes: Some(300),
            ..shape(BodyFormat::Protobuf, 2, Some("p"))
        };
        let mut template = Template::new(&target(), &shape);
        let bytes = body(&mut template, 41, at(1_700_000_000, 5));
        let batch = telemetryx_proto::v1::EventBatch::decode(bytes.as_slice()).unwrap();
        assert_eq!(batch.events.len(), 2);
        assert_eq!(batch.events[1].id, "p-000000000042");
        assert_eq!(batch.events[1].time_unix_nano, 1_700_000_000_005_000_000);
        assert_eq!(batch.events[1].r#type, "type-0000");
        assert_eq!(batch.events[1].payload.len(), 300);
        assert_eq!(batch.encode_to_vec(), bytes);
    }

    #[test]
    fn ids_are_read_back_as_numbers() {
        let shape = shape(BodyFormat::Json, 1, Some("run-7"));
        assert_eq!(shape.number(&shape.id(123).unwrap()), Some(123));
        assert_eq!(shape.number("other-000000000123"), None);
        let text = r#"{"key":"id","value":{"stringValue":"run-7-000000000123"}}"#;
        assert_eq!(shape.number_within(text), Some(123));
        assert_eq!(
            shape.number_within(r#"{"value":"run-77-000000000123"}"#),
            None
        );
    }
}

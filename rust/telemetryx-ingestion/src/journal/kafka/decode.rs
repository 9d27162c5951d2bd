//! A message of the topic as an event of the journal. Whoever may write to the topic may write anything.

use rdkafka::Timestamp as Stamp;
use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;
use telemetryx_common::{DecodeLimits, Event, Timestamp, decode_json, wire};

/// A message, as an entry of a `telemetryx.v1.EventBatch`.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) offset: u64,
    /// Tag, length and event.
    pub(super) bytes: Vec<u8>,
    /// False if it is no event: then the bytes are those of the message.
    pub(super) is_event: bool,
}

/// Reads a message.
pub(super) fn entry(message: &BorrowedMessage<'_>) -> Entry {
    let offset = u64::try_from(message.offset()).unwrap_or_default();
    let accepted = match message.timestamp() {
        Stamp::CreateTime(millis) | Stamp::LogAppendTime(millis) => {
            Timestamp::from_unix_nanos(millis.saturating_mul(1_000_000))
        }
        Stamp::NotAvailable => Timestamp::UNIX_EPOCH,
    };
    let name = || format!("{}-{}-{offset}", message.topic(), message.partition());
    let (bytes, is_event) = read(message.payload().unwrap_or_default(), accepted, name);
    Entry {
        offset,
        bytes,
        is_event,
    }
}

/// What the service adds to each event is added to those that did not come through it: an id, and when they came.
fn read(value: &[u8], accepted: Timestamp, name: impl Fn() -> String) -> (Vec<u8>, bool) {
    // No field of an event begins with this byte.
    if value.first() == Some(&b'{') {
        if let Some(bytes) = from_json(value, accepted, &name) {
            return (bytes, true);
        }
        return (wire::batch_of(value), false);
    }
    let bytes = wire::batch_of(value);
    if value.is_empty() {
        // Bytes of no event, so that nobody takes it for one with every field at its default.
        return (Vec::new(), false);
    }
    let completed = match wire::events(&bytes).next() {
        Some(Ok(event)) => {
            if event.received_at != Timestamp::UNIX_EPOCH && !event.id.is_empty() {
                None
            } else {
                Some(complete(event, accepted, &name))
            }
        }
        _ => return (bytes, false),
    };
    (completed.unwrap_or(bytes), true)
}

fn from_json(value: &[u8], accepted: Timestamp, name: &impl Fn() -> String) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Received<'a> {
        #[serde(borrow)]
        received_at: Option<std::borrow::Cow<'a, str>>,
    }
    let limits = DecodeLimits {
        max_event_bytes: usize::MAX,
        max_events: 1,
    };
    let mut read = None;
    let decoded = decode_json(value, &limits, |_, event| read = event.ok());
    let mut event = decoded.ok().and(read)?;
    let received = serde_json::from_slice::<Received<'_>>(value).ok();
    let received = received.and_then(|received| received.received_at);
    event.received_at = received
        .and_then(|text| Timestamp::parse(&text).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    Some(complete(event, accepted, name))
}

fn complete(mut event: Event<'_>, accepted: Timestamp, name: &impl Fn() -> String) -> Vec<u8> {
    if event.received_at == Timestamp::UNIX_EPOCH {
        event.received_at = accepted;
    }
    if event.id.is_empty() {
        event.id = name().into();
    }
    let mut bytes = Vec::new();
    wire::encode_event(&event, &event.id, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use telemetryx_common::json;

    use super::*;

    fn event() -> Event<'static> {
        let mut event = Event::new(Timestamp::from_unix_nanos(1_700_000_000_123_456_789));
        event.id = "7".into();
        event.payload = r#"{"a": [1, 2 ]}"#.into();
        event.attributes = vec![("traceparent".into(), "00-1-2-01".into())];
        event.received_at = Timestamp::from_unix_nanos(1_700_000_001_000_000_001);
        event
    }

    fn read_alone(value: &[u8]) -> (Vec<u8>, bool) {
        read(value, Timestamp::from_unix_nanos(5), || "t-0-9".to_owned())
    }

    #[test]
    fn both_forms_come_back_as_they_were_accepted() {
        let (mut message, mut text) = (Vec::new(), Vec::new());
        wire::encode_message(&event(), &mut message);
        json::write_event(&event(), &mut text);
        let expected = wire::batch_of(&message);
        assert_eq!(read_alone(&message), (expected.clone(), true));
        assert_eq!(read_alone(&text), (expected, true));
    }

    #[test]
    fn what_others_wrote_is_completed_or_no_event() {
        let (bytes, is_event) = read_alone(br#"{"ts":"2026-01-02T03:04:05Z","payload":1}"#);
        assert!(is_event);
        let event = wire::events(&bytes).next().unwrap().unwrap();
        assert_eq!((&*event.id, event.received_at.unix_nanos()), ("t-0-9", 5));
        for other in [&b"{"[..], b"{}", b"\xff\xff\xff", b"text", b""] {
            let (bytes, is_event) = read_alone(other);
            assert!(!is_event, "{other:?}");
            let framed = if other.is_empty() {
                Vec::new()
            } else {
                wire::batch_of(other)
            };
            assert_eq!(bytes, framed);
        }
    }
}

//! A message of the topic as an event of the journal. Whoever may write to the topic may write anything.

use rdkafka::Timestamp as Stamp;
use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;
use telemetryx_common::{DecodeLimits, Event, Timestamp, decode_json, wire};

/// Appends a message to the entries of a `telemetryx.v1.EventBatch`: tag, length and event. False if it is no event: then
/// the bytes of the message stand in its place.
pub(super) fn append(message: &BorrowedMessage<'_>, entries: &mut Vec<u8>) -> bool {
    let accepted = || match message.timestamp() {
        Stamp::CreateTime(millis) | Stamp::LogAppendTime(millis) => {
            Timestamp::from_unix_nanos(millis.saturating_mul(1_000_000))
        }
        Stamp::NotAvailable => Timestamp::UNIX_EPOCH,
    };
    let name = || {
        let (topic, partition) = (message.topic(), message.partition());
        format!("{topic}-{partition}-{}", message.offset())
    };
    read(
        message.payload().unwrap_or_default(),
        &accepted,
        &name,
        entries,
    )
}

/// What the service adds to each event is added to those that did not come through it: when they came, and an id.
fn read(
    value: &[u8],
    accepted: &impl Fn() -> Timestamp,
    name: &impl Fn() -> String,
    entries: &mut Vec<u8>,
) -> bool {
    let complete = |mut event: Event<'_>, entries: &mut Vec<u8>| {
        if event.received_at == Timestamp::UNIX_EPOCH {
            event.received_at = accepted();
        }
        if event.id.is_empty() {
            event.id = name().into();
        }
        wire::encode_event(&event, &event.id, entries);
    };
    if value.is_empty() {
        // Bytes of no event, so that nobody takes it for one with every field at its default.
        return false;
    }
    // No field of an event begins with this byte.
    if value.first() == Some(&b'{') {
        let event = from_json(value);
        let is_event = event.is_some();
        match event {
            Some(event) => complete(event, entries),
            None => wire::append_message(value, entries),
        }
        return is_event;
    }
    let begun = entries.len();
    wire::append_message(value, entries);
    let written = entries.get(begun..).unwrap_or_default();
    let lacking = match wire::events(written).next() {
        Some(Ok(event)) => event.received_at == Timestamp::UNIX_EPOCH || event.id.is_empty(),
        _ => return false,
    };
    if lacking {
        let alone = entries.split_off(begun);
        if let Some(Ok(event)) = wire::events(&alone).next() {
            complete(event, entries);
        }
    }
    true
}

fn from_json(value: &[u8]) -> Option<Event<'_>> {
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
    Some(event)
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

    /// What is appended behind something else.
    fn read_alone(value: &[u8]) -> (Vec<u8>, bool) {
        let mut entries = b"before".to_vec();
        let name = || "t-0-9".to_owned();
        let is_event = read(
            value,
            &|| Timestamp::from_unix_nanos(5),
            &name,
            &mut entries,
        );
        let added = entries.split_off(b"before".len());
        assert_eq!(entries, b"before");
        (added, is_event)
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

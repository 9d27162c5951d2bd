//! An event and its parts, borrowed from whatever bytes it was read from.
//!
//! Nothing here parses or prints: `decode` makes events from requests, `wire` from the journal, `json` writes them.

use std::borrow::Cow;
use std::fmt;

use crate::{FieldSet, Timestamp};

/// The name of the one core type.
const HEARTBEAT: &str = "Heartbeat";

/// One event, with defaults filled in.
///
/// Text that needs no unescaping borrows from the bytes the event was read from; [`Event::into_owned`] cuts that tie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Unique name of the event, at most 128 bytes. Empty: not given.
    pub id: Cow<'a, str>,
    /// When it happened.
    pub ts: Timestamp,
    /// What happened.
    pub event_type: EventType<'a>,
    /// Who sent it.
    pub source: Source<'a>,
    /// Version of the payload's schema, at least 1.
    pub schema_version: u32,
    /// Events of one key keep their order. `None`: the source is the key, see [`Event::key`].
    pub partition_key: Option<Cow<'a, str>>,
    /// Small facts about the event. As decoded: sorted by name, and each name once.
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// JSON text, byte for byte as it was sent.
    pub payload: Cow<'a, str>,
    /// When the service accepted it. The decoders leave it at the epoch: the service sets it.
    pub received_at: Timestamp,
    /// Which fields were given, as opposed to filled in.
    pub given: FieldSet,
}

impl Event<'_> {
    /// An event with every field but `ts` at its default.
    #[must_use]
    pub fn new(ts: Timestamp) -> Event<'static> {
        Event {
            id: Cow::Borrowed(""),
            ts,
            event_type: EventType::DEFAULT,
            source: Source::DEFAULT,
            schema_version: 1,
            partition_key: None,
            attributes: Vec::new(),
            payload: Cow::Borrowed("null"),
            received_at: Timestamp::UNIX_EPOCH,
            given: FieldSet::TS,
        }
    }

    /// The value of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_ref())
    }

    /// The key that orders this event: its partition key, else its source as text.
    #[must_use]
    pub fn key(&self) -> Cow<'_, str> {
        match &self.partition_key {
            Some(key) => Cow::Borrowed(key),
            None => self.source.as_text(),
        }
    }

    /// The same event, owning its text.
    #[must_use]
    pub fn into_owned(self) -> Event<'static> {
        Event {
            id: owned(self.id),
            ts: self.ts,
            event_type: self.event_type.into_owned(),
            source: self.source.into_owned(),
            schema_version: self.schema_version,
            partition_key: self.partition_key.map(owned),
            attributes: self
                .attributes
                .into_iter()
                .map(|(name, value)| (owned(name), owned(value)))
                .collect(),
            payload: owned(self.payload),
            received_at: self.received_at,
            given: self.given,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EventType<'a> {
    /// The sender lives. The one type that the service itself knows.
    Heartbeat,
    /// Any other type, by its name. Never `Heartbeat`: [`EventType::from_name`] sees to it.
    Custom(Cow<'a, str>),
}

impl<'a> EventType<'a> {
    /// The type of an event that names none.
    pub const DEFAULT: Self = EventType::Custom(Cow::Borrowed("event"));

    /// The type of that name.
    #[must_use]
    #[inline]
    pub fn from_name(name: Cow<'a, str>) -> Self {
        if name == HEARTBEAT {
            EventType::Heartbeat
        } else {
            EventType::Custom(name)
        }
    }

    /// The name of the type.
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        match self {
            EventType::Heartbeat => HEARTBEAT,
            EventType::Custom(name) => name,
        }
    }

    /// The same type, owning its name.
    #[must_use]
    pub fn into_owned(self) -> EventType<'static> {
        match self {
            EventType::Heartbeat => EventType::Heartbeat,
            EventType::Custom(name) => EventType::Custom(owned(name)),
        }
    }
}

impl fmt::Display for EventType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who sent an event: a name, or a number that stays a number wherever it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source<'a> {
    /// By name, at most 256 bytes, never empty.
    Name(Cow<'a, str>),
    /// By number.
    Number(u64),
}

impl Source<'_> {
    /// The source of an event that names none.
    pub const DEFAULT: Self = Source::Name(Cow::Borrowed("unknown"));

    /// The source as text, borrowed where it is a name.
    #[must_use]
    pub fn as_text(&self) -> Cow<'_, str> {
        match self {
            Source::Name(name) => Cow::Borrowed(name),
            Source::Number(number) => Cow::Owned(number.to_string()),
        }
    }

    /// The same source, owning its name.
    #[must_use]
    pub fn into_owned(self) -> Source<'static> {
        match self {
            Source::Name(name) => Source::Name(owned(name)),
            Source::Number(number) => Source::Number(number),
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Name(name) => f.write_str(name),
            Source::Number(number) => number.fmt(f),
        }
    }
}

/// Text that lives as long as it needs to. `'static` text is copied too: it cannot be told apart.
fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_is_the_only_core_type() {
        assert_eq!(
            EventType::from_name("Heartbeat".into()),
            EventType::Heartbeat
        );
        assert_eq!(
            EventType::from_name("heartbeat".into()).as_str(),
            "heartbeat"
        );
    }

    #[test]
    fn key_is_the_partition_key_or_else_the_source() {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        assert_eq!(event.key(), "unknown");
        event.source = Source::Number(7);
        assert_eq!(event.key(), "7");
        event.partition_key = Some("tenant-1".into());
        assert_eq!(event.key(), "tenant-1");
    }
}

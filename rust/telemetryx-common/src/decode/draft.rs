//! An event while it is read, and the rules that all formats share.

use std::borrow::Cow;
use std::fmt;

use super::{MAX_ID_BYTES, MAX_SOURCE_BYTES, MAX_TYPE_BYTES};
use crate::scan::Fault;
use crate::{ErrorCode, Event, EventError, EventType, FieldSet, Source, Timestamp};

/// An event that may still turn out bad. The first fault counts; reading goes on to find the event's end.
pub(super) struct Draft<'a> {
    pub(super) event: Event<'a>,
    error: Option<Box<EventError>>,
    /// Where the text that is read begins in the body: positions in messages are counted from the body's start.
    base: usize,
}

impl<'a> Draft<'a> {
    #[inline]
    pub(super) fn new(base: usize) -> Self {
        let mut event = Event::new(Timestamp::UNIX_EPOCH);
        event.given = FieldSet::EMPTY;
        Draft::from_event(event, base)
    }

    #[inline]
    pub(super) fn from_event(event: Event<'a>, base: usize) -> Self {
        let error = None;
        Draft { event, error, base }
    }

    /// Whether something was wrong already: what else is wrong need not be put into words.
    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Notes what is wrong with a field, unless something was wrong before.
    #[cold]
    pub(super) fn fail(
        &mut self,
        field: impl Into<Cow<'static, str>>,
        code: ErrorCode,
        offset: usize,
        message: impl fmt::Display,
    ) {
        if self.error.is_none() {
            let message = format!("{message} (byte {} of the body)", self.base + offset);
            self.error = Some(Box::new(EventError::new(field, code, message)));
        }
    }

    /// Notes a fault that the scanner found in a field.
    #[cold]
    pub(super) fn fail_with(&mut self, field: impl Into<Cow<'static, str>>, fault: Fault) {
        let field = field.into();
        let message = match field.as_ref() {
            "" => fault.message.to_owned(),
            name => format!("`{name}`: {}", fault.message),
        };
        self.fail(field, fault.code, fault.offset, message);
    }

    /// Takes the id. Empty: as if it were not given.
    #[inline]
    pub(super) fn set_id(&mut self, id: Cow<'a, str>, offset: usize) {
        if id.is_empty() {
            return;
        }
        if id.len() > MAX_ID_BYTES {
            self.too_long("id", id.len(), MAX_ID_BYTES, offset);
        }
        self.event.given.insert(FieldSet::ID);
        self.event.id = id;
    }

    /// Takes the type. Empty: as if it were not given.
    #[inline]
    pub(super) fn set_type(&mut self, name: Cow<'a, str>, offset: usize) {
        if name.is_empty() {
            return;
        }
        if name.len() > MAX_TYPE_BYTES {
            self.too_long("type", name.len(), MAX_TYPE_BYTES, offset);
        }
        self.event.given.insert(FieldSet::TYPE);
        self.event.event_type = EventType::from_name(name);
    }

    /// Takes the source. An empty name: as if it were not given.
    #[inline]
    pub(super) fn set_source(&mut self, source: Source<'a>, offset: usize) {
        if let Source::Name(name) = &source {
            if name.is_empty() {
                return;
            }
            if name.len() > MAX_SOURCE_BYTES {
                self.too_long("source", name.len(), MAX_SOURCE_BYTES, offset);
            }
        }
        self.event.given.insert(FieldSet::SOURCE);
        self.event.source = source;
    }

    /// Takes the partition key. Empty: as if it were not given.
    pub(super) fn set_partition_key(&mut self, key: Cow<'a, str>) {
        if !key.is_empty() {
            self.event.given.insert(FieldSet::PARTITION_KEY);
            self.event.partition_key = Some(key);
        }
    }

    /// Takes the payload.
    #[inline]
    pub(super) fn set_payload(&mut self, payload: &'a str) {
        self.event.given.insert(FieldSet::PAYLOAD);
        self.event.payload = Cow::Borrowed(payload);
    }

    /// The limits of the fields that were set past the setters.
    #[inline]
    pub(super) fn check_lengths(&mut self, offset: usize) {
        let source = match &self.event.source {
            Source::Name(name) => name.len(),
            Source::Number(_) => 0,
        };
        let lengths = [
            ("id", self.event.id.len(), MAX_ID_BYTES),
            ("type", self.event.event_type.as_str().len(), MAX_TYPE_BYTES),
            ("source", source, MAX_SOURCE_BYTES),
        ];
        for (field, length, limit) in lengths {
            if length > limit {
                self.too_long(field, length, limit, offset);
            }
        }
    }

    #[cold]
    fn too_long(&mut self, field: &'static str, length: usize, limit: usize, offset: usize) {
        let message =
            format_args!("`{field}` is {length} bytes long: it may have {limit} bytes at most");
        self.fail(field, ErrorCode::TooLong, offset, message);
    }

    /// Sorts the attributes by name, as the stored form has them, and finds names given twice.
    #[inline]
    pub(super) fn sort_attributes(&mut self, offset: usize) {
        if self.event.attributes.len() > 1 {
            self.sort_many_attributes(offset);
        }
    }

    fn sort_many_attributes(&mut self, offset: usize) {
        let attributes = &mut self.event.attributes;
        attributes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let twice = attributes
            .array_windows()
            .find(|[(a, _), (b, _)]| a == b)
            .map(|[(name, _), _]| shorten(name));
        if let Some(name) = twice {
            let message = format!("attribute `{name}` is given twice");
            self.fail(name, ErrorCode::DuplicateField, offset, message);
        }
    }

    /// The event, or why not. `raw` are its bytes in the body.
    #[inline]
    pub(super) fn finish(mut self, index: u32, offset: usize) -> Result<Event<'a>, EventError> {
        if !self.event.given.contains(FieldSet::TS) {
            let message = "`ts` is missing: when did the event happen?";
            self.fail("ts", ErrorCode::MissingField, offset, message);
        }
        match self.error {
            None => Ok(self.event),
            Some(error) => Err(error.at(index)),
        }
    }
}

/// A client's name for something, short enough for a message.
#[cold]
pub(super) fn shorten(name: &str) -> String {
    const MAX: usize = 64;
    if name.len() <= MAX {
        return name.to_owned();
    }
    let end = name.floor_char_boundary(MAX);
    format!("{}…", name.get(..end).unwrap_or_default())
}

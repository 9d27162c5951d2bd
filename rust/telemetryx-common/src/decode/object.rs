//! One event as a JSON object: its fields, their aliases, and what becomes an attribute.

use std::borrow::Cow;

use super::draft::{Draft, shorten};
use crate::scan::{Broken, Key, Kind, Scanner};
use crate::{ErrorCode, FieldSet, Source, Timestamp};

/// How deep the values of an event's fields stand: the event is level 0, and may have `MAX_DEPTH` levels.
const FIELD_LEVEL: usize = 1;

/// Reads one event into the draft. The scanner stands before it, and afterwards behind it, also if the event is bad.
#[inline]
pub(super) fn read_event<'a>(
    scanner: &mut Scanner<'a>,
    draft: &mut Draft<'a>,
) -> Result<(), Broken> {
    let start = scanner.pos();
    if !scanner.eat(b'{') {
        return read_other(scanner, draft);
    }
    scanner.skip_whitespace();
    let mut seen = FieldSet::EMPTY;
    if !scanner.eat(b'}') {
        loop {
            read_field(scanner, draft, &mut seen)?;
            if !scanner.another_key()? {
                break;
            }
        }
    }
    draft.sort_attributes(start);
    Ok(())
}

/// Steps over a value that is no event.
#[cold]
fn read_other(scanner: &mut Scanner<'_>, draft: &mut Draft<'_>) -> Result<(), Broken> {
    let start = scanner.pos();
    let kind = scanner.value(0)?;
    if let Some(fault) = scanner.take_fault() {
        draft.fail_with("", fault);
    }
    let message = format_args!("an event is a JSON object, not {}", kind.name());
    draft.fail("", ErrorCode::InvalidType, start, message);
    Ok(())
}

/// Reads a key and its value.
#[inline(always)]
fn read_field<'a>(
    scanner: &mut Scanner<'a>,
    draft: &mut Draft<'a>,
    seen: &mut FieldSet,
) -> Result<(), Broken> {
    let key = scanner.key()?;
    let field = match scanner.plain_key(key) {
        Some(text) => FieldSet::from_key(text.as_bytes()),
        None => FieldSet::from_key(scanner.key_text(key).as_bytes()),
    };
    let Some(field) = field else {
        return read_unknown(scanner, draft, key);
    };
    if seen.contains(field) {
        fail_duplicate(draft, field, key.start);
    }
    seen.insert(field);

    let start = scanner.pos();
    if field == FieldSet::ATTRIBUTES && scanner.peek() == b'{' {
        read_attributes(scanner, draft)?;
    } else {
        let kind = scanner.value(FIELD_LEVEL)?;
        let end = scanner.pos();
        match kind {
            Kind::String => {
                let text = Cow::Borrowed(scanner.slice(start + 1, end - 1));
                set_text(draft, field, text, scanner.slice(start, end), start);
            }
            Kind::EscapedString => set_escaped(scanner, draft, field, start),
            _ => set_other(draft, field, kind, scanner.slice(start, end), start),
        }
    }
    if let Some(fault) = scanner.take_fault() {
        draft.fail_with(field.first_name(), fault);
    }
    Ok(())
}

/// Gives the draft the string that was scanned from `start` on; `raw` is the same with its quotes.
#[inline(always)]
fn set_text<'a>(
    draft: &mut Draft<'a>,
    field: FieldSet,
    text: Cow<'a, str>,
    raw: &'a str,
    start: usize,
) {
    match field {
        FieldSet::ID => draft.set_id(text, start),
        FieldSet::TS => set_time(draft, Timestamp::parse(&text), start),
        FieldSet::TYPE => draft.set_type(text, start),
        FieldSet::SOURCE => draft.set_source(Source::Name(text), start),
        FieldSet::PARTITION_KEY => draft.set_partition_key(text),
        FieldSet::PAYLOAD => draft.set_payload(raw),
        FieldSet::RECEIVED_AT => {}
        _ => fail_type(draft, field, Kind::String, start),
    }
}

#[cold]
#[inline(never)]
fn set_escaped<'a>(scanner: &Scanner<'a>, draft: &mut Draft<'a>, field: FieldSet, start: usize) {
    let end = scanner.pos();
    let text = Cow::Owned(scanner.unescaped(start, end));
    set_text(draft, field, text, scanner.slice(start, end), start);
}

/// Gives the draft what is not a string: `text`, which was scanned from `start` on.
#[inline(always)]
fn set_other<'a>(draft: &mut Draft<'a>, field: FieldSet, kind: Kind, text: &'a str, start: usize) {
    match (field, kind) {
        (FieldSet::PAYLOAD, _) => draft.set_payload(text),
        (FieldSet::TS, Kind::Integer | Kind::Decimal) => {
            set_time(draft, Timestamp::from_epoch_number(text), start);
        }
        (FieldSet::SCHEMA_VERSION, Kind::Integer) => match text.parse() {
            Ok(version @ 1..) => {
                draft.event.schema_version = version;
                draft.event.given.insert(FieldSet::SCHEMA_VERSION);
            }
            _ => fail_schema_version(draft, start),
        },
        (FieldSet::ID, Kind::Integer) => draft.set_id(Cow::Borrowed(text), start),
        (FieldSet::SOURCE, Kind::Integer) => match text.parse() {
            Ok(number) => draft.set_source(Source::Number(number), start),
            Err(_) => fail_source_number(draft, start),
        },
        // `null` is how many clients write that there is none.
        (FieldSet::RECEIVED_AT, _) | (_, Kind::Null) => {}
        _ => fail_type(draft, field, kind, start),
    }
}

#[inline]
fn set_time(draft: &mut Draft<'_>, parsed: Result<Timestamp, crate::TimestampError>, start: usize) {
    // Given even if it is bad: one error is enough.
    draft.event.given.insert(FieldSet::TS);
    match parsed {
        Ok(ts) => draft.event.ts = ts,
        Err(error) => draft.fail(
            "ts",
            error.code(),
            start,
            format_args!("`ts` cannot be taken: {error}"),
        ),
    }
}

/// Reads the object of attributes. The scanner stands before its brace.
fn read_attributes<'a>(scanner: &mut Scanner<'a>, draft: &mut Draft<'a>) -> Result<(), Broken> {
    draft.event.given.insert(FieldSet::ATTRIBUTES);
    scanner.bump();
    scanner.skip_whitespace();
    if scanner.eat(b'}') {
        return Ok(());
    }
    loop {
        let key = scanner.key()?;
        let start = scanner.pos();
        let kind = scanner.value(FIELD_LEVEL + 1)?;
        let name = scanner.key_text(key);
        match scalar(scanner, kind, start) {
            Some(value) if matches!(kind, Kind::String | Kind::EscapedString) => {
                draft.event.attributes.push((name, value));
            }
            _ => fail_attribute(draft, &name, kind, start),
        }
        if !scanner.another_key()? {
            return Ok(());
        }
    }
}

/// Reads a field that events do not have: a scalar becomes an attribute.
fn read_unknown<'a>(
    scanner: &mut Scanner<'a>,
    draft: &mut Draft<'a>,
    key: Key,
) -> Result<(), Broken> {
    let start = scanner.pos();
    let kind = scanner.value(FIELD_LEVEL)?;
    let name = scanner.key_text(key);
    if let Some(fault) = scanner.take_fault() {
        draft.fail_with(shorten(&name), fault);
    }
    match scalar(scanner, kind, start) {
        Some(text) => draft.event.attributes.push((name, text)),
        None => fail_unknown(draft, &name, kind, key.start),
    }
    Ok(())
}

/// The text of a scalar that was scanned from `start` on; nothing for anything else.
fn scalar<'a>(scanner: &Scanner<'a>, kind: Kind, start: usize) -> Option<Cow<'a, str>> {
    let end = scanner.pos();
    match kind {
        Kind::String => Some(Cow::Borrowed(scanner.slice(start + 1, end - 1))),
        Kind::EscapedString => Some(Cow::Owned(scanner.unescaped(start, end))),
        Kind::Integer | Kind::Decimal | Kind::Boolean => {
            Some(Cow::Borrowed(scanner.slice(start, end)))
        }
        Kind::Null | Kind::Array | Kind::Object => None,
    }
}

#[cold]
fn fail_duplicate(draft: &mut Draft<'_>, field: FieldSet, offset: usize) {
    let name = field.first_name();
    let message = format_args!("`{name}` is given twice, perhaps under another of its names");
    draft.fail(name, ErrorCode::DuplicateField, offset, message);
}

#[cold]
fn fail_type(draft: &mut Draft<'_>, field: FieldSet, kind: Kind, offset: usize) {
    // Wrong is not missing: say one thing.
    draft.event.given.insert(field);
    let name = field.first_name();
    let right = match field {
        FieldSet::ID => "a string or an integer",
        FieldSet::TS => "an RFC 3339 string or an epoch number",
        FieldSet::SOURCE => "a string or an integer from 0 to 18446744073709551615",
        FieldSet::SCHEMA_VERSION => "an integer from 1 to 4294967295",
        FieldSet::ATTRIBUTES => "an object of strings",
        _ => "a string",
    };
    let message = format_args!("`{name}` must be {right}, not {}", kind.name());
    draft.fail(name, ErrorCode::InvalidType, offset, message);
}

#[cold]
fn fail_source_number(draft: &mut Draft<'_>, offset: usize) {
    let message = "`source` as a number must be from 0 to 18446744073709551615";
    draft.fail("source", ErrorCode::InvalidValue, offset, message);
}

#[cold]
fn fail_schema_version(draft: &mut Draft<'_>, offset: usize) {
    let message = "`schema_version` must be from 1 to 4294967295";
    draft.fail("schema_version", ErrorCode::InvalidValue, offset, message);
}

#[cold]
fn fail_attribute(draft: &mut Draft<'_>, name: &str, kind: Kind, offset: usize) {
    if draft.failed() {
        return;
    }
    let name = shorten(name);
    let advice = match kind {
        Kind::Integer | Kind::Decimal | Kind::Boolean => "write it in double quotes",
        _ => "structured values belong into `payload`",
    };
    let message = format_args!(
        "attribute `{name}` must be a string, not {}: {advice}",
        kind.name()
    );
    draft.fail("attributes", ErrorCode::InvalidType, offset, message);
}

#[cold]
fn fail_unknown(draft: &mut Draft<'_>, name: &str, kind: Kind, offset: usize) {
    if draft.failed() {
        return;
    }
    let short = shorten(name);
    let advice = match FieldSet::nearest_name(name) {
        Some("events") => "a batch is `{\"events\":[…]}` with no other field".to_owned(),
        Some(near) => format!("did you mean `{near}`?"),
        None => "structured values belong into `payload`".to_owned(),
    };
    let message = format_args!(
        "unknown field `{short}` holds {}, which cannot be kept as an attribute: {advice}",
        kind.name()
    );
    draft.fail(short.clone(), ErrorCode::UnknownField, offset, message);
}

//! One event as a JSON object: its fields, their aliases, and what becomes an attribute.

use std::borrow::Cow;

use super::draft::{Draft, shorten};
use crate::scan::{Scanner, StringToken, SyntaxError, Value};
use crate::{ErrorCode, FieldSet, Source, Timestamp};

/// How deep the values of an event's fields stand: the event is level 0, and may have `MAX_DEPTH` levels.
const FIELD_LEVEL: usize = 1;

/// Reads one event into the draft. The scanner stands before it, and afterwards behind it, also if the event is bad.
#[inline]
pub(super) fn read_event<'a>(
    scanner: &mut Scanner<'a>,
    draft: &mut Draft<'a>,
) -> Result<(), SyntaxError> {
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
fn read_other(scanner: &mut Scanner<'_>, draft: &mut Draft<'_>) -> Result<(), SyntaxError> {
    let start = scanner.pos();
    let value = scanner.value(0)?;
    if let Some(fault) = scanner.take_fault() {
        draft.fail_with("", fault);
    }
    let message = format!("an event is a JSON object, not {}", value.kind());
    draft.fail("", ErrorCode::InvalidType, start, &message);
    Ok(())
}

/// Reads a key and its value.
#[inline]
fn read_field<'a>(
    scanner: &mut Scanner<'a>,
    draft: &mut Draft<'a>,
    seen: &mut FieldSet,
) -> Result<(), SyntaxError> {
    let key = scanner.key()?;
    let field = if key.escaped {
        FieldSet::from_key(scanner.content(key).as_bytes())
    } else {
        FieldSet::from_key(scanner.slice(key.start, key.end).as_bytes())
    };
    let Some(field) = field else {
        return read_unknown(scanner, draft, key);
    };
    if seen.contains(field) {
        fail_duplicate(draft, field, key.start);
    }
    seen.insert(field);

    let start = scanner.pos();
    match field {
        FieldSet::ATTRIBUTES if scanner.peek() == b'{' => read_attributes(scanner, draft)?,
        _ => {
            let value = scanner.value(FIELD_LEVEL)?;
            set_field(scanner, draft, field, value, start);
        }
    }
    if let Some(fault) = scanner.take_fault() {
        draft.fail_with(field.first_name(), fault);
    }
    Ok(())
}

/// Gives the draft a value that was scanned from `start` to where the scanner stands.
#[inline]
fn set_field<'a>(
    scanner: &Scanner<'a>,
    draft: &mut Draft<'a>,
    field: FieldSet,
    value: Value,
    start: usize,
) {
    let text = || scanner.slice(start, scanner.pos());
    match (field, value) {
        (FieldSet::PAYLOAD, _) => {
            draft.event.payload = Cow::Borrowed(text());
            draft.event.given.insert(FieldSet::PAYLOAD);
        }
        (FieldSet::TS, Value::String(token)) => {
            set_time(draft, Timestamp::parse(&scanner.content(token)), start);
        }
        (FieldSet::TS, Value::Number { .. }) => {
            set_time(draft, Timestamp::from_epoch_number(text()), start);
        }
        (FieldSet::ID, Value::String(token)) => draft.set_id(scanner.content(token), start),
        (FieldSet::ID, Value::Number { integer: true }) => {
            draft.set_id(Cow::Borrowed(text()), start);
        }
        (FieldSet::TYPE, Value::String(token)) => draft.set_type(scanner.content(token), start),
        (FieldSet::SOURCE, Value::String(token)) => {
            draft.set_source(Source::Name(scanner.content(token)), start);
        }
        (FieldSet::SOURCE, Value::Number { integer: true }) => match text().parse() {
            Ok(number) => draft.set_source(Source::Number(number), start),
            Err(_) => fail_source_number(draft, start),
        },
        (FieldSet::SCHEMA_VERSION, Value::Number { integer: true }) => match text().parse() {
            Ok(version @ 1..) => {
                draft.event.schema_version = version;
                draft.event.given.insert(FieldSet::SCHEMA_VERSION);
            }
            _ => fail_schema_version(draft, start),
        },
        (FieldSet::PARTITION_KEY, Value::String(token)) => {
            draft.set_partition_key(scanner.content(token));
        }
        (FieldSet::RECEIVED_AT, _) => {}
        _ => fail_type(draft, field, value, start),
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
            &format!("`ts` cannot be taken: {error}"),
        ),
    }
}

/// Reads the object of attributes. The scanner stands before its brace.
fn read_attributes<'a>(
    scanner: &mut Scanner<'a>,
    draft: &mut Draft<'a>,
) -> Result<(), SyntaxError> {
    draft.event.given.insert(FieldSet::ATTRIBUTES);
    scanner.bump();
    scanner.skip_whitespace();
    if scanner.eat(b'}') {
        return Ok(());
    }
    loop {
        let key = scanner.key()?;
        let start = scanner.pos();
        match scanner.value(FIELD_LEVEL + 1)? {
            Value::String(token) => {
                let attribute = (scanner.content(key), scanner.content(token));
                draft.event.attributes.push(attribute);
            }
            other => fail_attribute(draft, &scanner.content(key), other, start),
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
    key: StringToken,
) -> Result<(), SyntaxError> {
    let start = scanner.pos();
    let value = scanner.value(FIELD_LEVEL)?;
    let name = scanner.content(key);
    if let Some(fault) = scanner.take_fault() {
        draft.fail_with(shorten(&name), fault);
    }
    let text = match value {
        Value::String(token) => scanner.content(token),
        Value::Number { .. } | Value::Boolean => Cow::Borrowed(scanner.slice(start, scanner.pos())),
        _ => {
            fail_unknown(draft, &name, value, key.start);
            return Ok(());
        }
    };
    draft.event.attributes.push((name, text));
    Ok(())
}

#[cold]
fn fail_duplicate(draft: &mut Draft<'_>, field: FieldSet, offset: usize) {
    let name = field.first_name();
    let message = format!("`{name}` is given twice, perhaps under another of its names");
    draft.fail(name, ErrorCode::DuplicateField, offset, &message);
}

#[cold]
fn fail_type(draft: &mut Draft<'_>, field: FieldSet, value: Value, offset: usize) {
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
    let advice = match value {
        Value::Null => "; leave it out if there is none",
        _ => "",
    };
    let message = format!("`{name}` must be {right}, not {}{advice}", value.kind());
    draft.fail(name, ErrorCode::InvalidType, offset, &message);
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
fn fail_attribute(draft: &mut Draft<'_>, name: &str, value: Value, offset: usize) {
    let name = shorten(name);
    let advice = match value {
        Value::Number { .. } | Value::Boolean => "write it in double quotes",
        _ => "structured values belong into `payload`",
    };
    let message = format!(
        "attribute `{name}` must be a string, not {}: {advice}",
        value.kind()
    );
    draft.fail("attributes", ErrorCode::InvalidType, offset, &message);
}

#[cold]
fn fail_unknown(draft: &mut Draft<'_>, name: &str, value: Value, offset: usize) {
    let short = shorten(name);
    let advice = match FieldSet::nearest_name(name) {
        Some("events") => "a batch is `{\"events\":[…]}` with no other field".to_owned(),
        Some(near) => format!("did you mean `{near}`?"),
        None => "structured values belong into `payload`".to_owned(),
    };
    let message = format!(
        "unknown field `{short}` holds {}, which cannot be kept as an attribute: {advice}",
        value.kind()
    );
    draft.fail(short, ErrorCode::UnknownField, offset, &message);
}

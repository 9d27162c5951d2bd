//! Statements and rows with the engine of today's ClickHouse, which is a library of Python (`tests/clickhouse.rs` has a real
//! server, of an old version).

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use telemetryx_common::{Event, EventType, Source, Timestamp};

use super::rows;
use super::table::{DERIVED, Form, PartitionBy, Table, described, quoted};

const JOURNAL: u64 = u64::MAX - 1;

/// Runs statements one after the other; each gives what it answered, or its error.
fn run(statements: &[String]) -> Vec<Result<String, String>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
    let made = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../scripts/python-env"
    ))
    .arg("chdb")
    .stderr(Stdio::inherit())
    .output()
    .unwrap();
    assert!(made.status.success(), "scripts/python-env failed");
    let python = String::from_utf8(made.stdout).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("statements");
    std::fs::write(&file, serde_json::to_string(statements).unwrap()).unwrap();
    let output = Command::new(python.trim())
        .arg(format!("{folder}/chdb_run.py"))
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let answer = |answer: &Value| match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer["answer"].as_str().unwrap().to_owned()),
    };
    answers.iter().map(answer).collect()
}

fn event(id: &str, nanos: i64) -> Event<'static> {
    let mut event = Event::new(Timestamp::from_unix_nanos(nanos));
    event.id = id.to_owned().into();
    event.received_at = Timestamp::from_unix_nanos(1);
    event
}

fn events() -> Vec<(u64, Event<'static>)> {
    let mut full = event("ü'\\\"\n\t\0", 1_767_225_600_123_456_789);
    full.event_type = EventType::from_name("login\\".into());
    full.source = Source::Number(u64::MAX);
    full.schema_version = u32::MAX;
    full.partition_key = Some("".into());
    full.attributes = vec![("k\"".into(), "v'".into()), ("l".into(), "".into())];
    full.payload = format!("\"{}\"", "x".repeat(20_000)).into();
    vec![
        (0, full),
        (1, event("first", i64::MIN)),
        (2, event("last", i64::MAX)),
        (3, event("before", -1)),
        (DERIVED, event("derived'", 0)),
    ]
}

fn try_form(form: Form) {
    let events = events();
    let mut bytes = Vec::new();
    for (offset, event) in &events {
        rows::write(form, event, *offset, &mut bytes);
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("rows");
    std::fs::write(&file, bytes).unwrap();
    let table = Table::new("a`b\\", "e'v", PartitionBy::Day);
    let structure = form.structure();
    let insert = |writer, token: &str| {
        let insert = table.insert(form, JOURNAL, writer);
        format!("{insert} SETTINGS async_insert = 0, insert_deduplication_token = '{token}'")
    };
    let count = format!("SELECT count() FROM {}", table.events);
    let nanos = match form {
        Form::New => {
            "reinterpretAsInt64(ts) AS ts_nanos, reinterpretAsInt64(received_at) AS received_at_nanos"
        }
        Form::Old => "ts_nanos, received_at_nanos",
    };
    let answers = run(&[
        format!("CREATE DATABASE {}", quoted("a`b\\", '`')),
        table.create(form),
        table.create(form),
        table.create_writers(),
        table.claim(JOURNAL, 1, "r'\\", 5),
        format!("CREATE TABLE batch ({structure}) ENGINE = Memory"),
        format!(
            "INSERT INTO batch SELECT * FROM file({}, 'RowBinary', {})",
            quoted(file.to_str().unwrap(), '\''),
            quoted(&structure, '\'')
        ),
        insert(1, "a"),
        count.clone(),
        insert(1, "a"),
        count.clone(),
        table.claim(JOURNAL, 2, "r", 5),
        insert(1, "b"),
        count.clone(),
        insert(2, "b"),
        count,
        table.end(JOURNAL, 2),
        table.end(JOURNAL, 4),
        table.end(7, 0),
        table.offsets(form, JOURNAL, (0, 2), (-1, i64::MAX)),
        table.offsets(form, JOURNAL, (1, 3), (i64::MIN, i64::MAX)),
        table.derived(JOURNAL, "'x', 'derived\\''"),
        format!(
            "SELECT DISTINCT * EXCEPT(ts, received_at), {nanos} FROM {} ORDER BY journal_offset FORMAT JSONEachRow",
            table.events
        ),
        table.describe("e'v"),
    ]);
    let text = |place: usize| match &answers[place] {
        Ok(text) => text.trim().to_owned(),
        Err(error) => panic!("{place}: {error}"),
    };
    for place in 0..8 {
        assert_eq!(text(place), "");
    }
    assert_eq!(text(8), "5");
    if form == Form::New {
        assert_eq!(text(10), "5", "the second one has the token of the first");
    }
    let refused = answers[12].as_ref().unwrap_err();
    assert!(refused.contains("THROW_IF"), "{refused}");
    assert_eq!(text(13), text(10), "an older writer inserts nothing");
    let twice = text(13).parse::<u64>().unwrap() + 5;
    assert_eq!(text(15), twice.to_string());
    assert_eq!([text(16), text(17), text(18)], ["4", "0", "0"]);
    let offsets = |place: usize| {
        let bytes = crate::hex::decode(text(place).strip_prefix("hex:").unwrap().as_bytes());
        let bytes = bytes.unwrap();
        let (offsets, []) = bytes.as_chunks::<8>() else {
            panic!("{bytes:?}")
        };
        let mut offsets: Vec<_> = offsets
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    };
    // In the old form what is before 1970 is in the second at its beginning.
    let expected: &[u64] = if form == Form::New {
        &[0, 2]
    } else {
        &[0, 1, 2]
    };
    assert_eq!(offsets(19), expected);
    assert_eq!(offsets(20), [1, 2, 3]);
    let derived = crate::hex::decode(text(21).lines().next().unwrap().as_bytes());
    assert_eq!(derived.unwrap(), b"derived'");

    assert_eq!(Form::of(&described(&text(23))), Ok(form));

    let rows = text(22);
    let rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert_eq!(rows.len(), events.len());
    for (row, (offset, event)) in rows.iter().zip(&events) {
        let number = |name: &str| row[name].to_string().trim_matches('"').to_owned();
        assert_eq!(number("journal_offset"), offset.to_string());
        assert_eq!(number("journal"), JOURNAL.to_string());
        assert_eq!(number("ts_nanos"), event.ts.unix_nanos().to_string());
        assert_eq!(number("received_at_nanos"), "1");
        let attributes: serde_json::Map<_, _> = event
            .attributes
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value)))
            .collect();
        let attributes = match form {
            Form::New => Value::from(attributes),
            Form::Old => Value::from(Value::from(attributes).to_string()),
        };
        assert_eq!(
            json!([
                row["id"],
                row["type"],
                row["source"],
                row["schema_version"],
                row["partition_key"],
                row["attributes"],
                row["payload"]
            ]),
            json!([
                event.id,
                event.event_type.as_str(),
                event.source.as_text(),
                event.schema_version,
                event.partition_key,
                attributes,
                event.payload
            ])
        );
    }
}

#[test]
fn todays_engine_takes_statements_and_rows_and_gives_the_values_back() {
    try_form(Form::New);
}

#[test]
fn todays_engine_takes_a_table_that_an_old_server_made() {
    try_form(Form::Old);
}

#[test]
fn tables_of_ones_own_are_taken_if_values_stay_what_they_are() {
    let with = |name: &str, kind: &str| {
        let columns = Form::New.all_columns().map(|(found, wanted)| {
            let kind = if found == name { kind } else { wanted };
            (found.to_owned(), kind.to_owned())
        });
        let columns: Vec<_> = columns.collect();
        Form::of(&columns)
    };
    for (name, kind) in [
        ("none", ""),
        ("id", "LowCardinality(String)"),
        ("ts", "DateTime64(9)"),
        ("ts", "DateTime64(9, 'Europe/Berlin')"),
        ("partition_key", "LowCardinality(Nullable(String))"),
        ("attributes", "Map(LowCardinality(String), String)"),
    ] {
        assert_eq!(with(name, kind), Ok(Form::New), "{name} {kind}");
    }
    for (name, kind) in [
        // What is cut off is not found again.
        ("ts", "DateTime64(3)"),
        ("ts", "DateTime('UTC')"),
        ("partition_key", "String"),
        ("payload", "UInt32"),
        ("journal_offset", "UInt32"),
    ] {
        let wrong = with(name, kind).unwrap_err();
        assert!(
            wrong.starts_with(&format!("has column {name} as")),
            "{wrong}"
        );
    }
}

#[test]
fn structures_can_be_split_at_blanks_and_commas() {
    for form in [Form::New, Form::Old] {
        let structure = form.structure();
        let words: Vec<_> = structure
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let (pairs, []) = words.as_chunks::<2>() else {
            panic!("{words:?}")
        };
        assert!(pairs.iter().all(|[name, kind]| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && kind.starts_with(|c: char| c.is_ascii_uppercase())
        }));
    }
}

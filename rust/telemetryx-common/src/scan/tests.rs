//! The scanner against `serde_json`, which is the oracle, and the places where it differs on purpose.

use proptest::prelude::*;

use super::*;

/// What becomes of text that is one JSON value.
#[derive(Debug, PartialEq)]
enum Outcome {
    Sound,
    Faulty(ErrorCode),
    Broken,
}

fn scan(text: &str) -> Outcome {
    let mut scanner = Scanner::new(text);
    scanner.skip_whitespace();
    // Level 1, as a payload stands.
    match scanner.value(1).and_then(|_| scanner.finish()) {
        Err(Broken) => Outcome::Broken,
        Ok(()) => scanner
            .take_fault()
            .map_or(Outcome::Sound, |fault| Outcome::Faulty(fault.code)),
    }
}

/// What `serde_json` says, with the one difference: it takes NULs. (And numbers of more than 17 digits within a rounding
/// step of the largest float, where it is inexact: no test comes near.)
fn oracle_agrees(text: &str) -> Result<(), TestCaseError> {
    let theirs = serde_json::from_str::<serde_json::Value>(text);
    let nul = text.contains("\\u0000");
    match scan(text) {
        Outcome::Sound => prop_assert!(theirs.is_ok(), "{text:?}: {theirs:?}"),
        Outcome::Faulty(ErrorCode::InvalidString) if nul => {}
        Outcome::Faulty(_) | Outcome::Broken => prop_assert!(theirs.is_err(), "{text:?}"),
    }
    Ok(())
}

#[test]
fn sound_values_are_sound() {
    for text in [
        "null",
        " true ",
        "false",
        "0",
        "-0",
        "-1.5e+10",
        "1E400e",
        "\"\"",
        "[]",
        "{}",
        "[[],{},[1,\"a\",null]]",
        "{\"a\":{\"b\":[{}]},\"a\":1}",
        "\"\u{7f}\u{2028}é\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"",
        "\t\r\n[ 1 , 2 ]\n",
        "1e-999",
        "0e999",
        "1.7976931348623157e308",
    ] {
        let expected = if text == "1E400e" {
            Outcome::Broken
        } else {
            Outcome::Sound
        };
        assert_eq!(scan(text), expected, "{text}");
        oracle_agrees(text).unwrap();
    }
}

#[test]
fn broken_text_is_broken() {
    for text in [
        "",
        " ",
        "nul",
        "nullx",
        "tru",
        "True",
        "NaN",
        "Infinity",
        "+1",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "'a'",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"a\nb\"",
        "\"\u{0}\"",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{",
        "}",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "{1:1}",
        "[1}",
        "{\"a\":1]",
        "1 2",
        "[]]",
        "{}}",
        "// c\n1",
        "\u{feff}1",
        "\"\\ud83d\\u12\"",
        "\u{a0}1",
        "1\u{b}",
    ] {
        assert_eq!(scan(text), Outcome::Broken, "{text:?}");
        oracle_agrees(text).unwrap();
    }
}

#[test]
fn faults_are_json_that_nobody_could_store() {
    for (text, code) in [
        ("1e999", ErrorCode::InvalidNumber),
        ("[{\"a\":[-1e309]}]", ErrorCode::InvalidNumber),
        ("\"\\u0000\"", ErrorCode::InvalidString),
        ("{\"\\u0000\":1}", ErrorCode::InvalidString),
        ("\"\\ud800\"", ErrorCode::InvalidString),
        ("\"\\udc00\\ud800\"", ErrorCode::InvalidString),
        ("\"\\ud800\\ud800\\udc00\"", ErrorCode::InvalidString),
        ("\"\\ud800x\"", ErrorCode::InvalidString),
        ("\"\\ud800\\n\"", ErrorCode::InvalidString),
    ] {
        assert_eq!(scan(text), Outcome::Faulty(code), "{text}");
        oracle_agrees(text).unwrap();
    }
    let long = "9".repeat(310);
    assert_eq!(scan(&long), Outcome::Faulty(ErrorCode::InvalidNumber));
}

#[test]
fn nesting_is_limited_where_serde_json_limits_it() {
    for (depth, expected) in [
        (1, Outcome::Sound),
        (127, Outcome::Sound),
        (128, Outcome::Faulty(ErrorCode::TooDeep)),
        (10_000, Outcome::Faulty(ErrorCode::TooDeep)),
    ] {
        let arrays = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        oracle_agrees(&arrays).unwrap();
        oracle_agrees(&objects).unwrap();
        assert_eq!(scan(&arrays), expected);
        assert_eq!(scan(&objects), expected);
    }
    assert_eq!(scan(&"[".repeat(1_000_000)), Outcome::Broken);
}

#[test]
fn mistakes_have_a_position() {
    let mut scanner = Scanner::new("[1, 2, x]");
    assert_eq!(scanner.value(0), Err(Broken));
    assert_eq!(
        scanner.mistake(),
        Mistake {
            offset: 7,
            message: "expected a value"
        }
    );
    let mut scanner = Scanner::new("{\"a\":");
    assert_eq!(scanner.value(0), Err(Broken));
    assert_eq!(scanner.mistake().message, "the text ends too early");
}

#[test]
fn escapes_stand_for_what_serde_json_says() {
    for text in [
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\\u00e9\\u20ac\\ud83d\\ude00 and \\uD83D\\uDE00\"",
        "\"plain \\u0041 é 😀\"",
    ] {
        let theirs: String = serde_json::from_str(text).unwrap();
        let mut scanner = Scanner::new(text);
        assert_eq!(scanner.value(0), Ok(Kind::EscapedString));
        assert_eq!(scanner.unescaped(0, scanner.pos()), theirs);
    }
}

/// Text that is nearly JSON: its pieces in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"\\", "\\u", "d83d", "\\ude00", "\\u0000",
        "0", "1", "-", ".", "e", "E+", "9999", "true", "false", "null", " ", "\n", "\t", "é",
        "\u{1}", "x",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// JSON text of any value.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<f64>().prop_map(|number| serde_json::Value::from(number).to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        Just("\"\\ud83d\\ude00\\n\"".to_owned()),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec(("[a-z]{0,3}", inner), 0..6).prop_map(|items| {
                let items: Vec<_> = items.iter().map(|(k, v)| format!("\"{k}\" :{v}")).collect();
                format!("{{{}}}", items.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn nearly_json_is_judged_as_serde_json_judges_it(text in pieces()) {
        oracle_agrees(&text)?;
    }

    #[test]
    fn strings_are_judged_as_serde_json_judges_them(inner in "[a\"\\\\unbd0-9cde]{0,20}") {
        oracle_agrees(&format!("\"{inner}\""))?;
    }

    #[test]
    fn json_with_one_byte_changed_is_judged_as_serde_json_judges_it(
        text in value(), place: prop::sample::Index, byte in 0_u8..128
    ) {
        oracle_agrees(&text)?;
        let mut bytes = text.into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            oracle_agrees(text)?;
        }
    }
}

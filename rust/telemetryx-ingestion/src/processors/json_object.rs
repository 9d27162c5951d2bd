//! JSON text of an object, taken apart without parsing what is in it: so the members that nobody asked for stay byte
//! for byte as they were sent.

/// A member of an object, as pieces of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// Blanks before the name.
    pub(super) before: &'a str,
    /// The name with its quotes.
    pub(super) name: &'a str,
    /// From behind the name to the value: a colon with its blanks.
    pub(super) colon: &'a str,
    /// The value, without blanks around it.
    pub(super) value: &'a str,
    /// Blanks behind the value.
    pub(super) after: &'a str,
}

impl Member<'_> {
    /// The name as it is meant, without quotes and escapes.
    pub(super) fn is_named(&self, name: &str) -> bool {
        match self
            .name
            .strip_prefix('"')
            .and_then(|n| n.strip_suffix('"'))
        {
            Some(plain) if !plain.contains('\\') => plain == name,
            _ => self.unescaped() == name,
        }
    }

    /// The name as it is meant.
    pub(super) fn unescaped(&self) -> String {
        serde_json::from_str(self.name).unwrap_or_default()
    }
}

/// The members of the object that `text` is; `None` if it is something else.
pub(super) fn members(text: &str) -> Option<Vec<Member<'_>>> {
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut rest = inside;
    let mut members = Vec::new();
    while !rest.trim_start().is_empty() {
        let (before, more) = rest.split_at(rest.len() - rest.trim_start().len());
        let (name, more) = more.split_at_checked(string_length(more)?)?;
        let blanks = more.len() - more.trim_start().len();
        let behind = more.get(blanks..)?.strip_prefix(':')?;
        let (colon, more) = more.split_at(more.len() - behind.trim_start().len());
        let (value, more) = more.split_at_checked(value_length(more))?;
        let (after, more) = more.split_at(more.len() - more.trim_start().len());
        if value.is_empty() {
            return None;
        }
        members.push(Member {
            before,
            name,
            colon,
            value,
            after,
        });
        rest = match more.strip_prefix(',') {
            Some(more) => more,
            None if more.is_empty() => more,
            None => return None,
        };
    }
    Some(members)
}

/// The text at `path`, member by member.
pub(super) fn find<'a>(text: &'a str, path: &[String]) -> Option<&'a str> {
    let mut text = text;
    for name in path {
        text = members(text)?
            .iter()
            .find(|member| member.is_named(name))?
            .value;
    }
    Some(text)
}

/// A field as the config names it: a member of the payload, or with a leading `/` a JSON Pointer to one further in.
pub(super) fn path(field: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = match field.strip_prefix('/') {
        None => vec![field.to_owned()],
        Some(pointer) => pointer
            .split('/')
            .map(|name| name.replace("~1", "/").replace("~0", "~"))
            .collect(),
    };
    if names.iter().any(String::is_empty) {
        return Err(format!(
            "`{field}` is no field: use a name, or a path such as /user/name"
        ));
    }
    Ok(names)
}

/// How long the string at the start of `text` is, quotes included.
fn string_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut place = 1;
    loop {
        match bytes.get(place)? {
            b'"' => return Some(place + 1),
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
}

/// How long the value at the start of `text` is: up to the comma or the blanks that end it, or the end of the text.
fn value_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut place = 0;
    while let Some(byte) = bytes.get(place) {
        match byte {
            b'"' => {
                place += text.get(place..).and_then(string_length).unwrap_or(1);
                if depth == 0 {
                    return place;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return place + 1;
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return place,
            _ => {}
        }
        place += 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{find, members, path};

    fn rebuilt(text: &str) -> Option<String> {
        let members: Vec<_> = members(text)?
            .iter()
            .map(|m| [m.before, m.name, m.colon, m.value, m.after].concat())
            .collect();
        Some(format!("{{{}}}", members.join(",")))
    }

    #[test]
    fn an_object_is_taken_apart_and_put_together_again() {
        for text in [
            "{}",
            r#"{"a":1}"#,
            r#"{ "a" : [1, {"b":"}"}] , "q\"\\":"\\\"," ,"n":-1.50e+3}"#,
            "{\n  \"a\": null,\n  \"b\": {\"c\": \"[\"}\n}",
        ] {
            assert_eq!(rebuilt(text).as_deref(), Some(text));
        }
        for text in [
            "null",
            "[1]",
            "\"{}\"",
            "1",
            "",
            "{",
            "{\"a\"}",
            "{\"a\":1 2}",
        ] {
            assert_eq!(rebuilt(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_leads_to_a_member_further_in() {
        let text = r#"{"a":{"b/c":{"d":1.10}},"\u0061b":2}"#;
        let found = |field: &str| find(text, &path(field).unwrap());
        assert_eq!(found("/a/b~1c/d"), Some("1.10"));
        assert_eq!(found("ab"), Some("2"));
        assert_eq!(found("/a/x"), None);
        assert_eq!(found("/ab/x"), None);
        assert!(path("/a//b").is_err());
        assert!(path("").is_err());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_object_has_the_members_that_a_parser_sees(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            // As a parser sees it, which may round the last digit of a float.
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let object = value.as_object();
            prop_assert_eq!(members(&text).is_some(), object.is_some());
            for member in members(&text).unwrap_or_default() {
                let parsed: serde_json::Value = serde_json::from_str(member.value).unwrap();
                prop_assert_eq!(object.unwrap()[&member.unescaped()].to_string(), parsed.to_string());
            }
            prop_assert_eq!(rebuilt(&text).filter(|_| text != "{}"), object.map(|_| text.clone()).filter(|t| t != "{}"));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|[{}\\[\\]\",:\\\\ a1]*") {
            members(&text);
        }
    }
}

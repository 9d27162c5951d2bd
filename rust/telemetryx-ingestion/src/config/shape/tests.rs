//! The doc comments are the reference: what they say about defaults and bounds must be what the code does.

use serde_json::Value;

use super::{Form, SETTINGS, Shape, schema};

/// Every setting's schema with its path; sections are passed through.
fn each_setting(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value, bool)) {
    let required = |name: &str| {
        let names = schema.get("required").and_then(Value::as_array);
        names.is_some_and(|names| names.iter().any(|known| known == name))
    };
    let open = schema.get("additionalProperties") == Some(&Value::Bool(true));
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .filter(|_| !open);
    for (name, schema) in properties.into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if schema.get("properties").is_some() {
            each_setting(schema, &path, visit);
        } else {
            visit(&path, schema, required(name));
            if let Some(items) = schema.get("items") {
                each_setting(items, &format!("{path}[]"), visit);
            }
            if let Some(values) = schema.get("additionalProperties") {
                each_setting(values, &format!("{path}.<name>"), visit);
            }
        }
    }
}

#[test]
fn every_setting_has_a_title_and_its_true_default_in_its_doc_comment() {
    let mut seen = 0;
    each_setting(&schema(), "", &mut |path, schema, required| {
        seen += 1;
        let doc = schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let title = doc.split("\n\n").next().unwrap_or_default();
        assert!(
            title.len() > 10 && title.ends_with('.'),
            "{path}: no title in {doc:?}"
        );
        if required || path == "routes" || path.starts_with("query.") {
            return;
        }
        let default = match schema.get("default") {
            None | Some(Value::Null) => "Default: none".to_owned(),
            Some(Value::String(text)) => format!("Default: `{text}`"),
            Some(Value::Number(number)) if number.as_f64().is_some_and(|n| n.fract() == 0.0) => {
                format!("Default: `{}`", number.as_f64().unwrap())
            }
            Some(Value::Array(words)) => {
                let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
                format!("Default: `[{}]`", words.join(", "))
            }
            Some(other) => format!("Default: `{other}`"),
        };
        assert!(
            doc.contains(&default),
            "{path}: {default} is not in {doc:?}"
        );
    });
    assert!(seen > 50, "only {seen} settings were found");
}

#[test]
fn every_bound_is_in_the_doc_comment() {
    each_setting(&schema(), "", &mut |path, schema, _| {
        let doc = schema
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let expect = |bound: String| {
            assert!(
                doc.contains(&format!("`{bound}`")),
                "{path}: bound {bound} is not in {doc:?}"
            );
        };
        match Shape::of(schema) {
            Shape::Whole { min, max } => {
                expect(min.to_string());
                if max < u64::MAX {
                    expect(max.to_string());
                }
            }
            Shape::Number { min, max } => {
                expect(min.to_string());
                expect(max.to_string());
            }
            Shape::Form { form, min, max } => {
                assert!(
                    !matches!(form, Form::Size | Form::Time) || (min.is_some() && max.is_some()),
                    "{path} has no bounds"
                );
                for bound in [min, max].into_iter().flatten() {
                    assert!(form.measure(&bound).is_ok(), "{path}: {bound}");
                    expect(bound);
                }
            }
            _ => {}
        }
    });
}

#[test]
fn the_schema_holds_nothing_that_the_check_does_not_know() {
    fn known(shape: &Shape, path: &str) {
        match shape {
            Shape::Any => panic!("{path} is not checked"),
            Shape::Section(section) => section
                .keys
                .iter()
                .for_each(|key| known(&key.shape, &format!("{path}.{}", key.name))),
            Shape::Map(inner) | Shape::List(inner) => known(inner, path),
            Shape::Choice(choices) => assert!(
                !choices.is_empty() && choices.iter().all(|c| !c.doc.is_empty()),
                "{path}"
            ),
            _ => {}
        }
    }
    known(&SETTINGS, "");
}

//! Writes `docs/configuration.md`: a page by hand, and after it every setting from its doc comment.

use super::shape::{Form, Key, SETTINGS, Section, Shape};

/// The reference page.
pub fn reference() -> String {
    let mut page = include_str!("reference.md").to_owned();
    if let Shape::Section(settings) = &*SETTINGS {
        top_level(settings, &mut page);
    }
    page
}

fn top_level(settings: &Section, page: &mut String) {
    for key in &settings.keys {
        heading(key, page);
        match &key.shape {
            Shape::Section(section) => keys(section, &key.name, page),
            Shape::List(items) => match &**items {
                Shape::Section(section) => {
                    setting(key, &key.name, page);
                    paragraph(&section.doc, page);
                    keys(section, &format!("{}[]", key.name), page);
                }
                _ => setting(key, &key.name, page),
            },
            Shape::Map(values) => {
                setting(key, &key.name, page);
                if let Shape::Section(section) = &**values {
                    paragraph(&section.doc, page);
                    keys(section, &format!("{}.<name>", key.name), page);
                }
            }
            _ => setting(key, &key.name, page),
        }
    }
}

fn heading(key: &Key, page: &mut String) {
    line(page, &format!("\n## `{}`", key.name));
    if let Shape::Section(section) = &key.shape {
        paragraph(&section.doc, page);
    }
}

fn keys(section: &Section, path: &str, page: &mut String) {
    for key in &section.keys {
        let path = format!("{path}.{}", key.name);
        match &key.shape {
            Shape::Section(section) if !section.open => {
                line(page, &format!("\n### `{path}`"));
                paragraph(&section.doc, page);
                keys(section, &path, page);
            }
            Shape::List(items) => {
                setting(key, &path, page);
                if let Shape::Section(section) = &**items
                    && !section.open
                {
                    line(page, &format!("\n### `{path}[]`"));
                    paragraph(&section.doc, page);
                    keys(section, &format!("{path}[]"), page);
                }
            }
            _ => setting(key, &path, page),
        }
    }
}

/// One setting: title, form and variable, effect, choices, default.
fn setting(key: &Key, path: &str, page: &mut String) {
    let mut paragraphs = key.doc.split("\n\n");
    let title = paragraphs.next().unwrap_or_default();
    line(
        page,
        &format!("\n- **`{path}`** ({}): {}", form(key), one_line(title)),
    );
    for text in paragraphs {
        line(page, &format!("\n  {}", one_line(text)));
    }
    if let Shape::Choice(choices) = &key.shape {
        line(page, "");
        for choice in choices {
            line(
                page,
                &format!("  - `{}`: {}", choice.word, one_line(&choice.doc)),
            );
        }
    }
    if let Shape::List(items) = &key.shape
        && let Shape::Choice(choices) = &**items
    {
        let words = choices
            .iter()
            .map(|choice| format!("`{}`", choice.word))
            .collect::<Vec<_>>();
        line(page, &format!("\n  Each is one of {}.", words.join(", ")));
    }
}

fn form(key: &Key) -> String {
    let form = match &key.shape {
        Shape::Section(_) | Shape::Map(_) => "table",
        Shape::List(_) => "list",
        Shape::Texts => "list, or text with commas",
        Shape::Choice(_) => "choice",
        Shape::Bool => "true or false",
        Shape::Whole { .. } => "whole number",
        Shape::Number { .. } => "number",
        Shape::Form { form, .. } => match form {
            Form::Size => "size",
            Form::Time => "duration",
            Form::Secret => "secret",
            Form::KeyHash => "64 hexadecimal digits",
            Form::RouteName => "name of a route",
            Form::Source => "text or number",
            Form::Attempts => "whole number or `unlimited`",
            Form::Ip => "IP address",
        },
        Shape::Text { .. } | Shape::Any => "text",
    };
    let required = if key.required { ", required" } else { "" };
    format!("{form}{required}")
}

fn paragraph(text: &str, page: &mut String) {
    for text in text.split("\n\n") {
        line(page, &format!("\n{}", one_line(text)));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

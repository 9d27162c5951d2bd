//! Whether two documents can be compared keyword by keyword.
//!
//! The same words must mean the same on both sides, so all must be of one draft, and it must be plain where each reference
//! leads. Where that is not so, the documents are not compared, and that is told as a break would be.

use std::collections::HashSet;

use jsonschema::Draft;
use serde_json::{Map, Value};

use super::super::folder::{File, Folder};
use super::Break;
use super::at::base;

/// Whether both have the same text, in the same folder: then all references lead to the same places.
pub(super) fn are_the_same(old: &File, new: &File) -> bool {
    let folder = |file: &File| {
        let folder = file.uri.rsplit_once('/');
        folder.map(|(folder, _)| folder.to_owned())
    };
    folder(old) == folder(new) && old.document == new.document
}

/// The draft of both and of all that they refer to, or what keeps them from being compared.
pub(super) fn draft(folder: &Folder, old: &File, new: &File) -> Result<Draft, Break> {
    let [before, now] = [old, new].map(|file| Draft::default().detect(&file.document));
    let schema = |what| Break {
        pointer: "/$schema".to_owned(),
        what,
    };
    if before != now {
        let what =
            format!("`$schema` was {before:?} and is {now:?}, in which keywords mean other things");
        return Err(schema(what));
    }
    if now == Draft::Unknown {
        let what = "what `$schema` makes of keywords is not known, so that it cannot be compared";
        return Err(schema(what.to_owned()));
    }
    let mut survey = Survey {
        folder,
        draft: now,
        seen: HashSet::new(),
        // The new one is looked at first.
        waiting: vec![(&old.document, &old.uri), (&new.document, &new.uri)],
        refers: false,
        moved: None,
    };
    while let Some((document, uri)) = survey.waiting.pop() {
        if survey.seen.insert(uri) {
            let place = Place {
                uri: base(document, uri),
                has_two_names: ![old, new].iter().any(|file| file.uri == uri)
                    && base(document, uri) != uri,
                // A pointer into another document says which.
                of: if uri == new.uri { "" } else { uri },
            };
            survey.value(document, &place, "")?;
        }
    }
    match survey.moved {
        Some(moved) if survey.refers => Err(moved),
        _ => Ok(now),
    }
}

/// A look at every value of the documents, also at those that are no schemas: to find too much does no harm.
struct Survey<'f> {
    folder: &'f Folder,
    draft: Draft,
    seen: HashSet<&'f str>,
    waiting: Vec<(&'f Value, &'f str)>,
    /// Whether there is any reference.
    refers: bool,
    /// What changes where references lead.
    moved: Option<Break>,
}

struct Place<'f> {
    /// What references are relative to.
    uri: &'f str,
    /// Whether it was found at its place and has an `$id` too. Validators are not at one which of them counts.
    has_two_names: bool,
    of: &'f str,
}

impl<'f> Survey<'f> {
    fn value(&mut self, value: &'f Value, place: &Place<'f>, pointer: &str) -> Result<(), Break> {
        if let Some(keywords) = value.as_object() {
            for (key, value) in keywords {
                if let Some(text) = value.as_str() {
                    self.keyword(keywords, (key, text), place, pointer)?;
                }
                let key = key.replace('~', "~0").replace('/', "~1");
                self.value(value, place, &format!("{pointer}/{key}"))?;
            }
        }
        for (n, value) in value.as_array().into_iter().flatten().enumerate() {
            self.value(value, place, &format!("{pointer}/{n}"))?;
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        beside: &Map<String, Value>,
        (key, text): (&str, &str),
        place: &Place<'f>,
        pointer: &str,
    ) -> Result<(), Break> {
        let obstacle = |what: &str| {
            let (pointer, where_it_is) = match place.of {
                "" => (format!("{pointer}/{key}"), String::new()),
                of => ("/".to_owned(), format!(" at {of}#{pointer}")),
            };
            let what =
                format!("`{key}`{where_it_is} {what}, so that the versions cannot be compared");
            Break { pointer, what }
        };
        match key {
            "$dynamicRef" | "$recursiveRef" => {
                return Err(obstacle("leads elsewhere for each way there"));
            }
            "$schema" if Draft::from_schema_uri(text) != self.draft => {
                return Err(obstacle("is of another draft than the schema"));
            }
            "$ref" => {
                self.refers = true;
                let file = text.split_once('#').map_or(text, |(file, _)| file);
                if !file.is_empty() && !file.contains("://") && place.has_two_names {
                    return Err(obstacle("is relative, in a file with an `$id`"));
                }
                if !file.is_empty()
                    && let Some((uri, document)) = self.folder.neighbour(place.uri, file)
                {
                    self.waiting.push((document, uri));
                }
            }
            "$id" | "id" if self.moves(key, text, beside, pointer) => {
                let moved = obstacle("changes where references lead");
                self.moved.get_or_insert(moved);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether this name of a schema changes where references lead. That of a whole document does not, if it is plain.
    fn moves(&self, key: &str, name: &str, beside: &Map<String, Value>, pointer: &str) -> bool {
        let is_draft4 = self.draft == Draft::Draft4;
        let has_fragment = name.strip_suffix('#').unwrap_or(name).contains('#');
        let is_ignored = self.draft < Draft::Draft201909 && beside.contains_key("$ref");
        let is_plain = name.contains("://") && !has_fragment && !is_ignored && !is_draft4;
        let is_anchor = name.starts_with('#');
        let is_known = key == "$id" || is_draft4;
        is_known && !is_anchor && !(pointer.is_empty() && is_plain)
    }
}

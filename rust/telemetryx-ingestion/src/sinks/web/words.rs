//! A server's own words, as far as they are repeated in logs, answers and dead letters.

use std::error::Error;

use ::http::HeaderMap;

use super::place::Place;

/// How much of a server's words is shown.
const WORDS_CHARS_MAX: usize = 300;
/// What stands for a secret, and for what is left out.
const LEFT_OUT: &str = "…";
/// Shorter parts of a path or a query are no secret.
const PART_CHARS_MIN: usize = 8;
/// Longer ones are, whatever they look like.
const PLAIN_CHARS_MAX: usize = 16;
const PASSWORD_CHARS_MIN: usize = 4;

/// What a server may repeat and nobody else shall read: the path of the URL, which may be what makes it secret, a password,
/// the values of headers.
#[derive(Default)]
pub(in crate::sinks) struct Secrets(Vec<String>);

impl Secrets {
    pub(super) fn of(place: &Place, headers: &HeaderMap) -> Self {
        let mut secrets = Vec::new();
        let query = place.url.query().unwrap_or_default();
        for whole in [place.url.path(), query] {
            secrets.extend([whole.to_owned(), decoded(whole)]);
        }
        let segments = place.url.path().split('/').map(str::to_owned);
        let values = place.url.query_pairs().map(|(_, value)| value.into_owned());
        let parts = segments.chain(query.split(['&', '=']).map(str::to_owned));
        for part in parts.chain(values) {
            let plain = |c: char| c.is_ascii_lowercase() || matches!(c, '-' | '_' | '.');
            let length = part.chars().count();
            if length >= PLAIN_CHARS_MAX || length >= PART_CHARS_MIN && !part.chars().all(plain) {
                secrets.extend([decoded(&part), part]);
            }
        }
        if let Some((_, password)) = &place.login
            && password.chars().count() >= PASSWORD_CHARS_MIN
        {
            secrets.push(password.clone());
        }
        for value in headers.values() {
            let text = String::from_utf8_lossy(value.as_bytes());
            let words = text.split_whitespace();
            let long = words.filter(|word| word.chars().count() >= PART_CHARS_MIN);
            secrets.extend(long.map(str::to_owned));
        }
        secrets.retain(|secret| secret.chars().count() > 1);
        // The longest first: others may be parts of it.
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    /// Somebody else's words without these secrets, on one line, and not too many of them.
    pub(in crate::sinks) fn shown(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret, LEFT_OUT);
            }
        }
        shown(&text)
    }
}

fn decoded(text: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(text);
    decoded.decode_utf8_lossy().into_owned()
}

/// Somebody else's words on one line, and not too many of them.
pub(in crate::sinks) fn shown(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(WORDS_CHARS_MAX) {
        Some((end, _)) => format!("{}{LEFT_OUT}", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// The innermost reason: the outer ones say that there was a request, and show its URL.
pub(super) fn words_of(error: &reqwest::Error) -> String {
    error
        .source()
        .map_or_else(|| "the request failed".to_owned(), innermost)
}

/// What an error came from in the end.
pub(in crate::sinks) fn innermost(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers_of;
    use super::*;

    #[test]
    fn a_servers_words_are_one_line_of_bounded_length() {
        assert_eq!(shown(" a\r\n\u{1b}[31mb\u{0}c  d "), "a [31mb c d");
        assert_eq!(shown(&"é".repeat(400)).chars().count(), WORDS_CHARS_MAX + 1);
    }

    #[test]
    fn words_that_repeat_a_secret_are_shown_without_it() {
        let url = "https://me:pass%40word@h/hooks/T0%41/sEcretPart/short?token=abc%2F0123&v=1#x";
        let place = Place::of(url).unwrap();
        let pairs = [("authorization", "Bearer hunter222"), ("x-tenant", "a")];
        let secrets = Secrets::of(&place, &headers_of(pairs.into_iter()).unwrap());
        for (text, words) in [
            (
                "Cannot POST /hooks/T0%41/sEcretPart/short?token=abc%2F0123&v=1",
                "Cannot POST …?…",
            ),
            ("no hook /hooks/T0A/sEcretPart/short.", "no hook …."),
            (r"no \/hooks\/T0%41\/sEcretPart", r"no \/hooks\/T0%41\/…"),
            ("token=abc%2F0123&amp;v=1: gone", "token=…&amp;v=1: gone"),
            ("abc/0123 is no token", "… is no token"),
            ("not hunter222, pass@word!", "not …, …!"),
            ("a short hook is not there", "a short hook is not there"),
        ] {
            assert_eq!(secrets.shown(text), words);
        }
        let long = format!(
            "{} /hooks/T0A/sEcretPart/short",
            "x".repeat(WORDS_CHARS_MAX - 9)
        );
        let shown = secrets.shown(&long);
        assert!(
            !shown.contains("/hooks"),
            "not a part of it either: {shown}"
        );
        // A URL without a path has none to hide.
        let bare = Place::of("http://h").unwrap();
        let words = Secrets::of(&bare, &HeaderMap::new()).shown("no /such path");
        assert_eq!(words, "no /such path");
    }
}

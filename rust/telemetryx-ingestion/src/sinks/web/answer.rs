//! What a server answers, and what it means.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{LOCATION, RETRY_AFTER};
use ::http::{HeaderMap, StatusCode};
use reqwest::Url;

use super::words::Secrets;

/// What came back.
pub(in crate::sinks) struct Answer {
    pub(in crate::sinks) status: StatusCode,
    pub(in crate::sinks) headers: HeaderMap,
    pub(in crate::sinks) body: Vec<u8>,
    /// There is more of the body than was read.
    pub(in crate::sinks) is_cut: bool,
    pub(super) secrets: Arc<Secrets>,
}

impl Answer {
    /// The status, and the server's own words as far as they can be shown.
    pub(in crate::sinks) fn said(&self) -> String {
        let text = self.secrets.shown(&String::from_utf8_lossy(&self.body));
        let location = self.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        match location.filter(|_| self.status.is_redirection()) {
            // Without the path, which may be the secret one that we asked for.
            Some(to) => {
                let to = Url::parse(to).map(|to| match to.origin() {
                    origin if origin.is_tuple() => origin.ascii_serialization(),
                    _ => format!("a `{}:` address", to.scheme()),
                });
                let to = to.unwrap_or_else(|_| "another path".to_owned());
                format!("{}: redirects are not followed (to {to})", self.status)
            }
            None if text.is_empty() => self.status.to_string(),
            None => format!("{}: {text}", self.status),
        }
    }

    /// What a dead letter is called that has this answer, if the answer is about what was sent.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match self.status.as_u16() {
            400 => Some("http_400"),
            413 => Some("http_413"),
            422 => Some("http_422"),
            _ => None,
        }
    }
}

/// How long a server wants to be left alone, in seconds.
pub(in crate::sinks) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

//! `GET /events`: stored raw events, newest first, page by page.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use telemetryx_common::{Event, Timestamp};

use super::Query;
use crate::intake::Refusal;

/// Events a page has when none is asked for, and at the most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 10_000;
/// Bytes a page has at the most, about.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// What a cursor must be.
const CURSOR_IS: &str = "the `next` of the page before";

/// Characters of a cursor's place at the most.
const PLACE_MAX: usize = 1024;

/// Why stored events could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not now, in the store's own words; try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The cursor is not one that this store gave.
    #[error("the cursor is of another store")]
    Cursor,
}

/// A sink that can answer `/events`.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// One page, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError>;
}

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Not before this time.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// Of this type.
    pub of_type: Option<String>,
    /// Of this source.
    pub source: Option<String>,
    /// At most this many.
    pub limit: u32,
    /// At most about this many bytes; the page has a `next` where it ends early.
    pub max_bytes: usize,
    /// Older than this place.
    pub after: Option<Cursor>,
}

/// A place in the order of events: the next page starts behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The last event's time.
    pub ts: Timestamp,
    /// Its place among those of the same time, as the store writes it: letters, digits, `-` and `_`, which may come back
    /// as anything else of these.
    pub place: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.ts.unix_nanos(), self.place)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ts, place) = text.split_once('-').ok_or(())?;
        let ts = u64::from_str_radix(ts, 16).map_err(drop)?.cast_signed();
        let is_place = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if place.len() > PLACE_MAX || !place.bytes().all(is_place) {
            return Err(());
        }
        Ok(Self {
            ts: Timestamp::from_unix_nanos(ts),
            place: place.to_owned(),
        })
    }
}

/// Some events, and where the next page starts.
#[derive(Debug)]
pub struct EventPage {
    /// Newest first.
    pub events: Vec<Event<'static>>,
    /// `None` if there are no more.
    pub next: Option<Cursor>,
}

impl EventQuery {
    /// Reads the parameters `from`, `to`, `type`, `source`, `limit`, `cursor`.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] naming the parameter and what it takes.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self, Refusal> {
        let bad = |name: &str, would_be_right: &str| Refusal::BadRequest {
            code: "invalid_parameter",
            message: format!("`{name}` must be {would_be_right}"),
        };
        let time = |name: &str| match parameters.get(name) {
            None => Ok(None),
            Some(text) => parse_time(text)
                .map(Some)
                .ok_or_else(|| bad(name, "an RFC 3339 time or an epoch number")),
        };
        let mut query = Self {
            from: time("from")?,
            to: time("to")?,
            limit: LIMIT_DEFAULT,
            max_bytes: PAGE_BYTES_MAX,
            ..Self::default()
        };
        for (name, value) in parameters {
            match name.as_str() {
                "from" | "to" => {}
                "type" => query.of_type = Some(value.clone()),
                "source" => query.source = Some(value.clone()),
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    query.limit = limit
                        .ok_or_else(|| bad(name, &format!("a number from 1 to {LIMIT_MAX}")))?;
                }
                "cursor" => {
                    query.after = Some(value.parse().map_err(|()| bad(name, CURSOR_IS))?);
                }
                _ => {
                    return Err(bad(
                        name,
                        "left out: it is not one of from, to, type, source, limit, cursor",
                    ));
                }
            }
        }
        Ok(query)
    }
}

/// An RFC 3339 time, or an epoch number in s, ms, µs or ns.
#[must_use]
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text)
        .or_else(|_| Timestamp::from_epoch_number(text))
        .ok()
}

/// One page of stored events.
///
/// # Errors
/// [`Refusal::NotFound`] if no route stores events, [`Refusal::Unavailable`] if its store cannot be read now.
pub async fn events(of: &Query, query: &EventQuery) -> Result<EventPage, Refusal> {
    let Some(store) = &of.store else {
        return Err(Refusal::NotFound(
            "no route stores events: name one in `query.events_from`".into(),
        ));
    };
    store.events(query).await.map_err(|error| match error {
        StoreError::Unavailable(words) => Refusal::Unavailable(words),
        StoreError::Cursor => Refusal::BadRequest {
            code: "invalid_parameter",
            message: format!("`cursor` must be {CURSOR_IS}"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_their_text_form_also_before_1970() {
        for ts in [0, 1, -1, i64::MAX, i64::MIN] {
            let cursor = Cursor {
                ts: Timestamp::from_unix_nanos(ts),
                place: "a_-9".to_owned(),
            };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in [
            "x",
            "g-1",
            "0-'",
            "0-\0",
            &format!("0-{}", "a".repeat(2000)),
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(()), "{text}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_refused_by_name() {
        let parameters = super::super::parameters(Some("typ=x"));
        assert!(
            EventQuery::parse(&parameters)
                .unwrap_err()
                .to_string()
                .contains("`typ`")
        );
    }
}

//! The names of the keys. All share one hash tag, so that a cluster keeps them on one node.

use crate::counters::minute_start;

/// The keys of one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    tag: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            tag: format!("{{{prefix}}}"),
        }
    }

    /// Hash: `<route>/<log>` to the offset up to which its events are counted.
    pub(super) fn applied(&self) -> String {
        format!("{}:applied", self.tag)
    }

    /// Text: this dead letter is counted.
    pub(super) fn redriven(&self, route: &str, log: u128, number: i64) -> String {
        format!("{}:redriven:{route}:{log:032x}:{number}", self.tag)
    }

    /// Hash: `events`, and `counts`, how many counts of a type the sources have together.
    pub(super) fn totals(&self) -> String {
        format!("{}:totals", self.tag)
    }

    /// Hash: type to events.
    pub(super) fn types(&self) -> String {
        format!("{}:types", self.tag)
    }

    /// Hash: source to events.
    pub(super) fn sources(&self) -> String {
        format!("{}:sources", self.tag)
    }

    /// Hash: `first`, `last`, `number` if the source is one, `type:<type>` to events.
    pub(super) fn source(&self, name: &str) -> String {
        format!("{}:source:{name}", self.tag)
    }

    /// Hash: type to events accepted in this minute since 1970; the name has its first second, RFC 3339.
    pub(super) fn minute(&self, minute: i64) -> String {
        format!("{}:minute:{}", self.tag, minute_start(minute))
    }
}

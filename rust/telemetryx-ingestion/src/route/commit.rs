//! What a route saves with its cursor, and how often.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Books, Progress};
use crate::journal::Subscription;

/// How much work a crash may repeat: a commit costs a sync of the disk.
pub(super) const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// The longest pause between two commits, however long they take.
const COMMIT_PAUSE_MAX: Duration = Duration::from_secs(10);
/// When there is nothing to wait for.
pub(super) const NEVER: Duration = Duration::from_secs(3600);

/// What is saved with the cursor.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) books: Books,
    /// Of those in the books, events that this log never had: they were passed, or had expired, in the journal that this one
    /// took over from.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) carried: u64,
    /// The sink has had nothing behind the position: the route ended in order, and has not gone on since. Kept for a sink that
    /// [remembers offsets](crate::sinks::Sink::remembers_offsets).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) rests: bool,
    #[serde(default)]
    pub(crate) processors: Value,
    #[serde(default)]
    pub(crate) sink: Value,
    /// Dead letters that were sent again and may still lie in the control file.
    #[serde(default)]
    pub(crate) redriven: Vec<i64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Saved {
    /// Which of the parts takes the most room, for a person.
    pub(super) fn largest_part(&self) -> String {
        let processors = self.processors.as_object().into_iter().flatten();
        let parts = processors
            .map(|(key, state)| {
                let name = key.split_once(':').map_or(key.as_str(), |(_, name)| name);
                (format!("the state of the processor `{name}`"), state)
            })
            .chain([("the state of the sink".to_owned(), &self.sink)]);
        let largest = parts.max_by_key(|(_, state)| state.to_string().len());
        largest.map_or_else(String::new, |(part, _)| part)
    }
}

impl Saved {
    /// What was saved with this position.
    ///
    /// # Errors
    /// It is none of ours.
    pub(crate) fn read(state: &[u8], position: u64) -> Result<Self, serde_json::Error> {
        match state {
            // A route without a commit: what the journal had removed before it was made has expired for it.
            [] => Ok(Self {
                books: Books {
                    expired: position,
                    ..Books::default()
                },
                ..Self::default()
            }),
            state => serde_json::from_slice(state),
        }
    }
}

/// The books in what a route saved with its cursor; `None` before its first commit.
#[must_use]
pub fn saved_books(state: &[u8]) -> Option<Books> {
    serde_json::from_slice::<Saved>(state)
        .ok()
        .map(|saved| saved.books)
}

/// How far a route is that committed this.
#[must_use]
pub fn saved_progress(position: u64, state: &[u8]) -> Progress {
    let Saved { books, carried, .. } = serde_json::from_slice(state).unwrap_or_default();
    Progress {
        position,
        books,
        carried,
    }
}

/// When the next commit is due: soon when there is something to save, not so often that saving is all the route does.
pub(super) struct CommitPace {
    position: u64,
    touched: bool,
    last: Instant,
    every: Duration,
}

impl CommitPace {
    pub(super) fn new(subscription: &dyn Subscription) -> Self {
        Self {
            position: subscription.position(),
            touched: subscription.state().is_empty(),
            last: Instant::now(),
            every: COMMIT_EVERY,
        }
    }

    /// True if there is something to save.
    pub(super) fn is_dirty(&self, position: u64) -> bool {
        self.touched || position != self.position
    }

    /// Zero when it is due.
    pub(super) fn due_in(&self, position: u64, idle: bool) -> Duration {
        if self.is_dirty(position) {
            let every = if idle { self.every / 5 } else { self.every };
            every.saturating_sub(self.last.elapsed())
        } else {
            NEVER
        }
    }

    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    pub(super) fn committed(&mut self, position: u64, took: Duration) {
        self.position = position;
        self.touched = false;
        self.last = Instant::now();
        self.every = (took * 20).clamp(COMMIT_EVERY, COMMIT_PAUSE_MAX);
    }
}

//! What can go wrong with the journal. Whether to try again is a property of the variant.

/// Why a batch did not become durable. Nothing was promised to the client.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The queue in front of the writer is full: the client shall slow down. 429.
    #[error("the journal's queue is full")]
    Full,
    /// The disk is full: the client shall come back later; the operator shall make room. 503.
    #[error("no space left for the journal")]
    NoSpace,
    /// The disk failed to write or to sync; the journal is checking what it holds. 503.
    #[error("the journal cannot write: {0}")]
    Unwritable(String),
    /// The server that keeps the journal does not answer, or refuses; what it did not acknowledge may be there all the
    /// same. 503.
    #[error("the journal is not available: {0}")]
    Unavailable(String),
    /// The service is shutting down. 503.
    #[error("the journal is closed")]
    Closed,
    /// The batch, or an event of it, is larger than the journal takes: trying again will not help. 413.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, with its unit, and whose it is.
        limit: String,
    },
}

/// Why a route could not read or commit.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A route's saved position cannot be trusted. The route must not run until an operator decides.
    #[error("{0}")]
    DamagedCursor(String),
    /// Reading or writing failed: try again later.
    #[error("{0}")]
    Io(String),
    /// What is to be saved with the position is too large: the same state will be again.
    #[error("what is to be saved takes {bytes} bytes, and {most} fit")]
    StateTooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        most: usize,
    },
    /// The partition is another process's now: nothing was saved, and it goes on from the last commit.
    #[error("the partition is read by another process now: {0}")]
    Lost(String),
    /// The journal is closed: stop.
    #[error("the journal is closed")]
    Closed,
}

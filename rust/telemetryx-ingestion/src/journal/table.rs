//! What the processes of a fleet know alike: values by name, kept by the journal's engine beside the events.

use async_trait::async_trait;
use bytes::Bytes;

use super::JournalError;

/// A name, and its new value; `None` removes it.
pub type Entry = (String, Option<Bytes>);

/// Values by name, the newest of each, changed in one order that is the same for all.
#[async_trait]
pub trait SharedTable: Send + Sync {
    /// Changes these entries, in this order; durable when it resolves. Returns the sequence number of the last change: one
    /// who follows has come past it once he is told of it or of a later one.
    ///
    /// # Errors
    /// [`JournalError`]: some may be changed, and none is promised.
    async fn put(&self, entries: Vec<Entry>) -> Result<u64, JournalError>;

    /// Tells all there is, then each change as it comes, in order, on a thread of its own, for as long as the returned
    /// value lives. Outlasts outages of the server by itself.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot be begun.
    fn follow(
        &self,
        on: Box<dyn FnMut(TableChange) + Send>,
    ) -> Result<Box<dyn Followed>, JournalError>;
}

/// Ends the following when it is dropped.
pub trait Followed: Send + Sync {}

/// What one who follows is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableChange {
    /// This name has this value now, or none any more.
    Value {
        /// Later changes have higher numbers.
        sequence: u64,
        /// The name.
        name: String,
        /// The value.
        value: Option<Bytes>,
    },
    /// All that there was at the beginning has been told; once.
    UpToDate,
}

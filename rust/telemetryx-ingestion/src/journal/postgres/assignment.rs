//! A partition that this process reads for a route, until another one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::{Assignment, FailedDelivery, JournalError, Subscription};
use super::core::Core;
use super::members::Key;
use super::seen::Place;
use super::subscription::PostgresSubscription;

/// What every route would write with every commit must not be larger.
pub(super) const STATE_BYTES_MAX: usize = 1 << 20;

const OPEN: &str = "SELECT position, bytes_passed, state, version FROM {s}.positions \
    WHERE route = $1 AND partition = $2 AND claim = $3";
/// Position, state and books are one row; what a failure left there is over. One that comes late, over a connection that was
/// given up, finds another version.
const COMMIT: &str = "UPDATE {s}.positions SET position = $4, bytes_passed = $5, state = coalesce($6, state), \
    version = version + 1, attempts = 0, failed_from = NULL, failed_to = NULL, next_attempt_at = NULL, \
    last_error = NULL WHERE route = $1 AND partition = $2 AND claim = $3 AND version = $7 RETURNING version";

/// See the module.
pub(super) struct Held {
    core: Arc<Core>,
    route: String,
    partition: u32,
    /// Says that the row is ours; a new one each time that somebody takes it.
    claim: Uuid,
    revoked: CancellationToken,
    is_over: AtomicBool,
}

impl Held {
    pub(super) fn new(core: Arc<Core>, route: String, partition: u32, claim: Uuid) -> Self {
        Self {
            core,
            route,
            partition,
            claim,
            revoked: CancellationToken::new(),
            is_over: AtomicBool::new(false),
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn route(&self) -> &str {
        &self.route
    }

    pub(super) fn partition(&self) -> u32 {
        self.partition
    }

    pub(super) fn key(&self) -> Key {
        (self.route.clone(), self.partition)
    }

    pub(super) fn claim(&self) -> Uuid {
        self.claim
    }

    pub(super) fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    /// It is not ours any more.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.revoked.cancel();
        self.core.seen().tell();
    }

    /// Is it still ours, as far as is known?
    ///
    /// # Errors
    /// [`JournalError::Lost`], [`JournalError::Closed`].
    pub(super) fn check(&self) -> Result<(), JournalError> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(self.lost());
        }
        if self.core.closed().is_cancelled() {
            return Err(JournalError::Closed);
        }
        Ok(())
    }

    fn lost(&self) -> JournalError {
        JournalError::Lost(format!("partition {}", self.partition))
    }

    /// The row says that it is somebody else's.
    fn lose(&self) -> JournalError {
        self.end();
        self.core.members().wake();
        self.lost()
    }

    /// Saves a position, and a state unless it is the one that is there, over what was saved with `version`; the version of
    /// what is there then.
    pub(super) async fn commit(
        &self,
        position: u64,
        bytes_passed: u64,
        state: &[u8],
        is_same: bool,
        version: i64,
    ) -> Result<i64, JournalError> {
        self.check()?;
        if state.len() > STATE_BYTES_MAX {
            return Err(JournalError::StateTooLarge {
                bytes: state.len(),
                most: STATE_BYTES_MAX,
            });
        }
        let number = |number: u64| {
            i64::try_from(number).map_err(|error| JournalError::Io(error.to_string()))
        };
        let (partition, position_number) = (self.partition.cast_signed(), number(position)?);
        let (bytes_number, new_state) = (number(bytes_passed)?, (!is_same).then_some(state));
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &self.route,
            &partition,
            &self.claim,
            &position_number,
            &bytes_number,
            &new_state,
            &version,
        ];
        let saved = self.core.rows_where_looked(COMMIT, &parameters).await?;
        let Some(row) = saved.first() else {
            return Err(self.lose());
        };
        let place = Place {
            position: Some(position),
            bytes_passed,
            state: Bytes::copy_from_slice(state),
            version: row.get(0),
        };
        let version = place.version;
        self.core
            .seen()
            .set_place(&self.route, self.partition, place);
        Ok(version)
    }

    async fn open(self: &Arc<Self>) -> Result<PostgresSubscription, JournalError> {
        self.check()?;
        let partition = self.partition.cast_signed();
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.route, &partition, &self.claim];
        let found = self.core.books().rows(OPEN, &parameters).await?;
        // What is there now, so that it is known what is missing.
        self.core.refresh().await?;
        self.check()?;
        let Some(row) = found.first() else {
            return Err(self.lose());
        };
        let (position, bytes, state): (Option<i64>, i64, &[u8]) =
            (row.get(0), row.get(1), row.get(2));
        let (start, end) = (
            self.core.seen().start(self.partition),
            self.core.seen().end(self.partition),
        );
        let (mut position, bytes) = match position {
            Some(position) => (position.unsigned_abs(), bytes.unsigned_abs()),
            None => (start.offset, start.bytes),
        };
        if position > end.offset {
            tracing::error!(
                route = self.route,
                partition = self.partition,
                position,
                end = end.offset,
                "the partition ends before the position of the route: the server lost what it had committed; the route \
                 goes on at the end"
            );
            position = end.offset;
        }
        Ok(PostgresSubscription::new(
            Arc::clone(self),
            (position, bytes),
            Bytes::copy_from_slice(state),
            row.get(3),
        ))
    }
}

/// What the route holds.
pub(super) struct PostgresAssignment(Arc<Held>);

impl PostgresAssignment {
    pub(super) fn new(held: Arc<Held>) -> Self {
        Self(held)
    }
}

impl Drop for PostgresAssignment {
    fn drop(&mut self) {
        self.0.core.members().dropped(&self.0);
    }
}

#[async_trait]
impl Assignment for PostgresAssignment {
    fn partition(&self) -> u32 {
        self.0.partition
    }

    fn identity(&self) -> u128 {
        self.0.core.seen().identity()
    }

    fn revoked(&self) -> CancellationToken {
        self.0.revoked.clone()
    }

    async fn open(&self) -> Result<Box<dyn Subscription>, JournalError> {
        Ok(Box::new(self.0.open().await?))
    }

    fn failed(&self, failure: FailedDelivery) {
        self.0.core.failures().add(&self.0, failure);
    }
}

//! What all parts of the journal share, and the look at the tables.

use std::sync::Arc;
use std::time::Duration;

use telemetryx_common::Timestamp;
use tokio::sync::{Notify, watch};
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::{AppendError, JournalError};
use super::append::Queue;
use super::link::{Fault, Link};
use super::members::Members;
use super::schema::{self, Found};
use super::seen::{End, Piece, Place, Seen};
use super::settings::Settings;

/// Rows are found by their place; a plan made for a table that was small must not stay.
const READING: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off; \
    SET plan_cache_mode = force_generic_plan";
const BOOKS: &str = "SET jit = off; SET plan_cache_mode = force_generic_plan; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

const JOURNAL: &str = "SELECT identity, sequence, \
    (SELECT min(piece) FROM {s}.pieces), (SELECT max(piece) FROM {s}.pieces), \
    ARRAY(SELECT DISTINCT route FROM {s}.positions WHERE route <> ALL ($1)), \
    current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery() FROM {s}.journal";
const PARTITIONS: &str = "SELECT partition, next_offset, bytes FROM {s}.partitions";
const PIECES: &str = "SELECT piece, starts, bytes_before, (extract(epoch FROM made_at) * 1000000)::bigint \
    FROM {s}.pieces ORDER BY piece";
const POSITIONS: &str = "SELECT p.route, p.partition, p.position, p.bytes_passed, p.version, p.state \
    FROM {s}.positions p LEFT JOIN unnest($1::text[], $2::integer[], $3::bigint[]) AS known (route, partition, version) \
    USING (route, partition) WHERE p.version IS DISTINCT FROM known.version AND p.route = ANY ($4::text[])";
const ADD_ROUTES: &str = "INSERT INTO {s}.positions (route, partition) \
    SELECT route, partition FROM unnest($1::text[]) AS route, {s}.partitions ON CONFLICT DO NOTHING";

/// See the module.
pub(super) struct Core {
    settings: Arc<Settings>,
    /// The routes of the config.
    routes: Vec<String>,
    seen: Seen,
    queue: Queue,
    books: Link,
    reads: Link,
    members: Members,
    is_ready: watch::Sender<bool>,
    /// What was found when it was looked last, if the tables are there.
    found: tokio::sync::Mutex<Option<Found>>,
    wanted: Notify,
    closed: CancellationToken,
    written: CancellationToken,
}

impl Core {
    pub(super) fn new(settings: Settings, routes: &[String]) -> Self {
        let settings = Arc::new(settings);
        Self {
            seen: Seen::new(routes),
            routes: routes.to_vec(),
            queue: Queue::default(),
            books: Link::new(Arc::clone(&settings), BOOKS),
            reads: Link::new(Arc::clone(&settings), READING),
            members: Members::default(),
            is_ready: watch::Sender::new(false),
            found: tokio::sync::Mutex::new(None),
            wanted: Notify::new(),
            closed: CancellationToken::new(),
            written: CancellationToken::new(),
            settings,
        }
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// For what is small: positions, leases, names.
    pub(super) fn books(&self) -> &Link {
        &self.books
    }

    /// For events.
    pub(super) fn reads(&self) -> &Link {
        &self.reads
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// Waits until the tables are there.
    pub(super) async fn ready(&self) {
        let mut is_ready = self.is_ready.subscribe();
        // It lives as long as this.
        is_ready.wait_for(|ready| *ready).await.ok();
    }

    /// May something be appended now?
    ///
    /// # Errors
    /// It is closed, or PostgreSQL has been away for longer than a batch would wait.
    pub(super) fn may_append(&self) -> Result<(), AppendError> {
        if self.closed.is_cancelled() {
            return Err(AppendError::Closed);
        }
        match self.seen.problem() {
            // Whether it is back is tried out beside all that.
            Some(problem)
                if !self.is_ready() || problem.begun.elapsed() > self.settings.patience =>
            {
                Err(AppendError::Unavailable(problem.reason))
            }
            _ => Ok(()),
        }
    }

    /// Stops; what waits to be written still is.
    pub(super) fn stop(&self) {
        self.closed.cancel();
        self.queue.close();
        self.members.stop();
        self.seen.tell();
    }

    pub(super) fn writer_ended(&self) {
        self.written.cancel();
    }

    /// Waits until all that waited is written.
    pub(super) async fn written(&self) {
        self.written.cancelled().await;
    }

    /// Looks soon.
    pub(super) fn look_again(&self) {
        self.wanted.notify_one();
    }

    /// Looks for ever: after each interval, and when somebody asks for it.
    pub(super) async fn keep_looking(&self) {
        let mut said = String::new();
        while !self.closed.is_cancelled() {
            match self.look().await {
                Ok(()) => said.clear(),
                Err(fault) if said != fault.words() => {
                    fault.words().clone_into(&mut said);
                    tracing::debug!(reason = said, "the journal's tables cannot be looked at");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(self.settings.poll_interval) => {}
                () = self.wanted.notified() => {}
                () = self.closed.cancelled() => {}
            }
        }
    }

    /// Sees everything anew.
    ///
    /// # Errors
    /// The server does not answer; what was seen before stays.
    pub(super) async fn refresh(&self) -> Result<(), JournalError> {
        Ok(self.look().await?)
    }

    async fn look(&self) -> Result<(), Fault> {
        let mut found = self.found.lock().await;
        let looked = self.look_at(&mut found).await;
        match &looked {
            Ok(()) => self.seen.answered(),
            Err(fault) => {
                if fault.is_missing() {
                    *found = None;
                }
                self.seen.failed(fault.words(), false);
            }
        }
        looked
    }

    async fn look_at(&self, found: &mut Option<Found>) -> Result<(), Fault> {
        if found.is_none() {
            let prepared = Box::pin(self.prepare()).await?;
            self.begin(prepared).await?;
            *found = Some(prepared);
        }
        let known_routes = self.seen.routes();
        let asked: [&(dyn ToSql + Sync); 1] = [&known_routes];
        let (routes, partitions, versions) = self.seen.versions();
        let changed: [&(dyn ToSql + Sync); 4] = [&routes, &partitions, &versions, &known_routes];
        let (journal, ends, places) = tokio::try_join!(
            self.books.rows(JOURNAL, &asked),
            self.books.rows(PARTITIONS, &[]),
            self.books.rows(POSITIONS, &changed),
        )?;
        let row = journal.first();
        let row =
            row.ok_or_else(|| Fault::Away("the journal's tables are being made".to_owned()))?;
        let identity: Uuid = row.get(0);
        if found.is_some_and(|found| found.identity != identity.as_u128()) {
            *found = None;
            return Err(Fault::Away("the journal was made anew".to_owned()));
        }
        let (oldest, newest): (Option<i64>, Option<i64>) = (row.get(2), row.get(3));
        let pieces = self.seen.pieces();
        let ends_of = |pieces: &[Piece]| {
            (
                pieces.first().map(|piece| piece.number),
                pieces.last().map(|piece| piece.number),
            )
        };
        if ends_of(&pieces) != (oldest, newest) {
            let rows = self.books.rows(PIECES, &[]).await?;
            self.seen.set_pieces(rows.iter().map(piece_of).collect());
        }
        self.seen.set_ends(ends.iter().map(|row| {
            let (partition, offset, bytes): (i32, i64, i64) = (row.get(0), row.get(1), row.get(2));
            (partition.unsigned_abs(), end_of(offset, bytes))
        }));
        for row in &places {
            let (route, partition, position): (&str, i32, Option<i64>) =
                (row.get(0), row.get(1), row.get(2));
            let (bytes, version, state): (i64, i64, &[u8]) = (row.get(3), row.get(4), row.get(5));
            let place = Place {
                position: position.map(i64::unsigned_abs),
                bytes_passed: bytes.unsigned_abs(),
                state: bytes::Bytes::copy_from_slice(state),
                version,
            };
            self.seen.set_place(route, partition.unsigned_abs(), place);
        }
        self.seen.set_changed(row.get::<_, i64>(1).unsigned_abs());
        self.seen.set_warnings(self.warnings(found, row));
        self.is_ready.send_replace(true);
        Ok(())
    }

    fn warnings(&self, found: &Option<Found>, row: &tokio_postgres::Row) -> Vec<String> {
        let mut warnings = Vec::new();
        let (fsync, pages, is_replica): (&str, &str, bool) = (row.get(5), row.get(6), row.get(7));
        if fsync == "off" {
            warnings.push(
                "the server has fsync = off: a power cut can lose what was acknowledged".to_owned(),
            );
        }
        if pages == "off" {
            warnings.push(
                "the server has full_page_writes = off: a power cut can damage the tables"
                    .to_owned(),
            );
        }
        if is_replica {
            warnings.push("the server is a replica: it takes nothing in".to_owned());
        }
        let wanted = self.settings.partitions;
        if let Some(found) = found.filter(|found| found.partitions != wanted) {
            warnings.push(format!(
                "the journal has {} partitions, and journal.postgres.partitions says {wanted}: nothing is changed",
                found.partitions
            ));
        }
        let routes: Vec<String> = row.get(4);
        for route in routes {
            warnings.push(format!(
                "route `{route}` is not in the config and holds back the journal's retention: add it again, or \
                 DELETE FROM {}.positions WHERE route = '{}'",
                self.settings.sql("{s}"),
                route.replace('\'', "''")
            ));
        }
        warnings
    }

    /// Makes the tables if they are not there.
    async fn prepare(&self) -> Result<Found, Fault> {
        let connection = self
            .settings
            .connector
            .open("")
            .await
            .map_err(Fault::Away)?;
        let prepared = schema::prepare(&connection, &self.settings);
        let patience = self.settings.patience.max(Duration::from_secs(30));
        match tokio::time::timeout(patience, prepared).await {
            Ok(prepared) => prepared,
            Err(_) => Err(Fault::Away(format!("no answer within {patience:?}"))),
        }
    }

    /// The tables are there: what was known before holds if they are the same.
    async fn begin(&self, found: Found) -> Result<(), Fault> {
        if self.seen.identity() != found.identity {
            self.seen.begin(found.identity, found.partitions);
            self.members.forget();
        }
        let mut routes = self.routes.clone();
        routes.extend(self.members.routes());
        self.add_routes(&routes).await
    }

    /// Routes that hold back what they have not passed, from now on.
    pub(super) async fn add_routes(&self, routes: &[String]) -> Result<(), Fault> {
        let routes = routes.to_vec();
        self.books.rows(ADD_ROUTES, &[&routes]).await.map(|_| ())
    }
}

fn end_of(offset: i64, bytes: i64) -> End {
    End {
        offset: offset.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
    }
}

fn piece_of(row: &tokio_postgres::Row) -> Piece {
    let (starts, bytes): (Vec<i64>, Vec<i64>) = (row.get(1), row.get(2));
    let made_at: i64 = row.get(3);
    Piece {
        number: row.get(0),
        starts: starts
            .into_iter()
            .zip(bytes)
            .map(|(offset, bytes)| end_of(offset, bytes))
            .collect(),
        made_at: Timestamp::from_unix_nanos(made_at.saturating_mul(1000)),
    }
}

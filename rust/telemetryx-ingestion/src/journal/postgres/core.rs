//! What all parts of the journal share, and the look at the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use telemetryx_common::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::{AppendError, JournalError};
use super::append::Queue;
use super::failures::Failures;
use super::link::{Fault, Link, Opener};
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
const PIECES: &str = "SELECT piece, starts, bytes_before, (extract(epoch FROM made_at) * 1000000)::bigint, \
    (extract(epoch FROM clock_timestamp() - made_at) * 1000000)::bigint FROM {s}.pieces ORDER BY piece";
/// Who knew the journal as it was before sees that it is another one.
const RENAME: &str = "UPDATE {s}.journal SET identity = $1 WHERE identity = $2";
const POSITIONS: &str = "SELECT p.route, p.partition, p.position, p.bytes_passed, p.version, p.state \
    FROM {s}.positions p LEFT JOIN unnest($1::text[], $2::integer[], $3::bigint[]) AS known (route, partition, version) \
    USING (route, partition) WHERE p.version IS DISTINCT FROM known.version AND p.route = ANY ($4::text[])";
/// A row that was deleted and is made anew has a higher version than it had.
const ADD_ROUTES: &str = "INSERT INTO {s}.positions (route, partition, version) \
    SELECT route, partition, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
    FROM unnest($1::text[]) AS route, {s}.partitions ON CONFLICT DO NOTHING";

/// How often it is looked whether the server that answers now is as far as the one before.
const LOOKS: u32 = 3;

/// See the module.
pub(super) struct Core {
    settings: Arc<Settings>,
    opener: Opener,
    /// The routes of the config.
    routes: Vec<String>,
    /// False: what is not there is not made, and nothing is kept.
    makes: bool,
    seen: Seen,
    queue: Queue,
    books: Link,
    leases: Link,
    reads: Link,
    members: Members,
    failures: Failures,
    /// The session of `books` in which it was last looked.
    looked_in: AtomicU64,
    is_ready: watch::Sender<bool>,
    /// What was found when it was looked last, if the tables are there.
    found: tokio::sync::Mutex<Option<Found>>,
    wanted: Notify,
    closed: CancellationToken,
    written: CancellationToken,
}

impl Core {
    /// For these routes. `makes`: what is not there is made, as a service does.
    pub(super) fn new(settings: Settings, routes: &[String], makes: bool, runtime: Handle) -> Self {
        let settings = Arc::new(settings);
        let opener = Opener {
            settings: Arc::clone(&settings),
            runtime,
        };
        Self {
            seen: Seen::new(routes),
            routes: routes.to_vec(),
            makes,
            queue: Queue::default(),
            books: Link::new(opener.clone(), BOOKS),
            leases: Link::impatient(opener.clone(), BOOKS, settings.lease / 2),
            reads: Link::new(opener.clone(), READING),
            opener,
            members: Members::default(),
            failures: Failures::default(),
            looked_in: AtomicU64::new(0),
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

    pub(super) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// For what is small: positions, names.
    pub(super) fn books(&self) -> &Link {
        &self.books
    }

    /// For leases and claims, which wait for nothing else.
    pub(super) fn leases(&self) -> &Link {
        &self.leases
    }

    /// For events.
    pub(super) fn reads(&self) -> &Link {
        &self.reads
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// Deliveries that failed.
    pub(super) fn failures(&self) -> &Failures {
        &self.failures
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
    pub(super) async fn keep_looking(self: Arc<Self>) {
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
        // What is seen from here on is of that session, or it is looked again.
        let session = self.books.connect().await?;
        let at_least = self.seen.at_least();
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
        let ends: Vec<_> = ends.iter().map(end_row).collect();
        let sequence = row.get::<_, i64>(1).unsigned_abs();
        if let Some(lost) = went_back(&at_least, &ends, sequence) {
            self.rename(identity, lost).await?;
            *found = None;
            return Err(Fault::Away(
                "the server went back to an earlier state".to_owned(),
            ));
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
        self.seen.set_ends(ends);
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
        self.seen.set_changed(sequence);
        self.seen.set_warnings(self.warnings(found, row));
        self.looked_in.store(session, Ordering::Release);
        self.is_ready.send_replace(true);
        Ok(())
    }

    /// What a statement answers on a session in which it was looked: before, the server may have been exchanged for one that
    /// knows less.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn rows_where_looked(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Fault> {
        for _ in 0..LOOKS {
            let session = self.looked_in.load(Ordering::Acquire);
            if let Some(rows) = self.books.rows_in(session, sql, parameters).await? {
                return Ok(rows);
            }
            self.look().await?;
        }
        Err(Fault::Away(
            "the connection is lost again and again".to_owned(),
        ))
    }

    /// The server lost what it had committed: offsets are given twice, so all that was known by them is of another journal.
    async fn rename(&self, identity: Uuid, lost: String) -> Result<(), Fault> {
        let renamed: [&(dyn ToSql + Sync); 2] = [&Uuid::now_v7(), &identity];
        self.books.rows(RENAME, &renamed).await?;
        self.seen.add_damage(lost);
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
                "route `{route}` is not in the config and holds back the journal's retention: add it again, or, once no \
                 process has it, DELETE FROM {}.positions WHERE route = '{}'",
                self.settings.sql("{s}"),
                route.replace('\'', "''")
            ));
        }
        warnings
    }

    /// True if the server answers, and has no tables.
    pub(super) async fn is_missing(&self) -> bool {
        let Ok(connection) = self.opener.open("").await else {
            return false;
        };
        let found = schema::find(&connection, &self.settings).await;
        found.is_ok_and(|found| found.is_none())
    }

    /// Makes the tables if they are not there.
    async fn prepare(&self) -> Result<Found, Fault> {
        let connection = self.opener.open("").await?;
        let prepared = schema::prepare(&connection, &self.settings, self.makes);
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
        if !self.makes {
            return Ok(());
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

/// A partition's end, as a row tells it.
fn end_row(row: &tokio_postgres::Row) -> (u32, End) {
    let (partition, offset, bytes): (i32, i64, i64) = (row.get(0), row.get(1), row.get(2));
    (partition.unsigned_abs(), end_of(offset, bytes))
}

/// In which way the server knows less than it did, if it does.
fn went_back(
    (known, names): &(Vec<End>, u64),
    ends: &[(u32, End)],
    sequence: u64,
) -> Option<String> {
    let lower = ends.iter().find_map(|(partition, end)| {
        let known = known.get(*partition as usize)?;
        (end.offset < known.offset).then(|| {
            format!(
                "partition {partition} ended at {} and ends at {}",
                known.offset, end.offset
            )
        })
    });
    let lower = lower.or_else(|| {
        (sequence < *names).then(|| "changes of the table of names are gone".to_owned())
    });
    lower.map(|lower| format!("the server lost what it had committed: {lower}"))
}

fn end_of(offset: i64, bytes: i64) -> End {
    End {
        offset: offset.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
    }
}

fn piece_of(row: &tokio_postgres::Row) -> Piece {
    let (starts, bytes): (Vec<i64>, Vec<i64>) = (row.get(1), row.get(2));
    let (made_at, age): (i64, i64) = (row.get(3), row.get(4));
    let (now, age) = (
        Instant::now(),
        Duration::from_micros(age.try_into().unwrap_or(0)),
    );
    Piece {
        number: row.get(0),
        starts: starts
            .into_iter()
            .zip(bytes)
            .map(|(offset, bytes)| end_of(offset, bytes))
            .collect(),
        made_at: Timestamp::from_unix_nanos(made_at.saturating_mul(1000)),
        made: now.checked_sub(age).unwrap_or(now),
    }
}

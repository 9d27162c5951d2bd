//! A batch as one insert, exactly once.
//!
//! A writer takes a number larger than any before it, and waits until no insert of those before it runs. Each insert asks,
//! when it runs, whether there is a larger number by then, and fails if so. Hence, once a writer is open, nothing comes late:
//! not what lay in the socket of a server that hung, nor what a process sent that was killed. An insert whose answer is
//! lost is the end of its writer.
//!
//! Then a look at the offsets that are there says what is to be inserted: an insert into several partitions may have been
//! done in part. A route that reads on has nothing there from some offset on, and need not look.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use telemetryx_common::Event;

use super::rows;
use super::server::{External, Server};
use super::table::{DERIVED, Ready, Table, quoted};
use crate::route::{Cause, EventBatch, Origin};
use crate::sinks::DeliverError;

/// Offsets or ids that the server may answer with.
const FOUND_BYTES_MAX: usize = 64 << 20;
const OFFSET_BYTES: usize = 8;
/// Servers read statements of 256 KiB.
const IDS_AT_ONCE: usize = 500;

/// Who may insert what is of one route and journal.
pub(super) struct Writer {
    log: u128,
    /// Of route and journal.
    journal: u64,
    number: u64,
    ready: Ready,
    /// From this offset on nothing is there; `None`: not known.
    free_from: Option<u64>,
    inserts: u64,
}

impl Writer {
    /// Makes sure that nobody else writes.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`].
    pub(super) async fn open(
        server: &Server,
        table: &Table,
        route: &str,
        log: u128,
    ) -> Result<Self, DeliverError> {
        let ready = table.ready(server).await?;
        let journal = journal(route, log);
        let writers = &table.writers;
        let last = format!("SELECT max(writer) FROM {writers} WHERE journal = {journal}");
        let number = server.number(last).await?.saturating_add(1);
        server.run(table.claim(journal, number, route, log)).await?;
        let before = query_id(journal, "%");
        let running =
            format!("SELECT count() FROM system.processes WHERE query_id LIKE '{before}'");
        if server.number(running).await? > 0 {
            return Err(server.retryable(&"an insert from before is still under way"));
        }
        Ok(Self {
            log,
            journal,
            number,
            ready,
            free_from: None,
            inserts: 0,
        })
    }

    pub(super) fn is_of(&self, log: u128) -> bool {
        self.log == log
    }

    /// Inserts what is not there yet.
    ///
    /// # Errors
    /// [`DeliverError`]; unless it is [`DeliverError::Refused`], this writer is of no use any more.
    pub(super) async fn store(
        &mut self,
        server: &Server,
        table: &Table,
        batch: &EventBatch<'_>,
    ) -> Result<(), DeliverError> {
        let there = self.there(server, table, batch).await?;
        let ids = self.derived_there(server, table, batch).await?;
        let missing: Vec<_> = batch
            .iter()
            .filter_map(|(origin, event)| match origin {
                Origin::Journal(offset) => (!there.contains(&offset)).then_some((offset, event)),
                Origin::Derived => (!ids.contains(event.id.as_ref())).then_some((DERIVED, event)),
            })
            .collect();
        if !missing.is_empty() {
            let inserted = self.insert(server, table, batch.cause(), &missing).await;
            // What was refused may have been inserted in part.
            inserted.inspect_err(|_| self.free_from = None)?;
        }
        let end = match batch.cause() {
            Cause::Journal(stretch) => Some(stretch.end),
            Cause::Replay | Cause::Redrive(_) => batch
                .offsets()
                .map(|(offset, _)| offset.saturating_add(1))
                .max(),
        };
        if let (Some(free_from), Some(end)) = (&mut self.free_from, end) {
            *free_from = end.max(*free_from);
        }
        Ok(())
    }

    /// Which offsets of the batch are in the table.
    async fn there(
        &mut self,
        server: &Server,
        table: &Table,
        batch: &EventBatch<'_>,
    ) -> Result<HashSet<u64>, DeliverError> {
        let (mut first, mut last) = (u64::MAX, 0);
        let (mut oldest, mut newest) = (i64::MAX, i64::MIN);
        for (offset, event) in batch.offsets() {
            let at = event.ts.unix_nanos();
            (first, last) = (first.min(offset), last.max(offset));
            (oldest, newest) = (oldest.min(at), newest.max(at));
        }
        if first > last {
            return Ok(HashSet::new());
        }
        let journal = self.journal;
        if let Cause::Journal(stretch) = batch.cause() {
            let from = stretch.first;
            let free_from = match self.free_from {
                Some(free_from) => free_from,
                None => {
                    let end = table.end(journal, from);
                    let free_from = server.number(end).await?.max(from);
                    *self.free_from.insert(free_from)
                }
            };
            if first >= free_from {
                return Ok(HashSet::new());
            }
        }
        let question = table.offsets(self.ready.form, journal, (first, last), (oldest, newest));
        let found = server.ask(question, FOUND_BYTES_MAX).await?;
        let (offsets, []) = found.as_chunks::<OFFSET_BYTES>() else {
            return Err(server.retryable(&"offsets are expected, and something else was answered"));
        };
        Ok(offsets
            .iter()
            .map(|offset| u64::from_le_bytes(*offset))
            .collect())
    }

    /// Which ids of derived events are in the table: those may come with any batch.
    async fn derived_there(
        &self,
        server: &Server,
        table: &Table,
        batch: &EventBatch<'_>,
    ) -> Result<HashSet<String>, DeliverError> {
        let derived = batch
            .iter()
            .filter(|(origin, _)| *origin == Origin::Derived);
        let ids: Vec<_> = derived.map(|(_, event)| quoted(&event.id, '\'')).collect();
        let mut there = HashSet::new();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let question = table.derived(self.journal, &ids.join(", "));
            let found = server.ask(question, FOUND_BYTES_MAX).await?;
            let text = String::from_utf8_lossy(&found);
            let ids = text.lines().filter_map(|line| {
                let id = crate::hex::decode(line.as_bytes())?;
                String::from_utf8(id).ok()
            });
            there.extend(ids);
        }
        Ok(there)
    }

    async fn insert(
        &mut self,
        server: &Server,
        table: &Table,
        cause: Cause,
        events: &[(u64, &Event<'_>)],
    ) -> Result<(), DeliverError> {
        let form = self.ready.form;
        let mut rows = Vec::new();
        for (offset, event) in events {
            rows::write(form, event, *offset, &mut rows);
        }
        self.inserts += 1;
        let id = query_id(self.journal, &format!("{}-{}", self.number, self.inserts));
        let mut settings = Vec::new();
        if self.ready.is_new {
            settings.push(("async_insert".to_owned(), "0".to_owned()));
            settings.push((
                "insert_deduplication_token".to_owned(),
                self.token(cause, &id, events),
            ));
        }
        settings.push(("query_id".to_owned(), id));
        let statement = table.insert(form, self.journal, self.number);
        let structure = form.structure();
        server
            .insert(statement, External { structure, rows }, settings)
            .await
    }

    /// The same for the same part of the journal. What an operator sends again has one of its own: it may have been removed
    /// from the table since.
    fn token(&self, cause: Cause, query_id: &str, events: &[(u64, &Event<'_>)]) -> String {
        let Cause::Journal(stretch) = cause else {
            return query_id.to_owned();
        };
        let mut hash = Sha256::new();
        for (offset, event) in events {
            hash.update(offset.to_le_bytes());
            hash.update(event.id.len().to_le_bytes());
            hash.update(event.id.as_bytes());
        }
        let digits = hash.finalize();
        let digits: String = digits
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!(
            "{:016x}-{}-{}-{digits}",
            self.journal, stretch.first, stretch.end
        )
    }
}

/// Inserts of a route and journal are told by the beginning of their ids.
fn query_id(journal: u64, which: &str) -> String {
    format!("telemetryx-{journal:016x}-{which}")
}

/// A short name of a route and the journal that it reads.
fn journal(route: &str, log: u128) -> u64 {
    let hash = Sha256::digest(format!("{log:032x}/{route}"));
    hash.iter()
        .take(8)
        .fold(0, |name, byte| name << 8 | u64::from(*byte))
}

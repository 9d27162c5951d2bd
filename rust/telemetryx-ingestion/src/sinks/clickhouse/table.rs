//! The tables: one with the events, and one that says who may write.
//!
//! Servers before 22.8 get a form without what they do not know: times to the second, with nanoseconds beside them, and
//! attributes as JSON.

use serde::Deserialize;
use telemetryx_common::Timestamp;

use super::rows;
use super::server::{Server, Version};
use crate::sinks::DeliverError;

/// File names are made of them.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// `DateTime64`, `Map`, indexes of ranges, tokens of inserts: all there, and no longer experimental.
const NEW_FROM: Version = Version(22, 8);
/// In place of an offset: a processor made the event.
pub(super) const DERIVED: u64 = u64::MAX;
const WRITERS: &str = "telemetryx_writers";
/// Columns of a table.
const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

/// How the table is cut into partitions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PartitionBy {
    /// UTC months.
    #[default]
    Month,
    /// UTC days.
    Day,
}

/// What the table looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    New,
    Old,
}

/// What was found at the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) form: Form,
    /// Whether it knows tokens of inserts, and inserts that are answered before they are done.
    pub(super) is_new: bool,
}

#[derive(Debug)]
pub(super) struct Table {
    database: String,
    name: String,
    partition: PartitionBy,
    /// Quoted, with the database.
    pub(super) events: String,
    pub(super) writers: String,
}

impl Table {
    pub(super) fn new(database: &str, name: &str, partition: PartitionBy) -> Self {
        let qualified = |name: &str| format!("{}.{}", quoted(database, '`'), quoted(name, '`'));
        Self {
            database: database.to_owned(),
            name: name.to_owned(),
            partition,
            events: qualified(name),
            writers: qualified(WRITERS),
        }
    }

    /// Makes what is not there.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`]: the server's words, or what is wrong with a table that is there.
    pub(super) async fn ready(&self, server: &Server) -> Result<Ready, DeliverError> {
        let is_new = server.version().await? >= NEW_FROM;
        let mut columns = self.columns(server, &self.name).await?;
        if columns.is_empty() {
            let form = if is_new { Form::New } else { Form::Old };
            if self.database != "default" {
                let database = quoted(&self.database, '`');
                let statement = format!("CREATE DATABASE IF NOT EXISTS {database}");
                server.run(statement).await?;
            }
            server.run(self.create(form)).await?;
            columns = self.columns(server, &self.name).await?;
        }
        // Only if it is needed: who may write need not be who may make tables.
        if self.columns(server, WRITERS).await?.is_empty() {
            server.run(self.create_writers()).await?;
        }
        let form = Form::of(&columns)
            .map_err(|wrong| server.retryable(&format!("table {} {wrong}", self.events)))?;
        Ok(Ready { form, is_new })
    }

    async fn columns(
        &self,
        server: &Server,
        table: &str,
    ) -> Result<Vec<(String, String)>, DeliverError> {
        let answer = server
            .ask(self.describe(table), DESCRIPTION_BYTES_MAX)
            .await?;
        Ok(described(&String::from_utf8_lossy(&answer)))
    }

    /// The statement that asks for the columns of a table; [`described`] reads the answer.
    pub(super) fn describe(&self, table: &str) -> String {
        let (database, table) = (quoted(&self.database, '\''), quoted(table, '\''));
        format!(
            "SELECT name, type FROM system.columns WHERE database = {database} AND table = {table} \
             FORMAT TabSeparated"
        )
    }

    /// The statement that makes the table of events.
    pub(super) fn create(&self, form: Form) -> String {
        let columns: Vec<_> = form
            .all_columns()
            .map(|(name, kind)| match (form, name) {
                (Form::New, "type") => format!("{name} LowCardinality({kind})"),
                (Form::New, "payload") => format!("{name} {kind} CODEC(ZSTD(1))"),
                _ => format!("{name} {kind}"),
            })
            .collect();
        let columns = columns.join(", ");
        let partition = match self.partition {
            PartitionBy::Month => "toYYYYMM(ts)",
            PartitionBy::Day => "toYYYYMMDD(ts)",
        };
        let events = &self.events;
        let engine =
            format!("ENGINE = MergeTree() PARTITION BY {partition} ORDER BY (type, ts, id)");
        match form {
            // What is answered is on disk, and what comes again within a while is known by its token.
            Form::New => format!(
                "CREATE TABLE IF NOT EXISTS {events} ({columns}, \
                 INDEX journal_offsets journal_offset TYPE minmax GRANULARITY 1) {engine} \
                 SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, \
                 non_replicated_deduplication_window = 1000"
            ),
            Form::Old => format!("CREATE TABLE IF NOT EXISTS {events} ({columns}) {engine}"),
        }
    }

    /// The statement that makes the table of writers.
    pub(super) fn create_writers(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (journal UInt64, writer UInt64, route String, log String, since DateTime) \
             ENGINE = MergeTree() PARTITION BY tuple() ORDER BY (journal, writer)",
            self.writers
        )
    }

    /// The statement that takes rows over from the table `batch`, if nobody writes in place of this writer.
    pub(super) fn insert(&self, form: Form, journal: u64, writer: u64) -> String {
        let names = form.columns().iter().map(|(name, _)| *name);
        let values: Vec<_> = names.clone().map(|name| form.value(name)).collect();
        let names: Vec<_> = names.collect();
        let (events, writers) = (&self.events, &self.writers);
        let (names, values) = (names.join(", "), values.join(", "));
        format!(
            "INSERT INTO {events} ({names}, journal) SELECT {values}, toUInt64({journal}) FROM batch \
             WHERE NOT throwIf((SELECT count() FROM {writers} WHERE journal = {journal} AND writer > {writer}) > 0)"
        )
    }

    /// The statement by which a writer says that it writes from now on.
    pub(super) fn claim(&self, journal: u64, writer: u64, route: &str, log: u128) -> String {
        let (writers, route) = (&self.writers, quoted(route, '\''));
        format!(
            "INSERT INTO {writers} (journal, writer, route, log, since) \
             SELECT toUInt64({journal}), toUInt64({writer}), {route}, '{log:032x}', now()"
        )
    }

    /// Behind the last offset that is there, of those from `from` on; 0 if there is none.
    pub(super) fn end(&self, journal: u64, from: u64) -> String {
        format!(
            "SELECT if(count() = 0, toUInt64(0), max(journal_offset) + 1) FROM {} \
             WHERE journal = {journal} AND journal_offset >= {from} AND journal_offset < {DERIVED}",
            self.events
        )
    }

    /// Which offsets are there, from the first to the last, of events from the oldest to the newest.
    pub(super) fn offsets(
        &self,
        form: Form,
        journal: u64,
        (first, last): (u64, u64),
        (oldest, newest): (i64, i64),
    ) -> String {
        // So that partitions of other times are not read.
        let time = |nanos| match form {
            Form::New => format!("fromUnixTimestamp64Nano(toInt64('{nanos}'), 'UTC')"),
            Form::Old => {
                let seconds = rows::seconds(Timestamp::from_unix_nanos(nanos));
                format!("toDateTime({seconds})")
            }
        };
        let (events, oldest, newest) = (&self.events, time(oldest), time(newest));
        format!(
            "SELECT journal_offset FROM {events} WHERE journal = {journal} AND journal_offset >= {first} \
             AND journal_offset <= {last} AND ts >= {oldest} AND ts <= {newest} FORMAT RowBinary"
        )
    }

    /// Which of these quoted ids are there, of derived events; in hexadecimal digits.
    pub(super) fn derived(&self, journal: u64, ids: &str) -> String {
        format!(
            "SELECT hex(id) FROM {} WHERE journal = {journal} AND journal_offset = {DERIVED} AND id IN ({ids})",
            self.events
        )
    }
}

impl Form {
    /// The form of a table with these columns and types.
    ///
    /// # Errors
    /// What is wrong with it: events would be refused for it, or changed, or not be found again.
    pub(super) fn of(columns: &[(String, String)]) -> Result<Self, String> {
        let found = |name: &str| {
            let mut columns = columns.iter();
            columns.find_map(|(column, kind)| (column == name).then_some(kind.as_str()))
        };
        let form = match found("ts_nanos") {
            Some(_) => Self::Old,
            None => Self::New,
        };
        for (name, kind) in form.all_columns() {
            match found(name) {
                Some(found) if bare(found) == bare(kind) => {}
                Some(found) => {
                    return Err(format!("has column {name} as {found}: it must be {kind}"));
                }
                None => return Err(format!("has no column {name}")),
            }
        }
        Ok(form)
    }

    /// Columns and types of the table.
    pub(super) fn all_columns(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let columns = self.columns().iter().copied();
        columns.chain([("journal", "UInt64")])
    }

    /// Columns and types, in the order in which rows have them.
    pub(super) fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::New => &[
                ("id", "String"),
                ("ts", "DateTime64(9, 'UTC')"),
                ("type", "String"),
                ("source", "String"),
                ("schema_version", "UInt32"),
                ("partition_key", "Nullable(String)"),
                ("attributes", "Map(String, String)"),
                ("payload", "String"),
                ("received_at", "DateTime64(9, 'UTC')"),
                ("journal_offset", "UInt64"),
            ],
            Self::Old => &[
                ("id", "String"),
                ("ts", "DateTime('UTC')"),
                ("ts_nanos", "Int64"),
                ("type", "String"),
                ("source", "String"),
                ("schema_version", "UInt32"),
                ("partition_key", "Nullable(String)"),
                ("attributes", "String"),
                ("payload", "String"),
                ("received_at", "DateTime('UTC')"),
                ("received_at_nanos", "Int64"),
                ("journal_offset", "UInt64"),
            ],
        }
    }

    /// How rows of `RowBinary` are to be read. Many servers split it at blanks and commas, so no type has one.
    pub(super) fn structure(self) -> String {
        let columns = self.columns().iter();
        let columns: Vec<_> = columns
            .map(|(name, kind)| match (self, *name) {
                (Self::New, "ts" | "received_at") => format!("{name} DateTime64(9)"),
                (Self::New, "attributes") => {
                    "attribute_names Array(String), attribute_values Array(String)".to_owned()
                }
                _ => format!("{name} {kind}"),
            })
            .collect();
        columns.join(", ")
    }

    /// The value of a column, from the row as it is read.
    fn value(self, column: &'static str) -> &'static str {
        match (self, column) {
            (Self::New, "attributes") => {
                "CAST((attribute_names, attribute_values), 'Map(String, String)')"
            }
            _ => column,
        }
    }
}

/// Names and types of columns, from what [`Table::describe`] asks for.
pub(super) fn described(answer: &str) -> Vec<(String, String)> {
    let columns = answer.lines().filter_map(|line| line.split_once('\t'));
    columns
        .map(|(name, kind)| (name.to_owned(), kind.replace('\\', "")))
        .collect()
}

/// A type without what makes no difference to its values: a dictionary, a time zone.
fn bare(kind: &str) -> String {
    let kind = kind.replace("LowCardinality(", "").replace(')', "");
    let (kind, _zone) = kind.split_once('\'').unwrap_or((&kind, ""));
    kind.trim_end_matches([' ', ',', '(']).to_owned()
}

/// A name or a text for SQL.
pub(super) fn quoted(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
    out
}

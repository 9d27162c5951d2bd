//! A connection that is opened when it is needed, and again after it was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::super::JournalError;
use super::settings::Settings;
use crate::postgres::{Connection, words};

/// Statements of pieces that are gone are forgotten with all others once there are so many.
const PREPARED_MAX: usize = 128;
/// After a failure nobody else tries to connect for so long.
const REST: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The server is not there, or does not answer: what was asked may have happened.
    Away(String),
    /// The server refused: nothing has happened.
    Refused { code: SqlState, words: String },
}

impl Fault {
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Away(words) | Self::Refused { words, .. } => words,
        }
    }

    /// True if a table, a function or the schema is not there: dropped, or never made.
    pub(super) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Refused { code, .. } if [
                SqlState::UNDEFINED_TABLE,
                SqlState::UNDEFINED_FUNCTION,
                SqlState::INVALID_SCHEMA_NAME,
                SqlState::UNDEFINED_OBJECT,
            ].contains(code)
        )
    }

    /// True if another connection may do better: this one leads to a server that became a replica, or has statements that are
    /// of former tables.
    fn is_of_session(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Refused { code, .. } => [
                SqlState::READ_ONLY_SQL_TRANSACTION,
                SqlState::INVALID_SQL_STATEMENT_NAME,
                SqlState::FEATURE_NOT_SUPPORTED,
            ]
            .contains(code),
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let words = words(&error);
        match error.code() {
            // A server that ends says so; whether it did what was asked is not known.
            Some(code) if !code.code().starts_with("57P") && !code.code().starts_with("08") => {
                Self::Refused {
                    code: code.clone(),
                    words,
                }
            }
            _ => Self::Away(words),
        }
    }
}

impl From<Fault> for JournalError {
    fn from(fault: Fault) -> Self {
        Self::Io(fault.words().to_owned())
    }
}

/// How links are opened.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) settings: Arc<Settings>,
    /// Where the input and output of connections is done, whoever asks for them: those of the routes have nice threads.
    pub(super) runtime: Handle,
}

impl Opener {
    /// A connection with this SQL to set up its session.
    ///
    /// # Errors
    /// [`Fault::Away`].
    pub(super) async fn open(&self, setup: &str) -> Result<Connection, Fault> {
        let (settings, setup) = (Arc::clone(&self.settings), setup.to_owned());
        let opening = async move { settings.connector.open(&setup).await };
        match self.runtime.spawn(opening).await {
            Ok(opened) => opened.map_err(Fault::Away),
            Err(_) => Err(Fault::Away("the journal ends".to_owned())),
        }
    }
}

/// See the module. Several may ask at once: each statement is a transaction of its own.
pub(super) struct Link {
    opener: Opener,
    /// SQL that sets up the session.
    setup: String,
    /// The longest wait for an answer.
    patience: Duration,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// How many were opened.
    sessions: AtomicU64,
    failed: Mutex<Option<(Instant, String)>>,
}

struct Session {
    /// Of those that were opened, from 1 on.
    number: u64,
    connection: Connection,
    prepared: Mutex<HashMap<String, Statement>>,
}

impl Link {
    /// One whose answers are waited for as long as commits are.
    pub(super) fn new(opener: Opener, setup: &str) -> Self {
        Self {
            setup: setup.to_owned(),
            patience: opener.settings.patience,
            opener,
            session: tokio::sync::Mutex::new(None),
            sessions: AtomicU64::new(0),
            failed: Mutex::new(None),
        }
    }

    /// One that waits for an answer no longer than that.
    pub(super) fn impatient(opener: Opener, setup: &str, patience: Duration) -> Self {
        let most = patience.as_millis().max(1);
        Self {
            patience,
            ..Self::new(opener, &format!("SET statement_timeout = {most}; {setup}"))
        }
    }

    /// Connects if there is no connection; the number of the session.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn connect(&self) -> Result<u64, Fault> {
        self.session().await.map(|session| session.number)
    }

    async fn session(&self) -> Result<Arc<Session>, Fault> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot
            .as_ref()
            .filter(|session| !session.connection.is_closed())
        {
            return Ok(Arc::clone(session));
        }
        *slot = None;
        if let Some((at, words)) = &*self.failed.lock()
            && at.elapsed() < REST
        {
            return Err(Fault::Away(words.clone()));
        }
        match self.opener.open(&self.setup).await {
            Ok(connection) => {
                let session = Arc::new(Session {
                    number: self.sessions.fetch_add(1, Ordering::Relaxed) + 1,
                    connection,
                    prepared: Mutex::default(),
                });
                *slot = Some(Arc::clone(&session));
                Ok(session)
            }
            Err(fault) => {
                *self.failed.lock() = Some((Instant::now(), fault.words().to_owned()));
                Err(fault)
            }
        }
    }

    /// What one statement answers; `{s}` in it stands for the schema.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        let session = self.session().await?;
        self.ask(&session, sql, parameters).await
    }

    /// The same, if that is still the session of this number. `None`: it is not, and nothing was asked.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn rows_in(
        &self,
        number: u64,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Vec<Row>>, Fault> {
        let session = self.session().await?;
        if session.number != number {
            return Ok(None);
        }
        self.ask(&session, sql, parameters).await.map(Some)
    }

    async fn ask(
        &self,
        session: &Arc<Session>,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        let asking = Box::pin(session.rows(&self.opener.settings, sql, parameters));
        // Who is slower than the server's own limit hangs.
        let fault = match tokio::time::timeout(self.patience + REST, asking).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => Fault::from(error),
            Err(_) => Fault::Away(format!(
                "PostgreSQL did not answer within {:?}",
                self.patience
            )),
        };
        if fault.is_of_session() {
            self.forget(session).await;
        }
        Err(fault)
    }

    /// Nobody asks there any more.
    async fn forget(&self, session: &Arc<Session>) {
        let mut slot = self.session.lock().await;
        if slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, session)) {
            *slot = None;
        }
    }
}

impl Session {
    async fn rows(
        &self,
        settings: &Settings,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let known = self.prepared.lock().get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.connection.prepare(&settings.sql(sql)).await?;
                let mut prepared = self.prepared.lock();
                if prepared.len() >= PREPARED_MAX {
                    prepared.clear();
                }
                prepared.insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        self.connection.query(&statement, parameters).await
    }
}

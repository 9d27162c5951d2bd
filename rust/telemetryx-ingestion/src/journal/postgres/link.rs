//! A connection that is opened when it is needed, and again after it was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
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

/// See the module. Several may ask at once: each statement is a transaction of its own.
pub(super) struct Link {
    settings: Arc<Settings>,
    /// SQL that sets up the session.
    setup: &'static str,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    failed: Mutex<Option<(Instant, String)>>,
}

struct Session {
    connection: Connection,
    prepared: Mutex<HashMap<String, Statement>>,
}

impl Link {
    pub(super) fn new(settings: Arc<Settings>, setup: &'static str) -> Self {
        Self {
            settings,
            setup,
            session: tokio::sync::Mutex::new(None),
            failed: Mutex::new(None),
        }
    }

    /// Connects if there is no connection.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) async fn connect(&self) -> Result<(), Fault> {
        self.session().await.map(|_| ())
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
        match self.settings.connector.open(self.setup).await {
            Ok(connection) => {
                let session = Arc::new(Session {
                    connection,
                    prepared: Mutex::default(),
                });
                *slot = Some(Arc::clone(&session));
                Ok(session)
            }
            Err(words) => {
                *self.failed.lock() = Some((Instant::now(), words.clone()));
                Err(Fault::Away(words))
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
        let asking = Box::pin(session.rows(&self.settings, sql, parameters));
        // Who is slower than the server's own limit hangs.
        let patience = self.settings.patience + REST;
        let fault = match tokio::time::timeout(patience, asking).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => Fault::from(error),
            Err(_) => Fault::Away(format!("no answer within {patience:?}")),
        };
        if matches!(fault, Fault::Away(_)) {
            self.forget(&session).await;
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

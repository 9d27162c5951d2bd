//! What the server's errors mean for a batch.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::making::EXCLUSION;
use crate::postgres::words;
use crate::sinks::DeliverError;

/// Why a batch was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// What must be unique is there already; the server's own words.
    #[error("{0}")]
    Duplicate(String),
    /// The server will never take one of its events. The connection is as good as before, once it is rolled back.
    #[error("{message}")]
    Refused {
        /// Which kind of fault.
        code: &'static str,
        /// The server's own words.
        message: String,
    },
    /// The default partition takes no events of a time for which a partition is being made; the server's own words.
    #[error("{0}")]
    Excluded(String),
    /// Anything else: the same batch may pass later, on a new connection.
    #[error("{0}")]
    Retry(String),
}

/// Waits for an answer, but not longer than `at_most`.
///
/// # Errors
/// [`Failure`]; [`Failure::Retry`] if there is no answer in time. Then the connection is of no use any more.
pub(super) async fn within<T>(
    at_most: Duration,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(at_most, answer).await {
        Ok(answered) => answered,
        Err(_) => Err(Failure::Retry(format!("no answer within {at_most:?}"))),
    }
}

impl From<Failure> for DeliverError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { code, message } => Self::Refused { code, message },
            other => Self::Retryable(other.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let message = words(&error);
        let Some(found) = error.as_db_error() else {
            return Self::Retry(message);
        };
        // The first two characters are the class.
        let state = found.code().code();
        match state.get(..2) {
            _ if *found.code() == SqlState::UNIQUE_VIOLATION => Self::Duplicate(message),
            // The rows as such do not fit the table: no other batch would pass either.
            Some("22")
                if [
                    SqlState::INVALID_BINARY_REPRESENTATION,
                    SqlState::BAD_COPY_FILE_FORMAT,
                ]
                .contains(found.code()) =>
            {
                Self::Retry(message)
            }
            Some("22") => Self::Refused {
                code: "invalid_data",
                message,
            },
            Some("23") if found.constraint() == Some(EXCLUSION) => Self::Excluded(message),
            // With neither it is that no partition takes the row.
            Some("23") if found.constraint().is_some() || found.column().is_some() => {
                Self::Refused {
                    code: "constraint",
                    message,
                }
            }
            // A trigger of the user's looked at the row.
            _ if *found.code() == SqlState::RAISE_EXCEPTION => Self::Refused {
                code: "raised",
                message,
            },
            // Nested too deep, too long for an index.
            Some("54") => Self::Refused {
                code: "limit_exceeded",
                message,
            },
            _ => Self::Retry(message),
        }
    }
}

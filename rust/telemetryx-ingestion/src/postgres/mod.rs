//! What the sink `postgres` and the journal `postgres` have in common.
//!
//! | file | what |
//! | --- | --- |
//! | `connection.rs` | where the server is, TLS, passwords; how a session is set up |

mod connection;

use std::error::Error;

pub(crate) use connection::{Connection, Connector, ServerConfig};

/// Bytes of a name that the server keeps.
pub(crate) const NAME_BYTES_MAX: usize = 63;

/// A name or a text for SQL.
pub(crate) fn quoted(text: &str, quote: char) -> String {
    let doubled: String = [quote, quote].iter().collect();
    format!("{quote}{}{quote}", text.replace(quote, &doubled))
}

/// The server's own words, or why there are none.
pub(crate) fn words(error: &tokio_postgres::Error) -> String {
    let Some(found) = error.as_db_error() else {
        let cause = error.source().map(|cause| format!(": {cause}"));
        return format!("{error}{}", cause.unwrap_or_default());
    };
    let detail = found.detail().map(|detail| format!(" ({detail})"));
    format!("{}{}", found.message(), detail.unwrap_or_default())
}

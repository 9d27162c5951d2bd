//! What the config says, checked.

use std::time::Duration;

use crate::config::PostgresJournalConfig;
use crate::postgres::{Connector, NAME_BYTES_MAX, ServerConfig, quoted};
use crate::sinks::tls::TlsFiles;

/// The longest ending behind the name of a table.
const ENDING_BYTES_MAX: usize = 20;

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) connector: Connector,
    /// As it stands; also the name of the channel on which processes tell each other.
    pub(super) schema: String,
    pub(super) partitions: u32,
    pub(super) lease: Duration,
    pub(super) poll_interval: Duration,
    /// The longest wait for a commit, and for any answer.
    pub(super) patience: Duration,
    pub(super) piece_bytes: u64,
    pub(super) retain_bytes: u64,
    pub(super) retain_age: Option<Duration>,
}

impl Settings {
    /// Reads and checks them; nothing is reached.
    ///
    /// # Errors
    /// What is wrong, with its key in front.
    pub(super) fn read(config: &PostgresJournalConfig) -> Result<Self, String> {
        let schema = &config.schema;
        let most = NAME_BYTES_MAX - ENDING_BYTES_MAX;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if schema.is_empty() || schema.len() > most || !schema.chars().all(legal) {
            return Err(format!(
                "`schema`: a name of 1 to {most} letters of a-z, A-Z, digits, `_` and `-`"
            ));
        }
        if schema.starts_with("pg_") || schema == "information_schema" {
            return Err(
                "`schema`: names that begin with `pg_`, and `information_schema`, are PostgreSQL's own"
                    .to_owned(),
            );
        }
        let tls = TlsFiles {
            ca_file: config.tls.ca_file.clone(),
            cert_file: config.tls.cert_file.clone(),
            key_file: config.tls.key_file.clone(),
        };
        let server = ServerConfig {
            url: config.url.clone(),
            url_file: config.url_file.clone(),
            password_file: config.password_file.clone(),
            tls: (tls != TlsFiles::default()).then_some(tls),
        };
        let patience = config.delivery_timeout.into();
        let connector = Connector::new(server, patience).map_err(|error| error.to_string())?;
        // A replica of several hosts that `url` names, or one that a name of theirs led to, takes nothing in.
        let connector = connector.that_writes();
        Ok(Self {
            connector,
            schema: schema.clone(),
            partitions: config.partitions,
            lease: config.lease.into(),
            poll_interval: config.poll_interval.into(),
            patience,
            piece_bytes: config.piece_size.bytes(),
            retain_bytes: config.retain.bytes.bytes(),
            retain_age: config.retain.age.map(Into::into),
        })
    }

    /// SQL that names things of the schema as `{s}.name`.
    pub(super) fn sql(&self, text: &str) -> String {
        text.replace("{s}", &quoted(&self.schema, '"'))
            .replace("{channel}", &quoted(&self.schema, '\''))
    }
}

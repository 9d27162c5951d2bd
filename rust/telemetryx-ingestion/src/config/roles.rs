//! `roles`: what a process does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a process does. In a fleet there are any number of each.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes in events: `POST /ingest`, OTLP, webhooks, framed TCP.
    Ingest,
    /// Delivers them: reads its share of the journal for each route.
    Deliver,
    /// Answers questions: `/stats`, `/events`, `/receipts`, `/ledger`, dead letters and replays.
    Query,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Deliver, Self::Query];

    /// Its name in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Deliver => "deliver",
            Self::Query => "query",
        }
    }
}

//! What became of the certificates that the config names, for `/status`.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Value, json};
use telemetryx_common::Timestamp;

use crate::clock;

/// The state of each section's certificates.
#[derive(Debug, Default)]
pub struct CertificateStates(Mutex<BTreeMap<&'static str, State>>);

#[derive(Debug)]
struct State {
    since: Timestamp,
    /// Why the files that are there now are not those in use.
    error: Option<String>,
}

impl CertificateStates {
    /// The files of the section `key` are in use from now on, or cannot be for this reason.
    pub fn set(&self, key: &'static str, error: Option<String>) {
        let since = clock::now();
        self.0.lock().insert(key, State { since, error });
    }

    /// As `/status` shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let states = self.0.lock();
        let states = states.iter().map(|(key, state)| {
            let word = if state.error.is_some() {
                "stale"
            } else {
                "in_use"
            };
            let mut entry = json!({ "state": word, "since": state.since.to_string() });
            if let Some(error) = &state.error {
                entry["error"] = error.as_str().into();
            }
            ((*key).to_owned(), entry)
        });
        Value::Object(states.collect())
    }
}

//! Allow and deny lists, as `SourceId` and `EventType` take them.

use std::collections::HashSet;

use serde::Deserialize;

use crate::plugin::PluginError;

/// The two lists as the config gives them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
pub(super) struct AllowDenySettings<T> {
    allowed: Option<Vec<T>>,
    denied: Option<Vec<T>>,
}

/// Which names may enter: those of `allowed` if there is such a list, and never those of `denied`.
#[derive(Debug)]
pub(super) struct AllowDeny {
    allowed: Option<HashSet<String>>,
    denied: HashSet<String>,
}

impl<T: ToString> AllowDenySettings<T> {
    /// The lists, if they make sense together.
    pub(super) fn build(self) -> Result<AllowDeny, PluginError> {
        let wrong = |message: String| Err(PluginError::Settings(message));
        let named = |list: Vec<T>| -> HashSet<_> {
            list.into_iter().map(|name| name.to_string()).collect()
        };
        if self.allowed.is_none() && self.denied.is_none() {
            return wrong(
                "neither `allowed` nor `denied` is given, so nothing would be checked".into(),
            );
        }
        let allowed = self.allowed.map(named);
        let denied = self.denied.map(named);
        if allowed.as_ref().is_some_and(HashSet::is_empty) {
            return wrong(
                "`allowed` is empty, so every event would be refused: leave it out to allow all"
                    .into(),
            );
        }
        if denied.as_ref().is_some_and(HashSet::is_empty) && allowed.is_none() {
            return wrong("`denied` is empty, so nothing would be checked".into());
        }
        let denied = denied.unwrap_or_default();
        let mut both: Vec<_> = denied
            .iter()
            .filter(|name| {
                allowed
                    .as_ref()
                    .is_some_and(|allowed| allowed.contains(*name))
            })
            .cloned()
            .collect();
        both.sort_unstable();
        if let Some(name) = both.first() {
            return wrong(format!(
                "`{name}` is in `allowed` and in `denied`: leave it in one of them"
            ));
        }
        Ok(AllowDeny { allowed, denied })
    }
}

impl AllowDeny {
    /// Why `name` may not enter, if it may not: the words behind its name.
    pub(super) fn refusal(&self, name: &str) -> Option<&'static str> {
        if self.denied.contains(name) {
            Some("is denied")
        } else if self
            .allowed
            .as_ref()
            .is_some_and(|allowed| !allowed.contains(name))
        {
            Some("is not one of those allowed")
        } else {
            None
        }
    }
}

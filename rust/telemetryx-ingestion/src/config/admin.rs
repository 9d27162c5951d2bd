//! `admin`: who may see stored events and change what is delivered.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Secret;

/// Who may see stored events and change what is delivered (`/events`, dead letters, replay).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Token that those endpoints ask for, as `Authorization: Bearer …`.
    ///
    /// Empty, and no `token_file` either: they answer clients on this machine only.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,

    /// File that holds the token, in place of `token`.
    ///
    /// Read once, at start; blanks and line ends around the token do not count.
    ///
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

//! What is about to be written: recorded in the store before the first file of it, so that a crash in between leaves no part
//! of it that nobody knows of.
//!
//! ```text
//! flush:  plan ─► files ─► stale files removed ─► the route commits
//! crash:       a        b                      c
//! ```
//!
//! After a crash at `a`, `b` or `c` the route reads again from its last commit, and finds the plan. Its pieces hold the same
//! events as before, cut at the same offsets, and so have the same names: what is there already is written over with the
//! same rows. A plan of which the route is past the end is done.

use std::collections::HashSet;

use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// The largest plan that is read: some 200,000 files.
pub(super) const PLAN_BYTES_MAX: usize = 64 << 20;

const VERSION: u32 = 1;

/// All that one commit of the route waits for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    version: u32,
    pub(super) pieces: Vec<PlannedPiece>,
}

/// The events of the log from `first` up to `end` that the route wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedPiece {
    /// The name of each of its files.
    pub(super) name: String,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) files: Vec<PlannedFile>,
    /// About how many bytes it took in memory.
    #[serde(default)]
    pub(super) bytes: usize,
    /// Files of an earlier try that are no part of it any more: to be removed once the others are there.
    #[serde(default)]
    pub(super) stale: Vec<String>,
}

/// A file of a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedFile {
    /// Within the sink's folder.
    pub(super) path: String,
    pub(super) rows: u64,
}

impl Plan {
    pub(super) fn new(pieces: Vec<PlannedPiece>) -> Self {
        Self {
            version: VERSION,
            pieces,
        }
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| error.to_string())
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// What is wrong with it. Then nobody knows what is in the store, and nothing may be written.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let plan: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if plan.version != VERSION {
            return Err(format!(
                "it has version {}, this binary knows {VERSION}: use a newer one",
                plan.version
            ));
        }
        let named = |path: &String, name: &str| {
            Path::parse(path).is_ok() && path.rsplit('/').next() == Some(name)
        };
        for piece in &plan.pieces {
            let files = piece.files.iter().map(|file| &file.path);
            if piece.first > piece.end
                || !files
                    .chain(&piece.stale)
                    .all(|path| named(path, &piece.name))
            {
                return Err(format!("`{}` is no piece", piece.name));
            }
        }
        Ok(plan)
    }
}

impl PlannedPiece {
    /// Its files and those that were to be removed, without those in `kept`.
    pub(super) fn all_but(&self, kept: &[PlannedFile]) -> Vec<String> {
        let kept: HashSet<_> = kept.iter().map(|file| &file.path).collect();
        let files = self.files.iter().map(|file| &file.path);
        files
            .chain(&self.stale)
            .filter(|path| !kept.contains(path))
            .cloned()
            .collect()
    }
}

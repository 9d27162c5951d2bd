//! What is in the files of the sink `parquet`, as DuckDB reads it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::python::{program, python};

/// Every row of the files below a folder.
#[track_caller]
pub(crate) fn parquet_rows(folder: &Path) -> Vec<Value> {
    let read = Command::new(python())
        .arg(program("parquet_rows.py"))
        .arg(folder)
        .output()
        .expect("Python can be run");
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let text = String::from_utf8(read.stdout).expect("it prints text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("it prints JSON"))
        .collect()
}

/// The id of every row, with how often it is there.
#[track_caller]
pub(crate) fn parquet_ids(folder: &Path) -> BTreeMap<String, u32> {
    let mut ids = BTreeMap::new();
    for row in parquet_rows(folder) {
        let id = row["id"].as_str().expect("an id is text");
        *ids.entry(id.to_owned()).or_default() += 1;
    }
    ids
}

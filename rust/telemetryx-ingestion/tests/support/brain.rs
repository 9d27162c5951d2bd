//! A service with a brain: the one of `python/brain` as a process, or one that breaks the contract.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use telemetryx_testkit::{Brain, Service, eventually};

use super::python::{program, python_of_brain};
use super::{SOON, assert_books_balance, settle};

/// Finds something in each event.
pub(crate) const ECHO: &str = "
from telemetryx_brain import Finding, brain

@brain
def echo(events):
    return [Finding('echo', cause=event, payload={'of': event.id}) for event in events]
";

/// `telemetryx-brain`.
pub(crate) fn command() -> PathBuf {
    python_of_brain().with_file_name("telemetryx-brain")
}

/// One with this module.
#[track_caller]
pub(crate) fn brain_of(module: &str) -> Brain {
    Brain::of(&command(), module)
}

/// A route named `brain`, and those that show what comes of it.
pub(crate) fn config_with(url: &str, sink: &str, route: &str) -> String {
    format!(
        "routes: [ {{ name: stats, sink: {{ kind: stats }} }}, {{ name: store, sink: {{ kind: sqlite }}, batch: {{ flush_interval: 5ms }} }},
  {{ name: brain, sink: {{ kind: grpc, url: {url:?}, {sink} }}, batch: {{ flush_interval: 5ms }},
     retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 50ms }}, {route} }} ]
"
    )
}

/// The same with defaults.
pub(crate) fn config(url: &str) -> String {
    config_with(url, "", "")
}

/// All events of that type, the oldest first.
#[track_caller]
pub(crate) fn of_type(service: &Service, kind: &str) -> Vec<Value> {
    settle(service);
    let headers = [("accept", "application/x-ndjson")];
    let path = format!("/events?type={kind}");
    let answer = service.request("GET", &path, &headers, b"");
    let mut found = answer.expect_status(200).ndjson();
    found.reverse();
    found
}

/// What `/health` says of the route.
#[track_caller]
pub(crate) fn health(service: &Service) -> Value {
    service.get("/health").expect_status(200).json()["routes"]["brain"].clone()
}

/// `/health` says that it is down, with these words.
#[track_caller]
pub(crate) fn wait_until_down(service: &Service, words: &str) {
    let mut last = Value::Null;
    eventually(SOON, &format!("the brain is down with `{words}`"), || {
        last = health(service);
        let error = last["error"].as_str().unwrap_or_default();
        last["state"] == "down" && error.contains(words)
    });
}

/// What became of the events before it.
#[track_caller]
pub(crate) fn ledger(service: &Service) -> Value {
    assert_books_balance(service)["routes"]["brain"].clone()
}

/// Posts events, which are taken.
#[track_caller]
pub(crate) fn post(service: &Service, body: impl Into<String>) {
    service.post_json("/ingest", body.into()).expect_status(202);
}

/// A brain that breaks the contract as the word in its file says.
pub(crate) struct Garbage {
    folder: tempfile::TempDir,
    pub(crate) brain: Brain,
}

impl Garbage {
    pub(crate) fn start(word: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("word");
        std::fs::write(&file, word).unwrap();
        let script = program("garbage_brain.py");
        // A program of its own: arguments before the script's would be Python's.
        let runs_it = folder.path().join("brain.sh");
        let text = format!(
            "#!/bin/sh\nexec '{}' '{script}' \"$@\"\n",
            python_of_brain().display()
        );
        std::fs::write(&runs_it, text).unwrap();
        std::fs::set_permissions(&runs_it, Permissions::from_mode(0o755)).unwrap();
        let brain = Brain::start(&runs_it, &[file.to_str().unwrap()]);
        Self { folder, brain }
    }

    /// From now on that is what it does.
    pub(crate) fn now(&self, word: &str) {
        // In one step: it may be read at any moment.
        let new = self.folder.path().join("new");
        std::fs::write(&new, word).unwrap();
        std::fs::rename(new, self.folder.path().join("word")).unwrap();
    }
}

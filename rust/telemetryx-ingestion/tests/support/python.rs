//! The Python programs of the tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The Python with what they stand on; made on first use.
#[track_caller]
pub(crate) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| made(&[])).clone()
}

/// The Python of the brain in `python/brain`, with that brain; made on first use.
#[track_caller]
pub(crate) fn python_of_brain() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| made(&["brain"])).clone()
}

#[track_caller]
fn made(name: &[&str]) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/python-env");
    let made = Command::new(script)
        .args(name)
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/python-env can be run");
    assert!(made.status.success(), "scripts/python-env failed");
    let path = String::from_utf8(made.stdout).expect("a path is UTF-8");
    path.trim().into()
}

/// The path of one of them.
pub(crate) fn program(name: &str) -> String {
    format!("{}/tests/python/{name}", env!("CARGO_MANIFEST_DIR"))
}

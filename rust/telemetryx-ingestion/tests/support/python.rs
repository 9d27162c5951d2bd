//! The Python programs of the tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The Python with what they stand on; made on first use.
#[track_caller]
pub(crate) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/python-env");
        let made = Command::new(script)
            .stderr(Stdio::inherit())
            .output()
            .expect("scripts/python-env can be run");
        assert!(made.status.success(), "scripts/python-env failed");
        let path = String::from_utf8(made.stdout).expect("a path is UTF-8");
        path.trim().into()
    });
    python.clone()
}

/// The path of one of them.
pub(crate) fn program(name: &str) -> String {
    format!("{}/tests/python/{name}", env!("CARGO_MANIFEST_DIR"))
}

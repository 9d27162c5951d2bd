//! `tests/python/receiver.py`: a receiver of batches over HTTP as a process of its own, which can be killed and hung.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use telemetryx_testkit::{Connection, eventually, free_port};
use tempfile::TempDir;

use super::SOON;
use super::python::{program, python};

/// A running (or killed, or hung) receiver. What it took is in a file. Dropping it kills it.
pub(crate) struct Receiver {
    folder: TempDir,
    port: u16,
    keys: Vec<String>,
    child: Option<Child>,
}

/// A request that it took.
pub(crate) struct Taken {
    pub(crate) path: String,
    pub(crate) headers: Value,
    pub(crate) body: Vec<u8>,
}

impl Receiver {
    /// Batches must be signed with each of `keys`.
    #[track_caller]
    pub(crate) fn start(keys: &[&str]) -> Self {
        let mut receiver = Self {
            folder: tempfile::tempdir().expect("a temporary directory can be made"),
            port: free_port(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            child: None,
        };
        receiver.run();
        receiver
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What happens to the next batches.
    #[track_caller]
    pub(crate) fn behave(&self, behaviour: &Value) {
        let mut connection = Connection::open(&self.address()).expect("it takes connections");
        let body = behaviour.to_string();
        let answer = connection.request("PUT", "/behaviour", &[], body.as_bytes());
        answer.expect("it answers").expect_status(200);
    }

    /// What it took so far; a line that is being written is not there yet.
    #[track_caller]
    pub(crate) fn taken(&self) -> Vec<Taken> {
        let text = std::fs::read_to_string(self.file()).expect("there is a file");
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text.get(..whole).expect("it ends at a line").lines();
        let taken = lines.map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("it is JSON");
            let body = line["body"].as_str().expect("a text");
            Taken {
                body: STANDARD.decode(body).expect("it is base64"),
                path: line["path"].as_str().expect("a text").to_owned(),
                headers: line["headers"].take(),
            }
        });
        taken.collect()
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
    }

    /// Starts it again where it was; it behaves well then.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        self.run();
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    #[track_caller]
    pub(crate) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it is running");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid is not 0");
        kill_process(pid, signal).expect("it can be signalled");
    }

    /// Where it keeps what it took.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("taken")
    }

    #[track_caller]
    fn run(&mut self) {
        let mut child = Command::new(python())
            .args([program("receiver.py"), self.port.to_string()])
            .arg(self.file())
            .args(&self.keys)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python can be started");
        eventually(SOON, "the receiver listens", || {
            if child.try_wait().expect("it can be waited for").is_some() {
                let mut said = String::new();
                let stderr = child.stderr.as_mut().expect("it was asked for");
                stderr.read_to_string(&mut said).ok();
                panic!("the receiver ended: {said}");
            }
            Connection::open(&self.address()).is_ok()
        });
        self.child = Some(child);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill().and_then(|()| child.wait());
        }
    }
}

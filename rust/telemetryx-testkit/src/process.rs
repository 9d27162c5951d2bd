//! The process of a real server: killed, stopped where it is, and gone with its owner.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

/// The process of a server, while there is one. Dropping it kills it; so its owner names it before the directory it
/// writes to.
#[derive(Debug, Default)]
pub(crate) struct Process(Option<Child>);

impl Process {
    /// It was started.
    pub(crate) fn began(&mut self, child: Child) {
        self.0 = Some(child);
    }

    /// Whether there is one, running or stopped.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// What it is, to ask whether it has ended.
    pub(crate) fn child(&mut self) -> Option<&mut Child> {
        self.0.as_mut()
    }

    /// Hands it over, to be waited for.
    #[track_caller]
    pub(crate) fn take(&mut self) -> Child {
        self.0.take().expect("the server is running")
    }

    /// SIGKILL, which ends a stopped process too, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut child = self.take();
        child.kill().expect("the server can be killed");
        child.wait().expect("the server can be waited for");
    }

    /// Sends it a signal: SIGSTOP leaves its connections open, and nothing answers until SIGCONT.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().expect("the server is running");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid is not 0");
        kill_process(pid, signal).expect("the server can be signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _gone = child.kill().and_then(|()| child.wait());
        }
    }
}

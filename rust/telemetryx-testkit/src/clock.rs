//! A wall clock that can be set under one process: `clock/clock.c`, built by `scripts/install-servers`.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::tools::tool;

/// The clock of one process or of several. It goes as the machine's does until it is set; the time that measures how long
/// something takes is never touched.
#[derive(Debug)]
pub struct Clock {
    folder: TempDir,
}

impl Clock {
    /// One that is right.
    ///
    /// # Panics
    /// If there is no room for its file.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("telemetryx-clock-")
            .tempdir();
        let clock = Self {
            folder: folder.expect("a temporary directory can be made"),
        };
        clock.set_right();
        // Also for servers that run as another user.
        let everybody = Permissions::from_mode(0o755);
        std::fs::set_permissions(clock.folder.path(), everybody).expect("it is ours");
        clock
    }

    /// What a process has in its environment to live by this clock.
    ///
    /// # Panics
    /// If it is not there (`scripts/install-servers`).
    #[must_use]
    pub fn environment(&self) -> [(String, String); 2] {
        let library = tool("clock.so")
            .canonicalize()
            .expect("the clock is built (scripts/install-servers)");
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD".to_owned(), text(library)),
            ("CLOCK_OFFSET_FILE".to_owned(), text(self.file())),
        ]
    }

    /// From now on it is so far ahead of the machine's.
    pub fn set_ahead(&self, by: Duration) {
        self.set(i64::try_from(by.as_nanos()).expect("less than 292 years"));
    }

    /// From now on it is so far behind the machine's.
    pub fn set_behind(&self, by: Duration) {
        self.set(-i64::try_from(by.as_nanos()).expect("less than 292 years"));
    }

    /// From now on it is right.
    pub fn set_right(&self) {
        self.set(0);
    }

    fn set(&self, nanos: i64) {
        // In place: processes have the file in their memory.
        let file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.file());
        file.and_then(|mut file| file.write_all(&nanos.to_ne_bytes()))
            .expect("the clock's file can be written");
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    /// Says the wall clock and the other one, in whole seconds, whenever it is asked.
    const PROGRAM: &str = "import sys, time
for _ in sys.stdin:
    print(int(time.time()), int(time.monotonic()), flush=True)
";

    #[test]
    fn wall_clock_jumps_under_a_running_process_and_the_other_one_does_not() {
        let clock = Clock::new();
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .envs(clock.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut ask, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut answers = BufReader::new(answers);
        let mut told = || {
            ask.write_all(b"\n").unwrap();
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            let (wall, other) = line.trim().split_once(' ').unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let ahead = wall.parse::<i64>().unwrap() - now.as_secs().cast_signed();
            ((ahead + 2) / 5 * 5, other.parse::<u64>().unwrap())
        };
        let (ahead, began) = told();
        assert_eq!(ahead, 0);
        let hour = Duration::from_secs(3600);
        clock.set_ahead(5 * hour);
        assert_eq!(told().0, 5 * 3600);
        clock.set_right();
        assert_eq!(told().0, 0);
        clock.set_ahead(hour);
        let (ahead, now) = told();
        assert_eq!(ahead, 3600);
        assert!(now - began < 60);
        drop(ask);
        child.wait().unwrap();
    }
}

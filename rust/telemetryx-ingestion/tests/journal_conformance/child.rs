//! This program again, as a process that can be killed and stopped: it opens the same journal, does one job, and says in
//! lines what it has done.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use telemetryx_ingestion::journal::{BatchLimit, DeliveryId, Journal, JournalError};

use crate::bench;
use crate::events::{Maker, encoded, ids};
use crate::reader::{ALL, Reader, SOON};

/// What it is to do, and with which config.
const JOB: &str = "CONFORMANCE_JOB";
const CONFIG: &str = "CONFORMANCE_CONFIG";
/// What a line begins with that is meant for the parent.
const MARK: &str = "@@ ";
/// Keys of each client that appends.
const KEYS: usize = 3;

/// Such a process. Dropping it kills it.
pub(crate) struct Child {
    process: std::process::Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Child {
    pub(crate) fn start(config: &str, job: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(JOB, job)
            .env(CONFIG, config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let input = process.stdin.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A line without its end is one in whose middle it was killed.
            while output.read_line(&mut line).is_ok() && line.ends_with('\n') {
                if let Some((_, said)) = line.trim_end().split_once(MARK)
                    && tell.send(said.to_owned()).is_err()
                {
                    return;
                }
                line.clear();
            }
        });
        Self {
            process,
            input,
            lines,
        }
    }

    /// The next line that it says.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(SOON)
            .expect("the child says something")
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self) {
        writeln!(self.input).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGKILL; all that it had said and nobody had read.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::iter::from_fn(|| self.lines.recv_timeout(SOON).ok()).collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            let _gone = self.process.wait();
        }
    }
}

fn say(line: &str) {
    println!("{MARK}{line}");
}

/// Waits until the parent lets it go on; false if there is no parent any more.
fn may_go_on() -> bool {
    std::io::stdin()
        .lock()
        .lines()
        .next()
        .is_some_and(|line| line.is_ok())
}

/// What the child does.
pub(crate) fn do_what_is_asked() {
    let (Ok(job), Ok(config)) = (std::env::var(JOB), std::env::var(CONFIG)) else {
        return;
    };
    bench::runtime().block_on(async {
        let journal = bench::open(&config).await;
        let words: Vec<_> = job.split(' ').collect();
        match words[..] {
            ["append", name, clients] => append(journal, name, clients.parse().unwrap()).await,
            ["commit", route] => commit(&*journal, route).await,
            ["hold", route] => hold(&*journal, route).await,
            ["look", route] => look(&*journal, route).await,
            _ => panic!("no such job: {job}"),
        }
    });
}

/// Appends until it is killed: `acked <id> …` for each batch.
async fn append(journal: Arc<dyn Journal>, name: &str, clients: usize) {
    let mut appending = tokio::task::JoinSet::new();
    for client in 0..clients {
        let journal = Arc::clone(&journal);
        let keys: Vec<_> = (0..KEYS)
            .map(|key| format!("{name}-{client}-{key}"))
            .collect();
        appending.spawn(async move {
            let mut maker = Maker::default();
            for size in (1..20).cycle() {
                let events = maker.batch(&keys, size);
                match journal.append(encoded(&events)).await {
                    Ok(_) => say(&format!("acked {}", ids(&events).join(" "))),
                    Err(error) => say(&format!("failed {error}")),
                }
            }
        });
    }
    appending.join_all().await;
}

/// Appends, reads and commits until it is killed: `committing <partition> <position> <turn>` before each commit, which
/// saves that position and [`state_of`] it, and `committed …` after it.
async fn commit(journal: &dyn Journal, route: &str) {
    let mut reader = Reader::of(journal, route).await;
    let mut maker = Maker::default();
    let keys: Vec<_> = (0..8)
        .map(|key| format!("{}-{key}", std::process::id()))
        .collect();
    let limit = BatchLimit { events: 3, ..ALL };
    for turn in 0.. {
        journal
            .append(encoded(&maker.batch(&keys, 8)))
            .await
            .unwrap();
        for (partition, part) in &mut reader.parts {
            let next = part.subscription.next(limit);
            if let Ok(delivery) = tokio::time::timeout(Duration::from_millis(20), next).await {
                let position = delivery.unwrap().end;
                say(&format!("committing {partition} {position} {turn}"));
                part.commit(position, &state_of(position, turn)).await;
                say(&format!("committed {partition} {position} {turn}"));
            }
        }
    }
}

/// What is saved with a position by the job `commit`.
pub(crate) fn state_of(position: u64, turn: u64) -> String {
    format!(
        "{position} in turn {turn}, {}",
        "x".repeat((turn % 7 * 100) as usize)
    )
}

/// Reads a delivery from each partition that it is handed, and says `holds <partition> <position>`, then `holds all`. When
/// it may go on, it tries to commit: `<partition> saved`, `<partition> lost` or what went wrong.
async fn hold(journal: &dyn Journal, route: &str) {
    let mut reader = Reader::of(journal, route).await;
    for extent in journal.extents() {
        let part = reader.parts.get_mut(&extent.partition).unwrap();
        let position = part.subscription.position();
        if position < extent.end {
            part.next(BatchLimit { events: 5, ..ALL }).await;
        }
        say(&format!("holds {} {position}", extent.partition));
    }
    say("holds all");
    may_go_on();
    for (partition, part) in &mut reader.parts {
        let position = DeliveryId(part.subscription.position());
        match part.subscription.commit(position, b"too late").await {
            Ok(()) => say(&format!("{partition} saved")),
            Err(JournalError::Lost(_)) => say(&format!("{partition} lost")),
            Err(error) => say(&format!("{partition} {error}")),
        }
    }
    may_go_on();
}

/// Each time it may go on, what it sees of extents and commits, in one line.
async fn look(journal: &dyn Journal, route: &str) {
    while may_go_on() {
        journal.refresh().await.unwrap();
        say(&seen(journal, route));
    }
}

/// Extents, commits and backlog, in one line.
pub(crate) fn seen(journal: &dyn Journal, route: &str) -> String {
    let extents = journal.extents();
    format!(
        "{extents:?} {:?} {:?}",
        journal.commits(route),
        journal.backlog()
    )
}

//! The thread that looks at Kafka every second: whether it is there, what the topic holds, how far every route is.

mod look;
mod naming;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::watch as channel;

use self::look::Looking;
use super::super::{AppendError, JournalError, Position};
use super::identity;
use super::producer::Sender;
use super::reader::Reader;
use super::seen::Seen;
use super::settings::Settings;
use super::table;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While the topic is being made, it is looked for sooner, and then ever later.
const LOOK_SOON: Duration = Duration::from_millis(30);
/// The longest wait for a look that was asked for.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(15);
/// The same while Kafka was there once and is known to be away.
const LOOK_WAIT_AWAY: Duration = Duration::from_secs(1);
/// The longest wait for threads and messages at the end.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Watch {
    settings: Arc<Settings>,
    seen: Seen,
    sender: ArcSwapOption<Sender>,
    readers: Mutex<Vec<Weak<Reader>>>,
    /// The generation of the topic's name; 0 while there is none.
    generation: AtomicU64,
    /// The generation of which all know that there are events; 0 if of none.
    used: AtomicU64,
    /// The newest generation that anybody claimed a name of.
    heard: AtomicU64,
    /// How often all clients were to be made anew.
    clients: AtomicU64,
    closed: AtomicBool,
    wanted: Mutex<u64>,
    wake: Condvar,
    looked: channel::Sender<u64>,
    is_ready: channel::Sender<bool>,
    runtime: Handle,
}

impl Watch {
    /// Starts looking.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(settings: Arc<Settings>, routes: &[String]) -> Result<Arc<Self>, String> {
        let watch = Arc::new(Self {
            settings,
            seen: Seen::new(routes),
            sender: ArcSwapOption::empty(),
            readers: Mutex::default(),
            generation: AtomicU64::new(0),
            used: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            clients: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            wanted: Mutex::new(0),
            wake: Condvar::new(),
            looked: channel::Sender::new(0),
            is_ready: channel::Sender::new(false),
            runtime: Handle::current(),
        });
        let thread = std::thread::Builder::new().name("kafka-watch".to_owned());
        let looking = Arc::clone(&watch);
        let started = thread.spawn(move || looking.run());
        started.map_err(|error| error.to_string())?;
        Ok(watch)
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Another number than before: whoever has a client makes another one, with the passwords and certificates of now.
    pub(super) fn clients(&self) -> u64 {
        self.clients.load(Ordering::Acquire)
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.is_ready.borrow()
    }

    /// Waits until the topic is there and its name is known.
    pub(super) async fn ready(&self) {
        let mut is_ready = self.is_ready.subscribe();
        // It lives as long as this.
        is_ready.wait_for(|ready| *ready).await.ok();
    }

    /// What messages are sent with.
    ///
    /// # Errors
    /// Nothing can be sent: it is closed, or Kafka has been away for longer than a batch would wait.
    pub(super) fn sender(&self) -> Result<Arc<Sender>, AppendError> {
        if self.is_closed() {
            return Err(AppendError::Closed);
        }
        let problem = self.seen.problem();
        let sender = self.sender.load_full().filter(|_| self.is_ready());
        match (sender, problem) {
            (Some(_), Some(problem))
                if problem
                    .unreachable
                    .is_some_and(|since| since.elapsed() > self.settings.delivery_timeout) =>
            {
                Err(AppendError::Unavailable(problem.reason))
            }
            (Some(sender), _) => Ok(sender),
            (None, problem) => Err(AppendError::Unavailable(
                problem.map_or_else(|| "it is being opened".to_owned(), |problem| problem.reason),
            )),
        }
    }

    /// The largest message that the topic takes, once that is known.
    pub(super) fn message_bytes_max(&self) -> Option<usize> {
        let sender = self.sender.load();
        sender.as_ref().map(|sender| sender.message_bytes_max())
    }

    /// Events are there. Before the first is told to anybody, all must know that there are some.
    ///
    /// # Errors
    /// That cannot be written.
    pub(super) async fn appended(
        &self,
        position: &Position,
        sender: &Sender,
    ) -> Result<(), String> {
        let generation = self.generation.load(Ordering::Acquire);
        if self.used.load(Ordering::Acquire) != generation {
            let record = [(identity::used(generation), Some(Bytes::from_static(b"1")))];
            let put = table::put(sender, &self.settings, &record).await;
            put.map_err(|error| error.to_string())?;
            self.used.store(generation, Ordering::Release);
        }
        self.seen.appended(position);
        Ok(())
    }

    /// Somebody has claimed a name of that generation: the next look sees to it that it holds here, too.
    pub(super) fn claimed(&self, generation: u64) {
        self.heard.fetch_max(generation, Ordering::AcqRel);
    }

    /// A batch was not acknowledged.
    pub(super) fn append_failed(&self, words: &str) {
        self.seen.failed(words, true);
    }

    /// A route is read here.
    pub(super) fn add_reader(&self, reader: &Arc<Reader>) {
        let mut readers = self.readers.lock();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(reader));
    }

    fn readers(&self) -> Vec<Arc<Reader>> {
        let readers = self.readers.lock();
        readers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Routes that this process takes part in without a partition to read.
    pub(super) fn idle(&self) -> Vec<String> {
        let readers = self.readers();
        let idle = readers.iter().filter(|reader| reader.is_idle());
        idle.map(|reader| {
            format!(
                "this process is idle for route `{}`: other processes read all partitions",
                reader.route()
            )
        })
        .collect()
    }

    /// Looks now, and waits for what is seen.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub(super) async fn look_now(&self) -> Result<(), JournalError> {
        let unreachable = self.seen.problem().and_then(|problem| problem.unreachable);
        let is_away = unreachable.is_some_and(|since| since.elapsed() > LOOK_WAIT_AWAY);
        let patience = match is_away && self.is_ready() {
            true => LOOK_WAIT_AWAY,
            false => LOOK_WAIT_MAX,
        };
        let mut looked = self.looked.subscribe();
        let wanted = {
            let mut wanted = self.wanted.lock();
            *wanted += 1;
            *wanted
        };
        self.wake.notify_all();
        let done = looked.wait_for(|looked| *looked >= wanted);
        let done = tokio::time::timeout(patience, done).await;
        let problem = self.seen.problem();
        let problem = problem.filter(|problem| problem.unreachable.is_some());
        match (done, problem) {
            (Ok(Ok(_)), None) => Ok(()),
            (_, Some(problem)) => Err(JournalError::Io(problem.reason)),
            _ => Err(JournalError::Io("Kafka does not answer".to_owned())),
        }
    }

    /// Ends its threads soon.
    pub(super) fn stop(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for reader in self.readers() {
            reader.stop();
        }
        self.wake.notify_all();
    }

    /// Ends: what was sent is answered, groups are left; blocks, for a bounded time.
    pub(super) fn close(&self) {
        self.stop();
        let until = Instant::now() + END_WAIT_MAX;
        for reader in self.readers() {
            reader.ended(until);
        }
        if let Some(sender) = self.sender.swap(None) {
            sender.flush(until.saturating_duration_since(Instant::now()));
        }
    }

    fn run(&self) {
        let mut looking = Looking::default();
        let mut soon = LOOK_SOON;
        while !self.is_closed() {
            let wanted = *self.wanted.lock();
            match self.look(&mut looking) {
                Ok(()) => {
                    self.seen.answered();
                    self.is_ready.send_replace(true);
                }
                Err(words) if !self.is_closed() => self.seen.failed(&words, false),
                Err(_) => break,
            }
            self.looked.send_replace(wanted);
            let pause = match self.is_ready() || looking.is_in_doubt() {
                true => LOOK_EVERY,
                false => soon,
            };
            soon = LOOK_EVERY.min(2 * soon);
            let mut now = self.wanted.lock();
            if *now == wanted && !self.is_closed() {
                self.wake.wait_for(&mut now, pause);
            }
        }
    }
}

//! A table in memory, for tests of those who share it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::journal::{Entry, Followed, JournalError, SharedTable, TableChange};

/// A table that loses nothing, and its server.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) log: Vec<(String, Option<Bytes>)>,
    pub(crate) is_away: bool,
    /// Those who follow are told nothing.
    pub(crate) is_mute: bool,
}

/// The first number: no process may take it for granted that it is 0.
const FIRST: u64 = 1000;

impl Server {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// What is not removed, by name.
    pub(crate) fn names(&self) -> BTreeMap<String, Bytes> {
        let mut names = BTreeMap::new();
        for (name, value) in &self.state.lock().log {
            match value {
                Some(value) => names.insert(name.clone(), value.clone()),
                None => names.remove(name),
            };
        }
        names
    }

    pub(crate) fn names_of(&self, kind: &str) -> Vec<String> {
        let names = self.names().into_keys();
        names.filter(|name| name.starts_with(kind)).collect()
    }
}

struct Following(Weak<Server>, Arc<AtomicBool>);

impl Followed for Following {}

impl Drop for Following {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Release);
        if let Some(server) = self.0.upgrade() {
            server.changed.notify_all();
        }
    }
}

pub(crate) struct Table(pub(crate) Arc<Server>);

#[async_trait]
impl SharedTable for Table {
    async fn put(&self, entries: Vec<Entry>) -> Result<u64, JournalError> {
        let mut state = self.0.state.lock();
        if state.is_away {
            return Err(JournalError::Io("the server is away".into()));
        }
        assert!(!entries.is_empty());
        state.log.extend(entries);
        let last = FIRST + state.log.len() as u64 - 1;
        self.0.changed.notify_all();
        Ok(last)
    }

    fn follow(
        &self,
        mut on: Box<dyn FnMut(TableChange) + Send>,
    ) -> Result<Box<dyn Followed>, JournalError> {
        let server = Arc::clone(&self.0);
        let ended = Arc::new(AtomicBool::new(false));
        let following = Following(Arc::downgrade(&server), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut next = 0;
            let mut is_up_to_date = false;
            loop {
                let mut changes = Vec::new();
                {
                    let mut state = server.state.lock();
                    while !ended.load(Ordering::Acquire)
                        && (state.is_mute || (is_up_to_date && next == state.log.len()))
                    {
                        server.changed.wait(&mut state);
                    }
                    if ended.load(Ordering::Acquire) {
                        return;
                    }
                    let log = &state.log;
                    for (at, (name, value)) in log.iter().enumerate().skip(next) {
                        // Who comes late is told the newest of each name only.
                        let is_newest = !log[at + 1..].iter().any(|(later, _)| later == name);
                        if is_up_to_date || is_newest {
                            changes.push(TableChange::Value {
                                sequence: FIRST + at as u64,
                                name: name.clone(),
                                value: value.clone(),
                            });
                        }
                    }
                    next = log.len();
                }
                if !is_up_to_date {
                    is_up_to_date = true;
                    changes.push(TableChange::UpToDate);
                }
                changes.into_iter().for_each(&mut on);
            }
        });
        Ok(Box::new(following))
    }
}

//! A route: a reader for each partition that this process reads for it, as the journal hands them out.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::runner::{Common, Plugins, Reader, RouteSettings};
use super::{RouteFilter, RouteHandle};
use crate::config::ConfigError;
use crate::control::Control;
use crate::journal::{Assignment, Assignments, Journal, JournalError};
use crate::observe::Metrics;
use crate::query::{CounterStore, EventStore};

/// The pause after the journal gave no partition, or the plug-ins could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the plug-ins of one more reader.
pub type MakePlugins = Box<dyn Fn() -> Result<Plugins, Vec<ConfigError>> + Send + Sync>;

/// One route.
pub struct Route {
    common: Common,
    make: MakePlugins,
    /// Those of the next reader. They are made before there is one, since they answer questions too.
    plugins: Mutex<Option<Plugins>>,
    counters: Option<Arc<dyn CounterStore>>,
    events: Option<Arc<dyn EventStore>>,
    /// What is read first, and where the rest comes from. (A lock only because the route is shared between awaits.)
    begun: Mutex<Option<Begun>>,
}

type Begun = (Box<dyn Assignments>, Option<Reader>);

impl Route {
    /// A route over `journal`; nothing is read yet.
    ///
    /// # Errors
    /// What is wrong with its plug-ins.
    pub fn new(
        settings: RouteSettings,
        make: MakePlugins,
        journal: Arc<dyn Journal>,
        control: Control,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Vec<ConfigError>> {
        let plugins = make()?;
        let sink = &plugins.sink;
        let filter = RouteFilter::new(&settings.filter, sink.leaves_out());
        let handle = RouteHandle::new(
            &settings.name,
            &settings.kind,
            sink.refuses_replay(),
            filter,
        );
        let processors = || plugins.processors.iter();
        let counters = sink
            .counters()
            .or_else(|| processors().find_map(|(_, processor)| processor.counters()));
        Ok(Self {
            counters,
            events: sink.events(),
            make,
            plugins: Mutex::new(Some(plugins)),
            begun: Mutex::new(None),
            common: Common {
                settings,
                journal,
                control,
                metrics,
                handle,
                drain: CancellationToken::new(),
                stop: CancellationToken::new(),
            },
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.common.handle.name()
    }

    /// Others' view of it.
    #[must_use]
    pub fn handle(&self) -> RouteHandle {
        self.common.handle.clone()
    }

    /// The counters that its sink or one of its processors keeps.
    #[must_use]
    pub fn counters(&self) -> Option<Arc<dyn CounterStore>> {
        self.counters.clone()
    }

    /// The events that its sink keeps.
    #[must_use]
    pub fn events(&self) -> Option<Arc<dyn EventStore>> {
        self.events.clone()
    }

    /// Cancel the first to let it end when it has passed everything, the second to let it end at once.
    #[must_use]
    pub fn stoppers(&self) -> (CancellationToken, CancellationToken) {
        (self.common.drain.clone(), self.common.stop.clone())
    }

    /// Takes part in reading, and opens what is there to read at once: nobody sees its books before they are read, and the
    /// backlog counts from its position.
    ///
    /// # Errors
    /// [`JournalError`] if it cannot.
    pub async fn begin(&mut self) -> Result<(), JournalError> {
        let mut assignments = self.common.journal.subscribe(self.name()).await?;
        let first = match assignments.next().now_or_never() {
            Some(Ok(assignment)) => Some(self.reader(assignment).await),
            Some(Err(_)) | None => None,
        };
        *self.begun.get_mut() = Some((assignments, first));
        Ok(())
    }

    /// Runs until it is asked to end.
    pub async fn run(mut self) {
        let mut readers = JoinSet::new();
        let Some(mut assignments) = self.begun_or_try(&mut readers).await else {
            return;
        };
        let mut more = true;
        let (drain, stop) = self.stoppers();
        let this = Arc::new(self);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = drain.cancelled() => break,
                Some(_) = readers.join_next() => {}
                assigned = assignments.next(), if more => match assigned {
                    Ok(assignment) => {
                        readers.spawn(Arc::clone(&this).read(assignment));
                    }
                    Err(JournalError::Closed) => more = false,
                    Err(error) => {
                        tracing::warn!(route = this.name(), %error, "no partition can be read");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
        // Each has a token of its own that is cancelled with these. What is assigned until then is nobody's.
        while readers.join_next().await.is_some() {}
    }

    /// What [`begin`](Self::begin) began, else tries until it does. `None`: it is to end.
    async fn begun_or_try(&mut self, readers: &mut JoinSet<()>) -> Option<Box<dyn Assignments>> {
        while self.begun.get_mut().is_none() {
            let (drain, stop) = self.stoppers();
            let Err(error) = self.begin().await else {
                break;
            };
            tracing::warn!(route = self.name(), %error, "the route cannot read");
            tokio::select! {
                () = drain.cancelled() => return None,
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        let (assignments, first) = self.begun.get_mut().take()?;
        if let Some(first) = first {
            readers.spawn(first.run());
        }
        Some(assignments)
    }

    /// Opens a partition and reads it, unless it is to go to another process, or the route to end, before it is open.
    async fn read(self: Arc<Self>, assignment: Box<dyn Assignment>) {
        let revoked = assignment.revoked();
        let (drain, stop) = self.stoppers();
        let reader = tokio::select! {
            biased;
            () = revoked.cancelled() => return,
            () = drain.cancelled() => return,
            () = stop.cancelled() => return,
            reader = self.reader(assignment) => reader,
        };
        reader.run().await;
    }

    async fn reader(&self, assignment: Box<dyn Assignment>) -> Reader {
        let mut said = None;
        let plugins = loop {
            if let Some(made) = self.plugins.lock().take() {
                break made;
            }
            match (self.make)() {
                Ok(made) => break made,
                // They could be made before: a file of theirs has changed.
                Err(errors) => {
                    let error = errors.first().map(ToString::to_string);
                    if error != said {
                        tracing::error!(route = self.name(), error, "the plug-ins cannot be made");
                        said = error;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        Reader::open(&self.common, plugins, assignment).await
    }
}

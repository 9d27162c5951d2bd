//! Builds the parts in order, runs them, and drains them in order. The only module that knows everybody.
//!
//! Two runtimes: the door answers clients; the routes deliver at a lower priority, so that a backlog never slows down
//! those who send. Draining goes from left to right: no new connection, requests under way answered, routes run dry,
//! journal closed.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use telemetryx_common::{DecodeLimits, FieldSet, ValidationRules};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::admission::{AdminGate, KeyRing, MemoryBudget, OverflowGate, RateLimiter};
use crate::clock;
use crate::config::{Config, ConfigError, Role, RouteConfig};
use crate::control::{Control, ControlError};
use crate::findings::Findings;
use crate::ingress::{self, BindError, Doors, Questions};
use crate::intake::{self, Intake};
use crate::journal::{self, BatchLimit, Journal, OpenedFor, Purpose};
use crate::observe::{DoorBooks, Metrics, OverloadLog, WebhookCounts};
use crate::plugin::PluginError;
use crate::processors;
use crate::query::{CountedBy, Query};
use crate::redrive;
use crate::route::{Plugins, Route, RouteSettings};
use crate::sinks::{self, Emitter, SinkContext};
use crate::validators;

/// The niceness of the routes' threads: the door goes first.
const ROUTES_NICE: i32 = 15;
/// How often small things are tidied: the door's books saved, histograms drained.
const TIDY: Duration = Duration::from_secs(1);
/// Of `shutdown.timeout`, what routes have that are told to end at once.
const LAST_COMMITS: Duration = Duration::from_secs(5);

const ONE_PROCESS: &str = "it keeps what it knows in the memory of one process and saves it with the route's position, for \
    which there is room only with `journal.engine: embedded`; here several processes share the work";

/// Why the service did not start. One line, for a person.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("data_dir {}: {error}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// Dead letters and replays cannot be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An address cannot be listened on, or not with these certificates.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A plug-in refuses its settings.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Plugins(Vec<ConfigError>),
    /// The system gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
}

/// Validators, processors and sinks, as the config names them.
struct AllPlugins {
    /// Where the sinks hand events back.
    emitter: Emitter,
    validators: Vec<Box<dyn validators::EventValidator>>,
    /// True if one of the sinks hands some back.
    routes_append: bool,
}

/// Builds every plug-in of the config, reads its certificates, and says all that is wrong with them; reaches no server.
#[must_use]
pub fn check_plugins(config: &Config) -> Vec<ConfigError> {
    let mut errors = build_plugins(config).err().unwrap_or_default();
    errors.extend(ingress::check_certificates(config));
    errors
}

fn build_plugins(config: &Config) -> Result<AllPlugins, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut validators = Vec::new();
    for (place, plugin) in config.validation.plugins.iter().enumerate() {
        match validators::build(plugin) {
            Ok(validator) => validators.push(validator),
            Err(error) => {
                let key = format!("validation.plugins[{place}] ({})", plugin.name);
                errors.extend(plugin_errors(&key, error));
            }
        }
    }
    let emitter = Emitter::default();
    let mut routes_append = false;
    for place in 0..config.routes.len() {
        match route_plugins(config, place, &emitter) {
            Ok(plugins) => routes_append |= plugins.sink.hands_back(),
            Err(found) => errors.extend(found),
        }
    }
    let mut said = HashSet::new();
    errors.retain(|error: &ConfigError| said.insert(error.to_string()));
    if errors.is_empty() {
        Ok(AllPlugins {
            emitter,
            validators,
            routes_append,
        })
    } else {
        Err(errors)
    }
}

/// The processors and the sink of the route at this place, which run nowhere and reach no server.
pub(crate) fn plugins_of_route(config: &Config, place: usize) -> Result<Plugins, Vec<ConfigError>> {
    route_plugins(config, place, &Emitter::default())
}

/// The processors and the sink of the route at this place.
fn route_plugins(
    config: &Config,
    place: usize,
    emitter: &Emitter,
) -> Result<Plugins, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let Some(route) = config.routes.get(place) else {
        return Err(errors);
    };
    let is_shared = config.journal.engine.is_shared();
    let mut processors = Vec::new();
    let shared = config.processing.plugins.iter().enumerate();
    let shared = shared.map(|(n, plugin)| (format!("processing.plugins[{n}]"), plugin));
    let own = route.processors.iter().enumerate();
    let own = own.map(|(n, plugin)| (format!("routes[{place}].processors[{n}]"), plugin));
    for (key, plugin) in shared.chain(own) {
        let key = format!("{key} ({})", plugin.name);
        match processors::build(plugin) {
            Ok(processor) if is_shared && processor.keeps_state() => {
                errors.push(at_key(key, ONE_PROCESS.to_owned()));
            }
            Ok(processor) => processors.push((plugin.name.clone(), processor)),
            Err(error) => errors.extend(plugin_errors(&key, error)),
        }
    }
    let context = SinkContext {
        route: route.name.as_str(),
        data_dir: &config.data_dir,
        emitter,
    };
    let key = format!("routes[{place}].sink ({})", route.sink.kind);
    let sink = match sinks::build(&route.sink, context) {
        // It has something to save before it was handed anything: all that it knows.
        Ok(sink) if is_shared && sink.save().is_some() => {
            errors.push(at_key(
                key,
                format!("{ONE_PROCESS}: count with the sink `redis`"),
            ));
            return Err(errors);
        }
        Ok(sink) => sink,
        Err(error) => {
            errors.extend(plugin_errors(&key, error));
            return Err(errors);
        }
    };
    if route.in_flight > 1 && !sink.takes_parts() {
        let kind = &route.sink.kind;
        errors.push(at_key(
            format!("routes[{place}].in_flight"),
            format!("the sink `{kind}` takes one batch at a time: leave it at 1"),
        ));
    }
    if errors.is_empty() {
        Ok(Plugins { processors, sink })
    } else {
        Err(errors)
    }
}

fn at_key(key: String, message: String) -> ConfigError {
    ConfigError {
        origin: None,
        key,
        message,
        hint: None,
    }
}

/// Each mistake with the key that it is at.
fn plugin_errors(key: &str, error: PluginError) -> impl Iterator<Item = ConfigError> {
    let messages = match error {
        PluginError::Several(messages) => messages,
        one => vec![one.to_string()],
    };
    messages
        .into_iter()
        .map(move |message| at_key(key.to_owned(), message))
}

/// The route's batch limits.
fn batch_limit(route: &RouteConfig) -> BatchLimit {
    let flush_interval = route.batch.flush_interval.map_or_else(
        || sinks::factory(&route.sink).map_or(Duration::ZERO, |factory| factory.flush_interval),
        Into::into,
    );
    BatchLimit {
        events: route.batch.max_events as usize,
        bytes: route.batch.max_bytes.as_usize(),
        wait: flush_interval,
    }
}

/// A running service.
pub struct Service {
    door: Runtime,
    routes: Runtime,
    journal: Arc<dyn Journal>,
    control: Control,
    books: Arc<DoorBooks>,
    listening: Vec<tokio::task::JoinHandle<()>>,
    address: SocketAddr,
    running: Vec<tokio::task::JoinHandle<()>>,
    drain: Vec<CancellationToken>,
    stop: Vec<CancellationToken>,
    close: CancellationToken,
    timeout: Duration,
}

impl Service {
    /// Starts everything `config` names. When this returns the service is ready.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then, and no data was touched.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let started = (Instant::now(), clock::now());
        let plugins = build_plugins(config).map_err(StartError::Plugins)?;
        let data_dir = |error| StartError::DataDir {
            path: config.data_dir.clone(),
            error,
        };
        std::fs::create_dir_all(&config.data_dir).map_err(data_dir)?;
        let metrics = Arc::new(Metrics::install());
        let door = runtime("door", 0)?;
        let routes_runtime = runtime("routes", ROUTES_NICE)?;

        let doors = {
            let _inside = door.enter();
            Doors::bind(config)?
        };
        let address = doors.http_address();
        let names = config.routes.iter().map(|route| route.name.as_str());
        let opened_for = OpenedFor {
            routes: names.map(str::to_owned).collect(),
            routes_append: plugins.routes_append,
            purpose: Purpose::Serve,
            metrics: Arc::clone(&metrics),
        };
        let journal = routes_runtime.block_on(journal::open(config, opened_for))?;
        let letters_max = config.dead_letters.max_bytes.bytes();
        let control = match journal.table() {
            Some(table) => {
                let runtime = routes_runtime.handle();
                Control::start_shared(table, Some(&config.data_dir), letters_max, runtime)?
            }
            None => Control::start(&config.data_dir, letters_max)?,
        };
        let books = Arc::new(DoorBooks::from_saved(control.door()?));

        let shared = Arc::new(config.clone());
        let mut routes = Vec::new();
        for (place, route) in config.routes.iter().enumerate() {
            let settings = RouteSettings {
                name: route.name.as_str().to_owned(),
                kind: route.sink.kind.clone(),
                filter: route.filter.clone(),
                limit: batch_limit(route),
                batches_max: config.processing.queue_max_depth as usize,
                in_flight: route.in_flight as usize,
                retry: route.retry.clone(),
                breaker: route.breaker.clone(),
            };
            let (config, emitter) = (Arc::clone(&shared), plugins.emitter.clone());
            let make = Box::new(move || route_plugins(&config, place, &emitter));
            let (journal, metrics) = (Arc::clone(&journal), Arc::clone(&metrics));
            let route = Route::new(settings, make, journal, control.clone(), metrics);
            routes.push(route.map_err(StartError::Plugins)?);
        }
        let delivers = config.has(Role::Deliver);
        for route in routes.iter_mut().filter(|_| delivers) {
            // One that cannot read yet tries on while it runs.
            if let Err(error) = routes_runtime.block_on(route.begin()) {
                tracing::warn!(route = route.name(), %error, "the route cannot read yet");
            }
        }

        let intake = Arc::new(Intake {
            journal: Arc::clone(&journal),
            keys: KeyRing::new(&config.auth),
            rate_limiter: RateLimiter::new(&config.admission.rate_limit, config.auth.keys.len()),
            overflow: OverflowGate::new(Arc::clone(&journal), config.admission.overflow.clone()),
            memory: MemoryBudget::new(config.admission.memory_budget.as_usize()),
            answers: MemoryBudget::new(intake::ANSWERS_BYTES_MAX),
            limits: DecodeLimits {
                max_event_bytes: config.http.max_event.as_usize(),
                max_events: config.http.max_batch as usize,
            },
            rules: ValidationRules::new(config.validation.max_future.into(), required(config)),
            validators: plugins.validators,
            on_invalid: config.validation.on_invalid,
            control: control.clone(),
            books: Arc::clone(&books),
            metrics: Arc::clone(&metrics),
            overload: OverloadLog::default(),
            webhooks: WebhookCounts::new(&config.webhooks),
        });
        plugins
            .emitter
            .connect(Arc::new(Findings(Arc::clone(&intake))));
        if config.is_open() && config.has(Role::Ingest) {
            let told = "no `auth.keys`: whoever reaches the service may send events";
            if config.auth.allow_open {
                tracing::warn!("{told}, also from other machines: `auth.allow_open`");
            } else {
                tracing::info!("{told}; it listens on this machine only");
            }
        }
        let named = |wanted: &Option<crate::config::RouteName>| {
            routes.iter().find(|route| {
                wanted
                    .as_ref()
                    .is_some_and(|name| name.as_str() == route.name())
            })
        };
        let query = Arc::new(Query {
            journal: Arc::clone(&journal),
            routes: routes.iter().map(Route::handle).collect(),
            door: Arc::clone(&books),
            control: control.clone(),
            counters: named(&config.query.counters_from).and_then(|route| {
                Some(CountedBy {
                    store: route.counters()?,
                    route: route.handle(),
                })
            }),
            store: named(&config.query.events_from).and_then(Route::events),
            roles: config.roles.clone(),
            admin: AdminGate::new(&config.admin),
            metrics: Arc::clone(&metrics),
            certificates: doors.certificates(),
            intake: Arc::clone(&intake),
            started,
        });

        // Their answers are computed where the routes deliver: questions do not hold up those who send.
        let questions = Questions::new(query, routes_runtime.handle().clone(), &config.http);
        let listeners = doors
            .open(&intake, questions, config)
            .map_err(|error| StartError::Plugins(vec![error]))?;
        let (drain, stop) = routes.iter().map(Route::stoppers).unzip();
        let running = routes
            .into_iter()
            .filter(|_| delivers)
            .map(|route| routes_runtime.spawn(route.run()))
            .collect();
        routes_runtime.spawn(redrive::run(Arc::clone(&intake)));
        door.spawn(tidy(intake, config.data_dir.clone()));
        let close = CancellationToken::new();
        let listening = listeners
            .into_iter()
            .map(|listener| door.spawn(listener.run(close.clone())))
            .collect();
        tracing::info!(%address, ready_ms = started.0.elapsed().as_millis() as u64, "ready");
        Ok(Self {
            door,
            routes: routes_runtime,
            journal,
            control,
            books,
            listening,
            address,
            running,
            drain,
            stop,
            close,
            timeout: config.shutdown.timeout.into(),
        })
    }

    /// Where it listens; the port that was chosen if the config says 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, answers what is under way, lets the routes run dry, all within `shutdown.timeout`; then closes the
    /// journal, for which one that servers keep may take some seconds more. Whatever is left stays in it.
    pub fn shut_down(self) {
        let deadline = tokio::time::Instant::now() + self.timeout;
        // Each ends with a last commit, which takes one sync.
        let drained_by = deadline - LAST_COMMITS.min(self.timeout / 2);
        tracing::info!("shutting down");
        self.close.cancel();
        let drained = self.door.block_on(async {
            let listening = futures_util::future::join_all(self.listening);
            tokio::time::timeout_at(drained_by, listening).await.is_ok()
        });
        if !drained {
            tracing::warn!("requests were still under way as shutdown.timeout ran out");
        }
        for token in &self.drain {
            token.cancel();
        }
        let mut running = futures_util::future::join_all(self.running);
        let routes = async {
            if tokio::time::timeout_at(drained_by, &mut running)
                .await
                .is_err()
            {
                tracing::warn!(
                    "the routes have not passed everything; they go on at the next start"
                );
            }
            for token in &self.stop {
                token.cancel();
            }
            tokio::time::timeout_at(deadline, running).await.ok();
        };
        let books = self.control.save_door(self.books.saved());
        self.routes.block_on(async {
            let (_, _) = tokio::join!(routes, tokio::time::timeout_at(deadline, books));
            self.journal.close().await;
        });
        self.routes.shutdown_timeout(Duration::from_millis(100));
        self.door.shutdown_timeout(Duration::from_millis(100));
        tracing::info!("stopped");
    }
}

fn required(config: &Config) -> FieldSet {
    config
        .validation
        .required
        .iter()
        .filter_map(|field| FieldSet::from_name(field.as_str()))
        .fold(FieldSet::EMPTY, |all, one| all | one)
}

fn runtime(name: &'static str, nice: i32) -> Result<Runtime, StartError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name(name)
        .thread_keep_alive(Duration::from_secs(10))
        .on_thread_start(move || {
            // On Linux niceness is a thread's own. Not permitted or not supported: routes run as the others do.
            if nice != 0 {
                rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice).ok();
            }
        })
        .enable_all()
        .build()
        .map_err(StartError::Threads)
}

/// Saves the door's books, drains histograms, measures the disk, forgets idle rate limits.
async fn tidy(intake: Arc<Intake>, data_dir: PathBuf) {
    let mut saved = intake.books.totals();
    let mut ticks = tokio::time::interval(TIDY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        intake.metrics.upkeep();
        let (measured, data_dir) = (Arc::clone(&intake), data_dir.clone());
        // A disk that hangs holds up this task and no thread of the door.
        let looked = tokio::task::spawn_blocking(move || measured.metrics.measure_disk(&data_dir));
        looked.await.ok();
        if let Some(limiter) = &intake.rate_limiter {
            limiter.tidy();
        }
        let totals = intake.books.totals();
        if totals != saved && intake.control.save_door(intake.books.saved()).await.is_ok() {
            saved = totals;
        }
    }
}

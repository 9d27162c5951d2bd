//! What a sink goes through: troubles of its server and of the way to it, one after the other. Each must end with every
//! event delivered, must not touch another route, and must be named wherever one looks, once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde_json::Value;
use telemetryx_testkit::{Proxy, Service, SmallDisk, eventually};

use super::{SOON, assert_books_balance, event, metric};

/// One trouble of the route named `outlet`.
pub(crate) struct Trouble<'a> {
    name: &'a str,
    begin: Box<dyn Fn() + 'a>,
    end: Box<dyn Fn() + 'a>,
    /// What the route says meanwhile; `None`: it need not notice.
    words: Option<&'a str>,
    /// Whether it came to pass, of one that need not be noticed.
    happened: Box<dyn Fn() -> bool + 'a>,
}

impl<'a> Trouble<'a> {
    /// A trouble in which the route must be down, with these words somewhere in its error, whatever it is if there are none.
    pub(crate) fn new(
        name: &'a str,
        words: &'a str,
        begin: impl Fn() + 'a,
        end: impl Fn() + 'a,
    ) -> Self {
        Self {
            name,
            begin: Box::new(begin),
            end: Box::new(end),
            words: Some(words),
            happened: Box::new(|| true),
        }
    }

    /// What can happen on the way to any server. `hung` is what the route says of a server that does not answer; `garbage`
    /// what it says of one that answers `nonsense`.
    pub(crate) fn of_the_network(proxy: &'a Proxy, hung: &'a str, garbage: &'a str) -> Vec<Self> {
        let fine = || proxy.restore();
        let unnoticed = |name, begin: Box<dyn Fn() + 'a>| Self {
            name,
            begin,
            end: Box::new(fine),
            words: None,
            happened: Box::new(|| !proxy.will_cut()),
        };
        vec![
            // Between the events of a batch, and in one of them.
            unnoticed("cut", Box::new(|| proxy.cut_after(2_000))),
            unnoticed("cut in its first bytes", Box::new(|| proxy.cut_after(1))),
            unnoticed("slow", Box::new(|| proxy.slow(200_000))),
            Self::new("refused", "", || proxy.refuse(), fine),
            Self::new(
                "hung",
                hung,
                || proxy.hang(),
                || {
                    proxy.restore();
                },
            ),
            Self::new(
                "garbage",
                garbage,
                || proxy.answer_with(b"\xff\x00nonsense\r\n\r\n"),
                fine,
            ),
        ]
    }
}

/// A service with the routes `outlet`, which has the troubles, and `stats`, which must not notice.
pub(crate) struct Outages<'a> {
    service: &'a Service,
    posted: Cell<u64>,
}

impl<'a> Outages<'a> {
    /// The config for it: `sink` are the keys of the sink of `outlet`. It tries again quickly.
    pub(crate) fn config(sink: &str) -> String {
        format!(
            "routes: [ {{ name: stats, sink: {{ kind: stats }} }},
              {{ name: outlet, sink: {{ {sink} }}, batch: {{ max_events: 100, flush_interval: 5ms }},
                retry: {{ initial: 5ms, max: 50ms }}, breaker: {{ failures: 3, open_for: 100ms }} }} ]\n"
        )
    }

    pub(crate) fn of(service: &'a Service) -> Self {
        Self {
            service,
            posted: Cell::new(0),
        }
    }

    /// Posts so many events more; their ids are `o0`, `o1` and so on.
    #[track_caller]
    pub(crate) fn post(&self, more: u64) {
        let first = self.posted.get();
        self.posted.set(first + more);
        let ids: Vec<_> = (first..first + more).collect();
        for ids in ids.chunks(50) {
            let events: Vec<_> = ids.iter().map(|id| event(&format!("o{id}"))).collect();
            let body = format!("[{}]", events.join(","));
            self.service.post_json("/ingest", body).expect_status(202);
        }
    }

    /// The ids of all that was posted, sorted.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = (0..self.posted.get()).map(|id| format!("o{id}")).collect();
        ids.sort();
        ids
    }

    /// The server's disk is full, and then has room again; these are the words of the server.
    pub(crate) fn disk_full(&'a self, disk: &'a SmallDisk, words: &'a str) -> Trouble<'a> {
        let filler = Rc::new(RefCell::new(None));
        let filled = Rc::clone(&filler);
        Trouble::new(
            "disk full",
            words,
            move || {
                *filled.borrow_mut() = Some(disk.fill());
                // What the server has room for already is not refused.
                eventually(SOON, "the disk is full", || {
                    self.post(500);
                    self.health()["state"] == "down"
                });
            },
            move || {
                let filler = filler.take().expect("the disk is full");
                std::fs::remove_file(filler).expect("a file can be removed");
            },
        )
    }

    fn route(&self, name: &str) -> Value {
        self.service.get("/status").json()["routes"][name].clone()
    }

    fn health(&self) -> Value {
        self.service.get("/health").expect_status(200).json()["routes"]["outlet"].clone()
    }

    fn said(&self, what: &str) -> usize {
        let log = self.service.log();
        let lines = log.lines().filter(|line| line.contains(what));
        lines.filter(|line| line.contains("outlet")).count()
    }

    /// Everything posted so far is delivered, and the route is well.
    #[track_caller]
    pub(crate) fn wait_until_delivered(&self, after: &str) {
        eventually(SOON, &format!("all is delivered after `{after}`"), || {
            self.route("outlet")["lag_events"] == 0 && self.health()["state"] == "up"
        });
    }

    /// Goes through them.
    #[track_caller]
    pub(crate) fn go_through(&self, troubles: &[Trouble<'_>]) {
        self.post(100);
        self.wait_until_delivered("the start");
        for trouble in troubles {
            let name = trouble.name;
            let downs = self.said("batch_persist_failed");
            let retries = metric(self.service, "route_retries_total{route=\"outlet\"}");
            (trouble.begin)();
            self.post(200);
            eventually(
                SOON,
                &format!("`{name}` does not touch another route"),
                || self.route("stats")["lag_events"] == 0,
            );
            if let Some(words) = trouble.words {
                eventually(
                    SOON,
                    &format!("`{name}` is in /health as `{words}`"),
                    || {
                        let health = self.health();
                        let error = health["error"].as_str().unwrap_or_default().to_owned();
                        health["state"] == "down" && !error.is_empty() && error.contains(words)
                    },
                );
                let status = self.route("outlet");
                assert!(
                    status["health"]["first_error"].is_string(),
                    "{name}: {status}"
                );
                // It is said once, however often it is tried.
                eventually(SOON, &format!("`{name}` is tried again"), || {
                    metric(self.service, "route_retries_total{route=\"outlet\"}") >= retries + 3.0
                });
                assert_eq!(self.said("batch_persist_failed"), downs + 1, "{name}");
                let (stats, outlet) = (self.route("stats"), self.route("outlet"));
                assert_eq!(stats["lag_events"], 0, "{name} touches another route");
                assert_ne!(outlet["lag_events"], 0, "{name} lets events pass");
            }
            // Some sinks send few bytes for many events.
            eventually(SOON, &format!("`{name}` comes to pass"), || {
                let happened = (trouble.happened)();
                if !happened {
                    self.post(50);
                }
                happened
            });
            (trouble.end)();
            self.wait_until_delivered(name);
        }
        self.post(100);
        self.wait_until_delivered("all");
        let books = assert_books_balance(self.service);
        assert_eq!(books["routes"]["outlet"]["delivered"], self.posted.get());
    }
}

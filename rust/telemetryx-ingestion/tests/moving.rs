//! `telemetryx journal export|import` on the real binary: a service that has delivered some, left some out, buried some and
//! is behind with a sink that is away, goes on from another journal. Each event reaches each sink once, in the order of its
//! key; the books go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::{TS, assert_books_balance, receipt, service, start};
use telemetryx_testkit::{Service, eventually};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(120);
const WEBHOOKS: &str = include_str!("data/github-webhooks.ndjson");
/// Keys of the events that are made here.
const KEYS: usize = 7;
/// Every route.
const ROUTES: [&str; 4] = ["all", "logins", "behind", "store"];

/// Where the routes deliver to, and what came there.
struct Outlets {
    folder: TempDir,
    to: To,
}

enum To {
    /// Files, which one process writes by one reader a route.
    Files,
    /// Topics.
    #[cfg(feature = "kafka")]
    Kafka(std::rc::Rc<telemetryx_testkit::Kafka>),
}

impl Outlets {
    fn new(to: To) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, to }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sink(&self, route: &str) -> String {
        match &self.to {
            To::Files => format!("{{ kind: file, path: {:?} }}", self.path(route)),
            #[cfg(feature = "kafka")]
            To::Kafka(kafka) => kafka_sink(&kafka.brokers(), route),
        }
    }

    /// One that takes nothing: its file is a folder, or its Kafka is not there.
    fn sink_that_is_away(&self, route: &str) -> String {
        match &self.to {
            To::Files => format!("{{ kind: file, path: {:?} }}", self.folder.path()),
            #[cfg(feature = "kafka")]
            To::Kafka(_) => kafka_sink("127.0.0.1:1", route),
        }
    }

    /// The ids that came to a route, those of a key in order.
    fn came(&self, route: &str) -> Vec<String> {
        let id = |line: &[u8]| {
            let event: Value = serde_json::from_slice(line).unwrap();
            event["id"].as_str().unwrap().to_owned()
        };
        match &self.to {
            To::Files => {
                let text = std::fs::read(self.path(route)).unwrap_or_default();
                let lines = text.split(|byte| *byte == b'\n');
                lines.filter(|line| !line.is_empty()).map(id).collect()
            }
            #[cfg(feature = "kafka")]
            To::Kafka(kafka) => {
                let messages = kafka.messages(&format!("out-{route}"));
                messages.iter().map(|message| id(&message.value)).collect()
            }
        }
    }

    /// The settings of a service with this journal.
    fn config(&self, journal: &str, behind: &str) -> String {
        let store = self.path("store.db");
        let patience = "retry: { initial: 20ms, max: 100ms }, breaker: { open_for: 50ms }";
        format!(
            "journal: {journal}
query: {{ events_from: store }}
routes:
  - {{ name: all, sink: {}, processors: [ {{ name: SchemaMigration, types: {LIFTED} }} ] }}
  - {{ name: logins, sink: {}, filter: {{ types: [login] }} }}
  - {{ name: behind, sink: {behind}, {patience} }}
  - {{ name: store, sink: {{ kind: sqlite, path: {store:?} }} }}
",
            self.sink("all"),
            self.sink("logins"),
        )
    }
}

/// What the route `all` lifts: an event whose payload is no object is a dead letter.
const LIFTED: &str = "{ login: { 1: { rename: { a: b } } } }";

#[cfg(feature = "kafka")]
fn kafka_sink(brokers: &str, route: &str) -> String {
    format!(
        "{{ kind: kafka, brokers: {brokers:?}, topic: out-{route}, format: json, timeout: 3s }}"
    )
}

/// What was sent: how often each id was, and what becomes of it.
#[derive(Default)]
struct Sent {
    numbers: [usize; KEYS],
    ids: HashMap<String, u64>,
    logins: HashMap<String, u64>,
    /// Ids of events that the route `all` cannot lift.
    bad: Vec<String>,
    events: u64,
}

impl Sent {
    /// So many events of keys in turn: every second is a login, and of those every fourth is one that cannot be lifted.
    fn more(&mut self, count: usize) -> String {
        let events = (0..count).map(|place| {
            let key = place % KEYS;
            let number = self.numbers[key];
            self.numbers[key] += 1;
            let id = format!("k{key}:{number}");
            let is_login = number.is_multiple_of(2);
            let is_bad = number % 8 == 2;
            *self.ids.entry(id.clone()).or_default() += 1;
            if is_login {
                *self.logins.entry(id.clone()).or_default() += 1;
            }
            if is_bad {
                self.bad.push(id.clone());
            }
            json!({
                "id": id, "ts": TS, "type": if is_login { "login" } else { "noise" }, "partition_key": format!("k{key}"),
                "payload": if is_bad { json!("text") } else { json!({ "a": number }) },
            })
        });
        let events: Vec<_> = events.collect();
        self.events += count as u64;
        json!(events).to_string()
    }

    /// The real ones, of which five come twice.
    fn webhooks(&mut self) -> &'static str {
        for line in WEBHOOKS.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let id = event["id"].as_str().unwrap().to_owned();
            *self.ids.entry(id).or_default() += 1;
            self.events += 1;
        }
        WEBHOOKS
    }

    fn post(&mut self, service: &Service, count: usize) -> String {
        receipt(&service.post_json("/ingest", self.more(count)))
    }

    fn post_webhooks(&mut self, service: &Service) {
        let body = self.webhooks();
        let lines: Vec<_> = body.lines().collect();
        for some in lines.chunks(50) {
            let answer = service.post("/ingest", "application/x-ndjson", some.join("\n"));
            answer.expect_status(202);
        }
    }

    /// What a route must have been handed in the end.
    fn expected(&self, route: &str) -> HashMap<String, u64> {
        match route {
            "logins" => self.logins.clone(),
            "all" => {
                let is_good = |(id, _): &(&String, &u64)| !self.bad.contains(id);
                let good = self.ids.iter().filter(is_good);
                good.map(|(id, times)| (id.clone(), *times)).collect()
            }
            _ => self.ids.clone(),
        }
    }

    /// Every event reached every sink as often as it was accepted, those of a key in their order.
    #[track_caller]
    fn assert_delivered(&self, outlets: &Outlets, service: &Service) {
        for route in ["all", "logins", "behind"] {
            let came = outlets.came(route);
            let mut times = HashMap::<_, u64>::new();
            let mut highest = BTreeMap::<_, usize>::new();
            for id in &came {
                *times.entry(id.clone()).or_default() += 1;
                if let Some((key, number)) = id.split_once(':') {
                    let number = number.parse().unwrap();
                    let before = highest.insert(key, number);
                    assert!(before < Some(number), "{route}: {id} after {before:?}");
                }
            }
            let expected = self.expected(route);
            let mut wrong: Vec<_> = expected
                .iter()
                .map(|(id, times)| (id, *times))
                .chain(
                    times
                        .keys()
                        .map(|id| (id, expected.get(id).copied().unwrap_or(0))),
                )
                .filter(|(id, expected)| times.get(*id).copied().unwrap_or(0) != *expected)
                .collect();
            wrong.sort();
            wrong.truncate(10);
            assert!(wrong.is_empty(), "{route}: not as often as this: {wrong:?}");
        }
        let stored = support::stored(service);
        assert_eq!(stored.len(), self.ids.len(), "/events has them all");
        assert!(stored.values().all(|times| *times == 1));
    }
}

/// Waits until these routes have passed everything; gives the ledger, which balances.
#[track_caller]
fn settled(service: &Service, routes: &[&str]) -> Value {
    let mut ledger = Value::Null;
    eventually(SOON, "the routes have passed everything", || {
        ledger = service.get("/ledger").json();
        let accepted = ledger["accepted"].as_u64().unwrap_or_default();
        let has_passed = |route: &&str| ledger["routes"][*route]["pending"] == 0;
        accepted > 0 && routes.iter().all(has_passed)
    });
    assert_books_balance(service)
}

/// Runs a command that must end with `code`; what it printed.
#[track_caller]
fn run(service: &Service, arguments: &[&str], code: i32) -> String {
    let exit = service.run(arguments);
    assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
    exit.stdout + &exit.stderr
}

/// The number of dead letters of routes.
#[track_caller]
fn letters(service: &Service) -> u64 {
    let shown = run(
        service,
        &["dead-letters", "list", "--route", "all", "--json"],
        0,
    );
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown["count"].as_u64().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One leg: a service lives on one journal, is stopped, and goes on from the other one.
fn moves(old: &str, new: &str, to: To) {
    let outlets = Outlets::new(to);
    let mut sent = Sent::default();
    let file = outlets.path("journal.export");
    let (present, away) = (outlets.sink("behind"), outlets.sink_that_is_away("behind"));

    // Everything is well for a while; then one sink is away.
    let mut former = start(&outlets.config(old, &present));
    eventually(SOON, "the journal takes events", || {
        former.get("/health").json()["journal"]["state"] == "ok"
    });
    sent.post_webhooks(&former);
    sent.post(&former, 200);
    settled(&former, &ROUTES);
    // Refused at the door: that is in the books as well.
    let refused = former.post_json("/ingest", r#"{"ts":"never"}"#);
    refused.expect_status(400);
    former.set_config(&outlets.config(old, &away));
    former.terminate();
    former.restart();
    sent.post(&former, 310);
    let old_receipt = sent.post(&former, 1);
    let before = settled(&former, &["all", "logins", "store"]);
    assert_eq!(before["accepted"], sent.events);
    assert_eq!(before["routes"]["behind"]["pending"], 311);
    assert_eq!(before["routes"]["all"]["dead"], sent.bad.len());
    former.terminate();

    let told = run(&former, &["journal", "export", text(&file)], 0);
    assert!(told.contains(&format!("{} events", sent.events)), "{told}");
    drop(former);

    let config = outlets.config(new, &present);
    let data_dir = outlets.path("new");
    let later = || service().config(&config).data_dir(&data_dir);
    // Nothing runs before the journal is filled.
    let told = later().run(&["journal", "import", text(&file)]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(!told.stdout.contains("NOTE"), "{told:?}");
    let mut later = later().start();
    let after = settled(&later, &ROUTES);
    // Also of routes that had nothing to read there yet.
    eventually(SOON, "nothing waits", || {
        later.get("/status").json()["backlog"]["bytes"] == 0
    });
    assert_eq!(after["accepted"], before["accepted"]);
    assert_eq!(after["door"], before["door"]);
    assert_eq!(after["since"], before["since"]);
    for route in ["all", "logins", "store"] {
        assert_eq!(after["routes"][route], before["routes"][route], "{route}");
    }
    assert_eq!(after["routes"]["behind"]["delivered"], sent.events);
    assert_eq!(later.get(&format!("/receipts/{old_receipt}")).status, 404);

    let new_receipt = sent.post(&later, 90);
    settled(&later, &ROUTES);
    let shown = later
        .get(&format!("/receipts/{new_receipt}"))
        .expect_status(200)
        .json();
    assert_eq!(shown["routes"]["behind"]["state"], "delivered", "{shown}");
    sent.assert_delivered(&outlets, &later);

    // Dead letters came along: they are sent again once their cause is mended.
    assert_eq!(letters(&later), sent.bad.len() as u64);
    later.set_config(&config.replace(LIFTED, "{ logout: { 1: { rename: { a: b } } } }"));
    later.terminate();
    later.restart();
    run(
        &later,
        &["dead-letters", "redrive", "--route", "all", "--wait"],
        0,
    );
    sent.bad.clear();
    let ledger = settled(&later, &ROUTES);
    assert_eq!(ledger["routes"]["all"]["dead"], 0, "{ledger}");
    assert_eq!(
        ledger["routes"]["all"]["delivered"], sent.events,
        "{ledger}"
    );
    let mut came = outlets.came("all");
    came.sort();
    came.dedup();
    assert_eq!(came.len(), sent.ids.len());
}

const EMBEDDED: &str = "{ engine: embedded, embedded: { segment_size: 256KiB } }";

#[test]
fn from_files_to_other_files() {
    moves(EMBEDDED, EMBEDDED, To::Files);
}

#[cfg(feature = "kafka")]
mod with_kafka {
    use std::rc::Rc;

    use telemetryx_testkit::{Kafka, Postgres};

    use super::{EMBEDDED, To, moves};

    /// The journal in so many partitions of a server; without one, in files.
    #[derive(Clone, Copy)]
    enum In {
        Files,
        Kafka(u32),
        Postgres(u32),
    }

    fn leg(from: In, to: In) {
        let kafka = Rc::new(Kafka::start());
        let postgres = Postgres::start();
        let journal = |name: &str, place: In| match place {
            In::Files => EMBEDDED.to_owned(),
            In::Kafka(partitions) => format!(
                "{{ engine: kafka, kafka: {{ brokers: {:?}, topic: {name}, group_prefix: {name}, \
                 partitions: {partitions} }} }}",
                kafka.brokers()
            ),
            In::Postgres(partitions) => format!(
                "{{ engine: postgres, postgres: {{ url: {:?}, schema: {name}, partitions: {partitions} }} }}",
                postgres.url()
            ),
        };
        let outlets = To::Kafka(Rc::clone(&kafka));
        moves(&journal("old", from), &journal("next", to), outlets);
    }

    #[test]
    fn from_files_to_twelve_partitions_of_kafka() {
        leg(In::Files, In::Kafka(12));
    }

    #[test]
    fn from_twelve_partitions_of_kafka_to_files() {
        leg(In::Kafka(12), In::Files);
    }

    #[test]
    fn from_twelve_partitions_of_kafka_to_three() {
        leg(In::Kafka(12), In::Kafka(3));
    }

    #[test]
    fn from_files_to_postgres() {
        leg(In::Files, In::Postgres(6));
    }

    #[test]
    fn from_postgres_to_files() {
        leg(In::Postgres(6), In::Files);
    }

    #[test]
    fn from_six_partitions_of_postgres_to_three_of_kafka() {
        leg(In::Postgres(6), In::Kafka(3));
    }
}

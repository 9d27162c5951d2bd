//! What the end-to-end tests share: the binary, events, answers to compare, load, and the books that must balance.
#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod brain;
pub(crate) mod kills;
pub(crate) mod outages;
pub(crate) mod parquet;
pub(crate) mod python;
pub(crate) mod receiver;
pub(crate) mod webhooks;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::Digest;
use telemetryx_testkit::{
    Connection, Response, Service, ServiceBuilder, eventually, eventually_some,
};

/// How long something that should come soon may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A time that every event may have.
pub(crate) const TS: &str = "2026-01-01T00:00:00Z";

/// A route that never delivers: its file is a directory.
pub(crate) const DEAD_ROUTE: &str = "routes: [ { name: store, sink: { kind: sqlite, path: . } } ]";

/// The real binary.
pub(crate) fn service() -> ServiceBuilder {
    Service::builder(env!("CARGO_BIN_EXE_telemetryx"))
}

/// The real binary with these settings, running.
#[track_caller]
pub(crate) fn start(config: &str) -> Service {
    service().config(config).start()
}

/// One small event.
pub(crate) fn event(id: &str) -> String {
    format!(r#"{{"id":"{id}","ts":"{TS}","type":"login","source":"door","payload":{{"n":1}}}}"#)
}

/// Several events, as a JSON array.
pub(crate) fn events(ids: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let events: Vec<_> = ids.into_iter().map(|id| event(id.as_ref())).collect();
    format!("[{}]", events.join(","))
}

/// The answer's body with what differs from time to time made equal: the request id is `ID` (and must be that of the
/// header), a receipt is `RECEIPT`.
#[track_caller]
pub(crate) fn normalised(answer: &Response) -> Value {
    let mut body = answer.json();
    let id = answer
        .header("x-request-id")
        .expect("every answer has X-Request-Id");
    if let Some(found) = body.get_mut("request_id") {
        assert_eq!(found, id);
        *found = "ID".into();
    }
    if let Some(receipt) = body.get_mut("receipt") {
        let parts: Vec<_> = receipt
            .as_str()
            .expect("a receipt is text")
            .split('-')
            .collect();
        assert!(parts.len() == 3 && parts[2].len() == 16, "{receipt}");
        *receipt = "RECEIPT".into();
    }
    body
}

/// Status and whole body are these; the content type is JSON.
#[track_caller]
pub(crate) fn assert_answer(answer: &Response, status: u16, body: Value) {
    assert_eq!((answer.status, normalised(answer)), (status, body));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// The body of a 202.
pub(crate) fn accepted(events: u64) -> Value {
    json!({"accepted": events, "rejected": 0, "request_id": "ID", "receipt": "RECEIPT", "durability": "fsynced"})
}

/// The body of an error.
pub(crate) fn error(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message}})
}

/// The receipt in a 202.
#[track_caller]
pub(crate) fn receipt(answer: &Response) -> String {
    assert_eq!(
        answer.status,
        202,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    answer.json()["receipt"]
        .as_str()
        .expect("a 202 has a receipt")
        .to_owned()
}

/// The SHA-256 of a key, as the config wants it.
pub(crate) fn sha256(key: &str) -> String {
    sha2::Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The first line of the log with this `event`.
#[track_caller]
pub(crate) fn log_line(service: &Service, event: &str) -> Value {
    eventually_some(SOON, "the log has the event", || {
        let log = service.log();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["event"] == event)
    })
}

/// Whole seconds until one may come back.
#[track_caller]
pub(crate) fn retry_after(answer: &Response) -> u64 {
    let seconds = answer
        .header("retry-after")
        .expect("there is a Retry-After");
    seconds.parse().expect("Retry-After is in seconds")
}

/// The books balance at this moment; gives the ledger.
#[track_caller]
pub(crate) fn assert_books_balance(service: &Service) -> Value {
    let ledger = service.get("/ledger").expect_status(200).json();
    let accepted = ledger["accepted"].as_u64().expect("accepted is a number");
    for (name, route) in ledger["routes"].as_object().expect("there are routes") {
        let sum: u64 = ["delivered", "filtered", "dead", "pending", "expired"]
            .iter()
            .map(|part| route[part].as_u64().expect("a count is not negative"))
            .sum();
        assert_eq!(
            (sum, &route["difference"]),
            (accepted, &json!(0)),
            "route {name}: {ledger}"
        );
    }
    ledger
}

/// Waits until no route has anything before it.
#[track_caller]
pub(crate) fn settle(service: &Service) {
    eventually(SOON, "every route has passed everything", || {
        let ledger = service.get("/ledger").json();
        let routes = ledger["routes"]
            .as_object()
            .expect("there are routes")
            .clone();
        routes.values().all(|route| route["pending"] == 0)
    });
}

/// One reading of `/metrics`, by its whole name with labels.
#[track_caller]
pub(crate) fn metric(service: &Service, name: &str) -> f64 {
    let text = service.get("/metrics").text().to_owned();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("there is no `{name}` in\n{text}"))
}

/// The ids in `/events`, each with how often it is there.
#[track_caller]
pub(crate) fn stored(service: &Service) -> HashMap<String, u32> {
    let headers = [("accept", "application/x-ndjson")];
    let answer = service
        .request("GET", "/events", &headers, b"")
        .expect_status(200);
    let mut counts = HashMap::new();
    for event in answer.ndjson() {
        *counts
            .entry(event["id"].as_str().expect("an id is text").to_owned())
            .or_insert(0) += 1;
    }
    counts
}

/// What came of some load.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Ids of events that were answered 202.
    pub(crate) acknowledged: Vec<String>,
    /// Ids of events that were sent, and no answer came: stored or not.
    pub(crate) unknown: HashSet<String>,
    /// Receipts, the newest last.
    pub(crate) receipts: Vec<String>,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

impl Tally {
    /// What was acknowledged is stored once, and nothing is stored that was not sent or was refused; `/stats` counts
    /// exactly what was accepted.
    #[track_caller]
    pub(crate) fn assert_kept(&self, service: &Service) {
        let accepted = self.assert_kept_without_counters(service);
        assert_eq!(service.get("/stats").json()["events_count"], accepted);
    }

    /// As `assert_kept`, for a service that does not answer `/stats`; how many were accepted.
    #[track_caller]
    pub(crate) fn assert_kept_without_counters(&self, service: &Service) -> Value {
        settle(service);
        let stored = stored(service);
        let lost = self
            .acknowledged
            .iter()
            .filter(|id| stored.get(*id) != Some(&1))
            .count();
        assert_eq!(
            lost,
            0,
            "acknowledged and not stored once, of {}",
            self.acknowledged.len()
        );
        let acknowledged: HashSet<_> = self.acknowledged.iter().collect();
        let strange: Vec<_> = stored
            .keys()
            .filter(|id| !acknowledged.contains(id) && !self.unknown.contains(*id))
            .collect();
        assert!(strange.is_empty(), "stored, though refused: {strange:?}");
        let ledger = assert_books_balance(service);
        assert_eq!(
            ledger["accepted"],
            json!(stored.len()),
            "each id was sent once"
        );
        ledger["accepted"].clone()
    }

    /// As `assert_kept`, for a service that stores no events: the counts leave no room for a loss.
    #[track_caller]
    pub(crate) fn assert_counted(&self, service: &Service) {
        settle(service);
        let accepted = assert_books_balance(service)["accepted"]
            .as_u64()
            .expect("a number");
        let (least, unknown) = (self.acknowledged.len() as u64, self.unknown.len() as u64);
        assert!(
            (least..=least + unknown).contains(&accepted),
            "{accepted} of {least} and perhaps {unknown}"
        );
        assert_eq!(service.get("/stats").json()["events_count"], accepted);
        for receipt in &self.receipts {
            let shown = service
                .get(&format!("/receipts/{receipt}"))
                .expect_status(200)
                .json();
            assert_eq!(shown["routes"]["stats"]["state"], "delivered", "{shown}");
        }
    }

    /// Takes in what came of more load.
    pub(crate) fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.receipts.extend(other.receipts);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_insert(0) += count;
        }
    }
}

/// Clients that send as fast as they are answered, until they are told to stop; a broken connection is made anew.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Each of `clients` sends batches of `batch` events with payloads of `payload_bytes`; their ids begin with `name`.
    pub(crate) fn start(
        service: &Service,
        name: &str,
        clients: usize,
        batch: usize,
        payload_bytes: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let clients = (0..clients)
            .map(|client| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                let (address, name) = (service.address(), format!("{name}-{client}"));
                std::thread::spawn(move || {
                    let payload = "x".repeat(payload_bytes);
                    send(&address, &name, batch, &payload, &stop, &acknowledged)
                })
            })
            .collect();
        Self {
            stop,
            acknowledged,
            clients,
        }
    }

    /// How many events were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more are acknowledged.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: u64) {
        let until = self.acknowledged() + more;
        eventually(SOON, "load is acknowledged", || {
            self.acknowledged() >= until
        });
    }

    /// Ends the load.
    pub(crate) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            all.add(client.join().expect("a client does not panic"));
        }
        all
    }
}

fn send(
    address: &str,
    name: &str,
    batch: usize,
    payload: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            connection = Connection::open(address).ok();
            if connection.is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            continue;
        };
        let ids: Vec<_> = (sent..sent + batch)
            .map(|n| format!("{name}-{n}"))
            .collect();
        sent += batch;
        let body: Vec<_> = ids
            .iter()
            .map(|id| {
                format!(r#"{{"id":"{id}","ts":"{TS}","source":"{name}","payload":"{payload}"}}"#)
            })
            .collect();
        let body = format!("[{}]", body.join(","));
        match open.request(
            "POST",
            "/ingest",
            &[("content-type", "application/json")],
            body.as_bytes(),
        ) {
            Ok(answer) => {
                *tally.statuses.entry(answer.status).or_insert(0) += 1;
                if answer.status == 202 {
                    acknowledged.fetch_add(ids.len() as u64, Ordering::Relaxed);
                    tally.receipts.push(receipt(&answer));
                    tally.acknowledged.extend(ids);
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if answer
                    .header("connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"))
                {
                    connection = None;
                }
            }
            Err(_) => {
                tally.unknown.extend(ids);
                connection = None;
            }
        }
    }
    tally
}

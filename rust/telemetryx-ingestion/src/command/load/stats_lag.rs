//! From a 202 to the event being counted: how far `/stats` is behind the door.
//!
//! A prober sends single events of a source of its own beside the load, and after each 202 asks `/stats/<its source>`
//! until the count has moved. A source of its own makes the measurement exact: no other event can be taken for the one
//! awaited. It asks about once a millisecond, so the figures are up to that much and one question too high.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::http::{Connection, HttpError};
use super::tally::new_histogram;
use super::target::Target;

/// Probers side by side: more samples, spread over time.
const PROBERS: usize = 4;
const POLL_PAUSE: Duration = Duration::from_millis(1);
const PROBE_PAUSE: Duration = Duration::from_millis(5);

/// What the probers saw.
#[derive(Debug)]
pub(crate) struct StatsLag {
    pub(crate) micros: Histogram<u64>,
    pub(crate) failure: Option<String>,
}

/// Probers under way.
pub(crate) struct Probers {
    seen: Arc<Mutex<StatsLag>>,
    tasks: JoinSet<()>,
}

impl Probers {
    /// Starts to probe; what is sent before `measure_from` does not count.
    pub(crate) fn start(target: &Target, measure_from: Instant) -> Self {
        let seen = Arc::new(Mutex::new(StatsLag {
            micros: new_histogram(),
            failure: None,
        }));
        let run = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros();
        let mut tasks = JoinSet::new();
        for prober in 0..PROBERS {
            let (seen, target) = (Arc::clone(&seen), target.clone());
            let source = format!("probe-{run}-{prober}");
            tasks.spawn(async move {
                if let Err(error) = probe(&target, &source, measure_from, &seen).await {
                    seen.lock().failure = Some(error.to_string());
                }
            });
        }
        Self { seen, tasks }
    }

    /// Stops and returns what was seen.
    pub(crate) async fn stop(mut self) -> StatsLag {
        self.tasks.shutdown().await;
        let empty = StatsLag {
            micros: new_histogram(),
            failure: None,
        };
        std::mem::replace(&mut *self.seen.lock(), empty)
    }
}

async fn probe(
    target: &Target,
    source: &str,
    measure_from: Instant,
    seen: &Mutex<StatsLag>,
) -> Result<(), HttpError> {
    let mut connection = Connection::open(target).await?;
    let question = format!("/stats/{source}");
    for sent in 1_u64.. {
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        let body =
            format!(r#"{{"ts":"{now}","type":"probe","source":"{source}","payload":{sent}}}"#);
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            target.path,
            target.address,
            body.len()
        );
        let status = connection.exchange(request.as_bytes()).await?.status;
        if status != 202 {
            return Err(HttpError::Unreadable(format!(
                "a probe was answered {status}"
            )));
        }
        let acknowledged = Instant::now();
        while counted(&mut connection, target, &question).await? < sent {
            tokio::time::sleep(POLL_PAUSE).await;
        }
        if acknowledged >= measure_from {
            seen.lock()
                .micros
                .saturating_record(acknowledged.elapsed().as_micros() as u64);
        }
        tokio::time::sleep(PROBE_PAUSE).await;
    }
    Ok(())
}

async fn counted(
    connection: &mut Connection,
    target: &Target,
    question: &str,
) -> Result<u64, HttpError> {
    #[derive(serde::Deserialize)]
    struct SourceStats {
        total_events: u64,
    }
    let (status, body) = connection
        .get(&target.address, question, "application/json")
        .await?;
    match status {
        404 => Ok(0),
        200 => serde_json::from_slice::<SourceStats>(&body)
            .map(|stats| stats.total_events)
            .map_err(|error| HttpError::Unreadable(format!("{question}: {error}"))),
        other => Err(HttpError::Unreadable(format!(
            "{question} was answered {other}"
        ))),
    }
}

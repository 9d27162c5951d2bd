//! The load itself: one task a connection, all taking their turns from one schedule.
//!
//! At a fixed rate the schedule runs whether or not answers come (open loop): a request that had to wait for a free
//! connection counts its latency from when it should have been sent, so a stalled server shows as latency, not as a
//! quietly lower rate. With rate 0 each connection sends as soon as it has its answer (closed loop).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::http::{Answer, Connection, HttpError};
use super::protocol::{Frame, Protocol};
use super::tally::Tally;
use super::target::Target;
use super::template::{Shape, Template};
use super::verdict::Verdict;
use super::{framed, grpc};

/// How long answers still under way at the end are waited for.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(10);
/// Pause before a broken connection is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// The runtime's timers wake up to this much late. That much, and no more, is not the server's fault.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// Told of every request answered 202, after its answer arrived.
pub(crate) type OnAcknowledged = Arc<dyn Fn(&Acknowledged) + Send + Sync>;

/// The events of one request that was answered 202.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    /// Number of the request's first event.
    pub(crate) first: u64,
    /// Events it had.
    pub(crate) count: u64,
    /// Places in the request, from 0, of the events that were refused.
    pub(crate) refused: Vec<u64>,
}

impl Acknowledged {
    /// Numbers of the events that were accepted.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        (0..self.count)
            .filter(|index| !self.refused.contains(index))
            .map(|index| self.first + index)
    }
}

/// What to send, where and how fast.
#[derive(Clone)]
pub(crate) struct LoadPlan {
    pub(crate) target: Target,
    pub(crate) shape: Shape,
    /// Events a second over all connections; 0: as fast as answers come.
    pub(crate) rate: u64,
    pub(crate) connections: usize,
    /// Address of ours to connect from.
    pub(crate) from: Option<IpAddr>,
    /// Requests under way on a connection, where the protocol can have several.
    pub(crate) in_flight: usize,
    /// Requests to send at most.
    pub(crate) requests: Option<u64>,
    /// Not counted, before `duration` begins.
    pub(crate) warm_up: Duration,
    /// `None`: until stopped.
    pub(crate) duration: Option<Duration>,
    /// Connect again after an error in place of giving the connection up.
    pub(crate) keep_going: bool,
    pub(crate) on_acknowledged: Option<OnAcknowledged>,
}

impl LoadPlan {
    /// One connection that sends as fast as it gets answers, until it is stopped or an error.
    pub(crate) fn new(target: Target, shape: Shape) -> Self {
        Self {
            target,
            shape,
            rate: 0,
            connections: 1,
            from: None,
            in_flight: 1,
            requests: None,
            warm_up: Duration::ZERO,
            duration: None,
            keep_going: false,
            on_acknowledged: None,
        }
    }
}

/// Hands out the times at which requests are due.
struct Schedule {
    start: Instant,
    end: Option<Instant>,
    requests: AtomicU64,
    requests_max: Option<u64>,
    /// Nanoseconds a batch would take at one event a second; divided only by turn, so that no rate is rounded.
    batch_nanos: u128,
    /// Events a second; 0: as soon as there is an answer.
    rate: u128,
}

impl Schedule {
    /// When the next request is due; `None` once the time is up.
    fn next(&self) -> Option<Instant> {
        let turn = self.requests.fetch_add(1, Ordering::Relaxed);
        if self.requests_max.is_some_and(|most| turn >= most) {
            return None;
        }
        let due = match (u128::from(turn) * self.batch_nanos).checked_div(self.rate) {
            Some(nanos) => self.start + Duration::from_nanos(nanos as u64),
            None => Instant::now(),
        };
        self.end.is_none_or(|end| due < end).then_some(due)
    }
}

/// What the connections share.
pub(super) struct Shared {
    pub(super) plan: LoadPlan,
    schedule: Schedule,
    measure_from: Instant,
    stopped: AtomicBool,
    event_next: AtomicU64,
    connections_open: AtomicUsize,
    tally: Mutex<Tally>,
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Sent {
    /// Number of its first event.
    pub(super) first: u64,
    /// From when its latency counts.
    begun: Instant,
}

impl Shared {
    /// When the next request is due; `None` if there shall be none.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        self.schedule.next()
    }

    /// Numbers the events of a request.
    pub(super) fn number(&self, begun: Instant) -> Sent {
        let batch = self.plan.shape.batch as u64;
        Sent {
            first: self.event_next.fetch_add(batch, Ordering::Relaxed),
            begun,
        }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, sent: &Sent, answer: &Answer<'_>) {
        let ended = Instant::now();
        let Shape {
            protocol, batch, ..
        } = self.plan.shape;
        let verdict = Verdict::of(answer, protocol, batch as u64);
        if sent.begun >= self.measure_from {
            let latency = ended - sent.begun;
            let mut tally = self.tally.lock();
            tally.answered(&verdict, batch as u64, latency, ended);
        }
        if let Some(on_acknowledged) = &self.plan.on_acknowledged
            && verdict.accepted > 0
            && let Some(refused) = verdict.refused
        {
            on_acknowledged(&Acknowledged {
                first: sent.first,
                count: batch as u64,
                refused,
            });
        }
    }

    /// Counts requests whose connection broke.
    pub(super) fn broken(&self, requests: u64) {
        let why = "under way on a connection that broke";
        self.tally.lock().unanswered(requests, why);
    }
}

/// A load under way; the tasks end with it.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts to send. Must be called on a tokio runtime; a single-threaded one disturbs the server least.
    pub(crate) fn start(plan: LoadPlan) -> Self {
        let start = Instant::now();
        let measure_from = start + plan.warm_up;
        let connections = plan.connections;
        let schedule = Schedule {
            start,
            end: plan.duration.map(|duration| measure_from + duration),
            requests: AtomicU64::new(0),
            requests_max: plan.requests,
            batch_nanos: plan.shape.batch as u128 * 1_000_000_000,
            rate: u128::from(plan.rate),
        };
        let shared = Arc::new(Shared {
            plan,
            schedule,
            measure_from,
            stopped: AtomicBool::new(false),
            event_next: AtomicU64::new(0),
            connections_open: AtomicUsize::new(connections),
            tally: Mutex::new(Tally::new()),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(drive(Arc::clone(&shared)));
        }
        Self { shared, tasks }
    }

    /// Figures so far.
    pub(crate) fn tally(&self) -> parking_lot::MutexGuard<'_, Tally> {
        self.shared.tally.lock()
    }

    /// Connections still sending.
    pub(crate) fn connections_open(&self) -> usize {
        self.shared.connections_open.load(Ordering::Relaxed)
    }

    /// When counting begins.
    pub(crate) fn measure_from(&self) -> Instant {
        self.shared.measure_from
    }

    /// Sends nothing more, waits a while for the answers under way, and returns the figures.
    pub(crate) async fn stop(mut self) -> Tally {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.finish_tasks(LAST_ANSWERS_WAIT).await;
        self.take_tally()
    }

    /// Returns the figures once the plan's time is up or every connection has failed.
    pub(crate) async fn finished(mut self) -> Tally {
        let end = self.shared.schedule.end.unwrap_or_else(Instant::now);
        self.finish_tasks(end.saturating_duration_since(Instant::now()) + LAST_ANSWERS_WAIT)
            .await;
        self.take_tally()
    }

    async fn finish_tasks(&mut self, wait: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(wait, all).await.is_ok();
        if !in_time {
            let unanswered = self.tasks.len() as u64;
            self.tasks.shutdown().await;
            let why = "no answer until the end";
            self.shared.tally.lock().unanswered(unanswered, why);
        }
    }

    fn take_tally(&self) -> Tally {
        let mut tally = std::mem::replace(&mut *self.shared.tally.lock(), Tally::new());
        tally.sent = self.shared.event_next.load(Ordering::Relaxed);
        tally
    }
}

/// One connection of a protocol that has one request under way on it.
enum Channel {
    Http(Connection),
    Grpc(grpc::Connection),
}

impl Channel {
    async fn open(plan: &LoadPlan) -> Result<Self, HttpError> {
        let LoadPlan {
            target,
            from,
            shape,
            ..
        } = plan;
        if shape.protocol.frame() == Frame::Grpc {
            let opened = grpc::Connection::open(target, *from, &shape.headers).await?;
            return Ok(Self::Grpc(opened));
        }
        Connection::open_from(target, *from).await.map(Self::Http)
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, HttpError> {
        match self {
            Self::Http(connection) => connection.exchange(request).await,
            Self::Grpc(connection) => connection.exchange(request).await,
        }
    }
}

/// One connection's life.
async fn drive(shared: Arc<Shared>) {
    let mut template = Template::new(&shared.plan.target, &shared.plan.shape);
    loop {
        let driven = match shared.plan.shape.protocol {
            Protocol::Tcp => framed::drive(&shared, &mut template).await,
            _ => drive_channel(&shared, &mut template).await,
        };
        let Err(error) = driven else {
            break;
        };
        shared.tally.lock().failed(&error);
        if !shared.plan.keep_going || shared.stopped.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    shared.connections_open.fetch_sub(1, Ordering::Relaxed);
}

/// Sends until there is nothing more to send, or an error.
async fn drive_channel(shared: &Shared, template: &mut Template) -> Result<(), HttpError> {
    let mut open = None;
    while let Some(due) = shared.next_turn() {
        let mut begun = due;
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
            begun = Instant::now().min(due + TIMER_GRAIN);
            if shared.stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        let channel = match &mut open {
            Some(channel) => channel,
            None => open.insert(Channel::open(&shared.plan).await?),
        };
        let sent = shared.number(begun);
        let request = template.fill(sent.first, SystemTime::now());
        let answer = channel.exchange(request).await?;
        shared.answered(&sent, &answer);
        if answer.close {
            open = None;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn plan(address: String, rate: u64) -> LoadPlan {
        let target = Target::plain(address, "/ingest");
        let shape = Shape {
            batch: 2,
            id_prefix: Some("t".to_owned()),
            type_count: 1,
            source_count: 1,
            ..Shape::default()
        };
        LoadPlan {
            rate,
            connections: 2,
            duration: Some(Duration::from_millis(300)),
            keep_going: true,
            ..LoadPlan::new(target, shape)
        }
    }

    /// A server that reads requests of a known size and answers each with `answer`, then closes after `requests_max`.
    async fn server(answer: &'static str, stall: Duration, requests_max: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = vec![0; 4096];
                    for _ in 0..requests_max {
                        let mut got = String::new();
                        while !got.ends_with("}]") {
                            let count = stream.read(&mut bytes).await.unwrap_or(0);
                            if count == 0 {
                                return;
                            }
                            got.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
                        }
                        tokio::time::sleep(stall).await;
                        let head = format!(
                            "HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n",
                            answer.len()
                        );
                        stream
                            .write_all(format!("{head}{answer}").as_bytes())
                            .await
                            .unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn fixed_rate_sends_that_many_events() {
        let address = server(r#"{"accepted":2,"rejected":0}"#, Duration::ZERO, usize::MAX).await;
        let tally = Load::start(plan(address, 1000)).finished().await;
        assert_eq!(tally.accepted, 300);
        assert_eq!(tally.requests(), 150);
    }

    #[tokio::test]
    async fn no_more_requests_are_sent_than_asked_for() {
        let address = server("{}", Duration::ZERO, usize::MAX).await;
        let plan = LoadPlan {
            requests: Some(7),
            ..plan(address, 0)
        };
        let tally = Load::start(plan).finished().await;
        assert_eq!((tally.requests(), tally.sent), (7, 14));
    }

    #[tokio::test]
    async fn latency_counts_from_the_time_a_request_was_due() {
        // 2 connections, each busy 50 ms a request: 40 requests a second where 500 are due.
        let address = server(
            r#"{"accepted":2,"rejected":0}"#,
            Duration::from_millis(50),
            usize::MAX,
        )
        .await;
        let tally = Load::start(plan(address, 1000)).finished().await;
        assert!(
            tally.latency.max() > 1_000_000,
            "max {} µs",
            tally.latency.max()
        );
    }

    #[tokio::test]
    async fn acknowledged_numbers_leave_the_refused_out() {
        let address = server(
            r#"{"accepted":1,"rejected":1,"errors":[{"index":0,"code":"x"}]}"#,
            Duration::ZERO,
            usize::MAX,
        )
        .await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let mut plan = plan(address, 1000);
        plan.on_acknowledged = Some(Arc::new(move |request: &Acknowledged| {
            sink.lock().extend(request.numbers())
        }));
        let tally = Load::start(plan).finished().await;
        let seen = seen.lock();
        assert_eq!(seen.len() as u64, tally.accepted);
        assert!(
            !seen.is_empty() && seen.iter().all(|number| number % 2 == 1),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn shed_events_are_not_acknowledged() {
        let address = server(
            r#"{"accepted":2,"rejected":0,"durability":"shed"}"#,
            Duration::ZERO,
            usize::MAX,
        )
        .await;
        let mut plan = plan(address, 0);
        plan.on_acknowledged = Some(Arc::new(|_| {
            panic!("a shed event was taken for acknowledged")
        }));
        let tally = Load::start(plan).finished().await;
        assert!(tally.requests() > 0);
        assert_eq!((tally.accepted, tally.shed), (0, tally.sent));
    }

    #[tokio::test]
    async fn broken_connections_are_made_again_only_when_told_to() {
        let address = server("{}", Duration::ZERO, 3).await;
        let tally = Load::start(plan(address.clone(), 0)).finished().await;
        assert!(
            tally.requests() > 6 && tally.errors_count() > 1,
            "{} {}",
            tally.requests(),
            tally.errors_count()
        );

        let tally = Load::start(LoadPlan {
            keep_going: false,
            ..plan(address, 0)
        })
        .finished()
        .await;
        assert_eq!(tally.requests(), 6);
        assert_eq!(tally.errors_count(), 2);
    }
}

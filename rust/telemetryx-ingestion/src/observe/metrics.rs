//! Every metric: its name, its help text, and the handle to it. Nowhere else is a metric named.
//!
//! Handles are made once; the hot path only adds to atomics. Labels never come from client data.
#![allow(clippy::disallowed_macros)]

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Bounds of latency histograms, in seconds.
const LATENCIES: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Bounds of the histogram of events per group commit.
const GROUP_SIZES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4,
];

/// What an HTTP request that asks something was for: the `endpoint` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /stats`, `/stats/{source_id}`, `/stats/rates`.
    Stats,
    /// `GET /events`.
    Events,
    /// `GET /receipts/{receipt}`.
    Receipts,
    /// `GET /ledger`.
    Ledger,
    /// `GET /status`.
    Status,
    /// `GET /health` and `/healthz`.
    Health,
    /// `GET /metrics`.
    Metrics,
    /// Whatever changes things: replay, dead letters.
    Admin,
    /// No endpoint of ours.
    Other,
}

const ENDPOINTS: [&str; 9] = [
    "/stats",
    "/events",
    "/receipts",
    "/ledger",
    "/status",
    "/health",
    "/metrics",
    "/admin",
    "other",
];
const STATUSES: [u16; 16] = [
    200, 202, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 501, 503,
];

/// The handles of one HTTP endpoint.
pub struct EndpointMetrics {
    label: &'static str,
    requests: Counter,
    /// Made when first needed: all of them would be most of what `/metrics` shows.
    by_status: [OnceLock<Histogram>; STATUSES.len()],
}

impl EndpointMetrics {
    /// The handles of the endpoint with this label, a word of ours.
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        Self {
            label,
            requests: counter!("telemetron_http_requests_total", "endpoint" => label),
            by_status: STATUSES.map(|_| OnceLock::new()),
        }
    }

    /// Counts one request and how long it took.
    pub fn record(&self, status: u16, took: Duration) {
        self.requests.increment(1);
        let place = STATUSES
            .iter()
            .position(|known| *known == status)
            .unwrap_or(STATUSES.len() - 3);
        let duration = self.by_status[place].get_or_init(|| {
            histogram!(
                "telemetron_http_requests_duration_seconds",
                "endpoint" => self.label, "status" => STATUSES[place].to_string()
            )
        });
        duration.record(took.as_secs_f64());
    }
}

/// The handles of one protocol.
pub struct ProtocolMetrics {
    /// Events accepted.
    pub accepted: Counter,
    /// Events refused.
    pub refused: Counter,
    /// Events over the rate limit of their source.
    pub rate_limited: Counter,
}

impl ProtocolMetrics {
    /// The handles of the protocol of this name, a word of ours.
    #[must_use]
    pub fn new(protocol: &'static str) -> Self {
        let events = |outcome: &'static str| counter!("ingestion_events_total", "protocol" => protocol, "outcome" => outcome);
        Self {
            accepted: events("accepted"),
            refused: events("refused"),
            rate_limited: events("rate_limited"),
        }
    }
}

/// The handles of everything that is not a route's or a protocol's.
pub struct Metrics {
    handle: PrometheusHandle,
    endpoints: [EndpointMetrics; ENDPOINTS.len()],
    /// Requests to ingest, by any protocol.
    pub requests: Counter,
    /// Those that were answered with an error.
    pub request_errors: Counter,
    /// Events dropped by the overflow policy.
    pub dropped: Counter,
    /// From the end of a request's head to its answer.
    pub latency: Histogram,
    /// Bytes of bodies, unpacked.
    pub bytes: Counter,
    /// From `append` to durable.
    pub append: Histogram,
    /// One sync of the journal.
    pub fsync: Histogram,
    /// Events in one group commit.
    pub group_events: Histogram,
    /// Bytes on disk.
    pub journal_bytes: Gauge,
    /// Events kept on this machine while the server that keeps the journal is away.
    pub spill_events: Gauge,
    /// Bytes that they take.
    pub spill_bytes: Gauge,
    /// Events that were put there.
    pub spilled: Counter,
    /// Bytes that may still be written to the file system of `data_dir`.
    pub data_dir_free: Gauge,
    /// Bytes that it holds in all.
    pub data_dir_size: Gauge,
    /// Events that the slowest route has not passed.
    pub queue_depth: Gauge,
    /// Bytes of memory taken by requests under way.
    pub memory: Gauge,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Connections closed because their TLS handshake failed.
    pub handshakes_failed: Counter,
    /// Faults of ours, such as a batch that was not settled.
    pub internal_errors: Counter,
}

impl Metrics {
    /// Makes the recorder of this process and all handles.
    ///
    /// # Panics
    /// If a bucket list is empty: never, they are constants.
    #[must_use]
    pub fn install() -> Self {
        let suffix = |end: &str| Matcher::Suffix(end.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(suffix("seconds"), LATENCIES)
            .and_then(|builder| builder.set_buckets_for_metric(suffix("batch_events"), GROUP_SIZES))
            .expect("the bucket lists are not empty")
            .build_recorder();
        let handle = recorder.handle();
        // A second service in one process (a test) shares the first one's recorder.
        drop(metrics::set_global_recorder(recorder));
        describe();
        Self {
            handle,
            endpoints: ENDPOINTS.map(EndpointMetrics::new),
            requests: counter!("ingestion_requests_total"),
            request_errors: counter!("ingestion_requests_errors_total"),
            dropped: counter!("ingestion_dropped_total"),
            latency: histogram!("ingestion_processing_latency_seconds"),
            bytes: counter!("ingestion_bytes_total"),
            append: histogram!("journal_append_seconds"),
            fsync: histogram!("journal_fsync_seconds"),
            group_events: histogram!("journal_batch_events"),
            journal_bytes: gauge!("journal_bytes"),
            spill_events: gauge!("journal_spill_events"),
            spill_bytes: gauge!("journal_spill_bytes"),
            spilled: counter!("journal_spilled_events_total"),
            data_dir_free: gauge!("data_dir_free_bytes"),
            data_dir_size: gauge!("data_dir_size_bytes"),
            queue_depth: gauge!("ingestion_queue_depth"),
            memory: gauge!("ingestion_memory_bytes"),
            connections: gauge!("ingestion_connections"),
            connections_refused: counter!("ingestion_connections_refused_total"),
            handshakes_failed: counter!("ingestion_tls_handshakes_failed_total"),
            internal_errors: counter!("telemetryx_internal_errors_total"),
        }
    }

    /// The handles of an endpoint.
    #[must_use]
    pub fn endpoint(&self, endpoint: Endpoint) -> &EndpointMetrics {
        &self.endpoints[endpoint as usize]
    }

    /// Everything, in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Looks how much room there is on the file system of `data_dir`. May wait for the disk.
    pub fn measure_disk(&self, data_dir: &Path) {
        if let Ok(disk) = rustix::fs::statvfs(data_dir) {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize) as f64;
            self.data_dir_free.set(bytes(disk.f_bavail));
            self.data_dir_size.set(bytes(disk.f_blocks));
        }
    }

    /// Drains what histograms have collected; called every few seconds, so that they stay small unscraped.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// The handles of one route.
pub struct RouteMetrics {
    /// Events behind the end of the journal.
    pub lag_events: Gauge,
    /// How long ago the next event was accepted.
    pub lag_seconds: Gauge,
    /// Events delivered.
    pub delivered: Counter,
    /// What the books are off by; 0, always.
    pub ledger_difference: Gauge,
    /// Attempts beyond the first.
    pub retries: Counter,
    /// 1 while the breaker is open.
    pub breaker_open: Gauge,
    /// Events that went through all processors and the sink.
    pub processed: Counter,
    route: String,
}

impl RouteMetrics {
    /// The handles of `route`, a name from the config.
    #[must_use]
    pub fn new(route: &str) -> Self {
        let route = route.to_owned();
        Self {
            lag_events: gauge!("route_lag_events", "route" => route.clone()),
            lag_seconds: gauge!("route_lag_seconds", "route" => route.clone()),
            delivered: counter!("route_delivered_events_total", "route" => route.clone()),
            ledger_difference: gauge!("ledger_difference", "route" => route.clone()),
            retries: counter!("route_retries_total", "route" => route.clone()),
            breaker_open: gauge!("route_breaker_open", "route" => route.clone()),
            processed: counter!("telemetron_events_processed_total"),
            route,
        }
    }

    /// Counts dead letters of this route.
    pub fn dead_letters(&self, stage: &'static str, code: &str, count: u64) {
        dead_letters(&self.route, stage, code, count);
    }

    /// The handles of one processor of this route.
    #[must_use]
    pub fn plugin(&self, plugin: &str) -> PluginMetrics {
        let duration = |status: &'static str| {
            histogram!(
                "telemetron_processor_plugin_duration_seconds",
                "plugin" => plugin.to_owned(), "status" => status
            )
        };
        PluginMetrics {
            errors: counter!("telemetron_processor_plugin_errors_total", "plugin" => plugin.to_owned()),
            ok: duration("ok"),
            error: duration("error"),
        }
    }
}

/// What a route has before it in one partition of Kafka.
pub struct KafkaLag(Gauge);

impl KafkaLag {
    /// The handle of a partition and `route`, a name from the config.
    #[must_use]
    pub fn new(route: &str, partition: u32) -> Self {
        Self(
            gauge!("kafka_consumer_lag", "route" => route.to_owned(), "partition" => partition.to_string()),
        )
    }

    /// It is so many events.
    pub fn set(&self, events: u64) {
        self.0.set(events as f64);
    }
}

/// Counts dead letters; `route` is empty for those of stage `validation`. Codes are words of ours, not of clients.
pub fn dead_letters(route: &str, stage: &'static str, code: &str, count: u64) {
    counter!("dead_letters_total", "route" => route.to_owned(), "stage" => stage, "code" => code.to_owned())
        .increment(count);
}

/// Counts records that the receiver of `route`'s sink rejected without saying which.
pub fn rejected_unnamed(route: &str) -> Counter {
    counter!("otlp_rejected_records_total", "route" => route.to_owned())
}

/// The handle of one webhook: deliveries without a right signature. The name is the config's.
pub(super) fn webhook_signature_failures(webhook: &str, fault: &'static str) -> Counter {
    counter!("webhook_signature_failures_total", "webhook" => webhook.to_owned(), "fault" => fault)
}

/// The handles of one processor.
#[derive(Clone)]
pub struct PluginMetrics {
    /// Errors that retrying will not mend.
    pub errors: Counter,
    ok: Histogram,
    error: Histogram,
}

impl PluginMetrics {
    /// One batch took this long.
    pub fn took(&self, ok: bool, duration: Duration) {
        if ok { &self.ok } else { &self.error }.record(duration.as_secs_f64());
    }
}

fn describe() {
    let count = |name: &'static str, help: &'static str| describe_counter!(name, help);
    let seconds =
        |name: &'static str, help: &'static str| describe_histogram!(name, Unit::Seconds, help);
    let value = |name: &'static str, help: &'static str| describe_gauge!(name, help);
    count(
        "ingestion_requests_total",
        "Requests to ingest events, by any protocol.",
    );
    count(
        "ingestion_requests_errors_total",
        "Requests to ingest events that were answered with an error.",
    );
    count(
        "ingestion_dropped_total",
        "Events answered 202 and dropped by the overflow policy (drop, sample).",
    );
    count(
        "ingestion_events_total",
        "Events by protocol and outcome (accepted, refused).",
    );
    count(
        "ingestion_bytes_total",
        "Bytes of request bodies, unpacked.",
    );
    count(
        "telemetron_http_requests_total",
        "HTTP requests by endpoint.",
    );
    count(
        "telemetron_processor_plugin_errors_total",
        "Errors of processor plug-ins that retrying does not mend.",
    );
    count(
        "telemetron_events_processed_total",
        "Events that passed all processors of a route and were delivered.",
    );
    count(
        "route_delivered_events_total",
        "Events delivered, by route.",
    );
    count(
        "route_retries_total",
        "Attempts to deliver beyond the first, by route.",
    );
    count(
        "dead_letters_total",
        "Events that became dead letters, by route, stage and code.",
    );
    count(
        "otlp_rejected_records_total",
        "Records that the receiver of a route's OTLP sink rejected without saying which; they count as delivered.",
    );
    count(
        "telemetryx_internal_errors_total",
        "Faults of the service itself, such as a panic; please report them.",
    );
    count(
        "webhook_signature_failures_total",
        "Deliveries without a right signature, by webhook and fault; nothing of them is kept.",
    );
    count(
        "journal_spilled_events_total",
        "Events accepted onto this machine's disk because Kafka was away; they go to Kafka when it is back.",
    );
    count(
        "ingestion_connections_refused_total",
        "Connections closed at once: http.max_connections were open.",
    );
    count(
        "ingestion_tls_handshakes_failed_total",
        "Connections closed because their TLS handshake failed, or was not there in time.",
    );
    seconds(
        "ingestion_processing_latency_seconds",
        "From the end of a request's head to its answer.",
    );
    seconds(
        "telemetron_http_requests_duration_seconds",
        "HTTP requests by endpoint and status.",
    );
    seconds(
        "telemetron_processor_plugin_duration_seconds",
        "Time a processor plug-in took for one batch.",
    );
    seconds(
        "journal_append_seconds",
        "From handing a batch to the journal until it was durable.",
    );
    seconds(
        "journal_fsync_seconds",
        "One sync of the journal; all who wait share it.",
    );
    describe_histogram!("journal_batch_events", "Events that one sync made durable.");
    value("journal_bytes", "Bytes that the journal takes on disk.");
    value(
        "journal_spill_events",
        "Accepted events that wait on this machine's disk for Kafka to be back.",
    );
    value(
        "journal_spill_bytes",
        "Bytes that the events take which wait on this machine's disk for Kafka to be back.",
    );
    value(
        "data_dir_free_bytes",
        "Bytes that may still be written to the file system of data_dir.",
    );
    value(
        "data_dir_size_bytes",
        "Bytes that the file system of data_dir holds in all.",
    );
    value(
        "ingestion_queue_depth",
        "Events that the slowest route has not passed.",
    );
    value(
        "ingestion_memory_bytes",
        "Bytes of the memory budget taken by requests under way.",
    );
    value("ingestion_connections", "Connections open now.");
    value(
        "route_lag_events",
        "Events between a route and the end of the journal.",
    );
    value(
        "route_lag_seconds",
        "How long ago the next event of a route was accepted; 0 if there is none.",
    );
    value(
        "kafka_consumer_lag",
        "Events of a partition that a route has not passed, by route and partition; every process tells it of all.",
    );
    value(
        "route_breaker_open",
        "1 while the circuit breaker of a route is open, else 0.",
    );
    value(
        "ledger_difference",
        "Accepted minus delivered, filtered, dead, pending and expired events; 0, always.",
    );
}

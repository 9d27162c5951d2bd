//! What is shown of a load: the line of progress, and the figures at the end.

use std::io::IsTerminal;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::engine::Load;
use super::stats_lag::StatsLag;
use super::tally::Tally;

/// How often a line of progress is written where it cannot be rewritten in place.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The line that tells how it goes.
pub(super) struct Progress {
    started: Instant,
    shown: Instant,
    in_place: bool,
}

impl Progress {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            shown: started,
            in_place: std::io::stderr().is_terminal(),
        }
    }

    pub(super) fn show(&mut self, load: &Load) {
        let now = Instant::now();
        // Nothing counts while it warms up.
        let least = if self.in_place {
            Duration::ZERO
        } else {
            LINE_EVERY - Duration::from_millis(100)
        };
        if now.saturating_duration_since(self.shown) <= least {
            return;
        }
        let mut tally = load.tally();
        let (accepted, p99) = tally.take_interval();
        let rate = accepted as f64 / (now - self.shown).as_secs_f64();
        self.shown = now;
        let line = format!(
            "{:>4} s  {:>12} events/s  p99 {:>10}  {} accepted, {} errors, {} connections",
            now.saturating_duration_since(self.started).as_secs(),
            thousands(rate as u64),
            millis(p99.as_micros() as u64),
            thousands(tally.accepted),
            tally.errors_count(),
            load.connections_open()
        );
        if self.in_place {
            eprint!("\r\x1b[K{line}")
        } else {
            eprintln!("{line}")
        }
    }

    pub(super) fn end(&self) {
        if self.in_place {
            eprint!("\r\x1b[K");
        }
    }
}

/// The figures at the end.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// From the first counted moment to the last answer.
    pub(super) elapsed: Duration,
    pub(super) cpu: Option<Duration>,
    pub(super) wall: Duration,
    pub(super) stats_lag: Option<StatsLag>,
}

impl Outcome {
    fn per_second(&self, count: u64) -> f64 {
        if self.elapsed.is_zero() {
            0.0
        } else {
            count as f64 / self.elapsed.as_secs_f64()
        }
    }

    /// The share of one core that the generator took.
    fn cpu_share(&self) -> Option<f64> {
        self.cpu
            .map(|cpu| cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9))
    }

    pub(super) fn print(&self, json: bool) {
        if json {
            println!("{}", self.to_json());
            return;
        }
        let tally = &self.tally;
        for (status, count) in tally.statuses() {
            println!("status {status}    {:>14}", thousands(*count));
        }
        for (error, count) in tally.errors() {
            println!("error         {:>14}  {error}", thousands(*count));
        }
        println!(
            "events/s      {:>14}",
            thousands(self.per_second(tally.accepted) as u64)
        );
        println!(
            "requests/s    {:>14}",
            thousands(self.per_second(tally.requests()) as u64)
        );
        println!("latency        {}", quantiles(&tally.latency));
        if let Some(lag) = &self.stats_lag {
            println!(
                "202 to /stats  {} ({} probes)",
                quantiles(&lag.micros),
                lag.micros.len()
            );
            if let Some(failure) = &lag.failure {
                println!("               a prober gave up: {failure}");
            }
        }
        if let Some(share) = self.cpu_share() {
            println!("generator CPU {:>13.0}%  of one core", share * 100.0);
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let tally = &self.tally;
        let statuses: serde_json::Map<_, _> = tally
            .statuses()
            .iter()
            .map(|(status, count)| (status.to_string(), (*count).into()))
            .collect();
        let mut report = serde_json::json!({
            "statuses": statuses,
            "errors": tally.errors(),
            "sent": tally.sent,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "shed": tally.shed,
            "refused": tally.refused,
            "requests": tally.requests(),
            "seconds": self.elapsed.as_secs_f64(),
            "events_per_second": self.per_second(tally.accepted),
            "requests_per_second": self.per_second(tally.requests()),
            "latency_ms": quantiles_json(&tally.latency),
            "generator_cpu": self.cpu_share(),
        });
        if let (Some(lag), Some(object)) = (&self.stats_lag, report.as_object_mut()) {
            object.insert("stats_lag_ms".to_owned(), quantiles_json(&lag.micros));
            object.insert("stats_lag_failure".to_owned(), lag.failure.clone().into());
        }
        report
    }
}

fn quantiles(micros: &Histogram<u64>) -> String {
    let at = |quantile| millis(micros.value_at_quantile(quantile));
    format!(
        "p50 {}   p95 {}   p99 {}   max {}",
        at(0.50),
        at(0.95),
        at(0.99),
        millis(micros.max())
    )
}

fn quantiles_json(micros: &Histogram<u64>) -> serde_json::Value {
    let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
    serde_json::json!({
        "p50": at(0.50), "p95": at(0.95), "p99": at(0.99), "max": micros.max() as f64 / 1000.0,
        "mean": micros.mean() / 1000.0, "count": micros.len(),
    })
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// CPU time of this process, from `/proc` (so: Linux only).
pub(super) fn process_cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which is in parentheses: state is field 3, user and system time are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let ticks = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_for_reading() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn own_cpu_time_is_known() {
        assert!(process_cpu_time().is_some());
    }
}

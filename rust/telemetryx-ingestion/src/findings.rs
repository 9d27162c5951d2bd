//! What sinks hand back, accepted through the intake path: the same rules, dead letters and counts as for clients, as a
//! protocol of its own.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use telemetryx_common::{Event, wire};

use crate::intake::{Format, Intake, MEMORY_SPENT, Refusal, Submission};
use crate::observe::ProtocolMetrics;
use crate::sinks::Emit;

/// Bytes appended together; one event may be larger.
const BYTES_AT_ONCE: usize = 1 << 20;
/// Its name in metrics, and as the request of a dead letter.
const NAME: &str = "brain";

static METRICS: LazyLock<ProtocolMetrics> = LazyLock::new(|| ProtocolMetrics::new(NAME));

/// Takes them in.
pub struct Findings(pub Arc<Intake>);

#[async_trait]
impl Emit for Findings {
    async fn emit(&self, events: &[Event<'_>]) -> Result<(), String> {
        let limits = &self.0.limits;
        let (mut body, mut count, mut one) = (Vec::new(), 0, Vec::new());
        for event in events {
            one.clear();
            wire::encode_event(event, &event.id, &mut one);
            if one.len() > limits.max_event_bytes {
                METRICS.refused.increment(1);
                let error = format!("{} bytes are over `http.max_event`", one.len());
                self.0.findings_refused(1, &error);
                self.0.books.refused.add(1);
                continue;
            }
            if count == limits.max_events || (count > 0 && body.len() + one.len() > BYTES_AT_ONCE) {
                self.append(std::mem::take(&mut body)).await?;
                count = 0;
            }
            body.extend_from_slice(&one);
            count += 1;
        }
        if count > 0 {
            self.append(body).await?;
        }
        Ok(())
    }
}

impl Findings {
    async fn append(&self, body: Vec<u8>) -> Result<(), String> {
        let intake = &self.0;
        let permit = intake.memory.take(body.len());
        let submission = Submission {
            protocol: &METRICS,
            decoder: &Format::Protobuf,
            request_id: NAME,
            idempotency_key: None,
            permit: permit.ok_or_else(|| MEMORY_SPENT.to_string())?,
            body: body.into(),
        };
        // What is invalid is a dead letter then, and would be invalid again.
        let rejected = match intake.accept_findings(submission).await {
            Ok(accepted) => accepted.rejected,
            Err(Refusal::AllInvalid(rejected)) => rejected,
            Err(refusal) => return Err(refusal.to_string()),
        };
        if let Some(first) = rejected.errors.first() {
            intake.findings_refused(rejected.count, &first.message);
        }
        Ok(())
    }
}

//! What sinks hand back, accepted through the intake path: the same rules, dead letters and counts as for clients, as a
//! protocol of its own.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use telemetryx_common::{
    DecodeError, DecodeLimits, ErrorCode, Event, EventError, decode_protobuf, wire,
};

use crate::intake::{Decode, Intake, MEMORY_SPENT, Raw, Refusal, Submission, Visit};
use crate::observe::ProtocolMetrics;
use crate::sinks::{Emit, EmitError};

/// The most bytes of events that are handed back together.
const BYTES_MAX: usize = 32 << 20;
/// Its name in metrics, and as the request of a dead letter.
const NAME: &str = "brain";

static METRICS: LazyLock<ProtocolMetrics> = LazyLock::new(|| ProtocolMetrics::new(NAME));

/// Takes them in.
pub struct Findings(pub Arc<Intake>);

#[async_trait]
impl Emit for Findings {
    async fn emit(&self, events: &[Event<'_>]) -> Result<(), EmitError> {
        let intake = &self.0;
        let mut body = Vec::new();
        for event in events {
            wire::encode_event(event, &event.id, &mut body);
            if body.len() > BYTES_MAX {
                return Err(EmitError::TooMuch(format!(
                    "what it found takes more than {BYTES_MAX} bytes as events"
                )));
            }
        }
        let permit = intake.memory.take(0);
        let mut permit = permit.ok_or_else(|| error_of(MEMORY_SPENT))?;
        let taken = permit.grow(body.len());
        taken.map_err(|shortage| error_of(shortage.into()))?;
        // Together: half of them durable would be counted twice when all come again.
        let submission = Submission {
            protocol: &METRICS,
            decoder: &Stored,
            request_id: NAME,
            idempotency_key: None,
            permit,
            body: body.into(),
        };
        // What is invalid is a dead letter then, and would be invalid again.
        let rejected = match intake.accept_findings(submission).await {
            Ok(accepted) => accepted.rejected,
            Err(Refusal::AllInvalid(rejected)) => rejected,
            Err(refusal) => return Err(error_of(refusal)),
        };
        if let Some(first) = rejected.errors.first() {
            intake.findings_refused(rejected.count, &first.message);
        }
        Ok(())
    }
}

fn error_of(refusal: Refusal) -> EmitError {
    match refusal {
        Refusal::TooLarge { .. } => EmitError::TooMuch(refusal.to_string()),
        _ => EmitError::Later(refusal.to_string()),
    }
}

/// Events in the journal's own form, of which one may be too large without harm to the others; how many there are has no limit.
struct Stored;

impl Decode for Stored {
    fn decode(
        &self,
        body: &[u8],
        limits: &DecodeLimits,
        visit: &mut Visit<'_>,
    ) -> Result<(), DecodeError> {
        let limit = limits.max_event_bytes;
        let unlimited = DecodeLimits {
            max_event_bytes: usize::MAX,
            max_events: usize::MAX,
        };
        let mut index = 0;
        decode_protobuf(body, &unlimited, |raw, event| {
            let event = if raw.len() > limit {
                let message = format!("its {} bytes are over {limit} (http.max_event)", raw.len());
                Err(EventError::new("", ErrorCode::EventTooLarge, message).at(index))
            } else {
                event
            };
            index += 1;
            visit(Raw::Protobuf(raw), event);
        })
    }
}

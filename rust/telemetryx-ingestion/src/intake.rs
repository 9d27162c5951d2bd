//! The one path that every protocol takes: admit → decode → validate → append.
//!
//! Left of `append` nothing is kept; when it has resolved, the events are durable and [`Accepted`] may be answered.
//! A protocol in `ingress` reads bytes and speaks to its client; whatever it speaks, what it received goes through
//! [`Intake::admit`] before the body is read, and through [`Intake::accept`] after. How a body becomes events is the
//! protocol's own [`Decode`].

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use telemetryx_common::ids::EventIds;
use telemetryx_common::{
    DecodeError, DecodeLimits, ErrorCode, Event, EventError, Timestamp, ValidationRules, wire,
};
use tracing::field::display;

use crate::admission::{
    Identity, KeyRing, MemoryBudget, MemoryPermit, OverflowGate, RateLimiter, Verdict,
};
use crate::clock;
use crate::config::OnInvalid;
use crate::control::{Control, ControlError, Stage};
use crate::journal::{AppendError, Durability, EncodedBatch, Journal, Position};
use crate::observe::{DoorBooks, Metrics, OverloadLog, ProtocolMetrics, dead_letters};
use crate::validators::EventValidator;

mod decode;
mod refusal;
mod refused;

pub use decode::{Decode, Format, Raw, Visit};
pub use refusal::{ERRORS_MAX, MEMORY_SPENT, Refusal, Rejections};
use refused::Refused;

/// Who asks to come in.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'c> {
    /// The address it comes from.
    pub peer: IpAddr,
    /// What it shows.
    pub credentials: Credentials<'c>,
}

/// What a caller shows of itself.
#[derive(Debug, Clone, Copy)]
pub enum Credentials<'c> {
    /// An API key, or none; keys are asked for if the config has any.
    Key(Option<&'c str>),
    /// The protocol knows it by other means, such as a signature over the body: no key is asked for.
    Own,
}

/// A request that may come in.
#[derive(Debug)]
pub struct Admission {
    identity: Option<Arc<Identity>>,
    shed: bool,
    /// An operator sends it again: it is in the books and in the dead letters.
    is_again: bool,
}

/// The events of one request, as bytes.
pub struct Submission<'r> {
    /// Counts of the protocol it came by.
    pub protocol: &'r ProtocolMetrics,
    /// The body, unpacked.
    pub body: Bytes,
    /// How it is written.
    pub decoder: &'r dyn Decode,
    /// The request's id, for dead letters and logs.
    pub request_id: &'r str,
    /// From this the ids of events without one are derived, so that a retry of the same body is harmless.
    pub idempotency_key: Option<&'r str>,
    /// The memory that `body` takes; grown here by what encoding takes.
    pub permit: MemoryPermit,
}

/// What a client may be told: the events are durable.
#[derive(Debug)]
pub struct Accepted {
    /// How many are.
    pub events: u32,
    /// Where; `None` if the overflow policy dropped them.
    pub position: Option<Position>,
    /// What durable means with this journal.
    pub durability: &'static str,
    /// The events that were refused; the others are not affected.
    pub rejected: Rejections,
}

/// What the path needs; made once by `service`.
pub struct Intake {
    /// Where events become durable.
    pub journal: Arc<dyn Journal>,
    /// Producers' keys.
    pub keys: KeyRing,
    /// How often each may come.
    pub rate_limiter: Option<RateLimiter>,
    /// What happens when the backlog is full.
    pub overflow: OverflowGate,
    /// Memory for all requests under way.
    pub memory: MemoryBudget,
    /// Sizes of events and batches.
    pub limits: DecodeLimits,
    /// The rules that need a clock or the config.
    pub rules: ValidationRules,
    /// Plug-ins, in the order of the config.
    pub validators: Vec<Box<dyn EventValidator>>,
    /// Whether refused events are kept.
    pub on_invalid: OnInvalid,
    /// Where they are kept.
    pub control: Control,
    /// What was turned away, for `/ledger`.
    pub books: Arc<DoorBooks>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Log events of overload, counted.
    pub overload: OverloadLog,
}

impl Intake {
    /// May a request come in? Asked before its body is read.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`], [`Refusal::RateLimited`] or [`Refusal::Overloaded`].
    pub fn admit(&self, caller: Caller<'_>) -> Result<Admission, Refusal> {
        let Caller { peer, credentials } = caller;
        let identity = match credentials {
            Credentials::Key(key) => self.keys.identify(key)?,
            Credentials::Own => None,
        };
        if let Some(limiter) = &self.rate_limiter {
            limiter.take(peer, identity.as_deref()).map_err(|spent| {
                self.books.rate_limited.add(1);
                self.overload.rate_limited(peer);
                Refusal::RateLimited(spent.retry_after)
            })?;
        }
        match self.overflow.decide() {
            Verdict::Accept => Ok(Admission {
                identity,
                shed: false,
                is_again: false,
            }),
            Verdict::Shed => Ok(Admission {
                identity,
                shed: true,
                is_again: false,
            }),
            Verdict::Reject => {
                self.books.overloaded.add(1);
                self.overload.queue_saturated();
                Err(Refusal::Overloaded {
                    code: "backlog_full",
                    message: "the backlog is full; try again later",
                })
            }
        }
    }

    /// Takes in a refused event that an operator sends again; if it is refused again it stays the dead letter it is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn accept_again(&self, submission: Submission<'_>) -> Result<Accepted, Refusal> {
        let admission = Admission {
            identity: None,
            shed: false,
            is_again: true,
        };
        self.accept(admission, submission).await
    }

    /// Takes in the events of an admitted request; they are durable when this resolves.
    ///
    /// # Errors
    /// [`Refusal`]: nothing of the request was kept, but for dead letters.
    pub async fn accept(
        &self,
        admission: Admission,
        submission: Submission<'_>,
    ) -> Result<Accepted, Refusal> {
        let started = Instant::now();
        let Submission {
            protocol,
            body,
            decoder,
            request_id,
            idempotency_key,
            mut permit,
        } = submission;
        // What is encoded is rarely larger than what was sent; where it is, the queue's own bound holds.
        if !permit.grow(body.len()) {
            self.memory_spent();
            return Err(MEMORY_SPENT);
        }
        let span = tracing::Span::current();
        let ids = idempotency_key.map_or_else(
            || EventIds::fresh(clock::now()),
            |key| EventIds::from_idempotency_key(key, &body),
        );
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            self.decode(&body, decoder, &admission, ids, &mut permit)
        }))
        .map_err(|_| {
            self.metrics.internal_errors.increment(1);
            tracing::error!(request_id, "a validator or a decoder panicked");
            Refusal::Internal
        })?;
        let Decoded {
            encoded,
            events,
            earliest,
            latest,
            refused,
            foreign,
            memory_spent,
        } = decoded?;
        if memory_spent {
            self.memory_spent();
            return Err(MEMORY_SPENT);
        }
        let decoded_at = Instant::now();
        span.record("decode_time", display(seconds(decoded_at - started)));

        protocol.refused.increment(refused.errors.len() as u64);
        let rejected = self.refuse(refused, &admission, request_id).await;
        if events == 0 {
            return Err(match rejected.count {
                0 => Refusal::BadRequest {
                    code: "empty_batch",
                    message: "there is no event in the body".into(),
                },
                all if all == foreign => {
                    Refusal::Forbidden("this API key may not send for this source")
                }
                _ => Refusal::AllInvalid(rejected),
            });
        }
        if admission.shed {
            self.books.shed.add(events.into());
            self.metrics.dropped.increment(events.into());
            self.overload.load_shedding();
            protocol.accepted.increment(events.into());
            return Ok(Accepted {
                events,
                position: None,
                durability: "shed",
                rejected,
            });
        }
        let batch = EncodedBatch {
            body: encoded.into(),
            events,
            earliest,
            latest,
        };
        let position = self
            .journal
            .append(batch)
            .await
            .map_err(|error| self.append_failed(error))?;
        drop(permit);
        protocol.accepted.increment(events.into());
        span.record("enqueue_time", display(seconds(decoded_at.elapsed())));
        Ok(Accepted {
            events,
            position: Some(position),
            durability: self.durability().as_str(),
            rejected,
        })
    }

    /// Books a request for which there was no memory.
    pub fn memory_spent(&self) {
        self.books.overloaded.add(1);
        self.overload.buffer_full();
    }

    /// What a 202 promises.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.journal.durability()
    }

    /// Decodes, validates and encodes in one pass: each event is in the cache when its turn comes.
    fn decode(
        &self,
        body: &[u8],
        decoder: &dyn Decode,
        admission: &Admission,
        ids: EventIds,
        permit: &mut MemoryPermit,
    ) -> Result<Decoded, DecodeError> {
        let now = clock::now();
        let identity = admission.identity.as_deref();
        let mut decoded = Decoded {
            encoded: Vec::with_capacity(body.len() + 64),
            events: 0,
            earliest: Timestamp::from_unix_nanos(i64::MAX),
            latest: Timestamp::from_unix_nanos(i64::MIN),
            refused: self.refused(admission),
            foreign: 0,
            memory_spent: false,
        };
        let mut index = 0;
        decoder.decode(body, &self.limits, &mut |raw, event| {
            let place = index;
            index += 1;
            let (error, event) = match event {
                Ok(mut event) => {
                    event.received_at = now;
                    match self.validate(&event, place, now, identity) {
                        Ok(()) => return decoded.take(&event, place, &ids),
                        Err(error) => (error, Some(event)),
                    }
                }
                Err(error) => (error, None),
            };
            let foreign = event
                .as_ref()
                .is_some_and(|event| is_foreign(event, identity));
            decoded.foreign += usize::from(foreign);
            // A few bytes of body can be many refused events: what is kept of each counts.
            if permit.grow(Refused::bytes_of(&error)) {
                decoded.refused.push(error, raw, event.as_ref());
            } else {
                decoded.memory_spent = true;
            }
        })?;
        Ok(decoded)
    }

    /// Where the refused events of a request go.
    fn refused(&self, admission: &Admission) -> Refused {
        let keeps = self.on_invalid == OnInvalid::Keep && !admission.is_again;
        Refused::new(keeps.then(|| self.memory.take(0)).flatten())
    }

    fn validate(
        &self,
        event: &Event<'_>,
        index: u32,
        now: Timestamp,
        identity: Option<&Identity>,
    ) -> Result<(), EventError> {
        self.rules
            .check(event, now)
            .map_err(|error| error.at(index))?;
        if is_foreign(event, identity)
            && let Some(source) = identity.and_then(|identity| identity.source.as_deref())
        {
            return Err(EventError {
                index,
                field: "source".into(),
                code: ErrorCode::NotAllowed,
                message: format!("this API key may send for the source `{source}` only"),
            });
        }
        self.validators
            .iter()
            .try_for_each(|validator| validator.validate(event).map_err(|error| error.at(index)))
    }

    /// Books refused events and keeps them as dead letters.
    async fn refuse(
        &self,
        refused: Refused,
        admission: &Admission,
        request_id: &str,
    ) -> Rejections {
        if !admission.is_again {
            self.books.refused.add(refused.errors.len() as u64);
        }
        let Refused { errors, letters } = refused;
        let letters = letters.map(|letters| letters.of_request(request_id));
        let kept = match letters {
            Some(Ok((letters, permit))) if !letters.is_empty() => {
                self.control.keep(letters, Some(permit)).await
            }
            Some(Err(_)) => Err(ControlError::Busy),
            Some(Ok(_)) | None => return Rejections::of(errors),
        };
        match kept {
            Err(error) => self.overload.letters_lost(&error),
            Ok(()) => {
                for error in &errors {
                    dead_letters("", Stage::Validation.as_str(), error.code.as_str(), 1);
                }
            }
        }
        Rejections::of(errors)
    }

    fn append_failed(&self, error: AppendError) -> Refusal {
        match error {
            AppendError::Full => {
                self.books.overloaded.add(1);
                self.overload.queue_saturated();
                Refusal::Overloaded {
                    code: "queue_full",
                    message: "the journal's queue is full; try again",
                }
            }
            AppendError::TooLarge { .. } => Refusal::TooLarge {
                what: "the encoded batch",
                limit: "one journal record".into(),
            },
            AppendError::NoSpace | AppendError::Unwritable(_) | AppendError::Closed => {
                Refusal::Unavailable(error.to_string())
            }
        }
    }
}

/// True if the key may not send for the event's source.
fn is_foreign(event: &Event<'_>, identity: Option<&Identity>) -> bool {
    let source = identity.and_then(|identity| identity.source.as_deref());
    source.is_some_and(|source| event.source.as_text() != source)
}

struct Decoded {
    encoded: Vec<u8>,
    events: u32,
    earliest: Timestamp,
    latest: Timestamp,
    refused: Refused,
    /// How many of them are of a source that the key may not send for.
    foreign: usize,
    memory_spent: bool,
}

impl Decoded {
    fn take(&mut self, event: &Event<'_>, index: u32, ids: &EventIds) {
        let mut buffer = [0; 36];
        let id = if event.id.is_empty() {
            ids.id_for(index, &mut buffer)
        } else {
            &event.id
        };
        wire::encode_event(event, id, &mut self.encoded);
        self.earliest = self.earliest.min(event.ts);
        self.latest = self.latest.max(event.ts);
        self.events += 1;
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

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
    DecodeError, DecodeLimits, ErrorCode, Event, EventError, FieldSet, Timestamp, ValidationRules,
};
use tracing::field::display;

use crate::admission::{
    Allowance, Identity, KeyRing, MemoryBudget, MemoryPermit, OverflowGate, RateLimiter, Shortage,
    Spent, Verdict,
};
use crate::clock;
use crate::config::OnInvalid;
use crate::control::{Control, ControlError, Stage};
use crate::journal::{AppendError, EncodedBatch, Journal, Position};
use crate::observe::{
    DoorBooks, Metrics, OverloadLog, ProtocolMetrics, ShedTally, SignatureFault, WebhookCounts,
    dead_letters,
};
use crate::validators::EventValidator;

mod decode;
mod decoded;
mod refusal;
mod refused;
mod share;

pub use decode::{Decode, Format, Raw, Visit};
use decoded::{Decoded, OverLimit};
pub use refusal::{ERRORS_MAX, MEMORY_SPENT, Refusal, Rejections};
use refused::Refused;
use share::Share;

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
    /// The protocol knows it by other means, such as a signature over the body: no key is asked for. Until it does, the
    /// caller is a stranger, limited by its address; after that [`Intake::take_shared`] is its affair.
    Own,
}

/// A request that may come in.
#[derive(Debug)]
pub struct Admission {
    identity: Option<Arc<Identity>>,
    /// What the client may still send, if a limiter is on that counts requests.
    pub allowance: Option<Allowance>,
    share: Share,
    by: By,
}

/// Who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A client.
    Client,
    /// An operator, again: it is in the books and in the dead letters.
    Operator,
    /// A sink, which hands back what its destination found.
    Sink,
}

impl Admission {
    /// Of one that needs none.
    fn of(by: By) -> Self {
        Self {
            identity: None,
            allowance: None,
            share: Share::All,
            by,
        }
    }
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
    /// How many are, with those that the overflow policy dropped.
    pub events: u32,
    /// How many the overflow policy dropped.
    pub shed: u32,
    /// Where the others are; `None` if it dropped all.
    pub position: Option<Position>,
    /// What durable means for them.
    pub durability: &'static str,
    /// The identity that their receipt carries a trace of.
    pub identity: u128,
    /// The events that were refused; the others are not affected.
    pub rejected: Rejections,
    /// What the client may still send, if a limiter is on.
    pub allowance: Option<Allowance>,
}

/// Bytes of large answers that may lie unread at a time; those beyond do without their errors.
pub const ANSWERS_BYTES_MAX: usize = 16 << 20;

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
    /// Memory for the answers to them that lie unread: apart, so that those who read none stop nobody's requests.
    pub answers: MemoryBudget,
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
    /// Wrong signatures, by webhook.
    pub webhooks: WebhookCounts,
}

impl Intake {
    /// May a request come in? Asked before its body is read.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`], [`Refusal::RateLimited`] or [`Refusal::Overloaded`].
    pub fn admit(&self, caller: Caller<'_>) -> Result<Admission, Refusal> {
        self.admit_telling(caller, |_| {})
    }

    /// As [`Intake::admit`]; `tell` hears what the client may still send, also if there is no room for what it sends now.
    ///
    /// # Errors
    /// As [`Intake::admit`].
    pub fn admit_telling(
        &self,
        caller: Caller<'_>,
        tell: impl Fn(Allowance),
    ) -> Result<Admission, Refusal> {
        let Caller { peer, credentials } = caller;
        let of_address = self.take_of_address(peer)?;
        of_address.map(&tell);
        let (identity, taken) = match credentials {
            Credentials::Key(key) => {
                let identity = self.identify(key, peer)?;
                let taken = self.take_token(peer, identity.as_deref());
                (identity, taken)
            }
            Credentials::Own => (None, self.limiter(|limiter| limiter.take_unknown(peer))),
        };
        let allowance = taken.map_err(|spent| self.rate_limited(peer, spent))?;
        allowance.map(tell);
        let allowance = of_address.map_or(allowance, |left| Some(left.tighter(allowance)));
        let share = match self.overflow.decide() {
            Verdict::Accept => Share::All,
            Verdict::Shed => Share::None,
            Verdict::Sample => Share::Sample,
            Verdict::Reject => {
                self.books.overloaded.add(1);
                self.overload.queue_saturated();
                return Err(Refusal::Overloaded {
                    code: "backlog_full",
                    message: "the backlog is full; try again later",
                });
            }
        };
        Ok(Admission {
            identity,
            allowance,
            share,
            by: By::Client,
        })
    }

    /// Whose key this is; `None` if the service is open.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] without a key, or with one that is not known; logged.
    pub fn identify(
        &self,
        key: Option<&str>,
        peer: IpAddr,
    ) -> Result<Option<Arc<Identity>>, Refusal> {
        let identified = self.keys.identify(key);
        identified.inspect_err(|_| self.overload.key_refused(peer))
    }

    /// Takes a token of this address, if addresses have them: before a key is looked at, so that nobody guesses faster.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`].
    pub fn take_of_address(&self, peer: IpAddr) -> Result<Option<Allowance>, Refusal> {
        self.limiter(|limiter| limiter.take_of_address(peer))
            .map_err(|spent| self.rate_limited(peer, spent))
    }

    /// Takes the token that all senders share, if there is one: of those with [`Credentials::Own`] it is asked for once
    /// the protocol knows who they are.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`].
    pub fn take_shared(&self, peer: IpAddr) -> Result<Option<Allowance>, Refusal> {
        self.limiter(RateLimiter::take_shared)
            .map_err(|spent| self.rate_limited(peer, spent))
    }

    fn limiter(
        &self,
        take: impl FnOnce(&RateLimiter) -> Result<Option<Allowance>, Spent>,
    ) -> Result<Option<Allowance>, Spent> {
        self.rate_limiter.as_ref().map_or(Ok(None), take)
    }

    /// One token of the key's own bucket, and one of that for everybody in its place. The key's own comes first: a client
    /// over its own limit takes nothing from those who share a bucket with it.
    fn take_token(
        &self,
        peer: IpAddr,
        identity: Option<&Identity>,
    ) -> Result<Option<Allowance>, Spent> {
        let own = identity.map_or(Ok(None), Identity::take)?;
        let general = self.limiter(|limiter| limiter.take(peer, identity))?;
        Ok(own.map_or(general, |own| Some(own.tighter(general))))
    }

    #[cold]
    fn rate_limited(&self, peer: IpAddr, spent: Spent) -> Refusal {
        self.books.rate_limited.add(1);
        self.overload.rate_limited(peer);
        Refusal::RateLimited(spent)
    }

    /// Takes in a refused event that an operator sends again; if it is refused again it stays the dead letter it is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn accept_again(&self, submission: Submission<'_>) -> Result<Accepted, Refusal> {
        self.accept(Admission::of(By::Operator), submission).await
    }

    /// Takes in what a sink hands back: no key, no rate and no room in the backlog is asked for.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn accept_findings(&self, submission: Submission<'_>) -> Result<Accepted, Refusal> {
        self.accept(Admission::of(By::Sink), submission).await
    }

    /// Says that so many findings were refused, and why the first was.
    pub fn findings_refused(&self, count: usize, error: &str) {
        self.overload.findings_refused(count, error);
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
        permit
            .grow(body.len())
            .map_err(|shortage| self.short_of_memory(shortage))?;
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
            over_limit,
            shed,
            shortage,
        } = decoded?;
        if let Some(shortage) = shortage {
            return Err(self.short_of_memory(shortage));
        }
        let decoded_at = Instant::now();
        span.record("decode_time", display(seconds(decoded_at - started)));

        let OverLimit {
            events: over,
            spent,
            allowance,
        } = over_limit;
        let invalid = (refused.count - over) as u64;
        protocol.refused.increment(invalid);
        if over > 0 {
            protocol.rate_limited.increment(over as u64);
            self.books.rate_limited.add(over as u64);
            self.overload.events_rate_limited(over);
        }
        let rejected = self.refuse(refused, invalid, &admission, request_id).await;
        let shed_events = shed.as_ref().map_or(0, |shed| shed.events()) as u32;
        let allowance = admission
            .allowance
            .map_or(allowance, |own| Some(own.tighter(allowance)));
        let mut accepted = Accepted {
            events: events + shed_events,
            shed: shed_events,
            position: None,
            durability: "shed",
            identity: 0,
            rejected,
            allowance,
        };
        if accepted.events == 0 {
            return Err(nothing_accepted(accepted.rejected, foreign, spent));
        }
        if events == 0 {
            self.book_shed(shed);
            protocol.accepted.increment(shed_events.into());
            return Ok(accepted);
        }
        let batch = EncodedBatch {
            body: encoded.into(),
            events,
            earliest,
            latest,
            is_own: admission.by == By::Sink,
        };
        let position = self
            .journal
            .append(batch)
            .await
            .map_err(|error| self.append_failed(error))?;
        drop(permit);
        self.book_shed(shed);
        protocol.accepted.increment(accepted.events.into());
        span.record("enqueue_time", display(seconds(decoded_at.elapsed())));
        accepted.durability = self.journal.durability_of(&position).as_str();
        accepted.identity = self.journal.identity_of(&position);
        accepted.position = Some(position);
        Ok(accepted)
    }

    /// Books what the overflow policy dropped, once the answer is a 202.
    fn book_shed(&self, shed: Option<Box<ShedTally>>) {
        if let Some(shed) = shed {
            let events = shed.events();
            // In this order: a change of the sum is what makes both be saved.
            self.books.shed_by.add(*shed);
            self.books.shed.add(events);
            self.metrics.dropped.increment(events);
            self.overload.load_shedding();
        }
    }

    /// Why a request is refused for which there was no memory; booked, unless it is too large for any.
    pub fn short_of_memory(&self, shortage: Shortage) -> Refusal {
        if shortage == Shortage::Spent {
            self.memory_spent();
        }
        shortage.into()
    }

    /// Books a request for which there was no memory.
    pub fn memory_spent(&self) {
        self.books.overloaded.add(1);
        self.overload.buffer_full();
    }

    /// Books a delivery to this webhook without a right signature.
    pub fn unsigned(&self, webhook: &str, fault: SignatureFault, peer: IpAddr) {
        self.books.unsigned.add(1);
        self.webhooks.signature_failed(webhook, fault);
        self.overload.signature_failed(webhook, fault, peer);
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
        let mut decoded = Decoded::new(body.len(), self.refused(admission));
        let limiter = self.rate_limiter.as_ref();
        let limiter =
            limiter.filter(|limiter| limiter.is_per_event() && admission.by == By::Client);
        let mut index = 0;
        let mut room = decoded.encoded.capacity();
        decoder.decode(body, &self.limits, &mut |raw, event| {
            let place = index;
            index += 1;
            if decoded.shortage.is_some() {
                return;
            }
            let (error, event) = match event {
                Ok(mut event) => {
                    event.received_at = now;
                    // To the nanosecond, so that a sink can tell that it is no time of its own.
                    if !event.given.contains(FieldSet::TS) {
                        event.ts = now;
                        event.given.insert(FieldSet::TS);
                    }
                    match self.validate(&event, place, now, identity) {
                        Ok(()) => match decoded.over_limit.take(limiter, &event, place) {
                            Ok(()) => {
                                let share = admission.share;
                                decoded.take(event, place, &ids, share, &self.overflow);
                                // A few bytes of body can be much once encoded, where events share some of them.
                                let taken = decoded.encoded.capacity();
                                if taken > room {
                                    decoded.grow(permit, taken - room);
                                    room = taken;
                                }
                                return;
                            }
                            // It is not wrong, only too early: it is no dead letter.
                            Err(error) => {
                                decoded.grow(permit, decoded.refused.bytes_for(&error));
                                return decoded.refused.push_unkept(error);
                            }
                        },
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
            decoded.grow(permit, decoded.refused.bytes_for(&error));
            if foreign {
                // Its letter would know nothing of the key, and be taken in once it is sent again.
                decoded.refused.push_unkept(error);
            } else {
                decoded.refused.push(error, raw, event.as_ref());
            }
        })?;
        Ok(decoded)
    }

    /// Where the refused events of a request go.
    fn refused(&self, admission: &Admission) -> Refused {
        let keeps = self.on_invalid == OnInvalid::Keep && admission.by != By::Operator;
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
        invalid: u64,
        admission: &Admission,
        request_id: &str,
    ) -> Rejections {
        if admission.by != By::Operator {
            self.books.refused.add(invalid);
        }
        let Refused {
            count,
            errors,
            letters,
        } = refused;
        let rejections = Rejections { count, errors };
        let letters = letters.map(|letters| letters.of_request(request_id));
        let kept = match letters {
            Some(Ok((letters, codes, permit))) if !letters.is_empty() => {
                let kept = self.control.keep(letters, Some(permit)).await;
                kept.map(|()| codes)
            }
            Some(Err(_)) => Err(ControlError::Busy),
            Some(Ok(_)) | None => return rejections,
        };
        match kept {
            Err(error) => self.overload.letters_lost(&error),
            Ok(codes) => {
                for code in codes {
                    dead_letters("", Stage::Validation.as_str(), code.as_str(), 1);
                }
            }
        }
        rejections
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
            AppendError::TooLarge { what, limit } => Refusal::TooLarge { what, limit },
            AppendError::NoSpace
            | AppendError::Unwritable(_)
            | AppendError::Unavailable(_)
            | AppendError::Closed => Refusal::Unavailable(error.to_string()),
        }
    }
}

/// What to say if no event of a request was accepted.
fn nothing_accepted(rejected: Rejections, foreign: usize, spent: Option<Spent>) -> Refusal {
    match (rejected.count, spent) {
        (0, _) => Refusal::BadRequest {
            code: "empty_batch",
            message: "there is no event in the body".into(),
        },
        // Also if others of it are invalid: what can be taken later must not be given up now.
        (_, Some(spent)) => Refusal::RateLimited(spent),
        (all, None) if all == foreign => {
            Refusal::Forbidden("this API key may not send for this source")
        }
        (_, None) => Refusal::AllInvalid(rejected),
    }
}

/// True if the key may not send for the event's source.
fn is_foreign(event: &Event<'_>, identity: Option<&Identity>) -> bool {
    let source = identity.and_then(|identity| identity.source.as_deref());
    source.is_some_and(|source| event.source.as_text() != source)
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

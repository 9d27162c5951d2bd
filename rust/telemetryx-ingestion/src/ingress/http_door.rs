//! What every protocol over HTTP does with a request: admit it, read its body, take in its events, count.

use std::sync::Arc;

use ::http::HeaderMap;
use ::http::request::Parts;
use bytes::Bytes;
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::body::{self, BodyLimits};
use super::counted::counted;
use super::request_id::RequestId;
use super::stream::Peer;
use crate::admission::{Allowance, MemoryPermit, api_key};
use crate::config::HttpConfig;
use crate::intake::{
    Accepted, Admission, Caller, Credentials, Decode, Intake, Refusal, Submission,
};
use crate::observe::ProtocolMetrics;

/// One request, its body not yet read.
pub(super) struct Call<'c> {
    pub(super) head: &'c Parts,
    pub(super) body: Incoming,
    pub(super) peer: Peer,
    pub(super) request_id: &'c RequestId,
    pub(super) allowance: &'c ToldAllowance,
}

/// What the client of one request may still send, for the headers of whatever answer it gets.
#[derive(Default)]
pub(super) struct ToldAllowance(Mutex<Option<Allowance>>);

impl ToldAllowance {
    fn tell(&self, allowance: Allowance) {
        let mut told = self.0.lock();
        *told = Some(allowance.tighter(*told));
    }

    /// What is to be told, if a limiter is on.
    pub(super) fn into_inner(self) -> Option<Allowance> {
        self.0.into_inner()
    }
}

/// Who must show a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Whoever sends, if the config has keys.
    Asked,
    /// Nobody: the body is signed.
    NotAsked,
}

/// Takes in the events of HTTP requests for one protocol.
pub(super) struct HttpDoor {
    intake: Arc<Intake>,
    protocol: ProtocolMetrics,
    limits: BodyLimits,
}

/// A request that was admitted and read.
pub(super) struct Received<'c, T> {
    /// What the check of the headers returned.
    pub(super) checked: T,
    /// The body, unpacked.
    pub(super) body: Bytes,
    admission: Admission,
    permit: MemoryPermit,
    allowance: &'c ToldAllowance,
}

impl HttpDoor {
    /// For the protocol of this name, a word of ours, with the limits of `http`.
    pub(super) fn new(intake: Arc<Intake>, protocol: &'static str, config: &HttpConfig) -> Self {
        Self {
            intake,
            protocol: ProtocolMetrics::new(protocol),
            limits: BodyLimits::of(config),
        }
    }

    /// The same, for bodies with so many more bytes around what `http.max_body` limits.
    pub(super) fn with_room_for(mut self, bytes: usize) -> Self {
        self.limits.bytes += bytes;
        self
    }

    /// Where the events go.
    pub(super) fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Admits a request and reads its body; `check` looks at the headers in between.
    pub(super) async fn receive<'c, T>(
        &self,
        call: Call<'c>,
        keys: Keys,
        check: impl FnOnce(&'c HeaderMap) -> Result<T, Refusal>,
    ) -> Result<Received<'c, T>, Refusal> {
        self.receive_signed(call, keys, check, |_, _| Ok(())).await
    }

    /// As `receive`, for a body that is signed: `verify` gets what `check` returned and the body as it was sent, before
    /// it is unpacked.
    pub(super) async fn receive_signed<'c, T>(
        &self,
        call: Call<'c>,
        keys: Keys,
        check: impl FnOnce(&'c HeaderMap) -> Result<T, Refusal>,
        verify: impl FnOnce(&T, &[u8]) -> Result<(), Refusal>,
    ) -> Result<Received<'c, T>, Refusal> {
        let (headers, allowance) = (&call.head.headers, call.allowance);
        let mut body = call.body;
        let read = async {
            let credentials = match keys {
                Keys::Asked => Credentials::Key(api_key(headers)?),
                Keys::NotAsked => Credentials::Own,
            };
            let caller = Caller {
                peer: call.peer.address.ip(),
                credentials,
            };
            let admission = self
                .intake
                .admit_telling(caller, |left| allowance.tell(left))
                .inspect_err(|refusal| tell_spent(allowance, refusal))?;
            let checked = check(headers)?;
            let verify = |sent: &[u8]| {
                verify(&checked, sent)?;
                if keys == Keys::NotAsked {
                    let left = self.intake.take_shared(caller.peer);
                    if let Some(left) =
                        left.inspect_err(|refusal| tell_spent(allowance, refusal))?
                    {
                        allowance.tell(left);
                    }
                }
                Ok(())
            };
            let memory = &self.intake.memory;
            let read = body::read(headers, &mut body, self.limits, memory, verify).await;
            let (body, permit) = read.inspect_err(|refusal| self.book_memory(refusal))?;
            tracing::Span::current().record("payload_size", body.len());
            self.intake.metrics.bytes.increment(body.len() as u64);
            Ok(Received {
                checked,
                body,
                admission,
                permit,
                allowance,
            })
        };
        let read = read.await;
        if let Err(refusal) = &read
            && !matches!(refusal, Refusal::TooSlow(_) | Refusal::Gone)
        {
            body::discard(headers, body, self.limits);
        }
        read
    }

    /// Takes the body out of what is around it, or into another form; the permit is for the memory of both.
    pub(super) fn map_body<'c, T>(
        &self,
        received: Received<'c, T>,
        map: impl FnOnce(Bytes, MemoryPermit) -> Result<(Bytes, MemoryPermit), Refusal>,
    ) -> Result<Received<'c, T>, Refusal> {
        let mapped = map(received.body, received.permit);
        let (body, permit) = mapped.inspect_err(|refusal| self.book_memory(refusal))?;
        Ok(Received {
            body,
            permit,
            ..received
        })
    }

    fn book_memory(&self, refusal: &Refusal) {
        if matches!(refusal, Refusal::Overloaded { .. }) {
            self.intake.memory_spent();
        }
    }

    /// Takes in the events of a request; they are durable when this resolves.
    pub(super) async fn accept<T>(
        &self,
        received: Received<'_, T>,
        decoder: &dyn Decode,
        request_id: &RequestId,
        idempotency_key: Option<&str>,
    ) -> Result<Accepted, Refusal> {
        let submission = Submission {
            protocol: &self.protocol,
            body: received.body,
            decoder,
            request_id: request_id.as_str(),
            idempotency_key,
            permit: received.permit,
        };
        let taken = self.intake.accept(received.admission, submission).await;
        match &taken {
            Ok(accepted) => {
                if let Some(left) = accepted.allowance {
                    received.allowance.tell(left);
                }
            }
            Err(refusal) => tell_spent(received.allowance, refusal),
        }
        taken
    }

    /// Runs the whole of a request in its span, times and counts it.
    pub(super) async fn counted<T>(
        &self,
        peer: Peer,
        request_id: &RequestId,
        taking: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let started = std::time::Instant::now();
        counted(&self.intake.metrics, started, peer, request_id, taking).await
    }
}

fn tell_spent(allowance: &ToldAllowance, refusal: &Refusal) {
    if let Refusal::RateLimited(spent) = refusal {
        allowance.tell((*spent).into());
    }
}

//! Framed TCP: events without HTTP around them, many frames under way on each connection, answered in order.
//!
//! ```text
//! client: │ length, u32 big-endian │ that many bytes: a body as of `POST /ingest`, JSON or protobuf │ …
//! server: │ length, u32 big-endian │ {"status":202,"accepted":1,…}                                  │ …
//! ```
//!
//! | file | purpose |
//! | --- | --- |
//! | `tcp/reader.rs` | bytes to frames, within size and memory |
//! | `tcp/connection.rs` | one connection: reads, takes in, answers, all in one task |

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use telemetryx_common::json;
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::reader::{Frame, Taken};
use super::answer;
use super::counted::counted;
use super::protocol::{Built, Listen, ProtocolFactory, ServeConnection};
use super::request_id::RequestId;
use super::stream::{Peer, Stream};
use crate::admission::MemoryPermit;
use crate::config::Config;
use crate::intake::{Accepted, Format, Intake, Refusal, Submission};
use crate::observe::ProtocolMetrics;

mod connection;
mod reader;

inventory::submit! {
    ProtocolFactory {
        name: "tcp",
        listens,
        build: |setup| {
            let frames: Arc<dyn ServeConnection> = Arc::new(Frames::new(setup.intake, setup.config));
            let connections = listens(setup.config).iter().map(|_| Arc::clone(&frames)).collect();
            Ok(Built { endpoints: Vec::new(), connections })
        },
    }
}

fn listens(config: &Config) -> Vec<Listen<'_>> {
    let listen = |port| Listen {
        key: "tcp.host, tcp.port",
        address: SocketAddr::new(config.tcp.host, port),
        tls: config.tcp_tls(),
        alpn: &[],
    };
    config.tcp.port.into_iter().map(listen).collect()
}

/// What all connections share.
struct Frames {
    intake: Arc<Intake>,
    protocol: ProtocolMetrics,
    limits: Limits,
}

/// The limits of one connection.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Most bytes of one frame.
    frame: usize,
    /// Most time to send a frame that was begun, or to take nothing of the answers.
    time: Duration,
    /// Most time with nothing under way.
    idle: Duration,
    /// Most frames under way.
    in_flight: usize,
}

/// An answer as it is sent, and the memory it takes if it is large.
struct Answered {
    bytes: Vec<u8>,
    permit: Option<MemoryPermit>,
}

impl ServeConnection for Frames {
    fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        async move { Connection::new(&self, stream, peer).run(stop).await }.boxed()
    }
}

impl Frames {
    fn new(intake: &Arc<Intake>, config: &Config) -> Self {
        Self {
            intake: Arc::clone(intake),
            protocol: ProtocolMetrics::new("tcp"),
            limits: Limits {
                frame: config.http.max_body.as_usize(),
                time: config.http.body_timeout.into(),
                idle: config.tcp.idle_timeout.into(),
                in_flight: config.tcp.max_in_flight as usize,
            },
        }
    }

    /// Takes in the events of one frame, or says why not; they are durable if the answer says 202.
    async fn answer(&self, frame: Frame, peer: Peer) -> Answered {
        let request_id = RequestId::made();
        let (started, taken) = match frame {
            Frame::Events { started, taken } => (started, taken),
            Frame::Key(Ok(name)) => return hello(name.as_deref()),
            // A client that guesses keys sends nothing else: it counts as a request that is refused.
            Frame::Key(Err(refusal)) => (Instant::now(), Err(refusal)),
        };
        let taking = async {
            let Taken {
                body,
                admission,
                permit,
            } = taken?;
            tracing::Span::current().record("payload_size", body.len());
            self.intake.metrics.bytes.increment(body.len() as u64);
            let format = format(&body);
            let submission = Submission {
                protocol: &self.protocol,
                body,
                decoder: &format,
                request_id: request_id.as_str(),
                idempotency_key: None,
                permit,
            };
            self.intake.accept(admission, submission).await
        };
        let counted = counted(&self.intake.metrics, started, peer, &request_id, taking);
        let outcome = AssertUnwindSafe(counted).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| {
            self.intake.metrics.internal_errors.increment(1);
            tracing::error!(request_id = request_id.as_str(), "a frame panicked");
            Err(Refusal::Internal)
        });
        self.told(outcome, &request_id)
    }

    fn told(&self, mut taken: Result<Accepted, Refusal>, request_id: &RequestId) -> Answered {
        let tell = |taken: &Result<Accepted, Refusal>| match taken {
            Ok(accepted) => object(202, |body| {
                body.push(b',');
                answer::write_accepted(accepted, request_id, body);
            }),
            Err(refusal) => refused(refusal, request_id),
        };
        self.within_budget(tell(&taken)).unwrap_or_else(|| {
            answer::omit_errors(&mut taken);
            Answered::small(tell(&taken))
        })
    }

    /// A large answer waits for its client in budgeted memory; `None` if there is none.
    fn within_budget(&self, bytes: Vec<u8>) -> Option<Answered> {
        if bytes.len() <= answer::SMALL {
            return Some(Answered::small(bytes));
        }
        let permit = Some(self.intake.answers.take(bytes.len())?);
        Some(Answered { bytes, permit })
    }
}

impl Answered {
    fn small(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            permit: None,
        }
    }
}

/// The answer to a key that is known, or to any if none is asked for.
fn hello(name: Option<&str>) -> Answered {
    Answered::small(object(200, |body| {
        if let Some(name) = name {
            body.extend_from_slice(b",\"key\":");
            json::write_str(name, body);
        }
    }))
}

fn refused(refusal: &Refusal, request_id: &RequestId) -> Vec<u8> {
    let class = answer::classify(refusal);
    object(class.status.as_u16(), |body| {
        if let Some(seconds) = class.retry_after {
            body.extend_from_slice(b",\"retry_after\":");
            json::write_number(seconds, body);
        }
        body.extend_from_slice(b",\"request_id\":");
        json::write_str(request_id.as_str(), body);
        body.push(b',');
        answer::write_refused(refusal, &class, body);
    })
}

/// A whole frame: its length, and an object of `status` and what else is written.
fn object(status: u16, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(256);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(b"{\"status\":");
    json::write_number(status.into(), &mut frame);
    write(&mut frame);
    frame.push(b'}');
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    if let Some(head) = frame.first_chunk_mut() {
        *head = length.to_be_bytes();
    }
    frame
}

/// JSON begins with a bracket or a brace. A line feed before it does not count as blank: that is what protobuf begins
/// with, and a length that is a brace may follow.
fn format(body: &Bytes) -> Format {
    let first = body
        .iter()
        .find(|byte| !matches!(byte, b' ' | b'\t' | b'\r'));
    match first {
        Some(b'{' | b'[') => Format::Json,
        _ => Format::Protobuf,
    }
}

//! One stream to the brain: credit, batches under way, answers. Whatever breaks it fails all that wait on it, with the
//! reason, and the next batch makes a new one. Every wait has a deadline.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::rt::Executor;
use parking_lot::Mutex;
use telemetryx_proto::v1::{self, answer, from_brain};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};

use super::address::Address;
use super::message::{BrainCodec, Events, Message, PROTOCOL, READ_BYTES_MAX, too_much};
use crate::sinks::http2::Tasks;

const METHOD: PathAndQuery = PathAndQuery::from_static("/telemetryx.v1.Brain/Analyze");
/// For connecting, and until the brain says that it is ready.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Batches that a brain may be ready for.
const CREDIT_MAX: usize = 100_000;
/// What a brain takes that does not say: the default of most gRPC libraries.
const MESSAGE_BYTES: usize = 4 << 20;

/// A stream that is there when it is needed.
pub(super) struct Link {
    address: Address,
    route: String,
    wait_max: Duration,
    open: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl Link {
    /// Connects when it is first asked. `wait_max`: for credit, and for an answer.
    pub(super) fn new(address: Address, route: &str, wait_max: Duration) -> Self {
        Self {
            address,
            route: route.to_owned(),
            wait_max,
            open: tokio::sync::Mutex::new(None),
        }
    }

    /// The stream; a new one if the last has ended.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn session(&self) -> Result<Arc<Session>, String> {
        let mut open = self.open.lock().await;
        if let Some(session) = open.as_ref().filter(|session| !session.has_ended()) {
            return Ok(Arc::clone(session));
        }
        *open = None;
        let wait_max = self.wait_max.min(CONNECT_WAIT_MAX);
        let new = timeout(wait_max, self.connect()).await;
        let new = new.unwrap_or_else(|_| Err(format!("it was not ready within {wait_max:?}")));
        let new = new.map_err(|error| format!("{}: {error}", self.address.shown()))?;
        *open = Some(Arc::clone(&new));
        Ok(new)
    }

    async fn connect(&self) -> Result<Arc<Session>, String> {
        let (sender, tasks) = self.address.connect().await?;
        let stream = Stream(Shared::new(self.address.shown(), tasks));
        let (outgoing, mut messages) = mpsc::channel(1);
        let hello = Message::hello(&self.route);
        outgoing
            .try_send(hello)
            .map_err(|error| error.to_string())?;
        let messages = futures_util::stream::poll_fn(move |cx| messages.poll_recv(cx));
        let mut request = Request::new(messages);
        if let Some(token) = self.address.metadata()? {
            request.metadata_mut().insert("authorization", token);
        }
        let mut grpc = Grpc::with_origin(sender, self.address.origin())
            .max_decoding_message_size(READ_BYTES_MAX);
        grpc.ready().await.map_err(|error| error.to_string())?;
        let answer = grpc.streaming(request, METHOD, BrainCodec).await;
        let mut incoming = answer.map_err(|status| words(&status))?.into_inner();
        let first = incoming.message().await.map_err(|status| words(&status))?;
        let first = first.ok_or("it ended the stream at once")?;
        let Some(from_brain::Message::Ready(ready)) = first.message else {
            return Err("it does not begin with `ready`: is it a brain?".to_owned());
        };
        if ready.protocol != PROTOCOL {
            return Err(format!(
                "it speaks version {} of the contract, and this service version {PROTOCOL}",
                ready.protocol
            ));
        }
        stream.0.grant(first.credit)?;
        tracing::debug!(
            brain = ready.brain,
            route = self.route,
            "the brain is ready"
        );
        let reader = read(Arc::clone(&stream.0), incoming);
        stream.0.tasks.execute(reader);
        Ok(Arc::new(Session {
            stream,
            wait_max: self.wait_max,
            outgoing,
            message_bytes_max: match usize::try_from(ready.message_bytes_max) {
                Ok(0) => MESSAGE_BYTES,
                Ok(most) => most,
                Err(_) => usize::MAX,
            },
        }))
    }
}

/// Dropping it ends the stream, and the connection; its reader ends with them.
struct Stream(Arc<Shared>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.end("it was left");
    }
}

/// An open stream that is ready for batches.
pub(super) struct Session {
    stream: Stream,
    wait_max: Duration,
    outgoing: mpsc::Sender<Message>,
    message_bytes_max: usize,
}

impl Session {
    /// True if the brain takes no message of that size.
    pub(super) fn is_too_large(&self, events: &Events) -> bool {
        events.bytes() > self.message_bytes_max
    }

    /// Sends a batch once there is credit for it, and waits for its answer.
    ///
    /// # Errors
    /// Why there is none; the stream has ended then.
    pub(super) async fn ask(&self, events: Events) -> Result<answer::Result, String> {
        let shared = &*self.stream.0;
        match timeout(self.wait_max, shared.credit.acquire()).await {
            Ok(Ok(credit)) => credit.forget(),
            Ok(Err(_)) => return Err(shared.ended_because()),
            Err(_) => {
                let why = format!(
                    "it was not ready for another batch within {:?}",
                    self.wait_max
                );
                return Err(self.end(&why));
            }
        }
        // It is given up only behind the end of the stream: the others that wait are told the same reason.
        let mut answer = pin!(async {
            // Only one at a time has the one place: numbers go out in order.
            let place = self.outgoing.reserve().await;
            let place = place.map_err(|_| shared.ended_because())?;
            let (sequence, answer) = shared.expect()?;
            let _unanswered = Unanswered { shared, sequence };
            place.send(events.numbered(sequence));
            answer.await.unwrap_or_else(|_| Err(shared.ended_because()))
        });
        let answered = timeout(self.wait_max, &mut answer).await;
        answered.unwrap_or_else(|_| {
            Err(self.end(&format!("it gave no answer within {:?}", self.wait_max)))
        })
    }

    /// Ends it; the reason as it is told.
    pub(super) fn end(&self, why: &str) -> String {
        self.stream.0.end(why);
        format!("{}: {why}", self.stream.0.who)
    }

    fn has_ended(&self) -> bool {
        self.stream.0.waiting.lock().ended.is_some()
    }
}

/// What the reader and those who wait share.
struct Shared {
    /// For messages.
    who: String,
    credit: Semaphore,
    waiting: Mutex<Waiting>,
    tasks: Tasks,
}

#[derive(Default)]
struct Waiting {
    /// Of the last batch that was sent.
    sequence: u64,
    answers: HashMap<u64, oneshot::Sender<Result<answer::Result, String>>>,
    /// Why it has ended.
    ended: Option<String>,
}

impl Shared {
    fn new(who: String, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            who,
            credit: Semaphore::new(0),
            waiting: Mutex::default(),
            tasks,
        })
    }

    fn grant(&self, credit: u32) -> Result<(), String> {
        let credit = credit as usize;
        if self.credit.available_permits() + credit > CREDIT_MAX {
            return Err(format!("it is ready for more than {CREDIT_MAX} batches"));
        }
        self.credit.add_permits(credit);
        Ok(())
    }

    /// The number of the next batch, and where its answer comes.
    fn expect(&self) -> Result<(u64, oneshot::Receiver<Result<answer::Result, String>>), String> {
        let mut waiting = self.waiting.lock();
        if waiting.ended.is_some() {
            drop(waiting);
            return Err(self.ended_because());
        }
        waiting.sequence += 1;
        let sequence = waiting.sequence;
        let (answer, answered) = oneshot::channel();
        waiting.answers.insert(sequence, answer);
        Ok((sequence, answered))
    }

    /// Takes what the brain sent.
    fn take(&self, message: v1::FromBrain) -> Result<(), String> {
        let taken = match message.message {
            Some(from_brain::Message::Ready(_)) => Err("it is ready twice".to_owned()),
            Some(from_brain::Message::Answer(answer)) => self.answered(answer),
            None => Ok(()),
        };
        taken.and_then(|()| self.grant(message.credit))
    }

    fn answered(&self, answer: v1::Answer) -> Result<(), String> {
        let v1::Answer { sequence, result } = answer;
        let result =
            result.ok_or_else(|| format!("its answer to batch {sequence} says nothing"))?;
        let waits = self.waiting.lock().answers.remove(&sequence);
        let waits =
            waits.ok_or_else(|| format!("it answers batch {sequence}, which waits for none"))?;
        // If nobody waits any more the service goes down.
        waits.send(Ok(result)).ok();
        Ok(())
    }

    /// An answer came that is too large to be read: it is that to the batch under way, if there is only one.
    fn answered_too_much(&self, words: &str) {
        let mut waiting = self.waiting.lock();
        if waiting.answers.len() == 1 {
            let answers = std::mem::take(&mut waiting.answers);
            drop(waiting);
            for answer in answers.into_values() {
                answer.send(Ok(too_much(words.to_owned()))).ok();
            }
        }
    }

    fn end(&self, why: &str) {
        let answers = {
            let mut waiting = self.waiting.lock();
            waiting.ended.get_or_insert_with(|| why.to_owned());
            std::mem::take(&mut waiting.answers)
        };
        self.credit.close();
        self.tasks.end();
        for answer in answers.into_values() {
            answer.send(Err(self.ended_because())).ok();
        }
    }

    fn ended_because(&self) -> String {
        let waiting = self.waiting.lock();
        let why = waiting.ended.as_deref().unwrap_or("the stream has ended");
        format!("{}: {why}", self.who)
    }
}

/// A batch under way. If nobody waits for its answer any more, the stream ends: the brain may be at work on it for ever.
struct Unanswered<'s> {
    shared: &'s Shared,
    sequence: u64,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self
            .shared
            .waiting
            .lock()
            .answers
            .contains_key(&self.sequence)
        {
            self.shared.end("a batch was given up");
        }
    }
}

async fn read(shared: Arc<Shared>, mut incoming: Streaming<v1::FromBrain>) {
    let why = loop {
        match incoming.message().await {
            Ok(Some(message)) => {
                if let Err(why) = shared.take(message) {
                    // Those who wait tell it; if there are none, nobody else would.
                    if shared.waiting.lock().answers.is_empty() {
                        let brain = &shared.who;
                        tracing::warn!(brain, reason = why, "the stream to the brain is ended");
                    }
                    break why;
                }
            }
            Ok(None) => break "it ended the stream".to_owned(),
            Err(status) => {
                if status.code() == Code::OutOfRange {
                    shared.answered_too_much(status.message());
                }
                break words(&status);
            }
        }
    };
    shared.end(&why);
}

/// What a call ended with, in words.
fn words(status: &Status) -> String {
    let mut words = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        source = cause.source();
    }
    words
}

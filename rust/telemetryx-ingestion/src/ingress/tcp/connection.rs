//! One connection, in one task: reads frames, takes in many of them at a time, sends the answers in order and together.

use std::future::poll_fn;
use std::io::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::io::AsyncWrite;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::super::stream::{self, Peer, Stream};
use super::reader::FrameReader;
use super::{Answered, Frames};
use crate::admission::MemoryPermit;
use crate::intake::Refusal;

/// While so many bytes of answers wait for the client, nothing more is answered, nor read from it; no budget knows of them.
const OUT_MAX: usize = 16 << 10;
/// The same for a client that has not shown the key it is asked for: it gets nothing but refusals.
const OUT_MAX_STRANGER: usize = 4 << 10;
/// Frames of such a client under way: each is refused at once.
const IN_FLIGHT_STRANGER: usize = 1;

/// After so many frames others have a turn.
const FRAMES_A_TURN: usize = 16;

/// A connection's state.
pub(super) struct Connection<'f> {
    frames: &'f Frames,
    stream: Stream,
    peer: Peer,
    reader: FrameReader<'f>,
    /// Answers on their way out.
    out: BytesMut,
    /// The memory that large ones of them take.
    permits: Vec<MemoryPermit>,
    is_flushed: bool,
    /// Since when the client has taken nothing of `out`.
    stalled: Instant,
    /// Since when nothing was under way.
    idle: Instant,
    /// Nothing more is read.
    is_closing: bool,
    timer: Pin<Box<Sleep>>,
}

/// What a connection waited for.
enum Event {
    /// Something was read, answered or sent: look again.
    Progress,
    /// The client will send nothing more.
    Ended,
    /// A frame that was begun is not there in time.
    TooSlow,
    /// Nothing was under way for too long.
    Idle,
    /// The connection broke, or the client takes no answers.
    Broken,
}

/// What happens if the client does nothing until then.
#[derive(Clone, Copy)]
enum Due {
    TooSlow,
    Idle,
    Broken,
}

impl<'f> Connection<'f> {
    pub(super) fn new(frames: &'f Frames, stream: Stream, peer: Peer) -> Self {
        let now = Instant::now();
        Self {
            frames,
            stream,
            peer,
            reader: FrameReader::new(frames, peer),
            out: BytesMut::new(),
            permits: Vec::new(),
            is_flushed: true,
            stalled: now,
            idle: now,
            is_closing: false,
            timer: Box::pin(tokio::time::sleep_until((now + frames.limits.idle).into())),
        }
    }

    /// Serves the connection to its end. Once `stop` is cancelled, the frame that is being read is read to its end, what
    /// is under way is answered, and nothing more is read.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (frames, peer) = (self.frames, self.peer);
        let mut in_flight = FuturesOrdered::new();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut stopping = false;
        let mut taken = 0;
        loop {
            while !self.is_closing
                && (!stopping || self.reader.is_in_frame())
                && in_flight.len() < self.in_flight_max()
            {
                let Some(frame) = self.reader.next() else {
                    break;
                };
                taken += 1;
                in_flight.push_back(frames.answer(frame, peer));
            }
            let is_read = self.reader.is_lost() || stopping && !self.reader.is_in_frame();
            if !self.is_closing && is_read {
                self.is_closing = true;
            }
            if self.is_closing && in_flight.is_empty() && self.is_sent() {
                return stream::send_away(self.stream).await;
            }
            let event = poll_fn(|context| {
                if !stopping && stopped.as_mut().poll(context).is_ready() {
                    stopping = true;
                    return Poll::Ready(Event::Progress);
                }
                self.poll(context, &mut in_flight)
            });
            match event.await {
                // Frames may come as fast as they are answered: the others have a turn in between.
                Event::Progress if taken >= FRAMES_A_TURN => {
                    taken = 0;
                    tokio::task::yield_now().await;
                }
                Event::Progress => {}
                Event::Broken | Event::Idle => return,
                Event::Ended => {
                    let cut = self.reader.cut(Refusal::Gone);
                    in_flight.extend(cut.map(|frame| frames.answer(frame, peer)));
                    self.is_closing = true;
                }
                Event::TooSlow => {
                    let cut = self.reader.cut(Refusal::TooSlow(frames.limits.time));
                    in_flight.extend(cut.map(|frame| frames.answer(frame, peer)));
                    self.is_closing = true;
                }
            }
        }
    }

    fn in_flight_max(&self) -> usize {
        if self.reader.is_of_stranger() {
            IN_FLIGHT_STRANGER
        } else {
            self.frames.limits.in_flight
        }
    }

    fn out_max(&self) -> usize {
        if self.reader.is_of_stranger() {
            OUT_MAX_STRANGER
        } else {
            OUT_MAX
        }
    }

    fn is_sent(&self) -> bool {
        self.out.is_empty() && self.is_flushed
    }

    /// Takes answers, sends them, reads: whatever is possible, in this order.
    fn poll<F>(
        &mut self,
        context: &mut Context<'_>,
        in_flight: &mut FuturesOrdered<F>,
    ) -> Poll<Event>
    where
        F: Future<Output = Answered>,
    {
        let mut progress = self.poll_answers(context, in_flight);
        match self.poll_send(context) {
            Poll::Ready(Ok(sent)) => progress |= sent,
            Poll::Ready(Err(_)) => return Poll::Ready(Event::Broken),
            Poll::Pending => {}
        }
        // What was read already has a turn before more is.
        if progress {
            return Poll::Ready(Event::Progress);
        }
        let has_room = in_flight.len() < self.in_flight_max() && self.out.len() < self.out_max();
        if self.is_closing || !has_room {
            self.reader.pause();
        } else {
            match self.poll_read(context, in_flight.is_empty()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Event::Ended),
                Poll::Ready(Ok(_)) => return Poll::Ready(Event::Progress),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Broken),
                Poll::Pending => {}
            }
        }
        self.poll_due(context, in_flight.is_empty())
    }

    /// True if some were taken.
    fn poll_answers<F>(
        &mut self,
        context: &mut Context<'_>,
        in_flight: &mut FuturesOrdered<F>,
    ) -> bool
    where
        F: Future<Output = Answered>,
    {
        let mut any = false;
        // Where there is no room it is the client that wakes us, by taking some.
        while self.out.len() < self.out_max()
            && let Poll::Ready(Some(answered)) = in_flight.poll_next_unpin(context)
        {
            if self.out.is_empty() {
                self.stalled = Instant::now();
            }
            self.out.extend_from_slice(&answered.bytes);
            self.permits.extend(answered.permit);
            any = true;
        }
        if any && in_flight.is_empty() {
            self.idle = Instant::now();
        }
        any
    }

    /// Ready when all is sent: true if there was something.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if self.is_sent() {
            return Poll::Ready(Ok(false));
        }
        while !self.out.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
            self.is_flushed = false;
            self.stalled = Instant::now();
        }
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.is_flushed = true;
        self.permits.clear();
        // What a large answer took is given back.
        if self.out.capacity() > OUT_MAX {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(true))
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        nothing_in_flight: bool,
    ) -> Poll<Result<usize, Error>> {
        let (buffer, spare) = self.reader.spare();
        let read = poll_read_buf(
            Pin::new(&mut self.stream),
            context,
            &mut buffer.limit(spare),
        );
        match &read {
            Poll::Ready(Ok(read)) => self.reader.filled(*read, spare),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if nothing_in_flight && self.reader.is_between_frames() => {
                self.reader.rest();
            }
            Poll::Pending => {}
        }
        read
    }

    /// Ready when the client has done nothing for too long. The timer is moved forward only when it fires: most
    /// deadlines are forgotten long before.
    fn poll_due(&mut self, context: &mut Context<'_>, nothing_in_flight: bool) -> Poll<Event> {
        let Some((at, due)) = self.due(nothing_in_flight) else {
            return Poll::Pending;
        };
        let at = tokio::time::Instant::from_std(at);
        if self.timer.deadline() > at {
            self.timer.as_mut().reset(at);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if self.timer.deadline() >= at {
                return Poll::Ready(match due {
                    Due::TooSlow => Event::TooSlow,
                    Due::Idle => Event::Idle,
                    Due::Broken => Event::Broken,
                });
            }
            self.timer.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// The next deadline; none while all that is awaited is ours to do.
    fn due(&self, nothing_in_flight: bool) -> Option<(Instant, Due)> {
        let limits = &self.frames.limits;
        let stalled = (!self.is_sent()).then(|| (self.stalled + limits.time, Due::Broken));
        let slow = self.reader.begun().filter(|_| !self.is_closing);
        let slow = slow.map(|begun| (begun + limits.time, Due::TooSlow));
        let is_idle = nothing_in_flight && self.is_sent() && self.reader.is_between_frames();
        let idle = is_idle.then(|| (self.idle + limits.idle, Due::Idle));
        [stalled, slow, idle]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }
}

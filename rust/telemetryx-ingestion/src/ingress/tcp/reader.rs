//! Bytes to frames: what each may be and take is decided before it is read.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;

use super::super::stream::Peer;
use super::Frames;
use crate::admission::MemoryPermit;
use crate::intake::{Admission, Caller, Credentials, MEMORY_SPENT, Refusal};

/// Bytes of a frame's length.
const HEAD: usize = 4;
/// Most memory taken for a frame before its first byte.
const STEP: usize = 8 << 10;
/// Behind a frame that is longer no memory stays taken.
const LARGE: usize = 64 << 10;
/// Fewest bytes asked of the socket, and most of them beyond the frame that is read; no budget knows of them. A client
/// that has not shown the key it is asked for never gets more than the fewest.
const AHEAD: std::ops::RangeInclusive<usize> = 4 << 10..=16 << 10;
/// What the state of a frame under way takes beside its bytes.
const FRAME_BYTES: usize = 4 << 10;
/// A client that has shown no key which is known is sent away after so many refusals.
const REFUSALS_MAX: u32 = 16;
/// A longer frame is no key.
const KEY_FRAME_MAX: usize = 512;
/// What a frame with a key begins with, blanks aside.
const KEY_NAME: &[u8] = b"\"key\"";

/// A frame, or why it is not taken.
pub(super) enum Frame {
    /// Events.
    Events {
        /// When its length had arrived.
        started: Instant,
        taken: Result<Taken, Refusal>,
    },
    /// An API key: its name, `None` if none is asked for.
    Key(Result<Option<String>, Refusal>),
}

/// A frame that was admitted and read.
pub(super) struct Taken {
    pub(super) body: Bytes,
    pub(super) admission: Admission,
    pub(super) permit: MemoryPermit,
}

/// One connection's frames.
pub(super) struct FrameReader<'f> {
    frames: &'f Frames,
    peer: Peer,
    /// The key that the client has shown.
    key: Option<String>,
    /// Frames that were refused for want of a key.
    strangers: u32,
    buffer: BytesMut,
    /// How much is asked of the socket.
    ahead: usize,
    state: State,
    /// When the first byte of what is not whole yet was seen.
    begun: Option<Instant>,
}

enum State {
    /// A frame's length comes next.
    Head,
    /// The frame's bytes come next.
    Body {
        length: usize,
        /// How much of it there is memory for.
        room: usize,
        started: Instant,
        /// Taken when the frame is whole.
        admitted: Option<(Admission, MemoryPermit)>,
    },
    /// So many bytes of a frame that was refused come next.
    Skip(usize),
    /// What comes next means nothing.
    Lost,
}

/// A frame that says who sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFrame {
    key: String,
}

impl<'f> FrameReader<'f> {
    pub(super) fn new(frames: &'f Frames, peer: Peer) -> Self {
        Self {
            frames,
            peer,
            key: None,
            strangers: 0,
            buffer: BytesMut::new(),
            ahead: *AHEAD.start(),
            state: State::Head,
            begun: None,
        }
    }

    /// The next frame that is whole or refused.
    pub(super) fn next(&mut self) -> Option<Frame> {
        loop {
            let step = match self.state {
                State::Head => self.head(),
                State::Body { .. } => self.body(),
                State::Skip(left) => self.skip(left),
                State::Lost => return None,
            };
            match step {
                Step::Again => {}
                Step::Frame(frame) => return Some(frame),
                Step::More => {
                    if self.is_between_frames() {
                        self.begun = None;
                    } else {
                        self.begun.get_or_insert_with(Instant::now);
                    }
                    return None;
                }
            }
        }
    }

    /// Where to read to, and how many bytes at most.
    pub(super) fn spare(&mut self) -> (&mut BytesMut, usize) {
        let missing = match self.state {
            State::Body { room, .. } => room.saturating_sub(self.buffer.len()),
            State::Head | State::Skip(_) | State::Lost => 0,
        };
        let spare = missing.max(self.ahead);
        self.buffer.reserve(spare);
        (&mut self.buffer, spare)
    }

    /// So many bytes were read into it, of so many that were asked for: one that fills its buffer gets a larger one.
    pub(super) fn filled(&mut self, read: usize, spare: usize) {
        if read == spare && !self.is_of_stranger() {
            self.ahead = (self.ahead * 2).min(*AHEAD.end());
        }
    }

    /// Gives its memory back until the next byte comes.
    pub(super) fn rest(&mut self) {
        self.buffer = BytesMut::new();
        self.ahead = *AHEAD.start();
    }

    /// True if the client has not shown the key that it is asked for.
    pub(super) fn is_of_stranger(&self) -> bool {
        self.key.is_none() && !self.frames.intake.keys.is_open()
    }

    /// True if nothing of a next frame has come.
    pub(super) fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Head) && self.buffer.is_empty()
    }

    /// True if the rest of a frame is awaited that may come in.
    pub(super) fn is_in_frame(&self) -> bool {
        matches!(self.state, State::Body { .. })
    }

    /// True if nothing after this can be read.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Since when the client owes the rest of a frame.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// While nothing is read from it the client owes nothing.
    pub(super) fn pause(&mut self) {
        self.begun = None;
    }

    /// Ends in the middle of a frame: the frame to answer, if it was not answered yet.
    pub(super) fn cut(&mut self, refusal: Refusal) -> Option<Frame> {
        let unanswered = match self.state {
            State::Head => !self.buffer.is_empty(),
            State::Body { .. } => true,
            State::Skip(_) | State::Lost => false,
        };
        self.lose();
        unanswered.then(|| Frame::Events {
            started: Instant::now(),
            taken: Err(refusal),
        })
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.begun = None;
        self.rest();
    }

    fn head(&mut self) -> Step {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else {
            return Step::More;
        };
        let length = u32::from_be_bytes(*head) as usize;
        let limit = self.frames.limits.frame;
        if length > limit {
            self.lose();
            return refused(Refusal::body_too_large(limit));
        }
        // Short frames are looked at as a whole: they may be keys.
        if length <= KEY_FRAME_MAX {
            let Some(frame) = self.buffer.get(HEAD..HEAD + length) else {
                return Step::More;
            };
            if let Some(key) = key(frame) {
                self.buffer.advance(HEAD + length);
                self.begun = None;
                return Step::Frame(Frame::Key(self.identify(key)));
            }
        }
        self.buffer.advance(HEAD);
        match self.admit(length) {
            Ok(state) => {
                self.state = state;
                Step::Again
            }
            Err(refusal) => {
                self.state = State::Skip(length);
                // No event is empty: who sends such a frame wants no more than an answer.
                if self.is_of_stranger() && length == 0 {
                    self.lose();
                } else if self.is_of_stranger() {
                    self.refused_stranger();
                }
                refused(refusal)
            }
        }
    }

    fn admit(&mut self, length: usize) -> Result<State, Refusal> {
        let intake = &self.frames.intake;
        let caller = Caller {
            peer: self.peer.address.ip(),
            credentials: Credentials::Key(self.key.as_deref()),
        };
        let admission = intake.admit(caller).map_err(|refusal| match refusal {
            Refusal::Unauthorized(_) if self.key.is_none() => Refusal::Unauthorized(
                "send an API key first, in a frame of its own: {\"key\":\"<key>\"}",
            ),
            refusal => refusal,
        })?;
        let is_whole = self.buffer.len() >= length;
        let room = if is_whole { length } else { length.min(STEP) };
        let Some(permit) = intake.memory.take(FRAME_BYTES + room) else {
            intake.memory_spent();
            return Err(MEMORY_SPENT);
        };
        Ok(State::Body {
            length,
            room,
            started: Instant::now(),
            admitted: Some((admission, permit)),
        })
    }

    fn body(&mut self) -> Step {
        let State::Body {
            length,
            room,
            started,
            admitted,
        } = &mut self.state
        else {
            return Step::More;
        };
        let (length, started) = (*length, *started);
        if self.buffer.len() < length {
            // As much again as has arrived: what a client only announces takes nothing from the others.
            while self.buffer.len() >= *room {
                let more = (*room).min(length - *room);
                let grown = admitted
                    .as_mut()
                    .map_or(Ok(()), |(_, permit)| permit.grow(more));
                if let Err(shortage) = grown {
                    let refusal = self.frames.intake.short_of_memory(shortage);
                    self.state = State::Skip(length);
                    return refused(refusal);
                }
                *room += more;
            }
            return Step::More;
        }
        let Some((admission, permit)) = admitted.take() else {
            return Step::More;
        };
        let body = self.buffer.split_to(length).freeze();
        if length > LARGE {
            self.shrink();
        }
        self.state = State::Head;
        self.begun = None;
        Step::Frame(Frame::Events {
            started,
            taken: Ok(Taken {
                body,
                admission,
                permit,
            }),
        })
    }

    fn skip(&mut self, left: usize) -> Step {
        let here = left.min(self.buffer.len());
        self.buffer.advance(here);
        if self.buffer.capacity() > *AHEAD.end() {
            self.shrink();
        }
        if here < left {
            self.state = State::Skip(left - here);
            return Step::More;
        }
        self.state = State::Head;
        self.begun = None;
        Step::Again
    }

    /// Copies the few bytes behind a large frame: they would keep the whole of its memory.
    fn shrink(&mut self) {
        self.buffer = BytesMut::from(&self.buffer[..]);
    }

    /// One more frame for want of a key; after many of them nothing more is read.
    fn refused_stranger(&mut self) {
        self.strangers += 1;
        if self.strangers >= REFUSALS_MAX {
            self.lose();
        }
    }

    fn identify(&mut self, key: String) -> Result<Option<String>, Refusal> {
        let (intake, peer) = (&self.frames.intake, self.peer.address.ip());
        if let Err(refusal) = intake.take_of_address(peer) {
            // What follows would be refused for want of a key, and that for good.
            self.lose();
            return Err(refusal);
        }
        let identified = intake.identify(Some(&key), peer);
        if identified.is_err() {
            self.refused_stranger();
        }
        self.key = identified.is_ok().then_some(key);
        identified.map(|identity| Some(identity?.name.clone()))
    }
}

/// What came of looking at the bytes that are there.
enum Step {
    Frame(Frame),
    /// Look again: another part of a frame comes next.
    Again,
    /// More bytes are needed.
    More,
}

fn refused(refusal: Refusal) -> Step {
    Step::Frame(Frame::Events {
        started: Instant::now(),
        taken: Err(refusal),
    })
}

/// The key, if the frame is one: an object with that field and no other, which no event can be, for want of `ts`.
fn key(frame: &[u8]) -> Option<String> {
    let inside = frame.trim_ascii_start().strip_prefix(b"{")?;
    if !inside.trim_ascii_start().starts_with(KEY_NAME) {
        return None;
    }
    serde_json::from_slice(frame)
        .ok()
        .map(|KeyFrame { key }| key)
}

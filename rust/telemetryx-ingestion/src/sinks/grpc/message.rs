//! Messages of `proto/brain.proto` as bytes. A batch is written by hand: its events go from the journal's form into the
//! message without becoming objects in between. An answer is read with `prost`, once it is known to be within its limits: a
//! part of two bytes becomes an object of some hundred. One that is not counts as a refusal, since it would come again.

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use telemetryx_common::wire;
use telemetryx_proto::v1::{self, answer, from_brain};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::route::{Cause, EventBatch};

/// Version of the contract.
pub(super) const PROTOCOL: u32 = 1;
/// The largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// The largest that is read, to know which batch it answers; what is larger ends the stream.
pub(super) const READ_BYTES_MAX: usize = 4 * ANSWER_BYTES_MAX;
/// The most findings in one answer: so many for each event of the batch, and so many more.
const FINDINGS_PER_EVENT_MAX: u32 = 2;
const FINDINGS_MORE_MAX: u32 = 100;
/// Findings, or refused events, in one answer.
const PARTS_MAX: usize = 100_000;
/// Field of `ToBrain.batch`, and of `Batch.events`.
const BATCH: u32 = 2;
const EVENTS: u32 = 6;
/// The way to `FromBrain.answer.done.findings`, and to `FromBrain.answer.refused.events`.
const PARTS: [[u32; 3]; 2] = [[3, 2, 1], [3, 4, 1]];

/// The most findings that a batch of so many events may have.
pub(super) fn findings_max(events: usize) -> usize {
    FINDINGS_PER_EVENT_MAX as usize * events + FINDINGS_MORE_MAX as usize
}

/// A message on its way to the brain: the one part behind the other.
pub(super) struct Message {
    head: Vec<u8>,
    events: Vec<u8>,
}

/// A batch that has no number yet.
pub(super) struct Events {
    batch: v1::Batch,
    events: Vec<u8>,
}

impl Events {
    /// The events and why they come.
    pub(super) fn of(batch: &EventBatch<'_>) -> Self {
        let mut events = Vec::with_capacity(batch.len() * 256);
        for event in batch.events() {
            wire::encode_event(event, &event.id, &mut events);
        }
        let cause = match batch.cause() {
            Cause::Journal(stretch) => v1::batch::Cause::Journal(v1::Stretch {
                log: hexadecimal(stretch.log),
                first: stretch.first,
                end: stretch.end,
                part: stretch.part,
            }),
            Cause::Replay => v1::batch::Cause::Replay(v1::Replay {}),
            Cause::Redrive(letter) => v1::batch::Cause::Redrive(v1::Redrive {
                log: hexadecimal(letter.log),
                letter: letter.number,
            }),
        };
        let offsets = match batch.cause() {
            Cause::Redrive(_) => Vec::new(),
            Cause::Journal(_) | Cause::Replay => {
                batch.offsets().map(|(offset, _)| offset).collect()
            }
        };
        let batch = v1::Batch {
            sequence: 0,
            cause: Some(cause),
            offsets,
            events: None,
        };
        Self { batch, events }
    }

    /// How large the message will be, about.
    pub(super) fn bytes(&self) -> usize {
        self.events.len() + self.batch.encoded_len() + 40
    }

    /// The message, as number `sequence` of its stream.
    pub(super) fn numbered(self, sequence: u64) -> Message {
        let Self { mut batch, events } = self;
        batch.sequence = sequence;
        let mut inner = batch.encode_to_vec();
        encode_key(EVENTS, WireType::LengthDelimited, &mut inner);
        encode_varint(events.len() as u64, &mut inner);
        let mut head = Vec::with_capacity(inner.len() + 10);
        encode_key(BATCH, WireType::LengthDelimited, &mut head);
        encode_varint((inner.len() + events.len()) as u64, &mut head);
        head.append(&mut inner);
        Message { head, events }
    }
}

impl Message {
    /// The first of a stream.
    pub(super) fn hello(route: &str) -> Self {
        let hello = v1::Hello {
            protocol: PROTOCOL,
            route: route.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Some(v1::Limits {
                answer_bytes_max: ANSWER_BYTES_MAX as u64,
                findings_per_event_max: FINDINGS_PER_EVENT_MAX,
                findings_more_max: FINDINGS_MORE_MAX,
            }),
        };
        let hello = v1::ToBrain {
            message: Some(v1::to_brain::Message::Hello(hello)),
        };
        Self {
            head: hello.encode_to_vec(),
            events: Vec::new(),
        }
    }
}

fn hexadecimal(log: u128) -> String {
    format!("{log:032x}")
}

/// How the messages of a stream are written and read.
pub(super) struct BrainCodec;

impl Codec for BrainCodec {
    type Encode = Message;
    type Decode = v1::FromBrain;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BrainCodec {
    type Item = Message;
    type Error = Status;

    fn encode(&mut self, item: Message, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(item.head.len() + item.events.len());
        out.put_slice(&item.head);
        out.put_slice(&item.events);
        Ok(())
    }
}

impl Decoder for BrainCodec {
    type Item = v1::FromBrain;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<v1::FromBrain>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        read(&bytes).map(Some).map_err(Status::data_loss)
    }
}

fn read(bytes: &Bytes) -> Result<v1::FromBrain, String> {
    let broken = |error: prost::DecodeError| format!("it sent no message of the contract: {error}");
    match excess(bytes).map_err(broken)? {
        None => v1::FromBrain::decode(bytes.clone()).map_err(broken),
        Some(words) => {
            let outline = Outline::decode(bytes.clone()).map_err(broken)?;
            let answer = outline.answer.ok_or_else(|| words.clone())?;
            Ok(v1::FromBrain {
                credit: outline.credit,
                message: Some(from_brain::Message::Answer(v1::Answer {
                    sequence: answer.sequence,
                    result: Some(too_much(words)),
                })),
            })
        }
    }
}

/// What an answer counts as that is over its limits: halves of its batch are tried.
pub(super) fn too_much(message: String) -> answer::Result {
    let events = Vec::new();
    answer::Result::Refused(v1::Refused { events, message })
}

/// How a message is over the limits, if it is.
fn excess(bytes: &[u8]) -> Result<Option<String>, prost::DecodeError> {
    if bytes.len() > ANSWER_BYTES_MAX {
        let bytes = bytes.len();
        let words = format!("its answer has {bytes} bytes: {ANSWER_BYTES_MAX} are the most");
        return Ok(Some(words));
    }
    for way in PARTS {
        let parts = count(bytes, &way)?;
        if parts > PARTS_MAX {
            let words = format!("its answer has {parts} parts: {PARTS_MAX} are the most");
            return Ok(Some(words));
        }
    }
    Ok(None)
}

/// A `FromBrain`, without what is in its answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Outline {
    #[prost(uint32, tag = "1")]
    credit: u32,
    #[prost(message, optional, tag = "3")]
    answer: Option<Numbered>,
}

/// An `Answer`, as far as it says to what.
#[derive(Clone, PartialEq, prost::Message)]
struct Numbered {
    #[prost(uint64, tag = "1")]
    sequence: u64,
}

/// How many fields there are at the end of the way.
fn count(mut bytes: &[u8], way: &[u32]) -> Result<usize, prost::DecodeError> {
    let mut found = 0;
    while bytes.has_remaining() {
        let (field, wire_type) = decode_key(&mut bytes)?;
        match way.split_first() {
            Some((step, rest)) if field == *step && wire_type == WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
                let Some((inner, behind)) = bytes.split_at_checked(length) else {
                    // Its reader says what is wrong with it.
                    return Ok(found);
                };
                found += if rest.is_empty() {
                    1
                } else {
                    count(inner, rest)?
                };
                bytes = behind;
            }
            _ => skip_field(wire_type, field, &mut bytes, Default::default())?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use telemetryx_common::{Event, Timestamp};

    use super::*;
    use crate::route::{Letter, Stretch};

    fn events(cause: Cause) -> EventBatch<'static> {
        let mut batch = EventBatch::new(cause, Timestamp::from_unix_nanos(7));
        for offset in [3, 5, 300] {
            let mut event = Event::new(Timestamp::from_unix_nanos(1_000 + i64::from(offset)));
            event.id = format!("e-{offset}").into();
            event.payload = "{\"n\":1}".into();
            event.attributes = vec![("b".into(), "2".into()), ("a".into(), "1".into())];
            batch.push(u64::from(offset as u32), event);
        }
        let mut made = Event::new(Timestamp::from_unix_nanos(9));
        made.id = "made".into();
        batch.push_derived(made);
        batch
    }

    fn sent(batch: &EventBatch<'_>) -> v1::Batch {
        let message = Events::of(batch).numbered(41);
        let bytes = [message.head, message.events].concat();
        match v1::ToBrain::decode(bytes.as_slice()).unwrap().message {
            Some(v1::to_brain::Message::Batch(batch)) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_by_hand_is_what_prost_reads() {
        let stretch = Stretch {
            log: 0xabc,
            first: 3,
            end: 400,
            part: 2,
        };
        let batch = sent(&events(Cause::Journal(stretch)));
        assert_eq!((batch.sequence, batch.offsets), (41, vec![3, 5, 300]));
        let Some(v1::batch::Cause::Journal(cause)) = batch.cause else {
            panic!("{:?}", batch.cause)
        };
        assert_eq!(cause.log, format!("{:032x}", 0xabc));
        assert_eq!((cause.first, cause.end, cause.part), (3, 400, 2));
        let events = batch.events.unwrap().events;
        let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["e-3", "e-5", "e-300", "made"]);
        assert_eq!(events[0].payload, "{\"n\":1}");
        assert_eq!(events[1].attributes["a"], "1");
    }

    #[test]
    fn a_redriven_event_says_which_letter_it_is_and_has_no_offset() {
        let letter = Letter { log: 1, number: 8 };
        let batch = sent(&events(Cause::Redrive(letter)));
        assert!(batch.offsets.is_empty());
        assert!(
            matches!(batch.cause, Some(v1::batch::Cause::Redrive(redrive)) if redrive.letter == 8)
        );
        let replay = sent(&events(Cause::Replay));
        assert_eq!(replay.offsets.len(), 3);
    }

    #[test]
    fn answers_over_the_limits_are_refusals_of_their_batch_and_not_read() {
        let answer = |findings: usize, payload: usize| {
            let mut findings = vec![v1::Finding::default(); findings];
            findings[0].event = Some(v1::Event {
                payload: vec![b'x'; payload].into(),
                ..v1::Event::default()
            });
            let answer = v1::Answer {
                sequence: 7,
                result: Some(answer::Result::Done(v1::Done { findings })),
            };
            let message = v1::FromBrain {
                credit: 3,
                message: Some(from_brain::Message::Answer(answer)),
            };
            let read = read(&Bytes::from(message.encode_to_vec())).unwrap();
            let Some(from_brain::Message::Answer(answer)) = read.message else {
                panic!("{read:?}")
            };
            assert_eq!((read.credit, answer.sequence), (3, 7));
            answer.result.unwrap()
        };
        let refused = |result| match result {
            answer::Result::Refused(refused) => refused,
            other => panic!("{other:?}"),
        };
        assert!(matches!(answer(PARTS_MAX, 0), answer::Result::Done(_)));
        let many = refused(answer(PARTS_MAX + 1, 0));
        assert!(many.message.contains("100001 parts") && many.events.is_empty());
        let large = refused(answer(1, ANSWER_BYTES_MAX));
        assert!(large.message.contains("8388608 are the most"), "{large:?}");
        // What answers nothing cannot be a refusal of something.
        let ready = v1::FromBrain {
            credit: 1,
            message: Some(from_brain::Message::Ready(v1::Ready {
                brain: "x".repeat(ANSWER_BYTES_MAX),
                ..v1::Ready::default()
            })),
        };
        read(&Bytes::from(ready.encode_to_vec())).unwrap_err();
        for bytes in [
            &b"\x1a\xff"[..],
            b"\x1a\x05\x12",
            b"\xff\xff\xff",
            b"\x1a\x02\x12\x7f",
        ] {
            let error = read(&Bytes::copy_from_slice(bytes)).unwrap_err();
            assert!(error.contains("no message of the contract"), "{error}");
        }
    }
}

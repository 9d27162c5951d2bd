//! What an answer says about the events of its request.

use super::http::Answer;
use super::protocol::Protocol;
use crate::ingress::otlp::DROPPED;

/// The events of one request: accepted, rejected, shed, or none of these, and then the request was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: u16,
    pub(super) accepted: u64,
    /// Invalid ones.
    pub(super) rejected: u64,
    /// Dropped by an overload policy: answered as if taken in, promised nothing.
    pub(super) shed: u64,
    /// Places of the events that were not taken, from 0; `None` if the answer does not say which they are.
    pub(super) refused: Option<Vec<u64>>,
}

#[derive(serde::Deserialize)]
struct Body<'a> {
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    accepted: Option<u64>,
    #[serde(default)]
    rejected: u64,
    /// Part of the accepted ones, where a sample was taken.
    #[serde(default)]
    shed: u64,
    #[serde(borrow, default)]
    durability: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    errors: Vec<Place>,
}

#[derive(serde::Deserialize)]
struct Place {
    index: u64,
}

impl Verdict {
    /// Of an answer to a request of `batch` events.
    pub(super) fn of(answer: &Answer<'_>, protocol: Protocol, batch: u64) -> Self {
        let mut verdict = Self {
            status: answer.status,
            accepted: 0,
            rejected: 0,
            shed: 0,
            refused: Some(Vec::new()),
        };
        if protocol.is_otlp() {
            if answer.status == protocol.taken() {
                let (rejected, shed) = partial_success(answer.body);
                verdict.rejected = rejected.min(batch);
                verdict.shed = shed.min(batch - verdict.rejected);
                verdict.accepted = batch - verdict.rejected - verdict.shed;
                verdict.refused = (verdict.accepted == batch).then(Vec::new);
            }
            return verdict;
        }
        let body = serde_json::from_slice::<Body<'_>>(answer.body).ok();
        // A frame has its status inside.
        if protocol == Protocol::Tcp {
            verdict.status = body.as_ref().and_then(|body| body.status).unwrap_or(0);
        }
        let places = |body: &Body<'_>| body.errors.iter().map(|error| error.index).collect();
        match (verdict.status == protocol.taken(), body) {
            // A server that is no TelemetryX may answer 202 with any body: then all is accepted.
            (true, None) => verdict.accepted = batch,
            (true, Some(body)) => {
                let accepted = body.accepted.unwrap_or(batch);
                let all_shed = body.durability.as_deref() == Some("shed");
                verdict.shed = if all_shed { accepted } else { body.shed };
                verdict.accepted = accepted.saturating_sub(verdict.shed);
                verdict.rejected = body.rejected;
                if body.shed > 0 {
                    verdict.refused = None;
                } else if body.rejected > 0 {
                    let places: Vec<_> = places(&body);
                    verdict.refused = (places.len() as u64 == body.rejected).then_some(places);
                }
            }
            // Every event was read and found invalid.
            (false, Some(body)) if verdict.status == 400 && !body.errors.is_empty() => {
                verdict.rejected = batch;
            }
            (false, _) => {}
        }
        verdict
    }
}

/// What the `partial_success` of an `ExportLogsServiceResponse` says: how many records were rejected, and how many the
/// overflow policy dropped, which OTLP has no number for.
fn partial_success(body: &[u8]) -> (u64, u64) {
    let partial = part(body, 0x0a).unwrap_or_default();
    let (at, rejected) = field(partial, 0x08).unwrap_or_default();
    let message = partial.get(at..).and_then(|rest| part(rest, 0x12));
    let message = message.and_then(|message| std::str::from_utf8(message).ok());
    let shed = message.and_then(|message| message.split_once(DROPPED)?.0.parse().ok());
    (rejected, shed.unwrap_or(0))
}

/// The bytes after the tag and the length at the front.
fn part(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (at, length) = field(bytes, tag)?;
    bytes.get(at..at.checked_add(usize::try_from(length).ok()?)?)
}

/// The number after the tag at the front (a value or a length), and where it ends.
fn field(bytes: &[u8], tag: u8) -> Option<(usize, u64)> {
    let rest = bytes.strip_prefix(&[tag])?;
    let length = rest.iter().take(10).position(|byte| *byte < 0x80)? + 1;
    let number = rest[..length]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f));
    Some((1 + length, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &[u8], protocol: Protocol) -> Verdict {
        let answer = Answer {
            status,
            body,
            close: false,
        };
        Verdict::of(&answer, protocol, 10)
    }

    #[test]
    fn every_event_of_an_answered_request_is_one_of_four_kinds() {
        let counts = |verdict: Verdict| (verdict.accepted, verdict.rejected, verdict.shed);
        let http = |status, body: &str| counts(of(status, body.as_bytes(), Protocol::Http));
        assert_eq!(http(202, ""), (10, 0, 0));
        assert_eq!(
            http(202, r#"{"accepted":7,"rejected":3,"errors":[]}"#),
            (7, 3, 0)
        );
        assert_eq!(
            http(202, r#"{"accepted":10,"rejected":0,"durability":"shed"}"#),
            (0, 0, 10)
        );
        assert_eq!(
            http(202, r#"{"accepted":9,"rejected":1,"shed":6}"#),
            (3, 1, 6)
        );
        assert_eq!(
            http(400, r#"{"error":{},"errors":[{"index":0}]}"#),
            (0, 10, 0)
        );
        assert_eq!(http(429, r#"{"error":{}}"#), (0, 0, 0));
        let framed = of(0, br#"{"status":202,"accepted":10}"#, Protocol::Tcp);
        assert_eq!((framed.status, counts(framed)), (202, (10, 0, 0)));
        assert_eq!(counts(of(202, b"{}", Protocol::OtlpHttp)), (0, 0, 0));
        assert_eq!(counts(of(200, b"", Protocol::OtlpHttp)), (10, 0, 0));
    }

    #[test]
    fn what_otlp_says_of_a_part_is_read() {
        use opentelemetry_proto::tonic::collector::logs::v1::{
            ExportLogsPartialSuccess, ExportLogsServiceResponse,
        };
        use prost::Message;
        let answer = |rejected, message: &str| {
            let answer = ExportLogsServiceResponse {
                partial_success: Some(ExportLogsPartialSuccess {
                    rejected_log_records: rejected,
                    error_message: message.to_owned(),
                }),
            };
            answer.encode_to_vec()
        };
        for rejected in [0, 3, 300] {
            let answer = answer(rejected, "no");
            assert_eq!(partial_success(&answer), (rejected as u64, 0));
        }
        let dropped = "7 dropped by the overflow policy";
        assert_eq!(partial_success(&answer(0, dropped)), (0, 7));
        let both = answer(2, &format!("{dropped}; 2 records were rejected"));
        assert_eq!(partial_success(&both), (2, 7));
        let verdict = of(200, &both, Protocol::OtlpGrpc);
        let counts = (verdict.accepted, verdict.rejected, verdict.shed);
        assert_eq!((counts, verdict.refused), ((1, 2, 7), None));
        assert_eq!(partial_success(&[0x0a, 0xff]), (0, 0));
    }
}

//! What OTLP answers, in the encoding of the request: `Export…ServiceResponse`, and `google.rpc.Status` for errors.

use std::convert::Infallible;
use std::time::Duration;

use telemetryx_common::DecodeError;
use telemetryx_common::json::{write_number, write_str};
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::Signal;
use super::wire::{Reader, Value, message_of, put_bytes_field, put_nested, put_varint_field};
use crate::ingress::answer::RETRY_AFTER_DEFAULT;
use crate::intake::{Accepted, Refusal, Rejections};

/// Messages are cut off here: in gRPC they are headers, and clients limit those.
const MESSAGE_BYTES_MAX: usize = 1024;
const RETRY_INFO: &str = "google.rpc.RetryInfo";
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Stands behind the number of records that the overflow policy dropped, at the front of the message of a partial success.
pub(crate) const DROPPED: &str = " dropped by the overflow policy";

/// How a request over HTTP is written, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Invalid records are no error of the request in OTLP: it is answered with how many they are, and an empty request is
/// answered as any other. What cannot be read has no line and no column here.
pub(super) fn settled(taken: Result<Accepted, Refusal>) -> Result<Accepted, Refusal> {
    let rejected = match taken {
        Err(Refusal::AllInvalid(rejected)) => rejected,
        Err(Refusal::BadRequest {
            code: "empty_batch",
            ..
        }) => Rejections::default(),
        Err(Refusal::Undecodable(DecodeError::Malformed { code, message, .. })) => {
            return Err(Refusal::BadRequest {
                code: code.as_str(),
                message: message.into_owned(),
            });
        }
        other => return other,
    };
    Ok(Accepted {
        events: 0,
        shed: 0,
        position: None,
        durability: "",
        identity: 0,
        rejected,
        allowance: None,
    })
}

/// The answer to records that were taken, perhaps but for some. A message without a count is a warning in OTLP: so are
/// told those that the overflow policy dropped.
pub(super) fn response(encoding: Encoding, signal: Signal, accepted: &Accepted) -> Vec<u8> {
    let Accepted { shed, rejected, .. } = accepted;
    let count = rejected.count as u64;
    let mut body = Vec::new();
    match (encoding, count + u64::from(*shed)) {
        (Encoding::Protobuf, 0) => {}
        (Encoding::Json, 0) => body.extend_from_slice(b"{}"),
        (Encoding::Protobuf, _) => {
            let write = |out: &mut Vec<u8>| {
                if count > 0 {
                    put_varint_field(1, count, out);
                }
                put_bytes_field(2, words_of(*shed, rejected).as_bytes(), out);
                Ok::<_, Infallible>(())
            };
            put_nested(1, &mut body, write).ok();
        }
        (Encoding::Json, _) => {
            body.extend_from_slice(b"{\"partialSuccess\":{");
            if count > 0 {
                body.push(b'"');
                body.extend_from_slice(signal.rejected().as_bytes());
                body.extend_from_slice(b"\":\"");
                write_number(count, &mut body);
                body.extend_from_slice(b"\",");
            }
            body.extend_from_slice(b"\"errorMessage\":");
            write_str(&words_of(*shed, rejected), &mut body);
            body.extend_from_slice(b"}}");
        }
    }
    body
}

/// How many records the receiver of a request rejected, and its words; `None` if its answer does not say so.
pub(crate) fn partial_success(answer: &[u8]) -> Option<(u64, String)> {
    let mut copied = answer.len();
    let told = message_of(answer, 1, &mut copied).ok()??;
    let (mut rejected, mut message) = (0, String::new());
    let mut reader = Reader::new(&told);
    while let Some((number, value)) = reader.next().ok()? {
        match (number, value) {
            (1, Value::Varint(count)) => rejected = count,
            (2, Value::Bytes(text)) => message = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    Some((rejected, message))
}

/// The delay of a `RetryInfo` in a `google.rpc.Status`: when whoever sent it wants to be asked again.
pub(crate) fn retry_delay(status: &[u8]) -> Option<Duration> {
    let mut details = Reader::new(status);
    while let Some((number, value)) = details.next().ok()? {
        let (3, Value::Bytes(detail)) = (number, value) else {
            continue;
        };
        let mut copied = detail.len();
        let kind = message_of(detail, 1, &mut copied).ok()?.unwrap_or_default();
        if !kind.ends_with(RETRY_INFO.as_bytes()) {
            continue;
        }
        let info = message_of(detail, 2, &mut copied).ok()?.unwrap_or_default();
        let delay = message_of(&info, 1, &mut copied).ok()?.unwrap_or_default();
        let (mut seconds, mut nanos) = (0, 0);
        let mut delay = Reader::new(&delay);
        while let Some((number, value)) = delay.next().ok()? {
            match (number, value) {
                (1, Value::Varint(count)) => seconds = count,
                (2, Value::Varint(count)) => nanos = u32::try_from(count).ok()?,
                _ => {}
            }
        }
        // A negative number is a very large one here.
        let whole = i64::try_from(seconds)
            .ok()
            .filter(|_| nanos < NANOS_PER_SECOND)?;
        return Some(Duration::new(whole.cast_unsigned(), nanos));
    }
    None
}

fn words_of(shed: u32, Rejections { count, errors }: &Rejections) -> String {
    let mut parts = Vec::new();
    if shed > 0 {
        parts.push(format!("{shed}{DROPPED}"));
    }
    let first = errors
        .first()
        .map(|first| format!("record {}: {}", first.index, first.message));
    match (count, first) {
        (0, _) => {}
        (1, first) => parts.extend(first),
        (count, first) => {
            let first = first.unwrap_or_default();
            parts.push(format!("{count} records were rejected; the first: {first}"));
        }
    }
    shortened(parts.join("; "))
}

/// An error as `google.rpc.Status`.
pub(super) fn status(encoding: Encoding, refusal: &Refusal) -> Vec<u8> {
    let (code, retry_after) = code(refusal);
    let message = shortened(refusal.to_string());
    let mut body = Vec::new();
    match encoding {
        Encoding::Protobuf => {
            put_varint_field(1, code_number(code), &mut body);
            put_bytes_field(2, message.as_bytes(), &mut body);
            if let Some(after) = retry_after {
                put_retry_info(after, &mut body);
            }
        }
        Encoding::Json => {
            body.extend_from_slice(b"{\"code\":");
            write_number(code_number(code), &mut body);
            body.extend_from_slice(b",\"message\":");
            write_str(&message, &mut body);
            if let Some(after) = retry_after {
                let kind = format!("type.googleapis.com/{RETRY_INFO}");
                body.extend_from_slice(b",\"details\":[{\"@type\":");
                write_str(&kind, &mut body);
                body.extend_from_slice(b",\"retryDelay\":\"");
                body.extend_from_slice(duration_json(after).as_bytes());
                body.extend_from_slice(b"\"}]");
            }
            body.push(b'}');
        }
    }
    body
}

/// The same as what gRPC answers with; a `google.rpc.Status` is in its details.
pub(super) fn grpc_status(refusal: &Refusal) -> tonic::Status {
    let (code, retry_after) = code(refusal);
    let details = status(Encoding::Protobuf, refusal).into();
    let mut metadata = MetadataMap::new();
    if let Some(after) = retry_after {
        // The Python SDK looks here, and not into the details.
        let info = MetadataValue::from_bytes(&retry_info(after));
        metadata.insert_bin("google.rpc.retryinfo-bin", info);
    }
    let message = shortened(refusal.to_string());
    tonic::Status::with_details_and_metadata(code, message, details, metadata)
}

/// A `Duration` as the JSON mapping of protobuf has it: seconds, with nine digits of a fraction.
fn duration_json(duration: Duration) -> String {
    format!("{}.{:09}s", duration.as_secs(), duration.subsec_nanos())
}

/// `details`: an `Any` with a `RetryInfo`.
fn put_retry_info(after: Duration, out: &mut Vec<u8>) {
    let write = |out: &mut Vec<u8>| {
        put_bytes_field(
            1,
            format!("type.googleapis.com/{RETRY_INFO}").as_bytes(),
            out,
        );
        put_bytes_field(2, &retry_info(after), out);
        Ok::<_, Infallible>(())
    };
    put_nested(3, out, write).ok();
}

/// A `RetryInfo`: a message with a `Duration`.
fn retry_info(after: Duration) -> Vec<u8> {
    let mut info = Vec::new();
    let write = |out: &mut Vec<u8>| {
        put_varint_field(1, after.as_secs(), out);
        put_varint_field(2, after.subsec_nanos().into(), out);
        Ok::<_, Infallible>(())
    };
    put_nested(1, &mut info, write).ok();
    info
}

/// The code of an error, and when to come back, if that may help.
fn code(refusal: &Refusal) -> (Code, Option<Duration>) {
    let later = Some(RETRY_AFTER_DEFAULT);
    match refusal {
        Refusal::Undecodable(error) if error.is_too_large() => (Code::ResourceExhausted, None),
        Refusal::Undecodable(_) | Refusal::BadRequest { .. } | Refusal::AllInvalid(_) => {
            (Code::InvalidArgument, None)
        }
        Refusal::TooLarge { .. } => (Code::ResourceExhausted, None),
        Refusal::Unsupported(_) | Refusal::NotFound(_) | Refusal::MethodNotAllowed(_) => {
            (Code::Unimplemented, None)
        }
        Refusal::TooSlow(_) => (Code::DeadlineExceeded, None),
        Refusal::Gone => (Code::Cancelled, None),
        Refusal::Unauthorized(_) | Refusal::Unsigned(_) => (Code::Unauthenticated, None),
        Refusal::Forbidden(_) => (Code::PermissionDenied, None),
        Refusal::RateLimited(spent) => (Code::ResourceExhausted, Some(spent.retry_after)),
        Refusal::Overloaded { .. } => (Code::ResourceExhausted, later),
        Refusal::Unavailable(_) => (Code::Unavailable, later),
        Refusal::Internal => (Code::Internal, None),
    }
}

fn code_number(code: Code) -> u64 {
    i32::from(code).unsigned_abs().into()
}

fn shortened(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_read_as_it_is_written() {
        for delay in [Duration::ZERO, Duration::from_secs(2), Duration::new(3, 5)] {
            let mut status = Vec::new();
            put_varint_field(1, 8, &mut status);
            put_bytes_field(2, b"slow down", &mut status);
            // Another detail before it.
            let other = |out: &mut Vec<u8>| {
                put_bytes_field(1, b"type.googleapis.com/google.rpc.QuotaFailure", out);
                Ok::<_, Infallible>(())
            };
            put_nested(3, &mut status, other).ok();
            assert_eq!(retry_delay(&status), None);
            put_retry_info(delay, &mut status);
            assert_eq!(retry_delay(&status), Some(delay));
            for end in 0..status.len() {
                // Cut off anywhere it is no delay, and no fault.
                assert_eq!(retry_delay(status.get(..end).unwrap()), None);
            }
        }
        let mut negative = Vec::new();
        put_retry_info(Duration::from_secs(u64::MAX), &mut negative);
        assert_eq!(retry_delay(&negative), None);
    }

    #[test]
    fn a_duration_in_json_has_nine_digits_of_a_fraction() {
        for (duration, text) in [
            (Duration::from_secs(1), "1.000000000s"),
            (Duration::new(8, 5), "8.000000005s"),
            (Duration::new(99, 300_000_001), "99.300000001s"),
        ] {
            assert_eq!(duration_json(duration), text);
        }
    }
}

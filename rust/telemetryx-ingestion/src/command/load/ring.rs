//! Notifications of the Ring Partner API, signed.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::digits::{put, put_zeros};
use super::template::{Body, ID_DIGITS, SOURCE_DIGITS, Shape, Slot, Time};

/// Hex digits of HMAC-SHA256.
pub(super) const SIGNATURE_DIGITS: usize = 64;
/// Such ids are UUIDs: the number is the last group.
const ID_PREFIX_DEFAULT: &str = "00000000-0000-4000-8000";

/// One notification; there are no batches of them. The id is `meta.request_id`.
pub(super) fn notification(shape: &Shape) -> Body {
    let prefix = shape.id_prefix.as_deref().unwrap_or(ID_PREFIX_DEFAULT);
    let mut bytes = Vec::new();
    put(
        &mut bytes,
        br#"{"meta":{"version":"1.1","time":"2026-01-01T00:00:00.000000000Z","request_id":""#,
    );
    put(&mut bytes, prefix.as_bytes());
    put(&mut bytes, b"-");
    let id = put_zeros(&mut bytes, ID_DIGITS);
    put(&mut bytes, br#"","account_id":"ava1.ring.account.load"},"data":{"id":"load_motion_0","type":"motion_detected","subType":"human","attributes":{"source":"source-"#);
    let source = put_zeros(&mut bytes, SOURCE_DIGITS);
    put(&mut bytes, br#"","source_type":"devices","timestamp":"#);
    let time = put_zeros(&mut bytes, 13);
    put(
        &mut bytes,
        br#"},"relationships":{"devices":{"links":{"self":"/v1/devices/load"}}}}}"#,
    );
    Body {
        bytes,
        slots: vec![Slot {
            id: Some(id),
            time,
            kind: None,
            source,
        }],
        time: Time::Millis,
        content_type: "application/json",
    }
}

/// HMAC-SHA256 of the body as lower-case hex.
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
pub(super) fn signature(key: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key of any length");
    mac.update(body);
    let digits = mac.finalize().into_bytes();
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::load::protocol::Protocol;
    use crate::command::load::target::Target;
    use crate::command::load::template::Template;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn signature_is_that_of_rfc_4231() {
        assert_eq!(
            signature("Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn each_notification_has_its_own_id_time_and_signature() {
        let shape = Shape {
            protocol: Protocol::Ring,
            hmac_key: "secret".to_owned(),
            ..Shape::default()
        };
        let target = Target::plain("h:1", "/webhooks/ring");
        let mut template = Template::new(&target, &shape);
        let request = template.fill(7, UNIX_EPOCH + Duration::from_millis(1_700_000_000_005));
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let signed = format!(
            "x-signature: sha256={}",
            signature("secret", body.as_bytes())
        );
        assert!(head.contains(&signed), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body["meta"]["request_id"],
            "00000000-0000-4000-8000-000000000007"
        );
        assert_eq!(
            body["data"]["attributes"]["timestamp"],
            1_700_000_000_005_u64
        );
        assert_eq!(body["data"]["attributes"]["source"], "source-000007");
    }
}

//! What the tests of webhooks share: deliveries signed as their senders sign them, by `openssl`, so that no code of the
//! service has a part in it, and what became of them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use telemetryx_testkit::{Response, Service};

use super::{metric, settle};

/// The key of these two.
pub(crate) const KEY: &str = "ring-signing-key";
/// Ring and nobody else.
pub(crate) const RING: &str = "webhooks: { ring: { keys: [ring-signing-key] } }";

/// The HMAC of `signed`, by this hash of openssl's.
#[track_caller]
pub(crate) fn hmac(hash: &str, key: &[u8], signed: &[u8]) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["dgst", &format!("-{hash}"), "-mac", "HMAC", "-binary"])
        .args(["-macopt", &format!("hexkey:{}", hex(key))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = openssl.stdin.take().expect("it was asked for");
    stdin.write_all(signed).expect("openssl reads");
    drop(stdin);
    let output = openssl.wait_with_output().expect("openssl ends");
    assert!(output.status.success());
    output.stdout
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `sha256=<hex>` over the body, as Ring and GitHub write it.
#[track_caller]
pub(crate) fn sha256(key: &str, body: impl AsRef<[u8]>) -> String {
    let signature = hmac("sha256", key.as_bytes(), body.as_ref());
    format!("sha256={}", hex(&signature))
}

/// Seconds since 1970, `ahead` of now.
pub(crate) fn seconds(ahead: i64) -> String {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).expect("after it");
    (i64::try_from(now.as_secs()).expect("a while to go") + ahead).to_string()
}

/// `POST /webhooks/ring`, signed with this key.
#[track_caller]
pub(crate) fn ring(service: &Service, key: &str, body: impl AsRef<[u8]>) -> Response {
    let signature = sha256(key, &body);
    let headers = [
        ("content-type", "application/json"),
        ("x-signature", signature.as_str()),
    ];
    service.request("POST", "/webhooks/ring", &headers, body.as_ref())
}

/// A notification as Ring's documentation shows it; it happened at 1770000000123 ms.
pub(crate) fn motion(request_id: &str) -> String {
    format!(
        r#"{{
  "meta": {{ "version": "1.1", "time": "2026-02-02T02:40:01.987654321Z", "request_id": "{request_id}", "account_id": "ava1.ring.account.AB12" }},
  "data": {{
    "id": "device-7_motion_1770000000123", "type": "motion_detected", "subType": "human",
    "attributes": {{ "source": "device-7", "source_type": "devices", "timestamp": 1770000000123 }},
    "relationships": {{ "devices": {{ "links": {{ "self": "/v1/devices/device-7" }} }} }}
  }}
}}"#
    )
}

/// What is stored, oldest first, without the time of receipt.
#[track_caller]
pub(crate) fn kept(service: &Service) -> Vec<Value> {
    settle(service);
    let headers = [("accept", "application/x-ndjson")];
    let answer = service.request("GET", "/events", &headers, b"");
    let mut events = answer.expect_status(200).ndjson();
    for event in &mut events {
        event.as_object_mut().unwrap().remove("received_at");
    }
    events.reverse();
    events
}

/// `POST /webhooks/<name>`.
#[track_caller]
pub(crate) fn post(
    service: &Service,
    name: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    service.request(
        "POST",
        &format!("/webhooks/{name}"),
        headers,
        body.as_bytes(),
    )
}

/// What `/metrics` counts of one fault.
#[track_caller]
pub(crate) fn failures(service: &Service, webhook: &str, fault: &str) -> f64 {
    let labels = format!("webhook=\"{webhook}\",fault=\"{fault}\"");
    metric(
        service,
        &format!("webhook_signature_failures_total{{{labels}}}"),
    )
}

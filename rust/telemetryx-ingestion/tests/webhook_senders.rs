//! Senders of webhooks, each signing as it does: those that are known, and one that only the config describes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::webhooks::{failures, hex, hmac, kept, post, seconds};
use support::{accepted, assert_answer, error, start};

#[test]
fn stripe_signs_a_time_and_an_old_one_is_told_from_a_wrong_one() {
    let service = start("webhooks: { stripe: { keys: [whsec_old_secret, whsec_new_secret] } }");
    let body = r#"{ "id": "evt_1", "object": "event", "created": 1770000000, "type": "charge.succeeded", "account": "acct_9" }"#;
    let signed = |key: &str, t: &str| {
        let signed = format!("{t}.{body}");
        hex(&hmac("sha256", key.as_bytes(), signed.as_bytes()))
    };
    let send = |header: &str| post(&service, "stripe", &[("stripe-signature", header)], body);
    let (now, zeros) = (seconds(0), "0".repeat(64));
    // While a secret is rolled Stripe signs with both, and we know both.
    let (old, new) = (
        signed("whsec_old_secret", &now),
        signed("whsec_new_secret", &now),
    );
    for header in [
        format!("t={now},v1={old},v1={new},v0={zeros}"),
        format!("t={now},v1={zeros},v1={new}"),
        format!("t={now},v1={old}"),
    ] {
        assert_answer(&send(&header), 202, accepted(1));
    }
    for away in [-400, 400] {
        let then = seconds(away);
        let header = format!("t={then},v1={}", signed("whsec_new_secret", &then));
        let message = "the delivery was signed at a time too far from the service's clock";
        assert_answer(&send(&header), 401, error("signature_expired", message));
    }
    let later = seconds(1);
    assert_eq!(send(&format!("t={later},v1={new}")).status, 401);
    assert_eq!(send(&format!("t={now},v0={new}")).status, 401);
    assert_eq!(failures(&service, "stripe", "expired"), 2.0);
    assert_eq!(failures(&service, "stripe", "wrong"), 2.0);
    let [event] = &kept(&service)[..] else {
        panic!("one event")
    };
    assert_eq!(
        json!([event["id"], event["ts"], event["type"], event["source"]]),
        json!([
            "evt_1",
            "2026-02-02T02:40:00Z",
            "stripe.charge.succeeded",
            "acct_9"
        ])
    );
}

#[test]
fn slack_gets_its_challenge_back_only_if_it_signed_it() {
    let service = start("webhooks: { slack: { keys: [8f742231b10e8888abcd99yyyzzz85a5] } }");
    let key = b"8f742231b10e8888abcd99yyyzzz85a5";
    let send = |body: &str, time: &str, signed_time: &str| {
        let signed = format!("v0:{signed_time}:{body}");
        let signature = format!("v0={}", hex(&hmac("sha256", key, signed.as_bytes())));
        let headers = [
            ("x-slack-signature", signature.as_str()),
            ("x-slack-request-timestamp", time),
        ];
        post(&service, "slack", &headers, body)
    };
    let now = seconds(0);
    let challenge =
        r#"{"token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY","type":"url_verification"}"#;
    let answer = send(challenge, &now, &now);
    assert_eq!(
        (answer.status, answer.text(), answer.header("content-type")),
        (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY", Some("text/plain"))
    );
    assert_eq!(send(challenge, &now, "1770000000").status, 401);
    let event = r#"{"token":"t","team_id":"T1","event":{"type":"app_mention","text":"hi"},"type":"event_callback","event_id":"Ev1","event_time":1770000000}"#;
    assert_answer(&send(event, &now, &now), 202, accepted(1));
    let old = seconds(-400);
    assert_eq!(
        send(event, &old, &old).json()["error"]["code"],
        "signature_expired"
    );
    let [event] = &kept(&service)[..] else {
        panic!("one event")
    };
    assert_eq!(
        json!([event["id"], event["ts"], event["type"], event["source"]]),
        json!(["Ev1", "2026-02-02T02:40:00Z", "slack.app_mention", "T1"])
    );
}

#[test]
fn standard_webhooks_are_signed_with_their_id_and_time() {
    let service = start(
        "webhooks: { billing: { preset: standard-webhooks, keys: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw] } }",
    );
    let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let body = r#"{"type":"invoice.paid","timestamp":"2026-02-02T02:40:00Z","data":{"id":"in_1"}}"#;
    let now = seconds(0);
    let signed = format!("msg_1.{now}.{body}");
    let signature = STANDARD.encode(hmac("sha256", &key, signed.as_bytes()));
    let send = |id: &str| {
        let signature = format!("v1,{} v1,{signature}", STANDARD.encode([0; 32]));
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", now.as_str()),
            ("webhook-signature", &signature),
        ];
        post(&service, "billing", &headers, body)
    };
    assert_answer(&send("msg_1"), 202, accepted(1));
    assert_answer(&send("msg_1"), 202, accepted(1));
    assert_eq!(send("msg_2").json()["error"]["code"], "signature_wrong");
    let [event] = &kept(&service)[..] else {
        panic!("one event")
    };
    assert_eq!(
        json!([event["id"], event["ts"], event["type"], event["source"]]),
        json!(["msg_1", "2026-02-02T02:40:00Z", "invoice.paid", "billing"])
    );
}

/// A sender that nobody knows, described with every key that describes one.
const OWN: &str = r#"
webhooks:
  shop:
    keys: [c2hvcC1zaWduaW5nLWtleQ==]
    key_encoding: base64
    header: X-Shop-Sig
    prefix: "hs512 "
    encoding: base64
    algorithm: sha512
    signed: "{timestamp}\n{body}"
    timestamp_header: X-Shop-Time
    tolerance: 1m
    id: [/order/number]
    id_prefix: shop-
    time: [/at]
    time_unit: us
    type: [/kind]
    source: [/shops/0]
    attributes: { currency: /total/currency, gift: /gift }
    required: [id, type]
  forms: { keys: ["form key"], header: X-Sig, algorithm: sha1, body: text }
"#;

#[test]
fn any_sender_can_be_described() {
    let service = start(OWN);
    let send = |body: &str, ahead| {
        let time = seconds(ahead);
        let signed = format!("{time}\n{body}");
        let signature = hmac("sha512", b"shop-signing-key", signed.as_bytes());
        let signature = format!("hs512 {}", STANDARD.encode(signature));
        let headers = [("x-shop-sig", signature.as_str()), ("X-SHOP-TIME", &time)];
        post(&service, "shop", &headers, body)
    };
    let order = r#"{"order":{"number":17},"at":1770000000123456,"kind":"sold","shops":["Köln"],"total":{"currency":"EUR"},"gift":true}"#;
    assert_answer(&send(order, 0), 202, accepted(1));
    assert_answer(&send(order, 0), 202, accepted(1));
    assert_eq!(
        send(order, 600).json()["error"]["code"],
        "signature_expired"
    );
    assert_eq!(send(r#"{"kind":"sold"}"#, 0).status, 400);

    let form = "a=1&b=%C3%BC \"";
    let signature = hex(&hmac("sha1", b"form key", form.as_bytes()));
    for _ in 0..2 {
        let answer = post(&service, "forms", &[("x-sig", &signature)], form);
        assert_answer(&answer, 202, accepted(1));
    }
    let [sold, first, second] = &kept(&service)[..] else {
        panic!("three events")
    };
    assert_eq!(
        sold,
        &json!({ "id": "shop-17", "ts": "2026-02-02T02:40:00.123456Z", "type": "sold", "source": "Köln", "schema_version": 1,
            "attributes": { "currency": "EUR", "gift": "true" }, "payload": serde_json::from_str::<Value>(order).unwrap() })
    );
    for event in [first, second] {
        assert_eq!(
            json!([event["payload"], event["type"], event["source"]]),
            json!([form, "event", "forms"])
        );
    }
    assert_ne!(first["id"], second["id"], "nothing says where its id is");
}

#[test]
fn curl_and_openssl_are_all_that_a_sender_needs() {
    let service = start("webhooks: { github: { keys: [a-secret-key] } }");
    let script = r#"
set -eu
BODY='{"action":"opened","repository":{"full_name":"octo/repo"}}'
SIGNATURE=$(printf %s "$BODY" | openssl dgst -sha256 -hmac a-secret-key | sed 's/.*= /sha256=/')
curl -sS "$URL/webhooks/github" -H "X-Hub-Signature-256: $SIGNATURE" -H 'X-GitHub-Event: issues' -H 'X-GitHub-Delivery: d-1' -d "$BODY"
"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .env("URL", service.url())
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(answer["accepted"], 1, "{answer}");
    let [event] = &kept(&service)[..] else {
        panic!("one event")
    };
    assert_eq!(
        json!([
            event["id"],
            event["type"],
            event["source"],
            event["attributes"]
        ]),
        json!([
            "d-1",
            "github.issues",
            "octo/repo",
            { "action": "opened" }
        ])
    );
}

//! Signatures against what the senders publish, and headers that nobody should send.

use ::http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::config::{Config, Language};

/// `webhooks.<name>` with these settings.
fn scheme(name: &str, settings: &str) -> Scheme {
    let yaml = format!("webhooks: {{ {name}: {{ {settings} }} }}");
    let config = Config::from_text(&yaml, Language::Yaml).unwrap();
    Scheme::new(&config.webhooks[name]).unwrap()
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        let value = HeaderValue::from_str(value).unwrap();
        (HeaderName::from_static(name), value)
    };
    pairs.iter().map(pair).collect()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_nanos(seconds * 1_000_000_000)
}

fn verdict(
    scheme: &Scheme,
    sent: &[(&'static str, &str)],
    now: i64,
    body: &str,
) -> Result<(), String> {
    let headers = headers(sent);
    let claim = scheme.claim(&headers, at(now));
    let verified = claim.and_then(|claim| scheme.verify(&claim, body.as_bytes()));
    verified.map_err(|refusal| refusal.to_string())
}

/// The example on "Validating webhook deliveries" in GitHub's documentation.
#[test]
fn githubs_own_example_is_right() {
    let github = scheme("github", r#"keys: ["It's a Secret to Everybody"]"#);
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let sent = [("x-hub-signature-256", signature)];
    assert_eq!(verdict(&github, &sent, 0, "Hello, World!"), Ok(()));
    assert!(verdict(&github, &sent, 0, "Hello, World?").is_err());
}

/// The example on "Verifying requests from Slack".
const SLACK_BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";

#[test]
fn slacks_own_example_is_right_in_its_five_minutes() {
    let slack = scheme("slack", "keys: [8f742231b10e8888abcd99yyyzzz85a5]");
    let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let sent = [
        ("x-slack-signature", signature),
        ("x-slack-request-timestamp", "1531420618"),
    ];
    for now in [1_531_420_618, 1_531_420_918, 1_531_420_318] {
        assert_eq!(verdict(&slack, &sent, now, SLACK_BODY), Ok(()), "{now}");
    }
    for now in [1_531_420_919, 1_531_420_317] {
        let refused = verdict(&slack, &sent, now, SLACK_BODY).unwrap_err();
        assert!(refused.contains("too far"), "{refused}");
    }
    let later = [sent[0], ("x-slack-request-timestamp", "1531420619")];
    assert!(verdict(&slack, &later, 1_531_420_618, SLACK_BODY).is_err());
}

/// The example that the libraries of Standard Webhooks are tested with.
#[test]
fn the_own_example_of_standard_webhooks_is_right_wherever_it_stands() {
    let hooks = scheme(
        "standard-webhooks",
        "keys: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]",
    );
    let right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    let wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
    let body = r#"{"test": 2432232314}"#;
    fn sent(signature: &str) -> [(&'static str, &str); 3] {
        [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", signature),
        ]
    }
    for signature in [
        right.to_owned(),
        format!("{wrong} {right}"),
        format!("{right} {wrong}"),
        format!("v1a,{} {right} v2,x", "A".repeat(86)),
    ] {
        assert_eq!(
            verdict(&hooks, &sent(&signature), 1_614_265_330, body),
            Ok(()),
            "{signature}"
        );
    }
    for signature in [
        wrong.to_owned(),
        right.replace("v1,", "v2,"),
        right.replace("v1,", ""),
        right.trim_end_matches('=').to_owned(),
        right.replace(',', ", "),
    ] {
        assert!(
            verdict(&hooks, &sent(&signature), 1_614_265_330, body).is_err(),
            "{signature}"
        );
    }
    let other_id = [("webhook-id", "msg_x"), sent(right)[1], sent(right)[2]];
    assert!(verdict(&hooks, &other_id, 1_614_265_330, body).is_err());
}

/// `printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test_secret_0123456789`
const STRIPE: &str = "7e9a82a20098cf01f04d9c09f5a7459669bfecf51392ce3adb1445906fceff61";

#[test]
fn any_v1_of_stripes_header_may_be_the_right_one_and_no_other_scheme() {
    let stripe = scheme("stripe", "keys: [whsec_test_secret_0123456789]");
    let body = r#"{"id":"evt_1"}"#;
    let zeros = "0".repeat(64);
    let check = |header: &str| {
        verdict(
            &stripe,
            &[("stripe-signature", header)],
            1_700_000_000,
            body,
        )
        .is_ok()
    };
    for header in [
        format!("t=1700000000,v1={STRIPE}"),
        format!("v1={STRIPE}, t=1700000000"),
        format!("t=1700000000,v1={zeros},v1={STRIPE},v0={zeros}"),
    ] {
        assert!(check(&header), "{header}");
    }
    let many = format!(
        "t=1700000000{},v1={STRIPE}",
        format!(",v1={zeros}").repeat(8)
    );
    for header in [
        format!("t=1700000000,v0={STRIPE}"),
        format!("t=1700000001,v1={STRIPE}"),
        format!("v1={STRIPE}"),
        format!("t=,v1={STRIPE}"),
        format!("t=+1700000000,v1={STRIPE}"),
        format!("t=1700000000,v1={}", STRIPE.to_uppercase()),
        format!("t=1700000000;v1={STRIPE}"),
        "t=1700000000".to_owned(),
        "t=1700000000,v1=".to_owned(),
        String::new(),
        many,
    ] {
        assert!(!check(&header), "{header}");
    }
}

#[test]
fn a_time_of_signing_is_seconds_milliseconds_or_rfc_3339() {
    let time = |text| signed_at(text).map(|time| time.unix_nanos() / 1_000_000);
    for right in [
        "1700000000",
        "1700000000000",
        "2023-11-14T22:13:20Z",
        "2023-11-14T23:13:20.000+01:00",
    ] {
        assert_eq!(time(right), Some(1_700_000_000_000), "{right}");
    }
    for wrong in [
        "",
        "-1",
        "+1700000000",
        "1700000000.0",
        "170000000000",
        "99999999999",
        "99999999999999999999",
        "2023-11-14",
        "now",
        " 1700000000",
    ] {
        assert_eq!(time(wrong), None, "{wrong}");
    }
}

#[test]
fn a_header_that_is_there_twice_is_none() {
    let ring = scheme("ring", "keys: [ring-signing-key]");
    let signature = format!("sha256={}", "0".repeat(64));
    let mut twice = headers(&[("x-signature", &signature)]);
    assert!(ring.claim(&twice, at(0)).is_ok());
    twice.append("x-signature", HeaderValue::from_str(&signature).unwrap());
    let refused = ring.claim(&twice, at(0)).unwrap_err().to_string();
    assert_eq!(refused, "the signature is wrong");
    let none = ring.claim(&HeaderMap::new(), at(0)).unwrap_err();
    assert_eq!(none.to_string(), "the delivery is not signed");
}

#[test]
fn each_hash_and_each_way_to_write_it_has_its_own_length() {
    for (settings, right) in [
        ("algorithm: sha1, encoding: hex", 40),
        ("algorithm: sha256, encoding: hex", 64),
        ("algorithm: sha512, encoding: hex", 128),
    ] {
        let scheme = scheme(
            "any",
            &format!("keys: [signing-key], header: sig, {settings}"),
        );
        for length in [0, 1, 39, 40, 41, 63, 64, 65, 127, 128, 129] {
            let digits = "a".repeat(length);
            let claimed = scheme.claim(&headers(&[("sig", &digits)]), at(0)).is_ok();
            assert_eq!(claimed, length == right, "{settings} {length}");
        }
    }
}

#[test]
fn a_template_is_cut_into_its_pieces() {
    let text = |text: &str| Piece::Text(text.to_owned());
    assert_eq!(pieces("{body}"), [Piece::Body]);
    assert_eq!(
        pieces("v0:{timestamp}:{id}{body}!"),
        [
            text("v0:"),
            Piece::Timestamp,
            text(":"),
            Piece::Id,
            Piece::Body,
            text("!")
        ]
    );
}

proptest! {
    #[test]
    fn no_header_makes_it_panic_or_agree(value in "[ -~]{0,200}", parts in prop::collection::vec("(t=|v1=|v0=|,| )?[0-9a-f,=]{0,70}", 0..20)) {
        let stripe = scheme("stripe", "keys: [signing-key]");
        let hooks = scheme("standard-webhooks", "keys: [MDEyMzQ1Njc4OQ==], tolerance: 0s");
        for value in [value, parts.concat()] {
            prop_assert!(verdict(&stripe, &[("stripe-signature", &value)], 1_700_000_000, "[]").is_err());
            let sent = [("webhook-id", value.as_str()), ("webhook-timestamp", "1"), ("webhook-signature", &value)];
            prop_assert!(verdict(&hooks, &sent, 0, "[]").is_err());
        }
    }
}

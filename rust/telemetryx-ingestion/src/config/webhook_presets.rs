//! What is known of senders, from their own documentation. A preset is nothing but values for the keys of a webhook.

use std::collections::BTreeMap;

use super::webhooks::{
    KeyEncoding, SignatureSeparator, TimeUnit, WebhookConfig, WebhookPart, WebhookPreset,
};

impl WebhookPreset {
    /// The preset of a webhook that names none.
    pub(super) fn called(name: &str) -> Option<Self> {
        Some(match name {
            "ring" => Self::Ring,
            "github" => Self::Github,
            "stripe" => Self::Stripe,
            "slack" => Self::Slack,
            "standard-webhooks" => Self::StandardWebhooks,
            _ => return None,
        })
    }

    fn settings(self) -> WebhookConfig {
        match self {
            Self::Ring => ring(),
            Self::Github => github(),
            Self::Stripe => stripe(),
            Self::Slack => slack(),
            Self::StandardWebhooks => standard_webhooks(),
        }
    }
}

impl WebhookConfig {
    /// Fills in what it does not say itself.
    pub(super) fn adopt(&mut self, preset: WebhookPreset) {
        let known = preset.settings();
        self.preset = Some(preset);
        fill(&mut self.key_encoding, known.key_encoding);
        fill(&mut self.header, known.header);
        fill(&mut self.prefix, known.prefix);
        fill(&mut self.separator, known.separator);
        fill(&mut self.encoding, known.encoding);
        fill(&mut self.algorithm, known.algorithm);
        fill(&mut self.signed, known.signed);
        fill(&mut self.timestamp_header, known.timestamp_header);
        fill(&mut self.timestamp_prefix, known.timestamp_prefix);
        fill(&mut self.tolerance, known.tolerance);
        fill(&mut self.id_header, known.id_header);
        fill(&mut self.id_prefix, known.id_prefix);
        fill(&mut self.type_header, known.type_header);
        fill(&mut self.type_prefix, known.type_prefix);
        fill(&mut self.id, known.id);
        fill(&mut self.time, known.time);
        fill(&mut self.time_unit, known.time_unit);
        fill(&mut self.event_type, known.event_type);
        fill(&mut self.source, known.source);
        fill(&mut self.attributes, known.attributes);
        fill(&mut self.required, known.required);
        fill(&mut self.body, known.body);
        fill(&mut self.url_verification, known.url_verification);
    }
}

fn fill<T>(said: &mut Option<T>, known: Option<T>) {
    if said.is_none() {
        *said = known;
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn places<const N: usize>(pointers: [&str; N]) -> Option<Vec<String>> {
    Some(pointers.map(str::to_owned).to_vec())
}

fn attributes<const N: usize>(pointers: [(&str, &str); N]) -> Option<BTreeMap<String, String>> {
    let owned = |(name, pointer): (&str, &str)| (name.to_owned(), pointer.to_owned());
    Some(pointers.map(owned).into())
}

/// Amazon's developer documentation for Ring, page "Notifications" (payload version 1.1): `X-Signature: sha256=<hex>`
/// over the raw body, keyed with the partner's HMAC signing key. Notices about integrations and subscriptions carry no
/// `timestamp` and no `source`: when they were sent and the account stand in.
fn ring() -> WebhookConfig {
    WebhookConfig {
        header: text("x-signature"),
        prefix: text("sha256="),
        type_prefix: text("ring."),
        id: places(["/meta/request_id"]),
        time: places(["/data/attributes/timestamp", "/meta/time"]),
        time_unit: Some(TimeUnit::Ms),
        event_type: places(["/data/type"]),
        source: places(["/data/attributes/source", "/meta/account_id"]),
        attributes: attributes([
            ("account_id", "/meta/account_id"),
            ("sub_type", "/data/subType"),
            ("ring_event_id", "/data/id"),
        ]),
        required: Some(vec![WebhookPart::Id, WebhookPart::Time, WebhookPart::Type]),
        ..WebhookConfig::default()
    }
}

/// <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries> and
/// <https://docs.github.com/en/webhooks/webhook-events-and-payloads>: `X-Hub-Signature-256: sha256=<hex>` over the raw
/// body. Id and type are headers, which GitHub does not sign; bodies have no time of their own.
fn github() -> WebhookConfig {
    WebhookConfig {
        header: text("x-hub-signature-256"),
        prefix: text("sha256="),
        id_header: text("x-github-delivery"),
        type_header: text("x-github-event"),
        type_prefix: text("github."),
        source: places([
            "/repository/full_name",
            "/organization/login",
            "/enterprise/slug",
            "/installation/account/login",
            "/sender/login",
        ]),
        attributes: attributes([("action", "/action")]),
        ..WebhookConfig::default()
    }
}

/// <https://docs.stripe.com/webhooks/signature>: `Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>…]` over
/// `{timestamp}.{body}`, keyed with the endpoint's secret as it stands, `whsec_` included; 5 minutes of tolerance. Other
/// schemes in the header (`v0`) do not count. Connect says in `account` whose event it is.
fn stripe() -> WebhookConfig {
    WebhookConfig {
        header: text("stripe-signature"),
        prefix: text("v1="),
        separator: Some(SignatureSeparator::Comma),
        signed: text("{timestamp}.{body}"),
        timestamp_prefix: text("t="),
        type_prefix: text("stripe."),
        id: places(["/id"]),
        time: places(["/created"]),
        time_unit: Some(TimeUnit::S),
        event_type: places(["/type"]),
        source: places(["/account"]),
        ..WebhookConfig::default()
    }
}

/// <https://docs.slack.dev/authentication/verifying-requests-from-slack> and
/// <https://docs.slack.dev/apis/events-api>: `X-Slack-Signature: v0=<hex>` over `v0:{timestamp}:{body}` with the time
/// from `X-Slack-Request-Timestamp`; 5 minutes of tolerance; `url_verification` asks for its `challenge` back.
fn slack() -> WebhookConfig {
    WebhookConfig {
        header: text("x-slack-signature"),
        prefix: text("v0="),
        signed: text("v0:{timestamp}:{body}"),
        timestamp_header: text("x-slack-request-timestamp"),
        type_prefix: text("slack."),
        id: places(["/event_id"]),
        time: places(["/event_time"]),
        time_unit: Some(TimeUnit::S),
        event_type: places(["/event/type", "/type"]),
        source: places(["/team_id"]),
        url_verification: Some(true),
        ..WebhookConfig::default()
    }
}

/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>: `webhook-signature:
/// v1,<base64>[ v1,<base64>…]` over `{id}.{timestamp}.{body}`, keyed with the bytes that stand in base64 behind
/// `whsec_`. Signatures with a private key (`v1a,`) do not count.
fn standard_webhooks() -> WebhookConfig {
    WebhookConfig {
        key_encoding: Some(KeyEncoding::Base64),
        header: text("webhook-signature"),
        prefix: text("v1,"),
        separator: Some(SignatureSeparator::Space),
        encoding: Some(super::webhooks::SignatureEncoding::Base64),
        signed: text("{id}.{timestamp}.{body}"),
        timestamp_header: text("webhook-timestamp"),
        id_header: text("webhook-id"),
        time: places(["/timestamp"]),
        event_type: places(["/type"]),
        ..WebhookConfig::default()
    }
}

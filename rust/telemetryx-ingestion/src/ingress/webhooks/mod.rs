//! `POST /webhooks/<name>`: deliveries of senders that sign them, such as Ring, GitHub, Stripe or Slack.
//!
//! A delivery is one event: its body is the payload, byte for byte. In this order: may it come in, is there something
//! that could be a signature, was it made lately, is the body within its limits, did one of the keys sign it; only then is
//! the body unpacked and parsed. What is not signed costs a hash at most, and leaves nothing behind but a count.
//!
//! | file | purpose |
//! | --- | --- |
//! | `signature.rs` | whether a delivery is signed |
//! | `mapping.rs` | from a delivery to an event |

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::{Method, StatusCode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use telemetryx_common::{Found, Pointers, read_document};

use super::answer::{self, Answer};
use super::http_door::{Call, HttpDoor, Keys};
use super::protocol::{Built, HttpEndpoint, ProtocolFactory, Setup};
use crate::clock;
use crate::config::{ConfigError, WebhookConfig};
use crate::intake::{Accepted, Refusal};

mod mapping;
mod signature;

pub use mapping::{Delivery, Mapping};
pub use signature::{Claim, Scheme};

/// Before the name in the path.
const PATH: &str = "/webhooks/";
/// A body that asks for its challenge is small.
const CHALLENGE_BODY_MAX: usize = 4 << 10;

inventory::submit! {
    ProtocolFactory { name: "webhook", listens: |_| Vec::new(), build }
}

fn build(setup: &Setup<'_>) -> Result<Built, ConfigError> {
    let built = |(name, config): (&String, &WebhookConfig)| {
        let wrong = |(key, message): (&str, String)| ConfigError {
            origin: None,
            key: format!("webhooks.{name}.{key}"),
            message,
            hint: None,
        };
        let webhook = Webhook {
            scheme: Scheme::new(config).map_err(wrong)?,
            mapping: Mapping::new(name, config).map_err(wrong)?,
            challenge: match config.url_verification {
                Some(true) => Some(challenge_places().map_err(wrong)?),
                _ => None,
            },
        };
        Ok((name.clone(), webhook))
    };
    let webhooks: BTreeMap<_, _> = setup
        .config
        .webhooks
        .iter()
        .filter(|(name, webhook)| {
            if webhook.is_off() {
                tracing::warn!(webhook = name, "no keys: it is off");
            }
            !webhook.is_off()
        })
        .map(built)
        .collect::<Result<_, _>>()?;
    if webhooks.is_empty() {
        return Ok(Built::default());
    }
    let door = HttpDoor::new(Arc::clone(setup.intake), "webhook", &setup.config.http);
    Ok(Built {
        endpoints: vec![Arc::new(Webhooks { door, webhooks })],
        connections: Vec::new(),
    })
}

fn challenge_places() -> Result<Pointers, (&'static str, String)> {
    let wrong = |message: String| ("url_verification", message);
    let pointers = ["/type", "/challenge"].map(str::parse);
    let pointers = pointers.into_iter().collect::<Result<_, _>>();
    let pointers =
        pointers.map_err(|error: telemetryx_common::PointerError| wrong(error.to_string()))?;
    Pointers::new(pointers).ok_or_else(|| wrong("has too many places".to_owned()))
}

struct Webhooks {
    door: HttpDoor,
    webhooks: BTreeMap<String, Webhook>,
}

struct Webhook {
    scheme: Scheme,
    mapping: Mapping,
    /// Where a body asks for its challenge, if it may.
    challenge: Option<Pointers>,
}

/// What came of a signed delivery.
enum Taken {
    /// Its event is durable.
    Event(Accepted),
    /// It asked for this text back.
    Challenge(String),
}

impl HttpEndpoint for Webhooks {
    fn label(&self) -> &'static str {
        "/webhooks"
    }

    fn claims(&self, path: &str) -> bool {
        self.named(path).is_some()
    }

    fn answer<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        self.post(call).boxed()
    }
}

impl Webhooks {
    fn named(&self, path: &str) -> Option<(&str, &Webhook)> {
        let name = path.strip_prefix(PATH)?;
        let (name, webhook) = self.webhooks.get_key_value(name)?;
        Some((name, webhook))
    }

    /// Answers one delivery; its event is durable if the answer is 202.
    async fn post(&self, call: Call<'_>) -> Answer {
        let path = call.head.uri.path();
        let Some((name, webhook)) = self.named(path) else {
            return answer::refused(&Refusal::NotFound(format!("there is nothing at `{path}`")));
        };
        if call.head.method != Method::POST {
            return answer::refused(&Refusal::MethodNotAllowed("POST"));
        }
        let (peer, request_id) = (call.peer, call.request_id);
        let taking = self.take(webhook, call);
        match self.door.counted(peer, request_id, taking).await {
            Ok(Taken::Challenge(challenge)) => {
                answer::bytes(StatusCode::OK, "text/plain", challenge)
            }
            Ok(Taken::Event(accepted)) => answer::accepted(&accepted, request_id),
            Err(refusal) => {
                if let Refusal::Unsigned(fault) = refusal {
                    self.door.intake().unsigned(name, fault, peer.address.ip());
                }
                answer::refused(&refusal)
            }
        }
    }

    async fn take(&self, webhook: &Webhook, call: Call<'_>) -> Result<Taken, Refusal> {
        let request_id = call.request_id;
        let headers = &call.head.headers;
        let scheme = &webhook.scheme;
        let received = self
            .door
            .receive_signed(
                call,
                Keys::NotAsked,
                |headers| scheme.claim(headers, clock::now()),
                |claim, sent| scheme.verify(claim, sent),
            )
            .await?;
        if let Some(challenge) = webhook.challenge_in(&received.body) {
            return Ok(Taken::Challenge(challenge));
        }
        let delivery = Delivery::new(&webhook.mapping, headers)?;
        let accepting = self.door.accept(received, &delivery, request_id, None);
        accepting.await.map(Taken::Event)
    }
}

impl Webhook {
    /// The challenge of a body that asks for it.
    fn challenge_in(&self, body: &[u8]) -> Option<String> {
        let places = self.challenge.as_ref()?;
        if body.len() > CHALLENGE_BODY_MAX {
            return None;
        }
        let read = read_document(body, places).ok()?;
        match read.found.as_slice() {
            [Some(Found::Text(asked)), Some(Found::Text(challenge))]
                if asked == "url_verification" =>
            {
                Some(challenge.clone().into_owned())
            }
            _ => None,
        }
    }
}

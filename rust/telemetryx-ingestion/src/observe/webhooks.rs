//! What came to each webhook without a right signature, for `/metrics` and `/status`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

use super::metrics::webhook_signature_failures;
use crate::config::WebhookConfig;

/// What is wrong with the signature of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureFault {
    /// There is none.
    Missing,
    /// None of the keys made it, or it is not written as the sender writes it.
    Wrong,
    /// It was made at a time too far from the service's clock: somebody may be sending an old delivery again.
    Expired,
}

impl SignatureFault {
    const ALL: [Self; 3] = [Self::Missing, Self::Wrong, Self::Expired];

    /// The word for it in metrics and in `/status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Expired => "expired",
        }
    }
}

/// The counts of every webhook of the config, since the start.
#[derive(Default)]
pub struct WebhookCounts(BTreeMap<String, [WebhookCount; SignatureFault::ALL.len()]>);

struct WebhookCount {
    failures: AtomicU64,
    metric: Counter,
}

impl WebhookCounts {
    /// Of the webhooks that are not off.
    #[must_use]
    pub fn new(webhooks: &BTreeMap<String, WebhookConfig>) -> Self {
        let counts = |(name, _): (&String, &WebhookConfig)| {
            let counts = SignatureFault::ALL.map(|fault| WebhookCount {
                failures: AtomicU64::new(0),
                metric: webhook_signature_failures(name, fault.as_str()),
            });
            (name.clone(), counts)
        };
        let on = webhooks.iter().filter(|(_, webhook)| !webhook.is_off());
        Self(on.map(counts).collect())
    }

    /// Something came without a right signature.
    pub fn signature_failed(&self, webhook: &str, fault: SignatureFault) {
        let count = self.0.get(webhook).and_then(|all| all.get(fault as usize));
        if let Some(count) = count {
            count.failures.fetch_add(1, Ordering::Relaxed);
            count.metric.increment(1);
        }
    }

    /// Each webhook, and how often what happened there.
    pub fn signature_failures(
        &self,
    ) -> impl Iterator<Item = (&str, impl Iterator<Item = (SignatureFault, u64)>)> {
        self.0.iter().map(|(name, counts)| {
            let counts = counts
                .iter()
                .map(|count| count.failures.load(Ordering::Relaxed));
            (name.as_str(), SignatureFault::ALL.into_iter().zip(counts))
        })
    }
}

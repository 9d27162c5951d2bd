//! The keys of the sink, and what is wrong with them.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Duration, Secret};
use crate::sinks::tls::TlsFiles;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RedisConfig {
    pub(super) url: Option<Secret>,
    pub(super) url_file: Option<PathBuf>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) prefix: String,
    pub(super) minutes_ttl: Duration,
    pub(super) channel: Option<String>,
    pub(super) publish: Option<Publish>,
    pub(super) max_sources: usize,
    pub(super) max_types: usize,
    pub(super) timeout: Duration,
}

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Publish {
    Summary,
    Events,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            password_file: None,
            tls: None,
            prefix: "telemetryx".to_owned(),
            minutes_ttl: Duration::secs(48 * 3600),
            channel: None,
            publish: None,
            max_sources: 50_000,
            max_types: 1_000,
            timeout: Duration::secs(10),
        }
    }
}

impl RedisConfig {
    /// What is wrong, each mistake with its key.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut unless = |right: bool, mistake: &str| {
            if !right {
                mistakes.push(mistake.to_owned());
            }
        };
        let plain = |c: char| !c.is_control() && !matches!(c, '{' | '}');
        unless(
            (1..=64).contains(&self.prefix.len()) && self.prefix.chars().all(plain),
            "`prefix` must have 1 to 64 bytes, and no braces",
        );
        unless(
            (60..=31 * 24 * 3600).contains(&self.minutes_ttl.as_secs()),
            "`minutes_ttl` must be from 1m to 31d",
        );
        unless(
            self.channel.as_ref().is_none_or(|name| !name.is_empty()),
            "`channel` is empty: leave it out",
        );
        unless(
            self.publish.is_none() || self.channel.is_some(),
            "`publish` needs a `channel`",
        );
        unless(
            (1..=10_000_000).contains(&self.max_sources),
            "`max_sources` must be from 1 to 10000000",
        );
        unless(
            (1..=10_000).contains(&self.max_types),
            "`max_types` must be from 1 to 10000",
        );
        unless(
            (1..=600_000).contains(&self.timeout.as_millis()),
            "`timeout` must be from 1ms to 10m",
        );
        mistakes
    }
}

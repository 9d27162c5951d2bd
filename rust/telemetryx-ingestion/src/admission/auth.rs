//! Who is it? API keys for producers, the admin token for what changes or shows data.
//!
//! Keys are kept as SHA-256 only. Comparing digests of what the client sent needs no constant time: an attacker who
//! learns how much of a digest matched has learned nothing about a key.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use crate::config::{AdminConfig, AuthConfig};
use crate::intake::Refusal;

/// A producer that showed a key.
#[derive(Debug)]
pub struct Identity {
    /// The key's name in the config.
    pub name: String,
    /// The only source this key may send for.
    pub source: Option<String>,
}

/// The producers' keys; empty means that the service is open.
pub struct KeyRing {
    keys: Vec<([u8; 32], Arc<Identity>)>,
}

impl KeyRing {
    /// The keys of the config.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        let keys = config
            .keys
            .iter()
            .map(|key| {
                (
                    *key.sha256.as_bytes(),
                    Arc::new(Identity {
                        name: key.name.clone(),
                        source: key.source.as_ref().map(|source| source.as_str().to_owned()),
                    }),
                )
            })
            .collect();
        Self { keys }
    }

    /// True if no key is asked for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key the request shows; `None` if the service is open.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] without a key, or with one that is not known.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Refusal> {
        if self.is_open() {
            return Ok(None);
        }
        let Some(key) = bearer(headers).or_else(|| headers.get("x-api-key")?.to_str().ok()) else {
            return Err(Refusal::Unauthorized(
                "send an API key: `Authorization: Bearer <key>` or `X-Api-Key: <key>`",
            ));
        };
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        match self.keys.iter().find(|(known, _)| *known == digest) {
            Some((_, identity)) => Ok(Some(Arc::clone(identity))),
            None => Err(Refusal::Unauthorized("this API key is not known")),
        }
    }
}

/// Guards the endpoints that change or show data.
pub struct AdminGate {
    token: Option<[u8; 32]>,
}

impl AdminGate {
    /// The gate of the config: by token, or without one for loopback peers only.
    #[must_use]
    pub fn new(config: &AdminConfig) -> Self {
        Self {
            token: config
                .token
                .as_ref()
                .map(|token| Sha256::digest(token.expose().as_bytes()).into()),
        }
    }

    /// Lets an administrator in.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] without a token, [`Refusal::Forbidden`] with a wrong one or from elsewhere.
    pub fn check(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), Refusal> {
        match (&self.token, bearer(headers)) {
            (None, _) if peer.to_canonical().is_loopback() => Ok(()),
            (None, _) => Err(Refusal::Forbidden(
                "without `admin.token` in the config, this endpoint answers loopback peers only",
            )),
            (Some(_), None) => Err(Refusal::Unauthorized(
                "send the admin token: `Authorization: Bearer <token>`",
            )),
            (Some(token), Some(given))
                if *token == <[u8; 32]>::from(Sha256::digest(given.as_bytes())) =>
            {
                Ok(())
            }
            (Some(_), Some(_)) => Err(Refusal::Forbidden("this is not the admin token")),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_without_a_token_is_for_loopback_only() {
        let gate = AdminGate { token: None };
        assert!(gate.check(&HeaderMap::new(), [127, 0, 0, 1].into()).is_ok());
        assert!(
            gate.check(&HeaderMap::new(), "::ffff:127.0.0.1".parse().unwrap())
                .is_ok()
        );
        assert!(matches!(
            gate.check(&HeaderMap::new(), [10, 0, 0, 1].into()),
            Err(Refusal::Forbidden(_))
        ));
    }

    #[test]
    fn admin_with_a_token_asks_everybody_for_it() {
        let gate = AdminGate {
            token: Some(Sha256::digest(b"letmein").into()),
        };
        let mut headers = HeaderMap::new();
        let local = [127, 0, 0, 1].into();
        assert!(matches!(
            gate.check(&headers, local),
            Err(Refusal::Unauthorized(_))
        ));
        headers.insert(AUTHORIZATION, "bearer letmein".parse().unwrap());
        assert!(gate.check(&headers, local).is_ok());
        headers.insert(AUTHORIZATION, "Bearer letmeout".parse().unwrap());
        assert!(matches!(
            gate.check(&headers, local),
            Err(Refusal::Forbidden(_))
        ));
    }
}

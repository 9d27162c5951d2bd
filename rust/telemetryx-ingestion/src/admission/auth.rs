//! Who is it? API keys for producers, the admin token for what changes or shows data.
//!
//! Keys are kept as SHA-256 only. Comparing digests of what the client sent needs no constant time: an attacker who
//! learns how much of a digest matched has learned nothing about a key.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use sha2::{Digest, Sha256};

use super::rate_limit::{Allowance, Bucket, Spent};
use crate::config::{AdminConfig, AuthConfig};
use crate::intake::Refusal;

/// A producer that showed a key.
#[derive(Debug)]
pub struct Identity {
    /// The key's name in the config.
    pub name: String,
    /// The only source this key may send for.
    pub source: Option<String>,
    /// The key's place in the config.
    pub(super) place: usize,
    /// Its own rate.
    bucket: Option<Bucket>,
}

impl Identity {
    /// Takes one token of the key's own bucket; `None` if it has none.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take(&self) -> Result<Option<Allowance>, Spent> {
        self.bucket.as_ref().map(Bucket::take).transpose()
    }
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
            .enumerate()
            .map(|(place, key)| {
                let bucket = key.rps.and_then(|rps| Bucket::new(rps, key.burst()));
                (
                    *key.sha256.as_bytes(),
                    Arc::new(Identity {
                        name: key.name.clone(),
                        source: key.source.as_ref().map(|source| source.as_str().to_owned()),
                        place,
                        bucket,
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

    /// Whose key this is; `None` if the service is open.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] without a key, or with one that is not known.
    pub fn identify(&self, key: Option<&str>) -> Result<Option<Arc<Identity>>, Refusal> {
        if self.is_open() {
            return Ok(None);
        }
        let Some(key) = key else {
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

/// The API key in these headers (of HTTP or gRPC): `Authorization: Bearer …` or `X-Api-Key: …`.
///
/// # Errors
/// [`Refusal::BadRequest`] if one of them is there twice.
pub fn api_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let (bearer, key) = (bearer(headers)?, only(headers, "X-Api-Key")?);
    Ok(bearer.or_else(|| key?.to_str().ok()))
}

/// The value of a header that must not be there twice: a proxy before us could have believed the other one.
///
/// # Errors
/// [`Refusal::BadRequest`], which names it.
pub fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Refusal::BadRequest {
            code: "duplicate_header",
            message: format!("the header `{name}` is there twice: send it once"),
        }),
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
    /// [`Refusal::Unauthorized`] without a token, [`Refusal::Forbidden`] with a wrong one or from elsewhere,
    /// [`Refusal::BadRequest`] with two.
    pub fn check(&self, headers: &HeaderMap, uri: &Uri, peer: IpAddr) -> Result<(), Refusal> {
        match (&self.token, bearer(headers)?) {
            (None, _) if !peer.to_canonical().is_loopback() => Err(Refusal::Forbidden(
                "without `admin.token` in the config, this endpoint answers loopback peers only",
            )),
            (None, _) if !is_direct(headers, uri) => Err(Refusal::Forbidden(
                "this request came through a proxy or a web page: set `admin.token` in the config and send it",
            )),
            (None, _) => Ok(()),
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

/// Headers of what stands between a program and this service: proxies, and browsers on behalf of a page.
const THROUGH: [&str; 13] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "via",
    "origin",
    "sec-fetch-site",
];

/// True if a program on this machine asks for itself: no proxy in between, and no browser that a web page makes ask
/// (it says the page's origin; or, if the page's name was pointed at this machine, that name as host).
fn is_direct(headers: &HeaderMap, uri: &Uri) -> bool {
    let hosts = headers.get_all(HOST);
    // Where both are there, a proxy may have gone by either.
    let named = hosts.iter().map(|host| host.to_str().unwrap_or_default());
    let named = named.chain(uri.authority().map(Authority::as_str));
    hosts.iter().count() <= 1
        && named.into_iter().all(is_loopback)
        && !THROUGH.iter().any(|name| headers.contains_key(*name))
}

/// True if a host and its port, as clients name them, are on this machine; also if they name none.
fn is_loopback(named: &str) -> bool {
    let is_loopback = |name: Authority| {
        let name = name.host().trim_start_matches('[').trim_end_matches(']');
        name == "localhost"
            || name
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback())
    };
    // What stands before an `@` is read as a name by some.
    named.is_empty() || !named.contains('@') && named.parse().is_ok_and(is_loopback)
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let value = only(headers, "Authorization")?;
    let parts = value.and_then(|value| value.to_str().ok()?.split_once(' '));
    let bearer = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(bearer.map(|(_, token)| token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(
        gate: &AdminGate,
        headers: &[(&'static str, &str)],
        peer: &str,
    ) -> Result<(), Refusal> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        gate.check(
            &headers.collect(),
            &Uri::from_static("/events"),
            peer.parse().unwrap(),
        )
    }

    #[test]
    fn admin_without_a_token_is_for_programs_on_this_machine_only() {
        let gate = AdminGate { token: None };
        for host in ["localhost", "127.0.0.1:8080", "[::1]:8080"] {
            assert!(
                asked(&gate, &[("host", host)], "127.0.0.1").is_ok(),
                "{host}"
            );
        }
        assert!(asked(&gate, &[], "::ffff:127.0.0.1").is_ok());
        for (headers, peer) in [
            (("host", "localhost"), "10.0.0.1"),
            (("host", "evil.example"), "127.0.0.1"),
            (("origin", "http://evil.example"), "127.0.0.1"),
            (("x-forwarded-for", "10.0.0.1"), "127.0.0.1"),
        ] {
            let refused = asked(&gate, &[headers], peer);
            assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{headers:?}");
        }
    }

    #[test]
    fn admin_without_a_token_is_not_for_what_came_through_a_proxy() {
        let gate = AdminGate { token: None };
        for name in THROUGH {
            let refused = asked(&gate, &[("host", "localhost"), (name, "127.0.0.1")], "::1");
            assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{name}");
        }
        let hosts = |hosts: &[&'static str], target: &'static str| {
            let hosts = hosts.iter().map(|host| HeaderValue::from_static(host));
            let mut headers = HeaderMap::new();
            hosts.for_each(|host| {
                headers.append(HOST, host);
            });
            let peer = IpAddr::from([127, 0, 0, 1]);
            gate.check(&headers, &Uri::from_static(target), peer)
        };
        let here = "http://127.0.0.1:8080/events";
        assert!(hosts(&["localhost"], here).is_ok());
        assert!(hosts(&[], here).is_ok());
        for (given, target) in [
            (&["localhost", "localhost"][..], "/events"),
            (&["localhost", "evil.example"], "/events"),
            (&["evil.example", "localhost"], "/events"),
            (&["evil.example@localhost"], "/events"),
            (&["localhost"], "http://evil.example/events"),
            (&["localhost"], "http://evil.example@localhost/events"),
            (&["evil.example"], here),
        ] {
            let refused = hosts(given, target);
            assert!(
                matches!(refused, Err(Refusal::Forbidden(_))),
                "{given:?} {target}"
            );
        }
    }

    #[test]
    fn headers_that_say_who_sends_are_there_once() {
        for name in ["x-api-key", "authorization"] {
            let name = http::HeaderName::from_static(name);
            let mut headers = HeaderMap::new();
            headers.append(&name, HeaderValue::from_static("Bearer a"));
            assert!(api_key(&headers).unwrap().is_some());
            headers.append(&name, HeaderValue::from_static("Bearer a"));
            let refused = api_key(&headers).unwrap_err().to_string();
            assert!(refused.to_lowercase().contains(name.as_str()), "{refused}");
        }
    }

    #[test]
    fn admin_with_a_token_asks_everybody_for_it() {
        let gate = AdminGate {
            token: Some(Sha256::digest(b"letmein").into()),
        };
        let with = |value| asked(&gate, &[("authorization", value)], "127.0.0.1");
        assert!(matches!(
            asked(&gate, &[], "127.0.0.1"),
            Err(Refusal::Unauthorized(_))
        ));
        assert!(with("bearer letmein").is_ok());
        assert!(matches!(
            with("Bearer letmeout"),
            Err(Refusal::Forbidden(_))
        ));
    }
}

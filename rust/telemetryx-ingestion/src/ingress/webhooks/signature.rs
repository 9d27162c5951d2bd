//! Whether a delivery is signed: what its headers claim, and whether one of the keys made that signature.
//!
//! Nothing here tells one wrong signature from another: every key is tried on every signature, and each comparison takes
//! as long as the next.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::{Choice, ConstantTimeEq};
use telemetryx_common::Timestamp;

use crate::config::{SignatureAlgorithm, SignatureEncoding, SignatureSeparator, WebhookConfig};
use crate::hex;
use crate::intake::Refusal;
use crate::observe::SignatureFault;

/// More signatures in one header than this are not looked at; senders send one for each of their keys.
const SIGNATURES_MAX: usize = 8;
const MISSING: Refusal = Refusal::Unsigned(SignatureFault::Missing);
const WRONG: Refusal = Refusal::Unsigned(SignatureFault::Wrong);
const EXPIRED: Refusal = Refusal::Unsigned(SignatureFault::Expired);

/// How one sender signs.
pub struct Scheme {
    header: HeaderName,
    prefix: String,
    separator: Option<char>,
    encoding: SignatureEncoding,
    keys: Vec<Key>,
    signed: Vec<Piece>,
    time: Option<TimeIn>,
    /// Zero: any time is right.
    tolerance: Duration,
    id_header: Option<HeaderName>,
}

/// A key, ready to hash.
#[derive(Clone)]
enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

/// A piece of what is signed.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Timestamp,
    Id,
    Body,
}

/// Where the time of signing is.
enum TimeIn {
    Header(HeaderName),
    /// In the signature's header, behind this prefix.
    Part(String),
}

/// What the headers of one delivery claim.
#[derive(Debug)]
pub struct Claim<'h> {
    signatures: Vec<Vec<u8>>,
    timestamp: &'h str,
    id: &'h str,
}

impl Scheme {
    /// The scheme of a config that was settled.
    ///
    /// # Errors
    /// A key of the config, and what is wrong with it.
    pub fn new(config: &WebhookConfig) -> Result<Self, (&'static str, String)> {
        let header = |key: &'static str, name: &Option<String>| match name {
            None => Ok(None),
            Some(name) => HeaderName::from_bytes(name.as_bytes())
                .map(Some)
                .map_err(|error| (key, error.to_string())),
        };
        let algorithm = config.algorithm.unwrap_or(SignatureAlgorithm::Sha256);
        let key = |key| {
            let bytes = config.key_bytes(key).map_err(|error| error.to_string())?;
            Key::new(algorithm, &bytes)
        };
        let keys = config.keys.iter().map(key).collect::<Result<_, _>>();
        let time = match &config.timestamp_prefix {
            Some(prefix) => Some(TimeIn::Part(prefix.clone())),
            None => header("timestamp_header", &config.timestamp_header)?.map(TimeIn::Header),
        };
        Ok(Self {
            header: header("header", &config.header)?
                .ok_or_else(|| ("header", "is missing".to_owned()))?,
            prefix: config.prefix.clone().unwrap_or_default(),
            separator: match config.separator {
                None | Some(SignatureSeparator::None) => None,
                Some(SignatureSeparator::Comma) => Some(','),
                Some(SignatureSeparator::Space) => Some(' '),
            },
            encoding: config.encoding.unwrap_or(SignatureEncoding::Hex),
            keys: keys.map_err(|error| ("keys", error))?,
            signed: pieces(config.signed.as_deref().unwrap_or("{body}")),
            time,
            tolerance: config.tolerance.map(Into::into).unwrap_or_default(),
            id_header: header("id_header", &config.id_header)?,
        })
    }

    /// What the headers claim; asked before the body is read.
    ///
    /// # Errors
    /// [`Refusal::Unsigned`]: no body could be right with them.
    pub fn claim<'h>(&self, headers: &'h HeaderMap, now: Timestamp) -> Result<Claim<'h>, Refusal> {
        let header = claimed(headers, &self.header)?;
        let timestamp = match &self.time {
            None => "",
            Some(TimeIn::Header(name)) => claimed(headers, name)?,
            Some(TimeIn::Part(prefix)) => self
                .parts(header)
                .find_map(|part| part.strip_prefix(prefix.as_str()))
                .ok_or(WRONG)?,
        };
        if self.time.is_some() {
            self.check_time(timestamp, now)?;
        }
        let id = match &self.id_header {
            Some(name) if self.signed.contains(&Piece::Id) => claimed(headers, name)?,
            _ => "",
        };
        let signatures: Vec<_> = self
            .parts(header)
            .filter_map(|part| self.decoded(part.strip_prefix(self.prefix.as_str())?))
            .take(SIGNATURES_MAX)
            .collect();
        if signatures.is_empty() {
            return Err(WRONG);
        }
        Ok(Claim {
            signatures,
            timestamp,
            id,
        })
    }

    /// Whether one of the keys signed the body as it was sent.
    ///
    /// # Errors
    /// [`Refusal::Unsigned`].
    pub fn verify(&self, claim: &Claim<'_>, sent: &[u8]) -> Result<(), Refusal> {
        let mut right = Choice::from(0);
        for key in &self.keys {
            let pieces = self.signed.iter().map(|piece| match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Timestamp => claim.timestamp.as_bytes(),
                Piece::Id => claim.id.as_bytes(),
                Piece::Body => sent,
            });
            right |= key.clone().signs(pieces, &claim.signatures);
        }
        if bool::from(right) {
            Ok(())
        } else {
            Err(WRONG)
        }
    }

    fn check_time(&self, timestamp: &str, now: Timestamp) -> Result<(), Refusal> {
        let signed_at = signed_at(timestamp).ok_or(WRONG)?;
        let away = now.unix_nanos().abs_diff(signed_at.unix_nanos());
        if !self.tolerance.is_zero() && Duration::from_nanos(away) > self.tolerance {
            return Err(EXPIRED);
        }
        Ok(())
    }

    fn parts<'h>(&self, header: &'h str) -> impl Iterator<Item = &'h str> {
        let separator = self.separator;
        let mut whole = separator.is_none().then_some(header);
        let mut parts = separator.map(|separator| header.split(separator).map(str::trim));
        std::iter::from_fn(move || whole.take().or_else(|| parts.as_mut()?.next()))
    }

    fn decoded(&self, signature: &str) -> Option<Vec<u8>> {
        let length = self.keys.first()?.signature_bytes();
        let decoded = match self.encoding {
            SignatureEncoding::Hex if signature.len() == 2 * length => lower_hex(signature)?,
            SignatureEncoding::Base64 if signature.len() <= 2 * length => {
                STANDARD.decode(signature).ok()?
            }
            _ => return None,
        };
        (decoded.len() == length).then_some(decoded)
    }
}

impl Key {
    fn new(algorithm: SignatureAlgorithm, key: &[u8]) -> Result<Self, String> {
        let made = match algorithm {
            SignatureAlgorithm::Sha1 => Hmac::new_from_slice(key).map(Self::Sha1),
            SignatureAlgorithm::Sha256 => Hmac::new_from_slice(key).map(Self::Sha256),
            SignatureAlgorithm::Sha512 => Hmac::new_from_slice(key).map(Self::Sha512),
        };
        made.map_err(|error| error.to_string())
    }

    fn signature_bytes(&self) -> usize {
        match self {
            Self::Sha1(_) => 20,
            Self::Sha256(_) => 32,
            Self::Sha512(_) => 64,
        }
    }

    fn signs<'p>(self, pieces: impl Iterator<Item = &'p [u8]>, signatures: &[Vec<u8>]) -> Choice {
        match self {
            Self::Sha1(mac) => signs(mac, pieces, signatures),
            Self::Sha256(mac) => signs(mac, pieces, signatures),
            Self::Sha512(mac) => signs(mac, pieces, signatures),
        }
    }
}

fn signs<'p>(
    mut mac: impl Mac,
    pieces: impl Iterator<Item = &'p [u8]>,
    signatures: &[Vec<u8>],
) -> Choice {
    pieces.for_each(|piece| mac.update(piece));
    let right = mac.finalize().into_bytes();
    signatures.iter().fold(Choice::from(0), |any, signature| {
        any | right.as_slice().ct_eq(signature)
    })
}

/// The time of signing: seconds or milliseconds since 1970, or RFC 3339.
fn signed_at(timestamp: &str) -> Option<Timestamp> {
    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Timestamp::parse(timestamp).ok();
    }
    // Seconds have 10 digits until the year 2286, milliseconds 13 since 2001.
    let unit = match timestamp.len() {
        1..=11 => 1_000_000_000,
        13..=14 => 1_000_000,
        _ => return None,
    };
    let nanos = timestamp.parse::<i64>().ok()?.checked_mul(unit)?;
    Some(Timestamp::from_unix_nanos(nanos))
}

/// The value of a header without which nothing is signed.
fn claimed<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Refusal> {
    if !headers.contains_key(name) {
        return Err(MISSING);
    }
    single(headers, name).ok_or(WRONG)
}

/// The value of a header that is there once; two would leave open which one the sender meant.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// The bytes of lower-case hexadecimal digits.
fn lower_hex(digits: &str) -> Option<Vec<u8>> {
    let is_lower = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    is_lower.then(|| hex::decode(digits.as_bytes())).flatten()
}

/// `v0:{timestamp}:{body}` in its pieces.
fn pieces(template: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(match name {
            "timestamp" => Piece::Timestamp,
            "id" => Piece::Id,
            _ => Piece::Body,
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    pieces
}

#[cfg(test)]
mod tests;

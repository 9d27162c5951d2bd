//! gzip, deflate and zstd, counting what comes out: a bomb is stopped at the limit, not after it.
//!
//! The only place that may decompress.
#![allow(clippy::disallowed_methods)]

use std::io::{self, Read};

use ::http::HeaderValue;
use bytes::Bytes;

use crate::admission::MemoryPermit;
use crate::intake::Refusal;

/// Memory taken at a time for what comes out.
const STEP: usize = 64 << 10;
/// The largest window a zstd frame may ask for: 8 MiB, what RFC 9659 asks of HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A content encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Zstd,
}

impl Encoding {
    /// What the header says; `None` for nothing or `identity`.
    pub(super) fn of(header: Option<&HeaderValue>) -> Result<Option<Self>, Refusal> {
        let Some(header) = header else {
            return Ok(None);
        };
        let name = header.to_str().unwrap_or_default().trim();
        Ok(Some(match name {
            _ if name.eq_ignore_ascii_case("identity") || name.is_empty() => return Ok(None),
            _ if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                Self::Gzip
            }
            _ if name.eq_ignore_ascii_case("deflate") => Self::Deflate,
            _ if name.eq_ignore_ascii_case("zstd") => Self::Zstd,
            _ => {
                return Err(Refusal::Unsupported(format!(
                    "the content encoding `{name}` is not known: send gzip, deflate, zstd or none"
                )));
            }
        }))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// Unpacks `sent` to at most `limit` bytes; `permit` grows with what comes out.
pub(super) fn unpack(
    encoding: Encoding,
    sent: &[u8],
    limit: usize,
    mut permit: MemoryPermit,
) -> Result<(Bytes, MemoryPermit), Refusal> {
    let broken = |error: io::Error| Refusal::BadRequest {
        code: "invalid_encoding",
        message: format!("the body is not {}: {error}", encoding.name()),
    };
    let mut reader: Box<dyn Read + '_> = match encoding {
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(sent)),
        // RFC 9110 means zlib; some clients send bare deflate.
        Encoding::Deflate if is_zlib(sent) => Box::new(flate2::read::ZlibDecoder::new(sent)),
        Encoding::Deflate => Box::new(flate2::read::DeflateDecoder::new(sent)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(sent).map_err(broken)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(broken)?;
            Box::new(decoder)
        }
    };
    let mut out = Vec::new();
    let mut taken = 0;
    loop {
        if out.len() == taken {
            permit.grow(STEP)?;
            taken += STEP;
            out.reserve_exact(STEP.max(out.len()).min(limit + 1));
        }
        let room = taken - out.len();
        let read = reader
            .by_ref()
            .take(room as u64)
            .read_to_end(&mut out)
            .map_err(broken)?;
        if out.len() > limit {
            return Err(Refusal::body_too_large(limit));
        }
        if read < room {
            return Ok((out.into(), permit));
        }
    }
}

/// A zlib header: method 8, and a check value that makes it a multiple of 31.
fn is_zlib(sent: &[u8]) -> bool {
    matches!(sent, [first, second, ..] if first & 0x0F == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;

    use super::*;
    use crate::admission::MemoryBudget;

    const TEXT: &[u8] = b"{\"ts\":1700000000}";

    fn unpacked(encoding: Encoding, sent: &[u8], limit: usize) -> Result<Bytes, Refusal> {
        unpack(
            encoding,
            sent,
            limit,
            MemoryBudget::new(1 << 20).take(0).unwrap(),
        )
        .map(|(body, _)| body)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_encoding_gives_back_what_was_packed() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(TEXT).unwrap();
        for (encoding, sent) in [
            (Encoding::Gzip, gzip(TEXT)),
            (Encoding::Deflate, zlib.finish().unwrap()),
            (Encoding::Deflate, bare.finish().unwrap()),
            (Encoding::Zstd, zstd::encode_all(TEXT, 3).unwrap()),
        ] {
            assert_eq!(unpacked(encoding, &sent, 100).unwrap(), TEXT);
            assert!(unpacked(encoding, &sent, TEXT.len()).is_ok());
            assert!(matches!(
                unpacked(encoding, &sent, TEXT.len() - 1),
                Err(Refusal::TooLarge { .. })
            ));
            assert!(matches!(
                unpacked(encoding, &sent[..sent.len() - 3], 100),
                Err(Refusal::BadRequest { .. })
            ));
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit_and_within_the_budget() {
        let bomb = gzip(&vec![0; 50 << 20]);
        assert!(matches!(
            unpacked(Encoding::Gzip, &bomb, 256 << 10),
            Err(Refusal::TooLarge { .. })
        ));
        let budget = MemoryBudget::new(128 << 10);
        let spent = unpack(Encoding::Gzip, &bomb, 5 << 20, budget.take(0).unwrap());
        assert!(matches!(spent, Err(Refusal::TooLarge { .. })));
        assert_eq!(budget.used(), 0);
    }
}

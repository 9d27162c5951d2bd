//! How a body is packed.

use std::io::Write as _;

use ::http::header::CONTENT_ENCODING;
use ::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;

use crate::sinks::DeliverError;

/// How a body is packed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::sinks) enum Compression {
    /// As it is.
    #[default]
    None,
    Gzip,
    Zstd,
}

/// Packs a body away from the threads that serve, and says so in the headers.
///
/// # Errors
/// [`DeliverError::Retryable`]: there is no memory for it.
pub(in crate::sinks) async fn pack(
    body: Vec<u8>,
    compression: Compression,
    headers: &mut HeaderMap,
) -> Result<Bytes, DeliverError> {
    let name = match compression {
        Compression::None => return Ok(body.into()),
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    };
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    let work = move || match compression {
        Compression::None => Ok(body),
        Compression::Gzip => gzip(&body),
        Compression::Zstd => zstd::bulk::compress(&body, 1),
    };
    let packed = tokio::task::spawn_blocking(work).await;
    let packed = packed.map_err(std::io::Error::other).flatten();
    packed
        .map(Bytes::from)
        .map_err(|error| DeliverError::Retryable(format!("a batch cannot be packed: {error}")))
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(body)?;
    writer.finish()
}

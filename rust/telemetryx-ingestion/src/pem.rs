//! Certificates and keys from PEM files. What is wrong with one is said in words for whoever named it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How much of a file is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const NO_AUTHORITIES: &str = "this machine has no certificates of authorities";

/// The certificates of a file, at least one, in their order.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(format!("`{}` holds no certificate", file.display())),
    }
}

/// The authorities whose certificates are in a file.
pub(crate) fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("`{}` cannot be used: {error}", file.display()))?;
    }
    Ok(roots)
}

/// The authorities that this machine trusts.
pub(crate) fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    match roots.add_parsable_certificates(found.certs).0 {
        0 => Err(NO_AUTHORITIES.to_owned()),
        _ => Ok(roots),
    }
}

/// The same, as PEM: for a library that wants to be told so.
#[cfg(feature = "kafka")]
pub(crate) fn system_authorities_as_pem() -> Result<String, String> {
    use base64::Engine;

    const LINE: usize = 64;
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(NO_AUTHORITIES.to_owned());
    }
    let mut pem = String::new();
    for certificate in &found.certs {
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(LINE) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    Ok(pem)
}

/// The private key of a file.
pub(crate) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The parser's own words could show a part of the key.
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|_| format!("`{}` holds no private key", file.display()))
}

/// What is in a file, up to a megabyte.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| format!("`{}` cannot be read: {}", file.display(), error.kind()))?;
    Ok(bytes)
}

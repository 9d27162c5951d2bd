//! Certificates and keys from PEM files. What is wrong with one is said in words for whoever named it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How much of a file is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
        0 => Err("this machine has no certificates of authorities".to_owned()),
        _ => Ok(roots),
    }
}

/// The private key of a file.
pub(crate) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The parser's own words could show a part of the key.
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|_| format!("`{}` holds no private key", file.display()))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| format!("`{}` cannot be read: {}", file.display(), error.kind()))?;
    Ok(bytes)
}

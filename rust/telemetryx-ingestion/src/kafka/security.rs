//! How Kafka is reached: over TLS or not, whom we trust, who we are. What `tls` and `options` say of it, as librdkafka's
//! options.
//!
//! A broker over TLS must prove who it is: its certificate is of an authority that is trusted, and for the name that it is
//! reached by. There is no way to do without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rdkafka::config::ClientConfig;
use sha2::{Digest, Sha256};
use toml::Value;

use crate::config::{KafkaTls, Secret};
use crate::pem;
use crate::sinks::secret::SinkSecret;

/// Options that may be in a file, which `<option>_file` names.
const SECRETS: [&str; 3] = ["sasl.password", "ssl.key.password", "ssl.keystore.password"];
/// Ways to say who we are that the client knows.
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const PROTOCOLS: &str = "`plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`";

/// Options of librdkafka that are not taken, by what they begin with, each with what is right.
const REFUSED: [(&str, &str); 8] = [
    ("sasl.oauthbearer.", "tokens are not asked for anywhere"),
    ("sasl.kerberos.", "Kerberos is not built in"),
    ("enable.sasl.oauthbearer.", "tokens are not made here"),
    ("ssl.engine.", "no library is loaded"),
    ("ssl.providers", "no library is loaded"),
    ("ssl.key.pem", "name a file in `tls.key_file`"),
    ("ssl.certificate.pem", "name a file in `tls.cert_file`"),
    ("ssl.ca.pem", "name a file in `tls.ca_file`"),
];

/// Whose certificates are taken, and whose name.
const VERIFIED: [(&str, &str); 2] = [
    ("enable.ssl.certificate.verification", "true"),
    ("ssl.endpoint.identification.algorithm", "https"),
];

/// Changes when a password or a certificate does.
pub(crate) type Fingerprint = [u8; 32];

/// What is read anew for each client.
#[derive(Debug, Default)]
pub(crate) struct Security {
    secrets: Vec<(&'static str, SinkSecret)>,
    /// Files that librdkafka reads.
    files: Vec<PathBuf>,
    /// Brokers are trusted whose authority this machine trusts.
    trusts_system: bool,
}

impl Security {
    /// Takes the secrets out of `options`.
    pub(crate) fn take(options: &mut BTreeMap<String, Value>, mistakes: &mut Vec<String>) -> Self {
        let mut secrets = Vec::new();
        for name in SECRETS {
            match secret(name, options) {
                Ok(found) => secrets.extend(found.map(|found| (name, found))),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        Self {
            secrets,
            ..Self::default()
        }
    }

    /// Says in `client` what follows from `tls` and from what it has been told by `options`, whose names are real ones.
    pub(crate) fn settle(
        &mut self,
        client: &mut ClientConfig,
        tls: Option<&KafkaTls>,
        mistakes: &mut Vec<String>,
    ) {
        let mechanism = client.get("sasl.mechanisms").map(str::to_owned);
        let has_login = self.has("sasl.password") || client.get("sasl.username").is_some();
        let given = client.get("security.protocol").map(str::to_lowercase);
        let protocol = match (given.as_deref(), tls) {
            (Some(given), None) => given,
            (Some(given @ ("ssl" | "sasl_ssl")), Some(_)) => given,
            (Some(given), Some(_)) => {
                mistakes.push(format!(
                    "`tls`: `options.security.protocol` is `{given}`, which is without TLS: leave one out"
                ));
                return;
            }
            (None, Some(_)) if mechanism.is_some() || has_login => "sasl_ssl",
            (None, Some(_)) => "ssl",
            (None, None) => "plaintext",
        };
        match (protocol.starts_with("sasl"), mechanism) {
            (true, None) => mistakes.push(format!(
                "`options.sasl.mechanism` is missing: one of {}",
                MECHANISMS.join(", ")
            )),
            (false, Some(_)) => mistakes.push(format!(
                "`options.sasl.mechanism`: nobody would be told who we are: `security.protocol` is `{protocol}`, \
                 and must be `sasl_ssl` or `sasl_plaintext`"
            )),
            (false, None) if has_login => mistakes.push(format!(
                "`options.sasl.password`: nobody would be told: `security.protocol` is `{protocol}`, and must be \
                 `sasl_ssl` or `sasl_plaintext`"
            )),
            _ => {}
        }
        client.set("security.protocol", protocol);
        if let Some(mechanism) = client.get("sasl.mechanisms").map(str::to_uppercase) {
            client.set("sasl.mechanisms", mechanism);
        }
        let is_encrypted = protocol.ends_with("ssl");
        if is_encrypted {
            for (name, value) in VERIFIED {
                client.set(name, value);
            }
            let none = KafkaTls::default();
            self.certificates(client, tls.unwrap_or(&none), mistakes);
        } else if let Some(name) = tls_option(client, self) {
            mistakes.push(format!(
                "`options.{name}`: `security.protocol` is `{protocol}`, and must be `ssl` or `sasl_ssl`"
            ));
        }
    }

    fn has(&self, name: &str) -> bool {
        self.secrets.iter().any(|(secret, _)| *secret == name)
    }

    /// Whom we trust, and who we are.
    fn certificates(
        &mut self,
        client: &mut ClientConfig,
        tls: &KafkaTls,
        mistakes: &mut Vec<String>,
    ) {
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            mistakes.push("`tls` takes `cert_file` and `key_file` together".to_owned());
        }
        // Of a key that is encrypted only librdkafka knows whether it is one.
        let is_plain = !self.has("ssl.key.password");
        let a_key = |file: &Path| match is_plain {
            true => pem::private_key(file).map(drop),
            false => Ok(()),
        };
        let named = [
            ("ca_file", "ssl.ca.location", &tls.ca_file),
            ("cert_file", "ssl.certificate.location", &tls.cert_file),
            ("key_file", "ssl.key.location", &tls.key_file),
        ];
        for (key, option, file) in named {
            let Some(file) = file else { continue };
            if client.get(option).is_some() {
                mistakes.push(format!(
                    "`options.{option}`: `tls.{key}` is the same: leave one out"
                ));
                continue;
            }
            let checked = match key {
                "ca_file" => pem::authorities(file).map(drop),
                "cert_file" => pem::certificates(file).map(drop),
                _ => a_key(file),
            };
            if let Err(why) = checked {
                mistakes.push(format!("`tls.{key}`: {why}"));
            }
            client.set(option, file.to_string_lossy());
        }
        self.trusts_system = client.get("ssl.ca.location").is_none();
        let options = [
            "ssl.ca.location",
            "ssl.certificate.location",
            "ssl.key.location",
            "ssl.keystore.location",
            "ssl.crl.location",
        ];
        let files = options.into_iter().filter_map(|option| client.get(option));
        self.files = files.map(PathBuf::from).collect();
    }

    /// Tells a client what is not in its options: what must be read anew.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub(crate) fn tell(&self, client: &mut ClientConfig) -> Result<(), String> {
        if self.trusts_system {
            let all = pem::system_authorities_as_pem();
            let all = all.map_err(|why| format!("{why}: set `tls.ca_file`"))?;
            client.set("ssl.ca.pem", all);
        }
        for (name, secret) in &self.secrets {
            client.set(*name, secret.read()?.expose());
        }
        Ok(())
    }

    /// Of the files as they are now.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut all = Sha256::new();
        for (_, secret) in &self.secrets {
            let secret = secret.read();
            all.update(secret.map_or([0; 32], |secret| Sha256::digest(secret.expose()).into()));
        }
        for file in &self.files {
            let bytes = pem::read(file);
            all.update(bytes.map_or([0; 32], |bytes| Sha256::digest(bytes).into()));
        }
        all.finalize().into()
    }
}

/// Why an option, by its real name, is not taken.
pub(crate) fn refusal(name: &str, text: &str) -> Option<String> {
    if let Some((_, right)) = REFUSED.iter().find(|(begin, _)| name.starts_with(begin)) {
        return Some(format!("it cannot be set: {right}"));
    }
    if let Some((_, value)) = VERIFIED.iter().find(|(option, _)| *option == name)
        && !text.eq_ignore_ascii_case(value)
    {
        return Some(format!(
            "it can only be `{value}`: else anybody could be taken for a broker. If brokers have an authority of their \
             own, name it in `tls.ca_file`; their certificates must be for the names in `brokers` and \
             `advertised.listeners`"
        ));
    }
    let known = |all: &[&str]| all.iter().any(|one| one.eq_ignore_ascii_case(text));
    match name {
        "sasl.mechanisms" if !known(&MECHANISMS) => {
            Some(format!("it must be one of {}", MECHANISMS.join(", ")))
        }
        "security.protocol" if !known(&["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]) => {
            Some(format!("it must be {PROTOCOLS}"))
        }
        _ => None,
    }
}

/// An option that says something only over TLS.
fn tls_option(client: &ClientConfig, security: &Security) -> Option<String> {
    let options = client.config_map();
    let secrets = security.secrets.iter().map(|(name, _)| *name);
    let mut told = options.keys().copied().chain(secrets);
    told.find(|name| name.starts_with("ssl."))
        .map(str::to_owned)
}

/// The secret of that name, if one is given: it may be in a file.
fn secret(
    name: &'static str,
    options: &mut BTreeMap<String, Value>,
) -> Result<Option<SinkSecret>, String> {
    let mut text = |name: &str| match options.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!(
            "`options.{name}`: it is of type {}, not a text",
            other.type_str()
        )),
    };
    let (given, file) = (text(name)?, text(&format!("{name}_file"))?);
    let given = given.map(|text| text.parse::<Secret>()).transpose();
    let given = given.map_err(|error| format!("`options.{name}`: {error}"))?;
    let secret = SinkSecret::of(name, given, file.map(PathBuf::from));
    secret.map_err(|error| format!("`options`: {error}"))
}

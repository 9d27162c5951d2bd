//! What sinks over HTTP share: where the server is, one client with deadlines and bounds, and what its answers mean.
//!
//! Proxies of the environment are not used: events would go where no config says. Redirects are not followed, for the same
//! reason.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::DeliverError;
use super::secret::SinkSecret;
use super::tls::TlsFiles;
use crate::config;
use crate::config::Secret;
use crate::plugin::PluginError;

const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// How much of an answer is read, where no more is asked for.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How much of a server's words is shown.
const WORDS_CHARS_MAX: usize = 300;
/// The longest that a server's `Retry-After` is heeded.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Connections that are kept for the next request.
const IDLE_CONNECTIONS_MAX: usize = 2;
/// Longer than most batches are apart, shorter than servers leave connections open.
const IDLE_MAX: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("telemetryx/", env!("CARGO_PKG_VERSION"));

/// How a body is packed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    /// As it is.
    #[default]
    None,
    Gzip,
    Zstd,
}

/// The keys that sinks over HTTP have in common.
#[derive(Debug, Default)]
pub(super) struct WebConfig {
    pub(super) url: Option<Secret>,
    pub(super) url_file: Option<PathBuf>,
    pub(super) headers: BTreeMap<String, Secret>,
    pub(super) headers_file: Option<PathBuf>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) timeout: Option<config::Duration>,
}

/// A server, and what is sent with each request.
pub(super) struct Web {
    url: SinkSecret,
    headers: HeaderMap,
    headers_file: Option<SinkSecret>,
    tls: Option<TlsFiles>,
    timeout: Duration,
    open: Mutex<Option<Open>>,
    not_before: Mutex<Option<Instant>>,
}

/// A client, and what the files said when it was made.
#[derive(Clone)]
pub(super) struct Open {
    client: Client,
    /// For gRPC: the client speaks HTTP/1.1 only.
    pub(super) tls: Option<ClientConfig>,
    pub(super) place: Place,
    pub(super) headers: HeaderMap,
}

/// Where the server is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Without user and password.
    pub(super) url: Url,
    /// Those of the URL; sent as `Authorization`.
    login: Option<(String, String)>,
    pub(super) host: String,
    pub(super) port: u16,
}

/// What is sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// What is put behind the URL's path.
    pub(super) path: &'static str,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// How much of the answer is read; zero: [`ANSWER_BYTES_MAX`].
    pub(super) answer_bytes_max: usize,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// There is more of the body than was read.
    pub(super) is_cut: bool,
}

impl Web {
    /// Reads all files to see that they can be; reaches nothing.
    ///
    /// # Errors
    /// Each mistake, with its key.
    pub(super) fn new(config: WebConfig) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let url = match SinkSecret::of("url", config.url, config.url_file) {
            Ok(Some(url)) => Some(url),
            Ok(None) => {
                mistakes.push("`url` is missing: `https://host/path`, for example".to_owned());
                None
            }
            Err(error) => {
                mistakes.push(error.to_string());
                None
            }
        };
        let headers_file = SinkSecret::of("headers", None, config.headers_file);
        let headers_file = headers_file.unwrap_or_else(|error| {
            mistakes.push(error.to_string());
            None
        });
        let given = config.headers.iter();
        let given = given.map(|(name, value)| (name.as_str(), value.expose()));
        let headers = headers_of(given).unwrap_or_else(|error| {
            mistakes.push(format!("`headers`: {error}"));
            HeaderMap::new()
        });
        let timeout = config.timeout.map_or(TIMEOUT, Duration::from);
        if timeout.as_millis() == 0 || timeout > TIMEOUT_MAX {
            mistakes.push("`timeout`: it lies between 1ms and 1h".to_owned());
        }
        let Some(url) = url else {
            return Err(mistakes);
        };
        let this = Self {
            url,
            headers,
            headers_file,
            tls: config.tls,
            timeout,
            open: Mutex::default(),
            not_before: Mutex::default(),
        };
        match this.read() {
            Ok(open) if this.tls.is_some() && open.place.url.scheme() != "https" => {
                mistakes.push("`tls` is set, but `url` does not say `https://`".to_owned());
            }
            Ok(open) => *this.open.lock() = Some(open),
            Err(error) => mistakes.push(error),
        }
        if mistakes.is_empty() {
            Ok(this)
        } else {
            Err(mistakes)
        }
    }

    /// Whether the URL has a user.
    pub(super) fn has_login(&self) -> bool {
        let open = self.open.lock();
        open.as_ref().is_some_and(|open| open.place.login.is_some())
    }

    /// The longest wait for a connection, and for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// As [`new`](Self::new), for a sink that has found `mistakes` of its own: all of them are said together.
    pub(super) fn new_beside(
        mut mistakes: Vec<String>,
        config: WebConfig,
    ) -> Result<Self, PluginError> {
        match Self::new(config) {
            Ok(web) if mistakes.is_empty() => Ok(web),
            web => {
                mistakes.extend(web.err().into_iter().flatten());
                Err(PluginError::Several(mistakes))
            }
        }
    }

    /// Until when the server asked to be left alone.
    pub(super) fn not_before(&self) -> Option<Instant> {
        *self.not_before.lock()
    }

    /// The client. After an error it is made anew, from the files as they are then: a new certificate, password or address
    /// needs no restart.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub(super) fn open(&self) -> Result<Open, DeliverError> {
        if let Some(open) = &*self.open.lock() {
            return Ok(open.clone());
        }
        let open = tokio::task::block_in_place(|| self.read());
        let open = open.map_err(DeliverError::Retryable)?;
        *self.open.lock() = Some(open.clone());
        Ok(open)
    }

    /// Reads everything again before the next request.
    pub(super) fn reopen(&self) {
        *self.open.lock() = None;
    }

    fn read(&self) -> Result<Open, String> {
        let place = Place::of(self.url.read()?.expose())?;
        let mut headers = HeaderMap::new();
        if let Some((user, password)) = &place.login {
            let login = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            headers = headers_of([("authorization", login.as_str())].into_iter())?;
        }
        headers.extend(self.headers.clone());
        if let Some(file) = &self.headers_file {
            let text = file.read()?;
            let lines = text.expose().lines().filter(|line| !line.trim().is_empty());
            let pairs = lines.map(|line| line.split_once(':').unwrap_or((line, "")));
            let read = headers_of(pairs.map(|(name, value)| (name.trim(), value.trim())));
            headers.extend(read.map_err(|error| format!("`headers_file`: {error}"))?);
        }
        let tls = match place.url.scheme() {
            "https" => Some(self.tls.clone().unwrap_or_default().client_config()),
            _ => None,
        };
        let tls = tls.transpose().map_err(|error| error.to_string())?;
        let always = tls.clone().map_or_else(TlsFiles::trusting_nobody, Ok);
        let always = always.map_err(|error| error.to_string())?;
        let builder = Client::builder()
            .tls_backend_preconfigured(always)
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(self.timeout)
            .connect_timeout(self.timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_MAX);
        let client = builder.build().map_err(|error| words_of(&error))?;
        Ok(Open {
            client,
            tls,
            place,
            headers,
        })
    }

    /// Whether somebody listens there.
    pub(super) async fn knock(&self) -> Result<(), DeliverError> {
        let open = self.open()?;
        let Place { host, port, .. } = &open.place;
        let connected = TcpStream::connect((host.trim_matches(['[', ']']), *port));
        match tokio::time::timeout(self.timeout, connected).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(open.place.retryable(&error)),
            Err(_) => Err(open.place.retryable(&self.too_slow())),
        }
    }

    /// Sends a request and reads its answer, whatever it says.
    ///
    /// # Errors
    /// [`DeliverError::Retryable`]: there is no whole answer.
    pub(super) async fn post(&self, request: Outgoing) -> Result<Answer, DeliverError> {
        let open = self.open()?;
        let mut url = open.place.url.clone();
        if !request.path.is_empty() {
            let path = format!("{}{}", url.path().trim_end_matches('/'), request.path);
            url.set_path(&path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut headers = request.headers;
        headers.extend(open.headers.clone());
        let most = match request.answer_bytes_max {
            0 => ANSWER_BYTES_MAX,
            most => most,
        };
        let sent = open.client.post(url).headers(headers).body(request.body);
        let answered = async {
            let mut response = sent.send().await?;
            let mut body = Vec::new();
            let mut is_cut = false;
            while let Some(part) = response.chunk().await? {
                let room = most - body.len();
                body.extend(part.iter().take(room));
                if part.len() > room {
                    is_cut = true;
                    break;
                }
            }
            Ok(Answer {
                status: response.status(),
                headers: std::mem::take(response.headers_mut()),
                body,
                is_cut,
            })
        };
        let answer = answered.await.map_err(|error: reqwest::Error| {
            self.reopen();
            if error.is_timeout() {
                open.place.retryable(&self.too_slow())
            } else {
                open.place.retryable(&words_of(&error))
            }
        })?;
        if !answer.status.is_success() {
            self.heed(&answer.headers);
            // Unless it is about the content or the load, perhaps a file says something else by now.
            if !matches!(answer.status.as_u16(), 400 | 413 | 422 | 429) {
                self.reopen();
            }
        }
        Ok(answer)
    }

    /// What an answer means where the server has no better way to say it.
    ///
    /// # Errors
    /// [`DeliverError`] unless it is a success.
    pub(super) fn judge(&self, answer: Answer) -> Result<Answer, DeliverError> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let said = answer.said();
        let code = match answer.status.as_u16() {
            400 => "http_400",
            413 => "http_413",
            422 => "http_422",
            _ => {
                let place = self.open()?.place;
                return Err(place.retryable(&said));
            }
        };
        Err(DeliverError::Refused {
            code,
            message: said,
        })
    }

    /// Remembers for how long the server wants to be left alone.
    pub(super) fn heed(&self, headers: &HeaderMap) {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| {
            let text = value.to_str().ok()?;
            text.trim().parse::<u64>().ok()
        });
        if let Some(seconds) = seconds {
            let wait = Duration::from_secs(seconds).min(RETRY_AFTER_MAX);
            *self.not_before.lock() = Some(Instant::now() + wait);
        }
    }

    pub(super) fn too_slow(&self) -> String {
        format!("no answer within {:?}", self.timeout)
    }
}

impl Place {
    fn of(text: &str) -> Result<Self, String> {
        // The parser's words do not repeat the URL, which may hold a password.
        let mut url = Url::parse(text).map_err(|error| format!("`url`: {error}"))?;
        let port = url.port_or_known_default();
        let (Some(host), Some(port), "http" | "https") = (url.host_str(), port, url.scheme())
        else {
            return Err("`url` must be http://host[:port]/path, or https:// for TLS".to_owned());
        };
        let host = host.to_owned();
        let decoded = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned())
        };
        let password = url.password().unwrap_or_default();
        let login = match (decoded(url.username()), decoded(password)) {
            (Ok(user), Ok(password)) if !user.is_empty() || !password.is_empty() => {
                Some((user, password))
            }
            (Ok(_), Ok(_)) => None,
            _ => return Err("`url`: user or password is not UTF-8".to_owned()),
        };
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| "`url` cannot have a user".to_owned())?;
        url.set_fragment(None);
        Ok(Self {
            url,
            login,
            host,
            port,
        })
    }

    /// An error with the server's name. The path is not shown: it may be what makes a URL secret.
    pub(super) fn retryable(&self, error: &dyn std::fmt::Display) -> DeliverError {
        DeliverError::Retryable(format!("{}:{}: {error}", self.host, self.port))
    }
}

impl Answer {
    /// The status, and the server's own words as far as they can be shown.
    pub(super) fn said(&self) -> String {
        let text = shown(&String::from_utf8_lossy(&self.body));
        let location = self.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        match location.filter(|_| self.status.is_redirection()) {
            // Without the path, which may be the secret one that we asked for.
            Some(to) => {
                let to = Url::parse(to).map(|to| to.origin().ascii_serialization());
                let to = to.unwrap_or_else(|_| "another path".to_owned());
                format!("{}: redirects are not followed (to {to})", self.status)
            }
            None if text.is_empty() => self.status.to_string(),
            None => format!("{}: {text}", self.status),
        }
    }
}

/// Somebody else's words on one line, and not too many of them.
pub(super) fn shown(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(WORDS_CHARS_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// The innermost reason: the outer ones say that there was a request, and show its URL.
fn words_of(error: &reqwest::Error) -> String {
    error
        .source()
        .map_or_else(|| "the request failed".to_owned(), innermost)
}

/// What an error came from in the end.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

fn headers_of<'t>(pairs: impl Iterator<Item = (&'t str, &'t str)>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let parsed = parsed.map_err(|_| format!("`{}` is no name of a header", shown(name)))?;
        // The value may be a secret.
        let wrong = |_| format!("the value of `{parsed}` cannot be in a header");
        let mut value = HeaderValue::from_str(value).map_err(wrong)?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// Packs a body away from the threads that serve, and says so in the headers.
///
/// # Errors
/// [`DeliverError::Retryable`]: there is no memory for it.
pub(super) async fn pack(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_without_what_is_secret() {
        let place = Place::of("https://me:pass%40word@example.com/hooks/T0/secret?x=1").unwrap();
        assert_eq!(
            place.url.as_str(),
            "https://example.com/hooks/T0/secret?x=1"
        );
        assert_eq!(place.login, Some(("me".to_owned(), "pass@word".to_owned())));
        let error = place.retryable(&"down").to_string();
        assert_eq!(error, "example.com:443: down");
        for wrong in ["ftp://h", "h:80", "http://", "/x", "http://h:99999"] {
            let error = Place::of(wrong).unwrap_err();
            assert!(error.contains("`url`"), "{error}");
        }
    }

    #[test]
    fn a_servers_words_are_one_line_of_bounded_length() {
        assert_eq!(shown(" a\r\n\u{1b}[31mb\u{0}c  d "), "a [31mb c d");
        assert_eq!(shown(&"é".repeat(400)).chars().count(), WORDS_CHARS_MAX + 1);
    }

    #[test]
    fn headers_that_cannot_be_sent_are_named_without_their_value() {
        let error = headers_of([("x-key", "hunter2\n")].into_iter()).unwrap_err();
        assert!(error.contains("x-key") && !error.contains("hunter2"));
        assert!(headers_of([("a b", "c")].into_iter()).is_err());
    }
}

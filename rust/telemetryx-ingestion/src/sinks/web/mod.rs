//! What sinks over HTTP share: where the server is, one client with deadlines and bounds, and what its answers mean.
//!
//! Proxies of the environment are not used: events would go where no config says. Redirects are not followed, for the same
//! reason.

mod answer;
mod packing;
mod place;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{Client, redirect};
use rustls::ClientConfig;
use tokio::net::TcpStream;

pub(super) use self::answer::{Answer, retry_after};
pub(super) use self::packing::{Compression, pack};
use self::place::Place;
use self::words::{Secrets, words_of};
pub(super) use self::words::{innermost, shown};
use super::secret::SinkSecret;
use super::tls::TlsFiles;
use super::{DeliverError, timeout};
use crate::config::{self, Secret};
use crate::plugin::PluginError;

const TIMEOUT: config::Duration = config::Duration::secs(10);
/// How much of an answer is read, where no more is asked for.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The longest that a server's `Retry-After` is heeded.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Connections that are kept for the next requests: as many as a route may have under way.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Longer than most batches are apart, shorter than servers leave connections open.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// What refuses events may mean a key: files are read again then too, but not for each event.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("telemetryx/", env!("CARGO_PKG_VERSION"));

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
    pub(super) secrets: Arc<Secrets>,
    since: Instant,
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
                mistakes.push(
                    "`url` or `url_file` is missing: `https://host/path`, for example".to_owned(),
                );
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
        let timeout = timeout::checked("timeout", config.timeout, TIMEOUT, timeout::BOUNDS);
        let timeout = timeout.unwrap_or_else(|error| {
            mistakes.push(error);
            TIMEOUT.into()
        });
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
            secrets: Secrets::of(&place, &headers).into(),
            place,
            headers,
            since: Instant::now(),
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
                secrets: Arc::clone(&open.secrets),
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
            if let Some(wait) = retry_after(&answer.headers) {
                self.leave_alone(wait);
            }
            // Unless it is about the load, perhaps a file says something else by now.
            let is_refusal = answer.refusal().is_some();
            let is_old = open.since.elapsed() > READ_AGAIN_AFTER;
            if answer.status != StatusCode::TOO_MANY_REQUESTS && (!is_refusal || is_old) {
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
        let message = answer.said();
        match answer.refusal() {
            Some(code) => Err(DeliverError::Refused { code, message }),
            None => Err(self.open()?.place.retryable(&message)),
        }
    }

    /// Remembers for how long the server wants to be left alone.
    pub(super) fn leave_alone(&self, wait: Duration) {
        *self.not_before.lock() = Some(Instant::now() + wait.min(RETRY_AFTER_MAX));
    }

    /// The server's words, as far as they can be shown.
    pub(super) fn shown(&self, words: &str) -> String {
        match &*self.open.lock() {
            Some(open) => open.secrets.shown(words),
            None => shown(words),
        }
    }

    pub(super) fn too_slow(&self) -> String {
        format!("no answer within {:?}", self.timeout)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_cannot_be_sent_are_named_without_their_value() {
        let error = headers_of([("x-key", "hunter2\n")].into_iter()).unwrap_err();
        assert!(error.contains("x-key") && !error.contains("hunter2"));
        assert!(headers_of([("a b", "c")].into_iter()).is_err());
    }
}
